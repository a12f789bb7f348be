# SPDX-License-Identifier: Apache-2.0
"""zlib and Blosc blocks of VDB files, unpacked into no more memory than was announced."""

from __future__ import annotations

import importlib
import struct
import zlib
from collections.abc import Callable
from typing import Any

CODECS = ("none", "zip", "blosc")
"""Compressions of .nvdb files, at NanoVDB's numbers."""

# zlib cannot expand more than 1032 times, Blosc's LZ4 255 times. Whoever claims more is lying, and
# is found out before the memory is asked for.
_MAX_RATIO = 1100
_BLOSC_HEADER = struct.Struct("<BBBBIII")
_BLOSC_BLOCK_BYTES = 1 << 18


class CodecError(ValueError):
    """A compressed block that cannot be unpacked; the message says what was expected and came.

    Args:
        expected: What should be there.
        got: What is there.
    """

    def __init__(self, expected: str, got: str) -> None:
        self.expected = expected
        self.got = got
        super().__init__(f"expected {expected}, got {got}")


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _numcodecs_blosc() -> Any:
    return _module("numcodecs.blosc")


def has_blosc() -> bool:
    """Tell whether a package that unpacks Blosc is installed: blosc, or numcodecs.

    Example:
        >>> isinstance(has_blosc(), bool)
        True
    """
    return _module("blosc") is not None or _numcodecs_blosc() is not None


def no_blosc() -> ImportError:
    """Make the error that names the package that is missing."""
    return ImportError(
        "Blosc compression needs the package blosc: pip install 'fieldline[vdb]' "
        "(or numcodecs, which holds it too)"
    )


def _check_size(data: bytes | memoryview, size: int) -> None:
    if size > _MAX_RATIO * (len(data) + 64):
        raise CodecError(f"a block that unpacks to {size} bytes", f"{len(data)} bytes")


def unzip(data: bytes | memoryview, size: int) -> bytes:
    """Unpack a zlib block.

    Args:
        data: The block.
        size: Bytes that it must unpack to.

    Returns:
        Exactly so many bytes.

    Raises:
        CodecError: If it is damaged, or unpacks to more or less.

    Example:
        >>> unzip(zlib.compress(b"voxels"), 6)
        b'voxels'
    """
    _check_size(data, size)
    unpacker = zlib.decompressobj()
    try:
        # One more than announced is enough to know that there is more.
        result = unpacker.decompress(data, size + 1)
    except zlib.error as error:
        raise CodecError("a zlib block", str(error)) from error
    if len(result) != size or not unpacker.eof:
        more = "more than " if len(result) > size else ""
        raise CodecError(f"a block that unpacks to {size} bytes", f"{more}{min(len(result), size)}")
    return result


def unblosc(data: bytes | memoryview, size: int) -> bytes:
    """Unpack a Blosc block.

    Args:
        data: The block.
        size: Bytes that it must unpack to.

    Returns:
        Exactly so many bytes.

    Raises:
        CodecError: If it is damaged, or announces another size.
        ImportError: If no package for Blosc is installed.
    """
    if len(data) < _BLOSC_HEADER.size:
        raise CodecError(f"a Blosc header of {_BLOSC_HEADER.size} bytes", f"{len(data)} bytes")
    _, _, _, _, unpacked, block, packed = _BLOSC_HEADER.unpack_from(data)
    if unpacked != size:
        raise CodecError(f"a Blosc block of {size} bytes", f"one of {unpacked}")
    if packed != len(data) or (size and not 0 < block <= size):
        raise CodecError(f"a Blosc block of {len(data)} packed bytes", f"{packed} in {block}s")
    if size == 0:
        return b""
    _check_size(data, size)
    try:
        result = _blosc_unpacker()(bytes(data))
    except ImportError:
        raise
    except Exception as error:  # the packages raise errors of their own
        raise CodecError("a Blosc block", str(error)) from error
    if len(result) != size:
        raise CodecError(f"a Blosc block of {size} bytes", f"{len(result)} bytes")
    return bytes(result)


def _blosc_unpacker() -> Callable[[bytes], Any]:
    if (blosc := _module("blosc")) is not None:
        return blosc.decompress
    if (numcodecs := _numcodecs_blosc()) is not None:
        return numcodecs.decompress
    raise no_blosc()


def enblosc(data: bytes, item_bytes: int = 4) -> bytes:
    """Pack bytes as NanoVDB and OpenVDB do: LZ4 behind a byte shuffle.

    Args:
        data: At most 2^31 - 1 - 16 bytes.
        item_bytes: What the shuffle takes for an item.

    Returns:
        A Blosc block.

    Raises:
        ImportError: If no package for Blosc is installed.
    """
    if (blosc := _module("blosc")) is not None:
        return blosc.compress(data, typesize=item_bytes, clevel=9, shuffle=1, cname="lz4")
    if (numcodecs := _numcodecs_blosc()) is not None:
        items = memoryview(data)
        if len(data) % item_bytes == 0 and item_bytes == 4:
            items = items.cast("I")
        return numcodecs.compress(items, b"lz4", 9, 1, _BLOSC_BLOCK_BYTES)
    raise no_blosc()
