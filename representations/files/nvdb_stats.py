# SPDX-License-Identifier: Apache-2.0
"""The boxes, minima and maxima of active values that .nvdb files hold for each node."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .vdb_nodes import CHILD, SLOT_BITS, NodeLevel, slot_origins
from .vdb_tree import VDBTiles, leaf_boxes
from .vdb_types import ValueType


@dataclass(frozen=True, eq=False)
class NodeStats:
    """What is known of the active values in nodes of one level.

    Args:
        some: bool [n], whether there are any.
        low: int64 [n, 3], lowest active voxel.
        high: int64 [n, 3], highest active voxel.
        minimum: [n], of no meaning for vectors and where there is none.
        maximum: [n].
    """

    some: np.ndarray
    low: np.ndarray
    high: np.ndarray
    minimum: np.ndarray
    maximum: np.ndarray


def has_extremes(kind: ValueType) -> bool:
    """Tell whether values of a type have a smallest and a largest."""
    return kind.channels == 1 and kind.dtype != np.bool_ and kind.name != "index"


def _extremes(kind: ValueType, values: np.ndarray) -> np.ndarray:
    return values if has_extremes(kind) else np.zeros(len(values), kind.dtype)


def leaf_stats(
    kind: ValueType, origins: np.ndarray, active: np.ndarray, values: np.ndarray
) -> NodeStats:
    """Give the statistics of leaves.

    Args:
        kind: Of the values.
        origins: int32 [L, 3].
        active: bool [L, 512].
        values: [L, 512, *channels].

    Returns:
        Their statistics.
    """
    low, high = leaf_boxes(origins, active)
    some = np.asarray(active.any(axis=1))
    minimum = maximum = np.zeros(len(origins), kind.dtype)
    if has_extremes(kind):
        # fmin passes over NaN.
        top, bottom = _limits(kind)
        minimum = np.fmin.reduce(np.where(active, values, top), axis=1, initial=top)
        maximum = np.fmax.reduce(np.where(active, values, bottom), axis=1, initial=bottom)
    return NodeStats(some, low, high, minimum.astype(kind.dtype), maximum.astype(kind.dtype))


def _limits(kind: ValueType) -> tuple[np.ndarray, np.ndarray]:
    """The largest and the smallest number of a type."""
    info = np.finfo(kind.dtype) if kind.is_real else np.iinfo(kind.dtype)
    return kind.dtype.type(info.max), kind.dtype.type(info.min)


def node_stats(kind: ValueType, level: NodeLevel, below: NodeStats) -> NodeStats:
    """Give the statistics of nodes.

    Args:
        kind: Of the values.
        level: The nodes.
        below: The statistics of their children, in order.

    Returns:
        Their statistics.
    """
    parents = np.nonzero(level.children)[0][below.some]
    rows, slots = np.nonzero(level.active & ~level.children)
    corners = slot_origins(level.log2, level.origins[rows], slots).reshape(-1, 3).astype(np.int64)
    values = _extremes(kind, level.values[rows, slots])
    return _merged(
        kind,
        len(level),
        np.concatenate((parents, rows)),
        np.concatenate((below.low[below.some], corners)),
        np.concatenate((below.high[below.some], corners + (1 << CHILD[level.log2]) - 1)),
        np.concatenate((below.minimum[below.some], values)),
        np.concatenate((below.maximum[below.some], values)),
    )


def root_stats(kind: ValueType, tiles: VDBTiles, below: NodeStats) -> NodeStats:
    """Give the statistics of a whole grid, as of one node.

    Args:
        kind: Of the values.
        tiles: Of the root.
        below: The statistics of the root's children.

    Returns:
        Statistics of length 1.
    """
    on, some = tiles.active, below.some
    corners, values = tiles.origins[on].astype(np.int64), _extremes(kind, tiles.values[on])
    edge = 1 << SLOT_BITS[12] + SLOT_BITS[7] + 3
    return _merged(
        kind,
        1,
        np.zeros(int(some.sum() + on.sum()), np.int64),
        np.concatenate((below.low[some], corners)),
        np.concatenate((below.high[some], corners + edge - 1)),
        np.concatenate((below.minimum[some], values)),
        np.concatenate((below.maximum[some], values)),
    )


def _merged(
    kind: ValueType,
    n: int,
    rows: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    minimum: np.ndarray,
    maximum: np.ndarray,
) -> NodeStats:
    """Bring parts together in the nodes that hold them."""
    result = NodeStats(
        np.zeros(n, np.bool_),
        np.full((n, 3), 2**31 - 1, np.int64),
        np.full((n, 3), -(2**31), np.int64),
        np.zeros(n, kind.dtype),
        np.zeros(n, kind.dtype),
    )
    result.some[rows] = True
    np.minimum.at(result.low, rows, low)
    np.maximum.at(result.high, rows, high)
    if has_extremes(kind):
        top, bottom = _limits(kind)
        result.minimum[:], result.maximum[:] = top, bottom
        np.fmin.at(result.minimum, rows, minimum)
        np.fmax.at(result.maximum, rows, maximum)
    return result
