# SPDX-License-Identifier: Apache-2.0
"""What the views show of points: which of them see each, and with what colour."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .colour import ColourFit
from .consistency import visible
from .geometry import bilinear, nearest, pixel_size
from .splats import INTERPOLATED, SurfacePoints
from .view_maps import ViewMaps

_POINTS_AT_ONCE = 1 << 16
# Colours this far from the reference's are of something else: a moving thing, a wrong point.
_OTHER_COLOR = 0.15
_SAME_SURFACE = 0.02
_SAME_GUESS = 0.15
_LEVELS = 3


def fit_colours(
    surface: SurfacePoints,
    maps: Sequence[ViewMaps],
    degree: int,
    done: Callable[[int, str], None] = lambda count, name: None,
) -> Tensor:
    """Fits the points' spherical harmonics to all views that see them.

    A view counts by its agreement with the reference view's colour, w = 1 / (1 + (d / 0.15)^2)^2
    at a difference d, so that what moves, or hides a point unnoticed, does not tint it.

    Args:
        surface: N points.
        maps: The views, numbered as `surface.view` has it.
        degree: Of the harmonics.
        done: Called with the number of views done and the name of the last.

    Returns:
        float32 [N, (degree + 1)^2, 3].
    """
    pyramids = (_pyramid(m) for m in maps)
    fits = [
        ColourFit(len(part), degree, device=surface.points.device)
        for part in surface.points.split(_POINTS_AT_ONCE)
    ]
    own = _reference_colors(surface, maps)
    for count, (view, pyramid) in enumerate(zip(maps, pyramids), start=1):
        index, directions, colors = _seen(surface, view, pyramid)
        difference = (colors - own[index]).abs().mean(-1)
        weights = (1 + (difference / _OTHER_COLOR).square()).pow(-2)
        for number, fit in enumerate(fits):
            here = index // _POINTS_AT_ONCE == number
            local = index[here] - number * _POINTS_AT_ONCE
            fit.add(local, directions[here], colors[here], weights[here])
        done(count, view.view.name)
    return torch.cat([fit.solve() for fit in fits])


def _reference_colors(surface: SurfacePoints, maps: Sequence[ViewMaps]) -> Tensor:
    colors = torch.zeros_like(surface.points)
    for number, view in enumerate(maps):
        mine = (surface.view == number).nonzero().squeeze(1)
        xy, _ = view.estimate.camera.project(surface.points[mine])
        colors[mine] = bilinear(_pyramid(view, 1)[0], xy)
    return colors


def _seen(
    surface: SurfacePoints, maps: ViewMaps, pyramid: list[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """The points [M] that a view sees, the directions to them and their colours, [M, 3] each."""
    estimate = maps.estimate
    camera = estimate.camera
    xy, z = camera.project(surface.points)
    guess = (surface.kind >= INTERPOLATED) | (nearest(maps.kind, xy) >= INTERPOLATED)
    tolerance = torch.where(guess, _SAME_GUESS, _SAME_SURFACE)
    seen = visible(estimate, surface.points, tolerance) & nearest(maps.allowed, xy)
    index = seen.nonzero().squeeze(1)
    xy, z = xy[index], z[index]
    directions = surface.points[index] - camera.center
    footprint = surface.spacing[index] / pixel_size(camera, z)
    level = footprint.clamp(min=1).log2().sub(0.5).round().clamp(0, len(pyramid) - 1).long()
    colors = torch.zeros_like(directions)
    for number, image in enumerate(pyramid):
        mine = level == number
        colors[mine] = bilinear(image, xy[mine] / (1 << number))
    return index, directions, colors


def _pyramid(maps: ViewMaps, n_levels: int = _LEVELS) -> list[Tensor]:
    """The image and its halves, float32 [h, w, 3]; transparent pixels take no part."""
    image = maps.view.image.to(maps.kind.device).float() / 255
    weight = image[..., 3:] if image.shape[-1] == 4 else torch.ones_like(image[..., :1])
    stack = torch.cat((image[..., :3] * weight, weight), dim=-1).permute(2, 0, 1)[None]
    levels = []
    for number in range(n_levels):
        if number:
            if min(stack.shape[-2:]) < 4:
                break
            stack = F.avg_pool2d(stack, 2, ceil_mode=True, count_include_pad=False)
        planes = stack[0].permute(1, 2, 0)
        levels.append(planes[..., :3] / planes[..., 3:].clamp(min=1e-3))
    return levels
