# SPDX-License-Identifier: Apache-2.0
"""The grid operators: one typed function each, with its fake kernel and its gradient.

A grid is a set of voxels as nested masks (`Masks`; masks.h draws the layout), in local coordinates
0 to resolution - 1. Values are kept beside it, one row per active voxel in storage order: level by
level, leaf by leaf, bit by bit, which is the order of `active_coordinates`. The layout of a set of
voxels is unique: whatever made two equal sets, their tensors are equal.

Coordinates are integers [N, 3], voxels (x, y, z) of level 0, or [N, 4], (level, x, y, z). None of
the functions waits for the GPU but those whose results are as long as their values say; they wait
for that number.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..library import declare, ops

MAX_TOPS = 1 << 24


class Masks(NamedTuple):
    """Nested masks of `levels` grids over the same voxels; see masks.h.

    All on one device, contiguous. The extent of a grid is bounded by its dense table of tops, at
    most 2^24 entries.
    """

    tops: Tensor  # int64 [levels, X, Y, Z, 2]: mask, first; X, Y, Z = ceil(resolution / 64)
    nodes: Tensor  # int64 [n_nodes, 2]: mask, first
    leaves: Tensor  # int64 [n_leaves]: bits of a 64-bit word
    resolution: tuple[int, int, int]  # voxels per axis; coordinates are 0 .. resolution - 1

    @property
    def levels(self) -> int:
        """How many grids lie over the same voxels."""
        return self.tops.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.tops.device

    @property
    def memory_bytes(self) -> int:
        """Bytes of the three tensors."""
        return sum(t.numel() * t.element_size() for t in (self.tops, self.nodes, self.leaves))

    def to(self, device: torch.device | str) -> Masks:
        """The same masks on a device."""
        tensors = (t.to(device) for t in (self.tops, self.nodes, self.leaves))
        return Masks(*tensors, self.resolution)


def top_counts(resolution: tuple[int, int, int]) -> tuple[int, int, int]:
    """Blocks of 64 voxels along each axis.

    Example:
        >>> top_counts((1, 64, 65))
        (1, 1, 2)
    """
    x, y, z = ((n + 63) // 64 for n in resolution)
    return x, y, z


def _checked_resolution(name: str, resolution: Any, levels: int = 1) -> tuple[int, int, int]:
    sizes = tuple(int(n) for n in resolution)
    if len(sizes) != 3 or min(sizes) < 1:
        raise ValueError(
            f"{name}: resolution: expected 3 numbers of voxels, 1 or more, got {resolution}"
        )
    x, y, z = top_counts((sizes[0], sizes[1], sizes[2]))
    if levels < 1:
        raise ValueError(f"{name}: levels: expected 1 or more, got {levels}")
    if levels * x * y * z > MAX_TOPS:
        raise ValueError(
            f"{name}: resolution: expected at most 2^24 blocks of 64^3 voxels, got {levels} "
            f"level(s) of {list(sizes)} voxels, which is {levels * x * y * z} blocks"
        )
    return sizes[0], sizes[1], sizes[2]


def _checked_coordinates(name: str, coordinates: Tensor) -> None:
    if coordinates.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"{name}: coordinates: expected int32 or int64, got {coordinates.dtype}")
    if coordinates.dim() != 2 or coordinates.shape[1] not in (3, 4):
        raise ValueError(
            f"{name}: coordinates: expected shape [N, 3] or [N, 4] (level first), "
            f"got {list(coordinates.shape)}"
        )


def _fake_masks(like: Tensor, levels: Any, resolution: Any) -> tuple[Tensor, Tensor, Tensor]:
    context = torch.library.get_ctx()
    n_nodes, n_leaves = context.new_dynamic_size(), context.new_dynamic_size()
    counts = [(n + 63) // 64 for n in resolution]
    return (
        like.new_empty((levels, *counts, 2), dtype=torch.int64),
        like.new_empty((n_nodes, 2), dtype=torch.int64),
        like.new_empty((n_leaves,), dtype=torch.int64),
    )


@torch.no_grad()
def build_masks(dense: Tensor) -> Masks:
    """Builds nested masks from dense occupancy, in one pass over it.

    Args:
        dense: bool or uint8 [levels, X, Y, Z] or [X, Y, Z], z fastest; anything but 0 is active.

    Returns:
        The masks, on the same device. The host waits for the GPU once, for two numbers.

    Raises:
        TypeError: The dtype is another.
        ValueError: The shape is another, or the extent too large.

    Example:
        >>> masks = build_masks(torch.ones(5, 6, 7, dtype=torch.bool))
        >>> masks.resolution, masks.nodes.shape[0], masks.leaves.shape[0]
        ((5, 6, 7), 1, 8)
    """
    if dense.dtype not in (torch.bool, torch.uint8):
        raise TypeError(f"build_masks: dense: expected bool or uint8, got {dense.dtype}")
    if dense.dim() not in (3, 4):
        raise ValueError(
            "build_masks: dense: expected shape [levels, X, Y, Z] or [X, Y, Z], "
            f"got {list(dense.shape)}"
        )
    if dense.dim() == 3:
        dense = dense.unsqueeze(0)
    resolution = _checked_resolution("build_masks", dense.shape[1:], dense.shape[0])
    return Masks(*ops().vdb_build(dense), resolution)


def _build_fake(dense: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _fake_masks(dense, dense.shape[0], dense.shape[1:])


@torch.no_grad()
def masks_to_dense(masks: Masks) -> Tensor:
    """Writes nested masks as dense occupancy.

    Args:
        masks: The masks.

    Returns:
        bool [levels, X, Y, Z].

    Example:
        >>> dense = torch.rand(1, 9, 4, 70) < 0.5
        >>> torch.equal(masks_to_dense(build_masks(dense)), dense)
        True
    """
    return ops().vdb_to_dense(*masks[:3], masks.resolution)


def _to_dense_fake(tops: Tensor, nodes: Tensor, leaves: Tensor, resolution: Any) -> Tensor:
    return tops.new_empty((tops.shape[0], *resolution), dtype=torch.bool)


@torch.no_grad()
def masks_from_coordinates(
    coordinates: Tensor, resolution: tuple[int, int, int], levels: int = 1
) -> Masks:
    """Builds nested masks from a list of voxels.

    Args:
        coordinates: int32 or int64 [N, 3] or [N, 4]; repeated ones count once, those outside are
            left out.
        resolution: Voxels per axis.
        levels: How many grids.

    Returns:
        The masks, on the device of the coordinates.

    Raises:
        TypeError: The dtype is another.
        ValueError: The shape is another, or the extent too large.

    Example:
        >>> masks = masks_from_coordinates(torch.tensor([[0, 0, 1], [0, 0, 0]]), (1, 1, 2))
        >>> masks.leaves.tolist()
        [3]
    """
    _checked_coordinates("masks_from_coordinates", coordinates)
    resolution = _checked_resolution("masks_from_coordinates", resolution, levels)
    return Masks(*ops().vdb_from_coordinates(coordinates, levels, resolution), resolution)


def _from_coordinates_fake(
    coordinates: Tensor, levels: Any, resolution: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return _fake_masks(coordinates, levels, resolution)


@torch.no_grad()
def leaf_offsets(masks: Masks) -> Tensor:
    """Gives the place of each leaf's first value.

    Args:
        masks: The masks.

    Returns:
        int64 [n_leaves + 1], ascending from 0; the last is the number of active voxels.

    Example:
        >>> leaf_offsets(build_masks(torch.ones(1, 1, 6, dtype=torch.bool))).tolist()
        [0, 4, 6]
    """
    return ops().vdb_leaf_offsets(masks.leaves)


def _leaf_offsets_fake(leaves: Tensor) -> Tensor:
    return leaves.new_empty((leaves.shape[0] + 1,))


@torch.no_grad()
def leaf_origins(masks: Masks) -> Tensor:
    """Gives the level and the first voxel of each leaf.

    Args:
        masks: The masks.

    Returns:
        int32 [n_leaves, 4]: level, x, y, z.

    Example:
        >>> leaf_origins(build_masks(torch.ones(1, 1, 6, dtype=torch.bool))).tolist()
        [[0, 0, 0, 0], [0, 0, 0, 4]]
    """
    return ops().vdb_leaf_origins(*masks[:3], masks.resolution)


def _leaf_origins_fake(tops: Tensor, nodes: Tensor, leaves: Tensor, resolution: Any) -> Tensor:
    return leaves.new_empty((leaves.shape[0], 4), dtype=torch.int32)


@torch.no_grad()
def active_coordinates(
    masks: Masks, offsets: Tensor | None = None, *, with_level: bool = False
) -> Tensor:
    """Lists the active voxels in storage order.

    Args:
        masks: The masks.
        offsets: int64 [n_leaves + 1], their `leaf_offsets`; default computed here.
        with_level: Also give the level, first.

    Returns:
        int32 [n_active, 3], or [n_active, 4] with the level.

    Example:
        >>> active_coordinates(build_masks(torch.ones(1, 1, 2, dtype=torch.bool))).tolist()
        [[0, 0, 0], [0, 0, 1]]
    """
    offsets = leaf_offsets(masks) if offsets is None else offsets
    rows = ops().vdb_coordinates(masks.leaves, offsets, leaf_origins(masks))
    return rows if with_level else rows[:, 1:].contiguous()


def _coordinates_fake(leaves: Tensor, offsets: Tensor, origins: Tensor) -> Tensor:
    n_active = torch.library.get_ctx().new_dynamic_size()
    return leaves.new_empty((n_active, 4), dtype=torch.int32)


@torch.no_grad()
def value_index(masks: Masks, offsets: Tensor, coordinates: Tensor) -> Tensor:
    """Finds the values of voxels.

    Args:
        masks: The masks.
        offsets: int64 [n_leaves + 1], their `leaf_offsets`.
        coordinates: int32 or int64 [N, 3] or [N, 4].

    Returns:
        int64 [N]: a row of the values, or -1 where the voxel is outside or not active.

    Raises:
        TypeError: The dtype is another.
        ValueError: The shape is another.

    Example:
        >>> masks = build_masks(torch.tensor([[[True, False, True]]]))
        >>> voxels = torch.tensor([[0, 0, 2], [0, 0, 1], [0, 0, -7]])
        >>> value_index(masks, leaf_offsets(masks), voxels).tolist()
        [1, -1, -1]
    """
    _checked_coordinates("value_index", coordinates)
    return ops().vdb_value_index(*masks[:3], masks.resolution, offsets, coordinates)


def _value_index_fake(
    tops: Tensor, nodes: Tensor, leaves: Tensor, resolution: Any, offsets: Tensor, rows: Tensor
) -> Tensor:
    return rows.new_empty((rows.shape[0],), dtype=torch.int64)


def contains(masks: Masks, coordinates: Tensor) -> Tensor:
    """Says which voxels are active.

    Args:
        masks: The masks.
        coordinates: int32 or int64 [N, 3] or [N, 4].

    Returns:
        bool [N]; False outside.

    Example:
        >>> masks = build_masks(torch.tensor([[[True, False]]]))
        >>> contains(masks, torch.tensor([[0, 0, 0], [0, 0, 1], [9, 0, 0]])).tolist()
        [True, False, False]
    """
    return value_index(masks, leaf_offsets(masks), coordinates) >= 0


declare("vdb_build", _build_fake)
declare("vdb_to_dense", _to_dense_fake)
declare("vdb_from_coordinates", _from_coordinates_fake)
declare("vdb_leaf_offsets", _leaf_offsets_fake)
declare("vdb_leaf_origins", _leaf_origins_fake)
declare("vdb_coordinates", _coordinates_fake)
declare("vdb_value_index", _value_index_fake)
