# SPDX-License-Identifier: Apache-2.0
"""Matching by plane sweep: what it finds where depth is known, and what it says where it cannot."""

from __future__ import annotations

import doctest
import itertools
from dataclasses import replace

import pytest
import torch
from fieldline.cuda.match import ops
from fieldline.datasets import Scene, View, synthetic
from fieldline.engine.dense_init import plane_sweep
from fieldline.engine.dense_init.matcher import Correspondence
from fieldline.engine.dense_init.plane_sweep import (
    PlaneSweep,
    image_shift,
    normals_from_depth,
    plane_warp,
)
from fieldline.representations.cameras import Camera
from torch import Tensor


@pytest.fixture(scope="module")
def still_life() -> Scene:
    return synthetic.still_life(n_views=36, width=160, height=120, n_points=500)


def around(scene: Scene, index: int) -> tuple[View, list[View]]:
    """A view and its neighbours on the orbit: three heights in turn, so the nearest are 3 on."""
    views = scene.views
    return views[index], [views[(index + step) % len(views)] for step in (-3, 3, -1, 1)]


def checked(found: Correspondence, view: View) -> tuple[Tensor, Tensor]:
    """Depth and confidence, after what always holds."""
    size = (view.height, view.width)
    assert found.depth is not None and found.normal is not None and found.warp is None
    assert found.depth.shape == found.confidence.shape == size
    for tensor in (found.depth, found.confidence, found.normal):
        assert tensor.isfinite().all()
    assert (found.confidence >= 0).all() and (found.confidence <= 1).all()
    assert (found.depth[found.confidence > 0] > 0).all()
    lengths = found.normal.norm(dim=-1)
    assert torch.allclose(lengths, torch.ones_like(lengths), atol=1e-4)
    return found.depth, found.confidence


def errors(view: View, found: Correspondence) -> tuple[float, Tensor]:
    """The part of the known depth that is kept, and the relative errors there."""
    depth, confidence = checked(found, view)
    truth = view.depth
    assert truth is not None
    kept = (truth > 0) & (confidence > 0)
    part = float(kept.sum()) / float((truth > 0).sum())
    return part, ((depth - truth).abs() / truth)[kept]


@pytest.mark.parametrize("points", [True, False])
def test_depth_of_the_still_life(still_life: Scene, points: bool) -> None:
    """With the scene's points for a range and without: most of it, to half a percent."""
    view, neighbours = around(still_life, 4)
    matcher = PlaneSweep()
    if points:
        matcher.prepare(still_life, [view], [neighbours])
    part, error = errors(view, matcher.match(view, neighbours))
    assert part > 0.65
    assert float(error.median()) < 0.008
    assert float((error > 0.05).double().mean()) < 0.05


def test_normals_of_the_table(still_life: Scene) -> None:
    """The table's top looks up."""
    view, neighbours = around(still_life, 4)
    found = PlaneSweep().match(view, neighbours)
    depth, confidence = checked(found, view)
    rays = view.camera.rays()
    along = rays[1] @ view.camera.world_to_camera[2, :3]
    height = (rays[0] + rays[1] * (depth / along)[..., None])[..., 2]
    table = (height.abs() < 0.02) & (confidence > 0.3)
    assert int(table.sum()) > 300
    assert found.normal is not None
    up = found.normal[table] @ view.camera.world_to_camera[:3, 2]
    assert float(up.median()) > 0.95


def test_normals_of_a_plane_are_exact() -> None:
    camera = Camera.look_at((0, -3, 1), (0, 0, 0), (0, 0, 1), focal=60, width=40, height=30)
    origins, directions = camera.rays()
    distance = -origins[..., 2] / directions[..., 2]
    depth = distance * (directions @ camera.world_to_camera[2, :3])
    depth[:, ::7] = 0
    normal = normals_from_depth(depth, torch.ones_like(depth), camera)
    wanted = camera.world_to_camera[:3, 2].expand_as(normal)
    assert float((normal - wanted).abs().max()) < 1e-3


