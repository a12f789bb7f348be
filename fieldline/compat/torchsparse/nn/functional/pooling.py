# SPDX-License-Identifier: Apache-2.0
"""torchsparse's functions of whole samples: pools, and crops."""

from __future__ import annotations

import torch
from torch import Tensor

from .....cuda.sparse import pool_ops
from .....engine.sparse.arguments import check_kind, check_tensor, ints
from ...tensor import SparseTensor
from ...utils.utils import make_ntuple

__all__ = ["global_avg_pool", "global_max_pool", "spcrop"]


def global_avg_pool(inputs: SparseTensor) -> Tensor:
    """The mean of each sample, [batch, C]; 0 for samples without a cell."""
    return _pool(inputs, "mean")


def global_max_pool(inputs: SparseTensor) -> Tensor:
    """The maximum of each sample, [batch, C]; 0 for samples without a cell."""
    return _pool(inputs, "max")


def _pool(inputs: SparseTensor, mode: str) -> Tensor:
    check_input(f"global_{mode}_pool", inputs)
    items = inputs.coords[:, inputs.batch_column].long()
    return pool_ops.sparse_segment_reduce(inputs.feats, items, batch_size_of(inputs), mode)


def check_input(name: str, input: SparseTensor) -> None:
    """Raises unless this is a sparse tensor whose coordinates and features belong together.

    Args:
        name: Of the function that was called.
        input: Any object.

    Raises:
        TypeError: It is no sparse tensor, or was not made of tensors.
        ValueError: A shape is another.
    """
    check_kind(name, "input", input, SparseTensor)
    check_tensor(name, "input.coords", input.coords)
    check_tensor(name, "input.feats", input.feats)
    if input.coords.dim() != 2 or input.coords.shape[1] != 4:
        got = list(input.coords.shape)
        raise ValueError(f"{name}: input.coords: expected shape [N, 4], got {got}")
    if input.feats.dim() != 2 or len(input.feats) != len(input.coords):
        got = list(input.feats.shape)
        expected = f"[{len(input.coords)}, C], a row for each coordinate"
        raise ValueError(f"{name}: input.feats: expected shape {expected}, got {got}")


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
    check_input("spcrop", input)
    first = 1 if input.batch_column == 0 else 0
    places = input.coords[:, first : first + 3]
    inside = torch.ones(len(places), dtype=torch.bool, device=places.device)
    if coords_min is not None:
        low = ints("spcrop", "coords_min", make_ntuple(coords_min, 3), 3, None)
        inside &= (places >= places.new_tensor(low)).all(1)
    if coords_max is not None:
        high = ints("spcrop", "coords_max", make_ntuple(coords_max, 3), 3, None)
        inside &= (places < places.new_tensor(high)).all(1)
    return input.like(input.feats[inside], input.coords[inside], spatial_range=None, caches=None)
