# SPDX-License-Identifier: Apache-2.0
"""What an image says of the splats it needs: how dense, and along which edges."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Splats along a clear edge are longer by this factor, and narrower across by it.
_EDGE_STRETCH = 1.8
# Contrast, per pixel, at which an edge is half clear.
_CLEAR = 0.02


def _gradients(image: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives of the brightness along x and y, [H, W] each."""
    gray = image.mean(-1)[None, None]
    padded = F.pad(gray, (1, 1, 1, 1), mode="replicate")[0, 0]
    return (
        0.5 * (padded[1:-1, 2:] - padded[1:-1, :-2]),
        0.5 * (padded[2:, 1:-1] - padded[:-2, 1:-1]),
    )


def _smoothed(values: Tensor) -> Tensor:
    """Means over 5 x 5 pixels of [..., H, W]."""
    planes = values.reshape(-1, 1, *values.shape[-2:])
    padded = F.pad(planes, (2, 2, 2, 2), mode="replicate")
    return F.avg_pool2d(padded, 5, stride=1).view(values.shape)


def detail(image: Tensor, flat_share: float) -> Tensor:
    """Gives how dense splats should be: more where the image changes.

    Args:
        image: float32 [H, W, C].
        flat_share: Density of a featureless pixel over that of the average one, in (0, 1].

    Returns:
        float32 [H, W], positive.

    Example:
        >>> detail(torch.zeros(4, 4, 3), 0.25)[0, 0]
        tensor(0.2500)
    """
    # The square root spreads density: twice the contrast does not need twice the splats.
    strength = _smoothed(torch.hypot(*_gradients(image))).sqrt()
    return flat_share + (1 - flat_share) * strength / strength.mean().clamp(min=1e-6)


def edge_shapes(image: Tensor) -> Tensor:
    """Gives the shape of a cell at each pixel: longer along the image's edges, narrower across.

    Args:
        image: float32 [H, W, C].

    Returns:
        float32 [H, W, 2, 2], symmetric, of determinant 1; the unit matrix where there is no edge.

    Source:
        The structure tensor: Foerstner and Guelch 1987.

    Example:
        >>> step = torch.zeros(6, 6, 3)
        >>> step[:, 3:] = 1
        >>> shape = edge_shapes(step)[3, 3]
        >>> bool(shape[1, 1] > 1.5 and shape[0, 0] < 0.7)
        True
    """
    dx, dy = _gradients(image)
    xx, xy, yy = _smoothed(torch.stack((dx * dx, dx * dy, dy * dy)))
    strength = torch.hypot(xx - yy, 2 * xy)
    clear = strength / (xx + yy + _CLEAR**2)
    stretch = _EDGE_STRETCH**clear
    # The edge runs across the mean gradient, whose doubled angle the tensor holds.
    along_x = 0.5 * (1 - (xx - yy) / strength.clamp(min=1e-12))
    along_x = along_x.where(strength > 1e-12, 0.5)
    mixed = (-xy / strength.clamp(min=1e-12)).where(strength > 1e-12, 0.0)
    narrow = 1 / stretch
    shape = torch.stack(
        (
            narrow + (stretch - narrow) * along_x,
            (stretch - narrow) * mixed,
            (stretch - narrow) * mixed,
            narrow + (stretch - narrow) * (1 - along_x),
        ),
        dim=-1,
    )
    return shape.view(*image.shape[:2], 2, 2)
