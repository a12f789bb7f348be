# SPDX-License-Identifier: Apache-2.0
"""Coordinate sets: distinct, reached from one another, hashed.

Coordinates are int32 [N, 1 + D], batch first, D = 1..4, any values. One relation connects two sets,
axis by axis:

    fine = coarse * stride + origin + tap * dilation,    tap = 0 .. kernel_size - 1

computed in 64 bits: what leaves int32 does not exist. Taps are numbered with the last axis fastest.
Sets made here are sorted by batch, then by axis from the first, and have no duplicates; rows that
came in are never reordered.

All devices give equal results, bit for bit. Nothing here has gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..library import declare, ops

LOWEST, BEYOND = -(1 << 31), 1 << 31


class Taps(NamedTuple):
    """How a kernel lies over a grid: one number an axis in each.

    Example:
        >>> Taps((3, 3), (1, 1), (1, 1), (-1, -1)).count
        9
    """

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    origin: tuple[int, ...]

    @property
    def count(self) -> int:
        """The number of taps, K."""
        return prod(self.kernel_size)


Bounds = tuple[Sequence[int], Sequence[int]]
"""The lowest and the highest value of each column, batch included."""


class Unique(NamedTuple):
    """The distinct rows of coordinates, sorted."""

    coords: Tensor  # int32 [M, 1 + D]
    inverse: Tensor  # int64 [N]: the distinct row of each row
    first: Tensor  # int64 [M]: the smallest row of each distinct one
    counts: Tensor  # int64 [M]: how many rows it stands for


def check_coords(name: str, argument: str, coords: Any, columns: int | None = None) -> None:
    """Raises unless these are coordinates, of that many columns if it is given."""
    if not isinstance(coords, Tensor) or coords.dtype != torch.int32:
        got = coords.dtype if isinstance(coords, Tensor) else type(coords).__name__
        raise TypeError(f"{name}: {argument}: expected an int32 tensor, got {got}")
    wanted = f"[N, {columns}]" if columns else "[N, 2] to [N, 5]"
    if (
        coords.dim() != 2
        or not 2 <= coords.shape[1] <= 5
        or (columns is not None and coords.shape[1] != columns)
    ):
        raise ValueError(f"{name}: {argument}: expected shape {wanted}, got {list(coords.shape)}")


def tap_numbers(name: str, taps: Taps, columns: int) -> list[int]:
    """The taps, checked, as the operators take them."""
    axes = columns - 1
    for field, values in zip(Taps._fields, taps):
        if len(values) != axes:
            raise ValueError(
                f"{name}: taps.{field}: expected {axes} numbers, one an axis, got {list(values)}"
            )
    for field in ("kernel_size", "stride", "dilation"):
        values = getattr(taps, field)
        if min(values) < 1:
            raise ValueError(f"{name}: taps.{field}: expected 1 or more, got {list(values)}")
    if taps.count >= BEYOND:
        raise ValueError(f"{name}: taps: expected fewer than 2^31 of them, got {taps.count}")
    return [int(value) for values in taps for value in values]


def _limits(name: str, argument: str, limits: Sequence[int] | None, axes: int, other: int) -> Any:
    if limits is None:
        return [other] * axes
    if len(limits) != axes:
        raise ValueError(f"{name}: {argument}: expected {axes} numbers, got {list(limits)}")
    return [min(max(int(limit), LOWEST), BEYOND) for limit in limits]


def sparse_bounds(coords: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Lowest and highest value of each column, batch included.

    Args:
        coords: int32 [N, 1 + D].

    Returns:
        The lowest and the highest, 1 + D numbers each; zeros where there are no rows. The host
        waits for the GPU once.

    Raises:
        TypeError: The dtype is another.
        ValueError: The shape is another.

    Example:
        >>> sparse_bounds(torch.tensor([[0, 5, -2], [1, 3, 4]]).int())
        ((0, 3, -2), (1, 5, 4))
    """
    check_coords("sparse_bounds", "coords", coords)
    if coords.shape[0] == 0:
        zeros = (0,) * coords.shape[1]
        return zeros, zeros
    low, high = torch.stack([coords.amin(0), coords.amax(0)]).tolist()
    return tuple(low), tuple(high)


