# SPDX-License-Identifier: Apache-2.0
"""torchsparse's ``backbones``."""

from .networks import SparseResNet21D, SparseResUNet42

__all__ = ["SparseResNet21D", "SparseResUNet42"]
