# SPDX-License-Identifier: Apache-2.0
"""Photographs that others made: fox (instant-ngp), lego (Blender), fern and kitchen (COLMAP)."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from fieldline.datasets import Scene, load, random_points
from PIL import Image


@pytest.fixture(scope="module")
def fox(data_dir: Path) -> Scene:
    with pytest.warns(UserWarning, match="17 of 67 frames dropped"):
        return load(data_dir / "fox", downscale=4)


def test_fox(fox: Scene) -> None:
    assert len(fox.views) == 50
    assert len(fox.test) == 7 and fox.test == fox.views[::8]
    assert {(view.width, view.height) for view in fox.views} == {(270, 480)}
    K = fox.views[0].camera.K
    expected = torch.tensor([1375.52 / 4, 1374.49 / 4, 1.0])
    torch.testing.assert_close(K.diagonal(), expected)
    torch.testing.assert_close(K[:2, 2], torch.tensor([554.558 / 4, 965.268 / 4]))
    assert tuple(fox.views[3].image.shape) == (480, 270, 3)
    mask = fox.views[3].mask
    assert mask is not None and 0.95 < float(mask.float().mean()) < 1
    assert bool(mask[10:-10, 5:-5].all()), "only a thin border is not seen"


def test_fox_is_undistorted(data_dir: Path) -> None:
    """Colours come from where OpenCV's formulas, written out here, say they do."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        view = load(data_dir / "fox").views[10]
    info = json.loads((data_dir / "fox/transforms.json").read_text())
    raw = np.asarray(Image.open(data_dir / "fox" / view.name).convert("RGB")).astype(float)
    k1, k2, p1, p2 = (info[key] for key in ("k1", "k2", "p1", "p2"))
    rng = np.random.default_rng(0)
    shifts, errors, unmoved = [], [], []
    for _ in range(400):
        column, row = int(rng.integers(30, 1050)), int(rng.integers(30, 1890))
        x = (column + 0.5 - info["cx"]) / info["fl_x"]
        y = (row + 0.5 - info["cy"]) / info["fl_y"]
        r2 = x * x + y * y
        radial = 1 + k1 * r2 + k2 * r2 * r2
        u = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
        v = y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
        u = u * info["fl_x"] + info["cx"] - 0.5
        v = v * info["fl_y"] + info["cy"] - 0.5
        a, b = int(u), int(v)
        patch = raw[b : b + 2, a : a + 2]
        wide = np.array([1 - (u - a), u - a])[None, :, None]
        high = np.array([1 - (v - b), v - b])[:, None, None]
        color = (patch * wide * high).sum(axis=(0, 1))
        pixel = view.image[row, column].numpy()
        errors.append(np.abs(color - pixel).max())
        unmoved.append(np.abs(raw[row, column] - pixel).max())
        shifts.append(np.hypot(u - column, v - row))
    assert max(shifts) > 3, "the lens of this camera moves pixels by several positions"
    assert max(errors) < 0.75
    assert np.mean(unmoved) > 2


def test_fox_has_points_to_start_from(fox: Scene) -> None:
    points, colors = random_points(fox, 2000, carve=False)
    assert points.shape == (2000, 3) and colors.shape == (2000, 3)
    distance = (points - fox.centers.mean(dim=0)).norm(dim=-1)
    assert 0.2 * fox.extent < float(distance.median()) < 5 * fox.extent


def test_lego(data_dir: Path) -> None:
    scene = load(data_dir / "nerf_synthetic/lego", downscale=2)
    assert len(scene.views) == 100 and len(scene.test) == 13
    assert scene.test[1].name == "train/r_8"
    assert scene.background == (1.0, 1.0, 1.0)
    view = scene.views[7]
    assert tuple(view.image.shape) == (200, 200, 4)
    focal = 100 / np.tan(0.6911112070083618 / 2)
    assert float(view.camera.K[0, 0]) == pytest.approx(focal, rel=1e-5)
    # The cameras stand on a sphere of radius 4.03 around the origin.
    radii = scene.centers.norm(dim=-1)
    assert float(radii.min()) == pytest.approx(4.03, abs=0.01)
    assert scene.extent > 4
    points, _ = random_points(scene.subset(range(0, 100, 4)), 2000)
    # Within the box of the bulldozer, as the set's authors give it, and a little.
    assert float(points.abs().flatten().quantile(0.99)) < 1.4


def test_fern_points_project_onto_their_pixels(data_dir: Path) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    folder = data_dir / "gs/fern_colmap"
    scene = load(folder)
    assert len(scene.views) == 20 and scene.points is not None and len(scene.points) == 3123
    assert scene.point_colors is not None
    model = pycolmap.Reconstruction(str(folder / "sparse/0"))
    errors, colors = [], []
    for view in scene.views:
        image = model.find_image_with_name(view.name)
        seen = [p for p in image.points2D if p.has_point3D()]
        world = np.array([model.points3D[p.point3D_id].xyz for p in seen], dtype=np.float32)
        xy, depth = view.camera.project(torch.from_numpy(world))
        assert bool((depth > 0).all())
        observed = torch.tensor(np.array([p.xy for p in seen]), dtype=torch.float32)
        errors.append((xy - observed).norm(dim=-1))
        known = torch.tensor(np.array([model.points3D[p.point3D_id].color for p in seen]))
        column, row = xy.long().unbind(dim=-1)
        inside = (column >= 0) & (column < 706) & (row >= 0) & (row < 529)
        pixels = view.image[row[inside], column[inside]]
        colors.append((pixels.float() - known[inside].float()).abs().mean(dim=-1))
    assert float(torch.cat(errors).median()) < 1.0
    # COLMAP's colours are means over the images, so ours must be near, not equal.
    assert float(torch.cat(colors).median()) < 20


def test_kitchen_with_photographs_elsewhere(data_dir: Path) -> None:
    pytest.importorskip("pycolmap")
    photographs = data_dir / "multiview/vggt_kitchen_jpg"
    scene = load(data_dir / "gs/kitchen_colmap", downscale=2, images=photographs)
    assert len(scene.views) == 24 and scene.points is not None and len(scene.points) == 1706
    assert tuple(scene.views[5].image.shape) == (260, 390, 3)
    xy, depth = scene.views[5].camera.project(scene.points)
    inside = (depth > 0) & (xy > 0).all(dim=-1) & (xy < torch.tensor([390.0, 260.0])).all(dim=-1)
    assert float(inside.float().mean()) > 0.3
