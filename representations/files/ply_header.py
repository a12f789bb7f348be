# SPDX-License-Identifier: Apache-2.0
"""The text header of a .ply file: what elements it holds, of what properties, in what encoding.

Source: Turk, The PLY Polygon File Format, 1994; type names as in that text and as in later writers
(float32 and the like).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from ...errors import FileFormatError

# Far above what any real file needs, and small enough that a hostile header costs nothing.
MAX_HEADER_BYTES = 1 << 20
MAX_LINE_BYTES = 4096
MAX_ELEMENTS = 64
MAX_PROPERTIES = 1024
_MAX_COUNT_DIGITS = 15

TYPES: dict[str, np.dtype] = {
    name: np.dtype(code)
    for names, code in (
        ("char int8", "i1"),
        ("uchar uint8", "u1"),
        ("short int16", "i2"),
        ("ushort uint16", "u2"),
        ("int int32", "i4"),
        ("uint uint32", "u4"),
        ("float float32", "f4"),
        ("double float64", "f8"),
    )
    for name in names.split()
}

FORMATS: dict[str, str] = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
"""The encodings, with numpy's sign for the byte order."""


@dataclass(frozen=True)
class PlyProperty:
    """One property of an element.

    Args:
        name: As in the file.
        dtype: Of the value, or of a list's items; native byte order.
        count_dtype: Of the list's length; None if the property is a single value.
    """

    name: str
    dtype: np.dtype
    count_dtype: np.dtype | None = None

    @property
    def min_bytes(self) -> int:
        """The fewest bytes it takes in a binary row."""
        return (self.count_dtype or self.dtype).itemsize


@dataclass(frozen=True)
class PlyElementHeader:
    """One element's declaration.

    Args:
        name: As in the file, such as "vertex".
        count: How many rows follow.
        properties: In the order of the file; never empty if there are rows.
    """

    name: str
    count: int
    properties: tuple[PlyProperty, ...]

    @property
    def has_lists(self) -> bool:
        """Whether a row's size depends on its content."""
        return any(prop.count_dtype is not None for prop in self.properties)

    @property
    def min_row_bytes(self) -> int:
        """The fewest bytes of a binary row; exact without lists."""
        return sum(prop.min_bytes for prop in self.properties)

    def dtype_of(self, name: str) -> np.dtype | None:
        """Give the dtype of a single-valued property, None if there is none of that name."""
        for prop in self.properties:
            if prop.name == name and prop.count_dtype is None:
                return prop.dtype
        return None


@dataclass(frozen=True)
class PlyHeader:
    """A whole header.

    Args:
        format: "ascii", "binary_little_endian" or "binary_big_endian".
        elements: In the order of the file.
        comments: Without the word "comment".
        data_start: Offset of the first byte after the header.
    """

    format: str
    elements: tuple[PlyElementHeader, ...]
    comments: tuple[str, ...]
    data_start: int

    def element(self, name: str) -> PlyElementHeader | None:
        """Give the element of that name, None if there is none."""
        return next((element for element in self.elements if element.name == name), None)


