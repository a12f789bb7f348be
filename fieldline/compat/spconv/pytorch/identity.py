# SPDX-License-Identifier: Apache-2.0
"""spconv's ``pytorch.identity``: a layer that does nothing."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

__all__ = ["Identity"]

T = TypeVar("T")


class Identity(nn.Module):
    """Gives what it is given."""

    def forward(self, input: T) -> T:
        """The input."""
        return input

    def input_spatial_size(self, out_size: list[int]) -> list[int]:
        """The spatial shape that an output's comes from."""
        return out_size
