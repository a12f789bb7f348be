# SPDX-License-Identifier: Apache-2.0
"""SpUNet: the deeper U-net that scanned rooms are segmented with (Pointcept's baseline)."""

from __future__ import annotations

import torch

from .. import nn
from ..tensor import SparseTensor
from .blocks import Norm, down, join, residual, subm, up

_CHANNELS = (32, 64, 128, 256, 256, 128, 96, 96)
_LAYERS = (2, 3, 4, 6, 2, 2, 2, 2)
_BASE = 32


class SpUNet(torch.nn.Module):
    """A 5 x 5 x 5 stem, four levels of 2, 3, 4 and 6 residual blocks down, of two blocks up.

    Args:
        in_channels: Channels of the input.
        classes: Channels of the output.

    Example:
        >>> SpUNet(6, 20).head.weight.shape[-1]
        20
    """

    def __init__(self, in_channels: int = 6, classes: int = 20) -> None:
        super().__init__()
        self.stem = subm(in_channels, _BASE, 5, Norm)
        before = (_BASE, *_CHANNELS)
        self.encoder = torch.nn.ModuleList(
            nn.Sequential(
                *down(before[k], c, 2, 2, norm=Norm),
                *(residual(c, c, Norm) for _ in range(_LAYERS[k])),
            )
            for k, c in enumerate(_CHANNELS[:4])
        )
        self.up = torch.nn.ModuleList(
            up(_CHANNELS[3 + k], _CHANNELS[4 + k], Norm) for k in range(4)
        )
        self.decoder = torch.nn.ModuleList(
            nn.Sequential(
                residual(_CHANNELS[4 + k] + before[3 - k], _CHANNELS[4 + k], Norm),
                *(
                    residual(_CHANNELS[4 + k], _CHANNELS[4 + k], Norm)
                    for _ in range(_LAYERS[4 + k] - 1)
                ),
            )
            for k in range(4)
        )
        self.head = nn.SubmConv3d(_CHANNELS[-1], classes, 1, bias=True)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Give the logits of every voxel.

        Args:
            x: Features [n_voxels, in_channels].

        Returns:
            [n_voxels, classes] on the same coordinates.
        """
        levels = [self.stem(x)]
        for encode in self.encoder:
            levels.append(encode(levels[-1]))
        x = levels.pop()
        for climb, decode in zip(self.up, self.decoder):
            x = decode(join(climb(x), levels.pop()))
        return self.head(x)
