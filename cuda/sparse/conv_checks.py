# SPDX-License-Identifier: Apache-2.0
"""What is wrong with the arguments of a convolution, said once an operator has refused them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .activations import ACTIVATIONS
from .kernel_map import KernelMap

_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def check_convolution(
    features: Tensor,
    weight: Tensor,
    kernel_map: KernelMap,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str,
) -> None:
    """Raises if a convolution's arguments do not fit together, as `sparse_convolution` says."""
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
    if weight.dim() < 3 or math.prod(weight.shape[:-2]) != kernel_map.n_taps:
        raise ValueError(
            f"{name}: weight: expected shape [{kernel_map.n_taps}, C_in / groups, C_out], "
            f"got {list(weight.shape)}"
        )
    own, channels_out = weight.shape[-2:]
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
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"{name}: activation: expected one of {', '.join(ACTIVATIONS)}, got {activation!r}"
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
