# SPDX-License-Identifier: Apache-2.0
"""torchsparse's ``utils.to_dense``."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ....engine.sparse.arguments import check_tensor, check_volume, ints

__all__ = ["to_dense"]


def to_dense(feats: Tensor, coords: Tensor, spatial_range: Sequence[int]) -> Tensor:
    """Writes features into a dense tensor of zeros.

    Args:
        feats: [N, C].
        coords: [N, n], places along the first n axes of the result.
        spatial_range: Sizes of those axes, the batch's among them.

    Returns:
        [*spatial_range, C]. Rows outside it are left out; of rows of one place, one is kept.

    Raises:
        TypeError: They are no tensors.
        ValueError: A shape is another, or the result would be larger than any memory.

    Example:
        >>> coords = torch.tensor([[0, 1, 0, 0]])
        >>> to_dense(torch.ones(1, 2), coords, (1, 2, 1, 1))[0, :, 0, 0, 0].tolist()
        [0.0, 1.0]
    """
    name = "to_dense"
    check_tensor(name, "feats", feats)
    check_tensor(name, "coords", coords)
    if coords.dim() != 2:
        raise ValueError(f"{name}: coords: expected shape [N, n], got {list(coords.shape)}")
    shape = ints(name, "spatial_range", tuple(spatial_range), coords.shape[1], 0)
    if feats.dim() != 2 or len(feats) != len(coords):
        raise ValueError(
            f"{name}: feats: expected shape [{len(coords)}, C], got {list(feats.shape)}"
        )
    check_volume(name, (*shape, feats.shape[1]))
    coords = coords.long()
    inside = ((coords >= 0) & (coords < torch.tensor(shape, device=coords.device))).all(1)
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    places = (coords * torch.tensor(strides, device=coords.device)).sum(1)
    n_places = math.prod(shape)
    # Rows outside go to a place of their own, which is dropped: no round trip to count them.
    places = torch.where(inside, places, n_places)
    dense = feats.new_zeros(n_places + 1, feats.shape[1]).index_put((places,), feats)
    return dense[:-1].view(*shape, feats.shape[1])
