# SPDX-License-Identifier: Apache-2.0
"""Kernel maps between sets of coordinates, made from scratch.

Fine and coarse coordinates of every map obey one relation, per axis:

    fine = coarse * stride + origin + tap * dilation,      tap = 0 .. kernel_size - 1

A strided convolution goes from fine to coarse; a transposed one from coarse to fine, with the same
taps. A submanifold convolution stays on its coordinates: fine and coarse are the same set.

Nothing is remembered here: `cache.MapCache` does that.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ...cuda.sparse import map_ops
from ...cuda.sparse.coordinate_ops import BEYOND, LOWEST
from ...cuda.sparse.kernel_map import KernelMap
from ...cuda.sparse.map_ops import Bounds, CoordinateIndex, Taps

Shape = tuple[int, ...]


def submanifold_taps(kernel_size: Shape, dilation: Shape) -> Taps:
    """The taps of a convolution that stays on its coordinates, centred.

    Args:
        kernel_size: Per axis.
        dilation: Per axis.

    Returns:
        The taps; of an even kernel, one more lies above the centre than below.

    Example:
        >>> submanifold_taps((3, 2), (1, 4)).origin
        (-1, 0)
    """
    origin = tuple(-d * ((k - 1) // 2) for k, d in zip(kernel_size, dilation))
    return Taps(kernel_size, (1,) * len(kernel_size), dilation, origin)


def strided_taps(kernel_size: Shape, stride: Shape, dilation: Shape, padding: Shape) -> Taps:
    """The taps of a strided or transposed convolution, as those of a dense one.

    Args:
        kernel_size: Per axis.
        stride: Per axis.
        dilation: Per axis.
        padding: Per axis.

    Returns:
        The taps.

    Example:
        >>> strided_taps((3,), (2,), (1,), (1,)).origin
        (-1,)
    """
    return Taps(kernel_size, stride, dilation, tuple(-p for p in padding))


def strided_range(spatial_range: Shape, taps: Taps) -> Shape:
    """How many positions a strided convolution has along each axis.

    Args:
        spatial_range: Sizes of its input.
        taps: Of the convolution; minus its origin is the padding on either side.

    Returns:
        floor((n + 2 p - d (k - 1) - 1) / s) + 1 per axis, at least 0.

    Example:
        >>> strided_range((41,), strided_taps((3,), (2,), (1,), (0,)))
        (20,)
    """
    sizes = zip(spatial_range, *taps)
    return tuple(max((n - 2 * o - d * (k - 1) - 1) // s + 1, 0) for n, k, s, d, o in sizes)


def transposed_range(spatial_range: Shape, taps: Taps, output_padding: Shape) -> Shape:
    """How many positions a transposed convolution has along each axis.

    Args:
        spatial_range: Sizes of its input.
        taps: Of the convolution; minus its origin is the padding on either side.
        output_padding: Added to the sizes.

    Returns:
        (n - 1) s - 2 p + d (k - 1) + output_padding + 1 per axis, at least 0.

    Example:
        >>> transposed_range((20,), strided_taps((3,), (2,), (1,), (0,)), (0,))
        (41,)
    """
    sizes = zip(spatial_range, *taps, output_padding)
    return tuple(
        max((n - 1) * s + 2 * o + d * (k - 1) + more + 1, 0) for n, k, s, d, o, more in sizes
    )


def strided_limits(limits: Bounds, taps: Taps) -> Bounds:
    """Numbers that the coordinates which a strided convolution reaches do not leave.

    Args:
        limits: Of its input, batch included.
        taps: Of the convolution.

    Returns:
        The lowest and the highest, batch included.

    Example:
        >>> strided_limits(((0, -3), (1, 8)), strided_taps((3,), (2,), (1,), (1,)))
        ((0, -2), (1, 4))
    """
    low, high = [limits[0][0]], [limits[1][0]]
    for least, most, k, s, d, o in zip(limits[0][1:], limits[1][1:], *taps):
        low.append(max(-((o + d * (k - 1) - least) // s), LOWEST))
        high.append(min((most - o) // s, BEYOND - 1))
    return tuple(low), tuple(high)


def transposed_limits(limits: Bounds, taps: Taps) -> Bounds:
    """Numbers that the coordinates which a transposed convolution reaches do not leave.

    Args:
        limits: Of its input, batch included.
        taps: Of the convolution.

    Returns:
        The lowest and the highest, batch included.

    Example:
        >>> transposed_limits(((0, -2), (1, 4)), strided_taps((3,), (2,), (1,), (1,)))
        ((0, -5), (1, 9))
    """
    low, high = [limits[0][0]], [limits[1][0]]
    for least, most, k, s, d, o in zip(limits[0][1:], limits[1][1:], *taps):
        low.append(max(least * s + o, LOWEST))
        high.append(min(most * s + o + d * (k - 1), BEYOND - 1))
    return tuple(low), tuple(high)


def submanifold_map(coords: Tensor, taps: Taps, index: Callable[[], CoordinateIndex]) -> KernelMap:
    """The map of a submanifold convolution.

    Args:
        coords: int32 [N, 1 + D].
        taps: From `submanifold_taps`.
        index: Gives the index of the coordinates (`map_ops.sparse_index`), which one tap needs not.

    Returns:
        The map; odd kernels' maps are symmetric.
    """
    if taps.count == 1:
        return KernelMap.identity(coords.shape[0], coords.device)
    return map_between(index(), coords, taps, all(k % 2 == 1 for k in taps.kernel_size))


def strided_map(
    index: CoordinateIndex,
    taps: Taps,
    low: Shape | None = None,
    high: Shape | None = None,
    limits: Bounds | None = None,
) -> tuple[Tensor, KernelMap]:
    """The map of a strided convolution and the coordinates it reaches.

    Args:
        index: Of the fine coordinates.
        taps: Of the convolution.
        low: Per axis, the lowest coarse coordinate; None: unbounded.
        high: Per axis, one above the highest; None: unbounded.
        limits: Numbers that no column of the coordinates leaves, if somebody knows them.

    Returns:
        coarse coordinates int32 [M, 1 + D], sorted, and the map from fine to coarse.
    """
    coarse = map_ops.sparse_coarse_coordinates(index.coords, taps, low, high, limits)
    return coarse, map_between(index, coarse, taps)


def transposed_map(
    coords: Tensor,
    taps: Taps,
    low: Shape | None = None,
    high: Shape | None = None,
    limits: Bounds | None = None,
) -> tuple[Tensor, KernelMap]:
    """The map of a transposed convolution and the coordinates it reaches.

    Args:
        coords: The coarse coordinates, int32 [M, 1 + D].
        taps: Of the convolution.
        low: Per axis, the lowest fine coordinate; None: unbounded.
        high: Per axis, one above the highest; None: unbounded.
        limits: Numbers that no column of the coordinates leaves, if somebody knows them.

    Returns:
        fine coordinates int32 [N, 1 + D], sorted, and the map from coarse to fine.
    """
    fine = map_ops.sparse_fine_coordinates(coords, taps, low, high, limits)
    return fine, map_between(map_ops.sparse_index(fine), coords, taps).reverse


def map_between(
    index: CoordinateIndex, coarse: Tensor, taps: Taps, symmetric: bool = False
) -> KernelMap:
    """The map from fine to coarse coordinates that both exist.

    Args:
        index: Of the fine coordinates.
        coarse: int32 [M, 1 + D].
        taps: What connects them.
        symmetric: Both sets are one and the taps are centred: half of them need not be looked up.

    Returns:
        The map from fine to coarse; its ``reverse`` goes back.
    """
    n_fine, n_coarse = index.coords.shape[0], coarse.shape[0]
    # A GPU reads maps as tables, a CPU as pairs, and makes those without a table in between.
    if map_ops.runs_cuda(coarse):
        table = map_ops.sparse_kernel_table(index, coarse, taps, symmetric)
        return KernelMap.from_table(table, n_fine, symmetric)
    pairs = map_ops.sparse_kernel_pairs(index, coarse, taps, symmetric)
    return KernelMap.from_pairs(pairs, n_fine, n_coarse, symmetric)