class _HeaderParser:
    """Takes the header line by line."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = path
        self.format: str | None = None
        self.comments: list[str] = []
        self.elements: list[tuple[str, int, dict[str, PlyProperty]]] = []

    def fail(self, field: str, expected: str, got: object) -> FileFormatError:
        return FileFormatError(self.path, f"header, {field}", expected, str(got)[:100])

    def line(self, text: str) -> None:
        keyword, _, rest = text.partition(" ")
        words = rest.split()
        if keyword in ("comment", "obj_info"):
            self.comments.append(rest)
        elif keyword == "format":
            self._format(words)
        elif keyword == "element":
            self._element(words)
        elif keyword == "property":
            self._property(words)
        elif text.strip():
            raise self.fail("keyword", "format, element, property or comment", repr(keyword))

    def _format(self, words: list[str]) -> None:
        if (
            self.format is not None
            or len(words) != 2
            or words[0] not in FORMATS
            or words[1] != "1.0"
        ):
            raise self.fail("format", f"once, one of {list(FORMATS)} and 1.0", " ".join(words))
        self.format = words[0]

    def _element(self, words: list[str]) -> None:
        count = words[1] if len(words) == 2 else ""
        if not re.fullmatch(rf"[0-9]{{1,{_MAX_COUNT_DIGITS}}}", count):
            raise self.fail("element", "a name and a count", repr(" ".join(words)))
        if len(self.elements) >= MAX_ELEMENTS:
            raise self.fail("element", f"at most {MAX_ELEMENTS}", "more")
        if any(words[0] == name for name, _, _ in self.elements):
            raise self.fail(f"element {words[0][:60]}", "each name once", "it again")
        self.elements.append((words[0], int(count), {}))

    def _property(self, words: list[str]) -> None:
        if not self.elements:
            raise self.fail("property", "an element before it", "none")
        element, _, properties = self.elements[-1]
        field = f"element {element[:60]}, property"
        if len(properties) >= MAX_PROPERTIES:
            raise self.fail(field, f"at most {MAX_PROPERTIES}", "more")
        if len(words) == 4 and words[0] == "list":
            count_dtype, dtype, name = TYPES.get(words[1]), TYPES.get(words[2]), words[3]
            if count_dtype is None or count_dtype.kind == "f" or dtype is None:
                raise self.fail(field, "an integer type and a type", " ".join(words[1:3]))
            prop = PlyProperty(name, dtype, count_dtype)
        elif len(words) == 2 and words[0] in TYPES:
            prop = PlyProperty(words[1], TYPES[words[0]])
        else:
            raise self.fail(field, "a type and a name", repr(" ".join(words)))
        if prop.name in properties:
            raise self.fail(f"{field} {prop.name[:60]}", "each name once", "it again")
        properties[prop.name] = prop

    def finish(self, data_start: int) -> PlyHeader:
        if self.format is None:
            raise self.fail("format", f"one of {list(FORMATS)}", "none")
        for name, count, properties in self.elements:
            if count and not properties:
                raise self.fail(f"element {name[:60]}", "at least one property", "none")
        elements = tuple(
            PlyElementHeader(n, count, tuple(p.values())) for n, count, p in self.elements
        )
        return PlyHeader(self.format, elements, tuple(self.comments), data_start)


def _line_ending(path: str | os.PathLike[str], file: BinaryIO) -> bytes:
    """Read the magic line; its ending is that of the whole header."""
    magic = file.read(5)
    for ending in (b"\r\n", b"\n", b"\r"):
        if magic.startswith(b"ply" + ending):
            file.seek(3 + len(ending))
            return ending
    raise FileFormatError(path, "magic", "b'ply' and the end of a line", repr(magic))


def _header_text(path: str | os.PathLike[str], file: BinaryIO) -> tuple[list[bytes], int]:
    """Return the lines between the magic and end_header, and where the data begins."""
    ending = _line_ending(path, file)
    start = file.tell()
    text = file.read(MAX_HEADER_BYTES)
    last = ending + b"end_header" + ending
    # The magic line's own ending goes in front, so that end_header may be the very next line.
    end = (ending + text).find(last)
    if end < 0:
        raise FileFormatError(path, "header", f"end_header within {MAX_HEADER_BYTES} bytes", "none")
    return text[:end].split(ending), start + end + len(last) - len(ending)


def read_ply_header(path: str | os.PathLike[str], file: BinaryIO) -> PlyHeader:
    """Read a .ply header and leave the file at the first byte after it.

    Args:
        path: The file's name, for messages.
        file: Open for reading bytes, seekable, at its start.

    Returns:
        The header. Counts are as declared: not yet checked against the size of the file.

    Raises:
        FileFormatError: If the bytes are not a .ply header, or exceed the caps of this module.

    Example:
        >>> import io
        >>> text = b"ply\\nformat ascii 1.0\\nelement vertex 2\\nproperty float x\\nend_header\\n"
        >>> read_ply_header("a.ply", io.BytesIO(text)).element("vertex").count
        2
    """
    lines, data_start = _header_text(path, file)
    parser = _HeaderParser(path)
    for line in lines:
        if len(line) > MAX_LINE_BYTES:
            raise parser.fail("line", f"at most {MAX_LINE_BYTES} bytes", f"{len(line)}")
        is_comment = line.startswith((b"comment", b"obj_info"))
        if not is_comment and not line.isascii():
            raise parser.fail("line", "ASCII", repr(line[:40]))
        parser.line(line.decode("utf-8", "replace"))
    file.seek(data_start)
    return parser.finish(data_start)
