# SPDX-License-Identifier: Apache-2.0
"""Views and scenes: what they check, how they split, and what follows from their geometry."""

from __future__ import annotations

import math

import pytest
import torch
from fieldline.datasets import Scene, View, random_points, synthetic
from fieldline.datasets.coverage import camera_bounds, count_views, depth_ranges
from fieldline.representations import Camera

IMAGE = torch.zeros(12, 16, 3, dtype=torch.uint8)


def ring(n: int, radius: float = 2.0, height: float = 0.0) -> list[Camera]:
    return [
        Camera.look_at(
            (
                radius * math.cos(2 * math.pi * i / n),
                radius * math.sin(2 * math.pi * i / n),
                height,
            ),
            (0.0, 0.0, 0.0),
            fov_y=0.6,
            width=16,
            height=12,
        )
        for i in range(n)
    ]


def views(n: int) -> list[View]:
    return [View(f"{i}.png", camera, IMAGE) for i, camera in enumerate(ring(max(n, 2))[:n])]


# -- views ---------------------------------------------------------------------------------------


def test_images_load_when_asked_and_stay() -> None:
    calls: list[int] = []

    def load() -> torch.Tensor:
        calls.append(1)
        return IMAGE.clone()

    view = View("a", ring(2)[0], load)
    assert not calls
    assert view.image is view.image
    assert len(calls) == 1
    assert view.mask is None and view.depth is None and view.time is None


def test_rgb_blends_alpha_over_the_background() -> None:
    image = torch.tensor([200, 100, 50, 51], dtype=torch.uint8).expand(12, 16, 4)
    rgb = View("a", ring(2)[0], image).rgb((1.0, 0.0, 0.5))
    expected = torch.tensor([0.2 * 200 / 255 + 0.8, 0.2 * 100 / 255, 0.2 * 50 / 255 + 0.4])
    torch.testing.assert_close(rgb[3, 4], expected)
    torch.testing.assert_close(
        View("b", ring(2)[0], IMAGE + 51).rgb((1, 1, 1))[0, 0, 0].item(), 0.2
    )


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"image": torch.zeros(12, 15, 3, dtype=torch.uint8)}, "image"),
        ({"image": torch.zeros(12, 16, 3)}, "image"),
        ({"image": torch.zeros(12, 16, 2, dtype=torch.uint8)}, "image"),
        ({"image": IMAGE, "mask": torch.zeros(12, 16)}, "mask"),
        ({"image": IMAGE, "depth": torch.zeros(11, 16)}, "depth"),
    ],
)
def test_tensors_that_do_not_fit_the_camera(options: dict, kind: str) -> None:
    view = View("name", ring(2)[0], **options)
    with pytest.raises(ValueError, match=f"View name: {kind}: expected"):
        getattr(view, kind)


def test_a_batch_of_cameras_is_no_view() -> None:
    with pytest.raises(ValueError, match="View: camera: expected a single camera"):
        View("a", Camera.stack(ring(2)), IMAGE)
    with pytest.raises(ValueError, match="View: time"):
        View("a", ring(2)[0], IMAGE, time=math.nan)


# -- the split -----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 17])
def test_every_eighth_is_held_out_and_one_always_trains(n: int) -> None:
    scene = Scene(views(n))
    held_out = [] if n == 1 else [i for i in range(n) if i % 8 == 0]
    assert scene.test == [scene.views[i] for i in held_out]
    assert scene.train == [view for view in scene.views if view not in scene.test]
    assert scene.train


def test_split_by_the_caller() -> None:
    members = views(5)
    scene = Scene(members, test=members[3:])
    assert scene.train == members[:3]
    scene = Scene(members, train=members[:2])
    assert scene.test == members[2:]
    scene = Scene(members, test_every=0)
    assert scene.test == [] and len(scene.train) == 5
    assert len(Scene(members, test_every=2).test) == 3


