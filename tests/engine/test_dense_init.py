# SPDX-License-Identifier: Apache-2.0
"""Dense initialisation as a whole: exact depth gives points on the surface, the report adds up, and
every kind of bad input has its answer."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from fieldline.datasets import Scene, View
from fieldline.datasets.synthetic import still_life
from fieldline.engine.dense_init import (
    DenseInitProgress,
    DenseInitReport,
    DepthMaps,
    PlaneSweep,
    dense_init,
)
from fieldline.engine.training import evaluate
from fieldline.representations import quaternion_to_matrix
from PIL import Image

import fieldline as fl


@pytest.fixture(scope="module")
def still() -> Scene:
    return still_life(n_views=12, width=80, height=60, n_points=400)


@pytest.fixture(scope="module")
def made(still: Scene) -> tuple[fl.Gaussians3D, DenseInitReport]:
    return dense_init(still, matcher=DepthMaps(), per_view=600, return_report=True)


def with_views(scene: Scene, change, points: bool = True) -> Scene:
    """The scene with every view changed."""
    changed = {view: change(i, view) for i, view in enumerate(scene.views)}
    return Scene(
        changed.values(),
        train=[changed[view] for view in scene.train],
        test=[changed[view] for view in scene.test],
        points=scene.points if points else None,
        point_colors=scene.point_colors if points else None,
        background=scene.background,
    )


def opaque(view: View, image: torch.Tensor | None = None, **sources) -> View:
    """The view without alpha or depth, over black."""
    pixels = (view.rgb() * 255).byte() if image is None else image
    return View(view.name, sources.pop("camera", view.camera), pixels, **sources)


# -- geometry and colour -------------------------------------------------------------------------


def surface_error(splats: fl.Gaussians3D, scene: Scene) -> torch.Tensor:
    """Relative distance, along the ray, of each centre from the nearest true depth of any view."""
    best = torch.full((len(splats),), math.inf)
    for view in scene.views:
        xy, z = view.camera.project(splats.means.detach())
        column = xy[:, 0].clamp(0, view.width - 1).long()
        row = xy[:, 1].clamp(0, view.height - 1).long()
        depth = view.depth[row, column]
        error = (z / depth.clamp(min=1e-6) - 1).abs()
        best = torch.minimum(best, error.where(depth > 0, math.inf))
    return best


def test_true_depth_gives_points_on_the_surface(
    still: Scene, made: tuple[fl.Gaussians3D, DenseInitReport]
) -> None:
    splats, report = made
    error = surface_error(splats, still)
    assert float(error.median()) < 1e-3
    assert float((error < 0.01).float().mean()) > 0.97
    assert report.consistency > 0.9
    assert report.coverage > 0.9


def test_splats_lie_flat_on_the_table(made: tuple[fl.Gaussians3D, DenseInitReport]) -> None:
    splats, _ = made
    on_top = (splats.means[:, 2].abs() < 2e-3).nonzero().squeeze(1)
    assert len(on_top) > 200
    axes = quaternion_to_matrix(splats.quats[on_top])
    thin = splats.scales[on_top].argmin(-1)
    normals = axes.gather(2, thin[:, None, None].expand(-1, 3, 1))[..., 0]
    assert float(normals[:, 2].abs().median()) > 0.99
    ratio = splats.scales[on_top].amin(-1) / splats.scales[on_top].amax(-1)
    assert float(ratio.max()) < 0.5


def test_the_first_picture_already_looks_like_the_photo(still: Scene) -> None:
    sparse = fl.Gaussians3D.from_points(still.points, still.point_colors, sh_degree=3)
    start = evaluate(sparse, still, lpips=False).psnr
    splats = dense_init(still, matcher=DepthMaps(), per_view=1500)
    dense = evaluate(splats, still, lpips=False).psnr
    assert dense > 17.5
    assert dense > start + 3


def test_a_splat_stands_where_views_overlap_only_once(still: Scene) -> None:
    two = dense_init(still.subset([1, 2]), matcher=DepthMaps(), per_view=500)
    twelve = dense_init(still, matcher=DepthMaps(), per_view=500)
    # Ten times the views see less than four times the surface.
    assert len(two) < len(twelve) < 4 * len(two)


def test_same_seed_same_splats(still: Scene) -> None:
    a, b, c = (
        dense_init(still, matcher=DepthMaps(), per_view=200, seed=seed) for seed in (3, 3, 4)
    )
    for name, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[name]), name
    assert len(a) != len(c) or not torch.equal(a.means, c.means)


def test_the_unit_of_the_world_does_not_matter(still: Scene) -> None:
    def scale(_: int, view: View) -> View:
        pose = view.camera.world_to_camera.clone()
        pose[:3, 3] *= 1000
        camera = fl.Camera(pose, view.camera.K, view.width, view.height)
        return View(view.name, camera, view.image, depth=view.depth * 1000)

    large = with_views(still, scale)
    large.points = still.points * 1000
    a = dense_init(still, matcher=DepthMaps(), per_view=300)
    b = dense_init(large, matcher=DepthMaps(), per_view=300)
    assert abs(len(a) - len(b)) <= 0.02 * len(a)
    spread = b.scales.log().mean() - a.scales.log().mean()
    assert float(spread) == pytest.approx(math.log(1000), abs=0.02)


def test_edgs_scale_rule(still: Scene) -> None:
    splats = dense_init(still, matcher=DepthMaps(), per_view=100, scale="distance")
    assert torch.equal(splats.log_scales[:, 0], splats.log_scales[:, 2])
    centers = torch.stack([view.camera.center for view in still.train])
    distance = torch.cdist(splats.means.detach(), centers)
    ratio = (splats.scales[:, :1].detach() / distance / 0.0005 - 1).abs().amin(-1)
    assert float(ratio.max()) < 1e-3


# -- report --------------------------------------------------------------------------------------


def test_report_adds_up(made: tuple[fl.Gaussians3D, DenseInitReport], still: Scene) -> None:
    splats, report = made
    assert report.points == len(splats)
    kinds = report.matched + report.sparse + report.interpolated + report.far
    assert kinds == report.points
    assert sum(view.points for view in report.views) == report.points + report.over_cap
    assert [view.name for view in report.views] == [view.name for view in still.train]
    for view in report.views:
        assert view.matched == view.verified + view.contradicted + view.unconfirmed
        assert view.cells == view.points + view.merged + view.empty
        assert 0 < view.verified <= view.pixels
        assert view.cells <= 601
    assert sum(report.stage_seconds.values()) <= report.seconds
    values = report.as_dict()
    assert values["coverage"] == report.coverage
    assert values["views"][0]["coverage"] == report.views[0].coverage


def test_cap_is_kept(still: Scene) -> None:
    splats, report = dense_init(
        still, matcher=DepthMaps(), per_view=2000, max_points=700, return_report=True
    )
    assert 500 < len(splats) <= 700
    # Larger cells keep to it, rather than holes.
    assert report.over_cap < 0.1 * len(splats)


def test_progress_names_every_view(still: Scene) -> None:
    events: list[DenseInitProgress] = []
    dense_init(still, matcher=DepthMaps(), per_view=50, progress=events.append)
    names = [event.view for event in events if event.stage == "match"]
    assert names == [view.name for view in still.train]
    assert [e.done for e in events if e.stage == "match"] == list(range(1, len(names) + 1))
    stages = [event.stage for event in events]
    assert list(dict.fromkeys(stages)) == [
        "prepare",
        "match",
        "check",
        "complete",
        "draw",
        "colour",
    ]


def test_face() -> None:
    assert fl.dense_init is dense_init
    assert fl.PlaneSweep is PlaneSweep


# -- what may not give points --------------------------------------------------------------------


def test_transparent_pixels_give_no_points(still: Scene) -> None:
    splats, report = dense_init(still, matcher=DepthMaps(), per_view=400, return_report=True)
    assert report.far == 0
    for view in still.train:
        xy, z = view.camera.project(splats.means.detach())
        within = (z > 0) & (xy >= 1).all(-1) & (xy < xy.new_tensor([79.0, 59.0])).all(-1)
        alpha = torch.nn.functional.max_pool2d(view.image[None, ..., 3].float(), 5, 1, 2)[0]
        x, y = xy[within].long().unbind(-1)
        assert float((alpha[y, x] == 0).float().mean()) < 0.01


def test_masked_pixels_give_no_points(still: Scene) -> None:
    def mask_left(_: int, view: View) -> View:
        mask = torch.ones(view.height, view.width, dtype=torch.bool)
        mask[:, :40] = False
        return View(view.name, view.camera, view.image, mask=mask, depth=view.depth)

    one = with_views(still, mask_left, points=False).subset([1])
    splats = dense_init(one, matcher=DepthMaps(), per_view=300)
    xy, _ = one.train[0].camera.project(splats.means.detach())
    assert float(xy[:, 0].min()) >= 39.9
    nothing = with_views(
        still,
        lambda _, v: View(v.name, v.camera, v.image, mask=torch.zeros(60, 80) > 0, depth=v.depth),
    )
    with pytest.raises(ValueError, match="all are masked out or transparent"):
        dense_init(nothing, matcher=DepthMaps())


def test_sparse_points_fill_what_matching_left(still: Scene) -> None:
    half = {
        view.name: view.depth.where(torch.arange(80) < 40, 0.0)  # the left half alone
        for view in still.train
    }
    options = {"matcher": DepthMaps(half), "per_view": 600, "return_report": True}
    _, without = dense_init(still, sparse_points=False, interpolate=False, **options)
    _, with_points = dense_init(still, sparse_points=True, interpolate=False, **options)
    _, filled = dense_init(still, sparse_points=True, interpolate=True, **options)
    assert without.sparse == without.interpolated == 0
    assert with_points.sparse > 50
    assert filled.interpolated > 50
    assert filled.matched > 500


def test_guesses_are_faint_where_images_have_alpha(still: Scene) -> None:
    half = {view.name: view.depth.where(torch.arange(80) < 40, 0.0) for view in still.train}
    matcher = DepthMaps(half)
    faint, report = dense_init(
        still, matcher=matcher, per_view=300, sparse_points=False, return_report=True
    )
    assert int((faint.opacities < 0.2).sum()) == report.interpolated > 50
    solid = dense_init(still, matcher=matcher, per_view=300, sparse_points=False, guess_opacity=0.7)
    assert int(((solid.opacities - 0.7).abs() < 1e-4).sum()) == report.interpolated


# -- bad input -----------------------------------------------------------------------------------


def assert_sound(splats: fl.Gaussians3D) -> None:
    assert len(splats) > 0
    assert bool(splats.finite().all())
    assert bool(((splats.opacities > 0) & (splats.opacities < 1)).all())


def test_two_views_are_enough(still: Scene) -> None:
    pair = Scene([opaque(still.views[1]), opaque(still.views[2])], test_every=0)
    splats, report = dense_init(pair, per_view=400, min_confidence=0.05, return_report=True)
    assert_sound(splats)
    assert [view.neighbours for view in report.views] == [1, 1]


def test_one_view_has_no_depth_unless_it_brings_it(still: Scene) -> None:
    one = still.subset([1])
    with pytest.raises(ValueError, match=r"at least 2 training views .* got 1"):
        dense_init(one)
    assert_sound(dense_init(one, matcher=DepthMaps(), per_view=100))


def test_views_that_do_not_overlap(still: Scene) -> None:
    def apart(i: int, view: View) -> View:
        eye = (10.0 * i, 0.0, 0.0)
        target = (10.0 * i, 5.0, 0.0)
        return opaque(view, camera=fl.Camera.look_at(eye, target, fov_y=0.3, width=80, height=60))

    scene = with_views(still, apart, points=False)
    # Two rows of cameras that look away from each other.
    scene = Scene(
        [
            opaque(
                view,
                camera=fl.Camera.look_at((x, 0, 0), (2 * x, y, 0), fov_y=0.3, width=80, height=60),
            )
            for view, x, y in zip(still.views, (-1.0, 1.0), (0.0, 0.0))
        ],
        test_every=0,
    )
    with pytest.raises(ValueError, match="views that overlap"):
        dense_init(scene)


def test_wrong_poses_are_detected(still: Scene) -> None:
    cameras = [view.camera for view in still.views]
    for seed in range(3):
        order = torch.randperm(12, generator=torch.Generator().manual_seed(seed)).tolist()
        shuffled = with_views(
            still,
            lambda i, v, order=order: View(v.name, cameras[order[i]], v.image, depth=v.depth),
            points=False,
        )
        with pytest.raises(ValueError, match="poses are probably wrong"):
            dense_init(shuffled, matcher=DepthMaps())


def test_wrong_poses_of_photos_are_detected(data_dir: Path) -> None:
    fern = fl.datasets.load(data_dir / "gs" / "fern_colmap", 4)
    cameras = [view.camera for view in fern.views]
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0)).tolist()
    shuffled = with_views(fern, lambda i, v: View(v.name, cameras[order[i]], v.image))
    with pytest.raises(ValueError, match="poses are probably wrong"):
        dense_init(shuffled, matcher=PlaneSweep(planes=32))


def test_pure_rotation_shows_no_depth(still: Scene) -> None:
    def turn(i: int, view: View) -> View:
        target = (math.sin(0.1 * i), math.cos(0.1 * i), 0.0)
        camera = fl.Camera.look_at((0, 0, 0), target, fov_y=0.8, width=80, height=60)
        return opaque(view, camera=camera)

    with pytest.raises(ValueError, match="rotation alone shows no depth"):
        dense_init(with_views(still, turn, points=False))


def test_images_without_texture(still: Scene) -> None:
    flat = torch.full((60, 80, 3), 128, dtype=torch.uint8)
    bare = with_views(still, lambda _, view: opaque(view, flat), points=False)
    with pytest.raises(ValueError, match="images with texture"):
        dense_init(bare, matcher=PlaneSweep(planes=16))
    # The scene's points are something to start from.
    pointed = with_views(still, lambda _, view: opaque(view, flat))
    splats, report = dense_init(
        pointed, matcher=PlaneSweep(planes=16), per_view=300, return_report=True
    )
    assert_sound(splats)
    assert report.sparse > 0
    assert report.matched == 0


def test_sizes_and_intrinsics_may_differ(still: Scene) -> None:
    def resize(i: int, view: View) -> View:
        if i % 2:
            return opaque(view)
        camera = view.camera.resized(52, 40)
        image = Image.fromarray((view.rgb() * 255).byte().numpy()).resize((52, 40))
        return View(view.name, camera, torch.from_numpy(np.array(image)))

    splats, report = dense_init(
        with_views(still, resize),
        matcher=PlaneSweep(planes=48),
        per_view=400,
        interpolate=False,
        far_shell=False,
        return_report=True,
    )
    assert_sound(splats)
    assert report.matched > 100
    assert float((surface_error(splats, still) < 0.03).float().mean()) > 0.5


def test_moving_objects_are_left_out(still: Scene) -> None:
    """A bright square that stands before everything, elsewhere in each view."""
    generator = torch.Generator().manual_seed(0)

    def move(_: int, view: View) -> View:
        image, depth = view.image.clone(), view.depth.clone()
        x, y = (torch.rand(2, generator=generator) * torch.tensor([60.0, 40.0])).long().tolist()
        image[y : y + 16, x : x + 16] = torch.tensor([255, 0, 255, 255], dtype=torch.uint8)
        depth[y : y + 16, x : x + 16] = 2.2
        return View(view.name, view.camera, image, depth=depth)

    splats = dense_init(with_views(still, move), matcher=DepthMaps(), per_view=600)
    assert_sound(splats)
    rgb = splats.sh0.detach()[:, 0] * 0.2821 + 0.5
    purple = (rgb[:, 0] > 0.75) & (rgb[:, 1] < 0.25) & (rgb[:, 2] > 0.75)
    assert float(purple.float().mean()) < 0.03


def test_unreadable_photo_is_named(tmp_path: Path) -> None:
    folder = fl.datasets.synthetic.write(tmp_path / "photos", 5, 40, 30, n_points=100)
    (folder / "images" / "0002.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    scene_or_error: list[Scene] = []
    with pytest.raises(fl.FileFormatError, match=r"0002\.png"):
        scene_or_error.append(fl.datasets.load(folder))
        dense_init(scene_or_error[0], matcher=DepthMaps())


def test_nan_depth_is_unknown_depth(still: Scene) -> None:
    depths = {view.name: view.depth.clone() for view in still.train}
    for depth in depths.values():
        depth[::2] = float("nan")
        depth[1] = float("inf")
        depth[3] = -1
    assert_sound(dense_init(still, matcher=DepthMaps(depths), per_view=300))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"per_view": 0}, "per_view: expected an int >= 1, got 0"),
        ({"per_view": 2.5}, "per_view: expected an int >= 1, got 2.5"),
        ({"max_points": 0}, "max_points: expected None or an int >= 1, got 0"),
        ({"sh_degree": 5}, "sh_degree: expected 0 to 4, got 5"),
        ({"neighbours": 0}, "neighbours: expected an int >= 1"),
        ({"max_error": float("nan")}, "max_error: expected a number > 0"),
        ({"min_confidence": 0.0}, "min_confidence and flat_share"),
        ({"guess_opacity": 1.0}, "guess_opacity: expected None or in"),
        ({"scale": "huge"}, 'scale: expected "spacing" or "distance"'),
    ],
)
def test_arguments_out_of_range(still: Scene, options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        dense_init(still, matcher=DepthMaps(), **options)


def test_depth_of_another_size_is_refused(still: Scene) -> None:
    depths = {view.name: torch.ones(5, 5) for view in still.train}
    with pytest.raises(ValueError, match=r"depths\['.*'\]: expected a floating tensor \[60, 80\]"):
        dense_init(still, matcher=DepthMaps(depths))
    with pytest.raises(ValueError, match="expected a depth map for some of"):
        dense_init(still, matcher=DepthMaps({}))


def test_report_is_frozen(made: tuple[fl.Gaussians3D, DenseInitReport]) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        made[1].points = 3  # pyright: ignore
