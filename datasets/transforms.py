# SPDX-License-Identifier: Apache-2.0
"""transforms.json: the scenes of nerfstudio, instant-ngp and the Blender sets of NeRF, read and
written.

One parser reads all three; they differ in which keys they use:

==========  ======================================================================================
intrinsics  fl_x fl_y cx cy w h, or camera_angle_x / _y (radians), or x_fov / y_fov (degrees); for
            all frames or in each. Without w and h, the image's own size. If an image has another
            size of the same aspect (a scaled copy), the intrinsics are scaled to it.
distortion  camera_model or is_fisheye, with k1 k2 k3 k4 p1 p2 (a polynomial; for FULL_OPENCV,
            k4 k5 k6 are the denominator). Images are undistorted on loading: same K, same size,
            and a mask.
poses       transform_matrix: camera to world, OpenGL axes. Used as they are: `applied_transform`
            only records what nerfstudio did to COLMAP's frame, points included.
files       file_path (with or without suffix), mask_path, depth_file_path or depth_path,
            ply_file_path
split       train_filenames / test_filenames / val_filenames; or the files transforms_train.json and
            transforms_test.json (or _val); else every `test_every`-th view, names in natural order
==========  ======================================================================================
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import FileFormatError
from ..representations.cameras import Camera, intrinsics_matrix
from ..representations.files import load as load_file
from ..representations.points import PointCloud
from .images import has_alpha, image_size
from .json_fields import Fields, read_json
from .names import natural_order
from .options import WHITE, Options
from .photos import Photo, same_aspect, scaled_size
from .scene import Scene, View
from .undistort import Lens, Undistortion

_SUFFIXES = ("", ".png", ".jpg", ".jpeg", ".PNG", ".JPG", ".JPEG", ".webp")
_MODELS = {
    "SIMPLE_PINHOLE": "pinhole",
    "PINHOLE": "pinhole",
    "SIMPLE_RADIAL": "brown",
    "RADIAL": "brown",
    "OPENCV": "brown",
    "FULL_OPENCV": "rational",
    "OPENCV_FISHEYE": "fisheye",
}


def load_transforms(path: Path, options: Options) -> Scene:
    """Load a scene from one transforms.json (or a Blender split).

    Args:
        path: The JSON file.
        options: What was asked for.

    Returns:
        The scene.

    Raises:
        FileFormatError: If a field of it, or a file it names, is wrong.
    """
    top = read_json(path)
    views = _read_views(top, options)
    points, colors = _read_points(top)
    train, test = _listed_split(top, views)
    return Scene(
        views,
        train=train,
        test=test,
        test_every=options.test_every,
        points=points,
        point_colors=colors,
        background=_background(top, views, options),
        path=path.parent,
    )


def load_blender(folder: Path, options: Options) -> Scene:
    """Load transforms_train.json and, as test views, transforms_test.json or transforms_val.json.

    Args:
        folder: The folder that holds them.
        options: What was asked for. Where there is no test file (or none of its images exist),
            every `test_every`-th training view is held out.

    Returns:
        The scene; images with alpha are on white unless a background was asked for.

    Raises:
        FileFormatError: If a field or file is wrong.
    """
    top = read_json(folder / "transforms_train.json")
    train = _read_views(top, options)
    test: list[View] = []
    for name in ("transforms_test.json", "transforms_val.json"):
        if not test and (folder / name).is_file():
            test = _read_views(read_json(folder / name), options, allow_empty=True)
    split: dict[str, Any] = {"train": train, "test": test} if test else {}
    return Scene(
        train + test,
        **split,
        test_every=options.test_every,
        background=_background(top, train, options),
        path=folder,
    )


# -- frames ----------------------------------------------------------------------------------------


def _read_views(top: Fields, options: Options, *, allow_empty: bool = False) -> list[View]:
    frames = top.items("frames")
    views: list[View] = []
    missing = 0
    for i, values in enumerate(frames):
        frame = Fields(top.path, f"frames[{i}]", values, top)
        relative = frame.relative_path("file_path")
        if relative is None:
            raise frame.error("file_path", "a path", None)
        image = _find_image(top.path.parent, relative)
        if image is None:
            missing += 1
        else:
            views.append(_read_view(frame, relative, image, options))
    if missing and (views or allow_empty):
        warnings.warn(
            f"{top.path}: {missing} of {len(frames)} frames dropped: "
            f"their image file does not exist",
            stacklevel=4,
        )
    if not views and not allow_empty:
        got = f"{len(frames)} frames, {missing} without an image file"
        raise top.error("frames", "at least one frame whose image exists", got)
    return sorted(views, key=lambda view: natural_order(view.name))


def _find_image(folder: Path, relative: PurePosixPath) -> Path | None:
    for suffix in _SUFFIXES:
        candidate = folder / f"{relative}{suffix}"
        try:
            if candidate.is_file():
                return candidate
        except (OSError, ValueError):
            # A name that the file system cannot hold is a file that is not there.
            return None
    return None


def _read_view(frame: Fields, relative: PurePosixPath, image: Path, options: Options) -> View:
    source_size = image_size(image)
    focal, principal = _read_intrinsics(frame, source_size, image)
    size = scaled_size(source_size, options.downscale)
    camera = _read_camera(frame, focal, principal, source_size).resized(*size)
    lens = _read_lens(frame)
    undistortion = None if lens.is_identity else Undistortion(lens, focal, principal, *source_size)
    depth_key = "depth_file_path" if "depth_file_path" in frame else "depth_path"
    photo = Photo(
        image,
        source_size,
        size,
        undistortion,
        _existing(frame, "mask_path"),
        _existing(frame, depth_key),
        _depth_scale(frame),
    )
    return View(
        str(relative),
        camera,
        photo.image,
        mask=photo.mask if photo.mask_path or undistortion else None,
        depth=photo.depth if photo.depth_path else None,
        time=frame.number("time"),
        cache=options.cache,
    )


def _existing(frame: Fields, key: str) -> Path | None:
    relative = frame.relative_path(key)
    if relative is None:
        return None
    path = frame.path.parent / relative
    if not path.is_file():
        raise frame.error(key, "an existing file", str(path))
    return path


def _depth_scale(frame: Fields) -> float:
    # instant-ngp's name, then the name of nerfstudio's option; its default is millimetres.
    scale = frame.number("integer_depth_scale", positive=True)
    return frame.number("depth_unit_scale_factor", 1e-3, positive=True) if scale is None else scale


def _read_camera(
    frame: Fields,
    focal: tuple[float, float],
    principal: tuple[float, float],
    size: tuple[int, int],
) -> Camera:
    pose = frame.pose("transform_matrix")
    K = intrinsics_matrix(*(torch.tensor(v, dtype=torch.float64) for v in (*focal, *principal)))
    try:
        return Camera.from_opengl(pose, K, *size).to(torch.float32)
    except ValueError as error:
        raise frame.error("transform_matrix", "a rigid camera-to-world pose", str(error)) from error


def _read_intrinsics(
    frame: Fields, size: tuple[int, int], image: Path
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Give focal lengths and principal point in pixels of the image file."""
    width = frame.number("w", float(size[0]), positive=True)
    height = frame.number("h", float(size[1]), positive=True)
    if not same_aspect((width, height), size):
        expected = f"the aspect of {image.name}, {size[0]} x {size[1]}"
        raise frame.error("w, h", expected, f"{width:g} x {height:g}")
    fl_x, fl_y = _focal(frame, "x", width), _focal(frame, "y", height)
    fl_x, fl_y = fl_x or fl_y, fl_y or fl_x
    if fl_x is None or fl_y is None:
        raise frame.error("fl_x", "fl_x, camera_angle_x or x_fov", None)
    scale_x, scale_y = size[0] / width, size[1] / height
    cx, cy = frame.number("cx", 0.5 * width), frame.number("cy", 0.5 * height)
    focal, principal = (fl_x * scale_x, fl_y * scale_y), (cx * scale_x, cy * scale_y)
    if not all(1e-6 < value < 1e12 for value in focal) or max(map(abs, principal)) > 1e12:
        raise frame.error("fl_x, fl_y, cx, cy", "pixels", f"{focal}, {principal}")
    return focal, principal


