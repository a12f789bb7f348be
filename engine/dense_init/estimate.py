# SPDX-License-Identifier: Apache-2.0
"""From what a matcher found to a depth map: checks it, and triangulates a warp."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...datasets import View
from .consistency import DepthEstimate
from .matcher import Correspondence
from .triangulate import triangulate

# Rays that cross at less than this determine no depth.
_MIN_ANGLE = math.radians(0.2)


def allowed_pixels(view: View) -> Tensor:
    """Tells where points may come from: not masked out, and mostly opaque.

    Args:
        view: The view.

    Returns:
        bool [H, W].

    Example:
        >>> bool(allowed_pixels(scene.train[0]).all())
        False
    """
    image, mask = view.image, view.mask
    allowed = torch.ones(image.shape[:2], dtype=torch.bool)
    if image.shape[-1] == 4:
        allowed &= image[..., 3] > 127
    return allowed if mask is None else allowed & mask


def empty_pixels(view: View) -> Tensor | None:
    """Tells where a view sees that there is nothing: transparent, and not at a silhouette's rim.

    Args:
        view: The view.

    Returns:
        bool [H, W]; None if the image has no alpha channel.

    Example:
        >>> bool((empty_pixels(scene.train[0]) & allowed_pixels(scene.train[0])).any())
        False
    """
    image, mask = view.image, view.mask
    if image.shape[-1] != 4:
        return None
    # A pixel of slack: a point's own pixel may be the neighbour of the one that shows it.
    reach = F.max_pool2d(image[None, None, ..., 3].float(), 3, stride=1, padding=1)[0, 0]
    empty = reach == 0
    return empty if mask is None else empty & mask


def estimate_depth(
    reference: View,
    neighbours: Sequence[View],
    found: Correspondence,
    *,
    min_confidence: float,
    max_error: float,
    device: torch.device | str = "cpu",
) -> tuple[DepthEstimate, Tensor | None]:
    """Gives the depth map that a correspondence stands for.

    Args:
        reference: The view.
        neighbours: What it was matched against.
        found: By a matcher.
        min_confidence: Below it a pixel counts as unmatched.
        max_error: Reprojection error of a triangulated point, pixels.
        device: Where to work.

    Returns:
        The estimate, blank outside `allowed_pixels`; and the reprojection errors [M] of what was
        triangulated, None if the matcher gave depth.

    Raises:
        ValueError: If a shape does not fit, or there is neither depth nor warp.

    Example:
        >>> view = scene.train[0]
        >>> found = Correspondence(torch.ones(30, 40), depth=view.depth)
        >>> estimate, _ = estimate_depth(view, [], found, min_confidence=0.1, max_error=2)
        >>> bool((estimate.depth[allowed_pixels(view)] > 0).any())
        True
    """
    size = (reference.height, reference.width)
    errors = None
    if found.depth is not None:
        _check(reference, "depth", found.depth, size)
        _check(reference, "confidence", found.confidence, size)
        depth, confidence = found.depth.to(device).float(), found.confidence.to(device).float()
    elif found.warp is not None:
        _check(reference, "warp", found.warp, (len(neighbours), *size, 2))
        _check(reference, "confidence", found.confidence, (len(neighbours), *size))
        depth, confidence, errors = _triangulated(
            reference, neighbours, found, min_confidence, max_error, device
        )
    else:
        raise ValueError(f"dense_init: matcher: {reference.name}: expected a depth or a warp")
    if found.normal is not None:
        _check(reference, "normal", found.normal, (*size, 3))
    known = depth.isfinite() & (depth > 0) & (confidence.nan_to_num(0.0) >= min_confidence)
    known &= allowed_pixels(reference).to(device)
    empty = empty_pixels(reference)
    return (
        DepthEstimate(
            reference.camera.to(device).to(torch.float32),
            depth.where(known, 0.0),
            confidence.where(known, 0.0).clamp(0, 1),
            None if found.normal is None else found.normal.to(device).float(),
            None if empty is None else empty.to(device),
        ),
        errors,
    )


def _triangulated(
    reference: View,
    neighbours: Sequence[View],
    found: Correspondence,
    min_confidence: float,
    max_error: float,
    device: torch.device | str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Depth [H, W], confidence [H, W] and errors [M] of a warp."""
    assert found.warp is not None
    shape = (reference.height, reference.width)
    confidence = found.confidence.to(device).float().nan_to_num(0.0).clamp(0, 1)
    confidence = confidence.where(confidence >= min_confidence, 0.0)
    warp = found.warp.to(device).float()
    cameras = [view.camera.to(device) for view in (reference, *neighbours)]
    limits = warp.new_tensor([[camera.width, camera.height] for camera in cameras[1:]])
    within = ((warp >= 0) & (warp < limits[:, None, None])).all(-1)
    confidence = confidence.where(within, 0.0).flatten(1)
    best = confidence.amax(0)
    pixels = ((best > 0) & allowed_pixels(reference).to(device).flatten()).nonzero().squeeze(1)
    xy = torch.cat(
        (
            cameras[0].pixel_centers().view(1, -1, 2)[:, pixels],
            warp.view(len(neighbours), -1, 2)[:, pixels],
        )
    ).transpose(0, 1)
    weights = torch.cat((best[None, pixels], confidence[:, pixels])).T
    points = triangulate(cameras, xy, weights, max_error=max_error)
    good = points.good(max_error, _MIN_ANGLE)
    # The pixel's own ray is kept: of the point only its depth along it.
    _, z = cameras[0].project(points.points.float())
    depth = torch.zeros(shape[0] * shape[1], device=device)
    depth[pixels] = z.where(good, 0.0)
    sure = torch.zeros_like(depth)
    sure[pixels] = best[pixels].where(good, 0.0)
    return depth.view(shape), sure.view(shape), points.error[good].float()


def _check(view: View, what: str, values: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(values.shape) != shape or not values.is_floating_point():
        raise ValueError(
            f"dense_init: matcher: {what} of {view.name}: expected a floating tensor "
            f"{list(shape)}, got {values.dtype} {list(values.shape)}"
        )
