# SPDX-License-Identifier: Apache-2.0
"""torchsparse 2.0's ``backbones``."""

from ...torchsparse.backbones import networks as _networks
from . import blocks

__all__ = ["SparseResNet21D", "SparseResUNet42"]


class SparseResNet21D(_networks.SparseResNet21D):
    """The encoder of CenterPoint; arguments as in 2.1."""

    block_types = blocks


class SparseResUNet42(_networks.SparseResUNet42):
    """MinkUNet42 of SemanticKITTI; arguments as in 2.1."""

    block_types = blocks
