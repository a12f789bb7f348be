# SPDX-License-Identifier: Apache-2.0
"""spconv's interface over ours: every layer against its dense twin, and spconv's habits."""

from __future__ import annotations

import doctest
import importlib
import inspect
import itertools
import subprocess
import sys
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import fieldline
from fieldline.compat import _MODULES, spconv
from fieldline.compat.cumm import tensorview as tv
from fieldline.compat.spconv import pytorch as sp
from fieldline.compat.spconv.utils import Point2VoxelCPU3d

CONV = (
    "in_channels out_channels kernel_size stride padding dilation groups bias indice_key algo "
    "fp32_accum record_voxel_count large_kernel_fast_algo name"
)
SIGNATURES = {
    "SparseConv{}d": CONV,
    "SparseConvTranspose{}d": CONV,
    "SubMConv{}d": CONV.replace("record_voxel_count ", ""),
    "SparseInverseConv{}d": "in_channels out_channels kernel_size indice_key bias algo fp32_accum "
    "large_kernel_fast_algo name",
    "SparseMaxPool{}d": "kernel_size stride padding dilation indice_key algo record_voxel_count "
    "name",
}
NAMES = {
    "pytorch": "SparseConvTensor SparseModule SparseSequential SparseBatchNorm SparseReLU "
    "SparseIdentity assign_name_for_sparse_modules Identity ToDense RemoveGrid ConvAlgo AddTable "
    "ConcatTable JoinTable SparseAvgPool1d SparseAvgPool2d SparseAvgPool3d SparseGlobalMaxPool "
    "SparseGlobalAvgPool functional ops modules",
    "pytorch.ops": "get_conv_output_size get_deconv_output_size get_indice_pairs "
    "get_indice_pairs_implicit_gemm indice_conv indice_conv_backward implicit_gemm "
    "implicit_gemm_backward indice_maxpool indice_maxpool_backward indice_maxpool_implicit_gemm "
    "indice_maxpool_implicit_gemm_backward indice_avgpool_implicit_gemm "
    "indice_avgpool_implicit_gemm_backward global_pool_rearrange maximum_value_int_ ConvAlgo",
    "pytorch.functional": "indice_conv implicit_gemm indice_inverse_conv indice_subm_conv "
    "indice_maxpool indice_maxpool_implicit_gemm indice_avgpool_implicit_gemm sparse_add "
    "sparse_add_hash_based",
    "pytorch.utils": "PointToVoxel gather_features_by_pc_voxel_id",
    "pytorch.hash": "HashTable",
    "pytorch.modules": "is_spconv_module is_sparse_conv SparseSyncBatchNorm",
    "pytorch.conv": "SparseConvolution",
    "pytorch.spatial": "RemoveDuplicate",
    "pytorch.tables": "AddTableMisaligned",
    "utils": "Point2VoxelCPU1d Point2VoxelCPU2d Point2VoxelCPU3d Point2VoxelCPU4d",
    "constants": "SPCONV_USE_DIRECT_TABLE SPCONV_ALLOW_TF32",
}
SIZE = {1: 23, 2: 11, 3: 7, 4: 5}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cloud(
    ndim: int = 3,
    channels: int = 3,
    batch: int = 2,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> sp.SparseConvTensor:
    """A tensor of random cells, in no order."""
    numbers = generator(seed)
    size = SIZE[ndim]
    drawn = torch.randint(0, size, (60, ndim), generator=numbers)
    items = torch.randint(0, batch, (60, 1), generator=numbers)
    indices = torch.unique(torch.cat([items, drawn], 1), dim=0)
    indices = indices[torch.randperm(len(indices), generator=numbers)].int()
    features = torch.randn(len(indices), channels, generator=numbers, dtype=dtype)
    return sp.SparseConvTensor(features, indices, [size] * ndim, batch)


def at(dense: Tensor, indices: Tensor) -> Tensor:
    """[N, C], a dense tensor [B, C, ...] at cells."""
    return dense.movedim(1, -1)[indices.long().unbind(1)]


def randomise(layer: nn.Module, seed: int = 1) -> nn.Module:
    layer.double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, generator=generator(seed))
    return layer


def kernel_of(layer: sp.conv.SparseConvolution) -> Tensor:
    """[C_out, C_in, *kernel], as torch has it."""
    return layer.weight.movedim(-1, 1)


