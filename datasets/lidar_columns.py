# SPDX-License-Identifier: Apache-2.0
"""From named arrays, whatever container they came in, to a `LidarFrame`."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch

from ..errors import FileFormatError
from .lidar_frame import LidarFrame

Columns = dict[str, np.ndarray]

POSITIONS = ("xyz", "points", "pc", "coord", "coords")
_GROUPS = {
    "color": ("red", "green", "blue"),
    "colors": ("red", "green", "blue"),
    "rgb": ("red", "green", "blue"),
    "normal": ("nx", "ny", "nz"),
    "normals": ("nx", "ny", "nz"),
}
_ALIASES = {
    "r": "red",
    "g": "green",
    "b": "blue",
    "normal_x": "nx",
    "normal_y": "ny",
    "normal_z": "nz",
    "laser_number": "laser",
    "reflectance": "intensity",
    "scalar_intensity": "intensity",
}
_LABELS = ("label", "labels", "segment", "segment20", "classification", "semantic")
_INSTANCES = ("instance", "instances")
# Beyond this, neighbouring float32 numbers are a millimetre or more apart.
_FAR = 8192.0


def frame_of_columns(path: Path, columns: Columns) -> LidarFrame:
    """Sort named arrays into positions, channels, labels and instances.

    Args:
        path: The file, for messages.
        columns: Numbers [n_points] or [n_points, k]; what is neither is left out.

    Returns:
        The frame. Positions beyond 8 km from the origin are moved near it, and `origin` says by how
        much.

    Raises:
        FileFormatError: If there are no positions, or columns differ in length.
    """
    columns = _split(columns)
    if missing := [axis for axis in "xyz" if axis not in columns]:
        got = f"no {missing[0]} among {sorted(columns)}"[:200]
        raise FileFormatError(path, "positions", "x, y and z", got)
    n = len(columns["x"])
    if wrong := [name for name, column in columns.items() if len(column) != n]:
        raise FileFormatError(path, wrong[0], f"{n} rows, as x", f"{len(columns[wrong[0]])}")
    points, origin = _near_points(np.stack([columns.pop(axis) for axis in "xyz"], axis=1))
    marks = {}
    for field, names in (("labels", _LABELS), ("instances", _INSTANCES)):
        found = [columns.pop(name) for name in names if name in columns]
        integers = [column for column in found if column.dtype.kind in "iu"]
        marks[field] = torch.from_numpy(integers[0].astype(np.int64)) if integers else None
    frame = LidarFrame(
        torch.from_numpy(points),
        {name: torch.from_numpy(_float32(column)) for name, column in _in_units(columns).items()},
        **marks,
        origin=origin,
    )
    if bad := len(frame) - int(frame.finite().sum()):
        warnings.warn(f"{path}: {bad} of {len(frame)} points are not finite", stacklevel=3)
    return frame


def _split(columns: Columns) -> Columns:
    """Give one array a name: tables become x, y, z, red, ...; names become our own."""
    found: Columns = {}
    for name, array in columns.items():
        key = name.lower()
        if array.dtype.kind not in "fiub" or array.ndim not in (1, 2):
            continue
        if array.ndim == 1:
            found.setdefault(_ALIASES.get(key, key), array)
        elif key in POSITIONS and array.shape[1] >= 3:
            names = ("x", "y", "z", "intensity", "elongation", "no_label_zone")
            found.update(zip(names, array.T))
        elif key in _GROUPS and array.shape[1] == 3:
            found.update(zip(_GROUPS[key], array.T))
        elif array.shape[1] == 1:
            found.setdefault(_ALIASES.get(key, key), array[:, 0])
    return found


def _near_points(
    points: np.ndarray,
) -> tuple[np.ndarray, tuple[float, float, float]]:
    origin = np.zeros(3)
    if points.dtype.itemsize > 4 and len(points):
        points = points.astype(np.float64)
        finite = points[np.isfinite(points).all(axis=1)]
        if len(finite) and np.abs(finite).max() > _FAR:
            origin = np.floor(finite.min(axis=0))
            points = points - origin
    return _float32(points), (float(origin[0]), float(origin[1]), float(origin[2]))


def _float32(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        # Always a copy: arrays over a file's bytes cannot be written to.
        return np.array(values, np.float32, order="C")


def _in_units(columns: Columns) -> Columns:
    """Bring colours to [0, 1]: full scale is that of the integer type, or 255 of floats above 1."""
    colors = [columns[name] for name in ("red", "green", "blue") if name in columns]
    if not colors:
        return columns
    if all(color.dtype.kind == "u" and color.dtype.itemsize <= 2 for color in colors):
        scale = 65535.0 if any((color > 255).any() for color in colors) else 255.0
    else:
        scale = 255.0 if any((color > 1).any() for color in colors) else 1.0
    scaled = {name: columns[name] / scale for name in ("red", "green", "blue") if name in columns}
    return columns | scaled
