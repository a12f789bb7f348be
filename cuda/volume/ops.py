# SPDX-License-Identifier: Apache-2.0
"""The volume rendering operators: one typed function each, with its fake kernel and its gradient.

They know samples along rays, and no grid. Samples lie packed or batched:

- packed: tensors [n_samples], all rays in one run, with ``packed_info`` int64 [n_rays, 2], a row
  (start, count) a ray; starts ascend, and runs do not overlap. Samples of no ray come out zero.
- batched: tensors [n_rays, n_samples_per_ray], without ``packed_info``.

``fieldline.tracers.volume_rendering`` composes these into a renderer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..library import call, ctx_ops, declare, ops


def _like(tensor: Tensor) -> Tensor:
    return tensor.new_empty(tensor.shape)


def _n_rays(samples: Tensor, packed_info: Tensor | None) -> Any:
    return samples.shape[0] if packed_info is None else packed_info.shape[0]


@torch.no_grad()
def pack_info(ray_indices: Tensor, n_rays: int) -> Tensor:
    """Where each ray's samples lie.

    Args:
        ray_indices: int64 [n_samples], the ray of each sample, ascending and below n_rays.
        n_rays: How many rays there are, those without samples too.

    Returns:
        int64 [n_rays, 2]: start and count. Not differentiable.

    Example:
        >>> pack_info(torch.tensor([0, 0, 2]), 3).tolist()
        [[0, 2], [2, 0], [2, 1]]
    """
    return ops().volume_pack_info(ray_indices, n_rays)


def _pack_fake(ray_indices: Tensor, n_rays: int) -> Tensor:
    return ray_indices.new_empty(n_rays, 2)


def scan(
    inputs: Tensor,
    packed_info: Tensor | None = None,
    *,
    product: bool = False,
    exclusive: bool = False,
    reverse: bool = False,
) -> Tensor:
    """Running sums or products along rays.

    Args:
        inputs: Float [n_samples] with packed_info, or [n_rays, n] without.
        packed_info: int64 [n_rays, 2], start and count of each ray; None: batched.
        product: Multiply instead of adding.
        exclusive: Leave each sample's own value out.
        reverse: From the last sample to the first. Products in reverse have no gradient.

    Returns:
        The same shape as inputs; differentiable in inputs. The gradient of a product is exact where
        inputs are zero.

    Source: Blelloch, "Prefix sums and their applications" (1990).

    Example:
        >>> scan(torch.tensor([1.0, 2, 3, 4]), torch.tensor([[0, 2], [2, 2]])).tolist()
        [1.0, 3.0, 3.0, 7.0]
    """
    return call("volume_scan", inputs, packed_info, product, exclusive, reverse)


def _scan_fake(inputs: Tensor, *rest: Any) -> Tensor:
    return _like(inputs)


def _scan_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    values, packed_info, ctx.product, ctx.exclusive, ctx.reverse = inputs
    ctx.save_for_backward(values if ctx.product else None, packed_info)


def _scan_backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    values, packed_info = ctx.saved_tensors
    if not ctx.product:
        found = ctx_ops(ctx).volume_scan(g, packed_info, False, ctx.exclusive, not ctx.reverse)
    elif ctx.reverse:
        raise NotImplementedError("volume_scan: products in reverse have no gradient")
    else:
        found = ctx_ops(ctx).volume_product_backward(values, packed_info, ctx.exclusive, g)
    return found, None, None, None, None


def composite(
    t_starts: Tensor | None,
    t_ends: Tensor | None,
    values: Tensor,
    packed_info: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, transmittances and opacities of samples along rays, in one pass.

    Args:
        t_starts: Where each sample begins, [n_samples] or [n_rays, n]; None: values are alphas.
        t_ends: Where it ends; None with t_starts.
        values: Densities (per unit of t), or alphas in [0, 1].
        packed_info: int64 [n_rays, 2], start and count of each ray; None: batched.

    Returns:
        Weights, transmittances before each sample, and alphas, shaped like values. Differentiable
        in t_starts, t_ends and values, also where an alpha is 1.

    Source: Max, "Optical models for direct volume rendering" (1995).

    Example:
        >>> t = torch.arange(3.0)[None]
        >>> weights, trans, _ = composite(t, t + 1, torch.tensor([[0.0, 1e3, 1.0]]))
        >>> weights.tolist(), trans.tolist()
        ([[0.0, 1.0, 0.0]], [[1.0, 1.0, 0.0]])
    """
    weights, trans, alphas = call("volume_composite", t_starts, t_ends, values, packed_info)
    return weights, trans, values if t_starts is None else alphas


def _composite_fake(
    t_starts: Tensor | None, t_ends: Tensor | None, values: Tensor, packed_info: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    alphas = values.new_empty(0) if t_starts is None else _like(values)
    return _like(values), _like(values), alphas


def _composite_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs, output[1])
    ctx.set_materialize_grads(False)
    if inputs[0] is None:
        ctx.mark_non_differentiable(output[2])


