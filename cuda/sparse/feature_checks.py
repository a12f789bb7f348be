# SPDX-License-Identifier: Apache-2.0
"""Checks of what the operators on features share, each naming the function and the argument."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def check_features(name: str, features: Tensor) -> None:
    """Features are floating and [N, C]."""
    if features.dtype not in _FLOATS:
        raise TypeError(
            f"{name}: features: expected float32, float64, float16 or bfloat16, "
            f"got {features.dtype}"
        )
    if features.dim() != 2:
        raise ValueError(f"{name}: features: expected shape [N, C], got {list(features.shape)}")


def check_indices(name: str, argument: str, indices: Tensor, shape: str, dim: int) -> None:
    """Indices are int32 or int64, with as many dimensions as their shape says."""
    if indices.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"{name}: {argument}: expected int32 or int64, got {indices.dtype}")
    if indices.dim() != dim:
        raise ValueError(f"{name}: {argument}: expected shape {shape}, got {list(indices.shape)}")


def check_device(
    name: str, argument: str, tensor: Tensor, like: Tensor, of: str = "features"
) -> None:
    """The tensor is on the device of another."""
    if tensor.device != like.device:
        raise ValueError(
            f"{name}: {argument}: expected the device of {of}, {like.device}, got {tensor.device}"
        )


def check_one_of(name: str, argument: str, value: str, values: Sequence[str]) -> None:
    """The value is one of those."""
    if value not in values:
        raise ValueError(f"{name}: {argument}: expected one of {', '.join(values)}, got {value!r}")


def wide_dtype(features: Tensor) -> torch.dtype:
    """What values of the dtype of features are added up in."""
    return torch.float64 if features.dtype == torch.float64 else torch.float32
