# SPDX-License-Identifier: Apache-2.0
"""The operators that make grids of grids: set operations, morphology, other resolutions.

Each takes and gives `Masks` (grid_ops.py) and knows nothing of values; whoever keeps values looks
up where they went with `value_index`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..library import declare, ops
from .grid_ops import Masks, checked_resolution, fake_masks, masks_of


def _checked_pair(name: str, a: Masks, b: Masks) -> None:
    if a.resolution != b.resolution or a.levels != b.levels:
        raise ValueError(
            f"{name}: b: expected {a.levels} level(s) of {list(a.resolution)} voxels like a, "
            f"got {b.levels} of {list(b.resolution)}"
        )


def _combine(name: str, a: Masks, b: Masks, operation: int) -> Masks:
    _checked_pair(name, a, b)
    return masks_of(ops().vdb_combine(*a[:3], *b[:3], a.resolution, operation), a.resolution)


@torch.no_grad()
def union(a: Masks, b: Masks) -> Masks:
    """Gives the voxels active in either of two grids of one shape.

    Args:
        a: Masks.
        b: Masks of the same levels and resolution.

    Returns:
        The masks of both.

    Raises:
        ValueError: The shapes differ.

    Example:
        >>> from fieldline.cuda.vdb.grid_ops import build_masks, masks_to_dense
        >>> a, b = (build_masks(torch.tensor([[row]])) for row in ([True, False], [False, True]))
        >>> masks_to_dense(union(a, b)).flatten().tolist()
        [True, True]
    """
    return _combine("union", a, b, 0)


@torch.no_grad()
def intersection(a: Masks, b: Masks) -> Masks:
    """Gives the voxels active in both of two grids of one shape.

    Args:
        a: Masks.
        b: Masks of the same levels and resolution.

    Returns:
        The masks of what they share.

    Raises:
        ValueError: The shapes differ.

    Example:
        >>> from fieldline.cuda.vdb.grid_ops import build_masks, masks_to_dense
        >>> a, b = (build_masks(torch.tensor([[row]])) for row in ([True, True], [False, True]))
        >>> masks_to_dense(intersection(a, b)).flatten().tolist()
        [False, True]
    """
    return _combine("intersection", a, b, 1)


@torch.no_grad()
def difference(a: Masks, b: Masks) -> Masks:
    """Gives the voxels active in the first of two grids of one shape and not in the second.

    Args:
        a: Masks.
        b: Masks of the same levels and resolution.

    Returns:
        The masks of what is left.

    Raises:
        ValueError: The shapes differ.

    Example:
        >>> from fieldline.cuda.vdb.grid_ops import build_masks, masks_to_dense
        >>> a, b = (build_masks(torch.tensor([[row]])) for row in ([True, True], [False, True]))
        >>> masks_to_dense(difference(a, b)).flatten().tolist()
        [True, False]
    """
    return _combine("difference", a, b, 2)


def _combine_fake(
    tops: Tensor,
    nodes: Tensor,
    leaves: Tensor,
    t: Tensor,
    n: Tensor,
    w: Tensor,
    resolution: Any,
    operation: int,
) -> tuple[Tensor, Tensor, Tensor]:
    return fake_masks(tops, tops.shape[0], resolution)


def _morph(name: str, masks: Masks, neighbours: int, iterations: int, erode: bool) -> Masks:
    if neighbours not in (6, 18, 26):
        raise ValueError(f"{name}: neighbours: expected 6, 18 or 26, got {neighbours}")
    if not isinstance(iterations, int):
        raise TypeError(f"{name}: iterations: expected an integer, got {type(iterations).__name__}")
    if iterations < 0:
        raise ValueError(f"{name}: iterations: expected 0 or more, got {iterations}")
    for _ in range(iterations):
        tensors = ops().vdb_morph(*masks[:3], masks.resolution, neighbours, erode)
        masks = masks_of(tensors, masks.resolution)
    return masks


@torch.no_grad()
def dilate_masks(masks: Masks, neighbours: int = 6, iterations: int = 1) -> Masks:
    """Adds to a grid the neighbours of its voxels.

    Args:
        masks: The masks.
        neighbours: 6 (faces), 18 (and edges) or 26 (and corners).
        iterations: How many times.

    Returns:
        Masks of the same resolution: nothing grows beyond it.

    Raises:
        ValueError: A number is out of range.

    Source: Serra, "Image Analysis and Mathematical Morphology" (1982).

    Example:
        >>> from fieldline.cuda.vdb.grid_ops import build_masks, masks_to_dense
        >>> masks = build_masks(torch.tensor([[[False, True, False, False]]]))
        >>> masks_to_dense(dilate_masks(masks)).int().flatten().tolist()
        [1, 1, 1, 0]
    """
    return _morph("dilate_masks", masks, neighbours, iterations, False)


@torch.no_grad()
def erode_masks(masks: Masks, neighbours: int = 6, iterations: int = 1) -> Masks:
    """Takes from a grid the voxels with an inactive neighbour.

    Args:
        masks: The masks.
        neighbours: 6 (faces), 18 (and edges) or 26 (and corners).
        iterations: How many times.

    Returns:
        Masks of the same resolution. What lies beyond it is not active, so that voxels at the ends
        go too.

    Raises:
        ValueError: A number is out of range.

    Source: Serra, "Image Analysis and Mathematical Morphology" (1982).

    Example:
        >>> from fieldline.cuda.vdb.grid_ops import active_coordinates, build_masks
        >>> masks = build_masks(torch.ones(3, 3, 3, dtype=torch.bool))
        >>> active_coordinates(erode_masks(masks)).tolist()
        [[1, 1, 1]]
    """
    return _morph("erode_masks", masks, neighbours, iterations, True)


def _morph_fake(
    tops: Tensor, nodes: Tensor, leaves: Tensor, resolution: Any, neighbours: int, erode: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return fake_masks(tops, tops.shape[0], resolution)


def _checked_factor(name: str, factor: int) -> int:
    if not isinstance(factor, int):
        raise TypeError(f"{name}: factor: expected an integer, got {type(factor).__name__}")
    if not 1 <= factor <= 1 << 20:
        raise ValueError(f"{name}: factor: expected 1 to 2^20, got {factor}")
    return factor


@torch.no_grad()
def coarsen_masks(masks: Masks, factor: int = 2, *, every: bool = False) -> Masks:
    """Makes one voxel of each cube of factor^3.

    Args:
        masks: The masks.
        factor: Voxels per axis that become one.
        every: Whether all of them must be active, where they lie inside the grid; default any.

    Returns:
        Masks of ceil(resolution / factor) voxels.

    Raises:
        ValueError: The factor is out of range.

    Example:
        >>> from fieldline.cuda.vdb.grid_ops import build_masks, masks_to_dense
        >>> masks = build_masks(torch.tensor([[[True, False, True, True, True]]]))
        >>> masks_to_dense(coarsen_masks(masks, every=True)).int().flatten().tolist()
        [0, 1, 1]
    """
    factor = _checked_factor("coarsen_masks", factor)
    x, y, z = (-(-n // factor) for n in masks.resolution)
    return masks_of(
        ops().vdb_resample(*masks[:3], masks.resolution, factor, 1 if every else 0), (x, y, z)
    )


@torch.no_grad()
def refine_masks(masks: Masks, factor: int = 2) -> Masks:
    """Makes a cube of factor^3 voxels of each.

    Args:
        masks: The masks.
        factor: Voxels per axis that each becomes.

    Returns:
        Masks of resolution * factor voxels.

    Raises:
        ValueError: The factor is out of range, or the result too large.

    Example:
        >>> from fieldline.cuda.vdb.grid_ops import build_masks, leaf_offsets
        >>> masks = refine_masks(build_masks(torch.tensor([[[True, False]]])))
        >>> masks.resolution, int(leaf_offsets(masks)[-1])
        ((2, 2, 4), 8)
    """
    factor = _checked_factor("refine_masks", factor)
    sizes = checked_resolution("refine_masks", [n * factor for n in masks.resolution], masks.levels)
    return masks_of(ops().vdb_resample(*masks[:3], masks.resolution, factor, 2), sizes)


def _resample_fake(
    tops: Tensor, nodes: Tensor, leaves: Tensor, resolution: Any, factor: int, kind: int
) -> tuple[Tensor, Tensor, Tensor]:
    sizes = [n * factor if kind == 2 else -(-n // factor) for n in resolution]
    return fake_masks(tops, tops.shape[0], sizes)


declare("vdb_combine", _combine_fake)
declare("vdb_morph", _morph_fake)
declare("vdb_resample", _resample_fake)
