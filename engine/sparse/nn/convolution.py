# SPDX-License-Identifier: Apache-2.0
"""Convolutions as modules.

A kernel is ``weight`` [*kernel_size, C_in // groups, C_out] with ``bias`` [C_out]; axis i of a
kernel goes along axis i of space. `fuse` sets ``activation``, what becomes of the sum of
convolution, bias and residual; it is "none" otherwise.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ....cuda.sparse.activations import Activation
from .. import cache
from ..arguments import Ints, flag, ints, whole
from ..cache import Recipe
from ..functional.convolution import convolve
from ..tensor import SparseTensor


class Convolution(nn.Module):
    """What all convolutions share: a kernel, and the recipe of the map it goes along.

    Args:
        recipe: Of the map.
        in_channels: C_in.
        out_channels: C_out.
        groups: Parts of the channels that are convolved apart; C_in of them: depthwise.
        bias: Whether one is added.
        device: Of the parameters.
        dtype: Of the parameters.

    Raises:
        TypeError: An argument is of another kind.
        ValueError: The groups do not divide the channels.
    """

    recipe: Recipe
    bias: Tensor | None

    def __init__(
        self,
        recipe: Recipe,
        in_channels: int,
        out_channels: int,
        groups: int = 1,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        in_channels = whole(name, "in_channels", in_channels)
        out_channels = whole(name, "out_channels", out_channels)
        groups = whole(name, "groups", groups)
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"{name}: groups: expected a divisor of {in_channels} and {out_channels} channels, "
                f"got {groups}"
            )
        self.recipe = recipe
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.groups = groups
        self.activation: Activation = "none"
        self.slope = 0.01
        shape = (*recipe.kernel_size, in_channels // groups, out_channels)
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        if flag(name, "bias", bias):
            self.bias = nn.Parameter(torch.empty(out_channels, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    @property
    def kernel_size(self) -> tuple[int, ...]:
        """Per axis."""
        return self.recipe.kernel_size

    @property
    def stride(self) -> tuple[int, ...]:
        """Per axis."""
        return self.recipe.stride

    @property
    def dilation(self) -> tuple[int, ...]:
        """Per axis."""
        return self.recipe.dilation

    def reset_parameters(self) -> None:
        """Draws kernel and bias from +-1 / sqrt(fan in), as the dense convolutions of torch."""
        fan = math.prod(self.weight.shape[:-1])
        bound = 1 / math.sqrt(fan)
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(
        self, x: SparseTensor, residual: SparseTensor | Tensor | None = None
    ) -> SparseTensor:
        """Convolves.

        Args:
            x: [N, C_in].
            residual: Added before the activation; rows of the output.

        Returns:
            [M, C_out].
        """
        if not isinstance(x, SparseTensor):
            raise TypeError(
                f"{type(self).__name__}: x: expected a SparseTensor, got {type(x).__name__}"
            )
        if x.feats.shape[1] != self.in_channels:
            raise ValueError(
                f"{type(self).__name__}: x: expected {self.in_channels} channels, got {x.channels}"
            )
        return convolve(
            x, self.recipe, self.weight, self.bias, residual, self.activation, self.slope
        )

    def extra_repr(self) -> str:
        """What `repr` says between the brackets."""
        recipe = self.recipe
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={recipe.kernel_size}"]
        if recipe.kind != "submanifold":
            parts.append(f"stride={recipe.stride}")
        if recipe.kind in ("strided", "transposed") and any(recipe.origin):
            parts.append(f"padding={tuple(-o for o in recipe.origin)}")
        if max(recipe.dilation) > 1:
            parts.append(f"dilation={recipe.dilation}")
        if self.groups > 1:
            parts.append(f"groups={self.groups}")
        if self.bias is None:
            parts.append("bias=False")
        if self.activation != "none":
            parts.append(f"activation={self.activation!r}")
        return ", ".join(parts)


class _Conv(Convolution):
    """Reaches every coordinate that a dense convolution would, divided by the stride."""

    ndim: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: Ints = 0,
        dilation: Ints = 1,
        groups: int = 1,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        name, ndim = type(self).__name__, self.ndim
        recipe = cache.strided(
            ints(name, "kernel_size", kernel_size, ndim),
            ints(name, "stride", stride, ndim),
            ints(name, "padding", padding, ndim, 0),
            ints(name, "dilation", dilation, ndim),
            ndim=ndim,
        )
        super().__init__(recipe, in_channels, out_channels, groups, bias, device, dtype)


class _SubmConv(Convolution):
    """Stays on the coordinates there are."""

    ndim: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        dilation: Ints = 1,
        groups: int = 1,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        name, ndim = type(self).__name__, self.ndim
        recipe = cache.submanifold(
            ints(name, "kernel_size", kernel_size, ndim),
            ints(name, "dilation", dilation, ndim),
            ndim=ndim,
        )
        super().__init__(recipe, in_channels, out_channels, groups, bias, device, dtype)


class _ConvTranspose(Convolution):
    """Reaches every finer coordinate that a dense transposed convolution would."""

    ndim: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: Ints = 0,
        output_padding: Ints = 0,
        dilation: Ints = 1,
        groups: int = 1,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        name, ndim = type(self).__name__, self.ndim
        recipe = cache.transposed(
            ints(name, "kernel_size", kernel_size, ndim),
            ints(name, "stride", stride, ndim),
            ints(name, "padding", padding, ndim, 0),
            ints(name, "output_padding", output_padding, ndim, 0),
            ints(name, "dilation", dilation, ndim),
            ndim=ndim,
        )
        super().__init__(recipe, in_channels, out_channels, groups, bias, device, dtype)


class _InverseConv(Convolution):
    """Goes back along the map of a strided convolution or pooling, to where that came from."""

    ndim: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: Ints | None = None,
        dilation: Ints = 1,
        groups: int = 1,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        name, ndim = type(self).__name__, self.ndim
        recipe = cache.inverse(
            ints(name, "kernel_size", kernel_size, ndim),
            ints(name, "stride", stride, ndim),
            None if padding is None else ints(name, "padding", padding, ndim, 0),
            ints(name, "dilation", dilation, ndim),
            ndim=ndim,
        )
        super().__init__(recipe, in_channels, out_channels, groups, bias, device, dtype)


class Conv1d(_Conv):
    """`Conv3d` for tensors of 1 dimension."""

    ndim = 1


class Conv2d(_Conv):
    """`Conv3d` for tensors of 2 dimensions."""

    ndim = 2


class Conv3d(_Conv):
    """Reaches every coordinate that a dense convolution would, divided by the stride.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: A number, or one per axis.
        stride: A number, or one per axis.
        padding: A number, or one per axis.
        dilation: A number, or one per axis.
        groups: Parts of the channels that are convolved apart.
        bias: Whether one is added.
        device: Of the parameters.
        dtype: Of the parameters.

    Example:
        >>> x = SparseTensor(torch.tensor([[0, 6, 7, 0]], dtype=torch.int32), torch.ones(1, 2))
        >>> y = Conv3d(2, 16, kernel_size=2, stride=2)(x)
        >>> y.coords.tolist(), y.channels
        ([[0, 3, 3, 0]], 16)
    """

    ndim = 3


class Conv4d(_Conv):
    """`Conv3d` for tensors of 4 dimensions."""

    ndim = 4


class SubmConv1d(_SubmConv):
    """`SubmConv3d` for tensors of 1 dimension."""

    ndim = 1


class SubmConv2d(_SubmConv):
    """`SubmConv3d` for tensors of 2 dimensions."""

    ndim = 2


class SubmConv3d(_SubmConv):
    """Stays on the coordinates there are.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: A number, or one per axis; of even ones, one more tap lies above the centre.
        dilation: A number, or one per axis.
        groups: Parts of the channels that are convolved apart.
        bias: Whether one is added.
        device: Of the parameters.
        dtype: Of the parameters.

    Source:
        Graham, Engelcke, van der Maaten, 3D Semantic Segmentation with Submanifold Sparse
        Convolutional Networks, CVPR 2018.

    Example:
        >>> x = SparseTensor(torch.tensor([[0, 6, 7, 0]], dtype=torch.int32), torch.ones(1, 2))
        >>> SubmConv3d(2, 16, kernel_size=3)(x).coords.tolist()
        [[0, 6, 7, 0]]
    """

    ndim = 3


class SubmConv4d(_SubmConv):
    """`SubmConv3d` for tensors of 4 dimensions."""

    ndim = 4


class ConvTranspose1d(_ConvTranspose):
    """`ConvTranspose3d` for tensors of 1 dimension."""

    ndim = 1


class ConvTranspose2d(_ConvTranspose):
    """`ConvTranspose3d` for tensors of 2 dimensions."""

    ndim = 2


class ConvTranspose3d(_ConvTranspose):
    """Reaches every finer coordinate that a dense transposed convolution would.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: A number, or one per axis.
        stride: A number, or one per axis.
        padding: A number, or one per axis.
        output_padding: Added to the spatial range, if there is one.
        dilation: A number, or one per axis.
        groups: Parts of the channels that are convolved apart.
        bias: Whether one is added.
        device: Of the parameters.
        dtype: Of the parameters.

    Example:
        >>> x = SparseTensor(torch.tensor([[0, 3, 3, 0]], dtype=torch.int32), torch.ones(1, 2))
        >>> len(ConvTranspose3d(2, 16, kernel_size=2, stride=2)(x))
        8
    """

    ndim = 3


class ConvTranspose4d(_ConvTranspose):
    """`ConvTranspose3d` for tensors of 4 dimensions."""

    ndim = 4


class InverseConv1d(_InverseConv):
    """`InverseConv3d` for tensors of 1 dimension."""

    ndim = 1


class InverseConv2d(_InverseConv):
    """`InverseConv3d` for tensors of 2 dimensions."""

    ndim = 2


class InverseConv3d(_InverseConv):
    """Goes back along the map of a strided convolution or pooling, to where that came from.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: Of that convolution.
        stride: Of that convolution.
        padding: Of that convolution; default: whichever it had.
        dilation: Of that convolution.
        groups: Parts of the channels that are convolved apart.
        bias: Whether one is added.
        device: Of the parameters.
        dtype: Of the parameters.

    Raises:
        ValueError: On calls, if no such convolution made the coordinates.

    Example:
        >>> x = SparseTensor(torch.tensor([[0, 6, 7, 0]], dtype=torch.int32), torch.ones(1, 2))
        >>> y = Conv3d(2, 4, kernel_size=2, stride=2)(x)
        >>> InverseConv3d(4, 2, kernel_size=2, stride=2)(y).coords.tolist()
        [[0, 6, 7, 0]]
    """

    ndim = 3


class InverseConv4d(_InverseConv):
    """`InverseConv3d` for tensors of 4 dimensions."""

    ndim = 4


class GenerativeConvTranspose3d(Convolution):
    """Makes new, finer coordinates around each row, centred; prune them afterwards.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: A number, or one per axis.
        stride: A number, or one per axis.
        dilation: A number, or one per axis.
        groups: Parts of the channels that are convolved apart.
        bias: Whether one is added.
        device: Of the parameters.
        dtype: Of the parameters.

    Source:
        Gwak, Choy, Savarese, Generative Sparse Detection Networks for 3D Single-shot Object
        Detection, ECCV 2020.

    Example:
        >>> x = SparseTensor(torch.zeros(1, 4, dtype=torch.int32), torch.ones(1, 2))
        >>> len(GenerativeConvTranspose3d(2, 4, kernel_size=2)(x))
        8
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 2,
        dilation: Ints = 1,
        groups: int = 1,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        name = type(self).__name__
        recipe = cache.generative(
            ints(name, "kernel_size", kernel_size, 3),
            ints(name, "stride", stride, 3),
            ints(name, "dilation", dilation, 3),
            ndim=3,
        )
        super().__init__(recipe, in_channels, out_channels, groups, bias, device, dtype)
