# SPDX-License-Identifier: Apache-2.0
"""Camera paths as nerfstudio's camera_path.json.

Each frame has an OpenGL camera_to_world (16 numbers, row by row), a vertical field of view in
degrees and optionally a render_time. What that cannot say (a principal point off the centre, two
focal lengths, an orthographic camera) stands beside it as fl_x, fl_y, cx, cy in pixels, the names
of transforms.json, which nerfstudio ignores and this reader prefers.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import torch

from ...errors import FileFormatError
from ..camera_models import CameraModel
from ..camera_path import CameraPath
from ..cameras import Camera, intrinsics_matrix
from .atomic import atomic_write

_MAX_BYTES = 1 << 26
_MAX_SIDE = 1 << 20
_MODELS: dict[str, CameraModel] = {
    "perspective": "pinhole",
    "fisheye": "fisheye",
    "orthophoto": "ortho",
}
_INTRINSICS = ("fl_x", "fl_y", "cx", "cy")


def is_camera_path(head: bytes) -> bool:
    """Tell whether a file that begins so may be a camera path."""
    return head.lstrip().startswith(b"{") and any(
        word in head for word in (b'"camera_path"', b'"keyframes"', b'"render_width"')
    )


def write_camera_path(path_object: CameraPath, path: str | os.PathLike[str]) -> None:
    """Write a camera path that nerfstudio's `ns-render camera-path` and its viewer read.

    Args:
        path_object: The path; every frame also becomes a keyframe.
        path: The file.

    Example:
        >>> box = ((-1, -1, -1), (1, 1, 1))
        >>> flight = CameraPath.circle(box, 6, width=64, height=48)
        >>> write_camera_path(flight, tmp_path / "a.json")
        >>> len(read_camera_path(tmp_path / "a.json"))
        6
    """
    cameras = path_object.cameras
    aspect = cameras.width / cameras.height
    frames = []
    for i, matrix in enumerate(cameras.to(torch.float64).to_opengl().reshape(-1, 16).tolist()):
        K = cameras.K[i].double()
        fov = 2 * math.degrees(math.atan(0.5 * cameras.height / float(K[1, 1])))
        frame: dict[str, Any] = {"camera_to_world": matrix, "fov": fov, "aspect": aspect}
        if path_object.times is not None:
            frame["render_time"] = float(path_object.times[i])
        if not _is_plain(cameras, K):
            values = (K[0, 0], K[1, 1], K[0, 2], K[1, 2])
            frame.update(zip(_INTRINSICS, map(float, values)))
        frames.append(frame)
    keyframes = [
        {
            "matrix": frame["camera_to_world"],
            "fov": frame["fov"],
            "aspect": aspect,
            "override_transition_enabled": False,
            "override_transition_sec": None,
        }
        for frame in frames
    ]
    content = {
        "camera_type": {model: name for name, model in _MODELS.items()}[cameras.model],
        "render_width": cameras.width,
        "render_height": cameras.height,
        "fps": path_object.fps,
        "seconds": path_object.seconds,
        "is_cycle": path_object.closed,
        "smoothness_value": 0.0,
        "default_fov": frames[0]["fov"],
        "default_transition_sec": 1 / path_object.fps,
        "keyframes": keyframes,
        "camera_path": frames,
    }
    with atomic_write(path) as file:
        file.write(json.dumps(content, indent=1, allow_nan=False).encode("ascii"))


def _is_plain(cameras: Camera, K: torch.Tensor) -> bool:
    """Tell whether a field of view and the image size say all about the intrinsics."""
    plain = K.new_tensor([float(K[1, 1]), float(K[1, 1]), cameras.width / 2, cameras.height / 2])
    values = torch.stack((K[0, 0], K[1, 1], K[0, 2], K[1, 2]))
    return cameras.model != "ortho" and bool(torch.allclose(values, plain, rtol=1e-6))


class _Fields:
    """Takes values out of parsed JSON, each checked for type and range."""

    def __init__(self, path: Path, where: str, values: Any) -> None:
        self.path = path
        self.where = where
        if not isinstance(values, dict):
            raise FileFormatError(path, where, "an object", type(values).__name__)
        self.values = values

    def fail(self, name: str, expected: str) -> FileFormatError:
        got = "nothing" if name not in self.values else repr(self.values[name])[:60]
        return FileFormatError(self.path, f"{self.where}, {name}", expected, got)

    def number(self, name: str, low: float, high: float, default: float | None = None) -> float:
        value = self.values.get(name, default)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        # Python compares any int with a float exactly, so no huge integer gets past this.
        if value is None or not is_number or not low <= value <= high:
            raise self.fail(name, f"a number from {low:g} to {high:g}")
        return float(value)

    def size(self, name: str) -> int:
        value = self.number(name, 1, _MAX_SIDE)
        if value != int(value):
            raise self.fail(name, "a whole number of pixels")
        return int(value)

    def matrix(self, name: str) -> list[float]:
        value = self.values.get(name)
        if isinstance(value, list) and len(value) == 4:
            value = [x for row in value if isinstance(row, list) for x in row]
        numbers = value if isinstance(value, list) and len(value) == 16 else []
        fits = [isinstance(x, int | float) and -1e15 <= x <= 1e15 for x in numbers]
        if not fits or not all(fits):
            raise self.fail(name, "16 finite numbers")
        return [float(x) for x in numbers]


def _parse(path: Path) -> Any:
    size = path.stat().st_size
    if size > _MAX_BYTES:
        raise FileFormatError(path, "size", f"at most {_MAX_BYTES} bytes", f"{size} bytes")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise FileFormatError(path, "content", "JSON", str(error)[:200]) from error


def read_camera_path(path: str | os.PathLike[str]) -> CameraPath:
    """Read a nerfstudio camera path.

    Args:
        path: The file.

    Returns:
        The path, float32. It has times if every frame has a render_time.

    Raises:
        FileFormatError: If the file is no JSON, a field is missing, of another type or out of
            range, a matrix is no rotation and translation, or the cameras are panoramic.
    """
    path = Path(path)
    top = _Fields(path, "top level", _parse(path))
    width, height = top.size("render_width"), top.size("render_height")
    kind = top.values.get("camera_type", "perspective")
    if not isinstance(kind, str) or kind not in _MODELS:
        raise top.fail("camera_type", f"one of {list(_MODELS)}")
    entries = top.values.get("camera_path")
    if not isinstance(entries, list) or not entries:
        raise top.fail("camera_path", "at least one frame")
    frames = [_Fields(path, f"camera_path[{i}]", entry) for i, entry in enumerate(entries)]
    matrices = [frame.matrix("camera_to_world") for frame in frames]
    intrinsics = [_intrinsics(frame, width, height) for frame in frames]
    poses = torch.tensor(matrices, dtype=torch.float64).reshape(-1, 4, 4)
    times = None
    if all("render_time" in frame.values for frame in frames):
        times = torch.tensor([frame.number("render_time", -1e9, 1e9) for frame in frames])
    try:
        K = intrinsics_matrix(*torch.tensor(intrinsics, dtype=torch.float64).unbind(1))
        cameras = Camera.from_opengl(poses, K, width, height, _MODELS[kind]).to(torch.float32)
    except ValueError as error:
        where, expected = "camera_path, camera_to_world", "a rotation and a translation"
        raise FileFormatError(path, where, expected, str(error)) from error
    fps = top.number("fps", 1e-3, 1e6, default=24.0)
    return CameraPath(cameras, fps, times, closed=top.values.get("is_cycle") is True)


def _intrinsics(frame: _Fields, width: int, height: int) -> tuple[float, float, float, float]:
    """Give fx, fy, cx, cy of a frame."""
    if all(name in frame.values for name in _INTRINSICS):
        fx, fy = (frame.number(name, 1e-6, 1e9) for name in _INTRINSICS[:2])
        cx, cy = (frame.number(name, -1e9, 1e9) for name in _INTRINSICS[2:])
        return fx, fy, cx, cy
    fov = math.radians(frame.number("fov", 1e-3, 179.999))
    focal = 0.5 * height / math.tan(0.5 * fov)
    return focal, focal, 0.5 * width, 0.5 * height
