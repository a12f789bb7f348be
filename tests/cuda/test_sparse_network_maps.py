# SPDX-License-Identifier: Apache-2.0
"""All maps of a network at once: what each alone would be, whatever is made beside it."""

from __future__ import annotations

import doctest
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import sparse_map_reference as reference
import torch
from fieldline.cuda import library
from fieldline.cuda.sparse import coordinate_ops, map_ops, network_ops
from fieldline.cuda.sparse.map_ops import Taps
from fieldline.cuda.sparse.network_ops import MapWanted, ScheduleWanted, TableName
from op_harness import HAS_CUDA, Case, Error, Inputs, parametrize, running_on
from torch import Tensor

BACKENDS = ["cpu", "emulated", *(["cuda"] if HAS_CUDA else [])]
LOWEST, HIGHEST = -(2**31), 2**31 - 1


def cubic(axes: int, size: int, stride: int = 1, origin: int | None = None) -> Taps:
    origin = -((size - 1) // 2) if origin is None else origin
    return Taps((size,) * axes, (stride,) * axes, (1,) * axes, (origin,) * axes)


def rows(generator: torch.Generator, n: int, axes: int, size: int, spread: int = 1) -> Tensor:
    """Distinct rows in no order, below and above zero, in items 0 and 2 of a batch."""
    found = (torch.randint(0, size, (n, 1 + axes), generator=generator) - size // 2) * spread
    found[:, 0] = torch.randint(0, 2, (n,), generator=generator) * 2
    found = torch.unique(found.int(), dim=0)
    return found[torch.randperm(len(found), generator=generator)]


def ends(generator: torch.Generator, n: int, axes: int) -> Tensor:
    """Distinct rows at both ends of int32, and in the middle."""
    values = torch.tensor([LOWEST, LOWEST + 1, -1, 0, 1, HIGHEST - 1, HIGHEST])
    found = values[torch.randint(0, len(values), (n, 1 + axes), generator=generator)]
    found[:, 0] = 0
    return torch.unique(found.int(), dim=0)


def network(generator: torch.Generator, make: Callable[..., Tensor], axes: int = 3) -> Inputs:
    """Two levels below the root, one of them by kernels that overlap; forms of all kinds."""
    root = make(generator, axes=axes)
    half, near, overlapping = cubic(axes, 2, 2, 0), cubic(axes, 3), cubic(axes, 3, 2)
    first = reference.coarse_coordinates(root, half)
    second = reference.coarse_coordinates(first, overlapping)
    maps = [
        MapWanted(0, 0, near, symmetric=True),
        MapWanted(0, 1, half, with_reverse=True),
        MapWanted(1, 1, near, symmetric=True),
        MapWanted(1, 2, overlapping, with_reverse=True),
        MapWanted(2, 2, cubic(axes, 2)),
    ]
    most = -(-(3**axes) // 32)
    schedules = [
        ScheduleWanted(TableName(0), max(3, most), (64, 128)),
        ScheduleWanted(TableName(0), max(1, most), (64,)),
        ScheduleWanted(TableName(1, True), 1, (128,)),
        ScheduleWanted(TableName(3), max(2, most), (64,)),
        ScheduleWanted(TableName(3, True), max(2, most), (128, 64)),
    ]
    pairs = [TableName(0), TableName(1, True), TableName(3), TableName(4)]
    return {"sets": [root, first, second], "maps": maps, "schedules": schedules, "pairs": pairs}


def many(generator: torch.Generator) -> Inputs:
    """More than the arguments of a kernel have room for."""
    sets = [rows(generator, 40, 3, 5)]
    maps = [MapWanted(0, 0, cubic(3, 3), symmetric=True) for _ in range(19)]
    schedules = [ScheduleWanted(TableName(i % 19), 1 + i % 3, (64,)) for i in range(60)]
    return {"sets": sets, "maps": maps, "schedules": schedules, "pairs": [TableName(18)] * 50}


def full_masks(generator: torch.Generator) -> Inputs:
    """A run of 32 taps, and another beside it: their sort needs more than 32 bits."""
    line = Taps((32,), (1,), (1,), (-15,))
    sets = [rows(generator, 200, 1, 300)]
    orders = [ScheduleWanted(TableName(0), splits, (64,)) for splits in (1, 2)]
    return {"sets": sets, "maps": [MapWanted(0, 0, line)], "schedules": orders, "pairs": []}


def nothing(generator: torch.Generator) -> Inputs:
    return {"sets": [rows(generator, 9, 2, 9)], "maps": [], "schedules": [], "pairs": []}


def flat(sets: Sequence[Tensor], maps: Any, schedules: Any, pairs: Any) -> list[Any]:
    made = network_ops.sparse_network_maps(sets, maps, schedules, pairs)
    tables = [[own] if back is None else [own, back] for own, back in made.tables]
    orders = [
        [s.order, s.table, *(s.tile_masks[t] for t in wanted.tile_rows)]
        for s, wanted in zip(made.schedules, schedules)
    ]
    return [tables, orders, made.pairs, sets[0]]


def one_by_one(sets: Sequence[Tensor], maps: Any, schedules: Any, pairs: Any) -> list[Any]:
    tables = []
    for fine, coarse, taps, _, with_reverse in maps:
        own = reference.kernel_table(sets[fine], sets[coarse], taps)
        back = [reference.invert_table(own, len(sets[fine]))] if with_reverse else []
        tables.append([own, *back])
    orders = []
    for (number, reverse), splits, tiles in schedules:
        plans = [reference.plan_reference(tables[number][reverse], splits, t) for t in tiles]
        orders.append([plans[0][0], plans[0][2], *(masks for _, masks, _ in plans)])
    listed = [reference.table_pairs(tables[number][reverse]) for number, reverse in pairs]
    return [tables, orders, listed, sets[0]]


COORDS = torch.tensor([[0, 1, 1], [0, 1, 2]], dtype=torch.int32)
NEAR = cubic(2, 3)
ERRORS = (
    Error("dtype", {"sets": [COORDS.long()]}, TypeError, r"sets\[0\]: expected an int32 tensor"),
    Error("columns", {"sets": [COORDS, COORDS[:, :2]]}, ValueError, r"sets\[1\]: expected shape"),
    Error("no_set", {"sets": []}, ValueError, "sets: expected at least one"),
    Error("set", {"maps": [MapWanted(0, 7, cubic(3, 3))]}, ValueError, "sets below 3, got 0 and 7"),
    Error(
        "axes",
        {"maps": [MapWanted(0, 0, NEAR)], "schedules": [], "pairs": []},
        ValueError,
        "expected 3 numbers, one an axis",
    ),
    Error(
        "symmetric",
        {"maps": [MapWanted(0, 1, cubic(3, 3), symmetric=True)]},
        ValueError,
        "on one set and without reverse",
    ),
    Error(
        "even",
        {"maps": [MapWanted(0, 0, cubic(3, 2), symmetric=True)]},
        ValueError,
        "centred odd kernels",
    ),
    Error("pairs", {"pairs": [TableName(0, True)]}, ValueError, "with reverse where that is meant"),
    Error(
        "tiles",
        {"schedules": [ScheduleWanted(TableName(0), 1, (32,))]},
        ValueError,
        "expected tile_rows of 64, 128 or both",
    ),
)
CASE = Case(
    name="network",
    op=flat,
    reference=one_by_one,
    variants={
        "some": partial(network, make=partial(rows, n=150, size=7)),
        "wide": partial(network, make=partial(rows, n=150, size=7, spread=2**27)),
        "extreme": partial(network, make=partial(ends, n=80)),
        "none": partial(network, make=partial(rows, n=0, size=7)),
        "one": partial(network, make=partial(rows, n=1, size=7)),
        "one_axis": partial(network, make=partial(rows, n=150, size=200), axes=1),
        "two_axes": partial(network, make=partial(rows, n=150, size=20), axes=2),
        "four_axes": partial(network, make=partial(rows, n=90, size=4), axes=4),
        "many": many,
        "full_masks": full_masks,
        "nothing": nothing,
    },
    dtypes=(torch.float32,),
    errors=ERRORS,
    no_compile="sets are found out before a network is compiled",
)


@parametrize([CASE])
def test_operator(check: Callable[[], None]) -> None:
    check()


@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_numbers_that_name_nothing_are_refused(backend: str) -> None:
    """Whoever calls the operator directly reads no memory that is not theirs."""
    with running_on(backend) as device:
        run, sets = library.ops().sparse_network_maps, [COORDS.to(device)]
        line = [0, 0, 1, 0, *(n for part in NEAR for n in part)]
        assert run(sets, line, [0, 0, 1, 1, 0], [0, 0])[1].numel() == 20
        for message, arguments in {
            "sets below 1, got 0 and 1": (sets, [0, 1, *line[2:]], [], []),
            "sets below 1, got -1 and 0": (sets, [-1, *line[1:]], [], []),
            "maps: expected 12 numbers each": (sets, line[1:], [], []),
            "without reverse": (sets, [0, 0, 1, 1, *line[4:]], [], []),
            "expected a map below 1": (sets, line, [1, 0, 1, 1, 0], []),
            "with reverse where that is meant": (sets, line, [], [0, 1]),
            "splits: expected 1 to K": (sets, line, [0, 0, 0, 1, 0], []),
            "schedules: expected 5 numbers each": (sets, line, [0, 0, 1], []),
        }.items():
            with pytest.raises(RuntimeError, match=message):
                run(*arguments)


@pytest.mark.parametrize("backend", BACKENDS)
def test_repeated_rows_do_no_harm(backend: str) -> None:
    twice = COORDS.repeat(40, 1)
    with running_on(backend) as device:
        wanted = [MapWanted(0, 0, NEAR, symmetric=True), MapWanted(0, 0, NEAR, with_reverse=True)]
        pairs = [TableName(0), TableName(1, True)]
        made = network_ops.sparse_network_maps([twice.to(device)], wanted, (), pairs)
        for table in (made.tables[0][0], *made.tables[1]):
            assert table is not None and bool(((table >= -1) & (table < 80)).all())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["random", "wide", "extreme", "none", "one"])
def test_a_tree_of_levels(backend: str, name: str) -> None:
    """Chains and forks, in one wave and in several, cut off by sizes, with bounds and without."""
    generator = torch.Generator().manual_seed(3)
    coords = {
        "random": lambda: rows(generator, 150, 3, 30),
        "wide": lambda: rows(generator, 150, 3, 30, spread=2**26),
        "extreme": lambda: ends(generator, 60, 3),
        "none": lambda: rows(generator, 0, 3, 30),
        "one": lambda: rows(generator, 1, 3, 30),
    }[name]()
    half, third, overlapping = cubic(3, 2, 2, 0), cubic(3, 3, 3, 0), cubic(3, 3, 2)
    gaps = Taps((1, 2, 1), (2, 2, 3), (1, 1, 1), (1, 0, -1))
    chain = [half, half, overlapping, third, gaps, half, half, half, half, half, half, half, half]
    sources = [0, 1, 0, 3, 1, 5, 2, 7, 8, 9, 10, 11, 0]
    high = [(9, 9, 9), *[None] * 11, (5, 6, 7)]
    expected: list[Tensor] = [coords]
    for taps, source, size in zip(chain, sources, high):
        low = None if size is None else [0, 0, 0]
        expected.append(reference.coarse_coordinates(expected[source], taps, low, size))
    with running_on(backend) as device:
        here = coords.to(device)
        for bounds in (None, map_ops.sparse_bounds(here)):
            found = map_ops.sparse_levels(here, chain, sources, high, bounds)
            for a, b in zip(found, expected[1:]):
                assert torch.equal(a.cpu(), b)


@pytest.mark.parametrize("backend", BACKENDS)
def test_bounds_that_lie_do_no_harm(backend: str) -> None:
    coords = rows(torch.Generator().manual_seed(0), 100, 3, 50)
    with running_on(backend) as device:
        for bounds in (((0,) * 4, (0,) * 4), ((5,) * 4, (-5,) * 4)):
            levels = map_ops.sparse_levels(
                coords.to(device), [cubic(3, 2, 2, 0)] * 3, bounds=bounds
            )
            assert all(level.shape[1] == 4 and len(level) <= len(coords) for level in levels)
        with pytest.raises(RuntimeError, match="bounds: expected 8 numbers or none, got 4"):
            map_ops.sparse_levels(coords.to(device), [], bounds=((0, 0), (1, 1)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_survey_tells_bounds_and_repeated_rows(backend: str) -> None:
    generator = torch.Generator().manual_seed(1)
    coords = ends(generator, 300, 3)
    with running_on(backend) as device:
        for given, repeated in (
            (coords, 0),
            (torch.cat([coords, coords[3:8]]), 5),
            (coords[:0], 0),
        ):
            (low, high), found = map_ops.sparse_index(given.to(device)).survey()
            assert found == repeated
            assert (tuple(low), tuple(high)) == map_ops.sparse_bounds(given)


@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_outputs_of_an_operator_share_no_memory(backend: str) -> None:
    """Which torch forbids; the emulator's operators are checked for it here, a GPU's above too."""
    inputs = CASE.variants["some"](torch.Generator().manual_seed(0))
    wanted = inputs["maps"], inputs["schedules"], inputs["pairs"]
    chain = [cubic(3, 2, 2, 0), cubic(3, 3, 2), cubic(3, 2, 2, 0)]
    with running_on(backend) as device:
        sets = [coords.to(device) for coords in inputs["sets"]]
        numbers = network_ops.NetworkProgram(4, len(sets), *wanted).numbers
        tree = coordinate_ops.reaching_levels(4, chain).numbers
        for operator, arguments in (
            (library.ops().sparse_network_maps, (sets, *numbers)),
            (library.ops().sparse_reached, (sets[0], *tree, ())),
        ):
            memories = [t.untyped_storage().data_ptr() for t in operator(*arguments)]
            assert len(set(memories)) == len(memories)
            tests = ["test_schema", "test_autograd_registration", "test_faketensor"]
            torch.library.opcheck(operator.default, arguments, test_utils=tests)


def test_examples() -> None:
    result = doctest.testmod(network_ops)
    assert result.attempted > 3 and result.failed == 0
