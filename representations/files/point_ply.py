# SPDX-License-Identifier: Apache-2.0
"""Point clouds as .ply: x y z, with nx ny nz and red green blue where there are any."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...errors import FileFormatError
from ..points import PointCloud
from .checks import float32_table, require_column, warn_if_not_finite
from .ply import read_ply, write_ply
from .ply_data import Column, PlyElement

_POINTS = ["x", "y", "z"]
_NORMALS = ["nx", "ny", "nz"]
_COLORS = ["red", "green", "blue"]


def read_point_ply(path: str | os.PathLike[str]) -> PointCloud:
    """Read the vertices of a .ply.

    Args:
        path: The file. Positions and normals may be float or double, colours must be uchar; other
            properties and elements, faces among them, are stepped over.

    Returns:
        The points, with colours and normals if the file has them.

    Raises:
        FileFormatError: If the file is damaged, or a property is missing or of another type.

    Example:
        >>> write_point_ply(PointCloud(torch.zeros(2, 3)), tmp_path / "a.ply")
        >>> len(read_point_ply(tmp_path / "a.ply"))
        2
    """
    path = Path(path)
    element = read_ply(path, ("vertex",)).elements.get("vertex")
    if element is None:
        raise FileFormatError(path, "element vertex", "one", "none")
    points = float32_table(path, element, _POINTS)
    has_normals = any(name in element.columns for name in _NORMALS)
    normals = float32_table(path, element, _NORMALS) if has_normals else None
    cloud = PointCloud(points, _read_colors(path, element), normals)
    warn_if_not_finite(path, torch.isfinite(points).all(dim=1), "points")
    return cloud


def _read_colors(path: Path, element: PlyElement) -> Tensor | None:
    if not any(name in element.columns for name in _COLORS):
        return None
    columns = [require_column(path, element, name, "u") for name in _COLORS]
    for name, column in zip(_COLORS, columns):
        if column.dtype != np.uint8:
            field = f"element vertex, property {name}"
            raise FileFormatError(path, field, "uchar", str(column.dtype))
    return torch.from_numpy(np.stack(columns, axis=1))


def write_point_ply(
    cloud: PointCloud, path: str | os.PathLike[str], *, format: str = "binary_little_endian"
) -> None:
    """Write a point cloud.

    Args:
        cloud: The points.
        path: The file.
        format: "binary_little_endian" (default), "binary_big_endian" or "ascii".

    Example:
        >>> cloud = PointCloud(torch.zeros(1, 3), torch.tensor([[255, 0, 0]], dtype=torch.uint8))
        >>> write_point_ply(cloud, tmp_path / "b.ply", format="ascii")
        >>> (tmp_path / "b.ply").read_text().splitlines()[-1]
        '0 0 0 255 0 0'
    """
    columns: dict[str, Column] = {}
    for names, tensor in (
        (_POINTS, cloud.points),
        (_NORMALS, cloud.normals),
        (_COLORS, cloud.colors),
    ):
        if tensor is not None:
            values = tensor.detach().cpu().numpy()
            columns.update({name: values[:, i] for i, name in enumerate(names)})
    write_ply(path, {"vertex": columns}, format=format)
