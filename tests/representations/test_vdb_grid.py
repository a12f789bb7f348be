# SPDX-License-Identifier: Apache-2.0
"""VDBGrid: made, asked, changed, against dictionaries of voxels and dense tensors."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grid_reference as reference
import pytest
import torch
from fieldline.cuda.vdb import grid_ops
from fieldline.representations.vdb import VDBGrid
from hypothesis import given
from hypothesis import strategies as st
from op_harness import running_on
from torch import Tensor

import fieldline as fl

INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1


def as_dict(grid: VDBGrid) -> dict[tuple[int, ...], Any]:
    """Voxel to value (True for a set), read through the leaves."""
    found: dict[tuple[int, ...], Any] = {}
    for leaf in grid.leaves():
        places = [b for b in range(64) if leaf.mask >> b & 1]
        assert places
        for i, bit in enumerate(places):
            voxel = tuple(o + v for o, v in zip(leaf.origin, reference.unpack(bit)))
            found[voxel] = True if leaf.values is None else leaf.values[i].tolist()
    assert len(found) == grid.active_count
    return found


@st.composite
def voxel_lists(draw: st.DrawFn, reach: int = 90) -> Tensor:
    """Up to 60 voxels, some repeated, about a corner anywhere."""
    corner = draw(st.tuples(*[st.integers(-1000, 1000)] * 3))
    place = st.tuples(*[st.integers(0, draw(st.sampled_from([1, 5, reach])))] * 3)
    rows = draw(st.lists(place, max_size=60))
    return torch.tensor(rows, dtype=torch.int64).reshape(-1, 3) + torch.tensor(corner)


@st.composite
def valued_grids(draw: st.DrawFn, reach: int = 90) -> tuple[VDBGrid, dict[tuple[int, ...], Any]]:
    rows = draw(voxel_lists(reach=reach)).unique(dim=0)
    values = torch.arange(len(rows), dtype=torch.float64) + 1
    voxels = {tuple(row): value for row, value in zip(rows.tolist(), values.tolist())}
    return VDBGrid.from_coordinates(rows, values, background=-5.0), voxels


@given(voxel_lists())
def test_voxels_come_back(rows: Tensor) -> None:
    grid = VDBGrid.from_coordinates(rows)
    wanted = {tuple(row) for row in rows.tolist()}
    assert set(as_dict(grid)) == wanted
    assert list(as_dict(grid)) == [tuple(row) for row in grid.coordinates().tolist()]
    assert grid.contains(rows).all()
    assert all(list(voxel) in grid for voxel in wanted)
    if wanted:
        low, high = rows.amin(0).tolist(), rows.amax(0).tolist()
        assert grid.bounding_box() == (tuple(low), tuple(high))
        assert [*low[:2], low[2] - 1] not in grid
    else:
        assert grid.bounding_box() is None


@given(valued_grids())
def test_values_come_back(drawn: tuple[VDBGrid, dict[tuple[int, ...], Any]]) -> None:
    grid, voxels = drawn
    assert as_dict(grid) == voxels
    around = [tuple(v + d for v in voxel) for voxel in voxels for d in (-1, 0, 1)]
    asked = torch.tensor(around, dtype=torch.int64).reshape(-1, 3)
    assert grid.lookup(asked).tolist() == [voxels.get(v, -5.0) for v in around]


@given(voxel_lists(reach=6), st.sampled_from(["first", "mean", "sum", "max"]))
def test_repeated_voxels_are_reduced(rows: Tensor, reduce: str) -> None:
    values = torch.arange(2.0 * len(rows), dtype=torch.float64).reshape(-1, 2)
    grid = VDBGrid.from_coordinates(rows, values, reduce=reduce)
    lists: dict[tuple[int, ...], list[list[float]]] = {}
    for row, value in zip(rows.tolist(), values.tolist()):
        lists.setdefault(tuple(row), []).append(value)
    rules: dict[str, Callable[[list[float]], float]] = {
        "first": lambda v: v[0],
        "mean": lambda v: sum(v) / len(v),
        "sum": sum,
        "max": max,
    }
    wanted = {k: [rules[reduce](list(c)) for c in zip(*v)] for k, v in lists.items()}
    assert as_dict(grid) == pytest.approx(wanted)


def test_integers_are_reduced_as_integers() -> None:
    rows = torch.tensor([[0, 0, 0], [0, 0, 0], [1, 0, 0]])
    grid = VDBGrid.from_coordinates(rows, torch.tensor([1, 2, 9]), reduce="sum")
    assert grid.values is not None and grid.values.dtype == torch.int64
    assert grid.values.tolist() == [3, 9]


@given(
    st.tuples(*[st.integers(1, 70)] * 3),
    st.sampled_from([0.0, 0.03, 1.0]),
    st.tuples(*[st.integers(-200, 200)] * 3),
)
def test_dense_comes_back(
    size: tuple[int, int, int], share: float, origin: tuple[int, int, int]
) -> None:
    generator = torch.Generator().manual_seed(sum(size))
    dense = torch.rand(*size, generator=generator)
    dense = torch.where(dense < share, dense + 1, torch.zeros(()))
    grid = VDBGrid.from_dense(dense, origin=origin)
    start = [o - g for o, g in zip(origin, grid.origin)]
    back = grid.to_dense()
    for axis, at in enumerate(start):
        assert back.narrow(axis, 0, at).eq(0).all()
        back = back.narrow(axis, at, back.shape[axis] - at)
    assert torch.equal(back, dense)
    assert torch.equal(
        VDBGrid.from_dense(dense != 0, origin=origin).coordinates(), grid.coordinates()
    )


def test_dense_threshold_background_and_channels() -> None:
    dense = torch.zeros(2, 3, 4, 2)
    dense[1, 2, 3, 0], dense[0, 0, 0, 1] = 0.2, 0.9
    grid = VDBGrid.from_dense(dense, threshold=0.5)
    assert as_dict(grid) == {(0, 0, 0): pytest.approx([0.0, 0.9])}
    assert VDBGrid.from_dense(dense).active_count == 2
    ones = VDBGrid.from_dense(torch.ones(2, 2, 2), background=1.0)
    assert ones.active_count == 0 and ones.to_dense().eq(1).all()


def test_values_of_dense_and_lists_are_differentiable() -> None:
    dense = torch.rand(3, 4, 5, dtype=torch.float64, requires_grad=True)
    grid = VDBGrid.from_dense(dense, threshold=0.5)
    grid.to_dense().sum().backward()
    assert torch.equal(dense.grad, (dense > 0.5).double())
    values = torch.rand(3, dtype=torch.float64, requires_grad=True)
    rows = torch.tensor([[1, 1, 1], [0, 0, 0], [1, 1, 1]])
    for reduce, wanted in (("mean", [0.5, 1, 0.5]), ("first", [1, 1, 0]), ("sum", [1, 1, 1])):
        grid = VDBGrid.from_coordinates(rows, values, reduce=reduce)
        (gradient,) = torch.autograd.grad(grid.lookup(rows[:2]).sum(), values)
        assert gradient.tolist() == wanted


@given(valued_grids(), valued_grids())
def test_set_algebra(
    one: tuple[VDBGrid, dict[tuple[int, ...], Any]],
    two: tuple[VDBGrid, dict[tuple[int, ...], Any]],
) -> None:
    (a, mine), (b, its) = one, two
    assert as_dict(a.union(b)) == {**its, **mine}
    assert as_dict(a.intersection(b)) == {k: v for k, v in mine.items() if k in its}
    assert as_dict(a.difference(b)) == {k: v for k, v in mine.items() if k not in its}
    assert as_dict(a.union(a)) == mine and a.difference(a).active_count == 0


@given(voxel_lists(), st.sampled_from([6, 18, 26]), st.integers(0, 3))
def test_dilation_grows_beyond_the_room(rows: Tensor, neighbours: int, iterations: int) -> None:
    grown = {tuple(row) for row in rows.tolist()}
    for _ in range(iterations):
        grown |= {
            tuple(a + b for a, b in zip(voxel, step))
            for voxel in grown
            for step in reference.neighbour_steps(neighbours)
        }
    grid = VDBGrid.from_coordinates(rows).dilate(neighbours, iterations)
    assert set(as_dict(grid)) == grown
    back = grid.erode(neighbours, iterations)
    assert {tuple(row) for row in rows.tolist()} <= set(as_dict(back))


def test_dilated_voxels_have_the_background() -> None:
    grid = VDBGrid.from_coordinates(
        torch.tensor([[0, 0, 0]]), torch.tensor([[1.0, 2.0]]), background=(7.0, 8.0)
    )
    grown = as_dict(grid.dilate())
    assert grown[0, 0, 0] == [1.0, 2.0] and grown[0, 0, -1] == [7.0, 8.0]
    assert len(grown) == 7
    assert set(as_dict(grid.dilate(grow=False))) == {(0, 0, 0)}


@given(valued_grids(reach=20), st.integers(1, 5))
def test_refine_and_coarsen(drawn: tuple[VDBGrid, dict[tuple[int, ...], Any]], factor: int) -> None:
    grid, voxels = drawn
    fine = grid.refine(factor)
    wanted = {
        tuple(factor * v + s for v, s in zip(voxel, step)): value
        for voxel, value in voxels.items()
        for step in itertools.product(range(factor), repeat=3)
    }
    assert as_dict(fine) == wanted
    for voxel in list(voxels)[:3]:
        point = torch.tensor([voxel], dtype=torch.float64) + 0.3
        assert torch.allclose(fine.index_to_world(point * factor), grid.index_to_world(point))
    for reduce, rule in (("mean", lambda v: sum(v) / len(v)), ("max", max), ("min", min)):
        groups: dict[tuple[int, ...], list[float]] = {}
        for voxel, value in voxels.items():
            groups.setdefault(tuple(v // factor for v in voxel), []).append(value)
        coarse = grid.coarsen(factor, reduce=reduce)
        assert as_dict(coarse) == pytest.approx({k: rule(v) for k, v in groups.items()})
    bare = grid.with_values(None).coarsen(factor)
    assert set(as_dict(bare)) == set(groups)
    if factor == 1:
        return
    back = fine.coarsen(factor)
    assert as_dict(back) == pytest.approx(voxels)
    assert torch.allclose(back.transform, grid.transform)


def test_coarsen_of_a_set_by_masks_and_by_lists_agree() -> None:
    rows = torch.randint(0, 300, (500, 3), generator=torch.Generator().manual_seed(0))
    for shift in (0, 64, 128, -128):
        grid = VDBGrid.from_coordinates(torch.cat([rows, torch.zeros(1, 3).long()]) + shift)
        wanted = {tuple(r) for r in (grid.coordinates().long() // 2).tolist()}
        assert set(as_dict(grid.coarsen(2))) == wanted


def test_prune_drops_the_background() -> None:
    rows = torch.tensor([[0, 0, 0], [0, 0, 1], [500, 0, 0], [0, 0, 2]])
    values = torch.tensor([0.0, 0.5, 0.01, torch.nan])
    grid = VDBGrid.from_coordinates(rows, values)
    assert list(as_dict(grid.prune())) == [(0, 0, 1), (0, 0, 2), (500, 0, 0)]
    pruned = grid.prune(0.1)
    assert list(as_dict(pruned)) == [(0, 0, 1), (0, 0, 2)]
    assert pruned.resolution == (64, 1, 3) and pruned.memory_bytes < grid.memory_bytes
    assert grid.with_values(torch.zeros(4)).prune().active_count == 0
    assert grid.with_values(torch.tensor([0, 1, 0, 0])).prune().active_count == 1


def test_index_grid_and_shared_parts() -> None:
    grid = VDBGrid.from_coordinates(torch.tensor([[5, 5, 5], [-9, 0, 0]]), name="density")
    index = grid.index_grid()
    assert index.lookup(torch.tensor([[5, 5, 5], [-9, 0, 0], [0, 0, 0]])).tolist() == [1, 0, -1]
    assert index.masks is grid.masks and index.name == "density"
    assert "2 active" in repr(index) and "'density'" in repr(index)


def test_sampling_between_voxels() -> None:
    """Trilinear reproduces a linear function wherever all eight voxels are there."""
    dense = torch.arange(60, dtype=torch.float64).reshape(3, 4, 5) + 1
    transform = torch.tensor(
        [[0.0, 2, 0, 5], [-1, 0, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1]], dtype=torch.float64
    )
    grid = VDBGrid.from_dense(dense, origin=(-70, 3, 64), transform=transform)
    inner = torch.rand(50, 3, dtype=torch.float64) * torch.tensor([2.0, 3, 4]) + 0.5
    wanted = ((inner - 0.5) * torch.tensor([20.0, 5, 1])).sum(1) + 1
    world = grid.index_to_world(inner + torch.tensor([-70.0, 3, 64]))
    assert torch.allclose(grid.sample(world), wanted)
    assert torch.allclose(grid.sample(inner + torch.tensor([-70.0, 3, 64]), space="index"), wanted)
    assert torch.allclose(grid.world_to_index(world), inner + torch.tensor([-70.0, 3, 64]))
    nearest = grid.sample(world, order=0)
    assert torch.equal(nearest, dense[tuple(inner.long().unbind(1))])
    ones = torch.ones(50)
    assert torch.allclose(grid.with_values(None).sample(world), ones)


def test_sampling_is_differentiable_in_world_points() -> None:
    grid = VDBGrid.from_dense(
        torch.rand(4, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)),
        transform=torch.diag(torch.tensor([0.5, 2, 1, 1], dtype=torch.float64)),
    )
    points = torch.tensor([[0.7, 2.3, 1.4], [1.1, 4.4, 3.1]], dtype=torch.float64)
    points.requires_grad_()
    values = grid.values.clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda p, v: grid.with_values(v).sample(p), (points, values), atol=1e-6
    )


def test_strange_points_read_the_background() -> None:
    grid = VDBGrid.from_dense(torch.ones(2, 2, 2), background=-3.0)
    points = torch.tensor([[torch.nan, 0, 0], [torch.inf, 0, 0], [0, -1e30, 0], [0, 0, 3e9]])
    for order in (0, 1):
        assert grid.sample(points, order=order).tolist() == [-3.0] * 4


def test_half_precision_values() -> None:
    values = torch.rand(8, 3, generator=torch.Generator().manual_seed(0))
    grid = VDBGrid.from_dense(torch.ones(2, 2, 2, dtype=torch.bool)).with_values(values)
    points = torch.rand(20, 3) * 2
    for dtype in (torch.float16, torch.bfloat16):
        found = grid.with_values(values.to(dtype)).sample(points)
        assert found.dtype == dtype
        assert torch.allclose(found.float(), grid.sample(points), atol=0.01)


def test_levels_of_an_occupancy_grid() -> None:
    binaries = torch.rand(3, 9, 10, 70, generator=torch.Generator().manual_seed(2)) < 0.1
    boxes = torch.stack([torch.tensor([-1.0, -1, -1, 1, 1, 1]) * 2**k for k in range(3)])
    grid = fl.VDBGrid.from_occupancy(binaries, boxes)
    assert grid.levels == 3 and torch.equal(grid.to_dense(), binaries)
    for level in range(3):
        found = grid.world_to_index(boxes[level].reshape(2, 3), level=level)
        assert torch.allclose(found, torch.tensor([[0.0, 0, 0], [9, 10, 70]]))
        rows = binaries[level].nonzero()
        assert grid.contains(rows, level=level).all()
    rows = grid.coordinates(with_level=True)
    assert torch.equal(rows[:, 0].bincount(), binaries.flatten(1).sum(1))
    assert torch.equal(grid.dilate(26, grow=False).to_dense(), reference.dilate(binaries, 26, 1))
    assert torch.equal(grid.union(grid).to_dense(), binaries)


def test_points_and_their_voxels() -> None:
    points = torch.randn(200, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    grid = VDBGrid.from_points(points, 0.25)
    wanted = {tuple(v) for v in torch.floor(points / 0.25).long().tolist()}
    assert set(as_dict(grid)) == wanted
    assert grid.sample(points, order=0).all()
    assert grid.voxel_size == (0.25, 0.25, 0.25)


def eighths(*shape: int, reach: int, seed: int) -> Tensor:
    """Multiples of 1/8, for which double arithmetic is exact; many on faces and edges."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 8 * reach + 1, shape, generator=generator).double() / 8


