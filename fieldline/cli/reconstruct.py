# SPDX-License-Identifier: Apache-2.0
"""``fieldline reconstruct``: photos to splats."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from .console import output, print_facts, print_json, print_rows
from .progress import clock, follow

if TYPE_CHECKING:
    from ..datasets.scene import Scene
    from ..engine.training import FitEvent, FitResult
    from ..representations.gaussians import Gaussians3D

INTERRUPTED = 130

STRATEGIES = {"none": "decay", "default": "default", "mcmc": "mcmc"}
"""The training strategy of each name: without densification, splats still fade and are pruned."""


@dataclass(frozen=True)
class Reconstruct:
    """Reconstruct a scene as splats from photos, and measure it on held-out views.

    Poses of photos that have none are solved first, on the CPU, into the output's folder colmap.
    Ends after --steps, or after --minutes if given, whichever comes first. Ctrl-C stops with a
    checkpoint written, from which --resume goes on.
    """

    photos: tyro.conf.Positional[Path]
    """Folder with transforms.json, transforms_train.json or a COLMAP model, or the JSON file; or a
    folder of photos without poses."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """The run's folder: scene.ply, metrics.json, config.json, pictures, checkpoints."""
    downscale: float | None = None
    """Divide the photos' width and height by this; default 1, or as before with --resume."""
    steps: int | None = None
    """Training steps, of one view each."""
    minutes: float | None = None
    """Stop training after this long."""
    init: Literal["dense", "sfm", "random"] | None = None
    """Start from dense matches between the photos, the scene's points, or random points; default
    its points if it has any, else random ones."""
    per_view: int | None = None
    """With --init dense: cells of each photo, each of which gives at most one splat."""
    splats: int | None = None
    """The most splats to start from, and that growth may lead to."""
    sh_degree: int | None = None
    """Degree of the spherical harmonics, 0 to 4."""
    background: Literal["auto", "black", "white", "random"] | None = None
    """Behind the splats; auto is what the photos say, else black."""
    test_every: int | None = None
    """Hold out every n-th view; 0 for none; default 8, unless the photos name their test views."""
    checkpoint_every: int | None = None
    """Steps between two checkpoints."""
    strategy: Literal["none", "default", "mcmc"] | None = None
    """How the set of splats changes: mcmc moves and adds them; default clones, splits and prunes;
    none adds none, but lets those fade and go that no photo needs. Default none with --init dense,
    else mcmc."""
    matching: Literal["auto", "exhaustive", "sequential"] = "auto"
    """For photos without poses: match all pairs, or each with the next ones in order of names; auto
    matches all pairs of up to 80."""
    seed: int | None = None
    """Seed of everything that is drawn."""
    device: Literal["cpu", "cuda"] | None = None
    """Where to train; default the GPU if there is one."""
    overwrite: bool = False
    """Delete the run that the output holds."""
    resume: bool = False
    """Go on from the last checkpoint in the output."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> int:
        """Loads, trains, reports."""
        from .posing import open_photos

        if self.overwrite and self.resume:
            raise ValueError("reconstruct: expected --overwrite or --resume, got both")
        refuse_taken(self.output, self.overwrite or self.resume)
        recorded = recorded_input(self.output) if self.resume else {}
        downscale = chosen(self.downscale, recorded.get("downscale"), 1.0)
        test_every = chosen(self.test_every, recorded.get("test_every"), 8)
        scene, source = open_photos(
            self.photos, self.output, downscale, test_every, self.matching, quiet=self.json
        )
        if not self.json:
            output().print(f"{self.photos}: {scene!r}", soft_wrap=True)
        model = self.start(scene)
        result = train(scene, self.output, source, model, **self.settings())
        return report(result, self.output, self.json)

    def start(self, scene: Scene) -> Gaussians3D | None:
        """The splats to start from; None leaves them to training, as does --resume."""
        from .initialise import show_report, starting_splats
        from .inputs import quick_device

        if self.per_view is not None and self.init != "dense":
            raise ValueError("reconstruct: expected --per-view with --init dense, got it without")
        if self.resume:
            return None
        model, report = starting_splats(
            scene,
            self.init,
            per_view=self.per_view,
            n_splats=self.splats,
            sh_degree=self.sh_degree,
            seed=self.seed,
            device=self.device or quick_device(),
        )
        if report is not None and not self.json:
            show_report(report)
        return model

    def settings(self) -> dict[str, Any]:
        """The arguments of `fit_events`: only what the user set."""
        given = {
            "steps": self.steps,
            "max_seconds": None if self.minutes is None else 60 * self.minutes,
            "strategy": self.chosen_strategy(),
            "max_splats": self.splats,
            "sh_degree": self.sh_degree,
            "background": self.background,
            "checkpoint_every": self.checkpoint_every,
            "seed": self.seed,
            "device": self.device,
        }
        if self.minutes is not None and self.steps is None:
            # Time ends the run, so the steps must not.
            given["steps"] = 1_000_000
        options = {name: value for name, value in given.items() if value is not None}
        return {**options, "overwrite": self.overwrite, "resume": self.resume}

    def chosen_strategy(self) -> str | None:
        """As `FitConfig` names it; None leaves it to training, or to the run that goes on."""
        if self.strategy is None and (self.init != "dense" or self.resume):
            return None
        return STRATEGIES[self.strategy or "none"]


def refuse_taken(folder: Path, allowed: bool) -> None:
    """Raises ValueError for a folder that holds a run, before any photo is read."""
    from ..engine.training import held_run

    if not allowed and held_run(folder):
        raise ValueError(
            f"{folder}: already holds a run; add --overwrite or --resume, or name another folder"
        )


def chosen(asked: Any, recorded: Any, default: Any) -> Any:
    """What the user asked for, else what the run recorded as a number, else the default."""
    if asked is not None:
        return asked
    return type(default)(recorded) if isinstance(recorded, int | float) else default


def recorded_input(folder: Path) -> dict[str, Any]:
    """The photos and their settings that a run's config.json names."""
    from .inputs import CONFIG_FILE, read_json_object

    recorded = read_json_object(folder / CONFIG_FILE).get("input", {})
    return recorded if isinstance(recorded, dict) else {}


