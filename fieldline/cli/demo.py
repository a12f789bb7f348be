# SPDX-License-Identifier: Apache-2.0
"""``fieldline demo``: a scene made here, reconstructed from its pictures, and measured."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from .console import output, print_facts
from .reconstruct import refuse_taken, report, train

PHOTOS = "photos"
# What the folder of made photos holds (datasets/export.py), and so all that --overwrite removes.
PHOTO_FILES = {"transforms.json", "images", "depth", "masks", "points.ply"}

# Small enough to end within two minutes on two cores.
VIEWS, WIDTH, HEIGHT, POINTS = 48, 200, 150, 3000
SETTINGS: dict[str, Any] = {
    "steps": 2500,
    "max_splats": 15_000,
    "sh_degree": 1,
    "refine_every": 50,
    "growth": 0.1,
    "full_resolution_at": 0.25,
    "means_rate": 3e-4,
    "opacity_regulariser": 1e-3,
    "scale_regulariser": 1e-3,
}


@dataclass(frozen=True)
class Demo:
    """Make a still life, reconstruct it from its pictures, and measure the held-out ones.

    It needs no data and no GPU, and takes less than two minutes on two cores.
    """

    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("runs/demo")
    """The run's folder."""
    seed: int = 0
    """Seed of the scene and of the training."""
    steps: int = SETTINGS["steps"]
    """Training steps."""
    overwrite: bool = False
    """Delete the demo that the output holds."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> int:
        """Makes, trains, measures."""
        from ..datasets import load, synthetic

        refuse_taken(self.output, self.overwrite)
        photos = self.output / PHOTOS
        clear_photos(photos, self.overwrite)
        synthetic.write(photos, VIEWS, WIDTH, HEIGHT, seed=self.seed, n_points=POINTS)
        scene = load(photos)
        if not self.json:
            output().print(f"{photos}: {scene!r}", soft_wrap=True)
        source = {"photos": str(photos.resolve()), "downscale": 1.0, "test_every": 8}
        settings = {**SETTINGS, "steps": self.steps, "seed": self.seed}
        settings["overwrite"] = self.overwrite
        result = train(scene, self.output, source, **settings)
        code = report(result, self.output, self.json)
        if code == 0 and not self.json:
            print_facts(
                {"next": f"fieldline render {self.output} -o {self.output}/circle --circle 60"}
            )
        return code


def clear_photos(folder: Path, overwrite: bool) -> None:
    """Removes the photos of an earlier demo.

    Raises:
        ValueError: If they are there and not to be removed, or something else is among them.
    """
    held = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if held and not overwrite:
        raise ValueError(f"{folder}: is already there; choose another --output or add --overwrite")
    strangers = held - PHOTO_FILES
    if strangers:
        raise ValueError(f"{folder}: expected only a demo's photos, got {min(strangers)} as well")
    if held:
        shutil.rmtree(folder)
