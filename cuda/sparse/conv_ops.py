# SPDX-License-Identifier: Apache-2.0
"""Convolution over a kernel map: the operators, their fake kernels and their gradients.

    out[o] = activation(sum over taps t and pairs (i, o) of t: features[i] @ weight[t]
                        + bias + residual[o])

Sums are taken tap by tap in a fixed order, so that results repeat bit for bit, whatever the number
of threads. float16 and bfloat16 are added up in float32.

A layer of a small scene costs as much on the host as on the device. A call therefore does nothing
twice: what operators read of a map is looked up by the sizes of the layer, arguments are examined
only after they were refused, and one autograd node casts, convolves and calls one operator for both
gradients. Operators carry their gradients themselves as well, for ``torch.compile`` and ``export``,
which do not look into such a node.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import library
from ..library import call, call_in, declare
from . import tuning
from .activations import ACTIVATIONS, CODES, Activation, has_gradient_from_output
from .conv_checks import check_convolution
from .kernel_map import KernelMap, MapOperands

_FUNCTIONS = {"relu": F.relu, "silu": F.silu, "gelu": F.gelu, "sigmoid": torch.sigmoid}
_NARROW = (torch.float32, torch.float16, torch.bfloat16)  # what autocast casts
_N_FORMS = len(MapOperands._fields)
_NO_MAP = (None,) * _N_FORMS


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

    Under autocast the tensors are cast as those of torch's own convolutions; the gradient of a
    float32 weight is then float32 as it is added up, without a rounding in between.

    Args:
        features: [n_in, C_in], float32, float64, float16 or bfloat16.
        weight: [K, C_in / groups, C_out], or with the K taps as several axes; its last extent but
            one says how many groups there are.
        kernel_map: A map of n_in input rows, n_out output rows and K taps.
        bias: [C_out].
        residual: [n_out, C_out], added before the activation.
        activation: "none", "relu", "leaky_relu", "silu", "gelu" or "sigmoid".
        slope: Of leaky_relu below zero.

    Returns:
        [n_out, C_out]; differentiable in features, weight, bias and residual, any number of times.

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
    try:
        if features.shape[0] != kernel_map.n_in:
            raise _Unfit
        run = _pointwise if kernel_map.is_identity else _along_map
        return run(features, weight, kernel_map, bias, residual, activation, slope)
    except Exception:
        features, weight, bias, residual = _autocast(features, weight, bias, residual)
        check_convolution(features, weight, kernel_map, bias, residual, activation)
        raise


class _Unfit(ValueError):
    """What torch or an operator would have let pass; `check_convolution` says what it is."""


def _along_map(
    features: Tensor,
    weight: Tensor,
    kernel_map: KernelMap,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str,
    slope: float,
) -> Tensor:
    device = features.device.type
    dtype = None
    if torch.is_autocast_enabled(device) and features.dtype in _NARROW:
        dtype = torch.get_autocast_dtype(device)
        features, residual = features.to(dtype), _cast(residual, dtype)
    needs = needs_features = needs_weight = False
    if torch.is_grad_enabled():
        needs_features, needs_weight = features.requires_grad, weight.requires_grad
        needs = needs_features or needs_weight or _any_needs_gradient(bias, residual)
    # The gradient of these needs what came before them.
    apart = needs and activation != "none" and not has_gradient_from_output(activation, slope)
    code = 0 if apart else CODES[activation]
    tf32 = torch._C._get_cublas_allow_tf32()
    rest = _map_arguments(features, weight, kernel_map, needs_features, needs_weight, tf32)
    if needs and not library.is_traced():
        settings = _Settings(
            library.active_namespace(), dtype, kernel_map.n_taps, code, slope, tf32, rest
        )
        out = _Convolution.apply(features, weight, bias, residual, settings)
    else:
        weight, bias = _as_operand(weight, kernel_map.n_taps, dtype), _cast(bias, dtype)
        out = call("sparse_conv", features, weight, bias, residual, code, slope, tf32, *rest)
    return _activate(out, activation, slope) if apart else out


class _Settings(NamedTuple):
    """What a layer's node is told beside its tensors."""

    namespace: str
    dtype: torch.dtype | None  # what autocast casts to
    n_taps: int
    code: int  # of the activation
    slope: float
    tf32: bool
    rest: tuple[Any, ...]  # the operator's arguments from n_out on


