# SPDX-License-Identifier: Apache-2.0
"""torchsparse's voxelisation: points to voxels and back."""

from __future__ import annotations

import torch
from torch import Tensor

from .....cuda.sparse import pool_ops
from .....engine.sparse.arguments import check_tensor, check_whole, whole

__all__ = ["calc_ti_weights", "spcount", "spdevoxelize", "spvoxelize"]


def spcount(coords: Tensor, num: Tensor | int) -> Tensor:
    """How many points each voxel has.

    Args:
        coords: int [N], the voxel of each point; negative, or ``num`` and above: none.
        num: Voxels.

    Returns:
        int32 [num].

    Example:
        >>> spcount(torch.tensor([0, 2, 2, -1]), 3).tolist()
        [1, 0, 2]
    """
    _check_voxels("spcount", coords)
    voxels = whole("spcount", "num", int(num), 0)
    rows = coords.long()
    # What lies outside is counted in a place of its own, which is dropped.
    rows = torch.where((rows >= 0) & (rows < voxels), rows, voxels)
    return torch.bincount(rows, minlength=voxels + 1)[:voxels].int()


def _check_voxels(name: str, coords: Tensor) -> None:
    check_whole(name, "coords", coords)
    if coords.dim() != 1:
        raise ValueError(f"{name}: coords: expected shape [N], got {list(coords.shape)}")


def spvoxelize(feats: Tensor, coords: Tensor, counts: Tensor) -> Tensor:
    """The mean of each voxel's points, with gradients.

    Args:
        feats: [N, C].
        coords: int [N], the voxel of each point; negative: none.
        counts: int [M], points of each voxel.

    Returns:
        [M, C]; 0 where the count is 0.

    Example:
        >>> feats, voxels = torch.tensor([[1.0], [3.0]]), torch.tensor([1, 1])
        >>> spvoxelize(feats, voxels, spcount(voxels, 2)).tolist()
        [[0.0], [2.0]]
    """
    _check_voxels("spvoxelize", coords)
    check_tensor("spvoxelize", "feats", feats)
    check_tensor("spvoxelize", "counts", counts)
    if counts.dim() != 1:
        raise ValueError(f"spvoxelize: counts: expected shape [M], got {list(counts.shape)}")
    sums = pool_ops.sparse_segment_reduce(feats, coords.long(), len(counts), "sum")
    return sums / counts.clamp_min(1).to(sums.dtype)[:, None]


def spdevoxelize(feats: Tensor, coords: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of voxels, with gradients.

    Args:
        feats: [M, C].
        coords: int [N, 8], voxels around each point; -1: none.
        weights: [N, 8].

    Returns:
        [N, C].
    """
    for argument, tensor in (("feats", feats), ("coords", coords), ("weights", weights)):
        check_tensor("spdevoxelize", argument, tensor)
    return pool_ops.sparse_interpolate(feats, coords, weights.to(feats.dtype))


@torch.no_grad()
def calc_ti_weights(coords: Tensor, idx_query: Tensor, scale: float = 1) -> Tensor:
    """Trilinear weights of the eight voxels around each point.

    Args:
        coords: float [N, 3 or more], x, y, z.
        idx_query: int [N, 8], their rows, z fastest; -1: none.
        scale: Size of a voxel.

    Returns:
        float [N, 8], 0 for voxels that do not exist; the rest add up to 1.

    Example:
        >>> rows = torch.arange(8)[None]
        >>> calc_ti_weights(torch.tensor([[0.25, 0.0, 0.0]]), rows)[0, ::4].tolist()
        [0.75, 0.25]
    """
    check_tensor("calc_ti_weights", "coords", coords)
    check_tensor("calc_ti_weights", "idx_query", idx_query)
    if coords.dim() != 2 or coords.shape[1] < 3 or idx_query.shape != (len(coords), 8):
        raise ValueError(
            "calc_ti_weights: coords, idx_query: expected shapes [N, 3 or more] and [N, 8], "
            f"got {list(coords.shape)} and {list(idx_query.shape)}"
        )
    place = coords[:, :3] / scale
    above = place - place.floor()
    x, y, z = (torch.stack([1 - part, part], 1) for part in above.unbind(1))
    weights = (x[:, :, None, None] * y[:, None, :, None] * z[:, None, None]).reshape(-1, 8)
    weights = torch.where(idx_query == -1, 0, weights)
    return weights / (weights.sum(1, keepdim=True) + 1e-8)
