# SPDX-License-Identifier: Apache-2.0
"""torchsparse's interfaces, 2.1 and 2.0, over ours: layers against dense twins, caches, points."""

from __future__ import annotations

import doctest
import importlib
import inspect
import itertools
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fieldline.compat import _MODULES, torchsparse, torchsparse20
from fieldline.compat.torchsparse.nn import functional as spf
from fieldline.compat.torchsparse.utils import collate, quantize, tensor_cache

BOTH = [torchsparse, torchsparse20]
SIGNATURES = {
    (torchsparse, "Conv3d"): "in_channels out_channels kernel_size stride padding dilation bias "
    "transposed generative config",
    (torchsparse20, "Conv3d"): "in_channels out_channels kernel_size stride dilation bias "
    "transposed config",
    (torchsparse, "functional.conv3d"): "input weight kernel_size bias stride padding dilation "
    "config transposed generative training",
    (torchsparse20, "functional.conv3d"): "input weight kernel_size bias stride dilation "
    "transposed epsilon mm_thresh kmap_mode",
    (torchsparse, "functional.spdownsample"): "_coords stride kernel_size padding spatial_range "
    "downsample_mode",
    (torchsparse20, "functional.spdownsample"): "coords stride kernel_size tensor_stride",
}
NAMES = (
    "Conv3d BatchNorm GroupNorm InstanceNorm ReLU LeakyReLU SiLU GlobalAvgPool GlobalMaxPool "
    "SparseCrop ToBEVReduction ToDenseBEVConvolution ToBEVConvolution ToBEVHeightCompression "
    "functional utils"
)
FUNCTIONS = (
    "conv3d relu silu leaky_relu spvoxelize spdevoxelize calc_ti_weights sphash sphashquery "
    "spcount spdownsample spcrop global_avg_pool global_max_pool"
)
FUNCTIONS_OF_21 = (
    "build_kernel_map Dataflow get_default_conv_config set_global_conv_config set_kmap_mode "
    "set_downsample_mode set_conv_mode conv_config"
)
EXTENT = 9


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cells(seed: int = 0, batch: int = 2, extent: int = EXTENT, count: int = 150) -> Tensor:
    """int32 [N, 4], batch first, in no order; a corner at 0 and one at the extent."""
    numbers = generator(seed)
    drawn = torch.randint(0, extent, (count, 3), generator=numbers)
    items = torch.randint(0, batch, (count, 1), generator=numbers)
    corners = torch.tensor([[0, 0, 0, 0], [0, extent - 1, extent - 1, extent - 1]])
    found = torch.unique(torch.cat([torch.cat([items, drawn], 1), corners]), dim=0)
    return found[torch.randperm(len(found), generator=numbers)].int()


def tensor(library: ModuleType, seed: int = 0, channels: int = 3, **cloud: int) -> Any:
    coords = cells(seed, **cloud)
    feats = torch.randn(len(coords), channels, generator=generator(seed), dtype=torch.float64)
    return library.SparseTensor(feats, placed(library, coords))


def placed(library: ModuleType, coords: Tensor) -> Tensor:
    """Batch-first coordinates as a library has them."""
    return coords if library is torchsparse else coords[:, [1, 2, 3, 0]].contiguous()


def batch_first(x: Any) -> Tensor:
    """int64 [N, 4], batch first, in units of the stride."""
    coords = x.coords.long()
    if x.batch_column == 0:
        return coords
    return coords[:, [3, 0, 1, 2]] // torch.tensor((1, *x.stride))


def dense(x: Any, extent: tuple[int, int, int], batch: int = 2) -> Tensor:
    """[B, C, X, Y, Z]."""
    grid = x.feats.new_zeros(batch, *extent, x.feats.shape[1])
    return grid.index_put(batch_first(x).unbind(1), x.feats).movedim(-1, 1)


def at(grid: Tensor, x: Any) -> Tensor:
    return grid.movedim(1, -1)[batch_first(x).unbind(1)]


def dense_weight(layer: Any) -> Tensor:
    """[C_out, C_in, kx, ky, kz]: x fastest if the number of taps is odd, else z."""
    size = layer.kernel_size
    taps = list(itertools.product(*map(range, size)))
    if layer.kernel_volume % 2:
        taps = [tap[::-1] for tap in itertools.product(*map(range, reversed(size)))]
    kernel = layer.kernel.reshape(-1, layer.in_channels, layer.out_channels)
    weight = kernel.new_zeros(layer.out_channels, layer.in_channels, *size)
    for matrix, tap in zip(kernel, taps):
        weight[(slice(None), slice(None), *tap)] = matrix.t()
    return weight


def randomise(layer: nn.Module, seed: int = 1) -> Any:
    layer.double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, generator=generator(seed))
    return layer


