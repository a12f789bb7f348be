# SPDX-License-Identifier: Apache-2.0
"""gsplat's covariances and projections over our operators."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..cuda.splat import ops
from ..representations import camera_models
from ..tracers.splat_gradients import SeenRows
from .shapes import check_shape, given


def quat_scale_to_covar_preci(
    quats: Tensor,
    scales: Tensor,
    compute_covar: bool = True,
    compute_preci: bool = True,
    triu: bool = False,
) -> tuple[Tensor | None, Tensor | None]:
    """Covariance and precision matrices of rotated scales.

    Args:
        quats: [..., 4], wxyz, of any length but zero.
        scales: [..., 3], standard deviations.
        compute_covar: False: return None in place of the covariances.
        compute_preci: False: return None in place of the precisions.
        triu: Return upper triangles [..., 6] instead of matrices [..., 3, 3].

    Returns:
        Covariances and precisions.

    Raises:
        ValueError: A shape is not one of the above.

    Example:
        >>> quat, scale = torch.tensor([1.0, 0, 0, 0]), torch.tensor([1.0, 2, 3])
        >>> quat_scale_to_covar_preci(quat, scale, compute_preci=False, triu=True)
        (tensor([1., 0., 0., 4., 0., 9.]), None)
    """
    lead = quats.shape[:-1]
    check_shape("quat_scale_to_covar_preci", "quats", quats, (*lead, 4))
    check_shape("quat_scale_to_covar_preci", "scales", scales, (*lead, 3))

    def matrices(inverse: bool) -> Tensor:
        flat = ops.covariance(quats.reshape(-1, 4), scales.reshape(-1, 3), inverse)
        return flat.reshape(*lead, 6) if triu else _symmetric(flat).reshape(*lead, 3, 3)

    return (
        matrices(inverse=False) if compute_covar else None,
        matrices(inverse=True) if compute_preci else None,
    )


def _symmetric(triangle: Tensor) -> Tensor:
    """xx, xy, xz, yy, yz, zz [..., 6] to matrices, flat [..., 9]."""
    return triangle[..., (0, 1, 2, 1, 3, 4, 2, 4, 5)]


def world_to_cam(means: Tensor, covars: Tensor, viewmats: Tensor) -> tuple[Tensor, Tensor]:
    """Gaussians from world to camera coordinates.

    Args:
        means: [..., N, 3].
        covars: [..., N, 3, 3].
        viewmats: World-to-camera matrices [..., C, 4, 4].

    Returns:
        Means [..., C, N, 3] and covariances [..., C, N, 3, 3].

    Example:
        >>> means, _ = world_to_cam(torch.ones(1, 3), torch.eye(3)[None], torch.eye(4)[None])
        >>> means
        tensor([[[1., 1., 1.]]])
    """
    R, t = viewmats[..., :3, :3], viewmats[..., :3, 3]
    moved = means[..., None, :, :] @ R.transpose(-1, -2) + t[..., None, :]
    R = R[..., None, :, :]
    return moved, R @ covars[..., None, :, :, :] @ R.transpose(-1, -2)


def proj(
    means: Tensor,
    covars: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    camera_model: str = "pinhole",
) -> tuple[Tensor, Tensor]:
    """Projects Gaussians in camera coordinates, without blur or culling.

    Args:
        means: [..., C, N, 3].
        covars: [..., C, N, 3, 3].
        Ks: Intrinsics [..., C, 3, 3] in pixels.
        width: Pixels; a pinhole's Jacobian is taken within the image and a margin.
        height: Pixels.
        camera_model: "pinhole", "ortho" or "fisheye".

    Returns:
        Means [..., C, N, 2] and covariances [..., C, N, 2, 2] in pixels.

    Raises:
        ValueError: A shape or the model is not one of the above.

    Example:
        >>> mean, covar = torch.tensor([[[0.0, 0, 2]]]), torch.eye(3)[None, None]
        >>> proj(mean, covar, torch.eye(3)[None], 4, 4)[0]
        tensor([[[0., 0.]]])
    """
    ops.camera_model_index(camera_model)
    lead, N = means.shape[:-2], means.shape[-2]
    check_shape("proj", "means", means, (*lead, N, 3))
    check_shape("proj", "covars", covars, (*lead, N, 3, 3))
    check_shape("proj", "Ks", Ks, (*lead, 3, 3))

    def pixel(point: Tensor, K: Tensor) -> Tensor:
        return camera_models.project(point[None], K, camera_model)[0][0]  # pyright: ignore

    means2d = camera_models.project(means, Ks, camera_model)[0]  # pyright: ignore
    near = _near_image(means, Ks, width, height) if camera_model == "pinhole" else means
    if means.numel() == 0:
        return means2d, covars.new_zeros(*lead, N, 2, 2)
    each_K = Ks[..., None, :, :].expand(*lead, N, 3, 3).reshape(-1, 3, 3)
    J = torch.func.vmap(torch.func.jacfwd(pixel))(near.reshape(-1, 3), each_K)
    J = J.reshape(*lead, N, 2, 3)
    return means2d, J @ covars @ J.transpose(-1, -2)


def _near_image(points: Tensor, Ks: Tensor, width: int, height: int) -> Tensor:
    """Points moved sideways into the image and 15 % beyond, as a pinhole's Jacobian takes them."""
    focal = torch.stack([Ks[..., 0, 0], Ks[..., 1, 1]], -1)[..., None, :]
    center, size = Ks[..., None, :2, 2], points.new_tensor([width, height])
    low, high = -(center + 0.15 * size) / focal, (1.15 * size - center) / focal
    z = points[..., 2:]
    return torch.cat([torch.minimum(torch.maximum(points[..., :2] / z, low), high) * z, z], -1)


