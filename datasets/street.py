# SPDX-License-Identifier: Apache-2.0
"""A street made here, as a spinning LiDAR on a car sees it: points, intensities, exact labels.

Boxes, upright cylinders, spheres and a flat ground, each met by every ray in closed form. The beams
are those of a Velodyne HDL-64; the classes those of SemanticKITTI.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from .lidar_classes import CLASSES
from .lidar_frame import LidarFrame

Array = np.ndarray

_HEIGHT = 1.73  # of the sensor above the ground, metres
_ELEVATIONS = (2.0, -24.8)  # of the highest and lowest beam, degrees
_REACH = 80.0
_RANGE_NOISE = 0.02
# Half the width of the road, of road and sidewalks, metres.
_ROAD, _SIDEWALK = 4.5, 7.5
_REFLECTANCE = {
    "car": 0.35,
    "road": 0.25,
    "sidewalk": 0.35,
    "terrain": 0.45,
    "building": 0.3,
    "vegetation": 0.4,
    "trunk": 0.3,
    "pole": 0.5,
    "traffic-sign": 0.95,
    "person": 0.4,
    "fence": 0.35,
}


def street(beams: int = 64, columns: int = 2048, *, seed: int = 0) -> LidarFrame:
    """Make one sweep through the street.

    Args:
        beams: Rays of different elevation.
        columns: Directions of each beam around the circle.
        seed: Varies where things stand and the noise.

    Returns:
        The points that came back, at most beams x columns: "intensity", "ring", and labels. z is
        up, x ahead along the road, the ground at -1.73.

    Raises:
        ValueError: If a count is below one.

    Example:
        >>> frame = street(16, 256)
        >>> len(frame) > 2000 and frame.classes[int(frame.labels.mode().values)]
        'road'
    """
    if beams < 1 or columns < 1:
        raise ValueError(f"street: beams, columns: expected at least 1, got {beams}, {columns}")
    rng = np.random.default_rng(seed)
    directions = _directions(beams, columns)
    distance, label, facing = _ground(directions)
    for name, (enter, facing_of_it) in _things(directions, rng):
        nearer = enter < distance
        distance = np.where(nearer, enter, distance)
        label = np.where(nearer, CLASSES.index(name), label)
        facing = np.where(nearer, facing_of_it, facing)
    seen = distance < _REACH
    noisy = distance[seen] + rng.normal(0, _RANGE_NOISE, int(seen.sum()))
    reflectance = np.array([_REFLECTANCE.get(name, 0.0) for name in CLASSES])[label[seen]]
    intensity = reflectance * (0.4 + 0.6 * facing[seen]) + rng.normal(0, 0.03, len(noisy))
    ring = np.repeat(np.arange(beams), columns)[seen]
    return LidarFrame(
        torch.from_numpy((directions[seen] * noisy[:, None]).astype(np.float32)),
        {
            "intensity": torch.from_numpy(intensity.clip(0, 1).astype(np.float32)),
            "ring": torch.from_numpy(ring.astype(np.float32)),
        },
        torch.from_numpy(label[seen]),
        classes=CLASSES,
    )


def _directions(beams: int, columns: int) -> Array:
    elevation = np.radians(np.linspace(*_ELEVATIONS, beams))[:, None]
    azimuth = (np.arange(columns) + 0.5) * (2 * np.pi / columns)
    x, y = np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth)
    return np.stack((x, y, np.broadcast_to(np.sin(elevation), x.shape)), -1).reshape(-1, 3)


def _ground(directions: Array) -> tuple[Array, Array, Array]:
    down = -directions[:, 2]
    distance = np.where(down > 1e-6, _HEIGHT / np.maximum(down, 1e-6), np.inf)
    aside = np.abs(np.where(np.isfinite(distance), distance, 0) * directions[:, 1])
    names = [CLASSES.index(name) for name in ("road", "sidewalk", "terrain")]
    label = np.select([aside < _ROAD, aside < _SIDEWALK], names[:2], names[2])
    return distance, label, np.abs(down)


def _things(
    directions: Array, rng: np.random.Generator
) -> Iterator[tuple[str, tuple[Array, Array]]]:
    """Give each thing's class, and where every ray meets it."""

    def box(center: tuple[float, float], size: tuple[float, float, float], floor: float = 0.0):
        low = np.array([center[0] - size[0] / 2, center[1] - size[1] / 2, floor - _HEIGHT])
        return _hit_box(directions, low, low + size)

    def cylinder(center: tuple[float, float], radius: float, height: float):
        return _hit_cylinder(directions, center, radius, -_HEIGHT, height - _HEIGHT)

    for side in (-1, 1):
        x = -70.0
        while x < 70:
            length, depth = rng.uniform(8, 20), rng.uniform(6, 12)
            front = side * (rng.uniform(11, 14) + depth / 2)
            yield "building", box((x + length / 2, front), (length, depth, rng.uniform(4, 12)))
            x += length + rng.uniform(2, 10)
        for x in np.arange(-55, 60, 13.0):
            x, y = x + rng.uniform(-3, 3), side * rng.uniform(8, 9.5)
            trunk = rng.uniform(2, 3.5)
            yield "trunk", cylinder((x, y), rng.uniform(0.12, 0.3), trunk)
            for _ in range(4):
                radius = rng.uniform(0.7, 1.5)
                center = np.array([x, y, trunk + 0.8 - _HEIGHT]) + rng.normal(0, 0.5, 3)
                yield "vegetation", _hit_sphere(directions, center, radius)
        for x in np.arange(-50, 55, 20.0):
            x, y = x + rng.uniform(-4, 4), side * (_SIDEWALK - 0.4)
            yield "pole", cylinder((x, y), 0.08, 5.0)
            yield "traffic-sign", box((x - 0.12, y), (0.04, 0.7, 0.7), 2.2)
        for x in np.arange(-44, 50, 16.0):
            x, y = x + rng.uniform(-4, 4), side * (_ROAD - 1.1)
            yield "car", box((x, y), (rng.uniform(3.8, 4.8), 1.8, 0.75), 0.3)
            yield "car", box((x - 0.2, y), (2.3, 1.6, 0.6), 1.05)
        for _ in range(4):
            center = (rng.uniform(-25, 25), side * rng.uniform(_ROAD + 0.4, _SIDEWALK - 0.8))
            yield "person", cylinder(center, 0.26, rng.uniform(1.55, 1.9))
        for x in np.arange(-48, 50, 24.0):
            yield "fence", box((x, side * 10.2), (rng.uniform(8, 16), 0.1, 1.2))


