# SPDX-License-Identifier: Apache-2.0
"""MinkUNet: the U-net of residual blocks that LiDAR segmentation is measured with.

Choy et al., "4D Spatio-Temporal ConvNets: Minkowski Convolutional Neural Networks" (CVPR 2019), in
the widths of Tang et al., "Searching Efficient 3D Architectures with Sparse Point-Voxel
Convolution" (ECCV 2020).
"""

from __future__ import annotations

import torch

from .. import nn
from ..arguments import whole
from ..tensor import SparseTensor
from .blocks import down, join, residual, scaled, subm, up

WIDTHS = (32, 32, 64, 128, 256, 256, 128, 96, 96)
"""Channels of the stem, of four levels down, and of four levels up."""


class MinkUNet(torch.nn.Module):
    """Four levels down by strided 2 x 2 x 2 convolutions, two residual blocks at each, and back up.

    Args:
        in_channels: Channels of the input.
        classes: Channels of the output.
        width: Multiplies all widths; 1.0 has 21.7 million parameters.

    Example:
        >>> MinkUNet(4, 19, 0.5).head.out_features
        19
    """

    def __init__(self, in_channels: int = 4, classes: int = 19, width: float = 1.0) -> None:
        super().__init__()
        name = type(self).__name__
        whole(name, "classes", classes)
        c = self.widths = scaled(name, width, WIDTHS)
        self.stem = nn.Sequential(*subm(in_channels, c[0]), *subm(c[0], c[0]))
        self.encoder = torch.nn.ModuleList(
            nn.Sequential(
                *down(c[k], c[k], 2, 2), residual(c[k], c[k + 1]), residual(c[k + 1], c[k + 1])
            )
            for k in range(4)
        )
        self.up = torch.nn.ModuleList(up(c[4 + k], c[5 + k]) for k in range(4))
        self.decoder = torch.nn.ModuleList(
            nn.Sequential(residual(c[5 + k] + c[3 - k], c[5 + k]), residual(c[5 + k], c[5 + k]))
            for k in range(4)
        )
        self.head = torch.nn.Linear(c[8], classes)

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
        return x.replace(self.head(x.feats))
