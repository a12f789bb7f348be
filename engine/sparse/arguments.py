# SPDX-License-Identifier: Apache-2.0
"""Checks of arguments that several functions share; their errors name function and argument."""

from __future__ import annotations

import math
import operator
import reprlib
from collections.abc import Sequence
from typing import Any, Literal, TypeGuard, get_args

import torch
from torch import Tensor

Ints = int | Sequence[int]
MOST_DIMENSIONS = 4
LARGEST = 2**31  # one past the highest coordinate
LARGEST_DENSE = 2**40  # entries
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
    values: tuple[Any, ...] = tuple(value) if _is_many(value) else (value,) * ndim
    try:
        numbers = tuple(operator.index(v) for v in values)
    except TypeError:
        numbers = None
    if numbers is None or any(isinstance(v, bool) for v in values):
        raise TypeError(f"{name}: {argument}: expected whole numbers, got {shown(value)}")
    if len(values) != ndim:
        raise ValueError(
            f"{name}: {argument}: expected {ndim} numbers, got {len(values)}: {shown(value)}"
        )
    if least is not None and any(v < least for v in numbers):
        raise ValueError(f"{name}: {argument}: expected at least {least}, got {shown(value)}")
    if any(abs(v) > LARGEST for v in numbers):
        raise ValueError(f"{name}: {argument}: expected at most 2^31, got {shown(value)}")
    return numbers


def sizes(name: str, argument: str, value: Ints, least: int = 1) -> Ints:
    """Whole numbers of tensors whose dimensions are not known yet.

    Args:
        name: Of the function that was called.
        argument: The argument's name.
        value: A number for all axes, or one for each of 1 to 4.
        least: The smallest that is accepted.

    Returns:
        The number, or a tuple of them.

    Raises:
        TypeError: It is not made of whole numbers.
        ValueError: There are none or more than 4, or one is too small or beyond 2^31.

    Example:
        >>> sizes("f", "stride", 2), sizes("f", "stride", [1, 2])
        (2, (1, 2))
    """
    if _is_many(value):
        return ints(name, argument, value, min(max(len(value), 1), MOST_DIMENSIONS), least)
    return ints(name, argument, value, 1, least)[0]


def whole(name: str, argument: str, value: int, least: int | None = 1) -> int:
    """One whole number.

    Args:
        name: Of the function that was called.
        argument: The argument's name.
        value: The number.
        least: The smallest that is accepted; None: any.

    Returns:
        The number.

    Raises:
        TypeError: It is none.
        ValueError: It is too small or beyond 2^31.

    Example:
        >>> whole("f", "groups", "a")
        Traceback (most recent call last):
        TypeError: f: groups: expected a whole number, got 'a'
    """
    if _is_many(value) or isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name}: {argument}: expected a whole number, got {shown(value)}")
    return ints(name, argument, value, 1, least)[0]


def number(name: str, argument: str, value: float, least: float = 0.0) -> float:
    """One finite real number.

    Args:
        name: Of the function that was called.
        argument: The argument's name.
        value: The number.
        least: The smallest that is accepted.

    Returns:
        The number.

    Raises:
        TypeError: It is none.
        ValueError: It is too small, infinite or not a number.

    Example:
        >>> number("f", "eps", -1e-5)
        Traceback (most recent call last):
        ValueError: f: eps: expected a finite number of at least 0.0, got -1e-05
    """
    try:
        real = None if isinstance(value, bool | str | bytes) else float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        real = None
    if real is None:
        raise TypeError(f"{name}: {argument}: expected a number, got {shown(value)}")
    if not (math.isfinite(real) and real >= least):
        raise ValueError(
            f"{name}: {argument}: expected a finite number of at least {least}, got {shown(value)}"
        )
    return real


def flag(name: str, argument: str, value: bool) -> bool:
    """True or False.

    Args:
        name: Of the function that was called.
        argument: The argument's name.
        value: Either.

    Returns:
        The value.

    Raises:
        TypeError: It is neither: text such as "no" would count as true.

    Example:
        >>> flag("f", "bias", "no")
        Traceback (most recent call last):
        TypeError: f: bias: expected True or False, got 'no'
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name}: {argument}: expected True or False, got {shown(value)}")
    return value


def check_volume(name: str, sizes: Sequence[int]) -> None:
    """Raises if a dense tensor would be larger than any memory.

    Args:
        name: Of the function that was called.
        sizes: Of its axes.

    Raises:
        ValueError: It would have more than 2^40 entries.

    Example:
        >>> check_volume("f", (2**20, 2**20, 2))
        Traceback (most recent call last):
        ValueError: f: expected at most 2^40 entries, got 1048576 x 1048576 x 2; crop first
    """
    if math.prod(sizes) > LARGEST_DENSE:
        got = " x ".join(map(str, sizes))
        raise ValueError(f"{name}: expected at most 2^40 entries, got {got}; crop first")


def device_here(name: str, argument: str, value: int | str | torch.device) -> torch.device:
    """A device that tensors can be moved to.

    Args:
        name: Of the function that was called.
        argument: The argument's name.
        value: As of ``torch.device``; a number is that of a GPU.

    Returns:
        The device.

    Raises:
        ValueError: torch knows no such device, or sees no such GPU.

    Example:
        >>> device_here("f", "device", "gpu")
        Traceback (most recent call last):
        ValueError: f: device: expected one that torch knows, such as 'cpu' or 'cuda:0', got 'gpu'
    """
    try:
        device = torch.device("cuda", value) if isinstance(value, int) else torch.device(value)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{name}: {argument}: expected one that torch knows, such as 'cpu' or 'cuda:0', "
            f"got {shown(value)}"
        ) from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"{name}: {argument}: expected one of the {torch.cuda.device_count()} GPUs that torch "
            f"sees, got {device}"
        )
    return device


def shown(value: object) -> str:
    """A value as errors quote it: short, and in one line.

    Args:
        value: Any object.

    Returns:
        The text; of what is neither number nor text nor made of those, its class.

    Example:
        >>> shown((1, 2)), shown(torch.zeros(3))
        ('(1, 2)', 'Tensor')
    """
    if value is None or isinstance(value, int | float | complex | str | bytes | tuple | list):
        return " ".join(reprlib.repr(value).split())
    return type(value).__name__


def _is_many(value: object) -> TypeGuard[Sequence[Any]]:
    """Whether a value is a sequence of others; text and bytes are not."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray)


