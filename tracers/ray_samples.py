# SPDX-License-Identifier: Apache-2.0
"""Values along rays: sample places, and edges of intervals, packed or batched."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class RaySamples:
    """Samples along rays.

    Args:
        vals: [n_rays, n] batched, or [n_samples] packed.
        packed_info: int64 [n_rays, 2], start and count of each ray, if packed.
        ray_indices: int64 [n_samples], the ray of each sample, if packed.
        is_valid: bool [n_samples]: False where room was left that no sample fills.

    Example:
        >>> RaySamples(torch.zeros(2, 3)).device
        device(type='cpu')
    """

    vals: Tensor
    packed_info: Tensor | None = None
    ray_indices: Tensor | None = None
    is_valid: Tensor | None = None

    @property
    def device(self) -> torch.device:
        """Where the values lie."""
        return self.vals.device


@dataclass
class RayIntervals:
    """Edges of intervals along rays; where intervals touch, they share an edge.

    Args:
        vals: [n_rays, n + 1] batched, or [n_edges] packed.
        packed_info: int64 [n_rays, 2], start and count of each ray's edges, if packed.
        ray_indices: int64 [n_edges], the ray of each edge, if packed.
        is_left: bool [n_edges]: whether an interval begins there, if packed.
        is_right: bool [n_edges]: whether an interval ends there, if packed.

    Example:
        >>> RayIntervals(torch.zeros(2, 4)).device
        device(type='cpu')
    """

    vals: Tensor
    packed_info: Tensor | None = None
    ray_indices: Tensor | None = None
    is_left: Tensor | None = None
    is_right: Tensor | None = None

    @property
    def device(self) -> torch.device:
        """Where the values lie."""
        return self.vals.device