def sparse_unique(coords: Tensor) -> Unique:
    """Finds the distinct rows, sorts them, and says where each row went.

    Args:
        coords: int32 [N, 1 + D].

    Returns:
        The distinct rows, the distinct row of each row, the smallest row of each distinct one, and
        how many rows it stands for. The host waits for the GPU twice.

    Raises:
        TypeError: The dtype is another.
        ValueError: The shape is another.

    Example:
        >>> unique = sparse_unique(torch.tensor([[0, 7], [0, -7], [0, 7]]).int())
        >>> unique.coords.tolist(), unique.inverse.tolist(), unique.counts.tolist()
        ([[0, -7], [0, 7]], [1, 0, 1], [1, 2])
    """
    check_coords("sparse_unique", "coords", coords)
    return Unique(*ops().sparse_unique(coords))


def _unique_fake(coords: Tensor) -> tuple[Tensor, ...]:
    count = torch.library.get_ctx().new_dynamic_size()
    sizes = coords.shape[0], count, count
    return (
        coords.new_empty((count, coords.shape[1])),
        *(coords.new_empty((size,), dtype=torch.int64) for size in sizes),
    )


class Reaching:
    """How a tree of sets is reached, checked once.

    Args:
        name: Of the function that errors name.
        columns: Of the coordinates, 1 + D.
        taps: The kernel of each set.
        to_fine: Whether sets are finer than those before, not coarser.
        low: Of each set, the lowest coordinate of each axis or None.
        high: Of each set, the first coordinate of each axis beyond or None.
        sources: The set that each is reached from, 0 for the one that is given; default: the one
            before.

    Raises:
        ValueError: A kernel size, stride or dilation is below 1, or there are more or fewer numbers
            than axes.
    """

    def __init__(
        self,
        name: str,
        columns: int,
        taps: Sequence[Taps],
        to_fine: bool = False,
        low: Sequence[Sequence[int] | None] | None = None,
        high: Sequence[Sequence[int] | None] | None = None,
        sources: Sequence[int] | None = None,
    ) -> None:
        axes, none = columns - 1, [None] * len(taps)
        self.numbers = (
            [number for level in taps for number in tap_numbers(name, level, columns)],
            [*range(len(taps))] if sources is None else [*sources],
            to_fine,
            [n for limits in low or none for n in _limits(name, "low", limits, axes, LOWEST)],
            [n for limits in high or none for n in _limits(name, "high", limits, axes, BEYOND)],
        )

    def run(self, coords: Tensor, bounds: Bounds | None = None) -> list[Tensor]:
        """Finds the sets; coordinates are unchecked, bounds those of `sparse_levels`."""
        known = () if bounds is None else (*bounds[0], *bounds[1])
        return ops().sparse_reached(coords, *self.numbers, known)


def _reached_fake(
    coords: Tensor, taps: Any, sources: Any, to_fine: bool, low: Any, high: Any, bounds: Any
) -> list[Tensor]:
    context = torch.library.get_ctx()
    return [coords.new_empty((context.new_dynamic_size(), coords.shape[1])) for _ in sources]


def sparse_coarse_coordinates(
    coords: Tensor,
    taps: Taps,
    low: Sequence[int] | None = None,
    high: Sequence[int] | None = None,
    bounds: Bounds | None = None,
) -> Tensor:
    """Finds all coarse coordinates that some fine row reaches: the outputs of a convolution.

    Args:
        coords: int32 [N, 1 + D], the fine set; repeated rows count once.
        taps: The kernel.
        low: Lowest coordinate of each axis, D numbers; None: any.
        high: First coordinate of each axis beyond, D numbers; None: any.
        bounds: Numbers that no column of the coordinates leaves, as ``sparse_bounds`` gives them.

    Returns:
        int32 [M, 1 + D], sorted and distinct. The host waits for the GPU once, and once more
        without bounds.

    Raises:
        TypeError: The dtype is another.
        ValueError: A shape is another, or a kernel size, stride or dilation below 1.

    Example:
        >>> taps = Taps((3,), (2,), (1,), (-1,))
        >>> sparse_coarse_coordinates(torch.tensor([[0, 3]]).int(), taps).tolist()
        [[0, 1], [0, 2]]
    """
    name = "sparse_coarse_coordinates"
    check_coords(name, "coords", coords)
    return Reaching(name, coords.shape[1], [taps], False, [low], [high]).run(coords, bounds)[0]


