# SPDX-License-Identifier: Apache-2.0
"""spconv's ``pytorch.ops``: maps as tensors, and what layers compute from them.

A map is either *pairs* (``indice_pairs`` int32 [2, K, n], input and output rows of each tap,
filled up with -1, and ``indice_pair_num`` int32 [K]) or a *table* (``pair_fwd`` int32 [K, n_out],
the input row of each tap and output row, -1: none; ``pair_bwd`` int32 [K, n_in] is its inverse).
Functions that compute are differentiable; those named backward give the same gradients alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ....cuda.sparse import activations, conv_ops, pool_ops
from ....cuda.sparse.kernel_map import KernelMap
from ....cuda.sparse.map_ops import Pairs, Taps
from ....engine.sparse import maps
from ...coordinate_set import CoordinateSet
from ...cumm.tensorview.gemm import Activation
from ..constants import (
    ALL_WEIGHT_IS_KRSC,
    CPU_ONLY_BUILD,
    FILTER_HWIO,
    SPCONV_DO_SORT,
    SPCONV_USE_DIRECT_TABLE,
)
from ..core import AlgoHint, ConvAlgo
from ..tools import nullcontext
from .cppcore import get_current_stream

__all__ = [
    "ALL_WEIGHT_IS_KRSC",
    "CPU_ONLY_BUILD",
    "FILTER_HWIO",
    "INT32_MAX",
    "SPCONV_DO_SORT",
    "SPCONV_USE_DIRECT_TABLE",
    "AlgoHint",
    "ConvAlgo",
    "get_conv_output_size",
    "get_current_stream",
    "get_deconv_output_size",
    "get_indice_pairs",
    "get_indice_pairs_implicit_gemm",
    "global_pool_rearrange",
    "implicit_gemm",
    "implicit_gemm_backward",
    "indice_avgpool_implicit_gemm",
    "indice_avgpool_implicit_gemm_backward",
    "indice_conv",
    "indice_conv_backward",
    "indice_maxpool",
    "indice_maxpool_backward",
    "indice_maxpool_implicit_gemm",
    "indice_maxpool_implicit_gemm_backward",
    "maximum_value_int_",
    "nullcontext",
]

INT32_MAX = 2**31 - 1


def get_conv_output_size(
    input_size: list[int],
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> list[int]:
    """Cells of a strided layer's output along each axis; kernel size -1 means all of them.

    Example:
        >>> get_conv_output_size([41, 8], [3, 2], [2, 2], [1, 0], [1, 1])
        [21, 4]
    """
    sizes = zip(input_size, kernel_size, stride, padding, dilation)
    return [1 if k == -1 else (n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sizes]


def get_deconv_output_size(
    input_size: list[int],
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    output_padding: list[int],
) -> list[int]:
    """Cells of a transposed layer's output along each axis; as spconv's, without dilation.

    Example:
        >>> get_deconv_output_size([21], [3], [2], [1], [1], [0])
        [41]
    """
    sizes = zip(input_size, kernel_size, stride, padding, output_padding)
    return [(n - 1) * s - 2 * p + k + more for n, k, s, p, more in sizes]


@torch.no_grad()
def get_indice_pairs(
    indices: Tensor,
    batch_size: int,
    spatial_shape: list[int],
    algo: ConvAlgo,
    ksize: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    out_padding: list[int],
    subm: bool = False,
    transpose: bool = False,
    num_out_act_bound: int = -1,
) -> tuple[Tensor, Tensor, Tensor]:
    """The map of a layer, as pairs.

    Args:
        indices: int32 [N, 1 + ndim], each cell once.
        batch_size: Items of the batch.
        spatial_shape: Cells along each axis.
        algo: Accepted.
        ksize: Kernel size per axis.
        stride: Per axis.
        padding: Per axis.
        dilation: Per axis.
        out_padding: Per axis, of a transposed layer.
        subm: Stay on the indices.
        transpose: To finer cells.
        num_out_act_bound: Accepted.

    Returns:
        Output indices int32 [M, 1 + ndim], and the pairs.
    """
    sizes = (spatial_shape, ksize, stride, padding, dilation)
    out_indices, kernel_map = _map(indices, batch_size, sizes, out_padding, subm, transpose)
    return out_indices, *pairs_of(kernel_map)


@torch.no_grad()
def get_indice_pairs_implicit_gemm(
    indices: Tensor,
    batch_size: int,
    spatial_shape: list[int],
    algo: ConvAlgo,
    ksize: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    out_padding: list[int],
    subm: bool = False,
    transpose: bool = False,
    is_train: bool = True,
    alloc: Any = None,
    timer: Any = None,
    num_out_act_bound: int = -1,
    direct_table: bool = True,
    do_sort: bool = True,
) -> tuple[Any, ...]:
    """The map of a layer, as tables; arguments of `get_indice_pairs`.

    Returns:
        Output indices, pairs of each tap int32 [K], ``pair_fwd``, ``pair_bwd``, and five empty
        lists where spconv has masks and orders.
    """
    sizes = (spatial_shape, ksize, stride, padding, dilation)
    out_indices, kernel_map = _map(indices, batch_size, sizes, out_padding, subm, transpose)
    table = kernel_map.table
    counts = (table >= 0).sum(1).int()
    return out_indices, counts, table, kernel_map.reverse.table, [], [], [], [], []


def _map(
    indices: Tensor,
    batch_size: int,
    sizes: tuple[list[int], list[int], list[int], list[int], list[int]],
    out_padding: list[int],
    subm: bool,
    transpose: bool,
) -> tuple[Tensor, KernelMap]:
    _, ksize, stride, padding, dilation = sizes
    inputs = CoordinateSet(indices, batch_size, regular=True)
    if subm:
        return indices, inputs.submanifold(tuple(ksize), tuple(dilation))
    if transpose:
        shape = get_deconv_output_size(*sizes, out_padding)
    else:
        shape = get_conv_output_size(*sizes)
    taps: Taps = maps.strided_taps(*map(tuple, (ksize, stride, dilation, padding)))
    reach = inputs.transposed if transpose else inputs.strided
    outputs, kernel_map = reach(taps, (0,) * len(shape), tuple(shape))
    return outputs.tensor, kernel_map


def pairs_of(kernel_map: KernelMap) -> tuple[Tensor, Tensor]:
    """A map as pairs.

    Args:
        kernel_map: Any map.

    Returns:
        ``indice_pairs``, where n is the larger number of rows, and ``indice_pair_num``.
    """
    in_rows, out_rows, starts = kernel_map.pairs
    counts = starts.diff()
    most = max(kernel_map.n_in, kernel_map.n_out)
    padded = in_rows.new_full((2, kernel_map.n_taps, most), -1)
    tap = torch.repeat_interleave(counts)
    place = torch.arange(len(in_rows), device=in_rows.device) - starts[tap]
    padded[0, tap, place] = in_rows
    padded[1, tap, place] = out_rows
    return padded, counts.int()


def map_of_pairs(indice_pairs: Tensor, indice_pair_num: Tensor, n_in: int, n_out: int) -> KernelMap:
    """The map that pairs describe."""
    place = torch.arange(indice_pairs.shape[2], device=indice_pairs.device)
    counts = indice_pair_num.to(indice_pairs.device).long()
    there = place < counts[:, None]
    starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    in_rows, out_rows = (rows[there].int() for rows in indice_pairs)
    return KernelMap.from_pairs(Pairs(in_rows, out_rows, starts), n_in, n_out)


def kernel_of(weight: Tensor) -> Tensor:
    """A weight [C_out, *kernel_size, C_in] as [K, C_in, C_out]."""
    return weight.flatten(1, -2).permute(1, 2, 0)


_ACTIVATIONS: dict[Activation, activations.Activation] = {
    Activation.None_: "none",
    Activation.ReLU: "relu",
    Activation.Sigmoid: "sigmoid",
    Activation.LeakyReLU: "leaky_relu",
}


def activation_of(act_type: Activation) -> activations.Activation:
    """Our name of an activation."""
    return _ACTIVATIONS[act_type]


def indice_conv(
    features: Tensor,
    filters: Tensor,
    indice_pairs: Tensor,
    indice_pair_num: Tensor,
    num_activate_out: int,
    inverse: bool = False,
    subm: bool = False,
    algo: ConvAlgo = ConvAlgo.Native,
    timer: Any = None,
    bias: Tensor | None = None,
    act_alpha: float = 0.0,
    act_beta: float = 0.0,
    act_type: Activation = Activation.None_,
) -> Tensor:
    """Convolves over pairs.

    Args:
        features: [n_in, C_in].
        filters: [C_out, *kernel_size, C_in].
        indice_pairs: int32 [2, K, n].
        indice_pair_num: int32 [K].
        num_activate_out: Rows of the output.
        inverse: From the pairs' second rows to their first.
        subm: Accepted.
        algo: Accepted.
        timer: Accepted.
        bias: [C_out].
        act_alpha: Slope of LeakyReLU.
        act_beta: Accepted.
        act_type: Applied last.

    Returns:
        [num_activate_out, C_out].
    """
    pairs = indice_pairs.flip(0) if inverse else indice_pairs
    kernel_map = map_of_pairs(pairs, indice_pair_num, features.shape[0], num_activate_out)
    return _convolve(features, filters, kernel_map, bias, act_type, act_alpha)


def indice_conv_backward(
    features: Tensor,
    filters: Tensor,
    out_bp: Tensor,
    indice_pairs: Tensor,
    indice_pair_num: Tensor,
    inverse: bool = False,
    subm: bool = False,
    algo: ConvAlgo = ConvAlgo.Native,
    timer: Any = None,
) -> tuple[Tensor, Tensor]:
    """Gradients of `indice_conv` in features and filters."""

    def forward(features: Tensor, filters: Tensor) -> Tensor:
        return indice_conv(
            features, filters, indice_pairs, indice_pair_num, out_bp.shape[0], inverse, subm
        )

    gradients = _gradients(forward, (features, filters), out_bp)
    return gradients[0], gradients[1]


def implicit_gemm(
    features: Tensor,
    filters: Tensor,
    pair_fwd: Tensor,
    pair_mask_fwd_splits: Any,
    mask_argsort_fwd_splits: Any,
    num_activate_out: int,
    masks: Any,
    is_train: bool,
    is_subm: bool,
    timer: Any = None,
    fp32_accum: bool | None = None,
    bias: Tensor | None = None,
    act_alpha: float = 0.0,
    act_beta: float = 0.0,
    act_type: Activation = Activation.None_,
    output_scale: float = 1.0,
    scale: Tensor | None = None,
    output_add: Tensor | None = None,
    output_add_scale: float = 0.0,
    output_dtype: torch.dtype | None = None,
) -> tuple[Tensor, None, int]:
    """Convolves over a table.

    Args:
        features: [n_in, C_in].
        filters: [C_out, *kernel_size, C_in].
        pair_fwd: int32 [K, n_out].
        pair_mask_fwd_splits: Accepted, as are the other masks, orders and scales of integers.
        mask_argsort_fwd_splits: Accepted.
        num_activate_out: Rows of the output.
        masks: Accepted.
        is_train: Accepted.
        is_subm: Accepted.
        timer: Accepted.
        fp32_accum: Accepted: sums are always of float32.
        bias: [C_out].
        act_alpha: Slope of LeakyReLU.
        act_beta: Accepted.
        act_type: Applied last.
        output_scale: Accepted.
        scale: Accepted.
        output_add: [n_out, C_out], added before the activation.
        output_add_scale: Accepted.
        output_dtype: Of the result; None: that of the features.

    Returns:
        [num_activate_out, C_out], and None and 0 where spconv has a mask of the output.
    """
    table = pair_fwd[:, :num_activate_out].contiguous()
    kernel_map = KernelMap.from_table(table, features.shape[0])
    out = _convolve(features, filters, kernel_map, bias, act_type, act_alpha, output_add)
    return out if output_dtype is None else out.to(output_dtype), None, 0


def implicit_gemm_backward(
    features: Tensor,
    filters: Tensor,
    out_bp: Tensor,
    pair_fwd: Tensor,
    pair_bwd: Tensor,
    pair_mask_fwd_splits: Any = None,
    pair_mask_bwd_splits: Any = None,
    mask_argsort_fwd_splits: Any = None,
    mask_argsort_bwd_splits: Any = None,
    mask_output_fwd: Tensor | None = None,
    masks: Any = None,
    mask_width: int = 0,
    is_subm: bool = False,
    timer: Any = None,
    fp32_accum: bool | None = None,
) -> tuple[Tensor, Tensor]:
    """Gradients of `implicit_gemm` in features and filters."""

    def forward(features: Tensor, filters: Tensor) -> Tensor:
        n_out = out_bp.shape[0]
        return implicit_gemm(features, filters, pair_fwd, [], [], n_out, [], True, is_subm)[0]

    gradients = _gradients(forward, (features, filters), out_bp)
    return gradients[0], gradients[1]


def _convolve(
    features: Tensor,
    filters: Tensor,
    kernel_map: KernelMap,
    bias: Tensor | None,
    act_type: Activation,
    slope: float,
    residual: Tensor | None = None,
) -> Tensor:
    return conv_ops.sparse_convolution(
        features,
        kernel_of(filters),
        kernel_map,
        bias,
        residual,
        activation=activation_of(act_type),
        slope=slope,
    )


def max_pool(features: Tensor, kernel_map: KernelMap) -> Tensor:
    """spconv's maximum: over the inputs that exist, and at least 0."""
    return pool_ops.sparse_pool(features, kernel_map, "max").clamp_min(0)


