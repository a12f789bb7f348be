# SPDX-License-Identifier: Apache-2.0
"""Rays through occupancy grids, with the interface of NerfAcc's `traverse_grids`.

`sample_dense` and `sample_masks` are the short way to samples. This is the long one: edges of
intervals that touch, rays that stop after so many samples and say where, rays left out, room for a
fixed number of samples. On any device.
"""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor

from ..cuda.vdb import walk_ops
from .checks import check_count
from .ray_samples import RayIntervals, RaySamples


class TraversedIntervals(RayIntervals):
    """The intervals of a traversal; their edges are listed when somebody asks for them.

    Args:
        found: The samples.
        room: The edges that each ray has room for, and the rays that have it; None: no more than
            there are.
    """

    def __init__(self, found: walk_ops.Traversal, room: tuple[int, Tensor] | None = None) -> None:
        self._found = found
        self._room = room

    @cached_property
    def _edges(self) -> RayIntervals:
        found = self._found
        # A joined sample brings one edge, its right one; its left one is right before it.
        ends = (2 - found.joined.long()).cumsum(0)
        before = torch.cat([ends.new_zeros(1), ends])
        first, count = found.packed_info.unbind(1)
        packed_info = torch.stack([before[first], before[first + count] - before[first]], dim=1)
        right = ends - 1
        total = int(before[-1])
        if self._room is not None:
            each, kept = self._room
            shift = each * (kept.long().cumsum(0) - 1) - packed_info[:, 0]
            right = right + shift[found.ray_indices]
            total = each * int(kept.sum())
        return RayIntervals(
            _scattered(total, found.t_starts, right - 1).index_copy(0, right, found.t_ends),
            packed_info,
            _scattered(total, found.ray_indices, right - 1).index_copy(0, right, found.ray_indices),
            _scattered(total, torch.ones_like(found.joined), right - 1),
            _scattered(total, torch.ones_like(found.joined), right),
        )

    @property
    def vals(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The edges, float32 [n_edges]."""
        return self._edges.vals

    @property
    def packed_info(self) -> Tensor | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """int64 [n_rays, 2], start and count of each ray's edges."""
        return self._edges.packed_info

    @property
    def ray_indices(self) -> Tensor | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """int64 [n_edges], the ray of each edge."""
        return self._edges.ray_indices

    @property
    def is_left(self) -> Tensor | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """bool [n_edges]: whether an interval begins there."""
        return self._edges.is_left

    @property
    def is_right(self) -> Tensor | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """bool [n_edges]: whether an interval ends there."""
        return self._edges.is_right


def _scattered(size: int, values: Tensor, places: Tensor) -> Tensor:
    return values.new_zeros(size).index_copy(0, places, values)


@torch.no_grad()
def ray_aabb_intersect(
    rays_o: Tensor,
    rays_d: Tensor,
    aabbs: Tensor,
    near_plane: float = -torch.inf,
    far_plane: float = torch.inf,
    miss_value: float = torch.inf,
) -> tuple[Tensor, Tensor, Tensor]:
    """Says where rays enter and leave boxes.

    Args:
        rays_o: float32 [n_rays, 3], origins.
        rays_d: float32 [n_rays, 3], directions.
        aabbs: float32 [m, 6], min xyz, max xyz.
        near_plane: Times are at least this. Default minus infinity.
        far_plane: Times are at most this. Default infinity.
        miss_value: Both times of a ray that misses, or whose box is behind it. Default infinity.

    Returns:
        t_mins and t_maxs float32 [n_rays, m], hits bool [n_rays, m]. A ray in the plane of a face
        hits. Not differentiable.

    Raises:
        TypeError: A tensor is not float32.
        ValueError: A shape or device is not one of the above.

    Source: Kay and Kajiya, "Ray tracing complex scenes" (1986).

    Example:
        >>> box = torch.tensor([[1.0, -1, -1, 3, 1, 1]])
        >>> ray_aabb_intersect(torch.zeros(1, 3), torch.tensor([[1.0, 0, 0]]), box)
        (tensor([[1.]]), tensor([[3.]]), tensor([[True]]))
    """
    name = "ray_aabb_intersect"
    walk_ops.check_tensor(name, "rays_o", rays_o, (None, 3))
    walk_ops.check_tensor(name, "rays_d", rays_d, tuple(rays_o.shape), device=rays_o.device)
    walk_ops.check_tensor(name, "aabbs", aabbs, (None, 6), device=rays_o.device)
    o, d = rays_o[:, None], rays_d[:, None]
    d = torch.where(d.abs() < torch.finfo(torch.float32).tiny, torch.zeros_like(d), d)
    low, high = aabbs[None, :, :3], aabbs[None, :, 3:]
    still, inverse = d == 0, 1 / d
    enter = torch.where(d > 0, low - o, high - o) * inverse
    leave = torch.where(d > 0, high - o, low - o) * inverse
    inside = (o >= low) & (o <= high)
    enter = torch.where(still, torch.where(inside, -torch.inf, torch.inf), enter).amax(-1)
    leave = torch.where(still, torch.where(inside, torch.inf, -torch.inf), leave).amin(-1)
    hits = (enter <= leave) & (leave > 0)
    return (
        torch.where(hits, enter.clamp(min=near_plane), miss_value),
        torch.where(hits, leave.clamp(max=far_plane), miss_value),
        hits,
    )


@torch.no_grad()
def traverse_grids(
    rays_o: Tensor,
    rays_d: Tensor,
    binaries: Tensor,
    aabbs: Tensor,
    near_planes: Tensor | None = None,
    far_planes: Tensor | None = None,
    step_size: float | None = 1e-3,
    cone_angle: float | None = 0.0,
    traverse_steps_limit: int | None = None,
    over_allocate: bool | None = False,
    rays_mask: Tensor | None = None,
    t_sorted: Tensor | None = None,
    t_indices: Tensor | None = None,
    hits: Tensor | None = None,
) -> tuple[RayIntervals, RaySamples, Tensor]:
    """Walks rays through occupancy grids, as NerfAcc's function of this name.

    Args:
        rays_o: float32 [n_rays, 3], origins.
        rays_d: float32 [n_rays, 3], directions, not zero; t counts their lengths.
        binaries: bool [m, X, Y, Z], m grids of one resolution, z fastest.
        aabbs: float32 [m, 6], the box of each grid: min xyz, max xyz. Where boxes overlap, the one
            that a ray entered last counts.
        near_planes: float32 [n_rays], where rays begin; default 0.
        far_planes: float32 [n_rays], where rays end; default infinity.
        step_size: Length of a sample, in t; with a cone, the least length. 0 or less: one sample
            for each occupied cell, as long as the ray is in it. Default 1e-3.
        cone_angle: With a cone, a sample at t is at least t * cone_angle long; default none.
        traverse_steps_limit: The most samples of a ray, which then stops; default no limit.
        over_allocate: Gives every ray of `rays_mask` room for as many samples as the limit allows,
            and twice as many edges. `packed_info` then counts those that are valid.
        rays_mask: bool [n_rays]: rays that are not walked are False; default all are.
        t_sorted: float32 [n_rays, 2 m], when each ray enters and leaves the grids, ascending;
            default computed.
        t_indices: int64 [n_rays, 2 m], which grid each of them is of, + m where the ray leaves.
        hits: bool [n_rays, m], whether a ray hits a grid.

    Returns:
        The intervals, whose edges are shared where they touch; the samples, whose values are the
        intervals' middles; and float32 [n_rays], where each ray's last step ended. Not
        differentiable.

    Raises:
        TypeError: A tensor has another type.
        ValueError: A shape, device or number is not one of the above, a ray is not finite, or
            there are 2^31 samples or more.

    Source: Li et al., "NerfAcc: efficient sampling accelerates NeRFs" (2023).

    Example:
        >>> full = torch.ones(1, 1, 1, 1, dtype=torch.bool)
        >>> box = torch.tensor([[0.0, 0, 0, 1, 1, 1]])
        >>> o, d = torch.tensor([[-1.0, 0.5, 0.5]]), torch.tensor([[1.0, 0, 0]])
        >>> intervals, samples, _ = traverse_grids(o, d, full, box, step_size=0.5)
        >>> intervals.vals.tolist(), samples.vals.tolist()
        ([1.0, 1.5, 2.0], [1.25, 1.75])
    """
    name = "traverse_grids"
    if not isinstance(rays_o, Tensor) or rays_o.dim() != 2:
        raise ValueError(f"{name}: rays_o: expected a tensor [n_rays, 3]")
    if over_allocate and not traverse_steps_limit:
        raise ValueError(f"{name}: traverse_steps_limit: expected a limit with over_allocate")
    limit = None
    if traverse_steps_limit is not None and traverse_steps_limit > 0:
        limit = check_count(name, "traverse_steps_limit", traverse_steps_limit, 1)
    for argument, number in (("step_size", step_size), ("cone_angle", cone_angle)):
        if number is not None and math.isnan(number):
            raise ValueError(f"{name}: {argument}: expected a number, got nan")
    near = rays_o.new_zeros(rays_o.shape[0]) if near_planes is None else near_planes
    far = torch.full_like(near, torch.inf) if far_planes is None else far_planes
    given = None
    if t_sorted is not None and t_indices is not None and hits is not None:
        given = (t_sorted, t_indices, hits)
    found = walk_ops.traverse_dense(
        binaries,
        aabbs,
        rays_o,
        rays_d,
        near,
        far,
        step=step_size or 0.0,
        cone_angle=cone_angle or 0.0,
        most=limit,
        rays_mask=rays_mask,
        crossings=given,
    )
    middles = (found.t_ends + found.t_starts) * 0.5
    if not over_allocate or limit is None:
        valid = torch.ones_like(found.joined)
        samples = RaySamples(middles, found.packed_info, found.ray_indices, valid)
        return TraversedIntervals(found), samples, found.terminate
    kept = torch.ones_like(near, dtype=torch.bool) if rays_mask is None else rays_mask
    return (
        TraversedIntervals(found, (2 * limit, kept)),
        _with_room(found, middles, limit, kept),
        found.terminate,
    )


def _with_room(found: walk_ops.Traversal, middles: Tensor, limit: int, kept: Tensor) -> RaySamples:
    """The samples with room for `limit` of each kept ray."""
    shift = limit * (kept.long().cumsum(0) - 1) - found.packed_info[:, 0]
    places = torch.arange(len(middles), device=middles.device) + shift[found.ray_indices]
    total = limit * int(kept.sum())
    return RaySamples(
        _scattered(total, middles, places),
        found.packed_info,
        _scattered(total, found.ray_indices, places),
        _scattered(total, torch.ones_like(found.joined), places),
    )