def test_the_same_twice_and_at_any_number_of_threads(still_life: Scene) -> None:
    view, neighbours = around(still_life, 7)
    first = PlaneSweep(planes=32, max_planes=32).match(view, neighbours)
    torch.set_num_threads(3)
    second = PlaneSweep(planes=32, max_planes=32).match(view, neighbours)
    assert torch.equal(first.confidence, second.confidence)
    assert first.depth is not None and second.depth is not None
    assert torch.equal(first.depth, second.depth)


def test_two_views(still_life: Scene) -> None:
    """One neighbour is enough: it alone confirms."""
    view, neighbours = around(still_life, 4)
    part, error = errors(view, PlaneSweep().match(view, neighbours[:1]))
    assert part > 0.4
    assert float(error.median()) < 0.01


def test_views_of_other_sizes_and_intrinsics(still_life: Scene) -> None:
    view, neighbours = around(still_life, 4)
    others = [resized(v, w, h) for v, (w, h) in zip(neighbours, ((200, 140), (131, 120)))]
    others.append(cropped(neighbours[2], 10, 20))
    part, error = errors(view, PlaneSweep().match(view, [*others, neighbours[3]]))
    assert part > 0.5
    assert float(error.median()) < 0.01


def resized(view: View, width: int, height: int) -> View:
    image = view.image.permute(2, 0, 1)[None].float()
    small = torch.nn.functional.interpolate(image, (height, width), mode="area")[0]
    pixels = small.permute(1, 2, 0).round().byte()
    return View("resized", view.camera.resized(width, height), pixels)


def cropped(view: View, left: int, top: int) -> View:
    K = view.camera.K.clone()
    K[0, 2] -= left
    K[1, 2] -= top
    width, height = view.width - left, view.height - top
    camera = replace(view.camera, K=K, width=width, height=height)
    return View("cropped", camera, view.image[top:, left:].contiguous())


def test_masked_pixels_are_not_matched(still_life: Scene) -> None:
    view, neighbours = around(still_life, 4)
    mask = torch.ones(view.height, view.width, dtype=torch.bool)
    mask[:, :80] = False
    masked = View("masked", view.camera, view.image, mask=mask)
    depth, confidence = checked(PlaneSweep().match(masked, neighbours), masked)
    assert (confidence[:, :80] == 0).all() and (depth[:, :80] == 0).all()
    assert (confidence[:, 80:] > 0).any()
    # Neighbours that see nothing confirm nothing.
    blind = [View("blind", v.camera, v.image, mask=torch.zeros_like(mask)) for v in neighbours]
    _, confidence = checked(PlaneSweep().match(view, blind), view)
    assert (confidence == 0).all()


def test_transparent_pixels_are_not_matched(still_life: Scene) -> None:
    view, neighbours = around(still_life, 4)
    depth, confidence = checked(PlaneSweep().match(view, neighbours), view)
    clear = view.image[..., 3] < 128
    assert clear.any() and (confidence[clear] == 0).all() and (depth[clear] == 0).all()


def test_pure_rotation_gives_nothing(still_life: Scene) -> None:
    """From one place depth cannot be seen."""
    view, _ = around(still_life, 4)
    turned = []
    for angle in (-0.1, 0.1, 0.2):
        pose = view.camera.world_to_camera.clone()
        c, s = torch.cos(torch.tensor(angle)), torch.sin(torch.tensor(angle))
        pose[:3] = torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]]) @ pose[:3]
        turned.append(View(f"{angle}", replace(view.camera, world_to_camera=pose), view.image))
    depth, confidence = checked(PlaneSweep().match(view, turned), view)
    assert (confidence == 0).all()


@pytest.mark.parametrize("level", [0, 128, 255])
def test_no_texture_gives_nothing(still_life: Scene, level: int) -> None:
    view, neighbours = around(still_life, 4)
    blank = [
        View("blank", v.camera, torch.full((v.height, v.width, 3), level, dtype=torch.uint8))
        for v in (view, *neighbours)
    ]
    _, confidence = checked(PlaneSweep().match(blank[0], blank[1:]), blank[0])
    assert (confidence == 0).all()


