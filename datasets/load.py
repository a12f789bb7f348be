# SPDX-License-Identifier: Apache-2.0
"""`load`: opens a scene of posed photographs, whatever it was made with."""

from __future__ import annotations

import math
import os
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..errors import FileFormatError
from .cache import ByteCache
from .colmap import find_model, load_colmap
from .options import Options
from .posing import list_photos
from .scene import Scene, View, check_background, check_test_every
from .transforms import load_blender, load_transforms

_KNOWN = "transforms.json, transforms_train.json, or COLMAP's sparse/0 or cameras and images files"

_SOLVE = "`fieldline reconstruct` and `fl.datasets.solve_poses` find the poses of photos"


def load(
    path: str | os.PathLike[str],
    downscale: float = 1,
    test_every: int = 8,
    *,
    images: str | os.PathLike[str] | None = None,
    background: Sequence[float] | None = None,
    cache_bytes: int = 2 << 30,
) -> Scene:
    """Open a scene: nerfstudio or instant-ngp `transforms.json`, Blender `transforms_train.json`,
    COLMAP.

    Headers are read now, pixels when a view's `image` is first asked for. Distorted images are
    undistorted then, onto the same K and size, with a mask of the pixels that the lens saw. The
    world's frame is the file's: nothing is recentred or scaled (`Scene.normalised` does that on
    request).

    Args:
        path: The scene's folder, or its JSON file.
        downscale: Divide image sizes by this, >= 1, with an area filter (alpha premultiplied); the
            cameras follow. Sizes are rounded to whole pixels.
        test_every: Views 0, test_every, 2 test_every, ... of the natural order of names are test
            views, unless the data names its own; 0 for none. One view always stays for training.
        images: The folder of a COLMAP model's photographs; default `images` in the scene's folder.
        background: What is behind images that have an alpha channel, three numbers in [0, 1];
            default what the file says, else white.
        cache_bytes: How many bytes of decoded images to keep.

    Returns:
        The scene.

    Raises:
        ValueError: If the path does not exist or an argument is out of range.
        FileFormatError: If nothing known is there, or a file is broken: its name, the field, what
            was expected and what came. An image that does not decode raises it when it is asked
            for.
        ModuleNotFoundError: If it is a COLMAP model and pycolmap is not installed.

    Example:
        >>> scene = load(write_scene(scene, tmp_path / "copy"), downscale=2)
    """
    place = Path(path)
    options = Options(
        _checked_downscale(downscale),
        check_test_every(test_every),
        check_background(background),
        ByteCache(cache_bytes),
    )
    if not place.exists():
        raise ValueError(
            f"load: path: expected a scene's folder or JSON file, got {place}: no such file"
        )
    scene = _load(place, None if images is None else Path(images), options)
    _warn_of_duplicates(scene)
    return scene


def _load(place: Path, images: Path | None, options: Options) -> Scene:
    if place.is_file():
        if place.suffix.lower() != ".json":
            raise FileFormatError(place, "file", "a scene's folder or a .json file", place.suffix)
        return load_transforms(place, options)
    if (place / "transforms.json").is_file():
        return load_transforms(place / "transforms.json", options)
    if (place / "transforms_train.json").is_file():
        return load_blender(place, options)
    model = find_model(place)
    if model is None and (count := len(list_photos(place)[1])):
        raise FileFormatError(
            place, "scene", f"{_KNOWN}; {_SOLVE}", f"{count} photos without poses"
        )
    if model is None:
        found = sorted(entry.name for entry in place.iterdir())[:8]
        got = f"a folder with {', '.join(found)}" if found else "an empty folder"
        raise FileFormatError(place, "scene", _KNOWN, got)
    return load_colmap(model, _images_folder(place, model) if images is None else images, options)


def _images_folder(place: Path, model: Path) -> Path:
    """Find `images` in the scene's folder or, if only the model's folder was given, above it."""
    for folder in (place, model.parent, model.parent.parent):
        if (folder / "images").is_dir():
            return folder / "images"
    return place / "images"


def _checked_downscale(downscale: float) -> float:
    if isinstance(downscale, bool) or not isinstance(downscale, int | float):
        raise TypeError(f"load: downscale: expected a number, got {type(downscale).__name__}")
    if not (math.isfinite(downscale) and downscale >= 1):
        raise ValueError(f"load: downscale: expected a number >= 1, got {downscale}")
    return float(downscale)


def _warn_of_duplicates(scene: Scene) -> None:
    def key(view: View) -> tuple[bytes, float | None]:
        # A camera that stands still while time passes is no duplicate.
        return view.camera.world_to_camera.numpy().tobytes(), view.time

    extra = sum(count - 1 for count in Counter(map(key, scene.views)).values())
    if extra:
        warnings.warn(
            f"{scene.path}: {extra} of {len(scene)} views have the same pose as another",
            stacklevel=3,
        )
