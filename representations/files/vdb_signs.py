# SPDX-License-Identifier: Apache-2.0
"""The minus signs of a level set's inside, which a grid of active voxels does not hold.

Outside of its narrow band a level set is plus the background, inside of it minus. Going through a
node's slots in order, z fastest, the sign of whatever lies between known voxels is that of the last
one met: in the same row if there is one, else in the first row of the plane, else in the first
voxels of the planes. In a band without holes a walk cannot leave the inside unseen.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .vdb_nodes import CHILD, SLOT_BITS, NodeLevel, build_nodes, join_tiles, slot_origins
from .vdb_tree import VDBTiles, VDBTree


def _carry(known: np.ndarray, inside: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Carry what is known along the last axis.

    Args:
        known: bool [..., m].
        inside: bool [..., m], of what is known.
        start: bool [...], before the first.

    Returns:
        bool [..., m].
    """
    place = np.where(known, np.arange(known.shape[-1]), -1)
    last = np.maximum.accumulate(place, axis=-1)
    found = np.take_along_axis(inside, np.maximum(last, 0), axis=-1)
    return np.where(last >= 0, found, start[..., None])


def _spread(known: np.ndarray, inside: np.ndarray, start: np.ndarray, bits: int) -> np.ndarray:
    """Find which of a node's slots are inside.

    Args:
        known: bool [n, S], slots that say so themselves.
        inside: bool [n, S], what they say last.
        start: bool [n], before the first.
        bits: Base-2 logarithm of the slots along an edge.

    Returns:
        bool [n, S].
    """
    shape = (-1, *(3 * (1 << bits,)))
    known, inside = known.reshape(shape), inside.reshape(shape)
    planes = _carry(known[:, :, 0, 0], inside[:, :, 0, 0], start)
    rows = _carry(known[:, :, :, 0], inside[:, :, :, 0], planes)
    return _carry(known, inside, rows).reshape(len(start), 1 << 3 * bits)


def _first(known: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """What the first slot says that says something; False if none does."""
    rows, first = np.arange(len(known)), known.argmax(axis=1)
    return inside[rows, first] & known[rows, first]


def _inside_slots(
    level: NodeLevel, starts: np.ndarray, ends: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find a level's slots without children that are inside.

    Args:
        level: The nodes.
        starts: bool [n_children], whether each child begins inside.
        ends: bool [n_children], whether it ends there.

    Returns:
        bool [n, S] for the slots, and [n] each for where the nodes begin and end.
    """
    begin, end = np.zeros_like(level.children), np.zeros_like(level.children)
    begin[level.children], end[level.children] = starts, ends
    first = _first(level.children, begin)
    spread = _spread(level.children, end, first, SLOT_BITS[level.log2])
    whole = np.where(level.children, begin, spread)
    return spread & ~level.children, whole[:, 0], np.where(level.children, end, spread)[:, -1]


def _tiles(level: NodeLevel, inside: np.ndarray, value: np.ndarray) -> VDBTiles:
    rows, slots = np.nonzero(inside)
    origins = slot_origins(level.log2, level.origins[rows], slots).reshape(-1, 3)
    return VDBTiles(
        origins,
        np.full(len(rows), CHILD[level.log2], np.uint8),
        np.full(len(rows), value),
        np.zeros(len(rows), np.bool_),
    )


def with_signs(tree: VDBTree) -> VDBTree:
    """Give a level set's inside minus the background.

    Args:
        tree: Real numbers, with leaves only.

    Returns:
        The same active voxels, with inactive ones and tiles as OpenVDB has them. A region of
        4096^3 voxels without any active one stays outside.

    Raises:
        ValueError: If it has tiles.

    Example:
        >>> with_signs(VDBTree.empty("float", 3)).active_voxels
        0
    """
    if len(tree.tiles):
        raise ValueError(f"with_signs: tree: expected no tiles, got {len(tree.tiles)}")
    nodes = build_nodes(tree)
    known = tree.active_bits
    negative = tree.leaf_values < 0
    spread = _spread(known, negative, _first(known, negative), 3)
    high, low = np.abs(tree.background), -np.abs(tree.background)
    values = np.where(known, tree.leaf_values, np.where(spread, low, high))
    order = nodes.leaf_order
    ends = values[order] < 0
    below, begin, end = _inside_slots(nodes.lowers, ends[:, 0], ends[:, -1])
    above, _, _ = _inside_slots(nodes.uppers, begin, end)
    parts = [tree.tiles, _tiles(nodes.lowers, below, low), _tiles(nodes.uppers, above, low)]
    return replace(
        tree, background=high, leaf_values=values.astype(tree.type.dtype), tiles=join_tiles(parts)
    )
