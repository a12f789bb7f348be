# SPDX-License-Identifier: Apache-2.0
"""Matchers: points, OpenCV, and the networks through stand-ins of the same interface."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from fieldline.datasets import Scene, View
from fieldline.datasets.still_life import arrange
from fieldline.datasets.synthetic import draw, orbit, still_life
from fieldline.engine.dense_init import (
    DKM,
    Correspondence,
    OpenCVMatcher,
    PointCloudMatcher,
    RoMa,
    RoMaV2,
    dense_init,
)
from fieldline.engine.dense_init.estimate import estimate_depth
from fieldline.engine.dense_init.opencv import epipolar_distance, rectify
from PIL import Image

import fieldline as fl


@pytest.fixture(scope="module")
def still() -> Scene:
    return still_life(n_views=12, width=120, height=90, n_points=2000, point_noise=0.0)


def relative_error(view: View, depth: torch.Tensor) -> torch.Tensor:
    known = (depth > 0) & (view.depth > 0)
    return (depth / view.depth - 1).abs()[known]


def depth_of(reference: View, neighbours: list[View], found: Correspondence) -> torch.Tensor:
    estimate, _ = estimate_depth(reference, neighbours, found, min_confidence=0.1, max_error=1.5)
    return estimate.depth


def true_warp(reference: View, neighbours: list[View]) -> torch.Tensor:
    """Where each pixel is in the neighbours, by the true depth; -1 where that is unknown."""
    camera = reference.camera
    _, directions = camera.rays()
    along = directions @ camera.world_to_camera[2, :3]
    points = camera.center + directions * (reference.depth / along)[..., None]
    warps = [
        view.camera.project(points.view(-1, 3))[0].view(*along.shape, 2) for view in neighbours
    ]
    return torch.stack(warps).where((reference.depth > 0)[..., None], -1.0)


# -- points --------------------------------------------------------------------------------------


def test_points_give_their_depth_where_they_are_seen(still: Scene) -> None:
    matcher = PointCloudMatcher()
    matcher.prepare(still, still.train, [])
    view = still.train[0]
    found = matcher.match(view, [])
    error = relative_error(view, found.depth)
    assert len(error) > 200
    # A point is anywhere in its pixel, so its depth is that of the pixel but for the slope; and
    # hardly one shows through from behind.
    assert float(error.median()) < 0.005
    assert float((error > 0.1).float().mean()) < 0.1


def test_points_alone_initialise(still: Scene) -> None:
    splats, report = dense_init(
        still, matcher=PointCloudMatcher(), per_view=1000, interpolate=False, return_report=True
    )
    assert bool(splats.finite().all())
    assert report.matched > 1000
    with pytest.raises(ValueError, match="at least one finite point"):
        dense_init(still, matcher=PointCloudMatcher(fl.PointCloud(torch.zeros(0, 3))))


# -- warps ---------------------------------------------------------------------------------------


def test_a_true_warp_gives_true_depth(still: Scene) -> None:
    reference, neighbours = still.views[3], [still.views[2], still.views[4]]
    warp = true_warp(reference, neighbours)
    found = Correspondence(torch.ones(2, 90, 120), warp=warp)
    error = relative_error(reference, depth_of(reference, neighbours, found))
    assert len(error) > 3000
    assert float(error.max()) < 1e-3


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (Correspondence(torch.ones(90, 120)), "expected a depth or a warp"),
        (Correspondence(torch.ones(90, 120), depth=torch.ones(4, 4)), "depth of .* expected"),
        (Correspondence(torch.ones(90, 120), warp=torch.ones(1, 90, 120, 2)), "confidence of"),
        (Correspondence(torch.ones(90, 120).long(), depth=torch.ones(90, 120)), "torch.int64"),
    ],
)
def test_wrong_answers_of_a_matcher_are_named(
    still: Scene, found: Correspondence, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        depth_of(still.views[0], [still.views[1]], found)


# -- OpenCV --------------------------------------------------------------------------------------


def test_rectified_matches_share_a_row(still: Scene) -> None:
    first, second = still.views[0].camera, still.views[1].camera
    rectified = rectify(first, second)
    assert rectified is not None
    left, right = rectified
    a, _ = left.project(still.points)
    b, _ = right.project(still.points)
    assert float((a - b)[:, 1].abs().max()) < 1e-2
    assert float((first.center - left.center).norm()) < 1e-5
    assert rectify(first, first) is None
    ahead = fl.Camera.look_at((0, 0, 1), (0, 0, 9), (0, 1, 0), focal=90, width=40, height=30)
    behind = fl.Camera.look_at((0, 0, 0), (0, 0, 9), (0, 1, 0), focal=90, width=40, height=30)
    assert rectify(behind, ahead) is None


def test_epipolar_distance_is_zero_for_true_matches(still: Scene) -> None:
    first, second = still.views[0].camera, still.views[1].camera
    a, _ = first.project(still.points)
    b, _ = second.project(still.points)
    assert float(epipolar_distance(first, second, a, b).max()) < 1e-2
    moved = b + torch.tensor([0.0, 10.0])
    assert float(epipolar_distance(first, second, a, moved).median()) > 5


@pytest.fixture(scope="module")
def close() -> Scene:
    """Three views of one height, nine degrees apart."""
    cameras = orbit(120, 200, 150)[0:9:3]
    images, depths = draw(arrange(np.random.default_rng(0)), cameras, 2)
    views = [View(str(i), cameras[i], images[i], depth=depths[i]) for i in range(3)]
    return Scene(views, test_every=0)


@pytest.mark.parametrize(("method", "enough"), [("sgbm", 6000), ("sift", 30)])
def test_opencv_finds_true_depth(close: Scene, method, enough: int) -> None:
    pytest.importorskip("cv2")
    matcher = OpenCVMatcher(method)
    reference, neighbours = close.views[1], [close.views[0], close.views[2]]
    matcher.prepare(close, [reference], [neighbours])
    found = matcher.match(reference, neighbours)
    error = relative_error(reference, depth_of(reference, neighbours, found))
    assert len(error) > enough
    assert float(error.median()) < 0.01
    assert float((error > 0.05).float().mean()) < 0.15


def test_opencv_missing_is_said(still: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match=r"opencv-python-headless .* fieldline\[match\]"):
        dense_init(still, matcher=OpenCVMatcher())
    with pytest.raises(ValueError, match="method: expected one of"):
        OpenCVMatcher("orb")  # pyright: ignore


# -- networks ------------------------------------------------------------------------------------


class FakeNetwork:
    """Answers as RoMa and DKM do, with a warp that the test names, at half the image's size."""

    def __init__(self, warps: list[torch.Tensor], symmetric: bool) -> None:
        self.warps, self.symmetric = list(warps), symmetric
        self.seen: list[tuple[int, int]] = []

    def match(self, first: Image.Image, second: Image.Image, device: object = None):
        self.seen.append(first.size)
        warp = self.warps.pop(0)
        height, width = warp.shape[0] // 2, warp.shape[1] // 2
        blocks = warp.view(height, 2, width, 2, 2)
        inside = (blocks >= 0).flatten(3).all(-1).all(1)
        small = blocks.mean((1, 3))
        target = 2 * small / torch.tensor([second.size[0], second.size[1]]) - 1
        x = torch.linspace(-1 + 1 / width, 1 - 1 / width, width)
        y = torch.linspace(-1 + 1 / height, 1 - 1 / height, height)
        own = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
        answer = torch.cat((own, target), dim=-1)
        certainty = inside.float()
        if self.symmetric:
            answer = torch.cat((answer, answer.flip(-1)), dim=1)
            certainty = torch.cat((certainty, 0 * certainty), dim=1)
        return answer[None], certainty[None]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.pth"
    torch.save({"layer": torch.ones(1)}, path)
    return path


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("name", ["romatch", "dkm"])
def test_network_warps_become_pixels(
    name: str,
    symmetric: bool,
    still: Scene,
    weights: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reference, neighbours = still.views[3], [still.views[2], still.views[4]]
    warp = true_warp(reference, neighbours)
    network = FakeNetwork(list(warp), symmetric)
    asked: dict[str, object] = {}

    def make(**options: object) -> FakeNetwork:
        asked.update(options)
        return network

    module = types.ModuleType(name)
    setattr(module, "roma_outdoor" if name == "romatch" else "DKMv3_outdoor", make)
    monkeypatch.setitem(sys.modules, name, module)
    if name == "romatch":
        matcher: RoMa | DKM = RoMa(weights, weights, device="cpu")
    else:
        matcher = DKM(weights, device="cpu")
    matcher.prepare(still, [reference], [neighbours])
    found = matcher.match(reference, neighbours)
    assert network.seen == [(120, 90), (120, 90)]
    if name == "romatch":
        assert asked["weights"] == {"layer": torch.ones(1)}
        assert asked["dinov2_weights"] is not None, "or the package would fetch them"
    else:
        assert asked["path_to_weights"] == str(weights)
    assert found.warp is not None
    assert found.warp.shape == (2, 90, 120, 2)
    sure = (found.confidence == 1).all(0) & (warp >= 0).all(-1).all(0)
    sure[:, -2:] = sure[-2:] = False
    error = (found.warp[:, sure] - warp[:, sure]).norm(dim=-1)
    assert len(error.flatten()) > 4000
    assert float(error.median()) < 0.1


def test_romav2_loads_without_the_network(
    still: Scene, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[object] = []
    truth = true_warp(still.views[3], [still.views[2]])

    class Fake(FakeNetwork):
        def __init__(self) -> None:
            super().__init__([truth[0]], symmetric=False)
            served.append(torch.hub.load_state_dict_from_url("https://example.org/weights.pt"))

        def apply_setting(self, setting: str) -> None:
            served.append(setting)

        def match(self, first: Image.Image, second: Image.Image, device: object = None):
            warp, certainty = super().match(first, second)
            return {"warp_AB": warp[..., 2:], "overlap_AB": certainty[..., None]}

    fetch = torch.hub.load_state_dict_from_url
    module = types.ModuleType("romav2")
    module.RoMaV2 = Fake  # pyright: ignore
    monkeypatch.setitem(sys.modules, "romav2", module)
    found = RoMaV2(weights).match(still.views[3], [still.views[2]])
    assert served == [{"layer": torch.ones(1)}, "fast"]
    assert torch.hub.load_state_dict_from_url is fetch
    assert found.warp is not None
    assert found.warp.shape == (1, 90, 120, 2)

    class NeedsCode(Fake):
        def __init__(self) -> None:
            torch.hub.load("somebody/network:v1", "model")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(weights.parent))
    module.RoMaV2 = NeedsCode  # pyright: ignore
    with pytest.raises(ImportError, match="somebody/network:v1 in torch"):
        RoMaV2(weights).match(still.views[3], [still.views[2]])


def test_networks_say_what_is_missing(
    tmp_path: Path, still: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "romatch", None)
    with pytest.raises(ImportError, match="romatch is not installed"):
        RoMa(device="cpu").prepare(still, [], [])
    # The placeholder that PyPI has under DKM's name.
    monkeypatch.setitem(sys.modules, "dkm", types.ModuleType("dkm"))
    with pytest.raises(ImportError, match="expected a package dkm with DKMv3_outdoor"):
        DKM(device="cpu").prepare(still, [], [])
    module = types.ModuleType("dkm")
    module.DKMv3_outdoor = None  # pyright: ignore
    monkeypatch.setitem(sys.modules, "dkm", module)
    monkeypatch.delenv("FIELDLINE_DKM_WEIGHTS", raising=False)
    with pytest.raises(ValueError, match="FIELDLINE_DKM_WEIGHTS, got none"):
        DKM(device="cpu").prepare(still, [], [])
    monkeypatch.setenv("FIELDLINE_DKM_WEIGHTS", str(tmp_path / "absent.pth"))
    with pytest.raises(FileNotFoundError, match=r"absent\.pth"):
        DKM(device="cpu").prepare(still, [], [])
    module = types.ModuleType("romatch")
    module.roma_outdoor = None  # pyright: ignore
    monkeypatch.setitem(sys.modules, "romatch", module)
    broken = tmp_path / "broken.pth"
    broken.write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"weights: expected weights in .*broken\.pth"):
        RoMa(broken, device="cpu").prepare(still, [], [])
