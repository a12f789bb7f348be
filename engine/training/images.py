# SPDX-License-Identifier: Apache-2.0
"""The views as a training loop wants them: uint8 on its device, at several resolutions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...datasets import View
from ...datasets.cache import ByteCache
from ...representations import Camera

_CACHE_BYTES = 2 << 30


@dataclass(frozen=True)
class TrainingView:
    """One view at one resolution."""

    name: str
    camera: Camera
    colors: Tensor
    """uint8 [H, W, 3]; where there is alpha, multiplied by it."""
    alpha: Tensor | None
    """uint8 [H, W, 1]; None for an opaque image."""
    mask: Tensor | None
    """bool [H, W]: which pixels count; None: all."""

    def over(self, background: Tensor | None) -> Tensor:
        """The image before a background: uint8, or float32 where it shows, [H, W, 3].

        Args:
            background: float32 [3]; None is black.
        """
        if self.alpha is None or background is None:
            return self.colors
        return (self.colors + (255 - self.alpha.float()) * background) / 255


class ImagePyramid:
    """Views reduced by powers of two, made on demand and kept up to a budget.

    Args:
        views: The views.
        device: Where images and cameras go.
        cache_bytes: What is kept on the device at most; default 2 GiB.

    Example:
        >>> from fieldline.datasets import synthetic
        >>> pyramid = ImagePyramid(synthetic.still_life(2, 32, 24).views, torch.device("cpu"))
        >>> pyramid.get(0, 2).colors.shape
        torch.Size([16, 16, 3])
    """

    def __init__(
        self, views: Sequence[View], device: torch.device, cache_bytes: int = _CACHE_BYTES
    ) -> None:
        self.views = list(views)
        self.device = device
        self._cache = ByteCache(cache_bytes)
        self._cameras: dict[tuple[int, int], Camera] = {}

    def __len__(self) -> int:
        return len(self.views)

    def get(self, index: int, divisor: int = 1) -> TrainingView:
        """One view at 1 / divisor of its width and height.

        Args:
            index: Of the view.
            divisor: A power of two; an image keeps at least 16 pixels a side, or its size.

        Returns:
            The view, on the device.
        """
        view = self.views[index]
        width, height = _reduced(view.width, divisor), _reduced(view.height, divisor)
        key = (index, divisor)
        image = self._cache.get((*key, "image"), lambda: self._image(view, width, height))
        mask = self._cache.get((*key, "mask"), lambda: self._mask(view, width, height))
        assert image is not None
        if key not in self._cameras:
            self._cameras[key] = view.camera.resized(width, height).to(self.device)
        alpha = image[..., 3:] if image.shape[-1] == 4 else None
        return TrainingView(view.name, self._cameras[key], image[..., :3], alpha, mask)

    def _image(self, view: View, width: int, height: int) -> Tensor:
        image = view.image.to(self.device)
        if image.shape[-1] == 4:
            # Averages are of what is seen: colour times alpha.
            values = image.float()
            image = torch.cat((values[..., :3] * values[..., 3:] / 255, values[..., 3:]), dim=-1)
            return reduce_image(image, width, height).round().to(torch.uint8)
        if (width, height) == (view.width, view.height):
            return image.contiguous()
        return reduce_image(image.float(), width, height).round().to(torch.uint8)

    def _mask(self, view: View, width: int, height: int) -> Tensor | None:
        mask = view.mask
        if mask is None or bool(mask.all()):
            return None
        # A reduced pixel counts if all that it averages does.
        kept = reduce_image(mask.to(self.device).float()[..., None], width, height)
        return kept[..., 0] > 1 - 1e-4


def _reduced(size: int, divisor: int) -> int:
    return max(min(size, 16), round(size / divisor))


def reduce_image(image: Tensor, width: int, height: int) -> Tensor:
    """Averages an image over the pixels of a coarser grid.

    Args:
        image: Floating [H, W, C].
        width: At most W.
        height: At most H.

    Returns:
        [height, width, C].
    """
    if image.shape[:2] == (height, width):
        return image
    planes = image.permute(2, 0, 1)[None]
    return F.interpolate(planes, (height, width), mode="area")[0].permute(1, 2, 0).contiguous()