def dense_conv(
    x: Tensor,
    layer: sp.conv.SparseConvolution,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
) -> Tensor:
    """torch's convolution, 1-D to 4-D."""
    ndim, weight = layer.ndim, kernel_of(layer)
    if ndim < 4:
        return getattr(functional, f"conv{ndim}d")(x, weight, None, stride, padding, dilation)
    x = functional.pad(x, [padding] * 8)
    size = weight.shape[2]
    out = [(n - dilation * (size - 1) - 1) // stride + 1 for n in x.shape[2:]]
    total = x.new_zeros(x.shape[0], weight.shape[0], *out)
    for tap in itertools.product(range(size), repeat=4):
        where = [
            slice(t * dilation, t * dilation + stride * (n - 1) + 1, stride)
            for t, n in zip(tap, out)
        ]
        total = total + torch.einsum("bc...,oc->bo...", x[(..., *where)], weight[(..., *tap)])
    return total


# The interface.


@pytest.mark.parametrize("ndim", [1, 2, 3, 4])
@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures(name: str, ndim: int) -> None:
    found = inspect.signature(getattr(sp, name.format(ndim))).parameters
    assert list(found) == SIGNATURES[name].split()
    if "Conv" in name:
        assert found["bias"].default is True


@pytest.mark.parametrize("module", NAMES)
def test_names(module: str) -> None:
    found = importlib.import_module(f"fieldline.compat.spconv.{module}")
    for name in NAMES[module].split():
        assert hasattr(found, name) and name in found.__all__


@pytest.mark.parametrize("name", _MODULES["spconv"])
def test_examples(name: str) -> None:
    module = importlib.import_module(f"fieldline.compat.{name}")
    assert doctest.testmod(module, extraglobs={"torch": torch}).failed == 0


SCRIPT = """
import fieldline
fieldline.compat.install("spconv")
import spconv
import spconv.pytorch as sp
from spconv.core import ConvAlgo
from spconv.pytorch import functional as Fsp
from spconv.pytorch.conv import SparseConvolution
from spconv.pytorch.utils import PointToVoxel
from spconv.utils import Point2VoxelCPU3d
import cumm.tensorview as tv
from cumm.tensorview.gemm import Activation
assert float(spconv.__version__[2:]) >= 2.2 and spconv.SPCONV_VERSION_NUMBERS == [2, 3, 8]
assert sp.modules.is_spconv_module(sp.SubMConv3d(2, 2, 3))
assert tv.gemm.Activation.ReLU is Activation.ReLU
spconv.constants.SPCONV_USE_DIRECT_TABLE = False
try:
    from spconv.utils import VoxelGeneratorV2
except ImportError:
    pass
else:
    raise AssertionError("spconv 1's voxeliser would be taken for the real one")
"""


def test_install() -> None:
    subprocess.run([sys.executable, "-c", SCRIPT], check=True)


def test_version() -> None:
    assert spconv.__version__ == "2.3.8"


# Layers against dense twins, with gradients.


@pytest.mark.parametrize("ndim", [1, 2, 3, 4])
@pytest.mark.parametrize(("size", "dilation"), [(3, 1), (3, 2), (5, 1)])
def test_submanifold(ndim: int, size: int, dilation: int) -> None:
    x = cloud(ndim)
    layer = randomise(
        getattr(sp, f"SubMConv{ndim}d")(3, 4, size, stride=2, padding=1, dilation=dilation)
    )
    y = layer(x)
    reach = dilation * (size - 1) // 2
    dense = dense_conv(x.dense(), layer, padding=reach, dilation=dilation)
    assert torch.equal(y.indices, x.indices) and y.spatial_shape == x.spatial_shape
    torch.testing.assert_close(y.features, at(dense, x.indices) + layer.bias)


@pytest.mark.parametrize("ndim", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(("padding", "dilation"), [(0, 1), (1, 1), (2, 2)])
def test_strided_and_inverse(
    ndim: int, size: int, stride: int, padding: int, dilation: int
) -> None:
    if size == stride == 1:
        return
    x = cloud(ndim, seed=size)
    sizes = {"stride": stride, "padding": padding, "dilation": dilation}
    layer = randomise(
        getattr(sp, f"SparseConv{ndim}d")(3, 4, size, **sizes, bias=False, indice_key="down")
    )
    y = layer(x)
    dense = dense_conv(x.dense(), layer, **sizes)
    assert y.spatial_shape == list(dense.shape[2:])
    torch.testing.assert_close(y.features, at(dense, y.indices))
    # The cells are the support: nothing outside, and each has an input under its kernel.
    torch.testing.assert_close(y.dense(), dense)
    ones = randomise(getattr(sp, f"SparseConv{ndim}d")(1, 1, size, **sizes, bias=False))
    nn.init.ones_(ones.weight)
    there = dense_conv(x.replace_feature(torch.ones_like(x.features[:, :1])).dense(), ones, **sizes)
    assert int((there > 0).sum()) == len(y.indices)
    if size == 1:
        return
    back = randomise(getattr(sp, f"SparseInverseConv{ndim}d")(4, 2, size, "down", bias=False))
    z = back(y)
    assert torch.equal(z.indices, x.indices) and z.spatial_shape == x.spatial_shape
    if ndim < 4:
        reach = dilation * (size - 1) + 1 - 2 * padding
        rest = [n - (m - 1) * stride - reach for n, m in zip(x.spatial_shape, y.spatial_shape)]
        transposed = getattr(functional, f"conv_transpose{ndim}d")(
            y.dense(), back.weight.movedim(-1, 0), **sizes, output_padding=rest
        )
        torch.testing.assert_close(z.features, at(transposed, x.indices))


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize(
    ("size", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 1, 1), (2, 3, 0)]
)
def test_transposed(ndim: int, size: int, stride: int, padding: int) -> None:
    x = cloud(ndim)
    layer = randomise(
        getattr(sp, f"SparseConvTranspose{ndim}d")(3, 4, size, stride, padding, bias=False)
    )
    y = layer(x)
    weight = layer.weight.movedim(-1, 0)
    dense = getattr(functional, f"conv_transpose{ndim}d")(
        x.dense(), weight, stride=stride, padding=padding
    )
    assert y.spatial_shape == list(dense.shape[2:])
    torch.testing.assert_close(y.dense(), dense)


def test_anisotropic() -> None:
    x = cloud()
    layer = randomise(sp.SparseConv3d(3, 4, (3, 1, 2), (2, 1, 1), (1, 0, 1), bias=False))
    y = layer(x)
    dense = functional.conv3d(x.dense(), kernel_of(layer), stride=(2, 1, 1), padding=(1, 0, 1))
    torch.testing.assert_close(y.dense(), dense)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", ["SubMConv3d", "SparseConv3d", "SparseConvTranspose3d"])
def test_gradients_in_training_and_eval(kind: str, training: bool) -> None:
    x = cloud(channels=2)
    layer = randomise(getattr(sp, kind)(2, 2, 3, 2, 1)).train(training)

    def forward(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        parameters = {"weight": weight, "bias": bias}
        return torch.func.functional_call(
            layer, parameters, (x.replace_feature(features),)
        ).features

    inputs = [t.detach().clone().requires_grad_() for t in (x.features, layer.weight, layer.bias)]
    assert torch.autograd.gradcheck(forward, inputs, fast_mode=True)


def test_one_tap_reads_its_weight_as_in_by_out() -> None:
    x = cloud()
    for layer in (sp.SubMConv3d(3, 4, 1, padding=1), sp.SparseConv3d(3, 4, 1)):
        randomise(layer)
        expected = x.features @ layer.weight.view(3, 4) + layer.bias
        torch.testing.assert_close(layer(x).features, expected)
    strided = randomise(sp.SparseConv3d(3, 4, 1, stride=2, bias=False))
    y = strided(x)
    dense = functional.conv3d(x.dense(), kernel_of(strided), stride=2)
    torch.testing.assert_close(y.dense(), dense)


def test_activation_and_added_input() -> None:
    x = cloud()
    layer = sp.conv.SparseConvolution(
        3, 3, 4, 3, subm=True, act_type=tv.gemm.Activation.LeakyReLU, act_alpha=0.2
    )
    plain = randomise(layer)(x).features
    layer.act_type = tv.gemm.Activation.None_
    torch.testing.assert_close(plain, functional.leaky_relu(layer(x).features, 0.2))
    other = x.replace_feature(torch.ones(len(x.indices), 4, dtype=torch.float64))
    layer.act_type = tv.gemm.Activation.ReLU
    added = layer(x, add_input=other).features
    layer.act_type = tv.gemm.Activation.None_
    torch.testing.assert_close(added, (layer(x).features + 1).relu())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_in_training_and_not_in_eval(dtype: torch.dtype) -> None:
    x = cloud(dtype=torch.float32)
    layer = sp.SubMConv3d(3, 4, 3)
    exact = layer(x).features
    with torch.autocast("cpu", dtype=dtype):
        half, whole = layer(x).features, layer.eval()(x).features
    assert half.dtype == dtype and whole.dtype == torch.float32
    torch.testing.assert_close(half.float(), exact, atol=0.05, rtol=0.05)
    torch.testing.assert_close(whole, exact)


# Pools.


def test_max_pool_is_at_least_zero() -> None:
    x = cloud(seed=3)
    y = sp.SparseMaxPool3d(2, 2)(x)
    lowest = torch.full_like(x.dense(), -torch.inf)
    lowest[(x.indices[:, 0].long(), slice(None), *x.indices[:, 1:].long().unbind(1))] = x.features
    pooled = functional.max_pool3d(lowest, 2, 2)
    torch.testing.assert_close(y.features, at(pooled, y.indices).clamp_min(0))
    assert (at(pooled, y.indices) < 0).any()
    assert sp.SparseMaxPool3d(2).stride == [2, 2, 2]


@pytest.mark.parametrize("subm", [False, True])
def test_average_counts_cells_that_exist(subm: bool) -> None:
    x = cloud(seed=4)
    y = sp.pool.SparseAvgPool(3, 3, 1 if subm else 2, 1, subm=subm)(x)
    ones = x.replace_feature(torch.ones_like(x.features)).dense()
    stride = 1 if subm else 2
    sums, counts = (27 * functional.avg_pool3d(t, 3, stride, 1) for t in (x.dense(), ones))
    torch.testing.assert_close(y.features, at(sums, y.indices) / at(counts, y.indices).round())
    assert torch.equal(y.indices, x.indices) == subm


def test_submanifold_max_pool() -> None:
    x = cloud(seed=5)
    y = sp.pool.SparseMaxPool(3, 1, 1, 0, subm=True)(x)
    assert torch.equal(y.features, x.features.clamp_min(0))


def test_global_pools() -> None:
    x = cloud(seed=6)
    items = [x.features[x.indices[:, 0] == item] for item in range(2)]
    largest = sp.SparseGlobalMaxPool()(x)
    mean = sp.SparseGlobalAvgPool()(x)
    torch.testing.assert_close(largest, torch.stack([item.amax(0) for item in items]))
    # As in spconv: the first channel alone.
    torch.testing.assert_close(mean, torch.stack([item[:, 0].mean() for item in items]))
    empty = sp.SparseConvTensor(x.features[:0], x.indices[:0], [7] * 3, 2)
    assert sp.SparseGlobalMaxPool()(empty).tolist() == [[0.0] * 3] * 2


def test_pool_and_inverse() -> None:
    x = cloud()
    pooled = sp.SparseMaxPool3d(2, 2, indice_key="pool")(x)
    y = randomise(sp.SparseInverseConv3d(3, 4, 2, "pool"))(pooled)
    assert torch.equal(y.indices, x.indices)
    with pytest.raises(ValueError, match="'pool' already exists"):
        sp.SparseMaxPool3d(2, 2, indice_key="pool")(pooled)


# The rules of indice_key.


def test_indice_key_is_reused_through_the_dict() -> None:
    x = cloud()
    first, second = (randomise(sp.SubMConv3d(3, 3, 3, indice_key="a"), n) for n in (1, 2))
    y = first(x)
    assert x.indice_dict == {} and list(y.indice_dict) == ["a"]
    z = second(y)
    assert z.find_indice_pair("a") is y.find_indice_pair("a")
    assert z.find_indice_pair(None) is None and z.find_indice_pair("b") is None
    expected = functional.conv3d(y.dense(), kernel_of(second), padding=1)
    torch.testing.assert_close(z.features, at(expected, z.indices) + second.bias)


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (lambda: sp.SubMConv3d(3, 3, 5, indice_key="a"), r"kernel size: expected \[3, 3, 3\], got"),
        (lambda: sp.SubMConv3d(3, 3, 3, dilation=2, indice_key="a"), "dilation: expected"),
    ],
)
def test_mismatched_submanifold_key(layer: object, text: str) -> None:
    y = sp.SubMConv3d(3, 3, 3, indice_key="a").double()(cloud())
    with pytest.raises(ValueError, match=text):
        layer().double()(y)


