# SPDX-License-Identifier: Apache-2.0
"""Checks of arguments that several functions share; their errors name function and argument."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

Ints = int | Sequence[int]
MOST_DIMENSIONS = 4
LARGEST = 2**31  # one past the highest coordinate
Reduction = Literal["first", "mean", "sum", "max", "min"]
REDUCTIONS: tuple[str, ...] = get_args(Reduction)


def ints(
    name: str, argument: str, value: Ints, ndim: int, least: int | None = 1
) -> tuple[int, ...]:
    """One whole number per axis.

    Args:
        name: Of the function that was called.
        argument: The argument's name.
        value: A number for all axes, or one for each.
        ndim: Axes.
        least: The smallest that is accepted; None: any.

    Returns:
        ``ndim`` numbers.

    Raises:
        TypeError: It is not made of whole numbers.
        ValueError: There are more or fewer than ``ndim``, or one is too small or beyond 2^31.

    Example:
        >>> ints("f", "stride", 2, 3), ints("f", "stride", [1, 2], 2)
        ((2, 2, 2), (1, 2))
    """
    values = tuple(value) if isinstance(value, Sequence) else (value,) * ndim
    try:
        numbers = tuple(operator.index(v) for v in values)
    except TypeError:
        numbers = None
    if numbers is None or any(isinstance(v, bool) for v in values):
        raise TypeError(f"{name}: {argument}: expected whole numbers, got {value!r}")
    if len(values) != ndim:
        raise ValueError(
            f"{name}: {argument}: expected {ndim} numbers, got {len(values)}: {value!r}"
        )
    if least is not None and any(v < least for v in numbers):
        raise ValueError(f"{name}: {argument}: expected at least {least}, got {value!r}")
    if any(abs(v) > LARGEST for v in numbers):
        raise ValueError(f"{name}: {argument}: expected at most 2^31, got {value!r}")
    return numbers


def check_coordinates(name: str, argument: str, coords: Tensor, ndim: int | None = None) -> None:
    """Raises unless these are int32 coordinates [N, 1 + D], batch first.

    Args:
        name: Of the function that was called.
        argument: The argument's name.
        coords: Any object.
        ndim: D; None: 1 to 4.

    Raises:
        TypeError: It is no tensor, or not of int32.
        ValueError: Its shape is another.

    Example:
        >>> check_coordinates("f", "coords", torch.zeros(5, 4))
        Traceback (most recent call last):
        TypeError: f: coords: expected int32, got float32
    """
    check_tensor(name, argument, coords)
    if coords.dtype != torch.int32:
        got = str(coords.dtype).removeprefix("torch.")
        raise TypeError(f"{name}: {argument}: expected int32, got {got}")
    columns = f"1 + {ndim}" if ndim is not None else "1 + D"
    right = coords.dim() == 2 and (
        coords.shape[1] == 1 + ndim
        if ndim is not None
        else 2 <= coords.shape[1] <= 1 + MOST_DIMENSIONS
    )
    if not right:
        raise ValueError(
            f"{name}: {argument}: expected shape [N, {columns}] (batch first, D = 1 to 4), "
            f"got {list(coords.shape)}"
        )


def check_rows(name: str, argument: str, tensor: Tensor, rows: int, device: torch.device) -> None:
    """Raises unless this is a tensor [rows, C] on the device.

    Args:
        name: Of the function that was called.
        argument: The argument's name.
        tensor: Any object.
        rows: Expected rows.
        device: Expected device.

    Raises:
        TypeError: It is no tensor.
        ValueError: Its shape or device is another.

    Example:
        >>> check_rows("f", "feats", torch.zeros(4, 2), 5, torch.device("cpu"))
        Traceback (most recent call last):
        ValueError: f: feats: expected shape [5, C], a row for each coordinate, got [4, 2]
    """
    check_tensor(name, argument, tensor)
    if tensor.dim() != 2 or tensor.shape[0] != rows:
        raise ValueError(
            f"{name}: {argument}: expected shape [{rows}, C], a row for each coordinate, "
            f"got {list(tensor.shape)}"
        )
    if tensor.device != device:
        raise ValueError(f"{name}: {argument}: expected device {device}, got {tensor.device}")


def check_tensor(name: str, argument: str, value: object) -> None:
    """Raises unless this is a tensor.

    Args:
        name: Of the function that was called.
        argument: The argument's name.
        value: Any object.

    Raises:
        TypeError: It is none.

    Example:
        >>> check_tensor("f", "points", [1.0])
        Traceback (most recent call last):
        TypeError: f: points: expected a tensor, got list
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: {argument}: expected a tensor, got {type(value).__name__}")


def one_of(name: str, argument: str, value: str, allowed: Sequence[str]) -> str:
    """The value, if it is an allowed one.

    Args:
        name: Of the function that was called.
        argument: The argument's name.
        value: What came.
        allowed: What may come.

    Returns:
        The value.

    Raises:
        ValueError: It is none of them.

    Example:
        >>> one_of("f", "reduce", "sum", ("sum", "mean"))
        'sum'
    """
    if value not in allowed:
        raise ValueError(f"{name}: {argument}: expected one of {tuple(allowed)}, got {value!r}")
    return value
