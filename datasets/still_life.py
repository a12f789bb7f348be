# SPDX-License-Identifier: Apache-2.0
"""The objects of the synthetic scene: their shapes, their textures, and how light falls on them.

A shape is a signed distance function in its own frame with a box around it. Rays enter the box and
step by the distance (sphere tracing, Hart 1996) until they touch. The same march towards the light
gives soft shadows: the nearest miss relative to the way gone is how much of the lamp a point sees.
Textures are functions of the position in the object's frame, so nothing depends on the direction of
view: what is drawn is Lambertian.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

_HIT = 2e-5
_MARCH_STEPS = 64
_SHADOW_STEPS = 20
_SHADOW_REACH = 0.12
_LIGHT = torch.nn.functional.normalize(torch.tensor([0.75, -0.6, 0.9]), dim=0)
# Radius of the lamp over its distance: the width of the penumbra.
_LAMP = 0.12
_SUN = torch.tensor([1.0, 0.94, 0.84]) * 1.0
_SKY = torch.tensor([0.80, 0.89, 1.0]) * 0.42
_FLOOR_BOUNCE = torch.tensor([1.0, 0.82, 0.66]) * 0.16


@dataclass(frozen=True)
class Shape:
    """One object: where it stands, its distance function and its texture.

    Args:
        distance: From points [M, 3] in the object's frame to signed distances [M].
        half_size: Half the extents [3] of a box around it, in its own frame.
        texture: From points [M, 3] on it, in its own frame, to linear colours [M, 3].
        center: [3] in the world.
        rotation: [3, 3] from the object's frame to the world's.
    """

    distance: Callable[[Tensor], Tensor]
    half_size: tuple[float, float, float]
    texture: Callable[[Tensor], Tensor]
    center: tuple[float, float, float]
    rotation: Tensor = field(default_factory=lambda: torch.eye(3))

    def local(self, points: Tensor) -> Tensor:
        """Take world points [M, 3] to the object's frame."""
        return (points - points.new_tensor(self.center)) @ self.rotation

    def box_span(self, origins: Tensor, directions: Tensor, margin: float) -> tuple[Tensor, Tensor]:
        """Give where rays in the object's frame enter and leave its box; enter > leave: a miss."""
        half = origins.new_tensor(self.half_size) + margin
        inverse = 1.0 / torch.where(directions.abs() < 1e-9, 1e-9, directions)
        middle = -origins * inverse
        reach = half * inverse.abs()
        enter = (middle - reach).amax(dim=-1).clamp(min=0.0)
        return enter, (middle + reach).amin(dim=-1)


# -- distance functions, each centred on the origin ------------------------------------------------


def sphere(radius: float) -> Callable[[Tensor], Tensor]:
    """Give the distance to a ball."""
    return lambda p: p.norm(dim=-1) - radius


def rounded_box(half: float, rounding: float) -> Callable[[Tensor], Tensor]:
    """Give the distance to a cube with rounded edges."""

    def distance(p: Tensor) -> Tensor:
        q = p.abs() - (half - rounding)
        return q.clamp(min=0).norm(dim=-1) + q.amax(dim=-1).clamp(max=0) - rounding

    return distance


def rounded_cylinder(radius: float, half: float, rounding: float) -> Callable[[Tensor], Tensor]:
    """Give the distance to an upright cylinder with rounded rims."""

    def distance(p: Tensor) -> Tensor:
        across = p[:, :2].norm(dim=-1) - (radius - rounding)
        along = p[:, 2].abs() - (half - rounding)
        outside = torch.hypot(across.clamp(min=0), along.clamp(min=0))
        return outside + torch.maximum(across, along).clamp(max=0) - rounding

    return distance


def torus(radius: float, tube: float) -> Callable[[Tensor], Tensor]:
    """Give the distance to a ring that lies in the xy plane."""
    return lambda p: torch.hypot(p[:, :2].norm(dim=-1) - radius, p[:, 2]) - tube


def cone(radius: float, half: float, rounding: float) -> Callable[[Tensor], Tensor]:
    """Give the distance to an upright cone with a rounded tip and rim."""
    base, top = radius - rounding, half - rounding
    slope = math.hypot(base, 2 * top)
    normal_across, normal_along = 2 * top / slope, base / slope

    def distance(p: Tensor) -> Tensor:
        across = p[:, :2].norm(dim=-1)
        z = p[:, 2]
        # Nearest point on the slanted side and on the base, in the half plane (across, z).
        share = ((top - z) * 2 * top + across * base) / (slope * slope)
        share = share.clamp(0, 1)
        side = torch.hypot(across - share * base, z - (top - share * 2 * top))
        bottom = torch.hypot((across - base).clamp(min=0), z + top)
        inside = torch.maximum(across * normal_across + (z - top) * normal_along, -top - z)
        outside = torch.minimum(side, bottom)
        return torch.where(inside < 0, inside, outside) - rounding

    return distance


# -- seeing and lighting ---------------------------------------------------------------------------


