# SPDX-License-Identifier: Apache-2.0
"""spconv 2.3.8 over our engine: its users' code runs unchanged, on a CPU too, and trains there.

    import fieldline.compat.spconv.pytorch as spconv

or, for code that is not ours to change, before it is imported:

    fieldline.compat.install("spconv")        # and cumm.tensorview with it

Names, signatures, shapes, defaults, weights and their layout are spconv's, and so are its habits:
max pooling gives at least 0, submanifold convolutions ignore stride and padding, ``indice_key``
follows spconv's rules, a kernel of one tap reads its weight as [C_in, C_out] whatever its shape
says, and ``SparseGlobalAvgPool`` gives the first channel alone. Our own layers (`fieldline.nn`)
have none of these.

What spconv gets wrong is right here: gradients on the CPU and in eval mode, bias on the CPU,
indices that are not contiguous, bfloat16, N = 0 in every layer, ``select_by_index``, the gradient
of average pooling (spconv multiplies by the count), coordinates past 2^31 cells. Rows that share a
coordinate or lie outside the batch are accepted: submanifold layers give each row its own centre
and the first row of each neighbour; other layers add such rows up (max pooling takes their maximum)
and leave out those of a batch item that does not exist. Rows outside ``spatial_shape`` count
wherever the kernel reaches the output's shape. Outputs come sorted.
"""

from . import constants, core, utils
from .core import AlgoHint, ConvAlgo

__all__ = [
    "SPCONV_VERSION_NUMBERS",
    "AlgoHint",
    "ConvAlgo",
    "__version__",
    "constants",
    "core",
    "utils",
]

__version__ = "2.3.8"
SPCONV_VERSION_NUMBERS = [2, 3, 8]
