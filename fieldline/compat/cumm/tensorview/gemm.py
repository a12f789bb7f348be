# SPDX-License-Identifier: Apache-2.0
"""cumm's ``tensorview.gemm``: the activations that a convolution can end with."""

from enum import Enum

__all__ = ["Activation"]


class Activation(Enum):
    """What a convolution applies to its output."""

    None_ = 0
    ReLU = 1
    Sigmoid = 2
    LeakyReLU = 3
