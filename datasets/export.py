# SPDX-License-Identifier: Apache-2.0
"""Writing a scene as a folder with transforms.json, as nerfstudio, instant-ngp and our loader read
it.

::

    FOLDER/transforms.json      cameras (PINHOLE, OpenGL camera-to-world), split, background_color
    FOLDER/images/0000.png      8-bit RGB or RGBA
    FOLDER/depth/0000.png       16-bit integers; integer_depth_scale world units each, 0 unknown
    FOLDER/masks/0000.png       white where a pixel counts
    FOLDER/points.ply           sparse points
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..representations.files import save as save_file
from ..representations.points import PointCloud
from .scene import Scene, View

_MILLIMETRE = 1e-3
_LARGEST_STEP = 65535


def write_scene(scene: Scene, path: str | Path) -> Path:
    """Write a scene as a folder that any loader of transforms.json reads.

    Views that were undistorted on loading are written undistorted. transforms.json comes last, so
    that a folder that has one is complete.

    Args:
        scene: The scene; its cameras must be pinholes.
        path: The folder; it is made if it does not exist, and must not hold anything yet.

    Returns:
        The folder.

    Raises:
        ValueError: If the folder holds something, is a file, or a camera is no pinhole.

    Example:
        >>> folder = write_scene(scene, tmp_path / "written")
    """
    folder = Path(path)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"write_scene: path: expected a new or empty folder, got {folder}")
    for view in scene.views:
        if view.camera.model != "pinhole":
            raise ValueError(
                f"write_scene: scene: expected pinhole cameras, "
                f"got {view.camera.model} in {view.name}"
            )
    folder.mkdir(parents=True, exist_ok=True)
    depth_step = _depth_step(scene)
    names = {view: f"images/{i:04d}.png" for i, view in enumerate(scene.views)}
    content: dict[str, Any] = {"camera_model": "PINHOLE"}
    if depth_step:
        # Two names of one thing: instant-ngp's, and the one of nerfstudio's option.
        content |= {"integer_depth_scale": depth_step, "depth_unit_scale_factor": depth_step}
    if scene.background is not None:
        content["background_color"] = list(scene.background)
    content["frames"] = [_write_view(view, folder, names[view], depth_step) for view in scene.views]
    content["train_filenames"] = [names[view] for view in scene.train]
    content["test_filenames"] = content["val_filenames"] = [names[view] for view in scene.test]
    if scene.points is not None:
        save_file(PointCloud(scene.points, scene.point_colors), folder / "points.ply")
        content["ply_file_path"] = "points.ply"
    (folder / "transforms.json").write_text(json.dumps(content, indent=1))
    return folder


def _depth_step(scene: Scene) -> float:
    """Choose the world units of one integer step: 0.001 if it is fine enough and reaches far."""
    farthest = max(
        (float(d.max()) for d in (v.depth for v in scene.views) if d is not None), default=0
    )
    if farthest <= 0 or _MILLIMETRE * 1000 < farthest < _MILLIMETRE * _LARGEST_STEP:
        return _MILLIMETRE if farthest > 0 else 0.0
    return farthest / (_LARGEST_STEP - 1)


def _write_view(view: View, folder: Path, name: str, depth_step: float) -> dict[str, Any]:
    K = view.camera.K.double()
    frame: dict[str, Any] = {
        "file_path": name,
        "w": view.width,
        "h": view.height,
        "fl_x": float(K[0, 0]),
        "fl_y": float(K[1, 1]),
        "cx": float(K[0, 2]),
        "cy": float(K[1, 2]),
        "transform_matrix": view.camera.to(torch.float64).to_opengl().tolist(),
    }
    if view.time is not None:
        frame["time"] = view.time
    _write_png(view.image, folder / name)
    number = Path(name).name
    mask, depth = view.mask, view.depth
    if mask is not None:
        frame["mask_path"] = f"masks/{number}"
        _write_png(mask.to(torch.uint8) * 255, folder / frame["mask_path"])
    if depth is not None and depth_step:
        frame["depth_file_path"] = f"depth/{number}"
        steps = (depth / depth_step).round().clamp(0, _LARGEST_STEP).to(torch.int32)
        _write_png(steps, folder / frame["depth_file_path"])
    return frame


def _write_png(values: Tensor, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = values.numpy()
    # Pillow takes 16 bits from uint16 only, which torch has no arithmetic for.
    array = array.astype(np.uint16) if array.dtype == np.int32 else array
    Image.fromarray(np.ascontiguousarray(array)).save(path, compress_level=3)
