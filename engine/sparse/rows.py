# SPDX-License-Identifier: Apache-2.0
"""Rows of coordinates as users hand them in: out of range, or several of one place."""

from __future__ import annotations

import torch
from torch import Tensor

from ...cuda.sparse import map_ops, pool_ops
from ...cuda.sparse.map_ops import Bounds
from .arguments import REDUCTIONS, Reduction, whole


def checked_batch_size(
    coords: Tensor,
    spatial_range: tuple[int, ...] | None,
    batch_size: int | None,
    name: str = "SparseTensor",
    limits: Bounds | None = None,
) -> int:
    """The batch size, after a check that all coordinates are in range.

    Args:
        coords: int32 [N, 1 + D].
        spatial_range: Per axis, coordinates lie in 0 to here, exclusive; None: unbounded.
        batch_size: Batch items lie in 0 to here, exclusive; None: one more than the highest.
        name: What errors call the function.
        limits: The lowest and highest of each column; None: the host waits to find them out.

    Returns:
        The batch size.

    Raises:
        ValueError: A coordinate is out of range.

    Example:
        >>> checked_batch_size(torch.tensor([[2, 5]], dtype=torch.int32), (6,), None)
        3
    """
    low, high = limits or map_ops.sparse_bounds(coords)
    if batch_size is not None:
        batch_size = whole(name, "batch_size", batch_size, 0)
    if coords.shape[0] == 0:
        return batch_size or 0
    if low[0] < 0 or (batch_size is not None and high[0] >= batch_size):
        limit = "" if batch_size is None else f" and below batch_size {batch_size}"
        raise ValueError(
            f"{name}: coords: expected batch items (column 0) of at least 0{limit}, "
            f"got {low[0]} to {high[0]}"
        )
    if spatial_range is not None:
        for axis, size in enumerate(spatial_range):
            if low[1 + axis] < 0 or high[1 + axis] >= size:
                raise ValueError(
                    f"{name}: coords: expected 0 to {size - 1} in axis {axis} (spatial_range "
                    f"{spatial_range}), got {low[1 + axis]} to {high[1 + axis]}"
                )
    return high[0] + 1 if batch_size is None else batch_size


def duplicate_text(coords: Tensor, rows: Tensor) -> str:
    """What to say of rows that share coordinates.

    Args:
        coords: int32 [N, 1 + D], some of them equal.
        rows: int32 [N], the first row with the coordinates of each.

    Returns:
        The text of an error.

    Example:
        >>> duplicate_text(torch.zeros(2, 2, dtype=torch.int32), torch.tensor([0, 0]))[:50]
        'SparseTensor: coords: expected unique coordinates,'
    """
    again = (rows.long() != torch.arange(len(rows), device=rows.device)).nonzero()[:, 0]
    row = int(again[0])
    return (
        f"SparseTensor: coords: expected unique coordinates, got {len(again)} that stood before, "
        f"the first {coords[row].tolist()} in rows {int(rows[row])} and {row}; "
        f"reduce={REDUCTIONS} merges them"
    )


def merged(coords: Tensor, feats: Tensor, reduce: Reduction) -> tuple[Tensor, Tensor]:
    """Makes rows with the same coordinates one, where the first of them was.

    Args:
        coords: int32 [N, 1 + D].
        feats: [N, C].
        reduce: What becomes of their features.

    Returns:
        Unique coordinates [M, 1 + D] and features [M, C].

    Example:
        >>> coords = torch.tensor([[0, 7], [0, 1], [0, 7]], dtype=torch.int32)
        >>> merged(coords, torch.ones(3, 1), "sum")[1].tolist()
        [[2.0], [1.0]]
    """
    unique = map_ops.sparse_unique(coords)
    order = torch.argsort(unique.first)
    segments = torch.argsort(order).index_select(0, unique.inverse)
    merged = pool_ops.sparse_segment_reduce(feats, segments, len(order), reduce)
    return coords.index_select(0, unique.first.index_select(0, order)), merged
