# SPDX-License-Identifier: Apache-2.0
"""Modules made of modules."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..arguments import check_kind
from ..tensor import SparseTensor
from .convolution import Convolution


def apply(module: nn.Module, x: Any) -> Any:
    """Runs a module, and modules of torch itself on the features.

    Args:
        module: Any.
        x: A sparse tensor, or whatever the module takes.

    Returns:
        What the module returns; of torch's own modules on a sparse tensor, a sparse tensor.

    Example:
        >>> x = SparseTensor(torch.zeros(1, 3, dtype=torch.int32), torch.tensor([[-2.0]]))
        >>> apply(torch.nn.ReLU(), x).feats
        tensor([[0.]])
    """
    dense = type(module).__module__.startswith("torch.nn.modules.")
    if dense and isinstance(x, SparseTensor) and not isinstance(module, nn.Sequential):
        return x.replace(module(x.feats))
    return module(x)


class Sequential(nn.Sequential):
    """Modules one after another; those of torch itself get the features.

    Args:
        *modules: As of ``torch.nn.Sequential``, an ordered dictionary included.

    Example:
        >>> x = SparseTensor(torch.zeros(1, 3, dtype=torch.int32), torch.tensor([[-2.0]]))
        >>> Sequential(torch.nn.Linear(1, 4), torch.nn.ReLU())(x).channels
        4
    """

    def forward(self, input: Any) -> Any:
        """Runs the modules."""
        for module in self:
            input = apply(module, input)
        return input


class Residual(nn.Module):
    """Adds a shortcut to what a module makes of its input, then activates the sum.

    Args:
        main: The module.
        shortcut: What the input goes through beside it; default: nothing.
        activation: Of the sum; default: none.

    Raises:
        TypeError: A part is no module.
        ValueError: On calls, if both ends are not on the same coordinates.

    Source:
        He, Zhang, Ren, Sun, Deep Residual Learning for Image Recognition, CVPR 2016.

    Example:
        >>> x = SparseTensor(torch.zeros(1, 3, dtype=torch.int32), torch.tensor([[-2.0]]))
        >>> Residual(torch.nn.Identity(), activation=torch.nn.ReLU())(x).feats
        tensor([[0.]])
    """

    def __init__(
        self,
        main: nn.Module,
        shortcut: nn.Module | None = None,
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        parts = {"main": main, "shortcut": shortcut, "activation": activation}
        for argument, module in parts.items():
            if module is not None or argument == "main":
                check_kind("Residual", argument, module, nn.Module)
        self.main = main
        self.shortcut = shortcut
        self.activation = activation

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Runs both ways and adds."""
        beside = x if self.shortcut is None else apply(self.shortcut, x)
        out = apply(self.main, x) + beside
        return out if self.activation is None else apply(self.activation, out)


class FusedResidual(nn.Module):
    """A `Residual` whose last convolution adds the shortcut; what `fieldline.sparse.fuse` makes.

    Args:
        main: All of the main path but its last convolution.
        last: That convolution, with the activation of the sum.
        shortcut: What the input goes through beside it; default: nothing.
        activation: One that a convolution does not know.
    """

    def __init__(
        self,
        main: nn.Module,
        last: Convolution,
        shortcut: nn.Module | None = None,
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.main = main
        self.last = last
        self.shortcut = shortcut
        self.activation = activation

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Runs both ways and adds."""
        beside = x if self.shortcut is None else apply(self.shortcut, x)
        out = self.last(self.main(x), beside)
        return out if self.activation is None else apply(self.activation, out)
