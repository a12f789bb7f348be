# SPDX-License-Identifier: Apache-2.0
"""Splats as samples of a Markov chain: they wander with noise, and dead ones move to live ones.

Source: Kheradmand et al., 3D Gaussian Splatting as Markov Chain Monte Carlo, NeurIPS 2024.

Where n splats take the place of one, the picture must stay the same. With opacity o and standard
deviation s before, each of the n gets

    o_n = 1 - (1 - o)^(1/n)
    s_n = s o / sum_{j=1..n} C(n, j) (-1)^(j+1) o_n^j / sqrt(j)

which keeps the opacity at the centre, and the integral of the opacity along any line through it.
(The paper's double sum over i <= n and k < i is this one: sum_i C(i-1, k) = C(n, k+1).)

The noise of a position is the splat's covariance times a normal draw, so that it moves within its
own extent, and fades as its opacity grows: opaque splats stay where they explain the images. Both
the noise and the regularisers are written relative to the scene's extent, so that a scene in
millimetres trains like the same scene in metres.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...cuda.training.ops import splat_noise_
from ...representations.gaussians import PARAMETER_NAMES
from .strategy import FixedSet, StrategyState

MAX_COPIES = 51
"""More copies of one splat in a round are treated as this many: the sum loses its precision."""

_LARGEST_OPACITY = 1.0 - 1e-6


def split_opacity_and_scale(
    opacities: Tensor, scales: Tensor, copies: Tensor
) -> tuple[Tensor, Tensor]:
    """Gives the opacity and scale with which n splats look like one.

    Args:
        opacities: [M], in (0, 1), of the one.
        scales: [M, 3], standard deviations of the one.
        copies: int64 [M], n of each, at least 1; above 51 treated as 51.

    Returns:
        Opacities [M] and scales [M, 3] of each of the n, dtype of the input.

    Source:
        Kheradmand et al. 2024, equation 9.

    Example:
        >>> half, _ = split_opacity_and_scale(
        ...     torch.tensor([0.75]), torch.ones(1, 3), torch.tensor([2])
        ... )
        >>> float(half)
        0.5
    """
    n = copies.clamp(1, MAX_COPIES).double()
    opacity = opacities.double().clamp(1e-12, _LARGEST_OPACITY)
    each = -torch.expm1(torch.log1p(-opacity) / n)
    total = torch.zeros_like(opacity)
    for j in range(1, int(n.max()) + 1 if n.numel() else 1):
        # C(n, j), zero for j > n: lgamma of a pole would not be.
        binomial = torch.exp(torch.lgamma(n + 1) - math.lgamma(j + 1) - torch.lgamma(n - j + 1))
        term = torch.where(n >= j, binomial, 0.0) * each**j / math.sqrt(j)
        total += term if j % 2 else -term
    shrink = opacity / total
    return each.to(opacities), (scales.double() * shrink[:, None]).to(scales)


def draw(weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draws indices with replacement, in proportion to weights; any number of them.

    Args:
        weights: [N], not negative, not all zero.
        count: How many to draw.
        generator: On the weights' device.

    Returns:
        int64 [count].
    """
    cumulative = weights.double().cumsum(0)
    uniform = torch.rand(count, generator=generator, dtype=torch.float64, device=weights.device)
    index = torch.searchsorted(cumulative, uniform * cumulative[-1], right=True)
    return index.clamp(max=len(weights) - 1)


class MCMC(FixedSet):
    """Relocates dead splats, adds new ones up to a cap, and adds noise to positions."""

    def regulariser(self, state: StrategyState, opacities: Tensor, scales: Tensor) -> Tensor | None:
        """Pulls opacities and scales down, so that splats that explain nothing die."""
        config = state.config
        relative = config.scale_regulariser / state.schedule.extent
        return config.opacity_regulariser * opacities.mean() + relative * scales.mean()

    @torch.no_grad()
    def after_step(self, state: StrategyState, step: int, fraction: float) -> None:
        """Moves and adds splats in a round of refinement; adds noise after every step."""
        if state.schedule.refines(step, fraction):
            self.relocate(state)
            self.grow(state)
        self.add_noise(state, step, fraction)

    @torch.no_grad()
    def relocate(self, state: StrategyState) -> int:
        """Moves dead splats onto live ones, drawn by opacity. Returns how many moved."""
        opacities = state.model.opacities
        alive = opacities > state.config.min_opacity
        # A splat with NaN is not alive; it gets new values like the dead.
        alive &= state.model.finite()
        dead_rows = (~alive).nonzero().squeeze(1)
        live_rows = alive.nonzero().squeeze(1)
        if len(dead_rows) == 0 or len(live_rows) == 0:
            return 0
        sources = live_rows[draw(opacities[live_rows], len(dead_rows), state.generator)]
        rows = self._split(state, sources)
        for name in PARAMETER_NAMES:
            getattr(state.model, name)[dead_rows] = rows[name]
        state.optimiser.forget(torch.cat((dead_rows, sources)))
        return len(dead_rows)

    @torch.no_grad()
    def grow(self, state: StrategyState) -> int:
        """Adds splats beside existing ones, drawn by opacity. Returns how many were added."""
        config, n = state.config, len(state.model)
        count = min(config.max_splats, math.ceil(n * (1 + config.growth))) - n
        opacities = state.model.opacities
        if count <= 0 or float(opacities.sum()) <= 0:
            return 0
        sources = draw(opacities, count, state.generator)
        rows = self._split(state, sources)
        state.optimiser.forget(sources)
        state.optimiser.append(rows)
        return count

    def _split(self, state: StrategyState, sources: Tensor) -> dict[str, Tensor]:
        """Shrinks the sources to make room for their copies, and gives the copies' parameters."""
        model = state.model
        copies = torch.bincount(sources, minlength=len(model))[sources] + 1
        opacities, scales = split_opacity_and_scale(
            model.opacities[sources], model.scales[sources], copies
        )
        opacities = opacities.clamp(state.config.min_opacity, _LARGEST_OPACITY)
        model.opacity_logits[sources] = torch.logit(opacities)
        model.log_scales[sources] = scales.log()
        return {name: getattr(model, name).detach()[sources] for name in PARAMETER_NAMES}

    @torch.no_grad()
    def add_noise(self, state: StrategyState, step: int, fraction: float) -> None:
        """Moves the positions of transparent splats within their own extent."""
        model, config, extent = state.model, state.config, state.schedule.extent
        strength = config.noise_rate * state.schedule.means_rate(fraction) / extent**2
        splat_noise_(
            model.means,
            model.quats,
            model.log_scales,
            model.opacity_logits,
            strength=strength,
            seed=config.seed,
            step=step,
        )
