# SPDX-License-Identifier: Apache-2.0
"""Coordinates as other libraries' users give them, and maps of them that stay true.

Users write to ``indices`` in place, and feed rows that repeat a coordinate or lie outside the
batch. A `CoordinateSet` keeps its own copy, so that an edit makes a new set instead of a wrong map,
and *folds* such rows: maps are made of each coordinate once, features are added up on the way in
and handed out on the way back.
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from ..cuda.sparse import conv_ops, map_ops, pool_ops
from ..cuda.sparse.kernel_map import KernelMap
from ..cuda.sparse.map_ops import CoordinateIndex, Taps
from ..engine.sparse import maps

Shape = tuple[int, ...]


class Folding:
    """Which row of a set of unique coordinates each row of the user's stands for.

    Args:
        coords: int32 [N, 1 + D], as they came.
        inside: bool [N], rows whose batch index exists; the others stand for none.
    """

    def __init__(self, coords: Tensor, inside: Tensor) -> None:
        kept = inside.nonzero()[:, 0]
        unique = map_ops.sparse_unique(coords[kept])
        self.coords = unique.coords
        self.first = kept[unique.first]
        self.rows = torch.full_like(inside, -1, dtype=torch.int64)
        self.rows[kept] = unique.inverse

    def add_up(self, features: Tensor, mode: str = "sum") -> Tensor:
        """[N, C] to [M, C], the rows of one coordinate reduced to one."""
        return pool_ops.sparse_segment_reduce(features, self.rows, self.coords.shape[0], mode)

    def take_first(self, features: Tensor) -> Tensor:
        """[N, C] to [M, C], the first row of each coordinate."""
        return _gather(features, self.first)

    def hand_out(self, features: Tensor) -> Tensor:
        """[M, C] to [N, C], to every row what its coordinate has; 0 to those of none."""
        return _gather(features, self.rows)

    def convolve(
        self, features: Tensor, kernel: Tensor, kernel_map: KernelMap, kind: str, own_tap: int = 0
    ) -> Tensor:
        """Convolves over a map of the unique coordinates.

        Args:
            features: [N, C_in]; of an inverse layer, of the map's input.
            kernel: [K, C_in, C_out].
            kernel_map: Of the unique coordinates.
            kind: "submanifold", "strided" (and transposed) or "inverse".
            own_tap: Where a submanifold kernel meets the row itself.

        Returns:
            [N, C_out], or rows of the map's output where the layer makes them.
        """
        if kind == "strided":
            return conv_ops.sparse_convolution(self.add_up(features), kernel, kernel_map)
        if kind == "inverse":
            return self.hand_out(conv_ops.sparse_convolution(features, kernel, kernel_map))
        # Each row has its own centre; what its neighbours give is that of its coordinate.
        first = self.take_first(features)
        around = self.hand_out(conv_ops.sparse_convolution(first, kernel, kernel_map))
        return around + (features - self.hand_out(first)) @ kernel[own_tap]


class CoordinateSet:
    """Coordinates of a tensor, and the submanifold maps on them.

    Args:
        coords: int32 [N, 1 + D], any strides. Later edits of it do no harm.
        batch_size: Items of the batch; None: any batch index from 0 is one.
        regular: What is known of them: True if each coordinate stands once and inside the batch.
        columns: Which of its columns are batch, x, y, ...; None: they stand in that order.
    """

    def __init__(
        self,
        coords: Tensor,
        batch_size: int | None = None,
        regular: bool | None = None,
        columns: Shape | None = None,
    ) -> None:
        self._columns = columns
        self.coords = self._ordered(coords.detach()).clone(memory_format=torch.contiguous_format)
        self.batch_size = batch_size
        self._given, self._version = coords, _version(coords)
        if regular is not None:
            self.__dict__["regular"] = regular
        self._submanifold: dict[tuple[Shape, Shape], KernelMap] = {}

    def is_of(self, coords: Tensor, batch_size: int | None = None) -> bool:
        """Whether a tensor holds these coordinates in this order, now."""
        if self.batch_size != batch_size:
            return False
        if coords is self._given and self._untouched:
            return True
        same_kind = coords.shape == self.coords.shape and coords.device == self.coords.device
        return same_kind and torch.equal(self._ordered(coords), self.coords)

    @property
    def tensor(self) -> Tensor:
        """The coordinates to hand to the user: the tensor that came, unless it was edited."""
        if not self._untouched:
            columns = range(self.coords.shape[1]) if self._columns is None else self._columns
            self._given = self.coords[:, [columns.index(c) for c in range(len(columns))]]
            self._version = _version(self._given)
        return self._given

    def _ordered(self, coords: Tensor) -> Tensor:
        return coords if self._columns is None else coords[:, list(self._columns)]

    @property
    def _untouched(self) -> bool:
        return self._version is not None and _version(self._given) == self._version

    @cached_property
    def regular(self) -> bool:
        """Whether every row has a coordinate of its own and a batch index that exists."""
        if not bool(self._inside.all()):
            return False
        rows = map_ops.sparse_lookup(self._index_of_all, self.coords)
        return bool((rows == torch.arange(len(rows), device=rows.device)).all())

    @cached_property
    def folding(self) -> Folding | None:
        """How rows are folded; None where nothing needs to be."""
        return None if self.regular else Folding(self.coords, self._inside)

    @property
    def unique_coords(self) -> Tensor:
        """int32 [M, 1 + D], what maps are made of."""
        return self.coords if self.folding is None else self.folding.coords

    @cached_property
    def index(self) -> CoordinateIndex:
        """What finds a row of `unique_coords`."""
        if self.folding is None:
            return self._index_of_all
        return map_ops.sparse_index(self.folding.coords)

    @cached_property
    def _index_of_all(self) -> CoordinateIndex:
        return map_ops.sparse_index(self.coords)

    @cached_property
    def _inside(self) -> Tensor:
        batch = self.coords[:, 0]
        inside = batch >= 0
        return inside if self.batch_size is None else inside & (batch < self.batch_size)

    def submanifold(self, kernel_size: Shape, dilation: Shape) -> KernelMap:
        """The map of a centred kernel, made once."""
        key = kernel_size, dilation
        if key not in self._submanifold:
            taps = maps.submanifold_taps(kernel_size, dilation)
            self._submanifold[key] = maps.submanifold_map(
                self.unique_coords, taps, lambda: self.index
            )
        return self._submanifold[key]

    def strided(self, taps: Taps, low: Shape | None, high: Shape | None) -> Reached:
        """The map to all coarse coordinates that these reach."""
        coords, kernel_map = maps.strided_map(self.index, taps, low, high)
        return Reached(CoordinateSet(coords, self.batch_size, regular=True), kernel_map)

    def transposed(self, taps: Taps, low: Shape | None, high: Shape | None) -> Reached:
        """The map to all fine coordinates that these reach."""
        coords, kernel_map = maps.transposed_map(self.unique_coords, taps, low, high)
        return Reached(CoordinateSet(coords, self.batch_size, regular=True), kernel_map)


class Reached(NamedTuple):
    """A map and the coordinates it leads to."""

    coordinates: CoordinateSet
    kernel_map: KernelMap


def _gather(features: Tensor, rows: Tensor) -> Tensor:
    """Rows of features, 0 where the row is -1; the gradient adds up in a fixed order."""
    weights = torch.ones(len(rows), 1, dtype=features.dtype, device=features.device)
    return pool_ops.sparse_interpolate(features, rows[:, None], weights)


def _version(tensor: Tensor) -> int | None:
    """How often a tensor was written to; tensors of inference mode do not tell."""
    return None if tensor.is_inference() else tensor._version
