# SPDX-License-Identifier: Apache-2.0
"""Reading one .nvdb grid: every place that it names is checked before it is looked at.

A child that two parents share, nodes that overlap, and counts that do not agree are errors; so the
arrays that come of a grid cannot be larger than a fixed multiple of its bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .byte_reader import ByteReader
from .nvdb_checksum import matches
from .nvdb_layout import (
    BLIND,
    BLIND_BYTES,
    CHANNEL_ARRAY,
    FPN,
    GRID,
    GRID_BYTES,
    HEAD_BYTES,
    LAYOUTS,
    NODE_MASK_AT,
    TREE,
    TYPE_NAMES,
    NanoLayout,
    key_origins,
    origin_keys,
    unpack_version,
)
from .nvdb_leaves import code_bits, column, dequantise, leaf_masks, leaf_values, unpack_codes
from .openvdb_meta import checked_transform
from .vdb_nodes import LEAF, LOWER, SLOT_BITS, UPPER, join_tiles, slot_origins, tiles_in_node
from .vdb_tree import VDBTiles, VDBTree
from .vdb_types import GRID_CLASSES, unpack_bits


def read_grid(path: Path, data: memoryview, verify: bool) -> VDBTree:
    """Read a grid.

    Args:
        path: The file, for messages.
        data: The grid's bytes, unpacked.
        verify: Whether a checksum that does not match is an error.

    Returns:
        The grid, without a name.

    Raises:
        FileFormatError: If it is damaged or of a type that is not read.
    """
    return _GridReader(path, data).read(verify)


class _GridReader:
    """Reads a grid out of its bytes.

    Args:
        path: The file, for messages.
        data: The grid's bytes.
    """

    def __init__(self, path: Path, data: memoryview) -> None:
        self.reader = ByteReader(path, data)
        self.data = np.frombuffer(data, np.uint8)
        self.head = self.reader.array(GRID, (), "grid")[()]
        self.tree = self.reader.array(TREE, (), "tree")[()]
        self.version = unpack_version(int(self.head["version"]))
        if int(self.head["size"]) != len(self.data):
            raise self.reader.fail("size of a grid", f"{len(self.data)} bytes", self.head["size"])
        number = int(self.head["type"])
        if number not in LAYOUTS:
            known = ", ".join(TYPE_NAMES[n] for n in sorted(LAYOUTS))
            raise self.reader.fail("type of a grid", f"one of {known}", f"type {number}")
        self.layout: NanoLayout = LAYOUTS[number]

    def read(self, verify: bool) -> VDBTree:
        """Read the grid."""
        kind = self.layout.type
        root = GRID_BYTES + int(self.tree["offsets"][3])
        tiles, root_end = self._root_tiles(root)
        origins = key_origins(tiles["key"])
        is_child = tiles["child"] != 0
        background = self._values(root + self.layout.background_at)
        parts = [
            VDBTiles.none(kind),
            VDBTiles(
                origins[~is_child],
                np.full(int((~is_child).sum()), UPPER, np.uint8),
                tiles["value"][~is_child].astype(kind.dtype),
                tiles["state"][~is_child] != 0,
            ),
        ]
        uppers = root + tiles["child"][is_child]
        lowers, lower_origins = self._nodes(UPPER, uppers, origins[is_child], background, parts)
        leaves, leaf_origins = self._nodes(LOWER, lowers, lower_origins, background, parts)
        masks, values = self._leaves(leaves)
        if verify:
            self._verify(root_end, uppers, lowers, leaves)
        return VDBTree(
            kind.name,
            background,
            leaf_origins,
            masks,
            values,
            join_tiles(parts),
            transform=self._transform(),
            grid_class=self._grid_class(),
            channels=self._channels() if kind.name == "index" else {},
        )

    def _values(self, at: int) -> np.ndarray:
        kind = self.layout.type
        reader = ByteReader(self.reader.path, self.reader.data, at)
        if kind.dtype == np.bool_:
            return np.array(reader.take(1, "background")[0] != 0)
        return reader.array(kind.dtype, kind.shape, "background").copy()

    def _root_tiles(self, root: int) -> tuple[np.ndarray, int]:
        if root % 32 or not HEAD_BYTES <= root <= len(self.data) - self.layout.root_bytes:
            raise self.reader.fail("place of the root", "one within the grid", root)
        count = int(self.data[root + 24 : root + 28].view("<u4")[0])
        start = root + self.layout.root_bytes
        reader = ByteReader(self.reader.path, self.reader.data, start)
        tiles = reader.array(self.layout.tile, (count,), f"{count} root tiles")
        keys = tiles["key"]
        proper = np.array_equal(origin_keys(key_origins(keys)), keys)
        if not proper or len(np.unique(keys)) != count:
            raise reader.fail("root tiles", "places of their own", "others")
        return tiles, reader.at

    def _check_places(self, log2: int, places: np.ndarray, sizes: np.ndarray | int) -> None:
        """Raise unless nodes lie within the grid, none over another, as many as it says."""
        what, index = {UPPER: ("upper nodes", 2), LOWER: ("lower nodes", 1), LEAF: ("leaves", 0)}[
            log2
        ]
        declared = int(self.tree["nodes"][index])
        if declared != len(places):
            raise self.reader.fail(f"number of {what}", str(declared), len(places))
        if len(places) == 0:
            return
        order = np.argsort(places, kind="stable")
        starts = places[order]
        ends = starts + (sizes if isinstance(sizes, int) else sizes[order])
        # A place near 2^63 would have its end below zero.
        inside = starts[0] >= HEAD_BYTES and starts[-1] <= len(self.data) >= ends.max()
        if not inside or (places % 32).any() or (starts[1:] < ends[:-1]).any():
            raise self.reader.fail(
                f"places of {what}", "some of their own within the grid", "others"
            )

    def _rows(self, places: np.ndarray, size: int) -> np.ndarray:
        """Give the bytes of nodes, [n, size]; their places have been checked."""
        n = len(places)
        if n == 0:
            return np.zeros((0, size), np.uint8)
        if np.array_equal(places, places[0] + size * np.arange(n)):
            return self.data[places[0] : places[0] + n * size].reshape(n, size)
        return np.stack([self.data[at : at + size] for at in places.tolist()])

    def _nodes(
        self,
        log2: int,
        places: np.ndarray,
        origins: np.ndarray,
        background: np.ndarray,
        parts: list[VDBTiles],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Read nodes, add their tiles, and give the places and origins of their children."""
        layout, bits = self.layout, SLOT_BITS[log2]
        self._check_places(log2, places, layout.node_bytes(bits))
        children_at, children = [np.zeros(0, np.int64)], [np.zeros((0, 3), np.int32)]
        for place, origin in zip(places.tolist(), origins):
            node = self.data[place : place + layout.node_bytes(bits)]
            words = node[NODE_MASK_AT : layout.table_at(bits)][: (2 << 3 * bits) // 8]
            active, is_child = unpack_bits(words.view("<u8").reshape(2, -1))
            table = node[layout.table_at(bits) :][: layout.slot_bytes << 3 * bits]
            table = table.reshape(-1, layout.slot_bytes)
            values = self._slot_values(table, active)
            parts.append(tiles_in_node(log2, origin, values, active, is_child, background))
            slots = np.flatnonzero(is_child)
            children_at.append(place + column(table[slots], 0, "<i8")[:, 0])
            children.append(slot_origins(log2, origin, slots).reshape(-1, 3))
        return np.concatenate(children_at), np.concatenate(children)

    def _slot_values(self, table: np.ndarray, active: np.ndarray) -> np.ndarray:
        kind = self.layout.type
        if kind.is_mask:
            return active
        if kind.dtype == np.bool_:
            return table[:, 0] != 0
        return column(table, 0, kind.dtype, kind.channels).reshape(-1, *kind.shape)

    def _leaves(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        layout = self.layout
        if layout.number != FPN:
            self._check_places(LEAF, places, layout.leaf_bytes)
            rows = self._rows(places, layout.leaf_bytes)
            try:
                return leaf_masks(rows), leaf_values(rows, layout, self.version)
            except ValueError as error:
                raise self.reader.fail("leaves", "indices below 2^62", str(error)) from error
        self._check_places(LEAF, places, layout.leaf_bytes)
        heads = self._rows(places, layout.leaf_bytes)
        bits = code_bits(heads, layout)
        if bits.size and bits.max() > 16:
            raise self.reader.fail("leaves", "1 to 16 bits a value", bits.max())
        self._check_places(LEAF, places, layout.leaf_bytes + 64 * bits)
        codes = np.zeros((len(places), 512), np.uint16)
        for width in np.unique(bits).tolist():
            some = bits == width
            codes[some] = unpack_codes(
                self._rows(places[some] + layout.leaf_bytes, 64 * width), width
            )
        return leaf_masks(heads), dequantise(heads, codes)

    def _node_bytes(
        self, uppers: np.ndarray, lowers: np.ndarray, leaves: np.ndarray
    ) -> Iterator[memoryview]:
        for log2, places in ((UPPER, uppers), (LOWER, lowers)):
            size = self.layout.node_bytes(SLOT_BITS[log2])
            # The nodes' order in memory is the one that counts.
            for at in np.sort(places).tolist():
                yield self.reader.data[at : at + size]
        for at in np.sort(leaves).tolist():
            yield self.reader.data[at : at + self.layout.leaf_bytes]

    def _verify(
        self, root_end: int, uppers: np.ndarray, lowers: np.ndarray, leaves: np.ndarray
    ) -> None:
        stored = tuple(self.head["checksum"].tolist())
        nodes = self._node_bytes(uppers, lowers, leaves)
        if not matches(stored, self.version, self.reader.data, root_end, nodes):
            shown = " ".join(f"{word:08x}" for word in stored)
            raise self.reader.fail("checksum", shown, "bytes that have another")

    def _transform(self) -> np.ndarray:
        matrix = np.eye(4)
        matrix[:3, :3] = self.head["matrix"].reshape(3, 3)
        matrix[:3, 3] = self.head["move"]
        return checked_transform(self.reader, "map of the grid", matrix)

    def _grid_class(self) -> str:
        number = int(self.head["class"])
        return GRID_CLASSES[number] if number < len(GRID_CLASSES) else GRID_CLASSES[0]

    def _channels(self) -> dict[str, np.ndarray]:
        """Read the arrays that indices point into."""
        at, count = int(self.head["blind_at"]), int(self.head["blind_count"])
        if count == 0:
            return {}
        if not HEAD_BYTES <= at <= len(self.data) or count > (len(self.data) - at) // BLIND_BYTES:
            raise self.reader.fail("blind data", "places within the grid", f"{count} at {at}")
        channels: dict[str, np.ndarray] = {}
        rows = self.data[at : at + count * BLIND_BYTES].view(BLIND)
        for i, row in enumerate(rows):
            number = int(row["type"])
            if int(row["class"]) != CHANNEL_ARRAY or number not in LAYOUTS:
                continue
            kind, place = LAYOUTS[number].type, at + i * BLIND_BYTES + int(row["offset"])
            if not HEAD_BYTES <= place <= len(self.data):
                raise self.reader.fail("blind data", "a place within the grid", place)
            reader = ByteReader(self.reader.path, self.reader.data, place)
            stored = np.dtype("u1") if kind.dtype == np.bool_ else kind.dtype
            shape = (int(row["count"]), *kind.shape)
            values = reader.array(stored, shape, "channel").astype(kind.dtype)
            name = bytes(row["name"]).split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
            channels[name or f"channel {i}"] = values
        return channels
