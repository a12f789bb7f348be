# SPDX-License-Identifier: Apache-2.0
"""torchsparse's hashes: what they are, and rows found by them."""

from __future__ import annotations

import torch
from torch import Tensor

from .....engine.sparse.arguments import check_tensor

__all__ = ["sphash", "sphashquery"]

_FNV_BASIS = 14695981039346656037 - 2**64
_FNV_PRIME = 1099511628211
_LOW_60_BITS = 2**60 - 1


def fnv_hash(coords: Tensor) -> Tensor:
    """The 64-bit FNV-1a hash of four numbers, a word at a time.

    Args:
        coords: int32 [N, 4].

    Returns:
        int64 [N].
    """
    hashed = torch.full((len(coords),), _FNV_BASIS, device=coords.device)
    for word in (coords.long() & 0xFFFFFFFF).unbind(1):
        hashed = (hashed ^ word) * _FNV_PRIME
    return hashed


def sphash(coords: Tensor, offsets: Tensor | None = None) -> Tensor:
    """Hashes of coordinates, or of those around them; the numbers are torchsparse's.

    Args:
        coords: int32 [N, 4]; offsets are added to the first three columns.
        offsets: int32 [K, 3].

    Returns:
        int64 [N], or [K, N].

    Raises:
        TypeError: Coordinates are not int32.
        ValueError: A shape is wrong.

    Example:
        >>> coords = torch.tensor([[1, 2, 3, 0]], dtype=torch.int32)
        >>> bool((sphash(coords, torch.zeros(1, 3).int())[0] == sphash(coords)).all())
        True
    """
    _check("coords", coords, 4)
    if offsets is not None:
        _check("offsets", offsets, 3)
        around = coords[None, :, :3] + offsets[:, None]
        batch = coords[None, :, 3:].expand(len(offsets), -1, -1)
        coords = torch.cat([around, batch], -1)
    hashed = fnv_hash(coords.reshape(-1, 4)).view(coords.shape[:-1])
    return ((hashed >> 60) & 15) ^ (hashed & _LOW_60_BITS)


def sphashquery(queries: Tensor, references: Tensor) -> Tensor:
    """Rows of hashes.

    Args:
        queries: int64, any shape.
        references: int64 [M].

    Returns:
        int64 of the queries' shape: the first row of the references with that hash, -1: none.

    Example:
        >>> sphashquery(torch.tensor([[5, 7]]), torch.tensor([7, 9, 7])).tolist()
        [[-1, 0]]
    """
    for argument, hashes in (("queries", queries), ("references", references)):
        check_tensor("sphashquery", argument, hashes)
    if references.dim() != 1:
        raise ValueError(
            f"sphashquery: references: expected shape [M], got {list(references.shape)}"
        )
    if not len(references):
        return torch.full_like(queries, -1)
    ordered, order = references.contiguous().sort(stable=True)
    place = torch.searchsorted(ordered, queries.contiguous()).clamp_max(len(ordered) - 1)
    return torch.where(ordered[place] == queries, order[place], -1)


def _check(name: str, tensor: Tensor, columns: int) -> None:
    check_tensor("sphash", name, tensor)
    if tensor.dtype != torch.int32:
        raise TypeError(f"sphash: {name}: expected int32, got {tensor.dtype}")
    if tensor.dim() != 2 or tensor.shape[1] != columns:
        raise ValueError(f"sphash: {name}: expected shape [N, {columns}], got {list(tensor.shape)}")