def test_mismatched_cells_under_a_key() -> None:
    y = sp.SubMConv3d(3, 3, 3, indice_key="a").double()(cloud())
    fewer = y.replace_feature(y.features[1:])
    fewer.indices = y.indices[1:]
    layer = sp.SubMConv3d(3, 3, 3, indice_key="a").double()
    with pytest.raises(ValueError, match="number of indices"):
        layer(fewer)
    y.spatial_shape = [9, 9, 9]
    with pytest.raises(ValueError, match="spatial shape"):
        layer(y)


def test_strided_key_must_be_new() -> None:
    x = sp.SparseConv3d(3, 3, 3, 1, 1, indice_key="a").double()(cloud())
    for error in (AssertionError, ValueError):
        with pytest.raises(error, match="indice_key: 'a' already exists"):
            sp.SparseConv3d(3, 3, 3, 1, 1, indice_key="a").double()(x)
    with pytest.raises(AssertionError, match="not submanifold"):
        sp.SubMConv3d(3, 3, 3, indice_key="a").double()(x)


def test_inverse_needs_its_key() -> None:
    x = sp.SubMConv3d(3, 3, 3, indice_key="same").double()(cloud())
    with pytest.raises(AssertionError, match=r"no layer before this one has the key 'down'"):
        sp.SparseInverseConv3d(3, 3, 3, "down").double()(x)
    with pytest.raises(AssertionError, match="a submanifold layer"):
        sp.SparseInverseConv3d(3, 3, 3, "same").double()(x)
    y = sp.SparseConv3d(3, 3, 3, 2, 1, indice_key="down").double()(x)
    with pytest.raises(ValueError, match="kernel size"):
        sp.SparseInverseConv3d(3, 3, 2, "down").double()(y)
    z = sp.SparseConv3d(3, 3, 3, 2, 1).double()(y)
    with pytest.raises(ValueError, match="spatial shape"):
        sp.SparseInverseConv3d(3, 3, 3, "down").double()(z)


