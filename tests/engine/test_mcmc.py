# SPDX-License-Identifier: Apache-2.0
"""Relocation, growth and noise of 3DGS-MCMC against integrals, pictures and symmetries."""

from __future__ import annotations

import pytest
import torch
from fieldline.engine.training import MCMC, FitConfig, GaussianAdam, StrategyState
from fieldline.engine.training.mcmc import draw, split_opacity_and_scale
from fieldline.engine.training.schedule import Schedule
from small_scene import make_cameras

import fieldline as fl


def make_state(model: fl.Gaussians3D, extent: float = 1.0, **settings: object) -> StrategyState:
    config = FitConfig(**settings)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    schedule = Schedule(config, extent, model.sh_degree)
    return StrategyState(model, GaussianAdam(model), schedule, generator)


def fill_averages(adam: GaussianAdam) -> None:
    for name in adam.averages:
        adam.averages[name].fill_(1.0)
        adam.squares[name].fill_(2.0)


@pytest.mark.parametrize("opacity", [0.02, 0.3, 0.9, 0.995])
@pytest.mark.parametrize("n", [1, 2, 5, 20, 51])
def test_split_keeps_opacity_at_the_centre_and_along_a_line(opacity: float, n: int) -> None:
    before_scale = 0.7
    o, s = split_opacity_and_scale(
        torch.tensor([opacity], dtype=torch.float64),
        torch.full((1, 3), before_scale, dtype=torch.float64),
        torch.tensor([n]),
    )
    assert float(1 - (1 - o) ** n) == pytest.approx(opacity, rel=1e-9)
    x = torch.linspace(-40, 40, 400_001, dtype=torch.float64)
    before = opacity * torch.exp(-0.5 * (x / before_scale) ** 2)
    each = o * torch.exp(-0.5 * (x / s[0, 0]) ** 2)
    after = 1 - (1 - each) ** n
    assert float(torch.trapezoid(after, x)) == pytest.approx(
        float(torch.trapezoid(before, x)), rel=1e-6
    )


def test_split_of_one_is_itself_and_of_many_is_bounded() -> None:
    o, s = split_opacity_and_scale(torch.tensor([0.4]), torch.full((1, 3), 2.0), torch.tensor([1]))
    assert o.item() == pytest.approx(0.4)
    assert s[0].tolist() == pytest.approx([2.0] * 3)
    many = [
        split_opacity_and_scale(torch.tensor([0.4]), torch.ones(1, 3), torch.tensor([n]))[0]
        for n in (51, 1000)
    ]
    assert torch.equal(many[0], many[1])


def test_draw_follows_weights() -> None:
    weights = torch.tensor([0.0, 1.0, 0.0, 3.0])
    index = draw(weights, 40_000, torch.Generator().manual_seed(0))
    share = torch.bincount(index, minlength=4) / 40_000
    assert share[0] == share[2] == 0
    assert share[3].item() == pytest.approx(0.75, abs=0.01)


def test_growth_changes_the_picture_little() -> None:
    model = fl.Gaussians3D.random(300, sh_degree=1, seed=0, scale=(0.05, 0.1))
    camera = make_cameras(1, 64, 48)[0]
    before = fl.render(model, camera).rgb.detach()
    state = make_state(model, max_splats=1000, growth=0.5)
    assert MCMC().grow(state) == 150
    after = fl.render(model, camera).rgb.detach()
    assert len(model) == 450
    # Copies without the shrinking would change it several times as much.
    assert float((after - before).abs().mean()) < 0.01


def test_growth_stops_at_the_cap() -> None:
    model = fl.Gaussians3D.random(100, seed=0)
    state = make_state(model, max_splats=103)
    assert MCMC().grow(state) == 3
    assert MCMC().grow(state) == 0
    assert len(model) == 103


