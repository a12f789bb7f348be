# SPDX-License-Identifier: Apache-2.0
"""Inputs for torchsparse's layers, and what they should give."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from fieldline.compat import torchsparse, torchsparse20

MakeCells = Callable[..., Tensor]
MakeTensor = Callable[..., Any]
BOTH = [torchsparse, torchsparse20]
EXTENT = 9


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cells(
    seed: int = 0,
    batch: int = 2,
    extent: int = EXTENT,
    count: int = 150,
    device: torch.device | str = "cpu",
) -> Tensor:
    """int32 [N, 4], batch first, in no order; a corner at 0 and one at the extent."""
    numbers = generator(seed)
    drawn = torch.randint(0, extent, (count, 3), generator=numbers)
    items = torch.randint(0, batch, (count, 1), generator=numbers)
    corners = torch.tensor([[0, 0, 0, 0], [0, extent - 1, extent - 1, extent - 1]])
    found = torch.unique(torch.cat([torch.cat([items, drawn], 1), corners]), dim=0)
    return found[torch.randperm(len(found), generator=numbers)].int().to(device)


def tensor(
    library: ModuleType,
    seed: int = 0,
    channels: int = 3,
    device: torch.device | str = "cpu",
    **cloud: int,
) -> Any:
    coords = cells(seed, **cloud)
    feats = torch.randn(len(coords), channels, generator=generator(seed), dtype=torch.float64)
    return library.SparseTensor(feats.to(device), placed(library, coords).to(device))


def placed(library: ModuleType, coords: Tensor) -> Tensor:
    """Batch-first coordinates as a library has them."""
    return coords if library is torchsparse else coords[:, [1, 2, 3, 0]].contiguous()


def batch_first(x: Any) -> Tensor:
    """int64 [N, 4], batch first, in units of the stride."""
    coords = x.coords.long()
    if x.batch_column == 0:
        return coords
    return coords[:, [3, 0, 1, 2]] // coords.new_tensor((1, *x.stride))


def dense(x: Any, extent: tuple[int, int, int], batch: int = 2) -> Tensor:
    """[B, C, X, Y, Z]."""
    grid = x.feats.new_zeros(batch, *extent, x.feats.shape[1])
    return grid.index_put(batch_first(x).unbind(1), x.feats).movedim(-1, 1)


def at(grid: Tensor, x: Any) -> Tensor:
    return grid.movedim(1, -1)[batch_first(x).unbind(1)]


def dense_weight(layer: Any) -> Tensor:
    """[C_out, C_in, kx, ky, kz]: x fastest if the number of taps is odd, else z."""
    size = layer.kernel_size
    taps = list(itertools.product(*map(range, size)))
    if layer.kernel_volume % 2:
        taps = [tap[::-1] for tap in itertools.product(*map(range, reversed(size)))]
    kernel = layer.kernel.reshape(-1, layer.in_channels, layer.out_channels)
    weight = kernel.new_zeros(layer.out_channels, layer.in_channels, *size)
    for matrix, tap in zip(kernel, taps):
        weight[(slice(None), slice(None), *tap)] = matrix.t()
    return weight
