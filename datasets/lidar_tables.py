# SPDX-License-Identifier: Apache-2.0
"""Arrays and tables: raw float32, numpy's .npy and .npz, text, Arrow's .feather.

Sizes that a file states are checked against its bytes before anything is allocated.
"""

from __future__ import annotations

import io
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import FileFormatError
from .lidar_columns import Columns

# Deflate makes at most 1032 bytes of one.
_MAX_RATIO = 1032
_MAX_ENTRIES = 64


def read_float32(path: Path) -> np.ndarray:
    """Read a file of bare little-endian float32.

    Args:
        path: The file.

    Returns:
        [n_numbers].

    Raises:
        FileFormatError: If the size is no multiple of four.
    """
    size = path.stat().st_size
    if size % 4:
        raise FileFormatError(path, "size", "a multiple of 4 bytes (float32)", f"{size} bytes")
    return np.fromfile(path, "<f4").astype(np.float32, copy=False)


def read_npy(path: Path) -> np.ndarray:
    """Read a .npy file of numbers.

    Args:
        path: The file.

    Returns:
        The array.

    Raises:
        FileFormatError: If it is not one, holds no numbers, or is shorter than it says.
    """
    with path.open("rb") as file:
        return _array(path, path.name, file, path.stat().st_size)


def read_npz(path: Path) -> Columns:
    """Read the arrays of an .npz file.

    Args:
        path: The file.

    Returns:
        The arrays of numbers, by name.

    Raises:
        FileFormatError: If it is no zip archive, or an entry is broken or expands beyond reason.
    """
    found: Columns = {}
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if len(entries) > _MAX_ENTRIES:
                raise FileFormatError(path, "entries", f"at most {_MAX_ENTRIES}", f"{len(entries)}")
            for entry in entries:
                if entry.filename.endswith(".npy"):
                    data = _entry_bytes(path, archive, entry)
                    name = entry.filename.removesuffix(".npy")
                    found[name] = _array(path, name, io.BytesIO(data), len(data))
    except FileFormatError:
        raise
    except Exception as error:
        # zipfile raises what its parts do: BadZipFile, zlib.error, EOFError, RuntimeError, ...
        raise FileFormatError(path, "archive", "a .npz file", str(error)[:200]) from error
    return found