def indice_maxpool(
    features: Tensor, indice_pairs: Tensor, indice_pair_num: Tensor, num_activate_out: int
) -> Tensor:
    """The maximum over pairs, at least 0: [num_activate_out, C]."""
    n_in = features.shape[0]
    return max_pool(features, map_of_pairs(indice_pairs, indice_pair_num, n_in, num_activate_out))


def indice_maxpool_backward(
    features: Tensor,
    out_features: Tensor,
    out_bp: Tensor,
    indice_pairs: Tensor,
    indice_pair_num: Tensor,
) -> Tensor:
    """The gradient of `indice_maxpool` in the features."""

    def forward(features: Tensor) -> Tensor:
        return indice_maxpool(features, indice_pairs, indice_pair_num, out_bp.shape[0])

    return _gradients(forward, (features,), out_bp)[0]


def indice_maxpool_implicit_gemm(
    features: Tensor, indice_pairs: Tensor, num_activate_out: int
) -> Tensor:
    """The maximum over a table ``pair_fwd``, at least 0: [num_activate_out, C]."""
    table = indice_pairs[:, :num_activate_out].contiguous()
    return max_pool(features, KernelMap.from_table(table, features.shape[0]))


def indice_maxpool_implicit_gemm_backward(
    features: Tensor, out_features: Tensor, out_bp: Tensor, indice_pairs: Tensor
) -> Tensor:
    """The gradient of `indice_maxpool_implicit_gemm` from a table ``pair_bwd``."""
    forward_map = KernelMap.from_table(indice_pairs.contiguous(), out_bp.shape[0]).reverse

    def forward(features: Tensor) -> Tensor:
        return max_pool(features, forward_map)

    return _gradients(forward, (features,), out_bp)[0]


