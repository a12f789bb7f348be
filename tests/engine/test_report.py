# SPDX-License-Identifier: Apache-2.0
"""Run folders: what is in them, and that a run in one is not lost."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from fieldline.datasets import Scene
from fieldline.engine.training import (
    Evaluation,
    ViewMetrics,
    evaluation_dict,
    fit,
    held_run,
    prepare_run_folder,
    write_curve,
    write_views,
)
from PIL import Image
from small_scene import make_truth

import fieldline as fl

RUN = {"steps": 12, "progress_every": 4, "max_splats": 200, "lpips": False, "checkpoint_every": 5}


def test_run_folder_holds_what_it_should(scene: Scene, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "first"
    result = fit(None, scene, out=folder, **RUN)
    names = {path.name for path in result.files}
    assert names == {"config.json", "metrics.json", "scene.ply", "views.png", "curve.png"}
    assert all(path.exists() for path in result.files)
    config = json.loads((folder / "config.json").read_text())
    assert config["fit"]["steps"] == 12
    assert config["scene"]["test"] == ["view_0", "view_8"]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert result.evaluation is not None
    assert metrics["test"]["mean"]["psnr"] == pytest.approx(result.evaluation.psnr)
    assert [view["name"] for view in metrics["test"]["views"]] == ["view_0", "view_8"]
    assert metrics["step"] == 12
    assert len(fl.load(folder / "scene.ply")) == len(result.model) == metrics["n_splats"]
    with Image.open(folder / "views.png") as sheet:
        assert sheet.size == (3 * 40 + 2 * 4, 2 * 32 + 4)
    with Image.open(folder / "curve.png") as curve:
        assert curve.size[0] > 400


def test_folder_with_a_run_is_not_touched_unless_asked(scene: Scene, tmp_path: Path) -> None:
    fit(None, scene, out=tmp_path, **RUN)
    (tmp_path / "notes.txt").write_text("mine")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="expected a folder without a run, got one with config"):
        fit(None, scene, out=tmp_path, **RUN)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    fit(None, scene, out=tmp_path, overwrite=True, **{**RUN, "checkpoint_every": 0})
    assert not list((tmp_path / "checkpoints").iterdir())
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_file_in_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(ValueError, match="expected a folder for the run, got a file"):
        prepare_run_folder(path)
    assert held_run(tmp_path / "absent") == []


def test_infinite_figures_become_null() -> None:
    view = ViewMetrics("a", math.inf, 1.0, None)
    content = evaluation_dict(Evaluation((view,), math.inf, 1.0, None))
    assert content["mean"] == {"psnr": None, "ssim": 1.0, "lpips": None}
    assert json.loads(json.dumps(content, allow_nan=False)) == content


def test_sheet_shows_truth_rendering_and_error(scene: Scene, tmp_path: Path) -> None:
    with Image.open(write_views(tmp_path, make_truth(), scene)) as sheet:
        pixels = sheet.convert("RGB")
        truth, rendering = pixels.getpixel((20, 16)), pixels.getpixel((20 + 44, 16))
        assert all(abs(a - b) <= 2 for a, b in zip(truth, rendering))
        assert max(pixels.getpixel((20 + 88, 16))) < 20


def test_no_curve_without_history(tmp_path: Path) -> None:
    assert write_curve(tmp_path, []) is None
