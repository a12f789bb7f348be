# SPDX-License-Identifier: Apache-2.0
"""Pooling over kernel maps, reductions over segments, and interpolation: the operators, each with
its fake kernel and its gradient.

Nothing here depends on the order in which threads run: sums are taken over sorted lists, in their
order, and gradients are the same sums over the reverse lists. float16 and bfloat16 are added up in
float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from .. import library
from ..library import call, ctx_ops, declare, ops
from . import map_ops
from .map_ops import CoordinateIndex

_POOL_MODES = {"sum": 0, "mean": 1, "max": 2}
_SEGMENT_MODES = {"sum": 0, "mean": 1, "max": 2, "min": 3}
_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def _check_features(name: str, features: Tensor) -> None:
    if features.dtype not in _FLOATS:
        raise TypeError(
            f"{name}: features: expected float32, float64, float16 or bfloat16, "
            f"got {features.dtype}"
        )
    if features.dim() != 2:
        raise ValueError(f"{name}: features: expected shape [N, C], got {list(features.shape)}")


def _check_indices(name: str, argument: str, indices: Tensor, shape: str, dim: int) -> None:
    if indices.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"{name}: {argument}: expected int32 or int64, got {indices.dtype}")
    if indices.dim() != dim:
        raise ValueError(f"{name}: {argument}: expected shape {shape}, got {list(indices.shape)}")


def _check_device(
    name: str, argument: str, tensor: Tensor, like: Tensor, of: str = "features"
) -> None:
    if tensor.device != like.device:
        raise ValueError(
            f"{name}: {argument}: expected the device of {of}, {like.device}, got {tensor.device}"
        )


def _check_one_of(name: str, argument: str, value: str, values: Sequence[str]) -> None:
    if value not in values:
        raise ValueError(f"{name}: {argument}: expected one of {', '.join(values)}, got {value!r}")


def _wide(features: Tensor) -> torch.dtype:
    return torch.float64 if features.dtype == torch.float64 else torch.float32


# Pooling over a kernel map.


class PoolMap(NamedTuple):
    """The forms of a kernel map that pooling reads.

    Args:
        in_rows: int32 [n_pairs], tap after tap.
        out_rows: int32 [n_pairs], ascending within each tap.
        starts: int64 [n_taps + 1], the first pair of each tap.
        table: int32 [n_taps, n_out], the input row of each tap and output row, -1 for none.
    """

    in_rows: Tensor
    out_rows: Tensor
    starts: Tensor
    table: Tensor


def pool_map(kernel_map: Any, like: Tensor) -> PoolMap:
    """What the kernels of a device read of a kernel map: a CPU its pairs, a GPU its table."""
    rows = like.new_empty(0, dtype=torch.int32)
    if like.is_cuda or ops() is not getattr(torch.ops, library.NAMESPACE):
        starts = like.new_zeros(1, dtype=torch.int64)
        return PoolMap(rows, rows, starts, kernel_map.table)
    return PoolMap(*kernel_map.pairs, rows.reshape(0, 0))


def sparse_pool(
    features: Tensor, kernel_map: Any, mode: Literal["max", "sum", "mean"] = "max"
) -> Tensor:
    """Pools features over a kernel map: what is not active takes no part.

    Args:
        features: [n_in, C], float32, float64, float16 or bfloat16.
        kernel_map: A KernelMap of n_in inputs, n_out outputs and at most 32767 taps.
        mode: "max" (of equals that of the smallest tap has the gradient; NaN wins), "sum", or
            "mean" over the inputs that there are.

    Returns:
        [n_out, C], zero where an output has no input; differentiable in features.

    Raises:
        TypeError: The dtype is another.
        ValueError: A shape, the mode or the device is another.

    Example:
        >>> from types import SimpleNamespace
        >>> none = torch.zeros(0, dtype=torch.int32)
        >>> rows = torch.tensor([0, 1, 2], dtype=torch.int32)
        >>> pairs = (rows, torch.tensor([0, 1, 0], dtype=torch.int32), torch.tensor([0, 2, 3]))
        >>> window = SimpleNamespace(n_in=3, n_out=2, pairs=pairs, device=rows.device)
        >>> sparse_pool(torch.tensor([[1.0], [5.0], [3.0]]), window, "max").tolist()
        [[3.0], [5.0]]
    """
    name = "sparse_pool"
    _check_features(name, features)
    _check_one_of(name, "mode", mode, tuple(_POOL_MODES))
    if features.shape[0] != kernel_map.n_in:
        raise ValueError(
            f"{name}: features: expected {kernel_map.n_in} rows, the inputs of kernel_map, "
            f"got {features.shape[0]}"
        )
    if torch.device(kernel_map.device) != features.device:
        raise ValueError(
            f"{name}: kernel_map: expected the device of features, {features.device}, "
            f"got {kernel_map.device}"
        )
    forms = pool_map(kernel_map, features)
    # The reverse map is worth making where there will be a gradient.
    needed = torch.is_grad_enabled() and features.requires_grad
    reverse = pool_map(kernel_map.reverse, features) if needed else forms
    return pool_forms(features, kernel_map.n_out, mode, forms, reverse)


def pool_forms(features: Tensor, n_out: int, mode: str, forms: PoolMap, reverse: PoolMap) -> Tensor:
    """`sparse_pool` by the tensors of the map and of its reverse."""
    return call(
        *("sparse_pool", features, n_out, _POOL_MODES[mode], *forms),
        *(reverse.in_rows, reverse.out_rows, reverse.table),
    )[0]


def _pool_fake(features: Tensor, n_out: int, mode: int, *forms: Tensor) -> tuple[Tensor, Tensor]:
    channels = features.shape[1]
    kept = {0: (0, 0), 1: (n_out, 1), 2: (n_out, channels)}[mode]
    return features.new_empty(n_out, channels), features.new_empty(kept, dtype=torch.int16)


def _pool_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    features, _, ctx.mode, _, _, starts, _, reverse_in, reverse_out, reverse_table = inputs
    ctx.n_in = features.shape[0]
    ctx.save_for_backward(output[1], reverse_in, reverse_out, starts, reverse_table)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _pool_backward(ctx: Any, gradient: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
    if gradient is None:
        return (None,) * 10
    kept, *reverse = ctx.saved_tensors
    if ctx.mode == _POOL_MODES["mean"]:
        gradient = gradient / kept.clamp(min=1)
    found = ctx_ops(ctx).sparse_pool_backward(
        gradient, kept if ctx.mode == _POOL_MODES["max"] else None, ctx.n_in, *reverse
    )
    return found, *[None] * 9


def _pool_backward_fake(gradient: Tensor, kept: Tensor | None, n_in: int, *reverse: Any) -> Tensor:
    return gradient.new_empty(n_in, gradient.shape[1])


# Reductions over segments.


class Segments(NamedTuple):
    """Rows sorted by segment: what `sparse_segments` makes once for any number of reductions.

    Args:
        segments: int32 or int64 [N], the segment of each row; negative: none.
        order: int32 [N], the rows of segment 0, then of segment 1, ..., each ascending.
        starts: int64 [n_segments + 1], where in ``order`` each segment begins.
    """

    segments: Tensor
    order: Tensor
    starts: Tensor


@torch.no_grad()
def sparse_segments(segments: Tensor, n_segments: int, *, is_sorted: bool = False) -> Segments:
    """Sorts rows by segment.

    Args:
        segments: int32 or int64 [N], the segment of each row; negative: none.
        n_segments: How many segments there are.
        is_sorted: Promises that segments ascend, those of no segment last, which saves a GPU the
            sort. (A CPU sees for itself.)

    Returns:
        Segments. Not differentiable.

    Raises:
        TypeError: The dtype is another.
        ValueError: The shape is another.
        RuntimeError: On a CPU: a segment is not below n_segments, or the promise does not hold. A
            GPU leaves rows of such segments out.

    Example:
        >>> sparse_segments(torch.tensor([1, 0, 1, -1]), 2)[1:]
        (tensor([1, 0, 2, 3], dtype=torch.int32), tensor([0, 1, 3]))
    """
    _check_indices("sparse_segments", "segments", segments, "[N]", 1)
    return Segments(segments, *ops().sparse_segment_sort(segments, n_segments, is_sorted))


def _segment_sort_fake(segments: Tensor, n_segments: int, is_sorted: bool) -> tuple[Tensor, Tensor]:
    order = segments.new_empty(segments.shape[0], dtype=torch.int32)
    return order, segments.new_empty(n_segments + 1, dtype=torch.int64)


def sparse_segment_reduce(
    features: Tensor,
    segments: Tensor | Segments,
    n_segments: int | None = None,
    mode: Literal["sum", "mean", "max", "min", "first"] = "sum",
) -> Tensor:
    """Reduces the rows of each segment to one.

    Args:
        features: [N, C], float32, float64, float16 or bfloat16.
        segments: int32 or int64 [N], the segment of each row (negative: none), or what
            `sparse_segments` made of them.
        n_segments: How many segments there are; None if `segments` says so.
        mode: "sum", "mean", "max", "min" (of equals the first row has the gradient; NaN wins), or
            "first": the row that comes first.

    Returns:
        [n_segments, C], zero where a segment has no rows; differentiable in features. Rows are
        added in ascending order, in blocks of a fixed size if there are many.

    Raises:
        TypeError: A dtype is another.
        ValueError: A shape, the mode or the device is another.

    Example:
        >>> x = torch.tensor([[1.0], [2.0], [4.0]])
        >>> sparse_segment_reduce(x, torch.tensor([1, 0, 1]), 2, "mean").tolist()
        [[2.0], [2.5]]
    """
    name = "sparse_segment_reduce"
    _check_features(name, features)
    _check_one_of(name, "mode", mode, (*_SEGMENT_MODES, "first"))
    if not isinstance(segments, Segments):
        if n_segments is None:
            raise ValueError(f"{name}: n_segments: expected a number beside segments of a tensor")
        _check_indices(name, "segments", segments, "[N]", 1)
        _check_device(name, "segments", segments, features)
        segments = sparse_segments(segments, n_segments)
    if segments.order.shape[0] != features.shape[0]:
        raise ValueError(
            f"{name}: segments: expected one a row of features, {features.shape[0]}, "
            f"got {segments.order.shape[0]}"
        )
    _check_device(name, "segments", segments.order, features)
    if mode == "first":
        return sparse_gather(features, first_rows(segments))
    return call("sparse_segment_reduce", features, *segments, _SEGMENT_MODES[mode])[0]


@torch.no_grad()
def first_rows(segments: Segments) -> Tensor:
    """The first row of each segment.

    Args:
        segments: What `sparse_segments` made.

    Returns:
        int64 [n_segments]; -1 where a segment has no rows.

    Example:
        >>> first_rows(sparse_segments(torch.tensor([2, 0, 2]), 3)).tolist()
        [1, -1, 0]
    """
    starts, ends = segments.starts[:-1], segments.starts[1:]
    if segments.order.shape[0] == 0:
        return torch.full_like(starts, -1)
    rows = segments.order[starts.clamp(max=segments.order.shape[0] - 1)].long()
    return torch.where(starts < ends, rows, -1)


def _segment_fake(
    features: Tensor, segments: Tensor, order: Tensor, starts: Tensor, mode: int
) -> tuple[Tensor, Tensor]:
    shape = (starts.shape[0] - 1, features.shape[1])
    picked = shape if mode >= _SEGMENT_MODES["max"] else (0, 0)
    return features.new_empty(shape), features.new_empty(picked, dtype=torch.int32)


def _segment_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    features, segments, _, starts, ctx.mode = inputs
    ctx.n = features.shape[0]
    ctx.save_for_backward(segments, starts, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _segment_backward(ctx: Any, gradient: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
    if gradient is None:
        return (None,) * 5
    segments, starts, picked = ctx.saved_tensors
    if ctx.mode >= _SEGMENT_MODES["max"]:
        found = ctx_ops(ctx).sparse_segment_picked_backward(gradient, picked, ctx.n)
    else:
        if ctx.mode == _SEGMENT_MODES["mean"]:
            gradient = gradient / (starts[1:] - starts[:-1]).clamp(min=1)[:, None]
        found = ctx_ops(ctx).sparse_interpolate(gradient, segments[:, None], None)
    return found, None, None, None, None


# Interpolation.


def sparse_interpolate(features: Tensor, rows: Tensor, weights: Tensor | None = None) -> Tensor:
    """Weighted sums of rows.

    Args:
        features: [N, C], float32, float64, float16 or bfloat16.
        rows: int32 or int64 [Q, T], the rows that each query takes; negative: skipped.
        weights: Floating [Q, T], their weights; None: 1.

    Returns:
        [Q, C] of the dtype of features, zero where all rows are skipped; differentiable in
        features and weights.

    Raises:
        TypeError: A dtype is another.
        ValueError: A shape or a device is another.
        RuntimeError: On a CPU: a row is not below N. A GPU skips such rows.

    Example:
        >>> x = torch.tensor([[1.0], [3.0]])
        >>> sparse_interpolate(x, torch.tensor([[0, 1]]), torch.tensor([[0.25, 0.75]])).tolist()
        [[2.5]]
    """
    name = "sparse_interpolate"
    _check_features(name, features)
    _check_indices(name, "rows", rows, "[Q, T]", 2)
    _check_device(name, "rows", rows, features)
    if weights is not None:
        if not weights.is_floating_point():
            raise TypeError(f"{name}: weights: expected a floating dtype, got {weights.dtype}")
        if weights.shape != rows.shape:
            raise ValueError(
                f"{name}: weights: expected the shape of rows, {list(rows.shape)}, "
                f"got {list(weights.shape)}"
            )
        _check_device(name, "weights", weights, features)
        weights = weights.to(_wide(features))
    return call(name, features, rows, weights)


def sparse_gather(features: Tensor, rows: Tensor) -> Tensor:
    """Rows of features, with a gradient that is the same in every run.

    Args:
        features: [N, C], float32, float64, float16 or bfloat16.
        rows: int32 or int64 [Q]; negative: zeros.

    Returns:
        [Q, C]; differentiable in features.

    Raises:
        TypeError: A dtype is another.
        ValueError: A shape or the device is another.
        RuntimeError: On a CPU: a row is not below N. A GPU gives zeros.

    Example:
        >>> sparse_gather(torch.tensor([[1.0], [3.0]]), torch.tensor([1, -1, 1])).tolist()
        [[3.0], [0.0], [3.0]]
    """
    _check_indices("sparse_gather", "rows", rows, "[Q]", 1)
    return sparse_interpolate(features, rows[:, None])


def _interpolate_fake(features: Tensor, rows: Tensor, weights: Tensor | None) -> Tensor:
    return features.new_empty(rows.shape[0], features.shape[1])


def _interpolate_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, rows, weights = inputs
    ctx.n = features.shape[0]
    # Features are read for the gradient of weights alone.
    ctx.save_for_backward(features if ctx.needs_input_grad[2] else None, rows, weights)


def _interpolate_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    features, rows, weights = ctx.saved_tensors
    g_features, g_weights = None, None
    if ctx.needs_input_grad[2]:
        g_weights = ctx_ops(ctx).sparse_interpolate_weights_backward(gradient, features, rows)
    if ctx.needs_input_grad[0]:
        order, starts = ctx_ops(ctx).sparse_segment_sort(rows.reshape(-1), ctx.n, False)
        g_features = ctx_ops(ctx).sparse_interpolate_features_backward(
            gradient, weights if rows.shape[1] else None, order, starts, max(rows.shape[1], 1)
        )
    return g_features, None, g_weights


def _weights_backward_fake(gradient: Tensor, features: Tensor, rows: Tensor) -> Tensor:
    return features.new_empty(rows.shape, dtype=_wide(features))


def _features_backward_fake(
    gradient: Tensor, weights: Tensor | None, order: Tensor, starts: Tensor, taps: int
) -> Tensor:
    return gradient.new_empty(starts.shape[0] - 1, gradient.shape[1])


# Between voxels.


def sparse_trilinear(
    index: CoordinateIndex | Callable[[Tensor], Tensor],
    points: Tensor,
    batch: Tensor | None = None,
    *,
    align: Literal["centre", "corner"] = "centre",
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
    place = points - 0.5 if align == "centre" else points
    low = place.detach().floor()
    fraction = place - low
    offsets = _corners(points.shape[1], points.device)
    ends = -(2**31), 2**31 - 1
    near = (low >= ends[0] - 1) & (low <= ends[1])  # false for what is not a number
    corners = torch.where(near, low, ends[1]).long()[:, None, :] + offsets
    exists = ((corners >= ends[0]) & (corners <= ends[1])).all(dim=2)
    exists &= near.all(dim=1, keepdim=True)
    items = items[:, None, :].expand(-1, len(offsets), -1)
    queries = torch.cat([items, corners.clamp(*ends).int()], dim=2)
    lookup = index if callable(index) else partial(map_ops.sparse_lookup, index)
    rows = lookup(queries.flatten(0, 1)).view(len(points), len(offsets)).int()
    rows = torch.where(exists, rows, -1)
    shares = torch.where(offsets == 1, fraction[:, None, :], 1 - fraction[:, None, :])
    weights = torch.where(rows >= 0, shares.prod(dim=2), 0)
    if renormalise:
        total = weights.sum(dim=1, keepdim=True)
        weights = weights / torch.where(total > 0, total, 1)
    return rows, weights


def _checked_points(name: str, points: Tensor, batch: Tensor | None, align: str) -> Tensor:
    """The batch column of points, int32 [Q, 1]."""
    if points.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name}: points: expected float32 or float64, got {points.dtype}")
    if points.dim() != 2 or not 1 <= points.shape[1] <= 4:
        raise ValueError(
            f"{name}: points: expected shape [Q, D], D = 1 to 4, got {list(points.shape)}"
        )
    _check_one_of(name, "align", align, ("centre", "corner"))
    if batch is None:
        return points.new_zeros(points.shape[0], 1, dtype=torch.int32)
    if batch.is_floating_point():
        raise TypeError(f"{name}: batch: expected whole numbers, got {batch.dtype}")
    if batch.shape not in ((points.shape[0],), (points.shape[0], 1)):
        raise ValueError(
            f"{name}: batch: expected shape [{points.shape[0]}], got {list(batch.shape)}"
        )
    _check_device(name, "batch", batch, points, "points")
    return batch.int().view(-1, 1)


def _corners(ndim: int, device: torch.device) -> Tensor:
    """0 and 1 along each axis, int64 [2^D, D], the last axis fastest."""
    corner = torch.arange(2**ndim, device=device)[:, None]
    return corner >> torch.arange(ndim - 1, -1, -1, device=device) & 1


declare("sparse_pool", _pool_fake, _pool_setup, _pool_backward)
declare("sparse_pool_backward", _pool_backward_fake)
declare("sparse_segment_sort", _segment_sort_fake)
declare("sparse_segment_reduce", _segment_fake, _segment_setup, _segment_backward)
declare(
    "sparse_segment_picked_backward",
    lambda gradient, picked, n_rows: gradient.new_empty(n_rows, gradient.shape[1]),
)
declare("sparse_interpolate", _interpolate_fake, _interpolate_setup, _interpolate_backward)
declare("sparse_interpolate_weights_backward", _weights_backward_fake)
declare("sparse_interpolate_features_backward", _features_backward_fake)
