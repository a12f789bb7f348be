# SPDX-License-Identifier: Apache-2.0
"""Splatting in plain torch, slowly: what the operators of ``cuda/splat`` are compared with.

Everything is written from the definition (matrices, polynomials, all pixels at once) and
differentiated by autograd, so that nothing here shares a formula with the kernels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

THRESHOLD = 1 / 255
STOP = 1e-4
MAX_EXTENT = 3.33
MIN_COMPENSATION = 0.005


# Covariances.


def rotation_matrices(quats: Tensor) -> Tensor:
    """wxyz of any length [..., 4] to [..., 3, 3]."""
    w, x, y, z = (quats / quats.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def upper_triangle(matrices: Tensor) -> Tensor:
    return matrices[..., (0, 0, 0, 1, 1, 2), (0, 1, 2, 1, 2, 2)]


def full_matrix(triangle: Tensor) -> Tensor:
    return triangle[..., (0, 1, 2, 1, 3, 4, 2, 4, 5)].unflatten(-1, (3, 3))


def covariance(quats: Tensor, scales: Tensor, inverse: bool = False) -> Tensor:
    R = rotation_matrices(quats)
    D = torch.diag_embed(scales**-2 if inverse else scales**2)
    return upper_triangle(R @ D @ R.transpose(-1, -2))


# Projection.


def project_points(points: Tensor, K: Tensor, camera_model: str) -> Tensor:
    """Camera-space points [..., 3] to pixels [..., 2]; K [..., 3, 3] broadcasts."""
    x, y, z = points.unbind(-1)
    if camera_model == "pinhole":
        u, v = x / z, y / z
    elif camera_model == "ortho":
        u, v = x, y
    else:
        radius = (x * x + y * y).sqrt()
        u, v = (torch.atan2(radius, z) * t / radius for t in (x, y))
    return torch.stack([K[..., 0, 0] * u + K[..., 0, 2], K[..., 1, 1] * v + K[..., 1, 2]], -1)


def _clamped(points: Tensor, K: Tensor, width: int, height: int) -> Tensor:
    """Points moved parallel to the image to lie within 15 % of its border."""
    x, y, z = points.unbind(-1)
    moved = []
    for coordinate, size, axis in ((x, width, 0), (y, height, 1)):
        f, c = K[..., axis, axis], K[..., axis, 2]
        low, high = -(c + 0.15 * size) / f, (size - c + 0.15 * size) / f
        moved.append(torch.minimum(torch.maximum(coordinate / z, low), high) * z)
    return torch.stack([*moved, z], -1)


def _jacobian(points: Tensor, K: Tensor, camera_model: str) -> Tensor:
    """d pixel / d point [..., 2, 3], by automatic differentiation."""
    if points.numel() == 0:
        return points.new_zeros(*points.shape[:-1], 2, 3)
    K = K.expand(*points.shape[:-1], 3, 3)

    def one(point: Tensor, k: Tensor) -> Tensor:
        return project_points(point, k, camera_model)

    flat = torch.func.vmap(torch.func.jacfwd(one))(points.reshape(-1, 3), K.reshape(-1, 3, 3))
    return flat.reshape(*points.shape[:-1], 2, 3)


def project(
    means: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
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
) -> tuple[Tensor, ...]:
    R, t = viewmats[..., None, :3, :3], viewmats[..., None, :3, 3]
    points = (R @ means[:, None, :, :, None]).squeeze(-1) + t  # [B, C, N, 3]
    K = Ks[..., None, :, :]
    means2d = project_points(points, K, camera_model)
    at = _clamped(points, K, width, height) if camera_model == "pinhole" else points
    J = _jacobian(at, K, camera_model)
    triangle = covariance(quats, scales) if covars is None else covars
    sigma = R @ full_matrix(triangle)[:, None] @ R.transpose(-1, -2)
    sharp = J @ sigma @ J.transpose(-1, -2)
    blurred = sharp + eps2d * torch.eye(2, dtype=means.dtype)
    det = torch.linalg.det(blurred)
    ratio = torch.linalg.det(sharp) / det
    compensation = ratio.clamp(min=MIN_COMPENSATION**2).sqrt()
    conics = torch.linalg.inv(blurred)[..., (0, 0, 1), (0, 1, 1)]
    depths = points[..., 2]

    extent = torch.full_like(depths, MAX_EXTENT)
    if opacities is not None:
        shown = opacities[:, None] * (compensation if compensate else 1)
        extent = torch.minimum(extent, (2 * torch.log(shown / THRESHOLD)).clamp(min=0).sqrt())
    deviations = blurred.diagonal(dim1=-2, dim2=-1).sqrt()
    radii = torch.ceil(extent[..., None] * deviations).detach()
    size = torch.tensor([width, height], dtype=means.dtype)
    good = (depths >= near_plane) & (depths <= far_plane) & (det > 0) & (extent > 0)
    good &= (radii > radius_clip).any(-1)
    good &= ((means2d + radii > 0) & (means2d - radii < size)).all(-1)

    def shown_only(values: Tensor) -> Tensor:
        return torch.where(good if values.dim() == good.dim() else good[..., None], values, 0)

    return (
        shown_only(radii).int(),
        shown_only(means2d),
        shown_only(depths),
        shown_only(conics),
        shown_only(compensation) if compensate else means.new_empty(0),
    )


# Spherical harmonics.


def sh_bases(directions: Tensor) -> Tensor:
    """The 25 real spherical harmonics of degree 0 to 4 as polynomials of unit vectors [..., 3]."""
    x, y, z = directions.unbind(-1)
    xx, yy, zz = x * x, y * y, z * z
    return torch.stack(
        [
            torch.full_like(x, 0.28209479177387814),
            -0.4886025119029199 * y,
            0.4886025119029199 * z,
            -0.4886025119029199 * x,
            1.0925484305920792 * x * y,
            -1.0925484305920792 * y * z,
            0.31539156525252005 * (2 * zz - xx - yy),
            -1.0925484305920792 * x * z,
            0.5462742152960396 * (xx - yy),
            -0.5900435899266435 * y * (3 * xx - yy),
            2.890611442640554 * x * y * z,
            -0.4570457994644658 * y * (4 * zz - xx - yy),
            0.3731763325901154 * z * (2 * zz - 3 * xx - 3 * yy),
            -0.4570457994644658 * x * (4 * zz - xx - yy),
            1.445305721320277 * z * (xx - yy),
            -0.5900435899266435 * x * (xx - 3 * yy),
            2.5033429417967046 * x * y * (xx - yy),
            -1.7701307697799304 * y * z * (3 * xx - yy),
            0.9461746957575601 * x * y * (7 * zz - 1),
            -0.6690465435572892 * y * z * (7 * zz - 3),
            0.10578554691520431 * (35 * zz * zz - 30 * zz + 3),
            -0.6690465435572892 * x * z * (7 * zz - 3),
            0.47308734787878004 * (xx - yy) * (7 * zz - 1),
            -1.7701307697799304 * x * z * (xx - 3 * yy),
            0.6258357354491761 * (xx * (xx - 3 * yy) - yy * (3 * xx - yy)),
        ],
        -1,
    )


def spherical_harmonics(
    degree: int, dirs: Tensor, coefficients: Tensor, masks: Tensor | None = None
) -> Tensor:
    bases = sh_bases(dirs / dirs.norm(dim=-1, keepdim=True))[..., : (degree + 1) ** 2]
    colors = (bases[..., None] * coefficients[..., : (degree + 1) ** 2, :]).sum(-2)
    return colors if masks is None else torch.where(masks[..., None], colors, 0)


def shade(
    degree: int, means: Tensor, viewmats: Tensor, coefficients: Tensor, radii: Tensor | None = None
) -> Tensor:
    R, t = viewmats[..., :3, :3], viewmats[..., :3, 3:]
    centers = -(R.transpose(-1, -2) @ t).squeeze(-1)
    dirs = means[:, None] - centers[:, :, None]
    colors = (spherical_harmonics(degree, dirs, coefficients[:, None]) + 0.5).clamp(min=0)
    return colors if radii is None else torch.where((radii > 0).all(-1)[..., None], colors, 0)


# Binning.


def splat_alphas(
    means2d: Tensor, conics: Tensor, opacities: Tensor, pixels: Tensor
) -> tuple[Tensor, Tensor]:
    """sigma and uncapped alpha [M, pixels] of every splat at pixel centres [pixels, 2]."""
    dx, dy = (pixels[None] - means2d[:, None]).unbind(-1)
    A, B, C = conics.unbind(-1)
    sigma = (A[:, None] * dx * dx + C[:, None] * dy * dy) / 2 + B[:, None] * dx * dy
    return sigma, opacities[:, None] * torch.exp(-sigma)


def pixel_centers(x0: int, y0: int, columns: int, rows: int) -> Tensor:
    """[rows * columns, 2], row by row."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([x + x0, y + y0], -1).reshape(-1, 2).double() + 0.5


