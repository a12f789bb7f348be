# SPDX-License-Identifier: Apache-2.0
"""Poses of photos without any: real ones, and what is said of those that cannot be placed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fieldline.datasets import PosedPhotos, load, solve_poses
from fieldline.datasets.posing import _sequential_pairs, list_photos, needs_poses
from PIL import Image

import fieldline as fl

pycolmap = pytest.importorskip("pycolmap")

SOLVE = """
import sys
from fieldline.datasets import solve_poses
posed = solve_poses(*sys.argv[1:], threads=1)
print(len(posed.registered), len(posed.left_out), posed.folder)
"""


def blank(folder: Path, count: int, suffix: str = "png") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new("RGB", (80, 60), (128, 128, 128)).save(folder / f"{i}.{suffix}")
    return folder


@pytest.fixture(scope="module")
def photos(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six small photos of fern, and a file that is none."""
    folder = tmp_path_factory.mktemp("fern")
    for path in sorted((data_dir / "gs/fern_colmap/images").iterdir())[:6]:
        Image.open(path).resize((353, 264)).save(folder / path.name, quality=95)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff not quite a photo")
    (folder / "notes.txt").write_text("not a photo")
    return folder


@pytest.fixture(scope="module")
def solved(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[PosedPhotos, list]:
    events: list[Any] = []
    out = tmp_path_factory.mktemp("run") / "colmap"
    with pytest.warns(UserWarning, match=r"1 of 7 photos left out: broken.jpg \(does not decode\)"):
        posed = solve_poses(photos, out, threads=1, progress=events.append)
    return posed, events


def camera_distances(centers: torch.Tensor) -> torch.Tensor:
    """Distances between all cameras, as shares of the largest: free of frame and scale."""
    distances = torch.cdist(centers, centers)
    return distances / distances.max()


def test_cameras_are_where_the_reference_has_them(
    solved: tuple[PosedPhotos, list], data_dir: Path
) -> None:
    posed, _ = solved
    assert posed.registered == tuple(f"{i:03d}.jpg" for i in range(6))
    assert dict(posed.left_out) == {"broken.jpg": "does not decode"}
    scene = load(posed.folder, images=posed.images)
    assert len(scene.views) == 6
    assert scene.points is not None and len(scene.points) > 100
    assert tuple(scene.views[0].image.shape) == (264, 353, 3)
    reference = load(data_dir / "gs/fern_colmap").subset(slice(0, 6))
    assert [view.name for view in reference.views] == list(posed.registered)
    ours, theirs = camera_distances(scene.centers), camera_distances(reference.centers)
    assert float((ours - theirs).abs().max()) < 0.05
    focal = float(scene.views[0].camera.K[0, 0]) * 2
    assert focal == pytest.approx(float(reference.views[0].camera.K[0, 0]), rel=0.1)


def test_progress_goes_through_the_stages(solved: tuple[PosedPhotos, list]) -> None:
    _, events = solved
    stages = list(dict.fromkeys(event.stage for event in events))
    assert stages == ["photos", "features", "matches", "cameras"]
    for stage, total in (("photos", 7), ("features", 6), ("matches", 15), ("cameras", 6)):
        of_stage = [event for event in events if event.stage == stage]
        done = [event.done for event in of_stage]
        assert done == sorted(done) and done[-1] == total
        assert {event.total for event in of_stage} == {total}


def test_a_result_is_taken_as_it_is_while_the_photos_are_the_same(
    photos: Path, solved: tuple[PosedPhotos, list], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    posed, _ = solved
    with monkeypatch.context() as patch:
        patch.setattr(pycolmap, "extract_features", None)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert solve_poses(photos, posed.folder) == posed
        with pytest.raises(ValueError, match="solve_poses: features: pycolmap failed"):
            solve_poses(photos, posed.folder, matching="sequential")
        shutil.copytree(posed.folder, tmp_path / "copy")
        record = tmp_path / "copy" / "posing.json"
        record.write_text(json.dumps({**json.loads(record.read_text()), "photos": {}}))
        with pytest.raises(ValueError, match="pycolmap failed"):
            solve_poses(photos, tmp_path / "copy")
    assert (tmp_path / "copy" / "sparse" / "0").is_dir(), "the old result stays until there is one"


def test_sequential_matching_places_them_too(photos: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="left out"):
        posed = solve_poses(photos, tmp_path, matching="sequential", threads=1)
    assert len(posed.registered) == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["posing.json", "sparse"]


@pytest.mark.slow
def test_all_of_fern(data_dir: Path, tmp_path: Path) -> None:
    images = data_dir / "gs/fern_colmap/images"
    # In a process of its own: after other photos in this one, COLMAP has aborted.
    command = [sys.executable, "-P", "-c", SOLVE, str(images), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    registered, left_out, folder = done.stdout.splitlines()[-1].split(" ", 2)
    assert (registered, left_out) == ("20", "0")
    ours = load(folder, images=images)
    reference = load(data_dir / "gs/fern_colmap")
    difference = camera_distances(ours.centers) - camera_distances(reference.centers)
    assert float(difference.abs().max()) < 0.01


# -- what cannot be solved ---------------------------------------------------------------------


def test_too_few_photos(tmp_path: Path) -> None:
    for count in (1, 2):
        folder = blank(tmp_path / str(count), count)
        with pytest.raises(ValueError, match=f"expected at least 3 that decode, got {count} in"):
            solve_poses(folder, tmp_path / "out")
    (tmp_path / "2" / "x.jpg").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"got 2 in .*: x.jpg \(does not decode\)"):
        solve_poses(tmp_path / "2", tmp_path / "out")
    with pytest.raises(ValueError, match="got 0 in"):
        solve_poses(blank(tmp_path / "none", 0), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_photos_without_texture_are_not_placed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"can be placed together, got 0 of 4 .*; 0 pairs of them"):
        solve_poses(blank(tmp_path / "photos", 4), tmp_path / "out", threads=1)
    assert not list((tmp_path / "out").iterdir()), "nothing half done is left"


def test_photos_of_different_things_are_not_placed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(3):
        noise = Image.fromarray(rng.integers(0, 255, (15, 20, 3), dtype=np.uint8))
        noise.resize((160, 120), Image.Resampling.BICUBIC).save(tmp_path / f"{i}.png")
    with pytest.raises(ValueError, match="can be placed together, got 0 of 3"):
        solve_poses(tmp_path, tmp_path / "out", threads=1)


def test_a_format_that_pycolmap_cannot_read_is_named(tmp_path: Path) -> None:
    folder = blank(tmp_path / "photos", 3, "webp")
    with pytest.raises(ValueError, match=r"0.webp .pycolmap cannot read webp; make it JPEG or PNG"):
        solve_poses(folder, tmp_path / "out")


def test_an_exception_from_progress_stops_the_work(photos: Path, tmp_path: Path) -> None:
    def stop(event: Any) -> None:
        if event.stage == "features":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        solve_poses(photos, tmp_path / "out", threads=1, progress=stop)
    assert not list((tmp_path / "out").iterdir())


def test_arguments_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"photos: expected a folder, got .*no such folder"):
        solve_poses(tmp_path / "nowhere", tmp_path)
    with pytest.raises(ValueError, match=r"matching: expected 'auto', .*, got 'all'"):
        solve_poses(tmp_path, tmp_path, matching="all")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="threads: expected an int >= 1, got 0"):
        solve_poses(tmp_path, tmp_path, threads=0)


