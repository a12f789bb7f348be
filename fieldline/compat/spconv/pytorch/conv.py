# SPDX-License-Identifier: Apache-2.0
"""spconv's ``pytorch.conv``: convolutions."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ....cuda.sparse import conv_ops
from ....cuda.sparse.kernel_map import KernelMap
from ....engine.sparse.arguments import check_kind, whole
from ...cumm.tensorview.gemm import Activation
from .. import SPCONV_VERSION_NUMBERS, constants
from ..constants import FILTER_HWIO
from ..core import ConvAlgo
from ..tools import nullcontext
from .core import IndiceData, SparseConvTensor
from .layer import MAX_NUM_VOXELS, MapLayer
from .ops import activation_of, kernel_of

__all__ = [
    "DEFAULT_SPARSE_CONV_TYPES",
    "FILTER_HWIO",
    "SPCONV_VERSION_NUMBERS",
    "SparseConv1d",
    "SparseConv2d",
    "SparseConv3d",
    "SparseConv4d",
    "SparseConvTranspose1d",
    "SparseConvTranspose2d",
    "SparseConvTranspose3d",
    "SparseConvTranspose4d",
    "SparseConvolution",
    "SparseConvolutionBase",
    "SparseInverseConv1d",
    "SparseInverseConv2d",
    "SparseInverseConv3d",
    "SparseInverseConv4d",
    "SubMConv1d",
    "SubMConv2d",
    "SubMConv3d",
    "SubMConv4d",
    "nullcontext",
]

# Which axis of a weight comes first in each layout that checkpoints were saved in.
_SAVED_LAYOUTS = {"RSKC": -2, "RSCK": -1}


class SparseConvolution(MapLayer):
    """A sparse convolution of any kind; the classes below name the kinds.

    Args:
        ndim: Axes of space.
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: Per axis or for all.
        stride: Per axis or for all; submanifold layers ignore it.
        padding: Per axis or for all; submanifold layers ignore it.
        dilation: Per axis or for all.
        groups: 1.
        bias: Add one.
        subm: Submanifold: the output has the input's coordinates.
        output_padding: Added to the output shape of a transposed layer.
        transposed: To all finer cells that are reached.
        inverse: Back along the map under ``indice_key``.
        indice_key: Where the map is kept.
        algo: Accepted.
        fp32_accum: Accepted: sums are always of float32.
        record_voxel_count: Keep the largest number of outputs in a buffer.
        act_type: Applied last.
        act_alpha: Slope of LeakyReLU.
        act_beta: Accepted.
        large_kernel_fast_algo: Accepted.
        name: Under which times are recorded.
        device: Of the parameters.
        dtype: Of the parameters.

    Example:
        >>> indices = torch.tensor([[0, 1, 2, 3]], dtype=torch.int32)
        >>> x = SparseConvTensor(torch.ones(1, 2), indices, [8, 8, 8], batch_size=1)
        >>> y = SparseConvolution(3, 2, 5, kernel_size=3, stride=2, padding=1)(x)
        >>> y.features.shape, y.spatial_shape
        (torch.Size([4, 5]), [4, 4, 4])
    """

    def __init__(
        self,
        ndim: int,
        in_channels: int,
        out_channels: int,
        kernel_size: Any = 3,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        subm: bool = False,
        output_padding: Any = 0,
        transposed: bool = False,
        inverse: bool = False,
        indice_key: str | None = None,
        algo: ConvAlgo | None = None,
        fp32_accum: bool | None = None,
        record_voxel_count: bool = False,
        act_type: Activation = Activation.None_,
        act_alpha: float = 0,
        act_beta: float = 0,
        large_kernel_fast_algo: bool = False,
        name: str | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            ndim,
            kernel_size,
            stride,
            padding,
            dilation,
            subm,
            indice_key,
            algo,
            record_voxel_count,
            name,
        )
        if groups != 1:
            raise ValueError(f"{type(self).__name__}: groups: expected 1, got {groups}")
        in_channels = self.in_channels = whole(type(self).__name__, "in_channels", in_channels)
        out_channels = self.out_channels = whole(type(self).__name__, "out_channels", out_channels)
        self.groups = groups
        self.output_padding = self._sizes("output_padding", output_padding, 0)
        self.transposed = transposed
        self.inverse = inverse
        self.fp32_accum = fp32_accum
        self.act_type = act_type
        self.act_alpha = act_alpha
        self.act_beta = act_beta
        # A kernel of one tap that does not move is a matrix product, without a map.
        still = subm or math.prod(self.stride) == 1
        self.conv1x1 = math.prod(self.kernel_size) == 1 and still
        if self.conv1x1 and not subm and any(self.padding):
            raise ValueError(
                f"{type(self).__name__}: padding: expected 0 with kernel_size=1 and stride=1, "
                f"got {self.padding}"
            )
        self.weight_shape = [out_channels, *self.kernel_size, in_channels]
        self.weight = nn.Parameter(torch.empty(self.weight_shape, device=device, dtype=dtype))
        if bias:
            self.bias = nn.Parameter(torch.empty(out_channels, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.register_voxel_count()
        self.reset_parameters()
        self.register_load_state_dict_pre_hook(_accept_older_checkpoints)

    def is_inverseable(self) -> bool:
        """Whether an inverse layer can go back along this one's map."""
        return self.indice_key is not None and not self.subm

    def reset_parameters(self) -> None:
        """Draws weight and bias from U(-b, b), b = 1 / sqrt(C_in * taps)."""
        bound = 1 / math.sqrt(self.in_channels * math.prod(self.kernel_size))
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def extra_repr(self) -> str:
        """The layer's sizes."""
        shown = f"{self.in_channels}, {self.out_channels}, {super().extra_repr()}"
        if self.bias is None:
            shown += ", bias=False"
        shown += f", algo={self.algo}"
        return shown if self.act_type == Activation.None_ else f"{shown}, act={self.act_type}"

    def forward(
        self, input: SparseConvTensor, add_input: SparseConvTensor | None = None
    ) -> SparseConvTensor:
        """Convolves.

        Args:
            input: Of C_in channels.
            add_input: Added before the activation; on the output's coordinates.

        Returns:
            The output, of the weight's type; under autocast in training, of autocast's.

        Raises:
            ValueError: Channels differ, or the rules of ``indice_key`` are broken.
        """
        check_kind(type(self).__name__, "input", input, SparseConvTensor)
        features = input.features
        if features.shape[-1] != self.in_channels:
            raise ValueError(
                f"{type(self).__name__}: input: expected {self.in_channels} channels, "
                f"got {features.shape[-1]}"
            )
        dtype = self._dtype(features)
        features, weight = features.to(dtype), self.weight.to(dtype)
        epilogue = _Epilogue(self, dtype, add_input)
        with torch.autocast(features.device.type, enabled=False):
            if self.conv1x1:
                # spconv reads this weight's memory as [C_in, C_out], whatever its shape says.
                product = features @ weight.reshape(self.in_channels, self.out_channels)
                output = input.replace_feature(epilogue.finish(product))
                output.spatial_shape = self.out_spatial_shape(input.spatial_shape)
                return output
            return self.run(input, lambda data: self._convolve(features, weight, data, epilogue))

    def _dtype(self, features: Tensor) -> torch.dtype:
        """Of the computation: eval keeps the weight's type under autocast, as spconv does."""
        kind = features.device.type
        if self.training and torch.is_autocast_enabled(kind):
            return torch.get_autocast_dtype(kind)
        return self.weight.dtype

    def _convolve(
        self, features: Tensor, weight: Tensor, data: IndiceData, epilogue: _Epilogue
    ) -> Tensor:
        kernel = kernel_of(weight)
        folding = data.inputs.folding
        kernel_map = data.kernel_map.reverse if self.inverse else data.kernel_map
        if folding is None:
            return epilogue.convolve(features, kernel, kernel_map)
        kind = "submanifold" if self.subm else "inverse" if self.inverse else "strided"
        middle = len(kernel) // 2
        return epilogue.finish(folding.convolve(features, kernel, kernel_map, kind, middle))