@pytest.fixture(autouse=True)
def plain_modes() -> Iterator[None]:
    yield
    spf.set_kmap_mode("hashmap_on_the_fly")
    spf.set_downsample_mode("spconv")
    spf.set_conv_mode(0)
    spf.conv_config.clear_global_conv_config()
    torchsparse.tensor.set_allow_negative_coordinates(False)
    tensor_cache.set_tensor_cache_mode(tensor_cache.TensorCacheMode.SEPARATE_TENSOR_CACHE)
    tensor_cache.clear_global_tensor_cache()


# The interfaces.


@pytest.mark.parametrize("key", SIGNATURES)
def test_signatures(key: tuple[ModuleType, str]) -> None:
    found = key[0].nn
    for part in key[1].split("."):
        found = getattr(found, part)
    assert list(inspect.signature(found).parameters) == SIGNATURES[key].split()


@pytest.mark.parametrize("library", BOTH)
def test_names(library: ModuleType) -> None:
    for name in NAMES.split():
        assert hasattr(library.nn, name) and name in library.nn.__all__
    own = FUNCTIONS_OF_21 if library is torchsparse else ""
    for name in (FUNCTIONS + " " + own).split():
        assert name in library.nn.functional.__all__
    for name in ("SparseTensor", "PointTensor", "cat", "tune", "backends", "backend", "utils"):
        assert name in library.__all__
    assert library.__version__ == ("2.1.0" if library is torchsparse else "2.0.0")
    assert library.nn.utils.get_kernel_offsets(3).shape == (27, 3)


MODULES = sorted({*_MODULES["torchsparse"].values(), *_MODULES["torchsparse20"].values()})


MODULES += ["torchsparse20.nn.conv", "torchsparse.nn.modules.layers"]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    module = importlib.import_module(f"fieldline.compat.{name}")
    names = {"torch": torch, "np": np}
    assert doctest.testmod(module, extraglobs=names).failed == 0


SCRIPT = """
import fieldline, torch
library = fieldline.compat.install("{name}")
import torchsparse
import torchsparse.nn as spnn
import torchsparse.nn.functional as F
from torchsparse import PointTensor, SparseTensor, cat
from torchsparse.backbones import SparseResNet21D, SparseResUNet42
from torchsparse.nn.utils import fapply, get_kernel_offsets
from torchsparse.utils import make_ntuple
from torchsparse.utils.collate import sparse_collate, sparse_collate_fn
from torchsparse.utils.quantize import sparse_quantize
assert torchsparse.__version__ == library.__version__ == "{version}"
assert torchsparse.backend.GPUHashTable and spnn.functional is F
torchsparse.backends.benchmark = True
sample = SparseTensor(torch.ones(2, 1), torch.tensor([[1, 2, 3], [4, 5, 6]]))
assert sparse_collate([sample]).C[0].tolist() == {first}
"""


