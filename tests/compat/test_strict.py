# SPDX-License-Identifier: Apache-2.0
"""Hostile input to the drop-ins: an error that names it, and what their users rely on stays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import fieldline.compat.cumm.tensorview as tv
import fieldline.compat.spconv.pytorch as spconv
import fieldline.compat.torchsparse as ts
import fieldline.compat.torchsparse.nn as spnn
import fieldline.compat.torchsparse20 as ts20
import fieldline.compat.torchsparse20.nn as spnn20
from fieldline.compat.spconv.pytorch.hash import HashTable
from fieldline.compat.spconv.pytorch.utils import PointToVoxel, gather_features_by_pc_voxel_id
from fieldline.compat.spconv.utils import Point2VoxelCPU3d
from fieldline.compat.torchsparse.nn import functional as F
from fieldline.compat.torchsparse.utils import to_dense
from fieldline.compat.torchsparse.utils.collate import sparse_collate, sparse_collate_fn
from fieldline.compat.torchsparse.utils.quantize import sparse_quantize

CELLS = torch.tensor([[0, 1, 2, 3], [0, 1, 2, 4], [1, 0, 0, 0], [1, 4, 4, 4]], dtype=torch.int32)
FEATS = torch.ones(4, 4)
POINTS = torch.rand(2, 3)
ONE = torch.ones(1, dtype=torch.int64)
HUGE = 10**9
T, V = TypeError, ValueError
Case = tuple[Callable[[], Any], type[Exception], str]


def sp(features: Any = FEATS, indices: Any = CELLS, shape: Any = (5, 5, 5), batch: Any = 2) -> Any:
    return spconv.SparseConvTensor(features, indices, shape, batch)


def t(feats: Any = FEATS, coords: Any = CELLS, **settings: Any) -> Any:
    return ts.SparseTensor(feats, coords, **settings)


def voxeliser(**changes: Any) -> Any:
    settings = {
        "vsize_xyz": [1, 1, 1],
        "coors_range_xyz": [0, 0, 0, 4, 4, 4],
        "num_point_features": 3,
        "max_num_voxels": 10,
        "max_num_points_per_voxel": 5,
    }
    return PointToVoxel(**(settings | changes))


def table() -> HashTable:
    return HashTable(torch.device("cpu"), torch.int64, torch.int64)


SPCONV: list[Case] = [
    (lambda: sp([1.0]), T, "SparseConvTensor: features: expected a tensor, got list"),
    (lambda: sp(FEATS * 1j), T, "features: expected real numbers, got torch.complex64"),
    (lambda: sp(indices=CELLS.tolist()), T, "indices: expected a tensor, got list"),
    (lambda: sp(indices=CELLS.long()), T, "indices: expected int32, got torch.int64"),
    (lambda: sp(shape=5), T, "spatial_shape: expected 3 numbers, got 5"),
    (lambda: sp(shape=None), T, "spatial_shape: expected 3 numbers, got None"),
    (lambda: sp(shape=[5, 5]), V, "spatial_shape: expected 3 numbers"),
    (lambda: sp(shape=[-1, 5, 5]), V, "of at least 0 for indices"),
    (lambda: sp(batch=float("nan")), T, "batch_size: expected a whole number, got nan"),
    (lambda: sp(batch=0), V, "batch_size: expected at least 1, got 0"),
    (lambda: sp(FEATS[:3]).dense(), V, "dense: features: expected 4 rows as indices, got 3"),
    (lambda: sp(shape=[2**20] * 3).dense(), V, r"dense: expected at most 2\^40 entries"),
    (lambda: sp().replace_feature(1.0), T, "replace_feature: feature: expected a Tensor"),
    (lambda: sp().select_by_index(None), V, "valid_indices: expected row numbers or a mask"),
    (lambda: sp().select_by_index(0), V, "valid_indices: expected row numbers or a mask"),
    (lambda: spconv.SubMConv3d(4, 4, 3)(FEATS), T, "SubMConv3d: input: expected a SparseConv"),
    (lambda: spconv.SubMConv3d(4, 4, 1)(t()), T, "got SparseTensor"),
    (lambda: spconv.SparseMaxPool3d(2)(FEATS), T, "SparseMaxPool3d: input: expected a SparseConv"),
    (lambda: spconv.SparseGlobalMaxPool()(FEATS), T, "SparseGlobalMaxPool: input: expected"),
    (lambda: spconv.SubMConv3d(4, 4, 3)(sp(FEATS[:3])), V, "input: expected features of 4 rows"),
    (lambda: spconv.SparseConvTensor.from_dense(None), T, "from_dense: x: expected a tensor"),
    (lambda: spconv.JoinTable()(None), V, "JoinTable: input: expected a list of sparse tensors"),
    (lambda: spconv.AddTable()([sp(), FEATS]), T, r"input\[1\]: expected a SparseConvTensor"),
    (lambda: spconv.functional.sparse_add(sp(), FEATS), T, r"sparse_add: tens\[1\]: expected a"),
    (lambda: spconv.SubMConv3d(5, 4, 3)(sp()), V, "input: expected 5 channels, got 4"),
    (lambda: spconv.SubMConv3d("a", 4, 3), T, "in_channels: expected a whole number, got 'a'"),
    (lambda: spconv.SparseConv3d(4, 0, 3), V, "out_channels: expected at least 1"),
    (lambda: spconv.SparseConv3d(4, 4, "a"), T, "val: expected a whole number or 3 of them"),
    (lambda: spconv.SparseConv3d(4, 4, 0), V, "SparseConv3d: kernel_size: expected at least 1"),
    (lambda: spconv.SparseConv3d(4, 4, 3, 0), V, "SparseConv3d: stride: expected at least 1"),
    (lambda: spconv.SparseConv3d(4, 4, 3, padding=-1), V, "padding: expected at least 0"),
    (lambda: spconv.SparseConv3d(4, 4, 3, dilation=2**40), V, r"dilation: expected at most 2\^31"),
    (lambda: spconv.SparseMaxPool3d(0), V, "SparseMaxPool3d: kernel_size: expected at least 1"),
    (lambda: voxeliser(vsize_xyz=[0, 1, 1]), V, "expected sizes above 0"),
    (lambda: voxeliser(vsize_xyz=[float("nan"), 1, 1]), V, "vsize_xyz: expected finite lengths"),
    (lambda: voxeliser(vsize_xyz="abc"), T, "vsize_xyz: expected lengths, got 'abc'"),
    (lambda: voxeliser(coors_range_xyz=1.0), T, "coors_range_xyz: expected lengths, got 1.0"),
    (lambda: voxeliser(coors_range_xyz=[float("inf")] * 6), V, "expected finite lengths"),
    (lambda: voxeliser(num_point_features="a"), T, "num_point_features: expected a whole number"),
    (lambda: voxeliser(num_point_features=2), V, "num_point_features: expected at least 3"),
    (lambda: voxeliser(max_num_voxels=-1)(POINTS), V, "max_num_voxels: expected"),
    (lambda: voxeliser(max_num_points_per_voxel=0.5)(POINTS), T, "max_num_points_per_voxel"),
    (lambda: voxeliser()([[0.0] * 3]), T, "pc: expected a tensor, got list"),
    (lambda: voxeliser()(torch.rand(2, 2)), V, r"points: expected shape \[N, 3\]"),
    (lambda: voxeliser()(torch.ones(2, 3).long()), T, "points: expected float32 or float64"),
    (lambda: tv.from_numpy([1.0]), T, "from_numpy: array: expected a numpy array"),
    (lambda: tv.from_numpy(np.array([None])), T, "expected a numpy array of numbers, got object"),
    (lambda: gather_features_by_pc_voxel_id(FEATS, torch.ones(2)), T, "pc_voxel_id: expected"),
    (lambda: table().insert([1]), T, "HashTable.insert: keys: expected a tensor"),
    (lambda: table().insert(ONE.repeat(2), ONE), V, "values: expected 2, one for each key, got 1"),
]  # fmt: skip

TORCHSPARSE: list[Case] = [
    (lambda: t(stride="a"), T, "SparseTensor: stride: expected whole numbers"),
    (lambda: t(stride=0), V, "SparseTensor: stride: expected at least 1"),
    (lambda: t(spatial_range=(2, 5, 5)), V, "expected 4 numbers"),
    (lambda: t(spatial_range=(2, 5, 5, 0.5)), T, "spatial_range: expected whole numbers"),
    (lambda: t() + 1, T, "other: expected a SparseTensor, got int"),
    (lambda: t(spatial_range=(2**20,) * 4).dense(), V, r"to_dense: expected at most 2\^40 entries"),
    (lambda: t(FEATS[:3], spatial_range=(2, 5, 5, 5)).dense(), V, r"feats: .* \[4, C\]"),
    (lambda: to_dense(FEATS, CELLS, (2, 5, 5)), V, "spatial_range: expected 4 numbers, got 3"),
    (lambda: to_dense(FEATS, CELLS, (2, 5, 5, -1)), V, "spatial_range: expected at least 0"),
    (lambda: spnn.Conv3d(4, 5, 3)(FEATS), T, "conv3d: input: expected a SparseTensor, got Tensor"),
    (lambda: spnn.Conv3d(4, 5, 3)(t(FEATS.tolist())), T, "conv3d: input.feats: expected a tensor"),
    (lambda: spnn.Conv3d(5, 5, 3)(t()), V, "conv3d: input: expected channels for a weight"),
    (lambda: spnn.Conv3d(5, 5, 1)(t()), V, "conv3d: input: expected channels for a weight"),
    (lambda: spnn.Conv3d(4, 5, 3)(t(coords=CELLS.long())), T, "coords: expected int32, got int64"),
    (lambda: spnn.Conv3d(4, 5, 3)(t(coords=CELLS[:, :3])), V, r"coords: expected shape \[N, 4\]"),
    (lambda: spnn.Conv3d(4, 5, 3)(t(FEATS[:3])), V, r"input.feats: expected shape \[4, C\]"),
    (lambda: F.conv3d(t(), torch.ones(8, 4, 5), 2, stride=0), V, "conv3d: stride: expected"),
    (lambda: F.conv3d(t(), torch.ones(8, 4, 5), "a"), T, "conv3d: kernel_size: expected whole"),
    (lambda: F.spdownsample([0]), T, "spdownsample: _coords: expected a tensor"),
    (lambda: F.spdownsample(CELLS, 0), V, "stride: expected at least 1"),
    (lambda: spnn.Conv3d("a", 5), T, "Conv3d: in_channels: expected a whole number, got 'a'"),
    (lambda: spnn.Conv3d(4, 5, 0), V, "Conv3d: kernel_size: expected at least 1"),
    (lambda: spnn.Conv3d(4, 5, 2, stride="a"), T, "Conv3d: stride: expected whole numbers"),
    (lambda: spnn.Conv3d(4, 5, 2, 2, padding=-1), V, "Conv3d: padding: expected at least 0"),
    (lambda: spnn.Conv3d(4, 5, dilation=0), V, "Conv3d: dilation: expected at least 1"),
    (lambda: spnn20.Conv3d(4, 5, 3)(FEATS), T, "conv3d: input: expected a SparseTensor"),
    (lambda: spnn20.Conv3d(4, 5, stride=0.5), T, "Conv3d: stride: expected whole numbers"),
    (lambda: spnn20.Conv3d(4, 5)(ts20.SparseTensor(FEATS, CELLS.float())), T, "expected int32"),
    (lambda: spnn.ReLU()(FEATS), T, "fapply: input: expected a SparseTensor"),
    (lambda: spnn.GroupNorm(2, 4)(FEATS), T, "GroupNorm: input: expected a SparseTensor"),
    (lambda: spnn.GroupNorm(2, 6)(t()), V, "GroupNorm: input: expected 6 channels, got 4"),
    (lambda: spnn.GlobalAvgPool()(FEATS), T, "global_mean_pool: input: expected a SparseTensor"),
    (lambda: spnn.GlobalMaxPool()(t(FEATS[:3])), V, r"input.feats: expected shape \[4, C\]"),
    (lambda: spnn.SparseCrop((0, 0, 0))(FEATS), T, "spcrop: input: expected a SparseTensor"),
    (lambda: spnn.SparseCrop((0, 0))(t()), V, "expected 3 numbers"),
    (lambda: spnn.SparseCrop((0, 0, 0.5))(t()), T, "spcrop: coords_min: expected whole numbers"),
    (lambda: spnn.ToBEVReduction()(FEATS), T, "ToBEVReduction: input: expected a SparseTensor"),
    (lambda: spnn.ToBEVConvolution(4, 5, 3)(FEATS), T, "input: expected a SparseTensor"),
    (lambda: ts.cat([]), V, "cat: inputs: expected a list of sparse tensors"),
    (lambda: ts.cat([t(), FEATS]), T, r"cat: inputs\[1\]: expected a SparseTensor"),
    (lambda: ts.cat([t(), t(FEATS[:3], CELLS[:3])]), V, r"inputs\[1\]: expected 4 rows"),
    (lambda: ts.generative_add(t(), FEATS), T, "generative_add: b: expected a SparseTensor"),
    (lambda: ts.generative_add(t(), t(FEATS[:, :2])), V, r"b: expected features \[4\]"),
    (lambda: sparse_quantize(np.full((2, 3), np.nan), 0.1), V, "coords: expected finite points"),
    (lambda: sparse_quantize(np.full((2, 3), 1e12), 0.1), V, r"within 2\^31 voxels"),
    (lambda: sparse_quantize(np.ones((2, 4))), V, r"coords: expected numbers of shape \[N, 3\]"),
    (lambda: sparse_quantize([["a"] * 3]), V, "coords: expected numbers"),
    (lambda: sparse_quantize(np.ones((2, 3)), 0), V, "voxel_size: expected a positive length"),
    (lambda: sparse_quantize(np.ones((2, 3)), -1.0), V, "voxel_size: expected a positive length"),
    (lambda: sparse_quantize(np.ones((2, 3)), "a"), T, "voxel_size: expected a length"),
    (lambda: sparse_quantize(np.ones((2, 3)), (1, 2)), V, "voxel_size: expected 3 numbers"),
    (lambda: sparse_collate([]), V, "sparse_collate: inputs: expected a list of sparse tensors"),
    (lambda: sparse_collate([FEATS]), T, r"inputs\[0\]: expected a SparseTensor"),
    (lambda: sparse_collate_fn([{"a": 1}, {"b": 1}]), V, r"inputs\[1\]: expected a dict"),
    (lambda: F.sphash([[0] * 4]), T, "sphash: coords: expected a tensor"),
    (lambda: F.sphashquery([1], ONE), T, "sphashquery: queries: expected a tensor"),
    (lambda: F.sphashquery(ONE, ONE[None]), V, "references: expected"),
    (lambda: F.spcount(torch.ones(2), 2), T, "spcount: coords: expected whole numbers"),
    (lambda: F.spcount(ONE[None], 2), V, r"spcount: coords: expected shape \[N\]"),
    (lambda: F.spvoxelize(FEATS, ONE.repeat(4), FEATS), V, r"counts: expected shape \[M\]"),
    (lambda: F.spcount(torch.ones(2).long(), -1), V, "spcount: num: expected at least 0"),
    (lambda: F.spvoxelize(FEATS, FEATS[0], ONE), T, "spvoxelize: coords: expected whole"),
    (lambda: F.spdevoxelize(FEATS, [0], FEATS), T, "spdevoxelize: coords: expected a tensor"),
    (lambda: F.calc_ti_weights(torch.ones(4, 2), torch.ones(4, 8)), V, "coords, idx_query: exp"),
    (lambda: F.calc_ti_weights(torch.ones(4, 3), torch.ones(3, 8)), V, "coords, idx_query: exp"),
    (lambda: ts.backend.GPUHashTable(8).insert_vals([1]), T, "insert_vals: keys: expected"),
]  # fmt: skip

CASES = [*SPCONV, *TORCHSPARSE]


@pytest.mark.parametrize("case", CASES, ids=[f"{number}" for number in range(len(CASES))])
def test_refuses(case: Case) -> None:
    call, exception, match = case
    with pytest.raises(exception, match=match):
        call()


# -- what stays allowed ----------------------------------------------------------------------------

ODD = {
    "outside the batch and the shape": [[0, 1, 2, 3], [5, 1, 2, 4], [-1, 0, 0, 0], [0, 99, -4, 4]],
    "the ends of int32": [[0, 2**31 - 1, -(2**31), 0], [0, 0, 0, 0], [1, 1, 1, 1], [1, 2, 2, 2]],
    "the same twice": [[0, 1, 2, 3], [0, 1, 2, 3], [1, 0, 0, 0], [1, 0, 0, 0]],
}


@pytest.mark.parametrize("coords", ODD.values(), ids=ODD)
@pytest.mark.parametrize(
    "layer",
    [
        spconv.SubMConv3d(4, 5, 3),
        spconv.SparseConv3d(4, 5, 3, 2, 1),
        spconv.SparseConvTranspose3d(4, 5, 3, 2, 1),
        spconv.SparseMaxPool3d(2, 2),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_spconv_takes_odd_coordinates(layer: Any, coords: list[list[int]]) -> None:
    indices = torch.tensor(coords, dtype=torch.int32)
    for cells in (indices, indices.t().contiguous().t()):
        y = layer(sp(indices=cells))
        assert bool(y.features.isfinite().all())
        assert y.dense().shape[0] == 2


@pytest.mark.parametrize("coords", ODD.values(), ids=ODD)
@pytest.mark.parametrize("build", [(3, 1), (2, 1), (2, 2), (3, 2, 1)], ids=str)
def test_torchsparse_takes_odd_coordinates(build: tuple[int, ...], coords: list[list[int]]) -> None:
    cells = torch.tensor(coords, dtype=torch.int32)
    y = spnn.Conv3d(4, 5, *build)(t(coords=cells))
    assert bool(y.feats.isfinite().all()) and len(y.feats) == len(y.coords)
    z = spnn20.Conv3d(4, 5, *build[:2])(ts20.SparseTensor(FEATS, cells[:, [1, 2, 3, 0]]))
    assert bool(z.feats.isfinite().all())


def test_numbers_of_many_kinds() -> None:
    """Sizes come as arrays, tensors and numpy's numbers; flags as anything with a truth value."""
    conv = spconv.SparseConv3d(
        np.int64(4), 5, np.array([3, 3, 3]), torch.tensor([2, 2, 2]), bias=None
    )
    assert conv.stride == [2, 2, 2] and conv.bias is None
    assert sp(batch=torch.tensor(2), shape=np.array([5, 5, 5])).spatial_shape == [5, 5, 5]
    tensor = t(stride=torch.tensor([1, 2, 2]), spatial_range=np.array([2, 5, 5, 5]))
    assert tensor.stride == (1, 2, 2) and tensor.spatial_range == (2, 5, 5, 5)
    assert t(stride=np.array([1, 1, 1])).stride == (1, 1, 1)
    layer = spnn.Conv3d(4, 5, np.array([3, 3, 3]), [1, 1, 2], bias=1)
    assert layer.bias is not None and layer.stride == (1, 1, 2)


