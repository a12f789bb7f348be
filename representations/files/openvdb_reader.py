# SPDX-License-Identifier: Apache-2.0
"""Reading .vdb files, versions 222 to 224 (OpenVDB 3 and later)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ...errors import FileFormatError
from .byte_reader import ByteReader
from .openvdb_meta import read_metadata, read_transform
from .openvdb_values import BlockFormat, read_node_values, read_value, read_values
from .vdb_file import VDBFile, read_bytes
from .vdb_nodes import LEAF, LOWER, UPPER, join_tiles, slot_origins, tiles_in_node
from .vdb_tree import Metadatum, VDBTiles, VDBTree
from .vdb_types import OPENVDB_CLASSES, VALUE_TYPES, ValueType, unpack_bits

MAGIC = b" BDV\0\0\0\0"
HALF_SUFFIX = "_HalfFloat"
SUFFIX_MARK = "\x1e"
_VERSIONS = (222, 224)
_MAX_GRIDS = 1 << 12


def is_openvdb(head: bytes) -> bool:
    """Tell whether a file that begins so is a .vdb file."""
    return head.startswith(MAGIC)


@dataclass(frozen=True)
class _Descriptor:
    """What stands before a grid: names, and where it is if the file says so."""

    unique_name: str
    type: str
    parent: str
    positions: tuple[int, int, int]

    @property
    def name(self) -> str:
        return self.unique_name.split(SUFFIX_MARK, 1)[0]


@dataclass
class _Grid:
    """A grid of the file, read when it is first asked for."""

    descriptor: _Descriptor
    reader: ByteReader
    read: VDBTree | None = None

    def tree(self) -> VDBTree:
        if self.read is None:
            self.read = _read_grid(self.reader, self.descriptor)
        return self.read


def read_openvdb(path: str | os.PathLike[str], *, names: Sequence[str] | None = None) -> VDBFile:
    """Read the grids of a .vdb file with nothing lost.

    Args:
        path: The file.
        names: Which grids to read; default all. Others are stepped over, whatever they hold.

    Returns:
        The grids and the file's metadata.

    Raises:
        FileFormatError: If the file is damaged, of another version, or holds what is not read: a
            tree other than 5_4_3, points, strings, a frustum.
        ImportError: If it is packed by Blosc and no package for that is installed.
        ValueError: If a name is not in the file.

    Example:
        >>> from fieldline.representations.files.openvdb_writer import write_openvdb
        >>> write_openvdb([VDBTree.empty("float")], tmp_path / "a.vdb")
        >>> read_openvdb(tmp_path / "a.vdb")[0].value_type
        'float'
    """
    path = Path(path)
    reader = ByteReader(path, read_bytes(path))
    has_offsets = _read_header(reader)
    metadata = read_metadata(reader)
    count = reader.number("<i", "grid count")
    if not 0 <= count <= min(_MAX_GRIDS, reader.left // 36):
        raise reader.fail("grid count", f"0 to {_MAX_GRIDS} that fit the file", count)
    found: list[_Grid] = []
    for _ in range(count):
        descriptor = _read_descriptor(reader, has_offsets)
        if has_offsets:
            # What lies behind its end is another grid's.
            start, _, end = descriptor.positions
            found.append(_Grid(descriptor, ByteReader(path, reader.data, start, end)))
            reader.at = end
        else:
            # Without positions, a grid has to be read to know where it ends.
            found.append(_Grid(descriptor, reader, _read_grid(reader, descriptor)))
    wanted = [grid for grid in found if names is None or grid.descriptor.name in names]
    known = {grid.descriptor.name for grid in found}
    if missing := sorted(set(names or ()) - known):
        raise ValueError(f"{path}: names: expected some of {sorted(known)}, got {missing}")
    return VDBFile(tuple(_connect(path, wanted, found)), metadata)


def _read_header(reader: ByteReader) -> bool:
    if bytes(reader.take(8, "magic")) != MAGIC:
        raise FileFormatError(reader.path, "magic", repr(MAGIC), repr(bytes(reader.data[:8])))
    version = reader.number("<I", "file version")
    low, high = _VERSIONS
    if not low <= version <= high:
        raise reader.fail("file version", f"{low} to {high}", version)
    reader.skip(8, "library version")
    has_offsets = reader.number("<B", "flag of offsets") != 0
    reader.skip(36, "uuid")
    return has_offsets


def _read_descriptor(reader: ByteReader, has_offsets: bool) -> _Descriptor:
    name, kind, parent = (reader.string(f"grid {what}") for what in ("name", "type", "parent"))
    positions = reader.numbers("<3q", f"positions of grid {name[:60]!r}")
    if has_offsets:
        start, _, end = positions
        if not reader.at <= start <= end <= reader.end:
            raise reader.fail(
                f"positions of grid {name[:60]!r}", "places that follow, in order", positions
            )
    return _Descriptor(name, kind, parent, positions)


def _value_type(reader: ByteReader, descriptor: _Descriptor) -> tuple[ValueType, bool]:
    kind = descriptor.type
    half = kind.endswith(HALF_SUFFIX)
    kind = kind.removesuffix(HALF_SUFFIX)
    for value_type in VALUE_TYPES.values():
        if value_type.openvdb and kind == f"Tree_{value_type.name}_5_4_3":
            return value_type, half
    known = ", ".join(t.name for t in VALUE_TYPES.values() if t.openvdb)
    raise reader.fail(
        f"type of grid {descriptor.name[:60]!r}", f"Tree_T_5_4_3 with T one of {known}", kind[:80]
    )


def _read_grid(reader: ByteReader, descriptor: _Descriptor) -> VDBTree:
    """Read a grid after its descriptor; of an instance only what is its own."""
    kind, half = _value_type(reader, descriptor)
    compression = reader.number("<I", "compression")
    if compression > 7:
        raise reader.fail("compression", "0 to 7", compression)
    metadata = read_metadata(reader)
    transform = read_transform(reader)
    if descriptor.parent:
        tree = VDBTree.empty(kind.name)
    else:
        tree = _read_tree(reader, kind, compression, half)
    grid_class = _text(metadata.pop("class", None))
    metadata.pop("name", None)
    return replace(
        tree,
        name=descriptor.name,
        transform=transform,
        grid_class=grid_class if grid_class in OPENVDB_CLASSES else "unknown",
        metadata={key: value for key, value in metadata.items() if not _is_statistic(key)},
        half=half,
    )


def _text(entry: Metadatum | None) -> str:
    return entry.value if entry is not None and isinstance(entry.value, str) else ""


def _is_statistic(key: str) -> bool:
    """What OpenVDB writes about the file itself, which is not true of another file."""
    return key.startswith("file_") or key == "is_saved_as_half_float"


def _read_tree(reader: ByteReader, kind: ValueType, compression: int, half: bool) -> VDBTree:
    if reader.number("<I", "buffer count") != 1:
        raise reader.fail("buffer count", "1", "another")
    background = read_value(reader, kind, "background")
    format = BlockFormat(kind, background, compression, half)
    n_tiles, n_children = reader.numbers("<2I", "root's counts")
    tiles = [VDBTiles.none(kind), _read_root_tiles(reader, kind, n_tiles)]
    reader.need(n_children * (12 + 2 * 4096 + 1), f"{n_children} nodes")
    origins: list[np.ndarray] = [np.zeros((0, 3), np.int32)]
    roots = [tiles[1].origins]
    for _ in range(n_children):
        origin = reader.array("<i4", (3,), "node origin").astype(np.int32)
        roots.append(origin[None])
        _check_aligned(reader, origin[None])
        for lower in _read_node(reader, format, UPPER, origin, tiles):
            leaves = _read_node(reader, format, LOWER, lower, tiles)
            reader.skip(64 * len(leaves), "leaf masks")
            origins.append(leaves)
    _check_unique(reader, np.concatenate(roots))
    leaf_origins = np.concatenate(origins)
    masks, values = _read_leaves(reader, format, leaf_origins)
    return VDBTree(kind.name, background, leaf_origins, masks, values, join_tiles(tiles))


def _read_root_tiles(reader: ByteReader, kind: ValueType, n: int) -> VDBTiles:
    stored = "u1" if kind.dtype == np.bool_ else kind.scalar
    row = np.dtype([("origin", "<i4", 3), ("value", stored, kind.shape), ("active", "u1")])
    rows = reader.array(row, (n,), f"{n} root tiles")
    origins = rows["origin"].astype(np.int32)
    _check_aligned(reader, origins)
    return VDBTiles(
        origins,
        np.full(n, UPPER, np.uint8),
        rows["value"].astype(kind.dtype),
        rows["active"] != 0,
    )


def _check_aligned(reader: ByteReader, origins: np.ndarray) -> None:
    wrong = (origins & ((1 << UPPER) - 1)).any(axis=-1)
    if wrong.any():
        raise reader.fail("node origin", "multiples of 4096", origins[wrong][0].tolist())


def _check_unique(reader: ByteReader, origins: np.ndarray) -> None:
    if len(np.unique(origins, axis=0)) != len(origins):
        raise reader.fail("root", "nodes and tiles at places of their own", "an overlap")


def _read_node(
    reader: ByteReader, format: BlockFormat, log2: int, origin: np.ndarray, tiles: list[VDBTiles]
) -> np.ndarray:
    """Read a node without its children, add its tiles, and give the children's origins."""
    n_words = 512 if log2 == UPPER else 64
    words = reader.array("<u8", (2, n_words), "node masks")
    children, active = unpack_bits(words)
    values = read_node_values(reader, format, active)
    tiles.append(tiles_in_node(log2, origin, values, active, children, format.background))
    slots = np.flatnonzero(children)
    return slot_origins(log2, origin, slots).reshape(-1, 3)


