# SPDX-License-Identifier: Apache-2.0
"""How a run changes the set of splats: what a strategy is, and the one that changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ...representations import Gaussians3D
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

    @property
    def config(self) -> FitConfig:
        """The run's settings."""
        return self.schedule.config


class Strategy(Protocol):
    """Called by the training loop once a step."""

    def regulariser(self, state: StrategyState, opacities: Tensor, scales: Tensor) -> Tensor | None:
        """What is added to the loss, a scalar; None for nothing.

        Args:
            state: The model and what trains it.
            opacities: [N], activated, with gradient.
            scales: [N, 3], activated, with gradient.
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


class FixedSet:
    """Keeps the set of splats as it is."""

    def regulariser(self, state: StrategyState, opacities: Tensor, scales: Tensor) -> Tensor | None:
        """Nothing."""
        return None

    def after_step(self, state: StrategyState, step: int, fraction: float) -> None:
        """Nothing."""
