# SPDX-License-Identifier: Apache-2.0
"""SuperSplat's compressed .ply (reading).

Each chunk of 256 Gaussians states the range of its positions, log scales and colours; a Gaussian is
four 32-bit words that place it within those ranges:

================  =============================================================================
packed_position   x, y, z in 11, 10, 11 bits, from the top
packed_rotation   2 bits: which of w, x, y, z is left out (the largest); the others in 10 bits
                  each, from -sqrt(1/2) to sqrt(1/2)
packed_scale      log scales in 11, 10, 11 bits
packed_color      red, green, blue within the chunk's range and opacity from 0 to 1, 8 bits each
================  =============================================================================

Files from before the colour ranges have colours from 0 to 1. An optional element "sh" has the
higher bands as bytes, channel by channel, from -4 to 4.

Source: the format's description in PlayCanvas' engine documentation and splat-transform (MIT).
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...errors import FileFormatError
from ..gaussians import Gaussians3D, rgb_to_sh0
from .checks import float32_table, require_column, warn_if_not_finite
from .gaussian_ply import rest_names
from .ply import peek_ply, read_ply
from .ply_data import PlyElement
from .splat import opacity_from_bytes

_CHUNK = 256
_POSITION = ["x", "y", "z"]
_SCALE = ["scale_x", "scale_y", "scale_z"]
_COLOR = ["r", "g", "b"]


def is_compressed_ply(head: bytes) -> bool:
    """Tell whether a file that begins so is a compressed .ply."""
    header = peek_ply(head)
    vertex = header.element("vertex") if header is not None else None
    return vertex is not None and any(p.name == "packed_position" for p in vertex.properties)


def read_compressed_ply(path: str | os.PathLike[str]) -> Gaussians3D:
    """Read a SuperSplat compressed .ply.

    Args:
        path: The file.

    Returns:
        The Gaussians, float32, of the degree that the file has.

    Raises:
        FileFormatError: If the file is damaged, a property is missing or of another type, or the
            counts of chunks, Gaussians and spherical harmonics do not agree.

    Example:
        >>> gaussians = read_compressed_ply("scene.compressed.ply")  # doctest: +SKIP
    """
    path = Path(path)
    elements = read_ply(path, ("chunk", "vertex", "sh")).elements
    for name in ("chunk", "vertex"):
        if name not in elements:
            raise FileFormatError(path, f"element {name}", "one", "none")
    chunk, vertex = elements["chunk"], elements["vertex"]
    if len(chunk) != -(-len(vertex) // _CHUNK):
        raise FileFormatError(
            path, "element chunk", f"a chunk for every {_CHUNK} of {len(vertex)}", f"{len(chunk)}"
        )
    color = _words(path, vertex, "packed_color")
    rgb = _bits(color, (24, 16, 8), (8, 8, 8))
    if "min_r" in chunk.columns:
        rgb = _in_range(path, chunk, _COLOR, rgb)
    gaussians = Gaussians3D(
        means=_in_range(path, chunk, _POSITION, _unpack_11_10_11(path, vertex, "packed_position")),
        quats=_unpack_rotation(_words(path, vertex, "packed_rotation")),
        log_scales=_in_range(path, chunk, _SCALE, _unpack_11_10_11(path, vertex, "packed_scale")),
        opacity_logits=opacity_from_bytes((color & 0xFF).to(torch.uint8)),
        sh0=rgb_to_sh0(rgb).unsqueeze(1),
        shN=_unpack_sh(path, elements.get("sh"), len(vertex)),
    )
    warn_if_not_finite(path, gaussians.finite(), "Gaussians")
    return gaussians


def _words(path: Path, vertex: PlyElement, name: str) -> Tensor:
    """Give a packed column as int64 [N]."""
    column = require_column(path, vertex, name, "u")
    if column.dtype != np.uint32:
        field = f"element vertex, property {name}"
        raise FileFormatError(path, field, "uint", str(column.dtype))
    return torch.from_numpy(column.astype(np.int64))


def _bits(words: Tensor, shifts: tuple[int, ...], widths: tuple[int, ...]) -> Tensor:
    """Read unsigned fields as float32 fractions of their largest value, [N, n_fields]."""
    fields = [
        ((words >> shift) & ((1 << width) - 1)).float() / ((1 << width) - 1)
        for shift, width in zip(shifts, widths)
    ]
    return torch.stack(fields, dim=-1)


def _unpack_11_10_11(path: Path, vertex: PlyElement, name: str) -> Tensor:
    return _bits(_words(path, vertex, name), (21, 11, 0), (11, 10, 11))


def _in_range(path: Path, chunk: PlyElement, names: list[str], fraction: Tensor) -> Tensor:
    """Place fractions [N, 3] between the minima and maxima of their chunks."""
    low = float32_table(path, chunk, [f"min_{name}" for name in names])
    high = float32_table(path, chunk, [f"max_{name}" for name in names])
    which = torch.arange(fraction.shape[0]) // _CHUNK
    return low[which] * (1 - fraction) + high[which] * fraction


def _unpack_rotation(words: Tensor) -> Tensor:
    """Complete the smallest three to unit quaternions, wxyz [N, 4]."""
    three = (_bits(words, (20, 10, 0), (10, 10, 10)) - 0.5) * math.sqrt(2)
    largest = (1 - three.square().sum(-1, keepdim=True)).clamp(min=0).sqrt()
    which = words >> 30
    # Column j takes from [largest, a, b, c]: the left-out one, or the next of the three.
    column = torch.arange(4)
    source = torch.where(
        column == which[:, None], 0, torch.where(column < which[:, None], column + 1, column)
    )
    return torch.cat((largest, three), dim=-1).gather(1, source)


def _unpack_sh(path: Path, element: PlyElement | None, n: int) -> Tensor:
    """Give the higher bands [N, n_rest, 3]; a byte means the middle of its 1/256 of the range."""
    if element is None:
        return torch.zeros(n, 0, 3)
    if len(element) != n:
        raise FileFormatError(path, "element sh", f"{n} rows, as many as vertex", f"{len(element)}")
    names = rest_names(path, element)
    table = np.empty((n, len(names)), np.uint8)
    for i, name in enumerate(names):
        column = require_column(path, element, name, "u")
        if column.dtype != np.uint8:
            raise FileFormatError(path, f"element sh, property {name}", "uchar", str(column.dtype))
        table[:, i] = column
    values = (torch.arange(256) + 0.5) / 256
    # The two ends of the scale mean the ends of the range.
    values[0], values[255] = 0.0, 1.0
    return (8 * values - 4)[torch.from_numpy(table).long()].view(n, len(names) // 3, 3)
