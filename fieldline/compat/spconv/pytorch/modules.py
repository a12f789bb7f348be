# SPDX-License-Identifier: Apache-2.0
"""spconv's ``pytorch.modules``: the base class, the sequence, and layers of torch on features."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Any

import torch
from torch import nn

from .core import SparseConvTensor

__all__ = [
    "PrintCurrentTime",
    "PrintTensorMeta",
    "SparseBatchNorm",
    "SparseIdentity",
    "SparseModule",
    "SparseReLU",
    "SparseSequential",
    "SparseSyncBatchNorm",
    "assign_name_for_sparse_modules",
    "is_sparse_conv",
    "is_spconv_module",
]


class SparseModule(nn.Module):
    """The base of every module that takes a sparse tensor in a `SparseSequential`.

    Args:
        name: Under which times are recorded.
    """

    def __init__(self, name: str | None = None) -> None:
        super().__init__()
        self.name = name
        self._sparse_unique_name = ""


class SparseSequential(SparseModule):
    """Modules one after the other; torch's own are given the features.

    A plain module is skipped where the tensor has no rows, as in spconv: batch normalisation of
    nothing is an error.

    Args:
        args: Modules, or one OrderedDict of them.
        kwargs: Modules by name.

    Example:
        >>> net = SparseSequential(nn.Linear(2, 3), act=nn.ReLU())
        >>> indices = torch.tensor([[0, 1]], dtype=torch.int32)
        >>> net(SparseConvTensor(torch.ones(1, 2), indices, [4], 1)).features.shape
        torch.Size([1, 3])
    """

    def __init__(self, *args: Any, **kwargs: nn.Module) -> None:
        super().__init__()
        if len(args) == 1 and isinstance(args[0], OrderedDict):
            named = dict(args[0])
        else:
            named = {str(number): module for number, module in enumerate(args)}
        for name, module in (*named.items(), *kwargs.items()):
            self.add(module, name)

    def __getitem__(self, idx: int) -> nn.Module:
        if not -len(self) <= idx < len(self):
            raise IndexError(f"SparseSequential: index {idx} is out of range of {len(self)}")
        return list(self._modules.values())[idx]  # type: ignore[return-value]

    def __len__(self) -> int:
        return len(self._modules)

    def add(self, module: nn.Module, name: str | None = None) -> None:
        """Appends a module.

        Args:
            module: Any module.
            name: Its name; None: its number.

        Raises:
            ValueError: The name is taken.
        """
        name = str(len(self)) if name is None else name
        if name in self._modules:
            raise ValueError(f"SparseSequential.add: name: {name!r} exists")
        self.add_module(name, module)

    def forward(self, input: Any) -> Any:
        """Runs the modules.

        Args:
            input: A sparse tensor; or whatever the modules take.

        Returns:
            What the last module gives.
        """
        for module in self._modules.values():
            plain = not is_spconv_module(module)
            if plain and isinstance(input, SparseConvTensor):
                if input.indices.shape[0]:
                    input = input.replace_feature(module(input.features))  # type: ignore[misc]
            else:
                input = module(input)  # type: ignore[misc]
        return input


class _OnFeatures:
    """Mixed into a layer of torch: takes a sparse tensor as well as features."""

    def forward(self, input: Any) -> Any:
        """Applies the layer to the features of a sparse tensor, or to a tensor."""
        forward = super().forward  # type: ignore[misc]
        if isinstance(input, SparseConvTensor):
            return input.replace_feature(forward(input.features))
        return forward(input)


class SparseBatchNorm(_OnFeatures, nn.BatchNorm1d):
    """Batch normalisation of features."""


class SparseSyncBatchNorm(_OnFeatures, nn.SyncBatchNorm):
    """Batch normalisation of features over all processes."""


class SparseReLU(_OnFeatures, nn.ReLU):
    """max(x, 0) of features."""


class SparseIdentity(_OnFeatures, nn.Identity):
    """Features as they are."""


class PrintTensorMeta(nn.Module):
    """Prints the least, the largest and the mean value, and gives what it is given."""

    def forward(self, x: Any) -> Any:
        """The input."""
        values = x.features if isinstance(x, SparseConvTensor) else x
        print(values.min(), values.max(), values.mean())
        return x


class PrintCurrentTime(nn.Module):
    """Prints the time since it was made, and gives what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.first_time = _time()

    def forward(self, x: Any, msg: str = "", reset: bool = False) -> Any:
        """The input."""
        if reset:
            self.first_time = _time()
        print(msg, _time() - self.first_time)
        return x


def is_spconv_module(module: Any) -> bool:
    """Whether a module takes sparse tensors in a `SparseSequential`."""
    return isinstance(module, (SparseModule, SparseBatchNorm, SparseReLU))


def is_sparse_conv(module: Any) -> bool:
    """Whether a module is a sparse convolution."""
    from .conv import SparseConvolution

    return isinstance(module, SparseConvolution)


def assign_name_for_sparse_modules(module: nn.Module) -> None:
    """Tells every sparse module inside a module what it is called there."""
    for name, child in module.named_modules():
        if isinstance(child, SparseModule):
            child._sparse_unique_name = name


def _time() -> float:
    """Seconds, once the GPU is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