def test_indices_edited_in_place_never_spoil_a_map() -> None:
    x = cloud()
    original = x.indices.clone()
    down = randomise(sp.SparseConv3d(3, 4, 3, 2, 1, indice_key="down"))
    same = randomise(sp.SubMConv3d(4, 4, 3, indice_key="same"))
    back = randomise(sp.SparseInverseConv3d(4, 3, 3, "down"))
    y = same(down(x))
    expected = back(same(y))
    # VoxelNeXt does this to outputs; here to inputs as well.
    x.indices[:, 1:] *= 2
    again = back(y)
    assert torch.equal(again.indices, original)
    coarse = y.indices.clone()
    y.indices[:, 1:] += 1
    moved = same(y)
    dense = functional.conv3d(
        functional.pad(_dense_at(y, coarse), (1, 1, 1, 1, 1, 1)), kernel_of(same)
    )
    torch.testing.assert_close(moved.features, at(dense, coarse) + same.bias)
    y.indices[:, 1:] -= 1
    torch.testing.assert_close(back(same(y)).features, expected.features)


def _dense_at(x: sp.SparseConvTensor, indices: Tensor) -> Tensor:
    return sp.SparseConvTensor(x.features, indices, x.spatial_shape, x.batch_size).dense()


def test_edit_that_tears_neighbours_apart() -> None:
    indices = torch.tensor([[0, 1, 1, 1], [0, 1, 1, 2]], dtype=torch.int32)
    x = sp.SparseConvTensor(torch.ones(2, 1, dtype=torch.float64), indices, [9] * 3, 1)
    layer = randomise(sp.SubMConv3d(1, 1, 3, bias=False, indice_key="a"))
    y = layer(x).replace_feature(x.features)
    y.indices[:, 1:] *= 3
    centre = layer.weight[0, 1, 1, 1, 0]
    torch.testing.assert_close(layer(y).features, centre.expand(2, 1))


# The tensor.


def test_features_cannot_be_set_and_underscore_can() -> None:
    x = cloud()
    with pytest.raises(ValueError, match="replace_feature"):
        x.features = x.features
    x._features = torch.zeros(len(x.indices), 2, 5)
    assert x.features.shape[1:] == (2, 5)
    assert x.replace_feature(x._features).features.dim() == 3


def test_tensor_methods() -> None:
    x = cloud()
    x.indice_dict["k"] = object()
    assert repr(x) == f"SparseConvTensor[shape={x.features.shape}]"
    assert x.spatial_size == 343 and isinstance(x.spatial_shape, list)
    copy = x.shadow_copy()
    assert copy is not x and copy.indice_dict is x.indice_dict and copy.features is x.features
    assert torch.equal(x.minus().features, -x.features)
    some = x.select_by_index(x.features[:, 0] > 0)
    assert some.indice_dict == {} and x.indice_dict and (some.features[:, 0] > 0).all()
    assert len(some.indices) == len(some.features) < len(x.features)
    for total in (x + x, x + x.features, x.__radd__(x.features)):
        assert torch.equal(total.features, 2 * x.features)
    assert sp.RemoveGrid()(x).grid is None
    assert torch.equal(sp.ToDense()(x), x.dense())


