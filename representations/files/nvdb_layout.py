# SPDX-License-Identifier: Apache-2.0
"""Where things lie in a .nvdb file: versions 32.3 to 32.9 of NanoVDB.

    file      segments: a header (16 bytes), what is said of each grid (176 + name), the grids
    grid      GridData (672) TreeData (64) root, its tiles, nodes of 4096^3, of 128^3, leaves of 8^3

Nodes begin at multiples of 32 bytes from the grid's start; a parent has the distances to its
children. A node: box, two masks (active, children), four statistics, a table of a value or a
child for each slot. A leaf: box, mask, statistics, 512 values.

The versions differ little. Since 32.6 a file begins with NanoVDB2 and a grid with NanoVDB1, where
both had NanoVDB0, and checksums cover other bytes; indices moved within leaves in 32.5.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .vdb_types import VALUE_TYPES, ValueType

MAGICS = (b"NanoVDB0", b"NanoVDB1", b"NanoVDB2")
GRID_BYTES, TREE_BYTES, BLIND_BYTES = 672, 64, 288
HEAD_BYTES = GRID_BYTES + TREE_BYTES
NODE_MASK_AT, LEAF_MASK_AT = 32, 16
INDEX, ON_INDEX, BOOLEAN, MASK, FP4, FP8, FP16, FPN = 19, 20, 11, 8, 13, 14, 15, 16
CHANNEL_ARRAY, GRID_NAME = 4, 3
NO_CHECKSUM = 0xFFFFFFFF
NEW_MAGICS = NEW_CHECKSUMS = (32, 6, 1)
NEW_INDICES = (32, 5, 0)
SPARSE_INDICES = 16
"""Bit of a leaf's flags before 32.5: only active voxels have an index."""

Version = tuple[int, int, int]

HEADER = np.dtype([("magic", "S8"), ("version", "<u4"), ("n_grids", "<u2"), ("codec", "<u2")])
META = np.dtype(
    [
        ("grid_size", "<u8"),
        ("file_size", "<u8"),
        ("name_key", "<u8"),
        ("voxels", "<u8"),
        ("type", "<u4"),
        ("class", "<u4"),
        ("world_box", "<f8", 6),
        ("index_box", "<i4", 6),
        ("voxel_size", "<f8", 3),
        ("name_size", "<u4"),
        ("nodes", "<u4", 4),
        ("tiles", "<u4", 3),
        ("codec", "<u2"),
        ("blind", "<u2"),
        ("version", "<u4"),
    ]
)
GRID = np.dtype(
    [
        ("magic", "S8"),
        ("checksum", "<u4", 2),
        ("version", "<u4"),
        ("flags", "<u4"),
        ("index", "<u4"),
        ("count", "<u4"),
        ("size", "<u8"),
        ("name", "S256"),
        ("matrix_f", "<f4", 9),
        ("inverse_f", "<f4", 9),
        ("move_f", "<f4", 3),
        ("taper_f", "<f4"),
        ("matrix", "<f8", 9),
        ("inverse", "<f8", 9),
        ("move", "<f8", 3),
        ("taper", "<f8"),
        ("world_box", "<f8", 6),
        ("voxel_size", "<f8", 3),
        ("class", "<u4"),
        ("type", "<u4"),
        ("blind_at", "<i8"),
        ("blind_count", "<u4"),
        ("data0", "<u4"),
        ("data1", "<u8"),
        ("data2", "<u8"),
    ]
)
# Distances from the tree to the first leaf, lower node, upper node, and the root.
TREE = np.dtype(
    [("offsets", "<i8", 4), ("nodes", "<u4", 3), ("tiles", "<u4", 3), ("voxels", "<u8")]
)
BLIND = np.dtype(
    [
        ("offset", "<i8"),
        ("count", "<u8"),
        ("value_size", "<u4"),
        ("semantic", "<u4"),
        ("class", "<u4"),
        ("type", "<u4"),
        ("name", "S256"),
    ]
)


def unpack_version(word: int) -> Version:
    """Take a version number apart.

    Example:
        >>> unpack_version(pack_version((32, 4, 2)))
        (32, 4, 2)
    """
    return word >> 21, word >> 10 & 2047, word & 1023


def pack_version(version: Version) -> int:
    """Put a version number together."""
    return version[0] << 21 | version[1] << 10 | version[2]


def key_origins(keys: np.ndarray) -> np.ndarray:
    """Give the origins of root tiles from their keys: the upper 20 bits of x, y and z.

    Example:
        >>> key_origins(origin_keys(np.array([[-4096, 0, 8192]], np.int32))).tolist()
        [[-4096, 0, 8192]]
    """
    keys = keys.astype(np.uint64)
    xyz = np.stack([keys >> np.uint64(shift) for shift in (42, 21, 0)], axis=-1)
    words = (xyz & np.uint64((1 << 20) - 1)).astype(np.uint32) << np.uint32(12)
    return words.view(np.int32)


