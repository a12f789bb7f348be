# SPDX-License-Identifier: Apache-2.0
"""torchsparse 2.0's ``nn.functional``."""

from torch import Tensor

from ...torchsparse.nn import functional
from ...torchsparse.nn.functional import (
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


def calc_ti_weights(coords: Tensor, idx_query: Tensor, scale: float = 1) -> Tensor:
    """Trilinear weights of the eight voxels around each point, a row for each of the eight.

    Args:
        coords: float [N, 3 or more], x, y, z.
        idx_query: int [8, N], their rows, z fastest; -1: none.
        scale: Size of a voxel.

    Returns:
        float [8, N], 0 for voxels that do not exist; the rest of a point add up to 1.

    Example:
        >>> rows = torch.arange(8)[:, None]
        >>> calc_ti_weights(torch.tensor([[0.25, 0.0, 0.0]]), rows)[::4, 0].tolist()
        [0.75, 0.25]
    """
    return functional.calc_ti_weights(coords, idx_query.t(), scale).t().contiguous()