@pytest.mark.parametrize(
    ("name", "version", "first"),
    [("torchsparse", "2.1.0", [0, 1, 2, 3]), ("torchsparse20", "2.0.0", [1, 2, 3, 0])],
)
def test_install(name: str, version: str, first: list[int]) -> None:
    script = SCRIPT.format(name=name, version=version, first=first)
    if name == "torchsparse":
        script += "import torchsparse.nn.functional.conv.conv_config\n"
        script += "from torchsparse.utils.tensor_cache import TensorCache\n"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_only_one_of_them_in_a_process() -> None:
    script = (
        "import fieldline\nfieldline.compat.install('torchsparse')\n"
        "try:\n    fieldline.compat.install('torchsparse20')\n"
        "except ImportError:\n    pass\nelse:\n    raise AssertionError\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_both_argument_orders() -> None:
    """TRELLIS passes 2.1's seven by position; code for 2.0 passes dilation fifth."""
    new = torchsparse.nn.Conv3d(2, 4, 3, 2, 0, 1, True)
    old = torchsparse20.nn.Conv3d(2, 4, 3, 2, 2, True, True)
    assert (new.padding, new.dilation, new.transposed) == ((0, 0, 0), 1, False)
    assert new.bias is not None
    assert (old.dilation, old.bias is not None, old.transposed) == (2, True, True)
    assert new._config is None and new.kernel_volume == 27


@pytest.mark.parametrize("library", BOTH)
def test_parameters(library: ModuleType) -> None:
    conv = library.nn.Conv3d
    assert conv(4, 8, 3).kernel.shape == (27, 4, 8) and conv(4, 8, 3).bias is None
    assert conv(4, 8, 1).kernel.shape == (4, 8)
    strided = (1, 4, 8) if library is torchsparse else (4, 8)
    assert conv(4, 8, 1, 2).kernel.shape == strided
    for transposed, fan in ((False, 16), (True, 32)):
        layer = conv(16, 32, 2, 2, bias=True, transposed=transposed)
        bound = 1 / (fan * 8) ** 0.5
        for parameter in layer.parameters():
            assert 0.8 * bound < parameter.abs().max() <= bound
    assert "stride=(2, 2, 2)" in repr(conv(4, 8, 2, 2))


# Layers against dense twins.


@pytest.mark.parametrize("library", BOTH)
@pytest.mark.parametrize("size", [1, 3, 5, (1, 3, 5)])
@pytest.mark.parametrize("dilation", [1, 2])
def test_submanifold(library: ModuleType, size: Any, dilation: int) -> None:
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
def test_even_submanifold_kernels_begin_where_the_mode_says(size: Any) -> None:
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
def test_strided(size: Any, stride: Any, padding: int, known: bool) -> None:
    x = tensor(torchsparse)
    x.spatial_range = (2, EXTENT, EXTENT, EXTENT) if known else None
    layer = randomise(torchsparse.nn.Conv3d(3, 4, size, stride, padding, bias=False))
    y = layer(x)
    grid = functional.conv3d(
        dense(x, (EXTENT,) * 3), dense_weight(layer), stride=stride, padding=layer.padding
    )
    shape = list(grid.shape[2:])
    kept = (batch_first(y)[:, 1:] < torch.tensor(shape)).all(1)
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
    past = batch_first(y)[~kept, 1:] >= torch.tensor(shape)
    assert not past[:, [not d for d in divided]].any()


def test_the_last_cell_of_a_divided_axis_is_kept() -> None:
    x = torchsparse.SparseTensor(torch.ones(1, 1), torch.tensor([[0, 0, 0, 0]], dtype=torch.int32))
    down = torchsparse.nn.Conv3d(1, 2, 2, 2)(x)
    assert down.C.tolist() == [[0, 0, 0, 0]]


def test_minkowski_mode() -> None:
    spf.set_downsample_mode("minkowski")
    x = tensor(torchsparse)
    layer = randomise(torchsparse.nn.Conv3d(3, 4, 3, 2))
    y = layer(x)
    halves = torch.unique(torch.div(x.C, torch.tensor([1, 2, 2, 2]), rounding_mode="floor"), dim=0)
    assert torch.equal(y.C, halves.int())
    grid = functional.conv3d(dense(x, (EXTENT,) * 3), dense_weight(layer), stride=2, padding=1)
    torch.testing.assert_close(y.F, at(grid, y))


@pytest.mark.parametrize("size", [2, 3, (1, 3, 1)])
@pytest.mark.parametrize("dilation", [1, 2])
def test_strided_kernels_of_20_are_centred(size: Any, dilation: int) -> None:
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


def test_outputs_of_20_begin_at_the_lowest_coordinate() -> None:
    coords = torch.tensor([[5, 7, 6, 0], [9, 8, 7, 1]], dtype=torch.int32)
    y = torchsparse20.nn.Conv3d(1, 1, 3, 2)(torchsparse20.SparseTensor(torch.ones(2, 1), coords))
    assert (y.C[:, :3] >= torch.tensor([5, 7, 6])).all() and len(y.C)
    assert [6, 8, 6, 0] in y.C.tolist()


@pytest.mark.parametrize("library", BOTH)
def test_a_kernel_of_three_and_stride_three(library: ModuleType) -> None:
    x = tensor(library)
    y = library.nn.Conv3d(3, 4, 3, 3).double()(x)
    floors = torch.unique(batch_first(x) // torch.tensor([1, 3, 3, 3]), dim=0)
    assert torch.equal(batch_first(y), floors)


@pytest.mark.parametrize("library", BOTH)
@pytest.mark.parametrize("size", [2, 3])
def test_transposed(library: ModuleType, size: int) -> None:
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
def test_generative(size: int) -> None:
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
    again = torchsparse.nn.Conv3d(4, 4, 3).double()(y)
    assert again.C is y.C
    with pytest.raises(ValueError, match="generative: expected transposed=True"):
        torchsparse.nn.Conv3d(3, 4, 3, 2, generative=True)


@pytest.mark.parametrize("library", BOTH)
@pytest.mark.parametrize("training", [True, False])
def test_gradients(library: ModuleType, training: bool) -> None:
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
def test_precision(library: ModuleType) -> None:
    x = tensor(library)
    layer = library.nn.Conv3d(3, 4, 3)
    x.feats = x.feats.float()
    exact = layer(x).F
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).F.dtype == torch.bfloat16
    half = layer(x.like(x.F.half())).F
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), exact, atol=1e-2, rtol=1e-2)


# Rows that users feed all the same.


@pytest.mark.parametrize("library", BOTH)
def test_no_rows(library: ModuleType) -> None:
    x = library.SparseTensor(torch.zeros(0, 3), torch.zeros(0, 4).int())
    y = library.nn.Conv3d(3, 4, 3, 2)(library.nn.Conv3d(3, 3, 3)(x))
    assert y.F.shape == (0, 4)
    assert library.nn.Conv3d(4, 3, 3, 2, transposed=True)(y).F.shape == (0, 3)
    assert library.nn.GlobalMaxPool()(y).shape == (0, 4)