def trace(shapes: list[Shape], origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Find the first object along each ray.

    Args:
        shapes: The objects.
        origins: [M, 3].
        directions: [M, 3], unit.

    Returns:
        Distance [M] (inf if nothing is met) and the object's number, int64 [M] (-1 if nothing).
    """
    nearest = torch.full((len(origins),), math.inf)
    which = torch.full((len(origins),), -1, dtype=torch.int64)
    for number, shape in enumerate(shapes):
        local_origins, local_directions = shape.local(origins), directions @ shape.rotation
        enter, leave = shape.box_span(local_origins, local_directions, 0.0)
        rays = ((enter <= leave) & (enter < nearest)).nonzero()[:, 0]
        hit = _march(
            shape.distance, local_origins[rays], local_directions[rays], enter[rays], leave[rays]
        )
        closer = hit < nearest[rays]
        nearest[rays[closer]] = hit[closer]
        which[rays[closer]] = number
    return nearest, which


def _march(
    distance: Callable[[Tensor], Tensor],
    origins: Tensor,
    directions: Tensor,
    enter: Tensor,
    leave: Tensor,
) -> Tensor:
    result = torch.full_like(enter, math.inf)
    rays = torch.arange(len(enter))
    way = enter.clone()
    for _ in range(_MARCH_STEPS):
        step = distance(origins + way[:, None] * directions)
        touches = step < _HIT
        result[rays[touches]] = way[touches]
        way = way + step
        going = (~touches & (way <= leave + _HIT)).nonzero()[:, 0]
        if not len(going):
            break
        rays, way, leave = rays[going], way[going], leave[going]
        origins, directions = origins[going], directions[going]
    return result


def shade(shapes: list[Shape], points: Tensor, which: Tensor) -> Tensor:
    """Give the light that leaves surface points.

    Args:
        shapes: The objects.
        points: [M, 3] on their surfaces.
        which: int64 [M], the object each lies on.

    Returns:
        Linear colours [M, 3].
    """
    normals, albedo = torch.empty_like(points), torch.empty_like(points)
    for number, shape in enumerate(shapes):
        own = (which == number).nonzero()[:, 0]
        local = shape.local(points[own])
        normals[own] = _normals(shape.distance, local) @ shape.rotation.T
        albedo[own] = shape.texture(local)
    lifted = points + 2e-3 * normals
    facing = (normals @ _LIGHT).clamp(min=0)
    lit = torch.zeros_like(facing)
    towards = (facing > 0).nonzero()[:, 0]
    lit[towards] = facing[towards] * _lamp_seen(shapes, lifted[towards])
    open_sky = _openness(shapes, points, normals)
    up = 0.5 + 0.5 * normals[:, 2]
    ambient = open_sky[:, None] * (up[:, None] * _SKY + (1 - up)[:, None] * _FLOOR_BOUNCE)
    return albedo * (lit[:, None] * _SUN + ambient)


def _normals(distance: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    """Differentiate a distance function with a tetrahedron of four samples."""
    corners = points.new_tensor([[1, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]])
    total = torch.zeros_like(points)
    for corner in corners:
        total += corner * distance(points + 1e-3 * corner)[:, None]
    return torch.nn.functional.normalize(total, dim=-1)


def _lamp_seen(shapes: list[Shape], points: Tensor) -> Tensor:
    """Give the share [M] of the lamp that points see past all objects."""
    seen = torch.ones(len(points))
    for shape in shapes:
        origins = shape.local(points)
        direction = _LIGHT @ shape.rotation
        enter, leave = shape.box_span(origins, direction.expand_as(origins), _SHADOW_REACH)
        rays = ((enter < leave) & (seen > 0)).nonzero()[:, 0]
        start, end = enter[rays].clamp(min=1e-3), leave[rays]
        way, free = start, torch.ones(len(rays))
        for _ in range(_SHADOW_STEPS):
            gap = shape.distance(origins[rays] + way[:, None] * direction)
            # The cone from the point to the lamp, at this way, is _LAMP * way wide on each side.
            free = torch.where(way <= end, torch.minimum(free, gap / (_LAMP * way)), free)
            way = way + gap.clamp(min=5e-3, max=0.15)
        free = free.clamp(-1, 1)
        # The lamp is a disc: the share of it beside a straight edge is nearly this smooth step.
        seen[rays] *= 0.5 + 0.75 * free - 0.25 * free**3
    return seen.clamp(min=0)


def _openness(shapes: list[Shape], points: Tensor, normals: Tensor) -> Tensor:
    """Give how little of the sky is hidden near each point, [M] in [0, 1]."""
    hidden = torch.zeros(len(points))
    for reach, weight in ((0.03, 0.9), (0.1, 0.7), (0.24, 0.5)):
        probe = points + reach * normals
        gap = torch.full((len(points),), reach)
        for shape in shapes:
            local = shape.local(probe)
            half = local.new_tensor(shape.half_size) + reach
            near = (local.abs() < half).all(dim=-1).nonzero()[:, 0]
            gap[near] = torch.minimum(gap[near], shape.distance(local[near]))
        hidden += weight * (1 - gap.clamp(min=0) / reach) / 2.1
    return 1 - 0.85 * hidden
