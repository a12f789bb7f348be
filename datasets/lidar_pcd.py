# SPDX-License-Identifier: Apache-2.0
"""PCD files of the Point Cloud Library: ascii, binary and binary_compressed.

    # .PCD v0.7
    FIELDS x y z rgb            one name a field
    SIZE 4 4 4 4                bytes of one value
    TYPE F F F F                float, signed, unsigned
    COUNT 1 1 1 1               values of one point
    WIDTH 640   HEIGHT 480   POINTS 307200
    DATA binary                 point after point; compressed: field after field, packed by LZF

Source: pointclouds.org, "The PCD (Point Cloud Data) file format"; LibLZF's description of its
stream.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..errors import FileFormatError
from .lidar_columns import Columns
from .lidar_tables import parse_text_table

_MAX_LINE = 1 << 16
_MAX_LINES = 64
_MAX_FIELDS = 256
_TYPES = {"F": (4, 8), "I": (1, 2, 4, 8), "U": (1, 2, 4, 8)}
_KINDS = {"F": "f", "I": "i", "U": "u"}
# A back reference of LZF makes at most 264 bytes of three.
_MAX_RATIO = 88


def read_pcd(path: Path) -> Columns:
    """Read a .pcd file.

    Args:
        path: The file.

    Returns:
        The fields, by name; a packed "rgb" or "rgba" comes as red, green and blue.

    Raises:
        FileFormatError: If it is not one, or is shorter than its header says.
    """
    with path.open("rb") as file:
        header = _header(path, file)
        row = _row_type(path, header)
        n = _number(path, header, "POINTS")
        size = path.stat().st_size - file.tell()
        coding = header["DATA"][0]
        if coding == "ascii":
            columns = _ascii(path, file, row, n)
        elif coding == "binary":
            _require(path, "data", n * row.itemsize, size)
            table = np.frombuffer(file.read(n * row.itemsize), row)
            columns = {name: table[name] for name in row.names or ()}
        elif coding == "binary_compressed":
            columns = _compressed(path, file, row, n, size)
        else:
            known = "ascii, binary or binary_compressed"
            raise FileFormatError(path, "DATA", known, repr(coding[:40]))
    return _unpack_colors(columns)


def _require(path: Path, field: str, needed: int, left: int) -> None:
    if needed > left:
        raise FileFormatError(path, field, f"{needed} bytes", f"{left}")


def _header(path: Path, file: BinaryIO) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for _ in range(_MAX_LINES):
        line = file.readline(_MAX_LINE)
        if not line.endswith(b"\n") or not line.isascii():
            raise FileFormatError(path, "header", "lines of ASCII up to DATA", repr(line[:40]))
        words = line.decode("ascii").split()
        if not words or words[0].startswith("#"):
            continue
        found[words[0].upper()] = words[1:]
        if words[0].upper() == "DATA" and len(words) == 2:
            return found
    raise FileFormatError(path, "header", f"DATA within {_MAX_LINES} lines", "none")


def _row_type(path: Path, header: dict[str, list[str]]) -> np.dtype:
    names = header.get("FIELDS", [])
    if not 1 <= len(names) <= _MAX_FIELDS:
        raise FileFormatError(path, "FIELDS", f"1 to {_MAX_FIELDS} names", f"{len(names)}")
    words = {key: header.get(key, []) for key in ("SIZE", "TYPE")}
    words["COUNT"] = header.get("COUNT", ["1"] * len(names))
    for key, values in words.items():
        if len(values) != len(names):
            raise FileFormatError(path, key, f"{len(names)} words, as FIELDS", f"{len(values)}")
    fields: dict[str, tuple[str, int]] = {}
    for i, (name, size, kind, count) in enumerate(zip(names, *words.values())):
        if size not in map(str, _TYPES.get(kind, ())):
            raise FileFormatError(path, f"field {name}", "F4, F8, I1 to I8, U1 to U8", kind + size)
        if not (count.isdecimal() and 1 <= len(count) <= 4 and int(count)):
            raise FileFormatError(path, f"COUNT of {name}", "1 to 9999", count[:40])
        # PCL calls padding "_", as often as it needs it.
        key = name if name != "_" and name not in fields else f"_{i}"
        fields[key] = (f"<{_KINDS[kind]}{size}", int(count))
    return np.dtype([(key, code, (count,)) for key, (code, count) in fields.items()])


def _number(path: Path, header: dict[str, list[str]], key: str) -> int:
    words = header.get(key, [])
    if key == "POINTS" and not words:
        return _number(path, header, "WIDTH") * _number(path, header, "HEIGHT")
    if len(words) != 1 or not words[0].isdecimal() or len(words[0]) > 18:
        raise FileFormatError(path, key, "a whole number", " ".join(words)[:40] or "nothing")
    return int(words[0])


def _ascii(path: Path, file: BinaryIO, row: np.dtype, n: int) -> Columns:
    table = parse_text_table(path, file)
    starts = np.cumsum([0, *(row[name].shape[0] for name in row.names or ())])
    width = int(starts[-1]) if n else table.shape[1]
    if len(table) != n or table.shape[1] != width:
        raise FileFormatError(path, "data", f"{n} rows of {width}", str(list(table.shape)))
    if n == 0:
        return {name: np.empty((0, *row[name].shape)) for name in row.names or ()}
    with np.errstate(over="ignore", invalid="ignore"):
        return {
            name: table[:, start : start + row[name].shape[0]].astype(row[name].base)
            for name, start in zip(row.names or (), starts)
        }


def _compressed(path: Path, file: BinaryIO, row: np.dtype, n: int, left: int) -> Columns:
    _require(path, "data", 8, left)
    packed, unpacked = (int(v) for v in np.frombuffer(file.read(8), "<u4"))
    _require(path, "compressed data", packed, left - 8)
    if unpacked != n * row.itemsize or unpacked > _MAX_RATIO * packed:
        expected = f"{n * row.itemsize} bytes from at most {_MAX_RATIO} times fewer"
        raise FileFormatError(path, "compressed data", expected, f"{unpacked} from {packed}")
    data = _decompress(path, file.read(packed), unpacked)
    columns, at = {}, 0
    for name in row.names or ():
        count, base = row[name].shape[0], row[name].base
        columns[name] = np.frombuffer(data, base, count * n, at).reshape(n, count)
        at += count * n * base.itemsize
    return columns


def _decompress(path: Path, data: bytes, size: int) -> bytes:
    """Unpack LZF: runs of up to 32 bytes, and copies from up to 8 KiB before."""
    out, at, end = bytearray(), 0, len(data)
    try:
        while at < end:
            control = data[at]
            at += 1
            if control < 32:
                out += data[at : at + control + 1]
                at += control + 1
                continue
            length = control >> 5
            if length == 7:
                length += data[at]
                at += 1
            length += 2
            start = len(out) - ((control & 31) << 8) - data[at] - 1
            at += 1
            if start < 0 or len(out) + length > size:
                break
            seen = out[start : start + length]
            # A copy may overlap what it makes: it then repeats what lies between.
            out += (seen * (length // len(seen) + 1))[:length]
    except IndexError:
        pass
    if len(out) != size or at != end:
        raise FileFormatError(path, "compressed data", f"{size} bytes", f"{len(out)}")
    return bytes(out)


def _unpack_colors(columns: Columns) -> Columns:
    found = {
        name: column[:, 0] if column.ndim == 2 and column.shape[1] == 1 else column
        for name, column in columns.items()
        if not name.startswith("_")
    }
    for name in ("rgb", "rgba"):
        if name in found and found[name].ndim == 1 and found[name].dtype.itemsize == 4:
            bits = np.ascontiguousarray(found.pop(name)).view(np.uint32)
            for channel, shift in (("red", 16), ("green", 8), ("blue", 0)):
                found[channel] = (bits >> shift & 255).astype(np.uint8)
    return found
