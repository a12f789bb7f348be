# SPDX-License-Identifier: Apache-2.0
"""torchsparse's ``backend``: the hash table that its users call directly."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...engine.sparse.arguments import check_tensor
from .nn.functional.hash import fnv_hash
from .utils.utils import kernel_offsets, make_divisible

__all__ = ["GPUHashTable"]

_ROWS = 128


class GPUHashTable:
    """Numbers, from 1, of coordinates or hashes; 0 of what is missing. Works on a CPU too.

    The table lies in the two tensors that it is given, so that another one over the same tensors
    finds the same. Of equal keys the first keeps its number.

    Args:
        keys: int64 [capacity], zeros; or the capacity.
        vals: int32 [capacity], zeros.

    Example:
        >>> table = GPUHashTable(torch.zeros(8).long(), torch.zeros(8).int())
        >>> table.insert_vals(torch.tensor([70, 80]))
        >>> table.lookup_vals(torch.tensor([80, 90, 70]))[:3].tolist()
        [2, 0, 1]
    """

    def __init__(self, keys: Tensor | int, vals: Tensor | None = None) -> None:
        if isinstance(keys, int):
            keys, vals = torch.zeros(keys, dtype=torch.int64), torch.zeros(keys, dtype=torch.int32)
        if vals is None or keys.shape != vals.shape or keys.dim() != 1:
            got = None if vals is None else list(vals.shape)
            raise ValueError(
                f"GPUHashTable: keys, vals: expected one shape [capacity], got "
                f"{list(keys.shape)} and {got}"
            )
        self.keys, self.vals = keys, vals

    def insert_coords(self, coords: Tensor) -> None:
        """Numbers coordinates.

        Args:
            coords: int32 [N, 4], x, y, z, batch.
        """
        self.insert_vals(fnv_hash(coords))

    def insert_vals(self, keys: Tensor) -> None:
        """Numbers hashes.

        Args:
            keys: int64 [N].

        Raises:
            ValueError: The table is too small.
        """
        check_tensor("GPUHashTable.insert_vals", "keys", keys)
        numbers = torch.arange(1, len(keys) + 1, dtype=self.vals.dtype, device=keys.device)
        order = keys.argsort(stable=True)
        ordered = keys[order]
        first = torch.ones_like(ordered, dtype=torch.bool)
        first[1:] = ordered[1:] != ordered[:-1]
        keys, numbers = ordered[first], numbers[order[first]]
        place = self._find(keys)
        self._move(keys)
        self.vals[place[place >= 0]] = numbers[place >= 0]
        keys, numbers = keys[place < 0], numbers[place < 0]
        free = (self.vals == 0).nonzero()[: len(keys), 0]
        if len(free) < len(keys):
            raise ValueError(
                f"GPUHashTable: keys: the table has {len(self.keys)} places, which are too few"
            )
        self.keys[free] = keys.to(self.keys.dtype)
        self.vals[free] = numbers

    def lookup_coords(
        self, coords: Tensor, kernel_sizes: Tensor, tensor_strides: Tensor, kernel_volume: int
    ) -> Tensor:
        """Numbers of the coordinates around others.

        Args:
            coords: int32 [N, 4], x, y, z, batch.
            kernel_sizes: [3], how many neighbours along each axis, from -(k - 1) // 2 on.
            tensor_strides: [3], what coordinates are multiplied by.
            kernel_volume: The product of the sizes.

        Returns:
            int32 [M, kernel_volume], M the next multiple of 128; the first axis fastest if the
            volume is odd, the last one if it is even.
        """
        sizes = [int(k) for k in kernel_sizes]
        if math.prod(sizes) != int(kernel_volume):
            raise ValueError(
                f"GPUHashTable.lookup_coords: kernel_volume: expected {math.prod(sizes)} for "
                f"kernel_sizes={sizes}, got {kernel_volume}"
            )
        offsets = kernel_offsets(sizes, [-((k - 1) // 2) for k in sizes]).to(coords.device)
        centres = coords[:, :3] * tensor_strides.to(coords.device).int()
        around = centres[:, None] + offsets
        batch = coords[:, None, 3:].expand(-1, len(offsets), -1)
        keys = fnv_hash(torch.cat([around, batch], -1).reshape(-1, 4))
        return _fill(self._numbers(keys).view(len(coords), -1))

    def lookup_vals(self, keys: Tensor) -> Tensor:
        """Numbers of hashes.

        Args:
            keys: int64 [N].

        Returns:
            int32 [M], M the next multiple of 128.
        """
        check_tensor("GPUHashTable.lookup_vals", "keys", keys)
        return _fill(self._numbers(keys))

    def _numbers(self, keys: Tensor) -> Tensor:
        place = self._find(keys)
        return torch.where(place >= 0, self.vals[place.clamp_min(0)], 0)

    def _find(self, keys: Tensor) -> Tensor:
        """int64 [N], the place of each key in the table, -1: none."""
        used = (self.vals != 0).nonzero()[:, 0]
        ordered, order = self.keys[used].sort()
        if not len(ordered):
            return torch.full_like(keys, -1, dtype=torch.int64)
        rows = torch.searchsorted(ordered, keys.to(ordered.dtype)).clamp_max(len(ordered) - 1)
        return torch.where(ordered[rows] == keys, used[order[rows]], -1)

    def _move(self, like: Tensor) -> None:
        """A table made from a capacity goes where its first keys are."""
        self.keys, self.vals = self.keys.to(like.device), self.vals.to(like.device)


def _fill(numbers: Tensor) -> Tensor:
    """Rows of zeros up to the next multiple of 128."""
    rows = make_divisible(len(numbers), _ROWS) - len(numbers)
    return torch.cat([numbers, numbers.new_zeros(rows, *numbers.shape[1:])])
