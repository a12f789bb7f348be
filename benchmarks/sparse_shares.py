# SPDX-License-Identifier: Apache-2.0
"""Where the time of gather, product and scatter goes, over the layers of a whole network.

TorchSparse (Tang et al., MLSys 2022, section 4) takes a sparse convolution apart into moving rows
to and from buffers and the products between, one for each tap. It groups products of similar
length into batches, and moves half as many bytes. The same parts are measured here, beside our
kernels, which move rows once and have no buffers. Times are of the GPU alone, without the launches
that grouping saves besides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from fieldline.engine.sparse.nn.convolution import Convolution
from torch import Tensor

import fieldline as fl

Clock = Callable[[Callable[[], object]], float]
Groups = list[tuple[list[int], int]]  # taps, and the length of the longest


@dataclass
class Work:
    """One convolution: what it is given, and which rows meet through which tap."""

    layer: Convolution
    x: fl.SparseTensor
    rows_in: Tensor
    rows_out: Tensor
    starts: list[int]
    n_out: int

    @property
    def sizes(self) -> list[int]:
        return [b - a for a, b in pairwise(self.starts)]

    @property
    def weight(self) -> Tensor:
        """[K, C_in, C_out]."""
        return self.layer.weight.flatten(0, -3)


@torch.no_grad()
def shares(model: torch.nn.Module, x: fl.SparseTensor, clock: Clock) -> dict[str, Any]:
    """The parts, summed over all convolutions of more than one tap.

    Args:
        model: A network in float16 and evaluation.
        x: Its input.
        clock: Milliseconds of a call.
    """
    works = convolutions(model, x)
    ms: dict[str, float] = {}
    for work in works:
        for part, value in parts(work, clock).items():
            ms[part] = ms.get(part, 0.0) + value
    moved = {bits: ms[f"gather_{bits}"] + ms[f"scatter_{bits}"] for bits in ("float32", "float16")}
    one_by_one = moved["float16"] + ms["products"]
    return {
        "layers": len(works),
        "ms": {part: round(value, 3) for part, value in ms.items()},
        "movement_share": round(moved["float16"] / one_by_one, 3),
        "half_movement_speedup": round(moved["float32"] / moved["float16"], 2),
        "symmetric_grouping_speedup": round(ms["products"] / ms["products_symmetric"], 2),
        "adaptive_grouping_speedup": round(ms["products"] / ms["products_adaptive"], 2),
        "bytes_ratio": round(sum(map(buffered_bytes, works)) / sum(map(our_bytes, works)), 2),
        "speedup": round(one_by_one / ms["ours"], 2),
    }


def convolutions(model: torch.nn.Module, x: fl.SparseTensor) -> list[Work]:
    found: list[Work] = []

    def record(layer: Any, arguments: tuple[Any, ...], output: Any) -> None:
        given = arguments[0]
        kernel_map, _ = given.maps.find(given.level, layer.recipe)
        if not kernel_map.is_identity:
            rows_in, rows_out, starts = (rows.long() for rows in kernel_map.pairs)
            found.append(Work(layer, given, rows_in, rows_out, starts.tolist(), len(output)))

    layers = [layer for layer in model.modules() if isinstance(layer, Convolution)]
    hooks = [layer.register_forward_hook(record) for layer in layers]
    try:
        model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def parts(work: Work, clock: Clock) -> dict[str, float]:
    """Milliseconds of one convolution's parts, and of ours."""
    feats, weight = work.x.feats, work.weight
    gathered = feats[work.rows_in]
    products = gathered.new_empty(len(gathered), weight.shape[2])
    found = {}
    for dtype in (torch.float32, torch.float16):
        name, rows, summands = str(dtype).split(".")[1], feats.to(dtype), products.to(dtype)
        out = torch.zeros(work.n_out, weight.shape[2], dtype=dtype, device=feats.device)
        found[f"gather_{name}"] = clock(lambda rows=rows: rows.index_select(0, work.rows_in))
        found[f"scatter_{name}"] = clock(
            lambda out=out, summands=summands: out.index_add_(0, work.rows_out, summands)
        )

    def one_by_one() -> None:
        for (a, b), kernel in zip(pairwise(work.starts), weight):
            torch.mm(gathered[a:b], kernel, out=products[a:b])

    found["products"] = clock(one_by_one)
    for name, groups in (("symmetric", symmetric(work.sizes)), ("adaptive", adaptive(work.sizes))):
        batches = [
            (gathered.new_zeros(len(taps), longest, gathered.shape[1]), weight[taps])
            for taps, longest in groups
        ]
        found[f"products_{name}"] = clock(lambda batches=batches: [a @ b for a, b in batches])
    found["ours"] = clock(lambda: work.layer(work.x))
    return found


def symmetric(sizes: list[int]) -> Groups:
    """Opposite taps together, which on the same coordinates have as many rows."""
    taps = len(sizes)
    together = [sorted({tap, taps - 1 - tap}) for tap in range((taps + 1) // 2)]
    return [(both, longest) for both in together if (longest := max(sizes[t] for t in both))]


def adaptive(sizes: list[int], waste: float = 0.25) -> Groups:
    """Taps of similar length, so that padding each to the longest adds at most a share of waste."""
    groups: Groups = []
    taps: list[int] = []
    for tap in sorted((t for t, size in enumerate(sizes) if size), key=lambda t: sizes[t]):
        longest, total = sizes[tap], sum(sizes[t] for t in [*taps, tap])
        if taps and longest * (len(taps) + 1) > (1 + waste) * total:
            groups.append((taps, sizes[taps[-1]]))
            taps = []
        taps.append(tap)
    return [*groups, (taps, sizes[taps[-1]])] if taps else groups


def buffered_bytes(work: Work) -> int:
    """Of float16 through buffers: each row read and written by gather, product and scatter."""
    c_in, c_out = work.weight.shape[1:]
    return 2 * work.starts[-1] * (3 * c_in + 4 * c_out)


def our_bytes(work: Work) -> int:
    """Of float16 without buffers: each row read for each tap, and each output written once."""
    c_in, c_out = work.weight.shape[1:]
    return 2 * (work.starts[-1] * c_in + work.n_out * c_out)
