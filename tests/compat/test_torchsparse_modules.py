# SPDX-License-Identifier: Apache-2.0
"""torchsparse's norms, pools, views from above and backbones."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from spconv_twin import Randomise
from torch import nn
from torch.nn import functional
from torchsparse_twin import (
    BOTH,
    EXTENT,
    MakeTensor,
    batch_first,
    dense,
)

from fieldline.compat import torchsparse


@pytest.mark.parametrize("library", BOTH)
def test_norms_and_pools(tensor: MakeTensor, randomise: Randomise, library: ModuleType) -> None:
    x = tensor(library, channels=4)
    items = batch_first(x)[:, 0]
    for layer, twin in (
        (library.nn.BatchNorm(4), nn.BatchNorm1d(4)),
        (library.nn.InstanceNorm(4), nn.InstanceNorm1d(4)),
        (library.nn.LeakyReLU(0.2), nn.LeakyReLU(0.2)),
        (library.nn.SiLU(), nn.SiLU()),
    ):
        assert torch.equal(layer.to(x.F)(x).F, twin.to(x.F)(x.F))
    for name, negative in (("relu", {}), ("silu", {}), ("leaky_relu", {"negative_slope": 0.1})):
        fresh = x.like(x.F.clone())
        expected = getattr(functional, name)(x.F, **negative)
        assert torch.equal(getattr(library.nn.functional, name)(fresh).F, expected)
    layer = randomise(library.nn.GroupNorm(2, 4))
    twin = nn.GroupNorm(2, 4).to(x.F)
    twin.load_state_dict(layer.state_dict())
    normal = layer(x)
    for item in range(2):
        expected = twin(x.F[items == item].t()[None])[0].t()
        torch.testing.assert_close(normal.F[items == item], expected, atol=1e-5, rtol=1e-5)
    largest, mean = library.nn.GlobalMaxPool()(x), library.nn.GlobalAvgPool()(x)
    for item in range(2):
        torch.testing.assert_close(largest[item], x.F[items == item].amax(0))
        torch.testing.assert_close(mean[item], x.F[items == item].mean(0))


@pytest.mark.parametrize("library", BOTH)
def test_crop_looks_at_x_y_z(tensor: MakeTensor, library: ModuleType) -> None:
    x = tensor(library)
    y = library.nn.SparseCrop((1, 0, 2), (5, 6, 9))(x)
    low, high = x.C.new_tensor([1, 0, 2]), x.C.new_tensor([5, 6, 9])
    places = batch_first(x)[:, 1:]
    inside = ((places >= low) & (places < high)).all(1)
    assert torch.equal(y.C, x.C[inside]) and torch.equal(y.F, x.F[inside]) and y.kmaps == {}
    assert library.nn.functional.spcrop(x).C.shape == x.C.shape


@pytest.mark.parametrize("library", BOTH)
@pytest.mark.parametrize("dim", [0, 1, 2])
def test_views_from_above(
    tensor: MakeTensor, randomise: Randomise, library: ModuleType, dim: int
) -> None:
    x = tensor(library)
    shape = (EXTENT,) * 3
    axes = [axis for axis in range(3) if axis != dim]
    grid = dense(x, shape)
    layer = library.nn.ToDenseBEVConvolution(3, 4, shape, dim=dim, bias=True)
    randomise(layer)
    there = dense(x.like(torch.ones_like(x.F[:, :1])), shape)
    expected = torch.einsum("bczxy,zco->boxy", grid.movedim(2 + dim, 2), layer.kernel)
    expected = expected + there.sum(2 + dim) * layer.bias[0][:, None, None]
    torch.testing.assert_close(layer(x), expected)
    tall = library.nn.ToBEVHeightCompression(3, shape, dim=dim)(x)
    assert torch.equal(tall, grid.movedim(2 + dim, 1).flatten(1, 2))
    flat = library.nn.ToBEVReduction(dim)(x)
    counts = there.sum(2 + dim).clamp_min(1)
    mean = grid.sum(2 + dim) / counts
    columns = [0, *(1 + axis for axis in axes)]
    torch.testing.assert_close(flat.F, mean.movedim(1, -1)[batch_first(flat)[:, columns].unbind(1)])
    assert not batch_first(flat)[:, 1 + dim].any()
    sparse = randomise(library.nn.ToBEVConvolution(3, 4, EXTENT, stride=2, dim=dim))
    found = sparse(x)
    sums = torch.einsum("bczxy,zco->boxy", grid.movedim(2 + dim, 2), sparse.kernel)
    blocks = functional.avg_pool2d(functional.pad(sums, [0, 1, 0, 1]), 2) * 4
    places = batch_first(found)[:, columns].unbind(1)
    torch.testing.assert_close(found.F, blocks.movedim(1, -1)[places])


def test_backbones_agree(tensor: MakeTensor) -> None:
    """Kernels of 2 and stride 2 mean the same in both versions, and so does a whole network."""
    nets = [lib.backbones.SparseResUNet42(in_channels=3, width_multiplier=0.25) for lib in BOTH]
    nets[1].load_state_dict(nets[0].state_dict())
    clouds = [tensor(lib, extent=32) for lib in BOTH]
    outputs = [net.to(x.F).eval()(x) for net, x in zip(nets, clouds)]
    assert [y.s[0] for y in outputs[0]] == [1, 2, 4, 8, 16, 8, 4, 2, 1]
    assert [y.F.shape[1] for y in outputs[0]] == [8, 8, 16, 32, 64, 64, 32, 24, 24]
    for new, old in zip(*outputs):
        assert torch.equal(batch_first(new), batch_first(old))
        torch.testing.assert_close(new.F, old.F)


def test_names_of_the_backbones_parameters(tensor: MakeTensor) -> None:
    net = torchsparse.backbones.SparseResUNet42()
    state = net.state_dict()
    shapes = {
        "stem.0.kernel": (27, 4, 32),
        "encoders.0.0.0.kernel": (8, 32, 32),
        "encoders.1.1.main.3.kernel": (27, 64, 64),
        "encoders.1.1.shortcut.0.kernel": (32, 64),
        "decoders.0.upsample.0.kernel": (8, 256, 256),
        "decoders.3.fuse.0.main.0.kernel": (27, 128, 96),
    }
    assert {name: tuple(state[name].shape) for name in shapes} == shapes
    for library in BOTH:
        net = library.backbones.SparseResNet21D(in_channels=3, width_multiplier=0.5)
        assert net[4][0][0].kernel.shape == (3, 64, 64)
        x = tensor(library, extent=40, count=400)
        outputs = net.to(x.F).eval()(x)
        assert [y.s for y in outputs][-1] == (8, 16, 8)
