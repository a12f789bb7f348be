# SPDX-License-Identifier: Apache-2.0
"""Features at points, from the rows of voxels."""

from __future__ import annotations

import torch
from torch import Tensor

from ...cuda.sparse import map_ops, pool_ops
from .arguments import check_tensor
from .coordinates import Level
from .quantize import batch_column, in_voxels


def at_rows(feats: Tensor, rows: Tensor) -> Tensor:
    """Rows of features by number, with a gradient that adds up in a fixed order.

    Args:
        feats: [N, C].
        rows: int32 or int64 [Q]; -1: none.

    Returns:
        [Q, C], zero where there is no row.

    Example:
        >>> at_rows(torch.tensor([[1.0], [2.0]]), torch.tensor([1, -1, 0])).tolist()
        [[2.0], [0.0], [1.0]]
    """
    check_tensor("devoxelize", "inverse", rows)
    if rows.dim() != 1 or rows.is_floating_point():
        raise ValueError(f"devoxelize: inverse: expected whole numbers [N], got {list(rows.shape)}")
    return pool_ops.sparse_gather(feats, rows)


def at_points(
    feats: Tensor,
    level: Level,
    points: Tensor,
    voxel_size: float | tuple[float, ...] | Tensor,
    batch: Tensor | None,
    mode: str,
) -> Tensor:
    """Features at points of space.

    Args:
        feats: [N, C], on the level.
        level: Where the rows are.
        points: [Q, D].
        voxel_size: Of the network's input.
        batch: [Q] whole numbers; None: all 0.
        mode: "nearest" or "trilinear".

    Returns:
        [Q, C].

    Raises:
        ValueError: Shapes do not fit together.

    Example:
        >>> level = Level(torch.tensor([[0, 3]], dtype=torch.int32), (2,), None, 1)
        >>> points = torch.tensor([[5.9], [6.0], [7.9], [8.0]])
        >>> at_points(torch.ones(1, 1), level, points, 1.0, None, "nearest")[:, 0].tolist()
        [0.0, 1.0, 1.0, 0.0]
    """
    name = "SparseTensor.devoxelize"
    check_tensor(name, "points", points)
    if points.dim() != 2 or points.shape[1] != level.ndim or points.device != feats.device:
        raise ValueError(
            f"{name}: points: expected shape [N, {level.ndim}] on {feats.device}, "
            f"got {list(points.shape)} on {points.device}"
        )
    level.check_unchanged()
    place = in_voxels(name, points, voxel_size)
    place = place / place.new_tensor(level.stride)
    items = batch_column(name, batch, points)
    if mode == "nearest":
        inside = ((place >= -(2**31)) & (place < 2**31)).all(1, keepdim=True)
        queries = torch.cat([items, torch.where(inside, place.floor(), 0).int()], dim=1)
        rows = map_ops.sparse_lookup(level.index, queries)
        return at_rows(feats, torch.where(inside[:, 0], rows, -1))
    rows, weights = pool_ops.sparse_trilinear(level.index, place, items)
    return pool_ops.sparse_interpolate(feats, rows, weights.to(feats.dtype))
