# SPDX-License-Identifier: Apache-2.0
"""Reading image files, and scaling them down by area.

Files are read with Pillow, only in the formats that photographs come in, and never beyond Pillow's
limit on pixels. Colours with an alpha channel are averaged premultiplied, so that the colour of
transparent pixels does not bleed into the edges of what is in front of them.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import FileFormatError

# No formats that run interpreters (EPS) or stand for other files.
_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "PPM", "TGA", "MPO")
_ALPHA_MODES = ("RGBA", "RGBa", "LA", "La", "PA")
_COLOR_MODES = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")


def _open(path: Path) -> Image.Image:
    # Pillow's decoders raise many exceptions of their own and of the standard library on broken
    # bytes.
    try:
        return Image.open(path, formats=_FORMATS)
    except Exception as error:
        raise FileFormatError(
            path, "image", f"one of {', '.join(_FORMATS)}", _text(error)
        ) from error


def _decode(path: Path, image: Image.Image) -> Image.Image:
    try:
        image.load()
    except Exception as error:
        raise FileFormatError(path, "image", "complete image data", _text(error)) from error
    return image


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:300]


def image_size(path: Path) -> tuple[int, int]:
    """Read width and height from an image's header.

    Args:
        path: The file.

    Returns:
        Width and height in pixels, as stored (EXIF orientation is not applied: poses refer to the
        stored pixels).

    Raises:
        FileFormatError: If it is not an image, or has too many pixels.
    """
    with _open(path) as image:
        return image.size


def has_alpha(path: Path) -> bool:
    """Say from an image's header whether it has an alpha channel.

    Args:
        path: The file.

    Returns:
        Whether `read_image` gives four channels.

    Raises:
        FileFormatError: If it is not an image.
    """
    with _open(path) as image:
        return _has_alpha(image)


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in _ALPHA_MODES or "transparency" in image.info


def read_image(path: Path) -> Tensor:
    """Decode an image to 8 bits.

    Args:
        path: The file.

    Returns:
        uint8 [H, W, 3], or [H, W, 4] with straight (not premultiplied) alpha if the file has one.
        Images of 16 bits keep their upper 8.

    Raises:
        FileFormatError: If it does not decode.
    """
    with _open(path) as image:
        image = _decode(path, image)
        if image.mode.startswith("I;16"):
            grey = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
            return torch.from_numpy(grey)[..., None].repeat(1, 1, 3)
        if _has_alpha(image):
            return torch.from_numpy(np.array(image.convert("RGBA")))
        if image.mode not in _COLOR_MODES:
            raise FileFormatError(path, "mode", "8 or 16 bits a channel", image.mode)
        return torch.from_numpy(np.array(image.convert("RGB")))


def read_mask(path: Path) -> Tensor:
    """Decode a mask: white is True.

    Args:
        path: An image; a colour image is turned to grey first.

    Returns:
        bool [H, W].

    Raises:
        FileFormatError: If it does not decode.
    """
    return read_image(path)[..., :3].float().mean(dim=-1) >= 128


def read_depth(path: Path, scale: float) -> Tensor:
    """Read a depth map: integers times `scale`, or floats as they are.

    Args:
        path: A .npy array (2-D) or a grey image of 16 or 32 bits.
        scale: World units for one integer step.

    Returns:
        float32 [H, W]; 0 where there is no depth (negative and non-finite depths become 0).

    Raises:
        FileFormatError: If it is neither.
    """
    if path.suffix.lower() == ".npy":
        # A memory map compares the header's count with the file's size before anything is
        # allocated.
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except Exception as error:
            raise FileFormatError(path, "depth", "a .npy array", _text(error)) from error
    else:
        with _open(path) as image:
            image = _decode(path, image)
            if not image.mode.startswith(("I", "F", "L")):
                raise FileFormatError(path, "mode", "a grey image of 16 or 32 bits", image.mode)
            array = np.asarray(image)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim != 2 or array.size == 0 or array.dtype.kind not in "iuf":
        got = f"{array.dtype} {list(array.shape)}"
        raise FileFormatError(path, "depth", "numbers [height, width]", got)
    depth = torch.from_numpy(np.array(array, dtype=np.float32))
    depth = depth if array.dtype.kind == "f" else depth * scale
    return torch.where(torch.isfinite(depth) & (depth > 0), depth, 0.0)


def area_resize(values: Tensor, width: int, height: int) -> Tensor:
    """Scale down: each new pixel is the mean of the old ones under it, weighted by exact overlap.

    Args:
        values: [H, W, C] float, at least as large as asked for.
        width: New width.
        height: New height.

    Returns:
        [height, width, C].

    Example:
        >>> area_resize(torch.tensor([[[0.0], [3.0], [6.0]]]), 2, 1).flatten().tolist()
        [1.0, 5.0]
    """
    return _area_axis(_area_axis(values, height, 0), width, 1)


def _area_axis(values: Tensor, size: int, dim: int) -> Tensor:
    old = values.shape[dim]
    if old == size:
        return values
    if old % size == 0:
        return values.unflatten(dim, (size, old // size)).mean(dim=dim + 1)
    scale = old / size
    start = torch.arange(size, dtype=torch.float64) * scale
    first = start.floor()
    shape = [1] * values.dim()
    shape[dim] = size
    result = torch.zeros(1)
    for tap in range(math.ceil(scale) + 1):
        pixel = first + tap
        overlap = torch.minimum(start + scale, pixel + 1) - torch.maximum(start, pixel)
        weight = (overlap.clamp(min=0) / scale).to(values).view(shape)
        source = pixel.long().clamp(max=old - 1)
        result = result + weight * values.index_select(dim, source)
    return result


def to_premultiplied(image: Tensor) -> Tensor:
    """Turn uint8 [H, W, 3 or 4] into float [H, W, 3 or 4] in [0, 1], colours times alpha."""
    values = image.to(torch.float32) / 255
    if values.shape[-1] == 4:
        values[..., :3] *= values[..., 3:]
    return values


def from_premultiplied(values: Tensor) -> Tensor:
    """Undo `to_premultiplied`; where alpha is 0 the colour is black."""
    if values.shape[-1] == 4:
        alpha = values[..., 3:]
        values = torch.cat((values[..., :3] / alpha.clamp(min=1e-6), alpha), dim=-1)
    return (values * 255).round_().clamp_(0, 255).to(torch.uint8)
