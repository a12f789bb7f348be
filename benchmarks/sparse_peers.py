# SPDX-License-Identifier: Apache-2.0
"""Layers of spconv or spconv-triton and the same MinkUNet built of them, with the weights of ours.

The CPU wheel of spconv comes without torch's pin, so it goes into a folder of its own:

    pip install --no-deps --target DIR spconv cumm pccm ccimport pybind11 fire termcolor \
        portalocker lark

and, on a GPU, `spconv-cu126` and `cumm-cu126` in place of `spconv` and `cumm`, and `spconv-triton`
beside them. `--peers DIR` then lets the benchmark find them. Both are imported by their own names,
so that neither stands in for the other.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

LIBRARIES = ("spconv", "spconv_triton")


def load(folder: Path | None, names: Sequence[str]) -> list[Spconv]:
    """Peers, from a folder or from where Python finds them; those that are not there are left out.

    Args:
        folder: Where they were installed into; None: among Python's own packages.
        names: Of LIBRARIES.
    """
    if folder is not None:
        if not folder.is_dir():
            raise SystemExit(f"--peers: no folder {folder}")
        sys.path.append(str(folder.resolve()))
    found = []
    for name in names:
        try:
            found.append(Spconv(importlib.import_module(f"{name}.pytorch"), name))
        except ImportError as error:
            print(f"without {name}: {error}", file=sys.stderr)
    return found


class Spconv:
    """What the benchmark asks of spconv, or of a library with its interface."""

    def __init__(self, library: ModuleType, name: str) -> None:
        self.library = library
        self.name = name

    def tensor(self, coords: Tensor, feats: Tensor) -> Any:
        """Coordinates from zero, in a box that holds them at every level of a MinkUNet."""
        shape = [(int(size) // 16 + 1) * 16 for size in coords[:, 1:].amax(0)]
        return self.library.SparseConvTensor(feats, coords, shape, int(coords[:, 0].max()) + 1)

    def fresh(self, x: Any) -> Any:
        """The same rows without any map."""
        return self.library.SparseConvTensor(x.features, x.indices, x.spatial_shape, x.batch_size)

    def layer(self, weight: Tensor) -> nn.Module:
        """A submanifold convolution with a weight of ours, [3, 3, 3, C_in, C_out]."""
        c_in, c_out = weight.shape[-2:]
        layer = self.library.SubMConv3d(c_in, c_out, 3, bias=False, indice_key="k")
        layer.to(weight.device, weight.dtype)
        with torch.no_grad():
            layer.weight.copy_(weight.permute(4, 0, 1, 2, 3))
        return layer

    def network(self, ours: nn.Module) -> nn.Module:
        """A MinkUNet with the weights and statistics of ours."""
        first = next(ours.parameters())
        network = _minkunet(self.library, ours.widths, ours.head.out_features)
        network = network.to(first.device, first.dtype)
        _copy(ours, network)
        return network.train(ours.training)


def _copy(ours: nn.Module, theirs: nn.Module) -> None:
    # Both are built in the same order; only convolutions lay their weights out differently.
    pairs = list(zip(ours.parameters(), theirs.parameters(), strict=True))
    statistics = [
        [buffer for name, buffer in module.named_buffers() if "running" in name]
        for module in (ours, theirs)
    ]
    pairs += list(zip(*statistics, strict=True))
    with torch.no_grad():
        for source, target in pairs:
            if source.dim() == 5:
                source = source.permute(4, 0, 1, 2, 3)
            target.copy_(source.reshape(target.shape))


def _minkunet(sp: ModuleType, c: list[int], classes: int) -> nn.Module:
    def block(conv: nn.Module, channels: int) -> list[nn.Module]:
        return [conv, nn.BatchNorm1d(channels), nn.ReLU()]

    def subm(c_in: int, c_out: int, level: int) -> nn.Module:
        return sp.SubMConv3d(c_in, c_out, 3, bias=False, indice_key=f"s{level}")

    class Residual(sp.SparseModule):
        def __init__(self, c_in: int, c_out: int, level: int) -> None:
            super().__init__()
            self.first = sp.SparseSequential(*block(subm(c_in, c_out, level), c_out))
            self.second = sp.SparseSequential(subm(c_out, c_out, level), nn.BatchNorm1d(c_out))
            self.past = None
            if c_in != c_out:
                linear = nn.Linear(c_in, c_out, bias=False)
                self.past = nn.Sequential(linear, nn.BatchNorm1d(c_out))

        def forward(self, x: Any) -> Any:
            past = x.features if self.past is None else self.past(x.features)
            x = self.second(self.first(x))
            return x.replace_feature(torch.relu(x.features + past))

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            stem = block(subm(4, c[0], 0), c[0]) + block(subm(c[0], c[0], 0), c[0])
            self.stem = sp.SparseSequential(*stem)
            self.encoder, self.up, self.decoder = (nn.ModuleList() for _ in range(3))
            for k in range(4):
                conv = sp.SparseConv3d(c[k], c[k], 2, 2, bias=False, indice_key=f"d{k}")
                blocks = [Residual(c[k], c[k + 1], k + 1), Residual(c[k + 1], c[k + 1], k + 1)]
                self.encoder.append(sp.SparseSequential(*block(conv, c[k]), *blocks))
            for k in range(4):
                a, b, level = c[4 + k], c[5 + k], 3 - k
                conv = sp.SparseInverseConv3d(a, b, 2, bias=False, indice_key=f"d{level}")
                self.up.append(sp.SparseSequential(*block(conv, b)))
                blocks = [Residual(b + c[level], b, level), Residual(b, b, level)]
                self.decoder.append(sp.SparseSequential(*blocks))
            self.head = nn.Linear(c[8], classes)

        def forward(self, x: Any) -> Tensor:
            levels = [self.stem(x)]
            for encode in self.encoder:
                levels.append(encode(levels[-1]))
            x = levels.pop()
            for climb, decode in zip(self.up, self.decoder):
                x = climb(x)
                x = decode(x.replace_feature(torch.cat((x.features, levels.pop().features), 1)))
            return self.head(x.features)

    return Network()