@pytest.mark.parametrize("library", BOTH)
def test_duplicates_and_strides_of_memory(library: ModuleType) -> None:
    x = tensor(library)
    twice = library.SparseTensor(torch.cat([x.F, x.F]), torch.cat([x.C, x.C]))
    down = randomise(library.nn.Conv3d(3, 4, 2, 2))
    torch.testing.assert_close(down(twice).F, 2 * down(x).F)
    same = randomise(library.nn.Conv3d(3, 4, 3))
    torch.testing.assert_close(same(twice).F, same(x).F.repeat(2, 1))
    turned = library.SparseTensor(x.F, x.C.t().contiguous().t())
    assert torch.equal(same(turned).F, same(x).F)


def test_strided_maps_past_32_bits() -> None:
    """2.1 cuts the number of a coordinate to 32 bits, and pairs vanish."""
    far = 3000
    coords = torch.tensor([[7, far, far, far], [0, 0, 0, 0]], dtype=torch.int32)
    layer = randomise(torchsparse.nn.Conv3d(1, 1, 2, 2))
    y = layer(torchsparse.SparseTensor(torch.ones(2, 1, dtype=torch.float64), coords))
    assert y.C.tolist() == [[0, 0, 0, 0], [7, far // 2, far // 2, far // 2]]
    torch.testing.assert_close(y.F[:, 0], layer.kernel[0, 0, 0].expand(2))


def test_negative_coordinates() -> None:
    coords = torch.tensor([[0, -2, -2, -2], [0, 4, 4, 4]], dtype=torch.int32)
    x = torchsparse.SparseTensor(torch.ones(2, 1), coords)
    layer = torchsparse.nn.Conv3d(1, 1, 2, 2)
    assert layer(x).C.tolist() == [[0, 2, 2, 2]]
    torchsparse.tensor.set_allow_negative_coordinates(True)
    fresh = torchsparse.SparseTensor(x.F, x.C)
    assert layer(fresh).C.tolist() == [[0, -1, -1, -1], [0, 2, 2, 2]]
    old = torchsparse20.SparseTensor(x.F, coords[:, [1, 2, 3, 0]])
    assert torchsparse20.nn.Conv3d(1, 1, 2, 2)(old).C.tolist() == [[-2, -2, -2, 0], [4, 4, 4, 0]]


# Tensors and caches.


@pytest.mark.parametrize("library", BOTH)
def test_tensor(library: ModuleType) -> None:
    x = tensor(library)
    assert x.F is x.feats and x.C is x.coords and x.s == x.stride == (1, 1, 1)
    x.F, x.C, x.s = x.F + 1, x.C.clone(), 4
    assert x.stride == (4, 4, 4)
    assert x.cpu() is x and x.detach() is x and x.to("cpu") is x
    assert x.half() is x and x.F.dtype == torch.float16
    joined = library.cat([x, x])
    assert joined.F.shape[1] == 6 and joined._caches is x._caches
    total = x + x
    assert torch.equal(total.F, x.F * 2) and total._caches is x._caches and total.s == x.s
    x.cmaps = {"mine": 1}
    assert x._caches.cmaps == {"mine": 1} and x.kmaps is x._caches.kmaps
    x._caches.anything = 5
    assert library.nn.ReLU()(x)._caches.anything == 5


def test_subclasses() -> None:
    class Points(torchsparse.SparseTensor):
        def __init__(self, feats: Tensor, coords: Tensor, idx_query: Any = None) -> None:
            super().__init__(feats=feats, coords=coords, stride=1)
            self._caches.idx_query = {} if idx_query is None else idx_query

    x = tensor(torchsparse)
    points = Points(x.F, x.C)
    y = randomise(torchsparse.nn.Conv3d(3, 4, 3))(points)
    assert type(y) is torchsparse.SparseTensor and y._caches.idx_query == {}


@pytest.mark.parametrize("library", BOTH)
def test_caches(library: ModuleType) -> None:
    x = tensor(library)
    first, second = (randomise(library.nn.Conv3d(3, 3, 3), n) for n in (1, 2))
    down = randomise(library.nn.Conv3d(3, 3, 2, 2))
    y = down(second(first(x)))
    assert list(x.kmaps) == [
        ((1, 1, 1), (3, 3, 3), (1, 1, 1), (1, 1, 1)),
        ((1, 1, 1), (2, 2, 2), (2, 2, 2), (1, 1, 1)),
    ]
    assert sorted(x.cmaps) == [(1, 1, 1), (2, 2, 2)]
    kept = x.cmaps[(2, 2, 2)]
    assert (kept[0] if library is torchsparse else kept) is y.C
    made = x.kmaps[next(iter(x.kmaps))]
    second(first(x))
    assert x.kmaps[next(iter(x.kmaps))] is made
    facts = x.kmaps[((1, 1, 1), (2, 2, 2), (2, 2, 2), (1, 1, 1))]
    assert facts["sizes"] == (len(x.C), len(y.C)) and facts["coords"] is y.C
    assert facts["out_in_map"].shape == (len(y.C), 8)
    assert facts["nbsizes"].sum() == len(facts["nbmaps"]) == (facts["out_in_map"] >= 0).sum()
    with pytest.raises(KeyError):
        facts["something"]


@pytest.mark.parametrize("library", BOTH)
def test_edited_coordinates_never_meet_an_old_map(library: ModuleType) -> None:
    x = tensor(library)
    layer = randomise(library.nn.Conv3d(3, 4, 3))
    layer(x)
    first = 1 if library is torchsparse else 0
    x.C[:, first : first + 3] *= 2
    fresh = library.SparseTensor(x.F, x.C.clone())
    torch.testing.assert_close(layer(x).F, layer(fresh).F)


def test_layers_that_differ_in_padding_share_no_map() -> None:
    """torchsparse's key has no padding, and the second of two such layers is given a wrong map."""
    x = tensor(torchsparse)
    first, second = (torchsparse.nn.Conv3d(3, 4, 3, 2, padding).double() for padding in (0, 1))
    first(x)
    alone = torchsparse.SparseTensor(x.F, x.C)
    assert torch.equal(second(x).C, second(alone).C)
    torch.testing.assert_close(second(x).F, second(alone).F)


def test_cache_modes() -> None:
    mode = tensor_cache.TensorCacheMode
    x, y = tensor(torchsparse, 1), tensor(torchsparse, 2)
    assert x._caches is not y._caches
    tensor_cache.set_tensor_cache_mode(mode.GLOBAL_TENSOR_CACHE)
    a, b = (torchsparse.SparseTensor(t.F, t.C) for t in (x, y))
    assert a._caches is b._caches is tensor_cache.get_global_tensor_cache()
    layer = randomise(torchsparse.nn.Conv3d(3, 4, 3))
    for shared, alone in ((a, x), (b, y), (a, x)):
        torch.testing.assert_close(layer(shared).F, layer(alone).F)
    tensor_cache.clear_global_tensor_cache()
    assert torchsparse.SparseTensor(x.F, x.C)._caches is not a._caches
    assert tensor_cache.get_tensor_cache_mode() is mode.GLOBAL_TENSOR_CACHE
    with pytest.raises(TypeError, match="expected a TensorCacheMode"):
        tensor_cache.set_tensor_cache_mode(1)


def test_point_tensor() -> None:
    points = torchsparse.PointTensor(torch.ones(2, 3), torch.zeros(2, 4))
    assert points.idx_query == {} and points.weights == {}
    points.additional_features["idx_query"][1] = 5
    total = points.to("cpu").detach() + points
    assert torch.equal(total.F, torch.full((2, 3), 2.0))
    assert total.additional_features is points.additional_features
    assert torchsparse20.PointTensor is torchsparse.PointTensor


def test_generative_add() -> None:
    x, y = tensor(torchsparse, 1), tensor(torchsparse, 2)
    total = torchsparse.generative_add(x, y)
    shape = (EXTENT,) * 3
    torch.testing.assert_close(dense(total, shape), dense(x, shape) + dense(y, shape))


def test_config() -> None:
    config = spf.conv_config.get_default_conv_config()
    config.kmap_mode = "hashmap"
    config.dataflow = spf.Dataflow.GatherScatter
    assert spf.get_default_conv_config().kmap_mode == "hashmap_on_the_fly"
    spf.conv_config.set_global_conv_config(config)
    x = tensor(torchsparse)
    layer = randomise(torchsparse.nn.Conv3d(3, 4, 4))
    by_global = layer(x).F
    spf.conv_config.clear_global_conv_config()
    layer._config = {"kmap_mode": "hashmap"}
    fresh = torchsparse.SparseTensor(x.F, x.C)
    torch.testing.assert_close(layer(fresh).F, by_global)
    spf.set_conv_mode(2)
    assert spf.get_conv_mode() is spf.ConvMode.mode2
    assert spf.get_default_conv_config(spf.get_conv_mode()).split_mask_num == 3
    with pytest.raises(ValueError, match=r"set_kmap_mode: kmap_mode: expected one of .*'grid'"):
        spf.set_kmap_mode("grid")
    with pytest.raises(ValueError, match="set_downsample_mode"):
        spf.set_downsample_mode("none")
    with pytest.raises(AttributeError):
        config.nothing


# Functions of points and hashes.


def slow_hash(row: list[int]) -> int:
    value = 14695981039346656037
    for word in row:
        value = (value ^ (word & 0xFFFFFFFF)) * 1099511628211 % 2**64
    return (value >> 60) ^ (value & 0xFFFFFFFFFFFFFFF)


def test_hashes() -> None:
    coords = torch.tensor([[1, -2, 3, 0], [2**31 - 1, 0, -(2**31), 7]], dtype=torch.int32)
    assert spf.sphash(coords).tolist() == [slow_hash(row) for row in coords.tolist()]
    offsets = torch.tensor([[0, 0, 0], [1, 2, -3]], dtype=torch.int32)
    around = spf.sphash(coords[:1], offsets)
    assert around.shape == (2, 1) and around[1, 0] == slow_hash([2, 0, 0, 0])
    with pytest.raises(TypeError, match=r"sphash: coords: expected int32, got torch\.int64"):
        spf.sphash(coords.long())
    with pytest.raises(ValueError, match=r"sphash: offsets: expected shape \[N, 3\]"):
        spf.sphash(coords, coords)
    references = torch.tensor([50, 20, 50])
    rows = spf.sphashquery(torch.tensor([[20, 50], [7, 20]]), references)
    assert rows.tolist() == [[1, 0], [-1, 1]]
    assert spf.sphashquery(references, references[:0]).tolist() == [-1, -1, -1]


def test_hash_table() -> None:
    coords = cells(3)[:, [1, 2, 3, 0]].contiguous()
    n = len(coords)
    keys, vals = torch.zeros(2 * n).long(), torch.zeros(2 * n).int()
    torchsparse.backend.GPUHashTable(keys, vals).insert_coords(coords)
    table = torchsparse.backend.GPUHashTable(keys, vals)
    for size in ([3, 3, 3], [2, 2, 2]):
        volume = size[0] ** 3
        found = table.lookup_coords(coords, torch.tensor(size), torch.ones(3).int(), volume)
        assert found.shape == (-(-n // 128) * 128, volume) and found.dtype == torch.int32
        assert not found[n:].any()
        offsets = torchsparse.nn.utils.get_kernel_offsets(size[0])
        rows = {tuple(row): number + 1 for number, row in enumerate(coords.tolist())}
        for row, numbers in zip(coords.tolist(), found[:n].tolist()):
            around = [tuple(a + b for a, b in zip(row[:3], o)) for o in offsets.tolist()]
            assert numbers == [rows.get((*place, row[3]), 0) for place in around]
    table.insert_vals(torch.tensor([2**40, 5]))
    assert table.lookup_vals(torch.tensor([5, 6, 2**40]))[:3].tolist() == [2, 0, 1]
    small = torchsparse.backend.GPUHashTable(1)
    with pytest.raises(ValueError, match="the table has 1 places"):
        small.insert_vals(torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="kernel_volume: expected 27"):
        table.lookup_coords(coords, torch.tensor([3, 3, 3]), torch.ones(3), 8)


def test_voxelise_and_back() -> None:
    numbers = generator(4)
    feats = torch.randn(50, 3, generator=numbers, dtype=torch.float64)
    voxels = torch.randint(-1, 12, (50,), generator=numbers)
    counts = spf.spcount(voxels.int(), torch.tensor(13))
    assert counts.dtype == torch.int32 and counts.sum() == (voxels >= 0).sum()
    mean = spf.spvoxelize(feats, voxels, counts)
    for voxel in range(13):
        mine = feats[voxels == voxel]
        expected = mine.mean(0) if len(mine) else torch.zeros(3, dtype=torch.float64)
        torch.testing.assert_close(mean[voxel], expected)
    leaf = feats.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda f: spf.spvoxelize(f, voxels, counts), leaf)
    rows = torch.randint(-1, 50, (20, 8), generator=numbers)
    weights = torch.rand(20, 8, generator=numbers, dtype=torch.float64)
    back = spf.spdevoxelize(feats, rows, weights)
    expected = (feats[rows] * (weights * (rows >= 0))[:, :, None]).sum(1)
    torch.testing.assert_close(back, expected)
    assert torch.autograd.gradcheck(lambda f: spf.spdevoxelize(f, rows, weights), leaf)


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_trilinear_weights(scale: int) -> None:
    numbers = generator(5)
    points = torch.rand(30, 4, generator=numbers) * 20 - 10
    rows = torch.randint(-1, 3, (30, 8), generator=numbers)
    found = spf.calc_ti_weights(points, rows, scale)
    for point, row, weights in zip(points, rows, found):
        low = (point[:3] / scale).floor() * scale
        above = (point[:3] - low) / scale
        corners = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3)))
        expected = (1 - (above - corners).abs()).prod(1) * (row >= 0)
        expected = expected / (expected.sum() + 1e-8)
        torch.testing.assert_close(weights, expected, atol=1e-5, rtol=1e-4)


