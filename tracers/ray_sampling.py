# SPDX-License-Identifier: Apache-2.0
"""Importance sampling along rays, and searches in their sorted values; NerfAcc's signatures."""

from __future__ import annotations

import torch
from torch import Tensor

from ..cuda.volume import ops
from .checks import check_count, check_tensor
from .packing import computable, named, packing_of
from .ray_samples import RayIntervals, RaySamples


@torch.no_grad()
def importance_sampling(
    intervals: RayIntervals,
    cdfs: Tensor,
    n_intervals_per_ray: Tensor | int,
    stratified: bool = False,
    generator: torch.Generator | None = None,
) -> tuple[RayIntervals, RaySamples]:
    """Draws samples, and the intervals around them, in proportion to CDFs.

    Args:
        intervals: Where the CDFs are known, ascending along each ray; packed or batched.
        cdfs: Shaped like ``intervals.vals``, ascending along each ray.
        n_intervals_per_ray: A number of at least 1 for all rays, or int [n_rays].
        stratified: Shift all samples of a ray by one random part of their distance.
        generator: Of the shifts; default torch's own.

    Returns:
        Batched intervals [n_rays, n + 1] and samples [n_rays, n] for a number; packed ones, with
        packed_info, ray_indices, is_left and is_right, for a tensor. Not differentiable.

    Raises:
        TypeError: An argument has another type.
        ValueError: Shapes or devices do not fit, or a number is negative.

    Source: Mildenhall et al., "NeRF" (2020), section 5.2.

    Example:
        >>> intervals = RayIntervals(torch.tensor([[0.0, 1.0, 2.0]]))
        >>> edges, samples = importance_sampling(intervals, torch.tensor([[0.0, 0.5, 1.0]]), 2)
        >>> edges.vals.tolist(), samples.vals.tolist()
        ([[0.0, 1.0, 2.0]], [[0.5, 1.5]])
    """
    name = "importance_sampling"
    packed = _packing(name, "intervals", intervals)
    check_tensor(name, "cdfs", cdfs, tuple(intervals.vals.shape), like=intervals.vals)
    edges, cdfs = computable(intervals.vals, cdfs)
    n_rays = edges.shape[0] if packed is None else packed.shape[0]
    counts = _counts(n_intervals_per_ray, n_rays, edges)
    bias = None
    if stratified:
        bias = torch.rand(n_rays, generator=generator, dtype=edges.dtype, device=edges.device)
    samples, vals, samples_info, edges_info = named(
        name, ops.resample, edges, cdfs, packed, counts, bias=bias
    )
    if samples_info is None or edges_info is None:
        return RayIntervals(vals), RaySamples(samples)
    first, last = _first_and_last(edges_info, len(vals))
    return (
        RayIntervals(vals, edges_info, _rays(edges_info, len(vals)), ~last, ~first),
        RaySamples(samples, samples_info, _rays(samples_info, len(samples))),
    )


def _packing(function: str, argument: str, values: RayIntervals | RaySamples) -> Tensor | None:
    if not isinstance(values, RayIntervals | RaySamples):
        raise TypeError(
            f"{function}: {argument}: expected RayIntervals or RaySamples, "
            f"got {type(values).__name__}"
        )
    check_tensor(function, f"{argument}.vals", values.vals)
    if values.packed_info is None and values.ray_indices is None and values.vals.dim() != 2:
        raise ValueError(
            f"{function}: {argument}.vals: expected shape [n_rays, n] without packed_info, "
            f"got {list(values.vals.shape)}"
        )
    return packing_of(
        function, values.vals, values.packed_info, values.ray_indices, None, f"{argument}.vals"
    )


def _counts(asked: Tensor | int, n_rays: int, like: Tensor) -> Tensor | int:
    name = "importance_sampling"
    if not isinstance(asked, Tensor):
        count = check_count(name, "n_intervals_per_ray", asked, -(2**63))
        if count < 1:
            raise ValueError(f"{name}: n_intervals_per_ray: expected at least 1, got {asked}")
        return count
    if asked.is_floating_point() or asked.dtype == torch.bool:
        raise TypeError(f"{name}: n_intervals_per_ray: expected integers, got {asked.dtype}")
    check_tensor(name, "n_intervals_per_ray", asked, (n_rays,), like=like, dtype=asked.dtype)
    if asked.numel() and int(asked.min()) < 0:
        raise ValueError(f"{name}: n_intervals_per_ray: expected none below 0, got {asked.min()}")
    return asked.long()


def _rays(packed_info: Tensor, total: int) -> Tensor:
    """The ray of each value."""
    rays = torch.arange(len(packed_info), device=packed_info.device)
    return torch.repeat_interleave(rays, packed_info[:, 1], output_size=total)


def _first_and_last(packed_info: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """Whether each value is its ray's first, and whether its last."""
    first = torch.zeros(total + 1, dtype=torch.bool, device=packed_info.device)
    # Runs of no values point past the end, or at the next ray's first.
    first[packed_info[:, 0]] = True
    last = torch.ones(total, dtype=torch.bool, device=packed_info.device)
    last[:-1] = first[1:-1]
    return first[:-1], last


@torch.no_grad()
def searchsorted(
    sorted_sequence: RayIntervals | RaySamples, values: RayIntervals | RaySamples
) -> tuple[Tensor, Tensor]:
    """Finds values between the sorted values of the same ray.

    Args:
        sorted_sequence: Ascending along each ray; packed or batched.
        values: What to find, in any order, of as many rays; packed or batched.

    Returns:
        int64 indices left and right, shaped like ``values.vals``: sorted[left] <= value <
        sorted[right]. Outside, they are those of a value at the ray's first or last. They count
        within the ray where values are batched, else from the first of all.

    Raises:
        TypeError: An argument has another type.
        ValueError: Shapes, devices or numbers of rays do not fit.

    Example:
        >>> edges = RayIntervals(torch.tensor([0.0, 1, 0, 1, 2]), torch.tensor([[0, 2], [2, 3]]))
        >>> found = RaySamples(torch.tensor([0.5, 1.5, 2.5]), torch.tensor([[0, 1], [1, 2]]))
        >>> searchsorted(edges, found)
        (tensor([0, 3, 3]), tensor([1, 4, 4]))
    """
    name = "searchsorted"
    keys_info = _packing(name, "sorted_sequence", sorted_sequence)
    values_info = _packing(name, "values", values)
    keys, asked = computable(sorted_sequence.vals, values.vals)
    have = keys.shape[0] if keys_info is None else keys_info.shape[0]
    want = asked.shape[0] if values_info is None else values_info.shape[0]
    if have != want:
        raise ValueError(f"{name}: values: expected {have} rays, got {want}")
    if keys.device != asked.device:
        raise ValueError(f"{name}: values: expected device {keys.device}, got {asked.device}")
    return named(name, ops.searchsorted, keys, keys_info, asked, values_info)