@pytest.mark.parametrize(
    "shape", [np.array([4, 5, 6]), torch.tensor([4, 5, 6]), [torch.tensor(n) for n in (4, 5, 6)]]
)
def test_spatial_shape_of_many_kinds(shape: object) -> None:
    x = sp.SparseConvTensor(torch.ones(1, 1), torch.zeros(1, 4).int(), shape, 1)
    assert x.spatial_shape == [4, 5, 6] and all(type(n) is int for n in x.spatial_shape)


def test_dense_and_back() -> None:
    x = cloud(seed=8)
    dense = x.dense(channels_first=False)
    assert dense.shape == (2, 7, 7, 7, 3)
    assert torch.equal(dense.movedim(-1, 1), x.dense())
    back = sp.SparseConvTensor.from_dense(dense)
    order = torch.tensor(sorted(range(len(x.indices)), key=lambda row: x.indices[row].tolist()))
    assert torch.equal(back.indices, x.indices[order])
    assert torch.equal(back.features, x.features[order]) and back.batch_size == 2
    outside = torch.tensor([[0, 7, 0, 0], [-1, 0, 0, 0], [2, 0, 0, 0]], dtype=torch.int32)
    alone = sp.SparseConvTensor(torch.ones(3, 1), outside, [7] * 3, 2)
    assert not alone.dense().any()


def test_errors_of_the_tensor() -> None:
    features, indices = torch.ones(2, 3), torch.zeros(2, 4).int()
    with pytest.raises(TypeError, match=r"indices: expected int32, got torch\.int64"):
        sp.SparseConvTensor(features, indices.long(), [4] * 3, 1)
    with pytest.raises(ValueError, match="spatial_shape: expected 3 numbers"):
        sp.SparseConvTensor(features, indices, [4] * 2, 1)
    with pytest.raises(ValueError, match="batch_size: expected at least 1"):
        sp.SparseConvTensor(features, indices, [4] * 3, 0)
    with pytest.raises(ValueError, match=r"expected shapes \[N, C\]"):
        sp.SparseConvTensor(features[0], indices, [4] * 3, 1)
    x = sp.SparseConvTensor(features, indices, [4] * 3, 1)
    with pytest.raises(ValueError, match="input: expected 5 channels, got 3"):
        sp.SubMConv3d(5, 2, 3)(x)
    with pytest.raises(ValueError, match="groups: expected 1"):
        sp.SubMConv3d(4, 4, 3, groups=2)
    with pytest.raises(ValueError, match="need odd sizes"):
        sp.SubMConv3d(3, 2, 2)(x)
    with pytest.raises(ValueError, match="padding: expected 0"):
        sp.SparseConv3d(3, 2, 1, padding=1)
    with pytest.raises(ValueError, match="nothing is left"):
        sp.SparseConv3d(3, 2, 5)(x)


# Rows that users feed all the same.


def test_duplicates() -> None:
    """Centres are each row's own, neighbours the first row; strided layers add rows up."""
    indices = torch.tensor([[0, 1], [0, 2], [0, 1], [0, 4]], dtype=torch.int32)
    f = torch.tensor([[1.0], [10.0], [100.0], [1000.0]], dtype=torch.float64)
    x = sp.SparseConvTensor(f, indices, [6], 1)
    layer = sp.SubMConv1d(1, 1, 3, bias=False).double()
    layer.weight.data = torch.tensor([2.0, 3.0, 5.0], dtype=torch.float64).view(1, 3, 1)
    got = layer(x).features[:, 0]
    assert got.tolist() == [3 + 50, 2 + 30, 300 + 50, 3000]
    down = randomise(sp.SparseConv1d(1, 2, 3, 2, 1, indice_key="d"))
    sums = f.new_tensor([[101.0], [10.0], [1000.0]])
    summed = sp.SparseConvTensor(sums, indices[[0, 1, 3]], [6], 1)
    torch.testing.assert_close(down(x).dense(), down(summed).dense())
    back = randomise(sp.SparseInverseConv1d(2, 1, 3, "d"))
    up, once = back(down(x)), back(down(summed))
    assert torch.equal(up.indices, indices)
    torch.testing.assert_close(up.features[[0, 1, 3]], once.features)
    torch.testing.assert_close(up.features[2], once.features[0])
    assert sp.SparseMaxPool1d(2)(x).features[:, 0].tolist() == [100.0, 10.0, 1000.0]
    mean = sp.SparseAvgPool1d(2)(x)
    assert mean.features[:, 0].tolist() == [50.5, 10.0, 1000.0]
    assert torch.autograd.gradcheck(
        lambda t: layer(x.replace_feature(t)).features, f.requires_grad_(), fast_mode=True
    )


def test_many_duplicates() -> None:
    numbers = generator(9)
    indices = torch.randint(0, 4, (500, 4), generator=numbers).int()
    x = sp.SparseConvTensor(torch.randn(500, 3, generator=numbers), indices, [4] * 3, 4)
    y = sp.SparseConv3d(3, 4, 3, 2, 1)(sp.SubMConv3d(3, 3, 3)(x))
    assert len(y.indices) <= 4 * 8 and y.features.isfinite().all()


