# SPDX-License-Identifier: Apache-2.0
"""``fieldline eval``: how well splats reproduce photos."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from .console import output, print_json
from .reconstruct import print_evaluation


@dataclass(frozen=True)
class Evaluate:
    """Measure PSNR, SSIM (and LPIPS, where it is installed) of splats on photos."""

    input: tyro.conf.Positional[Path]
    """A run folder, or a file of splats."""
    photos: Path | None = None
    """Photos with poses; default those that the run was made from."""
    downscale: float | None = None
    """Divide the photos' width and height by this; default as in the run, else 1."""
    views: Literal["test", "train", "all"] = "test"
    """Which views to measure."""
    background: tuple[float, float, float] | None = None
    """Colour behind the splats, 0 to 1 each; default the photos', else black."""
    lpips: bool = False
    """Measure LPIPS too; needs the package lpips and its weights."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> int:
        """Renders every view and compares."""
        from ..engine.training import evaluate, evaluation_dict
        from .inputs import open_input, quick

        source = open_input(self.input)
        scene = source.scene(self.photos, self.downscale)
        views = {"test": scene.test, "train": scene.train, "all": scene.views}[self.views]
        if not views:
            raise ValueError(f"eval: --views {self.views}: the photos have none")
        splats = quick(source.splats)
        behind = self.background or source.background or scene.background
        evaluation = evaluate(
            splats, views, background=behind, antialiased=source.antialiased, lpips=self.lpips
        )
        if self.json:
            facts = {"input": str(self.input), "splats": len(splats), "views": self.views}
            print_json({**facts, **evaluation_dict(evaluation)})
        else:
            print_evaluation(evaluation)
            output().print()
        return 0
