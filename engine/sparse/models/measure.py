# SPDX-License-Identifier: Apache-2.0
"""What a network costs on an input: its levels, its operations, its time by kind of layer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from ..cache import MapCache
from ..coordinates import Level
from ..tensor import SparseTensor
from .configurations import Sample

Arguments = tuple[SparseTensor | Tensor, ...]


@dataclass(frozen=True)
class LevelCount:
    """One set of coordinates that a network works on.

    Args:
        stride: In units of the input.
        voxels: How many coordinates.
        pairs: Per voxel, of its submanifold map of most taps: how many neighbours are there,
            the voxel itself included. None if no submanifold convolution works here.
    """

    stride: tuple[int, ...]
    voxels: int
    pairs: float | None


def without_maps(sample: Sample, voxels: int | None = None) -> Arguments:
    """Give a sample's arguments with a cache that is empty.

    Args:
        sample: As `Configuration.prepare` makes it.
        voxels: How many of its voxels, from the first on; default: all. Two numbers make two
            frames of nearly the same cost, neither of which a plan takes for the other.

    Returns:
        New arguments on the same coordinates and features.

    Example:
        >>> x = fl.SparseTensor(torch.zeros(1, 4, dtype=torch.int32), torch.ones(1, 2))
        >>> (fresh,) = without_maps(Sample((x,), torch.zeros(1), torch.zeros(1)))
        >>> fresh.maps is x.maps
        False
    """
    x = sample.tensor
    level = Level(x.coords[:voxels], x.stride, x.spatial_range, x.batch_size)
    return (SparseTensor.on(x.feats[:voxels], level, MapCache(level)), *sample.arguments[1:])


class _OfVoxels(torch.nn.Module):
    """A network whose other arguments are given."""

    def __init__(self, model: torch.nn.Module, others: tuple[SparseTensor | Tensor, ...]) -> None:
        super().__init__()
        self.model = model
        self.others = others

    def forward(self, x: SparseTensor) -> SparseTensor | Tensor:
        return self.model(x, *self.others)


def of_voxels(model: torch.nn.Module, sample: Sample) -> torch.nn.Module:
    """Make a network one of its voxels alone, as `count_operations` and `plan` take it.

    Args:
        model: The network.
        sample: Its input, whose points are kept.

    Returns:
        A module that takes the voxels.
    """
    return _OfVoxels(model, sample.arguments[1:])


def count_levels(cache: MapCache) -> list[LevelCount]:
    """List the levels of a network that has run.

    Args:
        cache: `maps` of its input.

    Returns:
        Level after level, in the order they were made.
    """
    return [
        LevelCount(level.stride, len(level), _pairs(cache, level.number)) for level in cache.levels
    ]


def _pairs(cache: MapCache, number: int) -> float | None:
    maps = [
        found.kernel_map
        for (start, recipe), found in cache.entries.items()
        if start == number and recipe.kind == "submanifold"
    ]
    if not maps:
        return None
    widest = max(maps, key=lambda kernel_map: kernel_map.n_taps)
    return widest.n_pairs / max(widest.n_out, 1)


def seconds(function: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Time a call: the least wall time of several on a CPU, the least of CUDA events on a GPU.

    Args:
        function: What to call; once more before, uncounted.
        repeats: Calls.
        device: Where it works.

    Returns:
        Seconds.
    """
    function()
    clock = _cuda_clock if device.type == "cuda" else _wall_clock
    return min(clock(function) for _ in range(repeats))


def _wall_clock(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _cuda_clock(function: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    function()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def seconds_by_kind(
    model: torch.nn.Module, arguments: Arguments, repeats: int = 3
) -> dict[str, float]:
    """Time a network's layers, summed by kind.

    Each layer is waited for, so that on a GPU the sum exceeds the time of the whole.

    Args:
        model: The network.
        arguments: Of its forward; maps are made before the clock starts.
        repeats: Runs; the one that took least in all counts.

    Returns:
        Seconds by kind, the longest first.
    """
    device = arguments[0].device
    model(*arguments)
    runs = []
    for _ in range(repeats):
        with _watched(model, device) as spent:
            model(*arguments)
        runs.append(spent)
    best = min(runs, key=lambda run: sum(run.values()))
    return dict(sorted(best.items(), key=lambda item: -item[1]))


@contextmanager
def _watched(model: torch.nn.Module, device: torch.device) -> Iterator[dict[str, float]]:
    spent: dict[str, float] = {}
    started: list[float] = []

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    def before(*_: object) -> None:
        started.append(now())

    def after(layer: torch.nn.Module, *_: object) -> None:
        kind = kind_of(layer)
        spent[kind] = spent.get(kind, 0.0) + now() - started.pop()

    handles = []
    for layer in model.modules():
        if not any(True for _ in layer.children()):
            handles.append(layer.register_forward_pre_hook(before))
            handles.append(layer.register_forward_hook(after))
    try:
        yield spent
    finally:
        for handle in handles:
            handle.remove()


def kind_of(layer: torch.nn.Module) -> str:
    """Name the kind of a layer: its type, and of a convolution the kernel and stride.

    Args:
        layer: Any.

    Returns:
        Such as "SubmConv3d 3x3x3".

    Example:
        >>> kind_of(fl.nn.Conv3d(1, 1, 2, 2))
        'Conv3d 2x2x2 /2'
    """
    name = type(layer).__name__
    size = getattr(layer, "kernel_size", None)
    if size is None:
        return name
    text = f"{name} {'x'.join(map(str, size))}"
    stride = getattr(layer, "stride", ())
    if all(step == 1 for step in stride):
        return text
    steps = {str(step) for step in stride}
    return f"{text} /{steps.pop() if len(steps) == 1 else 'x'.join(map(str, stride))}"
