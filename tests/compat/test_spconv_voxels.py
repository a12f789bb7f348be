# SPDX-License-Identifier: Apache-2.0
"""spconv's voxelisers and hash table, and the shim of cumm.tensorview."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from spconv_twin import generator

from fieldline.compat.cumm import tensorview as tv
from fieldline.compat.spconv import pytorch as sp
from fieldline.compat.spconv.utils import Point2VoxelCPU3d


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
