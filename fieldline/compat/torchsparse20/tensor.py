# SPDX-License-Identifier: Apache-2.0
"""torchsparse 2.0's ``tensor``."""

from __future__ import annotations

from typing import Any

from ..torchsparse import tensor as _tensor
from ..torchsparse.tensor import PointTensor

__all__ = ["PointTensor", "SparseTensor"]


class SparseTensor(_tensor.SparseTensor):
    """Features of the cells that exist.

    Args:
        feats: [N, C]; any shape, and arrays, before collation.
        coords: int32 [N, 4], x, y, z, batch, in units of the input; [N, 3] before collation.
        stride: Cells of the input in one of these, for all axes or per axis.

    Example:
        >>> import torch
        >>> coords = torch.tensor([[1, 2, 3, 0]], dtype=torch.int32)
        >>> x = SparseTensor(torch.ones(1, 2), coords, stride=2)
        >>> (x + x).F.tolist(), x.s, x.cmaps
        ([[2.0, 2.0]], (2, 2, 2), {})
    """

    batch_column = 3

    def __init__(self, feats: Any, coords: Any, stride: int | tuple[int, ...] = 1) -> None:
        super().__init__(feats, coords, stride)

    @staticmethod
    def _plain(feats: Any, coords: Any) -> SparseTensor:
        return SparseTensor(feats, coords)
