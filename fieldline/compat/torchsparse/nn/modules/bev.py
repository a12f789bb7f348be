# SPDX-License-Identifier: Apache-2.0
"""torchsparse's bird's-eye views: one axis of space summed up or laid out as channels.

An axis is named by ``dim``: 0, 1, 2 for x, y, z, wherever the batch column stands. A weight for
each position along the axis is a strided convolution whose kernel spans the axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .....cuda.sparse import conv_ops, pool_ops
from .....cuda.sparse.map_ops import Taps, sparse_unique
from ....coordinate_set import CoordinateSet
from ...tensor import SparseTensor
from ...utils.to_dense import to_dense
from ..functional.conv import of_one_type
from ..functional.pooling import batch_size_of, check_input

__all__ = ["ToBEVConvolution", "ToBEVHeightCompression", "ToBEVReduction", "ToDenseBEVConvolution"]


class ToBEVReduction(nn.Module):
    """The mean along an axis; coordinates along it become 0.

    Args:
        dim: The axis.

    Example:
        >>> coords = torch.tensor([[0, 1, 2, 3], [0, 1, 5, 3]], dtype=torch.int32)
        >>> view = ToBEVReduction(dim=1)(SparseTensor(torch.tensor([[1.0], [3.0]]), coords))
        >>> view.C.tolist(), view.F.tolist()
        ([[0, 1, 0, 3]], [[2.0]])
    """

    def __init__(self, dim: int = 1) -> None:
        super().__init__()
        self.dim = dim

    def extra_repr(self) -> str:
        """The axis."""
        return f"dim={self.dim}"

    def forward(self, input: SparseTensor) -> SparseTensor:
        """The view, as a sparse tensor without maps."""
        check_input("ToBEVReduction", input)
        coords = input.coords.clone()
        coords[:, self.dim + (input.batch_column == 0)] = 0
        unique = sparse_unique(coords)
        feats = pool_ops.sparse_segment_reduce(
            input.feats, unique.inverse, len(unique.coords), "mean"
        )
        return input.like(feats, unique.coords, caches=None)


class _AlongAxis(nn.Module):
    """A matrix for each position along an axis.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        n_kernels: Positions.
        dim: The axis.
        bias: Add one to every row.
    """

    def __init__(
        self, in_channels: int, out_channels: int, n_kernels: int, dim: int, bias: bool
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.n_kernels = n_kernels
        self.dim = dim
        self.kernel = nn.Parameter(torch.empty(n_kernels, in_channels, out_channels))
        if bias:
            self.bias = nn.Parameter(torch.zeros(1, out_channels))
        else:
            self.register_parameter("bias", None)
        bound = 1 / math.sqrt(in_channels)
        nn.init.uniform_(self.kernel, -bound, bound)

    def extra_repr(self) -> str:
        """The layer's sizes."""
        return f"in_channels={self.in_channels}, out_channels={self.out_channels}, " + (
            f"n_kernels={self.n_kernels}"
        )

    def summed(self, input: SparseTensor, offset: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Sums along the axis.

        Args:
            input: A sparse tensor.
            offset: Subtracted from x, y, z first.

        Returns:
            [M, C_out], and int32 [M, 4], batch first, 0 along the axis.
        """
        places = _places(input)
        places[:, 1:] -= places.new_tensor(list(offset))
        size = tuple(self.n_kernels if axis == self.dim else 1 for axis in range(3))
        low = [-(2**31)] * 3
        high = [2**31 - 1] * 3
        low[self.dim], high[self.dim] = 0, 1
        taps = Taps(size, size, (1, 1, 1), (0, 0, 0))
        fine = CoordinateSet(places)
        with torch.no_grad():
            reached = fine.strided(taps, tuple(low), tuple(high))
        feats, kernel, bias = of_one_type(input.feats, self.kernel, self.bias)
        if bias is not None:
            # Added to each row before rows are summed up: the weight of a channel of ones.
            feats = torch.cat([feats, torch.ones_like(feats[:, :1])], 1)
            kernel = torch.cat([kernel, bias.expand(len(kernel), 1, -1)], 1)
        feats = feats if fine.folding is None else fine.folding.add_up(feats)
        with torch.autocast(feats.device.type, enabled=False):
            summed = conv_ops.sparse_convolution(feats, kernel, reached.kernel_map)
        return summed, reached.coordinates.coords


class ToDenseBEVConvolution(_AlongAxis):
    """A matrix for each position along an axis, summed to a dense map.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        shape: Sizes of x, y, z.
        offset: Subtracted from x, y, z.
        dim: The axis.
        bias: Add one to every row.

    Example:
        >>> coords = torch.tensor([[0, 1, 2, 3]], dtype=torch.int32)
        >>> layer = ToDenseBEVConvolution(2, 5, shape=(4, 6, 8), dim=1)
        >>> layer(SparseTensor(torch.ones(1, 2), coords)).shape
        torch.Size([1, 5, 4, 8])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        shape: Sequence[int] | Tensor,
        offset: Sequence[int] = (0, 0, 0),
        dim: int = 1,
        bias: bool = False,
    ) -> None:
        sizes = [int(n) for n in shape]
        super().__init__(in_channels, out_channels, sizes[dim], dim, bias)
        self.register_buffer("offset", torch.tensor([[*offset, 0]], dtype=torch.int32))
        self.register_buffer("shape", torch.tensor(sizes, dtype=torch.int32))
        self._sizes, self._offset = sizes, tuple(offset)

    def forward(self, input: SparseTensor) -> Tensor:
        """[batch, C_out, *the other two axes]."""
        feats, coords = self.summed(input, self._offset)
        axes = [axis for axis in range(3) if axis != self.dim]
        places = coords[:, [0, *(1 + axis for axis in axes)]]
        shape = (batch_size_of(input), *(self._sizes[axis] for axis in axes))
        return to_dense(feats, places, shape).movedim(-1, 1).contiguous()


