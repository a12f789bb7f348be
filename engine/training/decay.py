# SPDX-License-Identifier: Apache-2.0
"""Training without densification: opacities fade unless images hold them up, and faint splats go.

Source: Kotovenko et al., EDGS: Eliminating Densification for Efficient Convergence of 3DGS, 2025:
in the first half of a run, every tenth step lowers all opacity logits by log(1 / 0.99), and splats
below 0.005 are removed. None is ever added, and positions, which are good from the start, enter
their schedule of learning rates at 8 / 30 of it (`FitConfig.means_rate_from`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .mcmc import MCMC
from .strategy import FixedSet, StrategyState, prune


class Decay(FixedSet):
    """Lowers opacities and removes faint splats until `decay_until`; adds none."""

    @torch.no_grad()
    def after_step(self, state: StrategyState, step: int, fraction: float) -> None:
        """Lowers and prunes every `decay_every` steps."""
        config = state.config
        if step % config.decay_every or fraction > config.decay_until:
            return
        state.model.opacity_logits.sub_(config.decay_logit)
        prune(state, state.model.opacities < config.min_opacity)


class DecayThenMCMC(FixedSet):
    """`Decay` until `decay_until`, then `MCMC`: what the initialisation missed is found late."""

    def __init__(self) -> None:
        self.decay = Decay()
        self.mcmc = MCMC()

    def _in_tail(self, state: StrategyState, fraction: float) -> bool:
        return fraction > state.config.decay_until

    def regulariser(self, state: StrategyState, opacities: Tensor, scales: Tensor) -> Tensor | None:
        """That of MCMC, in its part of the run."""
        if not self._in_tail(state, state.fraction):
            return None
        return self.mcmc.regulariser(state, opacities, scales)

    def after_step(self, state: StrategyState, step: int, fraction: float) -> None:
        """What the strategy of this part of the run does."""
        part = self.mcmc if self._in_tail(state, fraction) else self.decay
        part.after_step(state, step, fraction)
