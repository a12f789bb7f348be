# SPDX-License-Identifier: Apache-2.0
"""What the commands are pointed at: a run folder, a file of splats, a folder of photos."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..datasets import load as load_scene
from ..datasets.scene import Scene
from ..errors import FileFormatError
from ..representations.files import load
from ..representations.gaussians import Gaussians3D

SCENE_FILE = "scene.ply"
CONFIG_FILE = "config.json"


@dataclass(frozen=True)
class Input:
    """Splats, and what is known of the photos they were made from."""

    splats: Gaussians3D
    path: Path
    config: dict[str, Any]

    @property
    def recorded(self) -> dict[str, Any]:
        """The photos and their settings that the run names."""
        section = self.config.get("input", {})
        return section if isinstance(section, dict) else {}

    @property
    def fit(self) -> dict[str, Any]:
        """The settings that the run was trained with."""
        section = self.config.get("fit", {})
        return section if isinstance(section, dict) else {}

    @property
    def background(self) -> tuple[float, float, float] | None:
        """The colour behind the splats, if the run fixed one that is not the photos' own."""
        name = self.fit.get("background")
        return {"white": (1.0, 1.0, 1.0), "black": (0.0, 0.0, 0.0)}.get(str(name))

    @property
    def antialiased(self) -> bool:
        """Whether the run was trained with the antialiasing factor."""
        return self.fit.get("antialiased") is True

    @property
    def photos(self) -> Path | None:
        """The photos that a run was made from, if it says so and they are still there."""
        place = self.recorded.get("photos")
        return Path(place) if isinstance(place, str) and Path(place).exists() else None

    def scene(self, photos: Path | None, downscale: float | None) -> Scene:
        """The scene to compare with or to take cameras from.

        Args:
            photos: The user's choice; default what the run recorded.
            downscale: Likewise.

        Raises:
            ValueError: If neither names any photos.
        """
        place = photos or self.photos
        if place is None:
            gone = self.recorded.get("photos")
            why = f"{gone}, which the run was made from, is gone" if gone else "none is known"
            raise ValueError(
                f"{self.path}: photos to take cameras from: {why}; name them: --photos"
            )
        if downscale is None:
            value = self.recorded.get("downscale", 1) if photos is None else 1
            downscale = float(value) if isinstance(value, int | float) else 1.0
        test_every = self.recorded.get("test_every", 8)
        # Where poses were solved for the run, the model lies apart from the photos.
        images = self.recorded.get("images") if photos is None else None
        return load_scene(
            place,
            downscale,
            test_every if isinstance(test_every, int) else 8,
            images=images if isinstance(images, str) else None,
        )


def open_input(path: Path) -> Input:
    """Opens a run folder or a file of splats.

    Raises:
        FileNotFoundError: If nothing is there.
        ValueError: If it is something else.
        FileFormatError: If the file is broken.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    file = path / SCENE_FILE if path.is_dir() else path
    if not file.exists():
        raise ValueError(f"{path}: expected a run folder with {SCENE_FILE}, or a file of splats")
    splats = load(file)
    if not isinstance(splats, Gaussians3D):
        raise ValueError(f"{file}: expected splats, got {type(splats).__name__}")
    return Input(splats, path, read_json_object(path / CONFIG_FILE) if path.is_dir() else {})


def read_json_object(file: Path) -> dict[str, Any]:
    """A JSON file of a run, such as config.json; nothing if the run has none.

    Raises:
        FileFormatError: If it is not a JSON object.
    """
    if not file.exists():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise FileFormatError(file, "content", "JSON", str(error)[:200]) from error
    if not isinstance(content, dict):
        raise FileFormatError(file, "content", "an object", type(content).__name__)
    return content


def quick(splats: Gaussians3D) -> Gaussians3D:
    """The splats on the fastest device here."""
    return splats.to(quick_device())


def quick_device() -> str:
    """The fastest device here: a GPU that our kernels run on, else the CPU."""
    import torch

    from ..cuda import library

    on_gpu = "_C_cuda" in library.loaded() and torch.cuda.is_available()
    return "cuda" if on_gpu else "cpu"
