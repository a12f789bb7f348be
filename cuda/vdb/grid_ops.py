# SPDX-License-Identifier: Apache-2.0
"""The operators that build, list and read grids; grid_change_ops.py has those that change them.

Each is one typed function, with its fake kernel and its gradient.

A grid is a set of voxels as nested masks (`Masks`; masks.h draws the layout), in local coordinates
0 to resolution - 1. Values are kept beside it, one row per active voxel in storage order: level by
level, leaf by leaf, bit by bit, which is the order of `active_coordinates`. The layout of a set of
voxels is unique: whatever made two equal sets, their tensors are equal.

Coordinates are integers [N, 3], voxels (x, y, z) of level 0, or [N, 4], (level, x, y, z). None of
the functions waits for the GPU but those whose results are as long as their values say; they wait
for that number.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..library import call, ctx_ops, declare, ops

MAX_TOPS = 1 << 24


class Masks(NamedTuple):
    """Nested masks of `levels` grids over the same voxels; see masks.h.

    All on one device, contiguous. The extent of a grid is bounded by its dense table of tops, at
    most 2^24 entries.
    """

    tops: Tensor  # int64 [levels, X, Y, Z, 2]: mask, first; X, Y, Z = ceil(resolution / 64)
    nodes: Tensor  # int64 [n_nodes, 2]: mask, first
    leaves: Tensor  # int64 [n_leaves]: bits of a 64-bit word
    resolution: tuple[int, int, int]  # voxels per axis; coordinates are 0 .. resolution - 1

    @property
    def levels(self) -> int:
        """How many grids lie over the same voxels."""
        return self.tops.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.tops.device

    @property
    def memory_bytes(self) -> int:
        """Bytes of the three tensors."""
        return sum(t.numel() * t.element_size() for t in (self.tops, self.nodes, self.leaves))

    def to(self, device: torch.device | str) -> Masks:
        """The same masks on a device."""
        tops, nodes, leaves = (t.to(device) for t in self[:3])
        return Masks(tops, nodes, leaves, self.resolution)


def top_counts(resolution: tuple[int, int, int]) -> tuple[int, int, int]:
    """Blocks of 64 voxels along each axis.

    Example:
        >>> top_counts((1, 64, 65))
        (1, 1, 2)
    """
    x, y, z = ((n + 63) // 64 for n in resolution)
    return x, y, z


def checked_resolution(name: str, resolution: Any, levels: int = 1) -> tuple[int, int, int]:
    """Three numbers of voxels, or a ValueError in that function's name; for the other operators."""
    sizes = tuple(int(n) for n in resolution)
    if len(sizes) != 3 or min(sizes) < 1:
        raise ValueError(
            f"{name}: resolution: expected 3 numbers of voxels, 1 or more, got {resolution}"
        )
    x, y, z = top_counts((sizes[0], sizes[1], sizes[2]))
    if levels < 1:
        raise ValueError(f"{name}: levels: expected 1 or more, got {levels}")
    if levels * x * y * z > MAX_TOPS:
        raise ValueError(
            f"{name}: resolution: expected at most 2^24 blocks of 64^3 voxels, got {levels} "
            f"level(s) of {list(sizes)} voxels, which is {levels * x * y * z} blocks"
        )
    return sizes[0], sizes[1], sizes[2]


def _checked_coordinates(name: str, coordinates: Tensor) -> None:
    if coordinates.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"{name}: coordinates: expected int32 or int64, got {coordinates.dtype}")
    if coordinates.dim() != 2 or coordinates.shape[1] not in (3, 4):
        raise ValueError(
            f"{name}: coordinates: expected shape [N, 3] or [N, 4] (level first), "
            f"got {list(coordinates.shape)}"
        )


def masks_of(tensors: tuple[Tensor, Tensor, Tensor], resolution: tuple[int, int, int]) -> Masks:
    """What an operator gave, as `Masks`."""
    return Masks(tensors[0], tensors[1], tensors[2], resolution)


