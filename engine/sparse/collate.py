# SPDX-License-Identifier: Apache-2.0
"""Samples of a data set to a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .arguments import check_kind
from .cache import MapCache
from .coordinates import Level
from .tensor import SparseTensor


def collate(samples: Sequence[Any]) -> Any:
    """Makes a batch of samples, for ``torch.utils.data.DataLoader(collate_fn=...)``.

    Args:
        samples: Sparse tensors, which become one; or dictionaries, tuples or lists of them and of
            whatever ``torch.utils.data.default_collate`` takes, nested in any way.

    Returns:
        The batch. Items of a sample's tensor keep their order: sample i follows all items of
        sample i - 1.

    Raises:
        TypeError: The samples are no list or tuple, or of several kinds.
        ValueError: There are no samples, tensors do not fit together, or samples differ in their
            keys or lengths.

    Example:
        >>> x = SparseTensor(torch.zeros(1, 3, dtype=torch.int32), torch.ones(1, 2))
        >>> collate([{"scan": x, "id": 7}, {"scan": x, "id": 8}])["scan"].coords.tolist()
        [[0, 0, 0], [1, 0, 0]]
    """
    if not isinstance(samples, list | tuple):
        raise TypeError(
            f"collate: samples: expected a list or a tuple, got {type(samples).__name__}"
        )
    if not samples:
        raise ValueError("collate: samples: expected at least one, got none")
    kind = _kind(samples[0])
    for number, sample in enumerate(samples):
        check_kind("collate", f"samples[{number}]", sample, kind)
        if kind is object and isinstance(sample, SparseTensor):
            raise TypeError(
                f"collate: samples[{number}]: expected what the first is, a "
                f"{type(samples[0]).__name__}, got SparseTensor"
            )
    if kind is SparseTensor:
        return _batch(samples)
    if kind is Mapping:
        return _each_key(samples)
    if kind in (tuple, list):
        return _each_place(samples)
    return torch.utils.data.default_collate(list(samples))


def _kind(sample: object) -> type:
    kinds = (SparseTensor, Mapping, tuple, list)
    return next((kind for kind in kinds if isinstance(sample, kind)), object)


def _each_key(samples: Sequence[Mapping[Any, Any]]) -> dict[Any, Any]:
    first = samples[0]
    for number, sample in enumerate(samples):
        if sample.keys() != first.keys():
            raise ValueError(
                f"collate: samples: expected the keys of the first, {list(first)}, "
                f"got {list(sample)} in sample {number}"
            )
    return {key: collate([sample[key] for sample in samples]) for key in first}


def _each_place(samples: Sequence[Sequence[Any]]) -> Any:
    first = samples[0]
    for number, sample in enumerate(samples):
        if len(sample) != len(first):
            raise ValueError(
                f"collate: samples: expected {len(first)} values as in the first, "
                f"got {len(sample)} in sample {number}"
            )
    columns = [collate(column) for column in zip(*samples)]
    # A named tuple stays one.
    return type(first)(*columns) if hasattr(first, "_fields") else columns


def _batch(tensors: Sequence[SparseTensor]) -> SparseTensor:
    first = tensors[0]
    for number, other in enumerate(tensors):
        other.level.check_unchanged()
        for what in ("ndim", "stride", "spatial_range", "channels", "dtype", "device"):
            expected, got = getattr(first, what), getattr(other, what)
            if expected != got:
                raise ValueError(
                    f"collate: samples: expected {what} {expected} as in the first, got {got} in "
                    f"sample {number}"
                )
    coords, items = [], 0
    for x in tensors:
        # A tensor without rows is an empty item all the same.
        coords.append(x.coords + x.coords.new_tensor([items] + [0] * x.ndim))
        items += max(x.batch_size, 1)
    level = Level(torch.cat(coords), first.stride, first.spatial_range, items)
    return SparseTensor.on(torch.cat([x.feats for x in tensors]), level, MapCache(level))
