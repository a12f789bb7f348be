# SPDX-License-Identifier: Apache-2.0
"""How many multiplications and additions a network does on an input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ...cuda.sparse.kernel_map import KernelMap
from ...cuda.sparse.tuning import default_schedule, padded_pairs
from .arguments import check_kind
from .nn.convolution import Convolution
from .plan import evaluating
from .tensor import SparseTensor


@dataclass(frozen=True)
class LayerCount:
    """One layer's part.

    Args:
        name: Of the module.
        kind: Its class.
        rows: Of its output.
        pairs: Of input and output rows that meet.
        multiply_adds: Of the pairs.
        padded_multiply_adds: With those that an implicit GEMM on a GPU does beside them, for tiles
            of rows that do not all have a tap.
    """

    name: str
    kind: str
    rows: int
    pairs: int
    multiply_adds: int
    padded_multiply_adds: int


@dataclass(frozen=True)
class OperationCount:
    """What `count_operations` found.

    Args:
        layers: Each layer's part, in the order in which they ran.
    """

    layers: tuple[LayerCount, ...]

    @property
    def multiply_adds(self) -> int:
        """In all."""
        return sum(layer.multiply_adds for layer in self.layers)

    @property
    def padded_multiply_adds(self) -> int:
        """In all, with what tiles do in vain."""
        return sum(layer.padded_multiply_adds for layer in self.layers)

    @property
    def overhead(self) -> float:
        """Padded work over real work, at least 1."""
        return self.padded_multiply_adds / self.multiply_adds if self.multiply_adds else 1.0


def count_operations(model: nn.Module, x: SparseTensor) -> OperationCount:
    """Counts the multiply-adds of convolutions and linear layers by running the model once.

    Args:
        model: The network, called with x alone; it is not changed.
        x: Its input.

    Returns:
        The counts, layer by layer and in all.

    Example:
        >>> from fieldline.engine.sparse import nn
        >>> coords = torch.tensor([[0, 0], [0, 1]], dtype=torch.int32)
        >>> count = count_operations(nn.SubmConv1d(2, 8, 3), SparseTensor(coords, torch.ones(2, 2)))
        >>> count.layers[0].pairs, count.multiply_adds
        (4, 64)
    """
    check_kind("count_operations", "model", model, nn.Module)
    check_kind("count_operations", "x", x, SparseTensor)
    layers: list[LayerCount] = []
    names = {module: name for name, module in model.named_modules()}

    def record(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        counted = _count_linear if isinstance(module, nn.Linear) else _count_convolution
        layers.append(counted(names[module], module, arguments[0], output))

    hooks = [
        module.register_forward_hook(record)
        for module in names
        if isinstance(module, Convolution | nn.Linear)
    ]
    try:
        with evaluating(model), torch.no_grad():
            model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return OperationCount(tuple(layers))


def _count_linear(name: str, module: Any, _: Any, output: Any) -> LayerCount:
    feats = output.feats if isinstance(output, SparseTensor) else output
    rows = feats.numel() // max(feats.shape[-1], 1)
    work = rows * module.in_features * module.out_features
    return LayerCount(name, type(module).__name__, rows, rows, work, work)


def _count_convolution(name: str, module: Any, x: SparseTensor, output: Any) -> LayerCount:
    kernel_map, _ = x.maps.find(x.level, module.recipe)
    pairs = kernel_map.n_pairs
    padded = pairs if kernel_map.is_identity else _padded(kernel_map, module.out_channels)
    each = module.in_channels // module.groups * module.out_channels
    kind = type(module).__name__
    return LayerCount(name, kind, len(output), pairs, pairs * each, padded * each)


def _padded(kernel_map: KernelMap, channels_out: int) -> int:
    """Pairs that the tiles of an untuned GPU multiply."""
    schedule = default_schedule(kernel_map.n_out, kernel_map.n_taps, channels_out)
    return padded_pairs(kernel_map, schedule.tile_rows, schedule.splits)