def sparse_fine_coordinates(
    coords: Tensor,
    taps: Taps,
    low: Sequence[int] | None = None,
    high: Sequence[int] | None = None,
    bounds: Bounds | None = None,
) -> Tensor:
    """Finds all fine coordinates reached from coarse rows: the outputs of a transposed convolution.

    Args:
        coords: int32 [N, 1 + D], the coarse set; repeated rows count once.
        taps: The kernel.
        low: Lowest coordinate of each axis, D numbers; None: any.
        high: First coordinate of each axis beyond, D numbers; None: any.
        bounds: Numbers that no column of the coordinates leaves, as ``sparse_bounds`` gives them.

    Returns:
        int32 [M, 1 + D], sorted and distinct. The host waits for the GPU once, and once more
        without bounds.

    Raises:
        TypeError: The dtype is another.
        ValueError: A shape is another, or a kernel size, stride or dilation below 1.

    Example:
        >>> taps = Taps((3,), (2,), (1,), (-1,))
        >>> sparse_fine_coordinates(torch.tensor([[0, 1]]).int(), taps).tolist()
        [[0, 1], [0, 2], [0, 3]]
    """
    name = "sparse_fine_coordinates"
    check_coords(name, "coords", coords)
    return Reaching(name, coords.shape[1], [taps], True, [low], [high]).run(coords, bounds)[0]


def sparse_levels(
    coords: Tensor,
    taps: Sequence[Taps],
    sources: Sequence[int] | None = None,
    high: Sequence[Sequence[int] | None] | None = None,
    bounds: Bounds | None = None,
) -> list[Tensor]:
    """Finds coarse coordinates level after level, each from one before.

    Levels whose kernels are no larger than their strides are made together.

    Args:
        coords: int32 [N, 1 + D].
        taps: The kernel of each level.
        sources: The level that each is reached from: 0 for ``coords``, 1 for the first of these,
            and so on; default: the one before.
        high: Of each level, sizes that coordinates from 0 on stay below, D numbers, or None: any.
        bounds: Numbers that no column of ``coords`` leaves, as ``sparse_bounds`` gives them.

    Returns:
        The coarse set of each level, as ``sparse_coarse_coordinates`` gives it. The host waits for
        the GPU once in all, once more without bounds, and again where a level has more than twice
        the rows of the first.

    Raises:
        TypeError: The dtype is another.
        ValueError: A shape is another, or a kernel size, stride or dilation below 1.

    Example:
        >>> halve = Taps((2,), (2,), (1,), (0,))
        >>> coords = torch.tensor([[0, 3], [0, 9]]).int()
        >>> [level.tolist() for level in sparse_levels(coords, [halve, halve])]
        [[[0, 1], [0, 4]], [[0, 0], [0, 2]]]
    """
    check_coords("sparse_levels", "coords", coords)
    return reaching_levels(coords.shape[1], taps, sources, high).run(coords, bounds)


def reaching_levels(
    columns: int,
    taps: Sequence[Taps],
    sources: Sequence[int] | None = None,
    high: Sequence[Sequence[int] | None] | None = None,
) -> Reaching:
    """What `sparse_levels` does to any coordinates of so many columns; its other arguments."""
    low = None if high is None else [None if h is None else (0,) * len(h) for h in high]
    return Reaching("sparse_levels", columns, taps, False, low, high, sources)


def sparse_hash(coords: Tensor) -> Tensor:
    """Hashes each row to 64 bits; the same on every device.

    Two columns at a time, each as an unsigned 32-bit number, the first in the high half, the last
    of an odd number with 0: ``hash = mix((hash ^ pair) + 0x9E3779B97F4A7C15)`` from 0 on, where
    mix is the finaliser of SplitMix64.

    Args:
        coords: int32 [N, 1 + D].

    Returns:
        int64 [N].

    Raises:
        TypeError: The dtype is another.
        ValueError: The shape is another.

    Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014).

    Example:
        >>> sparse_hash(torch.tensor([[0, 0]]).int()).item() == 0xE220A8397B1DCDAF - 2**64
        True
    """
    check_coords("sparse_hash", "coords", coords)
    return ops().sparse_hash(coords)


def _hash_fake(coords: Tensor) -> Tensor:
    return coords.new_empty((coords.shape[0],), dtype=torch.int64)


declare("sparse_hash", _hash_fake)
declare("sparse_unique", _unique_fake)
declare("sparse_reached", _reached_fake)
