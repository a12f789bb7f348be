# SPDX-License-Identifier: Apache-2.0
"""What each reference view ends up with before points are drawn: a depth for every pixel that has
one, where it comes from, and how dense splats should be.

    verified match > the scene's own points > interpolated > far shell
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ...datasets import View
from .consistency import Agreement, DepthEstimate
from .fill import FillView, choose_far, far_depth, prepare_fill
from .splats import FAR, INTERPOLATED, MATCHED, SPARSE

_SPARSE_CONFIDENCE = 0.8
_GUESS_CONFIDENCE = 0.05
# A match that no other view can judge counts less.
_UNJUDGED = 0.7
# The shell's radius over that of the scene's depths.
_SHELL = 4.0


@dataclass(frozen=True)
class ViewMaps:
    """One reference view.

    Args:
        view: The view.
        estimate: Its depth, where there is any, and confidence.
        kind: uint8 [H, W]: 0 blank, else `MATCHED`, `SPARSE`, `INTERPOLATED` or `FAR`.
        allowed: bool [H, W], where points may come from.
        score: float32 [H, W], of the agreement with other views.
    """

    view: View
    estimate: DepthEstimate
    kind: Tensor
    allowed: Tensor
    score: Tensor


def verified_maps(
    view: View, estimate: DepthEstimate, agreement: Agreement, allowed: Tensor
) -> tuple[ViewMaps, dict[str, int]]:
    """Keeps what other views confirm, or none can judge.

    Args:
        view: The view.
        estimate: What the matcher found.
        agreement: Of `cross_check`.
        allowed: bool [H, W].

    Returns:
        The maps, and pixel counts for the report.
    """
    matched = estimate.depth > 0
    judged = matched & (agreement.known > 0)
    confirmed = judged & (agreement.confirmed > 0) & (agreement.confirmed >= agreement.denied)
    contradicted = judged & (agreement.denied > agreement.confirmed)
    verified = confirmed | (matched & ~judged)
    confidence = estimate.confidence * torch.where(judged, 1.0, _UNJUDGED)
    kept = replace(
        estimate,
        depth=estimate.depth.where(verified, 0.0),
        confidence=confidence.where(verified, 0.0),
    )
    counts = {
        "pixels": int(allowed.sum()),
        "matched": int(matched.sum()),
        "verified": int(verified.sum()),
        "contradicted": int(contradicted.sum()),
        "unconfirmed": int((matched & ~verified & ~contradicted).sum()),
    }
    kind = verified.to(torch.uint8) * MATCHED
    return ViewMaps(view, kept, kind, allowed, agreement.score.where(verified, 0.0)), counts


def with_sparse_points(maps: ViewMaps, depth: Tensor) -> ViewMaps:
    """Puts the depth of the scene's points where matching was blank.

    Args:
        maps: The view.
        depth: float32 [H, W] of the points, 0 where there is none.

    Returns:
        The view with them.
    """
    # Around a match there is no blank: points there would only stand beside it.
    near = F.max_pool2d((maps.kind > 0).float()[None, None], 5, stride=1, padding=2)[0, 0] > 0
    new = (depth > 0) & ~near & maps.allowed
    estimate = replace(
        maps.estimate,
        depth=torch.where(new, depth, maps.estimate.depth),
        confidence=maps.estimate.confidence.masked_fill(new, _SPARSE_CONFIDENCE),
    )
    return replace(
        maps,
        estimate=estimate,
        kind=maps.kind.masked_fill(new, SPARSE),
        score=maps.score.masked_fill(new, 1.0),
    )


def shell_of(maps: Sequence[ViewMaps]) -> tuple[Tensor, float]:
    """Gives the centre and radius of a sphere far around everything that was measured.

    Args:
        maps: The views; at least one.

    Returns:
        Centre [3], the mean of the cameras, and radius.
    """
    centers = torch.stack([m.estimate.camera.center for m in maps])
    center = centers.mean(0)
    depths = [m.estimate.depth[m.estimate.depth > 0] for m in maps]
    far = [float(d.quantile(0.98)) for d in (_some(d) for d in depths) if len(d)]
    reach = float((centers - center).norm(dim=-1).max())
    return center, _SHELL * (max(far, default=1.0) + reach)


def _some(values: Tensor) -> Tensor:
    """At most 100,000 of the values, evenly: quantiles have a limit."""
    return values[:: max(1, len(values) // 100_000)]


def fill_view(maps: ViewMaps) -> FillView:
    """Interpolates a view's depth at reduced size.

    Args:
        maps: The view.

    Returns:
        What `completed` takes.
    """
    rgb = maps.view.rgb().to(maps.kind.device)
    estimate = maps.estimate
    return prepare_fill(
        estimate.camera,
        rgb,
        estimate.depth,
        estimate.confidence,
        maps.allowed,
        estimate.empty,
    )


def completed(
    maps: ViewMaps,
    small: FillView,
    others: Sequence[FillView],
    shell: tuple[Tensor, float],
    *,
    interpolate: bool,
    far: bool,
) -> ViewMaps:
    """Gives blank pixels an interpolated depth, or that of the far shell.

    Args:
        maps: The view.
        small: Of `fill_view`.
        others: Those of its neighbours.
        shell: Centre and radius.
        interpolate: Whether interpolated depths are wanted.
        far: Whether the shell is.

    Returns:
        The view, less blank.
    """
    shell_depth = far_depth(small.camera, *shell)
    to_far, contradicted = choose_far(small, others, shell_depth)
    size = tuple(maps.kind.shape)
    blank = (maps.kind == 0) & maps.allowed
    guess = _enlarged(1 / small.filled.clamp(min=1e-12), size)
    refused = _enlarged_flags(contradicted | to_far, size)
    inner = blank & (guess > 0) & ~refused & bool((small.filled > 0).any())
    outer = blank & _enlarged_flags(to_far, size)
    depth, kind = maps.estimate.depth, maps.kind
    if interpolate:
        depth = torch.where(inner, 1 / guess.clamp(min=1e-12), depth)
        kind = kind.masked_fill(inner, INTERPOLATED)
    if far:
        exact = far_depth(maps.estimate.camera, *shell)
        depth = torch.where(outer, exact, depth)
        kind = kind.masked_fill(outer, FAR)
    guessed = kind >= INTERPOLATED
    confidence = maps.estimate.confidence.masked_fill(guessed, _GUESS_CONFIDENCE)
    estimate = replace(maps.estimate, depth=depth, confidence=confidence)
    return replace(maps, estimate=estimate, kind=kind, score=maps.score.masked_fill(guessed, 1.0))


def _enlarged(values: Tensor, size: tuple[int, ...]) -> Tensor:
    return F.interpolate(values[None, None], size, mode="bilinear", align_corners=False)[0, 0]


def _enlarged_flags(flags: Tensor, size: tuple[int, ...]) -> Tensor:
    return F.interpolate(flags[None, None].float(), size, mode="nearest")[0, 0] > 0.5
