# SPDX-License-Identifier: Apache-2.0
"""All kernel maps of a network in one go, in the forms that its layers will read.

Sets of coordinates are numbered; maps lead from one to another, and are numbered too. A GPU makes
all of them in a few launches, whatever their number, and the host waits for it only where pairs are
wanted, once.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..library import declare, ops
from .coordinate_ops import Taps, check_coords, tap_numbers
from .map_ops import (
    CoordinateIndex,
    Pairs,
    runs_cuda,
    sparse_index,
    sparse_invert_table,
    sparse_kernel_table,
    sparse_table_pairs,
)

TILES = (64, 128)
_NAME = "sparse_network_maps"


class MapWanted(NamedTuple):
    """A map between two sets.

    Args:
        fine: Number of the fine set.
        coarse: Number of the coarse set.
        taps: What connects them.
        symmetric: Both sets are one, and the taps are centred and odd: half of them are looked up.
        with_reverse: The table of the reverse map is wanted as well; not of symmetric maps.
    """

    fine: int
    coarse: int
    taps: Taps
    symmetric: bool = False
    with_reverse: bool = False


class TableName(NamedTuple):
    """The table of a map, or that of its reverse."""

    map: int
    reversed: bool = False


class ScheduleWanted(NamedTuple):
    """An order of rows for implicit GEMM.

    Args:
        table: Of which table.
        splits: In how many runs the taps are sorted apart.
        tile_rows: Rows that share the work on a tap: 64, 128 or both.
    """

    table: TableName
    splits: int
    tile_rows: tuple[int, ...]


class Schedule(NamedTuple):
    """An order of rows, as `kernel_map.Plan` says, with the masks of each size of tiles."""

    order: Tensor
    table: Tensor
    tile_masks: dict[int, Tensor]


class NetworkMaps(NamedTuple):
    """What `sparse_network_maps` makes, each in the order in which it was asked for.

    Args:
        indexes: Of the sets that are the fine one of a map; None for others.
        tables: Of each map, its own and that of its reverse or None.
        schedules: The orders of rows.
        pairs: The pairs.
    """

    indexes: list[CoordinateIndex | None]
    tables: list[tuple[Tensor, Tensor | None]]
    schedules: list[Schedule]
    pairs: list[Pairs]


def sparse_conv_plan(table: Tensor, splits: int, tile_rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sorts the rows of a table by the taps that they have, for implicit GEMM.

    Args:
        table: int32 [K, n_out], input rows or -1.
        splits: In how many runs the taps are sorted apart, at most 32 taps a run.
        tile_rows: Rows that share the work on a tap, 64 or 128.

    Returns:
        order [2, splits, n_out], tile_masks [splits, tiles] and the permuted table [K, n_out], as
        `kernel_map.Plan` has them.

    Example:
        >>> order, masks, _ = sparse_conv_plan(torch.tensor([[0, -1], [1, 0]]).int(), 1, 64)
        >>> order[:, 0].tolist(), masks.tolist()
        ([[0, 1], [0, 1]], [[3]])
    """
    return ops().sparse_conv_plan(table, splits, tile_rows)


