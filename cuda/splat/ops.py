# SPDX-License-Identifier: Apache-2.0
"""The splatting operators: one typed function each, with its fake kernel and its gradient.

Dimensions: B scenes, C cameras each, N Gaussians each; I = B * C images; M splats in all images
(I * N, or only the visible ones when packed); P (splat, tile) pairs; D channels; K SH bases.
``project`` and ``draw`` also take one scene without its dimension, all tensors alike.
``fieldline.tracers.splatting`` composes these into a renderer.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..library import call, ctx_ops, declare, ops

CAMERA_MODELS = ("pinhole", "ortho", "fisheye")
MAX_CHANNELS = 32  # that the CUDA kernels keep in registers


class Projection(NamedTuple):
    """Gaussians seen by cameras; everything about a culled one is zero."""

    radii: Tensor  # int32 [B, C, N, 2], pixels; 0 where culled
    means2d: Tensor  # [B, C, N, 2], pixels
    depths: Tensor  # [B, C, N]
    conics: Tensor  # [B, C, N, 3]: A, B, C of the inverse 2D covariance
    compensations: Tensor  # [B, C, N] if asked for, else [0]


class Bins(NamedTuple):
    """Which splats each tile sees, nearest first."""

    tiles_per_splat: Tensor  # int32 [M]
    flatten_ids: Tensor  # int32 [P], indices into the M splats
    offsets: Tensor  # int32 [I, tile_height, tile_width]: where a tile's run begins
    slots: Tensor  # int32 [P]: a pair's place when pairs lie splat by splat; or [0], not listed
    starts: Tensor  # int64 [M + 1]: the slots of splat i are starts[i] to starts[i + 1]


def _like(tensor: Tensor) -> Tensor:
    return tensor.new_empty(tensor.shape)


def camera_model_index(model: str) -> int:
    """The core's number for a camera model.

    Raises:
        ValueError: The model is not pinhole, ortho or fisheye.
    """
    if model not in CAMERA_MODELS:
        raise ValueError(f"camera_model: expected one of {CAMERA_MODELS}, got {model!r}")
    return CAMERA_MODELS.index(model)


def project(
    means: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    *,
    covars: Tensor | None = None,
    quats: Tensor | None = None,
    scales: Tensor | None = None,
    opacities: Tensor | None = None,
    eps2d: float = 0.3,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    radius_clip: float = 0.0,
    camera_model: str = "pinhole",
    compensate: bool = False,
) -> Projection:
    """Projects Gaussians to images by EWA splatting.

    Args:
        means: Centres [B, N, 3].
        viewmats: World-to-camera matrices [B, C, 4, 4], OpenCV axes.
        Ks: Intrinsics [B, C, 3, 3] in pixels.
        width: Image width in pixels.
        height: Image height in pixels.
        covars: Covariances [B, N, 6] as xx, xy, xz, yy, yz, zz; instead of quats and scales.
        quats: Rotations [B, N, 4], wxyz, of any length but zero.
        scales: Standard deviations [B, N, 3] along the rotated axes.
        opacities: [B, N]; if given, radii end where alpha falls to 1/255.
        eps2d: Variance added to the 2D covariance, pixels squared.
        near_plane: Smallest visible depth.
        far_plane: Largest visible depth.
        radius_clip: Splats with both radii at or below it are culled, pixels.
        camera_model: "pinhole", "ortho" or "fisheye" (equidistant).
        compensate: Also return the antialiasing factor sqrt(det0 / det).

    Returns:
        The projection; differentiable in means, covars or quats and scales, viewmats and Ks.

    Source: Zwicker et al., "EWA splatting" (2001); Kerbl et al., "3D Gaussian Splatting" (2023).

    Example:
        >>> K = torch.tensor([[[[50.0, 0, 32], [0, 50, 32], [0, 0, 1]]]])
        >>> out = project(torch.tensor([[[0.0, 0, 2]]]), torch.eye(4)[None, None], K, 64, 64,
        ...               quats=torch.tensor([[[1.0, 0, 0, 0]]]), scales=torch.full((1, 1, 3), 0.1))
        >>> out.means2d.flatten().tolist()
        [32.0, 32.0]
    """
    return Projection(
        *call(
            "splat_project",
            means,
            covars,
            quats,
            scales,
            opacities,
            viewmats,
            Ks,
            width,
            height,
            eps2d,
            near_plane,
            far_plane,
            radius_clip,
            camera_model_index(camera_model),
            compensate,
        )
    )


def _project_fake(
    means: Tensor,
    covars: Any,
    quats: Any,
    scales: Any,
    opacities: Any,
    viewmats: Tensor,
    *rest: Any,
) -> tuple[Tensor, ...]:
    seen = (*viewmats.shape[:-2], means.shape[-2])
    return (
        means.new_empty(*seen, 2, dtype=torch.int32),
        means.new_empty(*seen, 2),
        means.new_empty(seen),
        means.new_empty(*seen, 3),
        means.new_empty(seen if rest[-1] else (0,)),
    )


def _project_backward_fake(
    means: Tensor, covars: Any, quats: Any, scales: Any, viewmats: Tensor, Ks: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    scenes, N, C = means.shape[:-2], means.shape[-2], viewmats.shape[-3]

    def own(asked: bool, *shape: int) -> Tensor:
        return means.new_empty(*(scenes if asked else (0,)), *shape)

    return (
        _like(means),
        own(covars is not None, N, 6),
        own(covars is None, N, 4),
        own(covars is None, N, 3),
        own(rest[5], C, 4, 4),
        own(rest[5], C, 3, 3),
    )


def _project_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    means, covars, quats, scales, _, viewmats, Ks, width, height, eps2d = inputs[:10]
    ctx.save_for_backward(means, covars, quats, scales, viewmats, Ks, output[0])
    ctx.settings = (width, height, eps2d, inputs[13], inputs[14])
    ctx.mark_non_differentiable(output[0])
    ctx.set_materialize_grads(False)


def _project_backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    means, covars, quats, scales, viewmats, Ks, radii = ctx.saved_tensors
    needs = ctx.needs_input_grad
    g = ctx_ops(ctx).splat_project_backward(
        means,
        covars,
        quats,
        scales,
        viewmats,
        Ks,
        *ctx.settings,
        needs[5] or needs[6],
        radii,
        *grads[1:],
    )
    has_covars = covars is not None
    return (
        g[0],
        g[1] if has_covars else None,
        None if has_covars else g[2],
        None if has_covars else g[3],
        None,
        g[4] if needs[5] else None,
        g[5] if needs[6] else None,
        *[None] * 8,
    )


def shade(
    degree: int, means: Tensor, viewmats: Tensor, coefficients: Tensor, radii: Tensor | None = None
) -> Tensor:
    """Colours of Gaussians seen by cameras, from spherical harmonics: max(SH + 0.5, 0).

    Args:
        degree: Highest degree used, 0 to 4.
        means: Centres [B, N, 3].
        viewmats: Rigid world-to-camera matrices [B, C, 4, 4].
        coefficients: [B, N, K, 3] with K >= (degree + 1)^2.
        radii: int32 [B, C, N, 2]; splats with a zero radius are skipped and come out black.

    Returns:
        Colours [B, C, N, 3]; differentiable in means, viewmats and coefficients.

    Example:
        >>> shade(0, torch.ones(1, 1, 3), torch.eye(4)[None, None], torch.zeros(1, 1, 1, 3))
        tensor([[[[0.5000, 0.5000, 0.5000]]]])
    """
    return call("splat_shade", degree, means, viewmats, coefficients, radii)


def _shade_fake(
    degree: int, means: Tensor, viewmats: Tensor, coefficients: Tensor, radii: Tensor | None
) -> Tensor:
    return means.new_empty(means.shape[0], viewmats.shape[1], means.shape[1], 3)


def _shade_backward_fake(*args: Any) -> tuple[Tensor, ...]:
    means, viewmats, coefficients, needs_positions = args[1], args[2], args[3], args[-2]
    B = means.shape[0] if needs_positions else 0
    return (
        means.new_empty(B, means.shape[1], 3),
        means.new_empty(B, viewmats.shape[1], 4, 4),
        _like(coefficients),
    )


def _shade_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.degree = inputs[0]
    ctx.save_for_backward(*inputs[1:], output)


def _shade_backward(ctx: Any, g_colors: Tensor) -> tuple[Tensor | None, ...]:
    means, viewmats, coefficients, radii, colors = ctx.saved_tensors
    cameras = ctx.needs_input_grad[2]
    positions = ctx.needs_input_grad[1] or cameras
    g_means, g_viewmats, g_coefficients = ctx_ops(ctx).splat_shade_backward(
        ctx.degree, means, viewmats, coefficients, radii, colors, g_colors, positions, cameras
    )
    return (
        None,
        g_means if ctx.needs_input_grad[1] else None,
        g_viewmats if ctx.needs_input_grad[2] else None,
        g_coefficients,
        None,
    )


def spherical_harmonics(
    degree: int, dirs: Tensor, coefficients: Tensor, masks: Tensor | None = None
) -> Tensor:
    """Sums spherical harmonics along directions.

    Args:
        degree: Highest degree used, 0 to 4.
        dirs: Directions [M, 3] of any length.
        coefficients: [M, K, 3] with K >= (degree + 1)^2.
        masks: bool [M]; rows that are False come out zero.

    Returns:
        [M, 3]; differentiable in dirs and coefficients.

    Example:
        >>> spherical_harmonics(0, torch.ones(1, 3), torch.ones(1, 1, 3))
        tensor([[0.2821, 0.2821, 0.2821]])
    """
    return call("spherical_harmonics", degree, dirs, coefficients, masks)


def _harmonics_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.degree = inputs[0]
    ctx.save_for_backward(*inputs[1:])


def _harmonics_backward(ctx: Any, g_colors: Tensor) -> tuple[Tensor | None, ...]:
    dirs, coefficients, masks = ctx.saved_tensors
    g_dirs, g_coefficients = ctx_ops(ctx).spherical_harmonics_backward(
        ctx.degree, dirs, coefficients, masks, g_colors, ctx.needs_input_grad[1]
    )
    return None, g_dirs if ctx.needs_input_grad[1] else None, g_coefficients, None


def covariance(quats: Tensor, scales: Tensor, inverse: bool = False) -> Tensor:
    """Covariance matrices R S S R^T of rotated scales, or their inverses.

    Args:
        quats: [M, 4], wxyz, of any length but zero.
        scales: [M, 3], standard deviations.
        inverse: Return the precision matrices instead.

    Returns:
        [M, 6] as xx, xy, xz, yy, yz, zz; differentiable in quats and scales.

    Example:
        >>> covariance(torch.tensor([[1.0, 0, 0, 0]]), torch.tensor([[1.0, 2, 3]]))
        tensor([[1., 0., 0., 4., 0., 9.]])
    """
    return call("splat_covariance", quats, scales, inverse)


def _covariance_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0], inputs[1])
    ctx.inverse = inputs[2]


def _covariance_backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    return *ctx_ops(ctx).splat_covariance_backward(*ctx.saved_tensors, ctx.inverse, g), None


@torch.no_grad()
def bin_splats(
    means2d: Tensor,
    radii: Tensor,
    depths: Tensor,
    n_images: int,
    tile_size: int,
    tile_width: int,
    tile_height: int,
    *,
    conics: Tensor | None = None,
    opacities: Tensor | None = None,
    image_ids: Tensor | None = None,
) -> Bins:
    """Lists the splats of every tile, nearest first.

    Args:
        means2d: [M, 2], pixels.
        radii: int32 [M, 2]; splats with a zero radius are left out.
        depths: [M].
        n_images: I. Without image_ids, the splats are I equal runs.
        tile_size: Pixels along a tile's edge.
        tile_width: Tiles along an image's width.
        tile_height: Tiles along an image's height.
        conics: [M, 3]; with opacities, tiles that the splat's ellipse misses are left out.
        opacities: [M].
        image_ids: int32 [M], the image of each splat (packed layout).

    Returns:
        The lists.

    Raises:
        RuntimeError: There are 2^31 pairs or more.

    Example:
        >>> bins = bin_splats(torch.tensor([[8.0, 8.0]]), torch.tensor([[3, 3]]).int(),
        ...                   torch.ones(1), 1, 16, 2, 1)
        >>> bins.flatten_ids.tolist(), bins.offsets.tolist()
        ([0], [[[0, 1]]])
    """
    return Bins(
        *ops().splat_bin(
            means2d,
            radii,
            depths,
            conics,
            opacities,
            image_ids,
            n_images,
            tile_size,
            tile_width,
            tile_height,
        )
    )


def _bin_fake(means2d: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    n_images, _, tile_width, tile_height = rest[-4:]
    pairs = torch.library.get_ctx().new_dynamic_size()
    return (
        means2d.new_empty(means2d.shape[0], dtype=torch.int32),
        means2d.new_empty(pairs, dtype=torch.int32),
        means2d.new_empty(n_images, tile_height, tile_width, dtype=torch.int32),
        means2d.new_empty(pairs, dtype=torch.int32),
        means2d.new_empty(means2d.shape[0] + 1, dtype=torch.int64),
    )


def blend(
    means2d: Tensor,
    conics: Tensor,
    colors: Tensor,
    opacities: Tensor,
    width: int,
    height: int,
    tile_size: int,
    bins: Bins | tuple[Tensor, Tensor],
    *,
    backgrounds: Tensor | None = None,
    masks: Tensor | None = None,
    means2d_abs: Tensor | None = None,
    alpha_cap: float = 0.999,
    channel_chunk: int = MAX_CHANNELS,
) -> tuple[Tensor, Tensor]:
    """Blends splats front to back into images.

    Args:
        means2d: [M, 2], pixels; pixel centres lie at +0.5.
        conics: [M, 3].
        colors: [M, D].
        opacities: [M], in [0, 1].
        width: Pixels.
        height: Pixels.
        tile_size: As given to ``bin_splats``.
        bins: What ``bin_splats`` returned, or just (offsets int32 [I, tile_height, tile_width],
            flatten_ids int32 [P]), from which the backward pass rebuilds the rest.
        backgrounds: [I, D], seen through what the splats leave; default black.
        masks: bool [I, tile_height, tile_width]; tiles that are False show the background.
        means2d_abs: Any [M, 2] tensor that requires a gradient: it receives the sum of the
            absolute values of the pixels' gradients of means2d (AbsGS).
        alpha_cap: Largest alpha of one splat in one pixel.
        channel_chunk: Most channels blended at once, 1 to 32.

    Returns:
        Images [I, H, W, D] and alphas [I, H, W, 1]; differentiable in means2d, conics, colors,
        opacities and backgrounds.

    Source: Kerbl et al. (2023), section 6; the cut-offs are gsplat's.

    Example:
        >>> mean = torch.tensor([[8.0, 8.0]])
        >>> bins = bin_splats(mean, torch.tensor([[9, 9]]).int(), torch.ones(1), 1, 16, 1, 1)
        >>> image, alpha = blend(mean, torch.tensor([[0.1, 0, 0.1]]), torch.ones(1, 3),
        ...                      torch.ones(1), 16, 16, 16, bins)
        >>> image.shape
        torch.Size([1, 16, 16, 3])
    """
    if isinstance(bins, Bins) and bins.slots.numel() == bins.flatten_ids.numel():
        lists = (bins.offsets, bins.flatten_ids, bins.slots, bins.starts)
    elif isinstance(bins, Bins):  # made where nothing required a gradient
        lists = (bins.offsets, bins.flatten_ids, None, None)
    else:
        lists = (*bins, None, None)
    differentiable = (means2d, conics, colors, opacities, means2d_abs, backgrounds)
    keep_state = torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in differentiable
    )
    images = []
    for first in range(0, max(1, colors.shape[1]), channel_chunk):
        chunk = slice(first, first + channel_chunk)
        image, alphas, _ = call(
            "splat_blend",
            means2d,
            conics,
            colors[:, chunk],
            opacities,
            means2d_abs,
            None if backgrounds is None else backgrounds[:, chunk],
            masks,
            width,
            height,
            tile_size,
            *lists,
            alpha_cap,
            keep_state,
        )
        images.append(image)
    return (images[0] if len(images) == 1 else torch.cat(images, dim=-1)), alphas


def _blend_fake(means2d: Tensor, conics: Tensor, colors: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    width, height, _, offsets = rest[4:8]
    state = torch.library.get_ctx().new_dynamic_size()
    images = offsets.shape[0]
    return (
        colors.new_empty(images, height, width, colors.shape[1]),
        colors.new_empty(images, height, width, 1),
        colors.new_empty(state, dtype=torch.int32),
    )


def _blend_backward_fake(
    means2d: Tensor, conics: Tensor, colors: Tensor, opacities: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    return (
        _like(means2d),
        means2d.new_empty(means2d.shape[0] if rest[-1] else 0, 2),
        _like(conics),
        _like(colors),
        _like(opacities),
    )


def _blend_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    means2d, conics, colors, opacities, _, backgrounds, masks = inputs[:7]
    width, height, tile_size, *lists, alpha_cap, _ = inputs[7:]
    ctx.save_for_backward(means2d, conics, colors, opacities, backgrounds, masks, *lists, *output)
    ctx.settings = (width, height, tile_size, alpha_cap)
    ctx.mark_non_differentiable(output[2])


def _blend_backward(
    ctx: Any, g_render: Tensor, g_alphas: Tensor, _: Tensor
) -> tuple[Tensor | None, ...]:
    means2d, conics, colors, opacities, backgrounds, masks = ctx.saved_tensors[:6]
    lists, (render, alphas, state) = ctx.saved_tensors[6:10], ctx.saved_tensors[10:]
    width, height, tile_size, alpha_cap = ctx.settings
    absgrad = ctx.needs_input_grad[4]
    g_means2d, g_abs, g_conics, g_colors, g_opacities = ctx_ops(ctx).splat_blend_backward(
        means2d,
        conics,
        colors,
        opacities,
        backgrounds,
        masks,
        width,
        height,
        tile_size,
        *lists,
        alpha_cap,
        render,
        alphas,
        state,
        g_render,
        g_alphas,
        absgrad,
    )
    g_backgrounds = None
    if ctx.needs_input_grad[5]:
        g_backgrounds = (g_render * (1 - alphas)).sum(dim=(1, 2))
    return (
        g_means2d,
        g_conics,
        g_colors,
        g_opacities,
        g_abs if absgrad else None,
        g_backgrounds,
        *[None] * 10,
    )


class Drawing(NamedTuple):
    """Images, and what they were made from."""

    images: Tensor  # [I, H, W, D]
    alphas: Tensor  # [I, H, W, 1]
    bins: Bins  # of M = B * C * N splats; without slots where nothing requires a gradient


def draw(
    projection: Projection,
    opacities: Tensor,
    colors: Tensor,
    width: int,
    height: int,
    tile_size: int,
    *,
    degree: int | None = None,
    means: Tensor | None = None,
    viewmats: Tensor | None = None,
    backgrounds: Tensor | None = None,
    masks: Tensor | None = None,
    means2d_abs: Tensor | None = None,
    alpha_cap: float = 0.999,
) -> Drawing:
    """Colours, bins and blends projected splats in one call.

    Equal to ``shade``, ``bin_splats`` and ``blend`` one after the other, and cheaper: see
    ``cuda/splat/draw_entry.h``.

    Args:
        projection: What ``project`` returned.
        opacities: [B, C, N], or [B, N] for all cameras of a scene, in [0, 1].
        colors: [B, C, N, D] with at most 32 channels; or, with ``degree``, SH coefficients
            [B, N, K, 3].
        width: Pixels.
        height: Pixels.
        tile_size: Pixels along a tile's edge, 1 to 64.
        degree: SH degree to evaluate, 0 to 4; default none: ``colors`` are colours.
        means: Centres [B, N, 3], with ``degree``.
        viewmats: Rigid world-to-camera matrices [B, C, 4, 4], with ``degree``.
        backgrounds: [B * C, D]; default black.
        masks: bool [B * C, tile_height, tile_width]; False tiles show the background.
        means2d_abs: As for ``blend``, [B, C, N, 2].
        alpha_cap: As for ``blend``.

    Returns:
        Images, alphas and bins; differentiable as the three functions are.

    Example:
        >>> K = torch.tensor([[[[50.0, 0, 32], [0, 50, 32], [0, 0, 1]]]])
        >>> splat = {"quats": torch.tensor([[1.0, 0, 0, 0]]), "scales": torch.full((1, 3), 0.1)}
        >>> seen = project(torch.tensor([[0.0, 0, 2]]), torch.eye(4)[None], K[0], 64, 64, **splat)
        >>> draw(seen, torch.ones(1), torch.ones(1, 1, 3), 64, 64, 16).images.shape
        torch.Size([1, 64, 64, 3])
    """
    geometry = (projection.radii, projection.means2d, projection.depths, projection.conics)
    differentiable = (means, viewmats, colors, *geometry[1:], opacities, means2d_abs, backgrounds)
    keep_state = torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in differentiable
    )
    images, alphas, _, _, *lists = call(
        "splat_draw",
        -1 if degree is None else degree,
        means,
        viewmats,
        colors,
        *geometry,
        opacities,
        means2d_abs,
        backgrounds,
        masks,
        width,
        height,
        tile_size,
        alpha_cap,
        keep_state,
    )
    return Drawing(images, alphas, Bins(*lists))


def _draw_fake(
    degree: int,
    means: Any,
    viewmats: Any,
    colors: Tensor,
    radii: Tensor,
    means2d: Tensor,
    *rest: Any,
) -> tuple[Tensor, ...]:
    width, height, tile_size = rest[-5:-2]
    *lead, N = means2d.shape[:-1]
    images, D = math.prod(lead), colors.shape[-1]
    M = images * N
    pairs, slots, state = (torch.library.get_ctx().new_dynamic_size() for _ in range(3))

    def integers(*shape: Any) -> Tensor:
        return means2d.new_empty(shape, dtype=torch.int32)

    return (
        means2d.new_empty(images, height, width, D),
        means2d.new_empty(images, height, width, 1),
        integers(state),
        means2d.new_empty((*lead, N, 3) if degree >= 0 else (0,)),
        integers(M),
        integers(pairs),
        integers(images, -(-height // tile_size), -(-width // tile_size)),
        integers(slots),
        means2d.new_empty(M + 1, dtype=torch.int64),
    )


def _draw_backward_fake(
    degree: int, means: Any, viewmats: Any, colors: Tensor, radii: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    means2d, conics, opacities = rest[:3]
    absgrad, needs_positions, needs_cameras = rest[-3:]
    positions = degree >= 0 and (needs_positions or needs_cameras)
    g_means, g_viewmats = means2d.new_empty(0), means2d.new_empty(0)
    if degree >= 0:
        scenes = means.shape[:-2] if positions else (0,)
        g_means = means.new_empty(*scenes, *means.shape[-2:])
        g_viewmats = means.new_empty(*scenes, *viewmats.shape[-3:])
    return (
        g_means,
        g_viewmats,
        _like(colors),
        _like(means2d),
        _like(means2d) if absgrad else means2d.new_empty(0, 2),
        _like(conics),
        _like(opacities),
    )


def _draw_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    degree, means, viewmats, colors, radii, means2d, _, conics, opacities = inputs[:9]
    backgrounds, masks = inputs[10:12]
    given = (means, viewmats, colors, radii, means2d, conics, opacities, backgrounds, masks)
    kept = (*output[:4], *output[5:])
    ctx.save_for_backward(*given, *kept)
    ctx.settings = (degree, *inputs[12:16])
    ctx.mark_non_differentiable(*output[2:])
    ctx.set_materialize_grads(False)


def _draw_backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    means, viewmats, colors, radii, means2d, conics, opacities = ctx.saved_tensors[:7]
    backgrounds, masks, *kept = ctx.saved_tensors[7:]
    render, alphas = kept[:2]
    degree, *settings = ctx.settings
    needs = ctx.needs_input_grad
    g_render = torch.zeros_like(render) if grads[0] is None else grads[0]
    g_alphas = torch.zeros_like(alphas) if grads[1] is None else grads[1]
    g_means, g_viewmats, g_colors, g_means2d, g_abs, g_conics, g_opacities = ctx_ops(
        ctx
    ).splat_draw_backward.default(
        degree,
        means,
        viewmats,
        colors,
        radii,
        means2d,
        conics,
        opacities,
        backgrounds,
        masks,
        *settings,
        *kept,
        g_render,
        g_alphas,
        needs[9],
        needs[1],
        needs[2],
    )
    return (
        None,
        g_means if needs[1] and degree >= 0 else None,
        g_viewmats if needs[2] and degree >= 0 else None,
        g_colors,
        None,
        g_means2d,
        None,
        g_conics,
        g_opacities,
        g_abs if needs[9] else None,
        (g_render * (1 - alphas)).sum(dim=(1, 2)) if needs[10] else None,
        *[None] * 6,
    )


@torch.no_grad()
def indices_in_range(
    range_start: int,
    range_end: int,
    transmittances: Tensor,
    means2d: Tensor,
    conics: Tensor,
    opacities: Tensor,
    width: int,
    height: int,
    tile_size: int,
    offsets: Tensor,
    flatten_ids: Tensor,
    alpha_cap: float = 0.999,
) -> tuple[Tensor, Tensor, Tensor]:
    """Lists every (splat, pixel) that blends, for a range of batches of each tile's list.

    Args:
        range_start: First batch; a batch is tile_size^2 entries of a tile's list.
        range_end: One past the last batch.
        transmittances: [I, H, W] before the first batch.
        means2d: [M, 2].
        conics: [M, 3].
        opacities: [M].
        width: Pixels.
        height: Pixels.
        tile_size: As given to ``bin_splats``.
        offsets: int32 [I, tile_height, tile_width].
        flatten_ids: int32 [P].
        alpha_cap: As in ``blend``.

    Returns:
        int64 [L] each: splats, pixels (row * width + column) and images, sorted by image and
        pixel, then front to back.

    Example:
        >>> mean = torch.tensor([[0.5, 0.5]])
        >>> bins = bin_splats(mean, torch.tensor([[1, 1]]).int(), torch.ones(1), 1, 16, 1, 1)
        >>> indices_in_range(0, 1, torch.ones(1, 1, 1), mean, torch.tensor([[9.0, 0, 9]]),
        ...                  torch.ones(1) * 0.5, 1, 1, 16, bins.offsets, bins.flatten_ids)[0]
        tensor([0])
    """
    return ops().splat_indices_in_range(
        range_start,
        range_end,
        transmittances,
        means2d,
        conics,
        opacities,
        width,
        height,
        tile_size,
        offsets,
        flatten_ids,
        alpha_cap,
    )


def _indices_fake(range_start: int, range_end: int, transmittances: Tensor, *rest: Any) -> Any:
    count = torch.library.get_ctx().new_dynamic_size()
    return tuple(transmittances.new_empty(count, dtype=torch.int64) for _ in range(3))


declare("splat_project", _project_fake, _project_setup, _project_backward)
declare("splat_project_backward", _project_backward_fake)
declare("splat_shade", _shade_fake, _shade_setup, _shade_backward)
declare("splat_shade_backward", _shade_backward_fake)
declare(
    "spherical_harmonics",
    lambda degree, dirs, coefficients, masks: _like(dirs),
    _harmonics_setup,
    _harmonics_backward,
)
declare(
    "spherical_harmonics_backward",
    lambda degree, dirs, coefficients, masks, g, needs_dirs: (
        dirs.new_empty(dirs.shape[0] if needs_dirs else 0, 3),
        _like(coefficients),
    ),
)
declare(
    "splat_covariance",
    lambda quats, scales, inverse: quats.new_empty(quats.shape[0], 6),
    _covariance_setup,
    _covariance_backward,
)
declare(
    "splat_covariance_backward",
    lambda quats, scales, inverse, g: (_like(quats), _like(scales)),
)
declare("splat_bin", _bin_fake)
declare("splat_blend", _blend_fake, _blend_setup, _blend_backward)
declare("splat_blend_backward", _blend_backward_fake)
declare("splat_draw", _draw_fake, _draw_setup, _draw_backward)
declare("splat_draw_backward", _draw_backward_fake)
declare("splat_indices_in_range", _indices_fake)