def test_points_through_voxels_as_spvnas_does() -> None:
    """Hash, unique, count, mean, query of eight neighbours, weights: linear fields are exact."""
    numbers = generator(6)
    places = torch.rand(200, 3, generator=numbers) * 4 + 1
    points = torchsparse20.PointTensor(places.clone(), torch.cat([places, torch.zeros(200, 1)], 1))
    grid = torch.cartesian_prod(*[torch.arange(7)] * 3).int()
    coords = torch.cat([grid, torch.zeros(len(grid), 1).int()], 1)
    x = torchsparse20.SparseTensor(grid.float(), coords)
    offsets = torchsparse20.nn.utils.get_kernel_offsets(2, 1, 1)
    f = torchsparse20.nn.functional
    floors = points.C.floor().int()
    rows = f.sphashquery(f.sphash(floors, offsets), f.sphash(x.C)).t().contiguous()
    weights = f.calc_ti_weights(points.C, rows, scale=1)
    torch.testing.assert_close(f.spdevoxelize(x.F, rows, weights), places, atol=1e-4, rtol=1e-4)
    unique, inverse = torch.unique(f.sphash(floors), return_inverse=True)
    counts = f.spcount(inverse.int(), len(unique))
    centres = f.spvoxelize(points.F, inverse.int(), counts)
    assert (centres[inverse].floor() == floors[:, :3]).all()


