# SPDX-License-Identifier: Apache-2.0
"""Procedural textures of the synthetic scene: functions from a position on an object to a linear
colour.

All edges are ramps about as wide as a pixel of the default images, and no pattern is finer than a
few pixels: a reconstruction at that resolution can show all of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Texture = Callable[[Tensor], Tensor]
_EDGE = 0.012


def srgb(code: str) -> Tensor:
    """Turn "#rrggbb" into a linear colour [3]."""
    encoded = torch.tensor([int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return torch.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


def encode_srgb(linear: Tensor) -> Tensor:
    """Turn linear colours into sRGB, both in [0, 1]."""
    linear = linear.clamp(0, 1)
    return torch.where(
        linear <= 0.0031308, 12.92 * linear, 1.055 * linear.clamp(min=1e-6) ** (1 / 2.4) - 0.055
    )


class Noise:
    """Smooth, periodic noise in space: a Gaussian random field with a falling spectrum.

    Args:
        generator: The source of chance.
        size: Samples along each axis of one period.
    """

    def __init__(self, generator: torch.Generator, size: int = 48) -> None:
        white = torch.randn((size, size, size), generator=generator)
        frequency = torch.fft.fftfreq(size) * size
        grid = torch.meshgrid(frequency, frequency, frequency, indexing="ij")
        radius = torch.stack(grid).norm(dim=0)
        gain = torch.where((radius > 0) & (radius < size / 5), radius.clamp(min=1) ** -2.2, 0.0)
        field = torch.fft.ifftn(torch.fft.fftn(white) * gain).real
        field = field / field.std()
        # One sample repeats at the end of each axis, so that interpolation wraps.
        self._field = torch.nn.functional.pad(field[None, None], (0, 1) * 3, mode="circular")

    def __call__(self, points: Tensor) -> Tensor:
        """Give noise [M] of variance 1 at points [M, 3]; the period is 1."""
        wrapped = (points % 1.0) * 2 - 1
        values = torch.nn.functional.grid_sample(
            self._field, wrapped.view(1, -1, 1, 1, 3), align_corners=True
        )
        return values.view(-1)


def mix(share: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Blend colours [3] by a share [M] of the second."""
    return first + share[:, None] * (second - first)


def step(value: Tensor, edge: float = _EDGE) -> Tensor:
    """Rise from 0 to 1 where `value` passes 0, over a ramp of +- `edge`."""
    ramp = (value / (2 * edge) + 0.5).clamp(0, 1)
    return ramp * ramp * (3 - 2 * ramp)


def wave(value: Tensor, edge: float) -> Tensor:
    """Alternate between 0 and 1, one each per unit of `value`, with ramps of +- `edge` units."""
    phase = (value % 2.0) - 1.0
    return step(phase.abs() - 0.5, edge)


def checks(u: Tensor, v: Tensor, edge_u: float, edge_v: float) -> Tensor:
    """Alternate over unit squares of (u, v)."""
    a, b = wave(u, edge_u), wave(v, edge_v)
    return a + b - 2 * a * b


def tiled_floor(radius: float, tile: float, light: Tensor, dark: Tensor, rim: Tensor) -> Texture:
    """A round table top: checks inside, a plain rim with two rings outside."""
    turn = math.radians(18)

    def texture(p: Tensor) -> Tensor:
        u = (math.cos(turn) * p[:, 0] + math.sin(turn) * p[:, 1]) / tile
        v = (math.cos(turn) * p[:, 1] - math.sin(turn) * p[:, 0]) / tile
        color = mix(checks(u, v, _EDGE / tile, _EDGE / tile), light, dark)
        across = p[:, :2].norm(dim=-1)
        color = color + step(across - 0.80 * radius)[:, None] * (light - color)
        color = color + step(across - 0.84 * radius)[:, None] * (rim - color)
        ring = step(across - 0.91 * radius) - step(across - 0.94 * radius)
        return color + ring[:, None] * (light - color)

    return texture


def marble(noise: Noise, base: Tensor, vein: Tensor, scale: float = 0.45) -> Texture:
    """Veins: the crests of a sine that noise bends."""

    def texture(p: Tensor) -> Tensor:
        bend = noise(p * scale + 0.3)
        crest = torch.sin(7.0 * (p[:, 0] + 0.7 * p[:, 1] + 0.4 * p[:, 2]) + 2.6 * bend)
        veins = (1 - crest.abs()).clamp(0, 1) ** 3
        cloud = (0.5 + 0.22 * noise(p * 0.8)).clamp(0, 1)
        return mix((0.85 * veins + 0.18 * cloud).clamp(0, 1), base, vein)

    return texture


def wood(noise: Noise, light: Tensor, dark: Tensor, axis: int = 0) -> Texture:
    """Year rings around an axis beside the object, bent by noise."""

    def texture(p: Tensor) -> Tensor:
        others = [i for i in range(3) if i != axis]
        stretched = p.clone()
        stretched[:, axis] *= 0.25
        off = p[:, others] + p.new_tensor([0.35, 0.28])
        rings = 10.5 * off.norm(dim=-1) + 0.55 * noise(stretched * 0.7 + 0.1)
        saw = rings % 1.0
        grain = torch.where(saw < 0.75, saw / 0.75, (1 - saw) / 0.25)
        return mix((0.15 + 0.7 * grain + 0.05 * noise(stretched * 2.5)).clamp(0, 1), light, dark)

    return texture


def bands(axis: int, width: float, colors: list[Tensor], twist: float = 0.0) -> Texture:
    """Stripes across an axis, in turn; `twist` winds them around z (in stripes a turn)."""

    def texture(p: Tensor) -> Tensor:
        value = p[:, axis] / width
        if twist:
            value = value + twist * torch.atan2(p[:, 1], p[:, 0]) / (2 * math.pi)
        value = value % len(colors)
        result = colors[0].expand(len(p), 3)
        for number, color in enumerate(colors[1:] + colors[:1], start=1):
            share = step(value - number, _EDGE / width)
            result = result + share[:, None] * (color - result)
        return result

    return texture


def ring_checks(radius: float, around: int, light: Tensor, dark: Tensor) -> Texture:
    """Checks along and around the tube of a torus."""

    def texture(p: Tensor) -> Tensor:
        along = torch.atan2(p[:, 1], p[:, 0]) / (2 * math.pi) * around
        tube = torch.atan2(p[:, 2], p[:, :2].norm(dim=-1) - radius) / (2 * math.pi) * 4
        return mix(checks(along, tube, _EDGE * around / (2 * math.pi * radius), 0.06), light, dark)

    return texture


def dots(radius: float, base: Tensor, dot: Tensor, count: int = 26) -> Texture:
    """Dots spread evenly over a ball (Fibonacci lattice)."""
    number = torch.arange(count) + 0.5
    height = 1 - 2 * number / count
    angle = math.pi * (1 + math.sqrt(5)) * number
    width = (1 - height * height).sqrt()
    centers = torch.stack((width * angle.cos(), width * angle.sin(), height), dim=-1)

    def texture(p: Tensor) -> Tensor:
        nearest = (torch.nn.functional.normalize(p, dim=-1) @ centers.T).amax(dim=-1)
        away = torch.acos(nearest.clamp(-1, 1)) * radius
        return mix(step(0.24 * radius - away), base, dot)

    return texture
