# SPDX-License-Identifier: Apache-2.0
"""Training without densification: opacities fade and faint splats go, on schedule and no other."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from fieldline.datasets import Scene
from fieldline.engine.training import Decay, FitConfig, GaussianAdam, StrategyState, fit
from fieldline.engine.training.decay import DecayThenMCMC
from fieldline.engine.training.schedule import Schedule

import fieldline as fl

QUICK: dict[str, Any] = {"lpips": False, "steps": 60, "sh_every": 0.2}


def make_state(opacities: list[float], **settings: Any) -> StrategyState:
    config = FitConfig(**{"strategy": "decay", **settings})
    model = fl.Gaussians3D.random(len(opacities), sh_degree=1, seed=0)
    with torch.no_grad():
        model.opacity_logits.copy_(torch.tensor(opacities).logit())
    schedule = Schedule(config, 1.0, 1)
    return StrategyState(model, GaussianAdam(model), schedule, torch.Generator().manual_seed(0))


def test_every_tenth_step_takes_a_hundredth_of_a_small_opacity() -> None:
    state = make_state([0.02, 0.9])
    for step in range(1, 31):
        Decay().after_step(state, step, 0.1)
    logits = torch.tensor([0.02, 0.9]).logit() - 3 * 0.01005
    torch.testing.assert_close(state.model.opacity_logits.detach(), logits)
    assert float(state.model.opacities.detach()[0]) / 0.02 == pytest.approx(0.99**3, rel=2e-3)


def test_it_ends_half_way() -> None:
    state = make_state([0.001, 0.9])
    Decay().after_step(state, 10, 0.51)
    assert len(state.model) == 2
    assert state.model.opacities.tolist() == pytest.approx([0.001, 0.9])
    Decay().after_step(state, 10, 0.5)
    assert len(state.model) == 1


def test_faint_splats_go_and_averages_follow() -> None:
    state = make_state([0.5, 0.004, 0.6, 0.00502])
    for average in state.optimiser.averages.values():
        average.copy_(torch.arange(4.0).reshape(4, *(1,) * (average.dim() - 1)).expand_as(average))
    Decay().after_step(state, 10, 0.1)
    assert len(state.model) == 2, "0.00502 falls below 0.005 by this step"
    for average in state.optimiser.averages.values():
        assert average.reshape(2, -1)[:, 0].tolist() == [0, 2]


def test_positions_enter_their_schedule_late() -> None:
    """At step 8000 of 30000: 4.7e-5 instead of 1.6e-4, until the schedule has come there."""
    rate = Schedule(FitConfig(strategy="decay"), 1.0, 3).means_rate
    assert rate(0.0) == rate(0.2) == pytest.approx(1.6e-4 * 0.01 ** (8 / 30))
    assert rate(0.0) == pytest.approx(4.7e-5, rel=0.01)
    usual = Schedule(FitConfig(), 1.0, 3).means_rate
    assert [rate(f) for f in (0.3, 0.7, 1.0)] == [usual(f) for f in (0.3, 0.7, 1.0)]
    own = Schedule(FitConfig(strategy="decay", means_rate_from=0.0), 1.0, 3).means_rate
    assert own(0.0) == usual(0.0)


def test_the_tail_is_mcmc() -> None:
    state = make_state([0.5] * 20, strategy="decay_mcmc", refine_every=10, max_splats=30)
    strategy = DecayThenMCMC()
    opacities, scales = state.model.opacities, state.model.scales
    state.fraction = 0.5
    assert strategy.regulariser(state, opacities, scales) is None
    strategy.after_step(state, 10, 0.5)
    assert len(state.model) == 20
    state.fraction = 0.6
    assert strategy.regulariser(state, opacities, scales) is not None
    strategy.after_step(state, 20, 0.6)
    assert len(state.model) == 21


@pytest.mark.parametrize("strategy", ["decay", "decay_mcmc"])
def test_a_run_learns_and_resumes_bit_by_bit(scene: Scene, tmp_path: Path, strategy: str) -> None:
    settings = {**QUICK, "strategy": strategy, "refine_every": 5, "max_splats": 160}
    settings |= {"min_opacity": 0.09, "checkpoint_every": 25, "keep_checkpoints": 0}
    whole = fit(None, scene, out=tmp_path, **settings)
    saved = tmp_path / "checkpoints" / "step_00000025.safetensors"
    resumed = fit(None, scene, resume=saved)
    for name, parameter in whole.model.named_parameters():
        assert torch.equal(parameter, getattr(resumed.model, name)), name
    if strategy == "decay":
        assert len(whole.model) < 150
    assert bool(whole.model.finite().all())


def test_none_keeps_every_splat_and_its_place_in_the_order(scene: Scene) -> None:
    model = fl.Gaussians3D.from_points(scene.points, sh_degree=1, opacity=0.001)
    assert len(fit(model, scene, strategy="none", **QUICK).model) == 150
    assert math.isfinite(float(model.means.detach().sum()))
