# SPDX-License-Identifier: Apache-2.0
"""How a run changes the set of splats: what a strategy is, the one that changes nothing, and how
splats are removed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ...representations import Gaussians3D
from ...tracers.splatting import Meta
from .config import FitConfig
from .optimiser import GaussianAdam
from .schedule import Schedule


@dataclass
class StrategyState:
    """What a strategy works on; it may change the model's rows, through the optimiser."""

    model: Gaussians3D
    optimiser: GaussianAdam
    schedule: Schedule
    generator: torch.Generator
    """On the model's device; its state is part of a checkpoint."""
    fraction: float = 0.0
    """Share of the run that was done before the present step."""

    @property
    def config(self) -> FitConfig:
        """The run's settings."""
        return self.schedule.config


class Strategy(Protocol):
    """Called by the training loop once a step: `regulariser` and `before_backward` when the image
    is rendered, `after_backward` when gradients are there, `after_step` when they were applied."""

    absgrad: bool
    """Whether `meta["means2d"].absgrad` is wanted in `after_backward`."""

    def regulariser(self, state: StrategyState, opacities: Tensor, scales: Tensor) -> Tensor | None:
        """What is added to the loss, a scalar; None for nothing.

        Args:
            state: The model and what trains it.
            opacities: [N], activated, with gradient.
            scales: [N, 3], activated, with gradient.
        """
        ...

    def before_backward(self, state: StrategyState, meta: Meta) -> None:
        """Asks for gradients that would not be kept.

        Args:
            state: The model and what trains it.
            meta: Of the rasterisation, not packed, of one view.
        """
        ...

    def after_backward(self, state: StrategyState, meta: Meta) -> None:
        """Takes in what the step's view says about splats.

        Args:
            state: The model and what trains it.
            meta: Of the rasterisation, not packed, of one view, with the gradients asked for.
        """
        ...

    def after_step(self, state: StrategyState, step: int, fraction: float) -> None:
        """What happens after the optimiser's step, without gradients.

        Args:
            state: The model and what trains it.
            step: The step that was done, counted from 1.
            fraction: Share of the run that was done before it.
        """
        ...

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint must hold, besides model, optimiser and generator."""
        ...

    def restore(self, state: StrategyState, tensors: dict[str, Tensor]) -> None:
        """Takes over what `tensors` gave; with nothing, begins anew.

        Args:
            state: The model and what trains it, already restored.
            tensors: Of a checkpoint.

        Raises:
            ValueError: If a tensor does not fit the model.
        """
        ...


class FixedSet:
    """Keeps the set of splats as it is; and what other strategies do unless they say otherwise."""

    absgrad = False

    def regulariser(self, state: StrategyState, opacities: Tensor, scales: Tensor) -> Tensor | None:
        """Nothing."""
        return None

    def before_backward(self, state: StrategyState, meta: Meta) -> None:
        """Nothing."""

    def after_backward(self, state: StrategyState, meta: Meta) -> None:
        """Nothing."""

    def after_step(self, state: StrategyState, step: int, fraction: float) -> None:
        """Nothing."""

    def tensors(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def restore(self, state: StrategyState, tensors: dict[str, Tensor]) -> None:
        """Nothing."""


@torch.no_grad()
def prune(state: StrategyState, dead: Tensor) -> Tensor:
    """Removes splats, but never all of them: a model without any can learn nothing.

    Args:
        state: The model and what trains it.
        dead: bool [N]; those with NaN or infinities go too. Where that would be all, the most
            opaque one stays, or, if none is finite, all do.

    Returns:
        bool [N], those that stayed.
    """
    finite = state.model.finite()
    stay = finite & ~dead
    if not bool(stay.any()):
        opacities = torch.where(finite, state.model.opacities, -1.0)
        stay[int(opacities.argmax())] = True
        stay = stay if bool(finite.any()) else torch.ones_like(stay)
    if not bool(stay.all()):
        state.optimiser.keep(stay)
    return stay
