# SPDX-License-Identifier: Apache-2.0
"""Batch normalisation with the residual sum and the activation behind it: the operators, their
fake kernels and the gradient.

    out = activation((features - mean) * weight / sqrt(variance + eps) + bias + residual)

Statistics are joined from parts in a fixed order, in float32 for float16 and bfloat16. Their
gradient is part of the norm's, so that both passes of a training step read features twice.

An eager training step is one operator and one node of autograd. A compiler sees two operators, of
which the one with a gradient writes to nothing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..library import ctx_ops, declare, ops
from .activations import ACTIVATIONS, CODES, Activation, has_gradient_from_output
from .feature_checks import check_device, check_features, check_one_of, wide_dtype

_HALVES = (torch.float16, torch.bfloat16)
_CHANNELS = ("running_mean", "running_var", "weight", "bias")


class _Settings(NamedTuple):
    """What has no gradient."""

    running_mean: Tensor | None
    running_var: Tensor | None
    tracked: Tensor | None
    training: bool
    momentum: float | None
    eps: float
    number: int
    slope: float


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
    number = CODES.get(activation, -1)
    if number < 0:
        check_one_of("sparse_batch_norm", "activation", activation, tuple(CODES))
    given = (features, running_mean, running_var, weight, bias, residual)
    compiling = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    if compiling:
        _check(training, momentum, tracked, *given)
    mean, variance = running_mean, running_var
    if features.dtype in _HALVES:
        mean, variance, weight, bias = (_widened(t, features.dtype) for t in given[1:5])
    settings = _Settings(mean, variance, tracked, training, momentum, eps, number, slope)
    try:
        out = (_by_two if compiling else _by_one)(features, weight, bias, residual, settings)
    except (RuntimeError, TypeError):
        _check(training, momentum, tracked, *given)
        raise
    if training and mean is not running_mean:
        for kept, new in ((running_mean, mean), (running_var, variance)):
            if kept is not None and new is not None:
                kept.copy_(new)
    return out


def _widened(values: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Values of a narrow dtype in float32; others are for the check."""
    return values if values is None or values.dtype != dtype else values.float()


def _by_one(
    features: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    settings: _Settings,
) -> Tensor:
    if torch.is_grad_enabled() and (
        features.requires_grad
        or (weight is not None and weight.requires_grad)
        or (bias is not None and bias.requires_grad)
        or (residual is not None and residual.requires_grad)
    ):
        return _apply_norm(features, weight, bias, residual, settings)
    return _forward(features, weight, bias, residual, settings)[0]


def _by_two(
    features: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    settings: _Settings,
) -> Tensor:
    mean, variance, tracked, training, momentum, *rest = settings
    if training:
        mean, variance = ops().sparse_batch_statistics(
            features.detach(), mean, variance, tracked, momentum
        )
    return ops().sparse_batch_norm(
        features, mean, variance, weight, bias, residual, training, *rest
    )


