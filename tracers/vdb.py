# SPDX-License-Identifier: Apache-2.0
"""Rays of the world through a `VDBGrid`: the voxels they cross, the segments inside the grid.

    import fieldline as fl

    hits = fl.vdb.voxels_along_rays(grid, origins, directions)
    hits.t_enter[hits.packed_info[:, 0]]          # where each ray that hits enters first

Times are those of the rays as they are given: a point of ray i at t is origins[i] + t *
directions[i], of the world. The walk itself runs in index space, where voxels are unit cubes and
faces are integers, over whole empty regions of 4^3, 16^3 and 64^3 voxels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..cuda.vdb import walk_ops
from ..representations.vdb import VDBGrid
from .checks import check_count


class RaySegments(NamedTuple):
    """Occupied segments of rays, packed ray by ray."""

    ray_indices: Tensor  # int64 [N]
    t_enter: Tensor  # float32 [N]
    t_exit: Tensor  # float32 [N]
    packed_info: Tensor  # int64 [n_rays, 2]: first, count


class RayVoxels(NamedTuple):
    """Active voxels that rays cross, packed ray by ray."""

    ray_indices: Tensor  # int64 [N]
    t_enter: Tensor  # float32 [N]
    t_exit: Tensor  # float32 [N]
    ijk: Tensor  # int32 [N, 3], index space
    packed_info: Tensor  # int64 [n_rays, 2]: first, count


@torch.no_grad()
def voxels_along_rays(
    grid: VDBGrid,
    origins: Tensor,
    directions: Tensor,
    *,
    t_min: float | Tensor = 0.0,
    t_max: float | Tensor = torch.inf,
    level: int = 0,
    limit: int | None = None,
) -> RayVoxels:
    """Lists the active voxels that rays cross, in order along each ray.

    Args:
        grid: The voxels.
        origins: float32 [n_rays, 3], world space, on the grid's device.
        directions: float32 [n_rays, 3], world space, not zero. Need not have unit length.
        t_min: Where rays begin, in lengths of their directions: a number or float32 [n_rays].
        t_max: Where rays end.
        level: Which level of the grid.
        limit: The most voxels, of all rays; default 2^31 - 1.

    Returns:
        The voxels, each with the times at which the ray enters and leaves it. One that a ray only
        touches is not listed. Not differentiable.

    Raises:
        TypeError: A tensor is not float32.
        ValueError: A shape, device or number is not one of the above, a ray is not finite, or
            there are more than `limit` voxels.

    Source: Amanatides and Woo, "A fast voxel traversal algorithm for ray tracing" (1987); Museth,
        "Hierarchical digital differential analyzer" (2014).

    Example:
        >>> import fieldline as fl
        >>> ijk = torch.tensor([[0, 0, 0], [2, 0, 0]], dtype=torch.int32)
        >>> grid = fl.VDBGrid.from_coordinates(ijk)
        >>> o, d = torch.tensor([[-1.0, 0.5, 0.5]]), torch.tensor([[1.0, 0, 0]])
        >>> fl.vdb.voxels_along_rays(grid, o, d).t_enter.tolist()
        [1.0, 3.0]
    """
    found, origin = _pieces(
        "voxels_along_rays", grid, origins, directions, t_min, t_max, level, limit, voxels=True
    )
    ijk = found.ijk + found.ijk.new_tensor(origin)
    return RayVoxels(found.ray_indices, found.t_enter, found.t_exit, ijk, found.packed_info)


@torch.no_grad()
def segments_along_rays(
    grid: VDBGrid,
    origins: Tensor,
    directions: Tensor,
    *,
    t_min: float | Tensor = 0.0,
    t_max: float | Tensor = torch.inf,
    level: int = 0,
    limit: int | None = None,
) -> RaySegments:
    """Lists the segments of rays that lie in active voxels.

    Args:
        grid: The voxels.
        origins: float32 [n_rays, 3], world space, on the grid's device.
        directions: float32 [n_rays, 3], world space, not zero. Need not have unit length.
        t_min: Where rays begin, in lengths of their directions: a number or float32 [n_rays].
        t_max: Where rays end.
        level: Which level of the grid.
        limit: The most segments, of all rays; default 2^31 - 1.

    Returns:
        The segments, in order along each ray; voxels that follow each other are one segment. Not
        differentiable.

    Raises:
        TypeError: A tensor is not float32.
        ValueError: A shape, device or number is not one of the above, a ray is not finite, or
            there are more than `limit` segments.

    Source: Museth, "Hierarchical digital differential analyzer" (2014).

    Example:
        >>> import fieldline as fl
        >>> ijk = torch.tensor([[0, 0, 0], [1, 0, 0]], dtype=torch.int32)
        >>> grid = fl.VDBGrid.from_coordinates(ijk)
        >>> o, d = torch.tensor([[-1.0, 0.5, 0.5]]), torch.tensor([[1.0, 0, 0]])
        >>> found = fl.vdb.segments_along_rays(grid, o, d)
        >>> found.t_enter.item(), found.t_exit.item()
        (1.0, 3.0)
    """
    found, _ = _pieces(
        "segments_along_rays", grid, origins, directions, t_min, t_max, level, limit, voxels=False
    )
    return RaySegments(found.ray_indices, found.t_enter, found.t_exit, found.packed_info)


def _pieces(
    name: str,
    grid: VDBGrid,
    origins: Tensor,
    directions: Tensor,
    t_min: float | Tensor,
    t_max: float | Tensor,
    level: int,
    limit: int | None,
    *,
    voxels: bool,
) -> tuple[walk_ops.Pieces, tuple[int, int, int]]:
    if not isinstance(grid, VDBGrid):
        raise TypeError(f"{name}: grid: expected a VDBGrid, got {type(grid).__name__}")
    if check_count(name, "level", level, 0) >= grid.levels:
        raise ValueError(f"{name}: level: expected 0 to {grid.levels - 1}, got {level}")
    if limit is not None:
        check_count(name, "limit", limit, 0)
    walk_ops.check_tensor(name, "origins", origins, (None, 3), device=grid.device)
    n = origins.shape[0]
    walk_ops.check_tensor(name, "directions", directions, (n, 3), device=grid.device)
    planes = []
    for argument, plane in (("t_min", t_min), ("t_max", t_max)):
        if not isinstance(plane, Tensor):
            plane = origins.new_full((n,), plane)
        walk_ops.check_tensor(name, argument, plane, (n,), device=grid.device)
        planes.append(plane)
    inverse = torch.linalg.inv(grid.level_transform(level)).to(origins.device)
    turn, shift = inverse[:3, :3], inverse[:3, 3]
    shift = shift - torch.tensor(grid.origin, dtype=shift.dtype, device=shift.device)
    rays_o = (origins.double() @ turn.T + shift).float()
    rays_d = (directions.double() @ turn.T).float()
    try:
        found = walk_ops.find_pieces(
            grid.masks, rays_o, rays_d, *planes, voxels=voxels, level=level, limit=limit
        )
    except ValueError as error:
        text = str(error).replace("rays_o, rays_d, near, far", "origins, directions, t_min, t_max")
        text = text.replace("samples (limit)", f"{'voxels' if voxels else 'segments'} (limit)")
        text = text.replace("take larger steps, fewer rays,", "take fewer rays")
        raise ValueError(f"{name}: {text.removeprefix('find_pieces: ')}") from None
    return found, grid.origin
