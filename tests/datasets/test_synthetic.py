# SPDX-License-Identifier: Apache-2.0
"""The still life: that it is the same each time, exact, and the same after writing and loading."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from fieldline.datasets import Scene, load, synthetic, write_scene
from fieldline.datasets.shapes import Shape
from fieldline.datasets.still_life import arrange
from fieldline.datasets.textures import Noise, encode_srgb, srgb
from PIL import Image

SHAPES = arrange(np.random.default_rng(0))


def distances(shapes: list[Shape], points: torch.Tensor) -> torch.Tensor:
    """Signed distances [n_shapes, M] of points [M, 3]."""
    columns = points.T.numpy()
    return torch.from_numpy(np.stack([shape.distance(shape.local(columns)) for shape in shapes]))


def distance_to(shapes: list[Shape], points: torch.Tensor) -> torch.Tensor:
    return distances(shapes, points).amin(dim=0)


def test_same_seed_same_scene(tiny_scene: Scene) -> None:
    again = synthetic.still_life(n_views=9, width=40, height=30, n_points=100)
    other = synthetic.still_life(n_views=9, width=40, height=30, n_points=100, seed=1)
    for view, same, different in zip(tiny_scene.views, again.views, other.views):
        assert torch.equal(view.image, same.image)
        assert not torch.equal(view.image, different.image)
        assert torch.equal(view.camera.world_to_camera, different.camera.world_to_camera)
    assert tiny_scene.points is not None and again.points is not None
    assert torch.equal(tiny_scene.points, again.points)


def test_depth_lies_on_the_surfaces(tiny_scene: Scene) -> None:
    for view in tiny_scene.views:
        depth = view.depth
        assert depth is not None
        origins, directions = view.camera.rays()
        along = directions @ view.camera.world_to_camera[2, :3]
        points = (origins + directions * (depth / along)[..., None])[depth > 0]
        assert float(distance_to(SHAPES, points).abs().max()) < 2e-4
        # Nothing is in front: half way to the surface, every ray is still in the open.
        halfway = (origins + directions * (0.5 * depth / along)[..., None])[depth > 0]
        assert float(distance_to(SHAPES, halfway).min()) > 0
        xy, projected = view.camera.project(points)
        torch.testing.assert_close(projected, depth[depth > 0], rtol=1e-5, atol=1e-5)
        expected = view.camera.pixel_centers()[depth > 0]
        torch.testing.assert_close(xy, expected, rtol=0, atol=2e-2)


def test_alpha_is_coverage(tiny_scene: Scene) -> None:
    for view in tiny_scene.views:
        alpha, depth = view.image[..., 3], view.depth
        assert depth is not None
        assert set(alpha.unique().tolist()) <= {0, 64, 128, 191, 255}
        assert 0.1 < float((alpha > 0).float().mean()) < 0.9
        # A thin rim apart, the ray through the centre meets what most of the pixel shows.
        assert float(((alpha >= 128) == (depth > 0)).float().mean()) > 0.97
        assert not bool(depth[alpha == 0].any())


def test_two_views_agree_on_colours() -> None:
    """What one view shows at a surface point, another shows there too, unless it is hidden."""
    scene = synthetic.still_life(n_views=24, width=120, height=90, n_points=10)
    first, second = scene.views[0], scene.views[3]
    assert first.depth is not None and second.depth is not None
    origins, directions = first.camera.rays()
    along = directions @ first.camera.world_to_camera[2, :3]
    solid = (first.depth > 0) & (first.image[..., 3] == 255)
    points = (origins + directions * (first.depth / along)[..., None])[solid]
    xy, depth = second.camera.project(points)
    column, row = xy.long().unbind(dim=-1)
    visible = (depth - second.depth[row, column]).abs() < 0.03
    assert float(visible.float().mean()) > 0.3
    there = second.image[row, column, :3].float()[visible]
    here = first.image[solid][:, :3].float()[visible]
    assert float((here - there).abs().median()) < 6


def test_points_are_near_surfaces(tiny_scene: Scene) -> None:
    points, colors = tiny_scene.points, tiny_scene.point_colors
    assert points is not None and colors is not None and points.shape == (100, 3)
    # The noise is 0.004.
    assert float(distance_to(SHAPES, points).abs().mean()) < 0.008
    assert float(colors.float().std()) > 20
    exact = synthetic.still_life(4, 40, 30, n_points=50, point_noise=0.0).points
    assert exact is not None and float(distance_to(SHAPES, exact).abs().max()) < 1e-3
    assert synthetic.still_life(2, 8, 8, n_points=0).points is None


def test_every_object_is_seen(tiny_scene: Scene) -> None:
    counts = torch.zeros(len(SHAPES))
    for view in tiny_scene.views:
        assert view.depth is not None
        origins, directions = view.camera.rays()
        along = directions @ view.camera.world_to_camera[2, :3]
        points = (origins + directions * (view.depth / along)[..., None])[view.depth > 0]
        near = distances(SHAPES, points).abs()
        counts += torch.bincount(near.argmin(dim=0), minlength=len(SHAPES))
    assert bool((counts > 30).all()), counts


def test_masks_on_request() -> None:
    scene = synthetic.still_life(2, 24, 18, masks=True, n_points=0)
    for view in scene.views:
        assert view.mask is not None
        assert torch.equal(view.mask, view.image[..., 3] > 0)


def test_written_and_loaded_again(tmp_path: Path) -> None:
    scene = synthetic.still_life(9, 40, 30, n_points=60, masks=True, test_every=4)
    folder = write_scene(scene, tmp_path / "deep" / "folder")
    again = load(folder)
    assert [view.name for view in again.test] == [f"images/{i:04d}.png" for i in (0, 4, 8)]
    assert again.background == scene.background
    assert scene.points is not None and again.points is not None
    assert torch.equal(scene.points, again.points)
    assert again.point_colors is not None and scene.point_colors is not None
    assert torch.equal(scene.point_colors, again.point_colors)
    assert again.extent == pytest.approx(scene.extent, rel=1e-5)
    for view, copy in zip(scene.views, again.views):
        assert torch.equal(view.image, copy.image)
        assert view.mask is not None and copy.mask is not None
        assert torch.equal(view.mask, copy.mask)
        assert view.depth is not None and copy.depth is not None
        torch.testing.assert_close(view.depth, copy.depth, rtol=0, atol=6e-4)
        torch.testing.assert_close(view.camera.K, copy.camera.K)
        torch.testing.assert_close(
            view.camera.world_to_camera, copy.camera.world_to_camera, rtol=0, atol=2e-6
        )


def test_the_folder_is_plain(tmp_path: Path) -> None:
    folder = synthetic.write(tmp_path / "scene", n_views=2, width=24, height=18, n_points=10)
    content = json.loads((folder / "transforms.json").read_text())
    frame = content["frames"][1]
    assert frame["file_path"] == "images/0001.png"
    with Image.open(folder / frame["file_path"]) as image:
        assert image.size == (24, 18) and image.mode == "RGBA"
    with Image.open(folder / frame["depth_file_path"]) as image:
        assert np.asarray(image).dtype == np.uint16
    assert (folder / content["ply_file_path"]).read_bytes().startswith(b"ply")


def test_nothing_written_is_lost(tmp_path: Path, tiny_scene: Scene) -> None:
    (tmp_path / "keep.txt").write_text("precious")
    with pytest.raises(ValueError, match="write_scene: path: expected a new or empty folder"):
        write_scene(tiny_scene, tmp_path)
    with pytest.raises(ValueError, match="write_scene: path: expected a new or empty folder"):
        write_scene(tiny_scene, tmp_path / "keep.txt")
    assert [entry.name for entry in tmp_path.iterdir()] == ["keep.txt"]


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"n_views": 0}, "n_views"),
        ({"width": 2.5}, "width"),
        ({"height": -1}, "height"),
        ({"supersampling": 0}, "supersampling"),
        ({"n_points": -1}, "n_points"),
    ],
)
def test_bad_arguments(options: dict, name: str) -> None:
    with pytest.raises(ValueError, match=f"still_life: {name}"):
        synthetic.still_life(**options)


def test_noise_is_periodic_and_of_unit_variance() -> None:
    noise = Noise(np.random.default_rng(0))
    points = np.random.default_rng(1).random((3, 5000), np.float32)
    values = noise(points)
    shift = np.array([[1.0], [-2.0], [3.0]], np.float32)
    np.testing.assert_allclose(noise(points + shift), values, atol=1e-3)
    assert 0.8 < float(values.std()) < 1.2 and abs(float(values.mean())) < 0.2


def test_srgb_round_trip() -> None:
    codes = np.array([0x12, 0x80, 0xFE]) / 255
    np.testing.assert_allclose(encode_srgb(srgb("#1280fe")), codes, atol=1e-4)
