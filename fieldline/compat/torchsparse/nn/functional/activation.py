# SPDX-License-Identifier: Apache-2.0
"""torchsparse's activations."""

from __future__ import annotations

from torch.nn import functional

from ...tensor import SparseTensor
from ..utils import fapply

__all__ = ["leaky_relu", "relu", "silu"]


def relu(input: SparseTensor, inplace: bool = True) -> SparseTensor:
    """max(x, 0)."""
    return fapply(input, functional.relu, inplace=inplace)


def silu(input: SparseTensor, inplace: bool = True) -> SparseTensor:
    """x sigmoid(x)."""
    return fapply(input, functional.silu, inplace=inplace)


def leaky_relu(
    input: SparseTensor, negative_slope: float = 0.1, inplace: bool = True
) -> SparseTensor:
    """x, or x times the slope below 0."""
    return fapply(input, functional.leaky_relu, negative_slope=negative_slope, inplace=inplace)