def indice_avgpool_implicit_gemm(
    features: Tensor, indice_pairs: Tensor, num_activate_out: int, calc_count: bool
) -> tuple[Tensor, Tensor]:
    """The mean over the inputs that exist, by a table ``pair_fwd``.

    Returns:
        [num_activate_out, C], and how many inputs there were, int32 [num_activate_out].
    """
    table = indice_pairs[:, :num_activate_out].contiguous()
    kernel_map = KernelMap.from_table(table, features.shape[0])
    return pool_ops.sparse_pool(features, kernel_map, "mean"), (table >= 0).sum(0).int()


def indice_avgpool_implicit_gemm_backward(
    out_bp: Tensor, indice_pairs: Tensor, count_out: Tensor
) -> Tensor:
    """The gradient of `indice_avgpool_implicit_gemm` from a table ``pair_bwd``."""
    backward_map = KernelMap.from_table(indice_pairs.contiguous(), out_bp.shape[0])
    share = out_bp / count_out.clamp_min(1).to(out_bp.dtype)[:, None]
    return pool_ops.sparse_pool(share, backward_map, "sum")


def global_pool_rearrange(coords: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
    """Rows of each batch item.

    Args:
        coords: int32 [N, 1 + ndim].
        batch_size: Items of the batch.

    Returns:
        int32 [batch_size, N], row numbers at the beginning of each line; int32 [batch_size], how
        many.
    """
    mine = coords[:, 0] == torch.arange(batch_size, device=coords.device)[:, None]
    rows = mine.int().argsort(dim=1, descending=True, stable=True)
    return rows.int(), mine.sum(1).int()


def maximum_value_int_(ten: Tensor, value: int) -> None:
    """Raises the entries of a tensor to at least a value, in place."""
    ten.clamp_(min=value)


def _gradients(function: Any, inputs: tuple[Tensor, ...], out_bp: Tensor) -> tuple[Tensor, ...]:
    with torch.enable_grad():
        leaves = tuple(tensor.detach().requires_grad_() for tensor in inputs)
        return torch.autograd.grad(function(*leaves), leaves, out_bp)
