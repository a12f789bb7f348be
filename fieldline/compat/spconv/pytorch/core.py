# SPDX-License-Identifier: Apache-2.0
"""spconv's ``pytorch.core``: the sparse tensor, and the maps that it carries by ``indice_key``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ....cuda.sparse.kernel_map import KernelMap
from ....engine.sparse.arguments import (
    check_kind,
    check_tensor,
    check_volume,
    shown,
    whole,
)
from ...coordinate_set import CoordinateSet
from ..core import ConvAlgo
from ..tools import CUDAKernelTimer
from .ops import pairs_of

__all__ = [
    "ImplicitGemmIndiceData",
    "IndiceData",
    "IndiceKeyError",
    "SparseConvTensor",
    "expand_nd",
    "scatter_nd",
]


class IndiceKeyError(ValueError, AssertionError):
    """An ``indice_key`` that exists already, or does not; spconv asserts, we say what is wrong."""


@dataclass(eq=False)
class IndiceData:
    """A kernel map under an ``indice_key``.

    Attributes:
        inputs: The coordinates that the layer was given.
        outputs: The coordinates that it gave.
        kernel_map: From the unique rows of the one to the unique rows of the other.
        spatial_shape: Of the input.
        out_spatial_shape: Of the output.
        is_subm: A submanifold layer's.
        algo: The algorithm that was asked for.
        ksize: Kernel size; stride, dilation and padding follow.
    """

    inputs: CoordinateSet
    outputs: CoordinateSet
    kernel_map: KernelMap
    spatial_shape: list[int]
    out_spatial_shape: list[int]
    is_subm: bool
    algo: ConvAlgo
    ksize: list[int]
    stride: list[int]
    dilation: list[int]
    padding: list[int]
    voxel_num: Any = None

    @property
    def indices(self) -> Tensor:
        """int32 [N, 1 + ndim], the input's."""
        return self.inputs.tensor

    @property
    def out_indices(self) -> Tensor:
        """int32 [M, 1 + ndim], the output's."""
        return self.outputs.tensor

    @property
    def pair_fwd(self) -> Tensor:
        """int32 [K, M], the input row of each tap and output row, -1: none."""
        return self.kernel_map.table

    @property
    def pair_bwd(self) -> Tensor:
        """int32 [K, N], the output row of each tap and input row, -1: none."""
        return self.kernel_map.reverse.table

    @property
    def indice_pairs(self) -> Tensor:
        """int32 [2, K, N], input and output rows of each tap, filled up with -1."""
        return pairs_of(self.kernel_map)[0]

    @property
    def indice_pair_num(self) -> Tensor:
        """int32 [K], pairs of each tap."""
        return pairs_of(self.kernel_map)[1]


ImplicitGemmIndiceData = IndiceData


def scatter_nd(indices: Tensor, updates: Tensor, shape: Sequence[int]) -> Tensor:
    """Writes rows into zeros.

    Args:
        indices: int64 [..., n], places along the first n axes of the shape.
        updates: [..., *shape[n:]].
        shape: Of the result.

    Returns:
        The tensor; of updates to one place, one is kept.

    Example:
        >>> scatter_nd(torch.tensor([[1], [0]]), torch.tensor([5.0, 6.0]), [3]).tolist()
        [6.0, 5.0, 0.0]
    """
    result = torch.zeros(*shape, dtype=updates.dtype, device=updates.device)
    ndim = indices.shape[-1]
    places = indices.reshape(-1, ndim).unbind(1)
    return result.index_put(places, updates.reshape(len(places[0]), *shape[ndim:]))


def expand_nd(ndim: int, val: int | Sequence[int] | np.ndarray) -> list[int]:
    """One number per axis.

    Args:
        ndim: Axes.
        val: A number for all of them, or one for each.

    Returns:
        ``ndim`` numbers.

    Raises:
        TypeError: It is made of something else.
        ValueError: There are more or fewer.

    Example:
        >>> expand_nd(3, 2), expand_nd(2, (1, 2))
        ([2, 2, 2], [1, 2])
    """
    try:
        values = [int(val)] * ndim if isinstance(val, (int, np.integer)) else [int(v) for v in val]
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"expand_nd: val: expected a whole number or {ndim} of them, got {shown(val)}"
        ) from error
    if len(values) != ndim:
        raise ValueError(f"expand_nd: val: expected {ndim} numbers, got {values}")
    return values


