# SPDX-License-Identifier: Apache-2.0
"""Renders rays through a field front to back, and stops where nothing more can be seen.

Rays advance in rounds. In a round every ray that still sees something takes its next few samples;
the field is asked about those; the ray's transmittance falls; rays that fall below `early_stop` are
dropped, and the others take more samples in the next round, so that the field is always asked about
as many samples as it was given a budget for. All samples of a ray are found once, before the first
round: a round begins at exactly the sample where the last one ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..cuda.volume import ops
from ..representations import Camera
from .checks import check_background, check_count, check_number, check_tensor
from .packing import pack_info

Field = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]

# Samples a ray in the first rounds, and in later ones: most rays end within a surface, soon after
# they met it, and what they are asked beyond is wasted; a round costs a handful of small kernels.
_ROUNDS = (8, 8, 16, 16, 32)
# A GPU takes as long for fewer samples than these: a round of few rays takes more of each.
_ROUND_ON_GPU = 1 << 19


class RayRender(NamedTuple):
    """What rays saw; [...] is the shape of the rays."""

    rgb: Tensor  # [..., 3]
    opacity: Tensor  # [..., 1]
    depth: Tensor  # [..., 1]: mean distance of what was seen, 0 where nothing was
    n_samples: int  # that the field was asked about


class _Samples(NamedTuple):
    """The samples of some rays, packed."""

    t_starts: Tensor
    t_ends: Tensor
    packed_info: Tensor


@torch.no_grad()
def render_rays(
    field: Field,
    estimator: Any,
    rays: tuple[Tensor, Tensor] | Camera,
    *,
    early_stop: float = 1e-4,
    alpha_thre: float = 0.0,
    color_thre: float = 0.0,
    background: Tensor | None = None,
    sample_budget: int = 1 << 18,
    **sampling: Any,
) -> RayRender:
    """Renders rays through a radiance field, asking it about no sample that is surely not seen.

    The result is that of one pass over all samples in which samples behind a transmittance of
    `early_stop` count for nothing: it differs from the full integral by less than `early_stop`.

    Args:
        field: (positions [N, 3], directions [N, 3], ray indices [N]) to colours [N, 3] and
            densities [N]. A field may also have two methods, which are then called instead:
            ``density(positions, ray_indices)`` to densities [N] and features (anything with
            [N, ...] rows), and ``color(features, directions, ray_indices)`` to colours [N, 3].
            Colours are then asked for only where they are seen.
        estimator: Says where rays are sampled: an `OccupancyEstimator`, a `VDBEstimator`, or
            anything with NerfAcc's ``sampling``.
        rays: Origins and unit directions, [..., 3] each, taken as float32; or a camera, for all
            its pixels.
        early_stop: A ray ends where its transmittance falls below it; 0: never.
        alpha_thre: Samples of less opacity count for nothing.
        color_thre: A field of two methods is asked for no colours of samples that weigh at most
            this; they take the mean colour of the others of their ray. Opacities and depths stay.
        background: [3] or [..., 3], seen through what the field leaves; default black.
        sample_budget: The most samples that the field is asked about at once, about.
        **sampling: For the estimator: near_plane, far_plane, render_step_size, cone_angle, ...

    Returns:
        Colours, opacities and depths, float32, and how many samples the field was asked about. Not
        differentiable; to train, use `sampling` and `rendering`.

    Raises:
        TypeError: An argument has another type.
        ValueError: A shape, device or number is wrong.

    Source: Mueller et al., "Instant neural graphics primitives" (2022), appendix E, for the
        compaction of rays.

    Example:
        >>> from fieldline.tracers.occupancy import OccupancyEstimator
        >>> estimator = OccupancyEstimator([-1, -1, -1, 1, 1, 1], resolution=4)
        >>> estimator.binaries[:] = True
        >>> def fog(positions, directions, ray_indices):
        ...     return torch.ones_like(positions), torch.full_like(positions[:, 0], 0.5)
        >>> rays = torch.tensor([[-2.0, 0.1, 0.1]]), torch.tensor([[1.0, 0.0, 0.0]])
        >>> render_rays(fog, estimator, rays, render_step_size=0.1).opacity
        tensor([[0.6321]])
    """
    name = "render_rays"
    check_number(name, "early_stop", early_stop, 0.0)
    check_number(name, "alpha_thre", alpha_thre, 0.0)
    check_number(name, "color_thre", color_thre, 0.0)
    check_number(name, "sample_budget", sample_budget, 1)
    budget = check_count(name, "sample_budget", sample_budget, 1)
    if not isinstance(rays, Camera) and (not isinstance(rays, tuple | list) or len(rays) != 2):
        raise TypeError(
            f"{name}: rays: expected a camera or a pair (origins, directions), "
            f"got {type(rays).__name__}"
        )
    origins, directions = rays.rays() if isinstance(rays, Camera) else rays
    check_tensor(name, "rays", origins)
    if origins.dim() == 0 or origins.shape[-1] != 3:
        raise ValueError(f"{name}: rays: expected shape [..., 3], got {list(origins.shape)}")
    check_tensor(name, "rays", directions, tuple(origins.shape), like=origins)
    lead = origins.shape[:-1]
    tracer = _Tracer(field, early_stop, alpha_thre, color_thre, budget)
    flat_o, flat_d = origins.reshape(-1, 3).float(), directions.reshape(-1, 3).float()
    parts = [
        tracer.trace(estimator, flat_o[block], flat_d[block], block.start, sampling)
        for block in _blocks(len(flat_o), budget)
    ]
    sums = torch.cat(parts) if parts else flat_o.new_zeros(0, 5)
    rgb, opacity, depth = sums.split([3, 1, 1], dim=-1)
    depth = depth / opacity.clamp_min(torch.finfo(opacity.dtype).eps)
    rgb, opacity, depth = (value.reshape(*lead, value.shape[-1]) for value in (rgb, opacity, depth))
    if background is not None:
        check_background(name, "background", background, rgb)
        rgb = rgb + background * (1 - opacity)
    return RayRender(rgb, opacity, depth, tracer.n_samples)


def _blocks(n_rays: int, budget: int) -> Iterator[slice]:
    """Runs of rays that fill a budget in their first round."""
    rays = max(1, budget // _ROUNDS[0])
    for first in range(0, n_rays, rays):
        yield slice(first, min(first + rays, n_rays))


class _Tracer:
    """Advances rays through a field, round by round."""

    def __init__(
        self, field: Field, early_stop: float, alpha_thre: float, color_thre: float, budget: int
    ) -> None:
        self.field = field
        self.early_stop = early_stop
        self.alpha_thre = alpha_thre
        self.color_thre = color_thre
        self.budget = budget
        self.n_samples = 0
        self.two_steps = hasattr(field, "density") and hasattr(field, "color")

    def trace(
        self, estimator: Any, origins: Tensor, directions: Tensor, first_ray: int, sampling: Any
    ) -> Tensor:
        """Sums of colour, opacity and depth of rays, [n_rays, 5]."""
        samples = _find_samples(estimator, origins, directions, sampling)
        # The last column: opacity of the samples that have colours.
        sums = origins.new_zeros(len(origins), 6)
        trans = origins.new_ones(len(origins))
        place, left = samples.packed_info.unbind(-1)
        live = (left > 0).nonzero()[:, 0]
        rounds = 0
        while len(live):
            longest = _ROUNDS[min(rounds, len(_ROUNDS) - 1)]
            if live.is_cuda:
                longest = max(longest, _ROUND_ON_GPU // len(live))
            rounds += 1
            each = min(max(1, self.budget // len(live)), longest)
            counts = left[live].clamp_max(each)
            added, passed = self._round(
                samples, live, place[live], counts, origins, directions, trans[live], first_ray
            )
            sums.index_add_(0, live, added)
            trans[live] *= passed
            place = place.index_add(0, live, counts)
            left = left.index_add(0, live, -counts)
            going = (left[live] > 0) & (trans[live] >= self.early_stop)
            live = live[going]
        if self.color_thre > 0 and self.two_steps:
            tiny = torch.finfo(sums.dtype).tiny
            sums[:, :3] *= sums[:, 3:4] / sums[:, 5:].clamp_min(tiny)
        return sums[:, :5]

    def _round(
        self,
        samples: _Samples,
        live: Tensor,
        first: Tensor,
        counts: Tensor,
        origins: Tensor,
        directions: Tensor,
        before: Tensor,
        first_ray: int,
    ) -> tuple[Tensor, Tensor]:
        """What the next samples of the living rays add, [n_live, 6], and let through, [n_live]."""
        ends = counts.cumsum(0)
        starts = ends - counts
        packed = torch.stack([starts, counts], dim=-1)
        slots = torch.repeat_interleave(torch.arange(len(live), device=live.device), counts)
        taken = torch.arange(len(slots), device=live.device)
        taken += (first - starts).index_select(0, slots)
        self.n_samples += len(taken)
        t_starts = samples.t_starts.index_select(0, taken)
        t_ends = samples.t_ends.index_select(0, taken)
        rays, middles = live.index_select(0, slots), (t_starts + t_ends) / 2
        # Whole rows at once: index_select copies them, where indexing goes number by number.
        d = directions.index_select(0, rays)
        positions = torch.addcmul(origins.index_select(0, rays), d, middles[:, None])
        rays += first_ray
        sigmas, features = self._densities(positions, d, rays)
        if self.alpha_thre > 0:
            alphas = -torch.expm1(-sigmas * (t_ends - t_starts))
            sigmas = torch.where(alphas >= self.alpha_thre, sigmas, 0)
        weights, trans, alphas = ops.composite(t_starts, t_ends, sigmas, packed)
        prefix = before.index_select(0, slots)
        weights = torch.where(trans * prefix >= self.early_stop, weights * prefix, 0)
        last = ends - 1
        added = self._sums(weights, middles, features, d, rays, packed)
        return added, trans[last] * (1 - alphas[last])

    def _densities(self, positions: Tensor, d: Tensor, rays: Tensor) -> tuple[Tensor, Any]:
        """Densities [N], and colours or what colours are made of."""
        if self.two_steps:
            found = self.field.density(positions, rays)  # pyright: ignore
            sigmas, features = _pair("field.density: densities and features", found)
        else:
            found = self.field(positions, d, rays)
            features, sigmas = _pair("field: colours and densities", found)
            _check_rows("colours", features, (len(positions), 3))
        _check_rows("densities", sigmas, (len(positions),))
        return sigmas.to(positions.dtype), features

    def _sums(
        self,
        weights: Tensor,
        middles: Tensor,
        features: Any,
        d: Tensor,
        rays: Tensor,
        packed: Tensor,
    ) -> Tensor:
        opacity = ops.accumulate(weights, None, packed)
        depth = ops.accumulate(weights, middles[:, None], packed)
        if not self.two_steps:
            colors = features.to(weights.dtype)
            return torch.cat([ops.accumulate(weights, colors, packed), opacity, depth, opacity], -1)
        seen = (weights > self.color_thre).nonzero()[:, 0]
        chosen = features.index_select(0, seen) if torch.is_tensor(features) else features[seen]
        found = self.field.color(  # pyright: ignore
            chosen, d.index_select(0, seen), rays.index_select(0, seen)
        )
        _check_rows("colours", found, (len(seen), 3))
        colors = weights.new_zeros(len(weights), 3).index_copy_(0, seen, found.to(weights.dtype))
        rgb = ops.accumulate(weights, colors, packed)
        colored = opacity
        if self.color_thre > 0:
            colored = ops.accumulate(weights.where(weights > self.color_thre, 0), None, packed)
        return torch.cat([rgb, opacity, depth, colored], dim=-1)


def _pair(what: str, found: Any) -> tuple[Any, Any]:
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise TypeError(f"render_rays: {what}: expected two results, got {type(found).__name__}")
    return found[0], found[1]


def _check_rows(what: str, found: Any, shape: tuple[int, ...]) -> None:
    check_tensor("render_rays", f"field: {what}", found, shape)


def _find_samples(estimator: Any, origins: Tensor, directions: Tensor, sampling: Any) -> _Samples:
    if hasattr(estimator, "traverse"):
        _, t_starts, t_ends, packed = estimator.traverse(origins, directions, **sampling)
        return _Samples(t_starts, t_ends, packed)
    rays, t_starts, t_ends = estimator.sampling(origins, directions, **sampling)
    return _Samples(t_starts, t_ends, pack_info(rays, len(origins)))
