# SPDX-License-Identifier: Apache-2.0
"""From points on surfaces to Gaussians: flat ellipsoids that tile the surface as their cells tile
the image.

A point stands for a cell of side s pixels. T = dX/d(x, y) [3, 2] carries steps in the image to
steps on the tangent plane of the surface, and E [2, 2] is the cell's shape: longer along the edges
of the image by a factor a, shorter across by 1 / a, so that splats do not smear what differs. With
the singular values of s T E = U diag(l) V^T,

    standard deviations    scale_factor * l, and flatness * the smaller along the normal
    rotation               columns u_1, u_2 and the normal

The singular values are kept within a factor of s z / f. The EDGS rule, 0.0005 times the distance to
the reference camera in all directions, is the alternative.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...representations import Gaussians3D, matrix_to_quaternion, nearest_neighbour_distances

# The most that a tilted cell is stretched along its tilt, and that an edge squeezes it.
_MAX_STRETCH = 2.5
# Half the distance to a reference camera times 0.001.
EDGS_SCALE = 0.0005
# Distances to neighbours may shrink or widen the cell's own size by this much.
_SPACING_RANGE = (0.9, 1.3)


@dataclass(frozen=True)
class SurfacePoints:
    """Points and what is known of the surface around them.

    Args:
        points: float32 [N, 3].
        normal: float32 [N, 3], unit, towards the reference camera.
        frame: float32 [N, 3, 2], the cell's two half axes carried to the surface, world units.
        distance: float32 [N], to the reference camera.
        spacing: float32 [N], side of the cell in the world.
        confidence: float32 [N] in [0, 1].
        kind: int64 [N], one of `MATCHED`, `SPARSE`, `INTERPOLATED`, `FAR`.
        view: int64 [N], the reference view's number.
    """

    points: Tensor
    normal: Tensor
    frame: Tensor
    distance: Tensor
    spacing: Tensor
    confidence: Tensor
    kind: Tensor
    view: Tensor

    def __len__(self) -> int:
        return len(self.points)

    def select(self, index: Tensor) -> SurfacePoints:
        """Takes some of the points."""
        return SurfacePoints(*(getattr(self, name)[index] for name in self.__dataclass_fields__))

    @staticmethod
    def join(parts: list[SurfacePoints]) -> SurfacePoints:
        """Joins at least one set."""
        names = SurfacePoints.__dataclass_fields__
        return SurfacePoints(*(torch.cat([getattr(p, name) for p in parts]) for name in names))


MATCHED, SPARSE, INTERPOLATED, FAR = 1, 2, 3, 4


@dataclass(frozen=True)
class SplatStyle:
    """How points become splats.

    Args:
        scale: "spacing", from the cells and the distances to neighbours; or "distance", the EDGS
            rule.
        scale_factor: Standard deviation over spacing.
        flatness: Thickness along the normal over the width.
        opacity: Of a point that all views confirm.
        guess_opacity: Of interpolated points.
    """

    scale: str = "spacing"
    scale_factor: float = 0.47
    flatness: float = 0.15
    opacity: float = 0.98
    guess_opacity: float = 0.9


def make_splats(surface: SurfacePoints, sh: Tensor, style: SplatStyle) -> Gaussians3D:
    """Makes the Gaussians.

    Args:
        surface: N points.
        sh: float32 [N, K, 3] spherical-harmonic coefficients.
        style: How.

    Returns:
        N Gaussians.

    Example:
        >>> one = torch.ones(1)
        >>> axes = torch.eye(3)[None]
        >>> kind = torch.tensor([MATCHED])
        >>> surface = SurfacePoints(
        ...     axes[:, 0], axes[:, 2], 0.1 * axes[..., :2], one, 0.1 * one, one, kind, kind)
        >>> make_splats(surface, torch.zeros(1, 1, 3), SplatStyle()).scales[0].detach()
        tensor([0.0470, 0.0470, 0.0071])
    """
    axes, scales = surface_axes(surface)
    if style.scale == "distance":
        scales = (EDGS_SCALE * surface.distance)[:, None].expand(-1, 3)
    else:
        scales = style.scale_factor * room_factor(surface)[:, None] * scales
        scales = torch.cat((scales, style.flatness * scales.amin(-1, keepdim=True)), dim=-1)
    return Gaussians3D(
        surface.points,
        matrix_to_quaternion(axes),
        scales.clamp(min=1e-12).log(),
        torch.logit(_opacities(surface, style)),
        sh[:, :1].contiguous(),
        sh[:, 1:].contiguous(),
    )


def room_factor(surface: SurfacePoints) -> Tensor:
    """Gives how much room neighbours leave each point, over the size of its cell.

    Merging leaves less than the cell, or more.

    Args:
        surface: N points.

    Returns:
        float32 [N], within 0.9 to 1.3: wider than needed is better than a hole.
    """
    if len(surface) <= 4:
        return torch.ones_like(surface.spacing)
    near = nearest_neighbour_distances(surface.points, k=4)
    room = near.square().mean(-1).sqrt() / surface.spacing.clamp(min=1e-12)
    return room.clamp(*_SPACING_RANGE)


def surface_axes(surface: SurfacePoints) -> tuple[Tensor, Tensor]:
    """Gives the principal axes of the cells on the surface.

    Args:
        surface: N points.

    Returns:
        Rotations [N, 3, 3], whose columns are the longer axis, the shorter and the normal; and the
        half axes' lengths [N, 2], limited to `_MAX_STRETCH` times the spacing either way.
    """
    first, second = surface.frame.unbind(-1)
    # Rotating the pair by this angle makes it orthogonal: the right singular vectors of [3, 2].
    twice = torch.atan2(
        2 * (first * second).sum(-1), first.square().sum(-1) - second.square().sum(-1)
    )
    cos, sin = (0.5 * twice).cos()[:, None], (0.5 * twice).sin()[:, None]
    longer, shorter = cos * first + sin * second, cos * second - sin * first
    lengths = torch.stack((longer.norm(dim=-1), shorter.norm(dim=-1)), dim=-1)
    size = surface.spacing[:, None]
    lengths = lengths.clamp(min=size / _MAX_STRETCH, max=size * _MAX_STRETCH)
    normal = surface.normal
    along = longer - (longer * normal).sum(-1, keepdim=True) * normal
    # A cell without extent has no direction: any in the surface will do.
    axis = torch.zeros_like(normal).scatter_(1, normal.abs().argmin(-1, keepdim=True), 1.0)
    usable = along.norm(dim=-1, keepdim=True) > 1e-6 * size
    along = torch.where(usable, along, torch.linalg.cross(normal, axis))
    along = along / along.norm(dim=-1, keepdim=True)
    rotation = torch.stack((along, torch.linalg.cross(normal, along), normal), dim=-1)
    return rotation, lengths


def _opacities(surface: SurfacePoints, style: SplatStyle) -> Tensor:
    sure = style.opacity * (0.5 + 0.5 * surface.confidence)
    guess = torch.full_like(sure, style.guess_opacity)
    return torch.where(surface.kind == INTERPOLATED, guess, sure).clamp(0.01, 0.99)