def test_downsample() -> None:
    coords = cells(7)
    down = spf.spdownsample(coords, 2, 3, 1)
    x = tensor(torchsparse, 7)
    assert torch.equal(down, torchsparse.nn.Conv3d(3, 3, 3, 2, 1).double()(x).C)
    floors = spf.spdownsample(coords, 2, 3, downsample_mode="minkowski")
    assert torch.equal(spf.spdownsample(coords), floors)
    old = torchsparse20.nn.functional.spdownsample(placed(torchsparse20, coords), 2, 3, 1)
    strided = torchsparse20.nn.Conv3d(3, 3, 3, 2).double()(tensor(torchsparse20, 7))
    assert torch.equal(old, strided.C)
    fine = spf.spupsample_generative(down, 2, 2)
    assert len(fine) == 8 * len(down)
    kmap = spf.build_kernel_map(coords, len(coords), 3, 2, 1)
    assert torch.equal(kmap["coords"], down)


# Other modules.


@pytest.mark.parametrize("library", BOTH)
def test_norms_and_pools(library: ModuleType) -> None:
    x = tensor(library, channels=4)
    items = batch_first(x)[:, 0]
    for layer, twin in (
        (library.nn.BatchNorm(4), nn.BatchNorm1d(4)),
        (library.nn.InstanceNorm(4), nn.InstanceNorm1d(4)),
        (library.nn.LeakyReLU(0.2), nn.LeakyReLU(0.2)),
        (library.nn.SiLU(), nn.SiLU()),
    ):
        assert torch.equal(layer.double()(x).F, twin.double()(x.F))
    for name, negative in (("relu", {}), ("silu", {}), ("leaky_relu", {"negative_slope": 0.1})):
        fresh = x.like(x.F.clone())
        expected = getattr(functional, name)(x.F, **negative)
        assert torch.equal(getattr(library.nn.functional, name)(fresh).F, expected)
    layer = randomise(library.nn.GroupNorm(2, 4))
    twin = nn.GroupNorm(2, 4).double()
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
def test_crop_looks_at_x_y_z(library: ModuleType) -> None:
    x = tensor(library)
    y = library.nn.SparseCrop((1, 0, 2), (5, 6, 9))(x)
    low, high = torch.tensor([1, 0, 2]), torch.tensor([5, 6, 9])
    places = batch_first(x)[:, 1:]
    inside = ((places >= low) & (places < high)).all(1)
    assert torch.equal(y.C, x.C[inside]) and torch.equal(y.F, x.F[inside]) and y.kmaps == {}
    assert library.nn.functional.spcrop(x).C.shape == x.C.shape