class SparseConvTensor:
    """Features of the cells that exist.

    Args:
        features: [N, C].
        indices: int32 [N, 1 + ndim]: the batch item, then the cell along each axis.
        spatial_shape: Cells along each axis; numbers, an array or tensors.
        batch_size: Items of the batch.
        grid: Kept, not used.
        voxel_num: Kept, not used.
        indice_dict: Maps by ``indice_key``.
        benchmark: Layers with a name write times to ``benchmark_record``.
        permanent_thrust_allocator: Accepted.
        enable_timer: Accepted.
        force_algo: Kept, not used.

    Raises:
        TypeError: ``indices`` are not int32.
        ValueError: A shape is wrong.

    Example:
        >>> indices = torch.tensor([[0, 1, 2, 3]], dtype=torch.int32)
        >>> x = SparseConvTensor(torch.ones(1, 2), indices, [4, 4, 4], batch_size=1)
        >>> x, x.dense().shape, x.replace_feature(x.features * 2).features.tolist()
        (SparseConvTensor[shape=torch.Size([1, 2])], torch.Size([1, 2, 4, 4, 4]), [[2.0, 2.0]])
    """

    def __init__(
        self,
        features: Tensor,
        indices: Tensor,
        spatial_shape: Sequence[Any] | np.ndarray | Tensor,
        batch_size: int,
        grid: Tensor | None = None,
        voxel_num: Tensor | None = None,
        indice_dict: dict[str, IndiceData] | None = None,
        benchmark: bool = False,
        permanent_thrust_allocator: bool = False,
        enable_timer: bool = False,
        force_algo: ConvAlgo | None = None,
    ) -> None:
        _check(features, indices, batch_size)
        self._features = features
        self.indices = indices
        self.spatial_shape = _checked_shape(spatial_shape, indices.shape[1] - 1)
        self.batch_size = batch_size
        self.indice_dict: dict[str, IndiceData] = {} if indice_dict is None else indice_dict
        self.grid: Tensor | None = torch.empty(0) if grid is None else grid
        self.voxel_num = voxel_num
        self.benchmark = benchmark
        self.benchmark_record: dict[str, dict[str, Any]] = {}
        self.thrust_allocator = None
        self._timer = CUDAKernelTimer(enable_timer)
        self.force_algo = force_algo
        self.int8_scale: np.ndarray | None = None
        self._coordinates: CoordinateSet | None = None

    def __repr__(self) -> str:
        return f"SparseConvTensor[shape={self._features.shape}]"

    @property
    def features(self) -> Tensor:
        """[N, C]; to change them, `replace_feature` makes a new tensor."""
        return self._features

    @features.setter
    def features(self, val: Tensor) -> None:
        raise ValueError(
            "SparseConvTensor: features: cannot be set; "
            "use x = x.replace_feature(new), which makes a new tensor"
        )

    @property
    def is_quantized(self) -> bool:
        """Whether the features are 8-bit integers with a scale."""
        return self._features.dtype == torch.qint8

    @property
    def spatial_size(self) -> int:
        """Cells of the shape."""
        return math.prod(self.spatial_shape)

    def q_scale(self) -> float:
        """The scale of quantised features."""
        if not self.is_quantized:
            raise ValueError("SparseConvTensor.q_scale: expected quantised features")
        return self._features.q_scale()

    def dequantize(self) -> SparseConvTensor:
        """The same tensor with features of floating point."""
        return self.replace_feature(self._features.dequantize())

    def coordinate_set(self) -> CoordinateSet:
        """What maps are made of: the indices as they are now."""
        held = self._coordinates
        if held is None or not held.is_of(self.indices, self.batch_size):
            held = self._coordinates = CoordinateSet(self.indices, self.batch_size)
        return held

    def replace_feature(self, feature: Tensor) -> SparseConvTensor:
        """A new tensor with other features on the same indices and maps.

        Args:
            feature: [N, C'].

        Returns:
            The new tensor; this one does not change.

        Raises:
            TypeError: It is no tensor.
        """
        check_kind("SparseConvTensor.replace_feature", "feature", feature, Tensor)
        tensor = self.shadow_copy()
        tensor._features = feature
        return tensor

    def shadow_copy(self) -> SparseConvTensor:
        """A new tensor of the same members; ``indice_dict`` is the same dict."""
        tensor = SparseConvTensor.__new__(SparseConvTensor)
        tensor.__dict__.update(self.__dict__)
        tensor.spatial_shape = list(self.spatial_shape)
        return tensor

    def placed(
        self,
        features: Tensor,
        coordinates: CoordinateSet,
        spatial_shape: list[int],
        indice_dict: dict[str, IndiceData],
    ) -> SparseConvTensor:
        """A new tensor on other coordinates, as layers give it.

        Args:
            features: [M, C'].
            coordinates: Of its M rows.
            spatial_shape: Its cells along each axis.
            indice_dict: Its maps.

        Returns:
            The new tensor.
        """
        tensor = self.replace_feature(features)
        tensor.indices = coordinates.tensor
        tensor.spatial_shape = list(spatial_shape)
        tensor.indice_dict = indice_dict
        tensor._coordinates = coordinates
        return tensor

    def select_by_index(self, valid_indices: Tensor) -> SparseConvTensor:
        """A new tensor of some rows, without the maps of this one.

        Args:
            valid_indices: Row numbers, or a mask bool [N].

        Returns:
            The new tensor.

        Raises:
            IndexError: There is no such row.
            ValueError: They are neither row numbers nor a mask.
        """
        tensor = self.replace_feature(self._features[valid_indices])
        tensor.indices = self.indices[valid_indices]
        if tensor._features.dim() != 2 or tensor.indices.dim() != 2:
            raise ValueError(
                "SparseConvTensor.select_by_index: valid_indices: expected row numbers or a mask "
                f"[{len(self.indices)}], got {shown(valid_indices)}"
            )
        tensor.indice_dict = {}
        return tensor

    def minus(self) -> SparseConvTensor:
        """The tensor with features of the other sign."""
        return self.replace_feature(-self._features)

    def find_indice_pair(self, key: str | None) -> IndiceData | None:
        """The map under a key; None where there is none."""
        return None if key is None else self.indice_dict.get(key)

    @classmethod
    def from_dense(cls, x: Tensor) -> SparseConvTensor:
        """The cells of a dense tensor where any channel is not 0.

        Args:
            x: [B, *spatial_shape, C], channels last.

        Returns:
            The sparse tensor, cells in order; gradients reach ``x``.
        """
        check_tensor("SparseConvTensor.from_dense", "x", x)
        if x.dim() < 3:
            raise ValueError(
                "SparseConvTensor.from_dense: x: expected shape [B, *spatial_shape, C], "
                f"got {list(x.shape)}"
            )
        cells = (x != 0).any(-1).nonzero()
        return cls(x[cells.unbind(1)], cells.int(), x.shape[1:-1], x.shape[0])

    def dense(self, channels_first: bool = True) -> Tensor:
        """The tensor with zeros where no cell exists.

        Args:
            channels_first: [B, C, *spatial_shape] instead of [B, *spatial_shape, C].

        Returns:
            The dense tensor. Rows outside it are left out; of rows of one cell, one is kept.
        """
        if len(self._features) != len(self.indices):
            raise ValueError(
                f"SparseConvTensor.dense: features: expected {len(self.indices)} rows as indices, "
                f"got {len(self._features)}"
            )
        channels = self._features.shape[1]
        shape = [int(self.batch_size), *self.spatial_shape]
        check_volume("SparseConvTensor.dense", (*shape, channels))
        indices = self.indices.to(self._features.device).long()
        sizes = torch.tensor(shape, device=indices.device)
        inside = ((indices >= 0) & (indices < sizes)).all(1)
        strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
        places = (indices * torch.tensor(strides, device=indices.device)).sum(1)
        n_cells = math.prod(shape)
        # Rows outside go to a cell of their own, which is dropped: no round trip to count them.
        places = torch.where(inside, places, n_cells)[:, None]
        dense = scatter_nd(places, self._features, [n_cells + 1, channels])[:-1]
        dense = dense.view(*shape, channels)
        return dense.movedim(-1, 1).contiguous() if channels_first else dense

    def __add__(self, other: SparseConvTensor | Tensor) -> SparseConvTensor:
        features = other.features if isinstance(other, SparseConvTensor) else other
        return self.replace_feature(self._features + features)

    __radd__ = __add__
    __iadd__ = __add__


