# SPDX-License-Identifier: Apache-2.0
"""SPVCNN: MinkUNet with a second branch that stays at the points, where small things survive.

Tang et al., "Searching Efficient 3D Architectures with Sparse Point-Voxel Convolution" (ECCV 2020).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ....cuda.sparse import pool_ops
from ..interpolate import rows_at
from ..quantize import batch_column, in_voxels
from ..tensor import SparseTensor
from .blocks import join
from .minkunet import MinkUNet


class SPVCNN(MinkUNet):
    """A MinkUNet that exchanges features with the points four times.

    Args:
        in_channels: Channels of the input.
        classes: Channels of the output.
        width: Multiplies all widths; 1.0 has 21.8 million parameters.

    Example:
        >>> len(SPVCNN(width=0.5).points)
        3
    """

    def __init__(self, in_channels: int = 4, classes: int = 19, width: float = 1.0) -> None:
        super().__init__(in_channels, classes, width)
        c = self.widths
        self.points = torch.nn.ModuleList(
            torch.nn.Sequential(
                torch.nn.Linear(c_in, c_out), torch.nn.BatchNorm1d(c_out), torch.nn.ReLU()
            )
            for c_in, c_out in ((c[0], c[4]), (c[4], c[6]), (c[6], c[8]))
        )
        self.dropout = torch.nn.Dropout(0.3)

    def forward(self, x: SparseTensor, points: Tensor, batch: Tensor | None = None) -> Tensor:
        """Give the logits of every point.

        Args:
            x: Features [n_voxels, in_channels] of the voxels that the points are in.
            points: [n_points, 3] in units of voxels.
            batch: [n_points], the batch item of each point; default: all 0.

        Returns:
            [n_points, classes].
        """
        branch = _PointBranch(points, batch)
        stem = self.stem(x)
        at_points = branch.read(stem)
        levels = [stem]
        x = branch.write(stem, at_points)
        for encode in self.encoder:
            x = encode(x)
            levels.append(x)
        levels.pop()
        for k, exchange in enumerate(self.points):
            at_points = branch.read(x) + exchange(at_points)
            if k == 2:
                break
            x = branch.write(x, at_points)
            x = x.replace(self.dropout(x.feats))
            for climb, decode in list(zip(self.up, self.decoder))[2 * k : 2 * k + 2]:
                x = decode(join(climb(x), levels.pop()))
        return self.head(at_points)


class _PointBranch:
    """The points, and the rows of the voxels they are in at every level that was asked for."""

    def __init__(self, points: Tensor, batch: Tensor | None) -> None:
        self.points = in_voxels("SPVCNN", points, 1.0)
        self.batch = batch_column("SPVCNN", batch, points)
        self._rows: dict[tuple[int, ...], Tensor] = {}

    def read(self, x: SparseTensor) -> Tensor:
        """Features of voxels at the points, trilinear."""
        return x.devoxelize(self.points, batch=self.batch[:, 0], mode="trilinear")

    def write(self, x: SparseTensor, feats: Tensor) -> SparseTensor:
        """The mean of the points in each voxel."""
        if x.stride not in self._rows:
            place = self.points / self.points.new_tensor(x.stride)
            self._rows[x.stride] = rows_at(x.level, place, self.batch).long()
        rows = self._rows[x.stride]
        return x.replace(pool_ops.sparse_segment_reduce(feats, rows, len(x), "mean"))