def fake_masks(like: Tensor, levels: Any, resolution: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Masks of unknown length, for fake kernels."""
    context = torch.library.get_ctx()
    n_nodes, n_leaves = context.new_dynamic_size(), context.new_dynamic_size()
    counts = [(n + 63) // 64 for n in resolution]
    return (
        like.new_empty((levels, *counts, 2), dtype=torch.int64),
        like.new_empty((n_nodes, 2), dtype=torch.int64),
        like.new_empty((n_leaves,), dtype=torch.int64),
    )


def check_masks(masks: Masks) -> None:
    """Holds masks that came from elsewhere to the layout, so that the operators may trust them.

    The operators check shapes, but follow the words of the masks without looking.

    Args:
        masks: The masks.

    Raises:
        TypeError: A dtype is another.
        ValueError: A shape or device is another, a child does not lie where its parent says, an
            empty child is stored, or a voxel lies outside the resolution.

    Example:
        >>> masks = build_masks(torch.ones(2, 2, 2, dtype=torch.bool))
        >>> check_masks(masks)
        >>> check_masks(masks._replace(leaves=masks.leaves[:0]))
        Traceback (most recent call last):
        ...
        ValueError: check_masks: leaves: expected 1, the bits of all nodes, got 0
    """
    _check_mask_tensors(masks)
    used = masks.tops.reshape(-1, 2)
    used = used[used[:, 0] != 0]
    _check_children("tops", used, "nodes", masks.nodes.shape[0])
    _check_children("nodes", masks.nodes, "leaves", masks.leaves.shape[0])
    for name, words in (("nodes", masks.nodes[:, 0]), ("leaves", masks.leaves)):
        if bool((words == 0).any()):
            raise ValueError(f"check_masks: {name}: expected no empty ones, got a mask of 0")
    origins = leaf_origins(masks)
    size = torch.tensor(masks.resolution, device=masks.device)
    edge = (origins[:, 1:] + 4 > size).any(1)
    words = masks.leaves[edge]
    rows = ops().vdb_coordinates(words, ops().vdb_leaf_offsets(words), origins[edge])
    if bool((rows[:, 1:] >= size).any()):
        raise ValueError(
            f"check_masks: leaves: expected voxels below the resolution {list(masks.resolution)}, "
            f"got {rows[(rows[:, 1:] >= size).any(1)][0, 1:].tolist()}"
        )


def _check_mask_tensors(masks: Masks) -> None:
    resolution = checked_resolution("check_masks", masks.resolution, max(masks.tops.shape[0], 1))
    shapes = {
        "tops": (masks.tops.shape[0], *top_counts(resolution), 2),
        "nodes": (masks.nodes.shape[0] if masks.nodes.dim() else 0, 2),
        "leaves": (masks.leaves.numel(),),
    }
    for name, shape in shapes.items():
        tensor = getattr(masks, name)
        if tensor.dtype != torch.int64:
            raise TypeError(f"check_masks: {name}: expected int64, got {tensor.dtype}")
        if tuple(tensor.shape) != shape or tensor.device != masks.device:
            raise ValueError(
                f"check_masks: {name}: expected shape {list(shape)} on {masks.device}, "
                f"got {list(tensor.shape)} on {tensor.device}"
            )
    if masks.levels < 1:
        raise ValueError("check_masks: tops: expected 1 level or more, got 0")


def _check_children(name: str, parents: Tensor, children: str, count: int) -> None:
    """Children lie in the order of their parents, one for each bit."""
    starts = ops().vdb_leaf_offsets(parents[:, 0].contiguous())
    if int(starts[-1]) != count:
        raise ValueError(
            f"check_masks: {children}: expected {int(starts[-1])}, the bits of all {name}, "
            f"got {count}"
        )
    if not torch.equal(parents[:, 1], starts[:-1]):
        raise ValueError(
            f"check_masks: {name}: expected the first children at the sums of bits before, "
            f"got others"
        )


@torch.no_grad()
def build_masks(dense: Tensor) -> Masks:
    """Builds nested masks from dense occupancy, in one pass over it.

    Args:
        dense: bool or uint8 [levels, X, Y, Z] or [X, Y, Z], z fastest; anything but 0 is active.

    Returns:
        The masks, on the same device. The host waits for the GPU once, for two numbers.

    Raises:
        TypeError: The dtype is another.
        ValueError: The shape is another, or the extent too large.

    Example:
        >>> masks = build_masks(torch.ones(5, 6, 7, dtype=torch.bool))
        >>> masks.resolution, masks.nodes.shape[0], masks.leaves.shape[0]
        ((5, 6, 7), 1, 8)
    """
    if dense.dtype not in (torch.bool, torch.uint8):
        raise TypeError(f"build_masks: dense: expected bool or uint8, got {dense.dtype}")
    if dense.dim() not in (3, 4):
        raise ValueError(
            "build_masks: dense: expected shape [levels, X, Y, Z] or [X, Y, Z], "
            f"got {list(dense.shape)}"
        )
    if dense.dim() == 3:
        dense = dense.unsqueeze(0)
    resolution = checked_resolution("build_masks", dense.shape[1:], dense.shape[0])
    return masks_of(ops().vdb_build(dense), resolution)


def _build_fake(dense: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return fake_masks(dense, dense.shape[0], dense.shape[1:])


@torch.no_grad()
def masks_to_dense(masks: Masks) -> Tensor:
    """Writes nested masks as dense occupancy.

    Args:
        masks: The masks.

    Returns:
        bool [levels, X, Y, Z].

    Example:
        >>> dense = torch.rand(1, 9, 4, 70) < 0.5
        >>> torch.equal(masks_to_dense(build_masks(dense)), dense)
        True
    """
    return ops().vdb_to_dense(*masks[:3], masks.resolution)


def _to_dense_fake(tops: Tensor, nodes: Tensor, leaves: Tensor, resolution: Any) -> Tensor:
    return tops.new_empty((tops.shape[0], *resolution), dtype=torch.bool)


@torch.no_grad()
def masks_from_coordinates(
    coordinates: Tensor, resolution: tuple[int, int, int], levels: int = 1
) -> Masks:
    """Builds nested masks from a list of voxels.

    Args:
        coordinates: int32 or int64 [N, 3] or [N, 4]; repeated ones count once, those outside are
            left out.
        resolution: Voxels per axis.
        levels: How many grids.

    Returns:
        The masks, on the device of the coordinates.

    Raises:
        TypeError: The dtype is another.
        ValueError: The shape is another, or the extent too large.

    Example:
        >>> masks = masks_from_coordinates(torch.tensor([[0, 0, 1], [0, 0, 0]]), (1, 1, 2))
        >>> masks.leaves.tolist()
        [3]
    """
    _checked_coordinates("masks_from_coordinates", coordinates)
    resolution = checked_resolution("masks_from_coordinates", resolution, levels)
    return masks_of(ops().vdb_from_coordinates(coordinates, levels, resolution), resolution)


def _from_coordinates_fake(
    coordinates: Tensor, levels: Any, resolution: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return fake_masks(coordinates, levels, resolution)


@torch.no_grad()
def leaf_offsets(masks: Masks) -> Tensor:
    """Gives the place of each leaf's first value.

    Args:
        masks: The masks.

    Returns:
        int64 [n_leaves + 1], ascending from 0; the last is the number of active voxels.

    Example:
        >>> leaf_offsets(build_masks(torch.ones(1, 1, 6, dtype=torch.bool))).tolist()
        [0, 4, 6]
    """
    return ops().vdb_leaf_offsets(masks.leaves)


def _leaf_offsets_fake(leaves: Tensor) -> Tensor:
    return leaves.new_empty((leaves.shape[0] + 1,))


@torch.no_grad()
def leaf_origins(masks: Masks) -> Tensor:
    """Gives the level and the first voxel of each leaf.

    Args:
        masks: The masks.

    Returns:
        int32 [n_leaves, 4]: level, x, y, z.

    Example:
        >>> leaf_origins(build_masks(torch.ones(1, 1, 6, dtype=torch.bool))).tolist()
        [[0, 0, 0, 0], [0, 0, 0, 4]]
    """
    return ops().vdb_leaf_origins(*masks[:3], masks.resolution)


def _leaf_origins_fake(tops: Tensor, nodes: Tensor, leaves: Tensor, resolution: Any) -> Tensor:
    return leaves.new_empty((leaves.shape[0], 4), dtype=torch.int32)


@torch.no_grad()
def active_coordinates(
    masks: Masks, offsets: Tensor | None = None, *, with_level: bool = False
) -> Tensor:
    """Lists the active voxels in storage order.

    Args:
        masks: The masks.
        offsets: int64 [n_leaves + 1], their `leaf_offsets`; default computed here.
        with_level: Also give the level, first.

    Returns:
        int32 [n_active, 3], or [n_active, 4] with the level.

    Example:
        >>> active_coordinates(build_masks(torch.ones(1, 1, 2, dtype=torch.bool))).tolist()
        [[0, 0, 0], [0, 0, 1]]
    """
    offsets = leaf_offsets(masks) if offsets is None else offsets
    rows = ops().vdb_coordinates(masks.leaves, offsets, leaf_origins(masks))
    return rows if with_level else rows[:, 1:].contiguous()


def _coordinates_fake(leaves: Tensor, offsets: Tensor, origins: Tensor) -> Tensor:
    n_active = torch.library.get_ctx().new_dynamic_size()
    return leaves.new_empty((n_active, 4), dtype=torch.int32)


@torch.no_grad()
def value_index(masks: Masks, offsets: Tensor, coordinates: Tensor) -> Tensor:
    """Finds the values of voxels.

    Args:
        masks: The masks.
        offsets: int64 [n_leaves + 1], their `leaf_offsets`.
        coordinates: int32 or int64 [N, 3] or [N, 4].

    Returns:
        int64 [N]: a row of the values, or -1 where the voxel is outside or not active.

    Raises:
        TypeError: The dtype is another.
        ValueError: The shape is another.

    Example:
        >>> masks = build_masks(torch.tensor([[[True, False, True]]]))
        >>> voxels = torch.tensor([[0, 0, 2], [0, 0, 1], [0, 0, -7]])
        >>> value_index(masks, leaf_offsets(masks), voxels).tolist()
        [1, -1, -1]
    """
    _checked_coordinates("value_index", coordinates)
    return ops().vdb_value_index(*masks[:3], masks.resolution, offsets, coordinates)


def _value_index_fake(
    tops: Tensor, nodes: Tensor, leaves: Tensor, resolution: Any, offsets: Tensor, rows: Tensor
) -> Tensor:
    return rows.new_empty((rows.shape[0],), dtype=torch.int64)


def contains(masks: Masks, coordinates: Tensor) -> Tensor:
    """Says which voxels are active.

    Args:
        masks: The masks.
        coordinates: int32 or int64 [N, 3] or [N, 4].

    Returns:
        bool [N]; False outside.

    Example:
        >>> masks = build_masks(torch.tensor([[[True, False]]]))
        >>> contains(masks, torch.tensor([[0, 0, 0], [0, 0, 1], [9, 0, 0]])).tolist()
        [True, False, False]
    """
    return value_index(masks, leaf_offsets(masks), coordinates) >= 0


def sample_trilinear(
    masks: Masks,
    offsets: Tensor,
    values: Tensor,
    points: Tensor,
    background: Tensor | float = 0.0,
    *,
    level: int = 0,
) -> Tensor:
    """Reads values between voxels: the trilinear mean of the eight around each point.

    A voxel's value stands at its centre, (x + 0.5, y + 0.5, z + 0.5). Voxels that are not active
    count with the background, and so do points that are not numbers.

    Args:
        masks: The masks.
        offsets: int64 [n_leaves + 1], their `leaf_offsets`.
        values: Floating [n_active] or [n_active, C], of all levels, in storage order. Half
            precision is computed in float32.
        points: Floating [N, 3], local coordinates in voxels.
        background: A number, or floating [C].
        level: Which grid is read.

    Returns:
        [N] or [N, C], of the values' dtype. Differentiable in values and points, once.

    Raises:
        TypeError: A dtype is another.
        ValueError: A shape is another, or there is no such level.

    Example:
        >>> masks = build_masks(torch.ones(1, 1, 2, dtype=torch.bool))
        >>> values = torch.tensor([1.0, 3.0])
        >>> points = torch.tensor([[0.5, 0.5, 0.5], [0.5, 0.5, 1.0], [0.5, 0.5, 2.0]])
        >>> sample_trilinear(masks, leaf_offsets(masks), values, points).tolist()
        [1.0, 2.0, 1.5]
    """
    _checked_sample("sample_trilinear", masks, offsets, values, points, level)
    flat, dtype = values.dim() == 1, values.dtype
    rows = values.unsqueeze(1) if flat else values
    rows = rows if dtype in (torch.float32, torch.float64) else rows.float()
    if not isinstance(background, Tensor):
        background = rows.new_full((rows.shape[1],), background)
    background = background.to(rows).expand(rows.shape[1])
    sampled = call(
        "vdb_sample",
        *masks[:3],
        masks.resolution,
        offsets,
        rows,
        points.to(rows.dtype),
        background,
        level,
    ).to(dtype)
    return sampled.squeeze(1) if flat else sampled


def _checked_sample(
    name: str, masks: Masks, offsets: Tensor, values: Tensor, points: Tensor, level: int
) -> None:
    for argument, tensor in (("values", values), ("points", points)):
        if not tensor.is_floating_point():
            raise TypeError(f"{name}: {argument}: expected a floating dtype, got {tensor.dtype}")
    if values.dim() not in (1, 2):
        raise ValueError(
            f"{name}: values: expected shape [n_active] or [n_active, C], got {list(values.shape)}"
        )
    if points.dim() != 2 or points.shape[1] != 3:
        raise ValueError(f"{name}: points: expected shape [N, 3], got {list(points.shape)}")
    if offsets.dtype != torch.int64 or offsets.shape != (masks.leaves.shape[0] + 1,):
        raise ValueError(
            f"{name}: offsets: expected int64 [{masks.leaves.shape[0] + 1}], "
            f"got {offsets.dtype} {list(offsets.shape)}"
        )
    if not 0 <= level < masks.levels:
        raise ValueError(f"{name}: level: expected 0 to {masks.levels - 1}, got {level}")


def _sample_fake(
    tops: Tensor,
    nodes: Tensor,
    leaves: Tensor,
    resolution: Any,
    offsets: Tensor,
    values: Tensor,
    points: Tensor,
    background: Tensor,
    level: int,
) -> Tensor:
    return values.new_empty((points.shape[0], values.shape[1]))


def _sample_backward_fake(
    tops: Tensor,
    nodes: Tensor,
    leaves: Tensor,
    resolution: Any,
    offsets: Tensor,
    values: Tensor,
    points: Tensor,
    background: Tensor,
    level: int,
    gradient: Tensor,
    needs_values: bool,
    needs_points: bool,
) -> tuple[Tensor, Tensor]:
    return (
        values.new_empty((values.shape[0] if needs_values else 0, values.shape[1])),
        values.new_empty((points.shape[0] if needs_points else 0, 3)),
    )


def _sample_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    tops, nodes, leaves, ctx.resolution, offsets, values, points, background, ctx.level = inputs
    ctx.save_for_backward(tops, nodes, leaves, offsets, values, points, background)


def _sample_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    tops, nodes, leaves, offsets, values, points, background = ctx.saved_tensors
    needs_values, needs_points = ctx.needs_input_grad[5], ctx.needs_input_grad[6]
    g_values, g_points = ctx_ops(ctx).vdb_sample_backward(
        tops,
        nodes,
        leaves,
        ctx.resolution,
        offsets,
        values,
        points,
        background,
        ctx.level,
        gradient,
        needs_values,
        needs_points,
    )
    return (
        *[None] * 5,
        g_values if needs_values else None,
        g_points if needs_points else None,
        None,
        None,
    )


@torch.no_grad()
def triangle_voxels(
    triangles: Tensor, resolution: tuple[int, int, int], limit: int = 1 << 30
) -> Tensor:
    """Lists the voxels that each triangle meets, touching included.

    Args:
        triangles: float64 [F, 3, 3]: triangle, corner, axis; finite local coordinates in voxels.
        resolution: Voxels per axis; others are left out.
        limit: The most voxels allowed in all, each triangle's counted.

    Returns:
        int32 [M, 3], one triangle after another; voxels of several triangles repeat.

    Raises:
        TypeError: The dtype is another.
        ValueError: The shape is another, a coordinate is not finite, or there are more voxels than
            the limit.

    Source: Schwarz and Seidel, "Fast parallel surface and solid voxelization on GPUs" (2010).

    Example:
        >>> corners = torch.tensor([[[0.5, 0.5, 0.5], [0.5, 0.5, 2.5], [0.5, 0.6, 0.5]]])
        >>> triangle_voxels(corners.double(), (4, 4, 4)).tolist()
        [[0, 0, 0], [0, 0, 1], [0, 0, 2]]
    """
    name = "triangle_voxels"
    if triangles.dtype != torch.float64:
        raise TypeError(f"{name}: triangles: expected float64, got {triangles.dtype}")
    if triangles.dim() != 3 or triangles.shape[1:] != (3, 3):
        raise ValueError(
            f"{name}: triangles: expected shape [F, 3, 3], got {list(triangles.shape)}"
        )
    if not bool(torch.isfinite(triangles).all()):
        raise ValueError(f"{name}: triangles: expected finite coordinates, got NaN or Inf")
    resolution = checked_resolution(name, resolution)
    rows, total = ops().vdb_triangle_voxels(triangles, resolution, limit)
    if rows.shape[0] == 0 and int(total) > limit:
        raise ValueError(
            f"{name}: triangles: expected at most {limit} voxels of triangles, got {int(total)}"
        )
    return rows


def _triangle_voxels_fake(triangles: Tensor, resolution: Any, limit: int) -> tuple[Tensor, Tensor]:
    count = torch.library.get_ctx().new_dynamic_size()
    return (
        triangles.new_empty((count, 3), dtype=torch.int32),
        triangles.new_empty((1,), dtype=torch.int64),
    )


declare("vdb_build", _build_fake)
declare("vdb_to_dense", _to_dense_fake)
declare("vdb_from_coordinates", _from_coordinates_fake)
declare("vdb_leaf_offsets", _leaf_offsets_fake)
declare("vdb_leaf_origins", _leaf_origins_fake)
declare("vdb_coordinates", _coordinates_fake)
declare("vdb_value_index", _value_index_fake)
declare("vdb_sample", _sample_fake, _sample_setup, _sample_backward)
declare("vdb_sample_backward", _sample_backward_fake)
declare("vdb_triangle_voxels", _triangle_voxels_fake)
