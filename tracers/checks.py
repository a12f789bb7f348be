# SPDX-License-Identifier: Apache-2.0
"""Argument checks of tracers: errors that name function, argument, what was expected, what came."""

from __future__ import annotations

import operator

import torch
from torch import Tensor


def check_tensor(
    function: str,
    name: str,
    tensor: object,
    shape: tuple[int | str, ...] | None = None,
    *,
    like: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Raises unless an argument is a tensor of that shape.

    Args:
        function: Who asks; begins the error.
        name: The argument.
        tensor: Its value.
        shape: What is expected; a word stands for any extent, None for any shape.
        like: Whose device it must be on.
        dtype: Its type; None: a floating type.

    Raises:
        TypeError: It is no tensor, or of another type.
        ValueError: Its shape or device is another.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{function}: {name}: expected a tensor, got {type(tensor).__name__}")
    if tensor.is_floating_point() if dtype is None else tensor.dtype == dtype:
        pass
    else:
        wanted = "a floating type" if dtype is None else dtype
        raise TypeError(f"{function}: {name}: expected {wanted}, got {tensor.dtype}")
    if shape is not None and not _fits(tensor, shape):
        wanted = ", ".join(map(str, shape))
        raise ValueError(f"{function}: {name}: expected shape [{wanted}], got {list(tensor.shape)}")
    if like is not None and tensor.device != like.device:
        raise ValueError(f"{function}: {name}: expected device {like.device}, got {tensor.device}")


def _fits(tensor: Tensor, shape: tuple[int | str, ...]) -> bool:
    return tensor.dim() == len(shape) and all(
        isinstance(want, str) or got == want for got, want in zip(tensor.shape, shape)
    )


def check_background(function: str, name: str, background: object, like: Tensor) -> None:
    """Raises unless a background is one colour, or one for each ray.

    Args:
        function: Who asks.
        name: The argument.
        background: Its value.
        like: Colours of the rays, [..., 3].

    Raises:
        TypeError: It is no floating tensor.
        ValueError: Its shape or device is another.
    """
    check_tensor(function, name, background, like=like)
    assert isinstance(background, Tensor)
    shape = tuple(background.shape)
    try:
        fits = torch.broadcast_shapes(shape, like.shape) == like.shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"{function}: {name}: expected shape [3] or {list(like.shape)}, got {list(shape)}"
        )


def check_number(
    function: str,
    name: str,
    value: float,
    at_least: float,
    *,
    above: bool = False,
) -> float:
    """The value as a float, or an error unless it reaches the bound.

    Args:
        function: Who asks.
        name: The argument.
        value: Its value.
        at_least: The bound.
        above: The bound itself is too small.

    Returns:
        The value.

    Raises:
        TypeError: It is no number.
        ValueError: It is below the bound, or NaN.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(
            f"{function}: {name}: expected a number, got {type(value).__name__}"
        ) from None
    if not (number > at_least if above else number >= at_least):
        wanted = "above" if above else "of at least"
        raise ValueError(f"{function}: {name}: expected a number {wanted} {at_least}, got {value}")
    return number


def check_count(function: str, name: str, value: object, at_least: int) -> int:
    """The value as an int, or an error unless it is a whole number that reaches the bound.

    Args:
        function: Who asks.
        name: The argument.
        value: Its value.
        at_least: The bound.

    Returns:
        The value.

    Raises:
        TypeError: It is no integer.
        ValueError: It is below the bound.
    """
    try:
        number = operator.index(value)  # pyright: ignore[reportArgumentType]
    except TypeError:
        raise TypeError(
            f"{function}: {name}: expected an integer, got {type(value).__name__}"
        ) from None
    if number < at_least:
        raise ValueError(f"{function}: {name}: expected {at_least} or more, got {number}")
    return number
