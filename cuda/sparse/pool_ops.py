# SPDX-License-Identifier: Apache-2.0
"""Pooling over kernel maps. What reduces and interpolates rows without one is in segment_ops and
trilinear_ops, and is found here too.

The gradient of pooling is a sum over the reverse map, in the order of its taps, so that it is the
same in every run. float16 and bfloat16 are added up in float32.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import library
from ..library import call, ctx_ops, declare, ops
from .feature_checks import check_features, check_one_of
from .kernel_map import KernelMap
from .segment_ops import (
    Segments,
    first_rows,
    sparse_gather,
    sparse_interpolate,
    sparse_segment_reduce,
    sparse_segments,
)
from .trilinear_ops import sparse_trilinear

__all__ = [
    "PoolMap",
    "Segments",
    "first_rows",
    "pool_forms",
    "sparse_gather",
    "sparse_interpolate",
    "sparse_pool",
    "sparse_segment_reduce",
    "sparse_segments",
    "sparse_trilinear",
]

_MODES = {"sum": 0, "mean": 1, "max": 2}


class PoolMap(NamedTuple):
    """The forms of a kernel map that pooling reads: on a CPU the pairs, on a GPU the table; what is
    not read has no elements.

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


def _forms(kernel_map: KernelMap, features: Tensor) -> PoolMap:
    on_gpu = features.is_cuda or ops() is not getattr(torch.ops, library.NAMESPACE)
    return PoolMap(*kernel_map.operands("table" if on_gpu else "pairs")[:4])


def sparse_pool(features: Tensor, kernel_map: KernelMap, mode: str = "max") -> Tensor:
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
        >>> table = torch.tensor([[0, 1], [2, -1]], dtype=torch.int32)
        >>> window = KernelMap.from_table(table, n_in=3)
        >>> sparse_pool(torch.tensor([[1.0], [5.0], [3.0]]), window, "max").tolist()
        [[3.0], [5.0]]
    """
    name = "sparse_pool"
    check_features(name, features)
    check_one_of(name, "mode", mode, tuple(_MODES))
    if features.shape[0] != kernel_map.n_in:
        raise ValueError(
            f"{name}: features: expected {kernel_map.n_in} rows, the inputs of kernel_map, "
            f"got {features.shape[0]}"
        )
    if kernel_map.device != features.device:
        raise ValueError(
            f"{name}: kernel_map: expected the device of features, {features.device}, "
            f"got {kernel_map.device}"
        )
    forms = _forms(kernel_map, features)
    # The reverse map is worth making where there will be a gradient.
    needed = torch.is_grad_enabled() and features.requires_grad
    reverse = _forms(kernel_map.reverse, features) if needed else forms
    return pool_forms(features, kernel_map.n_out, mode, forms, reverse)


def pool_forms(features: Tensor, n_out: int, mode: str, forms: PoolMap, reverse: PoolMap) -> Tensor:
    """`sparse_pool` by the tensors of the map and of its reverse."""
    return call(
        *("sparse_pool", features, n_out, _MODES[mode], *forms),
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
    if ctx.mode == _MODES["mean"]:
        gradient = gradient / kept.clamp(min=1)
    found = ctx_ops(ctx).sparse_pool_backward(
        gradient, kept if ctx.mode == _MODES["max"] else None, ctx.n_in, *reverse
    )
    return found, *[None] * 9


def _pool_backward_fake(gradient: Tensor, kept: Tensor | None, n_in: int, *reverse: Any) -> Tensor:
    return gradient.new_empty(n_in, gradient.shape[1])


declare("sparse_pool", _pool_fake, _pool_setup, _pool_backward)
declare("sparse_pool_backward", _pool_backward_fake)
