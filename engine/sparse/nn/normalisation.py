# SPDX-License-Identifier: Apache-2.0
"""Normalisation of feature rows.

Batch normalisation is over all rows, layer normalisation over the channels of each row; group and
instance normalisation are over the rows of each batch item, found without a loop over the items.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ....cuda.sparse.activations import Activation
from ....cuda.sparse.norm_ops import sparse_batch_norm
from ..arguments import check_kind, flag, number, whole
from ..functional.normalisation import group_norm
from ..tensor import SparseTensor


def normalised(
    norm: nn.BatchNorm1d,
    feats: Tensor,
    residual: Tensor | None = None,
    activation: Activation = "none",
    slope: float = 0.0,
) -> Tensor:
    """What a batch normalisation, ours or torch's, makes of rows, with what follows it.

    Args:
        norm: The module; in training its running statistics are updated.
        feats: [N, C].
        residual: [N, C], added before the activation.
        activation: Of the sum.
        slope: Of the leaky ReLU.

    Returns:
        [N, C].

    Raises:
        ValueError: There are other channels.

    Example:
        >>> normalised(nn.BatchNorm1d(1), torch.tensor([[1.0], [3.0]]), None, "relu").shape
        torch.Size([2, 1])
    """
    if feats.shape[1] != norm.num_features:
        raise _misfit(norm, norm.num_features, feats.shape[1])
    mean, variance, tracked = norm.running_mean, norm.running_var, norm.num_batches_tracked
    if norm.training and not norm.track_running_stats:
        mean = variance = None
    if mean is None:
        tracked = None
    return sparse_batch_norm(
        *(feats, mean, variance, norm.weight, norm.bias),
        *(norm.training or mean is None, norm.momentum, norm.eps),
        *(residual, activation, slope, tracked),
    )


class BatchNorm(nn.BatchNorm1d):
    """Normalises each channel over all rows of the batch.

    Args:
        num_features: Channels.
        eps: Added to the variance.
        momentum: Of the running statistics; None: their plain mean.
        affine: Whether a weight and a bias follow.
        track_running_stats: Whether running statistics are kept and used in evaluation.
        device: Of the parameters.
        dtype: Of the parameters.

    Example:
        >>> x = SparseTensor(torch.tensor([[0, 0], [0, 1]], dtype=torch.int32), torch.eye(2))
        >>> BatchNorm(2)(x).feats.round(decimals=2).tolist()
        [[1.0, -1.0], [-1.0, 1.0]]
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        name = type(self).__name__
        super().__init__(
            whole(name, "num_features", num_features),
            number(name, "eps", eps),
            None if momentum is None else number(name, "momentum", momentum),
            flag(name, "affine", affine),
            flag(name, "track_running_stats", track_running_stats),
            device=device,
            dtype=dtype,
        )

    def forward(self, x: SparseTensor) -> SparseTensor:  # pyright: ignore
        """Normalises; from a tensor without rows nothing is learnt."""
        check_kind(type(self).__name__, "x", x, SparseTensor)
        return SparseTensor.on(normalised(self, x.feats), x.level, x.maps)