SparseConvolutionBase = SparseConvolution


class _Epilogue:
    """What follows the sums: bias, the other input, the activation."""

    def __init__(
        self, layer: SparseConvolution, dtype: torch.dtype, add_input: SparseConvTensor | None
    ) -> None:
        self.bias = None if layer.bias is None else layer.bias.to(dtype)
        self.residual = None if add_input is None else add_input.features.to(dtype)
        self.activation: conv_ops.Activation = activation_of(layer.act_type)
        self.slope = layer.act_alpha

    def convolve(self, features: Tensor, kernel: Tensor, kernel_map: KernelMap) -> Tensor:
        """Convolves, and finishes in the same pass."""
        return conv_ops.sparse_convolution(
            features,
            kernel,
            kernel_map,
            self.bias,
            self.residual,
            activation=self.activation,
            slope=self.slope,
        )

    def finish(self, features: Tensor) -> Tensor:
        """Finishes sums that were made in another way."""
        if self.bias is not None:
            features = features + self.bias
        if self.residual is not None:
            features = features + self.residual
        if self.activation == "leaky_relu":
            return nn.functional.leaky_relu(features, self.slope)
        if self.activation == "none":
            return features
        return getattr(torch, self.activation)(features)


def _accept_older_checkpoints(
    module: SparseConvolution, state_dict: dict[str, Tensor], prefix: str, *_: Any
) -> None:
    """Fills in the buffer that older checkpoints lack, and turns their weights."""
    recorded = module.get_max_num_voxels()
    if recorded is not None:
        state_dict.setdefault(prefix + MAX_NUM_VOXELS, torch.zeros_like(recorded))
    out_axis = _SAVED_LAYOUTS.get(constants.SAVED_WEIGHT_LAYOUT)
    key = prefix + "weight"
    if out_axis is not None and key in state_dict:
        state_dict[key] = state_dict[key].movedim(out_axis, 0).contiguous()


