# SPDX-License-Identifier: Apache-2.0
"""The .ply of 3D Gaussian splatting: raw parameters, one float property each.

In this order: x y z, nx ny nz (zero), f_dc_0..2, f_rest_*, opacity (logit), scale_0..2 (natural
logarithm), rot_0..3 (wxyz). f_rest holds the higher spherical-harmonic bands channel by channel:
all coefficients of red, then green, then blue. There are 0, 9, 24, 45 or 72 of them for degrees 0
to 4. Reading goes by name, takes float or double, and ignores other properties and elements.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from torch import Tensor

from ...errors import FileFormatError
from ..gaussians import Gaussians3D, sh_degree_of
from .checks import float32_table, warn_if_not_finite
from .ply import peek_ply, read_ply, write_ply
from .ply_data import Column, PlyElement

_MEANS = ["x", "y", "z"]
_SH0 = ["f_dc_0", "f_dc_1", "f_dc_2"]
_SCALES = ["scale_0", "scale_1", "scale_2"]
_QUATS = ["rot_0", "rot_1", "rot_2", "rot_3"]


def is_gaussian_ply(head: bytes) -> bool:
    """Tell whether a file that begins so is a 3DGS .ply."""
    header = peek_ply(head)
    vertex = header.element("vertex") if header is not None else None
    return vertex is not None and any(prop.name == "f_dc_0" for prop in vertex.properties)


def rest_names(path: str | os.PathLike[str], element: PlyElement) -> list[str]:
    """Give the names of the higher-band properties, coefficient by coefficient, each in R, G, B.

    Args:
        path: The file, for messages.
        element: The one that has them.

    Returns:
        0, 9, 24, 45 or 72 names: "f_rest_0", "f_rest_15", "f_rest_30", "f_rest_1" ... for degree 3,
        so that their columns side by side are [N, n_coefficients, 3] without a transposition.

    Raises:
        FileFormatError: If their number fits no degree, or one is missing.
    """
    count = sum(name.startswith("f_rest_") for name in element.columns)
    if count % 3 or sh_degree_of(count // 3 + 1) is None:
        raise FileFormatError(
            path, f"element {element.name}, properties f_rest_*", "0, 9, 24, 45 or 72", str(count)
        )
    per_channel = count // 3
    return [f"f_rest_{c * per_channel + k}" for k in range(per_channel) for c in range(3)]


def read_gaussian_ply(path: str | os.PathLike[str]) -> Gaussians3D:
    """Read a 3DGS .ply.

    Args:
        path: The file.

    Returns:
        The Gaussians, float32.

    Raises:
        FileFormatError: If the file is damaged, or a property is missing or of another type.

    Example:
        >>> write_gaussian_ply(Gaussians3D.random(4, sh_degree=1, seed=0), tmp_path / "a.ply")
        >>> read_gaussian_ply(tmp_path / "a.ply").sh_degree
        1
    """
    path = Path(path)
    element = read_ply(path, ("vertex",)).elements.get("vertex")
    if element is None:
        raise FileFormatError(path, "element vertex", "one", "none")
    names = rest_names(path, element)
    gaussians = Gaussians3D(
        means=float32_table(path, element, _MEANS),
        quats=float32_table(path, element, _QUATS),
        log_scales=float32_table(path, element, _SCALES),
        opacity_logits=float32_table(path, element, ["opacity"]).squeeze(1),
        sh0=float32_table(path, element, _SH0).unsqueeze(1),
        shN=float32_table(path, element, names).view(len(element), len(names) // 3, 3),
    )
    warn_if_not_finite(path, gaussians.finite(), "Gaussians")
    return gaussians


def write_gaussian_ply(
    gaussians: Gaussians3D, path: str | os.PathLike[str], *, format: str = "binary_little_endian"
) -> None:
    """Write a 3DGS .ply with exactly the properties, order and types that other programs expect.

    Args:
        gaussians: Written as float32; quaternions are not normalised.
        path: The file.
        format: "binary_little_endian" (default, what viewers read), "binary_big_endian" or "ascii".

    Example:
        >>> write_gaussian_ply(Gaussians3D.random(2, sh_degree=0, seed=0), tmp_path / "b.ply")
        >>> (tmp_path / "b.ply").read_bytes().count(b"property float")
        17
    """
    n = len(gaussians)
    rest = gaussians.shN.detach().transpose(1, 2).flatten(1)
    zeros = np.broadcast_to(np.float32(0), (n,))
    columns: dict[str, Column] = {}
    columns.update(_columns(_MEANS, gaussians.means))
    columns.update(nx=zeros, ny=zeros, nz=zeros)
    columns.update(_columns(_SH0, gaussians.sh0.reshape(n, 3)))
    columns.update(_columns([f"f_rest_{i}" for i in range(rest.shape[1])], rest))
    columns.update(_columns(["opacity"], gaussians.opacity_logits.unsqueeze(1)))
    columns.update(_columns(_SCALES, gaussians.log_scales))
    columns.update(_columns(_QUATS, gaussians.quats))
    write_ply(path, {"vertex": columns}, format=format)


def _columns(names: list[str], table: Tensor) -> dict[str, np.ndarray]:
    values = table.detach().float().cpu().numpy()
    return {name: values[:, i] for i, name in enumerate(names)}