def test_not_a_number_stays_where_it_is() -> None:
    """Features that are not finite spoil what they reach, and nothing else."""
    feats = FEATS.clone()
    feats[2] = float("nan")
    for y in (spconv.SubMConv3d(4, 5, 3)(sp(feats)).features, spnn.Conv3d(4, 5, 3)(t(feats)).feats):
        assert y.isnan().any(1).tolist() == [False, False, True, False]


def test_points_that_are_not_finite_lie_in_no_voxel() -> None:
    points = torch.tensor([[float("nan"), 0, 0], [1e30, 0, 0], [1.5, 1.5, 1.5]])
    _, indices, counts, voxel_of = voxeliser().generate_voxel_with_id(points)
    assert voxel_of.tolist() == [-1, -1, 0] and counts.tolist() == [1]
    assert indices.tolist() == [[1, 1, 1]]
    generator = Point2VoxelCPU3d([1, 1, 1], [0, 0, 0, 4, 4, 4], 3, 10, 5)
    assert generator.point_to_voxel(tv.from_numpy(points.numpy()))[2].numpy().tolist() == [1]


def test_numbers_of_voxels_that_do_not_exist_cost_nothing() -> None:
    assert F.spcount(torch.tensor([0, HUGE, -HUGE, 1]), 3).tolist() == [1, 1, 0]
    assert F.spcount(torch.tensor([0, 1]), torch.tensor(2)).tolist() == [1, 1]


def test_norms_of_nothing() -> None:
    none = t(torch.ones(0, 4), CELLS[:0])
    assert spnn.GroupNorm(2, 4)(none).feats.shape == (0, 4)
    assert spnn.GlobalAvgPool()(none).shape == (0, 4)
    assert sp(torch.ones(0, 4), CELLS[:0]).dense().shape == (2, 4, 5, 5, 5)
    assert sp(torch.ones(4, 0)).dense().shape == (2, 0, 5, 5, 5)
