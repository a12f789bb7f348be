# SPDX-License-Identifier: Apache-2.0
"""torchsparse's activations, norms, pools and crop as modules."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .....cuda.sparse import pool_ops
from ...tensor import SparseTensor
from ..functional.pooling import (
    batch_size_of,
    check_input,
    global_avg_pool,
    global_max_pool,
    spcrop,
)
from ..utils import fapply

__all__ = [
    "BatchNorm",
    "GlobalAvgPool",
    "GlobalMaxPool",
    "GroupNorm",
    "InstanceNorm",
    "LeakyReLU",
    "ReLU",
    "SiLU",
    "SparseCrop",
]


class _OnFeatures:
    """Mixed into a layer of torch: applies it to the features."""

    def forward(self, input: SparseTensor) -> SparseTensor:
        """A new tensor on the same coordinates."""
        return fapply(input, super().forward)  # type: ignore[misc]


class ReLU(_OnFeatures, nn.ReLU):
    """max(x, 0)."""


class LeakyReLU(_OnFeatures, nn.LeakyReLU):
    """x, or x times a slope below 0."""


class SiLU(_OnFeatures, nn.SiLU):
    """x sigmoid(x)."""


class BatchNorm(_OnFeatures, nn.BatchNorm1d):
    """Batch normalisation over all cells."""


class InstanceNorm(_OnFeatures, nn.InstanceNorm1d):
    """torch's instance normalisation of the features as they lie, over the channels of a cell."""


class GroupNorm(nn.GroupNorm):
    """Normalises groups of channels over the cells of each sample.

    Args:
        num_groups: Groups.
        num_channels: C.
        eps: Added to the variance.
        affine: Scale and shift each channel.

    Example:
        >>> coords = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1]], dtype=torch.int32)
        >>> x = SparseTensor(torch.tensor([[1.0, 3.0], [5.0, 7.0]]), coords)
        >>> GroupNorm(1, 2)(x).F.mean().abs().item() < 1e-6
        True
    """

    def forward(self, input: SparseTensor) -> SparseTensor:
        """A new tensor on the same coordinates."""
        check_input("GroupNorm", input)
        if input.feats.shape[1] != self.num_channels:
            raise ValueError(
                f"GroupNorm: input: expected {self.num_channels} channels, "
                f"got {input.feats.shape[1]}"
            )
        feats = input.feats
        items, groups = batch_size_of(input), self.num_groups
        batch = input.coords[:, input.batch_column].long()
        split = feats.float().unflatten(1, (groups, -1))

        def over_samples(values: Tensor) -> Tensor:
            """The mean over the cells of the sample that each row belongs to: [N, groups]."""
            means = pool_ops.sparse_segment_reduce(values, batch, items, "mean")
            weights = torch.ones(len(batch), 1, dtype=means.dtype, device=means.device)
            return pool_ops.sparse_interpolate(means, batch[:, None], weights)

        centred = split - over_samples(split.mean(2))[:, :, None]
        variance = over_samples(centred.square().mean(2))
        normal = (centred * (variance + self.eps).rsqrt()[:, :, None]).view_as(feats)
        if self.weight is not None:
            normal = normal * self.weight + self.bias
        return input.like(normal.to(feats.dtype))


class GlobalAvgPool(nn.Module):
    """The mean of each sample."""

    def forward(self, input: SparseTensor) -> Tensor:
        """[batch, C]."""
        return global_avg_pool(input)


class GlobalMaxPool(nn.Module):
    """The maximum of each sample."""

    def forward(self, input: SparseTensor) -> Tensor:
        """[batch, C]."""
        return global_max_pool(input)


class SparseCrop(nn.Module):
    """Keeps the cells of a box.

    Args:
        coords_min: The lowest x, y, z kept.
        coords_max: One above the highest x, y, z kept.
    """

    def __init__(
        self,
        coords_min: tuple[int, ...] | None = None,
        coords_max: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        self.coords_min = coords_min
        self.coords_max = coords_max

    def forward(self, input: SparseTensor) -> SparseTensor:
        """The cells inside."""
        return spcrop(input, self.coords_min, self.coords_max)
