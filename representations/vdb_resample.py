# SPDX-License-Identifier: Apache-2.0
"""How VDB grids change: room made and taken away, set algebra, morphology, other resolutions.

The functions do the work of the methods of `VDBGrid`, which document them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..cuda.vdb import grid_change_ops, grid_ops
from ..cuda.vdb.grid_ops import Masks
from .vdb_build import block_floor, room
from .vdb_space import BLOCK, gather, reduced, scaling

if TYPE_CHECKING:
    from .vdb import VDBGrid

Voxel = tuple[int, int, int]


def with_room(name: str, grid: VDBGrid, first: Voxel, last: Voxel) -> VDBGrid:
    """Gives a grid the room from one voxel to another, both its own or beyond.

    Nodes and leaves keep their places: only the table of blocks grows.

    Args:
        name: Who asks, for errors.
        grid: The grid.
        first: The first voxel; multiples of 64.
        last: The last voxel.

    Returns:
        The same voxels, from another origin.

    Raises:
        ValueError: The room is too large.
    """
    resolution = room(name, first, last)
    if first == grid.origin and resolution == grid.resolution:
        return grid
    counts = grid_ops.top_counts(resolution)
    tops = grid.masks.tops.new_zeros(grid.levels, *counts, 2)
    place = [slice(None)]
    for at, start, n in zip(grid.origin, first, grid.masks.tops.shape[1:4]):
        place.append(slice((at - start) // BLOCK, (at - start) // BLOCK + n))
    tops[tuple(place)] = grid.masks.tops
    masks = Masks(tops, grid.masks.nodes, grid.masks.leaves, resolution)
    return replace(grid, masks=masks, origin=first)


def trimmed(grid: VDBGrid) -> VDBGrid:
    """Takes away the blocks at the ends that hold nothing."""
    used = (grid.masks.tops[..., 0] != 0).any(0)
    if not bool(used.any()):
        masks = grid_ops.masks_from_coordinates(
            torch.zeros(0, 3, dtype=torch.int32, device=grid.device), (1, 1, 1), grid.levels
        )
        return replace(grid, masks=masks, origin=(0, 0, 0))
    place, origin, resolution = [slice(None)], [], []
    for axis in range(3):
        line = used.movedim(axis, 0).flatten(1).any(1).nonzero()
        first, last = int(line[0]), int(line[-1])
        place.append(slice(first, last + 1))
        origin.append(grid.origin[axis] + BLOCK * first)
        resolution.append(min(grid.resolution[axis], BLOCK * (last + 1)) - BLOCK * first)
    masks = grid.masks
    cut = Masks(masks.tops[tuple(place)].contiguous(), masks.nodes, masks.leaves, (*resolution,))
    return replace(grid, masks=cut, origin=(*origin,))


def _last(grid: VDBGrid) -> list[int]:
    return [a + n - 1 for a, n in zip(grid.origin, grid.resolution)]


def rows_of(masks: Masks, origin: Voxel, grid: VDBGrid) -> Tensor:
    """Gives the places in a grid's values of the voxels of other masks; -1 where it has none."""
    rows = grid_ops.active_coordinates(masks, with_level=True).long()
    shift = [0, *(a - b for a, b in zip(origin, grid.origin))]
    rows = rows + torch.tensor(shift, device=rows.device)
    return grid_ops.value_index(grid.masks, grid.leaf_offsets, rows)


def with_masks(grid: VDBGrid, masks: Masks, origin: Voxel | None = None) -> VDBGrid:
    """Gives a grid other voxels, of the same index space; new ones have the background."""
    origin = grid.origin if origin is None else origin
    values = grid.values
    if values is not None:
        values = gather(values, rows_of(masks, origin, grid), grid.background)
    return replace(grid, masks=masks, origin=origin, values=values)


