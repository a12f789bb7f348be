# SPDX-License-Identifier: Apache-2.0
"""Kernel maps: which row of a fine set meets which row of a coarse one, tap by tap.

coordinate_ops.py states the relation between the sets, and makes sets. A strided convolution goes
from fine to coarse, its inverse from coarse to fine; a submanifold convolution has one set on both
sides. A map is a table, the fine row of each tap and coarse row, or a list of pairs.

All devices give equal results, bit for bit. Nothing here has gradients.
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import library
from ..library import declare, ops
from .coordinate_ops import (
    Bounds,
    Taps,
    Unique,
    check_coords,
    sparse_bounds,
    sparse_coarse_coordinates,
    sparse_fine_coordinates,
    sparse_hash,
    sparse_levels,
    sparse_unique,
    tap_numbers,
)

__all__ = [
    "Bounds",
    "CoordinateIndex",
    "Pairs",
    "Taps",
    "Unique",
    "runs_cuda",
    "sparse_bounds",
    "sparse_coarse_coordinates",
    "sparse_fine_coordinates",
    "sparse_hash",
    "sparse_index",
    "sparse_invert_pairs",
    "sparse_invert_table",
    "sparse_kernel_pairs",
    "sparse_kernel_table",
    "sparse_levels",
    "sparse_lookup",
    "sparse_pairs_table",
    "sparse_table_pairs",
    "sparse_unique",
]


def runs_cuda(tensor: Tensor) -> bool:
    """Whether operators on a tensor run the CUDA kernels, on a GPU or emulated."""
    return tensor.is_cuda or ops() is not getattr(torch.ops, library.NAMESPACE)


class Pairs(NamedTuple):
    """A kernel map as pairs, tap by tap: those of tap t are starts[t] to starts[t + 1]."""

    fine_rows: Tensor  # int32 [P]
    coarse_rows: Tensor  # int32 [P]
    starts: Tensor  # int64 [K + 1]


class CoordinateIndex:
    """Coordinates made ready for look-ups; made once a set, used by every map of it.

    It holds the coordinates themselves: who changes them in place afterwards reads wrong rows.
    """

    def __init__(self, coords: Tensor, slots: Tensor, order: Tensor, bounds: Tensor) -> None:
        self.coords = coords
        self.order = order
        self.bounds = bounds
        self._slots = slots
        self._has_slots = self.hashed

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What kernel maps are made from."""
        return self.coords, self._slots, self.order, self.bounds

    @property
    def hashed(self) -> bool:
        """Whether kernel maps look rows up in a hash table: on GPUs."""
        return self.bounds.shape[0] == 0

    @property
    def slots(self) -> Tensor:
        """The hash table. CPUs make it when it is first asked for: maps do without."""
        if not self._has_slots:
            self._slots = ops().sparse_slots(self.coords)
            self._has_slots = True
        return self._slots

    def survey(self) -> tuple[Bounds, int]:
        """The bounds of the rows, and how many rows stood before; the host waits once."""
        n, columns = self.coords.shape
        if not self.hashed:
            low, high = self.bounds.tolist()
            return (tuple(low), tuple(high)), n - len(self.order) if len(self.order) else 0
        *bounds, repeated = ops().sparse_survey(self.coords, self._slots).tolist()
        return (tuple(bounds[:columns]), tuple(bounds[columns:])), repeated


def _check_same_device(name: str, argument: str, tensor: Tensor, device: torch.device) -> None:
    if tensor.device != device:
        raise ValueError(f"{name}: {argument}: expected device {device}, got {tensor.device}")


def sparse_index(coords: Tensor) -> CoordinateIndex:
    """Makes coordinates ready for look-ups, and for the kernel maps whose fine set they are.

    CPUs sort them, unless they are sorted already; GPUs put them into a hash table. The host never
    waits.

    Args:
        coords: int32 [N, 1 + D]. Of repeated rows the smallest is found.

    Returns:
        The index, on the coordinates' device.

    Raises:
        TypeError: The dtype is another.
        ValueError: The shape is another.

    Example:
        >>> index = sparse_index(torch.tensor([[0, 4], [0, 2]]).int())
        >>> sparse_lookup(index, torch.tensor([[0, 2], [0, 3]]).int()).tolist()
        [1, -1]
    """
    check_coords("sparse_index", "coords", coords)
    coords = coords.contiguous()
    return CoordinateIndex(coords, *ops().sparse_index(coords))