def _hit_box(directions: Array, low: Array, high: Array) -> tuple[Array, Array]:
    with np.errstate(divide="ignore"):
        inverse = 1 / directions
    near, far = np.minimum(low * inverse, high * inverse), np.maximum(low * inverse, high * inverse)
    axis = near.argmax(axis=1)
    enter = near.max(axis=1)
    hit = (enter > 0) & (enter < far.min(axis=1))
    facing = np.abs(np.take_along_axis(directions, axis[:, None], 1)[:, 0])
    return np.where(hit, enter, np.inf), facing


def _hit_cylinder(
    directions: Array, center: tuple[float, float], radius: float, low: float, high: float
) -> tuple[Array, Array]:
    c = np.array(center)
    a = (directions[:, :2] ** 2).sum(1)
    b = directions[:, :2] @ c
    root = b * b - a * (c @ c - radius * radius)
    enter = (b - np.sqrt(np.maximum(root, 0))) / a
    z = enter * directions[:, 2]
    hit = (root > 0) & (enter > 0) & (z > low) & (z < high)
    return np.where(hit, enter, np.inf), np.sqrt(np.maximum(root, 0)) / radius


def _hit_sphere(directions: Array, center: Array, radius: float) -> tuple[Array, Array]:
    b = directions @ center
    root = b * b - center @ center + radius * radius
    enter = b - np.sqrt(np.maximum(root, 0))
    hit = (root > 0) & (enter > 0)
    return np.where(hit, enter, np.inf), np.sqrt(np.maximum(root, 0)) / radius
