# SPDX-License-Identifier: Apache-2.0
"""Depth where matching found none: interpolated along the image's smooth parts, or a far shell.

Blank regions are mostly without texture: walls, tables, sky. Inverse depth x is continued into
them by the smoothest function that bends at the image's edges,

    sum_{i ~ j} w_ij (x_i - x_j)^2 + sum_{i known} c_i (x_i - 1 / z_i)^2  ->  min,
    w_ij = exp(-|I_i - I_j| / sigma) + a little,

solved by conjugate gradients on a reduced image (there is nothing fine in a blank region). Where
the other views look through such a guess, or show another colour there than at a far shell around
the scene, it is sky or background, and the shell takes its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...representations import Camera
from .geometry import bilinear, inside, lift, nearest

_LONGEST_SIDE = 128
_EDGE = 0.04
_LEAK = 1e-3
_DATA_WEIGHT = 4.0
_MAX_ITERATIONS = 60
_TOLERANCE = 1e-4
# Colours must fit this much better at the shell for a pixel to go there.
_MARGIN = 0.015
_LOOKED_THROUGH = 0.25


@dataclass(frozen=True)
class FillView:
    """One view as filling sees it, all maps of one reduced size.

    Args:
        camera: Of that size.
        rgb: float32 [h, w, 3].
        depth: float32 [h, w], measured; 0 where unknown.
        filled: float32 [h, w], interpolated everywhere; 0 everywhere if nothing was measured.
        allowed: bool [h, w], where there may be points.
        empty: bool [h, w], where the view sees that there is nothing.
    """

    camera: Camera
    rgb: Tensor
    depth: Tensor
    filled: Tensor
    allowed: Tensor
    empty: Tensor


def prepare_fill(
    camera: Camera,
    rgb: Tensor,
    depth: Tensor,
    confidence: Tensor,
    allowed: Tensor,
    empty: Tensor | None = None,
) -> FillView:
    """Reduces a view and interpolates its depth.

    Args:
        camera: The view's.
        rgb: float32 [H, W, 3] in [0, 1].
        depth: float32 [H, W], 0 where unknown.
        confidence: float32 [H, W] in [0, 1].
        allowed: bool [H, W], where there may be points.
        empty: bool [H, W], where the view sees that there is nothing; default nowhere.

    Returns:
        The reduced view.

    Example:
        >>> camera = Camera(torch.eye(4), torch.eye(3), 8, 8)
        >>> depth = torch.zeros(8, 8)
        >>> depth[:, :2] = 3.0
        >>> everywhere = torch.ones(8, 8, dtype=torch.bool)
        >>> view = prepare_fill(camera, torch.zeros(8, 8, 3), depth, (depth > 0) * 1.0, everywhere)
        >>> bool((view.filled - 3).abs().max() < 0.01)
        True
    """
    height, width = depth.shape
    factor = max(1.0, max(height, width) / _LONGEST_SIDE)
    size = (max(1, round(height / factor)), max(1, round(width / factor)))
    weight = confidence.where(depth > 0, 0.0)
    inverse = 1 / depth.where(depth > 0, 1.0)
    nothing = torch.zeros_like(weight) if empty is None else empty.to(weight)
    maps = torch.stack((weight, weight * inverse, allowed.to(weight), nothing, *rgb.unbind(-1)))
    small = F.interpolate(maps[None], size, mode="area")[0]
    share = small[0]
    known = small[1] / share.clamp(min=1e-12)
    guide = small[4:].permute(1, 2, 0)
    filled = _interpolate(known, share, guide)
    return FillView(
        camera.resized(size[1], size[0]),
        guide,
        (1 / known.clamp(min=1e-12)).where(share > 0.2, 0.0),
        (1 / filled.clamp(min=1e-12)).where(filled > 0, 0.0),
        small[2] > 0.5,
        small[3] > 0.99,
    )


def _interpolate(known: Tensor, share: Tensor, guide: Tensor) -> Tensor:
    """Inverse depth [h, w] everywhere, from `known` where `share` > 0."""
    if not bool((share > 0).any()):
        return torch.zeros_like(known)
    across = torch.exp(-(guide[:, 1:] - guide[:, :-1]).abs().sum(-1) / _EDGE) + _LEAK
    down = torch.exp(-(guide[1:] - guide[:-1]).abs().sum(-1) / _EDGE) + _LEAK
    data = _DATA_WEIGHT * share
    diagonal = data.clone()
    diagonal[:, 1:] += across
    diagonal[:, :-1] += across
    diagonal[1:] += down
    diagonal[:-1] += down

    def apply(x: Tensor) -> Tensor:
        out = data * x
        flow = across * (x[:, 1:] - x[:, :-1])
        out[:, 1:] += flow
        out[:, :-1] -= flow
        flow = down * (x[1:] - x[:-1])
        out[1:] += flow
        out[:-1] -= flow
        return out

    x = _pyramid_average(known, share)
    residual = data * known - apply(x)
    scaled = residual / diagonal
    direction = scaled.clone()
    energy = (residual * scaled).sum()
    target = _TOLERANCE**2 * float((data * known * known).sum())
    for _ in range(_MAX_ITERATIONS):
        if float(energy) <= target:
            break
        image = apply(direction)
        step = energy / (direction * image).sum().clamp(min=1e-30)
        x = x + step * direction
        residual = residual - step * image
        scaled = residual / diagonal
        following = (residual * scaled).sum()
        direction = scaled + following / energy.clamp(min=1e-30) * direction
        energy = following
    # The smoothest function stays between its data; what the last digits add does not.
    seen = known[share > 0]
    return x.clamp(float(seen.min()), float(seen.max()))


def _pyramid_average(known: Tensor, share: Tensor) -> Tensor:
    """Fills [h, w] with averages of coarser and coarser levels: where iterations start."""
    maps = torch.stack((share, share * known))[None]
    levels = [maps]
    while min(levels[-1].shape[-2:]) > 1:
        levels.append(F.avg_pool2d(levels[-1], 2, ceil_mode=True))
    levels.append(F.adaptive_avg_pool2d(levels[-1], 1))
    value = levels[-1][:, 1:] / levels[-1][:, :1].clamp(min=1e-12)
    for level in reversed(levels[:-1]):
        coarse = F.interpolate(value, level.shape[-2:], mode="nearest")
        # A level's own average counts by how much of it is known.
        value = (level[:, 1:] + 0.05 * coarse) / (level[:, :1] + 0.05)
    return value[0, 0]


def far_depth(camera: Camera, center: Tensor, radius: float) -> Tensor:
    """Gives the depth at which pixels meet a sphere around the scene.

    Args:
        camera: A single camera inside the sphere.
        center: [3].
        radius: World units.

    Returns:
        float32 [h, w] along the camera's z axis.

    Example:
        >>> camera = Camera(torch.eye(4), torch.eye(3), 1, 1)
        >>> far_depth(camera, torch.zeros(3), 2.0).shape
        torch.Size([1, 1])
    """
    origins, directions = camera.rays()
    away = origins - center.to(origins)
    half = (away * directions).sum(-1)
    root = (half.square() - away.square().sum(-1) + radius * radius).clamp(min=0).sqrt()
    along = (directions @ camera.world_to_camera[2, :3]).clamp(min=0.05)
    return (root - half) * along


def choose_far(view: FillView, others: Sequence[FillView], far: Tensor) -> tuple[Tensor, Tensor]:
    """Decides for each blank pixel whether its guess stands, or the shell does, or neither.

    Args:
        view: The view.
        others: Its neighbours.
        far: float32 [h, w], the shell's depth.

    Returns:
        bool [h, w] each: where the shell is the better guess, and where the other views look
        through the interpolated one.

    Example:
        >>> camera = Camera(torch.eye(4), torch.eye(3), 4, 4)
        >>> maps = torch.ones(4, 4)
        >>> view = FillView(camera, torch.zeros(4, 4, 3), maps, maps, maps > 0, maps < 0)
        >>> bool(choose_far(view, [view], 9 * maps)[0].any())
        False
    """
    blank = (view.depth == 0) & view.allowed
    pixels = blank.flatten().nonzero().squeeze(1)
    guess = view.filled.flatten()[pixels]
    near_cost, near_through = _cost(view, others, pixels, guess)
    far_cost, far_through = _cost(view, others, pixels, far.flatten()[pixels])
    contradicted = near_through > _LOOKED_THROUGH
    better = (far_cost + _MARGIN < near_cost) | (guess == 0)
    to_far = (better | contradicted) & (far_through <= _LOOKED_THROUGH)
    to_far_map, through_map = torch.zeros_like(blank), torch.zeros_like(blank)
    to_far_map.view(-1)[pixels] = to_far
    through_map.view(-1)[pixels] = contradicted
    return to_far_map, through_map


def _cost(
    view: FillView, others: Sequence[FillView], pixels: Tensor, depth: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean colour difference, and share of views that look through, of some pixels [M] each."""
    xy = view.camera.pixel_centers().view(-1, 2)[pixels]
    points = lift(view.camera, xy, depth.clamp(min=1e-12))
    colors = view.rgb.view(-1, 3)[pixels]
    cost, compared, through = depth.new_zeros(3, len(points))
    for other in others:
        position, z = other.camera.project(points)
        surface = nearest(other.depth, position)
        seen = inside(other.camera, position, z) & nearest(other.allowed, position)
        hidden = (surface > 0) & (surface < 0.95 * z)
        nothing = inside(other.camera, position, z) & nearest(other.empty, position)
        past = (seen & (surface > 1.1 * z)) | nothing
        fair = seen & ~hidden & ~past
        difference = (bilinear(other.rgb, position) - colors).abs().mean(-1)
        cost += difference.where(fair, 0.0)
        compared += fair
        through += past
    mean = (cost + 0.05) / (compared + 1)
    return mean, through / (compared + through).clamp(min=1)
