# SPDX-License-Identifier: Apache-2.0
"""torchsparse's ``operators``: several tensors to one."""

from __future__ import annotations

import torch

from ...cuda.sparse import map_ops, pool_ops
from .tensor import SparseTensor

__all__ = ["cat", "generative_add"]


def cat(inputs: list[SparseTensor]) -> SparseTensor:
    """Tensors on the same coordinates, channel after channel.

    Args:
        inputs: The tensors.

    Returns:
        The joined tensor, with the first one's coordinates and maps.
    """
    return inputs[0].like(torch.cat([tensor.feats for tensor in inputs], dim=1))


def generative_add(a: SparseTensor, b: SparseTensor) -> SparseTensor:
    """Adds tensors whose coordinates differ: their union, sums where they meet.

    Args:
        a: One tensor.
        b: Another of the same stride and channels.

    Returns:
        The sum, coordinates in order, with stride and range of the larger tensor.
    """
    large = a if a.feats.shape[0] >= b.feats.shape[0] else b
    unique = map_ops.sparse_unique(torch.cat([a.coords, b.coords]))
    feats = torch.cat([a.feats, b.feats])
    sums = pool_ops.sparse_segment_reduce(feats, unique.inverse, len(unique.coords), "sum")
    return large.like(sums, unique.coords)