@pytest.mark.parametrize("backend", ["cpu", "emulated"])
@pytest.mark.parametrize("seed", range(4))
def test_triangles_meet_the_voxels_that_they_meet(backend: str, seed: int) -> None:
    triangles = eighths(8, 3, 3, reach=5, seed=seed)
    triangles[0] = triangles[0].floor()  # corners of voxels
    triangles[1, :, 2] = 2.0  # in the plane of faces
    triangles[2, 2] = triangles[2, 1]  # a segment
    triangles[3] = triangles[3, :1]  # a point
    triangles[4, 2] = 2 * triangles[4, 1] - triangles[4, 0]  # in one line, past the grid
    with running_on(backend):
        rows = grid_ops.triangle_voxels(triangles, (5, 4, 5))
    wanted = reference.triangle_voxels(triangles, (5, 4, 5))
    found = rows.tolist()
    for voxels in wanted:
        mine, found = found[: len(voxels)], found[len(voxels) :]
        assert {tuple(v) for v in mine} == voxels
    assert not found


def test_real_mesh_is_covered(data_dir: Path) -> None:
    """Every point of the surface lies in an active voxel, and every active voxel near one."""
    vertices, faces = read_obj(data_dir / "sdf" / "bunny.obj")
    size = float((vertices.amax(0) - vertices.amin(0)).max()) / 40
    grid = VDBGrid.from_mesh(vertices, faces, size)
    generator = torch.Generator().manual_seed(0)
    shares = torch.rand(40, len(faces), 3, 1, generator=generator, dtype=torch.float64)
    points = (vertices[faces] * shares / shares.sum(2, keepdim=True)).sum(2).reshape(-1, 3)
    assert grid.sample(vertices, order=0).all() and grid.sample(points, order=0).all()
    near = VDBGrid.from_points(points, size).dilate(26)
    assert grid.difference(near).active_count == 0


