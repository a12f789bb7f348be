# SPDX-License-Identifier: Apache-2.0
"""Proposal networks: small density fields that learn where a large one should be sampled.

The signatures are NerfAcc's. `PropNetEstimator` draws samples in rounds, each from the densities
of one proposal, and trains the proposals so that their histograms bound the final one from above.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from .checks import check_count, check_number, check_tensor
from .estimator import AbstractEstimator
from .ray_samples import RayIntervals
from .ray_sampling import importance_sampling, searchsorted
from .volume_rendering import render_transmittance_from_density

SamplingType = Literal["uniform", "lindisp"]
# Added to weights before dividing by them.
_TINY_WEIGHT = 1e-7


class PropNetEstimator(AbstractEstimator):
    """Samples rays by the densities of proposal networks, and trains these.

    Args:
        optimizer: Of the proposals' parameters; needed to train.
        scheduler: Stepped with every update.

    Source: Barron et al., "Mip-NeRF 360" (2022), section 3.

    Example:
        >>> estimator = PropNetEstimator()
        >>> t_starts, t_ends = estimator.sampling(
        ...     [lambda t0, t1: torch.ones_like(t0)], [8], 4, n_rays=2, near_plane=1.0,
        ...     far_plane=2.0, sampling_type="uniform")
        >>> t_starts.shape
        torch.Size([2, 4])
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer | None = None,
        scheduler: Any = None,
    ) -> None:
        super().__init__()
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.prop_cache: list[tuple[RayIntervals, Tensor | None]] = []

    @torch.no_grad()
    def sampling(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        prop_sigma_fns: Sequence[Callable[[Tensor, Tensor], Tensor]],
        prop_samples: Sequence[int],
        num_samples: int,
        n_rays: int,
        near_plane: float,
        far_plane: float,
        sampling_type: SamplingType = "lindisp",
        stratified: bool = False,
        requires_grad: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Draws intervals along rays.

        Args:
            prop_sigma_fns: Each takes t_starts and t_ends [n_rays, n] and gives densities.
            prop_samples: Intervals drawn for each of them.
            num_samples: Intervals drawn in the end.
            n_rays: How many rays there are.
            near_plane: Where rays begin; above 0 for "lindisp".
            far_plane: Where they end.
            sampling_type: Space the first samples evenly in t, or in 1 / t.
            stratified: Shift each ray's samples at random.
            requires_grad: Keep what `compute_loss` needs.

        Returns:
            t_starts and t_ends, [n_rays, num_samples].

        Raises:
            TypeError: A number has another type.
            ValueError: The lists differ in length, or a number or shape is wrong.
        """
        name = "PropNetEstimator.sampling"
        if len(prop_sigma_fns) != len(prop_samples):
            raise ValueError(
                f"{name}: prop_samples: expected {len(prop_sigma_fns)} numbers, one a function, "
                f"got {len(prop_samples)}"
            )
        for argument, count in (
            *(("prop_samples", count) for count in prop_samples),
            ("num_samples", num_samples),
        ):
            check_count(name, argument, count, 1)
        check_count(name, "n_rays", n_rays, 0)
        near_plane = check_number(name, "near_plane", near_plane, -math.inf, above=True)
        far_plane = check_number(name, "far_plane", far_plane, near_plane)
        if requires_grad:
            self.prop_cache.clear()
        ends = torch.tensor([0.0, 1.0], device=self.device)
        cdfs = ends.expand(n_rays, 2).contiguous()
        intervals = RayIntervals(vals=cdfs)

        def edges(intervals: RayIntervals) -> tuple[Tensor, Tensor]:
            t = _to_distance(sampling_type, intervals.vals, near_plane, far_plane)
            return t[..., :-1], t[..., 1:]

        for sigma_fn, count in zip(prop_sigma_fns, prop_samples):
            intervals, _ = importance_sampling(intervals, cdfs, count, stratified)
            t_starts, t_ends = edges(intervals)
            with torch.set_grad_enabled(requires_grad):
                sigmas = sigma_fn(t_starts, t_ends)
                got = list(sigmas.shape) if isinstance(sigmas, Tensor) else type(sigmas).__name__
                if got != list(t_starts.shape):
                    raise ValueError(
                        f"{name}: prop_sigma_fns: expected densities {list(t_starts.shape)}, "
                        f"got {got}"
                    )
                trans, _ = render_transmittance_from_density(t_starts, t_ends, sigmas)
                cdfs = _cdf(trans)
            if requires_grad:
                self.prop_cache.append((intervals, cdfs))
        intervals, _ = importance_sampling(intervals, cdfs.detach(), num_samples, stratified)
        if requires_grad:
            self.prop_cache.append((intervals, None))
        return edges(intervals)

    @torch.enable_grad()
    def compute_loss(self, trans: Tensor, loss_scaler: float = 1.0) -> Tensor:
        """How far the proposals' histograms are from bounding the final one.

        Args:
            trans: Transmittances before the samples of the last `sampling`, [n_rays, num_samples];
                no gradient reaches them.
            loss_scaler: A factor.

        Returns:
            A number, differentiable in the proposals; 0 if nothing was kept. What was kept is used
            up.

        Raises:
            TypeError: trans is no floating tensor.
            ValueError: Its shape or device is another.
        """
        if not self.prop_cache:
            return torch.zeros((), device=self.device)
        intervals, _ = self.prop_cache[-1]
        n_rays, edges = intervals.vals.shape
        name = "PropNetEstimator.compute_loss"
        check_tensor(name, "trans", trans, (n_rays, edges - 1), like=intervals.vals)
        self.prop_cache.pop()
        cdfs = _cdf(trans).detach()
        loss = trans.new_zeros(())
        while self.prop_cache:
            proposed, proposed_cdfs = self.prop_cache.pop()
            assert proposed_cdfs is not None
            loss = loss + _bound_loss(intervals, cdfs, proposed, proposed_cdfs).mean()
        return loss * loss_scaler

    @torch.enable_grad()
    def update_every_n_steps(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, trans: Tensor, requires_grad: bool = False, loss_scaler: float = 1.0
    ) -> float:
        """Trains the proposals by one step.

        Args:
            trans: Transmittances before the samples of the last `sampling`, [n_rays, num_samples].
            requires_grad: As given to `sampling`; False steps the scheduler only.
            loss_scaler: A factor of the loss.

        Returns:
            The loss; 0 without a step.

        Raises:
            RuntimeError: There is no optimizer, or `sampling` kept nothing.
        """
        if not requires_grad:
            if self.scheduler is not None:
                self.scheduler.step()
            return 0.0
        if self.optimizer is None:
            raise RuntimeError("PropNetEstimator: expected an optimizer to train with, got None")
        if not self.prop_cache:
            raise RuntimeError(
                "PropNetEstimator: expected sampling(requires_grad=True) before this step"
            )
        loss = self.compute_loss(trans, loss_scaler)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()
        return float(loss.detach())


def get_proposal_requires_grad_fn(
    target: float = 5.0, num_steps: int = 1000
) -> Callable[[int], bool]:
    """When to train proposals: at every step at first, then ever more rarely.

    Args:
        target: Steps between trainings in the end.
        num_steps: Steps until then.

    Returns:
        A function of the step that says whether to train; it counts its calls.

    Example:
        >>> train = get_proposal_requires_grad_fn(target=2.0, num_steps=2)
        >>> [train(step) for step in range(8)]
        [False, False, False, True, False, False, True, False]
    """
    since_last = 0

    def requires_grad(step: int) -> bool:
        nonlocal since_last
        due = since_last > min(step / num_steps, 1.0) * target
        if due:
            since_last = 0
        since_last += 1
        return due

    return requires_grad


def _to_distance(kind: SamplingType, s: Tensor, near: float, far: float) -> Tensor:
    """From [0, 1] to distances from near to far."""
    if kind == "uniform":
        return s * far + (1 - s) * near
    if kind == "lindisp":
        if not near > 0:
            raise ValueError(f"lindisp sampling: near_plane: expected above 0, got {near}")
        return 1 / (s / far + (1 - s) / near)
    raise ValueError(f"sampling_type: expected 'uniform' or 'lindisp', got {kind!r}")


def _cdf(trans: Tensor) -> Tensor:
    """At all edges of intervals: what is seen before them, and all of it at the end."""
    return 1 - torch.cat([trans, torch.zeros_like(trans[..., :1])], dim=-1)


def _bound_loss(
    intervals: RayIntervals, cdfs: Tensor, proposed: RayIntervals, proposed_cdfs: Tensor
) -> Tensor:
    """By how much weights exceed those of the proposed intervals that they touch."""
    left, right = searchsorted(proposed, intervals)
    weights = cdfs[..., 1:] - cdfs[..., :-1]
    bound = proposed_cdfs.gather(-1, right[..., 1:]) - proposed_cdfs.gather(-1, left[..., :-1])
    return (weights - bound).clamp_min(0).square() / (weights + _TINY_WEIGHT)
