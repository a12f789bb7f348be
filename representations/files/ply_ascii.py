# SPDX-License-Identifier: Apache-2.0
"""The body of an ASCII .ply file: one line a row, blank lines ignored."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from typing import BinaryIO

import numpy as np

from ...errors import FileFormatError
from .ply_data import Column, PlyElement, PlyList
from .ply_header import PlyElementHeader, PlyHeader, PlyProperty

_READ_BYTES = 1 << 20
_MAX_LINE_BYTES = 1 << 24
_MAX_TOKEN_BYTES = 512
_ROWS_AT_ONCE = 1 << 13


class AsciiBody:
    """Reads the elements of an ASCII .ply file one after the other.

    Args:
        path: The file's name, for messages.
        file: At the first byte after the header.
        header: What it declares.
    """

    def __init__(self, path: str | os.PathLike[str], file: BinaryIO, header: PlyHeader) -> None:
        self.path = path
        self.file = file
        self.left = os.fstat(file.fileno()).st_size - header.data_start
        self.rows = self._rows()

    def fail(self, field: str, expected: str, got: object) -> FileFormatError:
        """Make the error for this file."""
        return FileFormatError(self.path, field, expected, str(got)[:100])

    def _rows(self) -> Iterator[list[bytes]]:
        """Give each line's words, skipping blank lines."""
        carry = b""
        while chunk := self.file.read(_READ_BYTES):
            # A \r\n cut in two becomes one more blank line.
            lines = (carry + chunk).replace(b"\r", b"\n").split(b"\n")
            carry = lines.pop()
            if len(carry) > _MAX_LINE_BYTES:
                raise self.fail("line", f"at most {_MAX_LINE_BYTES} bytes", "more")
            for line in lines:
                if words := line.split():
                    yield words
        if words := carry.split():
            yield words

    def read(self, element: PlyElementHeader, keep: bool) -> PlyElement | None:
        """Read an element, or only step over it.

        Args:
            element: Its declaration.
            keep: Whether the values are wanted.

        Returns:
            The element, None if it was not wanted.

        Raises:
            FileFormatError: If there are too few rows, or words that are not numbers of their type.
        """
        # A row has a character and a separator a property; the very last may lack its separator.
        needed = element.count * 2 * len(element.properties)
        if needed > self.left + 1:
            raise self.fail(
                f"element {element.name}",
                f"{element.count} rows of at least {2 * len(element.properties)} bytes",
                f"{self.left} bytes after the header",
            )
        reader = _read_lists if element.has_lists else _read_singles
        columns = reader(self, element)
        return PlyElement(element.name, element.count, columns) if keep else None

    def finish(self) -> None:
        """Raise FileFormatError if anything but blank lines is left."""
        for words in self.rows:
            raise self.fail("end of file", "no more rows", repr(b" ".join(words)[:60]))

    def blocks(self, element: PlyElementHeader) -> Iterator[tuple[int, list[list[bytes]]]]:
        """Give the element's rows some thousands at a time, with the first one's number."""
        for start in range(0, element.count, _ROWS_AT_ONCE):
            n = min(_ROWS_AT_ONCE, element.count - start)
            rows = list(islice(self.rows, n))
            if len(rows) != n:
                raise self.fail(
                    f"element {element.name}", f"{element.count} rows", start + len(rows)
                )
            yield start, rows

    def numbers(self, where: str, words: list[bytes]) -> np.ndarray:
        """Read words as float64, which holds every PLY integer exactly."""
        try:
            if words and max(map(len, words)) > _MAX_TOKEN_BYTES:
                raise ValueError
            return np.array(list(map(float, words)), np.float64)
        except ValueError:
            wrong = next((word for word in words if not _is_number(word)), b"")
            raise self.fail(where, "numbers", repr(wrong[:40])) from None

    def typed(self, where: str, prop: PlyProperty, numbers: np.ndarray) -> np.ndarray:
        """Convert to the property's type, whose range integers must keep."""
        if prop.dtype.kind != "f":
            limits = np.iinfo(prop.dtype)
            # The comparison is false for NaN.
            fits = (numbers >= limits.min) & (numbers <= limits.max) & (numbers == np.rint(numbers))
            if not fits.all():
                wrong = numbers[~fits][0]
                raise self.fail(f"{where}, property {prop.name}", f"{prop.dtype} values", wrong)
        with np.errstate(over="ignore"):
            return numbers.astype(prop.dtype)


def _is_number(word: bytes) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return len(word) <= _MAX_TOKEN_BYTES


def _read_singles(body: AsciiBody, element: PlyElementHeader) -> dict[str, Column]:
    where, width = f"element {element.name}", len(element.properties)
    columns = {p.name: np.empty(element.count, p.dtype) for p in element.properties}
    for start, rows in body.blocks(element):
        for i, row in enumerate(rows):
            if len(row) != width:
                raise body.fail(f"{where}, row {start + i}", f"{width} values", len(row))
        table = body.numbers(where, [word for row in rows for word in row]).reshape(-1, width)
        for i, prop in enumerate(element.properties):
            columns[prop.name][start : start + len(rows)] = body.typed(where, prop, table[:, i])
    return dict(columns)


def _read_lists(body: AsciiBody, element: PlyElementHeader) -> dict[str, Column]:
    where = f"element {element.name}"
    values: dict[str, list[np.ndarray]] = {p.name: [] for p in element.properties}
    lengths: dict[str, list[int]] = {p.name: [] for p in element.properties if p.count_dtype}
    for start, rows in body.blocks(element):
        words: dict[str, list[bytes]] = {p.name: [] for p in element.properties}
        for i, row in enumerate(rows):
            _split_row(body, f"{where}, row {start + i}", element, row, words, lengths)
        for prop in element.properties:
            numbers = body.numbers(where, words[prop.name])
            values[prop.name].append(body.typed(where, prop, numbers))
    columns: dict[str, Column] = {}
    for prop in element.properties:
        joined = np.concatenate([np.empty(0, prop.dtype), *values[prop.name]])
        is_list = prop.name in lengths
        column = PlyList(joined, np.array(lengths[prop.name], np.int64)) if is_list else joined
        columns[prop.name] = column
    return columns


def _split_row(
    body: AsciiBody,
    where: str,
    element: PlyElementHeader,
    row: list[bytes],
    words: dict[str, list[bytes]],
    lengths: dict[str, list[int]],
) -> None:
    """Append a row's words to their properties."""
    at = 0
    for prop in element.properties:
        n = 1
        if prop.count_dtype is not None:
            word = row[at] if at < len(row) else b""
            if not word.isdigit() or len(word) > 10:
                raise body.fail(f"{where}, property {prop.name}", "a length", repr(word[:40]))
            n = int(word)
            lengths[prop.name].append(n)
            at += 1
        if at + n > len(row):
            raise body.fail(f"{where}, property {prop.name}", f"{n} values", len(row) - at)
        words[prop.name].extend(row[at : at + n])
        at += n
    if at != len(row):
        raise body.fail(where, f"{at} values", len(row))