def _composite_backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    if all(g is None for g in grads):
        return None, None, None, None
    g_starts, g_ends, g_values = ctx_ops(ctx).volume_composite_backward(*ctx.saved_tensors, *grads)
    needs = ctx.needs_input_grad
    return g_starts if needs[0] else None, g_ends if needs[1] else None, g_values, None


def _composite_backward_fake(
    t_starts: Tensor | None, t_ends: Tensor | None, values: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    def edge() -> Tensor:
        return values.new_empty(0) if t_starts is None else _like(values)

    return edge(), edge(), _like(values)


@torch.no_grad()
def visibility(
    t_starts: Tensor | None,
    t_ends: Tensor | None,
    values: Tensor,
    packed_info: Tensor | None = None,
    *,
    prefix_trans: Tensor | None = None,
    early_stop_eps: float = 1e-4,
    alpha_thre: float = 0.0,
) -> Tensor:
    """Which samples are seen.

    Args:
        t_starts: As for `composite`.
        t_ends: As for `composite`.
        values: Densities or alphas.
        packed_info: int64 [n_rays, 2], start and count of each ray; None: batched.
        prefix_trans: A factor of each sample's transmittance, shaped like values; default 1.
        early_stop_eps: Least transmittance before a visible sample, inclusive.
        alpha_thre: Least alpha of a visible sample, inclusive; 0: any.

    Returns:
        bool, shaped like values. Not differentiable.

    Example:
        >>> visibility(None, None, torch.tensor([[0.5, 0.0, 1.0, 0.5]]), alpha_thre=0.1).tolist()
        [[True, False, True, False]]
    """
    return ops().volume_visibility(
        t_starts, t_ends, values, packed_info, prefix_trans, early_stop_eps, alpha_thre
    )


def _visibility_fake(t_starts: Any, t_ends: Any, values: Tensor, *rest: Any) -> Tensor:
    return values.new_empty(values.shape, dtype=torch.bool)


def accumulate(
    weights: Tensor, values: Tensor | None = None, packed_info: Tensor | None = None
) -> Tensor:
    """Sums weighted values along rays.

    Args:
        weights: [n_samples] with packed_info, or [n_rays, n] without.
        values: [n_samples, D] or [n_rays, n, D]; None: ones, D = 1.
        packed_info: int64 [n_rays, 2], start and count of each ray; None: batched.

    Returns:
        [n_rays, D], zero where a ray has no samples; differentiable in weights and values. The
        order of a sum is fixed, so that results repeat bit for bit.

    Example:
        >>> packed = torch.tensor([[0, 2], [2, 0]])
        >>> accumulate(torch.tensor([0.5, 0.25]), torch.tensor([[1.0], [2.0]]), packed).tolist()
        [[1.0], [0.0]]
    """
    return call("volume_accumulate", weights, values, packed_info)


def _accumulate_fake(weights: Tensor, values: Tensor | None, packed_info: Tensor | None) -> Tensor:
    channels = 1 if values is None else values.shape[-1]
    return weights.new_empty(_n_rays(weights, packed_info), channels)


def _accumulate_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _accumulate_backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    weights, values, packed_info = ctx.saved_tensors
    needs_weights, needs_values, _ = ctx.needs_input_grad
    g_weights, g_values = ctx_ops(ctx).volume_accumulate_backward(
        weights, values, packed_info, g, needs_weights, needs_values
    )
    return g_weights if needs_weights else None, g_values if needs_values else None, None


def _accumulate_backward_fake(
    weights: Tensor,
    values: Tensor | None,
    packed_info: Tensor | None,
    g: Tensor,
    needs_weights: bool,
    needs_values: bool,
) -> tuple[Tensor, Tensor]:
    none = weights.new_empty(0)
    return (
        _like(weights) if needs_weights else none,
        _like(values) if needs_values and values is not None else weights.new_empty(0),
    )


@torch.no_grad()
def resample(
    edges: Tensor,
    cdfs: Tensor,
    packed_info: Tensor | None,
    n_samples: int | Tensor,
    *,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Draws samples along rays in proportion to a piecewise linear CDF.

    Sample k of n of a ray lies where its CDF reaches the middle of the k-th of n equal parts.
    Intervals end half way between samples; the outer ones reach as far out as they reach in, but
    not past the source. One sample alone gets the source's extent. A ray without edges gets zeros.

    Args:
        edges: Ascending along each ray, [n_edges] with packed_info, or [n_rays, n] without.
        cdfs: Ascending along each ray, shaped like edges.
        packed_info: int64 [n_rays, 2], start and count of each ray; None: batched.
        n_samples: Samples a ray: a number of at least 1 gives batched outputs; int64 [n_rays], not
            negative, packed ones, for which the host waits once.
        bias: [n_rays] in [0, 1), where in its part the samples of a ray lie; default 0.5.

    Returns:
        Samples [n_rays, n_samples] and intervals' edges [n_rays, n_samples + 1], then None twice;
        or samples [all_samples] and edges [all_edges], then their packed_info. Not differentiable.

    Source: Mildenhall et al., "NeRF" (2020), section 5.2.

    Example:
        >>> cdf = torch.tensor([[0.0, 0.5, 1.0]])
        >>> samples, edges, *_ = resample(torch.tensor([[0.0, 1.0, 3.0]]), cdf, None, 2)
        >>> samples.tolist(), edges.tolist()
        ([[0.5, 2.0]], [[0.0, 1.25, 2.75]])
    """
    if isinstance(n_samples, Tensor):
        samples_info, intervals_info = _counted(n_samples), _counted(n_samples + (n_samples > 0))
        totals = torch.stack([samples_info[-1:].sum(), intervals_info[-1:].sum()]).tolist()
    else:
        samples_info, intervals_info, totals = None, None, (n_samples, n_samples + 1)
    samples, intervals = ops().volume_resample(
        edges, cdfs, packed_info, samples_info, intervals_info, totals[0], totals[1], bias
    )
    return samples, intervals, samples_info, intervals_info


def _counted(counts: Tensor) -> Tensor:
    """Runs of the given lengths, one after the other."""
    return torch.stack([counts.cumsum(0) - counts, counts], dim=-1)


def _resample_fake(
    edges: Tensor,
    cdfs: Tensor,
    packed_info: Tensor | None,
    samples_info: Tensor | None,
    intervals_info: Tensor | None,
    n_samples: int,
    n_edges: int,
    bias: Tensor | None,
) -> tuple[Tensor, Tensor]:
    lead = () if samples_info is not None else (_n_rays(edges, packed_info),)
    return edges.new_empty(*lead, n_samples), edges.new_empty(*lead, n_edges)


@torch.no_grad()
def searchsorted(
    keys: Tensor, keys_info: Tensor | None, values: Tensor, values_info: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Finds values between sorted keys of the same ray.

    Args:
        keys: Ascending along each ray, [n_keys] with keys_info, or [n_rays, n] without.
        keys_info: int64 [n_rays, 2]; None: batched.
        values: [n_values] with values_info, or [n_rays, m] without, in any order.
        values_info: int64 [n_rays, 2]; None: batched.

    Returns:
        int64 shaped like values, twice: left and right with keys[left] <= value < keys[right].
        Outside the keys they are as for a value at their first (left = right) or last. They count
        from the ray's first key where values are batched, else from the first key of all. Not
        differentiable.

    Example:
        >>> searchsorted(torch.tensor([[0.0, 1, 2]]), None, torch.tensor([[0.5, 7.0]]), None)
        (tensor([[0, 1]]), tensor([[1, 2]]))
    """
    return ops().volume_searchsorted(keys, keys_info, values, values_info)


def _searchsorted_fake(keys: Tensor, keys_info: Any, values: Tensor, *rest: Any) -> Any:
    return tuple(values.new_empty(values.shape, dtype=torch.int64) for _ in range(2))


def distortion(
    weights: Tensor, t_starts: Tensor, t_ends: Tensor, packed_info: Tensor | None = None
) -> Tensor:
    """The distortion loss of each ray: how far its weights lie apart.

    sum_ij w_i w_j abs(m_i - m_j) + sum_i w_i^2 (t_ends_i - t_starts_i) / 3 with middles m, in
    linear time.

    Args:
        weights: [n_samples] with packed_info, or [n_rays, n] without.
        t_starts: Where each sample begins, shaped like weights; ascending along each ray.
        t_ends: Where it ends.
        packed_info: int64 [n_rays, 2], start and count of each ray; None: batched.

    Returns:
        [n_rays]; differentiable in weights, t_starts and t_ends.

    Source: Barron et al., "Mip-NeRF 360" (2022), equation 15.

    Example:
        >>> t = torch.tensor([[0.0, 3.0]])
        >>> distortion(torch.tensor([[0.5, 0.5]]), t, t).item()
        1.5
    """
    return call("volume_distortion", weights, t_starts, t_ends, packed_info)


def _distortion_fake(
    weights: Tensor, t_starts: Tensor, t_ends: Tensor, packed_info: Tensor | None
) -> Tensor:
    return weights.new_empty(_n_rays(weights, packed_info))


def _distortion_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _distortion_backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    found = ctx_ops(ctx).volume_distortion_backward(*ctx.saved_tensors, g)
    return *(value if needed else None for value, needed in zip(found, ctx.needs_input_grad)), None


def _distortion_backward_fake(weights: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _like(weights), _like(weights), _like(weights)


declare("volume_pack_info", _pack_fake)
declare("volume_scan", _scan_fake, _scan_setup, _scan_backward)
declare("volume_product_backward", lambda inputs, *rest: _like(inputs))
declare("volume_composite", _composite_fake, _composite_setup, _composite_backward)
declare("volume_composite_backward", _composite_backward_fake)
declare("volume_visibility", _visibility_fake)
declare("volume_accumulate", _accumulate_fake, _accumulate_setup, _accumulate_backward)
declare("volume_accumulate_backward", _accumulate_backward_fake)
declare("volume_resample", _resample_fake)
declare("volume_searchsorted", _searchsorted_fake)
declare("volume_distortion", _distortion_fake, _distortion_setup, _distortion_backward)
declare("volume_distortion_backward", _distortion_backward_fake)
