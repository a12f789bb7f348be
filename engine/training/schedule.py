# SPDX-License-Identifier: Apache-2.0
"""What changes during a run, as functions of the share of it that is done."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .config import FitConfig

# EDGS enters the positions' schedule at step 8000 of 30000.
_DENSE_MEANS_RATE_FROM = 8 / 30


@dataclass(frozen=True)
class Schedule:
    """The schedules of one run.

    Args:
        config: The run's settings.
        extent: The scene's extent, world units.
        sh_degree: The highest degree that the model has.
    """

    config: FitConfig
    extent: float
    sh_degree: int

    def fraction(self, step: int, seconds: float) -> float:
        """Share of the run that is done before a step, in [0, 1]."""
        by_steps = step / self.config.steps
        limit = self.config.max_seconds
        return min(1.0, by_steps if limit is None else max(by_steps, seconds / limit))

    def rates(self, fraction: float) -> dict[str, float]:
        """Learning rate of each parameter of `Gaussians3D`."""
        config = self.config
        return {
            "means": self.means_rate(fraction),
            "quats": config.quats_rate,
            "log_scales": config.scales_rate,
            "opacity_logits": config.opacities_rate,
            "sh0": config.sh0_rate,
            "shN": config.shN_rate,
        }

    def means_rate(self, fraction: float) -> float:
        """Learning rate of positions, world units."""
        config = self.config
        place = max(fraction, self.means_rate_from)
        decay = math.pow(config.means_rate_end, place) if config.means_rate_end > 0 else 1.0
        return config.means_rate * self.extent * decay

    @property
    def means_rate_from(self) -> float:
        """Share of the run before which the positions' rate is the one it has there."""
        if self.config.means_rate_from is not None:
            return self.config.means_rate_from
        return _DENSE_MEANS_RATE_FROM if self.config.strategy.startswith("decay") else 0.0

    @property
    def refine_until(self) -> float:
        """Share of the run after which no splats are moved or added."""
        if self.config.refine_until is not None:
            return self.config.refine_until
        return 0.5 if self.config.strategy == "default" else 0.8

    def degree(self, fraction: float) -> int:
        """Highest spherical-harmonic band that is switched on."""
        every = self.config.sh_every
        return self.sh_degree if every <= 0 else min(self.sh_degree, int(fraction / every + 1e-9))

    def divisor(self, fraction: float) -> int:
        """What the images' width and height are divided by: 2^levels, halved at even intervals."""
        config = self.config
        if fraction >= config.full_resolution_at:
            return 1
        stage = int(config.coarse_levels * fraction / config.full_resolution_at)
        return 2 ** (config.coarse_levels - stage)

    def refines(self, step: int, fraction: float) -> bool:
        """Whether splats are moved and added after this step (counted from 1)."""
        return step % self.config.refine_every == 0 and self.in_refinement(fraction)

    def in_refinement(self, fraction: float) -> bool:
        """Whether this share of the run is one in which splats are moved and added."""
        return self.config.refine_from <= fraction <= self.refine_until
