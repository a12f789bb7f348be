# SPDX-License-Identifier: Apache-2.0
"""Rays through grids: samples, occupied spans and voxels, packed ray by ray.

Two kinds of grids: `Masks`, the nested masks of a sparse grid, and dense tables of bool. Both hold
`levels` grids of one resolution, each in a box of its own (`aabbs`); where boxes overlap, the one
that a ray entered last counts, so that among nested boxes the finest does.

Samples lie where NerfAcc's sampler puts them. Sample k of a ray reaches from t_k to t_k + dt, with
t_0 = near and dt = `step` or, with a cone, t_k * cone_angle where that is more; it counts where its
middle is in an occupied cell. Results are packed: the samples of ray i are
``packed_info[i] = (first, count)`` of arrays over all rays, in order along the ray.

None of it is differentiable, and nothing waits for the device but one read of the total.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..library import declare, ops

MAX_LEVELS = 16
MOST_SAMPLES = 2**31 - 1


class Masks(NamedTuple):
    """Nested masks of `levels` grids over the same voxels; see masks.h."""

    tops: Tensor  # int64 [levels, X, Y, Z, 2]: mask, first; X, Y, Z = ceil(resolution / 64)
    nodes: Tensor  # int64 [n_nodes, 2]: mask, first
    leaves: Tensor  # int64 [n_leaves]: bits of a 64-bit word
    resolution: tuple[int, int, int]  # voxels per axis


def _called(name: str, function: Any, *args: Any) -> Any:
    """Calls an operator; what it says of its arguments' values becomes a ValueError."""
    if torch.compiler.is_compiling():
        return function(*args)
    try:
        return function(*args)
    except RuntimeError as error:
        text = str(error).partition("\n")[0]
        before, found, after = text.partition(f"{function.__name__}: ")
        if not found:
            raise
        raise ValueError(f"{name}: {after}") from None


