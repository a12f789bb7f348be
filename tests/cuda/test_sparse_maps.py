# SPDX-License-Identifier: Apache-2.0
"""Coordinate sets and kernel maps: sorted, reached, looked up, and turned around."""

from __future__ import annotations

import doctest
from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType
from typing import Any

import pytest
import sparse_map_reference as reference
import torch
from fieldline.cuda import library
from fieldline.cuda.sparse import coordinate_ops, map_ops
from fieldline.cuda.sparse.map_ops import Pairs, Taps, sparse_index
from hypothesis import given, settings
from hypothesis import strategies as st
from op_harness import Case, Error, Inputs, parametrize, running_on, seeded, threads
from torch import Tensor

FLOAT = (torch.float32,)  # coordinates have one dtype; the harness wants a name for it
LOWEST, HIGHEST = -(2**31), 2**31 - 1


def random_rows(
    generator: torch.Generator,
    n: int = 300,
    axes: int = 3,
    size: int = 9,
    batches: int = 2,
    shift: int = -3,
) -> Tensor:
    rows = torch.randint(0, size, (n, 1 + axes), generator=generator) + shift
    rows[:, 0] = torch.randint(0, batches, (n,), generator=generator) * 2  # item 1 is empty
    return rows.int()


def extreme_rows(
    generator: torch.Generator, n: int = 300, axes: int = 3, high: int = HIGHEST
) -> Tensor:
    """Both ends of a range on every axis, by default of int32, and the middle."""
    ends = torch.tensor([-high - 1, -high, -high + 1, -1, 0, high - 1, high])
    rows = ends[torch.randint(0, len(ends), (n, 1 + axes), generator=generator)]
    rows[:, 0] = torch.randint(0, 2, (n,), generator=generator) * HIGHEST
    return rows.int()


def sorted_rows(generator: torch.Generator, **options: Any) -> Tensor:
    return torch.unique(random_rows(generator, **options), dim=0)


def shuffled_rows(generator: torch.Generator, **options: Any) -> Tensor:
    rows = sorted_rows(generator, **options)
    return rows[torch.randperm(rows.shape[0], generator=generator)]


