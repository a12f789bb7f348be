# SPDX-License-Identifier: Apache-2.0
"""Reading through bytes that cannot be trusted: every step is checked against what is left."""

from __future__ import annotations

import os
import struct
from typing import Any

import numpy as np

from ...errors import FileFormatError

_MAX_STRING = 1 << 20


class ByteReader:
    """A place in a file's bytes that only moves forward, and never past the end.

    Args:
        path: The file, for messages.
        data: All its bytes.
        at: Where to begin.
        end: Where to stop; default at the end of the data.

    Example:
        >>> reader = ByteReader("a.bin", bytes([1, 0, 0, 0, 9]))
        >>> reader.number("<I", "count"), reader.left
        (1, 1)
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        data: bytes | memoryview,
        at: int = 0,
        end: int | None = None,
    ) -> None:
        self.path = path
        self.data = memoryview(data)
        self.at = at
        self.end = len(self.data) if end is None else end

    @property
    def left(self) -> int:
        """How many bytes follow."""
        return self.end - self.at

    def fail(self, field: str, expected: str, got: object) -> FileFormatError:
        """Make the error that names the file, a field and the place.

        Args:
            field: What was read.
            expected: What the format asks for.
            got: What the file holds.

        Returns:
            The error, to be raised.
        """
        return FileFormatError(
            self.path, f"{field} before byte {self.at}", expected, str(got)[:200]
        )

    def need(self, size: int, field: str) -> None:
        """Raise FileFormatError unless so many bytes follow.

        Args:
            size: Bytes.
            field: What they are.
        """
        if not 0 <= size <= self.left:
            raise self.fail(field, f"{size} bytes", f"{self.left} bytes left")

    def skip(self, size: int, field: str) -> None:
        """Step over bytes.

        Args:
            size: How many.
            field: What they are.
        """
        self.need(size, field)
        self.at += size

    def take(self, size: int, field: str) -> memoryview:
        """Give the next bytes, without a copy.

        Args:
            size: How many.
            field: What they are.

        Returns:
            The bytes.
        """
        self.need(size, field)
        self.at += size
        return self.data[self.at - size : self.at]

    def numbers(self, format: str, field: str) -> tuple[Any, ...]:
        """Read a few numbers.

        Args:
            format: `struct`'s format.
            field: What they are.

        Returns:
            The numbers.
        """
        return struct.unpack(format, self.take(struct.calcsize(format), field))

    def number(self, format: str, field: str) -> Any:
        """Read a number.

        Args:
            format: `struct`'s format of one number.
            field: What it is.

        Returns:
            The number.
        """
        return self.numbers(format, field)[0]

    def array(self, dtype: np.dtype | str, shape: tuple[int, ...], field: str) -> np.ndarray:
        """Read an array, without a copy; it cannot be written to.

        Args:
            dtype: Its type.
            shape: Its shape.
            field: What it is.

        Returns:
            The array.
        """
        dtype = np.dtype(dtype)
        count = int(np.prod(shape, dtype=object))
        data = self.take(count * dtype.itemsize, field)
        return np.frombuffer(data, dtype, count).reshape(shape)

    def string(self, field: str) -> str:
        """Read a string behind its length, a uint32.

        Args:
            field: What it is.

        Returns:
            The string; bytes that are no UTF-8 come as surrogates, which write back the same.
        """
        size = self.number("<I", f"{field}, length")
        if size > _MAX_STRING:
            raise self.fail(field, f"at most {_MAX_STRING} bytes", size)
        return bytes(self.take(size, field)).decode("utf-8", "surrogateescape")
