# SPDX-License-Identifier: Apache-2.0
"""Reading and writing .ply files of any elements and properties: ASCII, little and big endian.

The format by Turk (1994). Readers of one kind of .ply (Gaussians, points, meshes) choose the
elements and properties they need by name and type from what `read_ply` returns; they never rely on
an order.

Numbers are returned as they stand in the file: NaN and Inf are values like others here.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ...errors import FileFormatError
from .atomic import atomic_write
from .ply_ascii import AsciiBody
from .ply_binary import BinaryBody
from .ply_data import Column, PlyElement, PlyFile, PlyList
from .ply_header import FORMATS, TYPES, PlyHeader, read_ply_header

__all__ = ["PlyElement", "PlyFile", "PlyList", "peek_ply", "read_ply", "write_ply"]

_TYPE_NAMES = {dtype: name for name, dtype in reversed(TYPES.items()) if not name[-1].isdigit()}
_ROWS_AT_ONCE = 1 << 12


def read_ply(path: str | os.PathLike[str], elements: Collection[str] | None = None) -> PlyFile:
    """Read a .ply file, checked against its own header to the last byte.

    Args:
        path: The file.
        elements: Names of the elements wanted; the others are stepped over. Default all.

    Returns:
        The wanted elements that the file has.

    Raises:
        FileFormatError: If the file is not a .ply, is shorter or longer than its header says, or
            holds a word that is not a number of its type.
        FileNotFoundError: If there is no such file.

    Example:
        >>> columns = {"x": np.zeros(3, np.float32), "label": np.arange(3, dtype=np.uint8)}
        >>> write_ply(tmp_path / "a.ply", {"vertex": columns})
        >>> read_ply(tmp_path / "a.ply").elements["vertex"].columns["label"]
        array([0, 1, 2], dtype=uint8)
    """
    path = Path(path)
    with path.open("rb") as file:
        header = read_ply_header(path, file)
        body = (AsciiBody if header.format == "ascii" else BinaryBody)(path, file, header)
        found: dict[str, PlyElement] = {}
        for declared in header.elements:
            keep = elements is None or declared.name in elements
            element = body.read(declared, keep)
            if element is not None:
                found[declared.name] = element
        body.finish()
    return PlyFile(found, header.comments, header.format)


def peek_ply(head: bytes) -> PlyHeader | None:
    """Read the header from the first bytes of a file.

    Args:
        head: Any bytes.

    Returns:
        The header, None if they do not begin with a whole one.

    Example:
        >>> peek_ply(b"PK") is None
        True
    """
    try:
        return read_ply_header("", io.BytesIO(head))
    except FileFormatError:
        return None


def write_ply(
    path: str | os.PathLike[str],
    elements: Mapping[str, Mapping[str, Column]],
    *,
    comments: Sequence[str] = (),
    format: str = "binary_little_endian",
) -> None:
    """Write a .ply file; an existing one is replaced at the end.

    Args:
        path: The file.
        elements: By name, each a mapping from property name to an array [n_rows] or a `PlyList` of
            n_rows lists, in the order to write. Types: 8-, 16- and 32-bit integers, float32,
            float64.
        comments: Lines for the header.
        format: "binary_little_endian" (default), "binary_big_endian" or "ascii"; the last writes as
            many digits as give the same numbers back.

    Raises:
        ValueError: If lengths differ within an element, or a name, type or format cannot be
            written.

    Example:
        >>> faces = PlyList(np.array([0, 1, 2], np.int32), np.array([3]))
        >>> write_ply(tmp_path / "b.ply", {"face": {"vertex_indices": faces}}, format="ascii")
        >>> (tmp_path / "b.ply").read_text().splitlines()[-1]
        '3 0 1 2'
    """
    if format not in FORMATS:
        raise ValueError(f"write_ply: format: expected one of {list(FORMATS)}, got {format!r}")
    header = _header_text(elements, comments, format)
    with atomic_write(path) as file:
        file.write(header.encode("ascii"))
        for columns in elements.values():
            blocks = _ascii_blocks if format == "ascii" else _binary_blocks
            for block in blocks(columns, FORMATS[format]):
                file.write(block)


def _header_text(
    elements: Mapping[str, Mapping[str, Column]], comments: Sequence[str], format: str
) -> str:
    lines = ["ply", f"format {format} 1.0"]
    for comment in comments:
        if not (comment.isascii() and comment.isprintable()) or len(comment) > 1000:
            raise ValueError(f"write_ply: comments: expected a line of ASCII, got {comment[:40]!r}")
        lines.append(f"comment {comment}")
    for element, columns in elements.items():
        properties = [f"property {_type_text(n, c)} {n}" for n, c in columns.items()]
        counts = {len(column) for column in columns.values()}
        if len(counts) > 1:
            raise ValueError(
                f"write_ply: {element}: expected columns of one length, got {sorted(counts)}"
            )
        _check_name(element)
        lines.append(f"element {element} {counts.pop() if counts else 0}")
        lines += properties
    return "\n".join([*lines, "end_header", ""])


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[!-~]{1,200}", name):
        raise ValueError(f"write_ply: names: expected ASCII without spaces, got {name[:40]!r}")


def _type_text(name: str, column: Column) -> str:
    _check_name(name)
    values = column.values if isinstance(column, PlyList) else column
    known = _TYPE_NAMES.get(values.dtype)
    if known is None or values.ndim != 1:
        raise ValueError(
            f"write_ply: {name}: expected [n_rows] of {sorted(set(_TYPE_NAMES.values()))}, "
            f"got {values.dtype} {list(values.shape)}"
        )
    if isinstance(column, PlyList):
        return f"list {_TYPE_NAMES[_count_dtype(column)]} {known}"
    return known


def _count_dtype(column: PlyList) -> np.dtype:
    longest = int(column.lengths.max()) if len(column) else 0
    return np.dtype(np.uint8) if longest < 256 else np.dtype(np.uint32)


def _row_ranges(columns: Mapping[str, Column]) -> Iterator[slice]:
    n_rows = len(next(iter(columns.values()), ()))
    for start in range(0, n_rows, _ROWS_AT_ONCE):
        yield slice(start, min(start + _ROWS_AT_ONCE, n_rows))


def _list_range(column: PlyList, rows: slice) -> PlyList:
    first = int(column.lengths[: rows.start].sum())
    lengths = column.lengths[rows]
    return PlyList(column.values[first : first + int(lengths.sum())], lengths)


def _binary_blocks(columns: Mapping[str, Column], order: str) -> Iterator[bytes]:
    """Give the rows' bytes, some thousand rows at a time."""
    arrays = {name: column for name, column in columns.items() if isinstance(column, np.ndarray)}
    if len(arrays) != len(columns):
        yield from _binary_blocks_with_lists(columns, order)
        return
    row = np.dtype([(name, order + column.dtype.str[1:]) for name, column in arrays.items()])
    for rows in _row_ranges(columns):
        block = np.empty(rows.stop - rows.start, row)
        for name, column in arrays.items():
            block[name] = column[rows]
        yield block.tobytes()


