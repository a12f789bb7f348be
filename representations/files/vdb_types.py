# SPDX-License-Identifier: Apache-2.0
"""What the voxels of a VDB file hold, and the words for it in OpenVDB and in NanoVDB."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ValueType:
    """A type of voxel values.

    Args:
        name: OpenVDB's name, such as "float" or "vec3s"; NanoVDB's where OpenVDB has no such type.
        scalar: numpy's little-endian type of one component.
        channels: Components of a value.
        nanovdb: NanoVDB's number of the type; 0 where it has none.
        openvdb: Whether .vdb files hold it.
    """

    name: str
    scalar: str
    channels: int = 1
    nanovdb: int = 0
    openvdb: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        """What follows the voxels' axes in an array of values: () or (channels,)."""
        return () if self.channels == 1 else (self.channels,)

    @property
    def dtype(self) -> np.dtype:
        """numpy's type of one component."""
        return np.dtype(self.scalar)

    @property
    def itemsize(self) -> int:
        """Bytes of a value."""
        return self.dtype.itemsize * self.channels

    @property
    def is_real(self) -> bool:
        """Whether components are floating numbers."""
        return self.dtype.kind == "f"

    @property
    def is_mask(self) -> bool:
        """Whether being active is all that a voxel holds."""
        return self.name == "mask"


VALUE_TYPES: dict[str, ValueType] = {
    value_type.name: value_type
    for value_type in (
        ValueType("float", "<f4", nanovdb=1),
        ValueType("double", "<f8", nanovdb=2),
        ValueType("int16", "<i2", nanovdb=3, openvdb=False),
        ValueType("int32", "<i4", nanovdb=4),
        ValueType("int64", "<i8", nanovdb=5),
        ValueType("vec3s", "<f4", 3, nanovdb=6),
        ValueType("vec3d", "<f8", 3, nanovdb=7),
        ValueType("vec3i", "<i4", 3),
        ValueType("mask", "|b1", nanovdb=8),
        ValueType("uint32", "<u4", nanovdb=10, openvdb=False),
        ValueType("bool", "|b1", nanovdb=11),
        ValueType("rgba8", "|u1", 4, nanovdb=12, openvdb=False),
        ValueType("vec4s", "<f4", 4, nanovdb=17, openvdb=False),
        ValueType("vec4d", "<f8", 4, nanovdb=18, openvdb=False),
        ValueType("index", "<i8", nanovdb=19, openvdb=False),
        ValueType("uint8", "|u1", nanovdb=26, openvdb=False),
    )
}
"""Every type that is read, by name."""

GRID_CLASSES = (
    "unknown",
    "level set",
    "fog volume",
    "staggered",
    "point index",
    "point data",
    "topology",
    "voxel volume",
    "index grid",
    "tensor grid",
    "voxel bvh",
)
"""Grid classes at NanoVDB's numbers; OpenVDB has the first four, by name."""

OPENVDB_CLASSES = GRID_CLASSES[:4]


def value_type_of(dtype: np.dtype, channels: int) -> ValueType:
    """Give the type that holds values of a kind.

    Args:
        dtype: Of a component.
        channels: Components of a value.

    Returns:
        The type.

    Raises:
        ValueError: If there is none; the message lists what there is.

    Example:
        >>> value_type_of(np.dtype("float32"), 3).name
        'vec3s'
    """
    plain = [t for t in VALUE_TYPES.values() if t.name not in ("mask", "index")]
    for value_type in plain:
        if value_type.dtype == dtype and value_type.channels == channels:
            return value_type
    known = ", ".join(f"{t.dtype} x {t.channels}" for t in plain)
    raise ValueError(f"value_type_of: dtype: expected one of {known}, got {dtype} x {channels}")


def unpack_bits(words: np.ndarray) -> np.ndarray:
    """Turn bit masks into booleans.

    Args:
        words: uint64 [..., n_words], bit 0 first.

    Returns:
        bool [..., 64 n_words].

    Example:
        >>> unpack_bits(np.array([5], np.uint64))[:4].tolist()
        [True, False, True, False]
    """
    data = np.ascontiguousarray(words, "<u8").view(np.uint8)
    return np.unpackbits(data, axis=-1, bitorder="little").view(np.bool_)


def pack_bits(bits: np.ndarray) -> np.ndarray:
    """Turn booleans into bit masks.

    Args:
        bits: bool [..., n], n a multiple of 64.

    Returns:
        uint64 [..., n / 64], bit 0 first.

    Example:
        >>> pack_bits(np.arange(64) == 3).tolist()
        [8]
    """
    data = np.packbits(bits, axis=-1, bitorder="little")
    return np.ascontiguousarray(data).view("<u8").astype(np.uint64, copy=False)


def count_bits(words: np.ndarray) -> np.ndarray:
    """Count set bits.

    Args:
        words: uint64 [..., n_words].

    Returns:
        int64 [...].

    Example:
        >>> count_bits(np.array([[7, 1]], np.uint64)).tolist()
        [4]
    """
    data = np.ascontiguousarray(words, "<u8").view(np.uint8)
    return _BITS_OF_BYTE[data].sum(axis=-1, dtype=np.int64)


# np.bitwise_count would do, but numpy 1 has none.
_BITS_OF_BYTE = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(
    axis=1, dtype=np.uint8
)
