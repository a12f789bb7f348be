# SPDX-License-Identifier: Apache-2.0
"""Grids as nested masks: built, listed, combined, grown and shrunk, and sampled."""

from __future__ import annotations

import doctest
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import grid_reference as reference
import pytest
import torch
from fieldline.cuda import library
from fieldline.cuda.vdb import grid_change_ops, grid_ops
from fieldline.cuda.vdb.grid_ops import Masks
from hypothesis import given
from hypothesis import strategies as st
from op_harness import Case, Error, Inputs, parametrize, running_on, threads
from torch import Tensor


def random_dense(
    generator: torch.Generator,
    size: tuple[int, int, int] = (9, 21, 70),
    levels: int = 1,
    share: float = 0.05,
) -> Tensor:
    dense = torch.rand(levels, *size, generator=generator) < share
    # A solid part: whole words, nodes and their borders.
    dense[:, size[0] // 3 :, size[1] // 4 : -(size[1] // 4) or None, size[2] // 2 :] = share > 0
    return dense


def tensors(function: Callable[..., Masks]) -> Callable[..., tuple[Tensor, ...]]:
    return lambda **inputs: function(**inputs)[:3]


def dense_input(generator: torch.Generator, byte: bool = False, **settings: Any) -> Inputs:
    dense = random_dense(generator, **settings)
    if byte:
        dense = dense * torch.randint(1, 256, dense.shape, generator=generator)
    return {"dense": dense.to(torch.uint8) if byte else dense}


BUILD = Case(
    name="build",
    op=tensors(grid_ops.build_masks),
    reference=reference.build,
    variants={
        "ragged": dense_input,
        "one": partial(dense_input, size=(1, 1, 1), share=1.0),
        "levels": partial(dense_input, size=(5, 66, 8), levels=3),
        "bytes": partial(dense_input, size=(8, 4, 130), byte=True),
        "row": partial(dense_input, size=(1, 2, 600), share=0.02),
        "aligned": partial(dense_input, size=(4, 8, 128)),
        "empty": partial(dense_input, share=0.0),
        "full": partial(dense_input, size=(20, 20, 64), share=1.0),
        "large": partial(dense_input, size=(200, 190, 270), share=0.01),
    },
    large=("large",),
    dtypes=(torch.float32,),
    compare=lambda outputs, expected, inputs, dtype: same(outputs, expected),
    errors=(
        Error("dtype", {"dense": torch.zeros(2, 2, 2)}, TypeError, "expected bool or uint8"),
        Error("shape", {"dense": torch.zeros(2, 2).bool()}, ValueError, r"got \[2, 2\]"),
        Error("none", {"dense": torch.zeros(2, 0, 2).bool()}, ValueError, "1 or more"),
    ),
)


def same(outputs: list[Tensor], expected: list[Tensor]) -> None:
    assert len(outputs) == len(expected)
    for output, wanted in zip(outputs, expected):
        assert torch.equal(output, wanted)


def masks_of(dense: Tensor) -> Masks:
    x, y, z = dense.shape[1:]
    return Masks(*reference.build(dense), (x, y, z))


def masks_input(generator: torch.Generator, **settings: Any) -> Inputs:
    masks = masks_of(random_dense(generator, **settings))
    return {
        "tops": masks.tops,
        "nodes": masks.nodes,
        "leaves": masks.leaves,
        "resolution": masks.resolution,
    }


def on_masks(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function of masks as one of their parts, which the harness can move and stride."""

    def call(tops: Tensor, nodes: Tensor, leaves: Tensor, resolution: Any, **rest: Any) -> Any:
        result = function(Masks(tops, nodes, leaves, resolution), **rest)
        return result[:3] if isinstance(result, Masks) else result

    return call


SIZES: dict[str, dict[str, Any]] = {
    "ragged": {},
    "one": {"size": (1, 1, 1), "share": 1.0},
    "levels": {"size": (5, 66, 8), "levels": 3},
    "empty": {"share": 0.0},
    "full": {"size": (20, 20, 64), "share": 1.0},
}


def variants(make: Callable[..., Inputs], **settings: Any) -> dict[str, Any]:
    return {name: partial(make, **size, **settings) for name, size in SIZES.items()}


TO_DENSE = Case(
    name="to_dense",
    op=on_masks(grid_ops.masks_to_dense),
    reference=on_masks(reference.to_dense),
    variants={**variants(masks_input), "row": partial(masks_input, size=(2, 3, 130))},
    dtypes=(torch.float32,),
    errors=(
        Error("tops", {"tops": torch.zeros(1, 1, 1, 1, 2).long()}, RuntimeError, "tops: expected"),
        Error("dtype", {"leaves": torch.zeros(3)}, RuntimeError, "leaves: expected dtype"),
        Error("resolution", {"resolution": (4, 4)}, RuntimeError, "expected 3 numbers"),
        Error("huge", {"resolution": (1 << 40, 1, 1)}, RuntimeError, "1 to 2.30 voxels"),
    ),
)


def coordinates_input(
    generator: torch.Generator,
    n: int = 300,
    size: tuple[int, int, int] = (40, 21, 130),
    levels: int = 1,
    columns: int = 3,
    dtype: torch.dtype = torch.int32,
) -> Inputs:
    shape = torch.tensor([levels, *size])
    rows = (torch.rand(n, 4, generator=generator) * (shape + 2)).floor().long() - 1
    extreme = torch.iinfo(dtype)
    if n > 10:
        rows[3] = extreme.max
        rows[5] = extreme.min
        rows[7] = rows[6]
    rows = rows[:, 4 - columns :].to(dtype)
    return {"coordinates": rows, "resolution": size, "levels": levels}


COORDINATES = Case(
    name="from_coordinates",
    op=tensors(grid_ops.masks_from_coordinates),
    reference=lambda **inputs: reference.build(reference.dense_of_coordinates(**inputs)),
    variants={
        "some": coordinates_input,
        "levels": partial(coordinates_input, levels=3, columns=4),
        "long": partial(coordinates_input, dtype=torch.int64, columns=4),
        "none": partial(coordinates_input, n=0),
        "crowded": partial(coordinates_input, n=900, size=(6, 5, 9)),
    },
    dtypes=(torch.float32,),
    compare=lambda outputs, expected, inputs, dtype: same(outputs, expected),
    errors=(
        Error("dtype", {"coordinates": torch.zeros(2, 3)}, TypeError, "int32 or int64, got"),
        Error("shape", {"coordinates": torch.zeros(2, 2).int()}, ValueError, r"got \[2, 2\]"),
        Error("size", {"resolution": (1 << 30, 1 << 30, 1)}, ValueError, "at most 2.24 blocks"),
        Error("zero", {"resolution": (4, 0, 4)}, ValueError, "1 or more"),
        Error("levels", {"levels": 0}, ValueError, "levels: expected 1 or more"),
    ),
)

LISTED = Case(
    name="active_coordinates",
    op=on_masks(partial(grid_ops.active_coordinates, with_level=True)),
    reference=on_masks(reference.active_coordinates),
    variants=variants(masks_input),
    dtypes=(torch.float32,),
)
OFFSETS = Case(
    name="leaf_offsets",
    op=on_masks(grid_ops.leaf_offsets),
    reference=on_masks(
        lambda masks: torch.tensor(
            [0, *(len(reference.bits(w)) for w in masks.leaves.tolist())]
        ).cumsum(0)
    ),
    variants=variants(masks_input),
    dtypes=(torch.float32,),
)


def lookup_input(generator: torch.Generator, columns: int = 4, **settings: Any) -> Inputs:
    inputs = masks_input(generator, **settings)
    levels = inputs["tops"].shape[0]
    rows = coordinates_input(generator, 400, inputs["resolution"], levels, columns)
    return {**inputs, "coordinates": rows["coordinates"]}


def slow_index(masks: Masks, coordinates: Tensor) -> Tensor:
    place = {tuple(row): i for i, row in enumerate(reference.active_coordinates(masks).tolist())}
    rows = [row if len(row) == 4 else [0, *row] for row in coordinates.tolist()]
    return torch.tensor([place.get(tuple(row), -1) for row in rows])


INDEX = Case(
    name="value_index",
    op=on_masks(
        lambda masks, coordinates: grid_ops.value_index(
            masks, grid_ops.leaf_offsets(masks), coordinates
        )
    ),
    reference=on_masks(slow_index),
    variants={**variants(lookup_input), "flat": partial(lookup_input, columns=3)},
    dtypes=(torch.float32,),
    errors=(
        Error("dtype", {"coordinates": torch.zeros(2, 3)}, TypeError, "int32 or int64"),
        Error("shape", {"coordinates": torch.zeros(3).int()}, ValueError, r"got \[3\]"),
    ),
)


def pair_input(generator: torch.Generator, **settings: Any) -> Inputs:
    one = masks_input(generator, **settings)
    other = masks_input(generator, **{**settings, "share": 0.3})
    return {**one, "t": other["tops"], "n": other["nodes"], "w": other["leaves"]}


def combined(function: Callable[[Masks, Masks], Masks]) -> Callable[..., Any]:
    return on_masks(lambda masks, t, n, w: function(masks, Masks(t, n, w, masks.resolution))[:3])


def slow_combined(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Any]:
    return combined(lambda a, b: masks_of(function(reference.to_dense(a), reference.to_dense(b))))


COMBINED = [
    Case(
        name=name,
        op=combined(getattr(grid_change_ops, name)),
        reference=slow_combined(function),
        variants=variants(pair_input),
        dtypes=(torch.float32,),
        compare=lambda outputs, expected, inputs, dtype: same(outputs, expected),
    )
    for name, function in (
        ("union", torch.logical_or),
        ("intersection", torch.logical_and),
        ("difference", lambda a, b: a & ~b),
    )
]


def changed(function: Callable[..., Tensor]) -> Callable[..., Any]:
    return on_masks(lambda masks, **rest: masks_of(function(reference.to_dense(masks), **rest)))


def with_settings(make: Callable[..., Inputs], settings: Inputs) -> Callable[..., Inputs]:
    return lambda generator, **rest: {**make(generator, **rest), **settings}


MORPHED = [
    Case(
        name=f"{name}{neighbours}",
        op=on_masks(getattr(grid_change_ops, f"{name}_masks")),
        reference=changed(function),
        variants=variants(with_settings(masks_input, {"neighbours": neighbours, "iterations": 2})),
        dtypes=(torch.float32,),
        compare=lambda outputs, expected, inputs, dtype: same(outputs, expected),
        errors=(
            Error("neighbours", {"neighbours": 8}, ValueError, "expected 6, 18 or 26, got 8"),
            Error("iterations", {"iterations": -1}, ValueError, "0 or more, got -1"),
        ),
    )
    for name, function in (("dilate", reference.dilate), ("erode", reference.erode))
    for neighbours in (6, 18, 26)
]

RESAMPLED = [
    Case(
        name=f"coarsen{factor}{'every' if every else 'any'}",
        op=on_masks(grid_change_ops.coarsen_masks),
        reference=changed(reference.coarsen),
        variants=variants(with_settings(masks_input, {"factor": factor, "every": every})),
        dtypes=(torch.float32,),
        compare=lambda outputs, expected, inputs, dtype: same(outputs, expected),
        errors=(Error("factor", {"factor": 0}, ValueError, "factor: expected 1 to"),),
    )
    for factor, every in ((2, False), (2, True), (3, False), (5, True), (40, False))
] + [
    Case(
        name=f"refine{factor}",
        op=on_masks(grid_change_ops.refine_masks),
        reference=changed(reference.refine),
        variants={
            "some": with_settings(
                partial(masks_input, size=(5, 9, 30), share=0.02), {"factor": factor}
            ),
            "one": with_settings(
                partial(masks_input, size=(1, 1, 1), share=1.0), {"factor": factor}
            ),
            "empty": with_settings(
                partial(masks_input, size=(5, 9, 30), share=0.0), {"factor": factor}
            ),
        },
        dtypes=(torch.float32,),
        compare=lambda outputs, expected, inputs, dtype: same(outputs, expected),
        errors=(
            Error("factor", {"factor": 1 << 30}, ValueError, "factor: expected 1 to"),
            Error("size", {"factor": 1 << 20}, ValueError, "at most 2.24 blocks"),
        ),
    )
    for factor in (2, 3, 4)
]


def sample_input(
    generator: torch.Generator,
    n: int = 60,
    channels: int | None = 3,
    level: int = 0,
    **settings: Any,
) -> Inputs:
    settings = {"size": (5, 6, 9), "share": 0.4, **settings}
    inputs = masks_input(generator, **settings)
    masks = Masks(*inputs.values())
    size = torch.tensor(masks.resolution, dtype=torch.float64)
    points = torch.rand(n, 3, generator=generator, dtype=torch.float64) * (size + 2) - 1
    # Away from the half-integers where the slope jumps, for finite differences.
    near = (points - 0.5 - (points - 0.5).round()).abs() < 0.05
    points = torch.where(near, points + 0.2, points)
    shape = (reference.active_coordinates(masks).shape[0],)
    shape = shape if channels is None else (*shape, channels)
    return {
        **inputs,
        "values": torch.randn(shape, generator=generator, dtype=torch.float64),
        "points": points,
        "background": 0.25,
        "level": level,
    }


def strange_points(generator: torch.Generator, **settings: Any) -> Inputs:
    inputs = sample_input(generator, **settings)
    inputs["points"][:6, 0] = torch.tensor(
        [torch.nan, torch.inf, -torch.inf, 1e30, -1e30, 3e9], dtype=torch.float64
    )
    return inputs


def on_values(function: Callable[..., Tensor]) -> Callable[..., Any]:
    return on_masks(lambda masks, **rest: function(masks, grid_ops.leaf_offsets(masks), **rest))


SAMPLED = Case(
    name="sample",
    op=on_values(grid_ops.sample_trilinear),
    reference=on_values(reference.sample_trilinear),
    variants={
        "some": sample_input,
        "scalar": partial(sample_input, channels=None),
        "level": partial(sample_input, levels=3, level=1, channels=1),
        "none": partial(sample_input, n=0),
        "empty": partial(sample_input, share=0.0),
        "crowded": partial(sample_input, size=(1, 2, 2), share=1.0, n=300),
        "strange": strange_points,
    },
    differentiable=("values", "points"),
    gradcheck=("some", "level"),
    emulated_gradcheck=("level",),
    tolerance={torch.float32: 1e-5, torch.float64: 1e-10},
    errors=(
        Error("dtype", {"values": torch.zeros(3).int()}, TypeError, "values: expected a floating"),
        Error("points", {"points": torch.zeros(3)}, ValueError, r"\[N, 3\], got \[3\]"),
        Error("values", {"values": torch.zeros(1, 1, 1)}, ValueError, "values: expected shape"),
        Error("level", {"level": 1}, ValueError, "level: expected 0 to 0, got 1"),
    ),
)


def triangle_input(generator: torch.Generator, n: int = 12, reach: int = 5) -> Inputs:
    """Corners at multiples of 1/8, for which double arithmetic is exact; many touch faces."""
    triangles = torch.randint(-8, 8 * reach + 9, (n, 3, 3), generator=generator).double() / 8
    if n >= 6:
        triangles[0] = triangles[0].floor()  # corners of voxels
        triangles[1, :, 2] = 2.0  # in the plane of faces
        triangles[2, 2] = triangles[2, 1]  # a segment
        triangles[3] = triangles[3, :1].clone()  # a point
        triangles[4, 2] = 2 * triangles[4, 1] - triangles[4, 0]  # in one line
        triangles[5] += 100  # outside
    return {"triangles": triangles, "resolution": (reach, reach - 1, reach)}


def triangles_agree(
    outputs: list[Tensor], expected: list[Tensor], inputs: Inputs, dtype: torch.dtype
) -> None:
    """A triangle's voxels may come in any order, but each triangle's after those before it."""
    rows, total = outputs
    assert int(total) == len(rows) == sum(len(part) for part in expected)
    for part in expected:
        mine, rows = rows[: len(part)], rows[len(part) :]
        assert sorted(mine.tolist()) == sorted(part.tolist())


TRIANGLES = Case(
    name="triangles",
    op=lambda triangles, resolution: library.ops().vdb_triangle_voxels(
        triangles, resolution, 1 << 30
    ),
    reference=lambda triangles, resolution: [
        torch.tensor(sorted(voxels), dtype=torch.int32).reshape(-1, 3)
        for voxels in reference.triangle_voxels(triangles, resolution)
    ],
    variants={
        "some": triangle_input,
        "more": partial(triangle_input, n=40, reach=4),
        "one": partial(triangle_input, n=1),
        "none": partial(triangle_input, n=0),
        "large": partial(triangle_input, n=300, reach=200),
    },
    large=("large",),
    dtypes=(torch.float64,),
    compare=triangles_agree,
    errors=(
        Error("shape", {"triangles": torch.zeros(2, 3).double()}, RuntimeError, r"\[\*, 3, 3\]"),
        Error("dtype", {"triangles": torch.zeros(2, 3, 3)}, RuntimeError, "expected dtype code"),
    ),
)

CASES = [
    *(BUILD, TO_DENSE, COORDINATES, LISTED, OFFSETS, INDEX),
    *COMBINED,
    *MORPHED,
    *RESAMPLED,
    SAMPLED,
    TRIANGLES,
]


@parametrize(CASES)
def test_grid_operators(check: Callable[[], None]) -> None:
    check()


sizes = st.tuples(*[st.integers(1, 70)] * 3)
shares = st.sampled_from([0.0, 0.002, 0.05, 0.7, 1.0])


@pytest.mark.parametrize("backend", ["cpu", "emulated"])
@given(size=sizes, levels=st.integers(1, 3), share=shares, seed=st.integers(0, 99))
def test_every_way_leads_to_the_same_masks(
    backend: str, size: tuple[int, int, int], levels: int, share: float, seed: int
) -> None:
    """Dense, lists, and set algebra: one set of voxels has one layout, and comes back whole."""
    generator = torch.Generator().manual_seed(seed)
    dense = torch.rand(levels, *size, generator=generator) < share
    rows = dense.nonzero()
    with running_on(backend):
        masks = grid_ops.build_masks(dense)
        grid_ops.check_masks(masks)
        assert torch.equal(grid_ops.masks_to_dense(masks), dense)
        listed = grid_ops.active_coordinates(masks, with_level=True).long()
        shuffled = rows[torch.randperm(len(rows), generator=generator)]
        offsets = grid_ops.leaf_offsets(masks)
        index = grid_ops.value_index(masks, offsets, shuffled)
        same(list(grid_ops.masks_from_coordinates(shuffled, size, levels)[:3]), list(masks[:3]))
        whole = grid_ops.build_masks(torch.ones_like(dense))
        rest = grid_change_ops.difference(whole, masks)
        same(list(grid_change_ops.union(rest, masks)[:3]), list(whole[:3]))
        same(list(grid_change_ops.intersection(whole, masks)[:3]), list(masks[:3]))
        assert grid_change_ops.intersection(rest, masks).leaves.numel() == 0
        assert torch.equal(grid_ops.masks_to_dense(rest), ~dense)
    assert torch.equal(listed[index], shuffled)
    assert len(listed) == len(rows) == int(offsets[-1])


@given(size=sizes, share=shares, neighbours=st.sampled_from([6, 18, 26]), seed=st.integers(0, 99))
def test_growing_and_shrinking_are_duals(
    size: tuple[int, int, int], share: float, neighbours: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    dense = torch.rand(1, *size, generator=generator) < share
    masks = grid_ops.build_masks(dense)
    grown = grid_ops.masks_to_dense(grid_change_ops.dilate_masks(masks, neighbours))
    assert torch.equal(grown, reference.dilate(dense, neighbours, 1))
    # Outside is inactive for both, so that the dual holds for what one step from the ends hides.
    rest = grid_ops.build_masks(~dense)
    left = grid_ops.masks_to_dense(grid_change_ops.erode_masks(rest, neighbours))
    inner = reference.erode(torch.ones_like(dense), neighbours, 1)
    assert torch.equal(left, ~grown & inner)


@given(size=sizes, share=shares, factor=st.integers(1, 9), seed=st.integers(0, 99))
def test_coarser_and_finer(
    size: tuple[int, int, int], share: float, factor: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    masks = grid_ops.build_masks(torch.rand(1, *size, generator=generator) < share)
    fine = grid_change_ops.refine_masks(masks, factor)
    assert int(grid_ops.leaf_offsets(fine)[-1]) == factor**3 * int(grid_ops.leaf_offsets(masks)[-1])
    for every in (False, True):
        same(list(grid_change_ops.coarsen_masks(fine, factor, every=every)[:3]), list(masks[:3]))


def test_many_points_in_one_voxel_are_summed_alike_by_any_number_of_threads() -> None:
    """The gradient to values has one order of summation, however its sum is split."""
    generator = torch.Generator().manual_seed(0)
    masks = grid_ops.build_masks(torch.rand(40, 40, 40, generator=generator) < 0.2)
    offsets = grid_ops.leaf_offsets(masks)
    values = torch.rand(int(offsets[-1]), 2, generator=generator).requires_grad_()
    points = torch.rand(20000, 3, generator=generator) ** 4 * 40
    weights = torch.rand(20000, 2, generator=generator)
    found = []
    for count in (1, 2, 3, 5):
        with threads(count):
            sampled = grid_ops.sample_trilinear(masks, offsets, values, points)
            found.append(torch.autograd.grad((sampled * weights).sum(), values)[0])
    assert all(torch.equal(gradient, found[0]) for gradient in found)
    assert found[0].abs().max() > 20


def broken(**parts: Tensor) -> Masks:
    dense = torch.zeros(1, 5, 70, 5, dtype=torch.bool)
    dense[0, 1, 2, 3] = dense[0, 1, 2, 4] = dense[0, 4, 66, 0] = True
    return grid_ops.build_masks(dense)._replace(**parts)


@pytest.mark.parametrize(
    ("masks", "error", "text"),
    [
        (broken(leaves=torch.zeros(3)), TypeError, "leaves: expected int64"),
        (broken(nodes=torch.zeros(2, 3).long()), ValueError, r"nodes: expected shape \[2, 2\]"),
        (broken(tops=torch.zeros(1, 1, 1, 1, 2).long()), ValueError, "tops: expected shape"),
        (broken(tops=torch.zeros(0, 1, 2, 1, 2).long()), ValueError, "1 level or more, got 0"),
        (broken(nodes=torch.tensor([[3, 0], [0, 2]])), ValueError, "leaves: expected 2, the bits"),
        (broken(nodes=torch.tensor([[7, 0], [0, 3]])), ValueError, "expected no empty ones"),
        (broken(nodes=torch.tensor([[3, 0], [1, 9]])), ValueError, "nodes: expected the first"),
        (broken(leaves=torch.tensor([1, 0, 1])), ValueError, "leaves: expected no empty ones"),
        (broken(leaves=torch.tensor([1, -1, 1])), ValueError, "below the resolution"),
        (broken(nodes=torch.tensor([[1 | 1 << 60, 0], [1, 2]])), ValueError, "below the resol"),
    ],
)
def test_masks_of_strangers_are_checked(masks: Masks, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        grid_ops.check_masks(masks)


SCRIPT = """
import sys
import torch
from fieldline.cuda import library
from fieldline.cuda.vdb import grid_ops

generator = torch.Generator().manual_seed(4)
found = []
for size in ((9, 5, 64), (70, 6, 200), (3, 66, 129)):
    dense = torch.rand(2, *size, generator=generator)
    for share in (0.01, 0.9):
        found += grid_ops.build_masks((dense < share).to(torch.uint8) * 200)[:3]
torch.save([torch.tensor(library.ops().core_isa()), *found], sys.argv[1])
"""


def built_with(isa: str, folder: Path) -> list[Tensor]:
    path = folder / f"{isa}.pt"
    subprocess.run(
        [sys.executable, "-P", "-c", SCRIPT, str(path)],
        env={**os.environ, "FIELDLINE_ISA": isa},
        check=True,
        timeout=120,
    )
    return torch.load(path)


@pytest.mark.parametrize(("level", "isa"), [(0, "baseline"), (1, "avx2")])
def test_every_instruction_set_builds_the_same_masks(level: int, isa: str, tmp_path: Path) -> None:
    best = built_with("best", tmp_path)
    if int(best[0]) <= level:
        pytest.skip(f"this machine has nothing beyond {isa}")
    lower = built_with(isa, tmp_path)
    assert int(lower[0]) == level
    same(lower[1:], best[1:])


def test_docstring_examples() -> None:
    results = [
        doctest.testmod(module, optionflags=doctest.ELLIPSIS)
        for module in (grid_ops, grid_change_ops)
    ]
    assert sum(found.failed for found in results) == 0
    assert sum(found.attempted for found in results) > 30
