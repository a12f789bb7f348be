# SPDX-License-Identifier: Apache-2.0
"""A writer of SuperSplat's compressed .ply for the reader's tests: one Gaussian at a time, straight
from the format's description."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fieldline.representations import Gaussians3D, sh0_to_rgb
from fieldline.representations.files import write_ply


def _quantise(value: float, low: float, high: float, bits: int) -> int:
    fraction = (value - low) / (high - low) if high > low else 0.0
    return round(min(max(fraction, 0.0), 1.0) * ((1 << bits) - 1))


def _pack_11_10_11(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> int:
    x, y, z = (_quantise(v, a, b, n) for v, a, b, n in zip(values, low, high, (11, 10, 11)))
    return x << 21 | y << 11 | z


def _pack_rotation(quat: np.ndarray) -> int:
    quat = quat / np.linalg.norm(quat)
    largest = int(np.abs(quat).argmax())
    quat = quat * np.sign(quat[largest])
    word = largest
    for i in range(4):
        if i != largest:
            word = word << 10 | _quantise(quat[i], -math.sqrt(0.5), math.sqrt(0.5), 10)
    return word


def _write_compressed_ply(gaussians: Gaussians3D, path: Path, colour_range: bool = True) -> None:
    """Write with or without the chunks' colour ranges, and with SH if there are any."""
    means, scales = gaussians.means.detach().numpy(), gaussians.log_scales.detach().numpy()
    rgb = sh0_to_rgb(gaussians.sh0.detach()[:, 0]).numpy()
    quats, opacities = gaussians.quats.detach().numpy(), gaussians.opacities.detach().numpy()
    chunk: dict[str, list[float]] = {}
    words: dict[str, list[int]] = {}
    for first in range(0, len(gaussians), 256):
        part = slice(first, min(first + 256, len(gaussians)))
        ranges = {}
        for prefix, names, table in (
            ("position", "x y z", means),
            ("scale", "scale_x scale_y scale_z", scales),
            ("color", "r g b", rgb),
        ):
            low, high = table[part].min(0), table[part].max(0)
            if prefix == "color" and not colour_range:
                low, high = np.zeros(3), np.ones(3)
            ranges[prefix] = (low, high)
            if prefix != "color" or colour_range:
                for side, values in (("min", low), ("max", high)):
                    for name, value in zip(names.split(), values):
                        chunk.setdefault(f"{side}_{name}", []).append(value)
        for i in range(part.start, part.stop):
            color = [_quantise(v, a, b, 8) for v, a, b in zip(rgb[i], *ranges["color"])]
            alpha = _quantise(opacities[i], 0, 1, 8)
            for name, word in (
                ("packed_position", _pack_11_10_11(means[i], *ranges["position"])),
                ("packed_rotation", _pack_rotation(quats[i])),
                ("packed_scale", _pack_11_10_11(scales[i], *ranges["scale"])),
                ("packed_color", color[0] << 24 | color[1] << 16 | color[2] << 8 | alpha),
            ):
                words.setdefault(name, []).append(word)
    elements: dict[str, dict] = {
        "chunk": {name: np.array(values, np.float32) for name, values in chunk.items()},
        "vertex": {name: np.array(values, np.uint32) for name, values in words.items()},
    }
    rest = gaussians.shN.detach().transpose(1, 2).reshape(len(gaussians), -1).numpy()
    if rest.size:
        table = np.clip(np.trunc((rest / 8 + 0.5) * 256), 0, 255).astype(np.uint8)
        elements["sh"] = {f"f_rest_{i}": table[:, i] for i in range(table.shape[1])}
    write_ply(path, elements)


@pytest.fixture(scope="session")
def write_compressed_ply() -> Callable[..., None]:
    """Takes Gaussians, a path, and whether the chunks state the ranges of their colours."""
    return _write_compressed_ply
