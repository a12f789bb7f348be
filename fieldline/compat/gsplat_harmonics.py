# SPDX-License-Identifier: Apache-2.0
"""gsplat's ``spherical_harmonics`` over our operator, in the forms of 1.5 and of 1.6."""

from __future__ import annotations

from typing import Any, overload

import torch
from torch import Tensor

from ..cuda.splat import ops
from .shapes import check_shape, given


@overload
def spherical_harmonics(
    degrees_to_use: int, dirs: Tensor, coeffs: Tensor, masks: Tensor | None = None
) -> Tensor: ...


@overload
def spherical_harmonics(
    degrees_to_use: int,
    means: Tensor,
    viewmats: Tensor,
    coeffs: Tensor,
    masks: Tensor | None = None,
    batch_ids: Tensor | None = None,
    camera_ids: Tensor | None = None,
    gaussian_ids: Tensor | None = None,
    viewmats_rs: Tensor | None = None,
) -> Tensor: ...


def spherical_harmonics(degrees_to_use: int, *args: Any, **kwargs: Any) -> Tensor:
    """Sums spherical harmonics, in the form of gsplat 1.5 or in that of 1.6.

    1.5: ``spherical_harmonics(degree, dirs, coeffs, masks=None)``; 1.6:
    ``spherical_harmonics(degree, means, viewmats, coeffs, masks=None, batch_ids=None,
    camera_ids=None, gaussian_ids=None, viewmats_rs=None)``. The names, or a third tensor of
    coefficients, tell which. Rows whose mask is False come out zero.

    Args:
        degrees_to_use: Highest degree used, 0 to 4.
        *args: dirs [..., 3] of any length, coeffs [..., K, 3], masks bool [...]; or means
            [..., N, 3], viewmats [..., C, 4, 4], coeffs [N, K, D], masks [..., C, N], and packed
            (coeffs [nnz, K, D], masks [nnz]) the ids int64 [nnz]; with viewmats_rs the camera
            is halfway between the two.
        **kwargs: The same, by name.

    Returns:
        [..., 3]; or [..., C, N, D], or [nnz, D] packed.

    Raises:
        TypeError: The arguments fit neither form.
        ValueError: A shape is not one of the above.

    Example:
        >>> spherical_harmonics(0, torch.ones(1, 3), torch.ones(1, 1, 3))
        tensor([[0.2821, 0.2821, 0.2821]])
        >>> spherical_harmonics(0, torch.ones(1, 3), torch.eye(4)[None], torch.ones(1, 1, 2)).shape
        torch.Size([1, 1, 2])
    """
    third = args[2] if len(args) > 2 else None
    cameras = "viewmats" in kwargs or "means" in kwargs
    if cameras or (isinstance(third, Tensor) and third.is_floating_point()):
        return _harmonics_of_views(degrees_to_use, *args, **kwargs)
    if "coeffs" in kwargs and len(args) == 2 and args[1].shape[-2:] == (4, 4):
        return _harmonics_of_views(degrees_to_use, *args, **kwargs)
    return _harmonics_of_directions(degrees_to_use, *args, **kwargs)


def _harmonics_of_directions(
    degrees_to_use: int, dirs: Tensor, coeffs: Tensor, masks: Tensor | None = None
) -> Tensor:
    name, lead = "spherical_harmonics", dirs.shape[:-1]
    check_shape(name, "dirs", dirs, (*lead, 3))
    check_shape(name, "coeffs", coeffs, (*lead, "K", "D"))
    if masks is not None:
        check_shape(name, "masks", masks, lead)
        masks = masks.reshape(-1)
    K, D = coeffs.shape[-2:]
    # The operator sums three channels at a time; others are padded and stacked as more rows.
    groups = max(1, -(-D // 3))
    padded = torch.nn.functional.pad(coeffs.reshape(-1, K, D), (0, 3 * groups - D))
    rows = padded.shape[0] * groups
    sums = ops.spherical_harmonics(
        degrees_to_use,
        dirs.reshape(-1, 1, 3).expand(-1, groups, 3).reshape(rows, 3),
        padded.reshape(-1, K, groups, 3).transpose(1, 2).reshape(rows, K, 3),
        None if masks is None else masks[:, None].expand(-1, groups).reshape(rows),
    )
    return sums.reshape(-1, 3 * groups)[:, :D].reshape(*lead, D)


def _harmonics_of_views(
    degrees_to_use: int,
    means: Tensor,
    viewmats: Tensor,
    coeffs: Tensor,
    masks: Tensor | None = None,
    batch_ids: Tensor | None = None,
    camera_ids: Tensor | None = None,
    gaussian_ids: Tensor | None = None,
    viewmats_rs: Tensor | None = None,
) -> Tensor:
    name = "spherical_harmonics"
    lead, N, C = means.shape[:-2], means.shape[-2], viewmats.shape[-3]
    check_shape(name, "means", means, (*lead, N, 3))
    check_shape(name, "viewmats", viewmats, (*lead, C, 4, 4))
    centers = _camera_centers(viewmats)
    if viewmats_rs is not None:
        check_shape(name, "viewmats_rs", viewmats_rs, (*lead, C, 4, 4))
        centers = (centers + _camera_centers(viewmats_rs)) / 2
    if gaussian_ids is None:
        check_shape(name, "coeffs", coeffs, (N, "K", "D"))
        dirs = means[..., None, :, :] - centers[..., :, None, :]
        return _harmonics_of_directions(
            degrees_to_use, dirs, coeffs.expand(*lead, C, *coeffs.shape), masks
        )
    camera = given(name, "camera_ids", camera_ids).long()
    batch = torch.zeros_like(camera) if batch_ids is None else batch_ids.long()
    flat_means, flat_centers = means.reshape(-1, N, 3), centers.reshape(-1, C, 3)
    dirs = flat_means[batch, gaussian_ids.long()] - flat_centers[batch, camera]
    return _harmonics_of_directions(degrees_to_use, dirs, coeffs, masks)


def _camera_centers(viewmats: Tensor) -> Tensor:
    """-R^T t of rigid matrices [..., 4, 4]."""
    return -(viewmats[..., :3, :3].transpose(-1, -2) @ viewmats[..., :3, 3:]).squeeze(-1)
