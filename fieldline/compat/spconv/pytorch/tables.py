# SPDX-License-Identifier: Apache-2.0
"""spconv's ``pytorch.tables``: several tensors from one, and one from several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ....engine.sparse.arguments import check_kind, shown
from .core import SparseConvTensor
from .functional import sparse_add
from .modules import SparseModule

__all__ = ["AddTable", "AddTableMisaligned", "ConcatTable", "JoinTable"]


class _Table(SparseModule):
    """A layer that keeps the spatial shape."""

    def input_spatial_size(self, out_size: list[int]) -> list[int]:
        """The spatial shape that an output's comes from."""
        return out_size


class JoinTable(_Table):
    """Tensors on the same cells, channel after channel.

    Example:
        >>> indices = torch.tensor([[0, 1]], dtype=torch.int32)
        >>> x = SparseConvTensor(torch.ones(1, 2), indices, [4], 1)
        >>> JoinTable()([x, x]).features.shape
        torch.Size([1, 4])
    """

    def forward(self, input: Sequence[SparseConvTensor]) -> SparseConvTensor:
        """Joins.

        Args:
            input: Tensors of the same indices.

        Returns:
            The joined tensor, with the first one's indices and maps.

        Raises:
            ValueError: Shapes differ.
        """
        _check_same_cells("JoinTable", input, channels=False)
        return input[0].replace_feature(torch.cat([x.features for x in input], 1))


class AddTable(_Table):
    """The sum of tensors on the same cells."""

    def forward(self, input: Sequence[SparseConvTensor]) -> SparseConvTensor:
        """Adds.

        Args:
            input: Tensors of the same indices and channels.

        Returns:
            The sum, with the first one's indices and maps.

        Raises:
            ValueError: Shapes differ.
        """
        _check_same_cells("AddTable", input, channels=True)
        total = input[0].features
        for x in input[1:]:
            total = total + x.features
        return input[0].replace_feature(total)


class AddTableMisaligned(_Table):
    """The sum of tensors whose cells differ (`functional.sparse_add`)."""

    def forward(self, input: Sequence[SparseConvTensor]) -> SparseConvTensor:
        """Adds.

        Args:
            input: Tensors of one spatial shape and number of channels.

        Returns:
            The sum, on the union of the cells.
        """
        return sparse_add(*input)


class ConcatTable(SparseModule):
    """Several modules on one input.

    Example:
        >>> table = ConcatTable().add(nn.Identity()).add(nn.Identity())
        >>> table(3)
        [3, 3]
    """

    def forward(self, input: Any) -> list[Any]:
        """Runs every module on the input.

        Args:
            input: What the modules take.

        Returns:
            What each of them gives.
        """
        return [module(input) for module in self._modules.values()]  # type: ignore[misc]

    def add(self, module: nn.Module) -> ConcatTable:
        """Appends a module and returns this one."""
        self.add_module(str(len(self._modules)), module)
        return self

    def input_spatial_size(self, out_size: list[int]) -> list[int]:
        """The spatial shape that an output's comes from, as the first module says."""
        return self._modules["0"].input_spatial_size(out_size)  # type: ignore[union-attr]


def _check_same_cells(name: str, tensors: Sequence[SparseConvTensor], channels: bool) -> None:
    if not isinstance(tensors, list | tuple) or not tensors:
        raise ValueError(f"{name}: input: expected a list of sparse tensors, got {shown(tensors)}")
    for number, x in enumerate(tensors):
        check_kind(name, f"input[{number}]", x, SparseConvTensor)

    def facts(x: SparseConvTensor) -> tuple[Any, ...]:
        last = (x.features.shape[1],) if channels else ()
        return (x.spatial_shape, x.batch_size, len(x.indices), *last)

    for x in tensors[1:]:
        if facts(x) != facts(tensors[0]):
            raise ValueError(
                f"{name}: input: expected tensors on the same cells, got {facts(tensors[0])} and "
                f"{facts(x)} (spatial shape, batch size, cells{', channels' if channels else ''})"
            )
