# SPDX-License-Identifier: Apache-2.0
"""Reading .nvdb files: segments, codecs, and what stands before the tree of a grid."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...errors import FileFormatError
from .byte_reader import ByteReader
from .nvdb_layout import (
    GRID,
    HEAD_BYTES,
    HEADER,
    MAGICS,
    META,
    unpack_version,
)
from .nvdb_tree import read_grid
from .vdb_codec import CODECS, CodecError, unblosc, unzip
from .vdb_file import VDBFile, read_bytes

_MAJOR, _MINORS = 32, (3, 9)
_BLOSC_CHUNK = 1 << 30
# What a codec can at most make of a byte; see vdb_codec.
_MAX_RATIO = 1100


def is_nvdb(head: bytes) -> bool:
    """Tell whether a file that begins so is a .nvdb file."""
    return head[:8] in MAGICS


def read_nvdb(
    path: str | os.PathLike[str], *, names: Sequence[str] | None = None, verify: bool = True
) -> VDBFile:
    """Read the grids of a .nvdb file with nothing lost.

    Quantised grids (Fp4, Fp8, Fp16, FpN) come as real values. Grids of indices come with the
    channels they point into; see `VDBTree.with_channel`.

    Args:
        path: The file, of segments or one raw grid after the other.
        names: Which grids to read; default all.
        verify: Whether a checksum that does not match is an error.

    Returns:
        The grids.

    Raises:
        FileFormatError: If the file is damaged, of another version, or holds a type of values that
            is not read.
        ImportError: If it is packed by Blosc and no package for that is installed.
        ValueError: If a name is not in the file.

    Example:
        >>> from fieldline.representations.files import VDBTree
        >>> from fieldline.representations.files.nvdb_writer import write_nvdb
        >>> write_nvdb([VDBTree.empty("float")], tmp_path / "a.nvdb")
        >>> read_nvdb(tmp_path / "a.nvdb")[0].value_type
        'float'
    """
    path = Path(path)
    reader = ByteReader(path, read_bytes(path))
    magic = bytes(reader.data[:8])
    if magic not in MAGICS:
        raise FileFormatError(path, "magic", " or ".join(map(repr, MAGICS)), repr(magic))
    blobs = list(_raw_grids(reader) if _is_raw(reader) else _segments(reader))
    known = {blob.name for blob in blobs}
    if missing := sorted(set(names or ()) - known):
        raise ValueError(f"{path}: names: expected some of {sorted(known)}, got {missing}")
    wanted = [blob for blob in blobs if names is None or blob.name in names]
    return VDBFile(
        tuple(replace(read_grid(path, blob.unpack(), verify), name=blob.name) for blob in wanted)
    )


@dataclass(frozen=True)
class _Blob:
    """A grid as it stands in the file, packed or not."""

    reader: ByteReader
    name: str
    codec: str
    size: int

    def unpack(self) -> memoryview:
        """Give the bytes of the grid."""
        reader = ByteReader(self.reader.path, self.reader.data, self.reader.at, self.reader.end)
        if self.codec == "none":
            if reader.left != self.size:
                raise reader.fail("size of a grid", f"{self.size} bytes", reader.left)
            return reader.take(self.size, "grid")
        if self.size > _MAX_RATIO * reader.left:
            raise reader.fail(
                "size of a grid", f"what {reader.left} packed bytes can hold", self.size
            )
        parts, left = [], self.size
        while left > 0:
            # Blosc cannot pack more at once; zlib blocks are never split.
            size = min(left, _BLOSC_CHUNK) if self.codec == "blosc" else left
            data = reader.take(reader.number("<Q", "packed size"), "packed grid")
            try:
                parts.append(unblosc(data, size) if self.codec == "blosc" else unzip(data, size))
            except CodecError as error:
                raise reader.fail("packed grid", error.expected, error.got) from error
            left -= size
        if reader.left:
            raise reader.fail("packed grid", "nothing after it", f"{reader.left} bytes")
        return memoryview(parts[0] if len(parts) == 1 else b"".join(parts))


def _is_raw(reader: ByteReader) -> bool:
    """Whether the file holds grids without segments: always NanoVDB1, at first marked inside."""
    mark = bytes(reader.data[HEAD_BYTES - 72 : HEAD_BYTES - 64])
    return bytes(reader.data[:8]) == MAGICS[1] or mark == MAGICS[1]


def _check_version(reader: ByteReader, word: int) -> None:
    version = unpack_version(word)
    low, high = _MINORS
    if version[0] != _MAJOR or not low <= version[1] <= high:
        got = ".".join(map(str, version))
        raise reader.fail("version", f"{_MAJOR}.{low} to {_MAJOR}.{high}", got)


def _segments(reader: ByteReader) -> Iterator[_Blob]:
    while reader.left:
        header = reader.array(HEADER, (), "segment header")[()]
        if header["magic"] not in MAGICS:
            raise reader.fail("magic of a segment", " or ".join(map(repr, MAGICS)), header["magic"])
        _check_version(reader, int(header["version"]))
        codec = int(header["codec"])
        if codec >= len(CODECS):
            raise reader.fail("codec", f"0 to {len(CODECS) - 1}", codec)
        n_grids = int(header["n_grids"])
        reader.need(n_grids * META.itemsize, f"{n_grids} grids")
        metas = []
        for _ in range(n_grids):
            meta = reader.array(META, (), "grid metadata")[()]
            name = bytes(reader.take(int(meta["name_size"]), "grid name"))
            metas.append((meta, name.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")))
        for meta, name in metas:
            start, size = reader.at, int(meta["file_size"])
            reader.skip(size, f"grid {name[:60]!r}")
            part = ByteReader(reader.path, reader.data, start, reader.at)
            yield _Blob(part, name, CODECS[codec], int(meta["grid_size"]))


def _raw_grids(reader: ByteReader) -> Iterator[_Blob]:
    while reader.left:
        start = reader.at
        head = reader.array(GRID, (), "grid")[()]
        size = int(head["size"])
        if size < HEAD_BYTES:
            raise reader.fail("size of a grid", f"at least {HEAD_BYTES} bytes", size)
        reader.at = start
        reader.skip(size, "grid")
        name = bytes(head["name"]).split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
        part = ByteReader(reader.path, reader.data, start, reader.at)
        yield _Blob(part, name, "none", size)
