# SPDX-License-Identifier: Apache-2.0
"""Rigid poses as 4 x 4 matrices: assembling, inverting, and checking those from outside."""

from __future__ import annotations

import torch
from torch import Tensor

# A rotation read from text or estimated in float32 may be this far from orthonormal; more is a
# mistake (a scaled or sheared pose), not rounding.
_ROTATION_TOLERANCE = 1e-2


def flip_y_z(matrix: Tensor) -> Tensor:
    """Swap OpenCV and OpenGL camera axes of a camera_to_world matrix [..., 4, 4]."""
    return matrix * matrix.new_tensor([1.0, -1.0, -1.0, 1.0])


def homogeneous(rotation: Tensor, translation: Tensor) -> Tensor:
    """Assemble [..., 4, 4] from [..., 3, 3] and [..., 3]."""
    upper = torch.cat((rotation, translation.unsqueeze(-1)), dim=-1)
    lower = upper.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*upper.shape[:-2], 1, 4)
    return torch.cat((upper, lower), dim=-2)


def invert_rigid(matrix: Tensor) -> Tensor:
    """Invert a rotation and translation [..., 4, 4] without a linear solve."""
    rotation = matrix[..., :3, :3].transpose(-1, -2)
    return homogeneous(rotation, -(rotation @ matrix[..., :3, 3:]).squeeze(-1))


def checked_pose(function: str, name: str, matrix: Tensor) -> Tensor:
    """Return a pose [..., 4, 4] whose rotation part is orthonormal, or say why it cannot be one."""
    if matrix.dim() < 2 or tuple(matrix.shape[-2:]) not in ((3, 4), (4, 4)):
        raise ValueError(
            f"{function}: {name}: expected [..., 4, 4] or [..., 3, 4], got {list(matrix.shape)}"
        )
    if not bool(torch.isfinite(matrix).all()):
        raise ValueError(f"{function}: {name}: expected finite numbers, got NaN or Inf")
    last_row = matrix[..., 3:, :] - matrix.new_tensor([0.0, 0.0, 0.0, 1.0])
    if last_row.numel() and float(last_row.abs().max()) > _ROTATION_TOLERANCE:
        raise ValueError(
            f"{function}: {name}: expected [0, 0, 0, 1] as the last row of each matrix"
        )
    rotation = matrix[..., :3, :3].to(torch.float64)
    identity = torch.eye(3, dtype=torch.float64, device=matrix.device)
    error = (rotation.transpose(-1, -2) @ rotation - identity).abs()
    worst = float(error.max()) if error.numel() else 0.0
    if worst > _ROTATION_TOLERANCE:
        raise ValueError(
            f"{function}: {name}: expected a rotation in the upper left 3 x 3 (R^T R = 1), "
            f"got one that is off by {worst:.3g}"
        )
    if error.numel() and float(torch.linalg.det(rotation).min()) < 0:
        raise ValueError(
            f"{function}: {name}: expected a rotation, got a reflection (determinant < 0)"
        )
    # Newton-Schulz: each step squares the distance to the nearest rotation, and it has a gradient.
    for _ in range(3):
        rotation = 1.5 * rotation - 0.5 * rotation @ (rotation.transpose(-1, -2) @ rotation)
    return homogeneous(rotation.to(matrix.dtype), matrix[..., :3, 3])
