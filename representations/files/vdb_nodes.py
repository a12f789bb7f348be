# SPDX-License-Identifier: Apache-2.0
"""The tree over a grid's leaves and tiles: a root, nodes of 4096^3 voxels, nodes of 128^3.

A node has slots, z fastest: 32^3 for the larger, 16^3 for the smaller. A slot holds a child or a
value.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .vdb_tree import VDBTiles, VDBTree

LEAF, LOWER, UPPER = 3, 7, 12
"""Base-2 logarithms of the edges of leaves and of the two kinds of nodes."""

SLOT_BITS = {LOWER: 4, UPPER: 5}
"""Base-2 logarithms of the slots along an edge of a node."""

CHILD = {LOWER: LEAF, UPPER: LOWER}


def slot_origins(log2: int, origin: np.ndarray, slots: np.ndarray) -> np.ndarray:
    """Give the lowest voxels of a node's slots.

    Args:
        log2: LOWER or UPPER.
        origin: [..., 3] of the node.
        slots: [...].

    Returns:
        int32 [..., 3].

    Example:
        >>> slot_origins(LOWER, np.array([128, 0, 0]), np.array(17)).tolist()
        [128, 8, 8]
    """
    bits, child = SLOT_BITS[log2], CHILD[log2]
    xyz = np.stack((slots >> 2 * bits, slots >> bits, slots), axis=-1) & ((1 << bits) - 1)
    return (origin + (xyz.astype(np.int64) << child)).astype(np.int32)


def slots_of(log2: int, origins: np.ndarray) -> np.ndarray:
    """Give the slots of children in their nodes.

    Args:
        log2: Of the nodes, LOWER or UPPER.
        origins: int32 [..., 3], of the children.

    Returns:
        int64 [...].

    Example:
        >>> int(slots_of(LOWER, np.array([128, 8, 8])))
        17
    """
    bits = SLOT_BITS[log2]
    xyz = (origins.astype(np.int64) >> CHILD[log2]) & ((1 << bits) - 1)
    return (xyz[..., 0] << 2 * bits) | (xyz[..., 1] << bits) | xyz[..., 2]


def same_bits(values: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Tell which values are one value to the bit, so that NaN and -0 are values of their own.

    Args:
        values: [n, *channels].
        other: [*channels] or [n, *channels], of the same type.

    Returns:
        bool [n].

    Example:
        >>> same_bits(np.array([0.0, -0.0, np.nan]), np.array(np.nan)).tolist()
        [False, False, True]
    """
    word = f"u{values.dtype.itemsize}"
    a, b = np.ascontiguousarray(values), np.ascontiguousarray(other).reshape(np.shape(other))
    equal = a.view(word) == b.view(word)
    return equal.all(axis=-1) if np.ndim(values) > 1 else equal


def tiles_in_node(
    log2: int,
    origin: np.ndarray,
    values: np.ndarray,
    active: np.ndarray,
    children: np.ndarray,
    background: np.ndarray,
) -> VDBTiles:
    """Collect a node's values that are active or not the background.

    Args:
        log2: LOWER or UPPER.
        origin: [3].
        values: [S, *channels].
        active: bool [S].
        children: bool [S], slots without a value.
        background: [*channels].

    Returns:
        The tiles.
    """
    other = ~same_bits(values, background)
    slots = np.flatnonzero((other | active) & ~children)
    return VDBTiles(
        slot_origins(log2, origin, slots).reshape(-1, 3),
        np.full(len(slots), CHILD[log2], np.uint8),
        values[slots],
        active[slots],
    )


def join_tiles(parts: list[VDBTiles]) -> VDBTiles:
    """Put sets of tiles together, sorted by place.

    Args:
        parts: At least one.

    Returns:
        All tiles.
    """
    origins = np.concatenate([part.origins for part in parts])
    order = _sort_keys(origins)
    return VDBTiles(
        origins[order],
        np.concatenate([part.log2_edges for part in parts])[order],
        np.concatenate([part.values for part in parts])[order],
        np.concatenate([part.active for part in parts])[order],
    )


@dataclass(frozen=True, eq=False)
class NodeLevel:
    """The nodes of one level, sorted by the nodes above and their slots there.

    Args:
        log2: LOWER or UPPER.
        origins: int32 [n, 3].
        children: bool [n, S].
        active: bool [n, S].
        values: [n, S, *channels]; zero where there is a child.
    """

    log2: int
    origins: np.ndarray
    children: np.ndarray
    active: np.ndarray
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.origins)