class _Strided(SparseConvolution):
    """A convolution to the cells that it reaches, on an axis of 1 to 4 dimensions.

    Arguments are those of `SparseConvolution` without ``ndim``, ``subm`` and what follows from the
    kind of layer.
    """

    _ndim: int
    _transposed = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        indice_key: str | None = None,
        algo: ConvAlgo | None = None,
        fp32_accum: bool | None = None,
        record_voxel_count: bool = False,
        large_kernel_fast_algo: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__(
            self._ndim,
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            transposed=self._transposed,
            indice_key=indice_key,
            algo=algo,
            fp32_accum=fp32_accum,
            record_voxel_count=record_voxel_count,
            large_kernel_fast_algo=large_kernel_fast_algo,
            name=name,
        )


class _Submanifold(SparseConvolution):
    """A convolution on the input's cells; stride and padding are ignored."""

    _ndim: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        indice_key: str | None = None,
        algo: ConvAlgo | None = None,
        fp32_accum: bool | None = None,
        large_kernel_fast_algo: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__(
            self._ndim,
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            True,
            indice_key=indice_key,
            algo=algo,
            fp32_accum=fp32_accum,
            large_kernel_fast_algo=large_kernel_fast_algo,
            name=name,
        )


class _Inverse(SparseConvolution):
    """A convolution back to the cells that a strided layer came from."""

    _ndim: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        indice_key: str,
        bias: bool = True,
        algo: ConvAlgo | None = None,
        fp32_accum: bool | None = None,
        large_kernel_fast_algo: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__(
            self._ndim,
            in_channels,
            out_channels,
            kernel_size,
            bias=bias,
            inverse=True,
            indice_key=indice_key,
            algo=algo,
            fp32_accum=fp32_accum,
            large_kernel_fast_algo=large_kernel_fast_algo,
            name=name,
        )


class SparseConv1d(_Strided):
    """A strided convolution in one dimension."""

    _ndim = 1


class SparseConv2d(_Strided):
    """A strided convolution in two dimensions."""

    _ndim = 2


class SparseConv3d(_Strided):
    """A strided convolution in three dimensions."""

    _ndim = 3


class SparseConv4d(_Strided):
    """A strided convolution in four dimensions."""

    _ndim = 4


class SparseConvTranspose1d(_Strided):
    """A transposed convolution in one dimension."""

    _ndim = 1
    _transposed = True


class SparseConvTranspose2d(_Strided):
    """A transposed convolution in two dimensions."""

    _ndim = 2
    _transposed = True


class SparseConvTranspose3d(_Strided):
    """A transposed convolution in three dimensions."""

    _ndim = 3
    _transposed = True


class SparseConvTranspose4d(_Strided):
    """A transposed convolution in four dimensions."""

    _ndim = 4
    _transposed = True


class SparseInverseConv1d(_Inverse):
    """An inverse convolution in one dimension."""

    _ndim = 1


class SparseInverseConv2d(_Inverse):
    """An inverse convolution in two dimensions."""

    _ndim = 2


class SparseInverseConv3d(_Inverse):
    """An inverse convolution in three dimensions."""

    _ndim = 3


class SparseInverseConv4d(_Inverse):
    """An inverse convolution in four dimensions."""

    _ndim = 4


class SubMConv1d(_Submanifold):
    """A submanifold convolution in one dimension."""

    _ndim = 1


class SubMConv2d(_Submanifold):
    """A submanifold convolution in two dimensions."""

    _ndim = 2


class SubMConv3d(_Submanifold):
    """A submanifold convolution in three dimensions."""

    _ndim = 3


class SubMConv4d(_Submanifold):
    """A submanifold convolution in four dimensions."""

    _ndim = 4


DEFAULT_SPARSE_CONV_TYPES = {
    SubMConv1d,
    SubMConv2d,
    SubMConv3d,
    SubMConv4d,
    SparseConv1d,
    SparseConv2d,
    SparseConv3d,
    SparseConv4d,
    SparseInverseConv1d,
    SparseInverseConv2d,
    SparseInverseConv3d,
    SparseInverseConv4d,
    SparseConvTranspose1d,
    SparseConvTranspose2d,
    SparseConvTranspose3d,
    SparseConvTranspose4d,
}
