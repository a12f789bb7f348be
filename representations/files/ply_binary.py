# SPDX-License-Identifier: Apache-2.0
"""The body of a binary .ply file.

Nothing is allocated before the declared count has been compared with the bytes that are left.
Elements without lists are read a block at a time. With lists, a row's place depends on all rows
before it: if all rows turn out alike (a triangle mesh) they are read as one table, otherwise one
pass finds where each row's lists begin and numpy gathers the values.
"""

from __future__ import annotations

import os
import struct
from array import array
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from ...errors import FileFormatError
from .ply_data import Column, PlyElement, PlyList
from .ply_header import FORMATS, PlyElementHeader, PlyHeader, PlyProperty

# A block stays in the cache while its columns are taken out one by one.
_BLOCK_BYTES = 1 << 18
_GATHER_ITEMS = 1 << 18
_MAX_TABLE_ROW_BYTES = 1 << 16


@dataclass(frozen=True)
class _Segment:
    """A list within a row, with the single values between it and the list before it.

    Args:
        singles: Their properties.
        fixed_bytes: Their total size.
        prop: The list; None for the values after the row's last list.
    """

    singles: tuple[PlyProperty, ...]
    fixed_bytes: int
    prop: PlyProperty | None


def _segments(element: PlyElementHeader) -> list[_Segment]:
    segments: list[_Segment] = []
    singles: list[PlyProperty] = []
    for prop in (*element.properties, None):
        if prop is not None and prop.count_dtype is None:
            singles.append(prop)
            continue
        fixed_bytes = sum(single.dtype.itemsize for single in singles)
        segments.append(_Segment(tuple(singles), fixed_bytes, prop))
        singles = []
    return segments


