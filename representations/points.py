# SPDX-License-Identifier: Apache-2.0
"""A cloud of points, with colours and normals where there are any."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


def box_of_points(points: Tensor) -> Tensor:
    """Give the smallest axis-aligned box around the finite points.

    Args:
        points: [n_points, 3]; points with a NaN or Inf coordinate are left out.

    Returns:
        [2, 3]: the lower corner, then the upper. All zero if no point is finite.

    Example:
        >>> box_of_points(torch.tensor([[0.0, 1.0, 2.0], [3.0, -1.0, 2.0]])).tolist()
        [[0.0, -1.0, 2.0], [3.0, 1.0, 2.0]]
    """
    points = points.detach()
    points = points[torch.isfinite(points).all(dim=-1)]
    if points.shape[0] == 0:
        return points.new_zeros(2, 3)
    return torch.stack((points.amin(0), points.amax(0)))


@dataclass(frozen=True, eq=False)
class PointCloud:
    """Points with optional colours and normals.

    Args:
        points: float32 [n_points, 3].
        colors: uint8 [n_points, 3], or None.
        normals: float32 [n_points, 3], or None.

    Raises:
        ValueError: If a shape or dtype is another.

    Example:
        >>> len(PointCloud(torch.zeros(5, 3)))
        5
    """

    points: Tensor
    colors: Tensor | None = None
    normals: Tensor | None = None

    def __post_init__(self) -> None:
        n = self.points.shape[0] if self.points.dim() else 0
        for name, dtype in (
            ("points", torch.float32),
            ("colors", torch.uint8),
            ("normals", torch.float32),
        ):
            tensor = getattr(self, name)
            if tensor is not None and (tuple(tensor.shape) != (n, 3) or tensor.dtype != dtype):
                raise ValueError(
                    f"PointCloud: {name}: expected {dtype} [{n}, 3], "
                    f"got {tensor.dtype} {list(tensor.shape)}"
                )

    def __len__(self) -> int:
        return self.points.shape[0]

    def to(self, device: torch.device | str) -> PointCloud:
        """Move all tensors to a device.

        Args:
            device: Where to.

        Returns:
            The cloud there.
        """
        return replace(
            self,
            points=self.points.to(device),
            colors=None if self.colors is None else self.colors.to(device),
            normals=None if self.normals is None else self.normals.to(device),
        )

    def bounds(self) -> Tensor:
        """Give the box around the finite points.

        Returns:
            [2, 3]: the lower corner, then the upper.
        """
        return box_of_points(self.points)
