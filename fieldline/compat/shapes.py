# SPDX-License-Identifier: Apache-2.0
"""Argument checks of the compatible interfaces: errors that name function, argument and facts."""

from __future__ import annotations

from torch import Tensor


def check_shape(function: str, name: str, tensor: Tensor, shape: tuple[int | str, ...]) -> None:
    """Raises ValueError unless the tensor has that shape, in which a word stands for any size."""
    fits = tensor.dim() == len(shape) and all(
        isinstance(want, str) or got == want for got, want in zip(tensor.shape, shape)
    )
    if not fits:
        wanted = ", ".join(map(str, shape))
        raise ValueError(f"{function}: {name}: expected shape [{wanted}], got {list(tensor.shape)}")


def given(function: str, name: str, tensor: Tensor | None) -> Tensor:
    """The tensor, or a ValueError where there is none."""
    if tensor is None:
        raise ValueError(f"{function}: {name}: expected a tensor, got None")
    return tensor