class NetworkProgram:
    """What maps are wanted of any sets of coordinates, checked once.

    Args:
        columns: Of the coordinates, 1 + D.
        n_sets: How many sets there will be.
        maps: The maps.
        schedules: Orders of rows, of the maps' tables.
        pairs: Tables whose pairs are wanted as well.

    Raises:
        ValueError: A kernel size, stride or dilation is below 1, or a number names no set or map.
    """

    def __init__(
        self,
        columns: int,
        n_sets: int,
        maps: Sequence[MapWanted],
        schedules: Sequence[ScheduleWanted] = (),
        pairs: Sequence[TableName] = (),
    ) -> None:
        self.columns = columns
        self.n_sets = n_sets
        self.maps = tuple(maps)
        self.schedules = tuple(schedules)
        self.pairs = tuple(pairs)
        _check_numbers(self)
        self._fine = {wanted.fine for wanted in maps}
        self._taps = [wanted.taps.count for wanted in maps]
        numbers = [
            (*(int(n) for n in (w.fine, w.coarse, w.symmetric, w.with_reverse)),
             *tap_numbers(_NAME, w.taps, columns))
            for w in maps
        ]  # fmt: skip
        self.numbers = (
            [n for each in numbers for n in each],
            [
                int(n)
                for w in schedules
                for n in (*w.table, w.splits, *(t in w.tile_rows for t in TILES))
            ],
            [int(n) for table in pairs for n in table],
        )

    def run(self, sets: Sequence[Tensor]) -> NetworkMaps:
        """Makes what is wanted; the sets are those of `sparse_network_maps`, unchecked."""
        if not runs_cuda(sets[0]):
            return _composed(self, sets)
        return self._cut(ops().sparse_network_maps(sets, *self.numbers), sets)

    def _cut(self, made: Sequence[Tensor], sets: Sequence[Tensor]) -> NetworkMaps:
        """What the operator made, taken apart."""
        slots, table, order, pair_rows, pair_starts = (_Cutter(memory) for memory in made[:-1])
        none = torch.empty(0, dtype=torch.int32, device=sets[0].device)
        bounds = torch.empty(0, self.columns, dtype=torch.int64, device=sets[0].device)
        rows = [coords.shape[0] for coords in sets]
        indexes = [
            CoordinateIndex(coords, slots(_slot_count(len(coords))), none, bounds)
            if number in self._fine
            else None
            for number, coords in enumerate(sets)
        ]
        tables = []
        for wanted, taps in zip(self.maps, self._taps):
            own = table(taps, rows[wanted.coarse])
            tables.append((own, table(taps, rows[wanted.fine]) if wanted.with_reverse else None))
        orders = []
        for (number, reverse), splits, tiles in self.schedules:
            wanted = self.maps[number]
            n = rows[wanted.fine if reverse else wanted.coarse]
            both = order(2, splits, n), order(self._taps[number], n)
            masks = {t: order(splits, -(-n // t)) for t in TILES if t in tiles}
            orders.append(Schedule(*both, masks))
        counts = made[-1].tolist() if self.pairs else []
        pairs = [
            Pairs(pair_rows(count), pair_rows(count), pair_starts(self._taps[number] + 1))
            for (number, _), count in zip(self.pairs, counts)
        ]
        return NetworkMaps(indexes, tables, orders, pairs)


class _Cutter:
    """Arrays that lie end to end in one memory, each padded to 16 bytes, from the first on."""

    def __init__(self, memory: Tensor) -> None:
        self._memory = memory
        self._step = 16 // memory.element_size()
        self._next = 0

    def __call__(self, *sizes: int) -> Tensor:
        begin = self._next
        self._next += -(-prod(sizes) // self._step) * self._step
        strides = [prod(sizes[axis + 1 :]) for axis in range(len(sizes))]
        return self._memory.as_strided(sizes, strides, begin)


def _slot_count(rows: int) -> int:
    """Of a hash table that is at most half full, a power of two."""
    return 1 << max(1, (2 * rows - 1).bit_length())


def sparse_network_maps(
    sets: Sequence[Tensor],
    maps: Sequence[MapWanted],
    schedules: Sequence[ScheduleWanted] = (),
    pairs: Sequence[TableName] = (),
) -> NetworkMaps:
    """Makes kernel maps and their other forms.

    Args:
        sets: int32 [N, 1 + D] each, of distinct rows.
        maps: The maps.
        schedules: Orders of rows, of the maps' tables.
        pairs: Tables whose pairs are wanted as well.

    Returns:
        What was asked for, the same bits on every device.

    Raises:
        TypeError: A set is not int32.
        ValueError: A set has another shape or device, a kernel size, stride or dilation is below 1,
            or a number names no set or map.

    Example:
        >>> coords = torch.tensor([[0, 4], [0, 5]]).int()
        >>> line = MapWanted(0, 0, Taps((3,), (1,), (1,), (-1,)), symmetric=True)
        >>> made = sparse_network_maps([coords], [line], pairs=[TableName(0)])
        >>> made.tables[0][0].tolist(), made.pairs[0].starts.tolist()
        ([[-1, 0], [0, 1], [1, -1]], [0, 1, 3, 4])
    """
    if not sets:
        raise ValueError(f"{_NAME}: sets: expected at least one")
    for number, coords in enumerate(sets):
        check_coords(_NAME, f"sets[{number}]", coords, sets[0].shape[1] if number else None)
        if coords.device != sets[0].device:
            raise ValueError(
                f"{_NAME}: sets[{number}]: expected device {sets[0].device}, got {coords.device}"
            )
    return NetworkProgram(sets[0].shape[1], len(sets), maps, schedules, pairs).run(sets)


def _composed(program: NetworkProgram, sets: Sequence[Tensor]) -> NetworkMaps:
    """The same one by one, where launches cost nothing: on CPUs."""
    indexes: list[CoordinateIndex | None] = [None] * len(sets)
    tables: list[tuple[Tensor, Tensor | None]] = []
    for fine, coarse, taps, symmetric, with_reverse in program.maps:
        index = indexes[fine] = indexes[fine] or sparse_index(sets[fine])
        table = sparse_kernel_table(index, sets[coarse], taps, symmetric)
        back = sparse_invert_table(table, sets[fine].shape[0]) if with_reverse else None
        tables.append((table, back))

    def find(name: TableName) -> Tensor:
        table = tables[name.map][name.reversed]
        assert table is not None
        return table

    orders = []
    for table, splits, tiles in program.schedules:
        made = {t: sparse_conv_plan(find(table), splits, t) for t in tiles}
        order, _, permuted = next(iter(made.values()))
        orders.append(Schedule(order, permuted, {t: masks for t, (_, masks, _) in made.items()}))
    pairs = [sparse_table_pairs(find(table)) for table in program.pairs]
    return NetworkMaps(indexes, tables, orders, pairs)


def _check_numbers(program: NetworkProgram) -> None:
    maps, n_sets = program.maps, program.n_sets
    for number, wanted in enumerate(maps):
        if not (0 <= wanted.fine < n_sets and 0 <= wanted.coarse < n_sets):
            raise ValueError(
                f"{_NAME}: maps[{number}]: expected sets below {n_sets}, got {wanted.fine} and "
                f"{wanted.coarse}"
            )
        if wanted.symmetric:
            _check_symmetric(number, wanted)
    for argument, tables in (
        ("schedules", [wanted.table for wanted in program.schedules]),
        ("pairs", program.pairs),
    ):
        for table in tables:
            known = 0 <= table.map < len(maps)
            if not known or (table.reversed and not maps[table.map].with_reverse):
                raise ValueError(
                    f"{_NAME}: {argument}: expected a map below {len(maps)}, with reverse where "
                    f"that is meant, got {table}"
                )
    for wanted in program.schedules:
        if not wanted.tile_rows or not set(wanted.tile_rows) <= set(TILES):
            raise ValueError(
                f"{_NAME}: schedules: expected tile_rows of 64, 128 or both, got {wanted.tile_rows}"
            )


def _check_symmetric(number: int, wanted: MapWanted) -> None:
    centred = all(
        k % 2 == 1 and stride == 1 and 2 * origin == -dilation * (k - 1)
        for k, stride, dilation, origin in zip(*wanted.taps)
    )
    if wanted.fine != wanted.coarse or wanted.with_reverse or not centred:
        raise ValueError(
            f"{_NAME}: maps[{number}]: expected a symmetric map of centred odd kernels, on one set "
            f"and without reverse, got {wanted}"
        )


def _network_fake(sets: Any, maps: Any, schedules: Any, pairs: Any) -> tuple[Tensor, ...]:
    context = torch.library.get_ctx()
    dtypes = torch.int64, torch.int32, torch.int32, torch.int32, torch.int64
    made = [sets[0].new_empty(context.new_dynamic_size(), dtype=dtype) for dtype in dtypes]
    return *made, torch.empty(len(pairs) // 2, dtype=torch.int64)


def _plan_fake(table: Tensor, splits: int, tile_rows: int) -> tuple[Tensor, Tensor, Tensor]:
    n_out = table.shape[1]
    tiles = (n_out + tile_rows - 1) // tile_rows
    order = table.new_empty(2, splits, n_out)
    return order, table.new_empty(splits, tiles), torch.empty_like(table)


declare("sparse_conv_plan", _plan_fake)
declare("sparse_network_maps", _network_fake)
