# SPDX-License-Identifier: Apache-2.0
"""Layers of sparse networks, ``fieldline.nn``.

They take and give `fieldline.SparseTensor`; modules of ``torch.nn`` work beside them in
`Sequential`. `functional` holds the same as functions.
"""

from .. import functional
from . import activation
from .activation import *  # noqa: F403
from .bev import ToBEVConvolution, ToBEVDense, ToBEVReduction
from .containers import Residual, Sequential
from .convolution import (
    Conv1d,
    Conv2d,
    Conv3d,
    Conv4d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    ConvTranspose4d,
    GenerativeConvTranspose3d,
    InverseConv1d,
    InverseConv2d,
    InverseConv3d,
    InverseConv4d,
    SubmConv1d,
    SubmConv2d,
    SubmConv3d,
    SubmConv4d,
)
from .normalisation import BatchNorm, GroupNorm, InstanceNorm, LayerNorm, SyncBatchNorm
from .pooling import (
    AvgPool,
    GlobalAvgPool,
    GlobalMaxPool,
    GlobalSumPool,
    MaxPool,
    SumPool,
    Upsample,
)

__all__ = [
    "AvgPool",
    "BatchNorm",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "Conv4d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "ConvTranspose4d",
    "GenerativeConvTranspose3d",
    "GlobalAvgPool",
    "GlobalMaxPool",
    "GlobalSumPool",
    "GroupNorm",
    "InstanceNorm",
    "InverseConv1d",
    "InverseConv2d",
    "InverseConv3d",
    "InverseConv4d",
    "LayerNorm",
    "MaxPool",
    "Residual",
    "Sequential",
    "SubmConv1d",
    "SubmConv2d",
    "SubmConv3d",
    "SubmConv4d",
    "SumPool",
    "SyncBatchNorm",
    "ToBEVConvolution",
    "ToBEVDense",
    "ToBEVReduction",
    "Upsample",
    "functional",
]
__all__ += activation.__all__
