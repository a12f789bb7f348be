# SPDX-License-Identifier: Apache-2.0
"""Kernel maps as torchsparse keeps them: by stride, kernel size, stride of the layer, dilation.

Taps are numbered in torchsparse's order, so that its kernels are used as they are: of an odd
number of taps the first axis is fastest, of an even number the last. Our maps have the last axis
fastest; the other order is that of a map between the same coordinates with their axes reversed.

A kept map is used only for the coordinates that it was made of: they are compared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .....cuda.sparse import conv_ops, map_ops
from .....cuda.sparse.kernel_map import KernelMap
from .....cuda.sparse.map_ops import Taps
from .....engine.sparse import maps
from .....engine.sparse.arguments import check_coordinates
from ....coordinate_set import CoordinateSet
from ...tensor import SparseTensor, get_allow_negative_coordinates

Shape = tuple[int, ...]
_REVERSED = (0, 3, 2, 1)


class Level:
    """Coordinates of one stride, in both orders of their axes.

    Args:
        coords: int32 [N, 4], as the user has them.
        batch_column: 0 or 3.
        regular: True if each coordinate is known to stand once.
    """

    def __init__(self, coords: Tensor, batch_column: int, regular: bool | None = None) -> None:
        columns = None if batch_column == 0 else (3, 0, 1, 2)
        self.natural = CoordinateSet(coords, regular=regular, columns=columns)

    @cached_property
    def reversed(self) -> CoordinateSet:
        """Batch, z, y, x."""
        return CoordinateSet(self.natural.coords, regular=self.natural.regular, columns=_REVERSED)

    def ordered_for(self, taps: int) -> CoordinateSet:
        """The coordinates whose maps number so many taps as torchsparse does."""
        return self.reversed if taps % 2 else self.natural

    def is_of(self, coords: Tensor) -> bool:
        """Whether a tensor holds these coordinates in this order, now."""
        return self.natural.is_of(coords)

    @property
    def tensor(self) -> Tensor:
        """The coordinates as the user has them."""
        return self.natural.tensor


@dataclass(eq=False)
class Kmap:
    """A kernel map in a tensor's cache; its facts are items too, as in torchsparse's dicts.

    Attributes:
        inputs: Coordinates that the layer was given.
        outputs: Coordinates that it gave.
        kernel_map: Between the unique rows of both.
        taps: What connects them, axes in natural order.
        spatial_range: Of the output.
        input_range: Of the input.
        recipe: What made it beside its key; a map of another recipe is not taken for it.
    """

    inputs: Level
    outputs: Level
    kernel_map: KernelMap
    taps: Taps
    spatial_range: Shape | None = None
    input_range: Shape | None = None
    recipe: Any = None

    def __getitem__(self, key: str) -> Any:
        if key == "coords":
            return self.outputs.tensor
        if key == "sizes":
            return len(self.inputs.natural.coords), len(self.outputs.natural.coords)
        if key == "spatial_range":
            return self.spatial_range
        if key == "out_in_map":
            return self.kernel_map.table.t()
        in_rows, out_rows, starts = self.kernel_map.pairs
        if key == "nbmaps":
            return torch.stack([in_rows, out_rows], 1)
        if key == "nbsizes":
            return starts.diff()
        raise KeyError(key)

    def convolve(self, feats: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
        """From the inputs to the outputs."""
        kind = "submanifold" if self.inputs is self.outputs else "strided"
        return self._run(feats, kernel, self.kernel_map, kind, bias)

    def convolve_back(self, feats: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
        """From the outputs to the inputs, with the same taps."""
        return self._run(feats, kernel, self.kernel_map.reverse, "inverse", bias)

    def _run(
        self, feats: Tensor, kernel: Tensor, kernel_map: KernelMap, kind: str, bias: Tensor | None
    ) -> Tensor:
        folding = self.inputs.ordered_for(len(kernel)).folding
        if folding is None:
            return conv_ops.sparse_convolution(feats, kernel, kernel_map, bias)
        out = folding.convolve(feats, kernel, kernel_map, kind, self._own_tap)
        return out if bias is None else out + bias

    @property
    def _own_tap(self) -> int:
        """Where the kernel meets the row itself, of a map that stays on its coordinates."""
        size = self.taps.kernel_size
        place = [-o // d for o, d in zip(self.taps.origin, self.taps.dilation)]
        odd = math.prod(size) % 2 == 1
        number = 0
        for axis in reversed(range(3)) if odd else range(3):
            number = number * size[axis] + place[axis]
        return number


def level_of(input: SparseTensor) -> Level:
    """The coordinates of a tensor, from its cache if they are those."""
    check_coordinates("conv3d", "input.coords", input.coords, 3)
    known = input._caches.hashmaps.get(input.stride)
    if known is None or not known.is_of(input.coords):
        known = Level(input.coords, input.batch_column)
        input._caches.hashmaps[input.stride] = known
    return known


@torch.no_grad()
def submanifold(level: Level, taps: Taps, spatial_range: Shape | None) -> Kmap:
    """The map of a layer that stays on its coordinates.

    Args:
        level: The coordinates.
        taps: Of stride 1.
        spatial_range: Of the tensor.

    Returns:
        The map.
    """
    symmetric = all(
        2 * -o == d * (k - 1) for k, d, o in zip(taps.kernel_size, taps.dilation, taps.origin)
    )
    kernel_map = _between(level, None, taps, symmetric)
    return Kmap(level, level, kernel_map, taps, spatial_range, spatial_range)


@torch.no_grad()
def strided(
    level: Level,
    taps: Taps,
    coarse: Tensor,
    outputs: Level,
    spatial_range: Shape | None = None,
    input_range: Shape | None = None,
) -> Kmap:
    """The map of a layer to coarse coordinates.

    Args:
        level: The fine coordinates.
        taps: What connects them.
        coarse: int32 [M, 4], batch first, in units of the taps' stride.
        outputs: The same as the user has them.
        spatial_range: Of the output.
        input_range: Of the input.

    Returns:
        The map.
    """
    kernel_map = _between(level, coarse, taps, symmetric=False)
    return Kmap(level, outputs, kernel_map, taps, spatial_range, input_range)


def _between(level: Level, coarse: Tensor | None, taps: Taps, symmetric: bool) -> KernelMap:
    fine = level.ordered_for(math.prod(taps.kernel_size))
    if fine is not level.natural:
        taps = Taps(*(tuple(reversed(shape)) for shape in taps))
        coarse = None if coarse is None else coarse[:, list(_REVERSED)].contiguous()
    reached = fine.unique_coords if coarse is None else coarse
    return maps.map_between(fine.index, reached, taps, symmetric)


def floored(coords: Tensor, stride: Shape) -> Tensor:
    """The coarse cells that fine ones lie in.

    Args:
        coords: int32 [N, 4], batch first.
        stride: Per axis.

    Returns:
        int32 [M, 4], each once and in order, in units of the stride.
    """
    steps = coords.new_tensor((1, *stride))
    return map_ops.sparse_unique(torch.div(coords, steps, rounding_mode="floor")).coords


def coarse_range(
    coords: Tensor, spatial_range: Shape | None, taps: Taps
) -> tuple[Shape | None, Shape, Shape | None]:
    """Where the outputs of a strided layer lie, as in torchsparse 2.1.

    Outputs begin at 0 unless negative coordinates are allowed, and end where a dense convolution's
    would: of an input of the range given, or up to the largest coordinate. Where a kernel as large
    as its stride divides an axis into cells, the last cell counts although it is not full.

    Args:
        coords: int32 [N, 4], batch first, of the input.
        spatial_range: Of the input, with the batch; None: unknown.
        taps: Of the layer.

    Returns:
        The lowest output per axis, one above the highest, and the output's ``spatial_range``.
    """
    low = None if get_allow_negative_coordinates() else (0, 0, 0)
    if spatial_range is not None:
        sizes = maps.strided_range(spatial_range[1:], taps)
        return low, sizes, (spatial_range[0], *sizes)
    _, highest = map_ops.sparse_bounds(coords)
    extent = tuple(n + 1 for n in highest[1:])
    padding = [-o for o in taps.origin]
    reached = (
        (n - 1) // s + 1 if k == s and p == 0 and d == 1 else (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, d, p in zip(extent, taps.kernel_size, taps.stride, taps.dilation, padding)
    )
    return low, tuple(reached), None
