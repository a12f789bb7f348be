# SPDX-License-Identifier: Apache-2.0
"""The still life: which objects stand where on the table, and what they are made of."""

from __future__ import annotations

import math

import numpy as np

from .shapes import Array, Shape, cone, rounded_box, rounded_cylinder, sphere, torus
from .textures import Noise, bands, dots, marble, ring_checks, srgb, tiled_floor, wood

TABLE_RADIUS = 1.45


def arrange(random: np.random.Generator) -> list[Shape]:
    """Set the table.

    Args:
        random: The source of chance: places and turns vary a little, noise entirely.

    Returns:
        The objects; the first is the table.
    """
    noise = Noise(random)
    jitter = random.uniform(-0.05, 0.05, (6, 2))
    turns = random.uniform(-1, 1, 6) * math.radians(12)
    cream, terracotta = srgb("#f1e7d3"), srgb("#b9553b")
    teal, navy, mustard = srgb("#2b7c7a"), srgb("#27415a"), srgb("#dfa63c")
    sage, rose = srgb("#86a873"), srgb("#d98a86")

    def place(
        slot: int, x: float, y: float, z: float, turn: float = 0.0
    ) -> tuple[tuple[float, float, float], Array]:
        dx, dy = jitter[slot].tolist()
        return (x + dx, y + dy, z), _turned(math.radians(turn) + float(turns[slot]))

    box_place = place(1, 0.48, 0.42, 0.32, 28)
    (box_x, box_y, _), _ = box_place
    table = tiled_floor(TABLE_RADIUS, 0.27, cream, srgb("#8d9aa5"), srgb("#7a4a2e"))
    return [
        Shape(
            rounded_cylinder(TABLE_RADIUS, 0.07, 0.025),
            (TABLE_RADIUS, TABLE_RADIUS, 0.07),
            table,
            (0, 0, -0.07),
        ),
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
            bands(0.08, [mustard, cream]),
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
            bands(0.14, [teal, cream], twist=4),
            *place(3, -0.38, 0.58, 0.42),
        ),
        Shape(
            cone(0.25, 0.29, 0.02),
            (0.25, 0.25, 0.29),
            bands(0.145, [rose, cream, navy, cream]),
            *place(4, -1.0, 0.12, 0.29),
        ),
        Shape(
            sphere(0.17), (0.17, 0.17, 0.17), dots(0.17, sage, cream), *place(5, 0.1, -0.98, 0.17)
        ),
    ]


def _turned(angle: float) -> Array:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]], np.float32)


def _tilted(angle: float) -> Array:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]], np.float32)
