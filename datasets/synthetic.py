# SPDX-License-Identifier: Apache-2.0
"""A still life made here: textured objects on a round table, with exact poses, depth and
silhouettes.

It needs no data, is the same for the same seed, and takes seconds. `still_life` gives a `Scene` in
memory; `write` gives a folder with transforms.json that this and other projects' loaders read.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from ..representations.cameras import Camera
from .export import write_scene
from .scene import Scene, View
from .still_life import (
    Shape,
    cone,
    rounded_box,
    rounded_cylinder,
    shade,
    sphere,
    torus,
    trace,
)
from .textures import (
    Noise,
    bands,
    dots,
    encode_srgb,
    marble,
    ring_checks,
    srgb,
    tiled_floor,
    wood,
)

_TABLE = 1.45
_BACKGROUND = (0.925, 0.935, 0.95)
_ELEVATIONS = (16.0, 34.0, 52.0)
_DISTANCE = 4.1
_FOV_Y = math.radians(40)
_TARGET = (0.0, 0.0, 0.02)
# Rays drawn together: enough to hide the cost of a call, few enough to stay in the cache.
_RAYS_AT_ONCE = 1 << 19


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
    generator = torch.Generator().manual_seed(seed)
    shapes = arrange(generator)
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
            scene.train, n_points, point_noise, generator
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


def arrange(generator: torch.Generator) -> list[Shape]:
    """Set the table.

    Args:
        generator: The source of chance: places and turns vary a little, noise entirely.

    Returns:
        The objects; the first is the table.
    """
    noise = Noise(generator)
    jitter = 0.05 * (2 * torch.rand((6, 2), generator=generator) - 1)
    turns = math.radians(12) * (2 * torch.rand(6, generator=generator) - 1)
    cream, terracotta = srgb("#f1e7d3"), srgb("#b9553b")
    teal, navy, mustard = srgb("#2b7c7a"), srgb("#27415a"), srgb("#dfa63c")
    sage, rose = srgb("#86a873"), srgb("#d98a86")

    def place(
        slot: int, x: float, y: float, z: float, turn: float = 0.0
    ) -> tuple[tuple[float, float, float], Tensor]:
        dx, dy = jitter[slot].tolist()
        return (x + dx, y + dy, z), _turned(math.radians(turn) + float(turns[slot]))

    box_place = place(1, 0.48, 0.42, 0.32, 28)
    (box_x, box_y, _), _ = box_place
    table = tiled_floor(_TABLE, 0.27, cream, srgb("#8d9aa5"), srgb("#7a4a2e"))
    return [
        Shape(rounded_cylinder(_TABLE, 0.07, 0.025), (_TABLE, _TABLE, 0.07), table, (0, 0, -0.07)),
        Shape(
            sphere(0.42),
            (0.42, 0.42, 0.42),
            marble(noise, srgb("#f3f0ea"), srgb("#4a5560")),
            *place(0, -0.42, -0.38, 0.42),
        ),
        Shape(
            rounded_box(0.32, 0.03),
            (0.32, 0.32, 0.32),
            wood(noise, srgb("#d9a066"), srgb("#7d4a22")),
            *box_place,
        ),
        Shape(
            sphere(0.2),
            (0.2, 0.2, 0.2),
            bands(2, 0.08, [mustard, cream]),
            (box_x, box_y, 0.84),
            _tilted(0.5),
        ),
        Shape(
            torus(0.29, 0.105),
            (0.395, 0.395, 0.105),
            ring_checks(0.29, 16, cream, terracotta),
            *place(2, 0.55, -0.55, 0.105),
        ),
        Shape(
            rounded_cylinder(0.2, 0.42, 0.02),
            (0.2, 0.2, 0.42),
            bands(2, 0.14, [teal, cream], twist=4),
            *place(3, -0.38, 0.58, 0.42),
        ),
        Shape(
            cone(0.25, 0.29, 0.02),
            (0.25, 0.25, 0.29),
            bands(2, 0.145, [rose, cream, navy, cream]),
            *place(4, -1.0, 0.12, 0.29),
        ),
        Shape(
            sphere(0.17), (0.17, 0.17, 0.17), dots(0.17, sage, cream), *place(5, 0.1, -0.98, 0.17)
        ),
    ]


def _turned(angle: float) -> Tensor:
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def _tilted(angle: float) -> Tensor:
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]])


def draw(shapes: list[Shape], cameras: list[Camera], supersampling: int) -> tuple[Tensor, Tensor]:
    """Ray-trace the objects.

    Args:
        shapes: The objects.
        cameras: Of one size.
        supersampling: Rays a pixel along each axis, for colour and coverage.

    Returns:
        uint8 RGBA [n, H, W, 4] (straight alpha) and float32 depth [n, H, W].
    """
    width, height = cameras[0].width, cameras[0].height
    n_samples = supersampling * supersampling
    per_view = width * height * n_samples
    at_once = max(1, _RAYS_AT_ONCE // per_view)
    images, depths = [], []
    for start in range(0, len(cameras), at_once):
        batch = cameras[start : start + at_once]
        fine = [camera.resized(width * supersampling, height * supersampling) for camera in batch]
        colors = _draw_rays(shapes, *_stacked_rays(fine))
        colors = colors.view(len(batch), height, supersampling, width, supersampling, 4)
        images.append(_finish(colors.mean(dim=(2, 4))))
        depths.append(_draw_depth(shapes, batch))
    return torch.cat(images), torch.cat(depths)


def _stacked_rays(cameras: list[Camera]) -> tuple[Tensor, Tensor]:
    origins, directions = Camera.stack(cameras).rays()
    return origins.reshape(-1, 3), directions.reshape(-1, 3)


def _draw_rays(shapes: list[Shape], origins: Tensor, directions: Tensor) -> Tensor:
    """Give linear colours premultiplied by coverage, and coverage, [M, 4]."""
    distance, which = trace(shapes, origins, directions)
    hits = (which >= 0).nonzero()[:, 0]
    points = origins[hits] + distance[hits, None] * directions[hits]
    result = torch.zeros((len(origins), 4))
    # Averaging encoded colours keeps edges as a viewer, which blends encoded colours, shows them.
    result[hits, :3] = encode_srgb(shade(shapes, points, which[hits]))
    result[hits, 3] = 1.0
    return result


def _finish(premultiplied: Tensor) -> Tensor:
    alpha = premultiplied[..., 3:]
    straight = torch.cat((premultiplied[..., :3] / alpha.clamp(min=1e-6), alpha), dim=-1)
    return (straight * 255).round().to(torch.uint8)


def _draw_depth(shapes: list[Shape], cameras: list[Camera]) -> Tensor:
    origins, directions = _stacked_rays(cameras)
    distance, which = trace(shapes, origins, directions)
    shape = (len(cameras), cameras[0].height, cameras[0].width)
    forward = torch.stack([camera.world_to_camera[2, :3] for camera in cameras])
    along = (directions.view(*shape, 3) * forward[:, None, None]).sum(dim=-1)
    depth = torch.where(which >= 0, distance, 0.0).view(shape)
    return depth * along


def _sample_points(
    views: list[View], count: int, noise: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Pick visible surface points with their colours, the same number from each view."""
    points, colors = [], []
    for view in views:
        depth, image = view.depth, view.image
        if depth is None:
            continue
        # A pixel that objects cover in part has a mixed colour and may lie on a far edge.
        solid = ((depth > 0) & (image[..., 3] == 255)).nonzero()
        share = torch.randint(len(solid), (math.ceil(2 * count / len(views)),), generator=generator)
        row, column = solid[share].unbind(dim=-1)
        xy = torch.stack((column, row), dim=-1) + 0.5
        origins, directions = view.camera.rays(xy)
        along = directions @ view.camera.world_to_camera[2, :3]
        points.append(origins + directions * (depth[row, column] / along)[:, None])
        colors.append(image[row, column, :3])
    order = torch.randperm(sum(map(len, points)), generator=generator)[:count]
    exact = torch.cat(points)[order]
    return exact + noise * torch.randn(exact.shape, generator=generator), torch.cat(colors)[order]
