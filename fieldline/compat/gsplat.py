# SPDX-License-Identifier: Apache-2.0
"""gsplat's functions over our operators: code written for gsplat runs on a CPU too.

    import fieldline.compat.gsplat as gsplat

or, for code that is not ours to change, before it is imported:

    fieldline.compat.install("gsplat")

Signatures, shapes, defaults and conventions are those of gsplat 1.5.3. ``spherical_harmonics`` and
``isect_tiles`` also take the form that they have in 1.6. Errors are ours: where gsplat asserts,
ValueError or TypeError say what was expected.
"""

from __future__ import annotations

import math
from enum import Enum

import torch
from torch import Tensor

from ..cuda.splat import ops
from ..tracers.splat_gradients import probe_absgrad
from ..tracers.splatting import intersection_ids, rasterization
from .gsplat_harmonics import spherical_harmonics
from .gsplat_projection import (
    fully_fused_projection,
    proj,
    quat_scale_to_covar_preci,
    world_to_cam,
)
from .shapes import check_shape, given

__version__ = "1.5.3"
__all__ = [
    "RollingShutterType",
    "fully_fused_projection",
    "isect_offset_encode",
    "isect_tiles",
    "proj",
    "quat_scale_to_covar_preci",
    "rasterization",
    "rasterize_to_indices_in_range",
    "rasterize_to_pixels",
    "spherical_harmonics",
    "world_to_cam",
]

Shape = tuple[int, ...]


class RollingShutterType(Enum):
    """How a shutter moves; only GLOBAL is supported."""

    ROLLING_TOP_TO_BOTTOM = 0
    ROLLING_LEFT_TO_RIGHT = 1
    ROLLING_BOTTOM_TO_TOP = 2
    ROLLING_RIGHT_TO_LEFT = 3
    GLOBAL = 4


