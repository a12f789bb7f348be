# SPDX-License-Identifier: Apache-2.0
"""Folds what follows a convolution into it, for inference."""

from __future__ import annotations

import copy
from collections import Counter

import torch
from torch import nn
from torch.nn.utils import parametrize

from .arguments import check_kind
from .nn.activation import known
from .nn.containers import FusedResidual, Residual, Sequential
from .nn.convolution import Convolution


def fuse(model: nn.Module) -> nn.Module:
    """Folds batch normalisation, activation and residual sums into convolutions, for inference.

    In every ``Sequential`` (torch's or ours), ``convolution, BatchNorm, activation`` becomes one
    convolution; a `Residual` whose main path ends in a convolution adds its shortcut and activates
    within it. ReLU, LeakyReLU, SiLU, GELU and Sigmoid are folded. What does not fit stays.

    Args:
        model: The network; it is not changed.

    Returns:
        A copy in evaluation mode that gives the same outputs up to rounding.

    Raises:
        TypeError: It is no module.

    Example:
        >>> from fieldline.engine.sparse import nn
        >>> fuse(nn.Sequential(nn.SubmConv3d(2, 4, 3), nn.BatchNorm(4), nn.ReLU()))
        Sequential(
          (0): SubmConv3d(2, 4, kernel_size=(3, 3, 3), activation='relu')
        )
    """
    check_kind("fuse", "model", model, nn.Module)
    model = copy.deepcopy(model).eval()
    uses = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    with torch.no_grad():
        return _fused(model, uses)


def _fused(module: nn.Module, uses: Counter[int]) -> nn.Module:
    # Inner modules first: a residual's main path ends in a convolution once its norm is folded.
    for name, child in module.named_children():
        if uses[id(child)] == 1:
            setattr(module, name, _fused(child, uses))
    if isinstance(module, nn.Sequential):
        _fuse_sequence(module, uses)
    if type(module) is Residual:
        return _fused_residual(module, uses)
    return module


def _fuse_sequence(sequence: nn.Sequential, uses: Counter[int]) -> None:
    before: nn.Module | None = None
    for name, module in list(sequence.named_children()):
        if isinstance(module, nn.Identity) or _absorbs(before, module, uses):
            del sequence._modules[name]
        else:
            before = module


def _absorbs(convolution: nn.Module | None, module: nn.Module, uses: Counter[int]) -> bool:
    """Folds a module into the convolution before it, if that can be."""
    if not isinstance(convolution, Convolution) or not _is_open(convolution, uses):
        return False
    if isinstance(module, nn.BatchNorm1d) and module.running_mean is not None:
        _fold_norm(convolution, module)
        return True
    activation = known(module)
    if activation is None:
        return False
    convolution.activation, convolution.slope = activation
    return True


def _is_open(convolution: Convolution, uses: Counter[int]) -> bool:
    """Whether only this place uses it, and what it gives is still a plain sum."""
    return (
        uses[id(convolution)] == 1
        and convolution.activation == "none"
        and not parametrize.is_parametrized(convolution)
    )


def _fold_norm(convolution: Convolution, norm: nn.BatchNorm1d) -> None:
    assert norm.running_mean is not None and norm.running_var is not None
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double()
    if convolution.bias is not None:
        shift = shift + convolution.bias.double()
    shift = shift * scale
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    weight = convolution.weight
    convolution.weight = nn.Parameter((weight.double() * scale).to(weight.dtype))
    convolution.bias = nn.Parameter(shift.to(weight.dtype))


def _fused_residual(block: Residual, uses: Counter[int]) -> nn.Module:
    steps = list(block.main) if isinstance(block.main, nn.Sequential) else [block.main]
    last = steps[-1] if steps else None
    activation = ("none", 0.0) if block.activation is None else known(block.activation)
    if not isinstance(last, Convolution) or not _is_open(last, uses):
        return block
    if activation is not None:
        last.activation, last.slope = activation
    return FusedResidual(
        Sequential(*steps[:-1]),
        last,
        block.shortcut,
        block.activation if activation is None else None,
    )