class SyncBatchNorm(BatchNorm):
    """Normalises each channel over all rows of all processes' batches, in training.

    Works over any backend of torch.distributed; a process may have fewer rows than the others, or
    none. Without a process group it is `BatchNorm`.

    Args:
        num_features: Channels.
        eps: Added to the variance.
        momentum: Of the running statistics; None: their plain mean.
        affine: Whether a weight and a bias follow.
        track_running_stats: Whether running statistics are kept and used in evaluation.
        device: Of the parameters.
        dtype: Of the parameters.

    Example:
        >>> x = SparseTensor(torch.tensor([[0, 0], [0, 1]], dtype=torch.int32), torch.eye(2))
        >>> SyncBatchNorm(2)(x).feats.round(decimals=2).tolist()
        [[1.0, -1.0], [-1.0, 1.0]]
    """

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Normalises."""
        _check_channels(self, x, self.num_features)
        alone = not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1
        if alone or not (self.training or self.running_mean is None):
            return super().forward(x)
        return SparseTensor.on(self._normalised(x.feats), x.level, x.maps)

    def _normalised(self, feats: Tensor) -> Tensor:
        wide = feats.float() if feats.dtype in (torch.float16, torch.bfloat16) else feats
        count = wide.new_full((1,), wide.shape[0])
        total = _SumOverProcesses.apply(torch.cat([wide.sum(0), count]))
        count = total[-1].detach().clamp(min=1)
        mean = total[:-1] / count
        centred = wide - mean
        variance = _SumOverProcesses.apply((centred * centred).sum(0)) / count
        self._track(mean.detach(), variance.detach(), count)
        out = centred * torch.rsqrt(variance + self.eps)
        if self.affine:
            out = out * self.weight + self.bias
        return out.to(feats.dtype)

    def _track(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or not self.training:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
        unbiased = variance * (count / (count - 1).clamp(min=1))
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), share)

    @classmethod
    def convert(cls, module: nn.Module) -> nn.Module:
        """Replaces each `BatchNorm` of a model, keeping its parameters and statistics.

        Args:
            module: The model; changed in place.

        Returns:
            The model.

        Raises:
            TypeError: It is no module.

        Example:
            >>> type(SyncBatchNorm.convert(BatchNorm(4))).__name__
            'SyncBatchNorm'
        """
        check_kind("SyncBatchNorm.convert", "module", module, nn.Module)
        for name, child in module.named_children():
            setattr(module, name, cls.convert(child))
        if type(module) is not BatchNorm:
            return module
        new = cls.__new__(cls)
        new.__dict__ = module.__dict__
        return new


class _SumOverProcesses(torch.autograd.Function):
    """A sum over all processes; so is its gradient, for every process uses the result."""

    @staticmethod
    def forward(ctx, values: Tensor) -> Tensor:
        values = values.clone()
        dist.all_reduce(values)
        return values

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:  # pyright: ignore
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        return gradient


class GroupNorm(nn.GroupNorm):
    """Normalises each batch item over its rows and the channels of a group.

    Args:
        num_groups: How many; the channels are a multiple of it.
        num_channels: Channels.
        eps: Added to the variance.
        affine: Whether a weight and a bias follow.
        device: Of the parameters.
        dtype: Of the parameters.

    Raises:
        TypeError: An argument is of another kind.
        ValueError: The groups do not divide the channels.

    Example:
        >>> x = SparseTensor(torch.tensor([[0, 0], [0, 1]], dtype=torch.int32), torch.eye(2))
        >>> GroupNorm(2, 2)(x).feats.round(decimals=2).tolist()
        [[1.0, -1.0], [-1.0, 1.0]]
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        name = type(self).__name__
        num_channels = whole(name, "num_channels", num_channels)
        if num_channels % whole(name, "num_groups", num_groups):
            raise ValueError(
                f"{name}: num_groups: expected a divisor of the {num_channels} channels, "
                f"got {num_groups}"
            )
        eps, affine = number(name, "eps", eps), flag(name, "affine", affine)
        super().__init__(num_groups, num_channels, eps, affine, device, dtype)

    def forward(self, x: SparseTensor) -> SparseTensor:  # pyright: ignore
        """Normalises."""
        _check_channels(self, x, self.num_channels)
        return group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class InstanceNorm(GroupNorm):
    """Normalises each channel of each batch item over its rows.

    Args:
        num_features: Channels.
        eps: Added to the variance.
        affine: Whether a weight and a bias follow.
        device: Of the parameters.
        dtype: Of the parameters.

    Example:
        >>> x = SparseTensor(torch.tensor([[0, 0], [0, 1]], dtype=torch.int32), torch.eye(2))
        >>> InstanceNorm(2)(x).feats.round(decimals=2).tolist()
        [[1.0, -1.0], [-1.0, 1.0]]
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        affine: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        num_features = whole(type(self).__name__, "num_features", num_features)
        super().__init__(num_features, num_features, eps, affine, device, dtype)


class LayerNorm(nn.LayerNorm):
    """Normalises each row over its channels.

    Args:
        num_channels: Channels.
        eps: Added to the variance.
        elementwise_affine: Whether a weight and a bias follow.
        bias: Whether a bias is among them.
        device: Of the parameters.
        dtype: Of the parameters.

    Example:
        >>> x = SparseTensor(torch.tensor([[0, 0], [0, 1]], dtype=torch.int32), torch.eye(2))
        >>> LayerNorm(2)(x).feats.detach().round(decimals=2).tolist()
        [[1.0, -1.0], [-1.0, 1.0]]
    """

    def __init__(
        self,
        num_channels: int,
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        name = type(self).__name__
        super().__init__(
            whole(name, "num_channels", num_channels),
            number(name, "eps", eps),
            flag(name, "elementwise_affine", elementwise_affine),
            flag(name, "bias", bias),
            device,
            dtype,
        )

    def forward(self, x: SparseTensor) -> SparseTensor:  # pyright: ignore
        """Normalises."""
        _check_channels(self, x, self.normalized_shape[0])
        return SparseTensor.on(super().forward(x.feats), x.level, x.maps)


def _check_channels(module: nn.Module, x: SparseTensor, channels: int) -> None:
    check_kind(type(module).__name__, "x", x, SparseTensor)
    if x.feats.shape[1] != channels:
        raise _misfit(module, channels, x.channels)


def _misfit(module: nn.Module, channels: int, found: int) -> ValueError:
    return ValueError(f"{type(module).__name__}: x: expected {channels} channels, got {found}")
