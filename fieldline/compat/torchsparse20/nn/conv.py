# SPDX-License-Identifier: Apache-2.0
"""torchsparse 2.0's convolution."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ....cuda.sparse import map_ops
from ....cuda.sparse.map_ops import Taps
from ....engine.sparse.arguments import check_coordinates
from ...torchsparse.nn.functional import conv as _conv
from ...torchsparse.nn.functional import maps
from ...torchsparse.nn.functional.maps import Kmap, Level
from ...torchsparse.nn.modules.conv import ConvParameters
from ...torchsparse.utils.utils import make_ntuple

__all__ = ["Conv3d", "conv3d", "spdownsample"]

_ONE = (1, 1, 1)
_BATCH_LAST = [1, 2, 3, 0]
_BATCH_FIRST = [3, 0, 1, 2]
Shape = tuple[int, ...]


def conv3d(
    input: Any,
    weight: Tensor,
    kernel_size: Any,
    bias: Tensor | None = None,
    stride: Any = 1,
    dilation: Any = 1,
    transposed: bool = False,
    epsilon: float = 0.0,
    mm_thresh: int = 0,
    kmap_mode: str = "hashmap",
) -> Any:
    """Convolves a sparse tensor. Unlike torchsparse's, it applies its dilation.

    Args:
        input: Of C_in channels.
        weight: [K, C_in, C_out]; [C_in, C_out] of one tap.
        kernel_size: Per axis or for all.
        bias: [C_out].
        stride: Per axis or for all; 1: the output has the input's coordinates.
        dilation: Per axis or for all.
        transposed: Back to the coordinates that a strided layer of this kernel came from.
        epsilon: Accepted.
        mm_thresh: Accepted.
        kmap_mode: Accepted.

    Returns:
        The output.

    Raises:
        ValueError: No strided layer of this kernel was there before a transposed one.
    """
    _conv.check_operands(input, weight, bias)
    size, step, spread = _conv.layer_sizes(kernel_size, stride, dilation)
    if size == step == _ONE:
        return input.like(_conv.pointwise(input.feats, weight, bias))
    if transposed:
        return _conv.convolve_back(input, weight, bias, (size, step, spread))
    key = (input.stride, size, step, spread)
    kmap = _conv.find(input, key)
    if kmap is None:
        kmap = _make(input, size, step, spread)
        input._caches.kmaps[key] = kmap
    return _conv.convolve(input, weight, bias, kmap, step)


@torch.no_grad()
def _make(input: Any, size: Shape, step: Shape, spread: Shape) -> Kmap:
    level = maps.level_of(input)
    taps = centred_taps(size, step, spread, input.stride)
    if step == _ONE:
        return maps.submanifold(level, taps, None)
    coarse = _coarse(level.natural.unique_coords, taps, size, step, spread)
    placed = _placed(coarse, taps.stride)
    return maps.strided(level, taps, coarse, Level(placed, 3, regular=True))


def centred_taps(size: Shape, step: Shape, spread: Shape, tensor_stride: Shape) -> Taps:
    """Taps between coordinates in units of the input, the coarse ones divided by their stride.

    Args:
        size: Kernel size.
        step: Stride of the layer.
        spread: Dilation of the layer.
        tensor_stride: Of the layer's input.

    Returns:
        The taps; of stride 1, between coordinates that are not divided.
    """
    dilation = tuple(d * t for d, t in zip(spread, tensor_stride))
    origin = tuple(-d * ((k - 1) // 2) for k, d in zip(size, dilation))
    coarse = _ONE if step == _ONE else tuple(s * t for s, t in zip(step, tensor_stride))
    return Taps(size, coarse, dilation, origin)


def _coarse(coords: Tensor, taps: Taps, size: Shape, step: Shape, spread: Shape) -> Tensor:
    """int32 [M, 4], batch first, in units of the taps' stride: what a strided layer makes."""
    if all(s in (1, k) for k, s in zip(size, step)) and spread == _ONE:
        return maps.floored(coords, taps.stride)
    lowest, _ = map_ops.sparse_bounds(coords)
    low = tuple(-(-n // s) for n, s in zip(lowest[1:], taps.stride))
    return map_ops.sparse_coarse_coordinates(coords, taps, low, None)


def _placed(coarse: Tensor, stride: Shape) -> Tensor:
    """Coarse cells as the user has them: batch last, in units of the input."""
    return (coarse * coarse.new_tensor((1, *stride)))[:, _BATCH_LAST]


@torch.no_grad()
def spdownsample(
    coords: Tensor, stride: Any = 2, kernel_size: Any = 2, tensor_stride: Any = 1
) -> Tensor:
    """The coordinates of a strided layer's output.

    Args:
        coords: int32 [N, 4], batch last, in units of the input.
        stride: Per axis or for all.
        kernel_size: Per axis or for all.
        tensor_stride: Of the coordinates, per axis or for all.

    Returns:
        int32 [M, 4], in the order of batch, x, y, z.

    Example:
        >>> coords = torch.tensor([[3, 0, 5, 1]], dtype=torch.int32)
        >>> spdownsample(coords).tolist()
        [[2, 0, 4, 1]]
    """
    check_coordinates("spdownsample", "coords", coords, 3)
    size, step, units = _conv.layer_sizes(kernel_size, stride, tensor_stride)
    taps = centred_taps(size, step, _ONE, units)
    taps = taps._replace(stride=tuple(s * t for s, t in zip(step, units)))
    coarse = _coarse(coords[:, _BATCH_FIRST].contiguous(), taps, size, step, _ONE)
    return _placed(coarse, taps.stride)


class Conv3d(ConvParameters):
    """A sparse convolution, centred.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: Per axis or for all.
        stride: Per axis or for all.
        dilation: Per axis or for all.
        bias: Add one.
        transposed: Back to the coordinates that a strided layer of this kernel came from.
        config: Kept, not used.

    Example:
        >>> from fieldline.compat.torchsparse20 import SparseTensor
        >>> coords = torch.tensor([[0, 0, 0, 0], [1, 0, 0, 0]], dtype=torch.int32)
        >>> x = SparseTensor(torch.ones(2, 4), coords)
        >>> down = Conv3d(4, 8, 2, 2)(x)
        >>> down.C.tolist(), Conv3d(8, 4, 2, 2, transposed=True)(down).C.tolist()
        ([[0, 0, 0, 0]], [[0, 0, 0, 0], [1, 0, 0, 0]])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any = 3,
        stride: Any = 1,
        dilation: Any = 1,
        bias: bool = False,
        transposed: bool = False,
        config: Any = None,
    ) -> None:
        size = make_ntuple(kernel_size, 3)
        super().__init__(
            in_channels, out_channels, size, stride, dilation, bias, transposed, size == _ONE
        )
        self.config = {"epsilon": 0.0, "mm_thresh": 0, "kmap_mode": "hashmap", **(config or {})}

    def forward(self, input: Any) -> Any:
        """Convolves.

        Args:
            input: Of C_in channels.

        Returns:
            The output.
        """
        return conv3d(
            input,
            self.kernel,
            self.kernel_size,
            self.bias,
            self.stride,
            self.dilation,
            self.transposed,
        )
