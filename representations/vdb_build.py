# SPDX-License-Identifier: Apache-2.0
"""How VDB grids are made: of dense tensors, occupancy, voxels, points and meshes.

The functions do the work of the constructors of `VDBGrid`, which document them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from ..cuda.vdb import grid_ops
from .vdb_space import BLOCK, INT32_MAX, INT32_MIN, is_integer, reduced, scaling

if TYPE_CHECKING:
    from .vdb import VDBGrid

REDUCTIONS = ("error", "first", "mean", "sum", "max")


def block_floor(value: int) -> int:
    """The multiple of 64 at or below.

    Example:
        >>> block_floor(-1), block_floor(64)
        (-64, 64)
    """
    return value // BLOCK * BLOCK


def from_dense(
    cls: type[VDBGrid],
    dense: Tensor,
    threshold: float | None,
    origin: tuple[int, int, int],
    background: float,
    settings: dict[str, Any],
) -> VDBGrid:
    """See `VDBGrid.from_dense`."""
    if dense.dim() not in (3, 4) or (dense.dtype == torch.bool and dense.dim() == 4):
        raise ValueError(
            "VDBGrid.from_dense: dense: expected shape [X, Y, Z], or [X, Y, Z, C] of numbers, "
            f"got {dense.dtype} {list(dense.shape)}"
        )
    active = dense.detach()
    if dense.dtype != torch.bool:
        active = active != background if threshold is None else active > threshold
    if dense.dim() == 4:
        active = active.any(-1)
    shift = [int(o) - block_floor(int(o)) for o in origin]
    if any(shift):
        active = functional.pad(active, (shift[2], 0, shift[1], 0, shift[0], 0))
    masks = grid_ops.build_masks(active)
    values = None
    if dense.dtype != torch.bool:
        rows = grid_ops.active_coordinates(masks).long() - torch.tensor(shift, device=dense.device)
        values = dense[tuple(rows.unbind(1))]
    x, y, z = (block_floor(int(o)) for o in origin)
    return cls(masks, (x, y, z), values, background=background, **settings)


def from_occupancy(
    cls: type[VDBGrid], binaries: Tensor, aabb: Tensor, settings: dict[str, Any]
) -> VDBGrid:
    """See `VDBGrid.from_occupancy`."""
    name = "VDBGrid.from_occupancy"
    if binaries.dim() not in (3, 4) or binaries.dtype not in (torch.bool, torch.uint8):
        raise ValueError(
            f"{name}: binaries: expected bool [levels, X, Y, Z] or [X, Y, Z], "
            f"got {binaries.dtype} {list(binaries.shape)}"
        )
    levels = binaries.shape[0] if binaries.dim() == 4 else 1
    boxes = torch.as_tensor(aabb).detach().to("cpu", torch.float64)
    boxes = boxes.unsqueeze(0) if boxes.dim() == 1 else boxes
    if boxes.shape != (levels, 6):
        raise ValueError(
            f"{name}: aabb: expected shape [{levels}, 6], got {list(torch.as_tensor(aabb).shape)}"
        )
    size = boxes[:, 3:] - boxes[:, :3]
    if not bool(torch.isfinite(boxes).all()) or not bool((size > 0).all()):
        raise ValueError(f"{name}: aabb: expected finite boxes with a volume, got {boxes.tolist()}")
    masks = grid_ops.build_masks(binaries)
    transform = torch.eye(4, dtype=torch.float64).repeat(levels, 1, 1)
    transform[:, :3, :3] *= (size / torch.tensor(masks.resolution, dtype=torch.float64))[:, None]
    transform[:, :3, 3] = boxes[:, :3]
    return cls(masks, transform=transform, **settings)


def from_coordinates(
    cls: type[VDBGrid],
    coordinates: Tensor,
    values: Tensor | None,
    reduce: str,
    settings: dict[str, Any],
) -> VDBGrid:
    """See `VDBGrid.from_coordinates`."""
    name = "VDBGrid.from_coordinates"
    if not is_integer(coordinates):
        raise TypeError(f"{name}: coordinates: expected integers, got {coordinates.dtype}")
    if coordinates.dim() != 2 or coordinates.shape[1] != 3:
        raise ValueError(
            f"{name}: coordinates: expected shape [N, 3], got {list(coordinates.shape)}"
        )
    if reduce not in REDUCTIONS:
        raise ValueError(f"{name}: reduce: expected one of {REDUCTIONS}, got {reduce!r}")
    n = coordinates.shape[0]
    if values is not None and (values.dim() not in (1, 2) or values.shape[0] != n):
        raise ValueError(
            f"{name}: values: expected shape [{n}] or [{n}, C], got {list(values.shape)}"
        )
    local, origin, resolution = _localised(name, coordinates.long())
    masks = grid_ops.masks_from_coordinates(local, resolution)
    if values is not None:
        index = grid_ops.value_index(masks, grid_ops.leaf_offsets(masks), local)
        values = _rows_in_order(name, values, index, reduce)
    return cls(masks, origin, values, **settings)


def _localised(
    name: str, coordinates: Tensor
) -> tuple[Tensor, tuple[int, int, int], tuple[int, int, int]]:
    """Coordinates of masks that hold them all, their origin and their resolution."""
    if coordinates.shape[0] == 0:
        return coordinates, (0, 0, 0), (1, 1, 1)
    low, high = coordinates.amin(0).tolist(), coordinates.amax(0).tolist()
    if min(low) < INT32_MIN or max(high) > INT32_MAX:
        raise ValueError(f"{name}: coordinates: expected int32 numbers, got {low} to {high}")
    origin = block_floor(low[0]), block_floor(low[1]), block_floor(low[2])
    resolution = room(name, origin, high)
    return coordinates - torch.tensor(origin, device=coordinates.device), origin, resolution


def room(
    name: str, origin: tuple[int, int, int], last: list[int] | tuple[int, ...]
) -> tuple[int, int, int]:
    """Voxels per axis from an origin to a last voxel.

    Raises:
        ValueError: They need more than 2^24 blocks of 64^3.
    """
    x, y, z = (b - a + 1 for a, b in zip(origin, last))
    blocks = math.prod(-(-n // BLOCK) for n in (x, y, z))
    if blocks > grid_ops.MAX_TOPS:
        raise ValueError(
            f"{name}: expected voxels within 2^24 blocks of 64^3, "
            f"got {x} x {y} x {z} voxels from {list(origin)} on, which is {blocks} blocks"
        )
    return x, y, z


def _rows_in_order(name: str, values: Tensor, index: Tensor, reduce: str) -> Tensor:
    """Values in storage order; `index` says where each goes."""
    count = int(index.max()) + 1 if index.numel() else 0
    if reduce != "error":
        return reduced(values, index, count, reduce)
    if count != index.shape[0]:
        raise ValueError(
            f"{name}: coordinates: expected each voxel once, got {index.shape[0]} rows for "
            f"{count} voxels; reduce='mean' or another rule says what becomes of them"
        )
    return values[torch.argsort(index)]


def _checked_size(name: str, voxel_size: float) -> float:
    size = float(voxel_size)
    if not 0 < size < math.inf:
        raise ValueError(f"{name}: voxel_size: expected a number above 0, got {voxel_size}")
    return size


def _scaled(name: str, argument: str, points: Tensor, size: float) -> Tensor:
    """Points in voxels, float64."""
    if not points.is_floating_point() or points.dim() != 2 or points.shape[1] != 3:
        raise ValueError(
            f"{name}: {argument}: expected floating [N, 3], got {points.dtype} {list(points.shape)}"
        )
    scaled = points.detach().double() / size
    if not bool(torch.isfinite(scaled).all()):
        raise ValueError(f"{name}: {argument}: expected finite coordinates, got NaN or Inf")
    if scaled.numel() and float(scaled.abs().max()) >= INT32_MAX - BLOCK:
        raise ValueError(
            f"{name}: {argument}: expected coordinates below 2^31 voxels of {size}, "
            f"got {float(points.abs().max())}"
        )
    return scaled


def from_points(
    cls: type[VDBGrid], points: Tensor, voxel_size: float, settings: dict[str, Any]
) -> VDBGrid:
    """See `VDBGrid.from_points`."""
    name = "VDBGrid.from_points"
    size = _checked_size(name, voxel_size)
    voxels = _scaled(name, "points", points, size).floor().long()
    local, origin, resolution = _localised(name, voxels)
    masks = grid_ops.masks_from_coordinates(local, resolution)
    return cls(masks, origin, transform=scaling([size] * 3), **settings)


def from_mesh(
    cls: type[VDBGrid],
    vertices: Tensor,
    faces: Tensor,
    voxel_size: float,
    settings: dict[str, Any],
) -> VDBGrid:
    """See `VDBGrid.from_mesh`."""
    name = "VDBGrid.from_mesh"
    size = _checked_size(name, voxel_size)
    corners = _scaled(name, "vertices", vertices, size)
    if not is_integer(faces):
        raise TypeError(f"{name}: faces: expected integers, got {faces.dtype}")
    if faces.dim() != 2 or faces.shape[1] != 3:
        raise ValueError(f"{name}: faces: expected shape [F, 3], got {list(faces.shape)}")
    if faces.numel() == 0:
        return cls.empty(device=vertices.device, transform=scaling([size] * 3), **settings)
    if int(faces.min()) < 0 or int(faces.max()) >= corners.shape[0]:
        raise ValueError(
            f"{name}: faces: expected indices 0 to {corners.shape[0] - 1}, "
            f"got {int(faces.min())} to {int(faces.max())}"
        )
    triangles = corners[faces.long()]
    # Voxels that are only touched count too: one more below.
    low = [int(v) - 1 for v in triangles.amin((0, 1)).ceil().tolist()]
    high = [int(v) for v in triangles.amax((0, 1)).floor().tolist()]
    origin = block_floor(low[0]), block_floor(low[1]), block_floor(low[2])
    resolution = room(name, origin, high)
    local = triangles - triangles.new_tensor(origin)
    rows = grid_ops.triangle_voxels(local, resolution)
    masks = grid_ops.masks_from_coordinates(rows, resolution)
    return cls(masks, origin, transform=scaling([size] * 3), **settings)
