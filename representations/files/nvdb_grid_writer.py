# SPDX-License-Identifier: Apache-2.0
"""One grid as the bytes of a .nvdb file."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .nvdb_checksum import checksums
from .nvdb_layout import (
    BLIND,
    BLIND_BYTES,
    BOOLEAN,
    CHANNEL_ARRAY,
    GRID,
    GRID_BYTES,
    HEAD_BYTES,
    INDEX,
    LAYOUTS,
    LEAF_MASK_AT,
    MAGICS,
    MASK,
    NEW_INDICES,
    NEW_MAGICS,
    NODE_MASK_AT,
    ON_INDEX,
    SPARSE_INDICES,
    TREE,
    NanoLayout,
    Version,
    origin_keys,
    pack_version,
)
from .nvdb_stats import NodeStats, has_extremes, leaf_stats, node_stats, root_stats
from .vdb_nodes import LOWER, SLOT_BITS, UPPER, NodeLevel, build_nodes
from .vdb_tree import VDBTree
from .vdb_types import GRID_CLASSES, count_bits, pack_bits, unpack_bits, value_type_of

_HAS_BOX, _HAS_EXTREMES, _BREADTH_FIRST = 2, 4, 32
_LEAF_HAS_BOX = 2


@dataclass(frozen=True, eq=False)
class GridBytes:
    """A grid, and what a file says about it.

    Args:
        data: uint8 [size].
        head: The first bytes of it, as GRID.
        tree: What follows, as TREE.
        index_box: int64 [2, 3], the box of the active voxels; low above high if there are none.
    """

    data: np.ndarray
    head: np.ndarray
    tree: np.ndarray
    index_box: np.ndarray


def grid_bytes(tree: VDBTree, version: Version) -> GridBytes:
    """Lay out a grid.

    Args:
        tree: The grid.
        version: Which NanoVDB it is for.

    Returns:
        Its bytes.

    Raises:
        ValueError: If NanoVDB has no such values, indices are not numbered as it does, leaves and
            tiles overlap, or the name is longer than 255 bytes.

    Example:
        >>> len(grid_bytes(VDBTree.empty("float"), (32, 4, 2)).data)
        800
    """
    return _GridWriter(tree, version).write()


class _GridWriter:
    """Lays out a grid.

    Args:
        tree: The grid.
        version: Which NanoVDB it is for.
    """

    def __init__(self, tree: VDBTree, version: Version) -> None:
        self.tree, self.version, self.kind = tree, version, tree.type
        if not self.kind.nanovdb:
            raise ValueError(
                f"write_nvdb: grid {tree.name!r}: expected values that NanoVDB has, "
                f"got {tree.value_type}"
            )
        self.nodes = build_nodes(tree)
        order = self.nodes.leaf_order
        self.origins, self.masks = tree.leaf_origins[order], tree.leaf_masks[order]
        self.values, self.active = tree.leaf_values[order], unpack_bits(self.masks)
        self.sparse = self.kind.name == "index" and _is_sparse(self.values, self.active)
        new_sparse = self.sparse and version >= NEW_INDICES
        self.layout: NanoLayout = LAYOUTS[ON_INDEX if new_sparse else self.kind.nanovdb]
        self._place()

    def _place(self) -> None:
        """Decide where everything lies."""
        layout = self.layout
        n_tiles = len(self.nodes.root_tiles) + len(self.nodes.uppers)
        self.root = HEAD_BYTES
        self.root_end = self.root + layout.root_bytes + n_tiles * layout.tile.itemsize
        self.uppers = self.root_end
        self.lowers = self.uppers + len(self.nodes.uppers) * layout.node_bytes(SLOT_BITS[UPPER])
        self.leaves = self.lowers + len(self.nodes.lowers) * layout.node_bytes(SLOT_BITS[LOWER])
        self.blind = self.leaves + len(self.origins) * layout.leaf_bytes
        places, end = [], self.blind + BLIND_BYTES * len(self.tree.channels)
        for values in self.tree.channels.values():
            places.append(end)
            end += -(-values.nbytes // 32) * 32
        self.blind_places = places
        self.data = np.zeros(end, np.uint8)

    def write(self) -> GridBytes:
        """Fill everything in; the checksum last, as it covers the rest."""
        leaves = leaf_stats(self.kind, self.origins, self.active, self.values)
        lowers = node_stats(self.kind, self.nodes.lowers, leaves)
        uppers = node_stats(self.kind, self.nodes.uppers, lowers)
        root = root_stats(self.kind, self.nodes.root_tiles, uppers)
        self._leaves(leaves)
        self._level(self.nodes.lowers, lowers, self.lowers, self.leaves, self.layout.leaf_bytes)
        lower_bytes = self.layout.node_bytes(SLOT_BITS[LOWER])
        self._level(self.nodes.uppers, uppers, self.uppers, self.lowers, lower_bytes)
        self._root(root)
        self._channels()
        box = np.stack((root.low[0], root.high[0]))
        head = self.data[:GRID_BYTES].view(GRID)
        tree = self.data[GRID_BYTES:HEAD_BYTES].view(TREE)
        self._tree(tree)
        self._head(head, box)
        head["checksum"][0] = checksums(
            self.version, self.data.data, self.root_end, self._node_bytes()
        )
        return GridBytes(self.data, head[0], tree[0], box)

    def _put(self, rows: np.ndarray, at: int, values: np.ndarray) -> None:
        """Write values into each row of bytes."""
        if len(rows) == 0:
            return
        values = np.ascontiguousarray(values)
        data = values.reshape(len(rows), -1).view(np.uint8)
        rows[:, at : at + data.shape[1]] = data

    def _extremes(self, rows: np.ndarray, at: tuple[int, ...], stats: NodeStats) -> None:
        if not has_extremes(self.kind):
            return
        for place, values in zip(at, (stats.minimum, stats.maximum)):
            shown = np.where(stats.some, values, self.tree.background)
            self._put(rows, place, shown.astype(self.kind.dtype)[:, None])

    def _leaves(self, stats: NodeStats) -> None:
        layout, n = self.layout, len(self.origins)
        rows = self.data[self.leaves : self.blind].reshape(n, layout.leaf_bytes)
        low = np.where(stats.some[:, None], stats.low, self.origins)
        self._put(rows, 0, low.astype("<i4"))
        self._put(rows, 12, np.where(stats.some[:, None], stats.high - low, 0).astype(np.uint8))
        rows[:, 15] = np.where(stats.some, _LEAF_HAS_BOX, 0)
        self._put(rows, LEAF_MASK_AT, self.masks.astype("<u8"))
        if layout.number == MASK:
            return
        if layout.number == BOOLEAN:
            self._put(rows, layout.values_at, pack_bits(self.values).astype("<u8"))
        elif layout.number in (INDEX, ON_INDEX):
            self._indices(rows)
        else:
            self._extremes(rows, layout.leaf_stats_at, stats)
            self._put(rows, layout.values_at, self.values)

    def _indices(self, rows: np.ndarray) -> None:
        new = self.version >= NEW_INDICES
        first = self.values[:, 0]
        if self.sparse:
            first = self.values[np.arange(len(rows)), self.active.argmax(axis=1)]
            rows[:, 15] |= 0 if new else SPARSE_INDICES
        at = self.layout.values_at
        self._put(rows, at + (0 if new else 8), first[:, None].astype("<u8"))
        if self.layout.number == ON_INDEX:
            # How many active voxels lie before each of the last seven words, in 9 bits each.
            counts = np.cumsum(count_bits(self.masks[:, :, None]), axis=1)[:, :7].astype(np.uint64)
            shifts = 9 * np.arange(7, dtype=np.uint64)
            self._put(rows, at + 8, (counts << shifts).sum(axis=1, dtype=np.uint64)[:, None])

    def _level(
        self, level: NodeLevel, stats: NodeStats, start: int, below: int, child_bytes: int
    ) -> None:
        layout, bits, n = self.layout, SLOT_BITS[level.log2], len(level)
        if n == 0:
            return
        size = layout.node_bytes(bits)
        rows = self.data[start : start + n * size].reshape(n, size)
        # A box that holds nothing still says where the node is.
        low = np.where(stats.some[:, None], stats.low, level.origins)
        high = np.where(stats.some[:, None], stats.high, low - 1)
        self._put(rows, 0, np.concatenate((low, high), axis=1).astype("<i4"))
        masks = np.stack((pack_bits(level.active), pack_bits(level.children)), axis=1)
        self._put(rows, NODE_MASK_AT, masks.astype("<u8"))
        self._extremes(rows, layout.node_stats_at(bits), stats)
        at = layout.table_at(bits)
        table = rows[:, at : at + (layout.slot_bytes << 3 * bits)]
        table = table.reshape(n, -1, layout.slot_bytes)
        data = np.ascontiguousarray(level.values).view(np.uint8).reshape(n, table.shape[1], -1)
        table[:, :, : data.shape[2]] = data
        parents, slots = np.nonzero(level.children)
        places = below + child_bytes * np.arange(len(parents)) - (start + size * parents)
        table[parents, slots] = 0
        table[parents, slots, :8] = places.astype("<i8")[:, None].view(np.uint8)
        rows[:, at : at + (layout.slot_bytes << 3 * bits)] = table.reshape(n, -1)

    def _root(self, stats: NodeStats) -> None:
        layout, tiles, uppers = self.layout, self.nodes.root_tiles, self.nodes.uppers
        root = self.data[None, self.root : self.root + layout.root_bytes]
        self._put(root, 0, np.concatenate((stats.low, stats.high), axis=1).astype("<i4"))
        n = len(tiles) + len(uppers)
        self._put(root, 24, np.array([[n]], "<u4"))
        self._put(root, layout.background_at, self.tree.background[None])
        self._extremes(root, layout.root_stats_at, stats)
        rows = self.data[self.root + layout.root_bytes : self.root_end].view(layout.tile)
        node_bytes = layout.node_bytes(SLOT_BITS[UPPER])
        rows["key"] = origin_keys(np.concatenate((tiles.origins, uppers.origins)))
        rows["child"][len(tiles) :] = self.uppers + node_bytes * np.arange(len(uppers)) - self.root
        rows["state"][: len(tiles)] = tiles.active
        rows["value"][: len(tiles)] = tiles.values

    def _channels(self) -> None:
        rows = self.data[self.blind : self.blind + BLIND_BYTES * len(self.tree.channels)].view(
            BLIND
        )
        for i, (name, values) in enumerate(self.tree.channels.items()):
            place, kind = self.blind_places[i], value_type_of(values.dtype, _n_channels(values))
            rows[i]["offset"] = place - (self.blind + BLIND_BYTES * i)
            rows[i]["count"] = len(values)
            rows[i]["value_size"] = kind.itemsize if self.version >= NEW_MAGICS else 0
            rows[i]["class"], rows[i]["type"] = CHANNEL_ARRAY, kind.nanovdb
            rows[i]["name"] = _name_bytes(name)
            data = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
            self.data[place : place + len(data)] = data

    def _tree(self, tree: np.ndarray) -> None:
        nodes = self.nodes
        counts = (len(self.origins), len(nodes.lowers), len(nodes.uppers))
        places = (self.leaves, self.lowers, self.uppers)
        tree["offsets"][0, :3] = [p - GRID_BYTES if n else 0 for p, n in zip(places, counts)]
        tree["offsets"][0, 3] = self.root - GRID_BYTES
        tree["nodes"][0] = counts
        active = [int((x.active & ~x.children).sum()) for x in (nodes.lowers, nodes.uppers)]
        tree["tiles"][0] = (*active, int(nodes.root_tiles.active.sum()))
        tree["voxels"] = min(self.tree.active_voxels, 2**64 - 1)

    def _head(self, head: np.ndarray, box: np.ndarray) -> None:
        matrix = self.tree.transform
        head["magic"] = MAGICS[1] if self.version >= NEW_MAGICS else MAGICS[0]
        head["version"], head["size"] = pack_version(self.version), len(self.data)
        extremes = _HAS_EXTREMES if has_extremes(self.kind) else 0
        head["flags"] = _BREADTH_FIRST | _HAS_BOX | extremes
        head["count"] = 1
        head["name"] = _name_bytes(self.tree.name)
        inverse = np.linalg.inv(matrix)
        with np.errstate(over="ignore"):
            for suffix in ("_f", ""):
                head[f"matrix{suffix}"] = matrix[:3, :3].reshape(-1)
                head[f"inverse{suffix}"] = inverse[:3, :3].reshape(-1)
                head[f"move{suffix}"] = matrix[:3, 3]
                head[f"taper{suffix}"] = 1
        head["world_box"] = _world_box(matrix, box)
        head["voxel_size"] = np.linalg.norm(matrix[:3, :3], axis=0)
        head["class"], head["type"] = self._class_number(), self.layout.number
        head["blind_at"], head["blind_count"] = self.blind, len(self.tree.channels)
        if self.kind.name == "index":
            head["data1"] = self._n_indices()

    def _n_indices(self) -> int:
        if self.tree.channels:
            return min(map(len, self.tree.channels.values()))
        parts = (self.values.reshape(-1), self.tree.tiles.values, self.tree.background.reshape(1))
        return max(int(part.max()) for part in parts if part.size) + 1

    def _class_number(self) -> int:
        """The grid's class, where NanoVDB has it for such values."""
        name, kind = self.tree.grid_class, self.kind
        if kind.name == "index":
            return GRID_CLASSES.index("index grid")
        fits = {
            "level set": kind.is_real and kind.channels == 1,
            "fog volume": kind.is_real and kind.channels == 1,
            "staggered": kind.is_real and kind.channels > 1,
            "topology": kind.is_mask,
            "voxel volume": kind.name in ("rgba8", "float", "double", "vec3s", "vec3d", "uint32"),
        }
        return GRID_CLASSES.index(name) if fits.get(name, False) else 0

    def _node_bytes(self) -> list[memoryview]:
        parts = []
        for start, end, size in (
            (self.uppers, self.lowers, self.layout.node_bytes(SLOT_BITS[UPPER])),
            (self.lowers, self.leaves, self.layout.node_bytes(SLOT_BITS[LOWER])),
            (self.leaves, self.blind, self.layout.leaf_bytes),
        ):
            parts += [self.data[at : at + size].data for at in range(start, end, size)]
        return parts


