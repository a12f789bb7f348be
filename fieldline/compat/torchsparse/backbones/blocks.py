# SPDX-License-Identifier: Apache-2.0
"""torchsparse's ``backbones.modules``: the blocks of its networks."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from .. import nn as spnn
from ..tensor import SparseTensor
from ..utils.utils import make_ntuple

__all__ = ["SparseConvBlock", "SparseConvTransposeBlock", "SparseResBlock"]


class SparseConvBlock(nn.Sequential):
    """Convolution, normalisation, activation.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: Of the convolution.
        stride: Of the convolution.
        dilation: Of the convolution.
    """

    conv: Any = spnn.Conv3d
    transposed = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        dilation: int = 1,
    ) -> None:
        conv = self.conv(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            dilation=dilation,
            transposed=self.transposed,
        )
        super().__init__(conv, spnn.BatchNorm(out_channels), spnn.ReLU(True))


class SparseConvTransposeBlock(SparseConvBlock):
    """A convolution back to finer coordinates, normalisation, activation.

    Arguments are those of `SparseConvBlock`.
    """

    transposed = True


class SparseResBlock(nn.Module):
    """Two convolutions beside a shortcut.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: Of both convolutions.
        stride: Of the first.
        dilation: Of both.
    """

    conv: Any = spnn.Conv3d

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        sizes = {"kernel_size": kernel_size, "dilation": dilation}
        self.main = nn.Sequential(
            self.conv(in_channels, out_channels, stride=stride, **sizes),
            spnn.BatchNorm(out_channels),
            spnn.ReLU(True),
            self.conv(out_channels, out_channels, **sizes),
            spnn.BatchNorm(out_channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels or math.prod(make_ntuple(stride, 3)) != 1:
            self.shortcut = nn.Sequential(
                self.conv(in_channels, out_channels, 1, stride=stride),
                spnn.BatchNorm(out_channels),
            )
        self.relu = spnn.ReLU(True)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """The block's output."""
        return self.relu(self.main(x) + self.shortcut(x))