def sparse_lookup(index: CoordinateIndex, queries: Tensor) -> Tensor:
    """Finds the row of each coordinate asked for.

    Args:
        index: The index of a set.
        queries: int32 [Q, 1 + D], on the same device.

    Returns:
        int32 [Q]: the row, the smallest of repeated ones, or -1.

    Raises:
        TypeError: The dtype is another.
        ValueError: A shape or device is another.

    Example:
        >>> index = sparse_index(torch.tensor([[0, 4], [0, 2]]).int())
        >>> sparse_lookup(index, torch.tensor([[0, 4], [1, 4]]).int()).tolist()
        [0, -1]
    """
    check_coords("sparse_lookup", "queries", queries, index.coords.shape[1])
    _check_same_device("sparse_lookup", "queries", queries, index.coords.device)
    return ops().sparse_lookup(index.coords, index.slots, queries)


def _map_arguments(
    name: str, index: CoordinateIndex, coarse_coords: Tensor, taps: Taps, symmetric: bool
) -> tuple[Any, ...]:
    columns = index.coords.shape[1]
    check_coords(name, "coarse_coords", coarse_coords, columns)
    _check_same_device(name, "coarse_coords", coarse_coords, index.coords.device)
    numbers = tap_numbers(name, taps, columns)
    if symmetric:
        _check_symmetric(name, index, coarse_coords, taps)
    return *index.parts, coarse_coords, numbers, symmetric


def _check_symmetric(name: str, index: CoordinateIndex, coarse_coords: Tensor, taps: Taps) -> None:
    for k, stride, dilation, origin in zip(*taps):
        if k % 2 == 0 or stride != 1 or 2 * origin != -dilation * (k - 1):
            raise ValueError(
                f"{name}: symmetric: expected odd kernels, stride 1 and centred taps, got {taps}"
            )
    if coarse_coords.shape != index.coords.shape:
        raise ValueError(
            f"{name}: coarse_coords: expected the fine set itself, {list(index.coords.shape)}, "
            f"as the map is symmetric; got {list(coarse_coords.shape)}"
        )


def sparse_kernel_table(
    index_of_fine: CoordinateIndex, coarse_coords: Tensor, taps: Taps, symmetric: bool = False
) -> Tensor:
    """Finds the fine row of each tap and coarse row.

    Args:
        index_of_fine: The index of the fine set.
        coarse_coords: int32 [n_coarse, 1 + D], on the same device.
        taps: The kernel.
        symmetric: Promises that both sets are the same rows, of a centred odd kernel of stride 1:
            half the taps are looked for, the others are their mirror images.

    Returns:
        int32 [K, n_coarse]; -1: none.

    Raises:
        TypeError: A dtype is another.
        ValueError: A shape or device is another, a kernel size, stride or dilation is below 1, or
            a map called symmetric is not.

    Example:
        >>> coords = torch.tensor([[0, 4], [0, 5]]).int()
        >>> taps = Taps((3,), (1,), (1,), (-1,))
        >>> sparse_kernel_table(sparse_index(coords), coords, taps, symmetric=True).tolist()
        [[-1, 0], [0, 1], [1, -1]]
    """
    return ops().sparse_kernel_table(
        *_map_arguments("sparse_kernel_table", index_of_fine, coarse_coords, taps, symmetric)
    )


def sparse_kernel_pairs(
    index_of_fine: CoordinateIndex, coarse_coords: Tensor, taps: Taps, symmetric: bool = False
) -> Pairs:
    """Finds the pairs of fine and coarse rows, tap by tap.

    Args:
        index_of_fine: The index of the fine set.
        coarse_coords: int32 [n_coarse, 1 + D], on the same device.
        taps: The kernel.
        symmetric: As in ``sparse_kernel_table``.

    Returns:
        The pairs; within a tap coarse rows ascend. CPUs make them without a table in between. The
        host waits for the GPU once.

    Raises:
        TypeError: A dtype is another.
        ValueError: A shape or device is another, a kernel size, stride or dilation is below 1, or
            a map called symmetric is not.

    Example:
        >>> coords = torch.tensor([[0, 4], [0, 5]]).int()
        >>> pairs = sparse_kernel_pairs(sparse_index(coords), coords, Taps((2,), (1,), (1,), (0,)))
        >>> pairs.fine_rows.tolist(), pairs.coarse_rows.tolist(), pairs.starts.tolist()
        ([0, 1, 1], [0, 1, 0], [0, 2, 3])
    """
    arguments = _map_arguments("sparse_kernel_pairs", index_of_fine, coarse_coords, taps, symmetric)
    if index_of_fine.hashed:
        return sparse_table_pairs(ops().sparse_kernel_table(*arguments))
    return Pairs(*ops().sparse_kernel_pairs(*arguments))


def sparse_invert_table(table: Tensor, n_fine: int) -> Tensor:
    """Turns a table around: the coarse row of each tap and fine row.

    Args:
        table: int32 [K, n_coarse], fine rows or -1.
        n_fine: The number of fine rows.

    Returns:
        int32 [K, n_fine]; -1: none. Of repeated coarse rows the smallest.

    Example:
        >>> sparse_invert_table(torch.tensor([[-1, 0], [0, 1], [1, -1]]).int(), 2).tolist()
        [[1, -1], [0, 1], [-1, 0]]
    """
    return ops().sparse_invert_table(table, n_fine)