def _focal(frame: Fields, axis: str, size: float) -> float | None:
    focal = frame.number(f"fl_{axis}", positive=True)
    if focal is not None:
        return focal
    angle = frame.number(f"camera_angle_{axis}", positive=True)
    if angle is None:
        degrees = frame.number(f"{axis}_fov", positive=True)
        angle = None if degrees is None else math.radians(degrees)
    if angle is None:
        return None
    if angle >= math.pi:
        raise frame.error(f"camera_angle_{axis}", "less than pi", f"{angle:g}")
    return 0.5 * size / math.tan(0.5 * angle)


def _read_lens(frame: Fields) -> Lens:
    name = frame.text("camera_model") or "OPENCV"
    if frame.get("is_fisheye") is True:
        name = "OPENCV_FISHEYE"
    kind = _MODELS.get(name)
    if kind is None:
        raise frame.error("camera_model", f"one of {', '.join(_MODELS)}", repr(name[:80]))
    if kind == "pinhole":
        return Lens("brown")
    k1, k2, k3, k4, k5, k6, p1, p2 = (
        frame.number(key, 0.0) for key in ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")
    )
    if kind == "rational":
        return Lens("brown", (k1, k2, k3), (p1, p2), (k4, k5, k6))
    family: Literal["brown", "fisheye"] = "fisheye" if kind == "fisheye" else "brown"
    return Lens(family, (k1, k2, k3, k4), (0.0, 0.0) if family == "fisheye" else (p1, p2))


