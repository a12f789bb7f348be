# SPDX-License-Identifier: Apache-2.0
"""Inputs for spconv's layers, and what they should give."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fieldline.compat.spconv import pytorch as sp

Cloud = Callable[..., sp.SparseConvTensor]
Randomise = Callable[..., Any]
SIZE = {1: 23, 2: 11, 3: 7, 4: 5}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cloud(
    ndim: int = 3,
    channels: int = 3,
    batch: int = 2,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> sp.SparseConvTensor:
    """A tensor of random cells, in no order."""
    numbers = generator(seed)
    size = SIZE[ndim]
    drawn = torch.randint(0, size, (60, ndim), generator=numbers)
    items = torch.randint(0, batch, (60, 1), generator=numbers)
    indices = torch.unique(torch.cat([items, drawn], 1), dim=0)
    indices = indices[torch.randperm(len(indices), generator=numbers)].int()
    features = torch.randn(len(indices), channels, generator=numbers, dtype=dtype)
    return sp.SparseConvTensor(features.to(device), indices.to(device), [size] * ndim, batch)


def at(dense: Tensor, indices: Tensor) -> Tensor:
    """[N, C], a dense tensor [B, C, ...] at cells."""
    return dense.movedim(1, -1)[indices.long().unbind(1)]


def kernel_of(layer: sp.conv.SparseConvolution) -> Tensor:
    """[C_out, C_in, *kernel], as torch has it."""
    return layer.weight.movedim(-1, 1)


def dense_conv(
    x: Tensor,
    layer: sp.conv.SparseConvolution,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
) -> Tensor:
    """torch's convolution, 1-D to 4-D."""
    ndim, weight = layer.ndim, kernel_of(layer)
    if ndim < 4:
        return getattr(functional, f"conv{ndim}d")(x, weight, None, stride, padding, dilation)
    x = functional.pad(x, [padding] * 8)
    size = weight.shape[2]
    out = [(n - dilation * (size - 1) - 1) // stride + 1 for n in x.shape[2:]]
    total = x.new_zeros(x.shape[0], weight.shape[0], *out)
    for tap in itertools.product(range(size), repeat=4):
        where = [
            slice(t * dilation, t * dilation + stride * (n - 1) + 1, stride)
            for t, n in zip(tap, out)
        ]
        total = total + torch.einsum("bc...,oc->bo...", x[(..., *where)], weight[(..., *tap)])
    return total