def sparse_table_pairs(table: Tensor) -> Pairs:
    """Lists the pairs of a table, tap by tap; within a tap coarse rows ascend.

    Args:
        table: int32 [K, n_coarse], fine rows or -1.

    Returns:
        The pairs. The host waits for the GPU once.

    Example:
        >>> sparse_table_pairs(torch.tensor([[-1, 0], [0, 1]]).int()).starts.tolist()
        [0, 1, 3]
    """
    return Pairs(*ops().sparse_table_pairs(table))


def sparse_pairs_table(pairs: Pairs, n_coarse: int) -> Tensor:
    """Writes pairs as a table.

    Args:
        pairs: The pairs; of a tap and a coarse row at most one.
        n_coarse: The number of coarse rows.

    Returns:
        int32 [K, n_coarse], fine rows or -1.

    Example:
        >>> table = torch.tensor([[-1, 0], [0, 1]]).int()
        >>> torch.equal(sparse_pairs_table(sparse_table_pairs(table), 2), table)
        True
    """
    return ops().sparse_pairs_table(*pairs, n_coarse)


def sparse_invert_pairs(pairs: Pairs, n_fine: int) -> Pairs:
    """Puts the same pairs in the order of the other set: within a tap fine rows ascend.

    Args:
        pairs: The pairs.
        n_fine: The number of fine rows.

    Returns:
        The pairs, each tap's in another order; of equal fine rows the first stays first.

    Example:
        >>> pairs = sparse_table_pairs(torch.tensor([[1, 0]]).int())
        >>> turned = sparse_invert_pairs(pairs, 2)
        >>> turned.fine_rows.tolist(), turned.coarse_rows.tolist()
        ([0, 1], [1, 0])
    """
    fine_rows, coarse_rows = ops().sparse_invert_pairs(*pairs, n_fine)
    return Pairs(fine_rows, coarse_rows, pairs.starts)


def _index_fake(coords: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    context = torch.library.get_ctx()
    return (
        coords.new_empty((context.new_dynamic_size(),), dtype=torch.int64),
        coords.new_empty((context.new_dynamic_size(),)),
        coords.new_empty((0 if coords.is_cuda else 2, coords.shape[1]), dtype=torch.int64),
    )


def _slots_fake(coords: Tensor) -> Tensor:
    return coords.new_empty((torch.library.get_ctx().new_dynamic_size(),), dtype=torch.int64)


def _survey_fake(coords: Tensor, slots: Tensor) -> Tensor:
    return torch.empty(2 * coords.shape[1] + 1, dtype=torch.int64)


def _lookup_fake(coords: Tensor, slots: Tensor, queries: Tensor) -> Tensor:
    return queries.new_empty((queries.shape[0],))


def _table_fake(
    coords: Tensor,
    slots: Tensor,
    order: Tensor,
    bounds: Tensor,
    coarse_coords: Tensor,
    taps: Any,
    symmetric: bool,
) -> Tensor:
    axes = coords.shape[1] - 1
    return coords.new_empty((prod(taps[:axes]), coarse_coords.shape[0]))


def _fake_pairs(like: Tensor, taps: int) -> tuple[Tensor, Tensor, Tensor]:
    count = torch.library.get_ctx().new_dynamic_size()
    return (
        like.new_empty((count,)),
        like.new_empty((count,)),
        like.new_empty((taps + 1,), dtype=torch.int64),
    )


def _pairs_fake(coords: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    taps = rest[-2]
    return _fake_pairs(coords, prod(taps[: coords.shape[1] - 1]))


def _table_pairs_fake(table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _fake_pairs(table, table.shape[0])


def _pairs_table_fake(
    fine_rows: Tensor, coarse_rows: Tensor, starts: Tensor, n_coarse: int
) -> Tensor:
    return fine_rows.new_empty((starts.shape[0] - 1, n_coarse))


def _invert_table_fake(table: Tensor, n_fine: int) -> Tensor:
    return table.new_empty((table.shape[0], n_fine))


def _invert_pairs_fake(
    fine_rows: Tensor, coarse_rows: Tensor, starts: Tensor, n_fine: int
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(fine_rows), torch.empty_like(coarse_rows)


declare("sparse_index", _index_fake)
declare("sparse_slots", _slots_fake)
declare("sparse_survey", _survey_fake)
declare("sparse_lookup", _lookup_fake)
declare("sparse_kernel_table", _table_fake)
declare("sparse_kernel_pairs", _pairs_fake)
declare("sparse_table_pairs", _table_pairs_fake)
declare("sparse_pairs_table", _pairs_table_fake)
declare("sparse_invert_table", _invert_table_fake)
declare("sparse_invert_pairs", _invert_pairs_fake)
