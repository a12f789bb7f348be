# SPDX-License-Identifier: Apache-2.0
"""spconv's ``pytorch.pool``: pools."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ....cuda.sparse import pool_ops
from ....engine.sparse.arguments import check_kind
from ..core import ConvAlgo
from .core import IndiceData, SparseConvTensor
from .layer import MapLayer
from .modules import SparseModule
from .ops import max_pool

__all__ = [
    "ALL_POOL_LAYERS",
    "SparseAvgPool",
    "SparseAvgPool1d",
    "SparseAvgPool2d",
    "SparseAvgPool3d",
    "SparseGlobalAvgPool",
    "SparseGlobalMaxOrAvgPool",
    "SparseGlobalMaxPool",
    "SparseMaxPool",
    "SparseMaxPool1d",
    "SparseMaxPool2d",
    "SparseMaxPool3d",
    "SparseMaxPool4d",
]


class _Pool(MapLayer):
    """A pool over the cells that exist.

    Args:
        ndim: Axes of space.
        kernel_size: Per axis or for all.
        stride: Per axis or for all; None: the kernel's size.
        padding: Per axis or for all.
        dilation: Per axis or for all.
        indice_key: Where the map is kept.
        subm: Stay on the input's coordinates.
        algo: Accepted.
        record_voxel_count: Keep the largest number of outputs in a buffer.
        name: Under which times are recorded.
    """

    def __init__(
        self,
        ndim: int,
        kernel_size: Any = 3,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        indice_key: str | None = None,
        subm: bool = False,
        algo: ConvAlgo | None = None,
        record_voxel_count: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__(
            ndim,
            kernel_size,
            kernel_size if stride is None else stride,
            padding,
            dilation,
            subm,
            indice_key,
            algo,
            record_voxel_count,
            name,
        )
        self.register_voxel_count()

    def forward(self, input: SparseConvTensor) -> SparseConvTensor:
        """Pools.

        Args:
            input: Any sparse tensor.

        Returns:
            The pooled tensor.

        Raises:
            ValueError: The map's key exists already.
        """
        check_kind(type(self).__name__, "input", input, SparseConvTensor)
        return self.run(input, lambda data: self._unfolded(input.features, data))

    def _unfolded(self, features: Tensor, data: IndiceData) -> Tensor:
        """Pools rows of one coordinate as one, and hands the result to each where they stay."""
        folding = data.inputs.folding
        if folding is None:
            return self._pool(features, data)
        pooled = self._pool_folded(features, data)
        return folding.hand_out(pooled) if self.subm else pooled

    def _pool(self, features: Tensor, data: IndiceData) -> Tensor:
        raise NotImplementedError

    def _pool_folded(self, features: Tensor, data: IndiceData) -> Tensor:
        raise NotImplementedError


class SparseMaxPool(_Pool):
    """The maximum over the cells that exist, and at least 0, as in spconv.

    Arguments are those of `_Pool`.

    Example:
        >>> indices = torch.tensor([[0, 0], [0, 1], [0, 2]], dtype=torch.int32)
        >>> x = SparseConvTensor(torch.tensor([[-1.0], [-2.0], [3.0]]), indices, [4], 1)
        >>> SparseMaxPool1d(2)(x).features.tolist()
        [[0.0], [3.0]]
    """

    def _pool(self, features: Tensor, data: IndiceData) -> Tensor:
        return max_pool(features, data.kernel_map)

    def _pool_folded(self, features: Tensor, data: IndiceData) -> Tensor:
        assert data.inputs.folding is not None
        return max_pool(data.inputs.folding.add_up(features, "max"), data.kernel_map)


class SparseAvgPool(_Pool):
    """The mean over the cells that exist.

    Arguments are those of `_Pool`.

    Example:
        >>> indices = torch.tensor([[0, 0], [0, 1], [0, 2]], dtype=torch.int32)
        >>> x = SparseConvTensor(torch.tensor([[-1.0], [-2.0], [3.0]]), indices, [4], 1)
        >>> SparseAvgPool1d(2)(x).features.tolist()
        [[-1.5], [3.0]]
    """

    def _pool(self, features: Tensor, data: IndiceData) -> Tensor:
        return pool_ops.sparse_pool(features, data.kernel_map, "mean")

    def _pool_folded(self, features: Tensor, data: IndiceData) -> Tensor:
        folding, kernel_map = data.inputs.folding, data.kernel_map
        assert folding is not None
        ones = torch.ones_like(features[:, :1])
        both = pool_ops.sparse_pool(
            folding.add_up(torch.cat([features, ones], 1)), kernel_map, "sum"
        )
        return both[:, :-1] / both[:, -1:].clamp_min(1)


class SparseGlobalMaxOrAvgPool(SparseModule):
    """One row for each item of the batch.

    Args:
        is_mean: The mean instead of the maximum.
        name: Accepted.
    """

    def __init__(self, is_mean: bool, name: str | None = None) -> None:
        super().__init__(name)
        self.is_mean = is_mean

    def forward(self, input: SparseConvTensor) -> Tensor:
        """Pools.

        Args:
            input: Any sparse tensor.

        Returns:
            Maxima [batch_size, C]; or, as spconv has it, means of the first channel alone,
            [batch_size]. Items without a cell give 0.
        """
        check_kind(type(self).__name__, "input", input, SparseConvTensor)
        items = input.indices[:, 0].long()
        items = torch.where((items >= 0) & (items < input.batch_size), items, -1)
        features = input.features[:, :1] if self.is_mean else input.features
        mode = "mean" if self.is_mean else "max"
        pooled = pool_ops.sparse_segment_reduce(features, items, input.batch_size, mode)
        return pooled[:, 0] if self.is_mean else pooled


class SparseGlobalAvgPool(SparseGlobalMaxOrAvgPool):
    """The mean of the first channel of each item of the batch, as in spconv.

    Args:
        name: Accepted.
    """

    def __init__(self, name: str | None = None) -> None:
        super().__init__(True, name)


class SparseGlobalMaxPool(SparseGlobalMaxOrAvgPool):
    """The maximum of each item of the batch.

    Args:
        name: Accepted.
    """

    def __init__(self, name: str | None = None) -> None:
        super().__init__(False, name)


class _OfDimension:
    """Mixed into a pool: a fixed number of axes, and a stride of the kernel's size."""

    _ndim: int

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        indice_key: str | None = None,
        algo: ConvAlgo | None = None,
        record_voxel_count: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__(
            self._ndim,  # type: ignore[call-arg]
            kernel_size,
            stride,
            padding,
            dilation,
            indice_key,
            algo=algo,
            record_voxel_count=record_voxel_count,
            name=name,
        )


