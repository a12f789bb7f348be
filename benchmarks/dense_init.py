# SPDX-License-Identifier: Apache-2.0
"""Dense initialisation: quality against time and number of splats, beside runs that densify.

    python benchmarks/dense_init.py          all cases and methods, 3 seeds: about 50 minutes
    python benchmarks/dense_init.py fern --seconds 20 --repeats 1 --methods dense_none sparse_mcmc

Every run gets the same wall time, initialisation included, on the same views, with the same losses,
rates, resolutions and harmonics; only what defines a method differs. Held-out views are measured at
a geometric series of times, with the clock stopped. Methods:

- ``sparse_default``: SfM points (random ones where there are none), cloned, split and pruned;
- ``sparse_mcmc``: the same points, MCMC;
- ``dense_none``: dense initialisation with half of the others' splats at most, no densification;
- ``dense_none_third``: the same in a third of the time, its schedules with it;
- ``dense_mcmc``: the same initialisation, to which MCMC adds.

Runs are recorded one by one: a benchmark that is stopped loses at most a run, and goes on when it
is called again with the same settings (``--fresh`` begins anew). Settings of the baselines are
those that did best on fern; ``settings`` in the record has them all.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).resolve().parent))

from common import DATA, arguments, commit, machine, record
from fieldline.engine.training import FitEvaluated, FitFinished, initial_gaussians

import fieldline as fl

NAME = "dense_init"
SEEDS, SECONDS = 3, 40.0
# Times of the measurements are the budget divided by powers of this.
RATIO, MEASUREMENTS = math.sqrt(2), 10
MOST_TEST_VIEWS = 8
GOALS = {"time_share": 1 / 3, "splat_ratio": 1 / 2, "difference_db": -0.2, "cases": 3}

COMMON: dict[str, Any] = {
    # Time ends a run, not steps.
    "steps": 1_000_000,
    "sh_degree": 3,
    "lpips": False,
    "progress_every": 50,
    "n_initial": 10_000,
    # Runs of a thousand steps want larger ones than those of thirty thousand: better for every
    # method on fern.
    "means_rate": 5e-4,
}


@dataclass(frozen=True)
class Case:
    """Photos, and the most splats that a method which adds some may have."""

    load: Callable[[], fl.datasets.Scene]
    splats: int


def _load(place: str, **options: Any) -> Callable[[], fl.datasets.Scene]:
    return lambda: fl.datasets.load(DATA / place, **options)


CASES = {
    "fern": Case(_load("gs/fern_colmap", downscale=2), 30_000),
    "fern_large": Case(_load("gs/fern_colmap"), 60_000),
    "kitchen": Case(
        _load("gs/kitchen_colmap", images=DATA / "multiview" / "vggt_kitchen_jpg"), 40_000
    ),
    "fox": Case(_load("fox", downscale=4), 40_000),
    "lego": Case(_load("nerf_synthetic/lego", downscale=2), 30_000),
}


@dataclass(frozen=True)
class Method:
    """What a method starts from, how it goes on, and what share of the time it gets."""

    dense: bool
    settings: dict[str, Any]
    share: float = 1.0


DENSE_SHARE = 0.5
"""Most splats of a dense initialisation, as a share of the most that a case may have."""


_DEFAULT = {"strategy": "default", "absgrad": True, "prune_scale": 1.0}
_MCMC = {
    "strategy": "mcmc",
    "refine_every": 10,
    "growth": 0.1,
    "noise_rate": 5e3,
    "opacity_regulariser": 1e-3,
    "scale_regulariser": 1e-3,
}
METHODS = {
    "sparse_default": Method(False, _DEFAULT),
    "sparse_mcmc": Method(False, _MCMC),
    "dense_none": Method(True, {"strategy": "decay"}),
    "dense_none_third": Method(True, {"strategy": "decay"}, share=1 / 3),
    "dense_mcmc": Method(True, {**_MCMC, "means_rate_from": 8 / 30}),
}
BASELINES = ("sparse_default", "sparse_mcmc")
DENSE = ("dense_none", "dense_none_third")


# Running.


def open_case(case: Case) -> fl.datasets.Scene:
    """The scene with every image decoded, and at most eight test views, evenly chosen."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scene = case.load()
    test, n = scene.test, len(scene.test)
    if n > MOST_TEST_VIEWS:
        test = [test[i * n // MOST_TEST_VIEWS] for i in range(MOST_TEST_VIEWS)]
    scene = fl.datasets.Scene(
        [*scene.train, *test],
        train=scene.train,
        test=test,
        points=scene.points,
        point_colors=scene.point_colors,
        background=scene.background,
        path=scene.path,
    )
    for view in scene.views:
        _ = view.image, view.mask
    return scene


def dense_points(
    scene: fl.datasets.Scene, most: int, seed: int, device: str = "cpu"
) -> fl.Gaussians3D:
    """The dense initialisation."""
    return fl.dense_init(
        scene, max_points=most, sh_degree=COMMON["sh_degree"], seed=seed, device=device
    )


def times_of(seconds: float) -> list[float]:
    """When a run of that length is measured, its end left out."""
    return sorted(seconds / RATIO**k for k in range(1, MEASUREMENTS))


def run_once(
    scene: fl.datasets.Scene,
    case: Case,
    method: Method,
    seed: int,
    seconds: float,
    device: str = "cpu",
) -> dict[str, Any]:
    """One run: its curve, and what it ended with."""
    config = fl.FitConfig(**COMMON, **method.settings, max_splats=case.splats, seed=seed)
    most = int(DENSE_SHARE * case.splats)
    budget = method.share * seconds
    start = time.perf_counter()
    if method.dense:
        model = dense_points(scene, most, seed, device)
    else:
        model = initial_gaussians(scene, config, device)
    spent = time.perf_counter() - start
    curve = [_point(spent, 0, len(model), fl.evaluate(model, scene, lpips=False))]
    if spent >= budget:
        return {"init_seconds": spent, "budget": budget, "ran_out": True, "curve": curve}
    events = fl.fit_events(
        model,
        scene,
        config=config,
        max_seconds=budget - spent,
        evaluate_at=[t - spent for t in times_of(seconds) if spent < t < budget],
    )
    for event in events:
        if isinstance(event, FitEvaluated):
            where = (spent + event.seconds, event.step, event.n_splats)
            curve.append(_point(*where, event.evaluation))
        elif isinstance(event, FitFinished):
            result = event.result
            where = (spent + result.seconds, result.step, len(result.model))
            curve.append(_point(*where, result.evaluation))
            if result.interrupted:
                raise KeyboardInterrupt
    return {"init_seconds": spent, "budget": budget, "ran_out": False, "curve": curve}


def _point(seconds: float, step: int, splats: int, evaluation: Any) -> dict[str, Any]:
    """One measurement."""
    figures = {"psnr": round(evaluation.psnr, 4), "ssim": round(evaluation.ssim, 5)}
    return {"seconds": round(seconds, 3), "step": step, "splats": splats, **figures}


def warm_up(device: str) -> None:
    """Loads the core and lets every part run once, so that the first run does not pay for it."""
    scene = fl.datasets.synthetic.still_life(8, 96, 72, n_points=200)
    dense_points(scene, 500, 0, device)
    for strategy in ("default", "mcmc", "decay"):
        fl.fit(None, scene, steps=5, strategy=strategy, lpips=False, device=device)


# Figures.

# Two-sided 95 % quantiles of Student's t, by degrees of freedom.
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


def mean_and_interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean of a few values and half of its 95 % interval; no interval for one value."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, None
    quantile = _STUDENT[min(len(values) - 1, len(_STUDENT)) - 1]
    return mean, quantile * statistics.stdev(values) / math.sqrt(len(values))


def time_to_reach(curve: Sequence[dict[str, Any]], psnr: float) -> float | None:
    """When a curve first has a PSNR, straight between measurements; None if it never does."""
    before: dict[str, Any] | None = None
    for point in curve:
        if point["psnr"] >= psnr:
            if before is None:
                return point["seconds"]
            part = (psnr - before["psnr"]) / (point["psnr"] - before["psnr"])
            return before["seconds"] + part * (point["seconds"] - before["seconds"])
        before = point
    return None


def method_figures(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds of what a method ends with, with 95 % intervals."""
    ends = [run["curve"][-1] for run in runs]
    figures: dict[str, Any] = {"seeds": len(runs)}
    for name in ("psnr", "ssim", "splats", "step", "seconds"):
        mean, interval = mean_and_interval([float(end[name]) for end in ends])
        figures[name], figures[f"{name}_interval"] = mean, interval
    figures["init_seconds"] = statistics.fmean(run["init_seconds"] for run in runs)
    figures["start_psnr"] = statistics.fmean(run["curve"][0]["psnr"] for run in runs)
    return figures


def summary_of(runs: dict[str, dict[str, dict[str, Any]]]) -> dict[str, Any] | None:
    """What a case says about the goals; None while it lacks a baseline or the dense method.

    Args:
        runs: Runs by method and seed.
    """
    ends = {name: method_figures(list(runs[name].values())) for name in runs if runs[name]}
    baselines = [name for name in BASELINES if name in ends]
    if len(baselines) < len(BASELINES) or "dense_none" not in ends:
        return None
    best = max(baselines, key=lambda name: ends[name]["psnr"])
    goal = ends[best]["psnr"]
    # A baseline that was as good before its end counts with the time at which it was.
    reached = [time_to_reach(run["curve"], run["curve"][-1]["psnr"]) for run in runs[best].values()]
    baseline_seconds = statistics.fmean(value for value in reached if value is not None)
    times = {name: _mean_time(runs.get(name, {}), goal) for name in DENSE}
    found = {name: value for name, value in times.items() if value is not None}
    fastest = min(found, key=lambda name: found[name]) if found else None
    shared = [seed for seed in runs["dense_none"] if seed in runs[best]]
    differences = [
        runs["dense_none"][seed]["curve"][-1]["psnr"] - runs[best][seed]["curve"][-1]["psnr"]
        for seed in shared
    ]
    difference, interval = mean_and_interval(differences) if shared else (math.nan, None)
    share = None if fastest is None else found[fastest] / baseline_seconds
    ratio = max(ends[name]["splats"] for name in (fastest or "dense_none", "dense_none"))
    ratio /= ends[best]["splats"]
    return {
        "best_baseline": best,
        "baseline_psnr": goal,
        "baseline_seconds": baseline_seconds,
        "reached_by": fastest,
        "reached_seconds": None if fastest is None else found[fastest],
        "time_share": share,
        "splat_ratio": ratio,
        "difference_db": difference,
        "difference_interval": interval,
        "meets_time": share is not None and share <= GOALS["time_share"],
        "meets_splats": ratio <= GOALS["splat_ratio"] + 1e-9,
        "meets_end": difference >= GOALS["difference_db"],
    }


def _mean_time(runs: dict[str, dict[str, Any]], psnr: float) -> float | None:
    """Mean time at which all seeds have a PSNR; None if one never has."""
    times = [time_to_reach(run["curve"], psnr) for run in runs.values()]
    reached = [value for value in times if value is not None]
    return statistics.fmean(reached) if times and len(reached) == len(times) else None


def grouped(runs: dict[str, Any], case: str) -> dict[str, dict[str, Any]]:
    """The runs of a case by method and seed."""
    found: dict[str, dict[str, Any]] = {}
    for name in METHODS:
        for key, run in runs.items():
            of_case, of_method, seed = key.split("/")
            if (of_case, of_method) == (case, name):
                found.setdefault(name, {})[seed] = run
    return found


def results_of(runs: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """All that is recorded: settings, every run, and what follows from them."""
    cases: dict[str, Any] = {}
    for case in CASES:
        by_method = grouped(runs, case)
        if by_method:
            cases[case] = {
                "methods": {
                    name: method_figures(list(seeds.values())) for name, seeds in by_method.items()
                },
                "goals": summary_of(by_method),
            }
    goals = [case["goals"] for case in cases.values() if case["goals"] is not None]
    reached = sum(goal["meets_time"] and goal["meets_splats"] for goal in goals)
    overall = {
        "cases_measured": len(goals),
        "cases_in_time_with_fewer_splats": reached,
        "never_worse": all(goal["meets_end"] for goal in goals) if goals else None,
        "met": bool(goals)
        and reached >= GOALS["cases"]
        and all(goal["meets_end"] for goal in goals),
    }
    return {
        "goals": GOALS,
        "settings": settings,
        "overall": overall,
        "cases": cases,
        "runs": runs,
    }


# Curves.


def draw(case: str, runs: dict[str, dict[str, Any]], path: Path) -> None:
    """PSNR, SSIM and number of splats against time: each run thin, a marker where it ends."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3)
    axes_of = zip(
        panels, ("psnr", "ssim", "splats"), ("PSNR of held-out views, dB", "SSIM", "splats")
    )
    colors = dict(zip(METHODS, ("tab:orange", "tab:red", "tab:blue", "tab:cyan", "tab:green")))
    for axes, figure_name, label in axes_of:
        for method, seeds in runs.items():
            for index, run in enumerate(seeds.values()):
                x = [point["seconds"] for point in run["curve"]]
                y = [point[figure_name] for point in run["curve"]]
                name = method.replace("_", " + ", 1).replace("_", ", ") if index == 0 else None
                axes.plot(x, y, color=colors[method], linewidth=1.1, alpha=0.8, label=name)
                axes.plot(x[-1:], y[-1:], "o", color=colors[method], markersize=3)
        axes.set(xscale="log", xlabel="seconds, initialisation included", ylabel=label)
        axes.grid(alpha=0.3, which="both")
    panels[2].set_ylim(bottom=0)
    panels[0].legend(fontsize="small")
    figure.suptitle(case.replace("_", " "))
    canvas.print_figure(str(path), format="png", dpi=110)


# What is printed.


def _with_interval(figures: dict[str, Any], name: str, digits: int) -> str:
    interval = figures[f"{name}_interval"]
    text = f"{figures[name]:.{digits}f}"
    return text if interval is None else f"{text} +- {interval:.{digits}f}"


def describe(results: dict[str, Any]) -> str:
    """The figures for people."""
    lines = []
    for case, found in results["cases"].items():
        lines.append(f"{case}")
        lines.append(
            f"  {'method':18}{'PSNR, dB':>16}{'SSIM':>20}{'splats':>18}{'steps':>8}"
            f"{'initialised, s':>16}{'at start, dB':>14}"
        )
        for method, figures in found["methods"].items():
            lines.append(
                f"  {method:18}{_with_interval(figures, 'psnr', 2):>16}"
                f"{_with_interval(figures, 'ssim', 4):>20}"
                f"{_with_interval(figures, 'splats', 0):>18}{figures['step']:>8.0f}"
                f"{figures['init_seconds']:>16.1f}{figures['start_psnr']:>14.2f}"
            )
        lines.append(_goal_line(found["goals"]))
    overall = results["overall"]
    lines.append(
        f"goals: {overall['cases_in_time_with_fewer_splats']} of {overall['cases_measured']} cases "
        f"in a third of the time with half of the splats (goal {GOALS['cases']}); "
        f"never worse than {GOALS['difference_db']} dB: {overall['never_worse']}"
    )
    return "\n".join(lines)


def _goal_line(goals: dict[str, Any] | None) -> str:
    if goals is None:
        return "  goals: need both baselines and dense_none"
    when = "never"
    if goals["reached_by"] is not None:
        when = (
            f"after {goals['reached_seconds']:.1f} of {goals['baseline_seconds']:.1f} s "
            f"({goals['time_share']:.2f} of the time, {goals['reached_by']})"
        )
    interval = goals["difference_interval"]
    spread = "" if interval is None else f" +- {interval:.2f}"
    return (
        f"  best baseline {goals['best_baseline']} at {goals['baseline_psnr']:.2f} dB: reached "
        f"{when}, with {goals['splat_ratio']:.2f} of its splats; at the end "
        f"{goals['difference_db']:+.2f}{spread} dB"
    )


# The whole.


def settings_of(seconds: float) -> dict[str, Any]:
    """What has to be the same for runs to be compared."""
    methods = {
        name: {"dense": method.dense, "share": method.share, **method.settings}
        for name, method in METHODS.items()
    }
    caps = {name: case.splats for name, case in CASES.items()}
    threads = torch.get_num_threads()
    settings = {"seconds": seconds, "threads": threads, "common": COMMON, "splats": caps}
    settings["dense_share"] = DENSE_SHARE
    # As they come back from JSON, so that they can be compared.
    return json.loads(json.dumps({**settings, "methods": methods}))


def recorded_runs(file: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The runs of an earlier call on this machine with the same settings."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        same = content["results"]["settings"] == settings
        same = same and content["machine"] == json.loads(json.dumps(machine()))
        return dict(content["results"]["runs"]) if same else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def main() -> None:
    """Runs what is missing, records each run, draws and prints."""
    parser = arguments(__doc__.split("\n")[0], tuple(CASES))
    parser.set_defaults(repeats=SEEDS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="wall time of each run")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to run")
    parser.add_argument("--fresh", action="store_true", help="forget the runs of earlier calls")
    options = parser.parse_args()
    cases = options.sections or list(CASES)
    unknown = set(cases) - set(CASES)
    if unknown:
        parser.error(f"unknown section {sorted(unknown)[0]!r}: expected {', '.join(CASES)}")
    if not options.seconds > 0 or options.repeats < 1:
        parser.error("--seconds and --repeats: expected more than 0")
    settings = settings_of(options.seconds)
    name = f"{NAME}_{options.device}"
    file = options.output / f"{name}.json"
    runs = {} if options.fresh else recorded_runs(file, settings)
    text = record(name, results_of(runs, settings), options.output)
    warm_up(options.device)
    for case in cases:
        # Seeds outermost: a benchmark that is stopped has every method equally often.
        todo = [
            (seed, method, f"{case}/{method}/{seed}")
            for seed in range(options.repeats)
            for method in options.methods
            if f"{case}/{method}/{seed}" not in runs
        ]
        scene = open_case(CASES[case]) if todo else None
        for seed, method, key in todo:
            assert scene is not None
            run = run_once(
                scene, CASES[case], METHODS[method], seed, options.seconds, options.device
            )
            runs[key] = {**run, "commit": commit()}
            text = record(name, results_of(runs, settings), options.output)
            end = run["curve"][-1]
            print(
                f"{key}: {end['psnr']:.2f} dB, {end['splats']} splats, {end['step']} steps, "
                f"{run['init_seconds']:.1f} + {end['seconds'] - run['init_seconds']:.1f} s",
                file=sys.stderr,
                flush=True,
            )
        if by_method := grouped(runs, case):
            draw(case, by_method, options.output / f"{name}_{case}.png")
    print(text if options.json else describe(json.loads(text)["results"]))


if __name__ == "__main__":
    main()