def _n_channels(values: np.ndarray) -> int:
    return int(np.prod(values.shape[1:], dtype=np.int64))


def _name_bytes(name: str) -> bytes:
    data = name.encode("utf-8", "surrogateescape")
    if len(data) > 255 or b"\0" in data:
        raise ValueError(f"write_nvdb: name: expected at most 255 bytes, got {name[:300]!r}")
    return data


def _is_sparse(values: np.ndarray, active: np.ndarray) -> bool:
    """Whether only active voxels are numbered (True) or all are (False)."""
    first = values[np.arange(len(values)), active.argmax(axis=1)][:, None]
    below = np.cumsum(active, axis=1) - active
    if np.array_equal(values, np.where(active, first + below, 0)):
        return True
    if np.array_equal(values, values[:, :1] + np.arange(512)):
        return False
    raise ValueError(
        "write_nvdb: leaf_values: expected indices that count each leaf's active voxels in order "
        "(0 elsewhere), or all its voxels; got others"
    )


def _world_box(matrix: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The box, in the world, around the active voxels."""
    if (box[0] > box[1]).any():
        return np.zeros(6)
    ends = np.stack((box[0], box[1] + 1)).astype(np.float64)
    corners = np.array([[ends[i, 0], ends[j, 1], ends[k, 2]] for i, j, k in np.ndindex(2, 2, 2)])
    points = corners @ matrix[:3, :3].T + matrix[:3, 3]
    return np.concatenate((points.min(axis=0), points.max(axis=0)))
