# SPDX-License-Identifier: Apache-2.0
"""Reductions over segments, and interpolation, whose gradient is one: the operators, each with its
fake kernel and its gradient.

No sum depends on the order in which threads run: rows are sorted by segment and added up in that
order. float16 and bfloat16 are added up in float32.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..library import call, ctx_ops, declare, ops
from .feature_checks import (
    check_device,
    check_features,
    check_indices,
    check_one_of,
    wide_dtype,
)

_MODES = {"sum": 0, "mean": 1, "max": 2, "min": 3}


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
    check_indices("sparse_segments", "segments", segments, "[N]", 1)
    return Segments(segments, *ops().sparse_segment_sort(segments, n_segments, is_sorted))


def _segment_sort_fake(segments: Tensor, n_segments: int, is_sorted: bool) -> tuple[Tensor, Tensor]:
    order = segments.new_empty(segments.shape[0], dtype=torch.int32)
    return order, segments.new_empty(n_segments + 1, dtype=torch.int64)


def sparse_segment_reduce(
    features: Tensor,
    segments: Tensor | Segments,
    n_segments: int | None = None,
    mode: str = "sum",
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
    check_features(name, features)
    check_one_of(name, "mode", mode, (*_MODES, "first"))
    if not isinstance(segments, Segments):
        if n_segments is None:
            raise ValueError(f"{name}: n_segments: expected a number beside segments of a tensor")
        check_indices(name, "segments", segments, "[N]", 1)
        check_device(name, "segments", segments, features)
        segments = sparse_segments(segments, n_segments)
    if segments.order.shape[0] != features.shape[0]:
        raise ValueError(
            f"{name}: segments: expected one a row of features, {features.shape[0]}, "
            f"got {segments.order.shape[0]}"
        )
    check_device(name, "segments", segments.order, features)
    if mode == "first":
        return sparse_gather(features, first_rows(segments))
    return call("sparse_segment_reduce", features, *segments, _MODES[mode])[0]


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
    picked = shape if mode >= _MODES["max"] else (0, 0)
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
    if ctx.mode >= _MODES["max"]:
        found = ctx_ops(ctx).sparse_segment_picked_backward(gradient, picked, ctx.n)
    else:
        if ctx.mode == _MODES["mean"]:
            gradient = gradient / (starts[1:] - starts[:-1]).clamp(min=1)[:, None]
        found = ctx_ops(ctx).sparse_interpolate(gradient, segments[:, None], None)
    return found, None, None, None, None


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
    check_features(name, features)
    check_indices(name, "rows", rows, "[Q, T]", 2)
    check_device(name, "rows", rows, features)
    if weights is not None:
        if not weights.is_floating_point():
            raise TypeError(f"{name}: weights: expected a floating dtype, got {weights.dtype}")
        if weights.shape != rows.shape:
            raise ValueError(
                f"{name}: weights: expected the shape of rows, {list(rows.shape)}, "
                f"got {list(weights.shape)}"
            )
        check_device(name, "weights", weights, features)
        weights = weights.to(wide_dtype(features))
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
    check_indices("sparse_gather", "rows", rows, "[Q]", 1)
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
    return features.new_empty(rows.shape, dtype=wide_dtype(features))


def _features_backward_fake(
    gradient: Tensor, weights: Tensor | None, order: Tensor, starts: Tensor, taps: int
) -> Tensor:
    return gradient.new_empty(starts.shape[0] - 1, gradient.shape[1])


declare("sparse_segment_sort", _segment_sort_fake)
declare("sparse_segment_reduce", _segment_fake, _segment_setup, _segment_backward)
declare(
    "sparse_segment_picked_backward",
    lambda gradient, picked, n_rows: gradient.new_empty(n_rows, gradient.shape[1]),
)
declare("sparse_interpolate", _interpolate_fake, _interpolate_setup, _interpolate_backward)
declare("sparse_interpolate_weights_backward", _weights_backward_fake)
declare("sparse_interpolate_features_backward", _features_backward_fake)
