# SPDX-License-Identifier: Apache-2.0
"""Adam of a set of Gaussians against torch's, and its state."""

from __future__ import annotations

import pytest
import torch
from fieldline.engine.training import GaussianAdam

import fieldline as fl

RATES = {
    "means": 1e-3,
    "quats": 2e-3,
    "log_scales": 5e-3,
    "opacity_logits": 5e-2,
    "sh0": 2e-3,
    "shN": 1e-4,
}


def loss_of(model: fl.Gaussians3D) -> torch.Tensor:
    terms = [(i + 1) * p.square().sum() + p.sum() for i, p in enumerate(model.parameters())]
    return torch.stack(terms).sum()


def test_steps_are_those_of_torch() -> None:
    ours = fl.Gaussians3D.random(20, seed=0)
    theirs = fl.Gaussians3D.random(20, seed=0)
    adam = GaussianAdam(ours)
    groups = [{"params": [getattr(theirs, name)], "lr": rate} for name, rate in RATES.items()]
    reference = torch.optim.Adam(groups, eps=1e-15)
    for _ in range(10):
        loss_of(ours).backward()
        adam.step(RATES)
        reference.zero_grad()
        loss_of(theirs).backward()
        reference.step()
    for name, parameter in ours.named_parameters():
        assert parameter.grad is None
        assert torch.allclose(parameter, getattr(theirs, name), rtol=0, atol=2e-6), name


def test_parameters_without_gradient_or_rate_stay() -> None:
    model = fl.Gaussians3D.random(5, seed=0)
    before = model.sh0.detach().clone()
    model.means.sum().backward()
    model.sh0.sum().backward()
    GaussianAdam(model).step({"means": 0.1, "quats": 0.1})
    assert torch.equal(model.sh0.detach(), before)


def test_state_goes_there_and_back() -> None:
    model = fl.Gaussians3D.random(8, seed=0)
    adam = GaussianAdam(model)
    loss_of(model).backward()
    adam.step(RATES)
    other = GaussianAdam(model)
    other.load_state(adam.state(), adam.steps)
    assert other.steps == 1
    for name, average in adam.averages.items():
        assert torch.equal(other.averages[name], average)
        assert torch.equal(other.squares[name], adam.squares[name])
    other.averages["means"].zero_()
    assert float(adam.averages["means"].abs().max()) > 0, "the state is a copy"


def test_state_of_another_size_is_refused() -> None:
    adam = GaussianAdam(fl.Gaussians3D.random(8, seed=0))
    state = GaussianAdam(fl.Gaussians3D.random(9, seed=0)).state()
    with pytest.raises(ValueError, match=r"average.means: expected \[8, 3\], got \[9, 3\]"):
        adam.load_state(state, 1)
    with pytest.raises(ValueError, match="got none"):
        adam.load_state({}, 1)
