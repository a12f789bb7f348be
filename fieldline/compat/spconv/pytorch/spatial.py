# SPDX-License-Identifier: Apache-2.0
"""spconv's ``pytorch.spatial``: each cell once."""

from __future__ import annotations

from ....cuda.sparse import map_ops
from .core import SparseConvTensor
from .modules import SparseModule

__all__ = ["RemoveDuplicate"]


class RemoveDuplicate(SparseModule):
    """Keeps the first row of each cell."""

    def forward(self, x: SparseConvTensor) -> SparseConvTensor:
        """Removes the other rows.

        Args:
            x: Any sparse tensor.

        Returns:
            A new tensor without maps, cells in order.
        """
        return x.select_by_index(map_ops.sparse_unique(x.indices).first)