@pytest.mark.parametrize("library", BOTH)
@pytest.mark.parametrize("dim", [0, 1, 2])
def test_views_from_above(library: ModuleType, dim: int) -> None:
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


def test_dense() -> None:
    x = tensor(torchsparse)
    with pytest.raises(ValueError, match="spatial_range: expected sizes, got None"):
        x.dense()
    x.spatial_range = (2, EXTENT, EXTENT, EXTENT)
    assert torch.equal(x.dense().movedim(-1, 1), dense(x, (EXTENT,) * 3))
    leaf = x.F.clone().requires_grad_()
    torchsparse.utils.to_dense(leaf, x.C, (2, 4, 4, 4)).sum().backward()
    inside = (x.C[:, 1:] < 4).all(1)
    assert torch.equal(leaf.grad[:, 0], inside.double())


def test_utilities() -> None:
    utils = torchsparse.utils
    for value in (3, [3, 3], (3, 3), torch.tensor([3, 3]), np.array([3, 3]), np.int64(3)):
        assert utils.make_ntuple(value, 2) == (3, 3)
    with pytest.raises(ValueError, match="make_ntuple: x: expected 3 numbers"):
        utils.make_ntuple((1, 2), 3)
    assert utils.make_tensor((1, 2), torch.int32, "cpu").tolist() == [1, 2]
    assert utils.make_divisible(128, 128) == 128
    assert torchsparse.nn.utils.get_kernel_offsets((3, 1, 1), 2, 2)[:, 0].tolist() == [-4, 0, 4]
    assert torchsparse.nn.utils.get_kernel_offsets(4).amin() == -1