def fully_fused_projection(
    means: Tensor,
    covars: Tensor | None,
    quats: Tensor | None,
    scales: Tensor | None,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    eps2d: float = 0.3,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    radius_clip: float = 0.0,
    packed: bool = False,
    sparse_grad: bool = False,
    calc_compensations: bool = False,
    camera_model: str = "pinhole",
    opacities: Tensor | None = None,
) -> tuple[Tensor | None, ...]:
    """Projects Gaussians to images.

    Args:
        means: [..., N, 3].
        covars: Upper triangles of covariances [..., N, 6], or None.
        quats: [..., N, 4], wxyz, unless covars are given.
        scales: [..., N, 3], unless covars are given.
        viewmats: World-to-camera matrices [..., C, 4, 4].
        Ks: Intrinsics [..., C, 3, 3] in pixels.
        width: Pixels.
        height: Pixels.
        eps2d: Variance added to projected covariances, pixels squared.
        near_plane: Smallest visible depth.
        far_plane: Largest visible depth.
        radius_clip: Splats of at most this radius are culled, pixels.
        packed: Return the visible splats alone, with their batch, camera and Gaussian ids.
        sparse_grad: With ``packed``, gradients of Gaussians are sparse tensors (COO).
        calc_compensations: Also return the antialiasing factors.
        camera_model: "pinhole", "ortho" or "fisheye".
        opacities: [..., N]; given, radii end where alpha falls to 1/255.

    Returns:
        radii int32 [..., C, N, 2], means2d [..., C, N, 2], depths [..., C, N], conics
        [..., C, N, 3] and compensations [..., C, N] or None, all zero where culled. With
        ``packed``: batch_ids, camera_ids and gaussian_ids int64 [nnz], then the same, [nnz, ...].

    Raises:
        ValueError: A shape or an option is not one of the above.

    Example:
        >>> K = torch.tensor([[[50.0, 0, 32], [0, 50, 32], [0, 0, 1]]])
        >>> radii, means2d, *_ = fully_fused_projection(
        ...     torch.tensor([[0.0, 0, 2]]), None, torch.tensor([[1.0, 0, 0, 0]]),
        ...     torch.full((1, 3), 0.1), torch.eye(4)[None], K, 64, 64)
        >>> means2d
        tensor([[[32., 32.]]])
    """
    name = "fully_fused_projection"
    lead, N, C = means.shape[:-2], means.shape[-2], viewmats.shape[-3]
    check_shape(name, "means", means, (*lead, N, 3))
    check_shape(name, "viewmats", viewmats, (*lead, C, 4, 4))
    check_shape(name, "Ks", Ks, (*lead, C, 3, 3))
    if covars is None:
        check_shape(name, "quats", given(name, "covars or quats", quats), (*lead, N, 4))
        check_shape(name, "scales", given(name, "covars or scales", scales), (*lead, N, 3))
    else:
        check_shape(name, "covars", covars, (*lead, N, 6))
        quats = scales = None
    if opacities is not None:
        check_shape(name, "opacities", opacities, (*lead, N))
    seen = SeenRows()
    if sparse_grad:
        if not packed or lead:
            raise ValueError(
                f"{name}: sparse_grad: expected packed=True and no leading dimensions, got "
                f"packed={packed} and {list(lead)}"
            )
        means = seen.sparse(means)
        covars, quats, scales = (
            t if t is None else seen.sparse(t) for t in (covars, quats, scales)
        )
    B = math.prod(lead)
    found = ops.project(
        means.reshape(B, N, 3),
        viewmats.reshape(B, C, 4, 4),
        Ks.reshape(B, C, 3, 3),
        width,
        height,
        covars=None if covars is None else covars.reshape(B, N, 6),
        quats=None if quats is None else quats.reshape(B, N, 4),
        scales=None if scales is None else scales.reshape(B, N, 3),
        opacities=None if opacities is None else opacities.reshape(B, N),
        eps2d=eps2d,
        near_plane=near_plane,
        far_plane=far_plane,
        radius_clip=radius_clip,
        camera_model=camera_model,
        compensate=calc_compensations,
    )
    values = found if calc_compensations else found[:4]
    missing = () if calc_compensations else (None,)
    if not packed:
        return *(t.reshape(*lead, C, N, *t.shape[3:]) for t in values), *missing
    visible = (found.radii > 0).all(-1)
    ids = visible.nonzero().unbind(1)
    seen.rows = ids[2].unique() if sparse_grad else None
    return *ids, *(t[visible] for t in values), *missing
