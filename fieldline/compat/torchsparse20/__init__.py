# SPDX-License-Identifier: Apache-2.0
"""torchsparse 1.4 to 2.0 over our engine: batch last.

    import fieldline.compat.torchsparse20 as torchsparse
    import fieldline.compat.torchsparse20.nn as spnn

or, for code that is not ours to change, before it is imported:

    fieldline.compat.install("torchsparse20")        # makes ``import torchsparse`` mean this

What differs from `fieldline.compat.torchsparse` (2.1): the batch column of coordinates is the last;
coordinates stay in units of the input at every stride; the arguments of ``Conv3d`` and ``conv3d``
have no padding, so that dilation stands fifth; strided kernels are centred, and their outputs begin
at the lowest coordinate of the input; a kernel of one tap is [C_in, C_out] whatever its stride.
"""

from ..torchsparse import backend, backends, utils
from ..torchsparse.operators import cat
from ..torchsparse.utils.tune import tune
from . import backbones, nn, tensor
from .tensor import PointTensor, SparseTensor
from .version import __version__

__all__ = [
    "PointTensor",
    "SparseTensor",
    "__version__",
    "backbones",
    "backend",
    "backends",
    "cat",
    "nn",
    "tensor",
    "tune",
    "utils",
]
