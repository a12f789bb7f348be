# SPDX-License-Identifier: Apache-2.0
"""Convolution over a kernel map: the operator, its fake kernel and its gradients.

    out[o] = activation(sum over taps t and pairs (i, o) of t: features[i] @ weight[t]
                        + bias + residual[o])

Sums are taken tap by tap in a fixed order, so that results repeat bit for bit, whatever the number
of threads. float16 and bfloat16 are added up in float32.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import library
from ..library import call, ctx_ops, declare, ops
from . import tuning
from .kernel_map import KernelMap, MapOperands

Activation = Literal["none", "relu", "leaky_relu", "silu", "gelu", "sigmoid"]

_ACTIVATIONS: tuple[str, ...] = get_args(Activation)
_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_N_FORMS = 6  # of a map, among the operator's arguments


def sparse_convolution(
    features: Tensor,
    weight: Tensor,
    kernel_map: KernelMap,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    activation: Activation = "none",
    slope: float = 0.01,
) -> Tensor:
    """Convolves the features of active voxels.

    Under autocast the tensors are cast as those of torch's own convolutions.

    Args:
        features: [n_in, C_in], float32, float64, float16 or bfloat16.
        weight: [K, C_in / groups, C_out]; its second extent says how many groups there are.
        kernel_map: A map of n_in input rows, n_out output rows and K taps.
        bias: [C_out].
        residual: [n_out, C_out], added before the activation.
        activation: "none", "relu", "leaky_relu", "silu", "gelu" or "sigmoid".
        slope: Of leaky_relu below zero.

    Returns:
        [n_out, C_out]; differentiable in features, weight, bias and residual.

    Raises:
        TypeError: A dtype is another.
        ValueError: A shape, a device or the activation is another.

    Source: Graham et al., "3D semantic segmentation with submanifold sparse convolutional
    networks" (2018); the schedule on a CPU is gather-GEMM-scatter in blocks of output rows.

    Example:
        >>> table = torch.tensor([[-1, 0, 1], [0, 1, 2], [1, 2, -1]], dtype=torch.int32)
        >>> line = KernelMap.from_table(table, n_in=3, symmetric=True)
        >>> x, w = torch.tensor([[1.0], [2.0], [4.0]]), torch.ones(3, 1, 1)
        >>> sparse_convolution(x, w, line).tolist()
        [[3.0], [7.0], [6.0]]
    """
    features, weight, bias, residual = _autocast(features, weight, bias, residual)
    _check(features, weight, kernel_map, bias, residual, activation)
    if kernel_map.is_identity:
        out = _matmul(features, weight[0], bias)
        out = out if residual is None else out + residual
        return _activate(out, activation, slope)
    needs_gradient = torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in (features, weight, bias, residual)
    )
    # The gradient of these needs what came before them.
    apart = needs_gradient and not _has_gradient_from_output(activation, slope)
    channels_in, own, channels_out = features.shape[1], *weight.shape[1:]
    sizes = (channels_in, own, channels_out)
    turned = (channels_out, channels_out * own // channels_in, channels_in)
    forms = _forms(features, sizes, kernel_map, needs_gradient and weight.requires_grad)
    needs_reverse = needs_gradient and features.requires_grad and not kernel_map.symmetric
    out = call(
        "sparse_conv",
        features,
        weight,
        bias,
        residual,
        0 if apart else _ACTIVATIONS.index(activation),
        slope,
        torch.backends.cuda.matmul.allow_tf32,
        kernel_map.n_out,
        *forms,
        *(_forms(features, turned, kernel_map.reverse, False) if needs_reverse else forms),
        kernel_map.symmetric,
    )
    return _activate(out, activation, slope) if apart else out


def _forms(
    features: Tensor, sizes: tuple[int, int, int], kernel_map: KernelMap, needs_weight: bool
) -> MapOperands:
    """What the backend reads of a map: the CPU the pairs, a GPU what its schedule says.

    The sizes are the channels of the input, of a group of them, and of the output.
    """
    channels_in, own, channels_out = sizes
    if not features.is_cuda and ops() is getattr(torch.ops, library.NAMESPACE):
        return kernel_map.operands("pairs")
    if own != channels_in:
        return kernel_map.operands("table")
    chosen = tuning.schedule(
        *(features.device, features.dtype, kernel_map.n_out, kernel_map.n_taps),
        *(channels_in, channels_out),
    )
    return kernel_map.gpu_operands(*chosen, with_pairs=needs_weight)


def _autocast(*tensors: Tensor | None) -> tuple[Any, ...]:
    device = next(t for t in tensors if t is not None).device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    narrow = (torch.float32, torch.float16, torch.bfloat16)
    return tuple(t.to(dtype) if t is not None and t.dtype in narrow else t for t in tensors)


def _matmul(features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    own, channels_out = weight.shape
    if own == features.shape[1]:
        return features @ weight if bias is None else torch.addmm(bias, features, weight)
    groups = features.shape[1] // own
    parts = features.unflatten(1, (groups, own)).transpose(0, 1)
    out = parts @ weight.unflatten(1, (groups, channels_out // groups)).transpose(0, 1)
    out = out.transpose(0, 1).flatten(1)
    return out if bias is None else out + bias


def _activate(x: Tensor, activation: str, slope: float) -> Tensor:
    if activation == "none":
        return x
    if activation == "leaky_relu":
        return F.leaky_relu(x, slope)
    return {"relu": F.relu, "silu": F.silu, "gelu": F.gelu, "sigmoid": torch.sigmoid}[activation](x)


def _has_gradient_from_output(activation: str, slope: float) -> bool:
    if activation == "leaky_relu":
        return slope >= 0
    return activation in ("none", "relu", "sigmoid")


def _check(
    features: Tensor,
    weight: Tensor,
    kernel_map: KernelMap,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str,
) -> None:
    name = "sparse_convolution"
    if not isinstance(kernel_map, KernelMap):
        raise TypeError(
            f"{name}: kernel_map: expected a KernelMap, got {type(kernel_map).__name__}"
        )
    if features.dtype not in _FLOATS:
        raise TypeError(
            f"{name}: features: expected float32, float64, float16 or bfloat16, "
            f"got {_text(features.dtype)}"
        )
    if features.dim() != 2 or features.shape[0] != kernel_map.n_in:
        raise ValueError(
            f"{name}: features: expected shape [{kernel_map.n_in}, C_in], the inputs of "
            f"kernel_map, got {list(features.shape)}"
        )
    if features.device != kernel_map.device:
        raise ValueError(
            f"{name}: kernel_map: expected the device of features, {features.device}, "
            f"got {kernel_map.device}"
        )
    channels_in = features.shape[1]
    if weight.dim() != 3 or weight.shape[0] != kernel_map.n_taps:
        raise ValueError(
            f"{name}: weight: expected shape [{kernel_map.n_taps}, C_in / groups, C_out], "
            f"got {list(weight.shape)}"
        )
    own, channels_out = weight.shape[1:]
    groups = channels_in // own if own > 0 else 1
    if own == 0 or groups == 0 or groups * own != channels_in or channels_out % groups != 0:
        raise ValueError(
            f"{name}: weight: expected shape [K, C_in / groups, C_out] for C_in = {channels_in} "
            f"and groups that divide C_out, got {list(weight.shape)}"
        )
    _check_like(name, "weight", weight, features, weight.shape)
    if bias is not None:
        _check_like(name, "bias", bias, features, (channels_out,))
    if residual is not None:
        _check_like(name, "residual", residual, features, (kernel_map.n_out, channels_out))
    if activation not in _ACTIVATIONS:
        raise ValueError(
            f"{name}: activation: expected one of {', '.join(_ACTIVATIONS)}, got {activation!r}"
        )


def _check_like(
    name: str, argument: str, tensor: Tensor, features: Tensor, shape: tuple[int, ...]
) -> None:
    if tensor.dtype != features.dtype:
        raise TypeError(
            f"{name}: {argument}: expected {_text(features.dtype)}, the dtype of features, "
            f"got {_text(tensor.dtype)}"
        )
    if tensor.shape != shape:
        raise ValueError(
            f"{name}: {argument}: expected shape {list(shape)}, got {list(tensor.shape)}"
        )
    if tensor.device != features.device:
        raise ValueError(
            f"{name}: {argument}: expected the device of features, {features.device}, "
            f"got {tensor.device}"
        )


def _text(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _fake(features: Tensor, weight: Tensor, bias: Any, residual: Any, *rest: Any) -> Tensor:
    n_out = rest[3]
    return features.new_empty(n_out, weight.shape[2])


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, weight, _, _, activation, ctx.slope, ctx.allow_tf32, _, *rest = inputs
    *forms, ctx.symmetric = rest
    ctx.activation = _ACTIVATIONS[activation]
    ctx.n_in, ctx.channels_in = features.shape
    ctx.groups = ctx.channels_in // weight.shape[1]
    needs_features, needs_weight = ctx.needs_input_grad[:2]
    ctx.save_for_backward(
        features if needs_weight else None,
        weight if needs_features else None,
        output if activation else None,
        *forms,
    )


def _backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    features, weight, out, *forms = ctx.saved_tensors
    needs_features, needs_weight, needs_bias, needs_residual = ctx.needs_input_grad[:4]
    forward, reverse = forms[:_N_FORMS], forms[_N_FORMS:]
    g = _before_activation(g, out, ctx.activation, ctx.slope)
    g_features = g_weight = None
    if needs_features:
        turned = _turned(weight, ctx.groups, ctx.symmetric)
        g_features = ctx_ops(ctx).sparse_conv(
            g,
            turned,
            None,
            None,
            0,
            0.0,
            ctx.allow_tf32,
            ctx.n_in,
            *reverse,
            *reverse,
            ctx.symmetric,
        )
    if needs_weight:
        g_weight = ctx_ops(ctx).sparse_conv_weight_gradient(
            features, g, ctx.groups, ctx.allow_tf32, *forward[:4]
        )
    g_bias = g.sum(0) if needs_bias else None
    constants = (None,) * (4 + 2 * _N_FORMS + 1)
    return g_features, g_weight, g_bias, g if needs_residual else None, *constants


def _before_activation(g: Tensor, out: Tensor, activation: str, slope: float) -> Tensor:
    if activation == "none":
        return g
    if activation == "relu":
        return torch.ops.aten.threshold_backward(g, out, 0)
    if activation == "leaky_relu" and slope >= 0:
        return torch.ops.aten.leaky_relu_backward(g, out, slope, True)
    if activation == "sigmoid":
        return torch.ops.aten.sigmoid_backward(g, out)
    raise NotImplementedError(f"sparse_conv: {activation} has no gradient from its output alone")


def _turned(weight: Tensor, groups: int, symmetric: bool) -> Tensor:
    """The weight of the reverse convolution: transposed in each group; in a symmetric map, whose
    reverse lists are its own, from the last tap to the first."""
    parts = weight.unflatten(2, (groups, weight.shape[2] // groups)).permute(0, 3, 2, 1).flatten(2)
    return parts.flip(0) if symmetric else parts


def _weight_gradient_fake(
    features: Tensor, gradient: Tensor, groups: int, allow_tf32: bool, *forms: Any
) -> Tensor:
    n_taps = forms[2].shape[0] - 1 if forms[2].shape[0] > 0 else forms[3].shape[0]
    return features.new_empty(n_taps, features.shape[1] // groups, gradient.shape[1])


declare("sparse_conv", _fake, _setup, _backward)
declare("sparse_conv_weight_gradient", _weight_gradient_fake)
