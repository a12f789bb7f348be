# SPDX-License-Identifier: Apache-2.0
"""Gaussians to start from: the scene's points, or random ones where its cameras look."""

from __future__ import annotations

import torch

from ...datasets import Scene, random_points
from ...representations import Gaussians3D
from .config import FitConfig

INITIAL_OPACITY = 0.1


def initial_gaussians(
    scene: Scene, config: FitConfig | None = None, device: torch.device | str = "cpu"
) -> Gaussians3D:
    """Makes the Gaussians that a run starts from.

    Args:
        scene: Its points if it has any, else `n_initial` random ones inside the region that its
            training cameras see.
        config: `n_initial`, `max_splats`, `sh_degree` and `seed` are used; default settings.
        device: Where they go.

    Returns:
        At most `max_splats` Gaussians.

    Example:
        >>> from fieldline.datasets import synthetic
        >>> len(initial_gaussians(synthetic.still_life(4, 32, 24, n_points=50)))
        50
    """
    config = config or FitConfig()
    points, colors = scene.points, scene.point_colors
    if points is None or len(points) == 0:
        count = min(config.n_initial, config.max_splats)
        points, colors = random_points(scene, count, config.seed)
    if len(points) > config.max_splats:
        generator = torch.Generator().manual_seed(config.seed)
        chosen = torch.randperm(len(points), generator=generator)[: config.max_splats]
        points, colors = points[chosen], None if colors is None else colors[chosen]
    gaussians = Gaussians3D.from_points(
        points, colors, sh_degree=config.sh_degree, opacity=INITIAL_OPACITY
    )
    return gaussians.to(device)