def test_rows_outside() -> None:
    inside = torch.tensor([[0, 1, 1, 1], [0, 1, 1, 2]], dtype=torch.int32)
    outside = torch.tensor([[-1, -1, -1, -1], [-1, -1, -1, -1], [5, 1, 1, 1]], dtype=torch.int32)
    f = torch.randn(5, 2, generator=generator(), dtype=torch.float64)
    few = sp.SparseConvTensor(f[:2], inside, [6] * 3, 1)
    all_rows = sp.SparseConvTensor(f, torch.cat([inside, outside]), [6] * 3, 1)
    same, down = randomise(sp.SubMConv3d(2, 3, 3)), randomise(sp.SparseConv3d(2, 3, 3, 2, 1))
    torch.testing.assert_close(same(all_rows).features[:2], same(few).features)
    alone = f[2:] @ same.weight[:, 1, 1, 1].t() + same.bias
    torch.testing.assert_close(same(all_rows).features[2:], alone)
    assert torch.equal(down(all_rows).indices, down(few).indices)
    torch.testing.assert_close(down(all_rows).features, down(few).features)


def test_a_row_outside_the_shape_counts_where_the_kernel_reaches() -> None:
    indices = torch.tensor([[0, -1]], dtype=torch.int32)
    x = sp.SparseConvTensor(torch.ones(1, 1, dtype=torch.float64), indices, [4], 1)
    layer = randomise(sp.SparseConv1d(1, 1, 3, 1, 1, bias=False))
    y = layer(x)
    assert y.indices.tolist() == [[0, 0]]
    torch.testing.assert_close(y.features[0, 0], layer.weight[0, 0, 0])


@pytest.mark.parametrize("kind", ["SubMConv3d", "SparseConv3d", "SparseConvTranspose3d"])
def test_no_rows(kind: str) -> None:
    x = sp.SparseConvTensor(torch.zeros(0, 3), torch.zeros(0, 4).int(), [8] * 3, 2)
    net = sp.SparseSequential(getattr(sp, kind)(3, 4, 3, 2, 1), nn.BatchNorm1d(4), nn.ReLU())
    y = net(x)
    assert y.features.shape == (0, 4)
    y.features.sum().backward()
    assert sp.SparseMaxPool3d(2)(y).features.shape == (0, 4)
    assert y.dense().shape[:2] == (2, 4)


def test_indices_that_are_not_contiguous() -> None:
    x = cloud()
    turned = x.indices.t().contiguous().t()
    assert not turned.is_contiguous()
    for layer in (sp.SubMConv3d(3, 4, 3), sp.SparseConv3d(3, 4, 3, 2, 1), sp.SparseMaxPool3d(2)):
        layer.double()
        y = layer(sp.SparseConvTensor(x.features, turned, x.spatial_shape, 2))
        assert torch.equal(y.features, layer(x).features)


def test_cells_past_2_to_the_31() -> None:
    far = 2**20
    indices = torch.tensor([[0, far, far, far], [0, far, far, far - 1]], dtype=torch.int32)
    x = sp.SparseConvTensor(torch.ones(2, 1, dtype=torch.float64), indices, [2 * far] * 3, 1)
    layer = randomise(sp.SubMConv3d(1, 1, 3, bias=False))
    w = layer.weight[0, 1, 1, :, 0]
    torch.testing.assert_close(layer(x).features[:, 0], torch.stack([w[0] + w[1], w[1] + w[2]]))


# Modules.


def test_sequence() -> None:
    x = cloud(dtype=torch.float32)
    conv, act = sp.SubMConv3d(3, 4, 3), nn.ReLU()
    for net in (
        sp.SparseSequential(conv, act),
        sp.SparseSequential(OrderedDict(conv=conv, act=act)),
        sp.SparseSequential(conv=conv, act=act),
    ):
        assert torch.equal(net(x).features, conv(x).features.relu())
        assert len(net) == 2 and net[0] is conv and net[-1] is act
    with pytest.raises(IndexError):
        net[2]
    with pytest.raises(ValueError, match="'conv' exists"):
        net.add(act, "conv")
    net.add(sp.ToDense())
    assert net(x).shape == (2, 4, 7, 7, 7)
    assert sp.SparseSequential(nn.Linear(3, 2))(torch.ones(1, 3)).shape == (1, 2)
    nested = sp.SparseSequential(sp.SparseSequential(conv), sp.SparseBatchNorm(4), sp.SparseReLU())
    assert (nested(x).features >= 0).all()
    sp.assign_name_for_sparse_modules(nested)
    assert conv._sparse_unique_name == "0.0"
    assert sp.modules.is_spconv_module(nested) and not sp.modules.is_spconv_module(act)
    assert sp.modules.is_sparse_conv(conv) and sp.Identity()(3) == 3


def test_tables() -> None:
    x = cloud()
    y = x.replace_feature(2 * x.features)
    assert torch.equal(sp.JoinTable()([x, y]).features, torch.cat([x.features, y.features], 1))
    assert torch.equal(sp.AddTable()([x, y]).features, 3 * x.features)
    both = sp.ConcatTable().add(sp.Identity()).add(sp.SparseReLU())(x)
    assert both[0] is x and (both[1].features >= 0).all()
    assert sp.JoinTable().input_spatial_size([4, 5]) == [4, 5]
    with pytest.raises(ValueError, match="JoinTable: input: expected tensors on the same cells"):
        sp.JoinTable()([x, x.select_by_index(torch.arange(3))])


