# SPDX-License-Identifier: Apache-2.0
"""Coordinate sets and kernel maps: which row of one set meets which row of another, tap by tap.

Coordinates are int32 [N, 1 + D], batch first, D = 1..4, any values. One relation makes every map,
axis by axis:

    fine = coarse * stride + origin + tap * dilation,    tap = 0 .. kernel_size - 1

computed in 64 bits: what leaves int32 does not exist. Taps are numbered with the last axis fastest.
A strided convolution goes from fine to coarse, its inverse from coarse to fine; a submanifold
convolution has one set on both sides. Sets made here are sorted by batch, then by axis from the
first, and have no duplicates; rows that came in are never reordered.

All devices give equal results, bit for bit. Nothing here has gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..library import declare, ops

LOWEST, BEYOND = -(1 << 31), 1 << 31


class Taps(NamedTuple):
    """How a kernel lies over a grid: one number an axis in each.

    Example:
        >>> Taps((3, 3), (1, 1), (1, 1), (-1, -1)).count
        9
    """

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    origin: tuple[int, ...]

    @property
    def count(self) -> int:
        """The number of taps, K."""
        return prod(self.kernel_size)


class Unique(NamedTuple):
    """The distinct rows of coordinates, sorted."""

    coords: Tensor  # int32 [M, 1 + D]
    inverse: Tensor  # int64 [N]: the distinct row of each row
    first: Tensor  # int64 [M]: the smallest row of each distinct one
    counts: Tensor  # int64 [M]: how many rows it stands for


class Pairs(NamedTuple):
    """A kernel map as pairs, tap by tap: those of tap t are starts[t] to starts[t + 1]."""

    fine_rows: Tensor  # int32 [P]
    coarse_rows: Tensor  # int32 [P]
    starts: Tensor  # int64 [K + 1]


class CoordinateIndex:
    """Coordinates made ready for look-ups; made once a set, used by every map of it.

    It holds the coordinates themselves: who changes them in place afterwards reads wrong rows.
    """

    def __init__(self, coords: Tensor, slots: Tensor, order: Tensor, bounds: Tensor) -> None:
        self.coords = coords
        self.order = order
        self.bounds = bounds
        self._slots = slots
        self._has_slots = self.hashed

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What kernel maps are made from."""
        return self.coords, self._slots, self.order, self.bounds

    @property
    def hashed(self) -> bool:
        """Whether kernel maps look rows up in a hash table: on GPUs."""
        return self.bounds.shape[0] == 0

    @property
    def slots(self) -> Tensor:
        """The hash table. CPUs make it when it is first asked for: maps do without."""
        if not self._has_slots:
            self._slots = ops().sparse_slots(self.coords)
            self._has_slots = True
        return self._slots


def _check_coords(name: str, argument: str, coords: Any, columns: int | None = None) -> None:
    if not isinstance(coords, Tensor) or coords.dtype != torch.int32:
        got = coords.dtype if isinstance(coords, Tensor) else type(coords).__name__
        raise TypeError(f"{name}: {argument}: expected an int32 tensor, got {got}")
    wanted = f"[N, {columns}]" if columns else "[N, 2] to [N, 5]"
    if (
        coords.dim() != 2
        or not 2 <= coords.shape[1] <= 5
        or (columns is not None and coords.shape[1] != columns)
    ):
        raise ValueError(f"{name}: {argument}: expected shape {wanted}, got {list(coords.shape)}")


def _check_same_device(name: str, argument: str, tensor: Tensor, device: torch.device) -> None:
    if tensor.device != device:
        raise ValueError(f"{name}: {argument}: expected device {device}, got {tensor.device}")


def _numbers(name: str, taps: Taps, columns: int) -> list[int]:
    """The taps as the operators take them."""
    axes = columns - 1
    for field, values in zip(Taps._fields, taps):
        if len(values) != axes:
            raise ValueError(
                f"{name}: taps.{field}: expected {axes} numbers, one an axis, got {list(values)}"
            )
    for field in ("kernel_size", "stride", "dilation"):
        values = getattr(taps, field)
        if min(values) < 1:
            raise ValueError(f"{name}: taps.{field}: expected 1 or more, got {list(values)}")
    if taps.count >= BEYOND:
        raise ValueError(f"{name}: taps: expected fewer than 2^31 of them, got {taps.count}")
    return [int(value) for values in taps for value in values]


