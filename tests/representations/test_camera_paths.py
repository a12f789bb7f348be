# SPDX-License-Identifier: Apache-2.0
"""Camera paths: circles, spirals, keyframes, and nerfstudio's JSON."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from fieldline.representations import Camera, CameraPath, focus_point, mean_up
from fieldline.representations.files import load, save

import fieldline as fl

BOX = torch.tensor([[0.0, -1.0, 2.0], [4.0, 3.0, 3.0]])
CENTER = BOX.mean(0)
SIZE = {"width": 64, "height": 48}


def corners(box: torch.Tensor) -> torch.Tensor:
    pick = torch.cartesian_prod(*[torch.arange(2)] * 3)
    return box.gather(0, pick)


@pytest.mark.parametrize("kind", ["circle", "spiral"])
def test_orbits_look_at_the_box_and_show_all_of_it(kind: str) -> None:
    path = getattr(CameraPath, kind)(BOX, 12, **SIZE)
    assert len(path) == 12 and path.seconds == 0.5
    xy, depth = path.cameras.project(CENTER[None])
    torch.testing.assert_close(xy[:, 0], torch.tensor([[32.0, 24.0]]).expand(12, 2))
    xy, depth = path.cameras.project(corners(BOX))
    assert bool((depth > 0).all())
    assert bool((xy > 0).all()) and bool((xy < torch.tensor([64.0, 48.0])).all())


def test_circle_is_a_circle_about_up() -> None:
    up = torch.tensor([0.0, 1.0, 0.0])
    path = CameraPath.circle(BOX, 8, up=up, elevation=0.5, distance=7.0, **SIZE)
    away = path.cameras.center - CENTER
    torch.testing.assert_close(away.norm(dim=1), torch.full((8,), 7.0))
    torch.testing.assert_close(away @ up, torch.full((8,), 7 * math.sin(0.5)))
    steps = (away - away.roll(1, 0)).norm(dim=1)
    torch.testing.assert_close(steps, steps[:1].expand(8))
    assert path.closed and float(mean_up(path.cameras) @ up) == pytest.approx(1)
    torch.testing.assert_close(focus_point(path.cameras), CENTER, atol=1e-4, rtol=0)


def test_focus_point_of_parallel_cameras_is_finite() -> None:
    eyes = torch.tensor([[0.0, -3, 0], [1, -3, 0]])
    cameras = Camera.look_at(eyes, eyes + torch.tensor([0.0, 1, 0]), focal=9, **SIZE)
    torch.testing.assert_close(focus_point(cameras), torch.tensor([0.5, -3.0, 0.0]))


@pytest.mark.parametrize("closed", [False, True])
def test_through_passes_its_keyframes(closed: bool) -> None:
    keyframes = CameraPath.spiral(BOX, 5, **SIZE).cameras
    n_frames = 5 * 4 if closed else 4 * 4 + 1
    times = torch.linspace(0, 1, 5)
    path = CameraPath.through(keyframes, n_frames, times=times, closed=closed)
    shown = path.cameras[::4]
    torch.testing.assert_close(shown.world_to_camera, keyframes.world_to_camera, atol=1e-5, rtol=0)
    torch.testing.assert_close(shown.K, keyframes.K)
    assert path.times is not None
    torch.testing.assert_close(path.times[::4], times)
    rotation = path.cameras.world_to_camera[:, :3, :3]
    identity = torch.eye(3).expand_as(rotation)
    torch.testing.assert_close(rotation @ rotation.transpose(-1, -2), identity)


def test_through_is_smooth_and_zooms_evenly() -> None:
    eyes = torch.tensor([[0.0, -3, 0], [1, -3, 1], [2, -3, 0], [3, -3, 1]])
    focal = torch.tensor([10.0, 20, 40, 80])
    keyframes = Camera.look_at(eyes, eyes + torch.tensor([0.0, 1, 0]), focal=focal, **SIZE)
    path = CameraPath.through(keyframes, 3 * 100 + 1)
    steps = path.cameras.center[1:] - path.cameras.center[:-1]
    assert float((steps[1:] - steps[:-1]).norm(dim=1).max()) < 0.05 * float(steps.norm(dim=1).max())
    zoom = path.cameras.K[1:, 0, 0] / path.cameras.K[:-1, 0, 0]
    torch.testing.assert_close(zoom, torch.full_like(zoom, 2 ** (1 / 100)), atol=1e-4, rtol=0)


def test_one_keyframe_stands_still() -> None:
    still = CameraPath.through(CameraPath.circle(BOX, 1, **SIZE).cameras, 3)
    torch.testing.assert_close(still.cameras.center[0], still.cameras.center[2])


@pytest.mark.parametrize("model", ["pinhole", "fisheye", "ortho"])
@pytest.mark.parametrize("centred", [True, False])
def test_json_round_trip(tmp_path: Path, model: str, centred: bool) -> None:
    base = CameraPath.circle(BOX, 6, **SIZE)
    K = base.cameras.K.clone()
    if not centred:
        K[:, 0, 2] += 3
        K[:, 0, 0] *= 1.2
    cameras = Camera(base.cameras.world_to_camera, K, 64, 48, model)  # type: ignore[arg-type]
    path = CameraPath(cameras, fps=12, times=torch.linspace(0, 1, 6), closed=True)
    save(path, tmp_path / "path.json")
    back = fl.load(tmp_path / "path.json")
    torch.testing.assert_close(back.cameras.world_to_camera, cameras.world_to_camera)
    torch.testing.assert_close(back.cameras.K, cameras.K)
    torch.testing.assert_close(back.times, path.times)
    assert (back.fps, back.closed, back.cameras.model) == (12, True, model)
    written = json.loads((tmp_path / "path.json").read_text())
    assert ("fl_x" in written["camera_path"][0]) == (model == "ortho" or not centred)


def test_reads_what_nerfstudios_viewer_writes(tmp_path: Path) -> None:
    matrix = [1, 0, 0, 2, 0, 1, 0, 3, 0, 0, 1, 4, 0, 0, 0, 1]
    content = {
        "default_fov": 75.0,
        "default_transition_sec": 2.0,
        "keyframes": [{"matrix": matrix, "fov": 90, "aspect": 1.5}],
        "camera_type": "perspective",
        "render_height": 100,
        "render_width": 200,
        "fps": 30,
        "seconds": 4.0,
        "is_cycle": False,
        "smoothness_value": 0.0,
        "camera_path": [{"camera_to_world": matrix, "fov": 90, "aspect": 1.5}],
    }
    (tmp_path / "path.json").write_text(json.dumps(content))
    path = load(tmp_path / "path.json")
    assert path.times is None and path.cameras.center.tolist() == [[2, 3, 4]]
    expected = torch.tensor([[50.0, 0, 100], [0, 50, 50], [0, 0, 1]])
    torch.testing.assert_close(path.cameras.K[0], expected)
    # nerfstudio's camera looks along -z with y up.
    xy, depth = path.cameras.project(torch.tensor([[2.0, 4.0, 3.0]]))
    assert float(depth) == 1 and xy[0, 0].tolist() == pytest.approx([100, 0], abs=1e-4)


def broken(**changes: object) -> str:
    frame = {"camera_to_world": torch.eye(4).flatten().tolist(), "fov": 50}
    content = {"render_height": 10, "render_width": 10, "camera_path": [frame]}
    for name, value in changes.items():
        (frame if name in frame else content)[name] = value  # type: ignore[index]
    return json.dumps(content)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('{"camera_path": ', "content"),
        ('{"camera_path": ' + "[" * 100_000, "content"),
        ('{"camera_path": ' + "9" * 10_000, "content"),
        (broken(camera_path=[]), "camera_path"),
        (broken(camera_path=7), "camera_path"),
        (broken(camera_path=[7]), r"camera_path\[0\]"),
        (broken(render_width=-1), "render_width"),
        (broken(render_width=1e30), "render_width"),
        (broken(render_width=10**400), "render_width"),
        (broken(render_width="10"), "render_width"),
        (broken(render_height=1.5), "render_height"),
        (broken(camera_type="equirectangular"), "camera_type"),
        (broken(fps=0), "fps"),
        (broken(fov=180), "fov"),
        (broken(fov=math.nan), "fov"),
        (broken(fov=None), "fov"),
        (broken(camera_to_world=[1] * 15), "camera_to_world"),
        (broken(camera_to_world=[math.inf] * 16), "camera_to_world"),
        (broken(camera_to_world=[0] * 15 + [1]), "rotation"),
        (broken(camera_to_world=[[1, 0], [0, 1], 2, 3]), "camera_to_world"),
    ],
)
def test_bad_json_names_the_field(tmp_path: Path, text: str, field: str) -> None:
    (tmp_path / "path.json").write_text(text)
    with pytest.raises(fl.FileFormatError, match=field):
        load(tmp_path / "path.json")


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="bounds"):
        CameraPath.circle(BOX.flip(0), 3, **SIZE)
    with pytest.raises(ValueError, match="up"):
        CameraPath.circle(BOX, 3, up=(0, 0, 0), **SIZE)
    with pytest.raises(ValueError, match="n_frames"):
        CameraPath.spiral(BOX, 0, **SIZE)
    cameras = CameraPath.circle(BOX, 3, **SIZE).cameras
    with pytest.raises(ValueError, match="times"):
        CameraPath(cameras, times=torch.zeros(2))
    with pytest.raises(ValueError, match="fps"):
        CameraPath(cameras, fps=0)
    with pytest.raises(ValueError, match="keyframes"):
        CameraPath.through(cameras[0], 3)
