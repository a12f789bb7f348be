# SPDX-License-Identifier: Apache-2.0
"""From files to the tensors of a view: decode, undistort, scale down; each step if needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import FileFormatError
from .images import (
    area_resize,
    from_premultiplied,
    read_depth,
    read_image,
    read_mask,
    to_premultiplied,
)
from .undistort import Undistortion

# How far the aspect of a file may be from that of its camera: images were often scaled to whole
# pixels.
_ASPECT_TOLERANCE = 0.01


@dataclass(frozen=True)
class Photo:
    """The files of one view and what is to be done to them.

    Args:
        path: The image.
        source_size: Width and height its header said.
        size: Width and height of the view.
        undistortion: The lens at `source_size`, or None.
        mask_path: An image whose white pixels count, or None.
        depth_path: Depth along the camera's z axis (.npy, or grey image), or None.
        depth_scale: World units for one integer step of the depth file.
    """

    path: Path
    source_size: tuple[int, int]
    size: tuple[int, int]
    undistortion: Undistortion | None = None
    mask_path: Path | None = None
    depth_path: Path | None = None
    depth_scale: float = 1e-3

    def image(self) -> Tensor:
        """Read the image.

        Returns:
            uint8 [H, W, 3], or [H, W, 4] with straight alpha.

        Raises:
            FileFormatError: If it does not decode, or changed its size since its header was read.
        """
        pixels = read_image(self.path)
        _check_size(self.path, pixels, self.source_size)
        if self.undistortion is None and self.size == self.source_size:
            return pixels
        values = to_premultiplied(pixels)
        if self.undistortion is not None:
            values = self.undistortion.apply(values)
        return from_premultiplied(area_resize(values, *self.size))

    def mask(self) -> Tensor | None:
        """Say which pixels count.

        A pixel of the view counts if all source pixels under it do: one that mixes in a masked
        colour would teach that colour.

        Returns:
            bool [H, W], or None if all count.

        Raises:
            FileFormatError: If the mask does not decode or fit, or the lens leaves no valid pixel.
        """
        counts: Tensor | None = None
        if self.mask_path is not None:
            mask = read_mask(self.mask_path)
            _check_aspect(self.mask_path, mask, self.source_size)
            counts = mask[..., None].float()
            if self.undistortion is not None:
                counts = self.undistortion.apply(counts)
            elif mask.shape[0] < self.size[1] or mask.shape[1] < self.size[0]:
                counts = _nearest(counts, self.size)
        if self.undistortion is not None:
            _, valid = self.undistortion.maps()
            if not bool(valid.any()):
                raise FileFormatError(
                    self.path, "distortion", "a lens that leaves valid pixels", "none of them valid"
                )
            if counts is not None or not bool(valid.all()):
                counts = valid[..., None].float() * (1.0 if counts is None else counts)
        if counts is None:
            return None
        return area_resize(counts, *self.size)[..., 0] > 0.999

    def depth(self) -> Tensor | None:
        """Read the depth at the nearest source pixel: a mean across an edge would lie on no
        surface.

        Returns:
            float32 [H, W], 0 where unknown; None if there is no depth.

        Raises:
            FileFormatError: If the file does not decode or fit.
        """
        if self.depth_path is None:
            return None
        depth = read_depth(self.depth_path, self.depth_scale)
        _check_aspect(self.depth_path, depth, self.source_size)
        if self.undistortion is None:
            return _nearest(depth[..., None], self.size)[..., 0]
        undistorted = self.undistortion.apply(depth[..., None], mode="nearest")[..., 0]
        return _nearest((undistorted * self.undistortion.maps()[1])[..., None], self.size)[..., 0]


def _nearest(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Sample [H, W, C] at the pixel centres of another size (width, height)."""
    rows, columns = (
        ((torch.arange(new) + 0.5) * (old / new)).long().clamp(max=old - 1)
        for new, old in ((size[1], values.shape[0]), (size[0], values.shape[1]))
    )
    return values[rows][:, columns]


def _check_size(path: Path, values: Tensor, size: tuple[int, int]) -> None:
    if (values.shape[1], values.shape[0]) != size:
        got = f"{values.shape[1]} x {values.shape[0]}"
        raise FileFormatError(path, "image", f"{size[0]} x {size[1]} pixels as in its header", got)


def _check_aspect(path: Path, values: Tensor, size: tuple[int, int]) -> None:
    if not same_aspect((values.shape[1], values.shape[0]), size):
        got = f"{values.shape[1]} x {values.shape[0]}"
        raise FileFormatError(path, "size", f"the aspect of its image, {size[0]} x {size[1]}", got)


def same_aspect(size: tuple[float, float], other: tuple[float, float]) -> bool:
    """Say whether two sizes (width, height) differ by a scale only, but for 1 % or rounding."""
    x, y = size[0] / other[0], size[1] / other[1]
    rounding = 1.0 / min(*size, *other)
    return abs(x / y - 1) <= max(_ASPECT_TOLERANCE, rounding)


def scaled_size(size: tuple[int, int], downscale: float) -> tuple[int, int]:
    """Divide a size (width, height), rounded to whole pixels, at least 1.

    Args:
        size: Width and height in pixels.
        downscale: Divisor, >= 1.

    Returns:
        Width and height.

    Example:
        >>> scaled_size((706, 529), 2)
        (353, 264)
    """
    width, height = (max(1, round(value / downscale)) for value in size)
    return width, height
