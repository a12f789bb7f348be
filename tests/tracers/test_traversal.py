# SPDX-License-Identifier: Apache-2.0
"""traverse_grids and rays of the world through grids: what NerfAcc's own tests ask, and more."""

from __future__ import annotations

import doctest
import importlib
import runpy
import shutil
from pathlib import Path

import pytest
import torch
from fieldline.tracers.traversal import ray_aabb_intersect, traverse_grids
from op_harness import running_on
from torch import Tensor

import fieldline as fl

ROOT = Path(__file__).resolve().parent.parent.parent
BACKENDS = ["cpu", "emulated"]


def nested(levels: int) -> Tensor:
    base = torch.tensor([-1.0, -1, -1, 1, 1, 1])
    return torch.stack([base * 2**i for i in range(levels)])


def unit(vectors: Tensor) -> Tensor:
    return vectors / vectors.norm(dim=-1, keepdim=True)


def finest(points: Tensor, binaries: Tensor) -> Tensor:
    """Whether the finest of the nested grids around each point is occupied there."""
    size = points.abs().amax(-1).clamp(min=1e-9)
    level = size.log2().ceil().clamp(min=0).long().clamp(max=len(binaries) - 1)
    scaled = points / (2.0**level)[:, None]
    cell = ((scaled + 1) / 2 * torch.tensor(binaries.shape[1:])).long()
    cell = torch.minimum(cell.clamp(min=0), torch.tensor(binaries.shape[1:]) - 1)
    return binaries[level, cell[:, 0], cell[:, 1], cell[:, 2]]


def test_ray_aabb_intersect_agrees_with_slabs_in_double() -> None:
    generator = torch.Generator().manual_seed(42)
    o, d = torch.rand(300, 3, generator=generator), torch.randn(300, 3, generator=generator)
    low = torch.rand(40, 3, generator=generator)
    boxes = torch.cat([low, low + torch.rand(40, 3, generator=generator)], dim=1)
    enter, leave, hits = ray_aabb_intersect(o, unit(d), boxes)
    times = (boxes.double().reshape(40, 2, 3) - o.double()[:, None, None]) / unit(d).double()[
        :, None, None
    ]
    first, last = times.amin(2).amax(-1), times.amax(2).amin(-1)
    assert torch.equal(hits, (first < last) & (last > 0))
    assert torch.allclose(enter[hits].double(), first[hits], atol=1e-5)
    assert torch.allclose(leave[hits].double(), last[hits], atol=1e-5)
    assert (enter[~hits] == torch.inf).all() and (leave[~hits] == torch.inf).all()
    middle = (enter + leave)[..., None] / 2 * unit(d)[:, None] + o[:, None]
    inside = ((middle >= boxes[:, :3]) & (middle <= boxes[:, 3:])).all(-1)
    assert inside[hits].double().mean() > 0.999


def test_ray_aabb_intersect_on_a_face_and_beside_it() -> None:
    box = torch.tensor([[0.0, 0, 0, 1, 1, 1]])
    o = torch.tensor([[-1.0, 0, 0.5], [-1, 1, 0.5], [-1, 1.001, 0.5], [2, 0.5, 0.5]])
    d = torch.tensor([[1.0, 0, 0]]).expand(4, 3)
    assert ray_aabb_intersect(o, d, box)[2].flatten().tolist() == [True, True, False, False]
    near = ray_aabb_intersect(o[:1], d[:1], box, near_plane=1.25, far_plane=1.5, miss_value=-1)
    assert [t.item() for t in near] == [1.25, 1.5, True]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("step", [0.01, 0.0])
