# SPDX-License-Identifier: Apache-2.0
"""NerfAcc's ``grid``: rays against boxes and through grids, and the helpers that its tests use."""

from __future__ import annotations

import torch
from torch import Tensor

from ...tracers.occupancy import enlarge_aabb as _enlarge_aabb
from ...tracers.traversal import ray_aabb_intersect, traverse_grids

__all__ = ["_enlarge_aabb", "_query", "_ray_aabb_intersect", "ray_aabb_intersect", "traverse_grids"]

_ray_aabb_intersect = ray_aabb_intersect


def _query(x: Tensor, data: Tensor, base_aabb: Tensor) -> tuple[Tensor, Tensor]:
    """Reads nested grids at points, each in the innermost box around it.

    Args:
        x: Points [N, 3].
        data: [levels, X, Y, Z], each level in a box twice as large as the one before.
        base_aabb: The innermost box, [6].

    Returns:
        Values [N], 0 outside all boxes, and whether each point is in a box, bool [N].

    Example:
        >>> inside, outside = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([9.0, 0, 0])
        >>> box = torch.tensor([0.0, 0, 0, 1, 1, 1])
        >>> _query(torch.stack([inside, outside]), torch.ones(1, 2, 2, 2), box)
        (tensor([1., 0.]), tensor([ True, False]))
    """
    low, high = base_aabb[:3], base_aabb[3:]
    centred = (x - low) / (high - low) - 0.5
    reach = centred.abs().amax(-1)
    bounds = 0.5 * 2.0 ** torch.arange(data.shape[0], device=x.device)
    level = torch.searchsorted(bounds.to(reach.dtype), reach, right=True)
    inside = level < data.shape[0]
    level = level.clamp_max(data.shape[0] - 1)
    resolution = torch.tensor(data.shape[1:], device=x.device)
    unit = (centred / 2.0 ** level[:, None] + 0.5).nan_to_num(0.0)
    cell = torch.minimum((unit * resolution).long().clamp_min(0), resolution - 1)
    values = data[level, cell[:, 0], cell[:, 1], cell[:, 2]]
    return values * inside, inside