class _Convolution(torch.autograd.Function):
    """One node for a layer: the weight's cast is part of it, and its gradient never rounded."""

    @staticmethod
    def forward(  # pyright: ignore
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        residual: Tensor | None,
        settings: _Settings,
    ) -> Tensor:
        namespace, dtype, n_taps, code, slope, tf32, rest = settings
        operand = _as_operand(weight, n_taps, dtype)
        inputs = (features, operand, _cast(bias, dtype), residual, code, slope, tf32, *rest)
        out = call_in(namespace, "sparse_conv", *inputs)
        needs_features, needs_weight, *_ = ctx.needs_input_grad
        ctx.save_for_backward(
            features if needs_weight else None,
            weight if needs_features else None,
            out if code else None,
        )
        # A weight that was cast is no input: among the saved, it would seem to come from nowhere.
        ctx.operand = operand if needs_features else None
        groups = features.shape[1] // operand.shape[1]
        bias_dtype = None if bias is None else bias.dtype
        ctx.kept = settings, features.shape[0], groups, weight.shape, weight.dtype, bias_dtype
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        features, weight, out = ctx.saved_tensors
        needs_features, needs_weight, needs_bias, needs_residual, _ = ctx.needs_input_grad
        settings, n_in, groups, shape, dtype, bias_dtype = ctx.kept
        if settings.code:
            g = _before_activation(g, out, settings.code, settings.slope)
        operand = ctx.operand
        if needs_features and torch.is_grad_enabled():
            operand = _as_operand(weight, settings.n_taps, settings.dtype)
        g_features = g_weight = None
        if needs_features or needs_weight:
            g_features, g_weight = call_in(
                *(settings.namespace, "sparse_conv_backward", g, features, operand),
                *(n_in, groups, _is_wide(dtype, g.dtype), settings.tf32, *settings.rest[1:]),
            )
        return (
            g_features if needs_features else None,
            g_weight.view(shape) if needs_weight and g_weight is not None else None,
            g.sum(0, dtype=bias_dtype) if needs_bias else None,
            g if needs_residual else None,
            None,
        )


def _is_wide(dtype: torch.dtype, features: torch.dtype) -> bool:
    """Whether sums over features are added up in the dtype, and features are narrower."""
    return dtype == torch.float32 and features in (torch.float16, torch.bfloat16)


def _as_operand(weight: Tensor, n_taps: int, dtype: torch.dtype | None) -> Tensor:
    if weight.dim() != 3:
        weight = weight.reshape(n_taps, *weight.shape[-2:])
    return _cast(weight, dtype)


def _cast(tensor: Any, dtype: torch.dtype | None) -> Any:
    if tensor is None or dtype is None or tensor.dtype not in _NARROW:
        return tensor
    return tensor.to(dtype)


def _any_needs_gradient(*tensors: Tensor | None) -> bool:
    return any(t is not None and t.requires_grad for t in tensors)


def _map_arguments(
    features: Tensor,
    weight: Tensor,
    kernel_map: KernelMap,
    needs_features: bool,
    needs_weight: bool,
    tf32: bool,
) -> tuple[Any, ...]:
    """What the operator is told of a map, from n_out on; kept by the map for each kind of layer."""
    channels_in, (own, channels_out) = features.shape[1], weight.shape[-2:]
    by_pairs = not features.is_cuda and library.active_namespace() == library.NAMESPACE
    sizes = channels_in, own, channels_out
    needs_reverse = needs_features and not kernel_map.symmetric
    key = features.dtype, tf32, sizes, by_pairs, needs_reverse, needs_weight, tuning.revision()
    found = kernel_map.arguments.get(key)
    if found is None:
        turned = channels_out, channels_out * own // channels_in, channels_in
        found = kernel_map.arguments[key] = (
            kernel_map.n_out,
            *_forms(features, sizes, kernel_map, by_pairs, needs_weight),
            *(
                _forms(features, turned, kernel_map.reverse, by_pairs, False)
                if needs_reverse
                else _NO_MAP
            ),
            kernel_map.symmetric,
        )
    return found


def _forms(
    features: Tensor,
    sizes: tuple[int, int, int],
    kernel_map: KernelMap,
    by_pairs: bool,
    needs_weight: bool,
) -> MapOperands:
    """What the backend reads of a map: the CPU the pairs, a GPU what its schedule says.

    The sizes are the channels of the input, of a group of them, and of the output.
    """
    if by_pairs:
        return kernel_map.operands("pairs")
    channels_in, own, channels_out = sizes
    if own != channels_in:
        return kernel_map.operands("table")
    chosen = tuning.schedule(
        *(features.device, features.dtype, kernel_map.n_out, kernel_map.n_taps),
        *(channels_in, channels_out),
    )
    return kernel_map.gpu_operands(*chosen, with_pairs=needs_weight)


def _pointwise(
    features: Tensor,
    weight: Tensor,
    kernel_map: KernelMap,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str,
    slope: float,
) -> Tensor:
    """A matrix product, which autocast knows."""
    own, channels_out = weight.shape[-2:]
    if (
        not features.is_floating_point()
        or (bias is not None and bias.shape != (channels_out,))
        or (residual is not None and residual.shape != (kernel_map.n_out, channels_out))
    ):
        raise _Unfit
    matrix = weight.reshape(own, channels_out)
    if own != features.shape[1]:
        out = _grouped_product(features, matrix, bias)
    elif bias is None:
        out = features.mm(matrix)
    else:
        out = torch.addmm(bias, features, matrix)
    if residual is not None:
        out = out + residual.to(out.dtype)
    return _activate(out, activation, slope)


