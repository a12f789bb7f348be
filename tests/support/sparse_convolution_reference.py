# SPDX-License-Identifier: Apache-2.0
"""Sparse convolution in plain torch, tap by tap, and kernel maps of boxes to try it on."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS = {
    "none": lambda x, slope: x,
    "relu": lambda x, slope: F.relu(x),
    "leaky_relu": F.leaky_relu,
    "silu": lambda x, slope: F.silu(x),
    "gelu": lambda x, slope: F.gelu(x),
    "sigmoid": lambda x, slope: torch.sigmoid(x),
}


def convolution(
    features: Tensor,
    weight: Tensor,
    table: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    activation: str = "none",
    slope: float = 0.01,
) -> Tensor:
    """out[o] = activation(sum over taps of features[table[t, o]] @ weight[t] + bias + residual)."""
    own, channels_out = weight.shape[1:]
    groups = features.shape[1] // own
    out = features.new_zeros(table.shape[1], channels_out)
    for tap, rows in zip(weight, table.long()):
        met = torch.nonzero(rows >= 0)[:, 0]
        parts = [x @ w for x, w in zip(features[rows[met]].chunk(groups, 1), tap.chunk(groups, 1))]
        out = out.index_add(0, met, torch.cat(parts, 1))
    if bias is not None:
        out = out + bias
    if residual is not None:
        out = out + residual
    return ACTIVATIONS[activation](out, slope)


def submanifold_table(coords: Tensor, kernel_size: tuple[int, ...]) -> Tensor:
    """int32 [K, N]: the row of each neighbour; taps with the last axis fastest, odd kernels."""
    origin = [-(k // 2) for k in kernel_size]
    return strided_table(coords, coords, kernel_size, (1,) * len(kernel_size), origin)


def strided_table(
    fine: Tensor,
    coarse: Tensor,
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    origin: list[int],
) -> Tensor:
    """int32 [K, n_coarse]: the fine row at coarse * stride + origin + tap."""
    row_of = {tuple(c): i for i, c in enumerate(fine.tolist())}
    table = [
        [
            row_of.get((batch, *(x * s + o + t for x, s, o, t in zip(at, stride, origin, tap))), -1)
            for batch, *at in coarse.tolist()
        ]
        for tap in itertools.product(*(range(k) for k in kernel_size))
    ]
    return torch.tensor(table, dtype=torch.int32).reshape(len(table), coarse.shape[0])


def random_coordinates(
    generator: torch.Generator, n: int, size: tuple[int, ...], batches: int = 2
) -> Tensor:
    """At most n distinct rows (batch, ...) of a box, in no order."""
    high = torch.tensor((batches, *size))
    rows = (torch.rand(n, len(high), generator=generator) * high).int()
    rows = torch.unique(rows, dim=0)
    return rows[torch.randperm(len(rows), generator=generator)]