# -- what belongs to the whole scene ---------------------------------------------------------------


def _read_points(top: Fields) -> tuple[Tensor | None, Tensor | None]:
    if "applied_transform" in top:
        top.pose("applied_transform")
    if "ply_file_path" not in top:
        return None, None
    path = _existing(top, "ply_file_path")
    if path is None or path.suffix.lower() != ".ply":
        raise top.error("ply_file_path", "a .ply file", str(path))
    cloud = load_file(path)
    if not isinstance(cloud, PointCloud):
        raise top.error("ply_file_path", "a PLY point cloud", type(cloud).__name__)
    if not bool(torch.isfinite(cloud.points).all()):
        raise FileFormatError(path, "x, y, z", "finite numbers", "NaN or Inf")
    return cloud.points, cloud.colors


def _background(
    top: Fields, views: list[View], options: Options
) -> tuple[float, float, float] | None:
    """Pick what is behind: what was asked for, what the file says, white if there is alpha."""
    if options.background is not None:
        return options.background
    if "background_color" in top:
        values = top.items("background_color")
        numbers = [value for value in map(_unit_number, values) if value is not None]
        if len(values) != 3 or len(numbers) != 3:
            raise top.error("background_color", "three numbers in [0, 1]", str(values)[:80])
        return numbers[0], numbers[1], numbers[2]
    first = _find_image(top.path.parent, PurePosixPath(views[0].name))
    return WHITE if first is not None and has_alpha(first) else None


def _unit_number(value: Any) -> float | None:
    number = float(value) if isinstance(value, int | float) else math.nan
    return number if 0 <= number <= 1 else None


def _listed_split(top: Fields, views: list[View]) -> tuple[list[View] | None, list[View] | None]:
    """Read nerfstudio's lists of file names; None where there is no list."""
    if "train_filenames" not in top:
        return None, None
    test_key = "test_filenames" if top.get("test_filenames") else "val_filenames"
    train = _named(top, "train_filenames", views)
    test = _named(top, test_key, views) if test_key in top else []
    if not train:
        raise top.error("train_filenames", "at least one frame whose image exists", "none")
    held_out = set(train)
    return train, [view for view in test if view not in held_out]


def _named(top: Fields, key: str, views: list[View]) -> list[View]:
    names = {str(PurePosixPath(name)) for name in top.items(key) if isinstance(name, str)}
    return [view for view in views if view.name in names]
