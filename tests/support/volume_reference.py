# SPDX-License-Identifier: Apache-2.0
"""Volume rendering in plain torch, a ray at a time: what the kernels are measured against."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def runs(samples: Tensor, packed_info: Tensor | None) -> list[slice]:
    """Where each ray's samples lie in the flattened samples."""
    if packed_info is None:
        n = samples.shape[1]
        return [slice(ray * n, (ray + 1) * n) for ray in range(samples.shape[0])]
    return [slice(start, start + count) for start, count in packed_info.tolist()]


def along_rays(
    function: Callable[..., Tensor | tuple[Tensor, ...]],
    inputs: list[Tensor],
    packed_info: Tensor | None,
) -> list[Tensor]:
    """Applies a function of one ray's samples to every ray; samples of no ray become zero."""
    like = inputs[0]
    flat = [value.reshape(-1) for value in inputs]
    outputs: list[Tensor] = []
    for run in runs(like, packed_info):
        found = function(*(value[run] for value in flat))
        found = found if isinstance(found, tuple) else (found,)
        if not outputs:
            outputs = [value.new_zeros(like.numel()) for value in found]
        places = torch.arange(like.numel())[run]
        outputs = [out.index_put((places,), value) for out, value in zip(outputs, found)]
    return [out.reshape(like.shape) for out in outputs] or [torch.zeros_like(like)]


def exclusive(values: Tensor, first: float) -> Tensor:
    """Shifts a ray's running values by one sample."""
    return torch.cat([values.new_full((1,), first), values[:-1]])[: len(values)]


def scan(
    inputs: Tensor,
    packed_info: Tensor | None = None,
    product: bool = False,
    exclusive: bool = False,
    reverse: bool = False,
) -> Tensor:
    """Running sums and products; factors are multiplied one by one, so that zeros are exact."""

    def one(x: Tensor) -> Tensor:
        values = list(x.flip(0) if reverse else x)
        running, found = x.new_ones(()) if product else x.new_zeros(()), []
        for value in values:
            after = running * value if product else running + value
            found.append(running if exclusive else after)
            running = after
        stacked = torch.stack(found) if found else x
        return stacked.flip(0) if reverse else stacked

    return along_rays(one, [inputs], packed_info)[0]


