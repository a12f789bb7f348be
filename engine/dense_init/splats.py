# SPDX-License-Identifier: Apache-2.0
"""From points on surfaces to Gaussians: flat ellipsoids that tile the surface as their cells tile
the image.

A point stands for a cell of side s pixels, seen from a camera at depth z with focal length f, on a
surface tilted by an angle t against the line of sight:

    standard deviation across the tilt   scale_factor * s z / f
    along the tilt                       the same / cos t, at most three times it
    along the normal                     flatness * that across the tilt

The rotation's columns are these three directions. The EDGS rule, 0.0005 times the distance to the
reference camera in all directions, is the alternative.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...representations import Gaussians3D, matrix_to_quaternion, nearest_neighbour_distances

# The most that a tilted cell is stretched along its tilt.
_MAX_STRETCH = 3.0
# Half the distance to a reference camera times 0.001.
EDGS_SCALE = 0.0005
# Distances to neighbours may shrink or widen the cell's own size by this much.
_SPACING_RANGE = (0.6, 1.6)


@dataclass(frozen=True)
class SurfacePoints:
    """Points and what is known of the surface around them.

    Args:
        points: float32 [N, 3].
        normal: float32 [N, 3], unit, towards the reference camera.
        tilt: float32 [N], cosine between normal and line of sight.
        sight: float32 [N, 3], unit, from the point to the reference camera.
        distance: float32 [N], to the reference camera.
        spacing: float32 [N], side of the cell in the world.
        confidence: float32 [N] in [0, 1].
        kind: int64 [N], one of `MATCHED`, `SPARSE`, `INTERPOLATED`, `FAR`.
        view: int64 [N], the reference view's number.
    """

    points: Tensor
    normal: Tensor
    tilt: Tensor
    sight: Tensor
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
    scale_factor: float = 0.55
    flatness: float = 0.15
    opacity: float = 0.95
    guess_opacity: float = 0.6


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
        >>> up = torch.tensor([[0.0, 0.0, 1.0]])
        >>> kind = torch.tensor([MATCHED])
        >>> surface = SurfacePoints(0 * up, up, one, up, one, 0.1 * one, one, kind, kind)
        >>> make_splats(surface, torch.zeros(1, 1, 3), SplatStyle()).scales[0].detach()
        tensor([0.0550, 0.0550, 0.0083])
    """
    if style.scale == "distance":
        scales = (EDGS_SCALE * surface.distance)[:, None].expand(-1, 3)
    else:
        scales = _surface_scales(surface, style)
    opacity = _opacities(surface, style)
    return Gaussians3D(
        surface.points,
        matrix_to_quaternion(_surface_axes(surface)),
        scales.clamp(min=1e-12).log(),
        torch.logit(opacity),
        sh[:, :1].contiguous(),
        sh[:, 1:].contiguous(),
    )


def _surface_scales(surface: SurfacePoints, style: SplatStyle) -> Tensor:
    spacing = surface.spacing
    # Neighbours tell where merging has left less, or more, room than the cell.
    if len(surface) > 4:
        near = nearest_neighbour_distances(surface.points, k=4)
        room = near.square().mean(-1).sqrt() / spacing.clamp(min=1e-12)
        low, high = _SPACING_RANGE
        spacing = spacing * room.clamp(low, high)
    width = style.scale_factor * spacing
    stretch = (1 / surface.tilt.clamp(min=1 / _MAX_STRETCH)).clamp(max=_MAX_STRETCH)
    return torch.stack((width * stretch, width, style.flatness * width), dim=-1)


def _surface_axes(surface: SurfacePoints) -> Tensor:
    """Rotations [N, 3, 3]: columns along the tilt, across it, and the normal."""
    normal = surface.normal
    along = surface.sight - (surface.sight * normal).sum(-1, keepdim=True) * normal
    # A surface that faces the camera has no tilt: any direction in it will do.
    axis = torch.zeros_like(normal).scatter_(1, normal.abs().argmin(-1, keepdim=True), 1.0)
    spare = torch.linalg.cross(normal, axis)
    along = torch.where(along.norm(dim=-1, keepdim=True) > 1e-3, along, spare)
    along = along / along.norm(dim=-1, keepdim=True)
    across = torch.linalg.cross(normal, along)
    return torch.stack((along, across, normal), dim=-1)


def _opacities(surface: SurfacePoints, style: SplatStyle) -> Tensor:
    sure = style.opacity * (0.5 + 0.5 * surface.confidence)
    guess = torch.full_like(sure, style.guess_opacity)
    return torch.where(surface.kind == INTERPOLATED, guess, sure).clamp(0.01, 0.99)