def test_quantize() -> None:
    numbers = np.random.default_rng(0)
    points = numbers.normal(size=(300, 3)) * 3
    voxels, first, inverse = quantize.sparse_quantize(
        points, (0.5, 1.0, 2.0), return_index=True, return_inverse=True
    )
    floors = np.floor(points / [0.5, 1, 2]).astype(np.int32)
    expected = np.unique(floors, axis=0, return_index=True, return_inverse=True)
    assert (voxels == expected[0]).all() and voxels.dtype == np.int32
    assert (first == expected[1]).all() and (inverse == expected[2].reshape(-1)).all()
    wide = np.array([[-(2.0**30)] * 3, [2.0**30] * 3, [-(2.0**30)] * 3])
    assert quantize.sparse_quantize(wide).shape == (2, 3)
    assert quantize.sparse_quantize(np.zeros((0, 3)), 0.1).shape == (0, 3)
    with pytest.raises(ValueError, match="voxel_size: expected 3 numbers"):
        quantize.sparse_quantize(points, (1.0,))


@pytest.mark.parametrize("library", BOTH)
def test_collate(library: ModuleType) -> None:
    def sample(n: int) -> dict[str, Any]:
        coords = np.arange(3 * n, dtype=np.int32).reshape(n, 3)
        return {
            "input": library.SparseTensor(np.ones((n, 4), np.float32), coords),
            "label": library.SparseTensor(torch.full((n,), n), torch.from_numpy(coords)),
            "array": np.arange(2),
            "nested": {"tensor": torch.arange(2)},
            "name": "frame",
        }

    batch = collate.sparse_collate_fn([sample(2), sample(3)])
    x = batch["input"]
    assert type(x) is library.SparseTensor and x.F.shape == (5, 4) and x.C.dtype == torch.int32
    column = 0 if library is torchsparse else 3
    assert x.C[:, column].tolist() == [0, 0, 1, 1, 1]
    assert batch["label"].F.tolist() == [2, 2, 3, 3, 3]
    assert batch["array"].tolist() == [[0, 1]] * 2 and batch["name"] == ["frame"] * 2
    assert batch["nested"]["tensor"].shape == (2, 2)
    assert collate.sparse_collate_fn([1, 2]) == [1, 2]
    other = library.SparseTensor(torch.ones(1, 4), torch.zeros(1, 3).int(), 2)
    with pytest.raises(ValueError, match="sparse_collate: inputs: expected one stride"):
        collate.sparse_collate([sample(2)["input"], other])


def test_tune() -> None:
    x = tensor(torchsparse)
    seen = []
    net = nn.Sequential(torchsparse.nn.Conv3d(3, 4, 3).double(), nn.Identity())
    net[1].register_forward_hook(lambda *_: seen.append(1))
    torchsparse.tune(net, [{"x": x}] * 5, n_samples=3, collect_fn=lambda data: data["x"])
    assert len(seen) == 3 and net.training


def test_backbones_agree() -> None:
    """Kernels of 2 and stride 2 mean the same in both versions, and so does a whole network."""
    nets = [lib.backbones.SparseResUNet42(in_channels=3, width_multiplier=0.25) for lib in BOTH]
    nets[1].load_state_dict(nets[0].state_dict())
    outputs = [net.double().eval()(tensor(lib, extent=32)) for net, lib in zip(nets, BOTH)]
    assert [y.s[0] for y in outputs[0]] == [1, 2, 4, 8, 16, 8, 4, 2, 1]
    assert [y.F.shape[1] for y in outputs[0]] == [8, 8, 16, 32, 64, 64, 32, 24, 24]
    for new, old in zip(*outputs):
        assert torch.equal(batch_first(new), batch_first(old))
        torch.testing.assert_close(new.F, old.F)


def test_names_of_the_backbones_parameters() -> None:
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
        outputs = net.double().eval()(tensor(library, extent=40, count=400))
        assert [y.s for y in outputs][-1] == (8, 16, 8)