def check_tensor(
    name: str,
    argument: str,
    tensor: Tensor,
    shape: tuple[int | None, ...],
    dtypes: tuple[torch.dtype, ...] = (torch.float32,),
    device: torch.device | None = None,
) -> None:
    """Raises unless a tensor is what the operators take.

    Args:
        name: Of the function that was called.
        argument: The tensor's name.
        tensor: Any object.
        shape: Expected extents; None accepts any.
        dtypes: Accepted types.
        device: Expected device; None accepts any.

    Raises:
        TypeError: It is no tensor, or of another type.
        ValueError: Its shape or device is another.

    Example:
        >>> check_tensor("f", "near", torch.zeros(3, 1), (3,))
        Traceback (most recent call last):
        ValueError: f: near: expected shape [3], got [3, 1]
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: {argument}: expected a tensor, got {type(tensor).__name__}")
    if tensor.dtype not in dtypes:
        wanted = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        got = str(tensor.dtype).removeprefix("torch.")
        raise TypeError(f"{name}: {argument}: expected {wanted}, got {got}")
    if len(tensor.shape) != len(shape) or any(
        wanted is not None and size != wanted for size, wanted in zip(tensor.shape, shape)
    ):
        text = ", ".join("*" if wanted is None else str(wanted) for wanted in shape)
        raise ValueError(f"{name}: {argument}: expected shape [{text}], got {list(tensor.shape)}")
    if device is not None and tensor.device != device:
        raise ValueError(f"{name}: {argument}: expected device {device}, got {tensor.device}")


def check_rays(
    name: str, rays_o: Tensor, rays_d: Tensor, near: Tensor, far: Tensor, device: torch.device
) -> None:
    """Raises unless these are float32 rays [n, 3] with planes [n] on the device.

    Args:
        name: Of the function that was called.
        rays_o: Origins.
        rays_d: Directions.
        near: Where each ray begins.
        far: Where each ray ends.
        device: That of the grid.

    Raises:
        TypeError: A tensor is not float32.
        ValueError: A shape or a device is another.

    Example:
        >>> rays = torch.zeros(2, 3)
        >>> check_rays("f", rays, rays, rays[:, 0], rays[:, 0], rays.device)
    """
    check_tensor(name, "rays_o", rays_o, (None, 3), device=device)
    n = rays_o.shape[0]
    check_tensor(name, "rays_d", rays_d, (n, 3), device=device)
    check_tensor(name, "near", near, (n,), device=device)
    check_tensor(name, "far", far, (n,), device=device)


def _check_sampling(name: str, step: float, cone_angle: float, limit: int | None) -> int:
    if not 1e-12 <= step <= 1e10:
        raise ValueError(f"{name}: step: expected a length from 1e-12 to 1e10, got {step}")
    if not 0 <= cone_angle <= 1000:
        raise ValueError(f"{name}: cone_angle: expected a number from 0 to 1000, got {cone_angle}")
    if limit is not None and limit < 0:
        raise ValueError(f"{name}: limit: expected at least 0, got {limit}")
    return MOST_SAMPLES if limit is None else limit


def _check_masks(name: str, masks: Masks, aabbs: Tensor) -> None:
    levels = masks.tops.shape[0]
    if not 1 <= levels <= MAX_LEVELS:
        raise ValueError(f"{name}: masks: expected 1 to {MAX_LEVELS} levels, got {levels}")
    check_tensor(name, "aabbs", aabbs, (levels, 6), device=masks.tops.device)


@torch.no_grad()
def sample_masks(
    masks: Masks,
    aabbs: Tensor,
    rays_o: Tensor,
    rays_d: Tensor,
    near: Tensor,
    far: Tensor,
    *,
    step: float,
    cone_angle: float = 0.0,
    exact: bool = True,
    limit: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Samples rays where a sparse grid is occupied, passing over whole empty regions.

    Without a cone the samples are those of `sample_dense`, to the last bit. With one, dt is frozen
    while an empty cell is crossed, and `exact` decides which cells those are.

    Args:
        masks: The grids.
        aabbs: float32 [levels, 6], the box of each level: min xyz, max xyz.
        rays_o: float32 [n, 3], origins.
        rays_d: float32 [n, 3], directions, not zero; t counts their lengths.
        near: float32 [n], where each ray begins. Finite.
        far: float32 [n], where each ray ends.
        step: Length of a sample, in t; with a cone, the least length.
        cone_angle: With a cone, a sample at t is at least t * cone_angle long; default none.
        exact: With a cone, walks every cell, so that samples are those of `sample_dense` to the
            last bit; else an empty region counts as one cell, which moves samples along the ray by
            less than one step and their number by about a percent. Default True.
        limit: The most samples, in all; default 2^31 - 1.

    Returns:
        ray_indices int64 [N], t_starts and t_ends float32 [N], packed_info int64 [n, 2]. Not
        differentiable.

    Raises:
        TypeError: A tensor has another type.
        ValueError: A shape, device or number is not one of the above, a ray is not finite, or
            there are more than `limit` samples.

    Source: Li et al., "NerfAcc: efficient sampling accelerates NeRFs" (2023), for where samples
        lie; Museth, "Hierarchical digital differential analyzer" (2014), for the walk.

    Example:
        >>> one = torch.tensor([[[[[1, 0]]]]]), torch.tensor([[1, 0]]), torch.tensor([1])
        >>> box, zero = torch.tensor([[0.0, 0, 0, 4, 4, 4]]), torch.zeros(1)
        >>> o, d = torch.tensor([[-1.0, 0.5, 0.5]]), torch.tensor([[1.0, 0, 0]])
        >>> found = sample_masks(Masks(*one, (4, 4, 4)), box, o, d, zero, zero + 9, step=0.5)
        >>> found[1].tolist(), found[2].tolist()
        ([1.0, 1.5], [1.5, 2.0])
    """
    name = "sample_masks"
    _check_masks(name, masks, aabbs)
    check_rays(name, rays_o, rays_d, near, far, masks.tops.device)
    most = _check_sampling(name, step, cone_angle, limit)
    return _called(
        name,
        ops().vdb_sample,
        masks.tops,
        masks.nodes,
        masks.leaves,
        list(masks.resolution),
        aabbs,
        rays_o,
        rays_d,
        near,
        far,
        step,
        cone_angle,
        exact,
        most,
    )