def composite(
    t_starts: Tensor | None,
    t_ends: Tensor | None,
    values: Tensor,
    packed_info: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, transmittances, alphas from their definitions."""

    def one(alpha: Tensor) -> tuple[Tensor, Tensor]:
        running, found = alpha.new_ones(()), []
        for value in alpha:
            found.append(running)
            running = running * (1 - value)
        trans = torch.stack(found) if found else alpha
        return trans * alpha, trans

    alphas = values
    if t_starts is not None and t_ends is not None:
        alphas = 1 - torch.exp(-values * (t_ends - t_starts))
        if packed_info is not None:
            inside = torch.zeros(values.shape, dtype=torch.bool)
            for run in runs(values, packed_info):
                inside[run] = True
            alphas = torch.where(inside, alphas, 0)
    found = along_rays(one, [alphas], packed_info)
    if len(found) == 1:  # no rays
        found = [torch.zeros_like(values)] * 2
    return found[0], found[1], alphas


def visibility(
    t_starts: Tensor | None,
    t_ends: Tensor | None,
    values: Tensor,
    packed_info: Tensor | None = None,
    prefix_trans: Tensor | None = None,
    early_stop_eps: float = 1e-4,
    alpha_thre: float = 0.0,
) -> Tensor:
    """Thresholds of `composite`."""
    _, trans, alphas = composite(t_starts, t_ends, values, packed_info)
    if prefix_trans is not None:
        trans = trans * prefix_trans
    visible = trans >= early_stop_eps
    return visible & (alphas >= alpha_thre) if alpha_thre > 0 else visible


def accumulate(
    weights: Tensor, values: Tensor | None = None, packed_info: Tensor | None = None
) -> Tensor:
    """Sums of products."""
    ones = values if values is not None else torch.ones_like(weights)[..., None]
    products = (weights[..., None] * ones).reshape(weights.numel(), ones.shape[-1])
    sums = [products[run].sum(0) for run in runs(weights, packed_info)]
    return torch.stack(sums) if sums else products[:0]


def distortion(
    weights: Tensor, t_starts: Tensor, t_ends: Tensor, packed_info: Tensor | None = None
) -> Tensor:
    """All pairs of samples of a ray."""
    losses = []
    for run in runs(weights, packed_info):
        w, start, end = (x.reshape(-1)[run] for x in (weights, t_starts, t_ends))
        middle = (start + end) / 2
        apart = (middle[:, None] - middle[None, :]).abs()
        losses.append((w[:, None] * w * apart).sum() + (w * w * (end - start)).sum() / 3)
    return torch.stack(losses) if losses else weights.reshape(-1)[:0]


def searchsorted(
    keys: Tensor, keys_info: Tensor | None, values: Tensor, values_info: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Ray by ray with torch.searchsorted, clamped to the ray's keys."""
    lefts = torch.zeros(values.numel(), dtype=torch.int64)
    rights = lefts.clone()
    for own, run in zip(runs(keys, keys_info), runs(values, values_info)):
        sorted_keys, asked = keys.reshape(-1)[own], values.reshape(-1)[run]
        right = torch.searchsorted(sorted_keys.contiguous(), asked.contiguous(), right=True)
        last = max(len(sorted_keys) - 1, 0)
        origin = 0 if values_info is None else own.start
        # At and past the last key, the neighbours are the last two.
        right = right.clamp(0, last)
        lefts[run] = (right - 1).clamp(0, last) + origin
        rights[run] = right + origin
    return lefts.reshape(values.shape), rights.reshape(values.shape)


def resample(
    edges: Tensor,
    cdfs: Tensor,
    packed_info: Tensor | None,
    n_samples: int | Tensor,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Inverse transform sampling, a ray at a time."""
    samples, intervals = [], []
    for ray, run in enumerate(runs(edges, packed_info)):
        e, c = edges.reshape(-1)[run], cdfs.reshape(-1)[run]
        n = int(n_samples[ray]) if isinstance(n_samples, Tensor) else n_samples
        if n == 0:
            continue
        if len(e) == 0:
            samples.append(e.new_zeros(n))
            intervals.append(e.new_zeros(n + 1))
            continue
        offset = 0.5 if bias is None else bias[ray]
        u = c[0] + (torch.arange(n, dtype=c.dtype) + offset) * (c[-1] - c[0]) / n
        right = torch.searchsorted(c.contiguous(), u, right=True).clamp(0, len(c) - 1)
        left = (right - 1).clamp(min=0)
        rise = c[right] - c[left]
        share = torch.where(rise < 1e-10, 0.5, (u - c[left]) / rise.clamp(min=1e-10))
        t = e[left] + share * (e[right] - e[left])
        samples.append(t)
        intervals.append(_interval_edges(t, e[0], e[-1]))
    packed = isinstance(n_samples, Tensor)
    none = edges.reshape(-1)[:0]
    if packed:
        return torch.cat([none, *samples]), torch.cat([none, *intervals])
    rows = len(samples)
    return (
        torch.cat([none, *samples]).reshape(rows, n_samples),
        torch.cat([none, *intervals]).reshape(rows, n_samples + 1),
    )


def _interval_edges(t: Tensor, first: Tensor, last: Tensor) -> Tensor:
    if len(t) == 1:
        return torch.stack([first, last])
    between = (t[1:] + t[:-1]) / 2
    low = torch.maximum(t[0] - (t[1] - t[0]) / 2, first)
    high = torch.minimum(t[-1] + (t[-1] - t[-2]) / 2, last)
    return torch.cat([low[None], between, high[None]])