class BinaryBody:
    """Reads the elements of a binary .ply file one after the other.

    Args:
        path: The file's name, for messages.
        file: At the first byte after the header.
        header: What it declares.
    """

    def __init__(self, path: str | os.PathLike[str], file: BinaryIO, header: PlyHeader) -> None:
        self.path = path
        self.file = file
        self.order = FORMATS[header.format]
        self.position = header.data_start
        self.size = os.fstat(file.fileno()).st_size
        self.rest = b""
        self.rest_start = 0

    def _fail(self, field: str, expected: str, got: str) -> FileFormatError:
        return FileFormatError(self.path, field, expected, got)

    def read(self, element: PlyElementHeader, keep: bool) -> PlyElement | None:
        """Read an element, or only step over it.

        Args:
            element: Its declaration.
            keep: Whether the values are wanted.

        Returns:
            The element, None if it was not wanted.

        Raises:
            FileFormatError: If the file is too short for it.
        """
        needed, left = element.count * element.min_row_bytes, self.size - self.position
        if needed > left:
            raise self._fail(
                f"element {element.name}",
                f"{element.count} rows of at least {element.min_row_bytes} bytes",
                f"{left} bytes left in the file",
            )
        if element.count == 0:
            columns: dict[str, Column] = {p.name: _empty(p) for p in element.properties}
        elif element.has_lists:
            columns = self._read_lists(element)
        elif keep:
            columns = self._read_singles(element)
        else:
            columns = {}
            self.position += needed
        return PlyElement(element.name, element.count, columns) if keep else None

    def finish(self) -> None:
        """Raise FileFormatError unless the last element ended where the file does."""
        if self.position != self.size:
            raise self._fail("end of file", "no more bytes", f"{self.size - self.position}")

    def _read_singles(self, element: PlyElementHeader) -> dict[str, Column]:
        fields = [(f"p{i}", self.order + p.dtype.str[1:]) for i, p in enumerate(element.properties)]
        row = np.dtype(fields)
        columns = {p.name: np.empty(element.count, p.dtype) for p in element.properties}
        block = max(1, _BLOCK_BYTES // row.itemsize)
        self.file.seek(self.position)
        for start in range(0, element.count, block):
            stop = min(start + block, element.count)
            data = self.file.read((stop - start) * row.itemsize)
            if len(data) != (stop - start) * row.itemsize:
                raise self._fail(f"element {element.name}", "a file that keeps its size", "less")
            rows = np.frombuffer(data, row)
            for i, column in enumerate(columns.values()):
                column[start:stop] = rows[f"p{i}"]
        self.position += element.count * row.itemsize
        return dict(columns)

    def _read_lists(self, element: PlyElementHeader) -> dict[str, Column]:
        if not self.rest:
            self.file.seek(self.position)
            self.rest, self.rest_start = self.file.read(self.size - self.position), self.position
        at = self.position - self.rest_start
        segments = _segments(element)
        columns, end = self._read_table(element, segments, at)
        if columns is None:
            starts, lengths, end = self._walk(element, segments, at, element.count)
            columns = self._gather(segments, starts, lengths)
        self.position = self.rest_start + end
        return columns

    def _walk(
        self, element: PlyElementHeader, segments: list[_Segment], at: int, n_rows: int
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Find where each row's segments begin and how long their lists are, [n_rows, n] each."""
        steps = []
        for segment in segments:
            count_dtype = segment.prop.count_dtype if segment.prop is not None else None
            if segment.prop is None or count_dtype is None:
                steps.append((segment.fixed_bytes, None, 0, 0))
            else:
                unpack = struct.Struct((self.order or "<") + count_dtype.char).unpack_from
                item = segment.prop.dtype.itemsize
                steps.append((segment.fixed_bytes, unpack, count_dtype.itemsize, item))
        starts, lengths = array("q"), array("q")
        data, limit = self.rest, len(self.rest)
        for row in range(n_rows):
            for fixed, unpack, count_bytes, item_bytes in steps:
                starts.append(at)
                at += fixed
                length = 0
                if unpack is not None and at + count_bytes <= limit:
                    length = unpack(data, at)[0]
                lengths.append(length)
                at += count_bytes + length * item_bytes
                if length < 0 or at > limit:
                    raise self._fail(
                        f"element {element.name}, row {row}",
                        "values and lists that end within the file",
                        f"a list of {length}, {limit} bytes in all",
                    )
        shape = (n_rows, len(steps))
        starts_table = np.frombuffer(starts, np.int64).reshape(shape)
        return starts_table, np.frombuffer(lengths, np.int64).reshape(shape), at

    def _read_table(
        self, element: PlyElementHeader, segments: list[_Segment], at: int
    ) -> tuple[dict[str, Column] | None, int]:
        """Read rows whose lists all are as long as the first row's; None if one differs."""
        _, lengths, end = self._walk(element, segments, at, 1)
        row_bytes = end - at
        end = at + row_bytes * element.count
        if row_bytes > _MAX_TABLE_ROW_BYTES or end > len(self.rest):
            return None, at
        fields: list[tuple] = []
        for segment, length in zip(segments, lengths[0].tolist()):
            fields += [(f"v{p.name}", self.order + p.dtype.str[1:]) for p in segment.singles]
            if segment.prop is not None and segment.prop.count_dtype is not None:
                name, count = segment.prop.name, segment.prop.count_dtype
                fields.append((f"n{name}", self.order + count.str[1:]))
                fields.append((f"v{name}", self.order + segment.prop.dtype.str[1:], (length,)))
        rows = np.frombuffer(self.rest, np.dtype(fields), element.count, at)
        columns: dict[str, Column] = {}
        for segment, length in zip(segments, lengths[0].tolist()):
            for prop in segment.singles:
                columns[prop.name] = rows[f"v{prop.name}"].astype(prop.dtype)
            if segment.prop is not None:
                name = segment.prop.name
                if np.any(rows[f"n{name}"] != length):
                    return None, at
                values = rows[f"v{name}"].astype(segment.prop.dtype).reshape(-1)
                columns[name] = PlyList(values, np.full(element.count, length, np.int64))
        return columns, end

    def _gather(
        self, segments: list[_Segment], starts: np.ndarray, lengths: np.ndarray
    ) -> dict[str, Column]:
        columns: dict[str, Column] = {}
        for i, segment in enumerate(segments):
            at = starts[:, i].copy()
            for prop in segment.singles:
                columns[prop.name] = self._gather_values(at, prop)
                at += prop.dtype.itemsize
            if segment.prop is not None and segment.prop.count_dtype is not None:
                length = lengths[:, i].copy()
                at += segment.prop.count_dtype.itemsize
                columns[segment.prop.name] = self._gather_lists(at, length, segment.prop)
        return columns

    def _gather_values(self, at: np.ndarray, prop: PlyProperty) -> np.ndarray:
        """Read one value at each byte offset."""
        data, width = np.frombuffer(self.rest, np.uint8), prop.dtype.itemsize
        values = np.empty(at.size, prop.dtype)
        for first in range(0, at.size, _GATHER_ITEMS):
            part = at[first : first + _GATHER_ITEMS, None] + np.arange(width)
            values[first : first + _GATHER_ITEMS] = (
                data[part].view(self.order + prop.dtype.str[1:]).reshape(-1)
            )
        return values

    def _gather_lists(self, at: np.ndarray, length: np.ndarray, prop: PlyProperty) -> PlyList:
        """Read the items that follow each byte offset, a bounded number of rows at a time."""
        ends = np.cumsum(length)
        values = np.empty(int(ends[-1]), prop.dtype)
        first = 0
        while first < at.size:
            before = int(ends[first - 1]) if first else 0
            last = max(first + 1, int(np.searchsorted(ends, before + _GATHER_ITEMS)))
            part, counts = at[first:last], length[first:last]
            index = np.arange(int(ends[last - 1]) - before)
            row_start = ends[first:last] - counts - before
            offset = (
                np.repeat(part, counts)
                + (index - np.repeat(row_start, counts)) * prop.dtype.itemsize
            )
            values[before : int(ends[last - 1])] = self._gather_values(offset, prop)
            first = last
        return PlyList(values, length)


def _empty(prop: PlyProperty) -> Column:
    values = np.empty(0, prop.dtype)
    return values if prop.count_dtype is None else PlyList(values, np.empty(0, np.int64))
