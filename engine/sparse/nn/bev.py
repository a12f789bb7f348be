# SPDX-License-Identifier: Apache-2.0
"""From a volume to a bird's-eye view: the height goes into channels, a reduction or a kernel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ....cuda.sparse import pool_ops
from .. import cache
from ..arguments import MOST_DIMENSIONS, REDUCTIONS, Reduction, check_kind, one_of, whole
from ..tensor import SparseTensor
from .convolution import Convolution


class ToBEVDense(nn.Module):
    """A dense map whose channels are those of every height, one after another.

    Args:
        axis: Of height among the spatial axes; default: the last.

    Example:
        >>> x = SparseTensor(torch.zeros(1, 4, dtype=torch.int32), torch.ones(1, 2), 1, (5, 6, 7))
        >>> ToBEVDense()(x).shape
        torch.Size([1, 14, 5, 6])
    """

    def __init__(self, axis: int = -1) -> None:
        super().__init__()
        self.axis = whole("ToBEVDense", "axis", axis, None)

    def forward(self, x: SparseTensor) -> Tensor:
        """Gives channel c of height h the number c * heights + h.

        Args:
            x: With a spatial range.

        Returns:
            [batch_size, C * heights, *other sizes].

        Raises:
            ValueError: There is no spatial range.
        """
        check_kind("ToBEVDense", "x", x, SparseTensor)
        if x.spatial_range is None:
            raise ValueError(
                "ToBEVDense: x: expected a spatial_range, which says how many channels and cells "
                "the map has, got None"
            )
        axis = _axis("ToBEVDense", self.axis, x.ndim)
        return x.dense().movedim(2 + axis, 2).flatten(1, 2)

    def extra_repr(self) -> str:
        """What `repr` says between the brackets."""
        return f"axis={self.axis}"


class ToBEVReduction(nn.Module):
    """A sparse map of one dimension less, whose rows reduce those of a column.

    Args:
        axis: Of height among the spatial axes; default: the last.
        reduce: "sum", "mean", "max", "min" or "first".

    Example:
        >>> coords = torch.tensor([[0, 4, 5, 0], [0, 4, 5, 9]], dtype=torch.int32)
        >>> y = ToBEVReduction()(SparseTensor(coords, torch.eye(2)))
        >>> y.coords.tolist(), y.feats.tolist()
        ([[0, 4, 5]], [[1.0, 1.0]])
    """

    def __init__(self, axis: int = -1, reduce: Reduction = "sum") -> None:
        super().__init__()
        self.axis = whole("ToBEVReduction", "axis", axis, None)
        one_of("ToBEVReduction", "reduce", reduce, REDUCTIONS)
        self.reduce: Reduction = reduce

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Reduces each column.

        Args:
            x: Of 2 to 4 dimensions.

        Returns:
            Its map, on one level for all layers that look along this axis.
        """
        check_kind("ToBEVReduction", "x", x, SparseTensor)
        axis = _axis("ToBEVReduction", self.axis, x.ndim)
        return _from_above(x, axis, self.reduce)

    def extra_repr(self) -> str:
        """What `repr` says between the brackets."""
        return f"axis={self.axis}, reduce={self.reduce!r}"


class ToBEVConvolution(Convolution):
    """A sparse map of one dimension less, with a kernel of its own for each height.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        heights: How many; rows are at 0 to here, exclusive, and others are left out.
        axis: Of height among the spatial axes; default: the last.
        ndim: Spatial dimensions of the input.
        bias: Whether one is added.
        device: Of the parameters.
        dtype: Of the parameters.

    Example:
        >>> coords = torch.tensor([[0, 4, 5, 0], [0, 4, 5, 9]], dtype=torch.int32)
        >>> y = ToBEVConvolution(2, 8, heights=10)(SparseTensor(coords, torch.eye(2)))
        >>> y.coords.tolist(), y.channels
        ([[0, 4, 5]], 8)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        heights: int,
        axis: int = -1,
        ndim: int = 3,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        name = type(self).__name__
        self_axis = _axis(name, axis, whole(name, "ndim", ndim))
        heights = whole(name, "heights", heights)
        # A column is what one tap after another of a kernel as high as it meets.
        size = tuple(heights if a == self_axis else 1 for a in range(ndim))
        recipe = cache.strided(size, size, ndim=ndim)
        super().__init__(recipe, in_channels, out_channels, 1, bias, device, dtype)
        self.axis = self_axis
        self.heights = heights

    def forward(self, x: SparseTensor, residual: object = None) -> SparseTensor:
        """Convolves each column.

        Args:
            x: [N, C_in].
            residual: Not taken.

        Returns:
            Its map, with a cache of its own.
        """
        y = super().forward(x)
        if y.spatial_range is None or y.spatial_range[self.axis] != 1:
            y = y.prune(y.coords[:, 1 + self.axis] == 0)
        return _from_above(y, self.axis, "sum")


def _axis(name: str, axis: int, ndim: int) -> int:
    whole(name, "axis", axis, None)
    if not 2 <= ndim <= MOST_DIMENSIONS or not -ndim <= axis < ndim:
        raise ValueError(f"{name}: axis: expected one of 2 to 4 spatial axes, got {axis} of {ndim}")
    return axis % ndim


def _from_above(x: SparseTensor, axis: int, reduce: Reduction) -> SparseTensor:
    view = x.maps.view(x.level, axis)
    feats = pool_ops.sparse_segment_reduce(x.feats, view.columns, mode=reduce)
    return SparseTensor.on(feats, view.level, view.maps)
