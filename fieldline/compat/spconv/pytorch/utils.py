# SPDX-License-Identifier: Apache-2.0
"""spconv's ``pytorch.utils``: a voxeliser of tensors, and labels back on the points."""

from __future__ import annotations

import torch
from torch import Tensor

from ....engine.sparse.arguments import check_tensor, check_whole
from ..voxels import VoxelGrid

__all__ = ["PointToVoxel", "gather_features_by_pc_voxel_id"]


class PointToVoxel:
    """Points to voxels; the first points and the first voxels are kept, on a GPU too.

    Args:
        vsize_xyz: Size of a voxel along x, y, z.
        coors_range_xyz: Lowest x, y, z, then highest.
        num_point_features: Columns of the points, coordinates first.
        max_num_voxels: Voxels kept.
        max_num_points_per_voxel: Points kept of each.
        device: Where the points are.

    Example:
        >>> generator = PointToVoxel([1, 1, 1], [0, 0, 0, 4, 4, 4], 3, 10, 5)
        >>> points = torch.tensor([[0.5, 1.5, 2.5], [0.6, 1.6, 2.6], [9.0, 0.0, 0.0]])
        >>> _, indices, counts, voxel_of = generator.generate_voxel_with_id(points)
        >>> indices.tolist(), counts.tolist(), voxel_of.tolist()
        ([[2, 1, 0]], [2], [0, 0, -1])
    """

    def __init__(
        self,
        vsize_xyz: list[float],
        coors_range_xyz: list[float],
        num_point_features: int,
        max_num_voxels: int,
        max_num_points_per_voxel: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self._grid = VoxelGrid("PointToVoxel", vsize_xyz, coors_range_xyz, num_point_features)
        self.ndim = self._grid.ndim
        self.device = torch.device(device)
        self.num_point_features = num_point_features
        self.max_num_voxels = max_num_voxels
        self.max_num_points_per_voxel = max_num_points_per_voxel
        self.vsize, self.grid_size, self.grid_stride, self.coors_range = self._grid.meta_data

    def __call__(
        self, pc: Tensor, clear_voxels: bool = True, empty_mean: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`generate_voxel_with_id` without the voxel of each point."""
        return self.generate_voxel_with_id(pc, clear_voxels, empty_mean)[:3]

    def generate_voxel_with_id(
        self, pc: Tensor, clear_voxels: bool = True, empty_mean: bool = False
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Gathers points by voxel.

        Args:
            pc: [N, num_point_features], float32 or float64, on this object's kind of device.
            clear_voxels: Accepted; the result is always new.
            empty_mean: Fill places without a point with the mean of the voxel's points.

        Returns:
            voxels float32 [M, max_num_points_per_voxel, num_point_features]; indices int32
            [M, ndim], z, y, x; points of each voxel int32 [M]; the voxel of each point int64 [N],
            -1 for points outside and for voxels beyond ``max_num_voxels``.

        Raises:
            ValueError: The points have another shape or are on another device.
        """
        check_tensor("PointToVoxel", "pc", pc)
        if pc.device.type != self.device.type:
            raise ValueError(
                f"PointToVoxel: pc: expected a tensor on {self.device.type}, got {pc.device.type}"
            )
        return self._grid.voxelise(
            pc, self.max_num_voxels, self.max_num_points_per_voxel, empty_mean
        )


def gather_features_by_pc_voxel_id(
    seg_res_features: Tensor, pc_voxel_id: Tensor, invalid_value: float = 0
) -> Tensor:
    """What each point's voxel has.

    Args:
        seg_res_features: [M, ...], of voxels.
        pc_voxel_id: int64 [N], the voxel of each point, -1: none.
        invalid_value: What points of none get.

    Returns:
        [N, ...].

    Example:
        >>> labels = torch.tensor([[7.0], [8.0]])
        >>> gather_features_by_pc_voxel_id(labels, torch.tensor([1, -1, 0]))[:, 0].tolist()
        [8.0, 0.0, 7.0]
    """
    name = "gather_features_by_pc_voxel_id"
    check_tensor(name, "seg_res_features", seg_res_features)
    check_whole(name, "pc_voxel_id", pc_voxel_id)
    voxel_of = pc_voxel_id.to(seg_res_features.device)
    fallback = seg_res_features.new_full((1, *seg_res_features.shape[1:]), invalid_value)
    return torch.cat([fallback, seg_res_features])[voxel_of + 1]
