# SPDX-License-Identifier: Apache-2.0
"""torchsparse's ``utils.quantize``: points to voxels, in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np

from ....engine.sparse.arguments import shown

__all__ = ["sparse_quantize"]


def sparse_quantize(
    coords: Any,
    voxel_size: float | tuple[float, ...] = 1,
    *,
    return_index: bool = False,
    return_inverse: bool = False,
) -> Any:
    """The voxels that points lie in, each once and in order.

    Args:
        coords: [N, 3].
        voxel_size: A size for all axes, or one for each.
        return_index: Give the first point of each voxel too.
        return_inverse: Give the voxel of each point too.

    Returns:
        int32 [M, 3]; and int64 [M] and int64 [N] where they are asked for.

    Raises:
        TypeError: The size is no number.
        ValueError: There is not one positive voxel size per axis, or a point is not finite or
            further away than int32 reaches.

    Example:
        >>> points = np.array([[0.9, 0.0, 0.0], [0.1, 0.0, 0.0], [0.2, 0.0, 0.0]])
        >>> voxels, inverse = sparse_quantize(points, 0.5, return_inverse=True)
        >>> voxels.tolist(), inverse.tolist()
        ([[0, 0, 0], [1, 0, 0]], [1, 0, 0])
    """
    size = _size(voxel_size)
    points = np.asarray(coords)
    if points.ndim != 2 or points.shape[1] != 3 or points.dtype.kind not in "fiu":
        raise ValueError(
            f"sparse_quantize: coords: expected numbers of shape [N, 3], "
            f"got {points.dtype} {list(points.shape)}"
        )
    place = np.floor(points / size)
    if not (np.abs(place) < 2**31).all():
        raise ValueError(
            "sparse_quantize: coords: expected finite points within 2^31 voxels of the origin, "
            f"got {points.min()} to {points.max()}"
        )
    cells = place.astype(np.int32)
    _, first, inverse = np.unique(_keys(cells), return_index=True, return_inverse=True)
    results = [cells[first]]
    results += [first] * return_index + [inverse.reshape(-1)] * return_inverse
    return results[0] if len(results) == 1 else results


def _size(voxel_size: float | tuple[float, ...]) -> np.ndarray:
    if isinstance(voxel_size, (tuple, list)) and len(voxel_size) != 3:
        raise ValueError(f"sparse_quantize: voxel_size: expected 3 numbers, got {voxel_size}")
    try:
        size = np.broadcast_to(np.asarray(voxel_size, dtype=np.float64), (3,))
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"sparse_quantize: voxel_size: expected a length, or 3, got {shown(voxel_size)}"
        ) from error
    if not (np.isfinite(size) & (size > 0)).all():
        raise ValueError(
            f"sparse_quantize: voxel_size: expected a positive length, got {shown(voxel_size)}"
        )
    return size


def _keys(cells: np.ndarray) -> np.ndarray:
    """Numbers, or records where they would not fit, that sort as the cells do."""
    if not len(cells):
        return np.zeros(0, np.int64)
    shifted = cells.astype(np.int64) - cells.min(0)
    extent = [int(n) + 1 for n in shifted.max(0)]
    if extent[0] * extent[1] * extent[2] < 2**63:
        return (shifted[:, 0] * extent[1] + shifted[:, 1]) * extent[2] + shifted[:, 2]
    return np.ascontiguousarray(shifted).view([(axis, np.int64) for axis in "xyz"])[:, 0]