def read_obj(path: Path) -> tuple[Tensor, Tensor]:
    lines = [line.split() for line in path.read_text().splitlines()]
    vertices = [[float(v) for v in line[1:4]] for line in lines if line[:1] == ["v"]]
    faces = [[int(v.split("/")[0]) - 1 for v in line[1:4]] for line in lines if line[:1] == ["f"]]
    return torch.tensor(vertices, dtype=torch.float64), torch.tensor(faces)


def test_int32_extremes() -> None:
    """At the ends of int32 a grid still works; beyond, the error says so."""
    for corner in (INT32_MIN, INT32_MAX):
        rows = torch.tensor([[corner, 0, corner]])
        grid = VDBGrid.from_coordinates(rows)
        assert set(as_dict(grid)) == {(corner, 0, corner)}
        assert grid.contains(rows).tolist() == [True]
        with pytest.raises(ValueError, match="origin: expected coordinates that fit int32"):
            grid.dilate()
    with pytest.raises(ValueError, match="coordinates: expected int32 numbers"):
        VDBGrid.from_coordinates(torch.tensor([[INT32_MAX + 1, 0, 0]]))
    with pytest.raises(ValueError, match=r"got 4294967296 x 1 x 1 voxels"):
        VDBGrid.from_coordinates(torch.tensor([[INT32_MIN, 0, 0], [INT32_MAX, 0, 0]]))
    far = VDBGrid.from_coordinates(torch.tensor([[0, 0, 0]]))
    extremes = torch.tensor([[-(1 << 63), 0, 0], [(1 << 63) - 1, 0, 0]])
    assert far.contains(extremes).tolist() == [False, False]
    with pytest.raises(ValueError, match="blocks"):
        far.refine(1 << 20)


