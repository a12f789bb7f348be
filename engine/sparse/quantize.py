# SPDX-License-Identifier: Apache-2.0
"""Points to voxels, and 64-bit hashes of coordinates."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...cuda.sparse import map_ops
from .arguments import (
    MOST_DIMENSIONS,
    check_coordinates,
    check_real,
    check_tensor,
    check_whole,
    dtype_text,
    shown,
)


class Quantized(NamedTuple):
    """The voxels that points are in."""

    coords: Tensor  # int32 [M, 1 + D], sorted, unique, batch item first
    inverse: Tensor  # int64 [N], the row of each point
    first: Tensor  # int64 [M], the first point of each voxel
    counts: Tensor  # int64 [M], points of each voxel


def quantize(
    points: Tensor,
    voxel_size: float | tuple[float, ...] | Tensor = 1.0,
    batch: Tensor | None = None,
    *,
    name: str = "quantize",
) -> Quantized:
    """Finds the voxels that points are in.

    Args:
        points: [N, D], D = 1 to 4, in units of length, of any real type.
        voxel_size: A number, or one per axis: voxel i covers voxel_size * [i, i + 1).
        batch: [N] whole numbers, the batch item of each point; default: all 0.
        name: What errors call this function.

    Returns:
        coords int32 [M, 1 + D] sorted; inverse int64 [N], the row of each point; first int64 [M],
        the first point of each row; counts int64 [M].

    Raises:
        ValueError: Shapes do not fit together, the size is not positive, or a point is not finite
            or further away than int32 reaches.

    Example:
        >>> voxels = quantize(torch.tensor([[0.9], [-0.1], [0.6]]), 0.5)
        >>> voxels.coords.tolist(), voxels.inverse.tolist(), voxels.counts.tolist()
        ([[0, -1], [0, 1]], [1, 0, 1], [1, 2])
    """
    place = in_voxels(name, points, voxel_size).floor()
    limit = 2**31
    if place.numel() and not bool(((place >= -limit) & (place < limit)).all()):
        raise ValueError(
            f"{name}: points: expected finite points within 2^31 voxels of the origin, got "
            f"{float(points.min())} to {float(points.max())} at voxel_size {voxel_size}"
        )
    coords = torch.cat([batch_column(name, batch, points), place.int()], dim=1)
    return Quantized(*map_ops.sparse_unique(coords))


def in_voxels(name: str, points: Tensor, voxel_size: float | tuple[float, ...] | Tensor) -> Tensor:
    """Points in units of voxels, in float64: float32 would move those near a voxel's face.

    Args:
        name: Of the function that was called.
        points: [N, D].
        voxel_size: A number, or one per axis.

    Returns:
        float64 [N, D].

    Raises:
        TypeError: The size is no number.
        ValueError: The shape is another, or the size is not positive.

    Example:
        >>> in_voxels("f", torch.tensor([[1.0, 2.0]]), (0.5, 2.0)).tolist()
        [[2.0, 1.0]]
    """
    check_real(name, "points", points)
    if points.dim() != 2 or not 1 <= points.shape[1] <= MOST_DIMENSIONS:
        raise ValueError(
            f"{name}: points: expected shape [N, D] with D = 1 to 4, got {list(points.shape)}"
        )
    try:
        if isinstance(voxel_size, bool):
            raise TypeError
        size = torch.as_tensor(voxel_size, dtype=torch.float64, device=points.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{name}: voxel_size: expected a length, got {shown(voxel_size)}"
        ) from error
    right = size.dim() <= 1 and size.numel() in (1, points.shape[1])
    if not right or not bool(((size > 0) & size.isfinite()).all()):
        raise ValueError(
            f"{name}: voxel_size: expected a positive length, or {points.shape[1]} of them, "
            f"got {shown(voxel_size)}"
        )
    return points.double() / size


def batch_column(name: str, batch: Tensor | None, points: Tensor) -> Tensor:
    """The batch item of each point as a column of coordinates.

    Args:
        name: Of the function that was called.
        batch: [N] whole numbers; None: all 0.
        points: [N, D].

    Returns:
        int32 [N, 1].

    Raises:
        TypeError: They are no whole numbers.
        ValueError: The shape or the device is another, or an item is beyond int32.

    Example:
        >>> batch_column("f", None, torch.zeros(2, 3)).tolist()
        [[0], [0]]
    """
    n = points.shape[0]
    if batch is None:
        return torch.zeros(n, 1, dtype=torch.int32, device=points.device)
    check_whole(name, "batch", batch)
    if batch.shape != (n,) or batch.device != points.device:
        raise ValueError(
            f"{name}: batch: expected shape [{n}] on {points.device}, "
            f"got {list(batch.shape)} on {batch.device}"
        )
    narrow = batch.int()
    if batch.dtype == torch.int64 and not torch.equal(narrow.long(), batch):
        raise ValueError(
            f"{name}: batch: expected items below 2^31, "
            f"got {int(batch.min())} to {int(batch.max())}"
        )
    return narrow[:, None]


def hash(coords: Tensor) -> Tensor:
    """Hashes coordinates, the same on every device and in every version.

    Args:
        coords: int32 [N, 1 + D], of any values.

    Returns:
        int64 [N]. Different coordinates may share a hash, one pair in 2^64; sparse tensors
        themselves compare coordinates, never hashes.

    Example:
        >>> coords = torch.tensor([[0, 1, 2, 3], [0, 1, 2, 3], [0, 3, 2, 1]], dtype=torch.int32)
        >>> h = hash(coords)
        >>> bool(h[0] == h[1]), bool(h[0] == h[2])
        (True, False)
    """
    check_coordinates("hash", "coords", coords)
    return map_ops.sparse_hash(coords)


def hash_query(queries: Tensor, keys: Tensor) -> Tensor:
    """Finds hashes among others.

    Args:
        queries: int64 of any shape.
        keys: int64 [M].

    Returns:
        int64 of the shape of queries: the first place of each among the keys, or -1.

    Raises:
        TypeError: They are not int64.
        ValueError: The keys have another shape, or are on another device.

    Example:
        >>> hash_query(torch.tensor([5, 8]), torch.tensor([9, 5, 5])).tolist()
        [1, -1]
    """
    for argument, tensor in (("queries", queries), ("keys", keys)):
        check_tensor("hash_query", argument, tensor)
        if tensor.dtype != torch.int64:
            got = dtype_text(tensor.dtype)
            raise TypeError(f"hash_query: {argument}: expected int64, got {got}")
    if queries.device != keys.device:
        raise ValueError(
            f"hash_query: keys: expected the device of queries, {queries.device}, got {keys.device}"
        )
    if keys.dim() != 1:
        raise ValueError(f"hash_query: keys: expected shape [M], got {list(keys.shape)}")
    if keys.numel() == 0:
        return torch.full_like(queries, -1)
    # Stable, so that of equal keys the first one comes first.
    ordered, rows = torch.sort(keys, stable=True)
    place = torch.searchsorted(ordered, queries).clamp_(max=len(keys) - 1)
    return torch.where(ordered[place] == queries, rows[place], -1)
