# SPDX-License-Identifier: Apache-2.0
"""The coordinates of one level of a network, and what is derived from them once.

A level is a set of coordinates, int32 [N, 1 + D], batch first, in units of its stride. It never
changes. Whoever is handed its tensor could write to it in place all the same; the tensor's version
tells, and using the level afterwards is an error instead of a wrong result.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from ...cuda.sparse import map_ops, pool_ops
from ...cuda.sparse.kernel_map import lasting
from ...cuda.sparse.map_ops import Bounds, CoordinateIndex
from ...cuda.sparse.pool_ops import Segments


class Level:
    """A set of coordinates of one stride.

    Args:
        coords: int32 [N, 1 + D], unique. Nobody else may write to it.
        stride: Per axis, what one step means in units of the network's input.
        spatial_range: Per axis, coordinates lie in 0 to here, exclusive; None: unbounded.
        batch_size: Items of the batch.
        number: Which of its cache's levels it is.
        limits: Numbers that no column leaves, batch included; None: nobody knows them yet.
        index: What finds the row of a coordinate, if it was made.

    Example:
        >>> level = Level(torch.tensor([[0, 5, 5], [1, 5, 6]], dtype=torch.int32), (1, 1), None, 2)
        >>> len(level), level.ndim, level.bounds
        (2, 2, ((5, 5), (5, 6)))
    """

    def __init__(
        self,
        coords: Tensor,
        stride: tuple[int, ...],
        spatial_range: tuple[int, ...] | None,
        batch_size: int,
        number: int = 0,
        limits: Bounds | None = None,
        index: CoordinateIndex | None = None,
    ) -> None:
        self.tensor = coords
        self.stride = stride
        self.spatial_range = spatial_range
        self.batch_size = batch_size
        self.number = number
        self.ndim = coords.shape[1] - 1
        self._limits = limits
        self._index = index
        self._version = None if coords.is_inference() else coords._version

    def __len__(self) -> int:
        return self.tensor.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the coordinates are."""
        return self.tensor.device

    def check_unchanged(self) -> None:
        """Raises if the coordinates were written to after the level was made.

        Raises:
            ValueError: They were. What is compiled does not look.
        """
        if torch.compiler.is_compiling():
            return
        if self._version is not None and self.tensor._version != self._version:
            raise ValueError(
                "SparseTensor: coords: were edited in place after the tensor was made, so its maps "
                "are no longer true; edit a copy and make a new SparseTensor of it"
            )

    @property
    def index(self) -> CoordinateIndex:
        """What finds the row of a coordinate."""
        if self._index is None:
            with lasting():
                self._index = map_ops.sparse_index(self.tensor)
        return self._index

    def adopt_index(self, index: CoordinateIndex | None) -> None:
        """Takes over an index that was made together with others.

        Args:
            index: Of these coordinates; None: none was made.
        """
        self._index = self._index or index

    @property
    def limits(self) -> Bounds:
        """Numbers that no column leaves, batch included; the host may wait for the device once."""
        if self._limits is None:
            self._limits = map_ops.sparse_bounds(self.tensor)
        return self._limits

    @cached_property
    def bounds(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The lowest and the highest coordinate of each axis, both inclusive, without the batch."""
        low, high = map_ops.sparse_bounds(self.tensor)
        return tuple(low[1:]), tuple(high[1:])

    @cached_property
    def items(self) -> Tensor:
        """int64 [N], the batch item of each row."""
        with lasting():
            return self.tensor[:, 0].long()

    @cached_property
    def segments(self) -> Segments:
        """The rows of each batch item, for reductions over items."""
        with lasting():
            return pool_ops.sparse_segments(self.items, self.batch_size)

    def same_as(self, other: Level) -> bool:
        """Whether both hold the same coordinates in the same order.

        Args:
            other: The other level.

        Returns:
            At once for one level and itself; of two, their values are compared.
        """
        if self is other:
            return True
        return self.stride == other.stride and self.holds(other.tensor)

    def holds(self, coords: Tensor) -> bool:
        """Whether these are its coordinates, in its order.

        Args:
            coords: int32 [N, 1 + D].

        Returns:
            Whether they are, after one wait for the device.
        """
        self.check_unchanged()
        return (
            self.device == coords.device
            and self.tensor.dtype == coords.dtype
            and torch.equal(self.tensor, coords)
        )
