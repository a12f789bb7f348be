# SPDX-License-Identifier: Apache-2.0
"""Several sparse tensors as one: side by side on the same coordinates, or over different ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...cuda.sparse import map_ops, pool_ops
from .arguments import REDUCTIONS, Reduction, check_kind, one_of
from .cache import MapCache
from .coordinates import Level
from .tensor import SparseTensor


def cat(tensors: Sequence[SparseTensor]) -> SparseTensor:
    """Puts the channels of tensors on the same coordinates side by side.

    Args:
        tensors: At least one.

    Returns:
        [N, sum of C]; it shares coordinates and cache with the first.

    Raises:
        TypeError: They are no sparse tensors.
        ValueError: There is none, or their coordinates differ.

    Example:
        >>> x = SparseTensor(torch.zeros(1, 3, dtype=torch.int32), torch.ones(1, 2))
        >>> cat([x, x.replace(torch.zeros(1, 3))]).feats
        tensor([[1., 1., 0., 0., 0.]])
    """
    if not isinstance(tensors, list | tuple):
        raise TypeError(f"cat: tensors: expected a list or a tuple, got {type(tensors).__name__}")
    first = _first("cat", tensors)
    for number, other in enumerate(tensors):
        if not first.level.same_as(other.level):
            raise ValueError(
                f"cat: tensors: expected the coordinates of the first ({len(first)} rows, stride "
                f"{first.stride}), got others in tensor {number} ({len(other)} rows, stride "
                f"{other.stride}); union and intersection take different ones"
            )
    feats = torch.cat([x.feats for x in tensors], dim=1)
    return SparseTensor.on(feats, first.level, first.maps)


def union(*tensors: SparseTensor, reduce: Reduction = "sum") -> SparseTensor:
    """Adds tensors on different coordinates: the result is where any of them is.

    Args:
        *tensors: At least one, of equal stride, channels and device.
        reduce: What becomes of rows that several have: "sum", "mean", "max", "min" or "first".

    Returns:
        The tensor, its rows sorted, with a cache of its own.

    Raises:
        TypeError: They are no sparse tensors.
        ValueError: There is none, or they do not fit together.

    Example:
        >>> a = SparseTensor(torch.tensor([[0, 1], [0, 2]], dtype=torch.int32), torch.ones(2, 1))
        >>> b = SparseTensor(torch.tensor([[0, 2], [0, 3]], dtype=torch.int32), torch.ones(2, 1))
        >>> union(a, b).feats[:, 0].tolist()
        [1.0, 2.0, 1.0]
    """
    return _combined("union", tensors, reduce)[0]


def intersection(*tensors: SparseTensor, reduce: Reduction = "sum") -> SparseTensor:
    """Adds tensors on different coordinates: the result is where all of them are.

    Args:
        *tensors: At least one, of equal stride, channels and device.
        reduce: What becomes of their rows: "sum", "mean", "max", "min" or "first".

    Returns:
        The tensor, its rows sorted, with a cache of its own.

    Raises:
        TypeError: They are no sparse tensors.
        ValueError: There is none, or they do not fit together.

    Example:
        >>> a = SparseTensor(torch.tensor([[0, 1], [0, 2]], dtype=torch.int32), torch.ones(2, 1))
        >>> b = SparseTensor(torch.tensor([[0, 2], [0, 3]], dtype=torch.int32), torch.ones(2, 1))
        >>> intersection(a, b).coords.tolist()
        [[0, 2]]
    """
    whole, counts = _combined("intersection", tensors, reduce)
    return whole.prune(counts == len(tensors))


def _first(name: str, tensors: Sequence[SparseTensor]) -> SparseTensor:
    """The first of several sparse tensors, after a check that that is what they are."""
    if not tensors:
        raise ValueError(f"{name}: tensors: expected at least one, got none")
    for number, tensor in enumerate(tensors):
        check_kind(name, f"tensors[{number}]", tensor, SparseTensor)
    return tensors[0]


def _combined(
    name: str, tensors: Sequence[SparseTensor], reduce: Reduction
) -> tuple[SparseTensor, torch.Tensor]:
    """The union, and how many of the tensors have each of its rows."""
    one_of(name, "reduce", reduce, REDUCTIONS)
    first = _first(name, tensors)
    for number, other in enumerate(tensors):
        other.level.check_unchanged()
        for what in ("stride", "channels", "device", "dtype"):
            expected, got = getattr(first, what), getattr(other, what)
            if expected != got:
                raise ValueError(
                    f"{name}: tensors: expected {what} {expected} as the first, got {got} in "
                    f"tensor {number}"
                )
    unique = map_ops.sparse_unique(torch.cat([x.coords for x in tensors]))
    feats = pool_ops.sparse_segment_reduce(
        torch.cat([x.feats for x in tensors]), unique.inverse, unique.coords.shape[0], reduce
    )
    ranges = [x.spatial_range for x in tensors]
    whole = None
    if all(r is not None for r in ranges):
        whole = tuple(max(sizes) for sizes in zip(*[r for r in ranges if r is not None]))
    level = Level(unique.coords, first.stride, whole, max(x.batch_size for x in tensors))
    return SparseTensor.on(feats, level, MapCache(level)), unique.counts
