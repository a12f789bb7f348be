# SPDX-License-Identifier: Apache-2.0
"""Points from the pixels that several views see them at, all points and views at once, in float64.

For each point, every pair (reference, neighbour) proposes a position; the proposal that most views
confirm within the error limit names the views to keep, and only those determine the point:

1. linear: the point closest to the views' rays, sum w_v |(I - d_v d_v^T)(X - o_v)|^2 -> min;
2. Gauss-Newton on the reprojection errors in pixels, sum w_v |project_v(X) - xy_v|^2 -> min.

What cannot be trusted is marked, not dropped: the error, whether the point lies in front of the
views, and the parallax angle stand beside each point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...representations import Camera

_GAUSS_NEWTON_STEPS = 2
_POINTS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Triangulation:
    """Points and how far to trust them.

    Args:
        points: float64 [N, 3]; zero where no two rays cross.
        error: float64 [N], root mean square of the used views' reprojection errors, pixels.
        angle: float64 [N], the largest angle between the reference's ray and a used one, radians.
        in_front: bool [N], whether it lies in front of all used views.
        used: bool [N, V], the views that determine it.
    """

    points: Tensor
    error: Tensor
    angle: Tensor
    in_front: Tensor
    used: Tensor

    def good(self, max_error: float, min_angle: float) -> Tensor:
        """Tells which points pass all tests.

        Args:
            max_error: Pixels.
            min_angle: Radians.

        Returns:
            bool [N].
        """
        seen = self.used.sum(-1) >= 2
        near = (self.error <= max_error) & (self.angle >= min_angle)
        return seen & self.in_front & near & self.points.isfinite().all(-1)


def triangulate(
    cameras: Sequence[Camera], xy: Tensor, weights: Tensor, *, max_error: float = 2.0
) -> Triangulation:
    """Finds the points that views see at given pixels.

    Args:
        cameras: V single cameras; the first is the reference.
        xy: [N, V, 2], where each view sees each point, pixels.
        weights: [N, V], at least 0; 0 where a view does not see the point. The reference's counts.
        max_error: Reprojection error up to which a view confirms a proposal, pixels; default 2.

    Returns:
        The points. One that fewer than two views see has no view in `used`.

    Raises:
        ValueError: If there are fewer than two cameras, or shapes differ.

    Source:
        Hartley and Zisserman, Multiple View Geometry, chapter 12.

    Example:
        >>> eyes = ((-1.0, 0, 0), (1.0, 0, 0))
        >>> cameras = [Camera.look_at(e, (0, 0, 5), (0, -1, 0), focal=50, width=9, height=9)
        ...            for e in eyes]
        >>> point = torch.tensor([[0.1, 0.2, 4.0]])
        >>> xy = torch.stack([camera.project(point)[0] for camera in cameras], dim=1)
        >>> found = triangulate(cameras, xy, torch.ones(1, 2))
        >>> bool((found.points - point).abs().max() < 1e-5)
        True
    """
    n_views = len(cameras)
    if n_views < 2 or xy.shape[1:] != (n_views, 2) or weights.shape != xy.shape[:2]:
        raise ValueError(
            f"triangulate: expected at least 2 cameras, xy [N, V, 2] and weights [N, V], got "
            f"{n_views}, {list(xy.shape)} and {list(weights.shape)}"
        )
    exact = [camera.to(torch.float64) for camera in cameras]
    parts = [
        _triangulate(exact, *chunk, max_error)
        for chunk in zip(
            xy.double().split(_POINTS_AT_ONCE), weights.double().split(_POINTS_AT_ONCE)
        )
    ]
    if not parts:
        empty = xy.new_zeros(0, dtype=torch.float64)
        flags = torch.zeros(0, n_views, dtype=torch.bool, device=xy.device)
        return Triangulation(empty.view(0, 3), empty, empty, flags[:, 0], flags)
    columns = zip(*((p.points, p.error, p.angle, p.in_front, p.used) for p in parts))
    return Triangulation(*(torch.cat(column) for column in columns))


def _triangulate(
    cameras: Sequence[Camera], xy: Tensor, weights: Tensor, max_error: float
) -> Triangulation:
    usable = (weights > 0) & xy.isfinite().all(-1)
    weights = weights.where(usable, 0.0)
    xy = xy.where(usable[..., None], 0.0)
    rays = [camera.rays(xy[:, v]) for v, camera in enumerate(cameras)]
    origins = torch.stack([origin for origin, _ in rays], dim=1)
    directions = torch.stack([direction for _, direction in rays], dim=1)
    used = _best_set(cameras, xy, weights, origins, directions, max_error)
    weights = weights.where(used, 0.0)
    points, crossing = _closest(origins, directions, weights)
    for _ in range(_GAUSS_NEWTON_STEPS):
        points = _gauss_newton(cameras, xy, weights, points)
    used &= crossing[:, None]
    errors, depths = _errors(cameras, xy, points)
    squared = errors.square().where(used, 0.0).sum(-1) / used.sum(-1).clamp(min=1)
    return Triangulation(
        points.where(crossing[:, None], 0.0),
        squared.sqrt(),
        _parallax(origins, points, used),
        ((depths > 0) | ~used).all(-1),
        used,
    )


def _closest(origins: Tensor, directions: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The points [N, 3] closest to rays [N, V, 3], and whether the rays determine them."""
    eye = torch.eye(3, dtype=origins.dtype, device=origins.device)
    across = eye - directions[..., :, None] * directions[..., None, :]
    normal = (weights[..., None, None] * across).sum(1)
    # Around the mean origin, so that far-off coordinates cost no digits.
    middle = origins.mean(1)
    side = (weights[..., None] * (across @ (origins - middle[:, None])[..., None])[..., 0]).sum(1)
    size = weights.sum(-1).clamp(min=1e-300)[:, None, None]
    points, info = torch.linalg.solve_ex(normal / size + 1e-15 * eye, side / size[..., 0])
    # Parallel rays leave one direction open.
    crossing = (torch.linalg.det(normal / size) > 1e-12) & (info == 0)
    crossing &= (weights > 0).sum(-1) >= 2
    return points.nan_to_num(0.0).where(crossing[:, None], 0.0) + middle, crossing


