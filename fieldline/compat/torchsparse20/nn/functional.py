# SPDX-License-Identifier: Apache-2.0
"""torchsparse 2.0's ``nn.functional``."""

from ...torchsparse.nn.functional import (
    calc_ti_weights,
    global_avg_pool,
    global_max_pool,
    leaky_relu,
    relu,
    silu,
    spcount,
    spcrop,
    spdevoxelize,
    sphash,
    sphashquery,
    spvoxelize,
)
from .conv import conv3d, spdownsample

__all__ = [
    "calc_ti_weights",
    "conv3d",
    "global_avg_pool",
    "global_max_pool",
    "leaky_relu",
    "relu",
    "silu",
    "spcount",
    "spcrop",
    "spdevoxelize",
    "spdownsample",
    "sphash",
    "sphashquery",
    "spvoxelize",
]
