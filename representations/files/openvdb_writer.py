# SPDX-License-Identifier: Apache-2.0
"""Writing .vdb files, version 224, that OpenVDB 3 and later read."""

from __future__ import annotations

import os
import struct
import uuid
from collections.abc import Iterable
from dataclasses import replace
from typing import BinaryIO, Literal

import numpy as np

from .atomic import atomic_write
from .openvdb_meta import write_metadata, write_string, write_transform
from .openvdb_reader import HALF_SUFFIX, MAGIC, SUFFIX_MARK
from .openvdb_values import (
    ACTIVE_MASK,
    BLOSC,
    ZIP,
    BlockFormat,
    round_to_half,
    write_values,
)
from .vdb_codec import CODECS, has_blosc, no_blosc
from .vdb_file import VDBFile, trees_of
from .vdb_nodes import NodeLevel, NodeTree, build_nodes
from .vdb_tree import Metadatum, VDBTiles, VDBTree
from .vdb_types import OPENVDB_CLASSES, pack_bits, unpack_bits

_FILE_VERSION, _LIBRARY_VERSION = 224, (10, 0)
_FLAGS = {"none": 0, "zip": ZIP, "blosc": BLOSC}


def write_openvdb(
    grids: VDBFile | VDBTree | Iterable[VDBTree],
    path: str | os.PathLike[str],
    *,
    compression: Literal["none", "zip", "blosc"] = "zip",
    active_mask: bool = True,
) -> None:
    """Write a .vdb file with nothing lost.

    Args:
        grids: A file, a grid, or grids. Those that share their arrays are written once.
        path: The file.
        compression: "zip" packs best, and every OpenVDB reads it; "blosc" is OpenVDB's default and
            needs the package blosc.
        active_mask: Leave out inactive values that a few bits can tell, as OpenVDB does.

    Raises:
        ValueError: If a grid has values that .vdb files do not hold, or leaves and tiles overlap.
        ImportError: If Blosc is asked for and not installed.

    Example:
        >>> write_openvdb(VDBTree.empty("float", 3), tmp_path / "a.vdb", compression="none")
        >>> (tmp_path / "a.vdb").read_bytes()[:4]
        b' BDV'
    """
    if compression not in CODECS:
        raise ValueError(
            f"write_openvdb: compression: expected one of {CODECS}, got {compression!r}"
        )
    if compression == "blosc" and not has_blosc():
        raise no_blosc()
    trees = trees_of(grids)
    for tree in trees:
        if not tree.type.openvdb:
            raise ValueError(
                f"write_openvdb: grid {tree.name!r}: expected values that .vdb files hold, "
                f"got {tree.value_type}"
            )
    flags = _FLAGS[compression] | (ACTIVE_MASK if active_mask else 0)
    metadata = grids.metadata if isinstance(grids, VDBFile) else {}
    with atomic_write(path) as file:
        file.write(MAGIC + struct.pack("<3IB", _FILE_VERSION, *_LIBRARY_VERSION, 1))
        file.write(str(uuid.uuid4()).encode("ascii"))
        file.write(write_metadata(metadata) + struct.pack("<i", len(trees)))
        written: dict[tuple, str] = {}
        for tree, name in zip(trees, _unique_names(trees)):
            key = _identity(tree)
            _write_grid(file, tree, name, written.get(key, ""), flags)
            written.setdefault(key, name)


def _unique_names(trees: list[VDBTree]) -> list[str]:
    """Number the names that occur twice, and those that are empty, as OpenVDB does."""
    every = [tree.name for tree in trees]
    repeated = {name for name in every if not name or every.count(name) > 1}
    counts: dict[str, int] = {}
    names = []
    for name in every:
        n = counts[name] = counts.get(name, -1) + 1
        names.append(f"{name}{SUFFIX_MARK}{n}" if name in repeated else name)
    return names


def _identity(tree: VDBTree) -> tuple:
    """What two grids have in common of which one repeats the other."""
    arrays = (tree.leaf_origins, tree.leaf_masks, tree.leaf_values, tree.tiles, tree.background)
    return (*map(id, arrays), tree.value_type, tree.half)


def _write_grid(file: BinaryIO, tree: VDBTree, name: str, parent: str, flags: int) -> None:
    kind = f"Tree_{tree.value_type}_5_4_3{HALF_SUFFIX if tree.half else ''}"
    file.write(write_string(name) + write_string(kind) + write_string(parent))
    positions_at = file.tell()
    file.write(bytes(24))
    start = file.tell()
    file.write(struct.pack("<I", flags) + write_metadata(_metadata(tree)))
    file.write(write_transform(tree.transform))
    buffers = 0
    if not parent:
        format = BlockFormat(
            tree.type, round_to_half(tree.background, tree.type, tree.half), flags, tree.half
        )
        buffers = _write_tree(file, tree, format)
    end = file.tell()
    file.seek(positions_at)
    file.write(struct.pack("<3q", start, buffers, end))
    file.seek(end)


