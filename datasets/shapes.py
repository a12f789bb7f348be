# SPDX-License-Identifier: Apache-2.0
"""Shapes of the synthetic scene: signed distance functions, each with a box around it.

Points are arrays [3, M], one row a coordinate, in numpy: its operations run on one thread each, so
that a few blocks of rays drawn in parallel threads neither wait for each other nor for other
programs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Distance = Callable[[Array], Array]


def _identity() -> Array:
    return np.eye(3, dtype=np.float32)


@dataclass(frozen=True)
class Shape:
    """One object: where it stands, its distance function and its texture.

    Args:
        distance: From points [3, M] in the object's frame to signed distances [M].
        half_size: Half the extents [3] of a box around it, in its own frame.
        texture: From points [3, M] on it, in its own frame, to linear colours [3, M].
        center: [3] in the world.
        rotation: [3, 3] from the object's frame to the world's.
    """

    distance: Distance
    half_size: tuple[float, float, float]
    texture: Callable[[Array], Array]
    center: tuple[float, float, float]
    rotation: Array = field(default_factory=_identity)

    def local(self, points: Array) -> Array:
        """Take world points [3, M] to the object's frame."""
        return turned(self.rotation.T, points - column(self.center))

    def box_span(self, origins: Array, directions: Array, margin: float) -> tuple[Array, Array]:
        """Give where rays in the object's frame enter and leave its box; enter > leave: a miss."""
        inverse = 1.0 / np.where(np.abs(directions) < 1e-9, np.float32(1e-9), directions)
        middle = -origins * inverse
        reach = (column(self.half_size) + np.float32(margin)) * np.abs(inverse)
        enter, leave = middle - reach, middle + reach
        first = np.maximum(np.maximum(enter[0], enter[1]), np.maximum(enter[2], 0))
        return first, np.minimum(np.minimum(leave[0], leave[1]), leave[2])


def column(values: tuple[float, float, float] | Array) -> Array:
    """Make three numbers a column [3, 1]."""
    return np.asarray(values, np.float32)[:, None]


def turned(rotation: Array, points: Array) -> Array:
    """Rotate points [3, M] (written out: a matrix product would start threads of its own)."""
    x, y, z = points
    return np.stack([row[0] * x + row[1] * y + row[2] * z for row in rotation])


def norm(*parts: Array) -> Array:
    """Give the length of vectors whose coordinates are given."""
    return np.sqrt(sum(part * part for part in parts))


# -- distance functions, each centred on the origin ------------------------------------------------


def sphere(radius: float) -> Distance:
    """Give the distance to a ball."""
    return lambda p: norm(*p) - radius


def rounded_box(half: float, rounding: float) -> Distance:
    """Give the distance to a cube with rounded edges."""

    def distance(p: Array) -> Array:
        q = np.abs(p) - (half - rounding)
        inside = np.minimum(np.maximum(np.maximum(q[0], q[1]), q[2]), 0)
        return norm(*np.maximum(q, 0)) + inside - rounding

    return distance


def rounded_cylinder(radius: float, half: float, rounding: float) -> Distance:
    """Give the distance to an upright cylinder with rounded rims."""

    def distance(p: Array) -> Array:
        across = norm(p[0], p[1]) - (radius - rounding)
        along = np.abs(p[2]) - (half - rounding)
        outside = norm(np.maximum(across, 0), np.maximum(along, 0))
        return outside + np.minimum(np.maximum(across, along), 0) - rounding

    return distance


def torus(radius: float, tube: float) -> Distance:
    """Give the distance to a ring that lies in the xy plane."""
    return lambda p: norm(norm(p[0], p[1]) - radius, p[2]) - tube


def cone(radius: float, half: float, rounding: float) -> Distance:
    """Give the distance to an upright cone with a rounded tip and rim."""
    base, top = radius - rounding, half - rounding
    slope = math.hypot(base, 2 * top)
    normal_across, normal_along = 2 * top / slope, base / slope

    def distance(p: Array) -> Array:
        across, z = norm(p[0], p[1]), p[2]
        # Nearest point on the slanted side and on the base, in the half plane (across, z).
        share = ((top - z) * (2 * top) + across * base) / (slope * slope)
        share = np.clip(share, 0, 1)
        side = norm(across - share * base, z - (top - share * (2 * top)))
        bottom = norm(np.maximum(across - base, 0), z + top)
        inside = np.maximum(across * normal_across + (z - top) * normal_along, -top - z)
        return np.where(inside < 0, inside, np.minimum(side, bottom)) - rounding

    return distance
