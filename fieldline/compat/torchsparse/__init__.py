# SPDX-License-Identifier: Apache-2.0
"""torchsparse 2.1 over our engine: its users' code runs unchanged, on a CPU too.

    import fieldline.compat.torchsparse as torchsparse
    import fieldline.compat.torchsparse.nn as spnn

or, for code that is not ours to change, before it is imported:

    fieldline.compat.install("torchsparse")

Batch comes first in coordinates, which are in units of their stride. Code for 1.4 to 2.0, where
batch comes last, needs `fieldline.compat.torchsparse20`: which of them, nobody can guess.

Names, signatures, parameters, tap order and initialisation are torchsparse's. What it gets wrong is
right here: dilation is applied; maps are never cut to 32 bits; evaluation has gradients; a map in
a cache is used only on the coordinates it was made of; ``SparseCrop`` and the bird's-eye views look
at x, y, z; the last cell of an axis that a kernel of the stride's size divides is kept; modes that
are set have an effect. Dataflows and sorting are accepted and change nothing. A strided layer's
outputs come in order, and lie at 0 and above unless
``tensor.set_allow_negative_coordinates(True)``.
"""

from . import backbones, backend, backends, nn, operators, tensor, utils
from .operators import cat, generative_add
from .tensor import PointTensor, SparseTensor
from .utils.tune import tune
from .version import __version__

__all__ = [
    "PointTensor",
    "SparseTensor",
    "__version__",
    "backbones",
    "backend",
    "backends",
    "cat",
    "generative_add",
    "nn",
    "operators",
    "tensor",
    "tune",
    "utils",
]
