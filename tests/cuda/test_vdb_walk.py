# SPDX-License-Identifier: Apache-2.0
"""Rays through grids: every backend against NerfAcc's walk in plain Python, bit for bit."""

from __future__ import annotations

import doctest
import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import vdb_walk_reference as reference
from fieldline.cuda.vdb import walk_ops
from fieldline.cuda.vdb.grid_ops import Masks, build_masks
from hypothesis import given
from hypothesis import strategies as st
from op_harness import Case, Error, Inputs, parametrize, running_on, tensors_of
from torch import Tensor


def nested_boxes(levels: int, base: Tensor | None = None) -> Tensor:
    """Each twice as large as the one before, about one centre."""
    base = torch.tensor([-1.0, -1, -1, 1, 1, 1]) if base is None else base
    center, half = (base[:3] + base[3:]) / 2, (base[3:] - base[:3]) / 2
    return torch.stack(
        [torch.cat([center - half * 2**i, center + half * 2**i]) for i in range(levels)]
    )


def some_rays(generator: torch.Generator, n: int, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """From outside and inside, at the box and past it, along axes, faces and edges."""

    def rand(*size: int) -> Tensor:
        return torch.rand(*size, generator=generator)

    low, high = boxes[-1, :3], boxes[-1, 3:]
    size = high - low
    o = low + (rand(n, 3) * 3 - 1) * size
    d = low + rand(n, 3) * size - o
    d = d / d.norm(dim=1, keepdim=True).clamp(min=1e-6)
    for i in range(0, n, 4):  # parallel to an axis or a plane
        d[i, int(rand(1) * 3)] = 0
    special = torch.tensor(
        [[1.0, 0, 0], [0, -1, 0], [0, 0, 1], [1, 1, 1], [-1, 1, 0], [-1, -1, -1]]
    )
    for i in range(1, n, 5):
        d[i] = special[int(rand(1) * len(special))]
        # In a corner, on a face, or on an edge between cells.
        o[i] = low + (rand(3) * 3).floor() / 2 * size - d[i] * (size * (rand(1) < 0.7))
    d[d.norm(dim=1) == 0] = torch.tensor([0.0, 0, 1])
    return o, d


def occupancy(
    generator: torch.Generator,
    levels: int,
    resolution: tuple[int, int, int],
    share: float,
    lump: int,
) -> Tensor:
    """Random cubes of `lump` cells."""
    coarse = torch.rand(levels, *(-(-n // lump) for n in resolution), generator=generator) < share
    for axis in (1, 2, 3):
        coarse = coarse.repeat_interleave(lump, axis)
    x, y, z = resolution
    return coarse[:, :x, :y, :z].contiguous()


def problem(
    generator: torch.Generator,
    resolution: tuple[int, int, int] = (19, 35, 7),
    levels: int = 1,
    share: float = 0.1,
    lump: int = 1,
    n: int = 12,
    step: float = 0.03,
    cone_angle: float = 0.0,
    jitter: bool = False,
    far: float = 1e10,
    **more: Any,
) -> Inputs:
    boxes = nested_boxes(levels)
    o, d = some_rays(generator, n, boxes)
    near = torch.rand(n, generator=generator) * 0.1 * jitter
    inputs = {
        "binaries": occupancy(generator, levels, resolution, share, lump),
        "aabbs": boxes.double(),
        "rays_o": o.double(),
        "rays_d": d.double(),
        "near": near.double(),
        "far": torch.full((n,), far).double(),
        "step": step,
        "cone_angle": cone_angle,
    }
    return inputs | more


def masked_problem(generator: torch.Generator, **settings: Any) -> Inputs:
    inputs = problem(generator, **settings)
    binaries = inputs.pop("binaries")
    masks = Masks(*reference.masks_of(binaries), tuple(binaries.shape[1:]))
    return {"masks": masks} | inputs


def masked_reference(masks: Masks, **rest: Any) -> tuple[Tensor, ...]:
    rest.pop("exact", None)
    return reference.sample(reference.dense_of(*masks), **rest)[:4]


def dense_reference(**inputs: Any) -> tuple[Tensor, ...]:
    return reference.sample(**inputs)[:4]


def traverse_reference(most: int | None = None, **inputs: Any) -> tuple[Tensor, ...]:
    rays, starts, ends, packed, joined, terminate = reference.sample(**inputs, most=most or 0)
    return rays, starts, ends, joined, packed, terminate


def same_bits(
    outputs: list[Tensor], expected: list[Tensor], inputs: Inputs, dtype: torch.dtype
) -> None:
    assert len(outputs) == len(expected)
    for index, (output, wanted) in enumerate(zip(outputs, expected)):
        assert torch.equal(output, wanted.to(output.dtype)), f"output {index}"


VARIANTS: dict[str, dict[str, Any]] = {
    "some": {},
    "sparse": {"resolution": (150, 90, 70), "share": 0.02, "lump": 5},
    "full": {"share": 1.1, "resolution": (17, 5, 66)},
    "empty": {"share": -1.0},
    "one_cell": {"resolution": (1, 1, 1), "share": 1.1},
    "levels": {"levels": 3, "resolution": (16, 20, 12), "share": 0.3, "lump": 2},
    "eight_levels": {"levels": 8, "resolution": (9, 8, 6), "share": 0.3},
    "jitter": {"jitter": True, "share": 0.5},
    "fine_steps": {"step": 0.002, "lump": 4, "n": 5},
    "near_end": {"far": 2.0, "share": 0.5},
    "cone": {"cone_angle": 0.02, "step": 0.01, "share": 0.4},
    "cone_levels": {"levels": 2, "cone_angle": 0.05, "share": 0.3, "lump": 3, "jitter": True},
    "no_rays": {"n": 0},
}

BAD_RAY = {"rays_d": torch.zeros(12, 3)}
ERRORS = (
    Error("dtype", {"rays_o": torch.zeros(12, 3).double()}, TypeError, "rays_o: expected float32"),
    Error(
        "column",
        {"far": torch.zeros(12, 1)},
        ValueError,
        r"far: expected shape \[12\], got \[12, 1\]",
    ),
    Error("boxes", {"aabbs": torch.zeros(2, 6)}, ValueError, r"aabbs: expected shape \[1, 6\]"),
    Error("flat_box", {"aabbs": torch.zeros(1, 6)}, ValueError, "aabbs: expected finite boxes"),
    Error("zero_direction", BAD_RAY, ValueError, "ray 0: expected finite numbers"),
    Error("nan", {"rays_o": torch.full((12, 3), torch.nan)}, ValueError, "ray 0: expected finite"),
    Error("nan_near", {"near": torch.full((12,), torch.nan)}, ValueError, "ray 0: expected finite"),
    Error("endless", {"near": torch.full((12,), -torch.inf)}, ValueError, "ray 0: expected finite"),
    Error("cone", {"cone_angle": -0.1}, ValueError, "cone_angle: expected a number from 0"),
    Error("limit", {"limit": 3}, ValueError, r"expected at most 3 samples \(limit\), got \d+"),
    Error(
        "device", {"rays_o": torch.zeros(12, 3, device="meta")}, ValueError, "expected device cpu"
    ),
)
STEP_ERROR = Error("step", {"step": -1.0}, ValueError, "step: expected a length from 1e-12")
SMALL = ("some", "full", "empty", "levels", "jitter", "cone", "cone_levels", "near_end", "no_rays")

DENSE = Case(
    name="sample_dense",
    op=walk_ops.sample_dense,
    reference=dense_reference,
    variants={name: partial(problem, **settings) for name, settings in VARIANTS.items()},
    emulated=SMALL,
    dtypes=(torch.float32,),
    compare=same_bits,
    errors=(
        *ERRORS,
        STEP_ERROR,
        Error("bytes", {"binaries": torch.zeros(1, 2, 2, 2)}, TypeError, "expected bool"),
        Error("none", {"binaries": torch.zeros(0, 2, 2, 2).bool()}, ValueError, "1 to 16 levels"),
    ),
)
MASKS = Case(
    name="sample_masks",
    op=walk_ops.sample_masks,
    reference=masked_reference,
    variants={name: partial(masked_problem, **settings) for name, settings in VARIANTS.items()},
    emulated=SMALL,
    dtypes=(torch.float32,),
    compare=same_bits,
    errors=(*ERRORS, STEP_ERROR),
)
TRAVERSE = Case(
    name="traverse_dense",
    op=walk_ops.traverse_dense,
    reference=traverse_reference,
    variants={
        "some": partial(problem, share=0.5),
        "cells": partial(problem, share=0.5, step=0.0),
        "cells_levels": partial(problem, share=0.5, step=-1.0, levels=3),
        "limited": partial(problem, share=0.5, most=5),
        "limited_cells": partial(problem, share=0.5, step=0.0, most=3, levels=2),
        "limited_cone": partial(problem, share=0.7, cone_angle=0.03, most=7, levels=2),
        "none": partial(problem, n=0),
    },
    dtypes=(torch.float32,),
    compare=same_bits,
    errors=(*ERRORS, Error("most", {"most": 0}, ValueError, "most: expected at least 1, got 0")),
)


def pieces_problem(
    generator: torch.Generator, voxels: bool, n: int = 14, **settings: Any
) -> Inputs:
    inputs = masked_problem(generator, n=n, **settings)
    size = torch.tensor(inputs["masks"].resolution).double()
    return {
        "masks": inputs["masks"],
        "rays_o": (inputs["rays_o"] + 1) / 2 * size + 0.01,  # off the faces, which belong to two
        "rays_d": inputs["rays_d"] / 2 * size,
        "near": inputs["near"],
        "far": inputs["far"],
        "voxels": voxels,
    }


def pieces_reference(
    masks: Masks, rays_o: Tensor, rays_d: Tensor, near: Tensor, far: Tensor, voxels: bool
) -> tuple[Tensor, ...]:
    table = reference.dense_of(*masks)[0]
    pieces, counts = [], []
    for i in range(len(rays_o)):
        own = reference.voxels_of_ray(table, rays_o[i], rays_d[i], float(near[i]), float(far[i]))
        if not voxels:
            joined: list[Any] = []
            for piece in own:
                if joined and piece[0] - joined[-1][1] < 1e-6:
                    joined[-1] = (joined[-1][0], piece[1], piece[2])
                else:
                    joined.append(piece)
            own = joined
        pieces += [(i, *piece) for piece in own]
        counts.append(len(own))
    count = torch.tensor(counts, dtype=torch.int64)
    ijk = torch.tensor([p[3] for p in pieces] if voxels else [], dtype=torch.int32).reshape(-1, 3)
    return (
        torch.tensor([p[0] for p in pieces], dtype=torch.int64),
        torch.tensor([p[1] for p in pieces], dtype=torch.float64),
        torch.tensor([p[2] for p in pieces], dtype=torch.float64),
        ijk,
        torch.stack([count.cumsum(0) - count, count], dim=1),
    )


def without_slivers(outputs: list[Tensor]) -> list[Tensor]:
    """Pieces shorter than rounding are as good as none."""
    rays, enter, leave, ijk, packed = outputs
    kept = leave - enter > 2e-4
    ijk = ijk[kept] if len(ijk) else ijk
    return [rays[kept], enter[kept], leave[kept], ijk]


def same_pieces(
    outputs: list[Tensor], expected: list[Tensor], inputs: Inputs, dtype: torch.dtype
) -> None:
    assert torch.equal(outputs[4][:, 1].cumsum(0) - outputs[4][:, 1], outputs[4][:, 0])
    assert torch.equal(outputs[0].bincount(minlength=len(outputs[4])), outputs[4][:, 1])
    found, wanted = without_slivers(outputs), without_slivers(expected)
    assert torch.equal(found[0], wanted[0].to(found[0].dtype))
    assert torch.equal(found[3].long(), wanted[3].long())
    for index in (1, 2):
        assert torch.allclose(found[index], wanted[index], atol=1e-4)


PIECES = Case(
    name="find_pieces",
    op=walk_ops.find_pieces,
    reference=pieces_reference,
    variants={
        "voxels": partial(pieces_problem, voxels=True),
        "segments": partial(pieces_problem, voxels=False, lump=3, share=0.3),
        "full": partial(pieces_problem, voxels=True, share=1.1, resolution=(9, 4, 6)),
        "empty": partial(pieces_problem, voxels=True, share=-1.0),
        "jitter": partial(pieces_problem, voxels=True, jitter=True, far=1.5),
        "none": partial(pieces_problem, voxels=True, n=0),
    },
    dtypes=(torch.float32,),
    compare=same_pieces,
    errors=(
        Error("level", {"level": 1}, ValueError, "level: expected 0 to 0, got 1"),
        Error("limit", {"limit": 1}, ValueError, "expected at most 1 samples"),
        Error("zero", {"rays_d": torch.zeros(14, 3)}, ValueError, "ray 0: expected finite numbers"),
    ),
)


@parametrize([DENSE, MASKS, TRAVERSE, PIECES])
def test_walk(check: Callable[[], None]) -> None:
    check()


@given(
    resolution=st.tuples(*[st.integers(1, 200)] * 3),
    levels=st.integers(1, 8),
    share=st.sampled_from([0.003, 0.05, 0.5, 1.1]),
    lump=st.sampled_from([1, 3, 8, 17]),
    step=st.sampled_from([0.003, 0.021, 0.25, 1.7]),
    cone_angle=st.sampled_from([0.0, 0.0, 0.004, 0.1]),
    jitter=st.booleans(),
    far=st.sampled_from([1.3, 1e10, torch.inf]),
    seed=st.integers(0, 2**31),
)
def test_samples_are_those_of_the_plain_walk(seed: int, levels: int, **settings: Any) -> None:
    generator = torch.Generator().manual_seed(seed)
    if settings["resolution"][0] > 60:
        levels = min(levels, 2)
    inputs = problem(generator, levels=levels, n=5, **settings)
    inputs = {
        k: v.float() if k != "binaries" and isinstance(v, Tensor) else v for k, v in inputs.items()
    }
    expected = dense_reference(**inputs)
    dense = walk_ops.sample_dense(**inputs)
    masks = walk_ops.sample_masks(build_masks(inputs.pop("binaries")), **inputs)
    for a, b, c in zip(expected, dense, masks):
        assert torch.equal(a, b) and torch.equal(a, c)


MANY = """
import sys
import torch
import test_vdb_walk as tests
from fieldline.cuda import library
from fieldline.cuda.vdb import walk_ops
from fieldline.cuda.vdb.grid_ops import build_masks

found = {"isa": torch.tensor(library.ops().core_isa())}
for index, settings in enumerate(tests.MANY_RAYS):
    for name, call in tests.calls_of_many_rays(index, settings).items():
        found |= {f"{index}.{name}.{i}": t for i, t in enumerate(call(slice(None)))}
torch.save(found, sys.argv[1])
"""

MANY_RAYS: tuple[dict[str, Any], ...] = (
    {"resolution": (19, 35, 7), "share": 0.3},
    {"resolution": (1, 1, 1), "share": 1.1, "n": 61},
    {"resolution": (3, 130, 66), "share": 0.1, "lump": 3, "jitter": True},
    {"resolution": (64, 64, 64), "share": 0.05, "lump": 4, "jitter": True, "far": 1.7},
    {"resolution": (17, 5, 33), "share": 0.5, "step": 0.4},
)


def calls_of_many_rays(
    seed: int, settings: dict[str, Any]
) -> dict[str, Callable[[slice], tuple[Tensor, ...]]]:
    """Enough rays for a small grid to be walked cell by cell: calls that take a part of them."""
    inputs = problem(torch.Generator().manual_seed(seed), **({"n": 700} | settings))
    binaries, step = inputs["binaries"], inputs["step"]
    masks, box = build_masks(binaries), inputs["aabbs"].float()
    o, d, near, far = (inputs[name].float() for name in ("rays_o", "rays_d", "near", "far"))
    size = torch.tensor(masks.resolution)
    index_o, index_d = (o + 1) / 2 * size, d / 2 * size

    def planes(part: slice) -> tuple[Tensor, Tensor]:
        return near[part], far[part]

    return {
        "dense": lambda part: walk_ops.sample_dense(
            binaries, box, o[part], d[part], *planes(part), step=step
        ),
        "masks": lambda part: walk_ops.sample_masks(
            masks, box, o[part], d[part], *planes(part), step=step
        ),
        "segments": lambda part: walk_ops.find_pieces(
            masks, index_o[part], index_d[part], *planes(part), voxels=False
        ),
    }


@pytest.mark.parametrize("index", range(len(MANY_RAYS)))
def test_many_rays_at_once_find_what_few_do(index: int) -> None:
    """A few rays are walked one by one, many of a small grid in lanes; no bit may differ."""
    few = 5
    for name, call in calls_of_many_rays(index, MANY_RAYS[index]).items():
        together = call(slice(None))
        rays = len(together[-1])
        apart = [call(slice(i, min(i + few, rays))) for i in range(0, rays, few)]
        assert len(together[0]) > 0
        for k in (1, 2):
            assert torch.equal(together[k], torch.cat([part[k] for part in apart])), name
        counts = torch.cat([part[-1][:, 1] for part in apart])
        assert torch.equal(together[-1][:, 1], counts), name
        assert torch.equal(together[-1][:, 0], counts.cumsum(0) - counts), name
        assert torch.equal(together[0], torch.arange(rays).repeat_interleave(counts)), name


def test_the_first_bad_ray_of_many_is_named() -> None:
    grid, box = torch.ones(1, 8, 8, 8, dtype=torch.bool), nested_boxes(1)
    o, d = torch.full((600, 3), -2.0), torch.ones(600, 3)
    d[431], d[590] = 0, torch.nan
    near, far = torch.zeros(600), torch.full((600,), 10.0)
    with pytest.raises(ValueError, match="ray 431: expected finite"):
        walk_ops.sample_masks(build_masks(grid), box, o, d, near, far, step=0.1)
    with pytest.raises(ValueError, match="ray 431: expected finite"):
        walk_ops.find_pieces(build_masks(grid), o, d, near, far, voxels=False)


def many_rays_with(isa: str, folder: Path) -> dict[str, Tensor]:
    path, here = folder / f"{isa}.pt", Path(__file__).resolve().parent
    folders = [str(here), str(here.parent / "support")]
    subprocess.run(
        [sys.executable, "-P", "-c", f"import sys\nsys.path += {folders!r}\n{MANY}", str(path)],
        env={**os.environ, "FIELDLINE_ISA": isa},
        check=True,
        timeout=120,
    )
    return torch.load(path)


@pytest.mark.parametrize(("level", "isa"), [(0, "baseline"), (1, "avx2")])
def test_every_instruction_set_finds_the_same(level: int, isa: str, tmp_path: Path) -> None:
    best = many_rays_with("best", tmp_path)
    if int(best.pop("isa")) <= level:
        pytest.skip(f"this machine has nothing beyond {isa}")
    lower = many_rays_with(isa, tmp_path)
    assert int(lower.pop("isa")) == level
    assert best.keys() == lower.keys()
    for name, value in lower.items():
        assert torch.equal(value, best[name]), name


@pytest.mark.parametrize("distance", [0.5, 3.0, 7.0, 9.0, 300.0])
@pytest.mark.parametrize("length", [0.0, 0.01])
def test_rays_past_what_is_active(distance: float, length: float) -> None:
    """A few voxels in a large grid: rays that just meet them, just miss them, or pass far off."""
    generator = torch.Generator().manual_seed(int(distance * 10))
    cells = torch.zeros(1, 200, 96, 131, dtype=torch.bool)
    cells[0, 47:53, 16:32, 63:66] = True
    low, high = torch.tensor([47.0, 16, 63]), torch.tensor([53.0, 32, 66])
    shape = torch.tensor(cells.shape[1:])
    box = torch.tensor([[-1.0, -0.5, -0.7, 1.0, 0.6, 0.8]])
    n = 3000
    # Aims on faces and edges of the active voxels, of their blocks, and a little off.
    aims = torch.where(torch.rand(n, 3, generator=generator) < 0.5, low, high)
    aims += (
        torch.randint(-17, 18, (n, 3), generator=generator)
        * torch.tensor([0.0, 1e-4, 1.0])[torch.randint(3, (n, 3), generator=generator)]
    )
    aims = box[0, :3] + aims / shape * (box[0, 3:] - box[0, :3])
    d = torch.nn.functional.normalize(torch.randn(n, 3, generator=generator), dim=1)
    d[::3, 0] = 0
    d[1::6, 1:] = 0
    d[d.norm(dim=1) == 0] = torch.tensor([0.0, 0, 1])
    o = aims - d * distance
    near, far = torch.zeros(n), torch.full((n,), 1e10)
    near[::2] = max(0.0, distance - 0.2)
    far[::5] = distance + 0.01
    # A cone makes samples of that length where the voxels are.
    rest: Any = {"step": 0.004, "cone_angle": length / distance}
    expected = walk_ops.sample_dense(cells, box, o, d, near, far, **rest)
    found = walk_ops.sample_masks(build_masks(cells), box, o, d, near, far, **rest)
    assert len(found[0]) > 100 and (found[3][:, 1] == 0).sum() > 500
    assert all(torch.equal(a, b) for a, b in zip(found, expected))


def test_steps_that_stop_end_the_ray() -> None:
    """At 1e8 a step of 0.001 is nothing to float32: no hang, no samples of no length."""
    full, box = torch.ones(1, 2, 2, 2, dtype=torch.bool), torch.tensor([[0.0, -1, -1, 2e8, 1, 1]])
    o, d = torch.tensor([[-1.0, 0, 0]]), torch.tensor([[1.0, 0, 0]])
    near, far = torch.tensor([1e8]), torch.tensor([torch.inf])
    for cone_angle in (0.0, 1e-12):
        for found in (
            walk_ops.sample_dense(full, box, o, d, near, far, step=1e-3, cone_angle=cone_angle),
            walk_ops.sample_masks(
                build_masks(full), box, o, d, near, far, step=1e-3, cone_angle=cone_angle
            ),
            walk_ops.traverse_dense(full, box, o, d, near, far, step=1e-3, cone_angle=cone_angle),
        ):
            assert len(found[0]) == 0


def test_tiny_steps_are_counted_not_walked() -> None:
    """A hundred million samples of one ray are refused at once, by their number."""
    full, box = torch.ones(1, 1, 1, 1, dtype=torch.bool), torch.tensor([[0.0, 0, 0, 1, 1, 1]])
    o, d, near = torch.tensor([[-0.5, 0.5, 0.5]]), torch.tensor([[1.0, 0, 0]]), torch.zeros(1)
    with pytest.raises(ValueError, match=r"at most 1000 samples \(limit\), got \d{7,}"):
        walk_ops.sample_dense(full, box, o, d, near, near + 9, step=1e-7, limit=1000)


@pytest.mark.parametrize("backend", ["cpu", "emulated"])
def test_fast_cones_stay_in_occupied_cells(backend: str) -> None:
    """Fast cones move samples along the ray, not out of the cells; their number hardly changes."""
    generator = torch.Generator().manual_seed(5)
    inputs = masked_problem(
        generator, resolution=(64, 64, 64), share=0.2, lump=6, n=200, step=0.004, cone_angle=0.006
    )
    inputs = {k: v.float() if isinstance(v, Tensor) else v for k, v in inputs.items()}
    with running_on(backend):
        exact = walk_ops.sample_masks(**inputs, exact=True)
        fast = walk_ops.sample_masks(**inputs, exact=False)
    rays, starts, ends, _ = fast
    points = inputs["rays_o"][rays] + inputs["rays_d"][rays] * ((starts + ends) / 2)[:, None]
    table = reference.dense_of(*inputs["masks"])[0]
    cells = (
        ((points + 1) / 2 * 64 + torch.tensor([[[0.0]], [[1e-3]], [[-1e-3]]])).long().clamp(0, 63)
    )
    near_one = torch.stack([table[tuple(c.unbind(-1))] for c in cells]).any(0)
    assert near_one.double().mean() > 0.999
    assert len(exact[0]) > 1000 and abs(len(fast[0]) / len(exact[0]) - 1) < 0.02
    assert not torch.equal(exact[1], fast[1])
    step = (0.006 * starts).clamp(min=0.004)
    assert torch.allclose(ends - starts, step, atol=1e-5)


def test_a_ray_of_more_runs_than_slots() -> None:
    """A chequered row: more runs than the GPU keeps, walked again."""
    cells = torch.zeros(1, 64, 1, 1, dtype=torch.bool)
    cells[:, ::2] = True
    box, near = torch.tensor([[0.0, 0, 0, 64, 1, 1]]), torch.zeros(40)
    o = torch.tensor([[-1.0, 0.5, 0.5]]).expand(40, 3).contiguous()
    d = torch.tensor([[1.0, 0, 0]]).expand(40, 3).contiguous()
    results = []
    for backend in ("cpu", "emulated"):
        with running_on(backend):
            results.append(
                tensors_of(walk_ops.sample_dense(cells, box, o, d, near, near + 99, step=0.25))
            )
    assert len(results[0][0]) == 40 * 32 * 4
    for a, b in zip(*results):
        assert torch.equal(a, b)


def test_given_crossings_are_used() -> None:
    generator = torch.Generator().manual_seed(2)
    inputs = problem(generator, share=0.5, levels=1)
    inputs = {
        k: v.float() if k != "binaries" and isinstance(v, Tensor) else v for k, v in inputs.items()
    }
    n = len(inputs["near"])
    times = torch.tensor([[1.0, 1.5]]).expand(n, 2).contiguous()
    order = torch.tensor([[0, 1]]).expand(n, 2).contiguous()
    hits = torch.ones(n, 1, dtype=torch.bool)
    for backend in ("cpu", "emulated"):
        with running_on(backend):
            found = walk_ops.traverse_dense(**inputs, crossings=(times, order, hits))
            assert len(found.t_starts) > 0
            assert found.t_starts.min() > 0.98 and found.t_ends.max() < 1.52
            # Indices that are none are no crossings.
            none = walk_ops.traverse_dense(**inputs, crossings=(times, order + 7, hits))
            assert len(none.t_starts) == 0


@pytest.mark.parametrize("name", ["cuda", "cuda.vdb.walk_ops"])
def test_examples(name: str) -> None:
    result = doctest.testmod(importlib.import_module(f"fieldline.{name}"))
    assert result.attempted > 0 and result.failed == 0
