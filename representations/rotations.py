# SPDX-License-Identifier: Apache-2.0
"""Rotations as wxyz quaternions and matrices, batched and differentiable.

A quaternion stands for the same rotation at any length: every function here normalises its input
first. A zero quaternion has no direction; it becomes NaN, so that callers who can meet one must
check for it.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _check_last_dims(function: str, name: str, tensor: Tensor, last: tuple[int, ...]) -> None:
    if tuple(tensor.shape[-len(last) :]) != last or not tensor.is_floating_point():
        dims = ", ".join(str(size) for size in last)
        raise ValueError(
            f"{function}: {name}: expected a floating tensor [..., {dims}], "
            f"got {tensor.dtype} {list(tensor.shape)}"
        )


def quaternion_to_matrix(quats: Tensor) -> Tensor:
    """Turn wxyz quaternions of any non-zero length into rotation matrices.

    Args:
        quats: [..., 4], wxyz.

    Returns:
        [..., 3, 3], acting on column vectors.

    Raises:
        ValueError: If the last dimension is not 4.

    Example:
        >>> quaternion_to_matrix(torch.tensor([2.0, 0.0, 0.0, 0.0])).diagonal()
        tensor([1., 1., 1.])
    """
    _check_last_dims("quaternion_to_matrix", "quats", quats, (4,))
    w, x, y, z = (quats / quats.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def matrix_to_quaternion(matrices: Tensor) -> Tensor:
    """Turn rotation matrices into unit wxyz quaternions with w >= 0.

    The ten products of a unit quaternion's entries are linear in the matrix; the row of products
    with the largest diagonal is a multiple of the quaternion and never near zero (Shepperd, 1978).

    Args:
        matrices: [..., 3, 3] rotations.

    Returns:
        [..., 4], wxyz.

    Raises:
        ValueError: If the last dimensions are not 3 x 3.

    Example:
        >>> matrix_to_quaternion(torch.eye(3))
        tensor([1., 0., 0., 0.])
    """
    _check_last_dims("matrix_to_quaternion", "matrices", matrices, (3, 3))
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = (row.unbind(-1) for row in matrices.unbind(-2))
    products = (
        (1 + xx + yy + zz, zy - yz, xz - zx, yx - xy),
        (zy - yz, 1 + xx - yy - zz, yx + xy, xz + zx),
        (xz - zx, yx + xy, 1 - xx + yy - zz, zy + yz),
        (yx - xy, xz + zx, zy + yz, 1 - xx - yy + zz),
    )
    table = torch.stack([torch.stack(row, dim=-1) for row in products], dim=-2)
    largest = table.diagonal(dim1=-2, dim2=-1).argmax(dim=-1)
    index = largest[..., None, None].expand(*largest.shape, 1, 4)
    quats = table.gather(-2, index).squeeze(-2)
    quats = quats / quats.norm(dim=-1, keepdim=True)
    return torch.where(quats[..., :1] < 0, -quats, quats)


def slerp(start: Tensor, end: Tensor, fraction: Tensor) -> Tensor:
    """Walk along the shortest arc between two rotations at constant angular speed (Shoemake, 1985).

    Args:
        start: [..., 4], wxyz.
        end: [..., 4], wxyz.
        fraction: [...], 0 gives `start`, 1 gives `end`.

    Returns:
        [..., 4] unit quaternions, wxyz.

    Raises:
        ValueError: If the last dimension of `start` or `end` is not 4.

    Example:
        >>> start, end = torch.tensor([1.0, 0, 0, 0]), torch.tensor([0.0, 0, 0, 1])
        >>> slerp(start, end, torch.tensor(1 / 3))
        tensor([0.8660, 0.0000, 0.0000, 0.5000])
    """
    _check_last_dims("slerp", "start", start, (4,))
    _check_last_dims("slerp", "end", end, (4,))
    start = start / start.norm(dim=-1, keepdim=True)
    end = end / end.norm(dim=-1, keepdim=True)
    cosine = (start * end).sum(-1, keepdim=True)
    end = torch.where(cosine < 0, -end, end)
    cosine = cosine.abs().clamp(max=1.0)
    angle = torch.acos(cosine)
    fraction = fraction[..., None]
    # Below this angle sin() has no digits left to divide by and the arc is straight.
    straight = angle < 1e-4
    safe = torch.where(straight, torch.ones_like(angle), angle)
    weight_start = torch.where(
        straight, 1 - fraction, torch.sin((1 - fraction) * safe) / safe.sin()
    )
    weight_end = torch.where(straight, fraction, torch.sin(fraction * safe) / safe.sin())
    blended = weight_start * start + weight_end * end
    return blended / blended.norm(dim=-1, keepdim=True)
