# SPDX-License-Identifier: Apache-2.0
"""spconv's ``core``: names of its algorithms. Ours is chosen from the problem's size."""

from enum import Enum

from .constants import NDIM_DONT_CARE

__all__ = ["NDIM_DONT_CARE", "AlgoHint", "ConvAlgo"]


class ConvAlgo(Enum):
    """spconv's three ways to convolve; accepted everywhere, with the same results."""

    Native = 0
    MaskImplicitGemm = 1
    MaskSplitImplicitGemm = 2


class AlgoHint(Enum):
    """Which pass a choice of kernel is for."""

    NoHint = 0b000
    Fowrard = 0b001
    BackwardInput = 0b010
    BackwardWeight = 0b100
