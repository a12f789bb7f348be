# SPDX-License-Identifier: Apache-2.0
"""torchsparse's ``operators``: several tensors to one."""

from __future__ import annotations

import torch

from ...cuda.sparse import map_ops, pool_ops
from ...engine.sparse.arguments import check_kind, shown
from .tensor import SparseTensor

__all__ = ["cat", "generative_add"]


def cat(inputs: list[SparseTensor]) -> SparseTensor:
    """Tensors on the same coordinates, channel after channel.

    Args:
        inputs: The tensors.

    Returns:
        The joined tensor, with the first one's coordinates and maps.

    Raises:
        TypeError: They are no sparse tensors.
        ValueError: There is none, or their numbers of rows differ.
    """
    if not isinstance(inputs, list | tuple) or not inputs:
        raise ValueError(f"cat: inputs: expected a list of sparse tensors, got {shown(inputs)}")
    for number, tensor in enumerate(inputs):
        check_kind("cat", f"inputs[{number}]", tensor, SparseTensor)
        if len(tensor.feats) != len(inputs[0].feats):
            raise ValueError(
                f"cat: inputs[{number}]: expected {len(inputs[0].feats)} rows as the first, "
                f"got {len(tensor.feats)}"
            )
    return inputs[0].like(torch.cat([tensor.feats for tensor in inputs], dim=1))


def generative_add(a: SparseTensor, b: SparseTensor) -> SparseTensor:
    """Adds tensors whose coordinates differ: their union, sums where they meet.

    Args:
        a: One tensor.
        b: Another of the same stride and channels.

    Returns:
        The sum, coordinates in order, with stride and range of the larger tensor.

    Raises:
        TypeError: They are no sparse tensors.
        ValueError: Their channels differ.
    """
    for argument, tensor in (("a", a), ("b", b)):
        check_kind("generative_add", argument, tensor, SparseTensor)
    if a.feats.shape[1:] != b.feats.shape[1:]:
        raise ValueError(
            f"generative_add: b: expected features {list(a.feats.shape[1:])} as those of a, "
            f"got {list(b.feats.shape[1:])}"
        )
    large = a if a.feats.shape[0] >= b.feats.shape[0] else b
    unique = map_ops.sparse_unique(torch.cat([a.coords, b.coords]))
    feats = torch.cat([a.feats, b.feats])
    sums = pool_ops.sparse_segment_reduce(feats, unique.inverse, len(unique.coords), "sum")
    return large.like(sums, unique.coords)
