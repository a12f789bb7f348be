# SPDX-License-Identifier: Apache-2.0
"""torchsparse's ``utils.utils``: numbers per axis."""

from __future__ import annotations

import itertools
import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

__all__ = ["make_divisible", "make_ntuple", "make_tensor"]


def make_ntuple(x: Any, ndim: int) -> tuple[Any, ...]:
    """One number per axis.

    Args:
        x: A number for all axes, or a list, tuple, array or tensor of one for each.
        ndim: Axes.

    Returns:
        ``ndim`` numbers.

    Raises:
        ValueError: There are more or fewer.

    Example:
        >>> make_ntuple(2, 3), make_ntuple([1, 2], 2)
        ((2, 2, 2), (1, 2))
    """
    values = x.tolist() if hasattr(x, "tolist") else x
    if not isinstance(values, (list, tuple)):
        values = (values,) * ndim
    if len(values) != ndim:
        raise ValueError(f"make_ntuple: x: expected {ndim} numbers, got {x}")
    return tuple(values)


@lru_cache
def make_tensor(x: tuple[Any, ...], dtype: torch.dtype, device: Any) -> Tensor:
    """A tensor of a tuple, made once."""
    return torch.tensor(x, dtype=dtype, device=device)


def make_divisible(x: int, divisor: int) -> int:
    """The next multiple.

    Example:
        >>> make_divisible(130, 128)
        256
    """
    return (x + divisor - 1) // divisor * divisor


def kernel_offsets(sizes: list[int], lowest: list[int]) -> Tensor:
    """int32 [K, 3], offsets of a kernel's taps in torchsparse's order.

    Args:
        sizes: Per axis.
        lowest: The first offset of each axis.

    Returns:
        The offsets: the first axis fastest if their number is odd, the last one if it is even.
    """
    axes = [range(low, low + size) for size, low in zip(sizes, lowest)]
    if math.prod(sizes) % 2:
        taps = [tap[::-1] for tap in itertools.product(*reversed(axes))]
    else:
        taps = list(itertools.product(*axes))
    return torch.tensor(taps, dtype=torch.int32).view(-1, 3)