def _metadata(tree: VDBTree) -> dict[str, Metadatum]:
    entries = dict(tree.metadata)
    if tree.name:
        entries["name"] = Metadatum("string", tree.name)
    if tree.grid_class in OPENVDB_CLASSES and tree.grid_class != "unknown":
        entries["class"] = Metadatum("string", tree.grid_class)
    if tree.half:
        entries["is_saved_as_half_float"] = Metadatum("bool", True)
    box = tree.bounds()
    low, high = box if box is not None else ((0, 0, 0), (0, 0, 0))
    entries["file_bbox_min"] = Metadatum("vec3i", low)
    entries["file_bbox_max"] = Metadatum("vec3i", high)
    entries["file_voxel_count"] = Metadatum("int64", min(tree.active_voxels, 2**63 - 1))
    return entries


def _write_tree(file: BinaryIO, tree: VDBTree, format: BlockFormat) -> int:
    """Write nodes, then leaves; give the place of the leaves."""
    rounded = replace(
        tree,
        background=format.background,
        leaf_values=round_to_half(tree.leaf_values, tree.type, tree.half),
        tiles=replace(tree.tiles, values=round_to_half(tree.tiles.values, tree.type, tree.half)),
    )
    nodes = build_nodes(rounded)
    file.write(struct.pack("<I", 1) + _value_bytes(format.background))
    file.write(struct.pack("<2I", len(nodes.root_tiles), len(nodes.uppers)))
    file.write(_root_tile_bytes(nodes.root_tiles))
    _write_topology(file, rounded, nodes, format)
    buffers = file.tell()
    _write_leaves(file, rounded, nodes.leaf_order, format)
    return buffers


def _value_bytes(value: np.ndarray) -> bytes:
    return np.ascontiguousarray(value).tobytes()


def _root_tile_bytes(tiles: VDBTiles) -> bytes:
    return b"".join(
        origin.astype("<i4").tobytes() + _value_bytes(value) + bytes([bool(active)])
        for origin, value, active in zip(tiles.origins, tiles.values, tiles.active)
    )


def _write_topology(file: BinaryIO, tree: VDBTree, nodes: NodeTree, format: BlockFormat) -> None:
    """Write each node before its children. Lowers and leaves stand in that order already."""
    lowers_of = _children_per_node(nodes.uppers)
    leaves_of = _children_per_node(nodes.lowers)
    masks = tree.leaf_masks[nodes.leaf_order].astype("<u8")
    lower = leaf = 0
    for i, n_lowers in enumerate(lowers_of):
        file.write(nodes.uppers.origins[i].astype("<i4").tobytes())
        file.write(_node_bytes(nodes.uppers, i, format))
        for _ in range(n_lowers):
            file.write(_node_bytes(nodes.lowers, lower, format))
            file.write(masks[leaf : leaf + leaves_of[lower]].tobytes())
            leaf += leaves_of[lower]
            lower += 1


def _children_per_node(level: NodeLevel) -> list[int]:
    return level.children.sum(axis=1).tolist()


def _node_bytes(level: NodeLevel, i: int, format: BlockFormat) -> bytes:
    one = slice(i, i + 1)
    children, active = level.children[one], level.active[one]
    piece = write_values(format, level.values[one], active, ~active & ~children)[0]
    masks = pack_bits(children).astype("<u8").tobytes() + pack_bits(active).astype("<u8").tobytes()
    return masks + piece


_LEAVES_AT_ONCE = 1 << 12


def _write_leaves(file: BinaryIO, tree: VDBTree, order: np.ndarray, format: BlockFormat) -> None:
    for first in range(0, len(order), _LEAVES_AT_ONCE):
        chosen = order[first : first + _LEAVES_AT_ONCE]
        masks, values = tree.leaf_masks[chosen], tree.leaf_values[chosen]
        if tree.value_type in ("bool", "mask"):
            file.write(_bool_leaf_bytes(tree, chosen))
            continue
        active = unpack_bits(masks)
        file.write(b"".join(write_values(format, values, active, ~active, masks)))


def _bool_leaf_bytes(tree: VDBTree, chosen: np.ndarray) -> bytes:
    fields = [("mask", "<u8", 8), ("origin", "<i4", 3), ("values", "<u8", 8)]
    is_bool = tree.value_type == "bool"
    rows = np.zeros(len(chosen), np.dtype(fields if is_bool else fields[:2]))
    rows["mask"], rows["origin"] = tree.leaf_masks[chosen], tree.leaf_origins[chosen]
    if is_bool:
        rows["values"] = pack_bits(tree.leaf_values[chosen])
    return rows.tobytes()
