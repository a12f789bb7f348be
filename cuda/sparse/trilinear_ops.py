# SPDX-License-Identifier: Apache-2.0
"""The voxels around points and their weights, with their gradient."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..library import call, ctx_ops, declare, ops
from . import map_ops
from .feature_checks import check_device, check_one_of
from .map_ops import CoordinateIndex


def sparse_trilinear(
    index: CoordinateIndex | Callable[[Tensor], Tensor],
    points: Tensor,
    batch: Tensor | None = None,
    *,
    align: str = "centre",
    renormalise: bool = True,
) -> tuple[Tensor, Tensor]:
    """The 2^D voxels around each point, and how much each counts, for `sparse_interpolate`.

    Args:
        index: Of `sparse_index`, or any function from int32 [M, 1 + D] to rows [M], -1 for none.
        points: float32 or float64 [Q, D], in voxels.
        batch: Whole numbers [Q] or [Q, 1], the batch item of each point; None: all 0.
        align: Where a voxel's value stands: "centre", at i + 1/2 along each axis, or "corner", at
            i, as torchsparse's devoxelisation has it.
        renormalise: Let the weights of the voxels that exist add up to 1.

    Returns:
        Rows int32 [Q, 2^D], -1 for voxels that do not exist, and their weights [Q, 2^D], zero
        there; the last axis runs fastest. Weights are differentiable in points. Points that are not
        finite have no voxels.

    Raises:
        TypeError: The dtype of points or batch is another.
        ValueError: A shape, a device or align is another.

    Source: Liu et al., "Point-Voxel CNN for efficient 3D deep learning" (2019), section 3.2.

    Example:
        >>> rows, weights = sparse_trilinear(lambda c: c[:, 1], torch.tensor([[0.75]]))
        >>> rows.tolist(), weights.tolist()
        ([[0, 1]], [[0.75, 0.25]])
    """
    name = "sparse_trilinear"
    items = _checked_points(name, points, batch, align)
    value_at = 0.5 if align == "centre" else 0.0
    with torch.no_grad():
        queries = ops().sparse_corners(points, items, value_at)
        lookup = index if callable(index) else partial(map_ops.sparse_lookup, index)
        found = lookup(queries).int().view(points.shape[0], 2 ** points.shape[1])
    weights, rows = call("sparse_corner_weights", points, found, value_at, renormalise)
    return rows, weights


def _checked_points(name: str, points: Tensor, batch: Tensor | None, align: str) -> Tensor:
    """The batch column of points, int32 [Q]."""
    if points.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name}: points: expected float32 or float64, got {points.dtype}")
    if points.dim() != 2 or not 1 <= points.shape[1] <= 4:
        raise ValueError(
            f"{name}: points: expected shape [Q, D], D = 1 to 4, got {list(points.shape)}"
        )
    check_one_of(name, "align", align, ("centre", "corner"))
    if batch is None:
        return points.new_zeros(points.shape[0], dtype=torch.int32)
    if batch.is_floating_point():
        raise TypeError(f"{name}: batch: expected whole numbers, got {batch.dtype}")
    if batch.shape not in ((points.shape[0],), (points.shape[0], 1)):
        raise ValueError(
            f"{name}: batch: expected shape [{points.shape[0]}], got {list(batch.shape)}"
        )
    check_device(name, "batch", batch, points, "points")
    return batch.int().reshape(-1)


def _corners_fake(points: Tensor, batch: Tensor, value_at: float) -> Tensor:
    n, ndim = points.shape
    return points.new_empty(n * 2**ndim, 1 + ndim, dtype=torch.int32)


def _weights_fake(
    points: Tensor, rows: Tensor, value_at: float, renormalise: bool
) -> tuple[Tensor, Tensor]:
    return points.new_empty(rows.shape), torch.empty_like(rows)


def _weights_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    points, _, ctx.value_at, ctx.renormalise = inputs
    ctx.save_for_backward(points, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _weights_backward(ctx: Any, gradient: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
    if gradient is None:
        return (None,) * 4
    points, rows = ctx.saved_tensors
    found = ctx_ops(ctx).sparse_corner_weights_backward(
        points, rows, ctx.value_at, ctx.renormalise, gradient
    )
    return found, None, None, None


declare("sparse_corners", _corners_fake)
declare("sparse_corner_weights", _weights_fake, _weights_setup, _weights_backward)
declare("sparse_corner_weights_backward", lambda points, *rest: torch.empty_like(points))
