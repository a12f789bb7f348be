# SPDX-License-Identifier: Apache-2.0
"""Grids as nested masks: built, listed, combined, grown and shrunk, and sampled."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import grid_reference as reference
import torch
from fieldline.cuda.vdb import grid_ops
from fieldline.cuda.vdb.grid_ops import Masks
from op_harness import Case, Error, Inputs, parametrize
from torch import Tensor

BACKENDS = ("cpu", "emulated")


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
    },
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
        op=combined(getattr(grid_ops, name)),
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
        op=on_masks(getattr(grid_ops, f"{name}_masks")),
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
        op=on_masks(grid_ops.coarsen_masks),
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
        op=on_masks(grid_ops.refine_masks),
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

CASES = [
    *(BUILD, TO_DENSE, COORDINATES, LISTED, OFFSETS, INDEX),
    *COMBINED,
    *MORPHED,
    *RESAMPLED,
    SAMPLED,
]


@parametrize(CASES)
def test_grid_operators(check: Callable[[], None]) -> None:
    check()