def _limits(name: str, argument: str, limits: Sequence[int] | None, axes: int, other: int) -> Any:
    if limits is None:
        return [other] * axes
    if len(limits) != axes:
        raise ValueError(f"{name}: {argument}: expected {axes} numbers, got {list(limits)}")
    return [min(max(int(limit), LOWEST), BEYOND) for limit in limits]


def sparse_bounds(coords: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Lowest and highest value of each column, batch included.

    Args:
        coords: int32 [N, 1 + D].

    Returns:
        The lowest and the highest, 1 + D numbers each; zeros where there are no rows. The host
        waits for the GPU once.

    Raises:
        TypeError: The dtype is another.
        ValueError: The shape is another.

    Example:
        >>> sparse_bounds(torch.tensor([[0, 5, -2], [1, 3, 4]]).int())
        ((0, 3, -2), (1, 5, 4))
    """
    _check_coords("sparse_bounds", "coords", coords)
    if coords.shape[0] == 0:
        zeros = (0,) * coords.shape[1]
        return zeros, zeros
    low, high = torch.stack([coords.amin(0), coords.amax(0)]).tolist()
    return tuple(low), tuple(high)


def sparse_unique(coords: Tensor) -> Unique:
    """Finds the distinct rows, sorts them, and says where each row went.

    Args:
        coords: int32 [N, 1 + D].

    Returns:
        The distinct rows, the distinct row of each row, the smallest row of each distinct one, and
        how many rows it stands for. The host waits for the GPU once.

    Raises:
        TypeError: The dtype is another.
        ValueError: The shape is another.

    Example:
        >>> unique = sparse_unique(torch.tensor([[0, 7], [0, -7], [0, 7]]).int())
        >>> unique.coords.tolist(), unique.inverse.tolist(), unique.counts.tolist()
        ([[0, -7], [0, 7]], [1, 0, 1], [1, 2])
    """
    _check_coords("sparse_unique", "coords", coords)
    *parts, found = ops().sparse_unique(coords, False)
    count, state = found.tolist()
    if state == _TOO_WIDE:
        *parts, found = ops().sparse_unique(coords, True)
        count = found.tolist()[0]
    rows, inverse, first, counts = parts
    return Unique(rows[:count], inverse, first[:count], counts[:count])


def _unique_fake(coords: Tensor, wide: bool) -> tuple[Tensor, ...]:
    count = torch.library.get_ctx().new_dynamic_size()
    sizes = coords.shape[0], count, count, 2
    return (
        coords.new_empty((count, coords.shape[1])),
        *(coords.new_empty((size,), dtype=torch.int64) for size in sizes),
    )


def sparse_index(
    coords: Tensor, bounds: tuple[Sequence[int], Sequence[int]] | None = None
) -> CoordinateIndex:
    """Makes coordinates ready for look-ups, and for the kernel maps whose fine set they are.

    CPUs sort them, unless they are sorted already; GPUs put them into a hash table. The host never
    waits.

    Args:
        coords: int32 [N, 1 + D]. Of repeated rows the smallest is found.
        bounds: As of ``sparse_bounds``, where they are known; not needed.

    Returns:
        The index, on the coordinates' device.

    Raises:
        TypeError: The dtype is another.
        ValueError: The shape is another.

    Example:
        >>> index = sparse_index(torch.tensor([[0, 4], [0, 2]]).int())
        >>> sparse_lookup(index, torch.tensor([[0, 2], [0, 3]]).int()).tolist()
        [1, -1]
    """
    _check_coords("sparse_index", "coords", coords)
    coords = coords.contiguous()
    return CoordinateIndex(coords, *ops().sparse_index(coords))


def sparse_lookup(index: CoordinateIndex, queries: Tensor) -> Tensor:
    """Finds the row of each coordinate asked for.

    Args:
        index: The index of a set.
        queries: int32 [Q, 1 + D], on the same device.

    Returns:
        int32 [Q]: the row, the smallest of repeated ones, or -1.

    Raises:
        TypeError: The dtype is another.
        ValueError: A shape or device is another.

    Example:
        >>> index = sparse_index(torch.tensor([[0, 4], [0, 2]]).int())
        >>> sparse_lookup(index, torch.tensor([[0, 4], [1, 4]]).int()).tolist()
        [0, -1]
    """
    _check_coords("sparse_lookup", "queries", queries, index.coords.shape[1])
    _check_same_device("sparse_lookup", "queries", queries, index.coords.device)
    return ops().sparse_lookup(index.coords, index.slots, queries)


_COMPLETE, _TOO_WIDE = 0, 1  # what an operator says of its own result; or it was cut short


class _Levels(NamedTuple):
    """A chain of sets, each reached from the one before, as the operator takes it."""

    taps: list[int]
    to_fine: bool
    low: list[int]
    high: list[int]
    choices: list[int]  # the most rows that one row reaches, a number a level

    def rows(self, coords: Tensor) -> list[Tensor]:
        """All levels. GPUs guess how much room they need: too little costs another round."""
        most = [coords.shape[0] * prod(self.choices[: i + 1]) for i in range(len(self.choices))]
        room = most if self.to_fine else [min(n, 1024 + 2 * coords.shape[0]) for n in most]
        wide = False
        while True:
            rows, found = ops().sparse_reached(
                coords, self.taps, self.to_fine, self.low, self.high, room, wide
            )
            *numbers, state = found.tolist()
            counts, starts = numbers[: len(room)], numbers[len(room) :]
            if state == _COMPLETE:
                return [rows[start : start + count] for start, count in zip(starts, counts)]
            if state == _TOO_WIDE:
                wide = True
            room = [min(n, max(size, 2 * count)) for n, size, count in zip(most, room, counts)]


def _levels(
    name: str,
    coords: Tensor,
    taps: Sequence[Taps],
    to_fine: bool = False,
    low: Sequence[int] | None = None,
    high: Sequence[int] | None = None,
) -> list[Tensor]:
    _check_coords(name, "coords", coords)
    columns = coords.shape[1]
    levels = _Levels(
        [number for level in taps for number in _numbers(name, level, columns)],
        to_fine,
        _limits(name, "low", low, columns - 1, LOWEST) * len(taps),
        _limits(name, "high", high, columns - 1, BEYOND) * len(taps),
        [level.count if to_fine else _coarse_choices(level) for level in taps],
    )
    return levels.rows(coords)


def _coarse_choices(taps: Taps) -> int:
    """How many coarse rows one fine row may reach: some of the cells that its taps lie in."""
    return prod(
        min(k, (k - 1) * dilation // stride + 1)
        for k, stride, dilation in zip(taps.kernel_size, taps.stride, taps.dilation)
    )


def _reached_fake(
    coords: Tensor, taps: Any, to_fine: bool, low: Any, high: Any, capacities: Any, wide: bool
) -> tuple[Tensor, Tensor]:
    count = torch.library.get_ctx().new_dynamic_size()
    return (
        coords.new_empty((count, coords.shape[1])),
        coords.new_empty((2 * len(capacities) + 1,), dtype=torch.int64),
    )


def sparse_coarse_coordinates(
    coords: Tensor,
    taps: Taps,
    low: Sequence[int] | None = None,
    high: Sequence[int] | None = None,
) -> Tensor:
    """Finds all coarse coordinates that some fine row reaches: the outputs of a convolution.

    Args:
        coords: int32 [N, 1 + D], the fine set; repeated rows count once.
        taps: The kernel.
        low: Lowest coordinate of each axis, D numbers; None: any.
        high: First coordinate of each axis beyond, D numbers; None: any.

    Returns:
        int32 [M, 1 + D], sorted and distinct. The host waits for the GPU once.

    Raises:
        TypeError: The dtype is another.
        ValueError: A shape is another, or a kernel size, stride or dilation below 1.

    Example:
        >>> taps = Taps((3,), (2,), (1,), (-1,))
        >>> sparse_coarse_coordinates(torch.tensor([[0, 3]]).int(), taps).tolist()
        [[0, 1], [0, 2]]
    """
    return _levels("sparse_coarse_coordinates", coords, [taps], False, low, high)[0]


def sparse_fine_coordinates(
    coords: Tensor,
    taps: Taps,
    low: Sequence[int] | None = None,
    high: Sequence[int] | None = None,
) -> Tensor:
    """Finds all fine coordinates reached from coarse rows: the outputs of a transposed convolution.

    Args:
        coords: int32 [N, 1 + D], the coarse set; repeated rows count once.
        taps: The kernel.
        low: Lowest coordinate of each axis, D numbers; None: any.
        high: First coordinate of each axis beyond, D numbers; None: any.

    Returns:
        int32 [M, 1 + D], sorted and distinct. The host waits for the GPU once.

    Raises:
        TypeError: The dtype is another.
        ValueError: A shape is another, or a kernel size, stride or dilation below 1.

    Example:
        >>> taps = Taps((3,), (2,), (1,), (-1,))
        >>> sparse_fine_coordinates(torch.tensor([[0, 1]]).int(), taps).tolist()
        [[0, 1], [0, 2], [0, 3]]
    """
    return _levels("sparse_fine_coordinates", coords, [taps], True, low, high)[0]


def sparse_levels(coords: Tensor, taps: Sequence[Taps]) -> list[Tensor]:
    """Finds coarse coordinates level after level, each from the one before.

    Args:
        coords: int32 [N, 1 + D].
        taps: The kernel of each level.

    Returns:
        The coarse set of each level, as ``sparse_coarse_coordinates`` gives it. The host waits for
        the GPU once in all, unless coordinates are too far apart to sort by 64 bits or a level has
        more than twice the rows of the first; then once or a few times more.

    Raises:
        TypeError: The dtype is another.
        ValueError: A shape is another, or a kernel size, stride or dilation below 1.

    Example:
        >>> halve = Taps((2,), (2,), (1,), (0,))
        >>> coords = torch.tensor([[0, 3], [0, 9]]).int()
        >>> [level.tolist() for level in sparse_levels(coords, [halve, halve])]
        [[[0, 1], [0, 4]], [[0, 0], [0, 2]]]
    """
    return _levels("sparse_levels", coords, taps)


def _map_arguments(
    name: str, index: CoordinateIndex, coarse_coords: Tensor, taps: Taps, symmetric: bool
) -> tuple[Any, ...]:
    columns = index.coords.shape[1]
    _check_coords(name, "coarse_coords", coarse_coords, columns)
    _check_same_device(name, "coarse_coords", coarse_coords, index.coords.device)
    numbers = _numbers(name, taps, columns)
    if symmetric:
        _check_symmetric(name, index, coarse_coords, taps)
    return *index.parts, coarse_coords, numbers, symmetric


def _check_symmetric(name: str, index: CoordinateIndex, coarse_coords: Tensor, taps: Taps) -> None:
    for k, stride, dilation, origin in zip(*taps):
        if k % 2 == 0 or stride != 1 or 2 * origin != -dilation * (k - 1):
            raise ValueError(
                f"{name}: symmetric: expected odd kernels, stride 1 and centred taps, got {taps}"
            )
    if coarse_coords.shape != index.coords.shape:
        raise ValueError(
            f"{name}: coarse_coords: expected the fine set itself, {list(index.coords.shape)}, "
            f"as the map is symmetric; got {list(coarse_coords.shape)}"
        )


def sparse_kernel_table(
    index_of_fine: CoordinateIndex, coarse_coords: Tensor, taps: Taps, symmetric: bool = False
) -> Tensor:
    """Finds the fine row of each tap and coarse row.

    Args:
        index_of_fine: The index of the fine set.
        coarse_coords: int32 [n_coarse, 1 + D], on the same device.
        taps: The kernel.
        symmetric: Promises that both sets are the same rows, of a centred odd kernel of stride 1:
            half the taps are looked for, the others are their mirror images.

    Returns:
        int32 [K, n_coarse]; -1: none.

    Raises:
        TypeError: A dtype is another.
        ValueError: A shape or device is another, a kernel size, stride or dilation is below 1, or
            a map called symmetric is not.

    Example:
        >>> coords = torch.tensor([[0, 4], [0, 5]]).int()
        >>> taps = Taps((3,), (1,), (1,), (-1,))
        >>> sparse_kernel_table(sparse_index(coords), coords, taps, symmetric=True).tolist()
        [[-1, 0], [0, 1], [1, -1]]
    """
    return ops().sparse_kernel_table(
        *_map_arguments("sparse_kernel_table", index_of_fine, coarse_coords, taps, symmetric)
    )


def sparse_kernel_pairs(
    index_of_fine: CoordinateIndex, coarse_coords: Tensor, taps: Taps, symmetric: bool = False
) -> Pairs:
    """Finds the pairs of fine and coarse rows, tap by tap.

    Args:
        index_of_fine: The index of the fine set.
        coarse_coords: int32 [n_coarse, 1 + D], on the same device.
        taps: The kernel.
        symmetric: As in ``sparse_kernel_table``.

    Returns:
        The pairs; within a tap coarse rows ascend. CPUs make them without a table in between. The
        host waits for the GPU once.

    Raises:
        TypeError: A dtype is another.
        ValueError: A shape or device is another, a kernel size, stride or dilation is below 1, or
            a map called symmetric is not.

    Example:
        >>> coords = torch.tensor([[0, 4], [0, 5]]).int()
        >>> pairs = sparse_kernel_pairs(sparse_index(coords), coords, Taps((2,), (1,), (1,), (0,)))
        >>> pairs.fine_rows.tolist(), pairs.coarse_rows.tolist(), pairs.starts.tolist()
        ([0, 1, 1], [0, 1, 0], [0, 2, 3])
    """
    arguments = _map_arguments("sparse_kernel_pairs", index_of_fine, coarse_coords, taps, symmetric)
    if index_of_fine.hashed:
        return sparse_table_pairs(ops().sparse_kernel_table(*arguments))
    return Pairs(*ops().sparse_kernel_pairs(*arguments))


def sparse_invert_table(table: Tensor, n_fine: int) -> Tensor:
    """Turns a table around: the coarse row of each tap and fine row.

    Args:
        table: int32 [K, n_coarse], fine rows or -1.
        n_fine: The number of fine rows.

    Returns:
        int32 [K, n_fine]; -1: none. Of repeated coarse rows the smallest.

    Example:
        >>> sparse_invert_table(torch.tensor([[-1, 0], [0, 1], [1, -1]]).int(), 2).tolist()
        [[1, -1], [0, 1], [-1, 0]]
    """
    return ops().sparse_invert_table(table, n_fine)


def sparse_table_pairs(table: Tensor) -> Pairs:
    """Lists the pairs of a table, tap by tap; within a tap coarse rows ascend.

    Args:
        table: int32 [K, n_coarse], fine rows or -1.

    Returns:
        The pairs. The host waits for the GPU once.

    Example:
        >>> sparse_table_pairs(torch.tensor([[-1, 0], [0, 1]]).int()).starts.tolist()
        [0, 1, 3]
    """
    return Pairs(*ops().sparse_table_pairs(table))


def sparse_pairs_table(pairs: Pairs, n_coarse: int) -> Tensor:
    """Writes pairs as a table.

    Args:
        pairs: The pairs; of a tap and a coarse row at most one.
        n_coarse: The number of coarse rows.

    Returns:
        int32 [K, n_coarse], fine rows or -1.

    Example:
        >>> table = torch.tensor([[-1, 0], [0, 1]]).int()
        >>> torch.equal(sparse_pairs_table(sparse_table_pairs(table), 2), table)
        True
    """
    return ops().sparse_pairs_table(*pairs, n_coarse)


def sparse_invert_pairs(pairs: Pairs, n_fine: int) -> Pairs:
    """Puts the same pairs in the order of the other set: within a tap fine rows ascend.

    Args:
        pairs: The pairs.
        n_fine: The number of fine rows.

    Returns:
        The pairs, each tap's in another order; of equal fine rows the first stays first.

    Example:
        >>> pairs = sparse_table_pairs(torch.tensor([[1, 0]]).int())
        >>> turned = sparse_invert_pairs(pairs, 2)
        >>> turned.fine_rows.tolist(), turned.coarse_rows.tolist()
        ([0, 1], [1, 0])
    """
    fine_rows, coarse_rows = ops().sparse_invert_pairs(*pairs, n_fine)
    return Pairs(fine_rows, coarse_rows, pairs.starts)


def sparse_hash(coords: Tensor) -> Tensor:
    """Hashes each row to 64 bits; the same on every device.

    Two columns at a time, each as an unsigned 32-bit number, the first in the high half, the last
    of an odd number with 0: ``hash = mix((hash ^ pair) + 0x9E3779B97F4A7C15)`` from 0 on, where
    mix is the finaliser of SplitMix64.

    Args:
        coords: int32 [N, 1 + D].

    Returns:
        int64 [N].

    Raises:
        TypeError: The dtype is another.
        ValueError: The shape is another.

    Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014).

    Example:
        >>> sparse_hash(torch.tensor([[0, 0]]).int()).item() == 0xE220A8397B1DCDAF - 2**64
        True
    """
    _check_coords("sparse_hash", "coords", coords)
    return ops().sparse_hash(coords)


def _hash_fake(coords: Tensor) -> Tensor:
    return coords.new_empty((coords.shape[0],), dtype=torch.int64)


def _index_fake(coords: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    context = torch.library.get_ctx()
    return (
        coords.new_empty((context.new_dynamic_size(),), dtype=torch.int64),
        coords.new_empty((context.new_dynamic_size(),)),
        coords.new_empty((0 if coords.is_cuda else 2, coords.shape[1]), dtype=torch.int64),
    )


def _slots_fake(coords: Tensor) -> Tensor:
    return coords.new_empty((torch.library.get_ctx().new_dynamic_size(),), dtype=torch.int64)


def _lookup_fake(coords: Tensor, slots: Tensor, queries: Tensor) -> Tensor:
    return queries.new_empty((queries.shape[0],))


def _table_fake(
    coords: Tensor,
    slots: Tensor,
    order: Tensor,
    bounds: Tensor,
    coarse_coords: Tensor,
    taps: Any,
    symmetric: bool,
) -> Tensor:
    axes = coords.shape[1] - 1
    return coords.new_empty((prod(taps[:axes]), coarse_coords.shape[0]))


def _fake_pairs(like: Tensor, taps: int) -> tuple[Tensor, Tensor, Tensor]:
    count = torch.library.get_ctx().new_dynamic_size()
    return (
        like.new_empty((count,)),
        like.new_empty((count,)),
        like.new_empty((taps + 1,), dtype=torch.int64),
    )


def _pairs_fake(coords: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    taps = rest[-2]
    return _fake_pairs(coords, prod(taps[: coords.shape[1] - 1]))


def _table_pairs_fake(table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _fake_pairs(table, table.shape[0])


def _pairs_table_fake(
    fine_rows: Tensor, coarse_rows: Tensor, starts: Tensor, n_coarse: int
) -> Tensor:
    return fine_rows.new_empty((starts.shape[0] - 1, n_coarse))


def _invert_table_fake(table: Tensor, n_fine: int) -> Tensor:
    return table.new_empty((table.shape[0], n_fine))


def _invert_pairs_fake(
    fine_rows: Tensor, coarse_rows: Tensor, starts: Tensor, n_fine: int
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(fine_rows), torch.empty_like(coarse_rows)


declare("sparse_hash", _hash_fake)
declare("sparse_unique", _unique_fake)
declare("sparse_reached", _reached_fake)
declare("sparse_index", _index_fake)
declare("sparse_slots", _slots_fake)
declare("sparse_lookup", _lookup_fake)
declare("sparse_kernel_table", _table_fake)
declare("sparse_kernel_pairs", _pairs_fake)
declare("sparse_table_pairs", _table_pairs_fake)
declare("sparse_pairs_table", _pairs_table_fake)
declare("sparse_invert_table", _invert_table_fake)
declare("sparse_invert_pairs", _invert_pairs_fake)