def test_bad_splits() -> None:
    members = views(3)
    with pytest.raises(ValueError, match="Scene: views: expected at least one view"):
        Scene([])
    with pytest.raises(ValueError, match="Scene: train: expected at least one"):
        Scene(members, test=members)
    with pytest.raises(ValueError, match="expected members of views"):
        Scene(members, test=views(1))
    with pytest.raises(ValueError, match="test_every: expected 0 or at least 2"):
        Scene(members, test_every=1)
    with pytest.raises(TypeError, match="test_every: expected an int"):
        Scene(members, test_every=2.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points": torch.zeros(3, 2)}, "points: expected float32"),
        ({"points": torch.full((3, 3), math.nan)}, "points: expected finite"),
        ({"point_colors": torch.zeros(3, 3, dtype=torch.uint8)}, "point_colors"),
        ({"points": torch.zeros(3, 3), "point_colors": torch.zeros(3, 3)}, "point_colors"),
        ({"background": (0.0, 2.0, 0.0)}, "background: expected three numbers"),
        ({"background": (0.0, 0.0)}, "background: expected three numbers"),
    ],
)
def test_bad_scene_arguments(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"Scene: {message}"):
        Scene(views(2), **options)


# -- geometry ------------------------------------------------------------------------------------


def test_extent_is_the_rule_of_3dgs_over_training_cameras() -> None:
    eyes = [(0.0, 0.0, 0.0), (4.0, 0.0, 0.0), (0.0, 2.0, 0.0), (100.0, 0.0, 0.0)]
    members = [
        View(str(i), Camera.look_at(e, (1, 1, 5), focal=9, width=16, height=12), IMAGE)
        for i, e in enumerate(eyes)
    ]
    scene = Scene(members, test=members[3:])
    mean = torch.tensor(eyes[:3]).mean(dim=0)
    expected = 1.1 * max(math.dist(eye, mean.tolist()) for eye in eyes[:3])
    assert scene.extent == pytest.approx(expected, rel=1e-5)


def test_extent_of_one_standpoint() -> None:
    member = views(1)
    assert Scene(member).extent == 1.0
    points = member[0].camera.center + 3 * torch.nn.functional.normalize(torch.randn(50, 3), dim=1)
    assert Scene(member, points=points).extent == pytest.approx(3.0, rel=1e-4)


def test_bounds_of_points_leave_outliers_out() -> None:
    points = torch.rand(1000, 3)
    points[0] = torch.tensor([1e6, -1e6, 50.0])
    bounds = Scene(views(3), points=points).bounds
    assert bounds.shape == (2, 3)
    assert bool((bounds[0] >= 0).all()) and bool((bounds[1] <= 1).all())
    assert bool((bounds[1] - bounds[0] > 0.95).all())


def test_bounds_of_an_orbit_are_its_middle() -> None:
    bounds = camera_bounds(ring(12, radius=4.0))
    # The ball all cameras see has radius 4 sin(0.3) = 1.2; the image is a little wider than high.
    assert bool((bounds[0] < -0.6).all()) and bool((bounds[0] > -2.5).all())
    assert bool((bounds[1] > 0.6).all()) and bool((bounds[1] < 2.5).all())


def test_depth_ranges() -> None:
    ranges = depth_ranges(ring(8, radius=2.0))
    assert bool((ranges[:, 0] < 2).all()) and bool((ranges[:, 1] > 2).all())
    points = torch.randn(500, 3) * 0.1
    ranges = depth_ranges(ring(8, radius=2.0), points)
    assert bool((ranges[:, 0] > 1.4).all()) and bool((ranges[:, 1] < 2.7).all())
    # Parallel cameras: nothing to intersect, so the distance comes from how far apart they stand.
    row = [
        Camera.look_at((x, 0.0, 0.0), (x, 0.0, 1.0), (0, 1, 0), focal=9, width=16, height=12)
        for x in (-1.0, 0.0, 1.0)
    ]
    ranges = depth_ranges(row)
    assert bool(torch.isfinite(ranges).all()) and ranges[0, 0] > 0.5 and ranges[0, 1] < 50
    # Cameras that look outward have no common point in front of them.
    outward = [
        Camera.look_at((x, y, 0.0), (3 * x, 3 * y, 0.0), focal=9, width=16, height=12)
        for x, y in ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))
    ]
    assert bool((depth_ranges(outward) > 0).all())


