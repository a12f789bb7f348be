# SPDX-License-Identifier: Apache-2.0
"""spconv's ``utils``: voxelisers of numpy arrays, by way of ``cumm.tensorview``."""

from __future__ import annotations

from contextlib import nullcontext

import torch

from ...engine.sparse.arguments import check_kind
from ..cumm import tensorview as tv
from .constants import CPU_ONLY_BUILD
from .voxels import VoxelGrid

__all__ = [
    "CPU_ONLY_BUILD",
    "Point2VoxelCPU1d",
    "Point2VoxelCPU2d",
    "Point2VoxelCPU3d",
    "Point2VoxelCPU4d",
    "Point2VoxelGPU1d",
    "Point2VoxelGPU2d",
    "Point2VoxelGPU3d",
    "Point2VoxelGPU4d",
    "nullcontext",
]


class _Point2Voxel:
    """Points to voxels; the first points and the first voxels are kept.

    Args:
        vsize_xyz: Size of a voxel along x, y, z.
        coors_range_xyz: Lowest x, y, z, then highest.
        num_point_features: Columns of the points, coordinates first.
        max_num_voxels: Voxels kept.
        max_num_points_per_voxel: Points kept of each.

    Example:
        >>> generator = Point2VoxelCPU3d([1, 1, 1], [0, 0, 0, 4, 4, 4], 3, 10, 5)
        >>> points = torch.tensor([[0.5, 1.5, 2.5], [0.6, 1.6, 2.6]])
        >>> voxels, indices, counts = generator.point_to_voxel(tv.Tensor(points))
        >>> voxels.shape, indices.numpy().tolist(), counts.numpy().tolist()
        ([1, 5, 3], [[2, 1, 0]], [2])
    """

    ndim: int
    device = "cpu"

    def __init__(
        self,
        vsize_xyz: list[float],
        coors_range_xyz: list[float],
        num_point_features: int,
        max_num_voxels: int,
        max_num_points_per_voxel: int,
    ) -> None:
        self._grid = VoxelGrid(
            type(self).__name__.lstrip("_"),
            vsize_xyz,
            coors_range_xyz,
            num_point_features,
            self.ndim,
        )
        self.max_num_voxels = max_num_voxels
        self.max_num_points_per_voxel = max_num_points_per_voxel

    @property
    def grid_size(self) -> list[int]:
        """Voxels along z, y, x."""
        return self._grid.grid_size

    @staticmethod
    def calc_meta_data(
        vsize_xyz: list[float], coors_range_xyz: list[float]
    ) -> tuple[list[float], list[int], list[int], list[float]]:
        """Sizes, numbers, strides and range of the voxels along z, y, x."""
        return VoxelGrid("calc_meta_data", vsize_xyz, coors_range_xyz, None).meta_data

    def point_to_voxel(
        self, points: tv.Tensor, clear_voxels: bool = True
    ) -> tuple[tv.Tensor, tv.Tensor, tv.Tensor]:
        """Gathers points by voxel.

        Args:
            points: [N, num_point_features], float32 or float64.
            clear_voxels: Accepted; the result is always new.

        Returns:
            voxels float32 [M, max_num_points_per_voxel, num_point_features], 0 where there is no
            point; indices int32 [M, ndim], z, y, x; points of each voxel, int32 [M].
        """
        return self._voxels(points, empty_mean=False)

    def point_to_voxel_empty_mean(
        self, points: tv.Tensor, clear_voxels: bool = True
    ) -> tuple[tv.Tensor, tv.Tensor, tv.Tensor]:
        """As `point_to_voxel`, with the mean of a voxel's points where there is no point."""
        return self._voxels(points, empty_mean=True)

    def point_to_voxel_hash(
        self,
        points: tv.Tensor,
        clear_voxels: bool = True,
        empty_mean: bool = False,
        stream: int = 0,
    ) -> tuple[tv.Tensor, tv.Tensor, tv.Tensor]:
        """As `point_to_voxel`, under the name it has on a GPU."""
        return self._voxels(points, empty_mean)

    def _voxels(
        self, points: tv.Tensor, empty_mean: bool
    ) -> tuple[tv.Tensor, tv.Tensor, tv.Tensor]:
        check_kind(self._grid.function, "points", points, tv.Tensor)
        given = torch.as_tensor(points.torch, device=self.device)
        voxels, indices, counts, _ = self._grid.voxelise(
            given, self.max_num_voxels, self.max_num_points_per_voxel, empty_mean
        )
        return tv.Tensor(voxels), tv.Tensor(indices), tv.Tensor(counts)


class Point2VoxelCPU1d(_Point2Voxel):
    """Voxels of points with one coordinate, on the CPU."""

    ndim = 1


class Point2VoxelCPU2d(_Point2Voxel):
    """Voxels of points with two coordinates, on the CPU."""

    ndim = 2


class Point2VoxelCPU3d(_Point2Voxel):
    """Voxels of points with three coordinates, on the CPU."""

    ndim = 3


class Point2VoxelCPU4d(_Point2Voxel):
    """Voxels of points with four coordinates, on the CPU."""

    ndim = 4


class Point2VoxelGPU1d(_Point2Voxel):
    """Voxels of points with one coordinate, on the GPU."""

    ndim, device = 1, "cuda"


class Point2VoxelGPU2d(_Point2Voxel):
    """Voxels of points with two coordinates, on the GPU."""

    ndim, device = 2, "cuda"


class Point2VoxelGPU3d(_Point2Voxel):
    """Voxels of points with three coordinates, on the GPU."""

    ndim, device = 3, "cuda"


class Point2VoxelGPU4d(_Point2Voxel):
    """Voxels of points with four coordinates, on the GPU."""

    ndim, device = 4, "cuda"
