# SPDX-License-Identifier: Apache-2.0
"""torchsparse's ``utils.quantize``: points to voxels, in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np

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
        ValueError: There is not one voxel size per axis.

    Example:
        >>> points = np.array([[0.9, 0.0, 0.0], [0.1, 0.0, 0.0], [0.2, 0.0, 0.0]])
        >>> voxels, inverse = sparse_quantize(points, 0.5, return_inverse=True)
        >>> voxels.tolist(), inverse.tolist()
        ([[0, 0, 0], [1, 0, 0]], [1, 0, 0])
    """
    size = np.broadcast_to(np.asarray(voxel_size, dtype=np.float64), (3,))
    if isinstance(voxel_size, (tuple, list)) and len(voxel_size) != 3:
        raise ValueError(f"sparse_quantize: voxel_size: expected 3 numbers, got {voxel_size}")
    cells = np.floor(np.asarray(coords) / size).astype(np.int32)
    _, first, inverse = np.unique(_keys(cells), return_index=True, return_inverse=True)
    results = [cells[first]]
    results += [first] * return_index + [inverse.reshape(-1)] * return_inverse
    return results[0] if len(results) == 1 else results


def _keys(cells: np.ndarray) -> np.ndarray:
    """Numbers, or records where they would not fit, that sort as the cells do."""
    if not len(cells):
        return np.zeros(0, np.int64)
    shifted = cells.astype(np.int64) - cells.min(0)
    extent = [int(n) + 1 for n in shifted.max(0)]
    if extent[0] * extent[1] * extent[2] < 2**63:
        return (shifted[:, 0] * extent[1] + shifted[:, 1]) * extent[2] + shifted[:, 2]
    return np.ascontiguousarray(shifted).view([(axis, np.int64) for axis in "xyz"])[:, 0]
