# SPDX-License-Identifier: Apache-2.0
"""Runs: they learn, repeat, resume bit by bit, and stop cleanly."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from fieldline.datasets import Scene, View
from fieldline.engine.training import (
    MCMC,
    FitCheckpoint,
    FitConfig,
    FitEvaluated,
    FitFinished,
    FitProgress,
    FitStarted,
    TrainingDivergedError,
    evaluate,
    find_checkpoint,
    fit,
    fit_events,
    load_checkpoint,
    model_of_checkpoint,
)
from op_harness import threads
from small_scene import make_cameras, make_scene, make_truth

import fieldline as fl

# Small, with every part of a step switched on.
QUICK: dict[str, Any] = {
    "sh_every": 0.2,
    "refine_every": 5,
    "max_splats": 180,
    "progress_every": 5,
    "lpips": False,
}


def parameters(model: fl.Gaussians3D) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_training_improves_held_out_views(scene: Scene) -> None:
    start = fit(None, scene, steps=1, **QUICK).evaluation
    end = fit(None, scene, steps=300, **QUICK).evaluation
    assert start is not None
    assert end is not None
    assert end.psnr > 22.5
    assert end.psnr > start.psnr + 8
    assert end.ssim > start.ssim + 0.25
    assert [view.name for view in end.views] == ["view_0", "view_8"]


def test_model_is_trained_in_place(scene: Scene) -> None:
    model = fl.Gaussians3D.from_points(scene.points, sh_degree=1)
    before = len(model)
    result = fit(model, scene, steps=30, **QUICK)
    assert result.model is model
    assert before < len(model) <= 180
    assert result.step == 30
    assert all(p.requires_grad for p in model.parameters())


def test_the_points_of_the_scene_stay_where_they_are(scene: Scene) -> None:
    assert scene.points is not None
    before = scene.points.clone()
    fit(None, scene, steps=5, **QUICK)
    assert torch.equal(scene.points, before)


def test_events_come_in_order(scene: Scene, tmp_path: Path) -> None:
    events = list(
        fit_events(
            None, scene, steps=20, out=tmp_path, checkpoint_every=10, evaluate_every=10, **QUICK
        )
    )
    kinds = [type(event) for event in events]
    assert kinds[0] is FitStarted
    assert kinds[-1] is FitFinished
    assert [e.step for e in events if isinstance(e, FitProgress)] == [5, 10, 15, 20]
    assert [e.step for e in events if isinstance(e, FitCheckpoint)] == [10]
    assert [e.step for e in events if isinstance(e, FitEvaluated)] == [10]
    last = [e for e in events if isinstance(e, FitProgress)][-1]
    assert last.fraction == 1.0
    assert last.eta_seconds == 0
    assert last.resolution == (40, 32)
    assert last.n_splats > 150
    assert 0 < last.loss < 1
    assert last.psnr > 5


def test_fit_calls_progress_with_every_event(scene: Scene) -> None:
    seen: list[object] = []
    fit(None, scene, steps=10, progress=seen.append, **QUICK)
    assert [type(event) for event in seen] == [FitStarted, FitProgress, FitProgress, FitFinished]


def test_same_seed_same_bits_at_any_thread_count(scene: Scene) -> None:
    results = []
    for count in (1, 1, 2):
        with threads(count):
            results.append(parameters(fit(None, scene, steps=25, **QUICK).model))
    assert_same(results[0], results[1])
    assert_same(results[0], results[2])
    other = parameters(fit(None, scene, steps=25, seed=1, **QUICK).model)
    assert not torch.equal(results[0]["means"], other["means"])


@pytest.mark.parametrize("background", ["auto", "random"])
def test_resumed_run_is_the_same_bit_by_bit(scene: Scene, tmp_path: Path, background: str) -> None:
    settings = {**QUICK, "checkpoint_every": 20, "steps": 40, "background": background}
    whole = fit(None, scene, **settings)
    for event in fit_events(None, scene, out=tmp_path, **settings):
        if isinstance(event, FitCheckpoint):
            break
    started = []
    resumed = fit(None, scene, resume=True, out=tmp_path, progress=started.append)
    assert started[0].step == 20
    assert resumed.config == FitConfig(**settings)
    assert_same(parameters(whole.model), parameters(resumed.model))
    assert resumed.evaluation == whole.evaluation


def test_resume_into_a_given_model_and_with_more_steps(scene: Scene, tmp_path: Path) -> None:
    fit(None, scene, steps=10, out=tmp_path, checkpoint_every=5, **QUICK)
    path = find_checkpoint(tmp_path)
    model = fl.Gaussians3D.random(3, seed=0)
    result = fit(model, scene, resume=path, steps=8)
    assert result.model is model
    assert result.step == 8
    assert len(model) > 100


def test_resume_into_another_folder_keeps_what_that_holds(scene: Scene, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        fit(None, scene, steps=10, out=folder, checkpoint_every=5, **QUICK)
    with pytest.raises(ValueError, match="expected a folder without a run"):
        fit(None, scene, steps=12, resume=first, out=second)
    result = fit(None, scene, steps=12, resume=first, out=tmp_path / "third")
    assert result.step == 12
    assert (tmp_path / "third" / "scene.ply").exists()


def test_resume_needs_a_place_and_the_same_views(scene: Scene, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="resume: expected a checkpoint, or True with `out`"):
        fit(None, scene, resume=True)
    with pytest.raises(FileNotFoundError, match="no checkpoint to resume from"):
        fit(None, scene, resume=True, out=tmp_path)
    fit(None, scene, steps=10, out=tmp_path, checkpoint_every=5, **QUICK)
    with pytest.raises(ValueError, match="expected a checkpoint of these 6 training views"):
        fit(None, make_scene(7), resume=tmp_path)


def test_fixed_set_keeps_its_size(scene: Scene) -> None:
    model = fl.Gaussians3D.from_points(scene.points)
    fit(model, scene, steps=20, strategy="none", **QUICK)
    assert len(model) == 150


def test_time_ends_a_run_and_its_schedules(scene: Scene) -> None:
    events = []
    result = fit(None, scene, steps=10**6, max_seconds=1.0, progress=events.append, **QUICK)
    assert 10 < result.step < 10**6
    assert 1.0 <= result.seconds < 20
    fractions = [event.fraction for event in events if isinstance(event, FitProgress)]
    assert fractions == sorted(fractions)
    assert fractions[0] > 0


def test_visible_only_leaves_unseen_splats_alone() -> None:
    scene = make_scene()
    model = fl.Gaussians3D.from_points(scene.points)
    with torch.no_grad():
        model.means[0] = torch.tensor([0.0, 0.0, 500.0])
    before = parameters(model)
    fit(model, scene, steps=12, strategy="none", visible_only=True, **QUICK)
    for name, value in parameters(model).items():
        assert torch.equal(value[0], before[name][0]), name
    assert not torch.equal(model.means[1:], before["means"][1:])


def test_images_with_alpha_are_learnt_over_their_background() -> None:
    scene = make_scene(alpha=True, background=(1.0, 1.0, 1.0))
    for background in ("auto", "white", "random"):
        result = fit(None, scene, steps=100, background=background, **QUICK)
        assert result.evaluation is not None
        assert result.evaluation.psnr > 18, background
    truth = evaluate(make_truth(), scene, lpips=False)
    assert truth.psnr > 40


def test_masked_pixels_teach_nothing() -> None:
    clean = make_scene()
    views = []
    for view in clean.views:
        image = view.image.clone()
        mask = torch.ones(image.shape[:2], dtype=torch.bool)
        mask[:12] = False
        image[:12] = torch.tensor([255, 0, 255], dtype=torch.uint8)
        views.append(View(view.name, view.camera, image, mask=mask))
    scene = Scene(views, points=clean.points)
    settings = {**QUICK, "coarse_levels": 1}
    trained = fit(None, scene, steps=120, **settings).model
    for view in scene.train[:3]:
        top = fl.render(trained, view.camera).rgb.detach()[:12].mean((0, 1))
        assert float(top[0] - top[1]) < 0.15, "no purple was learnt"
    assert evaluate(trained, scene, lpips=False).psnr > 18


def test_random_points_start_a_scene_without_points() -> None:
    scene = make_scene(points=False)
    result = fit(None, scene, steps=120, n_initial=120, **QUICK)
    assert result.evaluation is not None
    assert result.evaluation.psnr > 18


# -- stopping ------------------------------------------------------------------------------------


def test_ctrl_c_stops_after_the_step_with_a_checkpoint(scene: Scene, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)

    def interrupt(event: object) -> None:
        if isinstance(event, FitProgress) and event.step == 10:
            os.kill(os.getpid(), signal.SIGINT)

    result = fit(None, scene, steps=1000, out=tmp_path, progress=interrupt, **QUICK)
    assert signal.getsignal(signal.SIGINT) is before
    assert result.interrupted
    assert 10 <= result.step <= 11
    assert result.evaluation is None
    assert result.checkpoint == find_checkpoint(tmp_path)
    assert load_checkpoint(result.checkpoint).step == result.step
    assert (tmp_path / "scene.ply").exists()
    assert json.loads((tmp_path / "metrics.json").read_text())["interrupted"] is True
    assert_same(parameters(model_of_checkpoint(result.checkpoint)), parameters(result.model))


def test_second_ctrl_c_interrupts_at_once(scene: Scene) -> None:
    def interrupt(event: object) -> None:
        # Each is handled before the next: two that are pending together count as one.
        if isinstance(event, FitProgress):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(None, scene, steps=1000, progress=interrupt, **QUICK)
    assert signal.getsignal(signal.SIGINT) is before


def test_nan_names_step_view_and_last_good_checkpoint(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = MCMC.regulariser
    calls = []

    def poisoned(self: MCMC, *arguments: Any) -> torch.Tensor | None:
        calls.append(1)
        value = original(self, *arguments)
        return value * float("nan") if value is not None and len(calls) == 13 else value

    monkeypatch.setattr(MCMC, "regulariser", poisoned)
    with pytest.raises(TrainingDivergedError) as error:
        fit(None, scene, steps=40, out=tmp_path, checkpoint_every=10, **QUICK)
    path = find_checkpoint(tmp_path)
    assert error.value.step == 13
    assert error.value.checkpoint == path
    assert f"got nan at step 13 on view {error.value.view}" in str(error.value)
    assert str(path) in str(error.value)
    saved = load_checkpoint(path)
    assert saved.step == 10
    assert all(bool(tensor.isfinite().all()) for tensor in saved.model.values())


def test_nan_without_a_folder_says_that_there_is_no_checkpoint(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MCMC, "regulariser", lambda *_: torch.tensor(float("inf")))
    with pytest.raises(TrainingDivergedError, match=r"at step 1 on view .* none was written"):
        fit(None, scene, steps=5, **QUICK)


# -- bad input -----------------------------------------------------------------------------------


def test_one_training_view_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at least 2 training views .* got 1"):
        fit(None, make_scene(1), steps=5)
    camera = make_cameras(1)[0]
    image = torch.zeros(camera.height, camera.width, 3, dtype=torch.uint8)
    views = [View("a", camera, image), View("b", camera, image)]
    with pytest.raises(ValueError, match="got 1"):
        fit_events(None, Scene(views), steps=5)


def test_empty_model_is_refused(scene: Scene) -> None:
    with pytest.raises(ValueError, match="model: expected at least one Gaussian, got none"):
        fit(fl.Gaussians3D.empty(), scene, steps=5)


def test_duplicate_poses_and_images_of_different_sizes_train() -> None:
    truth = make_truth()
    cameras = [*make_cameras(2, 40, 32), *make_cameras(2, 24, 24)]
    views = []
    for i, camera in enumerate(cameras):
        image = (fl.render(truth, camera).rgb.detach().clamp(0, 1) * 255).byte()
        views.append(View(f"v{i}", camera, image))
    scene = Scene(views, test_every=0, points=truth.means.detach())
    result = fit(None, scene, steps=12, **QUICK)
    assert result.step == 12
    assert result.evaluation is None


def test_unknown_setting_is_refused_before_anything_is_written(
    scene: Scene, tmp_path: Path
) -> None:
    with pytest.raises(TypeError, match="stepz"):
        fit_events(None, scene, out=tmp_path / "run", stepz=3)
    assert not (tmp_path / "run").exists()
