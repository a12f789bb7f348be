# SPDX-License-Identifier: Apache-2.0
"""Adaptive density control: splats are cloned, split and pruned by what their gradients say.

Source: Kerbl et al., 3D Gaussian Splatting for Real-Time Radiance Field Rendering, SIGGRAPH 2023,
section 5, with the rules and thresholds of gsplat's DefaultStrategy; AbsGS: Ye et al., ACM MM 2024;
the revised opacity of split splats: Rota Bulo et al., Revising Densification, ECCV 2024.

Where the loss pulls a projected position strongly, on the mean over the views that see the splat,
there are too few splats: a small one is cloned, and the two drift apart; a large one is replaced by
two drawn from it, 1.6 times smaller. Splats that are nearly transparent, or too large, are removed.
Now and then all opacities are set back to nearly nothing, so that those which no view needs can be
told: the others come back.

What is every so many steps elsewhere is a share of the run here, so that a run of a minute has as
many rounds as one of an hour. Only recovery from a reset takes steps, whatever the run's length,
so a reset has to be some steps away from the one before.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...representations.gaussians import PARAMETER_NAMES
from ...representations.rotations import quaternion_to_matrix
from ...tracers.splatting import Meta
from .config import FitConfig
from .strategy import FixedSet, StrategyState, prune

SHRINKAGE = 1.6
"""How much smaller the halves of a split splat are."""

_SIGNED_THRESHOLD = 2e-4
_ABSOLUTE_THRESHOLD = 8e-4
# Shares are quotients of whole steps.
_ROUNDING = 1e-9


class ADC(FixedSet):
    """Clones, splits, prunes and resets, in rounds that are shares of the run.

    Args:
        config: `absgrad` says which gradients are added up.

    Example:
        >>> ADC(FitConfig(strategy="default", absgrad=True)).absgrad
        True
    """

    def __init__(self, config: FitConfig) -> None:
        self.absgrad = config.absgrad
        self.gradients = torch.zeros(0)
        """[N], sums over the views since the last round."""
        self.counts = torch.zeros(0)
        """[N], number of those views that saw the splat."""
        self.radii = torch.zeros(0)
        """[N], largest radius in them, in image sizes."""
        self.last_round = (0.0, 0)
        """Share of the run, and step."""
        self.last_reset = (0.0, 0)

    # -- what views say --------------------------------------------------------------------------

    def before_backward(self, state: StrategyState, meta: Meta) -> None:
        """Asks for the gradient of the projected positions."""
        if not self.absgrad and meta["means2d"].requires_grad:
            meta["means2d"].retain_grad()

    @torch.no_grad()
    def after_backward(self, state: StrategyState, meta: Meta) -> None:
        """Adds up the gradients of the splats that the view sees."""
        means2d, width, height = meta["means2d"], meta["width"], meta["height"]
        gradient = means2d.absgrad if self.absgrad else means2d.grad
        if gradient is None:
            return
        self._fit_to(state)
        size = gradient.new_tensor([width / 2, height / 2])
        length = (gradient[0] * size).norm(dim=-1).nan_to_num(0.0, 0.0)
        radii = meta["radii"][0]
        visible = (radii > 0).all(dim=-1)
        self.gradients += torch.where(visible, length, 0.0)
        self.counts += visible
        seen = torch.where(visible, radii.amax(dim=-1) / max(width, height), 0.0)
        self.radii = torch.maximum(self.radii, seen.to(self.radii))

    def _fit_to(self, state: StrategyState) -> None:
        """Begins new sums where there are none for the model's rows."""
        if len(self.gradients) != len(state.model):
            zeros = state.model.means.detach().new_zeros(len(state.model))
            self.gradients, self.counts, self.radii = zeros, zeros.clone(), zeros.clone()

    # -- rounds ----------------------------------------------------------------------------------

    @torch.no_grad()
    def after_step(self, state: StrategyState, step: int, fraction: float) -> None:
        """Does a round, and a reset, if they are due."""
        if not state.schedule.in_refinement(fraction):
            return
        config = state.config
        if _due(
            self.last_round, (fraction, step), config.densify_every, config.densify_least_steps
        ):
            self.last_round = (fraction, step)
            self.densify(state, fraction)
        if config.reset_every > 0 and _due(
            self.last_reset, (fraction, step), config.reset_every, config.reset_least_steps
        ):
            self.last_reset = (fraction, step)
            self.reset_opacities(state)

    @torch.no_grad()
    def densify(self, state: StrategyState, fraction: float) -> tuple[int, int]:
        """Clones and splits, then prunes, and begins new sums.

        Args:
            state: The model and what trains it.
            fraction: Share of the run that is done.

        Returns:
            How many were added (a split adds one), and how many were removed.
        """
        self._fit_to(state)
        clone, split = self.chosen(state, fraction)
        before = len(state.model)
        radii = self.radii
        if bool((clone | split).any()):
            rows = _concatenated(_copies(state, clone), self._halves(state, split))
            new = len(rows["means"])
            state.optimiser.append(rows)
            stay = torch.cat((~split, split.new_ones(new)))
            state.optimiser.keep(stay)
            radii = torch.cat((radii, radii.new_zeros(new)))[stay]
        added = len(state.model) - before
        removed = added + before - int(prune(state, self._dead(state, radii, fraction)).sum())
        self.gradients = self.gradients[:0]
        self._fit_to(state)
        return added, removed

    def chosen(self, state: StrategyState, fraction: float) -> tuple[Tensor, Tensor]:
        """Says which splats are to be cloned and which are to be split, within `max_splats`.

        Args:
            state: The model and what trains it.
            fraction: Share of the run that is done.

        Returns:
            Two bool [N], nowhere both; where there is room for some only, those with the largest
            gradients.
        """
        config, extent = state.config, state.schedule.extent
        mean = self.gradients / self.counts.clamp(min=1)
        finite = state.model.finite()
        wanting = (mean > self._threshold(config)) & finite
        large = state.model.scales.amax(dim=-1) > config.split_scale * extent
        clone, split = wanting & ~large, wanting & large
        if fraction < config.radius_until:
            split |= (self.radii > config.split_radius) & finite & ~clone
        both = (clone | split).nonzero().squeeze(1)
        room = max(0, config.max_splats - len(state.model))
        if len(both) > room:
            order = mean[both].argsort(descending=True, stable=True)
            left_out = both[order[room:]]
            clone[left_out] = split[left_out] = False
        return clone, split

    def _threshold(self, config: FitConfig) -> float:
        if config.grow_gradient is not None:
            return config.grow_gradient
        return _ABSOLUTE_THRESHOLD if self.absgrad else _SIGNED_THRESHOLD

    def _halves(self, state: StrategyState, split: Tensor) -> dict[str, Tensor]:
        """Two rows for each split splat, at places drawn from it."""
        rows = _copies(state, split)
        rows = {name: value.repeat(2, *(1,) * (value.dim() - 1)) for name, value in rows.items()}
        drawn = torch.randn(
            rows["means"].shape,
            generator=state.generator,
            dtype=rows["means"].dtype,
            device=rows["means"].device,
        )
        offset = (rows["log_scales"].exp() * drawn)[..., None]
        rows["means"] = rows["means"] + (quaternion_to_matrix(rows["quats"]) @ offset)[..., 0]
        rows["log_scales"] = rows["log_scales"] - math.log(SHRINKAGE)
        if state.config.revised_opacity:
            # (1 - o')^2 = 1 - o; in logits, so that an opacity near 1 keeps its digits.
            left = torch.sigmoid(-rows["opacity_logits"]).clamp(min=1e-12).sqrt()
            rows["opacity_logits"] = torch.log1p(-left) - left.log()
        return rows

    def _dead(self, state: StrategyState, radii: Tensor, fraction: float) -> Tensor:
        """Which splats are nearly transparent, or too large."""
        config = state.config
        dead = state.model.opacities < config.min_opacity
        if fraction > config.reset_every:
            largest = config.prune_scale * state.schedule.extent
            dead |= state.model.scales.amax(dim=-1) > largest
            if fraction < config.radius_until:
                dead |= radii > config.prune_radius
        return dead

    @torch.no_grad()
    def reset_opacities(self, state: StrategyState) -> None:
        """Sets opacities to at most twice `min_opacity`, and forgets where they were going."""
        highest = min(2 * state.config.min_opacity, 0.5)
        highest = max(highest, 1e-6)
        state.model.opacity_logits.clamp_(max=math.log(highest / (1 - highest)))
        state.optimiser.forget(None, ("opacity_logits",))

    # -- checkpoints -----------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """The sums, and when the last round and reset were."""
        times = [*self.last_round, *self.last_reset]
        return {
            "gradients": self.gradients,
            "counts": self.counts,
            "radii": self.radii,
            "times": torch.tensor(times, dtype=torch.float64),
        }

    def restore(self, state: StrategyState, tensors: dict[str, Tensor]) -> None:
        """Takes over sums and times; without any, as after another strategy, begins anew."""
        if not tensors:
            return
        # Before the first step there are no sums yet.
        sums = (len(state.model), 0)
        lengths = {"gradients": sums, "counts": sums, "radii": sums, "times": (4,)}
        for name, expected in lengths.items():
            value = tensors.get(name)
            if value is None or value.dim() != 1 or len(value) not in expected:
                got = "none" if value is None else str(list(value.shape))
                raise ValueError(f"fit: resume: {name}: expected [{expected[0]}], got {got}")
        like = state.model.means.detach()
        self.gradients, self.counts, self.radii = (
            tensors[name].to(like, copy=True) for name in ("gradients", "counts", "radii")
        )
        last_round, round_step, last_reset, reset_step = tensors["times"].tolist()
        self.last_round = (last_round, int(round_step))
        self.last_reset = (last_reset, int(reset_step))


def _due(last: tuple[float, int], now: tuple[float, int], share: float, least_steps: int) -> bool:
    """Whether enough of the run, and enough steps, have gone by since the last time."""
    return now[0] - last[0] >= share - _ROUNDING and now[1] - last[1] >= least_steps


def _copies(state: StrategyState, rows: Tensor) -> dict[str, Tensor]:
    """The parameters of some rows."""
    return {name: getattr(state.model, name).detach()[rows] for name in PARAMETER_NAMES}


def _concatenated(first: dict[str, Tensor], second: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.cat((first[name], second[name])) for name in PARAMETER_NAMES}
