# SPDX-License-Identifier: Apache-2.0
"""Points gathered by voxel as spconv does: first come, first kept."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from ...engine.sparse.arguments import check_tensor, shown, whole


class VoxelGrid:
    """A box of voxels. Points come as x, y, z; voxels are numbered z, y, x.

    Args:
        function: The caller's name, for errors.
        vsize_xyz: Size of a voxel, x first.
        coors_range_xyz: Lowest corner, x first, then highest.
        num_point_features: Columns of the points; None: any.
        ndim: Coordinates; None: as many as sizes.
    """

    def __init__(
        self,
        function: str,
        vsize_xyz: list[float],
        coors_range_xyz: list[float],
        num_point_features: int | None,
        ndim: int | None = None,
    ) -> None:
        size = _lengths(function, "vsize_xyz", vsize_xyz)
        limits = _lengths(function, "coors_range_xyz", coors_range_xyz)
        self.ndim = len(size) if ndim is None else ndim
        self.function, self._columns = function, num_point_features
        if len(size) != self.ndim or len(limits) != 2 * self.ndim:
            raise ValueError(
                f"{function}: vsize_xyz, coors_range_xyz: expected {self.ndim} and "
                f"{2 * self.ndim} numbers, got {len(size)} and {len(limits)}"
            )
        low, high = limits[: self.ndim], limits[self.ndim :]
        if self._columns is not None:
            whole(function, "num_point_features", self._columns, self.ndim)
        if min(size) <= 0 or any(b < a for a, b in zip(low, high)):
            raise ValueError(
                f"{function}: vsize_xyz, coors_range_xyz: expected sizes above 0 and a lowest "
                f"corner first, got {size} and {limits}"
            )
        # Single precision, as spconv keeps them: points on a border fall on the same side.
        self._size = torch.tensor(size[::-1])
        self._low = torch.tensor(low[::-1])
        high_zyx = torch.tensor(high[::-1])
        self.grid_size = [round(n) for n in ((high_zyx - self._low) / self._size).tolist()]

    @property
    def meta_data(self) -> tuple[list[float], list[int], list[int], list[float]]:
        """Voxel sizes, numbers of voxels, strides between them and the range; z, y, x each."""
        strides = [math.prod(self.grid_size[axis + 1 :]) for axis in range(self.ndim)]
        high = self._low + torch.tensor(self.grid_size) * self._size
        limits = [*self._low.tolist(), *high.tolist()]
        return self._size.tolist(), self.grid_size, strides, limits

    @torch.no_grad()
    def voxelise(
        self, points: Tensor, max_voxels: int, max_points: int, empty_mean: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Gathers points by voxel.

        Args:
            points: [N, C], coordinates first.
            max_voxels: Voxels kept, those whose first point comes first.
            max_points: Points kept of each voxel, the first ones.
            empty_mean: Fill the places without a point with the mean of those kept, not with 0.

        Returns:
            voxels [M, max_points, C], indices int32 [M, ndim], counts int32 [M], and the voxel of
            each point, int64 [N], -1: none (points beyond ``max_points`` keep their voxel).
        """
        self._check(points)
        max_voxels = whole(self.function, "max_num_voxels", max_voxels, 0)
        max_points = whole(self.function, "max_num_points_per_voxel", max_points, 0)
        cells, inside = self._cells(points)
        voxel_of, indices = _number_by_first_come(cells, inside, max_voxels)
        rank = _rank_within(voxel_of, len(indices))
        kept = ((voxel_of >= 0) & (rank < max_points)).nonzero()[:, 0]
        counts = torch.bincount(voxel_of[kept], minlength=len(indices))
        voxels = torch.zeros(len(indices), max_points, points.shape[1], device=points.device)
        voxels[voxel_of[kept], rank[kept]] = points[kept].float()
        if empty_mean:
            mean = voxels.sum(1) / counts.clamp_min(1)[:, None]
            empty = torch.arange(max_points, device=points.device) >= counts[:, None]
            voxels = torch.where(empty[:, :, None], mean[:, None], voxels)
        return voxels, indices.int(), counts.int(), voxel_of

    def _check(self, points: Tensor) -> None:
        check_tensor(self.function, "points", points)
        wanted = self._columns or "C"
        right = points.dim() == 2 and points.shape[1] >= self.ndim
        if not right or (self._columns is not None and points.shape[1] != self._columns):
            raise ValueError(
                f"{self.function}: points: expected shape [N, {wanted}], got {list(points.shape)}"
            )
        if points.dtype not in (torch.float32, torch.float64):
            raise TypeError(
                f"{self.function}: points: expected float32 or float64, got {points.dtype}"
            )

    def _cells(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """z, y, x of the voxel that each point lies in, and whether there is one."""
        place = points[:, : self.ndim].flip(1)
        cells = ((place - self._low.to(place.device)) / self._size.to(place.device)).floor()
        sizes = torch.tensor(self.grid_size, device=cells.device)
        # Comparisons with not-a-number are false: such points lie nowhere.
        inside = ((cells >= 0) & (cells < sizes)).all(1)
        return torch.where(inside[:, None], cells, 0).long(), inside


def _lengths(function: str, argument: str, values: Iterable[float]) -> list[float]:
    try:
        lengths = [float(v) for v in values]
    except (TypeError, ValueError) as error:
        raise TypeError(f"{function}: {argument}: expected lengths, got {shown(values)}") from error
    if not all(map(math.isfinite, lengths)):
        raise ValueError(f"{function}: {argument}: expected finite lengths, got {shown(lengths)}")
    return lengths


def _number_by_first_come(cells: Tensor, inside: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Voxels in the order of their first points: the number of each point's, and their cells."""
    rows = inside.nonzero()[:, 0]
    unique, inverse = torch.unique(cells[rows], dim=0, return_inverse=True)
    first = torch.full((len(unique),), len(cells), device=cells.device)
    first = first.scatter_reduce(0, inverse, rows, "amin")
    order = first.argsort()
    number = torch.empty_like(order)
    number[order] = torch.arange(len(order), device=order.device)
    number[order[most:]] = -1
    voxel_of = torch.full((len(cells),), -1, device=cells.device)
    voxel_of[rows] = number[inverse]
    return voxel_of, unique[order[:most]]


def _rank_within(voxel_of: Tensor, n_voxels: int) -> Tensor:
    """How many points of the same voxel come before each point."""
    order = voxel_of.argsort(stable=True)
    sizes = torch.bincount(voxel_of + 1, minlength=n_voxels + 1)
    starts = sizes.cumsum(0) - sizes
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device) - starts[voxel_of[order] + 1]
    return rank
