# SPDX-License-Identifier: Apache-2.0
"""Which part of the world a set of cameras looks at, told from their geometry alone (or helped by
points).

Each camera gets a range of depths. With sparse points, it is the range of the points it sees.
Without, the cameras' optical axes are intersected (least squares): the distance to that point,
times a near and a far factor, is the range. Cameras whose axes are parallel or diverge get a range
from how far apart they stand. The region seen is then sampled: a random pixel of a random camera,
at a depth drawn evenly in its logarithm, counts if enough cameras have it inside their image and
range.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..representations.cameras import Camera

if TYPE_CHECKING:
    from .scene import Scene, View

_NEAR, _FAR = 0.3, 3.0
# Below this mean sin^2 of the angle between the axes and the direction they share, the axes are
# parallel.
_PARALLEL = 1e-3
# Parallel cameras: the scene is taken to be this many camera-path radii away.
_PARALLEL_DISTANCE = 4.0
_SILHOUETTE_VIEWS = 64
_COLOR_VIEWS = 24


def depth_ranges(cameras: list[Camera], points: Tensor | None = None) -> Tensor:
    """Give the depths between which each camera sees the scene.

    Args:
        cameras: Single cameras.
        points: float32 [M, 3] sparse points of the scene, if known.

    Returns:
        float32 [n_cameras, 2], near and far, along the cameras' z axes in world units.

    Example:
        >>> eyes = ((4.0, 0.0, 0.0), (0.0, 4.0, 0.0))
        >>> cameras = [Camera.look_at(e, (0, 0, 0), fov_y=1.0, width=8, height=8) for e in eyes]
        >>> depth_ranges(cameras).mean(dim=0).tolist()
        [1.2..., 12.0]
    """
    centers = torch.stack([camera.center for camera in cameras]).double()
    forward = torch.stack([camera.world_to_camera[2, :3] for camera in cameras]).double()
    distance = _focus_distances(centers, forward)
    ranges = distance[:, None] * distance.new_tensor([_NEAR, _FAR])
    if points is not None and len(points):
        for row, camera in zip(ranges, cameras):
            xy, depth = camera.project(points)
            depth = depth[_inside(camera, xy) & (depth > 0)].double()
            if len(depth) >= 8:
                row[0], row[1] = 0.9 * depth.quantile(0.02), 1.1 * depth.quantile(0.98)
    return ranges.to(torch.float32)


def _focus_distances(centers: Tensor, forward: Tensor) -> Tensor:
    """Give the depth [n] at which each camera sees the point nearest to all optical axes."""
    spread = float((centers - centers.mean(dim=0)).norm(dim=-1).max())
    fallback = _PARALLEL_DISTANCE * spread if spread > 0 else 1.0
    across = torch.eye(3).to(forward) - forward[:, :, None] * forward[:, None, :]
    system = across.mean(dim=0)
    if float(torch.linalg.eigvalsh(system)[0]) < _PARALLEL:
        return torch.full((len(centers),), fallback).to(centers)
    focus = torch.linalg.solve(system, (across @ centers[:, :, None]).mean(dim=0)[:, 0])
    distance = ((focus - centers) * forward).sum(dim=-1)
    middle = float(distance.median())
    if middle <= 0:
        return torch.full((len(centers),), fallback).to(centers)
    return distance.clamp(min=0.25 * middle, max=4 * middle)


def count_views(cameras: list[Camera], ranges: Tensor, points: Tensor) -> Tensor:
    """Count the cameras that have each point inside their image and range.

    Args:
        cameras: Single cameras.
        ranges: [n_cameras, 2] of `depth_ranges`.
        points: [M, 3].

    Returns:
        int64 [M].
    """
    count = torch.zeros(len(points), dtype=torch.int64)
    for camera, (near, far) in zip(cameras, ranges.tolist()):
        xy, depth = camera.project(points)
        count += _inside(camera, xy) & (depth >= near) & (depth <= far)
    return count


def _inside(camera: Camera, xy: Tensor) -> Tensor:
    x, y = xy.unbind(dim=-1)
    return (x >= 0) & (y >= 0) & (x < camera.width) & (y < camera.height)


def _candidates(
    cameras: list[Camera], ranges: Tensor, count: int, generator: torch.Generator
) -> Tensor:
    """Draw points [>= count, 3]: cameras and pixels evenly, depths evenly in their logarithm."""
    each = math.ceil(count / len(cameras))
    batches = []
    for camera, (near, far) in zip(cameras, ranges.log().tolist()):
        draw = torch.rand((each, 3), generator=generator)
        xy = draw[:, :2] * draw.new_tensor([camera.width, camera.height])
        origins, directions = camera.rays(xy.to(camera.K))
        along = directions @ camera.world_to_camera[2, :3]
        depth = torch.exp(near + (far - near) * draw[:, 2]).to(along)
        # A fisheye ray may point sideways or back: then its depth along z says nothing.
        depth = torch.where(along > 0.1, depth / along.clamp(min=0.1), depth)
        batches.append((origins + directions * depth[:, None]).to(torch.float32))
    return torch.cat(batches)


def camera_bounds(cameras: list[Camera]) -> Tensor:
    """Give a box around where the cameras look.

    It holds the central 98 % (on each axis) of random points that at least half as many cameras see
    as the best-seen point, so for an orbit it is the middle, and for a walk the corridor of most
    overlap.

    Args:
        cameras: Single cameras, at least one.

    Returns:
        float32 [2, 3], lower and upper corner.
    """
    generator = torch.Generator().manual_seed(0)
    ranges = depth_ranges(cameras)
    points = _candidates(cameras, ranges, 1 << 14, generator)
    count = count_views(cameras, ranges, points)
    kept = points[count >= 0.5 * count.max()].double()
    return torch.stack((kept.quantile(0.01, dim=0), kept.quantile(0.99, dim=0))).to(torch.float32)


def random_points(
    scene: Scene,
    n_points: int,
    seed: int = 0,
    *,
    min_views: int | None = None,
    carve: bool | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw points inside the region that several training cameras see, to start a reconstruction
    from.

    For scenes without SfM points. Where the images have an alpha channel, points outside the
    silhouettes are thrown away too (space carving), so what is left is inside the visual hull.

    Args:
        scene: The scene; its training views are used.
        n_points: How many points.
        seed: Seed of the draw.
        min_views: How many training cameras must see a point; default a quarter of them (half
            when carving: what is cut out is what all look at), at least 2, fewer if they hardly
            overlap.
        carve: Whether to use the silhouettes; default if the first image has an alpha channel.

    Returns:
        Points float32 [n_points, 3] and colours uint8 [n_points, 3], each the mean over some of the
        views that see the point.

    Raises:
        ValueError: If no region is seen by `min_views` cameras, or an argument is out of range.

    Example:
        >>> points, colors = random_points(scene, 500)
    """
    if isinstance(n_points, bool) or not isinstance(n_points, int) or n_points < 1:
        raise ValueError(f"random_points: n_points: expected an int >= 1, got {n_points!r}")
    views = scene.train
    if min_views is not None and not 1 <= min_views <= len(views):
        raise ValueError(
            f"random_points: min_views: expected 1 to {len(views)} training views, got {min_views}"
        )
    if carve is None:
        carve = views[0].image.shape[-1] == 4
    generator = torch.Generator().manual_seed(seed)
    cameras = [view.camera for view in views]
    ranges = depth_ranges(cameras, scene.points)
    needed = _default_min_views(cameras, ranges, carve, seed) if min_views is None else min_views
    silhouettes = _evenly(views, _SILHOUETTE_VIEWS) if carve else []
    kept: list[Tensor] = []
    drawn = found = 0
    while found < n_points:
        points = _candidates(cameras, ranges, max(2 * n_points, 1 << 13), generator)
        drawn += len(points)
        points = points[count_views(cameras, ranges, points) >= needed]
        points = _carved(points, silhouettes)
        kept.append(points)
        found += len(points)
        if found * 5000 < drawn and drawn > 1 << 18:
            raise ValueError(
                f"random_points: scene: expected a region that {needed} of {len(views)} cameras see"
                f"{' inside their silhouettes' if carve else ''}, "
                f"found {found} of {drawn} points in one"
            )
    # Candidates come ordered by camera: shuffle, so that the cut keeps all cameras' shares.
    points = torch.cat(kept)
    points = points[torch.randperm(len(points), generator=generator)[:n_points]]
    return points, _mean_colors(points, _evenly(views, _COLOR_VIEWS), scene.background)