def train(
    scene: Scene,
    folder: Path,
    source: dict[str, Any],
    model: Gaussians3D | None = None,
    **settings: Any,
) -> FitResult:
    """Trains a model, by default a new one, with a progress bar; config.json names its photos."""
    from ..engine.training import TrainingDivergedError, fit_events

    events = fit_events(model, scene, out=folder, **settings)
    try:
        return follow(recording(events, folder, source))
    except TrainingDivergedError as error:
        raise ValueError(str(error)) from error


def recording(
    events: Iterator[FitEvent], folder: Path, source: dict[str, Any]
) -> Iterator[FitEvent]:
    """The events; as training starts, the photos are added to config.json."""
    import json

    from ..engine.training import FitStarted
    from ..representations.files import atomic_path
    from .inputs import CONFIG_FILE, read_json_object

    for event in events:
        if isinstance(event, FitStarted):
            content = {**read_json_object(folder / CONFIG_FILE), "input": source}
            with atomic_path(folder / CONFIG_FILE) as temporary:
                temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        yield event


def report(result: FitResult, folder: Path, as_json: bool) -> int:
    """Prints the figures and where everything lies; returns the exit code."""
    from ..engine.training import metrics_dict

    if as_json:
        files = [str(path) for path in result.files]
        print_json({"output": str(folder), **metrics_dict(result), "files": files})
        return INTERRUPTED if result.interrupted else 0
    if result.interrupted:
        where = result.checkpoint or "nowhere"
        output().print(
            f"stopped at step {result.step:,}; checkpoint: {where}; go on with --resume",
            soft_wrap=True,
        )
        return INTERRUPTED
    show_metrics(result)
    facts = {
        "splats": f"{len(result.model):,}",
        "steps": f"{result.step:,} in {clock(result.seconds)}",
        **{path.name: path for path in result.files},
    }
    print_facts(facts)
    return 0


def show_metrics(result: FitResult) -> None:
    """Prints a row for each held-out view, and the mean."""
    if result.evaluation is None:
        output().print("no views were held out, so nothing was measured")
        return
    print_evaluation(result.evaluation)
    output().print()


def print_evaluation(evaluation: Any) -> None:
    """Prints the metrics of an evaluation as a table."""
    names = ["psnr", "ssim", *(["lpips"] if evaluation.lpips is not None else [])]
    heads = {"psnr": "PSNR (dB)", "ssim": "SSIM", "lpips": "LPIPS"}
    digits = {"psnr": 2, "ssim": 4, "lpips": 4}
    rows = [("mean", evaluation), *((view.name, view) for view in evaluation.views)]
    cells = [
        [label, *(format_figure(getattr(row, name), digits[name]) for name in names)]
        for label, row in (*rows[1:], rows[0])
    ]
    print_rows(["held-out view", *(heads[name] for name in names)], cells)


def format_figure(value: float | None, digits: int) -> str:
    """A figure of a table; a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"