def test_samples_lie_in_the_finest_occupied_cell(backend: str, step: float) -> None:
    generator = torch.Generator().manual_seed(42)
    o, d = torch.randn(10, 3, generator=generator), unit(torch.randn(10, 3, generator=generator))
    binaries = torch.rand(4, 16, 16, 16, generator=generator) > 0.5
    with running_on(backend):
        intervals, samples, _ = traverse_grids(o, d, binaries, nested(4), step_size=step)
    starts, ends = intervals.vals[intervals.is_left], intervals.vals[intervals.is_right]
    assert len(starts) == len(samples.vals) > 100
    assert torch.equal((starts + ends) * 0.5, samples.vals)
    points = o[samples.ray_indices] + d[samples.ray_indices] * samples.vals[:, None]
    # A middle within rounding of a face may be either side of it.
    jitter = torch.tensor([[[0.0]], [[1e-5]], [[-1e-5]]])
    assert torch.stack([finest(points + shift, binaries) for shift in jitter]).any(0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_planes_hold_to_half_a_step(backend: str) -> None:
    d = unit(torch.tensor([[1.0, 0.01, 0.01]]))
    full, box = torch.ones(1, 1, 1, 1, dtype=torch.bool), torch.tensor([[0.0, 0, 0, 1, 1, 1]])
    near, far = torch.tensor([1.2]), torch.tensor([1.5])
    with running_on(backend):
        intervals, _, ends = traverse_grids(
            torch.tensor([[-1.0, 0, 0]]), d, full, box, near, far, step_size=0.05
        )
    assert len(intervals.vals) == 7  # six samples share their edges
    assert intervals.vals.min() >= 1.2 - 0.025 and intervals.vals.max() <= 1.5 + 0.025
    assert ends.item() == intervals.vals.max().item()


@pytest.mark.parametrize("backend", BACKENDS)
def test_edges_are_shared_where_intervals_touch(backend: str) -> None:
    cells = torch.tensor([1, 1, 0, 1], dtype=torch.bool).reshape(1, 4, 1, 1)
    box = torch.tensor([[0.0, 0, 0, 4, 1, 1]])
    o, d = torch.tensor([[-1.0, 0.5, 0.5], [9, 9, 9]]), torch.tensor([[1.0, 0, 0], [1, 0, 0]])
    with running_on(backend):
        intervals, samples, _ = traverse_grids(o, d, cells, box, step_size=0.5)
    assert intervals.vals.tolist() == [1, 1.5, 2, 2.5, 3, 4, 4.5, 5]
    assert intervals.is_left.int().tolist() == [1, 1, 1, 1, 0, 1, 1, 0]
    assert intervals.is_right.int().tolist() == [0, 1, 1, 1, 1, 0, 1, 1]
    assert intervals.packed_info.tolist() == [[0, 8], [8, 0]]
    assert intervals.ray_indices.tolist() == [0] * 8
    assert samples.packed_info.tolist() == [[0, 6], [6, 0]]
    assert samples.is_valid.all() and intervals.device == samples.device


@pytest.mark.parametrize("backend", BACKENDS)
def test_rays_stopped_by_a_limit_go_on_where_they_stopped(backend: str) -> None:
    """Rounds of 40 samples, each from where the last one ended, give what one walk gives."""
    generator = torch.Generator().manual_seed(42)
    o, d = torch.randn(10, 3, generator=generator), unit(torch.randn(10, 3, generator=generator))
    binaries = torch.rand(4, 8, 8, 8, generator=generator) > 0.5
    settings = {"binaries": binaries, "aabbs": nested(4), "step_size": 0.03}
    with running_on(backend):
        whole, _, last = traverse_grids(o, d, **settings)
        near, mask = None, torch.ones(10, dtype=torch.bool)
        starts, rays = [], []
        for _ in range(40):
            intervals, samples, near = traverse_grids(
                *(o, d),
                **settings,
                near_planes=near,
                traverse_steps_limit=40,
                over_allocate=True,
                rays_mask=mask,
            )
            assert len(samples.vals) == 40 * int(mask.sum())
            assert len(intervals.vals) == 80 * int(mask.sum())
            counts = samples.packed_info[:, 1]
            assert torch.equal(samples.is_valid.sum(), counts.sum())
            assert (counts[~mask] == 0).all()
            starts.append(intervals.vals[intervals.is_left])
            rays.append(samples.ray_indices[samples.is_valid])
            mask = counts == 40
            if not mask.any():
                break
    assert not mask.any() and len(starts) > 2
    order = torch.cat(rays).argsort(stable=True)
    assert torch.equal(torch.cat(starts)[order], whole.vals[whole.is_left])
    assert last.isfinite().all()


def test_bad_arguments_are_named() -> None:
    o, d = torch.zeros(2, 3), torch.ones(2, 3)
    full, box = torch.ones(1, 1, 1, 1, dtype=torch.bool), torch.tensor([[0.0, 0, 0, 1, 1, 1]])
    with pytest.raises(ValueError, match="traverse_steps_limit: expected a limit"):
        traverse_grids(o, d, full, box, over_allocate=True)
    with pytest.raises(ValueError, match=r"near: expected shape \[2\], got \[2, 1\]"):
        traverse_grids(o, d, full, box, torch.zeros(2, 1))
    with pytest.raises(ValueError, match=r"aabbs: expected shape \[\*, 6\], got \[6\]"):
        ray_aabb_intersect(o, d, box[0])
    with pytest.raises(ValueError, match="ray 1: expected finite numbers"):
        traverse_grids(o, torch.tensor([[1.0, 0, 0], [torch.nan, 0, 0]]), full, box)
    grid = fl.VDBGrid.from_dense(full[0])
    with pytest.raises(ValueError, match="voxels_along_rays: level: expected 0 to 0, got 2"):
        fl.vdb.voxels_along_rays(grid, o, d, level=2)
    with pytest.raises(ValueError, match="segments_along_rays: origins, directions, t_min, t_max"):
        fl.vdb.segments_along_rays(grid, o, d * 0)
    with pytest.raises(ValueError, match=r"t_max: expected shape \[2\], got \[2, 1\]"):
        fl.vdb.segments_along_rays(grid, o, d, t_max=torch.ones(2, 1))


@pytest.mark.parametrize("backend", BACKENDS)
def test_rays_of_the_world_find_the_voxels_of_a_turned_grid(backend: str) -> None:
    """Through the centres of voxels of a grid that is scaled, turned and moved."""
    generator = torch.Generator().manual_seed(1)
    ijk = torch.randint(-70, 70, (300, 3), generator=generator, dtype=torch.int32).unique(dim=0)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator).double())[0]
    transform = torch.eye(4, dtype=torch.float64)
    transform[:3, :3] = turn * 0.05
    transform[:3, 3] = torch.tensor([0.3, -2.0, 1.0])
    with running_on(backend):
        grid = fl.VDBGrid.from_coordinates(ijk, transform=transform)
        centers = grid.index_to_world(ijk.double() + 0.5).float()
        d = torch.randn(len(ijk), 3, generator=generator)
        o = centers - 3.5 * d
        voxels = fl.vdb.voxels_along_rays(grid, o, d)
        segments = fl.vdb.segments_along_rays(grid, o, d, t_min=1.0, t_max=3.5)
    for i in range(len(ijk)):
        first, count = voxels.packed_info[i].tolist()
        own = slice(first, first + count)
        aimed = (voxels.ijk[own] == ijk[i]).all(1)
        assert aimed.sum() == 1
        assert float(voxels.t_enter[own][aimed]) < 3.5 < float(voxels.t_exit[own][aimed])
        assert (voxels.t_enter[own].diff() > 0).all()
    # Each ray enters the voxel it is aimed at, and is cut in its middle.
    last = segments.packed_info.sum(1) - 1
    assert torch.equal(segments.ray_indices[last], torch.arange(len(ijk)))
    assert torch.allclose(segments.t_exit[last], torch.tensor(3.5))
    length = torch.zeros(len(ijk)).index_add(
        0, voxels.ray_indices, (voxels.t_exit.clamp(1, 3.5) - voxels.t_enter.clamp(1, 3.5))
    )
    total = torch.zeros(len(ijk)).index_add(
        0, segments.ray_indices, segments.t_exit - segments.t_enter
    )
    assert torch.allclose(length, total, atol=1e-5)


def test_a_kernel_of_ones_own_compiles() -> None:
    main = runpy.run_path(str(ROOT / "examples" / "traverse_in_your_kernel.py"))["main"]
    said = main()
    if torch.cuda.is_available():
        assert float(said.split()[-2]) < 1e-3
    else:
        assert ("nvcc compiled it" in said) == (shutil.which("nvcc") is not None)


@pytest.mark.parametrize("name", ["tracers.traversal", "tracers.vdb"])
def test_examples(name: str) -> None:
    result = doctest.testmod(importlib.import_module(f"fieldline.{name}"))
    assert result.attempted > 0 and result.failed == 0
