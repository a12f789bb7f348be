# SPDX-License-Identifier: Apache-2.0
"""A sparse tensor: feature rows on the coordinates of a level, and the cache of its network's maps.

Coordinates are unique, in units of the level's stride, and never change; what changes them makes
another tensor. Tensors that a network makes of one another share their cache, and those on the same
coordinates share the level, which is how `+` and `cat` know that rows belong together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ...cuda.sparse import map_ops, pool_ops
from ...cuda.sparse.kernel_map import lasting
from . import interpolate
from .arguments import (
    REDUCTIONS,
    Ints,
    Reduction,
    check_coordinates,
    check_mask,
    check_real,
    check_rows,
    check_volume,
    device_here,
    ints,
    one_of,
    shown,
)
from .cache import MapCache
from .coordinates import Level
from .quantize import quantize
from .rows import checked_batch_size, duplicate_text, merged


class Voxelized(NamedTuple):
    """Points as voxels, and the way back."""

    tensor: SparseTensor
    inverse: Tensor  # int64 [N], the row of each point


# A dataclass only so that torch.nn.parallel finds the features among a module's outputs.
@dataclass(init=False, eq=False, repr=False)
class SparseTensor:
    """Feature rows on integer coordinates, with the cache of the maps of a network.

    Args:
        coords: int32 [N, 1 + D], batch item first, D = 1 to 4; in units of ``stride``, of any
            value. They are copied.
        feats: [N, C], a row for each coordinate, of any real type: labels may be whole numbers,
            layers want floating ones.
        stride: What one step of a coordinate means at the network's input; a number or D.
        spatial_range: Per axis, coordinates lie in 0 to here, exclusive, and convolutions give what
            dense ones of that size would; default: unbounded.
        batch_size: Items of the batch; default: one more than the highest of ``coords``.
        reduce: What becomes of rows with the same coordinates: "error", or "first", "mean", "sum",
            "max", "min" of them, where the first one was.

    Raises:
        TypeError: Coordinates are not int32, features not real, or an argument is of another
            kind.
        ValueError: Shapes or devices do not fit together, a coordinate is out of range, or two are
            equal.

    Example:
        >>> coords = torch.tensor([[0, 0, 0, 0], [0, -3, 5, 9]], dtype=torch.int32)
        >>> SparseTensor(coords, torch.ones(2, 16))
        SparseTensor(2 rows, 16 channels, float32, cpu, 3D, stride (1, 1, 1), batch_size 1)
    """

    feats: Tensor
    level: Level
    maps: MapCache

    def __init__(
        self,
        coords: Tensor,
        feats: Tensor,
        stride: Ints = 1,
        spatial_range: Ints | None = None,
        batch_size: int | None = None,
        reduce: Literal["error"] | Reduction = "error",
    ) -> None:
        name = "SparseTensor"
        check_coordinates(name, "coords", coords)
        check_rows(name, "feats", feats, coords.shape[0], coords.device)
        one_of(name, "reduce", reduce, ("error", *REDUCTIONS))
        ndim = coords.shape[1] - 1
        stride = ints(name, "stride", stride, ndim)
        if spatial_range is not None:
            spatial_range = ints(name, "spatial_range", spatial_range, ndim, 0)
        # A copy: whoever handed the coordinates in may go on writing to them.
        coords = coords.detach().clone(memory_format=torch.contiguous_format)
        with lasting():
            index = map_ops.sparse_index(coords)
        limits, repeated = index.survey()
        batch_size = checked_batch_size(coords, spatial_range, batch_size, limits=limits)
        if repeated:
            if reduce == "error":
                raise ValueError(duplicate_text(coords, map_ops.sparse_lookup(index, coords)))
            coords, feats = merged(coords, feats, reduce)
            index = None
        level = Level(coords, stride, spatial_range, batch_size, limits=limits, index=index)
        self.feats, self.level, self.maps = feats, level, MapCache(level)

    @staticmethod
    def on(feats: Tensor, level: Level, maps: MapCache) -> SparseTensor:
        """Features on a level that exists, unchecked.

        Args:
            feats: [N, C].
            level: One of the cache's.
            maps: The cache.

        Returns:
            The tensor.

        Example:
            >>> x = SparseTensor(torch.zeros(1, 3, dtype=torch.int32), torch.ones(1, 2))
            >>> SparseTensor.on(x.feats * 2, x.level, x.maps).feats
            tensor([[2., 2.]])
        """
        tensor = object.__new__(SparseTensor)
        tensor.feats, tensor.level, tensor.maps = feats, level, maps
        return tensor

    def replace(self, feats: Tensor) -> SparseTensor:
        """Other features on the same coordinates.

        Args:
            feats: [N, C].

        Returns:
            The tensor; it shares coordinates and cache with this one.

        Raises:
            TypeError: They are no tensor of real numbers.
            ValueError: There are more or fewer rows, or they are on another device.

        Example:
            >>> x = SparseTensor(torch.zeros(1, 3, dtype=torch.int32), torch.ones(1, 2))
            >>> x.replace(torch.zeros(1, 5)).channels
            5
        """
        held = self.feats
        if (
            not isinstance(feats, Tensor)
            or feats.dim() != 2
            or feats.shape[0] != held.shape[0]
            or feats.device != held.device
            or feats.is_complex()
        ):
            check_rows("SparseTensor.replace", "feats", feats, len(self), self.device)
        return SparseTensor.on(feats, self.level, self.maps)

    # -- what it is --------------------------------------------------------------------------------

    @property
    def coords(self) -> Tensor:
        """int32 [N, 1 + D]; not to be written to."""
        return self.level.tensor

    @property
    def stride(self) -> tuple[int, ...]:
        """Per axis, what one step of a coordinate means at the network's input."""
        return self.level.stride

    @property
    def spatial_range(self) -> tuple[int, ...] | None:
        """Per axis, coordinates lie in 0 to here, exclusive; None: unbounded."""
        return self.level.spatial_range

    @property
    def batch_size(self) -> int:
        """Items of the batch, empty ones included."""
        return self.level.batch_size

    @property
    def ndim(self) -> int:
        """Spatial dimensions, D."""
        return self.level.ndim

    @property
    def channels(self) -> int:
        """Columns of the features."""
        return self.feats.shape[1]

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.feats.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the features."""
        return self.feats.dtype

    def __reduce__(self) -> tuple[Any, ...]:
        # Maps stay behind: another process makes those it needs, in its own time.
        level = self.level
        stays = level.tensor, level.stride, level.spatial_range, level.batch_size
        return _restored, (self.feats, *stays)

    def __len__(self) -> int:
        return self.feats.shape[0]

    def __repr__(self) -> str:
        kind = str(self.dtype).removeprefix("torch.")
        bounds = "" if self.spatial_range is None else f", spatial_range {self.spatial_range}"
        gradient = ", requires_grad" if self.feats.requires_grad else ""
        return (
            f"SparseTensor({len(self)} rows, {self.channels} channels, {kind}, {self.device}, "
            f"{self.ndim}D, stride {self.stride}{bounds}, batch_size {self.batch_size}{gradient})"
        )

    # -- where and of what type --------------------------------------------------------------------

    def to(self, *args: Any, **kwargs: Any) -> SparseTensor:
        """The tensor on another device or of another type, as ``torch.Tensor.to``.

        Maps stay behind when the device changes: move a tensor before a network, not within one.

        Args:
            *args: A device, a dtype, or another tensor.
            **kwargs: As of ``torch.Tensor.to``.

        Returns:
            The tensor.

        Raises:
            TypeError: It is asked for another kind of thing, or a type that is not real.
            ValueError: There is no such device here.

        Example:
            >>> x = SparseTensor(torch.zeros(1, 3, dtype=torch.int32), torch.ones(1, 2))
            >>> x.to(torch.float64).dtype
            torch.float64
        """
        name = "SparseTensor.to"
        args = tuple(a.feats if isinstance(a, SparseTensor) else a for a in args)
        for where in (*args[:1], kwargs.get("device")):
            # torch takes a lone number or truth value for a tensor to be like.
            if isinstance(where, bool | float | complex):
                raise TypeError(
                    f"{name}: expected a device, a dtype or a tensor first, got {shown(where)}"
                )
            if isinstance(where, str | int | torch.device):
                device_here(name, "device", where)
        feats = self.feats.to(*args, **kwargs)
        check_real(name, "dtype", feats)
        if feats.device == self.device:
            return SparseTensor.on(feats, self.level, self.maps)
        self.level.check_unchanged()
        coords = self.coords.to(feats.device, non_blocking=kwargs.get("non_blocking", False))
        level = Level(coords, self.stride, self.spatial_range, self.batch_size)
        return SparseTensor.on(feats, level, MapCache(level))

    def cpu(self) -> SparseTensor:
        """The tensor in the CPU's memory."""
        return self.to("cpu")

    def cuda(self, device: int | str | torch.device | None = None) -> SparseTensor:
        """The tensor on a GPU; the current one by default."""
        name = "SparseTensor.cuda"
        place = device_here(name, "device", "cuda" if device is None else device)
        if place.type != "cuda":
            raise ValueError(f"{name}: device: expected a GPU, got {place}")
        return self.to(place)

    def half(self) -> SparseTensor:
        """The tensor with features in float16."""
        return self.to(torch.float16)

    def float(self) -> SparseTensor:
        """The tensor with features in float32."""
        return self.to(torch.float32)

    def detach(self) -> SparseTensor:
        """The tensor without its features' history."""
        return self.replace(self.feats.detach())

    # -- arithmetic on the same coordinates --------------------------------------------------------

    def _operand(self, name: str, other: SparseTensor | Tensor | float) -> Any:
        if not isinstance(other, SparseTensor):
            return other
        if not self.level.same_as(other.level):
            raise ValueError(
                f"SparseTensor.{name}: other: expected the coordinates of this tensor "
                f"({len(self)} rows, stride {self.stride}), got others ({len(other)} rows, stride "
                f"{other.stride}); fieldline.sparse.union and intersection take different ones"
            )
        own, its = self.feats.shape[1], other.feats.shape[1]
        if own != its and 1 not in (own, its):
            raise ValueError(
                f"SparseTensor.{name}: other: expected {own} channels as this tensor, or 1, "
                f"got {its}"
            )
        return other.feats

    def __add__(self, other: SparseTensor | Tensor | float) -> SparseTensor:
        if not isinstance(other, _OPERANDS):
            return NotImplemented
        return self.replace(self.feats + self._operand("__add__", other))

    def __sub__(self, other: SparseTensor | Tensor | float) -> SparseTensor:
        if not isinstance(other, _OPERANDS):
            return NotImplemented
        return self.replace(self.feats - self._operand("__sub__", other))

    def __mul__(self, other: SparseTensor | Tensor | float) -> SparseTensor:
        if not isinstance(other, _OPERANDS):
            return NotImplemented
        return self.replace(self.feats * self._operand("__mul__", other))

    __radd__ = __add__
    __rmul__ = __mul__

    # -- fewer rows --------------------------------------------------------------------------------

    def prune(self, mask: Tensor) -> SparseTensor:
        """Keeps some rows.

        Args:
            mask: bool [N], true for those that stay.

        Returns:
            Their tensor, with a cache of its own; rows keep their order.

        Raises:
            TypeError: The mask is not of bool.
            ValueError: Its length is another.

        Example:
            >>> coords = torch.tensor([[0, 1], [0, 2], [0, 3]], dtype=torch.int32)
            >>> x = SparseTensor(coords, torch.tensor([[0.5], [-1.0], [2.0]]))
            >>> x.prune(x.feats[:, 0] > 0).coords.tolist()
            [[0, 1], [0, 3]]
        """
        check_mask("SparseTensor.prune", mask, (len(self),), self.device)
        self.level.check_unchanged()
        rows = mask.nonzero()[:, 0]
        coords = self.coords.index_select(0, rows)
        level = Level(coords, self.stride, self.spatial_range, self.batch_size)
        return SparseTensor.on(self.feats.index_select(0, rows), level, MapCache(level))

    def crop(self, low: Ints | None = None, high: Ints | None = None) -> SparseTensor:
        """Keeps the rows in a box; their coordinates stay what they are.

        Args:
            low: Lowest coordinate, a number or D; default: unbounded.
            high: One above the highest; default: unbounded.

        Returns:
            Their tensor, with a cache of its own.

        Example:
            >>> coords = torch.tensor([[0, 1], [0, 2], [0, 3]], dtype=torch.int32)
            >>> SparseTensor(coords, torch.ones(3, 1)).crop(2, 3).coords.tolist()
            [[0, 2]]
        """
        position = self.coords[:, 1:].long()
        mask = torch.ones(len(self), dtype=torch.bool, device=self.device)
        if low is not None:
            limit = ints("SparseTensor.crop", "low", low, self.ndim, None)
            mask &= (position >= position.new_tensor(limit)).all(1)
        if high is not None:
            limit = ints("SparseTensor.crop", "high", high, self.ndim, None)
            mask &= (position < position.new_tensor(limit)).all(1)
        return self.prune(mask)

    # -- dense tensors -----------------------------------------------------------------------------

    def dense(self, low: Ints | None = None, high: Ints | None = None) -> Tensor:
        """The tensor with zeros where it has no rows.

        Args:
            low: Lowest coordinate of the box, a number or D; default: 0 if the tensor has a spatial
                range, else the lowest it has.
            high: One above the highest; default: the spatial range, or one above the highest.

        Returns:
            [batch_size, C, *sizes of the box]; rows outside the box are left out.

        Raises:
            ValueError: The box is too large for any memory.

        Example:
            >>> coords = torch.tensor([[0, 1], [0, 3]], dtype=torch.int32)
            >>> SparseTensor(coords, torch.ones(2, 1), spatial_range=5).dense()
            tensor([[[0., 1., 0., 1., 0.]]])
        """
        self.level.check_unchanged()
        corner, sizes = self._box(low, high)
        volume = math.prod(sizes)
        check_volume("SparseTensor.dense", (self.batch_size, self.channels, *sizes))
        # What is outside the box goes to a row behind it: counting it would wait for the device.
        place = self.level.items
        inside = torch.ones_like(place, dtype=torch.bool)
        for axis, (start, size) in enumerate(zip(corner, sizes)):
            position = self.coords[:, 1 + axis].long() - start
            inside = inside & (position >= 0) & (position < size)
            place = place * size + position
        count = self.batch_size * volume
        place = torch.where(inside, place, count)
        flat = self.feats.new_zeros(count + 1, self.channels).index_copy(0, place, self.feats)
        flat = flat[:count]
        return flat.view(self.batch_size, *sizes, self.channels).movedim(-1, 1)

    def _box(self, low: Ints | None, high: Ints | None) -> tuple[tuple[int, ...], list[int]]:
        name, bounds = "SparseTensor.dense", self.spatial_range
        if low is not None:
            corner = ints(name, "low", low, self.ndim, None)
        else:
            corner = (0,) * self.ndim if bounds is not None else self.level.bounds[0]
        if high is not None:
            end = ints(name, "high", high, self.ndim, None)
        elif bounds is not None:
            end = bounds
        else:
            end = tuple(v + 1 for v in self.level.bounds[1]) if len(self) else corner
        return corner, [max(b - a, 0) for a, b in zip(corner, end)]

    @staticmethod
    def from_dense(dense: Tensor, mask: Tensor | None = None, stride: Ints = 1) -> SparseTensor:
        """The rows of a dense tensor that are not zero.

        Args:
            dense: [batch_size, C, *spatial sizes], 1 to 4 of them.
            mask: bool [batch_size, *spatial sizes], which positions become rows; default: those
                with a channel that is not zero.
            stride: What one step of a coordinate means at the network's input.

        Returns:
            The tensor, its rows sorted, its spatial range that of the dense one.

        Raises:
            TypeError: The tensor is not of real numbers, or the mask not of bool.
            ValueError: Shapes or devices do not fit together.

        Example:
            >>> SparseTensor.from_dense(torch.eye(3)[None, None]).coords.tolist()
            [[0, 0, 0], [0, 1, 1], [0, 2, 2]]
        """
        name = "SparseTensor.from_dense"
        check_real(name, "dense", dense)
        if not 3 <= dense.dim() <= 6:
            raise ValueError(
                f"{name}: dense: expected shape [batch_size, C, *sizes] with 1 to 4 sizes, "
                f"got {list(dense.shape)}"
            )
        batch_size, channels, *sizes = dense.shape
        if mask is None:
            mask = (dense != 0).any(1)
        check_mask(name, mask, (batch_size, *sizes), dense.device)
        coords = mask.nonzero().int()
        rows = mask.reshape(-1).nonzero()[:, 0]
        feats = dense.movedim(1, -1).reshape(-1, channels).index_select(0, rows)
        level = Level(coords, ints(name, "stride", stride, len(sizes)), tuple(sizes), batch_size)
        return SparseTensor.on(feats, level, MapCache(level))

    # -- points ------------------------------------------------------------------------------------

    @staticmethod
    def from_points(
        points: Tensor,
        feats: Tensor,
        voxel_size: float | tuple[float, ...] | Tensor,
        batch: Tensor | None = None,
        reduction: Reduction = "mean",
        spatial_range: Ints | None = None,
        batch_size: int | None = None,
    ) -> Voxelized:
        """Voxels of points, with the features of those that share one reduced.

        Args:
            points: [N, D], D = 1 to 4, in units of length. Voxel i covers voxel_size * [i, i + 1).
            feats: [N, C].
            voxel_size: A number, or one per axis.
            batch: [N] whole numbers, the batch item of each point; default: all 0.
            reduction: "mean", "sum", "max", "min" or "first".
            spatial_range: As of `SparseTensor`.
            batch_size: As of `SparseTensor`.

        Returns:
            (tensor, inverse): the tensor, its rows sorted, and the row of each point, int64 [N].

        Raises:
            ValueError: Shapes do not fit together, or a point is not finite or further away than
                int32 reaches.

        Example:
            >>> points = torch.tensor([[0.1, 0.1], [0.4, 0.2], [0.9, -0.1]])
            >>> x, inverse = SparseTensor.from_points(points, torch.eye(3), 0.5)
            >>> x.coords.tolist(), inverse.tolist()
            ([[0, 0, 0], [0, 1, -1]], [0, 0, 1])
        """
        name = "SparseTensor.from_points"
        one_of(name, "reduction", reduction, REDUCTIONS)
        voxels = quantize(points, voxel_size, batch, name=name)
        check_rows(name, "feats", feats, points.shape[0], points.device)
        ndim = voxels.coords.shape[1] - 1
        if spatial_range is not None:
            spatial_range = ints(name, "spatial_range", spatial_range, ndim, 0)
        limits = map_ops.sparse_bounds(voxels.coords)
        batch_size = checked_batch_size(voxels.coords, spatial_range, batch_size, name, limits)
        rows = pool_ops.sparse_segment_reduce(
            feats, voxels.inverse, voxels.coords.shape[0], reduction
        )
        level = Level(voxels.coords, (1,) * ndim, spatial_range, batch_size, limits=limits)
        return Voxelized(SparseTensor.on(rows, level, MapCache(level)), voxels.inverse)

    def devoxelize(
        self,
        points: Tensor | None = None,
        voxel_size: float | tuple[float, ...] | Tensor = 1.0,
        batch: Tensor | None = None,
        *,
        inverse: Tensor | None = None,
        mode: str = "nearest",
    ) -> Tensor:
        """The features at points.

        Args:
            points: [N, D], in units of length.
            voxel_size: Of the network's input, a number or one per axis, as of `from_points`; a
                voxel of this level is ``stride`` times as large.
            batch: [N] whole numbers, the batch item of each point; default: all 0.
            inverse: int64 [N], the row of each point, from `from_points`, in place of points.
            mode: "nearest": those of the voxel that a point is in, zero where there is none.
                "trilinear": between the centres of the 2^D voxels around the point, those that
                exist weighing 1 together.

        Returns:
            [N, C], differentiable in the features.

        Raises:
            ValueError: Both or neither of points and inverse are given, or shapes do not fit.

        Example:
            >>> coords = torch.tensor([[0, 0], [0, 1]], dtype=torch.int32)
            >>> x = SparseTensor(coords, torch.tensor([[0.0], [10.0]]))
            >>> x.devoxelize(torch.tensor([[1.0], [1.25]]), mode="trilinear").tolist()
            [[5.0], [7.5]]
        """
        name = "SparseTensor.devoxelize"
        one_of(name, "mode", mode, ("nearest", "trilinear"))
        if (points is None) == (inverse is None):
            raise ValueError(f"{name}: expected either points or inverse")
        if inverse is not None:
            return interpolate.at_rows(self.feats, inverse)
        assert points is not None
        return interpolate.at_points(self.feats, self.level, points, voxel_size, batch, mode)


_OPERANDS = (SparseTensor, Tensor, Real)


def _restored(feats: Tensor, *level: Any) -> SparseTensor:
    """A pickled tensor."""
    root = Level(*level)
    return SparseTensor.on(feats, root, MapCache(root))
