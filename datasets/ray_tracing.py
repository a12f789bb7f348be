# SPDX-License-Identifier: Apache-2.0
"""Draws shapes: finds what rays meet, and how light falls there.

Rays enter a shape's box and step by its distance (sphere tracing, Hart 1996) until they touch. The
same march towards the light gives soft shadows: the nearest miss relative to the way gone is how
much of the lamp a point sees. Textures are functions of the position in the object's frame, so
nothing depends on the direction of view: what is drawn is Lambertian.
"""

from __future__ import annotations

import math

import numpy as np

from .shapes import Array, Distance, Shape, column, norm, turned

_HIT = 2e-5
_MARCH_STEPS = 64
_SHADOW_STEPS = 20
_SHADOW_REACH = 0.12
_LIGHT = np.array([0.75, -0.6, 0.9], np.float32) / np.float32(math.hypot(0.75, 0.6, 0.9))
# Radius of the lamp over its distance: the width of the penumbra.
_LAMP = 0.12
_SUN = np.array([1.0, 0.94, 0.84], np.float32)
_SKY = np.array([0.80, 0.89, 1.0], np.float32) * 0.42
_FLOOR_BOUNCE = np.array([1.0, 0.82, 0.66], np.float32) * 0.16
_TETRAHEDRON = ((1, -1, -1), (-1, -1, 1), (-1, 1, -1), (1, 1, 1))


def trace(shapes: list[Shape], origins: Array, directions: Array) -> tuple[Array, Array]:
    """Find the first object along each ray.

    Args:
        shapes: The objects.
        origins: float32 [3, M].
        directions: float32 [3, M], unit.

    Returns:
        Distance float32 [M] (inf if nothing is met) and the object's number, int64 [M] (-1 if
        nothing).
    """
    nearest = np.full(origins.shape[1], np.inf, np.float32)
    which = np.full(origins.shape[1], -1, np.int64)
    for number, shape in enumerate(shapes):
        local_origins = shape.local(origins)
        local_directions = turned(shape.rotation.T, directions)
        enter, leave = shape.box_span(local_origins, local_directions, 0.0)
        rays = np.nonzero((enter <= leave) & (enter < nearest))[0]
        hit = _march(
            shape.distance,
            local_origins[:, rays],
            local_directions[:, rays],
            enter[rays],
            leave[rays],
        )
        closer = hit < nearest[rays]
        nearest[rays[closer]] = hit[closer]
        which[rays[closer]] = number
    return nearest, which


def _march(
    distance: Distance, origins: Array, directions: Array, enter: Array, leave: Array
) -> Array:
    result = np.full(len(enter), np.inf, np.float32)
    rays, way = np.arange(len(enter)), enter
    for _ in range(_MARCH_STEPS):
        step = distance(origins + way * directions)
        touches = step < _HIT
        result[rays[touches]] = way[touches]
        way = way + step
        going = np.nonzero(~touches & (way <= leave + _HIT))[0]
        if not len(going):
            break
        rays, way, leave = rays[going], way[going], leave[going]
        origins, directions = origins[:, going], directions[:, going]
    return result


def shade(shapes: list[Shape], points: Array, which: Array) -> Array:
    """Give the light that leaves surface points.

    Args:
        shapes: The objects.
        points: float32 [3, M] on their surfaces.
        which: int64 [M], the object each lies on.

    Returns:
        Linear colours float32 [3, M].
    """
    normals, albedo = np.empty_like(points), np.empty_like(points)
    for number, shape in enumerate(shapes):
        own = np.nonzero(which == number)[0]
        if len(own):
            local = shape.local(points[:, own])
            normals[:, own] = turned(shape.rotation, _normals(shape.distance, local))
            albedo[:, own] = shape.texture(local)
    lifted = points + np.float32(2e-3) * normals
    lit = np.maximum(sum(normal * light for normal, light in zip(normals, _LIGHT)), 0)
    towards = np.nonzero(lit > 0)[0]
    lit[towards] *= _lamp_seen(shapes, lifted[:, towards])
    up = 0.5 + 0.5 * normals[2]
    ambient = up * column(_SKY) + (1 - up) * column(_FLOOR_BOUNCE)
    return albedo * (lit * column(_SUN) + _openness(shapes, points, normals) * ambient)


def _normals(distance: Distance, points: Array) -> Array:
    """Differentiate a distance function with a tetrahedron of four samples."""
    total = np.zeros_like(points)
    for corner in _TETRAHEDRON:
        offset = column(corner)
        total += offset * distance(points + np.float32(1e-3) * offset)
    return total / norm(*total)


def _lamp_seen(shapes: list[Shape], points: Array) -> Array:
    """Give the share [M] of the lamp that points see past all objects."""
    seen = np.ones(points.shape[1], np.float32)
    for shape in shapes:
        origins = shape.local(points)
        direction = turned(shape.rotation.T, column(_LIGHT))
        enter, leave = shape.box_span(origins, direction, _SHADOW_REACH)
        rays = np.nonzero((enter < leave) & (seen > 0))[0]
        if not len(rays):
            continue
        origins, end = origins[:, rays], leave[rays]
        way = np.maximum(enter[rays], np.float32(1e-3))
        free = np.ones(len(rays), np.float32)
        for _ in range(_SHADOW_STEPS):
            gap = shape.distance(origins + way * direction)
            # The cone from the point to the lamp, at this way, is _LAMP * way wide on each side.
            free = np.where(way <= end, np.minimum(free, gap / (_LAMP * way)), free)
            way = way + np.clip(gap, 5e-3, 0.15)
        free = np.clip(free, -1, 1)
        # The lamp is a disc: the share of it beside a straight edge is nearly this smooth step.
        seen[rays] *= 0.5 + 0.75 * free - 0.25 * free * free * free
    return np.maximum(seen, 0)


def _openness(shapes: list[Shape], points: Array, normals: Array) -> Array:
    """Give how little of the sky is hidden near each point, [M] in [0, 1]."""
    hidden = np.zeros(points.shape[1], np.float32)
    for reach, weight in ((0.03, 0.9), (0.1, 0.7), (0.24, 0.5)):
        probe = points + np.float32(reach) * normals
        gap = np.full(points.shape[1], reach, np.float32)
        for shape in shapes:
            local = shape.local(probe)
            near = (np.abs(local) < column(shape.half_size) + np.float32(reach)).all(axis=0)
            near = np.nonzero(near)[0]
            if len(near):
                gap[near] = np.minimum(gap[near], shape.distance(local[:, near]))
        hidden += weight * (1 - np.maximum(gap, 0) / reach) / 2.1
    return 1 - 0.85 * hidden