def _forward(
    features: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    settings: _Settings,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The output, and the statistics that it was made with."""
    mean, variance, tracked, training, momentum, *rest = settings
    with torch._C._AutoDispatchBelowAutograd():
        if training:
            return ops().sparse_batch_norm_training.default(
                features, mean, variance, tracked, weight, bias, residual, momentum, *rest
            )
        out = ops().sparse_batch_norm.default(
            features, mean, variance, weight, bias, residual, False, *rest
        )
    return out, mean, variance


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:  # pyright: ignore
        features, weight, bias, residual, settings = inputs
        out, mean, variance = _forward(*inputs)
        ctx.settings = settings
        ctx.ops = ops()
        # In evaluation the statistics are the module's, which someone may write to meanwhile.
        beside = _beside(residual, out, *settings[-2:])
        ctx.save_for_backward(features, mean, variance, weight, bias, *beside)
        return out

    # A second derivative would come out as zero; asked for, it is an error instead.
    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        constants = (ctx.settings.training, *ctx.settings[-3:])
        needs = ctx.needs_input_grad
        with torch._C._AutoDispatchBelowAutograd():
            found = _gradients(ctx.ops, g, ctx.saved_tensors, constants, needs[3])
        return *(t if needed else None for t, needed in zip(found, needs)), None


# Function.apply asks for function transforms once more.
_apply_norm = super(torch.autograd.Function, _Norm).apply  # pyright: ignore


def _beside(
    residual: Tensor | None, out: Tensor, number: int, slope: float
) -> tuple[Tensor | None, Tensor | None]:
    """What the gradient reads beside features, of residual and output.

    Without a residual it finds z again from features, which it reads anyway.
    """
    if residual is None or number == 0:
        return None, None
    if has_gradient_from_output(ACTIVATIONS[number], slope):
        return None, out
    return residual, None


def _gradients(
    namespace: Any, g: Tensor, tensors: Any, constants: Any, needs_residual: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of features, weight, bias and residual."""
    number = constants[-2]
    wanted = needs_residual and number != 0
    *found, g_residual = namespace.sparse_batch_norm_backward.default(
        g, *tensors, *constants, wanted
    )
    return *found, g_residual if wanted else g


def _check(
    training: bool, momentum: float | None, tracked: Tensor | None, features: Tensor, *others: Any
) -> None:
    """Says in words what the operators refuse."""
    name = "sparse_batch_norm"
    check_features(name, features)
    channels, wide = features.shape[1], wide_dtype(features)
    *lists, residual = others
    for argument, values in zip(_CHANNELS, lists):
        if values is None:
            continue
        if values.shape != (channels,):
            raise ValueError(
                f"{name}: {argument}: expected shape [{channels}], got {list(values.shape)}"
            )
        if values.dtype not in (features.dtype, wide):
            raise TypeError(
                f"{name}: {argument}: expected {wide} beside features of {features.dtype}, "
                f"got {values.dtype}"
            )
        check_device(name, argument, values, features)
    if residual is not None:
        if residual.shape != features.shape:
            raise ValueError(
                f"{name}: residual: expected the shape of features, {list(features.shape)}, "
                f"got {list(residual.shape)}"
            )
        if residual.dtype != features.dtype:
            raise TypeError(
                f"{name}: residual: expected {features.dtype}, the dtype of features, "
                f"got {residual.dtype}"
            )
        check_device(name, "residual", residual, features)
    if training:
        _check_training(name, momentum, tracked, features, *lists[:2])
    elif lists[0] is None or lists[1] is None:
        raise ValueError(
            f"{name}: running_mean, running_var: expected both in evaluation, got None"
        )


def _check_training(
    name: str,
    momentum: float | None,
    tracked: Tensor | None,
    features: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
) -> None:
    if features.shape[0] == 1:
        raise ValueError(
            f"{name}: features: expected more than 1 value per channel in training, got 1 row"
        )
    if (running_mean is None) != (running_var is None):
        raise ValueError(f"{name}: running_var: expected one beside running_mean, or neither")
    if momentum is None and tracked is None and running_mean is not None:
        raise ValueError(f"{name}: momentum: expected a number without tracked, got None")
    if tracked is not None and (tracked.dtype != torch.int64 or tracked.dim() > 0):
        raise TypeError(
            f"{name}: tracked: expected int64 of no dimensions, got {tracked.dtype} "
            f"{list(tracked.shape)}"
        )


def _statistics_fake(features: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    mean = features.new_empty(features.shape[1], dtype=wide_dtype(features))
    return mean, torch.empty_like(mean)


def _norm_fake(features: Tensor, *rest: Any) -> Tensor:
    return features.new_empty(features.shape)


def _training_fake(features: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _norm_fake(features), *_statistics_fake(features)


def _norm_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, residual = inputs[:6]
    ctx.constants = inputs[6:]
    ctx.save_for_backward(*tensors, *_beside(residual, output, *inputs[-2:]))


def _norm_backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    needs = ctx.needs_input_grad
    found = _gradients(ctx_ops(ctx), g, ctx.saved_tensors, ctx.constants, needs[5])
    g_features, *rest = (t if needs[k] else None for t, k in zip(found, (0, 3, 4, 5)))
    return g_features, None, None, *rest, *(None,) * 4


def _backward_fake(
    g: Tensor, features: Tensor, mean: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n, channels = features.shape
    g_residual = features.new_empty(n if rest[-1] else 0, channels)
    return _norm_fake(features), torch.empty_like(mean), torch.empty_like(mean), g_residual


declare("sparse_batch_statistics", _statistics_fake)
declare("sparse_batch_norm", _norm_fake, _norm_setup, _norm_backward)
declare("sparse_batch_norm_training", _training_fake)
declare("sparse_batch_norm_backward", _backward_fake)