def one_voxel(**settings: Any) -> VDBGrid:
    return VDBGrid.from_coordinates(torch.tensor([[0, 0, 0]]), **settings)


FLAT = torch.diag(torch.tensor([0.0, 1, 1, 1]))
TWICE = torch.diag(torch.tensor([2.0, 2, 2, 1]))


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: one_voxel(values=torch.ones(2)), ValueError, r"values: expected shape \[1\]"),
        (lambda: one_voxel(values=torch.ones(1), reduce="most"), ValueError, "reduce: expected"),
        (lambda: one_voxel(transform=torch.eye(3)), ValueError, r"transform: expected shape"),
        (lambda: one_voxel(transform=FLAT), ValueError, "can be inverted"),
        (lambda: one_voxel(transform=torch.eye(4) * torch.nan), ValueError, "finite numbers"),
        (lambda: one_voxel(grid_class="fog"), ValueError, "grid_class: expected one of"),
        (lambda: one_voxel(background=(1.0, 2.0)), ValueError, "background: expected a number"),
        (lambda: VDBGrid(one_voxel().masks, (1, 0, 0)), ValueError, "multiples of 64"),
        (lambda: VDBGrid(one_voxel().masks, (0.5, 0, 0)), TypeError, "expected 3 integers"),
        (
            lambda: VDBGrid.from_coordinates(torch.zeros(2, 3).long(), torch.ones(2)),
            ValueError,
            "each voxel once, got 2 rows for 1 voxels",
        ),
        (lambda: VDBGrid.from_coordinates(torch.zeros(2, 3)), TypeError, "expected integers"),
        (lambda: VDBGrid.from_coordinates(torch.zeros(2).int()), ValueError, r"\[N, 3\], got"),
        (lambda: VDBGrid.from_dense(torch.zeros(2, 2)), ValueError, "dense: expected shape"),
        (
            lambda: VDBGrid.from_points(torch.tensor([[0.0, torch.nan, 0]]), 1.0),
            ValueError,
            "points: expected finite",
        ),
        (lambda: VDBGrid.from_points(torch.ones(1, 3), 1e-30), ValueError, "below 2.31 voxels"),
        (lambda: VDBGrid.from_points(torch.ones(1, 3), 0.0), ValueError, "voxel_size: expected"),
        (
            lambda: VDBGrid.from_mesh(torch.ones(2, 3), torch.tensor([[0, 1, 2]]), 1.0),
            ValueError,
            "indices 0 to 1, got 0 to 2",
        ),
        (
            lambda: VDBGrid.from_mesh(torch.ones(3, 3), torch.ones(1, 3), 1.0),
            TypeError,
            "faces: expected integers",
        ),
        (
            lambda: VDBGrid.from_occupancy(torch.ones(2, 2, 2).bool(), torch.zeros(6)),
            ValueError,
            "boxes with a volume",
        ),
        (
            lambda: VDBGrid.from_occupancy(torch.ones(2, 2, 2).bool(), torch.zeros(2, 6)),
            ValueError,
            r"aabb: expected shape \[1, 6\]",
        ),
        (lambda: one_voxel().sample(torch.ones(1, 3), order=2), ValueError, "order 0 or 1"),
        (lambda: one_voxel().sample(torch.ones(3)), ValueError, r"floating \[N, 3\]"),
        (lambda: one_voxel().lookup(torch.ones(1, 3)), TypeError, "ijk: expected integers"),
        (lambda: one_voxel().contains(torch.ones(1, 3).int(), level=1), ValueError, "level: exp"),
        (lambda: one_voxel().prune(-1.0), ValueError, "tolerance: expected 0 or more"),
        (lambda: one_voxel().coarsen(0), ValueError, "factor: expected 1 or more"),
        (lambda: one_voxel().coarsen(2, reduce="all"), ValueError, "reduce: expected"),
        (lambda: one_voxel().dilate(7), ValueError, "neighbours: expected 6, 18 or 26"),
        (
            lambda: one_voxel().union(one_voxel(transform=TWICE)),
            ValueError,
            "other: expected the same transform",
        ),
        (
            lambda: one_voxel().union(one_voxel(values=torch.ones(1))),
            ValueError,
            "other: expected values of dtype",
        ),
        (lambda: one_voxel().map_values(torch.exp), ValueError, "expected a grid with values"),
        (
            lambda: grid_ops.triangle_voxels(torch.full((1, 3, 3), torch.nan).double(), (2, 2, 2)),
            ValueError,
            "finite coordinates",
        ),
        (
            lambda: grid_ops.triangle_voxels(torch.zeros(1, 3, 3).double(), (2, 2, 2), limit=0),
            ValueError,
            "at most 0 voxels of triangles, got 1",
        ),
    ],
)
def test_errors_say_what_was_expected(
    make: Callable[[], Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        make()
