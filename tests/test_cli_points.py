# SPDX-License-Identifier: Apache-2.0
"""``fieldline info`` on point clouds, and what ``bench sparse`` refuses of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fieldline as fl
from fieldline.cli import main

Capture = pytest.CaptureFixture[str]


def facts(capsys: Capture, *arguments: object) -> dict[str, Any]:
    assert main(["info", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def scan(path: Path, columns: int = 4) -> Path:
    rows = np.tile(np.array([1.0, -2.0, 3.0, 0.25, 0.5, 1.0], np.float32)[:columns], (7, 1))
    rows[0, :4] = -4.0, 2.0, 5.0, 0.75
    rows.tofile(path)
    return path


def test_info_of_a_sweep_with_labels(tmp_path: Path, capsys: Capture) -> None:
    path = scan(tmp_path / "000000.bin")
    labels = np.array([0, 10, 10, 10 | 5 << 16, 40, 40, 40], np.uint32)
    labels.tofile(path.with_suffix(".label"))
    found = facts(capsys, path)
    assert (found["kind"], found["points"], found["not_finite"]) == ("points", 7, 0)
    assert found["lower_corner"] == [-4, -2, 3] and found["upper_corner"] == [1, 2, 5]
    assert found["channels"] == {"intensity": {"lowest": 0.25, "highest": 0.75}}
    assert found["labels"] == {"none": 1, "car": 3, "road": 3}
    assert found["instances"] == 2
    assert main(["info", str(path)]) == 0
    text = capsys.readouterr().out
    assert "channel intensity" in text and "lowest 0.25, highest 0.75" in text
    assert "none 1, car 3, road 3" in text


def test_info_counts_what_is_not_finite(tmp_path: Path, capsys: Capture) -> None:
    points = np.array([[0, 0, 0, np.nan], [np.inf, 0, 0, 1], [1, 1, 1, 3]], np.float32)
    np.savez(tmp_path / "a.npz", points=points)
    found = facts(capsys, tmp_path / "a.npz")
    assert found["not_finite"] == 1 and found["upper_corner"] == [1, 1, 1]
    assert found["channels"]["intensity"] == {"lowest": 1, "highest": 3, "not_finite": 1}
    np.savez(tmp_path / "none.npz", points=np.full((2, 4), np.nan))
    found = facts(capsys, tmp_path / "none.npz")
    assert "lower_corner" not in found and found["channels"]["intensity"] == {"not_finite": 2}


def test_info_of_containers(tmp_path: Path, capsys: Capture) -> None:
    fl.save(fl.PointCloud(torch.zeros(3, 3), torch.zeros(3, 3).byte()), tmp_path / "a.ply")
    assert set(facts(capsys, tmp_path / "a.ply")["channels"]) == {"red", "green", "blue"}
    room = tmp_path / "room"
    room.mkdir()
    np.save(room / "coord.npy", np.zeros((4, 3)))
    np.save(room / "segment.npy", np.array([3, 3, 9, -1]))
    found = facts(capsys, room)
    assert (found["points"], found["labels"]) == (4, {"none": 1, "3": 2, "9": 1})
    header = "FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nPOINTS 1\nDATA ascii\n1 2 3\n"
    (tmp_path / "a.pcd").write_text(header)
    assert facts(capsys, tmp_path / "a.pcd")["lower_corner"] == [1, 2, 3]
    far = np.array([[500_000.25, 4_000_000.5, 7.0]] * 2)
    np.save(tmp_path / "utm.npy", far)
    assert facts(capsys, tmp_path / "utm.npy")["origin"] == [500_000, 4_000_000, 7]


def test_info_asks_for_the_kind_where_several_fit(tmp_path: Path, capsys: Capture) -> None:
    np.zeros(60, np.float32).tofile(tmp_path / "a.bin")
    assert main(["info", str(tmp_path / "a.bin")]) == 2
    assert "kind= one of" in capsys.readouterr().err
    assert facts(capsys, tmp_path / "a.bin", "--kind", "nuscenes")["points"] == 12
    assert main(["info", str(tmp_path / "a.bin"), "--kind", "lidar"]) == 2
    assert "kind: expected one of" in capsys.readouterr().err


def test_folders_of_photos_stay_photos(tmp_path: Path, capsys: Capture) -> None:
    """Other arrays in a folder, such as LLFF's poses, do not make it a point cloud."""
    np.save(tmp_path / "poses_bounds.npy", np.zeros((3, 17)))
    assert main(["info", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def broken(folder: Path) -> dict[str, Path]:
    """Files that no point cloud can be read from."""
    (folder / "empty.bin").touch()
    (folder / "cut.bin").write_bytes(bytes(18))
    (folder / "magic.pcd").write_bytes(b"PK\3\4")
    (folder / "text.npz").write_text("points")
    (folder / "picture.jpg").write_bytes(b"\xff\xd8")
    np.savez(folder / "nowhere.npz", points=np.full((5, 4), np.nan))
    np.savez(folder / "nothing.npz", points=np.zeros((0, 4)))
    return {path.name: path for path in folder.iterdir()} | {
        "folder": folder,
        "missing": folder / "missing.bin",
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("empty.bin", "columns"),
        ("cut.bin", "a multiple of 4 bytes"),
        ("magic.pcd", "magic.pcd"),
        ("text.npz", "text.npz"),
        ("picture.jpg", "expected a folder or"),
        ("nowhere.npz", "minkunet-0.5: frame: expected finite points, got none of 5"),
        ("nothing.npz", "expected finite points, got none of 0"),
        ("folder", "no .npy files"),
        ("missing", "missing.bin"),
    ],
)
def test_bench_refuses_files(name: str, message: str, tmp_path: Path, capsys: Capture) -> None:
    path = broken(tmp_path)[name]
    assert main(["bench", "sparse", "--model", "minkunet-0.5", "--input", str(path)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("fieldline: error") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", ""], "expected one of"),
        (["--kind", "lidar"], "kind"),
        (["--device", "gpu"], "device: expected one that torch knows"),
        (["--device", "meta"], "device: expected cpu or cuda, got 'meta'"),
        (["--device", "cuda:99"], "GPUs that torch sees, got cuda:99"),
        (["--threads", "-1"], "expected at least 0 and 1, got -1"),
    ],
)
def test_bench_refuses_arguments(
    arguments: list[str], message: str, tmp_path: Path, capsys: Capture
) -> None:
    path = scan(tmp_path / "000000.bin")
    assert main(["bench", "sparse", "--input", str(path), *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--dtype", "int8"], ["--repeats", "many"], ["dense"]])
def test_bench_explains_itself(arguments: list[str], capsys: Capture) -> None:
    for given, code in ((arguments, 2), (["--help"], 0)):
        with pytest.raises(SystemExit) as left:
            main(["bench", "sparse", *given])
        assert left.value.code == code
    assert "--model" in capsys.readouterr().out
