# SPDX-License-Identifier: Apache-2.0
"""torchsparse's convolutions, 2.1 and 2.0, against dense twins, with gradients."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from spconv_twin import Randomise
from torch import Tensor, nn
from torch.nn import functional
from torchsparse_twin import (
    BOTH,
    EXTENT,
    MakeTensor,
    at,
    batch_first,
    dense,
    dense_weight,
)

from fieldline.compat import torchsparse, torchsparse20
from fieldline.compat.torchsparse.nn import functional as spf


@pytest.mark.parametrize("library", BOTH)
@pytest.mark.parametrize("size", [1, 3, 5, (1, 3, 5)])
@pytest.mark.parametrize("dilation", [1, 2])
def test_submanifold(
    tensor: MakeTensor, randomise: Randomise, library: ModuleType, size: Any, dilation: int
) -> None:
    x = tensor(library)
    layer = randomise(library.nn.Conv3d(3, 4, size, dilation=dilation, bias=True))
    y = layer(x)
    padding = [dilation * (k - 1) // 2 for k in layer.kernel_size]
    grid = functional.conv3d(
        dense(x, (EXTENT,) * 3), dense_weight(layer), padding=padding, dilation=dilation
    )
    assert y.C is x.C and y.s == (1, 1, 1)
    torch.testing.assert_close(y.F, at(grid, y) + layer.bias)


@pytest.mark.parametrize("size", [2, 4, (3, 2, 1)])
def test_even_submanifold_kernels_begin_where_the_mode_says(
    tensor: MakeTensor, randomise: Randomise, size: Any
) -> None:
    x = tensor(torchsparse)
    layer = randomise(torchsparse.nn.Conv3d(3, 4, size))
    k = layer.kernel_size
    for mode, below in (("hashmap_on_the_fly", (0, 0, 0)), ("hashmap", [(n - 1) // 2 for n in k])):
        spf.set_kmap_mode(mode)
        pads = [(b, n - 1 - b) for b, n in zip(below, k)]
        around = [pad for pair in reversed(pads) for pad in pair]
        padded = functional.pad(dense(x, (EXTENT,) * 3), around)
        grid = functional.conv3d(padded, dense_weight(layer))
        fresh = torchsparse.SparseTensor(x.F, x.C)
        torch.testing.assert_close(layer(fresh).F, at(grid, x))


@pytest.mark.parametrize("size", [1, 2, 3, (3, 1, 3), (2, 3, 2)])
@pytest.mark.parametrize("stride", [2, 3, (1, 2, 1)])
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("known", [True, False])
def test_strided(
    tensor: MakeTensor, randomise: Randomise, size: Any, stride: Any, padding: int, known: bool
) -> None:
    x = tensor(torchsparse)
    x.spatial_range = (2, EXTENT, EXTENT, EXTENT) if known else None
    layer = randomise(torchsparse.nn.Conv3d(3, 4, size, stride, padding, bias=False))
    y = layer(x)
    grid = functional.conv3d(
        dense(x, (EXTENT,) * 3), dense_weight(layer), stride=stride, padding=layer.padding
    )
    shape = list(grid.shape[2:])
    kept = (batch_first(y)[:, 1:] < y.C.new_tensor(shape)).all(1)
    if known:
        assert kept.all() and list(y.spatial_range) == [2, *shape]
    else:
        assert y.spatial_range is None
    there = torch.zeros_like(grid)
    there.movedim(1, -1)[batch_first(y)[kept].unbind(1)] = y.F[kept]
    torch.testing.assert_close(there, grid)
    assert y.s == tuple(np.broadcast_to(stride, 3))
    rows = batch_first(y).tolist()
    assert rows == sorted(rows) and y.C.dtype == torch.int32
    # What lies past a dense convolution's end is the last cell of an axis that is divided.
    divided = [k == s and p == 0 for k, s, p in zip(layer.kernel_size, layer.stride, layer.padding)]
    past = batch_first(y)[~kept, 1:] >= y.C.new_tensor(shape)
    assert not past[:, [not d for d in divided]].any()


def test_the_last_cell_of_a_divided_axis_is_kept(device: torch.device) -> None:
    x = torchsparse.SparseTensor(torch.ones(1, 1), torch.zeros(1, 4).int()).to(device)
    down = torchsparse.nn.Conv3d(1, 2, 2, 2).to(device)(x)
    assert down.C.tolist() == [[0, 0, 0, 0]]


def test_minkowski_mode(tensor: MakeTensor, randomise: Randomise) -> None:
    spf.set_downsample_mode("minkowski")
    x = tensor(torchsparse)
    layer = randomise(torchsparse.nn.Conv3d(3, 4, 3, 2))
    y = layer(x)
    halves = torch.unique(
        torch.div(x.C, x.C.new_tensor([1, 2, 2, 2]), rounding_mode="floor"), dim=0
    )
    assert torch.equal(y.C, halves.int())
    grid = functional.conv3d(dense(x, (EXTENT,) * 3), dense_weight(layer), stride=2, padding=1)
    torch.testing.assert_close(y.F, at(grid, y))


@pytest.mark.parametrize("size", [2, 3, (1, 3, 1)])
@pytest.mark.parametrize("dilation", [1, 2])
def test_strided_kernels_of_20_are_centred(
    tensor: MakeTensor, randomise: Randomise, size: Any, dilation: int
) -> None:
    x = tensor(torchsparse20)
    layer = randomise(torchsparse20.nn.Conv3d(3, 4, size, 2, dilation))
    y = layer(x)
    below = [dilation * ((k - 1) // 2) for k in layer.kernel_size]
    above = [dilation * (k - 1) + 2 for k in layer.kernel_size]
    pads = [p for pair in zip(reversed(below), reversed(above)) for p in pair]
    padded = functional.pad(dense(x, (EXTENT,) * 3), pads)
    grid = functional.conv3d(padded, dense_weight(layer), stride=2, dilation=dilation)
    torch.testing.assert_close(dense(y, tuple(grid.shape[2:])), grid)
    assert (y.C[:, :3] % 2 == 0).all() and y.s == (2, 2, 2)


def test_outputs_of_20_begin_at_the_lowest_coordinate(device: torch.device) -> None:
    coords = torch.tensor([[5, 7, 6, 0], [9, 8, 7, 1]], dtype=torch.int32)
    x = torchsparse20.SparseTensor(torch.ones(2, 1), coords).to(device)
    y = torchsparse20.nn.Conv3d(1, 1, 3, 2).to(device)(x)
    assert (y.C[:, :3] >= y.C.new_tensor([5, 7, 6])).all() and len(y.C)
    assert [6, 8, 6, 0] in y.C.tolist()


@pytest.mark.parametrize("library", BOTH)
def test_a_kernel_of_three_and_stride_three(tensor: MakeTensor, library: ModuleType) -> None:
    x = tensor(library)
    y = library.nn.Conv3d(3, 4, 3, 3).to(x.F)(x)
    floors = torch.unique(batch_first(x) // x.C.new_tensor([1, 3, 3, 3]), dim=0)
    assert torch.equal(batch_first(y), floors)


@pytest.mark.parametrize("library", BOTH)
@pytest.mark.parametrize("size", [2, 3])
def test_transposed(
    tensor: MakeTensor, randomise: Randomise, library: ModuleType, size: int
) -> None:
    x = tensor(library)
    down = randomise(library.nn.Conv3d(3, 4, size, 2))
    up = randomise(library.nn.Conv3d(4, 5, size, 2, bias=True, transposed=True))
    y = down(library.nn.ReLU()(x))
    z = up(y)
    assert torch.equal(z.C, x.C) and z.s == x.s
    weight = dense_weight(up).transpose(0, 1)
    shape = tuple((batch_first(y)[:, 1:].amax(0) + 1).tolist())
    grid = functional.conv_transpose3d(dense(y, shape), weight, stride=2)
    if library is torchsparse20 and size == 3:
        grid = grid[:, :, 1:, 1:, 1:]
    grid = functional.pad(grid, [0, 2] * 3)
    torch.testing.assert_close(z.F, at(grid, z) + up.bias)
    with pytest.raises(ValueError, match="no strided convolution of kernel_size"):
        up(library.SparseTensor(y.F, y.C, 2))
    other = y.like(y.F, y.C.flip(0).contiguous())
    with pytest.raises(ValueError, match="coords are not those that the convolution"):
        up(other)


@pytest.mark.parametrize("size", [2, 3])
def test_generative(tensor: MakeTensor, randomise: Randomise, size: int) -> None:
    x = tensor(torchsparse, extent=5, count=20)
    x.stride, x.spatial_range = 2, (2, 5, 5, 5)
    layer = randomise(torchsparse.nn.Conv3d(3, 4, size, 2, transposed=True, generative=True))
    y = layer(x)
    weight = dense_weight(layer)
    # torchsparse mirrors an odd kernel here.
    weight = weight.flip(2, 3, 4) if size % 2 else weight
    grid = functional.conv_transpose3d(dense(x, (5, 5, 5)), weight.transpose(0, 1), stride=2)
    below = (size - 1) // 2
    grid = functional.pad(grid, [-below, 1] * 3)[:, :, :10, :10, :10]
    assert y.s == (1, 1, 1) and y.spatial_range == (2, 10, 10, 10)
    torch.testing.assert_close(dense(y, (10, 10, 10)), grid)
    assert y.C.tolist() == sorted(y.C.tolist())
    again = torchsparse.nn.Conv3d(4, 4, 3).to(y.F)(y)
    assert again.C is y.C
    with pytest.raises(ValueError, match="generative: expected transposed=True"):
        torchsparse.nn.Conv3d(3, 4, 3, 2, generative=True)


@pytest.mark.parametrize("library", BOTH)
@pytest.mark.parametrize("training", [True, False])
def test_gradients(
    tensor: MakeTensor, randomise: Randomise, library: ModuleType, training: bool
) -> None:
    x = tensor(library, channels=2, count=40)
    down = library.nn.Conv3d(2, 2, 2, 2, bias=True)
    up = library.nn.Conv3d(2, 2, 2, 2, transposed=True)
    net = randomise(nn.Sequential(library.nn.Conv3d(2, 2, 3), down, up)).train(training)

    def forward(feats: Tensor, *values: Tensor) -> Tensor:
        named = dict(zip((name for name, _ in net.named_parameters()), values))
        return torch.func.functional_call(net, named, (x.like(feats),)).F

    inputs = [x.F, *(p.detach() for p in net.parameters())]
    leaves = [t.clone().requires_grad_() for t in inputs]
    assert torch.autograd.gradcheck(forward, leaves, fast_mode=True)


@pytest.mark.parametrize("library", BOTH)
def test_precision(tensor: MakeTensor, library: ModuleType) -> None:
    x = tensor(library)
    x.feats = x.feats.float()
    layer = library.nn.Conv3d(3, 4, 3).to(x.F)
    exact = layer(x).F
    with torch.autocast(x.F.device.type, dtype=torch.bfloat16):
        assert layer(x).F.dtype == torch.bfloat16
    half = layer(x.like(x.F.half())).F
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), exact, atol=1e-2, rtol=1e-2)