def _binary_blocks_with_lists(columns: Mapping[str, Column], order: str) -> Iterator[bytes]:
    """Give the bytes of rows of different sizes, each value scattered to its place."""
    for rows in _row_ranges(columns):
        n = rows.stop - rows.start
        pieces: list[tuple[np.ndarray, np.ndarray | None]] = []
        for column in columns.values():
            if isinstance(column, PlyList):
                part = _list_range(column, rows)
                pieces.append((part.lengths.astype(_count_dtype(column)), None))
                pieces.append((part.values, part.lengths))
            else:
                pieces.append((column[rows], None))
        sizes = [np.full(n, v.itemsize) if c is None else c * v.itemsize for v, c in pieces]
        row_start = np.cumsum(sum(sizes)) - sum(sizes)
        block = np.empty(int(sum(size.sum() for size in sizes)), np.uint8)
        for (values, lengths), size in zip(pieces, sizes):
            width = values.itemsize
            start = row_start
            if lengths is not None:
                within = np.arange(values.size) - np.repeat(np.cumsum(lengths) - lengths, lengths)
                start = np.repeat(row_start, lengths) + within * width
            raw = values.astype(order + values.dtype.str[1:]).view(np.uint8).reshape(-1, width)
            block[start[:, None] + np.arange(width)] = raw
            row_start = row_start + size
        yield block.tobytes()


def _ascii_blocks(columns: Mapping[str, Column], order: str) -> Iterator[bytes]:
    """Give the rows' text, some thousand rows at a time."""
    for rows in _row_ranges(columns):
        texts: list[list[str]] = []
        for column in columns.values():
            if isinstance(column, PlyList):
                part = _list_range(column, rows)
                items = iter(_numbers_text(part.values))
                lists = ([next(items) for _ in range(n)] for n in part.lengths.tolist())
                texts.append([" ".join([str(len(words)), *words]) for words in lists])
            else:
                texts.append(_numbers_text(column[rows]))
        yield "".join(" ".join(row) + "\n" for row in zip(*texts)).encode("ascii")


def _numbers_text(values: np.ndarray) -> list[str]:
    if values.dtype.kind != "f":
        return [str(value) for value in values.tolist()]
    digits = 9 if values.dtype.itemsize == 4 else 17
    return [f"{value:.{digits}g}" for value in values.tolist()]
