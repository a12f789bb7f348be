# SPDX-License-Identifier: Apache-2.0
"""The activations of ``torch.nn``, and what else works row by row, on sparse tensors.

Each class takes the arguments of the one it is named after.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from ....cuda.sparse.activations import Activation
from ..arguments import check_kind
from ..tensor import SparseTensor

__all__ = [
    "CELU",
    "ELU",
    "GELU",
    "GLU",
    "SELU",
    "AlphaDropout",
    "Dropout",
    "Hardshrink",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "Identity",
    "LeakyReLU",
    "Linear",
    "LogSigmoid",
    "LogSoftmax",
    "Mish",
    "PReLU",
    "RReLU",
    "ReLU",
    "ReLU6",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softmin",
    "Softplus",
    "Softshrink",
    "Softsign",
    "Tanh",
    "Tanhshrink",
    "Threshold",
]


def _wrapped(name: str) -> type[nn.Module]:
    base: Any = getattr(nn, name)

    class Wrapped(base):
        def forward(self, x: SparseTensor) -> SparseTensor:
            check_kind(name, "x", x, SparseTensor)
            return SparseTensor.on(base.forward(self, x.feats), x.level, x.maps)

    Wrapped.__name__ = Wrapped.__qualname__ = name
    Wrapped.__module__ = __name__
    Wrapped.__doc__ = f"``torch.nn.{name}`` on the features of a sparse tensor."
    return Wrapped


if TYPE_CHECKING:
    from torch.nn import (
        CELU,
        ELU,
        GELU,
        GLU,
        SELU,
        AlphaDropout,
        Dropout,
        Hardshrink,
        Hardsigmoid,
        Hardswish,
        Hardtanh,
        Identity,
        LeakyReLU,
        Linear,
        LogSigmoid,
        LogSoftmax,
        Mish,
        PReLU,
        ReLU,
        ReLU6,
        RReLU,
        Sigmoid,
        SiLU,
        Softmax,
        Softmin,
        Softplus,
        Softshrink,
        Softsign,
        Tanh,
        Tanhshrink,
        Threshold,
    )
else:
    globals().update({name: _wrapped(name) for name in __all__})

# By what runs: a subclass with a forward of its own is something else.
_KNOWN: dict[Any, Activation] = {
    **dict.fromkeys((nn.ReLU.forward, ReLU.forward), "relu"),
    **dict.fromkeys((nn.LeakyReLU.forward, LeakyReLU.forward), "leaky_relu"),
    **dict.fromkeys((nn.SiLU.forward, SiLU.forward), "silu"),
    **dict.fromkeys((nn.GELU.forward, GELU.forward), "gelu"),
    **dict.fromkeys((nn.Sigmoid.forward, Sigmoid.forward), "sigmoid"),
}


def known(module: nn.Module) -> tuple[Activation, float] | None:
    """The name and slope that our operators know an activation by.

    Args:
        module: Any.

    Returns:
        None if it is none of those that operators end with.

    Example:
        >>> known(nn.LeakyReLU(0.2)), known(nn.Tanh())
        (('leaky_relu', 0.2), None)
    """
    name = _KNOWN.get(type(module).forward)
    if name is None or (isinstance(module, nn.GELU) and module.approximate != "none"):
        return None
    return name, module.negative_slope if isinstance(module, nn.LeakyReLU) else 0.0
