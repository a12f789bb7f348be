# SPDX-License-Identifier: Apache-2.0
"""Coordinate sets and kernel maps by dictionaries and Python's own integers: slow and readable.

Functions take and return tensors as map_ops does; in between a set is a list of tuples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor

LOWEST, HIGHEST = -(2**31), 2**31 - 1
GOLDEN = 0x9E3779B97F4A7C15
WORD = 2**64


def rows_of(coords: Tensor) -> list[tuple[int, ...]]:
    return [tuple(row) for row in coords.tolist()]


def as_tensor(rows: Sequence[tuple[int, ...]], like: Tensor) -> Tensor:
    return torch.tensor(list(rows), dtype=torch.int32).reshape(-1, like.shape[1])


def first_rows(coords: Tensor) -> dict[tuple[int, ...], int]:
    """The smallest row of each coordinate."""
    first: dict[tuple[int, ...], int] = {}
    for i, row in enumerate(rows_of(coords)):
        first.setdefault(row, i)
    return first


def tap_offsets(taps: Any) -> Iterator[tuple[int, ...]]:
    """What each tap adds to the first corner, the last axis fastest."""
    for tap in product(*map(range, taps.kernel_size)):
        yield tuple(t * d + o for t, d, o in zip(tap, taps.dilation, taps.origin))


def fine_of(coarse: tuple[int, ...], offset: tuple[int, ...], taps: Any) -> tuple[int, ...]:
    return coarse[0], *(c * s + o for c, s, o in zip(coarse[1:], taps.stride, offset))


def unique(coords: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows = rows_of(coords)
    distinct = sorted(set(rows))
    number = {row: i for i, row in enumerate(distinct)}
    first = first_rows(coords)
    return (
        as_tensor(distinct, coords),
        torch.tensor([number[row] for row in rows], dtype=torch.int64),
        torch.tensor([first[row] for row in distinct], dtype=torch.int64),
        torch.tensor([rows.count(row) for row in distinct], dtype=torch.int64),
    )


def lookup(coords: Tensor, queries: Tensor) -> Tensor:
    first = first_rows(coords)
    return torch.tensor([first.get(row, -1) for row in rows_of(queries)], dtype=torch.int32)


def inside(row: tuple[int, ...], low: Any, high: Any) -> bool:
    axes = len(row) - 1
    low, high = low or [LOWEST] * axes, high or [HIGHEST + 1] * axes
    return all(max(a, LOWEST) <= x < min(b, HIGHEST + 1) for x, a, b in zip(row[1:], low, high))


def coarse_coordinates(coords: Tensor, taps: Any, low: Any = None, high: Any = None) -> Tensor:
    found = set()
    for batch, *fine in rows_of(coords):
        for offset in tap_offsets(taps):
            parts = [divmod(f - o, s) for f, o, s in zip(fine, offset, taps.stride)]
            if all(rest == 0 for _, rest in parts):
                found.add((batch, *(whole for whole, _ in parts)))
    return as_tensor(sorted(row for row in found if inside(row, low, high)), coords)


def fine_coordinates(coords: Tensor, taps: Any, low: Any = None, high: Any = None) -> Tensor:
    found = {fine_of(row, offset, taps) for row in rows_of(coords) for offset in tap_offsets(taps)}
    return as_tensor(sorted(row for row in found if inside(row, low, high)), coords)


def levels(coords: Tensor, taps: Any) -> list[Tensor]:
    sets = []
    for level in taps:
        coords = coarse_coordinates(coords, level)
        sets.append(coords)
    return sets


def kernel_table(coords: Tensor, coarse_coords: Tensor, taps: Any) -> Tensor:
    first = first_rows(coords)
    table = [
        [first.get(fine_of(row, offset, taps), -1) for row in rows_of(coarse_coords)]
        for offset in tap_offsets(taps)
    ]
    return torch.tensor(table, dtype=torch.int32).reshape(taps.count, coarse_coords.shape[0])


def table_pairs(table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    fine, coarse, starts = [], [], [0]
    for row in table.tolist():
        fine += [partner for partner in row if partner >= 0]
        coarse += [i for i, partner in enumerate(row) if partner >= 0]
        starts.append(len(fine))
    return (
        torch.tensor(fine, dtype=torch.int32),
        torch.tensor(coarse, dtype=torch.int32),
        torch.tensor(starts, dtype=torch.int64),
    )


def pairs_table(fine_rows: Tensor, coarse_rows: Tensor, starts: Tensor, n_coarse: int) -> Tensor:
    table = [[-1] * n_coarse for _ in starts[1:]]
    for tap, (begin, end) in enumerate(zip(starts.tolist(), starts.tolist()[1:])):
        for i in range(begin, end):
            table[tap][int(coarse_rows[i])] = int(fine_rows[i])
    return torch.tensor(table, dtype=torch.int32).reshape(len(table), n_coarse)


def invert_table(table: Tensor, n_fine: int) -> Tensor:
    inverse = [[-1] * n_fine for _ in range(table.shape[0])]
    for tap, row in enumerate(table.tolist()):
        for coarse in reversed(range(len(row))):
            if row[coarse] >= 0:
                inverse[tap][row[coarse]] = coarse
    return torch.tensor(inverse, dtype=torch.int32).reshape(table.shape[0], n_fine)


def invert_pairs(
    fine_rows: Tensor, coarse_rows: Tensor, starts: Tensor, n_fine: int
) -> tuple[Tensor, Tensor, Tensor]:
    pairs = list(zip(fine_rows.tolist(), coarse_rows.tolist()))
    for begin, end in zip(starts.tolist(), starts.tolist()[1:]):
        pairs[begin:end] = sorted(pairs[begin:end], key=lambda pair: pair[0])
    turned = torch.tensor(pairs, dtype=torch.int32).reshape(-1, 2)
    return turned[:, 0], turned[:, 1], starts


def gray_ranks(codes: Tensor) -> Tensor:
    """Where each code of 32 bits stands among codes of which neighbours differ in one bit."""
    ranks = codes.clone()
    for bit in range(1, 32):
        ranks ^= codes >> bit
    return ranks


def plan_reference(table: Tensor, splits: int, tile_rows: int) -> tuple[Tensor, ...]:
    """Rows in the order of their taps in each run of taps; what each tile has."""
    n_taps, n_out = table.shape
    run = -(-n_taps // splits)
    order = torch.empty(2, splits, n_out, dtype=torch.int32)
    tile_masks = torch.zeros(splits, -(-n_out // tile_rows), dtype=torch.int64)
    permuted = torch.empty_like(table)
    for split in range(splits):
        taps = slice(split * run, min(n_taps, (split + 1) * run))
        bits = (table[taps] >= 0).long()
        masks = (bits << torch.arange(len(bits))[:, None]).sum(0)
        rows = torch.argsort(gray_ranks(masks) if run <= 16 else masks, stable=True)
        order[0, split] = rows
        places = torch.argsort(rows)
        order[1, split] = torch.where(masks > 0, places, -1)
        permuted[taps] = table[taps][:, rows]
        for tile, members in enumerate(rows.split(tile_rows)):
            for mask in masks[members].tolist():
                tile_masks[split, tile] |= mask
    return order, tile_masks.int(), permuted


def mix(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % WORD
    return x ^ (x >> 31)


def hash_rows(coords: Tensor) -> Tensor:
    hashes = []
    for row in rows_of(coords):
        columns = [value % 2**32 for value in row] + [0] * (len(row) % 2)
        state = 0
        for first, second in zip(columns[::2], columns[1::2]):
            state = mix(((state ^ (first << 32 | second)) + GOLDEN) % WORD)
        hashes.append(state - WORD if state >= WORD // 2 else state)
    return torch.tensor(hashes, dtype=torch.int64)
