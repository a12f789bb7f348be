# SPDX-License-Identifier: Apache-2.0
"""Matching at a fraction of the photos' size: a splat that covers hundreds of pixels needs no depth
for each of them, and a sweep's time grows with the third power of the size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...datasets import Scene, View
from ...datasets.cache import ByteCache
from ...datasets.images import area_resize
from .matcher import Correspondence, Matcher

_CACHE_BYTES = 1 << 28
# Depths of neighbouring pixels that differ by more than this lie on two surfaces.
_SAME_SURFACE = 0.03
_SMALLEST = 32


class ReducedMatcher:
    """Gives another matcher smaller images, and its results back at their full size.

    Args:
        matcher: Does the matching.
        factor: Images' width and height are divided by it, at least 1; none gets shorter than 32
            pixels a side.

    Raises:
        ValueError: If `factor` is below 1.

    Example:
        >>> from fieldline.engine.dense_init import PlaneSweep
        >>> ReducedMatcher(PlaneSweep(), 2).factor
        2
    """

    def __init__(self, matcher: Matcher, factor: int) -> None:
        if factor < 1:
            raise ValueError(f"ReducedMatcher: factor: expected at least 1, got {factor}")
        self.matcher, self.factor = matcher, factor
        self.needs_parallax = bool(getattr(matcher, "needs_parallax", True))
        self.sparse = bool(getattr(matcher, "sparse", False))
        self._views: dict[View, View] = {}
        self._cache = ByteCache(_CACHE_BYTES)

    def prepare(
        self, scene: Scene, references: Sequence[View], neighbours: Sequence[Sequence[View]]
    ) -> None:
        """Takes in what will be matched; forgets the last scene."""
        self._views.clear()
        self._cache = ByteCache(_CACHE_BYTES)
        near = [[self._reduced(view) for view in views] for views in neighbours]
        self.matcher.prepare(scene, [self._reduced(view) for view in references], near)

    def match(self, reference: View, neighbours: Sequence[View]) -> Correspondence:
        """Matches the smaller views."""
        small = [self._reduced(view) for view in neighbours]
        found = self.matcher.match(self._reduced(reference), small)
        return enlarge(found, reference, [(v, s) for v, s in zip(neighbours, small)])

    def _reduced(self, view: View) -> View:
        if view not in self._views:
            width, height = (
                max(min(size, _SMALLEST), size // self.factor) for size in (view.width, view.height)
            )
            self._views[view] = View(
                view.name,
                view.camera.resized(width, height),
                lambda: _reduced_image(view.image, width, height),
                mask=lambda: _reduced_mask(view.mask, width, height),
                depth=lambda: _reduced_depth(view.depth, width, height),
                cache=self._cache,
            )
        return self._views[view]


def _reduced_image(image: Tensor, width: int, height: int) -> Tensor:
    values = image.float()
    if image.shape[-1] == 4:
        # Averages are of what is seen: colours weighted by alpha, which stays straight.
        alpha = values[..., 3:]
        mean = area_resize(torch.cat([values[..., :3] * alpha, alpha], dim=-1), width, height)
        colour = mean[..., :3] / mean[..., 3:].clamp(min=1e-6)
        return torch.cat([colour, mean[..., 3:]], dim=-1).round().clamp(0, 255).to(torch.uint8)
    return area_resize(values, width, height).round().to(torch.uint8)


def _reduced_mask(mask: Tensor | None, width: int, height: int) -> Tensor | None:
    if mask is None:
        return None
    return area_resize(mask.float()[..., None], width, height)[..., 0] > 1 - 1e-4


def _reduced_depth(depth: Tensor | None, width: int, height: int) -> Tensor | None:
    if depth is None:
        return None
    known = (depth > 0).to(depth)
    inverse = torch.where(depth > 0, 1 / depth.clamp(min=1e-20), 0.0)
    mean = area_resize(torch.stack([inverse, known], dim=-1), width, height)
    return _within_surface(depth[_nearest(depth, height, width)], mean[..., 0], mean[..., 1])


def _within_surface(near: Tensor, inverse: Tensor, weight: Tensor) -> Tensor:
    """The mean of inverse depth around, where that is the same surface; else `near`."""
    smooth = weight / inverse.clamp(min=1e-20)
    same = (near > 0) & ((smooth - near).abs() < _SAME_SURFACE * near)
    return torch.where(same, smooth, near)


def _nearest(values: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Rows [height, 1] and columns [1, width] of the pixels of [H, W] that new ones fall on."""

    def places(old: int, new: int) -> Tensor:
        centres = (torch.arange(new, device=values.device, dtype=torch.float64) + 0.5) * old / new
        return centres.long().clamp(max=old - 1)

    old_height, old_width = values.shape[-2:]
    return places(old_height, height)[:, None], places(old_width, width)[None]


def enlarge(
    found: Correspondence, reference: View, neighbours: Sequence[tuple[View, View]]
) -> Correspondence:
    """Takes what was found in smaller images to the size of the reference.

    Depth is interpolated within a surface and stays as it is at its edges.

    Args:
        found: At the size of the smaller reference.
        reference: The view at its full size.
        neighbours: Each neighbour at its full size, and the smaller one.

    Returns:
        The correspondence at the size of `reference`.
    """
    height, width = reference.height, reference.width
    rows, columns = _nearest(found.confidence, height, width)
    warp = normal = None
    if found.warp is not None:
        old_height, old_width = found.confidence.shape[-2:]
        # Where in its smaller pixel a pixel lies, in pixels of the reference.
        x = torch.arange(width, device=rows.device) + 0.5 - (columns + 0.5) * width / old_width
        y = torch.arange(height, device=rows.device)[:, None] + 0.5
        y = y - (rows + 0.5) * height / old_height
        offset = torch.stack(torch.broadcast_tensors(x, y), dim=-1).to(found.warp)
        scales = found.warp.new_tensor(
            [[v.width / small.width, v.height / small.height] for v, small in neighbours]
        )
        warp = found.warp[:, rows, columns] * scales[:, None, None] + offset
    if found.normal is not None:
        normal = found.normal[rows, columns]
    return Correspondence(
        found.confidence[..., rows, columns],
        None if found.depth is None else _enlarged_depth(found.depth, height, width),
        warp,
        normal,
    )


def _enlarged_depth(depth: Tensor, height: int, width: int) -> Tensor:
    """[h, w] to [height, width]; inverse depth is linear across a plane."""
    rows, columns = _nearest(depth, height, width)
    near = depth[rows, columns]
    known = depth > 0
    inverse = torch.where(known, 1 / depth.clamp(min=1e-20), 0.0)
    planes = torch.stack([inverse, known.to(depth)])[None]
    total, weight = F.interpolate(planes, (height, width), mode="bilinear")[0]
    return _within_surface(near, total, weight)