def cubic(
    axes: int, size: int, stride: int = 1, dilation: int = 1, origin: int | None = None
) -> Taps:
    """A kernel of equal sides, centred unless an origin is given."""
    if origin is None:
        origin = -dilation * ((size - 1) // 2)
    return Taps((size,) * axes, (stride,) * axes, (dilation,) * axes, (origin,) * axes)


ROWS: dict[str, Callable[[torch.Generator], Tensor]] = {
    "random": random_rows,
    "sorted": sorted_rows,
    "none": partial(random_rows, n=0),
    "one": partial(random_rows, n=1),
    "repeated": partial(random_rows, n=200, size=2, batches=1),
    "extreme": extreme_rows,
    "extreme1": partial(extreme_rows, n=9, axes=1),
    "extreme2": partial(extreme_rows, n=50, axes=2),
    "extreme4": partial(extreme_rows, axes=4),
    "two_words": partial(extreme_rows, high=2**25),
    "one_axis": partial(random_rows, n=40, axes=1, size=40),
    "two_axes": partial(random_rows, axes=2, size=20),
    "four_axes": partial(random_rows, axes=4, size=4),
}


def sets(**more: Any) -> dict[str, Any]:
    """Every kind of set as the argument `coords`."""
    return {
        name: partial(lambda generator, make: {"coords": make(generator), **more}, make=make)
        for name, make in ROWS.items()
    }


BAD_COORDS = (
    Error("type", {"coords": [[0, 1]]}, TypeError, "coords: expected an int32 tensor, got list"),
    Error(
        "dtype", {"coords": torch.zeros(2, 4).long()}, TypeError, "int32 tensor, got torch.int64"
    ),
    Error("columns", {"coords": torch.zeros(2, 6).int()}, ValueError, r"got \[2, 6\]"),
    Error("shape", {"coords": torch.zeros(4).int()}, ValueError, r"to \[N, 5\], got \[4\]"),
)

HASH = Case(
    name="hash",
    op=map_ops.sparse_hash,
    reference=reference.hash_rows,
    variants=sets(),
    dtypes=FLOAT,
    errors=BAD_COORDS,
)
UNIQUE = Case(
    name="unique",
    op=map_ops.sparse_unique,
    reference=reference.unique,
    variants=sets(),
    dtypes=FLOAT,
    errors=BAD_COORDS,
)


def lookup_variants() -> dict[str, Any]:
    def make(generator: torch.Generator, rows: Callable[..., Tensor]) -> Inputs:
        coords = rows(generator)
        others = random_rows(generator, 50, coords.shape[1] - 1)
        return {"coords": coords, "queries": torch.cat([others, coords.flip(0)])}

    return {name: partial(make, rows=rows) for name, rows in ROWS.items()}


LOOKUP = Case(
    name="lookup",
    op=lambda coords, queries: map_ops.sparse_lookup(sparse_index(coords), queries),
    reference=reference.lookup,
    variants=lookup_variants(),
    dtypes=FLOAT,
    errors=(
        Error("queries", {"queries": torch.zeros(2, 3).int()}, ValueError, r"4\], got \[2, 3\]"),
        Error("dtype", {"queries": torch.zeros(2, 4)}, TypeError, "queries: expected an int32"),
    ),
)

# Kernels of all sizes, strides and dilations, of all parities, on few rows each.
KERNELS = {
    "k3": cubic(3, 3),
    "k3s2": cubic(3, 3, 2, origin=-1),
    "k2s2": cubic(3, 2, 2, origin=0),
    "k3s3": cubic(3, 3, 3, origin=0),
    "k4s2": cubic(3, 4, 2, origin=-1),
    "k5": cubic(3, 5),
    "k5s3": cubic(3, 5, 3, origin=-2),
    "k1s2": cubic(3, 1, 2),
    "k2d2": cubic(3, 2, 1, 2),
    "k3d2": cubic(3, 3, 1, 2),
    "k3d3s2": cubic(3, 3, 2, 3, origin=-3),
    "k2d3s2": cubic(3, 2, 2, 3, origin=5),
    "mixed": Taps((1, 2, 3), (3, 1, 2), (1, 2, 1), (0, -5, 1)),
    "long": Taps((1, 1, 19), (1, 1, 1), (1, 1, 1), (0, 0, -9)),
}
OTHER_AXES = {
    "one_axis": (1, cubic(1, 3, 2, origin=-1)),
    "two_axes": (2, cubic(2, 3, 2, 2, origin=-2)),
    "four_axes": (4, cubic(4, 2, 2, origin=0)),
}
EXTREME = {
    "extreme": (3, cubic(3, 3)),
    "extreme_wide": (3, cubic(3, 2, 1, 2**31 - 1, origin=-(2**31) + 1)),
    "extreme_stride": (3, cubic(3, 2, 2**31 - 1, origin=-1)),
    "extreme_origin": (3, cubic(3, 3, 2, origin=2**33 - 1)),
    "extreme_two": (2, cubic(2, 3, 2, origin=-1)),
    "extreme_four": (4, cubic(4, 2, 2, origin=-1)),
}
TWO_WORDS = partial(extreme_rows, high=2**25)


def reached_variants(n: int = 80) -> dict[str, Any]:
    def make(generator: torch.Generator, rows: Callable[..., Tensor], taps: Taps) -> Inputs:
        return {"coords": rows(generator), "taps": taps}

    few = partial(random_rows, n=n)
    return {
        **{name: partial(make, rows=few, taps=taps) for name, taps in KERNELS.items()},
        **{
            name: partial(make, rows=partial(few, axes=axes), taps=taps)
            for name, (axes, taps) in OTHER_AXES.items()
        },
        **{
            name: partial(make, rows=partial(extreme_rows, n=n, axes=axes), taps=taps)
            for name, (axes, taps) in EXTREME.items()
        },
        "two_words": partial(make, rows=partial(TWO_WORDS, n=n), taps=KERNELS["k3s2"]),
        "none": partial(make, rows=partial(random_rows, n=0), taps=KERNELS["k3s2"]),
        "one": partial(make, rows=partial(random_rows, n=1), taps=KERNELS["k3s2"]),
        "bounded": lambda generator: {
            **make(generator, few, KERNELS["k3s2"]),
            "low": [-1, 0, -(2**40)],
            "high": [2, 3, 2**40],
        },
        "nowhere": lambda generator: {
            **make(generator, few, KERNELS["k3s2"]),
            "low": [5, 5, 5],
            "high": [5, 5, 5],
        },
    }


BAD_TAPS = (
    Error("axes", {"taps": cubic(2, 3)}, ValueError, "kernel_size: expected 3 numbers"),
    Error("stride", {"taps": cubic(3, 3, 0)}, ValueError, "stride: expected 1 or more, got"),
    Error("size", {"taps": cubic(3, 0)}, ValueError, "kernel_size: expected 1 or more, got"),
    Error("origin", {"taps": cubic(3, 3, origin=2**40)}, RuntimeError, "expected origins in"),
    Error("huge", {"taps": cubic(3, 2**20)}, ValueError, r"fewer than 2\^31 of them"),
    Error("far", {"taps": cubic(3, 10, 1, 2**31 - 1)}, RuntimeError, r"over less than 2\^34"),
)
BAD_LIMITS = (
    Error("low", {"low": [0, 0]}, ValueError, "low: expected 3 numbers, got"),
    Error("high", {"high": [0]}, ValueError, "high: expected 3 numbers, got"),
)
COARSE = Case(
    name="coarse",
    op=map_ops.sparse_coarse_coordinates,
    reference=reference.coarse_coordinates,
    variants=reached_variants(),
    dtypes=FLOAT,
    errors=BAD_COORDS + BAD_TAPS + BAD_LIMITS,
)
FINE = Case(
    name="fine",
    op=map_ops.sparse_fine_coordinates,
    reference=reference.fine_coordinates,
    variants=reached_variants(40),
    dtypes=FLOAT,
    errors=BAD_COORDS + BAD_TAPS + BAD_LIMITS,
)


def levels_input(
    generator: torch.Generator, rows: Callable[..., Tensor], taps: Sequence[str]
) -> Inputs:
    return {"coords": rows(generator), "taps": [KERNELS[name] for name in taps]}


LEVELS = Case(
    name="levels",
    op=map_ops.sparse_levels,
    reference=reference.levels,
    variants={
        "halved": partial(levels_input, rows=random_rows, taps=["k2s2"] * 4),
        "mixed": partial(levels_input, rows=random_rows, taps=["k3s2", "k2s2", "k3d3s2"]),
        "growing": partial(
            levels_input, rows=partial(random_rows, n=60, size=500), taps=["k3", "k3s2", "k2s2"]
        ),
        "extreme": partial(levels_input, rows=extreme_rows, taps=["k3s2", "k2s2"]),
        "none": partial(levels_input, rows=partial(random_rows, n=0), taps=["k2s2", "k2s2"]),
        "no_level": partial(levels_input, rows=random_rows, taps=[]),
    },
    dtypes=FLOAT,
)


def map_variants() -> dict[str, Any]:
    def make(
        generator: torch.Generator, fine: Callable[..., Tensor], coarse: Any, taps: Taps
    ) -> Inputs:
        coords = fine(generator)
        return {"coords": coords, "coarse": coarse(generator, coords), "taps": taps}

    def reached(taps: Taps) -> Callable[..., Tensor]:
        return lambda _, coords: reference.coarse_coordinates(coords, taps)

    def itself(_: Any, coords: Tensor) -> Tensor:
        return coords

    def others(generator: torch.Generator, coords: Tensor) -> Tensor:
        """Many that have no partner, some twice, in no order."""
        near = random_rows(generator, 60, coords.shape[1] - 1)
        far = extreme_rows(generator, 30, coords.shape[1] - 1)
        return torch.cat([near, far, near[:10]])

    few = partial(sorted_rows, n=80)
    shuffled = partial(shuffled_rows, n=80)
    return {
        **{
            n: partial(make, fine=few, coarse=reached(taps), taps=taps)
            for n, taps in KERNELS.items()
        },
        **{
            f"{name}_shuffled": partial(make, fine=shuffled, coarse=others, taps=KERNELS[name])
            for name in ("k3", "k3s2", "k2d3s2", "long")
        },
        **{
            name: partial(make, fine=partial(few, axes=axes), coarse=reached(taps), taps=taps)
            for name, (axes, taps) in OTHER_AXES.items()
        },
        **{
            name: partial(
                make, fine=partial(extreme_rows, n=90, axes=axes), coarse=itself, taps=taps
            )
            for name, (axes, taps) in EXTREME.items()
        },
        "two_words": partial(
            make, fine=partial(TWO_WORDS, n=90), coarse=itself, taps=KERNELS["k3d2"]
        ),
        "repeated": partial(
            make, fine=partial(random_rows, n=90, size=3), coarse=itself, taps=KERNELS["k3"]
        ),
        "no_fine": partial(make, fine=partial(few, n=0), coarse=others, taps=KERNELS["k3"]),
        "no_coarse": partial(
            make, fine=few, coarse=lambda _, coords: coords[:0], taps=KERNELS["k3"]
        ),
        "one": partial(make, fine=partial(few, n=1), coarse=itself, taps=KERNELS["k3"]),
    }


def symmetric_variants() -> dict[str, Any]:
    def make(generator: torch.Generator, rows: Callable[..., Tensor], taps: Taps) -> Inputs:
        coords = rows(generator)
        return {"coords": coords, "coarse": coords, "taps": taps}

    kernels = {
        "sorted": (sorted_rows, cubic(3, 3)),
        "shuffled": (shuffled_rows, cubic(3, 3)),
        "k5": (partial(shuffled_rows, n=150), cubic(3, 5)),
        "k1": (shuffled_rows, cubic(3, 1)),
        "dilated": (partial(sorted_rows, n=150), cubic(3, 3, 1, 3)),
        "mixed": (shuffled_rows, Taps((1, 3, 5), (1, 1, 1), (4, 2, 1), (0, -2, -2))),
        "repeated": (partial(random_rows, n=150, size=4), cubic(3, 3)),
        "extreme": (partial(extreme_rows, n=150), cubic(3, 3)),
        "two_words": (partial(TWO_WORDS, n=150), cubic(3, 3)),
        "one_axis": (partial(shuffled_rows, axes=1, size=60), cubic(1, 5, 1, 2)),
        "two_axes": (partial(shuffled_rows, axes=2, size=20), cubic(2, 3)),
        "four_axes": (partial(shuffled_rows, axes=4, size=4), cubic(4, 3)),
        "none": (partial(random_rows, n=0), cubic(3, 3)),
        "one": (partial(random_rows, n=1), cubic(3, 3)),
    }
    return {name: partial(make, rows=rows, taps=taps) for name, (rows, taps) in kernels.items()}


def table_of(coords: Tensor, coarse: Tensor, taps: Taps, symmetric: bool = False) -> Tensor:
    return map_ops.sparse_kernel_table(sparse_index(coords), coarse, taps, symmetric)


def pairs_of(coords: Tensor, coarse: Tensor, taps: Taps, symmetric: bool = False) -> Pairs:
    return map_ops.sparse_kernel_pairs(sparse_index(coords), coarse, taps, symmetric)


def reference_table(coords: Tensor, coarse: Tensor, taps: Taps) -> Tensor:
    return reference.kernel_table(coords, coarse, taps)


def reference_pairs(coords: Tensor, coarse: Tensor, taps: Taps) -> Any:
    return reference.table_pairs(reference_table(coords, coarse, taps))


BAD_MAPS = (
    Error("coarse", {"coarse": torch.zeros(2, 3).int()}, ValueError, "coarse_coords: expected"),
    Error("dtype", {"coarse": torch.zeros(2, 4).long()}, TypeError, "expected an int32 tensor"),
    *BAD_TAPS,
)
BAD_SYMMETRY = (
    Error("even", {"taps": cubic(3, 2)}, ValueError, "symmetric: expected odd kernels"),
    Error("strided", {"taps": cubic(3, 3, 2)}, ValueError, "symmetric: expected odd kernels"),
    Error("off_centre", {"taps": cubic(3, 3, origin=0)}, ValueError, "centred taps"),
    Error("sets", {"coarse": torch.zeros(2, 4).int()}, ValueError, "expected the fine set itself"),
)
MAPS = [
    Case(
        name="table",
        op=table_of,
        reference=reference_table,
        variants=map_variants(),
        dtypes=FLOAT,
        errors=BAD_MAPS,
    ),
    Case(
        name="pairs",
        op=pairs_of,
        reference=reference_pairs,
        variants=map_variants(),
        dtypes=FLOAT,
        errors=BAD_MAPS,
    ),
    Case(
        name="symmetric_table",
        op=partial(table_of, symmetric=True),
        reference=reference_table,
        variants=symmetric_variants(),
        dtypes=FLOAT,
        errors=BAD_SYMMETRY,
    ),
    Case(
        name="symmetric_pairs",
        op=partial(pairs_of, symmetric=True),
        reference=reference_pairs,
        variants=symmetric_variants(),
        dtypes=FLOAT,
        errors=BAD_SYMMETRY,
    ),
]


def injective_table(
    generator: torch.Generator, taps: int = 7, n_coarse: int = 60, n_fine: int = 90
) -> Tensor:
    """Random partners, no fine row twice in a tap; taps of every fullness."""
    table = torch.full((taps, n_coarse), -1, dtype=torch.int32)
    for tap in range(taps):
        kept = torch.rand(n_coarse, generator=generator) < tap / max(taps - 1, 1)
        partners = torch.randperm(max(n_fine, n_coarse), generator=generator)[:n_coarse].int()
        table[tap] = torch.where(kept & (partners < n_fine), partners, -1)
    return table


def form_inputs(
    generator: torch.Generator, form: str, repeated: bool = False, **sizes: int
) -> Inputs:
    table = injective_table(generator, **sizes)
    if repeated:
        table = torch.where(table >= 0, table % 5, -1)
    n_fine = sizes.get("n_fine", 90)
    if form == "table":
        return {"table": table, "n_fine": n_fine}
    fine, coarse, starts = reference.table_pairs(table)
    return {
        "fine_rows": fine,
        "coarse_rows": coarse,
        "starts": starts,
        "n_fine": n_fine,
        "n_coarse": table.shape[1],
    }


def form_variants(form: str, *left_out: str) -> dict[str, Any]:
    kinds: dict[str, dict[str, int]] = {
        "some": {},
        "repeated": {"repeated": True},
        "none": {"n_coarse": 0},
        "no_tap": {"taps": 0},
        "one": {"taps": 1, "n_coarse": 1, "n_fine": 1},
        "long": {"taps": 3, "n_coarse": 700, "n_fine": 700},
    }

    def make(generator: torch.Generator, **options: Any) -> Inputs:
        inputs = form_inputs(generator, form, **options)
        return {name: value for name, value in inputs.items() if name not in left_out}

    return {name: partial(make, **options) for name, options in kinds.items()}


def on_pairs(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of Pairs as one of their parts, which the harness can move and stride."""

    def call(fine_rows: Tensor, coarse_rows: Tensor, starts: Tensor, **rest: Any) -> Any:
        return function(Pairs(fine_rows, coarse_rows, starts), **rest)

    return call


FORMS = [
    Case(
        name="table_pairs",
        op=map_ops.sparse_table_pairs,
        reference=reference.table_pairs,
        variants=form_variants("table", "n_fine"),
        dtypes=FLOAT,
        errors=(Error("dtype", {"table": torch.zeros(2, 2)}, RuntimeError, "expected dtype"),),
    ),
    Case(
        name="pairs_table",
        op=on_pairs(map_ops.sparse_pairs_table),
        reference=reference.pairs_table,
        variants=form_variants("pairs", "n_fine"),
        dtypes=FLOAT,
        errors=(
            Error("rows", {"n_coarse": 3}, RuntimeError, r"coarse_rows: expected rows in \[0, 3\)"),
            Error("starts", {"starts": torch.tensor([0, 1])}, RuntimeError, "starts: expected"),
            Error("many", {"n_coarse": 2**40}, RuntimeError, "n_coarse: expected 0 to"),
        ),
    ),
    Case(
        name="invert_table",
        op=map_ops.sparse_invert_table,
        reference=reference.invert_table,
        variants=form_variants("table"),
        dtypes=FLOAT,
        errors=(Error("rows", {"n_fine": 3}, RuntimeError, "table: expected rows below 3"),),
    ),
    Case(
        name="invert_pairs",
        op=on_pairs(map_ops.sparse_invert_pairs),
        reference=reference.invert_pairs,
        variants=form_variants("pairs", "n_coarse"),
        dtypes=FLOAT,
        errors=(Error("rows", {"n_fine": 3}, RuntimeError, r"fine_rows: expected rows"),),
    ),
]


@parametrize([HASH, UNIQUE, LOOKUP, COARSE, FINE, LEVELS, *MAPS, *FORMS])
def test_operator(check: Callable[[], None]) -> None:
    check()


BACKENDS = ["cpu", "emulated", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.mark.parametrize("backend", BACKENDS)
def test_bounds(backend: str) -> None:
    coords = extreme_rows(seeded("bounds"))
    with running_on(backend) as device:
        assert map_ops.sparse_bounds(coords.to(device)) == (
            tuple(coords.amin(0).tolist()),
            tuple(coords.amax(0).tolist()),
        )
        assert map_ops.sparse_bounds(coords[:0].to(device)) == ((0,) * 4, (0,) * 4)


def surface_voxels(n: int) -> Tensor:
    """About n voxels of wavy sheets in two batch items, below and above zero."""
    side = int((n / 2) ** 0.5)
    x, y = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    sheets = []
    for batch, scale in ((0, 0.013), (3, 0.031)):
        z = (40 * torch.sin(scale * x) * torch.cos(scale * y)).floor().long()
        sheets.append(torch.stack([torch.full_like(x, batch), x - side // 2, y, z], -1).view(-1, 4))
    return torch.cat(sheets).int()


def row_keys(rows: Tensor) -> Tensor:
    """One number a row, by mixed radix; far apart enough for kernels of a few cells."""
    sizes = torch.tensor([8, 4096, 4096, 512])
    key = torch.zeros(rows.shape[0], dtype=torch.int64)
    for column in range(rows.shape[1]):
        key = key * sizes[column] + rows[:, column] + sizes[column] // 4
    return key


def assert_complete(fine: Tensor, coarse: Tensor, taps: Taps, pairs: Pairs) -> None:
    """Every pair satisfies the relation, none is there twice, and none is missing."""
    offsets = torch.tensor([(0, *offset) for offset in reference.tap_offsets(taps)])
    scaled = coarse.long() * torch.tensor([1, *taps.stride])
    tap = torch.repeat_interleave(torch.arange(taps.count), pairs.starts.diff())
    expected = (
        row_keys(scaled)[pairs.coarse_rows] + (row_keys(offsets) - row_keys(0 * offsets))[tap]
    )
    assert torch.equal(row_keys(fine.long())[pairs.fine_rows], expected)
    ascending = pairs.coarse_rows.diff() > 0
    assert bool((ascending | (tap[1:] != tap[:-1])).all())
    present = row_keys(fine.long()).sort().values
    for t, offset in enumerate(offsets):
        wanted = row_keys(scaled + offset)
        place = torch.searchsorted(present, wanted).clamp(max=present.shape[0] - 1)
        assert int((present[place] == wanted).sum()) == int(pairs.starts[t + 1] - pairs.starts[t])


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("k3", "sorted"),
        ("k3", "shuffled"),
        ("k3s2", "shuffled"),
        ("k2s2", "sorted"),
        ("k3d2", "sorted"),
    ],
)
def test_half_a_million_voxels(name: str, order: str) -> None:
    fine, taps = surface_voxels(500_000), KERNELS[name]
    if order == "shuffled":
        fine = fine[torch.randperm(fine.shape[0], generator=seeded("shuffle"))]
    symmetric = taps.stride == (1, 1, 1)
    coarse = fine if symmetric else map_ops.sparse_coarse_coordinates(fine, taps)
    pairs = map_ops.sparse_kernel_pairs(sparse_index(fine), coarse, taps, symmetric)
    assert_complete(fine, coarse, taps, pairs)
    assert bool((row_keys(coarse.long()).diff() > 0).all()) or (symmetric and order == "shuffled")
    with threads(3):
        again = map_ops.sparse_kernel_pairs(sparse_index(fine), coarse, taps, symmetric)
    assert all(torch.equal(a, b) for a, b in zip(pairs, again))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_map(data: st.DataObject) -> None:
    """Few coordinates of any distance, any kernel: table, pairs and inverse agree."""
    axes = data.draw(st.integers(1, 4))
    value = st.one_of(st.integers(-4, 4), st.integers(LOWEST, HIGHEST))
    row = st.tuples(st.integers(0, 2), *[value] * axes)
    coords = torch.tensor(data.draw(st.lists(row, max_size=20)), dtype=torch.int32)
    coords = coords.reshape(-1, 1 + axes)

    def numbers(low: int, high: int) -> tuple[int, ...]:
        return tuple(data.draw(st.lists(st.integers(low, high), min_size=axes, max_size=axes)))

    taps = Taps(numbers(1, 3), numbers(1, 4), numbers(1, 4), numbers(-3, 3))
    coarse = map_ops.sparse_coarse_coordinates(coords, taps)
    assert torch.equal(coarse, reference.coarse_coordinates(coords, taps))
    expected = reference.kernel_table(coords, coarse, taps)
    assert torch.equal(table_of(coords, coarse, taps), expected)
    pairs = pairs_of(coords, coarse, taps)
    assert torch.equal(map_ops.sparse_pairs_table(pairs, coarse.shape[0]), expected)
    inverse = map_ops.sparse_invert_table(expected, coords.shape[0])
    turned = map_ops.sparse_invert_pairs(pairs, coords.shape[0])
    swapped = Pairs(turned.coarse_rows, turned.fine_rows, turned.starts)
    assert torch.equal(map_ops.sparse_pairs_table(swapped, coords.shape[0]), inverse)


def test_an_index_that_does_not_belong_is_refused() -> None:
    coords = random_rows(seeded("index"))
    _, slots, order, bounds = sparse_index(coords).parts
    numbers = [number for part in KERNELS["k3"] for number in part]
    bad = torch.full_like(order, coords.shape[0])
    with pytest.raises(RuntimeError, match="order: expected rows below 300, got 300"):
        library.ops().sparse_kernel_table(coords, slots, bad, bounds, coords, numbers, False)
    with pytest.raises(RuntimeError, match=r"bounds: expected shape \[2, 4\]"):
        library.ops().sparse_kernel_table(coords, slots, order, bounds[:1], coords, numbers, False)
    with pytest.raises(RuntimeError, match=r"slots: expected shape \[1024\], got \[0\]"):
        library.ops().sparse_lookup(coords, slots, coords)


@pytest.mark.parametrize("module", [coordinate_ops, map_ops])
def test_examples(module: ModuleType) -> None:
    result = doctest.testmod(module)
    assert result.attempted > 10
    assert result.failed == 0