def _samples_fake(rays_o: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    total = torch.library.get_ctx().new_dynamic_size()
    return (
        rays_o.new_empty(total, dtype=torch.int64),
        rays_o.new_empty(total, dtype=torch.float32),
        rays_o.new_empty(total, dtype=torch.float32),
        rays_o.new_empty((rays_o.shape[0], 2), dtype=torch.int64),
    )


def _sample_fake(
    tops: Tensor,
    nodes: Tensor,
    leaves: Tensor,
    resolution: Any,
    aabbs: Tensor,
    rays_o: Tensor,
    *rest: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _samples_fake(rays_o)


@torch.no_grad()
def sample_dense(
    binaries: Tensor,
    aabbs: Tensor,
    rays_o: Tensor,
    rays_d: Tensor,
    near: Tensor,
    far: Tensor,
    *,
    step: float,
    cone_angle: float = 0.0,
    limit: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Samples rays where a dense table is occupied, from cell to cell, as NerfAcc does.

    Args:
        binaries: bool [levels, X, Y, Z] or [X, Y, Z], z fastest.
        aabbs: float32 [levels, 6], the box of each level: min xyz, max xyz.
        rays_o: float32 [n, 3], origins.
        rays_d: float32 [n, 3], directions, not zero; t counts their lengths.
        near: float32 [n], where each ray begins. Finite.
        far: float32 [n], where each ray ends.
        step: Length of a sample, in t; with a cone, the least length.
        cone_angle: With a cone, a sample at t is at least t * cone_angle long; default none.
        limit: The most samples, in all; default 2^31 - 1.

    Returns:
        ray_indices int64 [N], t_starts and t_ends float32 [N], packed_info int64 [n, 2]. Not
        differentiable.

    Raises:
        TypeError: A tensor has another type.
        ValueError: A shape, device or number is not one of the above, a ray is not finite, or
            there are more than `limit` samples.

    Source: Li et al., "NerfAcc: efficient sampling accelerates NeRFs" (2023).

    Example:
        >>> full, box = torch.ones(1, 1, 1, dtype=torch.bool), torch.tensor([[0.0, 0, 0, 1, 1, 1]])
        >>> o, d = torch.tensor([[-1.0, 0.5, 0.5]]), torch.tensor([[1.0, 0, 0]])
        >>> near, far = torch.zeros(1), torch.full((1,), 1.5)
        >>> sample_dense(full, box, o, d, near, far, step=0.25)[1].tolist()
        [1.0, 1.25]
    """
    name = "sample_dense"
    if isinstance(binaries, Tensor) and binaries.dim() == 3:
        binaries = binaries[None]
    check_tensor(name, "binaries", binaries, (None, None, None, None), (torch.bool,))
    levels = binaries.shape[0]
    if not 1 <= levels <= MAX_LEVELS or 0 in binaries.shape:
        raise ValueError(
            f"{name}: binaries: expected 1 to {MAX_LEVELS} levels of at least one cell, "
            f"got {list(binaries.shape)}"
        )
    check_tensor(name, "aabbs", aabbs, (levels, 6), device=binaries.device)
    check_rays(name, rays_o, rays_d, near, far, binaries.device)
    most = _check_sampling(name, step, cone_angle, limit)
    return _called(
        name,
        ops().vdb_sample_dense,
        binaries,
        aabbs,
        rays_o,
        rays_d,
        near,
        far,
        step,
        cone_angle,
        most,
    )


def _sample_dense_fake(
    binaries: Tensor, aabbs: Tensor, rays_o: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _samples_fake(rays_o)


declare("vdb_sample", _sample_fake)
declare("vdb_sample_dense", _sample_dense_fake)
