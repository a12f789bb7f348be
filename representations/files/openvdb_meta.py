# SPDX-License-Identifier: Apache-2.0
"""The metadata and the transforms in .vdb files.

OpenVDB multiplies row vectors from the left, so its matrices are the transposes of ours.
"""

from __future__ import annotations

import struct

import numpy as np

from .byte_reader import ByteReader
from .vdb_tree import MetadataValue, Metadatum

_MAX_ENTRIES = 1 << 16
_NUMBERS = {
    "bool": "<?",
    "float": "<f",
    "double": "<d",
    "int32": "<i",
    "int64": "<q",
    **{f"vec{n}i": f"<{n}i" for n in (2, 3, 4)},
    **{f"vec{n}s": f"<{n}f" for n in (2, 3, 4)},
    **{f"vec{n}d": f"<{n}d" for n in (2, 3, 4)},
    "mat4s": "<16f",
    "mat4d": "<16d",
}


def read_metadata(reader: ByteReader) -> dict[str, Metadatum]:
    """Read a map of metadata.

    Args:
        reader: At its count.

    Returns:
        The entries. Types that begin with two underscores are temporary and left out.

    Raises:
        FileFormatError: If it does not fit into the file, or a size is not its type's.
    """
    count = reader.number("<I", "metadata count")
    if count > min(_MAX_ENTRIES, reader.left // 12):
        raise reader.fail("metadata count", f"at most {_MAX_ENTRIES} that fit the file", count)
    entries = {}
    for _ in range(count):
        name, kind = reader.string("metadata name"), reader.string("metadata type")
        size = reader.number("<I", f"metadata {name[:60]!r}, size")
        value = _metadata_value(reader, name[:60], kind, size)
        if not kind.startswith("__"):
            entries[name] = Metadatum(kind, value)
    return entries


def _metadata_value(reader: ByteReader, name: str, kind: str, size: int) -> MetadataValue:
    field = f"metadata {name!r}"
    data = bytes(reader.take(size, field))
    if kind == "string":
        return data.decode("utf-8", "surrogateescape")
    format = _NUMBERS.get(kind)
    if format is None:
        return data
    if size != struct.calcsize(format):
        raise reader.fail(field, f"{struct.calcsize(format)} bytes of {kind}", f"{size} bytes")
    if kind == "bool":
        return data != b"\0"
    first, *others = struct.unpack(format, data)
    return (first, *others) if others else first


def write_string(text: str) -> bytes:
    """Give a string behind its length.

    Example:
        >>> write_string("ab")
        b'\\x02\\x00\\x00\\x00ab'
    """
    data = text.encode("utf-8", "surrogateescape")
    return struct.pack("<I", len(data)) + data


def write_metadata(entries: dict[str, Metadatum]) -> bytes:
    """Give a map of metadata as bytes, sorted by name as OpenVDB does.

    Args:
        entries: By name.

    Returns:
        The bytes.

    Raises:
        ValueError: If a value does not fit its type, or a name is empty.

    Example:
        >>> len(write_metadata({"frame": Metadatum("int32", 7)}))
        30
    """
    parts = [struct.pack("<I", len(entries))]
    for name, entry in sorted(entries.items()):
        if not name:
            raise ValueError("write_metadata: entries: expected names, got an empty one")
        data = _value_bytes(name, entry)
        parts += [write_string(name), write_string(entry.type), struct.pack("<I", len(data)), data]
    return b"".join(parts)


def _value_bytes(name: str, entry: Metadatum) -> bytes:
    value, format = entry.value, _NUMBERS.get(entry.type)
    try:
        if entry.type == "string" and isinstance(value, str):
            return value.encode("utf-8", "surrogateescape")
        if format is not None and not isinstance(value, str | bytes):
            return struct.pack(format, *(value if isinstance(value, tuple) else (value,)))
        if format is None and isinstance(value, bytes):
            return value
    except (struct.error, OverflowError):
        pass
    raise ValueError(f"write_metadata: {name}: expected a value of {entry.type}, got {value!r}")


def metadatum(value: object) -> Metadatum:
    """Give a plain value the type that .vdb files have for it.

    Args:
        value: A str, bool, int, float, bytes, or 2 to 4 (or 16) numbers.

    Returns:
        The entry.

    Raises:
        TypeError: If there is no type for it.

    Example:
        >>> metadatum((1.0, 2.0, 3.0)).type
        'vec3d'
    """
    if isinstance(value, Metadatum):
        return value
    if isinstance(value, list | tuple | np.ndarray):
        return _vector(tuple(np.asarray(value).reshape(-1).tolist()))
    for kind, type, fits in (
        ("string", str, True),
        ("bool", bool, True),
        ("int64", int, isinstance(value, int) and -(2**63) <= value < 2**63),
        ("double", float, True),
        ("bytes", bytes, True),
    ):
        if isinstance(value, type) and fits:
            return Metadatum(kind, value)
    raise TypeError(f"metadatum: value: expected text or numbers, got {value!r}"[:300])


def _vector(values: tuple) -> Metadatum:
    whole = all(isinstance(v, int) and -(2**31) <= v < 2**31 for v in values)
    if not all(isinstance(v, int | float) for v in values) or len(values) not in (2, 3, 4, 16):
        raise TypeError(f"metadatum: value: expected 2, 3, 4 or 16 numbers, got {values!r}"[:300])
    if len(values) == 16:
        return Metadatum("mat4d", tuple(map(float, values)))
    return Metadatum(
        f"vec{len(values)}{'i' if whole else 'd'}", values if whole else tuple(map(float, values))
    )


def read_transform(reader: ByteReader) -> np.ndarray:
    """Read a transform.

    Args:
        reader: At the name of its kind.

    Returns:
        float64 [4, 4], index to world, column vectors.

    Raises:
        FileFormatError: If its kind is unknown or a frustum, its numbers are not finite, or it
            flattens space.
    """
    kind = reader.string("transform")
    matrix = np.eye(4)
    if kind in ("ScaleMap", "UniformScaleMap"):
        numbers = reader.array("<f8", (15,), kind)
        matrix[np.arange(3), np.arange(3)] = numbers[:3]
    elif kind == "TranslationMap":
        matrix[:3, 3] = reader.array("<f8", (3,), kind)
    elif kind in ("ScaleTranslateMap", "UniformScaleTranslateMap"):
        numbers = reader.array("<f8", (18,), kind)
        matrix[:3, 3] = numbers[:3]
        matrix[np.arange(3), np.arange(3)] = numbers[3:6]
    elif kind in ("AffineMap", "UnitaryMap"):
        matrix = reader.array("<f8", (4, 4), kind).T.copy()
    else:
        raise reader.fail("transform", "a scale, translation or affine map", repr(kind[:80]))
    return checked_transform(reader, kind, matrix)


def checked_transform(reader: ByteReader, field: str, matrix: np.ndarray) -> np.ndarray:
    """Raise FileFormatError unless a matrix of the file can be used as an affine map.

    Args:
        reader: The file, for the message.
        field: Where the matrix stood.
        matrix: float64 [4, 4], column vectors.

    Returns:
        The matrix.
    """
    usable = np.isfinite(matrix).all() and np.array_equal(matrix[3], [0, 0, 0, 1])
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        determinant = np.linalg.det(matrix[:3, :3]) if usable else 0.0
    if not np.isfinite(determinant) or determinant == 0:
        raise reader.fail(field, "finite numbers and a volume", matrix.tolist())
    return matrix


def write_transform(matrix: np.ndarray) -> bytes:
    """Give a transform as bytes, as the simplest kind that says all of it.

    Args:
        matrix: float64 [4, 4], index to world, column vectors.

    Returns:
        The bytes.

    Example:
        >>> b"UniformScaleMap" in write_transform(np.diag([0.5, 0.5, 0.5, 1.0]))
        True
    """
    scale, move = np.diag(matrix)[:3], matrix[:3, 3]
    plain = np.eye(4)
    plain[:3, 3], plain[np.arange(3), np.arange(3)] = move, scale
    with np.errstate(over="ignore", divide="ignore"):
        inverse = np.concatenate((1 / scale, 1 / scale**2, 0.5 / scale)) if scale.all() else scale
    if not np.array_equal(plain, matrix) or not np.isfinite(inverse).all():
        return write_string("AffineMap") + matrix.T.astype("<f8").tobytes()
    uniform = "Uniform" if scale[0] == scale[1] == scale[2] else ""
    numbers = np.concatenate((scale, np.abs(scale), inverse))
    if not move.any():
        return write_string(f"{uniform}ScaleMap") + numbers.astype("<f8").tobytes()
    numbers = np.concatenate((move, numbers))
    return write_string(f"{uniform}ScaleTranslateMap") + numbers.astype("<f8").tobytes()
