# SPDX-License-Identifier: Apache-2.0
"""`load_point_cloud`: opens what scanners and their data sets are stored in.

The suffix says what container a file is. Some containers name their columns (.ply, .pcd, .las,
.feather, .npz); for those that do not (.bin, .npy, .txt) the kind of data set does.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ..errors import FileFormatError
from ..representations.files.ply import read_ply
from .lidar_classes import CLASSES, classes_of_raw
from .lidar_columns import POSITIONS, Columns, frame_of_columns
from .lidar_frame import LidarFrame
from .lidar_pcd import read_pcd
from .lidar_tables import read_feather, read_float32, read_las, read_npy, read_npz, read_text_table

_SCAN = ("x", "y", "z", "intensity")
_COLORED = ("x", "y", "z", "red", "green", "blue")
_LAYOUTS: dict[str, tuple[str, ...]] = {
    "semantickitti": _SCAN,
    "kitti": _SCAN,
    "nuscenes": (*_SCAN, "ring"),
    "waymo": (*_SCAN, "elongation", "no_label_zone"),
    "argoverse2": _SCAN,
    "scannet": _COLORED,
    "s3dis": (*_COLORED, "label"),
}
KINDS = tuple(sorted(_LAYOUTS))


def load_point_cloud(path: str | os.PathLike[str], kind: str | None = None) -> LidarFrame:
    """Open a point cloud: a LiDAR sweep, a scanned room, a survey.

    Args:
        path: A .bin (KITTI, SemanticKITTI, nuScenes, Waymo, ScanNet: bare float32), .npy, .npz,
            .txt / .xyz / .csv, .pcd, .ply, .las / .laz (needs laspy) or .feather (Argoverse 2,
            needs pyarrow); or a folder of coord.npy, color.npy, segment.npy, ... as indoor data is
            often prepared. A SemanticKITTI sweep takes its .label from beside it, or from
            `labels` beside `velodyne`.
        kind: "semantickitti", "kitti", "nuscenes", "waymo", "argoverse2", "scannet" or "s3dis":
            which columns a .bin, .npy or .txt has. Default: whichever one fits the values.

    Returns:
        The points. Positions and channels that are not finite are kept, with a warning.

    Raises:
        ValueError: If the path or the kind is unknown.
        FileFormatError: If the file is damaged, or its columns cannot be told without `kind`.
        ModuleNotFoundError: If a library is needed that is not installed.

    Example:
        >>> np.full((2, 4), 0.5, np.float32).tofile(tmp_path / "000000.bin")
        >>> load_point_cloud(tmp_path / "000000.bin", "kitti").channels["intensity"].tolist()
        [0.5, 0.5]
    """
    path = Path(path)
    if kind is not None and not (isinstance(kind, str) and kind in _LAYOUTS):
        raise ValueError(f"load_point_cloud: kind: expected one of {list(KINDS)}, got {kind!r}")
    if path.is_dir():
        return frame_of_columns(path, _read_folder(path))
    suffix = path.suffix.lower()
    if suffix not in _NAMED and suffix not in _BARE:
        known = ", ".join(sorted([*_NAMED, *_BARE]))
        raise ValueError(f"load_point_cloud: path: expected a folder or {known}, got {path.name}")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if suffix in _NAMED:
        return frame_of_columns(path, _NAMED[suffix](path))
    table = _BARE[suffix](path)
    labels = _label_file(path) if suffix == ".bin" and kind in (None, "semantickitti") else None
    if kind is None and labels is not None:
        kind = "semantickitti"
    frame = frame_of_columns(path, _name_columns(path, table, kind))
    if kind != "semantickitti":
        return frame
    return _with_labels(frame, labels) if labels is not None else replace(frame, classes=CLASSES)


def is_point_cloud(path: str | os.PathLike[str]) -> bool:
    """Whether a name is one that `load_point_cloud` opens; what a file holds is not looked at.

    Args:
        path: A file, or a folder.

    Returns:
        True for the suffixes of point clouds, and for folders with an array of positions.

    Example:
        >>> is_point_cloud("000000.bin"), is_point_cloud("scene.splat")
        (True, False)
    """
    path = Path(path)
    if path.is_dir():
        return any((path / f"{name}.npy").is_file() for name in POSITIONS)
    return path.suffix.lower() in _NAMED or path.suffix.lower() in _BARE


def _read_ply_columns(path: Path) -> Columns:
    element = read_ply(path, ("vertex",)).elements.get("vertex")
    if element is None:
        raise FileFormatError(path, "element vertex", "one", "none")
    return {name: c for name, c in element.columns.items() if isinstance(c, np.ndarray)}


def _read_folder(path: Path) -> Columns:
    files = sorted(path.glob("*.npy"))[:64]
    if not files:
        raise FileFormatError(path, "folder", "coord.npy, color.npy, ...", "no .npy files")
    return {file.stem: read_npy(file) for file in files}


_NAMED: dict[str, Callable[[Path], Columns]] = {
    ".ply": _read_ply_columns,
    ".pcd": read_pcd,
    ".npz": read_npz,
    ".las": read_las,
    ".laz": read_las,
    ".feather": read_feather,
}
_BARE: dict[str, Callable[[Path], np.ndarray]] = {
    ".bin": read_float32,
    ".npy": read_npy,
    ".txt": read_text_table,
    ".xyz": read_text_table,
    ".csv": read_text_table,
}


def _name_columns(path: Path, table: np.ndarray, kind: str | None) -> Columns:
    if kind is None:
        table, layout = _fitting_layout(path, table)
    elif table.ndim == 1:
        width = 6 if kind == "s3dis" else len(_LAYOUTS[kind])
        if len(table) % width:
            expected = f"rows of {width} float32 ({kind})"
            raise FileFormatError(path, "size", expected, f"{len(table)} numbers")
        table, layout = table.reshape(-1, width), _LAYOUTS[kind]
    else:
        layout = _LAYOUTS[kind]
    if table.ndim != 2 or not 3 <= table.shape[1] <= len(layout):
        expected = f"rows of 3 to {len(layout)} numbers ({', '.join(layout)})"
        raise FileFormatError(path, "columns", expected, str(list(table.shape)))
    columns = dict(zip(layout, table.T))
    if "label" in columns and np.isfinite(columns["label"]).all():
        columns["label"] = columns["label"].astype(np.int64)
    return columns


def _fitting_layout(path: Path, table: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Find the one way to read a table that its values allow."""
    if table.ndim == 2 and table.shape[1] == 3:
        return table, _SCAN
    widths = (4, 5, 6) if table.ndim == 1 else table.shape[1:]
    candidates = []
    for width in widths:
        layout = {4: _SCAN, 5: _LAYOUTS["nuscenes"], 6: _COLORED, 7: _LAYOUTS["s3dis"]}.get(width)
        if layout and table.size and table.size % width == 0:
            rows = table.reshape(-1, width)
            if _fits(rows, layout):
                candidates.append((rows, layout))
    if len(candidates) != 1:
        expected = f"columns that only one data set has, or kind= one of {list(KINDS)}"
        raise FileFormatError(path, "columns", expected, f"{len(candidates)} that fit")
    return candidates[0]


