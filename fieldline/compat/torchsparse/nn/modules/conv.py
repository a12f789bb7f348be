# SPDX-License-Identifier: Apache-2.0
"""torchsparse's ``nn.Conv3d``, with the arguments of 2.1."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from .....engine.sparse.arguments import ints, whole
from ...tensor import SparseTensor
from ...utils.utils import make_ntuple
from ..functional.conv import conv3d

__all__ = ["Conv3d"]


class ConvParameters(nn.Module):
    """Kernel and bias of a convolution, and what it is made of.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: Per axis or for all.
        stride: Per axis or for all.
        dilation: Per axis or for all.
        bias: Add one.
        transposed: Back along a map that a strided layer made.
        matrix: A kernel of one tap is [C_in, C_out].
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any,
        dilation: Any,
        bias: bool,
        transposed: bool,
        matrix: bool,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        in_channels = self.in_channels = whole(name, "in_channels", in_channels)
        out_channels = self.out_channels = whole(name, "out_channels", out_channels)
        self.kernel_size = ints(name, "kernel_size", make_ntuple(kernel_size, 3), 3)
        self.stride = ints(name, "stride", make_ntuple(stride, 3), 3)
        ints(name, "dilation", make_ntuple(dilation, 3), 3)
        self.dilation = dilation
        self.transposed = transposed
        self.kernel_volume = math.prod(self.kernel_size)
        taps = () if matrix else (self.kernel_volume,)
        self.kernel = nn.Parameter(torch.empty(*taps, in_channels, out_channels))
        if bias:
            self.bias = nn.Parameter(torch.empty(out_channels))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws kernel and bias from U(-b, b), b = 1 / sqrt(fan * taps).

        The fan is C_in, and C_out of a transposed layer.
        """
        fan = self.out_channels if self.transposed else self.in_channels
        bound = 1 / math.sqrt(fan * self.kernel_volume)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def extra_repr(self) -> str:
        """The layer's sizes."""
        shown = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
        if self.stride != (1, 1, 1):
            shown += f", stride={self.stride}"
        if self.dilation != 1:
            shown += f", dilation={self.dilation}"
        if self.bias is None:
            shown += ", bias=False"
        return shown + ", transposed=True" if self.transposed else shown


class Conv3d(ConvParameters):
    """A sparse convolution.

    With stride 1 the output has the input's coordinates; with more, every coarse cell that the
    kernel reaches. Unlike torchsparse's, it applies its dilation.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: Per axis or for all.
        stride: Per axis or for all.
        padding: Per axis or for all; ignored along axes of an odd kernel and stride 1, which are
            centred.
        dilation: Per axis or for all.
        bias: Add one.
        transposed: Back to the coordinates that a strided layer of this kernel came from.
        generative: Transposed, to all coordinates that are reached.
        config: Modes of this layer (`functional.conv_config`).

    Raises:
        ValueError: It is generative and not transposed.

    Example:
        >>> coords = torch.tensor([[0, 0, 0, 0], [0, 1, 0, 0]], dtype=torch.int32)
        >>> x = SparseTensor(torch.ones(2, 4), coords)
        >>> down = Conv3d(4, 8, kernel_size=2, stride=2)(x)
        >>> down.C.tolist(), Conv3d(8, 4, 2, 2, transposed=True)(down).C.tolist()
        ([[0, 0, 0, 0]], [[0, 0, 0, 0], [0, 1, 0, 0]])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any = 3,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        bias: bool = False,
        transposed: bool = False,
        generative: bool = False,
        config: Any = None,
    ) -> None:
        if generative and not transposed:
            raise ValueError("Conv3d: generative: expected transposed=True with it")
        size, step = make_ntuple(kernel_size, 3), make_ntuple(stride, 3)
        matrix = size == step == (1, 1, 1)
        super().__init__(in_channels, out_channels, size, step, dilation, bias, transposed, matrix)
        around = ints(type(self).__name__, "padding", make_ntuple(padding, 3), 3, 0)
        self.padding = tuple(
            (k - 1) // 2 if k % 2 == 1 and s == 1 else p for k, s, p in zip(size, step, around)
        )
        self.generative = generative
        self._config = config

    def extra_repr(self) -> str:
        """The layer's sizes."""
        return super().extra_repr() + (", generative=True" if self.generative else "")

    def forward(self, input: SparseTensor) -> SparseTensor:
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
            self.padding,
            self.dilation,
            self._config,
            self.transposed,
            self.generative,
            self.training,
        )
