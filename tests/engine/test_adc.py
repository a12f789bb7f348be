# SPDX-License-Identifier: Apache-2.0
"""Adaptive density control: its decisions by hand, and what must hold whatever they are."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from fieldline.datasets import Scene
from fieldline.engine.training import (
    ADC,
    FitConfig,
    FitFinished,
    GaussianAdam,
    StrategyState,
    fit,
    fit_events,
    load_checkpoint,
    loop,
    prune,
)
from fieldline.engine.training.schedule import Schedule
from fieldline.engine.training.trainer import Trainer
from fieldline.representations.rotations import quaternion_to_matrix
from fieldline.tracers.splatting import Meta
from small_scene import make_scene

import fieldline as fl

QUICK: dict[str, Any] = {"strategy": "default", "lpips": False, "progress_every": 5}


def make_model(scales: list[float], opacity: float = 0.5) -> fl.Gaussians3D:
    n = len(scales)
    model = fl.Gaussians3D.random(n, sh_degree=1, seed=0)
    with torch.no_grad():
        model.log_scales.copy_(torch.tensor(scales).log()[:, None].expand(n, 3))
        model.opacity_logits.fill_(math.log(opacity / (1 - opacity)))
    return model


def make_state(model: fl.Gaussians3D, extent: float = 1.0, **settings: Any) -> StrategyState:
    config = FitConfig(**{"strategy": "default", **settings})
    generator = torch.Generator().manual_seed(1)
    schedule = Schedule(config, extent, model.sh_degree)
    adam = GaussianAdam(model)
    for name, average in adam.averages.items():
        # The row's number, so that it can be told where a row went.
        rows = torch.arange(len(model), dtype=average.dtype) + 1
        average.copy_(rows.reshape(-1, *(1,) * (average.dim() - 1)).expand_as(average))
        adam.squares[name].copy_(2 * average)
    return StrategyState(model, adam, schedule, generator)


def gathered(state: StrategyState, gradients: list[float], counts: list[float]) -> ADC:
    """A strategy whose sums are these."""
    adc = ADC(state.config)
    adc.gradients, adc.counts = torch.tensor(gradients), torch.tensor(counts)
    adc.radii = torch.zeros(len(gradients))
    return adc


def seen(model: fl.Gaussians3D, gradient: list[list[float]], radii: list[list[int]]) -> Meta:
    """What a rendering of 40 x 20 pixels left behind."""
    means2d = torch.zeros(1, len(model), 2, requires_grad=True)
    means2d.grad = torch.tensor([gradient])
    means2d.absgrad = 3 * means2d.grad.abs()  # pyright: ignore
    return Meta(means2d=means2d, radii=torch.tensor([radii]), width=40, height=20)


# -- what views say ----------------------------------------------------------------------------


@pytest.mark.parametrize("absgrad", [False, True])
def test_gradients_are_added_up_in_half_image_sizes(absgrad: bool) -> None:
    state = make_state(make_model([0.1] * 3), absgrad=absgrad)
    adc = ADC(state.config)
    adc.after_backward(
        state, seen(state.model, [[3e-3, 0], [0, 1e-3], [9, 9]], [[2, 1], [8, 4], [0, 0]])
    )
    adc.after_backward(
        state, seen(state.model, [[0, 8e-3], [0, 0], [0, 1e-3]], [[1, 1], [2, 2], [4, 0]])
    )
    scale = 3 if absgrad else 1
    # 3e-3 x 40 / 2 + 8e-3 x 20 / 2; a splat with a radius of 0 was not seen.
    assert adc.gradients.tolist() == pytest.approx([0.14 * scale, 0.01 * scale, 0.0])
    assert adc.counts.tolist() == [2, 2, 0]
    assert adc.radii.tolist() == pytest.approx([2 / 40, 8 / 40, 0])


def test_a_gradient_that_is_nan_counts_as_none() -> None:
    state = make_state(make_model([0.1]))
    adc = ADC(state.config)
    adc.after_backward(state, seen(state.model, [[math.nan, 0.0]], [[2, 2]]))
    assert adc.gradients.tolist() == [0.0]


def test_a_training_step_gathers_what_the_image_says(scene: Scene) -> None:
    """Against the gradient of the loss by the shift of everything in the image."""
    model = fl.Gaussians3D.from_points(scene.points, sh_degree=0)
    trainer = Trainer(model, scene, FitConfig(steps=100, **QUICK))
    trainer.run_step()
    adc = trainer.strategy
    assert isinstance(adc, ADC)
    assert adc.counts.max() == 1 and adc.counts.sum() > 100
    assert bool((adc.gradients[adc.counts == 0] == 0).all())
    assert bool((adc.gradients[adc.counts > 0] > 0).float().mean() > 0.8)
    signed = adc.gradients
    model = fl.Gaussians3D.from_points(scene.points, sh_degree=0)
    trainer = Trainer(model, scene, FitConfig(steps=100, absgrad=True, **QUICK))
    trainer.run_step()
    assert isinstance(trainer.strategy, ADC)
    assert bool((trainer.strategy.gradients >= signed * (1 - 1e-5)).all())
    assert trainer.strategy.gradients.sum() > 1.2 * signed.sum()


# -- decisions ---------------------------------------------------------------------------------


def test_small_splats_are_cloned_and_large_ones_split() -> None:
    # The threshold is 2e-4 on the mean over views; the sizes are split at 0.01 x extent 2 = 0.02.
    state = make_state(make_model([0.01, 0.05, 0.01, 0.05, 0.05]), extent=2.0)
    adc = gathered(state, [9e-4, 9e-4, 9e-4, 9e-4, 0.0], [3, 3, 9, 9, 0])
    clone, split = adc.chosen(state, 0.3)
    assert clone.tolist() == [True, False, False, False, False]
    assert split.tolist() == [False, True, False, False, False]


def test_absgrad_has_its_own_threshold_and_both_can_be_set() -> None:
    for settings, expected in (
        ({}, True),
        ({"absgrad": True}, False),
        ({"absgrad": True, "grow_gradient": 2e-4}, True),
        ({"grow_gradient": 5e-4}, False),
    ):
        state = make_state(make_model([0.001]), **settings)
        assert bool(gathered(state, [4e-4], [1]).chosen(state, 0.3)[0]) is expected


def test_rows_and_averages_after_a_round() -> None:
    state = make_state(make_model([0.001, 0.05, 0.001]))
    model = state.model
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    adc = gathered(state, [1.0, 1.0, 0.0], [1, 1, 1])
    assert adc.densify(state, 0.05) == (2, 0)
    # Rows 0 and 2 stay; then a clone of 0; then the halves of 1, which is gone.
    assert len(model) == 5
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter[:2].detach(), before[name][[0, 2]]), name
        assert torch.equal(parameter[2].detach(), before[name][0]), name
        if name not in ("means", "log_scales"):
            assert torch.equal(parameter[3:].detach(), before[name][[1, 1]]), name
        for averages, factor in ((state.optimiser.averages, 1), (state.optimiser.squares, 2)):
            kept = averages[name].reshape(5, -1)[:, 0].tolist()
            assert kept == [factor, 3 * factor, 0, 0, 0], name
    torch.testing.assert_close(model.scales[3:].detach(), torch.full((2, 3), 0.05 / 1.6))
    offsets = model.means[3:].detach() - before["means"][1]
    assert float(offsets.norm(dim=-1).min()) > 0 and float(offsets.norm(dim=-1).max()) < 0.25
    assert not torch.equal(offsets[0], offsets[1])
    assert adc.counts.tolist() == [0] * 5 and adc.gradients.tolist() == [0] * 5


def test_halves_are_drawn_from_the_splat() -> None:
    n = 20_000
    model = make_model([0.05] * n)
    with torch.no_grad():
        model.means.zero_()
        model.quats.copy_(torch.tensor([0.9, 0.1, -0.3, 0.2]).expand(n, 4))
        model.log_scales.copy_(torch.tensor([0.5, 0.1, 0.02]).log().expand(n, 3))
    R = quaternion_to_matrix(model.quats[0].detach())
    covariance = R @ torch.diag(torch.tensor([0.25, 0.01, 0.0004])) @ R.T
    state = make_state(model, max_splats=2 * n)
    gathered(state, [1.0] * n, [1.0] * n).densify(state, 0.05)
    assert len(model) == 2 * n
    drawn = model.means.detach()
    torch.testing.assert_close(drawn.T @ drawn / len(drawn), covariance, rtol=0.05, atol=2e-3)


def test_revised_opacity_lets_through_as_much_light() -> None:
    for opacity in (0.02, 0.5, 0.99, 0.9999):
        state = make_state(make_model([0.05], opacity), revised_opacity=True)
        gathered(state, [1.0], [1]).densify(state, 0.05)
        halves = state.model.opacities.detach()
        assert len(halves) == 2
        assert float((1 - halves).prod()) == pytest.approx(1 - opacity, rel=1e-3)
    state = make_state(make_model([0.05], 0.3))
    gathered(state, [1.0], [1]).densify(state, 0.05)
    assert state.model.opacities.tolist() == pytest.approx([0.3, 0.3])


def test_faint_and_large_splats_are_pruned() -> None:
    model = make_model([0.01, 0.01, 0.2, 0.01])
    with torch.no_grad():
        model.opacity_logits[1] = math.log(0.004 / 0.996)
        model.means[3, 1] = math.nan
    state = make_state(model)
    adc = gathered(state, [0.0] * 4, [0.0] * 4)
    # Size counts from the first reset on.
    assert adc.densify(state, 0.05) == (0, 2)
    assert model.scales.amax(dim=1).tolist() == pytest.approx([0.01, 0.2])
    assert adc.densify(state, 0.15) == (0, 1)
    assert len(model) == 1


def test_radii_matter_only_where_asked_for() -> None:
    for until, expected in ((0.0, False), (0.5, True)):
        state = make_state(make_model([0.001, 0.001]), radius_until=until)
        adc = gathered(state, [0.0, 0.0], [1, 1])
        adc.radii = torch.tensor([0.2, 0.01])
        assert bool(adc.chosen(state, 0.3)[1][0]) is expected
    state = make_state(make_model([0.001, 0.001, 0.001]), radius_until=0.5, max_splats=3)
    adc = gathered(state, [0.0] * 3, [1] * 3)
    adc.radii = torch.tensor([0.2, 0.01, 0.12])
    assert adc.densify(state, 0.3) == (0, 1)


def test_the_cap_takes_the_largest_gradients() -> None:
    state = make_state(make_model([0.001, 0.05, 0.001, 0.05]), max_splats=6)
    adc = gathered(state, [1.0, 4.0, 3.0, 2.0], [1] * 4)
    clone, split = adc.chosen(state, 0.3)
    assert (clone.tolist(), split.tolist()) == (
        [False, False, True, False],
        [False, True, False, False],
    )
    adc.densify(state, 0.3)
    assert len(state.model) == 6
    assert gathered(state, [1.0] * 6, [1] * 6).densify(state, 0.3) == (0, 0)


def test_a_model_above_the_cap_is_left_as_it_is() -> None:
    state = make_state(make_model([0.001] * 5), max_splats=2)
    assert gathered(state, [1.0] * 5, [1] * 5).densify(state, 0.3) == (0, 0)


def test_pruning_never_leaves_nothing() -> None:
    model = make_model([0.01] * 4, 0.001)
    with torch.no_grad():
        model.opacity_logits[2] += 0.5
        model.means[3] = math.inf
    state = make_state(model)
    best = model.means[2].detach().clone()
    stay = prune(state, torch.ones(4, dtype=torch.bool))
    assert stay.tolist() == [False, False, True, False]
    assert len(model) == 1 and torch.equal(model.means[0].detach(), best)
    assert all(len(average) == 1 for average in state.optimiser.averages.values())
    with torch.no_grad():
        model.means.fill_(math.nan)
    assert prune(state, torch.zeros(1, dtype=torch.bool)).tolist() == [True]


# -- time --------------------------------------------------------------------------------------


def test_rounds_are_shares_of_the_run() -> None:
    def rounds(steps: int) -> list[float]:
        state = make_state(make_model([0.01]), steps=steps, densify_every=0.1, reset_every=0.0)
        adc, found = ADC(state.config), []
        adc.densify = lambda state, fraction: found.append(fraction) or (0, 0)  # type: ignore[method-assign]
        for step in range(steps):
            adc.after_step(state, step + 1, step / steps)
        return found

    assert rounds(100) == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert rounds(5000) == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    # In a run of 40 steps they are ten steps apart, and begin after ten.
    assert rounds(40) == pytest.approx([9 / 40, 19 / 40])


def test_opacities_are_reset() -> None:
    model = make_model([0.01] * 3, 0.8)
    with torch.no_grad():
        model.opacity_logits[1] = math.log(0.007 / 0.993)
    state = make_state(model)
    ADC(state.config).reset_opacities(state)
    assert model.opacities.tolist() == pytest.approx([0.01, 0.007, 0.01])
    assert isinstance(model.opacity_logits, torch.nn.Parameter)
    for averages in (state.optimiser.averages, state.optimiser.squares):
        assert bool((averages["opacity_logits"] == 0).all())
        assert bool((averages["means"] != 0).all())


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"reset_least_steps": 5}, [11, 21, 31, 41, 51]),
        ({"reset_least_steps": 15}, [15, 30, 45]),
        ({"reset_least_steps": 300}, []),
        ({"reset_every": 0.0}, []),
    ],
)
def test_resets_come_when_due(settings: dict[str, Any], expected: list[int]) -> None:
    state = make_state(make_model([0.01], 0.8), steps=100, **settings)
    adc, found = ADC(state.config), []
    for step in range(100):
        with torch.no_grad():
            state.model.opacity_logits.fill_(2.0)
        adc.after_step(state, step + 1, step / 100)
        if float(state.model.opacity_logits.detach().max()) < 0:
            found.append(step + 1)
    # A share is reached before a step: 10 % of 100 steps is where step 11 begins.
    assert found == expected


# -- whole runs --------------------------------------------------------------------------------


def parameters(model: fl.Gaussians3D) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


RUN: dict[str, Any] = {
    **QUICK,
    "steps": 60,
    "sh_every": 0.2,
    "densify_every": 0.05,
    "densify_least_steps": 2,
    "grow_gradient": 1e-4,
    "reset_least_steps": 10,
    "max_splats": 260,
}


@pytest.mark.parametrize("absgrad", [False, True])
def test_a_run_grows_learns_and_repeats(scene: Scene, absgrad: bool) -> None:
    settings = {**RUN, "steps": 300, "absgrad": absgrad, "reset_least_steps": 60}
    first, again = fit(None, scene, **settings), fit(None, scene, **settings)
    assert first.evaluation is not None
    assert first.evaluation.psnr > 20
    assert 150 < len(first.model) <= 260
    assert bool(first.model.finite().all())
    other = parameters(again.model)
    assert all(torch.equal(p, other[name]) for name, p in parameters(first.model).items())


@pytest.mark.parametrize("absgrad", [False, True])
@pytest.mark.parametrize("stop", [9, 24, 33])
def test_resuming_is_bit_exact(scene: Scene, tmp_path: Path, stop: int, absgrad: bool) -> None:
    """From between rounds, and from between a reset and a round."""
    settings = {**RUN, "absgrad": absgrad, "checkpoint_every": stop, "keep_checkpoints": 0}
    whole = fit(None, scene, out=tmp_path, **settings)
    saved = tmp_path / "checkpoints" / f"step_{stop:08d}.safetensors"
    sums = load_checkpoint(saved).strategy
    assert sums["counts"].sum() > 0 and len(sums["times"]) == 4
    resumed = fit(None, scene, resume=saved, checkpoint_every=0)
    assert resumed.step == whole.step == 60
    assert len(resumed.model) == len(whole.model) != 150
    other = parameters(resumed.model)
    assert all(torch.equal(p, other[name]) for name, p in parameters(whole.model).items())


def test_a_checkpoint_whose_sums_do_not_fit_is_refused(scene: Scene, tmp_path: Path) -> None:
    result = fit(None, scene, out=tmp_path, checkpoint_every=20, **RUN)
    assert result.checkpoint is not None
    saved = load_checkpoint(result.checkpoint)
    model = fl.Gaussians3D(**saved.model)
    trainer = Trainer(model, scene, saved.config)
    saved.strategy["counts"] = torch.zeros(3)
    with pytest.raises(ValueError, match=r"fit: resume: counts: expected \[\d+\], got \[3\]"):
        trainer.restore(saved)


def test_another_strategy_can_go_on(scene: Scene, tmp_path: Path) -> None:
    first = fit(None, scene, out=tmp_path, checkpoint_every=20, **RUN)
    assert first.checkpoint is not None
    for strategy in ("mcmc", "decay", "none"):
        assert fit(None, scene, resume=first.checkpoint, strategy=strategy).step == 60


def test_a_scene_with_nothing_to_see_keeps_a_splat() -> None:
    """Everything is pruned in a scene that is black: one splat stays, and the run ends."""
    scene = make_scene(4)
    views = [fl.datasets.View(v.name, v.camera, torch.zeros_like(v.image)) for v in scene.views]
    black = fl.datasets.Scene(views, points=scene.points)
    for strategy in ("default", "decay"):
        settings = {**RUN, "strategy": strategy, "min_opacity": 0.3, "decay_logit": 1.0}
        result = fit(None, black, **settings)
        assert len(result.model) == 1
        assert bool(result.model.finite().all())


def test_events_say_when_and_with_how_many(scene: Scene) -> None:
    events = list(fit_events(None, scene, evaluate_at=(0.0, 1e-9, 1e9), **RUN))
    found = [event for event in events if type(event).__name__ == "FitEvaluated"]
    assert [event.step for event in found] == [1], "both times lie within the first step"
    assert found[0].seconds > 0 and found[0].n_splats == 150
    last = events[-1]
    assert isinstance(last, FitFinished)


@pytest.mark.parametrize("value", [-1.0, math.nan, "3", True])
def test_times_of_evaluations_are_checked(scene: Scene, value: Any) -> None:
    with pytest.raises(ValueError, match="fit: evaluate_at: expected seconds >= 0, got"):
        fit_events(None, scene, evaluate_at=(value,))


def test_measuring_at_a_time_stops_the_clock(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    original = loop.evaluate

    def slow(*args: Any, **kwargs: Any) -> Any:
        time.sleep(0.4)
        return original(*args, **kwargs)

    monkeypatch.setattr(loop, "evaluate", slow)
    settings = {**RUN, "steps": 10}
    assert fit(None, scene, evaluate_at=(0.0, 0.001), **settings).seconds < 0.39
    assert fit(None, scene, evaluate_every=5, **settings).seconds > 0.4
