# SPDX-License-Identifier: Apache-2.0
"""Normalisation over all rows, or over those of each batch item without a loop over the items."""

from __future__ import annotations

import torch
from torch import Tensor

from ....cuda.sparse import pool_ops
from ....cuda.sparse.activations import Activation
from ....cuda.sparse.norm_ops import sparse_batch_norm
from ..arguments import check_kind, check_tensor, dtype_text, number, whole
from ..tensor import SparseTensor


def batch_norm(
    x: SparseTensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    residual: SparseTensor | Tensor | None = None,
    activation: Activation = "none",
    slope: float = 0.01,
) -> SparseTensor:
    """Normalises each channel over all rows, adds a residual and activates.

    Args:
        x: The input.
        running_mean: [C], used in evaluation, updated in training.
        running_var: [C], the same of the variance.
        weight: [C], multiplied afterwards.
        bias: [C], added after that.
        training: Whether statistics are those of the rows.
        momentum: The share of these rows in the running statistics.
        eps: Added to the variance.
        residual: Added before the activation; rows of the input.
        activation: "none", "relu", "leaky_relu", "silu", "gelu" or "sigmoid".
        slope: Of the leaky ReLU.

    Returns:
        The output.

    Raises:
        TypeError: A dtype is another.
        ValueError: Shapes or coordinates do not fit together, training has one row alone, or
            evaluation no statistics.

    Source:
        Ioffe, Szegedy, Batch Normalization, ICML 2015.

    Example:
        >>> x = SparseTensor(torch.tensor([[0, 0], [0, 1]], dtype=torch.int32), torch.eye(2))
        >>> batch_norm(x, None, None, training=True, activation="relu").feats.round(decimals=2)
        tensor([[1., 0.],
                [0., 1.]])
    """
    if isinstance(residual, SparseTensor):
        if not x.level.same_as(residual.level):
            raise ValueError(
                f"batch_norm: residual: expected the coordinates of x ({len(x)} rows, stride "
                f"{x.stride}), got others ({len(residual)} rows, stride {residual.stride})"
            )
        residual = residual.feats
    out = sparse_batch_norm(
        *(x.feats, running_mean, running_var, weight, bias, training, momentum, eps),
        *(residual, activation, slope),
    )
    return SparseTensor.on(out, x.level, x.maps)


def group_norm(
    x: SparseTensor,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> SparseTensor:
    """Normalises each batch item over its rows and the channels of a group.

    Args:
        x: The input.
        groups: How many; the channels are a multiple of it.
        weight: [C], multiplied afterwards.
        bias: [C], added after that.
        eps: Added to the variance.

    Returns:
        The output; statistics of float16 and bfloat16 are taken in float32.

    Raises:
        ValueError: The channels are no multiple of the groups.

    Source:
        Wu, He, Group Normalization, ECCV 2018.

    Example:
        >>> x = SparseTensor(torch.tensor([[0, 0], [0, 1]], dtype=torch.int32), torch.eye(2))
        >>> group_norm(x, 1).feats.round(decimals=2)
        tensor([[ 1., -1.],
                [-1.,  1.]])
    """
    name = "group_norm"
    check_kind(name, "x", x, SparseTensor)
    if not x.feats.is_floating_point():
        raise TypeError(f"{name}: x: expected floating features, got {dtype_text(x.dtype)}")
    eps = number(name, "eps", eps)
    if x.channels % whole(name, "groups", groups):
        raise ValueError(
            f"group_norm: groups: expected a divisor of the {x.channels} channels, got {groups}"
        )
    for argument, factor in (("weight", weight), ("bias", bias)):
        if factor is not None:
            check_tensor(name, argument, factor)
            if factor.shape != (x.channels,) or factor.device != x.device:
                raise ValueError(
                    f"{name}: {argument}: expected shape [{x.channels}] on {x.device}, "
                    f"got {list(factor.shape)} on {factor.device}"
                )
    feats = x.feats
    if feats.dtype in (torch.float16, torch.bfloat16):
        feats = feats.float()

    def mean_of_items(values: Tensor) -> Tensor:
        """[N, C] to the mean of each item's group, on each of its rows."""
        wide = values.unflatten(1, (groups, -1))
        means = pool_ops.sparse_segment_reduce(wide.mean(2), x.level.segments, mode="mean")
        back = pool_ops.sparse_gather(means, x.level.items)
        return back[:, :, None].expand_as(wide).flatten(1)

    centred = feats - mean_of_items(feats)
    out = centred * torch.rsqrt(mean_of_items(centred * centred) + eps)
    if weight is not None:
        out = out * weight
    if bias is not None:
        out = out + bias
    return x.replace(out.to(x.dtype))


def instance_norm(
    x: SparseTensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> SparseTensor:
    """Normalises each channel of each batch item over its rows.

    Args:
        x: The input.
        weight: [C], multiplied afterwards.
        bias: [C], added after that.
        eps: Added to the variance.

    Returns:
        The output.

    Source:
        Ulyanov, Vedaldi, Lempitsky, Instance Normalization, arXiv 1607.08022.

    Example:
        >>> x = SparseTensor(torch.tensor([[0, 0], [0, 1]], dtype=torch.int32), torch.eye(2))
        >>> instance_norm(x).feats.round(decimals=2)
        tensor([[ 1., -1.],
                [-1.,  1.]])
    """
    check_kind("instance_norm", "x", x, SparseTensor)
    # Of no channels, one group is as good as none.
    return group_norm(x, max(x.channels, 1), weight, bias, eps)
