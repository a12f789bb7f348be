# SPDX-License-Identifier: Apache-2.0
"""Reading JSON that anyone may have written: values are checked where they are taken."""

from __future__ import annotations

import json
import math
from pathlib import Path, PurePosixPath
from typing import Any, overload

import torch
from torch import Tensor

from ..errors import FileFormatError

# Ten thousand frames take about 10 MB.
_MAX_BYTES = 256 << 20


def read_json(path: Path) -> Fields:
    """Read a JSON object.

    Args:
        path: The file.

    Returns:
        Its fields.

    Raises:
        FileFormatError: If it is too large, not JSON, or not an object.
    """
    size = path.stat().st_size
    if size > _MAX_BYTES:
        raise FileFormatError(path, "size", f"at most {_MAX_BYTES} bytes", f"{size}")
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise FileFormatError(path, "content", "JSON", f"{error}"[:200]) from error
    return Fields(path, "", values)


class Fields:
    """A JSON object whose values are taken by type.

    Args:
        path: The file it stands in.
        where: What leads to it, such as "frames[3]"; empty at the top.
        values: The object.
        parent: Where to look for what is not in it, such as intrinsics that all frames share.

    Raises:
        FileFormatError: If `values` is not an object.
    """

    def __init__(self, path: Path, where: str, values: Any, parent: Fields | None = None) -> None:
        self.path = path
        self.where = where
        if not isinstance(values, dict):
            raise FileFormatError(path, where or "content", "an object", _kind(values))
        self._values = values
        self._parent = parent

    def __contains__(self, key: str) -> bool:
        return self.get(key) is not None

    def get(self, key: str) -> Any:
        """Return a value as it is, or the parent's, or None."""
        value = self._values.get(key)
        return self._parent.get(key) if value is None and self._parent is not None else value

    def error(self, key: str, expected: str, got: Any) -> FileFormatError:
        """Make the error that says what is wrong with a value."""
        field = f"{self.where}.{key}" if self.where else key
        text = got if isinstance(got, str) else _kind(got)
        return FileFormatError(self.path, field, expected, text)

    @overload
    def number(self, key: str, default: float, *, positive: bool = False) -> float: ...
    @overload
    def number(self, key: str, default: None = None, *, positive: bool = False) -> float | None: ...

    def number(
        self, key: str, default: float | None = None, *, positive: bool = False
    ) -> float | None:
        """Take a finite number.

        Args:
            key: Its name.
            default: What to return if it is absent.
            positive: Whether it must be > 0.

        Returns:
            The number.

        Raises:
            FileFormatError: If it is something else.
        """
        value = self.get(key)
        if value is None:
            return default
        number = as_number(value)
        if number is None or (positive and number <= 0):
            raise self.error(key, "a positive number" if positive else "a finite number", value)
        return number

    def text(self, key: str) -> str | None:
        """Take a string, or None if it is absent.

        Raises:
            FileFormatError: If it is something else.
        """
        value = self.get(key)
        if value is not None and not isinstance(value, str):
            raise self.error(key, "a string", value)
        return value

    def items(self, key: str) -> list[Any]:
        """Take a list; an absent one is an error.

        Raises:
            FileFormatError: If it is absent or something else.
        """
        value = self.get(key)
        if not isinstance(value, list):
            raise self.error(key, "a list", value)
        return value

    def pose(self, key: str) -> Tensor:
        """Take a rigid 3 x 4 or 4 x 4 matrix.

        Args:
            key: Its name.

        Returns:
            float64 [4, 4].

        Raises:
            FileFormatError: If it has another shape, numbers that are not finite, another last row
                than 0 0 0 1, or an upper left part that is not a rotation.
        """
        value = self.get(key)
        rows = value if isinstance(value, list) else []
        if len(rows) not in (3, 4) or any(not isinstance(r, list) or len(r) != 4 for r in rows):
            raise self.error(key, "4 x 4 or 3 x 4 numbers", value)
        numbers = [[as_number(entry) for entry in row] for row in rows]
        if any(entry is None for row in numbers for entry in row):
            raise self.error(key, "finite numbers", "NaN, Inf or no number")
        matrix = torch.eye(4, dtype=torch.float64)
        matrix[: len(numbers)] = torch.tensor(numbers, dtype=torch.float64)
        if float((matrix[3] - torch.tensor([0.0, 0.0, 0.0, 1.0])).abs().max()) > 1e-6:
            raise self.error(key, "a last row 0 0 0 1", str(matrix[3].tolist()))
        if float(matrix.abs().max()) > 1e12:
            raise self.error(key, "numbers up to 1e12", f"{float(matrix.abs().max()):g}")
        return matrix

    def relative_path(self, key: str) -> PurePosixPath | None:
        """Take a path relative to the file's folder.

        A path may lead out of that folder but not out of the folder above it; absolute paths are
        refused: what a downloaded scene says does not decide which files of this machine are read.

        Returns:
            The path, normalised; None if it is absent.

        Raises:
            FileFormatError: If it is absolute or leads too far.
        """
        text = self.text(key)
        if text is None:
            return None
        text = text.replace("\\", "/")
        path = PurePosixPath(text)
        if not text or "\0" in text or len(text) > 4096:
            raise self.error(key, "a path", repr(text[:80]))
        if path.is_absolute() or text[1:2] == ":":
            raise self.error(key, "a path relative to the scene", repr(text[:200]))
        parts: list[str] = []
        for part in path.parts:
            if part == ".." and parts and parts[-1] != "..":
                parts.pop()
            else:
                parts.append(part)
        if parts.count("..") > 1:
            raise self.error(key, "a path within the scene's parent folder", repr(text[:200]))
        return PurePosixPath(*parts)


def as_number(value: Any) -> float | None:
    """Return a JSON value as a finite float, or None if it is none (booleans are not numbers)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _kind(value: Any) -> str:
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    return "nothing" if value is None else repr(value)[:80]