class SparseMaxPool1d(_OfDimension, SparseMaxPool):
    """The maximum, at least 0, in one dimension."""

    _ndim = 1


class SparseMaxPool2d(_OfDimension, SparseMaxPool):
    """The maximum, at least 0, in two dimensions."""

    _ndim = 2


class SparseMaxPool3d(_OfDimension, SparseMaxPool):
    """The maximum, at least 0, in three dimensions."""

    _ndim = 3


class SparseMaxPool4d(_OfDimension, SparseMaxPool):
    """The maximum, at least 0, in four dimensions."""

    _ndim = 4


class SparseAvgPool1d(_OfDimension, SparseAvgPool):
    """The mean in one dimension."""

    _ndim = 1


class SparseAvgPool2d(_OfDimension, SparseAvgPool):
    """The mean in two dimensions."""

    _ndim = 2


class SparseAvgPool3d(_OfDimension, SparseAvgPool):
    """The mean in three dimensions."""

    _ndim = 3


ALL_POOL_LAYERS = {
    SparseAvgPool,
    SparseAvgPool1d,
    SparseAvgPool2d,
    SparseAvgPool3d,
    SparseMaxPool,
    SparseMaxPool1d,
    SparseMaxPool2d,
    SparseMaxPool3d,
    SparseMaxPool4d,
}