@torch.no_grad()
def isect_tiles(
    means2d: Tensor,
    radii: Tensor,
    depths: Tensor,
    tile_size: int,
    tile_width: int,
    tile_height: int,
    sort: bool = True,
    segmented: bool = False,
    packed: bool = False,
    n_images: int | None = None,
    image_ids: Tensor | None = None,
    gaussian_ids: Tensor | None = None,
    conics: Tensor | None = None,
    opacities: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Lists the tiles of every splat.

    Args:
        means2d: [..., N, 2], or [nnz, 2] packed.
        radii: int32 [..., N, 2], or [nnz, 2] packed.
        depths: [..., N], or [nnz] packed.
        tile_size: Pixels along a tile's edge.
        tile_width: Tiles along an image's width.
        tile_height: Tiles along an image's height.
        sort: By image, tile and depth; else splat by splat.
        segmented: Accepted; sorting here is always by tile.
        packed: The splats are packed.
        n_images: Needed when packed.
        image_ids: [nnz], the image of each splat; needed when packed.
        gaussian_ids: Accepted, as gsplat demands them when packed.
        conics: [..., N, 3], or [nnz, 3] packed. With opacities, as in gsplat 1.6: tiles of the
            rectangle that the splat's ellipse misses are left out.
        opacities: [..., N], or [nnz] packed.

    Returns:
        The number of tiles of each splat, int32 [..., N] or [nnz]; the keys image | tile | depth,
        int64 [n_isects]; the splats, int32 [n_isects], as indices into all images' splats.

    Raises:
        ValueError: A shape is not one of the above, or an argument is missing.

    Example:
        >>> counts, _, ids = isect_tiles(torch.tensor([[16.0, 8.0]]), torch.tensor([[2, 2]]).int(),
        ...                              torch.ones(1), 16, 2, 1)
        >>> counts.tolist(), ids.tolist()
        ([2], [0, 0])
    """
    lead = means2d.shape[:-1]
    check_shape("isect_tiles", "means2d", means2d, (*lead, 2))
    check_shape("isect_tiles", "radii", radii, (*lead, 2))
    check_shape("isect_tiles", "depths", depths, lead)
    if (conics is None) != (opacities is None):
        conics = opacities = None
    images = _images(packed, lead, n_images)
    if packed:
        image_ids = given("isect_tiles", "image_ids", image_ids).int()
    bins = ops.bin_splats(
        means2d.reshape(-1, 2),
        radii.reshape(-1, 2),
        depths.reshape(-1),
        images,
        tile_size,
        tile_width,
        tile_height,
        conics=None if conics is None else conics.reshape(-1, 3),
        opacities=None if opacities is None else opacities.reshape(-1),
        image_ids=image_ids if packed else None,
    )
    keys = intersection_ids(bins.flatten_ids, bins.offsets, depths.reshape(-1))
    ids = bins.flatten_ids
    if not sort:
        by_splat = torch.argsort(ids, stable=True)
        keys, ids = keys[by_splat], ids[by_splat]
    return bins.tiles_per_splat.reshape(lead), keys, ids


def _images(packed: bool, lead: Shape, n_images: int | None) -> int:
    if not packed:
        return math.prod(lead[:-1])
    if n_images is None:
        raise ValueError("isect_tiles: n_images: expected an integer when packed, got None")
    return n_images


@torch.no_grad()
def isect_offset_encode(
    isect_ids: Tensor, n_images: int, tile_width: int, tile_height: int
) -> Tensor:
    """Where each tile's run begins in sorted keys.

    Args:
        isect_ids: int64 [n_isects] of ``isect_tiles``, sorted.
        n_images: Number of images.
        tile_width: Tiles along an image's width.
        tile_height: Tiles along an image's height.

    Returns:
        int32 [n_images, tile_height, tile_width].

    Example:
        >>> isect_offset_encode(torch.tensor([0, 1 << 32]), 1, 2, 1)
        tensor([[[0, 1]]], dtype=torch.int32)
    """
    tiles = tile_width * tile_height
    image = torch.arange(n_images, device=isect_ids.device)[:, None]
    tile = torch.arange(tiles, device=isect_ids.device)
    first_keys = ((image << tiles.bit_length()) | tile) << 32
    offsets = torch.searchsorted(isect_ids.contiguous(), first_keys.reshape(-1))
    return offsets.int().reshape(n_images, tile_height, tile_width)


def rasterize_to_pixels(
    means2d: Tensor,
    conics: Tensor,
    colors: Tensor,
    opacities: Tensor,
    image_width: int,
    image_height: int,
    tile_size: int,
    isect_offsets: Tensor,
    flatten_ids: Tensor,
    backgrounds: Tensor | None = None,
    masks: Tensor | None = None,
    packed: bool = False,
    absgrad: bool = False,
) -> tuple[Tensor, Tensor]:
    """Blends projected splats into images.

    Args:
        means2d: [..., N, 2], or [nnz, 2] packed.
        conics: [..., N, 3], or [nnz, 3] packed.
        colors: [..., N, D], or [nnz, D] packed.
        opacities: [..., N], or [nnz] packed.
        image_width: Pixels.
        image_height: Pixels.
        tile_size: As given to ``isect_tiles``.
        isect_offsets: [..., tile_height, tile_width] of ``isect_offset_encode``.
        flatten_ids: [n_isects] of ``isect_tiles``.
        backgrounds: [..., D]; default black.
        masks: bool [..., tile_height, tile_width]; False tiles show the background only.
        packed: The splats are packed.
        absgrad: The backward pass sets ``means2d.absgrad``.

    Returns:
        Images [..., H, W, D] and alphas [..., H, W, 1].

    Raises:
        ValueError: A shape is not one of the above.

    Example:
        >>> mean, radius = torch.tensor([[8.0, 8.0]]), torch.tensor([[9, 9]]).int()
        >>> _, keys, ids = isect_tiles(mean, radius, torch.ones(1), 16, 1, 1)
        >>> offsets = isect_offset_encode(keys, 1, 1, 1)[0]
        >>> image, alpha = rasterize_to_pixels(mean, torch.tensor([[0.1, 0, 0.1]]),
        ...     torch.ones(1, 3), torch.ones(1), 16, 16, 16, offsets, ids)
        >>> image.shape
        torch.Size([16, 16, 3])
    """
    name = "rasterize_to_pixels"
    splats, images = means2d.shape[:-1], isect_offsets.shape[:-2]
    if not packed and splats[:-1] != images:
        raise ValueError(
            f"{name}: isect_offsets: expected shape [{', '.join(map(str, splats[:-1]))}, "
            f"tile_height, tile_width], got {list(isect_offsets.shape)}"
        )
    D = colors.shape[-1]
    check_shape(name, "means2d", means2d, (*splats, 2))
    check_shape(name, "conics", conics, (*splats, 3))
    check_shape(name, "colors", colors, (*splats, D))
    check_shape(name, "opacities", opacities, splats)
    if backgrounds is not None:
        check_shape(name, "backgrounds", backgrounds, (*images, D))
        backgrounds = backgrounds.reshape(-1, D)
    grid = isect_offsets.shape[-2:]
    if masks is not None:
        check_shape(name, "masks", masks, tuple(isect_offsets.shape))
        masks = masks.reshape(-1, *grid)
    bins = (isect_offsets.reshape(-1, *grid).int(), flatten_ids.int())
    flat = means2d.reshape(-1, 2)
    image, alpha = ops.blend(
        flat,
        conics.reshape(-1, 3),
        colors.reshape(-1, D),
        opacities.reshape(-1),
        image_width,
        image_height,
        tile_size,
        bins,
        backgrounds=backgrounds,
        masks=masks,
        means2d_abs=probe_absgrad(means2d, flat.shape) if absgrad else None,
    )
    size = (image_height, image_width)
    return image.reshape(*images, *size, D), alpha.reshape(*images, *size, 1)


@torch.no_grad()
def rasterize_to_indices_in_range(
    range_start: int,
    range_end: int,
    transmittances: Tensor,
    means2d: Tensor,
    conics: Tensor,
    opacities: Tensor,
    image_width: int,
    image_height: int,
    tile_size: int,
    isect_offsets: Tensor,
    flatten_ids: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Lists every (splat, pixel) that blends, for a range of batches of each tile's list.

    Args:
        range_start: First batch; a batch is tile_size^2 entries of a tile's list.
        range_end: One past the last batch; anything large means to the end.
        transmittances: [..., H, W] before the first batch.
        means2d: [..., N, 2].
        conics: [..., N, 3].
        opacities: [..., N].
        image_width: Pixels.
        image_height: Pixels.
        tile_size: As given to ``isect_tiles``.
        isect_offsets: [..., tile_height, tile_width] of ``isect_offset_encode``.
        flatten_ids: [n_isects] of ``isect_tiles``.

    Returns:
        int64 [M] each: Gaussians (0 to N - 1), pixels (row * width + column) and images.

    Raises:
        ValueError: A shape is not one of the above.

    Example:
        >>> mean, offsets = torch.tensor([[0.5, 0.5]]), torch.zeros(1, 1, dtype=torch.int32)
        >>> rasterize_to_indices_in_range(0, 1, torch.ones(1, 1), mean,
        ...     torch.tensor([[9.0, 0, 9]]), torch.ones(1) * 0.5, 1, 1, 16, offsets,
        ...     torch.zeros(1, dtype=torch.int32))
        (tensor([0]), tensor([0]), tensor([0]))
    """
    name = "rasterize_to_indices_in_range"
    images, N = means2d.shape[:-2], means2d.shape[-2]
    grid = isect_offsets.shape[-2:]
    check_shape(name, "means2d", means2d, (*images, N, 2))
    check_shape(name, "conics", conics, (*images, N, 3))
    check_shape(name, "opacities", opacities, (*images, N))
    check_shape(name, "isect_offsets", isect_offsets, (*images, *grid))
    check_shape(name, "transmittances", transmittances, (*images, image_height, image_width))
    splats, pixels, image_ids = ops.indices_in_range(
        int(range_start),
        int(min(range_end, 2**31)),
        transmittances.reshape(-1, image_height, image_width),
        means2d.reshape(-1, 2),
        conics.reshape(-1, 3),
        opacities.reshape(-1),
        image_width,
        image_height,
        tile_size,
        isect_offsets.reshape(-1, *grid).int(),
        flatten_ids.int(),
    )
    return splats % max(1, N), pixels, image_ids
