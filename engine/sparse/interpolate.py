# SPDX-License-Identifier: Apache-2.0
"""Features at points, from the rows of voxels."""

from __future__ import annotations

import torch
from torch import Tensor

from ...cuda.sparse import map_ops, pool_ops
from .arguments import check_real, check_whole
from .coordinates import Level
from .quantize import batch_column, in_voxels


def at_rows(feats: Tensor, rows: Tensor) -> Tensor:
    """Rows of features by number, with a gradient that adds up in a fixed order.

    Args:
        feats: [N, C].
        rows: int32 or int64 [Q]; -1: none.

    Returns:
        [Q, C], zero where there is no row.

    Raises:
        TypeError: They are no whole numbers.
        ValueError: The shape or the device is another; on a CPU: a row does not exist.

    Example:
        >>> at_rows(torch.tensor([[1.0], [2.0]]), torch.tensor([1, -1, 0])).tolist()
        [[2.0], [0.0], [1.0]]
    """
    name = "SparseTensor.devoxelize"
    check_whole(name, "inverse", rows)
    if rows.dim() != 1 or rows.device != feats.device:
        raise ValueError(
            f"{name}: inverse: expected shape [N] on {feats.device}, "
            f"got {list(rows.shape)} on {rows.device}"
        )
    # A GPU would have to be waited for; there, rows that do not exist give zeros.
    if rows.device.type == "cpu" and len(rows) and int(rows.max()) >= len(feats):
        raise ValueError(
            f"{name}: inverse: expected rows below {len(feats)}, got {int(rows.max())}"
        )
    return pool_ops.sparse_gather(feats, rows)


def rows_at(level: Level, place: Tensor, items: Tensor) -> Tensor:
    """The rows of the voxels that points are in.

    Args:
        level: Where the rows are.
        place: float64 [Q, D], in units of the level's voxels.
        items: int32 [Q, 1], the batch item of each.

    Returns:
        int32 [Q], -1 where there is none.

    Example:
        >>> level = Level(torch.tensor([[0, 3]], dtype=torch.int32), (1,), None, 1)
        >>> place = torch.tensor([[3.9], [float("nan")], [1e30]], dtype=torch.float64)
        >>> rows_at(level, place, torch.zeros(3, 1, dtype=torch.int32)).tolist()
        [0, -1, -1]
    """
    inside = ((place >= -(2**31)) & (place < 2**31)).all(1, keepdim=True)
    queries = torch.cat([items, torch.where(inside, place.floor(), 0).int()], dim=1)
    rows = map_ops.sparse_lookup(level.index, queries)
    return torch.where(inside[:, 0], rows, -1)


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
    check_real(name, "points", points)
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
        return pool_ops.sparse_gather(feats, rows_at(level, place, items))
    rows, weights = pool_ops.sparse_trilinear(level.index, place, items)
    return pool_ops.sparse_interpolate(feats, rows, weights.to(feats.dtype))
