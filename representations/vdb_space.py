# SPDX-License-Identifier: Apache-2.0
"""Where a VDB grid lies: its origin, its transform, and values by index."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1
BLOCK = 64
_FAR = 1 << 40


def checked_origin(origin: Any, resolution: tuple[int, int, int]) -> tuple[int, int, int]:
    """Gives an origin as integers.

    Args:
        origin: Three integers or a tensor of them.
        resolution: Voxels per axis from there on.

    Returns:
        The origin.

    Raises:
        TypeError: They are no integers.
        ValueError: They are no multiples of 64, or a coordinate would be no int32.
    """
    values = origin.tolist() if isinstance(origin, Tensor) else list(origin)
    if len(values) != 3 or not all(isinstance(v, int) for v in values):
        raise TypeError(f"VDBGrid: origin: expected 3 integers, got {origin}")
    if any(v % BLOCK for v in values):
        raise ValueError(f"VDBGrid: origin: expected multiples of {BLOCK}, got {values}")
    if any(v < INT32_MIN or v + n - 1 > INT32_MAX for v, n in zip(values, resolution)):
        raise ValueError(
            f"VDBGrid: origin: expected coordinates that fit int32, got {values} with "
            f"{list(resolution)} voxels"
        )
    return values[0], values[1], values[2]


def checked_transform(transform: Tensor, levels: int) -> Tensor:
    """Gives a transform as float64 on the CPU.

    Args:
        transform: [4, 4], or [levels, 4, 4].
        levels: How many levels the grid has.

    Returns:
        float64 [4, 4], or [levels, 4, 4] where there are several.

    Raises:
        TypeError: It is no tensor.
        ValueError: The shape is another, or it is no affine map that can be inverted.
    """
    if not isinstance(transform, Tensor):
        raise TypeError(f"VDBGrid: transform: expected a tensor, got {type(transform).__name__}")
    matrix = transform.detach().to("cpu", torch.float64)
    if matrix.dim() == 3 and levels == 1 and matrix.shape[0] == 1:
        matrix = matrix[0]
    if matrix.shape not in ((4, 4), (levels, 4, 4)):
        raise ValueError(
            f"VDBGrid: transform: expected shape [4, 4] or [{levels}, 4, 4], "
            f"got {list(matrix.shape)}"
        )
    last = matrix.new_tensor([0.0, 0.0, 0.0, 1.0])
    if not bool(torch.isfinite(matrix).all()) or not bool((matrix[..., 3, :] == last).all()):
        raise ValueError(
            "VDBGrid: transform: expected finite numbers and a last row of (0, 0, 0, 1), "
            f"got {matrix.tolist()}"
        )
    lengths = matrix[..., :3, :3].norm(dim=-2).prod(-1)
    volumes = torch.linalg.det(matrix[..., :3, :3]).abs()
    if not bool((volumes > 1e-12 * lengths).all()):
        raise ValueError(
            f"VDBGrid: transform: expected a map that can be inverted, got {matrix.tolist()}"
        )
    return matrix


def scaling(factors: Any) -> Tensor:
    """Gives the transform that multiplies each axis.

    Example:
        >>> scaling([2.0, 3.0, 4.0]).diagonal().tolist()
        [2.0, 3.0, 4.0, 1.0]
    """
    return torch.diag(torch.tensor([*factors, 1.0], dtype=torch.float64))


def transformed(points: Tensor, matrix: Tensor) -> Tensor:
    """Maps points [..., 3] by a float64 matrix [4, 4]; their dtype, or float64 for integers."""
    matrix = matrix.to(points.device)
    mapped = points.double() @ matrix[:3, :3].T + matrix[:3, 3]
    return mapped.to(points.dtype) if points.is_floating_point() else mapped


def voxels_of(points: Tensor) -> Tensor:
    """Gives the voxels around points of index space, int64; far away for what is no number."""
    floor = points.detach().double().floor()
    return floor.nan_to_num(nan=-_FAR, posinf=_FAR, neginf=-_FAR).clamp(-_FAR, _FAR).long()


def local_coordinates(
    name: str, ijk: Tensor, origin: tuple[int, int, int], device: torch.device
) -> Tensor:
    """Takes voxels of index space to those of the masks.

    Args:
        name: Who asks, for errors.
        ijk: Integers [N, 3].
        origin: First voxel of the masks.
        device: Where the masks are.

    Returns:
        int64 [N, 3].

    Raises:
        TypeError: No integers.
        ValueError: The shape or device is another.
    """
    if not is_integer(ijk):
        raise TypeError(f"{name}: ijk: expected integers, got {ijk.dtype}")
    if ijk.dim() != 2 or ijk.shape[1] != 3:
        raise ValueError(f"{name}: ijk: expected shape [N, 3], got {list(ijk.shape)}")
    if ijk.device != device:
        raise ValueError(f"{name}: ijk: expected device {device}, got {ijk.device}")
    far = ijk.long().clamp(-_FAR, _FAR)
    return far - torch.tensor(origin, device=device)


def is_integer(tensor: Tensor) -> bool:
    """Says whether a tensor holds integers."""
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)


def background_like(values: Tensor, background: float | tuple[float, ...]) -> Tensor:
    """Gives a background as a tensor like the values: [] or [C]."""
    return torch.tensor(background, dtype=torch.float64).to(values.dtype).to(values.device)


def gather(values: Tensor, index: Tensor, background: float | tuple[float, ...]) -> Tensor:
    """Reads rows of values, the background where the index is -1.

    Args:
        values: [n] or [n, C].
        index: int64 [N], below n.
        background: A number, or one per channel.

    Returns:
        [N] or [N, C].
    """
    rest = background_like(values, background).expand(index.shape[0], *values.shape[1:])
    if values.shape[0] == 0:
        return rest.clone()
    found = (index >= 0).view(-1, *[1] * (values.dim() - 1))
    return torch.where(found, values[index.clamp(min=0)], rest)


def reduced(values: Tensor, index: Tensor, count: int, reduce: str) -> Tensor:
    """Combines the rows of each index, in their order, so that the sum has one rounding.

    Args:
        values: [N] or [N, C].
        index: int64 [N], from 0 to count - 1, each at least once.
        count: How many results.
        reduce: "first", "mean", "sum", "max" or "min".

    Returns:
        [count] or [count, C]. Differentiable in floating values.

    Example:
        >>> reduced(torch.tensor([1.0, 5.0, 2.0]), torch.tensor([1, 0, 1]), 2, "sum").tolist()
        [5.0, 3.0]
    """
    order = torch.argsort(index, stable=True)
    lengths = torch.bincount(index, minlength=count)
    if reduce == "first":
        return values[order[lengths.cumsum(0) - lengths]]
    if count == 0:
        return values[:0]
    wide = values if values.dtype in (torch.float32, torch.float64) else values.double()
    rows = torch.segment_reduce(wide[order], reduce, lengths=lengths, axis=0)
    return rows if values.is_floating_point() else rows.to(values.dtype)