def tiles_reached(
    means2d: Tensor, conics: Tensor, opacities: Tensor, tile_size: int, width: int, height: int
) -> Tensor:
    """bool [M, tiles]: whether some pixel centre of the tile sees alpha >= 1/255.

    ``width`` and ``height`` are in tiles.
    """
    reached = []
    for ty, tx in itertools.product(range(height), range(width)):
        pixels = pixel_centers(tx * tile_size, ty * tile_size, tile_size, tile_size).to(means2d)
        reached.append((splat_alphas(means2d, conics, opacities, pixels)[1] >= THRESHOLD).any(1))
    return torch.stack(reached, 1)


def tiles_in_rectangle(
    means2d: Tensor, radii: Tensor, tile_size: int, width: int, height: int
) -> Tensor:
    """bool [M, tiles]: whether the rectangle of the radii overlaps the tile."""
    low = torch.floor((means2d - radii) / tile_size)
    high = torch.ceil((means2d + radii) / tile_size)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    tiles = torch.stack([x, y], -1).reshape(1, -1, 2)
    return ((tiles >= low[:, None]) & (tiles < high[:, None])).all(-1)


def bin_splats(
    means2d: Tensor,
    radii: Tensor,
    depths: Tensor,
    n_images: int,
    tile_size: int,
    tile_width: int,
    tile_height: int,
    conics: Tensor | None = None,
    opacities: Tensor | None = None,
    image_ids: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Exactly the tiles that are reached, or the rectangle's without conics."""
    M = means2d.shape[0]
    grid = (tile_size, tile_width, tile_height)
    inside = tiles_in_rectangle(means2d, radii, *grid)
    if conics is not None and opacities is not None:
        inside &= tiles_reached(means2d, conics, opacities, *grid)
    inside &= (radii > 0).all(-1)[:, None]
    if image_ids is None:
        image_ids = torch.arange(M) // max(1, M // max(1, n_images))
    order = torch.argsort(depths.float(), stable=True)
    ids: list[int] = []
    offsets = []
    for image, tile in itertools.product(range(n_images), range(tile_width * tile_height)):
        offsets.append(len(ids))
        listed = inside[order, tile] & (image_ids[order] == image)
        ids += order[listed].tolist()
    counts, flatten_ids = inside.sum(1), torch.tensor(ids, dtype=torch.int64)
    order = torch.cat([order[counts[order] > 0], (counts == 0).nonzero().squeeze(1)])
    starts = torch.cat([counts.new_zeros(1), counts[order].cumsum(0)])
    by_splat = torch.argsort(torch.argsort(order)[flatten_ids], stable=True)
    return (
        counts.int(),
        flatten_ids.int(),
        torch.tensor(offsets, dtype=torch.int32).reshape(n_images, tile_height, tile_width),
        torch.argsort(by_splat).int(),
        order.int(),
        starts,
    )


# Blending.


class _PerPixel(torch.autograd.Function):
    """Copies means [K, 2] to each pixel; sums the gradients, and their absolute values."""

    @staticmethod
    def forward(ctx: Any, means: Tensor, means_abs: Tensor, pixels: int) -> Tensor:
        return means[:, None].expand(-1, pixels, 2).clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        return grads[0].sum(1), grads[0].abs().sum(1), None


def lists_of(bins: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """offsets and flatten_ids, of what ``bin_splats`` returns or of just the two."""
    return (bins[0], bins[1]) if len(bins) == 2 else (bins[2], bins[1])


def _tile_runs(
    width: int, height: int, tile_size: int, bins: Sequence[Tensor]
) -> Iterator[tuple[int, int, tuple[int, int, int, int], Tensor]]:
    """Image, tile, pixel rectangle x0 y0 columns rows and splats of every tile."""
    offsets, flatten_ids = lists_of(bins)
    images, tile_height, tile_width = offsets.shape
    starts = [*offsets.reshape(-1).tolist(), flatten_ids.numel()]
    cells = itertools.product(range(images), range(tile_height), range(tile_width))
    for index, (image, ty, tx) in enumerate(cells):
        x0, y0 = tx * tile_size, ty * tile_size
        rectangle = (x0, y0, min(tile_size, width - x0), min(tile_size, height - y0))
        ids = flatten_ids[starts[index] : starts[index + 1]].long()
        yield image, index % (tile_height * tile_width), rectangle, ids


def tile_alphas(
    means: Tensor, conics: Tensor, opacities: Tensor, pixels: Tensor, alpha_cap: float
) -> Tensor:
    """alpha [K, pixels] of a tile's K splats, 0 where a fragment is skipped.

    ``means`` is [K, 2], or [K, pixels, 2] with a copy for each pixel.
    """
    means = means[:, None] if means.dim() == 2 else means
    dx, dy = (pixels - means).unbind(-1)
    A, B, C = conics[:, :, None].unbind(1)
    sigma = (A * dx * dx + C * dy * dy) / 2 + B * dx * dy
    alpha = (opacities[:, None] * torch.exp(-sigma)).clamp(max=alpha_cap)
    return torch.where((sigma >= 0) & (alpha >= THRESHOLD), alpha, 0)


def blended(alpha: Tensor, start: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """alpha [K, pixels] without what lies behind the stop, and transmittance [K + 1, pixels].

    Transmittance only falls, so the stop cuts each pixel's list in two.
    """
    start = alpha.new_ones(alpha.shape[1]) if start is None else start
    alive = start * torch.cumprod(1 - alpha, 0) > STOP
    alpha = torch.where(alive, alpha, 0)
    return alpha, torch.cumprod(torch.cat([start[None], 1 - alpha]), 0)


def blend(
    means2d: Tensor,
    conics: Tensor,
    colors: Tensor,
    opacities: Tensor,
    width: int,
    height: int,
    tile_size: int,
    bins: Sequence[Tensor],
    backgrounds: Tensor | None = None,
    masks: Tensor | None = None,
    means2d_abs: Tensor | None = None,
    alpha_cap: float = 0.999,
) -> tuple[Tensor, Tensor]:
    images, tile_height, tile_width = lists_of(bins)[0].shape
    channels = colors.shape[1]
    probe = torch.zeros_like(means2d) if means2d_abs is None else means2d_abs
    tiles = []  # [rows, columns, channels + 1]: colours and transmittance
    for image, tile, (x0, y0, w, h), ids in _tile_runs(width, height, tile_size, bins):
        if masks is not None and not masks[image].reshape(-1)[tile]:
            ids = ids[:0]
        pixels = pixel_centers(x0, y0, w, h).to(means2d)
        means = _PerPixel.apply(means2d[ids], probe[ids], w * h)
        alpha = tile_alphas(means, conics[ids], opacities[ids], pixels, alpha_cap)
        alpha, T = blended(alpha)
        color = ((T[:-1] * alpha)[:, :, None] * colors[ids][:, None]).sum(0)
        tiles.append(torch.cat([color, T[-1][:, None]], 1).reshape(h, w, channels + 1))
    if images == 0:
        return colors.new_zeros(0, height, width, channels), colors.new_zeros(0, height, width, 1)
    rows = [torch.cat(tiles[i : i + tile_width], 1) for i in range(0, len(tiles), tile_width)]
    canvas = torch.cat(rows, 0).reshape(images, height, width, channels + 1)
    render, T = canvas[..., :-1], canvas[..., -1:]
    if backgrounds is not None:
        render = render + T * backgrounds[:, None, None]
    return render, 1 - T


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
    found = []
    batch = tile_size * tile_size
    bins = (offsets, flatten_ids)
    for image, _, (x0, y0, w, h), ids in _tile_runs(width, height, tile_size, bins):
        ids = ids[range_start * batch : range_end * batch]
        pixels = pixel_centers(x0, y0, w, h).to(means2d)
        start = transmittances[image, y0 : y0 + h, x0 : x0 + w].reshape(-1)
        alpha = tile_alphas(means2d[ids], conics[ids], opacities[ids], pixels, alpha_cap)
        for pixel, k in blended(alpha, start)[0].T.nonzero().tolist():
            x, y = x0 + pixel % w, y0 + pixel // w
            found.append((image, y * width + x, k, int(ids[k])))
    found.sort()
    table = torch.tensor(found, dtype=torch.int64).reshape(-1, 4)
    return table[:, 3], table[:, 1], table[:, 0]


def decision_margin(
    means2d: Tensor,
    conics: Tensor,
    opacities: Tensor,
    width: int,
    height: int,
    tile_size: int,
    bins: Sequence[Tensor],
    alpha_cap: float = 0.999,
) -> float:
    """How near a fragment comes to a jump of blending: 1/255, the cap, or the stop.

    The distance to the stop is relative to it; finite differences are valid only away from all.
    """
    margin = math.inf
    for _, _, (x0, y0, w, h), ids in _tile_runs(width, height, tile_size, bins):
        if len(ids) == 0:
            continue
        pixels = pixel_centers(x0, y0, w, h)
        raw = splat_alphas(means2d[ids], conics[ids], opacities[ids], pixels)[1]
        alpha = tile_alphas(means2d[ids], conics[ids], opacities[ids], pixels, alpha_cap)
        after = torch.cumprod(1 - alpha, 0)
        for distance in (raw - THRESHOLD, raw - alpha_cap, (after - STOP) / STOP):
            margin = min(margin, float(distance.abs().min()))
    return margin


# The whole renderer, with no tiles: every pixel sees every visible splat.


def composite(
    means2d: Tensor,
    conics: Tensor,
    colors: Tensor,
    opacities: Tensor,
    depths: Tensor,
    radii: Tensor,
    width: int,
    height: int,
    backgrounds: Tensor | None = None,
    alpha_cap: float = 0.999,
) -> tuple[Tensor, Tensor]:
    """One image [H, W, D] and alpha [H, W, 1] of splats [N, ...]."""
    visible = (radii > 0).all(-1).nonzero().squeeze(1)
    ids = visible[torch.argsort(depths[visible], stable=True)].int()
    offsets = torch.zeros(1, 1, 1, dtype=torch.int32)
    render, alpha = blend(
        means2d, conics, colors, opacities, width, height, max(width, height), (offsets, ids),
        None if backgrounds is None else backgrounds[None], alpha_cap=alpha_cap,
    )  # fmt: skip
    return render[0], alpha[0]


def rasterization(
    means: Tensor,
    quats: Tensor | None,
    scales: Tensor | None,
    opacities: Tensor,
    colors: Tensor | None,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    sh_degree: int | None = None,
    backgrounds: Tensor | None = None,
    render_mode: str = "RGB",
    rasterize_mode: str = "classic",
    covars: Tensor | None = None,
    alpha_cap: float = 0.999,
    masks: Tensor | None = None,
    tile_size: int = 16,
    **projection: Any,
) -> tuple[Tensor, Tensor]:
    """gsplat's function, an image at a time: [..., C, H, W, X] and [..., C, H, W, 1]."""
    for ignored in ("packed", "channel_chunk", "absgrad", "sparse_grad"):
        projection.pop(ignored, None)
    batch, C = means.shape[:-2], viewmats.shape[-3]
    compensate = rasterize_mode == "antialiased"

    def flat(tensor: Tensor | None, kept: int) -> Tensor | None:
        shape = () if tensor is None else tensor.shape[tensor.dim() - kept :]
        return None if tensor is None else tensor.reshape(math.prod(batch), *shape)

    triangle = None if covars is None else upper_triangle(covars)
    radii, means2d, depths, conics, factors = project(
        flat(means, 2), flat(viewmats, 3), flat(Ks, 3), width, height, flat(triangle, 2),
        None if covars is not None else flat(quats, 2),
        None if covars is not None else flat(scales, 2),
        flat(opacities, 1), compensate=compensate, **projection,
    )  # fmt: skip
    shown = flat(opacities, 1)[:, None] * (factors if compensate else torch.ones_like(depths))
    features = _view_features(means, viewmats, colors, sh_degree, len(batch), depths, render_mode)
    images = []
    for b, c in itertools.product(range(means2d.shape[0]), range(C)):
        background = None
        if backgrounds is not None and render_mode not in ("D", "ED"):
            background = flat(backgrounds, 2)[b, c]
            background = torch.cat([background, background.new_zeros(int(render_mode != "RGB"))])
        image, alpha = composite(
            means2d[b, c], conics[b, c], features[b, c], shown[b, c], depths[b, c], radii[b, c],
            width, height, background, alpha_cap,
        )  # fmt: skip
        if masks is not None:
            seen = flat(masks, 3)[b, c].repeat_interleave(tile_size, 0)
            seen = seen.repeat_interleave(tile_size, 1)[:height, :width, None]
            behind = torch.zeros_like(image) if background is None else background
            image, alpha = torch.where(seen, image, behind), torch.where(seen, alpha, 0)
        if render_mode in ("ED", "RGB+ED"):
            expected = image[..., -1:] / alpha.clamp(min=1e-10)
            image = torch.cat([image[..., :-1], expected], -1)
        images.append(torch.cat([image, alpha], -1))
    stacked = torch.stack(images).reshape(*batch, C, height, width, -1)
    return stacked[..., :-1], stacked[..., -1:]


def _view_features(
    means: Tensor,
    viewmats: Tensor,
    colors: Tensor | None,
    sh_degree: int | None,
    batch_dims: int,
    depths: Tensor,
    render_mode: str,
) -> Tensor:
    """What is blended, [B, C, N, X]: colours, depth or both."""
    if render_mode in ("D", "ED"):
        return depths[..., None]
    assert colors is not None
    B, C, N = depths.shape
    tail = colors.shape[-2:] if sh_degree is not None else colors.shape[-1:]
    if colors.dim() == batch_dims + 1 + len(tail):
        colors = colors.reshape(B, 1, N, *tail).expand(B, C, N, *tail)
    colors = colors.reshape(B, C, N, *tail)
    if sh_degree is not None:
        each = [
            shade(sh_degree, means.reshape(B, N, 3), viewmats.reshape(B, C, 4, 4)[:, c : c + 1],
                  colors[:, c])
            for c in range(C)
        ]  # fmt: skip
        colors = torch.cat(each, 1)
    return colors if render_mode == "RGB" else torch.cat([colors, depths[..., None]], -1)
