# SPDX-License-Identifier: Apache-2.0
"""The surface around pixels of a depth map: planes fitted to inverse depth.

A plane n . X = 1 seen along the ray (x, y, 1) has inverse depth n . (x, y, 1): linear in the
image. So a least-squares fit of inverse depth over a window gives the normal, and the depth with
its noise averaged out, in one 3 x 3 solve. Neighbours on another surface (a different inverse
depth) get little weight.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...representations import Camera
from .consistency import DepthEstimate

# Relative jumps of inverse depth from pixel to pixel above this are another surface.
_JUMP = 0.012
# Pulls planes towards facing the camera where the window holds too little.
_RIDGE = 1e-4
_GRAZING = 0.1
_PIXELS_AT_ONCE = 1 << 14


@dataclass(frozen=True)
class Surface:
    """Planes around pixels.

    Args:
        depth: float32 [M], the plane's along the camera's z axis at the pixel.
        normal: float32 [M, 3], unit, in the world, towards the camera.
    """

    depth: Tensor
    normal: Tensor


def fit_surface(estimate: DepthEstimate, pixels: Tensor, radius: int = 2) -> Surface:
    """Fits a plane around each of some pixels.

    Args:
        estimate: The view's depths; its normals, if it has them, are taken as they are.
        pixels: int64 [M], flat indices of pixels with a depth.
        radius: Of the window, pixels; default 2, a window of 5 x 5.

    Returns:
        The planes.

    Example:
        >>> K = torch.tensor([[10.0, 0, 4], [0, 10, 4], [0, 0, 1]])
        >>> camera = Camera(torch.eye(4), K, 8, 8)
        >>> flat = DepthEstimate(camera, torch.full((8, 8), 2.0), torch.ones(8, 8))
        >>> fit_surface(flat, torch.tensor([27])).normal.round(decimals=3).abs().tolist()
        [[0.0, 0.0, 1.0]]
    """
    chunks = [_fit(estimate, part, radius) for part in pixels.split(_PIXELS_AT_ONCE)]
    depth = torch.cat([part[0] for part in chunks])
    plane = torch.cat([part[1] for part in chunks])
    ray = _rays(estimate)[pixels]
    length = plane.norm(dim=-1, keepdim=True)
    local = -plane / length.clamp(min=1e-20)
    if estimate.normal is not None:
        given = estimate.normal.view(-1, 3)[pixels]
        local = given.where(given.norm(dim=-1, keepdim=True) > 0.5, local)
    sight = -ray / ray.norm(dim=-1, keepdim=True)
    facing = (local * sight).sum(-1, keepdim=True)
    local = torch.where(facing < 0, -local, local)
    rotation = estimate.camera.world_to_camera[:3, :3]
    return Surface(depth, local @ rotation)


def tangents(camera: Camera, xy: Tensor, points: Tensor, normal: Tensor) -> Tensor:
    """Gives how points on their tangent planes move with their pixels.

    Args:
        camera: A single camera.
        xy: [M, 2], where it sees the points, pixels.
        points: [M, 3].
        normal: [M, 3], unit, of the planes.

    Returns:
        [M, 3, 2], world units per pixel along x and y.

    Example:
        >>> K = torch.tensor([[10.0, 0, 4], [0, 10, 4], [0, 0, 1]])
        >>> camera = Camera(torch.eye(4), K, 8, 8)
        >>> axis = torch.tensor([[0.0, 0.0, 1.0]])
        >>> moved = tangents(camera, torch.tensor([[4.0, 4.0]]), 2 * axis, -axis)[0]
        >>> moved[:2]
        tensor([[0.2000, 0.0000],
                [0.0000, 0.2000]])
    """
    columns = []
    for step in ((0.5, 0.0), (0.0, 0.5)):
        ends = []
        for sign in (1.0, -1.0):
            origins, directions = camera.rays(xy + sign * xy.new_tensor(step))
            height = ((points - origins) * normal).sum(-1)
            slope = (directions * normal).sum(-1)
            # Grazing rays meet the plane far off: the stretch is limited here, and by its user.
            slope = torch.where(slope.abs() < _GRAZING, _GRAZING * slope.sign(), slope)
            slope = torch.where(slope == 0, -_GRAZING, slope)
            ends.append(origins + directions * (height / slope)[:, None])
        columns.append(ends[0] - ends[1])
    return torch.stack(columns, dim=-1)


def _rays(estimate: DepthEstimate) -> Tensor:
    """Lines of sight of all pixels with unit z, [H W, 3] in the camera's axes."""
    camera = estimate.camera
    _, directions = camera.rays(camera.pixel_centers().view(-1, 2))
    local = directions @ camera.world_to_camera[:3, :3].T
    return local / local[:, 2:].clamp(min=1e-3)


def _fit(estimate: DepthEstimate, pixels: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """Depths [M] and planes n [M, 3] in the camera's axes."""
    height, width = estimate.depth.shape
    offset = torch.arange(-radius, radius + 1, device=pixels.device)
    dy, dx = (part.reshape(-1) for part in torch.meshgrid(offset, offset, indexing="ij"))
    row, column = pixels[:, None] // width + dy, pixels[:, None] % width + dx
    within = (row >= 0) & (column >= 0) & (row < height) & (column < width)
    index = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
    depth = estimate.depth.flatten()[index].double()
    inverse = 1 / depth.where(depth > 0, 1.0)
    center = 1 / estimate.depth.flatten()[pixels].double()
    steps = torch.hypot(dx.double(), dy.double()).clamp(min=1.0)
    jump = (inverse / center[:, None] - 1) / (_JUMP * steps)
    weight = estimate.confidence.flatten()[index].double().clamp(min=1e-3)
    weight = weight * torch.exp(-0.5 * jump.square())
    weight = weight.where(within & (depth > 0), 0.0)
    rays = _rays(estimate)
    # Relative to the centre: inverse depth = center * (1 + g . (ray - ray of the centre) / step).
    step = (1 / (estimate.camera.K[0, 0] * estimate.camera.K[1, 1]).sqrt()).double()
    away = (rays[index][..., :2] - rays[pixels][:, None, :2]).double() / step
    rows = torch.cat((away, torch.ones_like(away[..., :1])), dim=-1)
    weighted = rows * weight[..., None]
    normal = weighted.transpose(1, 2) @ rows
    ridge = _RIDGE * weight.sum(-1)[:, None] + 1e-9
    normal = normal + torch.diag_embed(ridge * ridge.new_tensor([1.0, 1.0, 0.0]))
    side = (weighted * (inverse / center[:, None] - 1)[..., None]).sum(1)
    gradient = torch.linalg.solve(normal, side)
    slope = gradient[:, :2] / step * center[:, None]
    # The centre's own depth moves by no more than the noise that averaging is to take out.
    level = center * (1 + gradient[:, 2].clamp(-_JUMP, _JUMP))
    base = level[:, None] - (slope * rays[pixels][:, :2].double()).sum(-1, keepdim=True)
    plane = torch.cat((slope, base), dim=-1)
    return (1 / level).float(), plane.float()
