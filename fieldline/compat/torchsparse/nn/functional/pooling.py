# SPDX-License-Identifier: Apache-2.0
"""torchsparse's functions of whole samples: pools, and crops."""

from __future__ import annotations

import torch
from torch import Tensor

from .....cuda.sparse import pool_ops
from ...tensor import SparseTensor

__all__ = ["global_avg_pool", "global_max_pool", "spcrop"]


def global_avg_pool(inputs: SparseTensor) -> Tensor:
    """The mean of each sample, [batch, C]; 0 for samples without a cell."""
    return _pool(inputs, "mean")


def global_max_pool(inputs: SparseTensor) -> Tensor:
    """The maximum of each sample, [batch, C]; 0 for samples without a cell."""
    return _pool(inputs, "max")


def _pool(inputs: SparseTensor, mode: str) -> Tensor:
    items = inputs.coords[:, inputs.batch_column].long()
    return pool_ops.sparse_segment_reduce(inputs.feats, items, batch_size_of(inputs), mode)


def batch_size_of(input: SparseTensor) -> int:
    """One more than the largest batch index."""
    items = input.coords[:, input.batch_column]
    return int(items.max()) + 1 if len(items) else 0


def spcrop(
    input: SparseTensor,
    coords_min: tuple[int, ...] | None = None,
    coords_max: tuple[int, ...] | None = None,
) -> SparseTensor:
    """Keeps the cells of a box.

    Args:
        input: A sparse tensor.
        coords_min: The lowest x, y, z kept; None: any.
        coords_max: One above the highest x, y, z kept; None: any.

    Returns:
        The cells inside, without maps.
    """
    first = 1 if input.batch_column == 0 else 0
    places = input.coords[:, first : first + 3]
    inside = torch.ones(len(places), dtype=torch.bool, device=places.device)
    if coords_min is not None:
        inside &= (places >= places.new_tensor(coords_min)).all(1)
    if coords_max is not None:
        inside &= (places < places.new_tensor(coords_max)).all(1)
    return input.like(input.feats[inside], input.coords[inside], spatial_range=None, caches=None)
