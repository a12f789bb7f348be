# SPDX-License-Identifier: Apache-2.0
"""Opening photos for a run; where nothing gives them poses, these are solved first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from .console import output, progress_console

if TYPE_CHECKING:
    from ..datasets import PosedPhotos, PosingProgress
    from ..datasets.posing import Matching
    from ..datasets.scene import Scene

POSES = "colmap"
"""Where in a run's folder the poses lie that were solved for it."""

_SAYS = {
    "photos": "reading photos",
    "features": "finding features",
    "matches": "matching photos",
    "cameras": "placing cameras",
}


def open_photos(
    photos: Path,
    run: Path,
    downscale: float,
    test_every: int,
    matching: Matching = "auto",
    quiet: bool = False,
) -> tuple[Scene, dict[str, Any]]:
    """Opens a scene, and gives what the run's config.json says about it.

    Args:
        photos: The scene; or a folder of photos without poses, which are then solved, or taken from
            where they were solved before.
        run: The run's folder.
        downscale: As for ``load``.
        test_every: As for ``load``.
        matching: As for ``solve_poses``.
        quiet: Print nothing about the poses.
    """
    from ..datasets import load
    from ..datasets.posing import needs_poses

    settings = {"downscale": downscale, "test_every": test_every}
    if not needs_poses(photos):
        return load(photos, downscale, test_every), {"photos": str(photos.resolve()), **settings}
    posed = solve(photos, run / POSES, matching)
    if not quiet:
        total = len(posed.registered) + len(posed.left_out)
        output().print(
            f"{photos}: poses of {len(posed.registered)} of {total} photos: {posed.folder}",
            soft_wrap=True,
        )
    scene = load(posed.folder, downscale, test_every, images=posed.images)
    places = {"photos": str(posed.folder.resolve()), "images": str(posed.images.resolve())}
    return scene, {**places, **settings}


def solve(photos: Path, folder: Path, matching: Matching = "auto") -> PosedPhotos:
    """Solves poses behind a progress bar, one bar after the other for each stage."""
    from ..datasets import solve_poses

    console = progress_console()
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn())
    bars = Progress(*columns, TimeElapsedColumn(), console=console)
    bars.disable = not console.is_terminal
    tasks: dict[str, Any] = {}

    def show(event: PosingProgress) -> None:
        if event.stage not in tasks:
            tasks[event.stage] = bars.add_task(_SAYS[event.stage], total=event.total)
        bars.update(tasks[event.stage], completed=event.done, total=event.total)

    with bars:
        return solve_poses(photos, folder, matching=matching, progress=show)
