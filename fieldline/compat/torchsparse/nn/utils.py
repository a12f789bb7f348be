# SPDX-License-Identifier: Apache-2.0
"""torchsparse's ``nn.utils``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ....engine.sparse.arguments import check_kind
from ..tensor import SparseTensor
from ..utils.utils import kernel_offsets, make_ntuple

__all__ = ["fapply", "get_kernel_offsets"]


def fapply(
    input: SparseTensor, fn: Callable[..., Tensor], *args: Any, **kwargs: Any
) -> SparseTensor:
    """Applies a function to the features.

    Args:
        input: A sparse tensor.
        fn: Of the features, and of what follows.
        args: For the function.
        kwargs: For the function.

    Returns:
        A new tensor on the same coordinates and maps.

    Raises:
        TypeError: The input is no sparse tensor.
    """
    check_kind("fapply", "input", input, SparseTensor)
    return input.like(fn(input.feats, *args, **kwargs))


def get_kernel_offsets(
    size: int | tuple[int, ...],
    stride: int | tuple[int, ...] = 1,
    dilation: int | tuple[int, ...] = 1,
    device: Any = "cpu",
) -> Tensor:
    """Offsets of a kernel's taps.

    Args:
        size: Per axis or for all.
        stride: What offsets are multiplied by.
        dilation: What offsets are multiplied by.
        device: Of the result.

    Returns:
        int32 [K, 3] around 0, up to k // 2. Of an odd number of taps the first axis is fastest, of
        an even number the last.

    Example:
        >>> get_kernel_offsets(3)[:2].tolist(), get_kernel_offsets(2)[:2].tolist()
        ([[-1, -1, -1], [0, -1, -1]], [[0, 0, 0], [0, 0, 1]])
    """
    sizes, strides, dilations = (list(make_ntuple(v, 3)) for v in (size, stride, dilation))
    offsets = kernel_offsets(sizes, [-((k - 1) // 2) for k in sizes]).to(device)
    return offsets * offsets.new_tensor([s * d for s, d in zip(strides, dilations)])
