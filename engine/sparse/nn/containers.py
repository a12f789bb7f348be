# SPDX-License-Identifier: Apache-2.0
"""Modules made of modules.

A batch normalisation, the residual added to it and the activation behind run as one operator, in
training as in evaluation, unless someone watches one of them: a module with hooks runs by itself.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, TypeGuard

from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from ....cuda.sparse.activations import Activation
from ..arguments import check_kind
from ..tensor import SparseTensor
from .activation import known
from .convolution import Convolution
from .normalisation import BatchNorm, normalised


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


def run(modules: Sequence[nn.Module], x: Any) -> Any:
    """Runs modules one after another.

    Args:
        modules: Any.
        x: What the first one takes.

    Returns:
        What the last one returns.

    Example:
        >>> x = SparseTensor(torch.zeros(1, 3, dtype=torch.int32), torch.tensor([[-2.0]]))
        >>> run([torch.nn.BatchNorm1d(1).eval(), torch.nn.ReLU()], x).feats.tolist()
        [[0.0]]
    """
    next_one = 0
    while next_one < len(modules):
        module = modules[next_one]
        next_one += 1
        if not _is_open_norm(module, x):
            x = apply(module, x)
            continue
        activation = _open_activation(modules[next_one]) if next_one < len(modules) else None
        next_one += activation is not None
        x = _normalise(module, x, None, activation)
    return x


_NORM_FORWARDS = (BatchNorm.forward, nn.BatchNorm1d.forward)


def _is_open_norm(module: nn.Module, x: Any) -> TypeGuard[nn.BatchNorm1d]:
    """Whether what follows a module can run with it."""
    return (
        type(module).forward in _NORM_FORWARDS
        and isinstance(x, SparseTensor)
        and isinstance(module, nn.BatchNorm1d)
        and _is_plain(module)
    )


def _open_activation(module: nn.Module) -> tuple[Activation, float] | None:
    found = known(module)
    return found if found is not None and _is_plain(module) else None


def _is_plain(module: nn.Module) -> bool:
    """Whether a call of it is its class's forward and nothing else."""
    return not (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
        or type(module).__call__ is not nn.Module.__call__
        or _has_any_global_hook()
    )


def _normalise(
    norm: nn.BatchNorm1d,
    x: SparseTensor,
    residual: Tensor | None,
    activation: tuple[Activation, float] | None,
) -> SparseTensor:
    feats = normalised(norm, x.feats, residual, *(activation or ("none", 0.0)))
    return SparseTensor.on(feats, x.level, x.maps)


class Sequential(nn.Sequential):
    """Modules one after another; those of torch itself get the features.

    Args:
        *modules: As of ``torch.nn.Sequential``, an ordered dictionary included.

    Raises:
        TypeError: One is no module.

    Example:
        >>> x = SparseTensor(torch.zeros(1, 3, dtype=torch.int32), torch.tensor([[-2.0]]))
        >>> Sequential(torch.nn.Linear(1, 4), torch.nn.ReLU())(x).channels
        4
    """

    def __init__(self, *modules: Any) -> None:
        named = len(modules) == 1 and isinstance(modules[0], OrderedDict)
        # torch itself takes None for a module, and fails when it is run.
        for name, module in modules[0].items() if named else enumerate(modules):
            check_kind("Sequential", f"modules[{name}]", module, nn.Module)
        super().__init__(*modules)

    def forward(self, input: Any) -> Any:
        """Runs the modules."""
        return run(tuple(self), input)


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
        *steps, last = _steps(self.main)
        if not _is_open_norm(last, x):
            return self._activated(apply(self.main, x) + beside)
        out = run(steps, x)
        if not _adds_up(out, beside):
            return self._activated(apply(last, out) + beside)
        activation = None if self.activation is None else _open_activation(self.activation)
        out = _normalise(last, out, beside.feats, activation)
        return out if activation is not None else self._activated(out)

    def _activated(self, x: SparseTensor) -> SparseTensor:
        return x if self.activation is None else apply(self.activation, x)


def _steps(main: nn.Module) -> tuple[nn.Module, ...]:
    if isinstance(main, Sequential) and len(main) and _is_plain(main):
        return tuple(main) if type(main).forward is Sequential.forward else (main,)
    return (main,)


def _adds_up(x: SparseTensor, other: SparseTensor) -> bool:
    """Whether features normalised as those of x can be added to the other's as they are."""
    return (
        x.level.same_as(other.level)
        and x.feats.dtype == other.feats.dtype
        and x.feats.shape == other.feats.shape
    )


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
