# SPDX-License-Identifier: Apache-2.0
"""A sparse grid of voxels as nested masks, with or without values.

Voxel (i, j, k) covers [i, i + 1) x [j, j + 1) x [k, k + 1) of index space, and its value stands at
its centre, (i + 0.5, j + 0.5, k + 0.5). `transform` takes index space to the world. (OpenVDB puts
the value at (i, j, k): its transforms differ from ours by half a voxel.)

Index space has no bounds; what is stored lies in a box from `origin`, in blocks of 64^3 voxels:

    world  --inverse transform-->  index space  --minus origin-->  local coordinates of the masks

Values are one row per active voxel in storage order (block by block, leaf by leaf, bit by bit), the
order of `coordinates()`. A grid without values is a set of voxels. Grids are immutable: what
changes one makes another, which shares with it what stays the same.

A grid may have several levels over the same voxels, each with a transform of its own, as the nested
boxes of an occupancy estimator have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..cuda.vdb import grid_change_ops, grid_ops
from ..cuda.vdb.grid_ops import Masks
from . import vdb_build, vdb_resample, vdb_space

GRID_CLASSES = ("unknown", "level_set", "fog_volume", "staggered")


class VDBLeaf(NamedTuple):
    """A cube of 4x4x4 voxels of which at least one is active."""

    origin: tuple[int, int, int]  # its first voxel, index space
    mask: int  # bit 16 x + 4 y + z says whether a voxel is active
    values: Tensor | None  # [n] or [n, C], of its active voxels in bit order
    level: int


@dataclass(frozen=True, eq=False)
class VDBGrid:
    """A sparse grid of voxels as nested masks, with or without values.

    Args:
        masks: Which voxels are active, in coordinates from 0.
        origin: The first voxel of the masks in index space; multiples of 64.
        values: [n_active] or [n_active, C] of any dtype, in storage order; None for a set of
            voxels.
        background: The value of all other voxels: a number, or one per channel.
        transform: float64 [4, 4], index space to the world, or [levels, 4, 4]; default identity.
            Its last row is (0, 0, 0, 1), and it can be inverted.
        name: What the grid is called, as "density".
        metadata: Whatever else a file says of it.
        grid_class: "unknown", "level_set", "fog_volume" or "staggered".

    Raises:
        TypeError: An argument is of another kind.
        ValueError: Shapes do not fit together, or a number is out of range.

    Source:
        Museth, VDB: High-Resolution Sparse Volumes with Dynamic Topology, ACM TOG 2013.

    Example:
        >>> grid = VDBGrid.from_coordinates(torch.tensor([[0, 0, 0], [-100, 7, 3]]))
        >>> grid.active_count, [-100, 7, 3] in grid, grid.dilate().active_count
        (2, True, 14)
    """

    masks: Masks
    origin: tuple[int, int, int] = (0, 0, 0)
    values: Tensor | None = None
    background: float | tuple[float, ...] = 0.0
    transform: Tensor = field(default_factory=lambda: torch.eye(4, dtype=torch.float64))
    name: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    grid_class: str = "unknown"

    def __post_init__(self) -> None:
        origin = vdb_space.checked_origin(self.origin, self.masks.resolution)
        object.__setattr__(self, "origin", origin)
        transform = vdb_space.checked_transform(self.transform, self.levels)
        object.__setattr__(self, "transform", transform)
        object.__setattr__(self, "metadata", dict(self.metadata))
        if self.grid_class not in GRID_CLASSES:
            raise ValueError(
                f"VDBGrid: grid_class: expected one of {GRID_CLASSES}, got {self.grid_class!r}"
            )
        if self.values is not None:
            self._check_values(self.values)
        object.__setattr__(self, "background", self._checked_background())

    def _check_values(self, values: Tensor) -> None:
        n = self.active_count
        if values.dim() not in (1, 2) or values.shape[0] != n:
            raise ValueError(
                f"VDBGrid: values: expected shape [{n}] or [{n}, C], a row for each active voxel, "
                f"got {list(values.shape)}"
            )
        if values.device != self.device:
            raise ValueError(f"VDBGrid: values: expected device {self.device}, got {values.device}")

    def _checked_background(self) -> float | tuple[float, ...]:
        background = self.background
        if isinstance(background, Tensor):
            background = background.tolist()
        if isinstance(background, list | tuple):
            background = tuple(float(v) for v in background)
            if self.channels != len(background):
                raise ValueError(
                    f"VDBGrid: background: expected a number or {self.channels or 'no'} channels, "
                    f"got {len(background)}"
                )
            return background
        return float(background)

    # -- making ------------------------------------------------------------------------------------

    @classmethod
    def empty(
        cls,
        resolution: tuple[int, int, int] = (1, 1, 1),
        *,
        levels: int = 1,
        device: torch.device | str = "cpu",
        **settings: Any,
    ) -> VDBGrid:
        """Makes a grid without voxels.

        Args:
            resolution: Voxels per axis that the masks have room for.
            levels: How many grids.
            device: Where.
            **settings: Other fields of the grid.

        Returns:
            The grid.

        Example:
            >>> VDBGrid.empty().active_count
            0
        """
        nothing = torch.zeros(0, 3, dtype=torch.int32, device=device)
        return cls(grid_ops.masks_from_coordinates(nothing, resolution, levels), **settings)

    @classmethod
    def from_dense(
        cls,
        dense: Tensor,
        *,
        threshold: float | None = None,
        origin: tuple[int, int, int] = (0, 0, 0),
        background: float = 0.0,
        **settings: Any,
    ) -> VDBGrid:
        """Makes a grid of a dense tensor.

        Args:
            dense: [X, Y, Z] or [X, Y, Z, C]; bool makes a set of voxels, other dtypes their values.
            threshold: Voxels above it are active, in any channel; default those other than the
                background.
            origin: Index of the first voxel, any integers.
            background: The value of voxels that are not active.
            **settings: Other fields of the grid.

        Returns:
            The grid. Its values are differentiable in `dense`.

        Raises:
            ValueError: The shape is another.

        Example:
            >>> grid = VDBGrid.from_dense(torch.tensor([[[0.0, 2.0, 3.0]]]), threshold=2.5)
            >>> grid.coordinates().tolist(), grid.values.tolist()
            ([[0, 0, 2]], [3.0])
        """
        return vdb_build.from_dense(cls, dense, threshold, origin, background, settings)

    @classmethod
    def from_occupancy(cls, binaries: Tensor, aabb: Tensor, **settings: Any) -> VDBGrid:
        """Makes a set of voxels of the occupancy of an estimator.

        Args:
            binaries: bool [levels, X, Y, Z] or [X, Y, Z].
            aabb: Boxes [levels, 6] or [6]: least x, y, z, then greatest; finite.
            **settings: Other fields of the grid.

        Returns:
            The grid; each level's transform takes its voxels to its box.

        Raises:
            ValueError: A shape is another, or a box has no volume.

        Example:
            >>> boxes = torch.tensor([[-1.0, -1, -1, 1, 1, 1], [-2, -2, -2, 2, 2, 2]])
            >>> grid = VDBGrid.from_occupancy(torch.ones(2, 8, 8, 8, dtype=torch.bool), boxes)
            >>> grid.levels, grid.index_to_world(torch.tensor([[8.0, 8, 8]]), level=1).tolist()
            (2, [[2.0, 2.0, 2.0]])
        """
        return vdb_build.from_occupancy(cls, binaries, aabb, settings)

    @classmethod
    def from_coordinates(
        cls,
        coordinates: Tensor,
        values: Tensor | None = None,
        *,
        reduce: str = "error",
        **settings: Any,
    ) -> VDBGrid:
        """Makes a grid of a list of voxels.

        Args:
            coordinates: Integers [N, 3] in index space, within int32.
            values: [N] or [N, C], or None.
            reduce: What becomes of voxels listed twice that have values: "error", "first", "mean",
                "sum" or "max".
            **settings: Other fields of the grid.

        Returns:
            The grid. Its values are differentiable in `values`.

        Raises:
            TypeError: The coordinates are no integers.
            ValueError: A shape is another, a coordinate is no int32, the extent is too large, or a
                voxel is listed twice.

        Example:
            >>> voxels = torch.tensor([[5, 5, 5], [-1, 0, 0], [5, 5, 5]])
            >>> grid = VDBGrid.from_coordinates(voxels, torch.tensor([1.0, 2, 3]), reduce="sum")
            >>> grid.lookup(voxels).tolist()
            [4.0, 2.0, 4.0]
        """
        return vdb_build.from_coordinates(cls, coordinates, values, reduce, settings)

    @classmethod
    def from_points(cls, points: Tensor, voxel_size: float, **settings: Any) -> VDBGrid:
        """Makes the set of voxels that hold a point.

        Args:
            points: Floating [N, 3] in the world, finite.
            voxel_size: Edge of a voxel, world units.
            **settings: Other fields of the grid, but the transform.

        Returns:
            The grid; voxel (0, 0, 0) begins at the world's origin.

        Raises:
            ValueError: A shape is another, or a number is not finite or out of range.

        Example:
            >>> VDBGrid.from_points(torch.tensor([[0.1, 0.3, -0.1]]), 0.2).coordinates().tolist()
            [[0, 1, -1]]
        """
        return vdb_build.from_points(cls, points, voxel_size, settings)

    @classmethod
    def from_mesh(
        cls, vertices: Tensor, faces: Tensor, voxel_size: float, **settings: Any
    ) -> VDBGrid:
        """Makes the set of voxels that a triangle mesh meets, touching included.

        Args:
            vertices: Floating [V, 3] in the world, finite.
            faces: Integers [F, 3], indices of vertices.
            voxel_size: Edge of a voxel, world units.
            **settings: Other fields of the grid, but the transform.

        Returns:
            The grid; voxel (0, 0, 0) begins at the world's origin. No voxel that the surface meets
            is missing but for the rounding of float64.

        Raises:
            TypeError: The faces are no integers.
            ValueError: A shape is another, an index or number is out of range.

        Source:
            Schwarz and Seidel, Fast parallel surface and solid voxelization on GPUs, 2010.

        Example:
            >>> corners = torch.tensor([[0.5, 0.5, 0.5], [3.5, 0.5, 0.5], [0.5, 2.5, 0.5]])
            >>> grid = VDBGrid.from_mesh(corners, torch.tensor([[0, 1, 2]]), 1.0)
            >>> grid.active_count
            9
        """
        return vdb_build.from_mesh(cls, vertices, faces, voxel_size, settings)

    # -- reading -----------------------------------------------------------------------------------

    @property
    def levels(self) -> int:
        """How many grids lie over the same voxels."""
        return self.masks.levels

    @property
    def resolution(self) -> tuple[int, int, int]:
        """Voxels per axis that the masks have room for, from `origin`."""
        return self.masks.resolution

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.masks.device

    @property
    def channels(self) -> int | None:
        """Channels of the values; None if they have no such dimension, or there are none."""
        return self.values.shape[1] if self.values is not None and self.values.dim() == 2 else None

    @cached_property
    def leaf_offsets(self) -> Tensor:
        """The place of each leaf's first value, int64 [n_leaves + 1]."""
        return grid_ops.leaf_offsets(self.masks)

    @cached_property
    def active_count(self) -> int:
        """The number of active voxels, of all levels."""
        return int(self.leaf_offsets[-1])

    @property
    def memory_bytes(self) -> int:
        """Bytes of masks and values; the transform and lists made on demand do not count."""
        values = 0 if self.values is None else self.values.numel() * self.values.element_size()
        return self.masks.memory_bytes + values

    @cached_property
    def voxel_size(self) -> tuple[float, float, float]:
        """World length of a voxel's edges, of the first level."""
        x, y, z = self.level_transform()[:3, :3].norm(dim=0).tolist()
        return x, y, z

    def level_transform(self, level: int = 0) -> Tensor:
        """Gives the transform of a level, float64 [4, 4] on the CPU."""
        return self.transform if self.transform.dim() == 2 else self.transform[level]

    def coordinates(self, *, with_level: bool = False) -> Tensor:
        """Lists the active voxels in storage order.

        Args:
            with_level: Also give the level, first.

        Returns:
            int32 [n_active, 3] in index space, or [n_active, 4] with the level.
        """
        rows = grid_ops.active_coordinates(self.masks, self.leaf_offsets, with_level=with_level)
        shift = torch.tensor([0] * with_level + list(self.origin), dtype=torch.int32)
        return rows + shift.to(rows.device)

    def leaves(self) -> Iterator[VDBLeaf]:
        """Goes through the leaves in storage order, on the CPU."""
        masks = self.masks
        origins = grid_ops.leaf_origins(masks).tolist()
        offsets = self.leaf_offsets.tolist()
        for i, (row, word) in enumerate(zip(origins, masks.leaves.tolist())):
            x, y, z = (a + b for a, b in zip(row[1:], self.origin))
            values = None if self.values is None else self.values[offsets[i] : offsets[i + 1]]
            yield VDBLeaf((x, y, z), word & (1 << 64) - 1, values, row[0])

    def bounding_box(self) -> tuple[tuple[int, int, int], tuple[int, int, int]] | None:
        """Gives the least and the greatest active voxel per axis, inclusive; None if empty."""
        if self.active_count == 0:
            return None
        rows = self.coordinates()
        (a, b, c), (d, e, f) = rows.amin(0).tolist(), rows.amax(0).tolist()
        return (a, b, c), (d, e, f)

    def to_dense(self) -> Tensor:
        """Writes all voxels that the masks have room for, from `origin` on.

        Returns:
            [X, Y, Z] or [X, Y, Z, C], with the background where voxels are not active; bool for a
            grid without values. A grid of several levels has them as another first dimension.
        """
        dense = grid_ops.masks_to_dense(self.masks)
        if self.values is not None:
            background = vdb_space.background_like(self.values, self.background)
            rows = background.expand(*dense.shape, *self.values.shape[1:])
            index = grid_ops.active_coordinates(self.masks, self.leaf_offsets, with_level=True)
            dense = rows.clone().index_put(tuple(index.long().unbind(1)), self.values)
        return dense[0] if self.levels == 1 else dense

    # -- asking ------------------------------------------------------------------------------------

    def value_index(self, ijk: Tensor, *, level: int = 0) -> Tensor:
        """Finds the values of voxels.

        Args:
            ijk: Integers [N, 3] in index space.
            level: Which grid is asked.

        Returns:
            int64 [N]: rows of the values, -1 where voxels are not active.

        Raises:
            TypeError: No integers.
            ValueError: The shape is another, or there is no such level.
        """
        rows = vdb_space.local_coordinates("VDBGrid.value_index", ijk, self.origin, self.device)
        self._check_level("VDBGrid.value_index", level)
        levels = torch.full_like(rows[:, :1], level)
        rows = torch.cat([levels, rows], dim=1)
        return grid_ops.value_index(self.masks, self.leaf_offsets, rows)

    def contains(self, ijk: Tensor, *, level: int = 0) -> Tensor:
        """Says which voxels are active.

        Args:
            ijk: Integers [N, 3] in index space.
            level: Which grid is asked.

        Returns:
            bool [N].
        """
        return self.value_index(ijk, level=level) >= 0

    def __contains__(self, ijk: Any) -> bool:
        row = torch.as_tensor(ijk)
        return row.shape == (3,) and bool(self.contains(row[None])[0])

    def lookup(self, ijk: Tensor, *, level: int = 0) -> Tensor:
        """Reads the values of voxels.

        Args:
            ijk: Integers [N, 3] in index space.
            level: Which grid is read.

        Returns:
            [N] or [N, C]: the background where voxels are not active. bool [N] for a grid without
            values. Differentiable in the values.
        """
        index = self.value_index(ijk, level=level)
        if self.values is None:
            return index >= 0
        return vdb_space.gather(self.values, index, self.background)

    def _check_level(self, name: str, level: int) -> None:
        if not 0 <= level < self.levels:
            raise ValueError(f"{name}: level: expected 0 to {self.levels - 1}, got {level}")

    def index_to_world(self, points: Tensor, *, level: int = 0) -> Tensor:
        """Takes points of index space to the world.

        Args:
            points: [..., 3] of any dtype.
            level: Whose transform.

        Returns:
            [..., 3] of their dtype, float64 for integers; computed in float64.
        """
        self._check_level("VDBGrid.index_to_world", level)
        return vdb_space.transformed(points, self.level_transform(level))

    def world_to_index(self, points: Tensor, *, level: int = 0) -> Tensor:
        """Takes points of the world to index space.

        Args:
            points: [..., 3] of any dtype.
            level: Whose transform.

        Returns:
            [..., 3] of their dtype, float64 for integers; computed in float64.
        """
        self._check_level("VDBGrid.world_to_index", level)
        return vdb_space.transformed(points, torch.linalg.inv(self.level_transform(level)))

    def sample(
        self, points: Tensor, *, order: int = 1, space: str = "world", level: int = 0
    ) -> Tensor:
        """Reads values at points.

        Args:
            points: Floating [N, 3].
            order: 0 for the voxel around each point, 1 for trilinear between voxel centres.
            space: "world" or "index", where the points are.
            level: Which grid is read.

        Returns:
            [N] or [N, C] in the dtype of the values. A grid without values reads as 1 where it is
            active, 0 elsewhere: float32, or bool for order 0. Differentiable in the values and, for
            order 1, the points. Points that are not numbers read the background.

        Raises:
            TypeError: A dtype is another; trilinear needs floating values.
            ValueError: A shape or name is another, or there is no such level.

        Example:
            >>> grid = VDBGrid.from_dense(torch.tensor([[[1.0, 3.0]]]))
            >>> grid.sample(torch.tensor([[0.5, 0.5, 1.0]])).tolist()
            [2.0]
        """
        name = "VDBGrid.sample"
        self._check_level(name, level)
        if not points.is_floating_point() or points.dim() != 2 or points.shape[1] != 3:
            raise ValueError(
                f"{name}: points: expected floating [N, 3], got {points.dtype} {list(points.shape)}"
            )
        if order not in (0, 1) or space not in ("world", "index"):
            raise ValueError(
                f"{name}: expected order 0 or 1 and space 'world' or 'index', "
                f"got {order} and {space!r}"
            )
        index = points.double()
        if space == "world":
            index = vdb_space.transformed(index, torch.linalg.inv(self.level_transform(level)))
        if order == 0:
            return self.lookup(vdb_space.voxels_of(index), level=level)
        values = self.values
        if values is None:
            values = torch.ones(self.active_count, device=self.device)
        local = index - torch.tensor(self.origin, dtype=index.dtype, device=index.device)
        return grid_ops.sample_trilinear(
            self.masks,
            self.leaf_offsets,
            values,
            local.to(values.dtype if values.dtype == torch.float64 else torch.float32),
            vdb_space.background_like(values, self.background),
            level=level,
        )

    # -- changing ----------------------------------------------------------------------------------

    def with_values(self, values: Tensor | None, **settings: Any) -> VDBGrid:
        """Gives the same voxels other values.

        Args:
            values: [n_active] or [n_active, C], or None.
            **settings: Other fields to change, as `background`.

        Returns:
            The grid.
        """
        return self._kept_lists(replace(self, values=values, **settings))

    def _kept_lists(self, other: VDBGrid) -> VDBGrid:
        """Spares a grid of the same voxels to count them again."""
        if "leaf_offsets" in self.__dict__:
            other.__dict__["leaf_offsets"] = self.leaf_offsets
        return other

    def to(self, device: torch.device | str) -> VDBGrid:
        """Moves masks and values to a device; the transform stays on the CPU."""
        values = None if self.values is None else self.values.to(device)
        return replace(self, masks=self.masks.to(device), values=values)

    def index_grid(self) -> VDBGrid:
        """Gives the same voxels their places in storage order as values, int64; -1 elsewhere."""
        count = torch.arange(self.active_count, device=self.device)
        return self.with_values(count, background=-1.0)

    def dilate(self, neighbours: int = 6, iterations: int = 1, *, grow: bool = True) -> VDBGrid:
        """Adds the neighbours of active voxels; new voxels have the background's value.

        Args:
            neighbours: 6 (faces), 18 (and edges) or 26 (and corners).
            iterations: How many times.
            grow: Whether the masks make room for what would lie outside; else it is left out.

        Returns:
            The grid.
        """
        return vdb_resample.dilate(self, neighbours, iterations, grow)

    def erode(self, neighbours: int = 6, iterations: int = 1) -> VDBGrid:
        """Leaves out voxels with an inactive neighbour; what lies outside is inactive.

        Args:
            neighbours: 6 (faces), 18 (and edges) or 26 (and corners).
            iterations: How many times.

        Returns:
            The grid.
        """
        return vdb_resample.with_masks(
            self, grid_change_ops.erode_masks(self.masks, neighbours, iterations)
        )

    def union(self, other: VDBGrid) -> VDBGrid:
        """Adds the voxels of another grid.

        Values are this grid's where its voxels are active, and the other's elsewhere. Transforms,
        levels and channels must agree; all else is taken from this grid.

        Args:
            other: A grid with the same transform, values or none as this one.

        Returns:
            The grid.

        Raises:
            ValueError: The grids do not fit together.
        """
        return vdb_resample.combined(self, other, "union")

    def intersection(self, other: VDBGrid) -> VDBGrid:
        """Keeps the voxels, with their values, that are active in another grid too.

        Args:
            other: A grid with the same transform.

        Returns:
            The grid.

        Raises:
            ValueError: The grids do not fit together.
        """
        return vdb_resample.combined(self, other, "intersection")

    def difference(self, other: VDBGrid) -> VDBGrid:
        """Keeps the voxels, with their values, that are not active in another grid.

        Args:
            other: A grid with the same transform.

        Returns:
            The grid.

        Raises:
            ValueError: The grids do not fit together.
        """
        return vdb_resample.combined(self, other, "difference")

    def prune(self, tolerance: float = 0.0) -> VDBGrid:
        """Drops voxels whose value is the background's, and room that nothing uses.

        Args:
            tolerance: Largest difference in any channel that counts as equal, 0 or more.

        Returns:
            The grid.

        Raises:
            ValueError: The tolerance is negative or not a number.
        """
        return vdb_resample.prune(self, tolerance)

    def refine(self, factor: int = 2) -> VDBGrid:
        """Makes factor^3 voxels of each, with its value; the world stays where it is.

        Args:
            factor: Voxels per axis that each becomes.

        Returns:
            The grid.
        """
        return vdb_resample.refine(self, factor)

    def coarsen(self, factor: int = 2, *, reduce: str = "mean") -> VDBGrid:
        """Makes one voxel of each cube of factor^3 in which any is active.

        Args:
            factor: Voxels per axis that become one. Cubes begin at multiples of it.
            reduce: Its value: "mean", "sum", "max" or "min" of the active ones.

        Returns:
            The grid.

        Raises:
            ValueError: A number or name is out of range.
        """
        return vdb_resample.coarsen(self, factor, reduce)

    def map_values(self, function: Callable[[Tensor], Tensor]) -> VDBGrid:
        """Gives every active voxel the function of its value.

        Args:
            function: From and to [n_active] or [n_active, C].

        Returns:
            The grid.
        """
        if self.values is None:
            raise ValueError("VDBGrid.map_values: expected a grid with values, got a set of voxels")
        return self.with_values(function(self.values))

    def __repr__(self) -> str:
        kind = "voxels" if self.values is None else str(self.values.dtype).split(".")[1]
        kind += "" if self.channels is None else f" x {self.channels}"
        named = f"{self.name!r}, " if self.name else ""
        levels = f", {self.levels} levels" if self.levels > 1 else ""
        x, y, z = self.resolution
        return (
            f"VDBGrid({named}{kind}, {self.active_count:,} active in {x} x {y} x {z}{levels}, "
            f"{self.memory_bytes:,} bytes, {self.device})"
        )
