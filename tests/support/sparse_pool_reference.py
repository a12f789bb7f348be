# SPDX-License-Identifier: Apache-2.0
"""Pooling, segments and interpolation in plain torch: slow, and read at a glance."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor


def pool(features: Tensor, table: Tensor, mode: str) -> Tensor:
    """Each output row from the input rows in its column of the table."""
    zero = features[:0].sum(0)
    rows = []
    for column in table.long().T:
        taken = features[column[column >= 0]]
        rows.append(reduce(taken, mode) if len(taken) else zero)
    return torch.stack(rows) if rows else features[:0]


def segment_reduce(features: Tensor, segments: Tensor, n_segments: int, mode: str) -> Tensor:
    """Each segment from its rows."""
    zero = features[:0].sum(0)
    rows = []
    for segment in range(n_segments):
        taken = features[segments == segment]
        rows.append(reduce(taken, mode) if len(taken) else zero)
    return torch.stack(rows) if rows else features[:0]


def reduce(rows: Tensor, mode: str) -> Tensor:
    """One row of several; the first of equals is the one that is picked."""
    if mode in ("sum", "mean"):
        return rows.sum(0) / (len(rows) if mode == "mean" else 1)
    if mode == "first":
        return rows[0]
    # numpy, unlike torch, promises the first of equals, and the first of what is not a number.
    values = rows.detach().cpu().numpy()
    best = torch.from_numpy(values.argmax(0) if mode == "max" else values.argmin(0))
    return rows.gather(0, best[None])[0]


def interpolate(features: Tensor, rows: Tensor, weights: Tensor | None = None) -> Tensor:
    """Weighted sums of rows."""
    padded = torch.cat([features, torch.zeros_like(features[:1].sum(0)[None])])
    taken = padded[torch.where(rows < 0, len(features), rows.long())]
    return (taken if weights is None else taken * weights[..., None]).sum(1)


def pairs_of(table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(rows read, rows written, starts), tap after tap."""
    taps = [torch.nonzero(row >= 0)[:, 0] for row in table]
    out_rows = torch.cat(taps) if taps else torch.zeros(0)
    in_rows = table[table >= 0]
    starts = torch.tensor([0, *(len(tap) for tap in taps)]).cumsum(0)
    return in_rows.int(), out_rows.int(), starts


def invert(table: Tensor, n_in: int) -> Tensor:
    """The row written by each tap and row read."""
    inverse = torch.full((len(table), n_in), -1, dtype=torch.int32)
    for tap, row in enumerate(table):
        written = torch.nonzero(row >= 0)[:, 0]
        inverse[tap, row[written].long()] = written.int()
    return inverse


def trilinear(
    coords: Tensor, points: Tensor, batch: Tensor, renormalise: bool
) -> tuple[Tensor, Tensor]:
    """Rows and weights of the corners around points, corner by corner."""
    rows_of = {tuple(c): row for row, c in reversed(list(enumerate(coords.tolist())))}
    d = points.shape[1]
    rows = torch.full((len(points), 2**d), -1, dtype=torch.int32)
    weights = torch.zeros(len(points), 2**d, dtype=points.dtype)
    for q, (point, b) in enumerate(zip(points, batch.tolist())):
        low = point.floor()
        for corner, offset in enumerate(product((0, 1), repeat=d)):
            place = [b, *(int(low[axis]) + offset[axis] for axis in range(d))]
            rows[q, corner] = rows_of.get(tuple(place), -1)
            weights[q, corner] = 1
            for axis in range(d):
                upper = point[axis] - low[axis]
                weights[q, corner] *= upper if offset[axis] else 1 - upper
        weights[q, rows[q] < 0] = 0
        if renormalise and weights[q].sum() > 0:
            weights[q] /= weights[q].sum()
    return rows, weights
