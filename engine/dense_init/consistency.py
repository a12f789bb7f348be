# SPDX-License-Identifier: Apache-2.0
"""Whether the depths of several views agree: each pixel of one view is looked up in the others.

Pixel p of view a has depth d. Its point X falls on pixel q of view b at depth z. View b has depth
d' there, whose point falls back on p' in view a. Then

    |p' - p| small         view b confirms the point;
    d' clearly beyond z    view b looks through the point: one of the two is wrong;
    d' clearly before z    something may stand in front: says nothing;
    q is transparent       view b looks through the point, into nothing.

How far p' is from p is the reprojection error, in pixels, whatever the units of the world.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...representations import Camera
from .geometry import inside, lift, nearest

# Depths that differ by less than this, relative, are one surface even where the baseline is so
# long that the reprojection error exceeds its limit; those that differ by more are two even where
# the baseline is so short that it does not.
_SAME_SURFACE = 0.005
_OTHER_SURFACE = 0.1


@dataclass(frozen=True)
class DepthEstimate:
    """What is known of the depth that one view sees.

    Args:
        camera: The view's.
        depth: float32 [H, W] along the camera's z axis, 0 where unknown.
        confidence: float32 [H, W] in [0, 1].
        normal: float32 [H, W, 3] in the camera's axes; or None.
        empty: bool [H, W], where the view sees that there is nothing (transparent pixels); or None.
    """

    camera: Camera
    depth: Tensor
    confidence: Tensor
    normal: Tensor | None = None
    empty: Tensor | None = None


@dataclass(frozen=True)
class Agreement:
    """What the other views say of each pixel's depth.

    Args:
        confirmed: float32 [H, W], how many views confirm it, each weighted by
            exp(-error^2 / (2 max_error^2)).
        denied: float32 [H, W], how many look through it.
        known: float32 [H, W], how many have a depth where it falls.
    """

    confirmed: Tensor
    denied: Tensor
    known: Tensor

    @property
    def score(self) -> Tensor:
        """The share of confirmation, [H, W] in [0, 1]; 0.5 where no view knows."""
        return (self.confirmed + 0.5) / (self.confirmed + self.denied + 1.0)


def cross_check(
    estimate: DepthEstimate, others: Sequence[DepthEstimate], max_error: float = 1.0
) -> Agreement:
    """Checks one view's depths against those of other views.

    Args:
        estimate: The view's.
        others: Those to compare with; none is fine.
        max_error: Reprojection error up to which a view confirms, pixels; default 1.

    Returns:
        The agreement of each pixel; zero where the depth is unknown.

    Example:
        >>> camera = Camera(torch.eye(4), torch.eye(3), 4, 4)
        >>> estimate = DepthEstimate(camera, torch.ones(4, 4), torch.ones(4, 4))
        >>> float(cross_check(estimate, [estimate]).confirmed.mean())
        1.0
    """
    shape = estimate.depth.shape
    pixels = (estimate.depth > 0).flatten().nonzero().squeeze(1)
    xy = estimate.camera.pixel_centers().view(-1, 2)[pixels]
    points = lift(estimate.camera, xy, estimate.depth.flatten()[pixels])
    tallies = estimate.depth.new_zeros(3, len(pixels))
    for other in others:
        tallies += torch.stack(_vote(estimate.camera, xy, points, other, max_error))
    maps = estimate.depth.new_zeros(3, shape.numel())
    maps[:, pixels] = tallies
    return Agreement(*maps.view(3, *shape))


def _vote(
    camera: Camera, xy: Tensor, points: Tensor, other: DepthEstimate, max_error: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gives what another view says of points: confirmed, denied, known, [M] each."""
    position, depth = other.camera.project(points)
    there = nearest(other.depth, position)
    known = inside(other.camera, position, depth) & (there > 0)
    back, _ = camera.project(lift(other.camera, position, there.where(known, 1.0)))
    error = (back - xy).norm(dim=-1)
    gap = (there - depth) / depth.clamp(min=1e-12)
    weight = torch.exp(-0.5 * (error / max_error).square())
    weight = weight.clamp(min=0.6).where(gap.abs() < _SAME_SURFACE, weight)
    same = known & (weight >= 0.6) & (gap.abs() < _OTHER_SURFACE)
    through = known & ~same & (gap > 0)
    if other.empty is not None:
        nothing = inside(other.camera, position, depth) & nearest(other.empty, position)
        through, known = through | nothing, known | nothing
        same = same & ~nothing
    return weight.where(same, 0.0), through.to(weight), known.to(weight)


def visible(estimate: DepthEstimate, points: Tensor, tolerance: Tensor | float = 0.02) -> Tensor:
    """Tells which points a view sees, by its depths.

    Args:
        estimate: The view's; where its depth is unknown, points count as seen.
        points: [M, 3].
        tolerance: How far behind the surface that the view sees, relative, a point is still on it;
            a number or [M].

    Returns:
        bool [M].

    Example:
        >>> camera = Camera(torch.eye(4), torch.eye(3), 4, 4)
        >>> estimate = DepthEstimate(camera, torch.ones(4, 4), torch.ones(4, 4))
        >>> visible(estimate, torch.tensor([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]])).tolist()
        [True, False]
    """
    position, depth = estimate.camera.project(points)
    surface = nearest(estimate.depth, position)
    hidden = (surface > 0) & (depth > surface * (1 + tolerance))
    return inside(estimate.camera, position, depth) & ~hidden
