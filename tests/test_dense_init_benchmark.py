# SPDX-License-Identifier: Apache-2.0
"""The benchmark of dense initialisation: its figures by hand, and that it loses nothing."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from fieldline.datasets import synthetic

import fieldline as fl

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, with one small case and random points as dense initialisation."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec = importlib.util.spec_from_file_location(
        "dense_init_benchmark", BENCHMARKS / "dense_init.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Its dataclasses look their module up.
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    case = module.Case(lambda: synthetic.still_life(8, 40, 30, n_points=150), 300)
    monkeypatch.setattr(module, "CASES", {"small": case})
    monkeypatch.setattr(module, "dense_points", stand_in)
    monkeypatch.setattr(module, "warm_up", lambda device: None)
    return module


def stand_in(scene: fl.datasets.Scene, most: int, seed: int, device: str = "cpu") -> fl.Gaussians3D:
    generator = torch.Generator().manual_seed(seed)
    assert scene.points is not None
    rows = torch.randperm(len(scene.points), generator=generator)[:most]
    return fl.Gaussians3D.from_points(scene.points[rows], sh_degree=3)


def call(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["dense_init.py", *map(str, arguments)])
    benchmark.main()


def curve(*points: tuple[float, float], splats: int = 100) -> list[dict[str, Any]]:
    return [
        {"seconds": s, "psnr": p, "ssim": p / 50, "splats": splats, "step": 1} for s, p in points
    ]


def runs_of(curves: dict[str, list[list[dict[str, Any]]]]) -> dict[str, dict[str, Any]]:
    return {
        name: {str(i): {"init_seconds": 1.0, "curve": c} for i, c in enumerate(of_name)}
        for name, of_name in curves.items()
    }


def test_intervals_are_students(benchmark: ModuleType) -> None:
    mean, half = benchmark.mean_and_interval([1.0, 2.0, 3.0])
    assert mean == 2
    assert half == pytest.approx(4.303 * 1.0 / math.sqrt(3))
    assert benchmark.mean_and_interval([5.0]) == (5.0, None)


def test_time_to_reach_lies_between_measurements(benchmark: ModuleType) -> None:
    rising = curve((1, 10.0), (2, 20.0), (4, 30.0))
    assert benchmark.time_to_reach(rising, 25.0) == pytest.approx(3.0)
    assert benchmark.time_to_reach(rising, 5.0) == 1
    assert benchmark.time_to_reach(rising, 30.0) == pytest.approx(4.0)
    assert benchmark.time_to_reach(rising, 31.0) is None


def test_goals_by_hand(benchmark: ModuleType) -> None:
    runs = runs_of(
        {
            "sparse_default": [curve((1, 10.0), (30, 20.0), splats=300)] * 2,
            "sparse_mcmc": [
                curve((1, 10.0), (30, 23.0), splats=200),
                curve((1, 10.0), (30, 25.0), splats=200),
            ],
            "dense_none": [
                curve((2, 20.0), (10, 28.0), (30, 28.5), splats=90),
                curve((2, 22.0), (10, 26.0), (30, 27.0), splats=110),
            ],
        }
    )
    goals = benchmark.summary_of(runs)
    assert goals["best_baseline"] == "sparse_mcmc" and goals["baseline_psnr"] == 24.0
    assert goals["baseline_seconds"] == pytest.approx(30.0)
    # The two seeds have 24 dB after 2 + 4 and 2 + 4 seconds.
    assert goals["reached_seconds"] == pytest.approx(6.0)
    assert goals["time_share"] == pytest.approx(0.2) and goals["meets_time"]
    assert goals["splat_ratio"] == pytest.approx(0.5) and goals["meets_splats"]
    assert goals["difference_db"] == pytest.approx((5.5 + 2.0) / 2) and goals["meets_end"]


def test_goals_that_are_missed(benchmark: ModuleType) -> None:
    better = curve((1, 10.0), (15, 25.0), (30, 25.0), splats=100)
    worse = curve((1, 20.0), (30, 24.5), splats=80)
    runs = runs_of({"sparse_default": [better], "sparse_mcmc": [better], "dense_none": [worse]})
    goals = benchmark.summary_of(runs)
    assert goals["baseline_seconds"] == pytest.approx(15.0), "it was as good half way"
    assert goals["reached_by"] is None and not goals["meets_time"]
    assert goals["splat_ratio"] == pytest.approx(0.8) and not goals["meets_splats"]
    assert goals["difference_db"] == pytest.approx(-0.5) and not goals["meets_end"]
    runs["dense_none_third"] = runs_of({"x": [curve((1, 20.0), (5, 25.0), splats=40)]})["x"]
    goals = benchmark.summary_of(runs)
    assert goals["reached_by"] == "dense_none_third"
    assert goals["time_share"] == pytest.approx(5 / 15) and goals["meets_time"]
    del runs["sparse_mcmc"]
    assert benchmark.summary_of(runs) is None


def test_it_records_every_run_and_goes_on(
    benchmark: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ("--seconds", 0.2, "--repeats", 2, "--output", tmp_path)
    file = tmp_path / "dense_init_cpu.json"
    original, count = benchmark.run_once, [0]

    def stopped(*args: Any) -> Any:
        count[0] += 1
        if count[0] == 4:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(benchmark, "run_once", stopped)
    with pytest.raises(KeyboardInterrupt):
        call(benchmark, monkeypatch, *arguments)
    kept = json.loads(file.read_text())["results"]["runs"]
    methods = list(benchmark.METHODS)
    assert list(kept) == [f"small/{name}/0" for name in methods[:3]]
    capsys.readouterr()
    call(benchmark, monkeypatch, *arguments)
    text = capsys.readouterr().out
    assert count[0] == 4 + 7, "the three runs of the first call are not repeated"
    content = json.loads(file.read_text())
    runs = content["results"]["runs"]
    assert {key: runs[key] for key in kept} == kept
    assert len(runs) == 10
    assert (tmp_path / "dense_init_cpu_small.png").stat().st_size > 10_000
    for key, run in runs.items():
        seconds = [point["seconds"] for point in run["curve"]]
        assert seconds == sorted(seconds)
        budget = 0.2 / 3 if "third" in key else 0.2
        assert run["budget"] == pytest.approx(budget)
        # The last step begins within the budget; on a busy machine it may take long.
        assert budget - 1e-3 <= seconds[-1] < budget + 3, key
        assert run["curve"][-1]["splats"] <= (150 if "dense_none" in key else 300)
    assert "best baseline" in text and "in a third of the time" in text
    goals = content["results"]["cases"]["small"]["goals"]
    assert goals["best_baseline"] in benchmark.BASELINES
    # Other settings: nothing is carried over.
    call(
        benchmark,
        monkeypatch,
        "--seconds",
        0.3,
        "--repeats",
        1,
        "--output",
        tmp_path,
        "--methods",
        "dense_none",
    )
    assert list(json.loads(file.read_text())["results"]["runs"]) == ["small/dense_none/0"]
    assert "need both baselines" in capsys.readouterr().out


def test_an_initialisation_that_takes_all_the_time_is_recorded(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = benchmark.CASES["small"]
    run = benchmark.run_once(
        benchmark.open_case(case), case, benchmark.METHODS["dense_none"], 0, 1e-9
    )
    assert run["ran_out"] and len(run["curve"]) == 1
    assert run["curve"][0]["seconds"] > 0 and run["curve"][0]["splats"] == 150
    assert benchmark.method_figures([run])["psnr"] == run["curve"][0]["psnr"]


def test_test_views_are_thinned(benchmark: ModuleType) -> None:
    def load() -> fl.datasets.Scene:
        scene = synthetic.still_life(30, 16, 12, n_points=20)
        return fl.datasets.Scene(scene.views, test=scene.views[10:])

    scene = benchmark.open_case(benchmark.Case(load, 10))
    assert (len(scene.train), len(scene.test)) == (10, 8)