def test_random_points_are_seen() -> None:
    scene = Scene([View(str(i), c, IMAGE) for i, c in enumerate(ring(9))])
    points, colors = random_points(scene, 777, seed=3, min_views=4)
    assert points.shape == colors.shape == (777, 3) and colors.dtype == torch.uint8
    cameras = [view.camera for view in scene.train]
    assert int(count_views(cameras, depth_ranges(cameras), points).min()) >= 4
    again, _ = random_points(scene, 777, seed=3, min_views=4)
    other, _ = random_points(scene, 777, seed=4, min_views=4)
    assert torch.equal(points, again) and not torch.equal(points, other)


def test_random_points_of_one_view() -> None:
    scene = Scene(views(1))
    points, _ = random_points(scene, 10)
    xy, depth = scene.views[0].camera.project(points)
    assert bool((depth > 0).all()) and bool((xy >= -1e-3).all())


def test_silhouettes_carve(tiny_scene: Scene) -> None:
    points, colors = random_points(tiny_scene, 2000)
    # The table's radius is 1.45 and the highest object ends at 1.04; nine silhouettes of 40 x 30
    # pixels (0.1 units), all from above, are a crude hull that is open below.
    assert float(points[:, :2].norm(dim=-1).quantile(0.99)) < 1.8
    assert float(points[:, 2].max()) < 1.6
    free, _ = random_points(tiny_scene, 2000, carve=False)
    assert float(free.std()) > float(points.std())
    assert float(colors.float().std()) > 5


def test_random_points_arguments() -> None:
    scene = Scene(views(3), test_every=0)
    with pytest.raises(ValueError, match="n_points"):
        random_points(scene, 0)
    with pytest.raises(ValueError, match="min_views: expected 1 to 3"):
        random_points(scene, 5, min_views=4)
    apart = [
        View(
            "a",
            Camera.look_at((0, 0, 0), (0, 0, 1), (0, 1, 0), focal=90, width=16, height=12),
            IMAGE,
        ),
        View(
            "b",
            Camera.look_at((9, 0, 0), (9, 0, -1), (0, 1, 0), focal=90, width=16, height=12),
            IMAGE,
        ),
    ]
    with pytest.raises(ValueError, match="expected a region that 2 of 2 cameras see"):
        random_points(Scene(apart, test_every=0), 5, min_views=2)


# -- scenes from scenes --------------------------------------------------------------------------


def test_subset_keeps_the_split() -> None:
    scene = Scene(views(17))
    part = scene.subset([0, 3, 8, -1])
    assert part.views == [scene.views[i] for i in (0, 3, 8, 16)]
    assert part.test == [scene.views[0], scene.views[8], scene.views[16]]
    assert scene.subset([0, 8]).train, "a subset of test views only must still train"
    assert len(scene.subset(slice(2, 5))) == 3
    with pytest.raises(ValueError, match="indices: expected below 17, got 17"):
        scene.subset([17])
    with pytest.raises(ValueError, match="at least one view"):
        scene.subset([])


def test_normalised_shows_the_same_images() -> None:
    scene = synthetic.still_life(n_views=3, width=24, height=18, n_points=50)
    moved, transform = scene.normalised()
    assert moved.extent == pytest.approx(1.0, rel=1e-5)
    assert scene.points is not None and moved.points is not None
    torch.testing.assert_close(moved.points, scene.points @ transform[:3, :3].T + transform[:3, 3])
    for view, again in zip(scene.views, moved.views):
        before, depth = view.camera.project(scene.points)
        after, new_depth = again.camera.project(moved.points)
        torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(new_depth, depth * transform[0, 0], rtol=1e-4, atol=1e-5)
        assert view.depth is not None and again.depth is not None
        torch.testing.assert_close(again.depth, view.depth * transform[0, 0])
    assert len(moved.test) == len(scene.test)


def test_repr() -> None:
    scene = Scene(views(9), points=torch.zeros(1234, 3))
    assert repr(scene) == "Scene(9 views 16 x 12, 7 train + 2 test, 1,234 points)"
    mixed = [*views(2), View("big", Camera(torch.eye(4), torch.eye(3), 20, 20), IMAGE)]
    assert "of 2 sizes" in repr(Scene(mixed))
    assert repr(View("a.png", ring(2)[0], IMAGE, time=0.5)) == "View('a.png', 16 x 12 time=0.5)"
