# SPDX-License-Identifier: Apache-2.0
"""How each camera model maps between a point in camera space and a pixel.

Camera space is OpenCV's: x right, y down, z forward. Pixel (column i, row j) has its centre at
(i + 0.5, j + 0.5). Every model is linear in K's fx, fy, cx, cy; skew is not used.

- ``pinhole``: xy = f * (X / Z, Y / Z) + c
- ``ortho``:   xy = f * (X, Y) + c, with f in pixels per world unit
- ``fisheye``: xy = f * theta * (X, Y) / r + c, with r = hypot(X, Y), theta = atan2(r, Z)

The last is the equidistant fisheye, without distortion terms.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

CameraModel = Literal["pinhole", "ortho", "fisheye"]
CAMERA_MODELS: tuple[str, ...] = get_args(CameraModel)

# A divisor this small stands in for zero, so that no NaN reaches a gradient.
_TINY = 1e-12


def _focal_and_centre(K: Tensor) -> tuple[Tensor, Tensor]:
    """Split K [..., 3, 3] into two [..., 1, 2] tensors that broadcast over points."""
    focal = torch.stack((K[..., 0, 0], K[..., 1, 1]), dim=-1)
    return focal.unsqueeze(-2), K[..., :2, 2].unsqueeze(-2)


def _fisheye_scale(xy: Tensor, depth: Tensor) -> Tensor:
    """Return theta / hypot(X, Y), continued through the optical axis, shaped [..., M, 1]."""
    square = xy.square().sum(-1)
    on_axis = square < _TINY * _TINY
    radius = torch.where(on_axis, torch.ones_like(square), square).sqrt()
    near_zero = depth.abs() < _TINY
    axis_scale = 1 / torch.where(near_zero, torch.ones_like(depth), depth)
    scale = torch.where(on_axis, axis_scale, torch.atan2(radius, depth) / radius)
    return scale.unsqueeze(-1)


def project(points: Tensor, K: Tensor, model: CameraModel) -> tuple[Tensor, Tensor]:
    """Project points in camera space to pixels.

    Args:
        points: [..., M, 3] in camera space.
        K: [..., 3, 3] in pixels.
        model: One of "pinhole", "ortho", "fisheye".

    Returns:
        Pixel positions [..., M, 2] and depths (camera z) [..., M]. A pinhole position means
        something only where depth > 0; it is finite everywhere.

    Example:
        >>> K = torch.tensor([[10.0, 0.0, 5.0], [0.0, 10.0, 5.0], [0.0, 0.0, 1.0]])
        >>> project(torch.tensor([[1.0, 0.0, 2.0]]), K, "pinhole")
        (tensor([[10.,  5.]]), tensor([2.]))
    """
    focal, centre = _focal_and_centre(K)
    xy, depth = points[..., :2], points[..., 2]
    if model == "pinhole":
        near_zero = depth.abs() < _TINY
        xy = xy / torch.where(near_zero, torch.full_like(depth, _TINY), depth).unsqueeze(-1)
    elif model == "fisheye":
        xy = xy * _fisheye_scale(xy, depth)
    return xy * focal + centre, depth


def unproject(xy: Tensor, K: Tensor, model: CameraModel) -> tuple[Tensor, Tensor]:
    """Give the ray of each pixel position in camera space.

    Args:
        xy: [..., M, 2] in pixels.
        K: [..., 3, 3] in pixels.
        model: One of "pinhole", "ortho", "fisheye".

    Returns:
        Origins [..., M, 3] and unit directions [..., M, 3]. Fisheye positions beyond theta = pi,
        which no point projects to, look straight back.

    Example:
        >>> K = torch.tensor([[10.0, 0.0, 5.0], [0.0, 10.0, 5.0], [0.0, 0.0, 1.0]])
        >>> unproject(torch.tensor([[5.0, 5.0]]), K, "pinhole")[1]
        tensor([[0., 0., 1.]])
    """
    focal, centre = _focal_and_centre(K)
    plane = (xy - centre) / focal
    zero, one = torch.zeros_like(plane[..., :1]), torch.ones_like(plane[..., :1])
    forward = torch.cat((zero, zero, one), dim=-1)
    if model == "ortho":
        return torch.cat((plane, zero), dim=-1), forward
    if model == "pinhole":
        directions = torch.cat((plane, one), dim=-1)
        return torch.zeros_like(forward), directions / directions.norm(dim=-1, keepdim=True)
    theta = plane.norm(dim=-1, keepdim=True)
    plane = plane * (math.pi / theta.clamp(min=math.pi))
    theta = theta.clamp(max=math.pi)
    # sinc is sin(theta) / theta with its limit at zero, so the optical axis needs no special case.
    directions = torch.cat((plane * torch.sinc(theta / math.pi), torch.cos(theta)), dim=-1)
    return torch.zeros_like(forward), directions / directions.norm(dim=-1, keepdim=True)