def _check(features: Tensor, indices: Tensor, batch_size: int) -> None:
    name = "SparseConvTensor"
    check_tensor(name, "features", features)
    if features.is_complex():
        raise TypeError(f"{name}: features: expected real numbers, got {features.dtype}")
    check_tensor(name, "indices", indices)
    if features.dim() != 2 or indices.dim() != 2:
        raise ValueError(
            f"{name}: features, indices: expected shapes [N, C] and [N, 1 + ndim], "
            f"got {list(features.shape)} and {list(indices.shape)}"
        )
    if indices.dtype != torch.int32:
        raise TypeError(f"{name}: indices: expected int32, got {indices.dtype}")
    whole(name, "batch_size", batch_size)


def _checked_shape(spatial_shape: Any, ndim: int) -> list[int]:
    name = "SparseConvTensor"
    try:
        sizes = [int(v) for v in spatial_shape]
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{name}: spatial_shape: expected {ndim} numbers, got {shown(spatial_shape)}"
        ) from error
    if len(sizes) != ndim or min(sizes, default=0) < 0:
        raise ValueError(
            f"{name}: spatial_shape: expected {ndim} numbers of at least 0 for indices "
            f"[N, {1 + ndim}], got {len(sizes)}: {shown(sizes)}"
        )
    return sizes