def test_relocation_moves_the_dead_and_only_them() -> None:
    model = fl.Gaussians3D.random(50, sh_degree=0, seed=0)
    dead = torch.tensor([3, 7, 20])
    with torch.no_grad():
        model.opacity_logits[dead[:2]] = -9.0
        model.means[20] = float("nan")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    state = make_state(model)
    fill_averages(state.optimiser)
    assert MCMC().relocate(state) == 3
    changed = (model.opacity_logits.detach() != before["opacity_logits"]).nonzero().squeeze(1)
    assert set(dead.tolist()) <= set(changed.tolist())
    assert len(model) == 50
    assert bool(model.finite().all())
    assert float(model.opacities.detach().min()) >= 0.005
    sources = [i for i in changed.tolist() if i not in dead.tolist()]
    assert sources
    for row in dead.tolist():
        places = (model.means[sources] == model.means[row]).all(dim=1)
        assert places.any(), "a dead splat goes where a live one is"
    touched = torch.zeros(50, dtype=torch.bool)
    touched[torch.tensor([*dead.tolist(), *sources])] = True
    for name, average in state.optimiser.averages.items():
        assert (average[touched] == 0).all(), name
        assert (average[~touched] == 1).all(), name
        assert (state.optimiser.squares[name][~touched] == 2).all(), name
    untouched = ~touched
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.detach()[untouched], before[name][untouched]), name


def test_nothing_to_relocate_draws_nothing() -> None:
    model = fl.Gaussians3D.random(10, seed=0)
    state = make_state(model)
    before = state.generator.get_state()
    assert MCMC().relocate(state) == 0
    assert torch.equal(before, state.generator.get_state())


def test_growth_gives_new_rows_zero_averages() -> None:
    model = fl.Gaussians3D.random(40, seed=0)
    state = make_state(model, growth=0.25)
    fill_averages(state.optimiser)
    MCMC().grow(state)
    for name, average in state.optimiser.averages.items():
        parameter = getattr(model, name)
        assert average.shape == parameter.shape == (50, *parameter.shape[1:])
        assert isinstance(parameter, torch.nn.Parameter)
        assert (average[40:] == 0).all()
        assert (state.optimiser.squares[name][40:] == 0).all()


def faint(n: int, scales: tuple[float, float, float]) -> fl.Gaussians3D:
    return fl.Gaussians3D(
        torch.zeros(n, 3),
        torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(n, 1),
        torch.tensor(scales).log().repeat(n, 1),
        torch.full((n,), -9.0),
        torch.zeros(n, 1, 3),
    )


def test_noise_is_the_covariance_times_a_normal_draw() -> None:
    model = faint(20_000, (0.1, 0.2, 0.01))
    state = make_state(model, means_rate=1e-4, noise_rate=1e4)
    MCMC().add_noise(state, 1, 0.0)
    fade = torch.sigmoid(torch.tensor(100.0) * (0.005 - model.opacities[0].detach()))
    spread = model.means.detach().std(dim=0) / fade
    assert spread.tolist() == pytest.approx([0.01, 0.04, 0.0001], rel=0.03)


def test_noise_spares_opaque_splats() -> None:
    model = faint(100, (0.1, 0.1, 0.1))
    with torch.no_grad():
        model.opacity_logits.fill_(2.0)
    MCMC().add_noise(make_state(model), 1, 0.0)
    assert float(model.means.detach().abs().max()) < 1e-20


def test_noise_does_not_depend_on_the_unit_of_length() -> None:
    moved = []
    for unit in (1.0, 1000.0):
        model = faint(50, (0.1 * unit, 0.2 * unit, 0.3 * unit))
        MCMC().add_noise(make_state(model, extent=2.0 * unit), 1, 0.3)
        moved.append(model.means.detach() / unit)
    assert torch.allclose(moved[0], moved[1], rtol=1e-4)


def test_regulariser_does_not_depend_on_the_unit_of_length() -> None:
    opacities = torch.tensor([0.2, 0.4])
    values = [
        MCMC().regulariser(
            make_state(faint(2, (1.0, 1.0, 1.0)), extent=unit), opacities, torch.full((2, 3), unit)
        )
        for unit in (1.0, 50.0)
    ]
    assert values[0] is not None
    assert values[1] is not None
    assert float(values[0]) == pytest.approx(float(values[1])) == pytest.approx(0.013)
