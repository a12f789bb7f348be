# SPDX-License-Identifier: Apache-2.0
"""From distorted to ideal image points, by OpenCV's lens models; NerfAcc's signatures.

Points are in units of the focal length, from the principal point. Newton's method in plain torch:
these run once a data set.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .checks import check_tensor

RADIAL_PARAMETERS = (0, 1, 2, 4, 5, 8)


@torch.no_grad()
def opencv_lens_undistortion(
    uv: Tensor, params: Tensor, eps: float = 1e-6, iters: int = 10
) -> Tensor:
    """Undoes OpenCV's radial and tangential distortion.

    Args:
        uv: Distorted points [..., 2].
        params: [N] or [..., N] with N = 0 (none), 1 (k1), 2 (k1, k2), 4 (k1, k2, p1, p2), 5 (and
            k3) or 8 (and k4, k5, k6).
        eps: Where the Jacobian's determinant is no larger, a point stays.
        iters: Steps of Newton's method.

    Returns:
        Ideal points [..., 2]. Not differentiable.

    Raises:
        TypeError: An argument has another type.
        ValueError: A shape does not fit.

    Source: OpenCV, "Camera calibration and 3D reconstruction".

    Example:
        >>> opencv_lens_undistortion(torch.tensor([[0.505, 0.0]]), torch.tensor([0.04]))
        tensor([[0.5000, 0.0000]])
    """
    name = "opencv_lens_undistortion"
    params = _checked(name, uv, params, RADIAL_PARAMETERS)
    if params.shape[-1] == 0:
        return uv
    k1, k2, p1, p2, k3, k4, k5, k6 = torch.nn.functional.pad(
        params, (0, 8 - params.shape[-1])
    ).unbind(-1)
    u, v = uv.unbind(-1)
    x, y = u, v
    for _ in range(iters):
        r = x * x + y * y
        top, bottom = 1 + r * (k1 + r * (k2 + r * k3)), 1 + r * (k4 + r * (k5 + r * k6))
        scale = top / bottom
        slope = (
            (k1 + r * (2 * k2 + 3 * k3 * r)) * bottom - top * (k4 + r * (2 * k5 + 3 * k6 * r))
        ) / (bottom * bottom)
        error_x = x * scale + 2 * p1 * x * y + p2 * (r + 2 * x * x) - u
        error_y = y * scale + 2 * p2 * x * y + p1 * (r + 2 * y * y) - v
        xx = scale + 2 * x * x * slope + 2 * p1 * y + 6 * p2 * x
        xy = 2 * x * y * slope + 2 * p1 * x + 2 * p2 * y
        yy = scale + 2 * y * y * slope + 2 * p2 * x + 6 * p1 * y
        determinant = xx * yy - xy * xy
        sound = determinant.abs() > eps
        safe = torch.where(sound, determinant, 1)
        x = x - torch.where(sound, (error_x * yy - error_y * xy) / safe, 0)
        y = y - torch.where(sound, (error_y * xx - error_x * xy) / safe, 0)
    return torch.stack([x, y], dim=-1)


@torch.no_grad()
def opencv_lens_undistortion_fisheye(
    uv: Tensor, params: Tensor, eps: float = 1e-6, iters: int = 10
) -> Tensor:
    """Undoes OpenCV's fisheye distortion.

    Args:
        uv: Distorted points [..., 2], at theta (1 + k1 theta^2 + ... + k4 theta^8) from the centre.
        params: k1 to k4, [4] or [..., 4].
        eps: Where the derivative is no larger, a point stays.
        iters: Steps of Newton's method.

    Returns:
        Ideal points [..., 2], at tan(theta) from the centre; points that lie 90 degrees or more
        off the axis stay as they are. Not differentiable.

    Raises:
        TypeError: An argument has another type.
        ValueError: A shape does not fit.

    Source: Kannala and Brandt, "A generic camera model and calibration method" (2006).

    Example:
        >>> opencv_lens_undistortion_fisheye(torch.tensor([[0.46365, 0.0]]), torch.zeros(4))
        tensor([[0.5000, 0.0000]])
    """
    name = "opencv_lens_undistortion_fisheye"
    k1, k2, k3, k4 = _checked(name, uv, params, (4,)).unbind(-1)
    distorted = uv.norm(dim=-1)
    theta = distorted
    for _ in range(iters):
        t2 = theta * theta
        error = theta * (1 + t2 * (k1 + t2 * (k2 + t2 * (k3 + t2 * k4)))) - distorted
        slope = 1 + t2 * (3 * k1 + t2 * (5 * k2 + t2 * (7 * k3 + 9 * k4 * t2)))
        sound = slope.abs() > eps
        theta = theta - torch.where(sound, error / torch.where(sound, slope, 1), 0)
    ahead = (theta >= 0) & (theta < math.pi / 2)
    on_axis = distorted < 1e-12
    scale = torch.tan(torch.where(ahead, theta, 0)) / torch.where(on_axis, 1, distorted)
    return torch.where((ahead & ~on_axis)[..., None], uv * scale[..., None], uv)


def _checked(function: str, uv: Tensor, params: Tensor, counts: tuple[int, ...]) -> Tensor:
    check_tensor(function, "uv", uv)
    check_tensor(function, "params", params, like=uv)
    if uv.dim() == 0 or uv.shape[-1] != 2:
        raise ValueError(f"{function}: uv: expected shape [..., 2], got {list(uv.shape)}")
    if params.dim() == 0 or params.shape[-1] not in counts:
        raise ValueError(
            f"{function}: params: expected {' or '.join(map(str, counts))} parameters in the last "
            f"dimension, got {list(params.shape)}"
        )
    if params.shape[-1] == 5:  # k3 before the rational terms
        params = torch.nn.functional.pad(params, (0, 3))
    return params