def test_unrelated_pictures_and_wrong_poses_confirm_little(still_life: Scene) -> None:
    view, neighbours = around(still_life, 4)
    _, right = checked(PlaneSweep().match(view, neighbours), view)
    shuffled = [View(v.name, w.camera, v.image) for v, w in itertools.pairwise(neighbours)]
    _, wrong = checked(PlaneSweep().match(view, shuffled), view)
    assert float((wrong > 0).double().mean()) < 0.25 * float((right > 0).double().mean())


def test_views_that_look_away_give_nothing(still_life: Scene) -> None:
    view, neighbours = around(still_life, 4)
    away = []
    for v in neighbours:
        pose = torch.diag(torch.tensor([-1.0, 1.0, -1.0, 1.0])) @ v.camera.world_to_camera
        away.append(View("away", replace(v.camera, world_to_camera=pose), v.image))
    _, confidence = checked(PlaneSweep().match(view, away), view)
    assert (confidence == 0).all()


@pytest.mark.parametrize("size", [(1, 1), (2, 40), (33, 5)])
def test_tiny_images(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    views = []
    for x in (0.0, 0.1, 0.2):
        pose = torch.eye(4)
        pose[0, 3] = x
        image = torch.randint(0, 255, (*size, 3), generator=generator, dtype=torch.uint8)
        K = torch.tensor([[20.0, 0, size[1] / 2], [0, 20.0, size[0] / 2], [0, 0, 1]])
        views.append(View(f"{x}", Camera(pose, K, size[1], size[0]), image))
    checked(PlaneSweep(planes=8, max_planes=16).match(views[0], views[1:]), views[0])


def test_bad_calls(still_life: Scene) -> None:
    view, neighbours = around(still_life, 4)
    matcher = PlaneSweep()
    with pytest.raises(ValueError, match="neighbours: expected at least one view, got none"):
        matcher.match(view, [])
    with pytest.raises(ValueError, match="expected views other than"):
        matcher.match(view, [view])
    with pytest.raises(ValueError, match="one list for each of 1 references, got 0"):
        matcher.prepare(still_life, [view], [])
    fisheye = View("wide", replace(view.camera, model="fisheye"), view.image)
    with pytest.raises(ValueError, match="wide: expected a pinhole camera, got fisheye"):
        matcher.match(view, [fisheye])
    for setting, value in (
        ("planes", 2),
        ("planes", 257),
        ("max_planes", 50),
        ("scales", 0),
        ("best", 5),
        ("p1", 100),
        ("min_views", 0),
        ("prior_weight", 1.5),
        ("max_cost", -0.1),
        ("depth_tolerance", 0.0),
        ("pixel_tolerance", float("nan")),
    ):
        with pytest.raises(ValueError, match=f"PlaneSweep: {setting}: expected"):
            PlaneSweep(**{setting: value})  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="planes: expected an int, got float"):
        PlaneSweep(planes=9.5)  # pyright: ignore[reportArgumentType]


def test_warp_and_shift_follow_projection() -> None:
    a = Camera.look_at((0, -3, 1), (0, 0, 0), (0, 0, 1), focal=60, width=40, height=30)
    b = Camera.look_at((1, -3, 0), (0, 0.2, 0), (0, 0, 1), focal=80, width=50, height=30)
    warp = plane_warp(a, b)
    origins, directions = a.rays(torch.tensor([[7.25, 11.5]]))
    along = directions @ a.world_to_camera[2, :3]
    point = origins + directions * (2.5 / along)[:, None]
    xy, depth = b.project(point)
    pixel = warp[:, :3] @ torch.tensor([7.25, 11.5, 1.0]) + warp[:, 3] / 2.5
    assert torch.allclose(pixel[:2] / pixel[2], xy[0], atol=1e-3)
    assert float(pixel[2]) == pytest.approx(float(depth) / 2.5, rel=1e-4)
    assert image_shift(a, b, 2.0, 4.0) > 5
    assert image_shift(a, a, 2.0, 4.0) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("module", [ops, plane_sweep], ids=["ops", "plane_sweep"])
def test_examples(module: object) -> None:
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS)  # pyright: ignore
    assert result.attempted > 0 and result.failed == 0
