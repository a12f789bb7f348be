# SPDX-License-Identifier: Apache-2.0
"""Lens distortion, and its removal from images.

An undistorted pixel looks along one ray; the forward distortion says where that ray met the
distorted image; the colour is interpolated there. So only the forward model is needed, never its
inverse.

- **brown** (OpenCV): with x, y = X/Z, Y/Z and r^2 = x^2 + y^2,
  x' = x (1 + k1 r^2 + k2 r^4 + ...) / (1 + k4 r^2 + ...) + 2 p1 x y + p2 (r^2 + 2 x^2),
  and y' alike.
- **fisheye** (Kannala-Brandt, OpenCV's fisheye): with theta = atan(r),
  x' = x / r * theta (1 + k1 theta^2 + k2 theta^4 + ...).

Outside the radius at which the radial part stops growing, the model folds back into the image.
Pixels there, and those that look outside the distorted image, are not valid.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Lens:
    """The distortion of one lens; see the formulas above.

    Args:
        kind: "brown" or "fisheye".
        radial: k1, k2, ... of the polynomial in r^2 ("brown") or theta^2 ("fisheye").
        tangential: p1, p2 ("brown" only).
        denominator: k4, k5, k6 of OpenCV's rational model ("brown" only).

    Example:
        >>> Lens("brown", radial=(0.1,)).distort(torch.tensor([[1.0, 0.0]]))
        tensor([[1.1000, 0.0000]])
    """

    kind: Literal["brown", "fisheye"]
    radial: tuple[float, ...] = ()
    tangential: tuple[float, float] = (0.0, 0.0)
    denominator: tuple[float, ...] = ()

    @property
    def is_identity(self) -> bool:
        """Whether nothing is distorted."""
        return self.kind == "brown" and not any((*self.radial, *self.tangential, *self.denominator))

    def radial_scale(self, radius: Tensor) -> Tensor:
        """Give the distorted radius of an undistorted one.

        Args:
            radius: [...], >= 0, in units of the focal length.

        Returns:
            [...] the distorted radius, tangential part left out.
        """
        if self.kind == "fisheye":
            theta = torch.atan(radius)
            return theta * _polynomial(self.radial, theta * theta)
        square = radius * radius
        return radius * _polynomial(self.radial, square) / _polynomial(self.denominator, square)

    def distort(self, xy: Tensor) -> Tensor:
        """Give where rays fall in the distorted image.

        Args:
            xy: [..., 2] undistorted positions X/Z, Y/Z.

        Returns:
            [..., 2] distorted positions in units of the focal length, relative to the principal
            point.
        """
        radius = xy.norm(dim=-1, keepdim=True)
        scale = self.radial_scale(radius) / radius.clamp(min=1e-12)
        result = torch.where(radius > 1e-12, xy * scale, xy)
        p1, p2 = self.tangential
        if self.kind == "brown" and (p1 or p2):
            x, y = xy.unbind(dim=-1)
            square = radius.squeeze(-1) ** 2
            shift_x = 2 * p1 * x * y + p2 * (square + 2 * x * x)
            shift_y = 2 * p2 * x * y + p1 * (square + 2 * y * y)
            result = result + torch.stack((shift_x, shift_y), dim=-1)
        return result

    def largest_radius(self, limit: float) -> float:
        """Give the undistorted radius up to which the radial part grows.

        Args:
            limit: The radius to stop looking at, in units of the focal length.

        Returns:
            That radius, at most `limit`.
        """
        radius = torch.linspace(0, limit, 4097, dtype=torch.float64)
        distorted = self.radial_scale(radius)
        bad = ~(distorted[1:] > distorted[:-1]) | ~torch.isfinite(distorted[1:])
        return float(radius[int(bad.nonzero()[0])]) if bool(bad.any()) else limit


def _polynomial(coefficients: tuple[float, ...], value: Tensor) -> Tensor:
    result = torch.zeros_like(value)
    for coefficient in reversed(coefficients):
        result = (result + coefficient) * value
    return 1 + result


@dataclass(frozen=True)
class Undistortion:
    """How to undistort the images of one camera; the undistorted camera has the same K and size.

    Args:
        lens: The distortion.
        focal: fx, fy in pixels.
        principal: cx, cy in pixels.
        width: Image width in pixels.
        height: Image height in pixels.
    """

    lens: Lens
    focal: tuple[float, float]
    principal: tuple[float, float]
    width: int
    height: int

    def maps(self) -> tuple[Tensor, Tensor]:
        """Give where to look in the distorted image (the last few results are kept).

        Returns:
            Positions [height, width, 2] in [-1, 1] across the distorted image (x first, as
            `torch.nn.functional.grid_sample` with align_corners=False takes them) and valid bool
            [height, width].
        """
        return _maps(self)

    def apply(self, values: Tensor, mode: Literal["bilinear", "nearest"] = "bilinear") -> Tensor:
        """Undistort an image.

        Args:
            values: [H, W, C] float; another size than the camera's is taken as a scaled image.
            mode: The interpolation.

        Returns:
            [height, width, C]; pixels that are not valid hold the nearest colour of the border.
        """
        grid, _ = self.maps()
        result = torch.nn.functional.grid_sample(
            values.permute(2, 0, 1)[None],
            grid[None],
            mode=mode,
            padding_mode="border",
            align_corners=False,
        )
        return result[0].permute(1, 2, 0)


@functools.lru_cache(maxsize=4)
def _maps(undistortion: Undistortion) -> tuple[Tensor, Tensor]:
    (fx, fy), (cx, cy) = undistortion.focal, undistortion.principal
    width, height = undistortion.width, undistortion.height
    x = (torch.arange(width) + 0.5 - cx) / fx
    y = (torch.arange(height) + 0.5 - cy) / fy
    xy = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    radius = xy.norm(dim=-1)
    limit = float(radius.max())
    bent = undistortion.lens.distort(xy)
    size = bent.new_tensor([width, height])
    position = (bent * bent.new_tensor([fx, fy]) + bent.new_tensor([cx, cy])) / size
    valid = ((position >= 0) & (position <= 1)).all(dim=-1)
    reach = undistortion.lens.largest_radius(limit)
    if reach < limit:
        valid &= radius < reach
    return (2 * position - 1).nan_to_num(0.0, -2.0, 2.0).clamp(-2, 2), valid
