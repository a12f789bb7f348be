# SPDX-License-Identifier: Apache-2.0
"""Batch normalisation with the residual sum and the activation behind it: the operators, their
fake kernels and the gradient.

    out = activation((features - mean) * weight / sqrt(variance + eps) + bias + residual)

Statistics are joined from parts in a fixed order, in float32 for float16 and bfloat16. Their
gradient is part of the norm's, so that both passes of a training step read features twice.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..library import call, ctx_ops, declare
from .conv_ops import _ACTIVATIONS, Activation, _has_gradient_from_output
from .feature_checks import check_device, check_features, check_one_of, wide_dtype

_NUMBERS = {activation: number for number, activation in enumerate(_ACTIVATIONS)}
_CHANNELS = ("running_mean", "running_var", "weight", "bias")


def sparse_batch_norm(
    features: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    residual: Tensor | None = None,
    activation: Activation = "none",
    slope: float = 0.01,
    tracked: Tensor | None = None,
) -> Tensor:
    """Normalises each channel over all rows, adds a residual and activates.

    Args:
        features: [N, C], float32, float64, float16 or bfloat16.
        running_mean: [C], used instead of the features' own in evaluation, updated in training.
        running_var: [C], the same of the variance; training puts the unbiased one in.
        weight: [C], of the features' dtype, or float32 beside float16 and bfloat16.
        bias: [C], the same.
        training: Whether statistics are those of the features.
        momentum: The share of this batch in the running statistics; None: one over the number of
            batches so far, which takes ``tracked``.
        eps: Added to the variance.
        residual: [N, C] of the features' dtype, added before the activation.
        activation: "none", "relu", "leaky_relu", "silu", "gelu" or "sigmoid".
        slope: Of leaky_relu below zero.
        tracked: int64 [], batches that the running statistics have seen; training counts.

    Returns:
        [N, C]; differentiable in features, weight, bias and residual, once. Without rows nothing is
        learnt.

    Raises:
        TypeError: A dtype is another.
        ValueError: A shape, a device or the activation is another, training has one row alone, or
            evaluation no statistics.

    Source:
        Ioffe, Szegedy, Batch Normalization, ICML 2015; statistics after Chan, Golub, LeVeque,
        Algorithms for Computing the Sample Variance, The American Statistician 37, 1983.

    Example:
        >>> x = torch.tensor([[1.0], [3.0]])
        >>> sparse_batch_norm(x, training=True, activation="relu").round(decimals=3).tolist()
        [[0.0], [1.0]]
    """
    number = _NUMBERS.get(activation)
    if number is None:
        check_one_of("sparse_batch_norm", "activation", activation, tuple(_NUMBERS))
    _check(features, running_mean, running_var, weight, bias, residual)
    wide = wide_dtype(features)
    if weight is not None and weight.dtype != wide:
        weight = weight.to(wide)
    if bias is not None and bias.dtype != wide:
        bias = bias.to(wide)
    if training:
        mean, variance = _statistics(features, running_mean, running_var, tracked, momentum)
    elif running_mean is None or running_var is None:
        raise ValueError(
            "sparse_batch_norm: running_mean, running_var: expected both in evaluation, got None"
        )
    else:
        mean, variance = running_mean.to(wide), running_var.to(wide)
    return call(
        "sparse_batch_norm",
        *(features, mean, variance, weight, bias, residual),
        *(training, eps, number, slope),
    )


def _check(features: Tensor, *others: Tensor | None) -> None:
    """The dtype of features says that of the others."""
    name = "sparse_batch_norm"
    check_features(name, features)
    shape, dtype, device = features.shape, features.dtype, features.device
    *channels, residual = others
    for argument, values in zip(_CHANNELS, channels):
        if values is None:
            continue
        if values.dim() != 1 or values.shape[0] != shape[1]:
            raise ValueError(
                f"{name}: {argument}: expected shape [{shape[1]}], got {list(values.shape)}"
            )
        if values.dtype != dtype and values.dtype != wide_dtype(features):
            raise TypeError(
                f"{name}: {argument}: expected {wide_dtype(features)} beside features of {dtype}, "
                f"got {values.dtype}"
            )
        if values.device != device:
            check_device(name, argument, values, features)
    if residual is None:
        return
    if residual.shape != shape:
        raise ValueError(
            f"{name}: residual: expected the shape of features, {list(shape)}, "
            f"got {list(residual.shape)}"
        )
    if residual.dtype != dtype:
        raise TypeError(
            f"{name}: residual: expected {dtype}, the dtype of features, got {residual.dtype}"
        )
    check_device(name, "residual", residual, features)


def _statistics(
    features: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    tracked: Tensor | None,
    momentum: float | None,
) -> tuple[Tensor, Tensor]:
    """Mean and variance of the rows, of which the running ones take their share."""
    name = "sparse_batch_norm"
    if features.shape[0] == 1:
        raise ValueError(
            f"{name}: features: expected more than 1 value per channel in training, got 1 row"
        )
    if (running_mean is None) != (running_var is None):
        raise ValueError(f"{name}: running_var: expected one beside running_mean, or neither")
    if momentum is None and tracked is None and running_mean is not None:
        raise ValueError(f"{name}: momentum: expected a number without tracked, got None")
    wide = wide_dtype(features)
    kept = [running_mean, running_var]
    written = [
        t if t is None or (t.dtype == wide and t.is_contiguous()) else t.to(wide).contiguous()
        for t in kept
    ]
    found = call("sparse_batch_statistics", features.detach(), *written, tracked, momentum)
    for before, after in zip(kept, written):
        if before is not after and before is not None and after is not None:
            before.copy_(after)
    return found


def _statistics_fake(features: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    mean = features.new_empty(features.shape[1], dtype=wide_dtype(features))
    return mean, torch.empty_like(mean)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, residual, ctx.of_batch, ctx.eps, ctx.number, ctx.slope = inputs
    activation = _ACTIVATIONS[ctx.number]
    # Without a residual z is found again from features, which are read anyway.
    has_more = residual is not None and activation != "none"
    from_output = has_more and _has_gradient_from_output(activation, ctx.slope)
    ctx.save_for_backward(
        *tensors,
        residual if has_more and not from_output else None,
        output if from_output else None,
    )


def _backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    needs = ctx.needs_input_grad
    wants_residual = needs[5] and ctx.number != 0
    g_features, g_weight, g_bias, g_residual = ctx_ops(ctx).sparse_batch_norm_backward(
        g, *ctx.saved_tensors, ctx.of_batch, ctx.eps, ctx.number, ctx.slope, wants_residual
    )
    return (
        g_features,
        *(None, None),
        g_weight if needs[3] else None,
        g_bias if needs[4] else None,
        (g_residual if wants_residual else g) if needs[5] else None,
        *(None,) * 4,
    )


def _backward_fake(
    g: Tensor, features: Tensor, mean: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n, channels = features.shape
    g_residual = features.new_empty(n if rest[-1] else 0, channels)
    return (
        features.new_empty(n, channels),
        torch.empty_like(mean),
        torch.empty_like(mean),
        g_residual,
    )


declare("sparse_batch_statistics", _statistics_fake)
declare(
    "sparse_batch_norm",
    lambda features, *rest: features.new_empty(features.shape),
    _setup,
    _backward,
)
declare("sparse_batch_norm_backward", _backward_fake)