def test_an_old_pycolmap_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(pycolmap, "FeatureExtractionOptions")
    with pytest.raises(ImportError, match="expected pycolmap 4 or newer, got"):
        solve_poses(blank(tmp_path / "photos", 3), tmp_path / "out")


def test_load_says_what_solves_poses(tmp_path: Path) -> None:
    blank(tmp_path / "images", 3)
    with pytest.raises(fl.FileFormatError, match=r"fl.datasets.solve_poses.*got 3 photos without"):
        load(tmp_path)


def test_which_folders_need_poses(tmp_path: Path) -> None:
    assert not needs_poses(tmp_path)
    blank(tmp_path / "images", 11)
    assert needs_poses(tmp_path) and needs_poses(tmp_path / "images")
    assert list_photos(tmp_path) == (tmp_path / "images", [f"{i}.png" for i in range(11)])
    assert not needs_poses(tmp_path / "images" / "0.png")
    (tmp_path / "transforms.json").write_text("{}")
    assert not needs_poses(tmp_path)


def test_number_of_sequential_pairs() -> None:
    # Three photos: two neighbours and one pair two apart; of 40, the steps 1 to 10, 16 and 32 too.
    assert _sequential_pairs(3) == 3
    assert _sequential_pairs(40) == sum(40 - k for k in (*range(1, 11), 16, 32))
