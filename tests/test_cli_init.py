# SPDX-License-Identifier: Apache-2.0
"""``fieldline init``, and what ``fieldline reconstruct --init`` starts from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fieldline.datasets import synthetic

import fieldline as fl
from fieldline.cli import main

QUICK = ("--matcher", "depth", "--per-view", "150")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    return synthetic.write(folder / "photos", 8, 64, 48, n_points=200)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    capsys.readouterr()
    assert main([*map(str, arguments)]) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    return streams.err


def test_init_writes_splats_and_prints_the_report(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "splats.ply"
    assert main(["init", str(photos), "-o", str(out), *QUICK]) == 0
    shown = capsys.readouterr().out
    splats = fl.load(out)
    assert isinstance(splats, fl.Gaussians3D)
    assert f"{len(splats):,} splats" in shown
    for word in ("verified", "merged", "images/0001.png", "coverage", "interpolated"):
        assert word in shown
    said = refusal(capsys, "init", photos, "-o", out, *QUICK)
    assert "is already there; add --overwrite" in said


def test_init_writes_points_and_colmap_models(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points, model = tmp_path / "points.ply", tmp_path / "sparse"
    assert main(["init", str(photos), "-o", str(points), "--points", *QUICK]) == 0
    assert isinstance(fl.load(points), fl.PointCloud)
    assert main(["init", str(photos), "-o", str(model), "--text", *QUICK]) == 0
    assert (model / "points3D.txt").is_file()
    assert (model / "images.txt").is_file()
    assert "already holds a COLMAP model" in refusal(capsys, "init", photos, "-o", model, *QUICK)


def test_init_json(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "splats.ply"
    assert main(["init", str(photos), "-o", str(out), *QUICK, "--max-points", "300", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["kind"] == "splats"
    assert facts["points"] == len(fl.load(out)) <= 300
    assert len(facts["views"]) == 7


def run(photos: Path, folder: Path, *arguments: str) -> dict:
    base = ["reconstruct", str(photos), "-o", str(folder), "--steps", "2", "--splats", "500"]
    assert main([*base, *arguments]) == 0
    return json.loads((folder / "metrics.json").read_text())


def test_reconstruct_from_dense_prints_the_report(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(photos, tmp_path / "dense", "--init", "dense", "--per-view", "60")
    shown = capsys.readouterr().out
    assert "verified" in shown
    assert "from matches" in shown


def test_reconstruct_starts_differ(photos: Path, tmp_path: Path) -> None:
    counts = {}
    for start in ("sfm", "random"):
        run(photos, tmp_path / start, "--init", start)
        counts[start] = len(fl.load(tmp_path / start / "scene.ply"))
    assert counts["sfm"] <= 220
    assert counts["random"] == 500


def test_reconstruct_refuses_what_does_not_fit(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = tmp_path / "bare"
    scene = synthetic.still_life(8, 40, 30, n_points=0)
    fl.datasets.write_scene(scene, bare)
    out = tmp_path / "run"
    assert main(["reconstruct", str(bare), "-o", str(out), "--init", "sfm"]) == 2
    assert "has no points to start from" in capsys.readouterr().err
    assert main(["reconstruct", str(photos), "-o", str(out), "--per-view", "9"]) == 2
    assert "expected --per-view with --init dense" in capsys.readouterr().err