def _read_leaves(
    reader: ByteReader, format: BlockFormat, origins: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    n, kind = len(origins), format.type
    if kind.name not in ("bool", "mask"):
        return read_values(reader, format, np.zeros((n, 8), np.uint64))
    fields = [("mask", "<u8", 8), ("origin", "<i4", 3), ("values", "<u8", 8)]
    rows = reader.array(np.dtype(fields if kind.name == "bool" else fields[:2]), (n,), "leaves")
    if not np.array_equal(rows["origin"] & ~np.int32((1 << LEAF) - 1), origins):
        raise reader.fail("leaf origins", "those that the nodes say", "others")
    masks = rows["mask"].astype(np.uint64)
    values = rows["values"] if kind.name == "bool" else masks
    return masks, unpack_bits(values)


def _connect(path: Path, wanted: list[_Grid], found: list[_Grid]) -> list[VDBTree]:
    """Give instances the leaves and tiles of the grid that they repeat."""
    originals = {g.descriptor.unique_name: g for g in found if not g.descriptor.parent}
    result = []
    for grid in wanted:
        tree, name = grid.tree(), grid.descriptor.parent
        if name:
            parent = originals[name].tree() if name in originals else None
            if parent is None or parent.value_type != tree.value_type:
                field = f"grid {grid.descriptor.name[:60]!r}"
                raise FileFormatError(path, field, f"a grid {name[:60]!r} to repeat", "none")
            tree = replace(
                parent,
                name=tree.name,
                transform=tree.transform,
                grid_class=tree.grid_class,
                metadata=tree.metadata,
            )
        result.append(tree)
    return result
