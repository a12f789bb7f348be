# SPDX-License-Identifier: Apache-2.0
"""``reconstruct``: photos without poses, and how the set of splats changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fieldline.datasets import synthetic
from op_harness import threads
from PIL import Image

from fieldline.cli import main


def answer(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    """What a command prints with --json."""
    capsys.readouterr()
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that a command refuses with."""
    capsys.readouterr()
    assert main([*map(str, arguments)]) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    return streams.err


@pytest.fixture(scope="module")
def posed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.write(tmp_path_factory.mktemp("posed") / "photos", 8, 40, 30, n_points=200)


@pytest.mark.parametrize(
    ("name", "strategy"), [("none", "decay"), ("default", "default"), ("mcmc", "mcmc")]
)
def test_strategies(
    name: str, strategy: str, posed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("reconstruct", posed, "-o", tmp_path / "run", "--steps", 60)
    found = answer(capsys, *arguments, "--strategy", name, "--splats", 250)
    assert found["step"] == 60 and 0 < found["n_splats"] <= 250
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["fit"]["strategy"] == strategy


def test_without_a_strategy_it_is_mcmc_and_resuming_keeps_it(
    posed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    for name, expected in ((None, "mcmc"), ("default", "default")):
        given = () if name is None else ("--strategy", name)
        arguments = ("reconstruct", posed, "-o", run, "--checkpoint-every", 10)
        answer(capsys, *arguments, "--steps", 15, "--overwrite", *given)
        answer(capsys, *arguments, "--steps", 20, "--resume")
        config = json.loads((run / "config.json").read_text())
        assert config["fit"]["strategy"] == expected


def test_a_dense_start_needs_no_growth(
    posed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    answer(capsys, "reconstruct", posed, "-o", run, "--init", "dense", "--steps", 5)
    assert json.loads((run / "config.json").read_text())["fit"]["strategy"] == "decay"


def test_photos_without_poses(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pycolmap")
    photos, run = tmp_path / "photos", tmp_path / "run"
    photos.mkdir()
    for path in sorted((data_dir / "gs/fern_colmap/images").iterdir())[:6]:
        Image.open(path).resize((353, 264)).save(photos / path.name, quality=95)
    (photos / "broken.jpg").write_bytes(b"no")
    arguments = ("reconstruct", photos, "-o", run, "--downscale", 4, "--steps", 20)
    capsys.readouterr()
    with threads(1):  # with more, COLMAP does not always find the same poses
        assert main([*map(str, arguments), "--checkpoint-every", "10"]) == 0
    streams = capsys.readouterr()
    assert "poses of 6 of 7 photos" in streams.out
    assert "1 of 7 photos left out: broken.jpg (does not decode)" in streams.err
    recorded = json.loads((run / "config.json").read_text())["input"]
    assert recorded["photos"] == str(run / "colmap") and recorded["images"] == str(photos)
    assert recorded["downscale"] == 4
    # What the run was made from is found again, and so are the poses.
    assert len(answer(capsys, "eval", run)["views"]) == 1
    before = (run / "colmap" / "sparse" / "0" / "images.bin").stat().st_mtime_ns
    assert answer(capsys, *arguments[:4], "--resume", "--steps", 25)["step"] == 25
    assert (run / "colmap" / "sparse" / "0" / "images.bin").stat().st_mtime_ns == before


def test_photos_that_cannot_be_placed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pycolmap")
    for i in range(2):
        Image.new("RGB", (80, 60), (90, 90, 90)).save(tmp_path / f"{i}.png")
    line = refusal(capsys, "reconstruct", tmp_path, "-o", tmp_path / "run")
    assert "expected at least 3 that decode, got 2" in line
    Image.new("RGB", (80, 60), (90, 90, 90)).save(tmp_path / "2.png")
    line = refusal(capsys, "reconstruct", tmp_path, "-o", tmp_path / "run")
    assert "expected at least 3 that can be placed together, got 0 of 3" in line
    assert "poses of photos" in refusal(capsys, "info", tmp_path)
