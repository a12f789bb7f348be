# SPDX-License-Identifier: Apache-2.0
"""torchsparse's functions of points and hashes, quantisation and collation."""

from __future__ import annotations

import itertools
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torchsparse_twin import (
    BOTH,
    MakeCells,
    MakeTensor,
    generator,
    placed,
)

from fieldline.compat import torchsparse, torchsparse20
from fieldline.compat.torchsparse.nn import functional as spf
from fieldline.compat.torchsparse.utils import collate, quantize


def slow_hash(row: list[int]) -> int:
    value = 14695981039346656037
    for word in row:
        value = (value ^ (word & 0xFFFFFFFF)) * 1099511628211 % 2**64
    return (value >> 60) ^ (value & 0xFFFFFFFFFFFFFFF)


def test_hashes(device: torch.device) -> None:
    coords = torch.tensor([[1, -2, 3, 0], [2**31 - 1, 0, -(2**31), 7]], dtype=torch.int32).to(
        device
    )
    assert spf.sphash(coords).tolist() == [slow_hash(row) for row in coords.tolist()]
    offsets = torch.tensor([[0, 0, 0], [1, 2, -3]], dtype=torch.int32).to(device)
    around = spf.sphash(coords[:1], offsets)
    assert around.shape == (2, 1) and around[1, 0] == slow_hash([2, 0, 0, 0])
    with pytest.raises(TypeError, match=r"sphash: coords: expected int32, got torch\.int64"):
        spf.sphash(coords.long())
    with pytest.raises(ValueError, match=r"sphash: offsets: expected shape \[N, 3\]"):
        spf.sphash(coords, coords)
    references = torch.tensor([50, 20, 50], device=device)
    rows = spf.sphashquery(references.new_tensor([[20, 50], [7, 20]]), references)
    assert rows.tolist() == [[1, 0], [-1, 1]]
    assert spf.sphashquery(references, references[:0]).tolist() == [-1, -1, -1]