def check_kind(name: str, argument: str, value: object, kind: type) -> None:
    """Raises unless this is an instance of a class.

    Args:
        name: Of the function that was called.
        argument: The argument's name.
        value: Any object.
        kind: The class.

    Raises:
        TypeError: It is none.

    Example:
        >>> check_kind("f", "model", 3, torch.nn.Module)
        Traceback (most recent call last):
        TypeError: f: model: expected a Module, got int
    """
    if not isinstance(value, kind):
        raise TypeError(
            f"{name}: {argument}: expected a {kind.__name__}, got {type(value).__name__}"
        )


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
        raise TypeError(f"{name}: {argument}: expected int32, got {dtype_text(coords.dtype)}")
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
    """Raises unless this is a tensor [rows, C] of real numbers on the device.

    Args:
        name: Of the function that was called.
        argument: The argument's name.
        tensor: Any object.
        rows: Expected rows.
        device: Expected device.

    Raises:
        TypeError: It is no tensor, or not of real numbers.
        ValueError: Its shape or device is another.

    Example:
        >>> check_rows("f", "feats", torch.zeros(4, 2), 5, torch.device("cpu"))
        Traceback (most recent call last):
        ValueError: f: feats: expected shape [5, C], a row for each coordinate, got [4, 2]
    """
    check_real(name, argument, tensor)
    if tensor.dim() != 2 or tensor.shape[0] != rows:
        raise ValueError(
            f"{name}: {argument}: expected shape [{rows}, C], a row for each coordinate, "
            f"got {list(tensor.shape)}"
        )
    if tensor.device != device:
        raise ValueError(f"{name}: {argument}: expected device {device}, got {tensor.device}")


def check_tensor(name: str, argument: str, value: object) -> None:
    """Raises unless this is a tensor, and one whose elements all lie in memory.

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
    if value.layout != torch.strided:
        raise TypeError(
            f"{name}: {argument}: expected a dense tensor, got one of layout {value.layout}"
        )


def check_whole(name: str, argument: str, tensor: Tensor) -> None:
    """Raises unless this is a tensor of whole numbers.

    Args:
        name: Of the function that was called.
        argument: The argument's name.
        tensor: Any object.

    Raises:
        TypeError: It is no tensor, or one of another type.

    Example:
        >>> check_whole("f", "batch", torch.zeros(2))
        Traceback (most recent call last):
        TypeError: f: batch: expected whole numbers, got float32
    """
    check_tensor(name, argument, tensor)
    kind = tensor.dtype
    if kind.is_floating_point or kind.is_complex or kind == torch.bool or tensor.is_quantized:
        raise TypeError(f"{name}: {argument}: expected whole numbers, got {dtype_text(kind)}")


def check_real(name: str, argument: str, tensor: Tensor) -> None:
    """Raises unless this is a tensor of real numbers, whole ones and booleans among them.

    Args:
        name: Of the function that was called.
        argument: The argument's name.
        tensor: Any object.

    Raises:
        TypeError: It is no tensor, or one of another type.

    Example:
        >>> check_real("f", "feats", torch.zeros(2, dtype=torch.complex64))
        Traceback (most recent call last):
        TypeError: f: feats: expected real numbers, got complex64
    """
    check_tensor(name, argument, tensor)
    if tensor.dtype.is_complex or tensor.is_quantized:
        got = dtype_text(tensor.dtype)
        raise TypeError(f"{name}: {argument}: expected real numbers, got {got}")


def check_mask(name: str, mask: Tensor, shape: tuple[int, ...], device: torch.device) -> None:
    """Raises unless this is a mask of the shape on the device.

    Args:
        name: Of the function that was called.
        mask: Any object.
        shape: Expected shape.
        device: Expected device.

    Raises:
        TypeError: It is not of bool.
        ValueError: Its shape or device is another.

    Example:
        >>> check_mask("f", torch.ones(3, dtype=torch.bool), (2,), torch.device("cpu"))
        Traceback (most recent call last):
        ValueError: f: mask: expected shape [2] on cpu, got [3] on cpu
    """
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        kind = getattr(mask, "dtype", type(mask).__name__)
        raise TypeError(f"{name}: mask: expected bool, got {kind}")
    if mask.shape != shape or mask.device != device:
        raise ValueError(
            f"{name}: mask: expected shape {list(shape)} on {device}, "
            f"got {list(mask.shape)} on {mask.device}"
        )


def dtype_text(dtype: torch.dtype) -> str:
    """A type as errors call it.

    Args:
        dtype: The type.

    Returns:
        Its name without "torch.".

    Example:
        >>> dtype_text(torch.float16)
        'float16'
    """
    return str(dtype).removeprefix("torch.")


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
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(
            f"{name}: {argument}: expected one of {tuple(allowed)}, got {shown(value)}"
        )
    return value
