# SPDX-License-Identifier: Apache-2.0
"""torchsparse's ``backbones``: its two networks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from torch import nn

from .. import nn as spnn
from ..operators import cat
from ..tensor import SparseTensor
from . import blocks as _blocks

__all__ = ["SparseResNet", "SparseResNet21D", "SparseResUNet", "SparseResUNet42"]


class SparseResNet(nn.ModuleList):
    """Stages of residual blocks.

    Args:
        blocks: (number, channels, kernel size, stride) of each stage.
        in_channels: C_in.
        width_multiplier: Of all channels.
    """

    block_types: Any = _blocks

    def __init__(
        self,
        blocks: Sequence[tuple[int, int, Any, Any]],
        *,
        in_channels: int = 4,
        width_multiplier: float = 1.0,
    ) -> None:
        super().__init__()
        self.blocks = blocks
        self.in_channels = in_channels
        self.width_multiplier = width_multiplier
        for number, channels, kernel_size, stride in blocks:
            channels = int(channels * width_multiplier)
            stage: list[nn.Module] = [
                self.block_types.SparseConvBlock(in_channels, channels, kernel_size, stride)
            ]
            stage += [
                self.block_types.SparseResBlock(channels, channels, kernel_size)
                for _ in range(number - 1)
            ]
            self.append(nn.Sequential(*stage))
            in_channels = channels

    def forward(self, x: SparseTensor) -> list[SparseTensor]:
        """The output of every stage."""
        outputs = []
        for stage in self:
            x = stage(x)
            outputs.append(x)
        return outputs


class SparseResNet21D(SparseResNet):
    """The encoder of CenterPoint: five stages, 8 times coarser.

    Args:
        kwargs: Those of `SparseResNet` after ``blocks``.
    """

    def __init__(self, **kwargs: Any) -> None:
        stages = [
            (3, 16, 3, 1),
            (3, 32, 3, 2),
            (3, 64, 3, 2),
            (3, 128, 3, 2),
            (1, 128, (1, 3, 1), (1, 2, 1)),
        ]
        super().__init__(stages, **kwargs)


class SparseResUNet(nn.Module):
    """An encoder and a decoder of four stages with skip connections: MinkUNet.

    Args:
        stem_channels: Of the first stage.
        encoder_channels: Of the stages down.
        decoder_channels: Of the stages up.
        in_channels: C_in.
        width_multiplier: Of all channels.
    """

    block_types: Any = _blocks

    def __init__(
        self,
        stem_channels: int,
        encoder_channels: list[int],
        decoder_channels: list[int],
        *,
        in_channels: int = 4,
        width_multiplier: float = 1.0,
    ) -> None:
        super().__init__()
        self.stem_channels = stem_channels
        self.encoder_channels = encoder_channels
        self.decoder_channels = decoder_channels
        self.in_channels = in_channels
        self.width_multiplier = width_multiplier
        widths = [stem_channels, *encoder_channels, *decoder_channels]
        widths = [int(width_multiplier * width) for width in widths]
        types = self.block_types
        down, up = widths[:5], widths[4:]
        conv = types.SparseConvBlock.conv
        self.stem = nn.Sequential(
            conv(in_channels, down[0], 3),
            spnn.BatchNorm(down[0]),
            spnn.ReLU(True),
            conv(down[0], down[0], 3),
            spnn.BatchNorm(down[0]),
            spnn.ReLU(True),
        )
        self.encoders = nn.ModuleList(
            nn.Sequential(
                types.SparseConvBlock(before, before, 2, stride=2),
                types.SparseResBlock(before, after, 3),
                types.SparseResBlock(after, after, 3),
            )
            for before, after in itertools.pairwise(down)
        )
        self.decoders = nn.ModuleList()
        for before, after, skipped in zip(up, up[1:], reversed(down[:-1])):
            fuse = nn.Sequential(
                types.SparseResBlock(after + skipped, after, 3),
                types.SparseResBlock(after, after, 3),
            )
            upsample = types.SparseConvTransposeBlock(before, after, 2, stride=2)
            self.decoders.append(nn.ModuleDict({"upsample": upsample, "fuse": fuse}))

    def forward(self, x: SparseTensor) -> list[SparseTensor]:
        """The outputs of the stem, of each encoder and of each decoder."""
        outputs = [self.stem(x)]
        for encoder in self.encoders:
            outputs.append(encoder(outputs[-1]))
        skipped = outputs[-2::-1]
        for decoder, skip in zip(self.decoders, skipped):
            finer = decoder["upsample"](outputs[-1])  # type: ignore[index]
            outputs.append(decoder["fuse"](cat([finer, skip])))  # type: ignore[index]
        return outputs


class SparseResUNet42(SparseResUNet):
    """MinkUNet42 of SemanticKITTI.

    Args:
        kwargs: ``in_channels`` and ``width_multiplier`` of `SparseResUNet`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(32, [32, 64, 128, 256], [256, 128, 96, 96], **kwargs)
