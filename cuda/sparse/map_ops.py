# SPDX-License-Identifier: Apache-2.0
"""Coordinate sets and kernel maps: which row of one set meets which row of another, tap by tap.

Coordinates are int32 [N, 1 + D], batch first, D = 1..4, any values; batch >= 0. One relation makes
every map, axis by axis:

    fine = coarse * stride + origin + tap * dilation,    tap = 0 .. kernel_size - 1

computed in 64 bits: what leaves int32 does not exist. Taps are numbered with the last axis fastest.
A strided convolution goes from fine to coarse, its inverse from coarse to fine; a submanifold
convolution has one set on both sides. Sets made here are sorted by batch, then by axis from the
first, and have no duplicates; rows that came in are never reordered. Nothing here has gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor


class Taps(NamedTuple):
    """How a kernel lies over a grid: one number an axis in each."""

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
    """Coordinates made ready for look-ups; made once a set, used by every map of it."""

    def __init__(self, coords: Tensor) -> None:
        self.coords = coords


def sparse_bounds(coords: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Lowest and highest value of each column, batch included."""
    if coords.shape[0] == 0:
        zeros = (0,) * coords.shape[1]
        return zeros, zeros
    low, high = torch.stack([coords.amin(0), coords.amax(0)]).tolist()
    return tuple(low), tuple(high)


def sparse_unique(coords: Tensor) -> Unique:
    """The distinct rows, sorted."""
    n = coords.shape[0]
    if n == 0:
        none = torch.zeros(0, dtype=torch.int64, device=coords.device)
        return Unique(coords, none, none, none)
    rows, inverse, counts = torch.unique(coords, dim=0, return_inverse=True, return_counts=True)
    first = torch.full_like(counts, n)
    first.scatter_reduce_(0, inverse, torch.arange(n, device=coords.device), "amin")
    return Unique(rows, inverse, first, counts)


def sparse_index(
    coords: Tensor, bounds: tuple[Sequence[int], Sequence[int]] | None = None
) -> CoordinateIndex:
    """Makes coordinates ready for look-ups."""
    return CoordinateIndex(coords)


def sparse_lookup(index: CoordinateIndex, queries: Tensor) -> Tensor:
    """The row of each query, -1 where there is none; of duplicates the smallest."""
    n = index.coords.shape[0]
    found = sparse_unique(torch.cat([index.coords, queries]))
    rows = found.first[found.inverse[n:]]
    return torch.where(rows < n, rows, -1).int()


def _offsets(taps: Taps, device: torch.device) -> Tensor:
    axes = [
        torch.arange(k, device=device) * d + o
        for k, d, o in zip(taps.kernel_size, taps.dilation, taps.origin)
    ]
    return torch.cartesian_prod(*axes).reshape(taps.count, len(axes))


def _in_range(rows: Tensor, low: Sequence[int] | None, high: Sequence[int] | None) -> Tensor:
    inside = ((rows >= -(2**31)) & (rows < 2**31)).all(1)
    if low is not None:
        inside &= (rows[:, 1:] >= torch.tensor(low, device=rows.device)).all(1)
    if high is not None:
        inside &= (rows[:, 1:] < torch.tensor(high, device=rows.device)).all(1)
    return inside


def sparse_coarse_coordinates(
    coords: Tensor,
    taps: Taps,
    low: Sequence[int] | None = None,
    high: Sequence[int] | None = None,
) -> Tensor:
    """All coarse coordinates in [low, high) that some fine row reaches."""
    stride = torch.tensor((1, *taps.stride), device=coords.device)
    parts = []
    for offset in _offsets(taps, coords.device):
        rows = coords.long()
        rows[:, 1:] -= offset
        rows = rows[(rows % stride == 0).all(1)].div(stride, rounding_mode="floor")
        parts.append(rows[_in_range(rows, low, high)].int())
    return sparse_unique(torch.cat(parts)).coords


def sparse_fine_coordinates(
    coords: Tensor,
    taps: Taps,
    low: Sequence[int] | None = None,
    high: Sequence[int] | None = None,
) -> Tensor:
    """All fine coordinates in [low, high) that some coarse row reaches."""
    rows = torch.cat([_reached(coords, taps, offset) for offset in _offsets(taps, coords.device)])
    return sparse_unique(rows[_in_range(rows, low, high)].int()).coords


def _reached(coords: Tensor, taps: Taps, offset: Tensor) -> Tensor:
    rows = coords.long()
    rows[:, 1:] = rows[:, 1:] * torch.tensor(taps.stride, device=coords.device) + offset
    return rows


def sparse_kernel_table(
    index_of_fine: CoordinateIndex, coarse_coords: Tensor, taps: Taps, symmetric: bool = False
) -> Tensor:
    """The fine row of each tap and coarse row, int32 [K, n_coarse]; -1: none."""
    columns = []
    for offset in _offsets(taps, coarse_coords.device):
        rows = _reached(coarse_coords, taps, offset)
        found = sparse_lookup(index_of_fine, rows.int())
        columns.append(torch.where(_in_range(rows, None, None), found, -1))
    return torch.stack(columns)


def sparse_kernel_pairs(
    index_of_fine: CoordinateIndex, coarse_coords: Tensor, taps: Taps, symmetric: bool = False
) -> Pairs:
    """The same map as pairs; within a tap coarse rows ascend."""
    return sparse_table_pairs(sparse_kernel_table(index_of_fine, coarse_coords, taps, symmetric))


def sparse_invert_table(table: Tensor, n_fine: int) -> Tensor:
    """The coarse row of each tap and fine row, int32 [K, n_fine]; -1: none."""
    return sparse_pairs_table(_swapped(sparse_table_pairs(table)), n_fine)


def _swapped(pairs: Pairs) -> Pairs:
    return Pairs(pairs.coarse_rows, pairs.fine_rows, pairs.starts)


def sparse_table_pairs(table: Tensor) -> Pairs:
    """A table as pairs."""
    taps, coarse = torch.nonzero(table >= 0, as_tuple=True)
    counts = torch.bincount(taps, minlength=table.shape[0])
    starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return Pairs(table[taps, coarse], coarse.int(), starts)


def sparse_pairs_table(pairs: Pairs, n_coarse: int) -> Tensor:
    """Pairs as a table."""
    k = pairs.starts.shape[0] - 1
    taps = torch.repeat_interleave(torch.arange(k, device=pairs.starts.device), pairs.starts.diff())
    table = pairs.fine_rows.new_full((k, n_coarse), -1)
    table[taps, pairs.coarse_rows.long()] = pairs.fine_rows
    return table


def sparse_invert_pairs(pairs: Pairs, n_fine: int) -> Pairs:
    """The same pairs in another order: within a tap fine rows ascend."""
    return _swapped(sparse_table_pairs(sparse_pairs_table(_swapped(pairs), n_fine)))


def sparse_levels(coords: Tensor, taps: Sequence[Taps]) -> list[Tensor]:
    """Coarse coordinates level after level, each from the one before."""
    levels = []
    for level in taps:
        coords = sparse_coarse_coordinates(coords, level)
        levels.append(coords)
    return levels
