# SPDX-License-Identifier: Apache-2.0
"""torchsparse's ``utils.collate``: samples to batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ....engine.sparse.arguments import check_kind, shown
from ..tensor import SparseTensor

__all__ = ["sparse_collate", "sparse_collate_fn"]


def sparse_collate(inputs: list[SparseTensor]) -> SparseTensor:
    """One tensor of several samples, with a batch column.

    Args:
        inputs: Samples, coords int [N, 3] and feats [N, ...], tensors or arrays, of one stride.

    Returns:
        A tensor of the samples' kind; the batch column is where that kind has it.

    Raises:
        TypeError: They are no sparse tensors.
        ValueError: There is none, or strides differ.

    Example:
        >>> one = SparseTensor(feats=np.ones((2, 1)), coords=np.array([[0, 0, 1], [4, 5, 6]]))
        >>> sparse_collate([one, one]).coords[3].tolist()
        [1, 4, 5, 6]
    """
    if not isinstance(inputs, list | tuple) or not inputs:
        raise ValueError(
            f"sparse_collate: inputs: expected a list of sparse tensors, got {shown(inputs)}"
        )
    first = inputs[0]
    coords, feats = [], []
    for item, sample in enumerate(inputs):
        check_kind("sparse_collate", f"inputs[{item}]", sample, SparseTensor)
        if sample.stride != first.stride:
            raise ValueError(
                f"sparse_collate: inputs: expected one stride, got {first.stride} and "
                f"{sample.stride}"
            )
        places = torch.as_tensor(sample.coords).int()
        batch = torch.full_like(places[:, :1], item)
        columns = [batch, places] if first.batch_column == 0 else [places, batch]
        coords.append(torch.cat(columns, 1))
        feats.append(torch.as_tensor(sample.feats))
    return first.like(torch.cat(feats), torch.cat(coords), spatial_range=None, caches=None)


def sparse_collate_fn(inputs: list[Any]) -> Any:
    """The ``collate_fn`` of a data loader whose samples are dicts.

    Args:
        inputs: Dicts of sparse tensors, arrays, tensors, dicts of these, and anything else.

    Returns:
        A dict of batches: sparse tensors collated, arrays and tensors stacked, anything else as a
        list. Samples that are no dicts come back as they are.
    """
    if not isinstance(inputs, list | tuple):
        raise TypeError(f"sparse_collate_fn: inputs: expected a list, got {shown(inputs)}")
    if not inputs or not isinstance(inputs[0], dict):
        return inputs
    for number, sample in enumerate(inputs):
        if not isinstance(sample, dict) or inputs[0].keys() - sample.keys():
            raise ValueError(
                f"sparse_collate_fn: inputs[{number}]: expected a dict with the keys of the first, "
                f"{list(inputs[0])}, got {shown(list(sample))}"
            )
    return {name: _batch([sample[name] for sample in inputs]) for name in inputs[0]}


def _batch(values: list[Any]) -> Any:
    if isinstance(values[0], dict):
        return sparse_collate_fn(values)
    if isinstance(values[0], (np.ndarray, torch.Tensor)):
        return torch.stack([torch.as_tensor(value) for value in values])
    return sparse_collate(values) if isinstance(values[0], SparseTensor) else values
