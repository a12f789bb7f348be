# SPDX-License-Identifier: Apache-2.0
"""What detectors see through: sparse encoders to an eighth of the resolution, and a bird's-eye map.

`VoxelBackBone8x` is the encoder of Yan et al., "SECOND: Sparsely Embedded Convolutional Detection"
(Sensors 2018); `SparseResNet21D` and `BirdsEyeStem` those of Yin et al., "Center-based 3D Object
Detection and Tracking" (CVPR 2021). Axes are x, y, z; only z is squeezed at the end.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import nn
from ..arguments import check_kind, whole
from ..tensor import SparseTensor
from .blocks import Norm, down, residual, scaled, subm


class VoxelBackBone8x(torch.nn.Module):
    """SECOND's encoder: 12 convolutions, three of them strided, and one that squeezes the height.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.

    Example:
        >>> len(VoxelBackBone8x(4).layers)
        6
    """

    def __init__(self, in_channels: int = 4, out_channels: int = 128) -> None:
        super().__init__()
        layers = [subm(in_channels, 16, norm=Norm), subm(16, 16, norm=Norm)]
        for c_in, c_out, padding in ((16, 32, 1), (32, 64, 1), (64, 64, (1, 1, 0))):
            stay = [*subm(c_out, c_out, norm=Norm), *subm(c_out, c_out, norm=Norm)]
            layers.append(nn.Sequential(*down(c_in, c_out, 3, 2, padding, Norm), *stay))
        layers.append(down(64, out_channels, (1, 1, 3), (1, 1, 2), norm=Norm))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Encode.

        Args:
            x: Features [n_voxels, in_channels].

        Returns:
            Features at strides 8, 8, 16.
        """
        return self.layers(x)


class SparseResNet21D(torch.nn.Module):
    """CenterPoint's encoder: 21 convolutions in residual blocks of four widths.

    Args:
        in_channels: Channels of the input.
        width: Multiplies the widths 16, 32, 64, 128.

    Example:
        >>> len(SparseResNet21D(5).layers)
        5
    """

    def __init__(self, in_channels: int = 5, width: float = 1.0) -> None:
        super().__init__()
        c = scaled(type(self).__name__, width, (16, 32, 64, 128))
        self.out_channels = c[3]
        layers = [nn.Sequential(*subm(in_channels, c[0], norm=Norm), *_twice(c[0]))]
        for c_in, c_out, padding in ((c[0], c[1], 1), (c[1], c[2], 1), (c[2], c[3], (1, 1, 0))):
            layers.append(nn.Sequential(*down(c_in, c_out, 3, 2, padding, Norm), *_twice(c_out)))
        layers.append(down(c[3], c[3], (1, 1, 3), (1, 1, 2), norm=Norm))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Encode.

        Args:
            x: Features [n_voxels, in_channels].

        Returns:
            Features at strides 8, 8, 16.
        """
        return self.layers(x)


def _twice(channels: int) -> list[torch.nn.Module]:
    return [residual(channels, channels, Norm) for _ in range(2)]


class BirdsEyeStem(torch.nn.Module):
    """The dense part that detection heads stand on: two scales of 2D convolutions, joined.

    Args:
        in_channels: Channels times height of the bird's-eye map.
        out_channels: Of what a head takes.

    Example:
        >>> BirdsEyeStem(8, 4)(torch.zeros(1, 8, 6, 6)).shape
        torch.Size([1, 4, 6, 6])
    """

    def __init__(self, in_channels: int, out_channels: int = 64) -> None:
        super().__init__()
        whole("BirdsEyeStem", "out_channels", out_channels)
        self.fine = _planes(whole("BirdsEyeStem", "in_channels", in_channels), 128, 1)
        self.coarse = _planes(128, 256, 2)
        self.from_fine = torch.nn.Sequential(
            torch.nn.Conv2d(128, 256, 1, bias=False), *_normed(256)
        )
        self.from_coarse = torch.nn.Sequential(
            torch.nn.ConvTranspose2d(256, 256, 2, 2, bias=False), *_normed(256)
        )
        self.shared = torch.nn.Sequential(
            torch.nn.Conv2d(512, out_channels, 3, padding=1), *_normed(out_channels)
        )

    def forward(self, plane: Tensor) -> Tensor:
        """Give the map that heads read.

        Args:
            plane: [batch, in_channels, size_x, size_y].

        Returns:
            [batch, out_channels, size_x, size_y].
        """
        fine = self.fine(plane)
        coarse = self.from_coarse(self.coarse(fine))[..., : fine.shape[2], : fine.shape[3]]
        return self.shared(torch.cat((self.from_fine(fine), coarse), dim=1))


def _normed(channels: int) -> list[torch.nn.Module]:
    return [torch.nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01), torch.nn.ReLU(inplace=True)]


def _planes(c_in: int, c_out: int, stride: int) -> torch.nn.Sequential:
    layers = [torch.nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), *_normed(c_out)]
    for _ in range(5):
        layers += [torch.nn.Conv2d(c_out, c_out, 3, padding=1, bias=False), *_normed(c_out)]
    return torch.nn.Sequential(*layers)


class CenterPoint(torch.nn.Module):
    """An encoder, its output seen from above, and the stem of the heads.

    Args:
        encoder: `SparseResNet21D` or `VoxelBackBone8x`.
        encoded_channels: Channels of its output.
        height: Positions of its output along z.
        out_channels: Of the map that heads read.
    """

    def __init__(
        self, encoder: torch.nn.Module, encoded_channels: int, height: int, out_channels: int = 64
    ) -> None:
        super().__init__()
        check_kind("CenterPoint", "encoder", encoder, torch.nn.Module)
        planes = whole("CenterPoint", "encoded_channels", encoded_channels)
        planes *= whole("CenterPoint", "height", height)
        self.encoder = encoder
        self.from_above = nn.ToBEVDense()
        self.stem = BirdsEyeStem(planes, out_channels)

    def forward(self, x: SparseTensor) -> Tensor:
        """Give the map that heads read.

        Args:
            x: Features [n_voxels, in_channels], with a spatial range.

        Returns:
            [batch, out_channels, size_x / 8, size_y / 8].
        """
        return self.stem(self.from_above(self.encoder(x)))