def _grouped_product(features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    own, channels_out = weight.shape
    groups = features.shape[1] // own
    parts = features.unflatten(1, (groups, own)).transpose(0, 1)
    out = parts @ weight.unflatten(1, (groups, channels_out // groups)).transpose(0, 1)
    out = out.transpose(0, 1).flatten(1)
    return out if bias is None else out + bias.to(out.dtype)


def _autocast(*tensors: Tensor | None) -> tuple[Any, ...]:
    device = next(t for t in tensors if t is not None).device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    return tuple(_cast(t, torch.get_autocast_dtype(device)) for t in tensors)


def _activate(x: Tensor, activation: str, slope: float) -> Tensor:
    if activation == "none":
        return x
    if activation == "leaky_relu":
        return F.leaky_relu(x, slope)
    return _FUNCTIONS[activation](x)


def _before_activation(g: Tensor, out: Tensor, code: int, slope: float) -> Tensor:
    activation = ACTIVATIONS[code]
    if activation == "none":
        return g
    if activation == "relu":
        return torch.ops.aten.threshold_backward(g, out, 0)
    if activation == "leaky_relu" and slope >= 0:
        return torch.ops.aten.leaky_relu_backward(g, out, slope, True)
    if activation == "sigmoid":
        return torch.ops.aten.sigmoid_backward(g, out)
    raise NotImplementedError(f"sparse_conv: {activation} has no gradient from its output alone")


def _fake(features: Tensor, weight: Tensor, bias: Any, residual: Any, *rest: Any) -> Tensor:
    n_out = rest[3]
    return features.new_empty(n_out, weight.shape[2])


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, weight, _, _, ctx.code, ctx.slope, ctx.allow_tf32, _, *forms, ctx.symmetric = inputs
    ctx.n_in, ctx.groups = features.shape[0], features.shape[1] // weight.shape[1]
    needs_features, needs_weight = ctx.needs_input_grad[:2]
    ctx.save_for_backward(
        features if needs_weight else None,
        weight if needs_features else None,
        output if ctx.code else None,
        *forms,
    )


def _backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    features, weight, out, *forms = ctx.saved_tensors
    needs_features, needs_weight, needs_bias, needs_residual = ctx.needs_input_grad[:4]
    g = _before_activation(g, out, ctx.code, ctx.slope)
    g_features = g_weight = None
    if needs_features or needs_weight:
        g_features, g_weight = library.ctx_ops(ctx).sparse_conv_backward(
            g, features, weight, ctx.n_in, ctx.groups, False, ctx.allow_tf32, *forms, ctx.symmetric
        )
    return (
        g_features if needs_features else None,
        g_weight if needs_weight else None,
        g.sum(0) if needs_bias else None,
        g if needs_residual else None,
        *(None,) * (5 + 2 * _N_FORMS),
    )


def _gradients_fake(
    gradient: Tensor,
    features: Tensor | None,
    weight: Tensor | None,
    n_in: int,
    groups: int,
    wide_weight: bool,
    allow_tf32: bool,
    *forms: Any,
) -> tuple[Tensor, Tensor]:
    g_features, g_weight = gradient.new_empty(0), gradient.new_empty(0)
    if weight is not None:
        g_features = gradient.new_empty(n_in, weight.shape[1] * groups)
    if features is not None:
        starts, table = forms[2:4]
        n_taps = starts.shape[0] - 1 if starts.shape[0] > 0 else table.shape[0]
        wide = wide_weight and gradient.dtype != torch.float64
        g_weight = gradient.new_empty(
            *(n_taps, features.shape[1] // groups, gradient.shape[1]),
            dtype=torch.float32 if wide else gradient.dtype,
        )
    return g_features, g_weight


def _gradients_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    gradient, features, weight, ctx.n_in, ctx.groups, _, ctx.allow_tf32, *forms = inputs
    *forms, ctx.symmetric = forms
    ctx.save_for_backward(gradient, features, weight, *forms)


def _gradients_backward(ctx: Any, c_features: Tensor, c_weight: Tensor) -> tuple[Any, ...]:
    """Both results are linear in the gradient and in the other factor: what was a convolution
    along the map backwards is one forwards here, and the factors change places."""
    gradient, features, weight, *forms = ctx.saved_tensors
    ops, rest = library.ctx_ops(ctx), (ctx.allow_tf32, gradient.shape[0], *forms, ctx.symmetric)
    needs_gradient, needs_features, needs_weight = ctx.needs_input_grad[:3]
    c_weight = c_weight.to(gradient.dtype)
    g = g_features = g_weight = None
    if needs_gradient and weight is not None:
        g = ops.sparse_conv(c_features, weight, None, None, 0, 0.0, *rest)
    if needs_gradient and features is not None:
        g = ops.sparse_conv(features, c_weight, None, g, 0, 0.0, *rest)
    if needs_features or needs_weight:
        g_features, g_weight = ops.sparse_conv_backward(
            gradient,
            c_features if needs_weight else None,
            c_weight if needs_features else None,
            *(ctx.n_in, ctx.groups, False, ctx.allow_tf32, *forms, ctx.symmetric),
        )
    return (
        g,
        g_features if needs_features else None,
        g_weight if needs_weight else None,
        *(None,) * (5 + 2 * _N_FORMS),
    )


declare("sparse_conv", _fake, _setup, _backward, twice=True)
declare("sparse_conv_backward", _gradients_fake, _gradients_setup, _gradients_backward, twice=True)
