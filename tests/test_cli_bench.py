# SPDX-License-Identifier: Apache-2.0
"""``fieldline bench sparse``: what it prints, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from fieldline.engine.sparse.models import CONFIGURATIONS

from fieldline.cli import main


@pytest.fixture
def frame(tmp_path: Path) -> str:
    points = np.random.default_rng(0).normal(0, 1, (400, 4)).astype(np.float32)
    points[:, 3] = 0.5
    points.tofile(tmp_path / "000000.bin")
    return str(tmp_path / "000000.bin")


@pytest.mark.parametrize("model", ["minkunet-0.5", "spvcnn-0.5"])
def test_json(model: str, frame: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", model, "--input", frame, "--threads", "1", "--repeats", "1", "--json"]
    assert main(["bench", "sparse", *arguments]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model"] == model and found["points"] == 400 and found["threads"] == 1
    assert found["parameters"] == sum(p.numel() for p in CONFIGURATIONS[model].make().parameters())
    assert [level["stride"] for level in found["levels"]] == [[s] * 3 for s in (1, 2, 4, 8, 16)]
    assert found["levels"][0]["voxels"] == found["voxels"] <= 400
    assert found["levels"][0]["pairs"] >= 1
    assert found["multiply_adds_padded"] >= found["multiply_adds"] > 1e6
    assert found["milliseconds_with_maps"] > 0 and found["milliseconds_maps_planned"] > 0
    assert "SubmConv3d 3x3x3" in found["milliseconds_by_kind"]


def test_tables(frame: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "sparse", "--model", "minkunet-0.5", "--input", frame]) == 0
    text = capsys.readouterr().out
    for words in ("minkunet-0.5", "multiply-adds", "maps planned", "pairs/voxel", "BatchNorm"):
        assert words in text
    assert main(["bench", "sparse", "--model", "list"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in CONFIGURATIONS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "resnet"], "expected one of"),
        (["--input", "nowhere.bin"], "nowhere.bin"),
        (["--repeats", "0"], "expected at least 0 and 1"),
    ],
)
def test_refuses(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "sparse", *arguments]) == 2
    assert message in capsys.readouterr().err
