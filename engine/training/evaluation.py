# SPDX-License-Identifier: Apache-2.0
"""How well Gaussians reproduce views: PSNR, SSIM, and LPIPS where it is installed."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...cuda.training.ops import fused_ssim
from ...datasets import Scene, View
from ...representations import Gaussians3D
from ...tracers.splatting import render
from .events import Evaluation, ViewMetrics

_SMALLEST_SSIM_IMAGE = 11
_SMALLEST_LPIPS_IMAGE = 64


def evaluate(
    model: Gaussians3D,
    scene: Scene | Sequence[View],
    *,
    background: Sequence[float] | None = None,
    antialiased: bool = False,
    lpips: bool = True,
) -> Evaluation:
    """Renders views and compares them with their images.

    Renderings are clamped to [0, 1]; pixels that a view's mask leaves out count nowhere. SSIM is
    that of `fused_ssim` with padding "valid" ("same" for an image below 11 pixels a side).

    Args:
        model: The Gaussians.
        scene: A scene, whose test views are taken, or views.
        background: Three numbers in [0, 1]; default the scene's own, else black.
        antialiased: As the model was trained.
        lpips: Measure LPIPS too, if the lpips package and its AlexNet weights are on this machine
            (they are not downloaded).

    Returns:
        The metrics of each view and their means.

    Raises:
        ValueError: If there are no views.

    Example:
        >>> from fieldline.datasets import synthetic
        >>> scene = synthetic.still_life(2, 32, 24)
        >>> evaluation = evaluate(Gaussians3D.random(10, seed=0), scene)
        >>> len(evaluation.views)
        1
    """
    metrics = []
    network = lpips_network(str(model.device)) if lpips else None
    for view, image, truth in rendered_views(model, scene, background, antialiased):
        metrics.append(measure(view, image, truth, network))
    perceptual = [view.lpips for view in metrics if view.lpips is not None]
    return Evaluation(
        views=tuple(metrics),
        psnr=_mean([view.psnr for view in metrics]),
        ssim=_mean([view.ssim for view in metrics]),
        lpips=_mean(perceptual) if len(perceptual) == len(metrics) else None,
    )


def rendered_views(
    model: Gaussians3D,
    scene: Scene | Sequence[View],
    background: Sequence[float] | None = None,
    antialiased: bool = False,
) -> Iterator[tuple[View, Tensor, Tensor]]:
    """Renders views one by one.

    Args:
        model: The Gaussians.
        scene: A scene, whose test views are taken, or views.
        background: As for `evaluate`.
        antialiased: As for `evaluate`.

    Yields:
        The view, its rendering and its image, both [H, W, 3] in [0, 1] in the model's dtype.

    Raises:
        ValueError: If there are no views.
    """
    views = scene.test if isinstance(scene, Scene) else list(scene)
    if not views:
        raise ValueError("evaluate: scene: expected at least one test view, got none")
    if background is None and isinstance(scene, Scene):
        background = scene.background
    rgb = tuple(background) if background is not None else (0.0, 0.0, 0.0)
    behind = torch.tensor(rgb, dtype=model.dtype, device=model.device)
    for view in views:
        with torch.no_grad():
            camera = view.camera.to(model.device)
            output = render(model, camera, background=behind, antialiased=antialiased)
        yield view, output.rgb.clamp(0, 1), view.rgb(rgb).to(output.rgb)


@torch.no_grad()
def measure(view: View, image: Tensor, truth: Tensor, network: Any = None) -> ViewMetrics:
    """Compares a rendering with an image.

    Args:
        view: Gives the name and the mask.
        image: [H, W, 3] in [0, 1].
        truth: Likewise.
        network: Of `lpips_network`.

    Returns:
        The metrics; a PSNR of identical images is infinite.
    """
    mask = None if view.mask is None else view.mask.to(image.device)
    squared = (image - truth).square()
    error = float(squared.mean() if mask is None else squared[mask].mean())
    padding = "valid" if min(image.shape[:2]) >= _SMALLEST_SSIM_IMAGE else "same"
    ssim = fused_ssim(
        image[None],
        truth[None],
        None if mask is None else mask[None],
        padding=padding,
        channels_last=True,
    )
    distance = None
    if network is not None and min(image.shape[:2]) >= _SMALLEST_LPIPS_IMAGE:
        both = [2 * x.permute(2, 0, 1)[None].float() - 1 for x in _masked(mask, image, truth)]
        distance = float(network(*both))
    return ViewMetrics(view.name, psnr_of_error(error), float(ssim), distance)


def psnr_of_error(mean_squared_error: float) -> float:
    """Peak signal to noise ratio in dB, for values in [0, 1]."""
    if not mean_squared_error > 0:
        return math.inf if mean_squared_error == 0 else math.nan
    return -10 * math.log10(mean_squared_error)


def _masked(mask: Tensor | None, *images: Tensor) -> tuple[Tensor, ...]:
    return images if mask is None else tuple(image * mask[..., None] for image in images)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


@functools.lru_cache(maxsize=2)
def lpips_network(device: str = "cpu") -> Any:
    """The LPIPS network, if its package and weights are on this machine; else None.

    Args:
        device: Where it runs.
    """
    try:
        import lpips
        from torchvision.models import AlexNet_Weights
    except ImportError:
        return None
    name = AlexNet_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[-1]
    if not (Path(torch.hub.get_dir()) / "checkpoints" / name).exists():
        return None
    network = lpips.LPIPS(net="alex", verbose=False).to(device)
    return network.eval().requires_grad_(False)
