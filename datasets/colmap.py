# SPDX-License-Identifier: Apache-2.0
"""COLMAP sparse models, binary or text, read through pycolmap.

Images of models with distortion are undistorted on loading: same focal lengths, principal point and
size, and a mask of the pixels that the lens saw. Images that COLMAP did not register are left out.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import FileFormatError
from ..representations.cameras import Camera, intrinsics_matrix
from .colmap_check import check_binaries
from .images import has_alpha, image_size
from .names import natural_order
from .options import WHITE, Options
from .photos import Photo, same_aspect, scaled_size
from .scene import Scene, View
from .undistort import Lens, Undistortion

# Where a model may lie below a scene's folder.
_PLACES = ("sparse/0", "sparse", "colmap/sparse/0", ".")
_SHARED_FOCAL = ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "SIMPLE_RADIAL_FISHEYE")
_SHARED_FOCAL += ("RADIAL_FISHEYE", "SIMPLE_FISHEYE")


def find_model(folder: Path) -> Path | None:
    """Find the sparse model of a scene.

    Args:
        folder: The scene's folder, or the model's own.

    Returns:
        The folder that holds cameras and images files, or None.
    """
    for place in _PLACES:
        for suffix in ("bin", "txt"):
            model = folder / place
            if (model / f"cameras.{suffix}").is_file() and (model / f"images.{suffix}").is_file():
                return model
    return None


def load_colmap(model: Path, images: Path, options: Options) -> Scene:
    """Load a sparse model and its photographs.

    Args:
        model: Holds cameras, images and points3D (.bin or .txt).
        images: The folder that the model's image names start from.
        options: What was asked for.

    Returns:
        The scene, with the model's points.

    Raises:
        FileFormatError: If the model's files are broken, a camera model is not supported, or no
            image exists.
        ModuleNotFoundError: If pycolmap is not installed.
    """
    if not images.is_dir():
        raise ValueError(
            f"load: images: expected the folder of the photographs, got {images}: no such folder; "
            f"pass images=FOLDER"
        )
    reconstruction = _read(model)
    views = _read_views(reconstruction, model, images, options)
    points, colors = _read_points(reconstruction, model)
    first = images / views[0].name
    background = options.background or (WHITE if has_alpha(first) else None)
    return Scene(
        views,
        test_every=options.test_every,
        points=points,
        point_colors=colors,
        background=background,
        path=model,
    )


def _read(model: Path) -> Any:
    try:
        import pycolmap
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{model} is a COLMAP model, and pycolmap, which reads it, is not installed: "
            f"pip install pycolmap"
        ) from error
    check_binaries(model)
    # pycolmap reports whatever is wrong as one of several standard exceptions.
    try:
        return pycolmap.Reconstruction(str(model))
    except Exception as error:
        got = f"{type(error).__name__}: {error}"[:300]
        raise FileFormatError(model, "model", "a COLMAP sparse model", got) from error


def _read_views(reconstruction: Any, model: Path, folder: Path, options: Options) -> list[View]:
    registered = [image for image in reconstruction.images.values() if image.has_pose]
    views: list[View] = []
    missing = 0
    for image in sorted(registered, key=lambda image: natural_order(image.name)):
        path = _image_path(model, folder, image.name)
        if path.is_file():
            camera = reconstruction.cameras[image.camera_id]
            views.append(_read_view(model, image, camera, path, options))
        else:
            missing += 1
    if not views:
        got = f"{len(registered)} registered, {missing} without a file in {folder}"
        raise FileFormatError(model, "images", "at least one registered image that exists", got)
    if missing:
        warnings.warn(
            f"{model}: {missing} of {len(registered)} images dropped: no such file in {folder}",
            stacklevel=4,
        )
    return views


def _image_path(model: Path, folder: Path, name: str) -> Path:
    relative = Path(name.replace("\\", "/"))
    if not name or relative.is_absolute() or ".." in relative.parts:
        raise FileFormatError(
            model, "image name", "a path below the images folder", repr(name[:200])
        )
    return folder / relative


def _read_view(model: Path, image: Any, camera: Any, path: Path, options: Options) -> View:
    source_size = image_size(path)
    size = scaled_size(source_size, options.downscale)
    if not same_aspect((camera.width, camera.height), source_size):
        expected = f"the aspect of {image.name}, {source_size[0]} x {source_size[1]}"
        got = f"{camera.width} x {camera.height}"
        raise FileFormatError(model, f"camera {camera.camera_id}.width, height", expected, got)
    scale = (source_size[0] / camera.width, source_size[1] / camera.height)
    focal, principal, lens = _read_camera(model, camera, scale)
    undistortion = None if lens.is_identity else Undistortion(lens, focal, principal, *source_size)
    photo = Photo(path, source_size, size, undistortion)
    K = intrinsics_matrix(*(torch.tensor(v, dtype=torch.float64) for v in (*focal, *principal)))
    view_camera = Camera(_pose(model, image), K, *source_size).to(torch.float32).resized(*size)
    return View(
        image.name,
        view_camera,
        photo.image,
        mask=photo.mask if undistortion else None,
        cache=options.cache,
    )


def _pose(model: Path, image: Any) -> Tensor:
    """Give world_to_camera, float64 [4, 4]."""
    cam_from_world = image.cam_from_world
    # A property before pycolmap 3.12, a method since (rigs).
    rigid: Any = cam_from_world() if callable(cam_from_world) else cam_from_world
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3] = torch.from_numpy(np.array(rigid.matrix(), dtype=np.float64))
    # The matrix of a quaternion of zeros is the identity: look at the quaternion itself.
    length = float(np.linalg.norm(rigid.rotation.quat))
    if not abs(length - 1) < 1e-6 or not bool((pose.abs() < 1e12).all()):
        raise FileFormatError(
            model,
            f"image {image.name!r}.pose",
            "a finite pose with a unit quaternion",
            f"{pose.tolist()}",
        )
    return pose


def _read_camera(
    model: Path, camera: Any, scale: tuple[float, float]
) -> tuple[tuple[float, float], tuple[float, float], Lens]:
    """Give focal lengths and principal point, in pixels of the image file, and the lens."""
    name = camera.model.name
    values = [float(value) for value in camera.params]
    field = f"camera {camera.camera_id}"
    shared = name in _SHARED_FOCAL
    fx, fy, cx, cy, *rest = (values[:1] + values) if shared else values
    numbers_fit = bool(np.isfinite(values).all()) and min(fx, fy) > 1e-6 and max(fx, fy) < 1e12
    if not numbers_fit or max(abs(cx), abs(cy)) > 1e12:
        raise FileFormatError(model, f"{field}.params", "finite numbers, focal > 0", f"{values}")
    lens = _lens(name, rest)
    if lens is None:
        raise FileFormatError(
            model,
            f"{field}.model",
            "a pinhole, radial, OPENCV or fisheye camera (`colmap image_undistorter` makes one)",
            name,
        )
    return (fx * scale[0], fy * scale[1]), (cx * scale[0], cy * scale[1]), lens


def _lens(name: str, rest: list[float]) -> Lens | None:
    """Make the lens of a COLMAP model from what follows focal lengths and principal point."""
    if name in ("SIMPLE_PINHOLE", "PINHOLE"):
        return Lens("brown")
    if name in ("SIMPLE_RADIAL", "RADIAL"):
        return Lens("brown", tuple(rest))
    if name == "OPENCV":
        return Lens("brown", tuple(rest[:2]), (rest[2], rest[3]))
    if name == "FULL_OPENCV":
        k1, k2, p1, p2, k3, *denominator = rest
        return Lens("brown", (k1, k2, k3), (p1, p2), tuple(denominator))
    fisheyes = ("OPENCV_FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE")
    if name in (*fisheyes, "SIMPLE_FISHEYE", "FISHEYE"):
        return Lens("fisheye", tuple(rest))
    return None


def _read_points(reconstruction: Any, model: Path) -> tuple[Tensor | None, Tensor | None]:
    points = list(reconstruction.points3D.values())
    if not points:
        return None, None
    positions = np.array([point.xyz for point in points], dtype=np.float32).reshape(-1, 3)
    colors = np.array([point.color for point in points], dtype=np.uint8).reshape(-1, 3)
    if not np.isfinite(positions).all():
        raise FileFormatError(model, "points3D.xyz", "finite numbers", "NaN or Inf")
    return torch.from_numpy(positions), torch.from_numpy(colors)
