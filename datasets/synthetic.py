# SPDX-License-Identifier: Apache-2.0
"""A still life made here: textured objects on a round table, with exact poses, depth and
silhouettes.

It needs no data, is the same for the same seed, and takes seconds. `still_life` gives a `Scene` in
memory; `write` gives a folder with transforms.json that this and other projects' loaders read.
`street` is for LiDAR what the still life is for cameras.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..representations.cameras import Camera
from .export import write_scene
from .ray_tracing import shade, trace
from .scene import Scene, View
from .shapes import Array, Shape
from .still_life import arrange
from .street import street
from .textures import encode_srgb

__all__ = ["still_life", "street", "write"]

_BACKGROUND = (0.925, 0.935, 0.95)
_ELEVATIONS = (16.0, 34.0, 52.0)
_DISTANCE = 4.1
_FOV_Y = math.radians(40)
_TARGET = (0.0, 0.0, -0.04)
# Points lit together: few enough to stay in the cache.
_POINTS_AT_ONCE = 1 << 15


def still_life(
    n_views: int = 48,
    width: int = 200,
    height: int = 150,
    *,
    seed: int = 0,
    n_points: int = 3000,
    point_noise: float = 0.004,
    supersampling: int = 2,
    test_every: int = 8,
    masks: bool = False,
) -> Scene:
    """Make the scene in memory.

    Images are RGBA: the alpha is the share of each pixel that objects cover, and `scene.background`
    is what to blend behind them. Depth is exact (to 1e-4) along the ray through the pixel's centre,
    0 where that ray meets nothing. The world's z axis points up, the table's top is z = 0 and its
    radius 1.45.

    Args:
        n_views: Cameras on an orbit, at three heights in turn.
        width: Image width in pixels.
        height: Image height in pixels.
        seed: Varies where objects stand, how they are turned, their noise, and the choice of
            points.
        n_points: Points to give as structure from motion would: on visible surfaces, with noise.
        point_noise: Standard deviation of that noise in world units.
        supersampling: Rays a pixel along each axis.
        test_every: As in `Scene`.
        masks: Whether views carry a mask that leaves out the background. Default no: the background
            counts.

    Returns:
        The scene.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> still_life(n_views=2, width=40, height=30, n_points=100)
        Scene(2 views 40 x 30, 1 train + 1 test, 100 points)
    """
    numbers = {"n_views": n_views, "width": width, "height": height, "supersampling": supersampling}
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"still_life: {name}: expected an int >= 1, got {value!r}")
    if n_points < 0 or point_noise < 0:
        got = f"{n_points}, {point_noise}"
        raise ValueError(f"still_life: n_points, point_noise: expected >= 0, got {got}")
    random = np.random.default_rng(seed)
    shapes = arrange(random)
    cameras = orbit(n_views, width, height)
    images, depths = draw(shapes, cameras, supersampling)
    views = [
        View(
            f"images/{i:04d}.png",
            camera,
            images[i],
            mask=images[i, ..., 3] > 0 if masks else None,
            depth=depths[i],
        )
        for i, camera in enumerate(cameras)
    ]
    scene = Scene(views, test_every=test_every, background=_BACKGROUND)
    if n_points:
        scene.points, scene.point_colors = _sample_points(
            scene.train, n_points, point_noise, random
        )
    return scene


def write(
    path: str | Path,
    n_views: int = 48,
    width: int = 200,
    height: int = 150,
    *,
    seed: int = 0,
    n_points: int = 3000,
) -> Path:
    """Make the scene and write it as a folder: images, depth, masks, points, transforms.json.

    Args:
        path: The folder; it must not hold anything yet.
        n_views: As in `still_life`.
        width: Image width in pixels.
        height: Image height in pixels.
        seed: As in `still_life`.
        n_points: As in `still_life`.

    Returns:
        The folder.

    Raises:
        ValueError: If the folder holds something, or a number is out of range.

    Example:
        >>> folder = write(tmp_path / "still_life", n_views=4, width=40, height=30)
    """
    return write_scene(still_life(n_views, width, height, seed=seed, n_points=n_points), path)


def orbit(n_views: int, width: int, height: int) -> list[Camera]:
    """Place cameras around the table, evenly in angle, at three heights in turn.

    Args:
        n_views: How many.
        width: Image width in pixels.
        height: Image height in pixels.

    Returns:
        The cameras.
    """
    index = torch.arange(n_views, dtype=torch.float64)
    angle = 2 * math.pi * index / n_views
    elevation = torch.deg2rad(torch.tensor(_ELEVATIONS, dtype=torch.float64))[
        torch.arange(n_views) % len(_ELEVATIONS)
    ]
    around = torch.stack((angle.cos(), angle.sin()), dim=-1) * elevation.cos()[:, None]
    eyes = _DISTANCE * torch.cat((around, elevation.sin()[:, None]), dim=-1)
    eyes = eyes + eyes.new_tensor(_TARGET)
    # The table is wide: keep all of it in view whatever the aspect.
    fov_y = (
        _FOV_Y
        if 4 * height <= 3 * width
        else 2 * math.atan(math.tan(_FOV_Y / 2) * 4 * height / (3 * width))
    )
    return [
        Camera.look_at(eye, _TARGET, fov_y=fov_y, width=width, height=height).to(torch.float32)
        for eye in eyes
    ]


def draw(shapes: list[Shape], cameras: list[Camera], supersampling: int) -> tuple[Tensor, Tensor]:
    """Ray-trace the objects, in as many threads as torch uses.

    Args:
        shapes: The objects.
        cameras: Of one size.
        supersampling: Rays a pixel along each axis, for colour and coverage.

    Returns:
        uint8 RGBA [n, H, W, 4] (straight alpha) and float32 depth [n, H, W].
    """
    with ThreadPoolExecutor(max_workers=torch.get_num_threads()) as pool:
        pictures = list(pool.map(lambda camera: _draw_view(shapes, camera, supersampling), cameras))
    images, depths = zip(*pictures)
    return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(depths))


def _draw_view(shapes: list[Shape], camera: Camera, supersampling: int) -> tuple[Array, Array]:
    size = (camera.height, camera.width)
    fine = camera.resized(camera.width * supersampling, camera.height * supersampling)
    blocks = (camera.height, supersampling, camera.width, supersampling)
    colors = _draw_colors(shapes, *_rays(fine)).reshape(4, *blocks).mean(axis=(2, 4))
    alpha = colors[3]
    straight = np.stack((*(colors[:3] / np.maximum(alpha, 1e-6)), alpha), axis=-1)
    origins, directions = _rays(camera)
    distance, which = trace(shapes, origins, directions)
    forward = camera.world_to_camera[2, :3].numpy()
    along = sum(part * axis for part, axis in zip(directions, forward))
    depth = np.where(which >= 0, distance, 0) * along
    return np.rint(straight * 255).astype(np.uint8), depth.astype(np.float32).reshape(size)


def _rays(camera: Camera) -> tuple[Array, Array]:
    """Give origins and directions [3, M] of all pixels."""
    rays = (part.reshape(-1, 3).T.contiguous().numpy() for part in camera.rays())
    origins, directions = rays
    return origins, directions


def _draw_colors(shapes: list[Shape], origins: Array, directions: Array) -> Array:
    """Give colours premultiplied by coverage, and coverage, [4, M]."""
    distance, which = trace(shapes, origins, directions)
    result = np.zeros((4, len(which)), np.float32)
    hits = np.nonzero(which >= 0)[0]
    for start in range(0, len(hits), _POINTS_AT_ONCE):
        part = hits[start : start + _POINTS_AT_ONCE]
        points = origins[:, part] + distance[part] * directions[:, part]
        # Averaging encoded colours keeps edges as a viewer, which blends encoded colours, has them.
        result[:3, part] = encode_srgb(shade(shapes, points, which[part]))
        result[3, part] = 1
    return result


def _sample_points(
    views: list[View], count: int, noise: float, random: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Pick visible surface points with their colours, the same number from each view."""
    points, colors = [], []
    for view in views:
        depth, image = view.depth, view.image
        if depth is None:
            continue
        # A pixel that objects cover in part has a mixed colour and may lie on a far edge.
        solid = ((depth > 0) & (image[..., 3] == 255)).nonzero()
        share = random.integers(len(solid), size=math.ceil(2 * count / len(views)))
        row, column = solid[torch.from_numpy(share)].unbind(dim=-1)
        xy = torch.stack((column, row), dim=-1) + 0.5
        origins, directions = view.camera.rays(xy)
        along = directions @ view.camera.world_to_camera[2, :3]
        points.append(origins + directions * (depth[row, column] / along)[:, None])
        colors.append(image[row, column, :3])
    order = torch.from_numpy(random.permutation(sum(map(len, points)))[:count])
    exact = torch.cat(points)[order]
    error = torch.from_numpy(random.standard_normal(tuple(exact.shape), np.float32))
    return exact + noise * error, torch.cat(colors)[order]