def test_hash_table(device: torch.device, cells: MakeCells) -> None:
    coords = cells(3)[:, [1, 2, 3, 0]].contiguous()
    n = len(coords)
    keys, vals = (coords.new_zeros(2 * n, dtype=dtype) for dtype in (torch.int64, torch.int32))
    torchsparse.backend.GPUHashTable(keys, vals).insert_coords(coords)
    table = torchsparse.backend.GPUHashTable(keys, vals)
    for size in ([3, 3, 3], [2, 2, 2]):
        volume = size[0] ** 3
        found = table.lookup_coords(coords, keys.new_tensor(size), vals.new_ones(3), volume)
        assert found.shape == (-(-n // 128) * 128, volume) and found.dtype == torch.int32
        assert not found[n:].any()
        offsets = torchsparse.nn.utils.get_kernel_offsets(size[0])
        rows = {tuple(row): number + 1 for number, row in enumerate(coords.tolist())}
        for row, numbers in zip(coords.tolist(), found[:n].tolist()):
            around = [tuple(a + b for a, b in zip(row[:3], o)) for o in offsets.tolist()]
            assert numbers == [rows.get((*place, row[3]), 0) for place in around]
    table.insert_vals(keys.new_tensor([2**40, 5]))
    assert table.lookup_vals(keys.new_tensor([5, 6, 2**40]))[:3].tolist() == [2, 0, 1]
    small = torchsparse.backend.GPUHashTable(keys[:1], vals[:1])
    with pytest.raises(ValueError, match="the table has 1 places"):
        small.insert_vals(keys.new_tensor([1, 2]))
    with pytest.raises(ValueError, match="kernel_volume: expected 27"):
        table.lookup_coords(coords, keys.new_tensor([3, 3, 3]), vals.new_ones(3), 8)


def test_voxelise_and_back(device: torch.device) -> None:
    numbers = generator(4)
    feats = torch.randn(50, 3, generator=numbers, dtype=torch.float64).to(device)
    voxels = torch.randint(-1, 12, (50,), generator=numbers).to(device)
    counts = spf.spcount(voxels.int(), torch.tensor(13))
    assert counts.dtype == torch.int32 and counts.sum() == (voxels >= 0).sum()
    mean = spf.spvoxelize(feats, voxels, counts)
    for voxel in range(13):
        mine = feats[voxels == voxel]
        expected = mine.mean(0) if len(mine) else feats.new_zeros(3)
        torch.testing.assert_close(mean[voxel], expected)
    leaf = feats.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda f: spf.spvoxelize(f, voxels, counts), leaf)
    rows = torch.randint(-1, 50, (20, 8), generator=numbers).to(device)
    weights = torch.rand(20, 8, generator=numbers, dtype=torch.float64).to(device)
    back = spf.spdevoxelize(feats, rows, weights)
    expected = (feats[rows] * (weights * (rows >= 0))[:, :, None]).sum(1)
    torch.testing.assert_close(back, expected)
    assert torch.autograd.gradcheck(lambda f: spf.spdevoxelize(f, rows, weights), leaf)


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_trilinear_weights(device: torch.device, scale: int) -> None:
    numbers = generator(5)
    points = torch.rand(30, 4, generator=numbers).to(device) * 20 - 10
    rows = torch.randint(-1, 3, (30, 8), generator=numbers).to(device)
    found = spf.calc_ti_weights(points, rows, scale)
    for point, row, weights in zip(points, rows, found):
        low = (point[:3] / scale).floor() * scale
        above = (point[:3] - low) / scale
        corners = points.new_tensor(list(itertools.product((0.0, 1.0), repeat=3)))
        expected = (1 - (above - corners).abs()).prod(1) * (row >= 0)
        expected = expected / (expected.sum() + 1e-8)
        torch.testing.assert_close(weights, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("library", BOTH)
def test_points_through_voxels_as_spvcnn_does(device: torch.device, library: ModuleType) -> None:
    """Hash, unique, count, mean, query of eight neighbours, weights: linear fields are exact.

    The two versions have the eight along different dimensions.
    """
    numbers = generator(6)
    places = torch.rand(200, 3, generator=numbers).to(device) * 4 + 1
    points = library.PointTensor(places.clone(), torch.cat([places, places.new_zeros(200, 1)], 1))
    grid = torch.cartesian_prod(*[torch.arange(7, device=device)] * 3).int()
    x = library.SparseTensor(grid.float(), torch.cat([grid, grid.new_zeros(len(grid), 1)], 1))
    f = library.nn.functional
    offsets = library.nn.utils.get_kernel_offsets(2, 1, 1, device)
    floors = points.C.floor().int()
    rows = f.sphashquery(f.sphash(floors, offsets), f.sphash(x.C))
    if library is torchsparse:
        rows = rows.t().contiguous()
    weights = f.calc_ti_weights(points.C, rows, scale=1)
    if library is torchsparse20:
        rows, weights = rows.t().contiguous(), weights.t().contiguous()
    torch.testing.assert_close(f.spdevoxelize(x.F, rows, weights), places, atol=1e-4, rtol=1e-4)
    unique, inverse = torch.unique(f.sphash(floors), return_inverse=True)
    counts = f.spcount(inverse.int(), len(unique))
    centres = f.spvoxelize(points.F, inverse.int(), counts)
    assert (centres[inverse].floor() == floors[:, :3]).all()


def test_downsample(tensor: MakeTensor, cells: MakeCells) -> None:
    coords = cells(7)
    down = spf.spdownsample(coords, 2, 3, 1)
    x = tensor(torchsparse, 7)
    assert torch.equal(down, torchsparse.nn.Conv3d(3, 3, 3, 2, 1).to(x.F)(x).C)
    floors = spf.spdownsample(coords, 2, 3, downsample_mode="minkowski")
    assert torch.equal(spf.spdownsample(coords), floors)
    old = torchsparse20.nn.functional.spdownsample(placed(torchsparse20, coords), 2, 3, 1)
    strided = torchsparse20.nn.Conv3d(3, 3, 3, 2).to(x.F)(tensor(torchsparse20, 7))
    assert torch.equal(old, strided.C)
    fine = spf.spupsample_generative(down, 2, 2)
    assert len(fine) == 8 * len(down)
    kmap = spf.build_kernel_map(coords, len(coords), 3, 2, 1)
    assert torch.equal(kmap["coords"], down)


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
