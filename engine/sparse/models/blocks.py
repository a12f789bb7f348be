# SPDX-License-Identifier: Apache-2.0
"""What every network here is built of: convolution, normalisation, activation; and residuals."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .. import nn
from ..arguments import number
from ..tensor import SparseTensor

Ints = int | Sequence[int]


class Norm(nn.BatchNorm):
    """Batch normalisation with the constants that networks for detection and rooms were tuned with.

    Args:
        channels: Of the features.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-3, momentum=0.01)


def scaled(name: str, width: float, widths: Sequence[int]) -> list[int]:
    """Channels of a network that is made wider or narrower.

    Args:
        name: Of the network.
        width: What all widths are multiplied by.
        widths: Channels at width 1.

    Returns:
        Whole numbers.

    Raises:
        TypeError: The factor is no number.
        ValueError: It leaves a layer without channels, or is not finite.
    """
    number(name, "width", width, 1 / min(widths))
    return [int(width * channels) for channels in widths]


def subm(
    c_in: int, c_out: int, kernel_size: Ints = 3, norm: type[nn.BatchNorm] = nn.BatchNorm
) -> nn.Sequential:
    """Submanifold convolution, normalisation, ReLU.

    Args:
        c_in: Channels in.
        c_out: Channels out.
        kernel_size: Per axis, or for all.
        norm: Which normalisation.

    Returns:
        The block.
    """
    conv = nn.SubmConv3d(c_in, c_out, kernel_size, bias=False)
    return nn.Sequential(conv, norm(c_out), nn.ReLU())


def down(
    c_in: int,
    c_out: int,
    kernel_size: Ints,
    stride: Ints,
    padding: Ints = 0,
    norm: type[nn.BatchNorm] = nn.BatchNorm,
) -> nn.Sequential:
    """Strided convolution to a coarser level, normalisation, ReLU.

    Args:
        c_in: Channels in.
        c_out: Channels out.
        kernel_size: Per axis, or for all.
        stride: Per axis, or for all.
        padding: Per axis, or for all.
        norm: Which normalisation.

    Returns:
        The block.
    """
    conv = nn.Conv3d(c_in, c_out, kernel_size, stride, padding, bias=False)
    return nn.Sequential(conv, norm(c_out), nn.ReLU())


def up(c_in: int, c_out: int, norm: type[nn.BatchNorm] = nn.BatchNorm) -> nn.Sequential:
    """Convolution back along a 2 x 2 x 2 downsampling, normalisation, ReLU.

    Args:
        c_in: Channels in.
        c_out: Channels out.
        norm: Which normalisation.

    Returns:
        The block.
    """
    conv = nn.InverseConv3d(c_in, c_out, 2, 2, bias=False)
    return nn.Sequential(conv, norm(c_out), nn.ReLU())


def residual(c_in: int, c_out: int, norm: type[nn.BatchNorm] = nn.BatchNorm) -> nn.Residual:
    """Two submanifold convolutions around which the input passes by.

    Args:
        c_in: Channels in.
        c_out: Channels out; others than c_in take a 1 x 1 x 1 convolution on the way past.
        norm: Which normalisation.

    Returns:
        The block.
    """
    main = nn.Sequential(
        *subm(c_in, c_out, norm=norm),
        nn.SubmConv3d(c_out, c_out, 3, bias=False),
        norm(c_out),
    )
    past = None
    if c_in != c_out:
        past = nn.Sequential(nn.SubmConv3d(c_in, c_out, 1, bias=False), norm(c_out))
    return nn.Residual(main, past, nn.ReLU())


def join(x: SparseTensor, skip: SparseTensor) -> SparseTensor:
    """Put the channels of two tensors on the same coordinates side by side.

    Args:
        x: What came up from the coarser level.
        skip: What was there on the way down.

    Returns:
        Their features, in this order.
    """
    return x.replace(torch.cat((x.feats, skip.feats), dim=1))
