# SPDX-License-Identifier: Apache-2.0
"""The correspondence operators: one typed function each, with its fake kernel.

A plane sweep in four steps: what each pixel costs on each plane (`plane_sweep`), the same summed
along paths through the image (`semi_global`), the best plane of each pixel (`winner`), and whether
a neighbour's own depth agrees (`consistency`). None is differentiable: matching is a search.

Images are int16 [H, W]: grey in quarters of a level, 0 to 1023, and -1 - grey where a pixel does
not count (`grey_image` makes them). Volumes are [H, W, D]: a pixel's planes lie together. A warp
[3, 4] takes a pixel (x, y, 1) at inverse depth w to ``warp[:, :3] @ (x, y, 1) + w * warp[:, 3]``,
homogeneous pixels of the other view.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..library import declare, ops

MAX_PLANES = 256
MAX_NEIGHBOURS = 16
MAX_BEST = 4


class Winners(NamedTuple):
    """The best plane of each pixel."""

    plane: Tensor  # float32 [H, W], in planes, between them too
    cost: Tensor  # float32 [H, W], before aggregation, 0 (alike) to 1
    margin: Tensor  # float32 [H, W], 0 to 1: 1 - total of the best / best total elsewhere


def grey_image(rgb: Tensor, mask: Tensor | None = None) -> Tensor:
    """Makes the images that `plane_sweep` compares.

    Args:
        rgb: Float [H, W, 3] in [0, 1].
        mask: bool [H, W], True where a pixel counts; default all.

    Returns:
        int16 [H, W].

    Example:
        >>> grey_image(torch.ones(1, 2, 3), torch.tensor([[True, False]])).tolist()
        [[1020, -1021]]
    """
    weights = rgb.new_tensor([0.299, 0.587, 0.114])
    grey = ((rgb @ weights).clamp(0, 1) * 1020).round().to(torch.int16)
    return grey if mask is None else torch.where(mask, grey, -1 - grey)


@torch.no_grad()
def plane_sweep(
    reference: Tensor,
    neighbours: Sequence[Tensor],
    warps: Tensor,
    inverse_depths: Tensor,
    *,
    best: int = 2,
    prior: Tensor | None = None,
    prior_weight: float = 0.5,
) -> Tensor:
    """Says how badly each pixel on each plane fits what the neighbours saw.

    The cost of a neighbour is 0.6 (1 - NCC) + 0.4 x (share of census bits that differ, doubled),
    each clamped to [0, 1], over windows of 7 x 7 pixels; NCC is damped where there is no texture.
    A pixel's cost is the mean of its `best` smallest. A neighbour that does not see the point
    counts as a poor match. Windows are continued beyond the image by its edge. A pixel that does
    not count costs the same on every plane, whatever the prior says.

    Args:
        reference: int16 [H, W].
        neighbours: 1 to 16 images int16, of any sizes.
        warps: float32 [n_neighbours, 3, 4], from the reference.
        inverse_depths: float32 [D], 3 to 256 planes, of depth along the reference's z axis.
        best: How many of the neighbours count, 1 to 4: the others may be occluded.
        prior: uint8 [h, w, D], the volume of a coarser image, blended in bilinearly.
        prior_weight: Its share, 0 to 1.

    Returns:
        uint8 [H, W, D], 0 (alike) to 254. Not differentiable.

    Source: Collins, "A space-sweep approach to true multi-image matching" (1996); Hirschmueller and
        Scharstein, "Evaluation of stereo matching costs" (2009).

    Example:
        >>> image = torch.zeros(4, 5, dtype=torch.int16)
        >>> plane_sweep(image, [image], torch.eye(3, 4)[None], torch.ones(8), best=1).shape
        torch.Size([4, 5, 8])
    """
    return ops().match_plane_sweep(
        reference, list(neighbours), warps, inverse_depths, best, prior, prior_weight
    )


def _plane_sweep_fake(
    reference: Tensor, neighbours: Any, warps: Tensor, inverse_depths: Tensor, *rest: Any
) -> Tensor:
    return reference.new_empty((*reference.shape, inverse_depths.shape[0]), dtype=torch.uint8)


@torch.no_grad()
def semi_global(
    cost: Tensor, guide: Tensor, *, p1: int = 12, p2: int = 90, edge: float = 40.0
) -> Tensor:
    """Sums costs along eight paths through the image, with a price on changes of plane.

    Args:
        cost: uint8 [H, W, D], 3 to 256 planes.
        guide: int16 [H, W], the reference image: changes are cheaper across its edges.
        p1: Price of a change to the next plane.
        p2: Price of any other change, at most 4000; never below p1.
        edge: A step of this much grey halves p2, in quarters of a level.

    Returns:
        uint16 [H, W, D]. Not differentiable.

    Source: Hirschmueller, "Stereo processing by semiglobal matching and mutual information" (2008).

    Example:
        >>> cost = torch.full((2, 2, 4), 9, dtype=torch.uint8)
        >>> semi_global(cost, torch.zeros(2, 2, dtype=torch.int16))[0, 0].tolist()
        [72, 72, 72, 72]
    """
    return ops().match_sgm(cost, guide, p1, p2, edge)


def _sgm_fake(cost: Tensor, *rest: Any) -> Tensor:
    return cost.new_empty(cost.shape, dtype=torch.uint16)


@torch.no_grad()
def winner(total: Tensor, cost: Tensor) -> Winners:
    """Picks each pixel's best plane, between planes by a parabola.

    Args:
        total: uint16 [H, W, D], of `semi_global`.
        cost: uint8 [H, W, D], of `plane_sweep`.

    Returns:
        The winners. The margin is against planes more than two away. Not differentiable.

    Example:
        >>> total = torch.tensor([[[9, 5, 3, 5, 9, 6]]], dtype=torch.uint16)
        >>> found = winner(total, torch.full((1, 1, 6), 127, dtype=torch.uint8))
        >>> found.plane.item(), found.cost.item(), found.margin.item()
        (2.0, 0.5, 0.5)
    """
    return Winners(*ops().match_winner(total, cost))


def _winner_fake(total: Tensor, cost: Tensor) -> tuple[Tensor, ...]:
    size = total.shape[:2]
    return tuple(total.new_empty(size, dtype=torch.float32) for _ in range(3))


@torch.no_grad()
def consistency(
    depth: Tensor,
    neighbour_depth: Tensor,
    there: Tensor,
    back: Tensor,
    *,
    depth_tolerance: float = 0.02,
    pixel_tolerance: float = 1.0,
) -> Tensor:
    """Says how well a neighbour's depth confirms each pixel's.

    The pixel's point falls on a pixel of the neighbour, whose depth gives a second point, whose
    depth and place in the reference are compared with the first's.

    Args:
        depth: float32 [H, W], 0 where unknown.
        neighbour_depth: float32 [h, w], 0 where unknown.
        there: float32 [3, 4], the warp from the reference to the neighbour.
        back: float32 [3, 4], the warp from the neighbour to the reference.
        depth_tolerance: Difference of depth that no longer confirms, relative.
        pixel_tolerance: Distance in the reference that no longer confirms, pixels.

    Returns:
        float32 [H, W]: 1 where both agree, falling to 0 at a tolerance and beyond it; -1 where the
        neighbour does not see the point, or a depth is unknown. Not differentiable.

    Example:
        >>> depth, warp = torch.full((2, 2), 4.0), torch.eye(3, 4)
        >>> consistency(depth, depth * 1.01, warp, warp).flatten()[0].item()
        0.5...
    """
    return ops().match_consistency(
        depth, neighbour_depth, there, back, depth_tolerance, pixel_tolerance
    )


def _consistency_fake(depth: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(depth)


declare("match_plane_sweep", _plane_sweep_fake)
declare("match_sgm", _sgm_fake)
declare("match_winner", _winner_fake)
declare("match_consistency", _consistency_fake)