def origin_keys(origins: np.ndarray) -> np.ndarray:
    """Give the keys of root tiles from their origins, int32 [n, 3]."""
    x, y, z = (np.ascontiguousarray(origins).view(np.uint32) >> np.uint32(12)).astype(np.uint64).T
    return x << np.uint64(42) | y << np.uint64(21) | z


def _up(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment


@dataclass(frozen=True)
class NanoLayout:
    """Where things lie in the nodes of grids of one type.

    Args:
        number: NanoVDB's number of the type.
        type: Of the values as they are read; real for the quantised types.
        align: Bytes at whose multiples a value begins.
        stats: numpy's type of averages.
    """

    number: int
    type: ValueType
    align: int
    stats: str

    def _stats_after(self, offset: int) -> tuple[int, int, int, int, int]:
        """Places of minimum, maximum, average and deviation behind an offset, and their end."""
        size, step = self.type.itemsize, np.dtype(self.stats).itemsize
        low = _up(offset, self.align)
        average = _up(low + 2 * size, step)
        return low, low + size, average, average + step, average + 2 * step

    @property
    def background_at(self) -> int:
        """Place of the background in the root."""
        return _up(28, self.align)

    @property
    def root_stats_at(self) -> tuple[int, int, int, int]:
        """Places of the root's statistics."""
        return self._stats_after(self.background_at + self.type.itemsize)[:4]

    @property
    def root_bytes(self) -> int:
        """Bytes of the root without its tiles."""
        return _up(self._stats_after(self.background_at + self.type.itemsize)[4], 32)

    @property
    def tile(self) -> np.dtype:
        """A tile of the root."""
        value_at = _up(20, self.align)
        stored = "u1" if self.type.dtype == np.bool_ else self.type.scalar
        return np.dtype(
            {
                "names": ["key", "child", "state", "value"],
                "formats": ["<u8", "<i8", "<u4", (stored, self.type.shape)],
                "offsets": [0, 8, 16, value_at],
                "itemsize": _up(value_at + self.type.itemsize, 32),
            }
        )

    def node_stats_at(self, bits: int) -> tuple[int, int, int, int]:
        """Places of a node's statistics; `bits` is 4 for 16^3 slots, 5 for 32^3."""
        return self._stats_after(NODE_MASK_AT + 2 * (1 << 3 * bits) // 8)[:4]

    def table_at(self, bits: int) -> int:
        """Place of a node's table."""
        return _up(self._stats_after(NODE_MASK_AT + 2 * (1 << 3 * bits) // 8)[4], 32)

    @property
    def slot_bytes(self) -> int:
        """Bytes from slot to slot of a node's table."""
        return _up(max(8, self.type.itemsize), 8)

    def node_bytes(self, bits: int) -> int:
        """Bytes of a node."""
        return _up(self.table_at(bits) + (self.slot_bytes << 3 * bits), 32)

    @property
    def has_leaf_stats(self) -> bool:
        """Whether leaves have their statistics as values, and then 512 values."""
        return self.number not in (BOOLEAN, MASK, INDEX, ON_INDEX, FP4, FP8, FP16, FPN)

    @property
    def leaf_stats_at(self) -> tuple[int, int, int, int]:
        """Places of a leaf's statistics."""
        return self._stats_after(LEAF_MASK_AT + 64)[:4]

    @property
    def values_at(self) -> int:
        """Place of a leaf's values, or of what stands for them."""
        if self.number in (BOOLEAN, MASK, INDEX, ON_INDEX):
            return LEAF_MASK_AT + 64
        if not self.has_leaf_stats:
            return 96
        return _up(self._stats_after(LEAF_MASK_AT + 64)[4], 32)

    @property
    def leaf_bytes(self) -> int:
        """Bytes of a leaf; of FpN without its codes, whose number each leaf says."""
        codes = {MASK: 16, INDEX: 16, ON_INDEX: 16, BOOLEAN: 80}
        codes |= {FP4: 256, FP8: 512, FP16: 1024, FPN: 0}
        size = codes.get(self.number, 512 * self.type.itemsize)
        return _up(self.values_at + size, 32)


def _layout(number: int, name: str) -> NanoLayout:
    kind = VALUE_TYPES[name]
    stats = "<f8" if kind.dtype.itemsize == 8 else "<f4"
    if kind.dtype == np.bool_:
        stats = "u1"
    # An rgba8 is one word.
    align = 4 if name == "rgba8" else kind.dtype.itemsize
    return NanoLayout(number, kind, align, stats)


LAYOUTS: dict[int, NanoLayout] = {
    **{t.nanovdb: _layout(t.nanovdb, t.name) for t in VALUE_TYPES.values() if t.nanovdb},
    **{number: _layout(number, "float") for number in (FP4, FP8, FP16, FPN)},
    ON_INDEX: _layout(ON_INDEX, "index"),
}
"""The types of grids that are read, at NanoVDB's numbers."""

TYPE_NAMES = {
    **{number: layout.type.name for number, layout in LAYOUTS.items()},
    FP4: "Fp4",
    FP8: "Fp8",
    FP16: "Fp16",
    FPN: "FpN",
    ON_INDEX: "OnIndex",
}
