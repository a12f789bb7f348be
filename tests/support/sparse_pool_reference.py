# SPDX-License-Identifier: Apache-2.0
"""Pooling, segments and interpolation in plain torch: slow, and read at a glance."""

from __future__ import annotations

from collections.abc import Callable
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
    lookup: Callable[[Tensor], Tensor],
    points: Tensor,
    batch: Tensor,
    align: str = "corner",
    renormalise: bool = False,
) -> tuple[Tensor, Tensor]:
    """Rows and weights of the corners around points, corner by corner."""
    place = points - (0.5 if align == "centre" else 0)
    low = place.detach().floor()
    rows, weights = [], []
    for offset in product((0, 1), repeat=points.shape[1]):
        corner = (low + torch.tensor(offset)).long()
        found = lookup(torch.cat([batch.long()[:, None], corner], dim=1))
        inside = (corner.int() == corner).all(dim=1)
        rows.append(torch.where(inside, found, -1).int())
        upper = torch.tensor(offset, dtype=torch.bool)
        share = torch.where(upper, place - low, 1 - (place - low)).prod(dim=1)
        weights.append(torch.where(rows[-1] >= 0, share, 0))
    total = sum(weights)
    scale = torch.where(total > 0, total, 1) if renormalise else torch.ones(())
    return torch.stack(rows, dim=1), torch.stack(weights, dim=1) / scale[..., None]
