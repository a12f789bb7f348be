# SPDX-License-Identifier: Apache-2.0
"""``fieldline init``: photos with poses to the splats that training starts from; and the choice of
these for ``fieldline reconstruct``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from .console import output, print_facts, print_json, print_rows
from .progress import watched_stages

if TYPE_CHECKING:
    from ..datasets.scene import Scene
    from ..engine.dense_init import DenseInitReport
    from ..representations.gaussians import Gaussians3D

Start = Literal["dense", "sfm", "random"]


@dataclass(frozen=True)
class Init:
    """Make initial splats from photos with poses: dense matches between the views, no training.

    The output's name says what is written: a folder gets a COLMAP model (cameras, images,
    points3D), .ply splats as every trainer of 3D Gaussians reads them, .splat and .safetensors
    likewise.
    """

    photos: tyro.conf.Positional[Path]
    """Folder with transforms.json, transforms_train.json or a COLMAP model; or the JSON file."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """A file of splats, or a folder for a COLMAP model."""
    downscale: float = 1.0
    """Divide the photos' width and height by this."""
    test_every: int = 8
    """Leave every n-th view out; 0 to use all."""
    per_view: int = 15_000
    """Cells of each view's image, each of which gives at most one splat."""
    max_points: int | None = None
    """Most splats in all."""
    neighbours: int = 4
    """Views that each view is matched against."""
    matcher: Literal["sweep", "sgbm", "sift", "depth", "points"] = "sweep"
    """Plane sweep; OpenCV's SGBM or SIFT; the views' own depth maps; the scene's points."""
    sh_degree: int = 3
    """Degree of the spherical harmonics, 0 to 4."""
    seed: int = 0
    """Seed of what is drawn."""
    points: bool = False
    """Write a .ply of coloured points with normals instead of splats."""
    text: bool = False
    """Write the COLMAP model as .txt files."""
    overwrite: bool = False
    """Replace the output file."""
    device: Literal["cpu", "cuda"] | None = None
    """Where to work; default the GPU if there is one."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> int:
        """Loads, initialises, writes."""
        from ..datasets import load
        from .inputs import quick_device

        refuse_present(self.output, self.overwrite)
        scene = load(self.photos, self.downscale, self.test_every)
        splats, report = dense(
            scene,
            matcher=named_matcher(self.matcher),
            per_view=self.per_view,
            max_points=self.max_points,
            neighbours=self.neighbours,
            sh_degree=self.sh_degree,
            seed=self.seed,
            device=self.device or quick_device(),
        )
        kind = write(splats, scene, self.output, self.points, self.text)
        if self.json:
            print_json({"output": str(self.output), "kind": kind, **report.as_dict()})
            return 0
        show_report(report)
        output().print(f"{self.output}: {len(splats):,} {kind}", soft_wrap=True)
        return 0


def refuse_present(path: Path, allowed: bool) -> None:
    """Raises ValueError for an output that is there, before any photo is read."""
    if path.is_file() and not allowed:
        raise ValueError(f"{path}: is already there; add --overwrite to replace it")
    if path.is_dir() and any(path.glob("points3D.*")):
        raise ValueError(f"{path}: already holds a COLMAP model; name another folder")


def write(splats: Gaussians3D, scene: Scene, path: Path, points: bool, text: bool) -> str:
    """Writes the splats as the output's name says; returns what they were written as."""
    from ..engine.dense_init import to_point_cloud, write_colmap
    from ..representations.files import save

    if not path.suffix or path.is_dir():
        write_colmap(splats, scene, path, text=text)
        return "points of a COLMAP model"
    if points:
        save(to_point_cloud(splats), path)
        return "points"
    save(splats, path)
    return "splats"


def named_matcher(name: str) -> Any:
    """The matcher of a name on the command line; None for the default, which fits its images'
    size to the number of points."""
    from ..engine import dense_init as matchers

    if name in ("sgbm", "sift"):
        return matchers.OpenCVMatcher(name)  # pyright: ignore[reportArgumentType]
    kinds = {"depth": matchers.DepthMaps, "points": matchers.PointCloudMatcher}
    return kinds[name]() if name in kinds else None


def dense(scene: Scene, **options: Any) -> tuple[Gaussians3D, DenseInitReport]:
    """Initialises densely with a progress bar."""
    from ..engine.dense_init import dense_init

    with watched_stages("initialising") as progress:
        return dense_init(scene, progress=progress, return_report=True, **options)


def starting_splats(
    scene: Scene,
    start: Start | None,
    *,
    per_view: int | None = None,
    n_splats: int | None = None,
    sh_degree: int | None = None,
    seed: int | None = None,
    device: str = "cpu",
) -> tuple[Gaussians3D | None, DenseInitReport | None]:
    """Makes what ``fieldline reconstruct --init`` asks for.

    Args:
        scene: The scene.
        start: "dense"; "sfm", the scene's points; "random", points where the cameras look; None
            leaves it to training: the scene's points if it has any.
        per_view: For "dense".
        n_splats: Most splats.
        sh_degree: Of the harmonics.
        seed: Of what is drawn.
        device: Where to work, and where the splats are.

    Returns:
        The splats, None if training makes them; and the report of dense initialisation.

    Raises:
        ValueError: For "sfm" if the scene has no points.
    """
    from ..engine.training import FitConfig, initial_gaussians

    if start is None:
        return None, None
    given: dict[str, Any] = {"sh_degree": sh_degree, "seed": seed}
    options: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
    if start == "dense":
        if per_view is not None:
            options["per_view"] = per_view
        return dense(scene, max_points=n_splats, device=device, **options)
    if n_splats is not None:
        options["max_splats"] = n_splats
    if start == "sfm" and (scene.points is None or len(scene.points) == 0):
        raise ValueError(
            f"{scene.path}: has no points to start from; expected --init dense or random"
        )
    if start == "random":
        scene = without_points(scene)
    return initial_gaussians(scene, FitConfig(**options), device), None


def without_points(scene: Scene) -> Scene:
    """The scene, its points left out."""
    from ..datasets.scene import Scene

    return Scene(
        scene.views,
        train=scene.train,
        test=scene.test,
        background=scene.background,
        path=scene.path,
    )


def show_report(report: DenseInitReport) -> None:
    """Prints a row for each view, and the sums."""
    columns = ["view", "neighbours", "matched", "verified", "points", "merged", "empty"]
    rows = [
        [
            view.name,
            view.neighbours,
            f"{100 * view.matched / max(1, view.pixels):.1f} %",
            f"{100 * view.coverage:.1f} %",
            view.points,
            view.merged,
            view.empty,
        ]
        for view in report.views
    ]
    print_rows(columns, rows)
    kinds = {
        "from matches": report.matched,
        "from the scene's points": report.sparse,
        "interpolated": report.interpolated,
        "far shell": report.far,
        "left out over the limit": report.over_cap,
    }
    error = report.median_error
    facts = {
        "splats": f"{report.points:,}",
        **{name: f"{count:,}" for name, count in kinds.items()},
        "coverage": f"{100 * report.coverage:.1f} %",
        "confirmed by other views": f"{100 * report.consistency:.1f} %",
        **({} if error is None else {"median error": f"{error:.2f} px"}),
        "time": f"{report.seconds:.1f} s",
    }
    print_facts(facts)
