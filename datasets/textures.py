# SPDX-License-Identifier: Apache-2.0
"""Procedural textures of the synthetic scene: from positions on an object to linear colours.

All edges are ramps about as wide as a pixel of the default images, and no pattern is finer than a
few pixels: a reconstruction at that resolution can show all of it. Points and colours are [3, M].
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .shapes import Array, column, norm

Texture = Callable[[Array], Array]
_EDGE = 0.012


def srgb(code: str) -> Array:
    """Turn "#rrggbb" into a linear colour, float32 [3]."""
    encoded = np.array([int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)], np.float32)
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


def encode_srgb(linear: Array) -> Array:
    """Turn linear colours into sRGB, both in [0, 1]."""
    linear = np.clip(linear, 0, 1)
    curve = 1.055 * np.maximum(linear, 1e-6) ** np.float32(1 / 2.4) - 0.055
    return np.where(linear <= 0.0031308, 12.92 * linear, curve)


class Noise:
    """Smooth, periodic noise in space: a Gaussian random field with a falling spectrum.

    Args:
        random: The source of chance.
        size: Samples along each axis of one period.
    """

    def __init__(self, random: np.random.Generator, size: int = 48) -> None:
        white = random.standard_normal((size, size, size))
        frequency = np.fft.fftfreq(size) * size
        radius = norm(*np.meshgrid(frequency, frequency, frequency, indexing="ij"))
        gain = np.where((radius > 0) & (radius < size / 5), np.maximum(radius, 1) ** -2.2, 0.0)
        values = np.fft.ifftn(np.fft.fftn(white) * gain).real
        self._field = (values / values.std()).astype(np.float32)

    def __call__(self, points: Array) -> Array:
        """Give noise [M] of variance 1 and period 1 at points [3, M], linear between samples."""
        size = len(self._field)
        position = (points % 1.0) * size
        low = position.astype(np.int64)
        x, y, z = position - low
        # The last sample's neighbour is the first; a position rounded up to `size` is 0 again.
        (i0, j0, k0), (i1, j1, k1) = low % size, (low + 1) % size
        field = self._field
        near = _between(z, field[i0, j0, k0], field[i0, j0, k1])
        far = _between(z, field[i0, j1, k0], field[i0, j1, k1])
        front = _between(y, near, far)
        near = _between(z, field[i1, j0, k0], field[i1, j0, k1])
        far = _between(z, field[i1, j1, k0], field[i1, j1, k1])
        return _between(x, front, _between(y, near, far)).astype(np.float32)


def _between(share: Array, first: Array, second: Array) -> Array:
    return first + share * (second - first)


def mix(share: Array, first: Array, second: Array) -> Array:
    """Blend colours [3] (or [3, M]) by a share [M] of the second."""
    first = first if first.ndim == 2 else column(first)
    second = second if second.ndim == 2 else column(second)
    return first + share * (second - first)


def step(value: Array, edge: float = _EDGE) -> Array:
    """Rise from 0 to 1 where `value` passes 0, over a ramp of +- `edge`."""
    ramp = np.clip(value / (2 * edge) + 0.5, 0, 1)
    return ramp * ramp * (3 - 2 * ramp)


def wave(value: Array, edge: float) -> Array:
    """Alternate between 0 and 1, one each per unit of `value`, with ramps of +- `edge` units."""
    return step(np.abs(value % 2.0 - 1.0) - 0.5, edge)


def checks(u: Array, v: Array, edge_u: float, edge_v: float) -> Array:
    """Alternate over unit squares of (u, v)."""
    a, b = wave(u, edge_u), wave(v, edge_v)
    return a + b - 2 * a * b


def tiled_floor(radius: float, tile: float, light: Array, dark: Array, rim: Array) -> Texture:
    """A round table top: checks inside, a plain rim with two rings outside."""
    turn = math.radians(18)

    def texture(p: Array) -> Array:
        u = (math.cos(turn) * p[0] + math.sin(turn) * p[1]) / tile
        v = (math.cos(turn) * p[1] - math.sin(turn) * p[0]) / tile
        color = mix(checks(u, v, _EDGE / tile, _EDGE / tile), light, dark)
        across = norm(p[0], p[1])
        color = mix(step(across - 0.80 * radius), color, light)
        color = mix(step(across - 0.84 * radius), color, rim)
        return mix(step(across - 0.91 * radius) - step(across - 0.94 * radius), color, light)

    return texture


def marble(noise: Noise, base: Array, vein: Array, scale: float = 0.45) -> Texture:
    """Veins: the crests of a sine that noise bends."""

    def texture(p: Array) -> Array:
        bend = noise(p * scale + 0.3)
        crest = np.sin(7.0 * (p[0] + 0.7 * p[1] + 0.4 * p[2]) + 2.6 * bend)
        veins = (1 - np.abs(crest)) ** 3
        cloud = np.clip(0.5 + 0.22 * noise(p * 0.8), 0, 1)
        return mix(np.clip(0.85 * veins + 0.18 * cloud, 0, 1), base, vein)

    return texture


def wood(noise: Noise, light: Array, dark: Array) -> Texture:
    """Year rings around an axis along x beside the object, bent by noise."""

    def texture(p: Array) -> Array:
        stretched = p * column((0.25, 1.0, 1.0))
        rings = 10.5 * norm(p[1] + 0.35, p[2] + 0.28) + 0.55 * noise(stretched * 0.7 + 0.1)
        saw = rings % 1.0
        grain = np.where(saw < 0.75, saw / 0.75, (1 - saw) / 0.25)
        return mix(np.clip(0.15 + 0.7 * grain + 0.05 * noise(stretched * 2.5), 0, 1), light, dark)

    return texture


def bands(width: float, colors: list[Array], twist: float = 0.0) -> Texture:
    """Stripes across z, in turn; `twist` winds them around z (in stripes a turn)."""

    def texture(p: Array) -> Array:
        value = p[2] / width
        if twist:
            value = value + twist * np.arctan2(p[1], p[0]) / (2 * math.pi)
        value = value % len(colors)
        result = column(colors[0])
        for number, color in enumerate(colors[1:] + colors[:1], start=1):
            result = mix(step(value - number, _EDGE / width), result, color)
        return result

    return texture


def ring_checks(radius: float, around: int, light: Array, dark: Array) -> Texture:
    """Checks along and around the tube of a torus."""

    def texture(p: Array) -> Array:
        along = np.arctan2(p[1], p[0]) / (2 * math.pi) * around
        tube = np.arctan2(p[2], norm(p[0], p[1]) - radius) / (2 * math.pi) * 4
        return mix(checks(along, tube, _EDGE * around / (2 * math.pi * radius), 0.06), light, dark)

    return texture


def dots(radius: float, base: Array, dot: Array, count: int = 26) -> Texture:
    """Dots spread evenly over a ball (Fibonacci lattice)."""
    number = np.arange(count, dtype=np.float32) + 0.5
    height = 1 - 2 * number / count
    angle = math.pi * (1 + math.sqrt(5)) * number
    width = np.sqrt(1 - height * height)
    centers = np.stack((width * np.cos(angle), width * np.sin(angle), height))

    def texture(p: Array) -> Array:
        unit = p / norm(*p)
        nearest = np.full(p.shape[1], -1, np.float32)
        for x, y, z in centers.T:
            nearest = np.maximum(nearest, unit[0] * x + unit[1] * y + unit[2] * z)
        away = np.arccos(np.clip(nearest, -1, 1)) * radius
        return mix(step(0.24 * radius - away), base, dot)

    return texture