def test_sparse_add() -> None:
    x, y = cloud(seed=1), cloud(seed=2)
    total = sp.functional.sparse_add(x, y)
    torch.testing.assert_close(total.dense(), x.dense() + y.dense())
    assert total.indice_dict == {}
    part = x.select_by_index(torch.arange(5))
    x.indice_dict["k"] = object()
    assert list(sp.tables.AddTableMisaligned()([part, x]).indice_dict) == ["k"]
    with pytest.raises(ValueError, match="sparse_add: tens: expected one spatial shape"):
        sp.functional.sparse_add(x, cloud(channels=5))


def test_remove_duplicate() -> None:
    x = cloud()
    twice = sp.SparseConvTensor(
        torch.cat([x.features, x.features + 1]), torch.cat([x.indices] * 2), x.spatial_shape, 2
    )
    once = sp.spatial.RemoveDuplicate()(twice)
    torch.testing.assert_close(once.dense(), x.dense())


def test_voxel_count_and_older_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = sp.SparseConv3d(3, 4, 3, 2, 1, record_voxel_count=True).double()
    n = len(layer(cloud()).indices)
    assert layer.get_max_num_voxels().tolist() == [n]
    plain = sp.SparseConv3d(3, 4, 3, 2, 1).state_dict()
    layer.load_state_dict(plain)
    monkeypatch.setattr(spconv.constants, "SAVED_WEIGHT_LAYOUT", "RSCK")
    old = {**plain, "weight": plain["weight"].permute(1, 2, 3, 4, 0)}
    layer.load_state_dict(old)
    assert torch.equal(layer.weight.float(), plain["weight"])


def test_benchmark_record() -> None:
    x = cloud(dtype=torch.float32)
    x.benchmark = True
    sp.SubMConv3d(3, 4, 3, name="first")(x)
    assert x.benchmark_record["first"]["num_points"] == [len(x.indices)]
    with pytest.raises(ValueError, match="name: expected one"):
        sp.SubMConv3d(3, 4, 3)(x)


def test_initialisation() -> None:
    layer = sp.SubMConv3d(16, 32, 3)
    bound = 1 / (16 * 27) ** 0.5
    assert layer.weight.shape == (32, 3, 3, 3, 16)
    for parameter in layer.parameters():
        assert 0.9 * bound < parameter.abs().max() <= bound


# Operators on pairs and tables.


@pytest.mark.parametrize("subm", [True, False])
def test_operators(subm: bool) -> None:
    x = cloud()
    layer = randomise(
        sp.SubMConv3d(3, 4, 3, bias=False) if subm else sp.SparseConv3d(3, 4, 3, 2, 1, bias=False)
    )
    sizes = ([3] * 3, [1 if subm else 2] * 3, [1] * 3, [1] * 3, [0] * 3)
    args = (x.indices, 2, x.spatial_shape, sp.ConvAlgo.Native, *sizes, subm)
    out, pairs, counts = sp.ops.get_indice_pairs(*args)
    expected, w = layer(x), layer.weight.detach()
    n_out = len(out)
    assert torch.equal(out, expected.indices)
    got = sp.functional.indice_conv(x.features, w, pairs, counts, n_out)
    torch.testing.assert_close(got, expected.features)
    table = sp.ops.get_indice_pairs_implicit_gemm(*args)
    forward, backward = table[2], table[3]
    assert torch.equal(table[1], counts)
    got = sp.functional.implicit_gemm(
        x.features, w, forward, backward, [], [], [], [], n_out, [], True, subm
    )
    torch.testing.assert_close(got, expected.features)
    gradient = torch.randn(n_out, 4, generator=generator(), dtype=torch.float64)
    features = x.features.clone().requires_grad_()
    layer(x.replace_feature(features)).features.backward(gradient)
    for found in (
        sp.ops.indice_conv_backward(x.features, w, gradient, pairs, counts),
        sp.ops.implicit_gemm_backward(x.features, w, gradient, forward, backward),
    ):
        torch.testing.assert_close(found[0], features.grad)
        torch.testing.assert_close(found[1], layer.weight.grad)
    largest = sp.functional.indice_maxpool(x.features, pairs, counts, n_out)
    same = sp.functional.indice_maxpool_implicit_gemm(x.features, forward, backward, n_out)
    assert torch.equal(largest, same) and (largest >= 0).all()
    mean, found = sp.ops.indice_avgpool_implicit_gemm(x.features, forward, n_out, True)
    inputs = x.features.clone().requires_grad_()
    pooled = sp.functional.indice_avgpool_implicit_gemm(inputs, forward, backward, n_out, True)
    pooled.backward(mean)
    share = sp.ops.indice_avgpool_implicit_gemm_backward(mean, backward, found)
    torch.testing.assert_close(share, inputs.grad)


def test_rows_of_each_item() -> None:
    coords = torch.tensor([[1, 0], [0, 0], [1, 1]], dtype=torch.int32)
    rows, counts = sp.ops.global_pool_rearrange(coords, 2)
    assert counts.tolist() == [1, 2] and rows[0, 0] == 1 and rows[1, :2].tolist() == [0, 2]


# Voxelisers and the hash table.


def first_come(points: np.ndarray, most_voxels: int, most_points: int) -> tuple:
    """What spconv's loop does, a point at a time; size 0.5, 0.25, 1 from 0 to 4."""
    cells = np.floor(points[:, 2::-1] / np.float32([1, 0.25, 0.5])).astype(int)
    voxels, order, voxel_of = {}, [], []
    for row, cell in enumerate(map(tuple, cells)):
        inside = all(0 <= c < n for c, n in zip(cell, (4, 16, 8)))
        if inside and cell not in voxels and len(order) < most_voxels:
            voxels[cell] = []
            order.append(cell)
        found = order.index(cell) if inside and cell in voxels else -1
        voxel_of.append(found)
        if found >= 0 and len(voxels[cell]) < most_points:
            voxels[cell].append(row)
    return order, [voxels[cell] for cell in order], voxel_of