def dilate(grid: VDBGrid, neighbours: int, iterations: int, grow: bool) -> VDBGrid:
    """See `VDBGrid.dilate`."""
    roomy = grid
    if grow and iterations > 0:
        margin = -(-iterations // BLOCK) * BLOCK
        x, y, z = (v - margin for v in grid.origin)
        a, b, c = (block_floor(v + margin) + BLOCK - 1 for v in _last(grid))
        bare = replace(grid, values=None, background=0.0)
        roomy = with_room("VDBGrid.dilate", bare, (x, y, z), (a, b, c))
    masks = grid_change_ops.dilate_masks(roomy.masks, neighbours, iterations)
    if not grow:
        return with_masks(grid, masks)
    grown = trimmed(replace(roomy, masks=masks, values=None, background=0.0))
    return with_masks(grid, grown.masks, grown.origin)


def _checked_pair(name: str, grid: VDBGrid, other: VDBGrid, with_values: bool) -> None:
    if grid.levels != other.levels or grid.device != other.device:
        raise ValueError(
            f"VDBGrid.{name}: other: expected {grid.levels} level(s) on {grid.device}, "
            f"got {other.levels} on {other.device}"
        )
    one, two = grid.transform, other.transform
    if one.shape != two.shape or not torch.allclose(one, two, rtol=1e-9, atol=1e-12):
        raise ValueError(
            f"VDBGrid.{name}: other: expected the same transform {one.tolist()}, got {two.tolist()}"
        )
    if not with_values:
        return
    mine, its = grid.values, other.values
    kinds = [None if v is None else (v.dtype, v.shape[1:]) for v in (mine, its)]
    if kinds[0] != kinds[1]:
        raise ValueError(
            f"VDBGrid.{name}: other: expected values of dtype and channels {kinds[0]}, "
            f"got {kinds[1]}"
        )


def combined(grid: VDBGrid, other: VDBGrid, operation: str) -> VDBGrid:
    """See `VDBGrid.union`, `VDBGrid.intersection` and `VDBGrid.difference`."""
    _checked_pair(operation, grid, other, operation == "union")
    # Room for both, or the second could not be compared with the first.
    x, y, z = map(min, grid.origin, other.origin)
    a, b, c = map(max, _last(grid), _last(other))
    name = f"VDBGrid.{operation}"
    one, two = (with_room(name, g, (x, y, z), (a, b, c)) for g in (grid, other))
    masks = getattr(grid_change_ops, operation)(one.masks, two.masks)
    if operation != "union":
        return trimmed(with_masks(one, masks))
    values = None
    if one.values is not None and two.values is not None:
        mine, its = rows_of(masks, one.origin, one), rows_of(masks, two.origin, two)
        chosen = (mine >= 0).view(-1, *[1] * (one.values.dim() - 1))
        values = torch.where(
            chosen,
            gather(one.values, mine, one.background),
            gather(two.values, its, two.background),
        )
    return replace(one, masks=masks, values=values)


def prune(grid: VDBGrid, tolerance: float) -> VDBGrid:
    """See `VDBGrid.prune`."""
    if not tolerance >= 0:
        raise ValueError(f"VDBGrid.prune: tolerance: expected 0 or more, got {tolerance}")
    values = grid.values
    if values is None:
        return trimmed(grid)
    background = gather(values, values.new_full((1,), -1, dtype=torch.int64), grid.background)
    if values.is_floating_point():
        kept = ~((values.detach() - background).abs() <= tolerance)
    else:
        kept = (values.double() - background.double()).abs() > tolerance
    kept = kept.flatten(1).any(1) if kept.dim() > 1 else kept
    rows = grid_ops.active_coordinates(grid.masks, grid.leaf_offsets, with_level=True)[kept]
    masks = grid_ops.masks_from_coordinates(rows, grid.resolution, grid.levels)
    return trimmed(replace(grid, masks=masks, values=values[kept]))


def refine(grid: VDBGrid, factor: int) -> VDBGrid:
    """See `VDBGrid.refine`."""
    masks = grid_change_ops.refine_masks(grid.masks, factor)
    values = grid.values
    if values is not None:
        rows = grid_ops.active_coordinates(masks, with_level=True)
        rows[:, 1:] = rows[:, 1:].div(factor, rounding_mode="floor")
        index = grid_ops.value_index(grid.masks, grid.leaf_offsets, rows)
        values = gather(values, index, grid.background)
    x, y, z = (v * factor for v in grid.origin)
    transform = grid.transform @ scaling([1.0 / factor] * 3)
    return replace(grid, masks=masks, origin=(x, y, z), values=values, transform=transform)


def coarsen(grid: VDBGrid, factor: int, reduce: str) -> VDBGrid:
    """See `VDBGrid.coarsen`."""
    name = "VDBGrid.coarsen"
    if reduce not in ("mean", "sum", "max", "min"):
        raise ValueError(f"{name}: reduce: expected 'mean', 'sum', 'max' or 'min', got {reduce!r}")
    if factor < 1:
        raise ValueError(f"{name}: factor: expected 1 or more, got {factor}")
    x, y, z = (block_floor(v // factor) for v in grid.origin)
    a, b, c = (v // factor for v in _last(grid))
    resolution = room(name, (x, y, z), (a, b, c))
    rows = grid_ops.active_coordinates(grid.masks, grid.leaf_offsets, with_level=True).long()
    rows[:, 1:] += torch.tensor(grid.origin, device=rows.device)
    rows[:, 1:] = rows[:, 1:].div(factor, rounding_mode="floor")
    rows[:, 1:] -= torch.tensor((x, y, z), device=rows.device)
    if grid.values is None and all(v % (BLOCK * factor) == 0 for v in grid.origin):
        masks = grid_change_ops.coarsen_masks(grid.masks, factor)
    else:
        masks = grid_ops.masks_from_coordinates(rows, resolution, grid.levels)
    values = grid.values
    if values is not None:
        offsets = grid_ops.leaf_offsets(masks)
        index = grid_ops.value_index(masks, offsets, rows)
        values = reduced(values, index, int(offsets[-1]), reduce)
    transform = grid.transform @ scaling([float(factor)] * 3)
    return replace(grid, masks=masks, origin=(x, y, z), values=values, transform=transform)