def _default_min_views(cameras: list[Camera], ranges: Tensor, carve: bool, seed: int) -> int:
    generator = torch.Generator().manual_seed(seed)
    points = _candidates(cameras, ranges, 1 << 12, generator)
    count = count_views(cameras, ranges, points)
    needed = min(len(cameras), max(2, len(cameras) // (2 if carve else 4)))
    while needed > 1 and float((count >= needed).float().mean()) < 0.02:
        needed //= 2
    return needed


def _evenly(views: list[View], limit: int) -> list[View]:
    step = max(1.0, len(views) / limit)
    return [views[int(i * step)] for i in range(min(limit, len(views)))]


def _pixels(view: View, points: Tensor) -> tuple[Tensor, Tensor]:
    """Give each point's pixel number [M] in a view, and whether it has one."""
    xy, depth = view.camera.project(points)
    seen = _inside(view.camera, xy) & (depth > 0)
    column, row = (torch.where(seen[:, None], xy, xy.new_zeros(()))).long().unbind(dim=-1)
    return row * view.width + column, seen


def _carved(points: Tensor, views: list[View]) -> Tensor:
    """Keep the points that no view sees against its transparent background."""
    for view in views:
        image = view.image
        if image.shape[-1] != 4 or not len(points):
            continue
        # One pixel of slack, because a silhouette of pixels is cruder than the surface's own.
        alpha = torch.nn.functional.max_pool2d(image[None, ..., 3].float(), 3, stride=1, padding=1)
        pixel, seen = _pixels(view, points)
        points = points[~seen | (alpha.flatten()[pixel] > 0)]
    return points


def _mean_colors(
    points: Tensor, views: list[View], background: tuple[float, float, float] | None
) -> Tensor:
    total = torch.zeros((len(points), 3))
    weight = torch.full((len(points), 1), 1e-3)
    for view in views:
        pixel, seen = _pixels(view, points)
        total += torch.where(seen[:, None], view.rgb(background).view(-1, 3)[pixel], 0.0)
        weight += seen[:, None]
    # A point that none of the few views sees stays grey.
    mean = (total + 0.5e-3) / weight
    return (mean * 255).round().clamp(0, 255).to(torch.uint8)
