# SPDX-License-Identifier: Apache-2.0
"""spconv's ``pytorch.functional``: what layers compute, and sums of tensors on other cells."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ....cuda.sparse import map_ops, pool_ops
from ....engine.sparse.arguments import check_kind
from ...cumm.tensorview.gemm import Activation
from ..core import ConvAlgo
from . import ops
from .core import SparseConvTensor

__all__ = [
    "implicit_gemm",
    "indice_avgpool_implicit_gemm",
    "indice_conv",
    "indice_inverse_conv",
    "indice_maxpool",
    "indice_maxpool_implicit_gemm",
    "indice_subm_conv",
    "sparse_add",
    "sparse_add_hash_based",
]

indice_maxpool = ops.indice_maxpool


def indice_conv(
    features: Tensor,
    filters: Tensor,
    indice_pairs: Tensor,
    indice_pair_num: Tensor,
    num_activate_out: int,
    algo: ConvAlgo = ConvAlgo.Native,
    timer: Any = None,
    bias: Tensor | None = None,
    act_alpha: float = 0.0,
    act_beta: float = 0.0,
    act_type: Activation = Activation.None_,
) -> Tensor:
    """Convolves over pairs; `ops.indice_conv` says what the arguments are."""
    return ops.indice_conv(
        features,
        filters,
        indice_pairs,
        indice_pair_num,
        num_activate_out,
        bias=bias,
        act_alpha=act_alpha,
        act_type=act_type,
    )


indice_subm_conv = indice_conv


def indice_inverse_conv(
    features: Tensor,
    filters: Tensor,
    indice_pairs: Tensor,
    indice_pair_num: Tensor,
    num_activate_out: int,
    algo: ConvAlgo = ConvAlgo.Native,
    timer: Any = None,
    bias: Tensor | None = None,
    act_alpha: float = 0.0,
    act_beta: float = 0.0,
    act_type: Activation = Activation.None_,
) -> Tensor:
    """Convolves back along pairs; `ops.indice_conv` says what the arguments are."""
    return ops.indice_conv(
        features,
        filters,
        indice_pairs,
        indice_pair_num,
        num_activate_out,
        True,
        bias=bias,
        act_alpha=act_alpha,
        act_type=act_type,
    )


def implicit_gemm(
    features: Tensor,
    filters: Tensor,
    pair_fwd: Tensor,
    pair_bwd: Tensor,
    pair_mask_fwd_splits: Any,
    pair_mask_bwd_splits: Any,
    mask_argsort_fwd_splits: Any,
    mask_argsort_bwd_splits: Any,
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
) -> Tensor:
    """Convolves over a table; `ops.implicit_gemm` says what the arguments are."""
    return ops.implicit_gemm(
        features,
        filters,
        pair_fwd,
        pair_mask_fwd_splits,
        mask_argsort_fwd_splits,
        num_activate_out,
        masks,
        is_train,
        is_subm,
        bias=bias,
        act_alpha=act_alpha,
        act_type=act_type,
    )[0]


def indice_maxpool_implicit_gemm(
    features: Tensor, indice_pairs_fwd: Tensor, indice_pairs_bwd: Tensor, num_activate_out: int
) -> Tensor:
    """The maximum over a table, at least 0: [num_activate_out, C]."""
    return ops.indice_maxpool_implicit_gemm(features, indice_pairs_fwd, num_activate_out)


def indice_avgpool_implicit_gemm(
    features: Tensor,
    indice_pairs_fwd: Tensor,
    indice_pairs_bwd: Tensor,
    num_activate_out: int,
    calc_count: bool,
) -> Tensor:
    """The mean over a table's inputs: [num_activate_out, C]."""
    return ops.indice_avgpool_implicit_gemm(
        features, indice_pairs_fwd, num_activate_out, calc_count
    )[0]


def sparse_add(*tens: SparseConvTensor) -> SparseConvTensor:
    """Adds tensors whose cells differ: the union of the cells, sums where they meet.

    Args:
        tens: Of one spatial shape, batch size and number of channels.

    Returns:
        The sum, cells in order. It has the maps of the largest tensor if that has all its cells,
        and none otherwise.

    Raises:
        ValueError: The tensors do not go together.

    Example:
        >>> def at(cell, value):
        ...     indices = torch.tensor([[0, cell]], dtype=torch.int32)
        ...     return SparseConvTensor(torch.tensor([[value]]), indices, [4], 1)
        >>> total = sparse_add(at(2, 1.0), at(1, 5.0), at(2, 3.0))
        >>> total.indices[:, 1].tolist(), total.features[:, 0].tolist()
        ([1, 2], [5.0, 4.0])
    """
    if not tens:
        raise ValueError("sparse_add: tens: expected at least one, got none")
    for number, tensor in enumerate(tens):
        check_kind("sparse_add", f"tens[{number}]", tensor, SparseConvTensor)
    first = tens[0]
    for tensor in tens[1:]:
        _check_alike(first, tensor)
    unique = map_ops.sparse_unique(torch.cat([tensor.indices for tensor in tens]))
    features = torch.cat([tensor.features for tensor in tens])
    sums = pool_ops.sparse_segment_reduce(features, unique.inverse, len(unique.coords), "sum")
    total = SparseConvTensor(
        sums, unique.coords, first.spatial_shape, first.batch_size, benchmark=first.benchmark
    )
    total.benchmark_record = first.benchmark_record
    largest = max(tens, key=lambda tensor: len(tensor.indices))
    if largest.indices.shape == unique.coords.shape:
        total.indice_dict = largest.indice_dict
    return total


sparse_add_hash_based = sparse_add


def _check_alike(one: SparseConvTensor, other: SparseConvTensor) -> None:
    facts = [(x.spatial_shape, x.batch_size, x.features.shape[1]) for x in (one, other)]
    if facts[0] != facts[1]:
        raise ValueError(
            f"sparse_add: tens: expected one spatial shape, batch size and number of channels, "
            f"got {facts[0]} and {facts[1]}"
        )