def _fits(rows: np.ndarray, layout: tuple[str, ...]) -> bool:
    extra = rows[:, 3:]
    with np.errstate(invalid="ignore"):
        if not bool(((extra >= 0) & (extra < 65536)).all()):
            return False
        if "ring" in layout:
            ring = rows[:, 4]
            return bool((ring == np.floor(ring)).all() and ring.max() < 256)
        return "red" not in layout or bool((rows[:, 3:6] <= 255).all())


def _label_file(path: Path) -> Path | None:
    beside = path.with_suffix(".label")
    places = [beside]
    if path.parent.name == "velodyne":
        places.append(path.parent.parent / "labels" / beside.name)
    return next((place for place in places if place.is_file()), None)


def _with_labels(frame: LidarFrame, path: Path) -> LidarFrame:
    size = path.stat().st_size
    if size != 4 * len(frame):
        raise FileFormatError(path, "size", f"{4 * len(frame)} bytes, 4 a point", f"{size}")
    values = np.fromfile(path, "<u4")
    try:
        labels = classes_of_raw((values & 0xFFFF).astype(np.uint16))
    except ValueError as error:
        raise FileFormatError(path, "labels", "ids of SemanticKITTI", str(error)) from None
    instances = (values >> 16).astype(np.int64)
    return replace(
        frame,
        labels=torch.from_numpy(labels),
        instances=torch.from_numpy(instances),
        classes=CLASSES,
    )
