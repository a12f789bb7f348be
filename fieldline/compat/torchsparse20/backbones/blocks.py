# SPDX-License-Identifier: Apache-2.0
"""torchsparse 2.0's ``backbones.modules``: the same blocks of its own convolution."""

from ...torchsparse.backbones import blocks as _blocks
from ..nn import Conv3d

__all__ = ["SparseConvBlock", "SparseConvTransposeBlock", "SparseResBlock"]


class SparseConvBlock(_blocks.SparseConvBlock):
    """Convolution, normalisation, activation; arguments as in 2.1."""

    conv = Conv3d


class SparseConvTransposeBlock(_blocks.SparseConvTransposeBlock):
    """A convolution back to finer coordinates, normalisation, activation; arguments as in 2.1."""

    conv = Conv3d


class SparseResBlock(_blocks.SparseResBlock):
    """Two convolutions beside a shortcut; arguments as in 2.1."""

    conv = Conv3d