def _best_set(
    cameras: Sequence[Camera],
    xy: Tensor,
    weights: Tensor,
    origins: Tensor,
    directions: Tensor,
    max_error: float,
) -> Tensor:
    """The views [N, V] that confirm the best of the proposals."""
    best_score = weights.new_full((len(xy),), -1.0)
    best = torch.zeros_like(weights, dtype=torch.bool)
    for v in range(1, len(cameras)):
        pair = torch.zeros_like(weights)
        pair[:, (0, v)] = (weights[:, (0, v)] > 0).to(weights)
        points, crossing = _closest(origins, directions, pair)
        errors, depths = _errors(cameras, xy, points)
        agree = (weights > 0) & (errors <= max_error) & (depths > 0)
        # A pair that contradicts itself still stands if nothing better is found.
        agree |= pair > 0
        fit = weights * (1 - 0.5 * (errors / max_error).square()).clamp(min=0.0)
        score = (fit * agree).sum(-1).where(crossing, -1.0)
        better = score > best_score
        best_score = score.where(better, best_score)
        best = agree.where(better[:, None], best)
    return best


def _errors(cameras: Sequence[Camera], xy: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Reprojection errors in pixels and depths, [N, V] each."""
    projected = [camera.project(points) for camera in cameras]
    errors = [(position - xy[:, v]).norm(dim=-1) for v, (position, _) in enumerate(projected)]
    return torch.stack(errors, dim=1), torch.stack([depth for _, depth in projected], dim=1)


def _gauss_newton(cameras: Sequence[Camera], xy: Tensor, weights: Tensor, points: Tensor) -> Tensor:
    """One step; a step that leaves the views' front or is not finite is not taken."""
    normal = points.new_zeros(len(points), 3, 3)
    side = torch.zeros_like(points)
    before = torch.zeros_like(weights[:, 0])
    for v, camera in enumerate(cameras):
        position, jacobian = _position_and_jacobian(camera, points)
        residual = xy[:, v] - position
        weighted = weights[:, v, None, None] * jacobian
        normal += weighted.transpose(1, 2) @ jacobian
        side += (weighted * residual[..., None]).sum(1)
        before += weights[:, v] * residual.square().sum(-1)
    scale = normal.diagonal(dim1=1, dim2=2).mean(-1).clamp(min=1e-300)[:, None, None]
    eye = torch.eye(3, dtype=points.dtype, device=points.device)
    step, info = torch.linalg.solve_ex(normal / scale + 1e-12 * eye, side / scale[..., 0])
    moved = points + step.nan_to_num(0.0)
    errors, depths = _errors(cameras, xy, moved)
    after = (weights * errors.square()).sum(-1)
    good = (info == 0) & (after <= before) & ((depths > 0) | (weights == 0)).all(-1)
    return moved.where(good[:, None], points)


def _position_and_jacobian(camera: Camera, points: Tensor) -> tuple[Tensor, Tensor]:
    """Projections [N, 2] and their derivatives [N, 2, 3], of any camera model.

    Central differences over a millionth of the distance: their error is far below what a step of
    Gauss-Newton needs.
    """
    position, _ = camera.project(points)
    step = 1e-6 * (points - camera.center).norm(dim=-1, keepdim=True).clamp(min=1e-300)
    columns = []
    for axis in torch.eye(3, dtype=points.dtype, device=points.device):
        ahead, _ = camera.project(points + step * axis)
        behind, _ = camera.project(points - step * axis)
        columns.append((ahead - behind) / (2 * step))
    return position, torch.stack(columns, dim=-1)


def _parallax(origins: Tensor, points: Tensor, used: Tensor) -> Tensor:
    """The largest angle [N] at the points between the first ray and another used one."""
    toward = origins - points[:, None]
    toward = toward / toward.norm(dim=-1, keepdim=True).clamp(min=1e-300)
    # Of two unit vectors; exact for small angles, where the arc cosine is not.
    sine = 0.5 * (toward[:, 1:] - toward[:, :1]).norm(dim=-1)
    angle = 2 * torch.asin(sine.clamp(max=1.0))
    return angle.where(used[:, 1:], 0.0).amax(-1)
