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
from .grid_ops import Masks

MAX_LEVELS = 16
MOST_SAMPLES = 2**31 - 1


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
        >>> from fieldline.cuda.vdb.grid_ops import build_masks
        >>> masks = build_masks(torch.ones(1, 1, 1, 1, dtype=torch.bool))
        >>> box, zero = torch.tensor([[0.0, 0, 0, 1, 1, 1]]), torch.zeros(1)
        >>> o, d = torch.tensor([[-1.0, 0.5, 0.5]]), torch.tensor([[1.0, 0, 0]])
        >>> sample_masks(masks, box, o, d, zero, zero + 9, step=0.5)[1].tolist()
        [1.0, 1.5]
    """
    name = "sample_masks"
    _check_masks(name, masks, aabbs)
    check_rays(name, rays_o, rays_d, near, far, masks.tops.device)
    most = _check_sampling(name, step, cone_angle, limit)
    return _called(
        name,
        ops().vdb_ray_samples,
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
        ops().vdb_ray_samples_dense,
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


class Traversal(NamedTuple):
    """What `traverse_dense` found."""

    ray_indices: Tensor  # int64 [N]
    t_starts: Tensor  # float32 [N]
    t_ends: Tensor  # float32 [N]
    joined: Tensor  # bool [N]: shares its left end with the sample before it
    packed_info: Tensor  # int64 [n, 2]: first, count
    terminate: Tensor  # float32 [n]: where each ray's last step ended


@torch.no_grad()
def traverse_dense(
    binaries: Tensor,
    aabbs: Tensor,
    rays_o: Tensor,
    rays_d: Tensor,
    near: Tensor,
    far: Tensor,
    *,
    step: float,
    cone_angle: float = 0.0,
    most: int | None = None,
    rays_mask: Tensor | None = None,
    crossings: tuple[Tensor, Tensor, Tensor] | None = None,
    limit: int | None = None,
) -> Traversal:
    """Walks rays through a dense table from cell to cell, with all that NerfAcc's walk can do.

    Args:
        binaries: bool [levels, X, Y, Z], z fastest.
        aabbs: float32 [levels, 6], the box of each level: min xyz, max xyz.
        rays_o: float32 [n, 3], origins.
        rays_d: float32 [n, 3], directions, not zero; t counts their lengths.
        near: float32 [n], where each ray begins. Finite.
        far: float32 [n], where each ray ends.
        step: Length of a sample, in t; with a cone, the least length. 0 or less: one sample for
            each occupied cell, as long as the ray is in it.
        cone_angle: With a cone, a sample at t is at least t * cone_angle long; default none.
        most: The most samples of a ray, which then stops; default no limit.
        rays_mask: bool [n]: rays that are not walked are False; default all are.
        crossings: t_sorted float32 [n, 2 levels], t_indices int64 [n, 2 levels] and hits bool
            [n, levels]: when each ray enters (index: the level) and leaves (levels + the level)
            the boxes; default computed.
        limit: The most samples, in all; default 2^31 - 1.

    Returns:
        The samples. Not differentiable.

    Raises:
        TypeError: A tensor has another type.
        ValueError: A shape, device or number is not one of the above, a ray is not finite, or
            there are more than `limit` samples.

    Source: Li et al., "NerfAcc: efficient sampling accelerates NeRFs" (2023).

    Example:
        >>> full = torch.ones(1, 2, 1, 1, dtype=torch.bool)
        >>> box = torch.tensor([[0.0, 0, 0, 2, 1, 1]])
        >>> o, d = torch.tensor([[-1.0, 0.5, 0.5]]), torch.tensor([[1.0, 0, 0]])
        >>> zero = torch.zeros(1)
        >>> traverse_dense(full, box, o, d, zero, zero + 9, step=0.5, most=3).terminate.item()
        2.5
    """
    name = "traverse_dense"
    check_tensor(name, "binaries", binaries, (None, None, None, None), (torch.bool,))
    levels, device = binaries.shape[0], binaries.device
    if not 1 <= levels <= MAX_LEVELS or 0 in binaries.shape:
        raise ValueError(
            f"{name}: binaries: expected 1 to {MAX_LEVELS} levels of at least one cell, "
            f"got {list(binaries.shape)}"
        )
    check_tensor(name, "aabbs", aabbs, (levels, 6), device=device)
    check_rays(name, rays_o, rays_d, near, far, device)
    most_in_all = _check_sampling(name, step if step > 0 else 1.0, cone_angle, limit)
    if most is not None and most < 1:
        raise ValueError(f"{name}: most: expected at least 1, got {most}")
    n = rays_o.shape[0]
    if rays_mask is not None:
        check_tensor(name, "rays_mask", rays_mask, (n,), (torch.bool,), device)
    t_sorted, t_indices, hits = (None, None, None) if crossings is None else crossings
    if t_sorted is not None and t_indices is not None and hits is not None:
        check_tensor(name, "t_sorted", t_sorted, (n, 2 * levels), device=device)
        check_tensor(name, "t_indices", t_indices, (n, 2 * levels), (torch.int64,), device)
        check_tensor(name, "hits", hits, (n, levels), (torch.bool,), device)
    found = _called(
        name,
        ops().vdb_traverse,
        *(binaries, aabbs, rays_o, rays_d, near, far),
        *(t_sorted, t_indices, hits, rays_mask),
        *(max(step, 0.0), cone_angle, most or 0, most_in_all),
    )
    return Traversal(*found)


def _traverse_fake(
    binaries: Tensor, aabbs: Tensor, rays_o: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    rays, starts, ends, packed = _samples_fake(rays_o)
    joined = rays.new_empty(rays.shape, dtype=torch.bool)
    return rays, starts, ends, joined, packed, rays_o.new_empty(rays_o.shape[0])


class Pieces(NamedTuple):
    """Pieces of rays that lie in occupied voxels."""

    ray_indices: Tensor  # int64 [N]
    t_enter: Tensor  # float32 [N]
    t_exit: Tensor  # float32 [N]
    ijk: Tensor  # int32 [N, 3]: the voxel of each piece; [0, 3] where pieces are segments
    packed_info: Tensor  # int64 [n, 2]: first, count


@torch.no_grad()
def find_pieces(
    masks: Masks,
    rays_o: Tensor,
    rays_d: Tensor,
    near: Tensor,
    far: Tensor,
    *,
    voxels: bool,
    level: int = 0,
    limit: int | None = None,
) -> Pieces:
    """Finds the voxels that rays cross, or the segments of rays that lie in voxels.

    The rays are those of the masks' own space, where voxel (i, j, k) covers [i, i + 1) x [j, j + 1)
    x [k, k + 1). Faces are integers: each time is (face - origin) / direction, rounded twice, and a
    piece ends exactly where the next one begins. A voxel that is touched in a point is no piece.

    Args:
        masks: The grids.
        rays_o: float32 [n, 3], origins.
        rays_d: float32 [n, 3], directions, not zero; t counts their lengths.
        near: float32 [n], where each ray begins. Finite.
        far: float32 [n], where each ray ends.
        voxels: A piece for each voxel; else neighbouring voxels are one segment.
        level: Which of the grids.
        limit: The most pieces, in all; default 2^31 - 1.

    Returns:
        The pieces, in order along each ray. Not differentiable.

    Raises:
        TypeError: A tensor has another type.
        ValueError: A shape, device or number is not one of the above, a ray is not finite, or
            there are more than `limit` pieces.

    Source: Amanatides and Woo, "A fast voxel traversal algorithm for ray tracing" (1987); Museth,
        "Hierarchical digital differential analyzer" (2014).

    Example:
        >>> from fieldline.cuda.vdb.grid_ops import build_masks
        >>> masks = build_masks(torch.ones(1, 3, 1, 1, dtype=torch.bool))
        >>> o, d = torch.tensor([[-1.0, 0.5, 0.5]]), torch.tensor([[2.0, 0, 0]])
        >>> zero = torch.zeros(1)
        >>> found = find_pieces(masks, o, d, zero, zero + 9, voxels=True)
        >>> found.t_enter.tolist(), found.ijk[:, 0].tolist()
        ([0.5, 1.0, 1.5], [0, 1, 2])
    """
    name = "find_pieces"
    if not 0 <= level < masks.tops.shape[0]:
        raise ValueError(f"{name}: level: expected 0 to {masks.tops.shape[0] - 1}, got {level}")
    check_rays(name, rays_o, rays_d, near, far, masks.tops.device)
    most = _check_sampling(name, 1.0, 0.0, limit)
    found = _called(
        name,
        ops().vdb_pieces,
        *(masks.tops[level : level + 1], masks.nodes, masks.leaves, list(masks.resolution)),
        *(rays_o, rays_d, near, far, voxels, most),
    )
    return Pieces(*found)


def _pieces_fake(
    tops: Tensor,
    nodes: Tensor,
    leaves: Tensor,
    resolution: Any,
    rays_o: Tensor,
    rays_d: Tensor,
    near: Tensor,
    far: Tensor,
    voxels: bool,
    limit: Any,
) -> tuple[Tensor, ...]:
    rays, enter, leave, packed = _samples_fake(rays_o)
    ijk = rays_o.new_empty((rays.shape[0] if voxels else 0, 3), dtype=torch.int32)
    return rays, enter, leave, ijk, packed


declare("vdb_pieces", _pieces_fake)
declare("vdb_ray_samples", _sample_fake)
declare("vdb_ray_samples_dense", _sample_dense_fake)
declare("vdb_traverse", _traverse_fake)