@pytest.mark.parametrize(("most_voxels", "most_points"), [(2000, 5), (40, 2)])
def test_voxelisers(most_voxels: int, most_points: int) -> None:
    points = (torch.rand(600, 4, generator=generator()) * 5 - 0.5).numpy()
    order, rows, voxel_of = first_come(points, most_voxels, most_points)
    args = ([0.5, 0.25, 1.0], [0, 0, 0, 4, 4, 4], 4, most_voxels, most_points)
    numpy_one, torch_one = Point2VoxelCPU3d(*args), sp.utils.PointToVoxel(*args)
    assert numpy_one.grid_size == torch_one.grid_size == [4, 16, 8]
    voxels, indices, counts = (a.numpy() for a in numpy_one.point_to_voxel(tv.from_numpy(points)))
    assert indices.tolist() == [list(cell) for cell in order]
    assert counts.tolist() == [len(found) for found in rows]
    for voxel, found in zip(voxels, rows):
        assert (voxel[: len(found)] == points[found]).all() and not voxel[len(found) :].any()
    again = torch_one.generate_voxel_with_id(torch.from_numpy(points))
    assert (again[0].numpy() == voxels).all() and again[3].tolist() == voxel_of
    filled = torch_one(torch.from_numpy(points), empty_mean=True)[0]
    for voxel, found in zip(filled.numpy(), rows):
        mean = np.broadcast_to(points[found].mean(0), voxel[len(found) :].shape)
        np.testing.assert_allclose(voxel[len(found) :], mean, rtol=1e-5, atol=1e-6)
    named = Point2VoxelCPU3d(
        vsize_xyz=args[0],
        coors_range_xyz=args[1],
        num_point_features=4,
        max_num_points_per_voxel=most_points,
        max_num_voxels=most_voxels,
    )
    assert named.point_to_voxel(tv.from_numpy(points))[0].shape == list(voxels.shape)


def test_voxelisers_of_nothing_and_of_bad_points() -> None:
    generator3 = sp.utils.PointToVoxel([1, 1, 1], [0, 0, 0, 4, 4, 4], 3, 10, 2)
    assert [t.shape[0] for t in generator3(torch.zeros(0, 3))] == [0, 0, 0]
    far = torch.tensor([[float("nan"), 0, 0], [float("inf"), 0, 0], [1e30, 0, 0]])
    assert generator3.generate_voxel_with_id(far)[3].tolist() == [-1, -1, -1]
    with pytest.raises(ValueError, match=r"PointToVoxel: points: expected shape \[N, 3\]"):
        generator3(torch.zeros(5, 4))
    with pytest.raises(TypeError, match="expected float32 or float64"):
        generator3(torch.zeros(5, 3).int())


def test_labels_back_on_points() -> None:
    features, ids = torch.tensor([[1.0], [2.0]]), torch.tensor([1, -1, 0])
    back = sp.utils.gather_features_by_pc_voxel_id(features, ids, invalid_value=7)
    assert back[:, 0].tolist() == [2.0, 7.0, 1.0]
    assert sp.utils.gather_features_by_pc_voxel_id(features[:0], ids.clamp_max(-1)).any() == 0


@pytest.mark.parametrize("key", [torch.int32, torch.int64])
def test_hash_table(key: torch.dtype) -> None:
    table = sp.hash.HashTable(torch.device("cpu"), key, torch.int64)
    assert table.query(torch.tensor([1], dtype=key))[1].tolist() == [True]
    table.insert(torch.tensor([5, 3, 7, 5], dtype=key), torch.tensor([1, 2, 3, 4]))
    values, missing = table.query(torch.tensor([3, 5, 9], dtype=key))
    assert values.tolist() == [2, 4, 0] and missing.tolist() == [False, False, True]
    assert table.insert_exist_keys(
        torch.tensor([3, 9], dtype=key), torch.tensor([8, 8])
    ).tolist() == [0, 1]
    table.insert(torch.tensor([9, 3], dtype=key))
    keys, values, count = table.items()
    assert keys.tolist() == [3, 5, 7, 9] and values.tolist() == [8, 4, 3, 0] and count.item() == 4
    assert table.assign_arange_().item() == 4
    assert table.items()[1].tolist() == [0, 1, 2, 3]
    small = sp.hash.HashTable(torch.device("cpu"), key, torch.int64, max_size=1)
    with pytest.raises(ValueError, match="the table holds 1, got 2"):
        small.insert(torch.tensor([1, 2], dtype=key))


def test_tensorview() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    view = tv.from_numpy(array)
    array[0, 0] = 9
    assert view.numpy()[0, 0] == 9 and view.shape == [2, 3] and view.ndim == 2 and view.size == 6
    assert view.slice_first_axis(0, 1).shape == [1, 3] and view[1].numpy().tolist() == [3, 4, 5]
    assert tv.zeros([2], tv.int32).dtype == tv.int32 and tv.Tensor().empty()
    assert [a.name for a in tv.gemm.Activation] == ["None_", "ReLU", "Sigmoid", "LeakyReLU"]


def test_native_layers_have_none_of_this() -> None:
    """True maxima, and one tap read as its shape says."""
    coords = torch.tensor([[0, 0, 0, 0]], dtype=torch.int32)
    x = fieldline.SparseTensor(coords, torch.tensor([[-1.0]]))
    assert fieldline.nn.MaxPool(2, 2)(x).feats.item() == -1.0