class ToBEVConvolution(_AlongAxis):
    """A matrix for each position along an axis, summed to a sparse map.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        n_kernels: Positions.
        stride: Cells of the output hold so many along each other axis.
        dim: The axis.
        bias: Add one to every row.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        n_kernels: int,
        stride: int = 1,
        dim: int = 1,
        bias: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, n_kernels, dim, bias)
        self.stride = stride

    def forward(self, input: SparseTensor) -> SparseTensor:
        """The view, as a sparse tensor without maps; 0 along the axis."""
        feats, coords = self.summed(input, (0, 0, 0))
        steps = coords.new_tensor([1, self.stride, self.stride, self.stride])
        unique = sparse_unique(torch.div(coords, steps, rounding_mode="floor"))
        feats = pool_ops.sparse_segment_reduce(feats, unique.inverse, len(unique.coords), "sum")
        stride = tuple(s * self.stride for s in input.stride)
        columns = [0, 1, 2, 3] if input.batch_column == 0 else [1, 2, 3, 0]
        placed = input.like(feats, unique.coords[:, columns], stride, None, None)
        if input.batch_column:
            placed.coords[:, :3] *= placed.coords.new_tensor(stride)
        return placed


class ToBEVHeightCompression(nn.Module):
    """Cells along an axis laid out as channels of a dense map.

    Args:
        channels: C.
        shape: Sizes of x, y, z.
        offset: Subtracted from x, y, z.
        dim: The axis; positions past its ends count as the last ones.

    Example:
        >>> coords = torch.tensor([[0, 1, 2, 3]], dtype=torch.int32)
        >>> layer = ToBEVHeightCompression(2, shape=(4, 6, 8), dim=1)
        >>> layer(SparseTensor(torch.ones(1, 2), coords)).shape
        torch.Size([1, 12, 4, 8])
    """

    def __init__(
        self,
        channels: int,
        shape: Sequence[int] | Tensor,
        offset: Sequence[int] = (0, 0, 0),
        dim: int = 1,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.dim = dim
        sizes = [int(n) for n in shape]
        self.register_buffer("offset", torch.tensor([[*offset, 0]], dtype=torch.int32))
        self.register_buffer("shape", torch.tensor(sizes, dtype=torch.int32))
        self._sizes, self._offset = sizes, tuple(offset)

    def extra_repr(self) -> str:
        """The channels."""
        return f"channels={self.channels}"

    def forward(self, input: SparseTensor) -> Tensor:
        """[batch, cells along the axis * C, *the other two axes]; the axis varies slowest."""
        places = _places(input)
        places[:, 1:] -= places.new_tensor(self._offset)
        axes: list[Any] = [axis for axis in range(3) if axis != self.dim]
        places = places[:, [0, *(1 + axis for axis in axes), 1 + self.dim]]
        places[:, -1] = places[:, -1].clamp(0, self._sizes[self.dim] - 1)
        sizes = [self._sizes[axis] for axis in (*axes, self.dim)]
        dense = to_dense(input.feats, places, (batch_size_of(input), *sizes))
        return dense.flatten(3).movedim(-1, 1).contiguous()


def _places(input: SparseTensor) -> Tensor:
    """int32 [N, 4], batch first, in units of the stride."""
    check_input("ToBEV", input)
    if input.batch_column == 0:
        return input.coords.clone()
    coords = input.coords[:, [3, 0, 1, 2]]
    steps = coords.new_tensor((1, *input.stride))
    return torch.div(coords, steps, rounding_mode="floor")
