# SPDX-License-Identifier: Apache-2.0
"""Between pixels with depth and points in the world; and reading images at positions in pixels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...representations import Camera

# A ray this far from the optical axis (its cosine) has no usable depth along the axis.
_SIDEWAYS = 0.05


def lift(camera: Camera, xy: Tensor, depth: Tensor) -> Tensor:
    """Gives the points that pixels see at a depth.

    Args:
        camera: A single camera.
        xy: [M, 2] in pixels.
        depth: [M] along the camera's z axis, world units.

    Returns:
        [M, 3] in the world.

    Example:
        >>> camera = Camera(torch.eye(4), torch.eye(3), 4, 4)
        >>> lift(camera, torch.tensor([[0.0, 0.0]]), torch.tensor([2.0])).tolist()
        [[0.0, 0.0, 2.0]]
    """
    origins, directions = camera.rays(xy)
    along = directions @ camera.world_to_camera[2, :3]
    return origins + directions * (depth / along.clamp(min=_SIDEWAYS))[:, None]


def inside(camera: Camera, xy: Tensor, depth: Tensor) -> Tensor:
    """Tells which projections lie in the image and before the camera.

    Args:
        camera: A single camera.
        xy: [M, 2] in pixels.
        depth: [M].

    Returns:
        bool [M].

    Example:
        >>> camera = Camera(torch.eye(4), torch.eye(3), 4, 4)
        >>> inside(camera, torch.tensor([[1.0, 1.0], [5.0, 1.0]]), torch.ones(2)).tolist()
        [True, False]
    """
    x, y = xy.unbind(-1)
    return (depth > 0) & (x >= 0) & (y >= 0) & (x < camera.width) & (y < camera.height)


def nearest(image: Tensor, xy: Tensor) -> Tensor:
    """Reads an image at the pixels that positions lie in.

    Args:
        image: [H, W] or [H, W, C].
        xy: [M, 2] in pixels; positions outside read the border.

    Returns:
        [M] or [M, C].

    Example:
        >>> nearest(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.9, 0.5]])).tolist()
        [2.0]
    """
    column = xy[:, 0].nan_to_num(0.0).clamp(0, image.shape[1] - 1).long()
    row = xy[:, 1].nan_to_num(0.0).clamp(0, image.shape[0] - 1).long()
    return image[row, column]


def bilinear(image: Tensor, xy: Tensor) -> Tensor:
    """Reads an image between its pixels, whose centres are at +0.5.

    Args:
        image: Floating [H, W, C].
        xy: [M, 2] in pixels; positions outside read the border.

    Returns:
        [M, C].

    Example:
        >>> bilinear(torch.tensor([[[1.0], [2.0]]]), torch.tensor([[1.0, 0.5]])).tolist()
        [[1.5]]
    """
    size = xy.new_tensor([image.shape[1], image.shape[0]])
    grid = (2 * xy.nan_to_num(0.0) / size - 1).to(image.dtype)[None, None]
    planes = image.permute(2, 0, 1)[None]
    read = F.grid_sample(planes, grid, padding_mode="border", align_corners=False)
    return read[0, :, 0].T


def pixel_size(camera: Camera, depth: Tensor) -> Tensor:
    """Gives the width in the world of one pixel at a depth.

    Args:
        camera: A single camera.
        depth: [M] along its z axis, world units.

    Returns:
        [M], world units.

    Example:
        >>> camera = Camera(torch.eye(4), torch.diag(torch.tensor([10.0, 10.0, 1.0])), 4, 4)
        >>> pixel_size(camera, torch.tensor([5.0])).tolist()
        [0.5]
    """
    focal = (camera.K[0, 0] * camera.K[1, 1]).sqrt()
    return (torch.ones_like(depth) if camera.model == "ortho" else depth) / focal