def _entry_bytes(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        got = f"method {entry.compress_type}"
        raise FileFormatError(path, entry.filename, "stored or deflated", got)
    if entry.file_size > _MAX_RATIO * entry.compress_size + 64:
        expected = f"at most {_MAX_RATIO} times its {entry.compress_size} bytes"
        raise FileFormatError(path, entry.filename, expected, f"{entry.file_size} bytes")
    with archive.open(entry) as file:
        return file.read(entry.file_size)


def _array(path: Path, field: str, file: BinaryIO, size: int) -> np.ndarray:
    try:
        version = np.lib.format.read_magic(file)
        read_header: Any = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, fortran, dtype = read_header(file)
    except Exception as error:
        # The header is a Python literal; numpy lets the parser's own errors through.
        raise FileFormatError(path, field, "an array in numpy's format", str(error)[:200]) from None
    if dtype.kind not in "fiub":
        raise FileFormatError(path, field, "numbers", str(dtype))
    needed = int(np.prod(shape, dtype=object)) * dtype.itemsize
    left = size - file.tell()
    if any(length < 0 for length in shape) or needed != left:
        raise FileFormatError(path, field, f"{needed} bytes for {dtype} {list(shape)}", f"{left}")
    array = np.frombuffer(file.read(needed), dtype)
    array = array.reshape(shape, order="F" if fortran else "C")
    return array.astype(dtype.newbyteorder("="), copy=False)


def read_text_table(path: Path) -> np.ndarray:
    """Read numbers from lines of text, parted by spaces or commas; "#" begins a comment.

    Args:
        path: The file.

    Returns:
        float64 [n_rows, n_columns].

    Raises:
        FileFormatError: If a word is no number or lines differ in length.
    """
    with path.open("rb") as file:
        return parse_text_table(path, file)


def parse_text_table(path: Path, file: BinaryIO) -> np.ndarray:
    """Read numbers from what is left of an open file; see `read_text_table`.

    Args:
        path: Its name, for messages.
        file: Open for reading bytes.

    Returns:
        float64 [n_rows, n_columns].

    Raises:
        FileFormatError: If a word is no number or lines differ in length.
    """
    at = file.tell()
    delimiter = "," if b"," in file.readline(1 << 16) else None
    file.seek(at)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an empty table is a table
            return np.loadtxt(file, np.float64, delimiter=delimiter, ndmin=2, encoding="latin1")
    except (ValueError, UnicodeError) as error:
        raise FileFormatError(path, "table", "numbers, as many a line", str(error)[:200]) from None


def read_feather(path: Path) -> Columns:
    """Read the columns of a .feather file, as Argoverse 2 stores its sweeps.

    Args:
        path: The file.

    Returns:
        The columns of numbers, by name.

    Raises:
        FileFormatError: If it is not one.
        ModuleNotFoundError: If pyarrow is not installed.
    """
    try:
        from pyarrow import feather
        from pyarrow.lib import ArrowException
    except ModuleNotFoundError as error:
        raise _missing("pyarrow", ".feather") from error
    try:
        table = feather.read_table(path)
        table.validate(full=True)
        return {name: table[name].to_numpy() for name in table.column_names}
    except (ArrowException, OSError, ValueError, OverflowError) as error:
        raise FileFormatError(path, "content", "an Arrow table", str(error)[:200]) from None


def read_las(path: Path) -> Columns:
    """Read the points of a .las or .laz file.

    Args:
        path: The file.

    Returns:
        x, y, z as float64, and intensity, classification, red, green, blue where there are any.

    Raises:
        FileFormatError: If it is not one, or is damaged.
        ModuleNotFoundError: If laspy, or lazrs for .laz, is not installed.
    """
    try:
        import laspy
    except ModuleNotFoundError as error:
        raise _missing("laspy", path.suffix) from error
    wanted = ("intensity", "classification", "red", "green", "blue")
    parts: list[Columns] = []
    try:
        _check_las_records(path)
        _check_laz_chunks(path)
        # Decoders that work in parallel allocate as much as a chunk is said to be, or abort.
        with laspy.open(path, laz_backend=laspy.LazBackend.Lazrs) as file:
            names = set(file.header.point_format.dimension_names)
            # In chunks, so that memory follows the points that are there and not those announced.
            for points in file.chunk_iterator(1 << 20):
                part = {axis: np.array(points[axis], np.float64) for axis in "xyz"}
                part |= {name: np.array(points[name]) for name in wanted if name in names}
                parts.append(part)
            announced = file.header.point_count
    except (FileFormatError, KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        # laspy lets the errors of its parts through; the decoder of .laz even panics, in an
        # exception that is no Exception.
        raise FileFormatError(path, "content", "a LAS file", str(error)[:200]) from None
    found = {
        name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else ())
    } or {axis: np.empty(0) for axis in "xyz"}
    if len(found["x"]) != announced:
        raise FileFormatError(path, "points", f"{announced}", f"{len(found['x'])}")
    return found


def _check_las_records(path: Path) -> None:
    """Check the numbers of records that laspy would otherwise look for past the end, for hours."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(247)
    places = [("<I", 100, 54, "variable length records")]
    if head[24:26] == b"\1\4":
        places.append(("<I", 243, 60, "extended variable length records"))
    for format, at, least, field in places:
        if len(head) < at + 4:
            raise FileFormatError(path, "header", f"{at + 4} bytes", f"{len(head)}")
        (count,) = struct.unpack_from(format, head, at)
        if count * least > size:
            raise FileFormatError(path, field, f"at most {size // least}", f"{count}")


def _check_laz_chunks(path: Path) -> None:
    """Check the number of chunks, for which the decoder of .laz allocates, or aborts the process.

    Compressed points begin with the place of the table of chunks, or -1: it is at the file's end.
    Each chunk begins with a point that is not compressed.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(107)
        if len(head) < 107 or not head[104] & 128:
            return
        (start,) = struct.unpack_from("<I", head, 96)
        (row,) = struct.unpack_from("<H", head, 105)
        place = _int64_at(file, start)
        if place == -1:
            place = _int64_at(file, size - 8)
        if place is None or not start <= place <= size - 8:
            raise FileFormatError(path, "chunk table", "a place in the file", f"{place}")
        file.seek(place + 4)
        (count,) = struct.unpack("<I", file.read(4))
    if count * max(row, 1) > size:
        raise FileFormatError(path, "chunks", f"at most {size // max(row, 1)}", f"{count}")


def _int64_at(file: BinaryIO, place: int) -> int | None:
    file.seek(max(place, 0))
    data = file.read(8)
    return struct.unpack("<q", data)[0] if len(data) == 8 else None


def _missing(package: str, suffix: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(
        f"reading {suffix} needs {package}: pip install 'fieldline[lidar]'", name=package
    )