@dataclass(frozen=True, eq=False)
class NodeTree:
    """A grid's nodes, ready to be written.

    Args:
        root_tiles: The tiles of 4096^3, sorted.
        uppers: Nodes of 4096^3.
        lowers: Nodes of 128^3.
        leaf_order: int64 [L], sorts the leaves by node and slot.
    """

    root_tiles: VDBTiles
    uppers: NodeLevel
    lowers: NodeLevel
    leaf_order: np.ndarray


def _sort_keys(origins: np.ndarray) -> np.ndarray:
    """Order places as the tree does: by the 4096^3 node, then the 128^3 node, then the place."""
    keys: list[np.ndarray] = []
    for log2 in (LEAF, LOWER, UPPER):
        # lexsort takes the most significant key last.
        keys += [origins[:, axis] >> log2 for axis in (2, 1, 0)]
    return np.lexsort(keys) if len(origins) else np.zeros(0, np.int64)


def _unique_sorted(origins: np.ndarray) -> np.ndarray:
    origins = origins[_sort_keys(origins)]
    keep = np.ones(len(origins), np.bool_)
    keep[1:] = (origins[1:] != origins[:-1]).any(axis=1)
    return origins[keep]


def _rows(origins: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Find each place among sorted origins that hold it."""
    everything = np.concatenate((origins, places))
    _, inverse = np.unique(everything, axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    row_of = np.empty(len(everything), np.int64)
    row_of[inverse[: len(origins)]] = np.arange(len(origins))
    return row_of[inverse[len(origins) :]]


def _level(tree: VDBTree, log2: int, children: np.ndarray) -> NodeLevel:
    """Make the nodes above children, and above tiles as large as children."""
    mask = np.int32(-1 << log2)
    chosen = tree.tiles.log2_edges == CHILD[log2]
    places = tree.tiles.origins[chosen]
    origins = _unique_sorted(np.concatenate((children & mask, places & mask)))
    n, slots, kind = len(origins), 1 << 3 * SLOT_BITS[log2], tree.type
    level = NodeLevel(
        log2,
        origins,
        np.zeros((n, slots), np.bool_),
        np.zeros((n, slots), np.bool_),
        np.empty((n, slots, *kind.shape), kind.dtype),
    )
    level.values[:] = tree.background
    rows, at = _rows(origins, children & mask), slots_of(log2, children)
    level.children[rows, at] = True
    level.values[rows, at] = 0
    rows, at = _rows(origins, places & mask), slots_of(log2, places)
    level.values[rows, at] = tree.tiles.values[chosen]
    level.active[rows, at] = tree.tiles.active[chosen]
    taken = level.children.copy()
    taken[rows, at] = True
    if int(taken.sum()) != len(children) + len(places):
        raise ValueError("VDBTree: leaves and tiles: expected places of their own, got an overlap")
    return level


def build_nodes(tree: VDBTree) -> NodeTree:
    """Make the tree over a grid's leaves and tiles.

    Args:
        tree: The grid.

    Returns:
        Its nodes.

    Raises:
        ValueError: If leaves or tiles overlap.

    Example:
        >>> nodes = build_nodes(VDBTree.empty("float"))
        >>> len(nodes.uppers), len(nodes.lowers)
        (0, 0)
    """
    order = _sort_keys(tree.leaf_origins)
    lowers = _level(tree, LOWER, tree.leaf_origins[order])
    uppers = _level(tree, UPPER, lowers.origins)
    chosen = np.flatnonzero(tree.tiles.log2_edges == UPPER)
    places = tree.tiles.origins[chosen]
    chosen = chosen[_sort_keys(places)]
    if len(_unique_sorted(np.concatenate((places, uppers.origins)))) != len(places) + len(uppers):
        raise ValueError("VDBTree: leaves and tiles: expected places of their own, got an overlap")
    tiles = VDBTiles(
        tree.tiles.origins[chosen],
        tree.tiles.log2_edges[chosen],
        tree.tiles.values[chosen],
        tree.tiles.active[chosen],
    )
    return NodeTree(tiles, uppers, lowers, order)
