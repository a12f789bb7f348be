# SPDX-License-Identifier: Apache-2.0
"""Sparse convolution on a CPU: layers, backward, bfloat16, a whole network, padding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import best_of, clock, threads
from fieldline.engine.sparse.models import Sample, configuration, measure
from sparse_inputs import (
    CHANNELS,
    MODEL,
    Layer,
    Setting,
    TheirLayer,
    difference,
    network,
    spheres,
)
from torch import Tensor

import fieldline as fl


def alternating(repeats: int, **functions: Callable[[], object]) -> dict[str, float]:
    """CPU milliseconds of each, in turns, after one call that is not counted."""
    for function in functions.values():
        function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            times[name].append(clock(function).cpu)
    return {name: round(1e3 * min(values), 3) for name, values in times.items()}


@torch.no_grad()
def time_layer(coords: Tensor, setting: Setting) -> dict[str, Any]:
    layer = Layer(coords, torch.float32)
    result = layer.cached()
    kernel_map = measure.count_levels(layer.x.maps)[0]
    found: dict[str, Any] = {"voxels": len(coords), "pairs_per_voxel": round(kernel_map.pairs, 3)}
    ours: dict[str, Callable[[], object]] = {"cached": layer.cached, "with_map": layer.with_map}
    theirs: dict[str, Callable[[], object]] = {}
    for peer in setting.peers:
        twin = TheirLayer(peer, layer)
        theirs = {f"{peer.name}_cached": twin.cached, f"{peer.name}_with_map": twin.with_map}
        found["difference"] = difference(result, twin.with_map())
    with threads(1):
        found["cpu_ms"] = times = alternating(setting.repeats, **ours, **theirs)
    for peer in setting.peers:
        for name in ours:
            found[f"{name}_ratio"] = round(times[name] / times[f"{peer.name}_{name}"], 3)
    multiply_adds = kernel_map.pairs * len(coords) * CHANNELS * CHANNELS
    found["gflops"] = round(2 * multiply_adds / times["cached"] / 1e6, 1)
    walls = {}
    for count in (1, 2):
        with threads(count):
            walls[count] = best_of(layer.cached, setting.repeats).wall
    found["two_threads"] = round(walls[1] / walls[2], 2)
    return found


def time_backward(setting: Setting) -> dict[str, Any]:
    """Both gradients beside the forward pass, one thread."""
    layer = Layer(setting.coords, torch.float32)
    feats = layer.x.feats.requires_grad_()
    out = layer.cached()
    gradient = torch.randn_like(out)
    inputs = (feats, layer.conv.weight)
    with threads(1):
        times = alternating(
            setting.repeats,
            forward=layer.cached,
            backward=lambda: torch.autograd.grad(out, inputs, gradient, retain_graph=True),
        )
    return {"cpu_ms": times, "backward_by_forward": round(times["backward"] / times["forward"], 2)}


@torch.no_grad()
def time_bfloat16(setting: Setting) -> dict[str, Any]:
    wide, narrow = (Layer(setting.coords, dtype) for dtype in (torch.float32, torch.bfloat16))
    with threads(1):
        times = alternating(setting.repeats, float32=wide.cached, bfloat16=narrow.cached)
    flags = Path("/proc/cpuinfo")
    return {
        "cpu_ms": times,
        "speedup": round(times["float32"] / times["bfloat16"], 2),
        "avx512_bf16": flags.is_file() and "avx512_bf16" in flags.read_text(),
    }


@torch.inference_mode()
def time_network(setting: Setting) -> dict[str, Any]:
    model, sample = network(setting, "cpu", torch.float32)
    fused = fl.sparse.fuse(model)
    functions: dict[str, Callable[[], Any]] = {
        "with_maps": lambda: model(*measure.without_maps(sample)).feats,
        "fused_with_maps": lambda: fused(*measure.without_maps(sample)).feats,
        "fused_cached": lambda: fused(*sample.arguments).feats,
    }
    found: dict[str, Any] = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "levels": [vars(level) for level in _levels(model, sample)],
    }
    for peer in setting.peers:
        twin = peer.network(model)
        x = peer.tensor(sample.tensor.coords, sample.tensor.feats)
        functions[f"{peer.name}_with_maps"] = lambda peer=peer, twin=twin, x=x: twin(peer.fresh(x))
        theirs = functions[f"{peer.name}_with_maps"]()
        for name in ("with_maps", "fused_with_maps"):
            found[f"{name}_difference"] = difference(functions[name](), theirs)
    with threads(1):
        found["cpu_ms"] = times = alternating(setting.repeats, **functions)
    for peer in setting.peers:
        for name in ("with_maps", "fused_with_maps"):
            found[f"{name}_ratio"] = round(times[name] / times[f"{peer.name}_with_maps"], 3)
    return found


def count_padding(setting: Setting) -> dict[str, float]:
    """Padded over real work of the submanifold convolutions of the first three levels."""
    chosen = configuration(MODEL)
    model, sample = chosen.make().eval(), chosen.prepare(setting.frame)
    counted = fl.sparse.count_operations(model, sample.tensor)
    levels = [level.voxels for level in measure.count_levels(sample.tensor.maps)[:3]]
    work = [[0, 0] for _ in levels]
    for layer in counted.layers:
        if layer.kind == "SubmConv3d" and layer.rows in levels:
            sums = work[levels.index(layer.rows)]
            sums[0] += layer.multiply_adds
            sums[1] += layer.padded_multiply_adds
    found = {f"level_{k}": round(padded / real, 3) for k, (real, padded) in enumerate(work)}
    real, padded = (sum(column) for column in zip(*work))
    found["levels_0_to_2"] = round(padded / real, 3)
    found["whole_network"] = round(counted.overhead, 3)
    return found


def _levels(model: torch.nn.Module, sample: Sample) -> list[measure.LevelCount]:
    model(*sample.arguments)
    return measure.count_levels(sample.tensor.maps)


def time_layers(setting: Setting) -> dict[str, dict[str, Any]]:
    return {
        "sweep": time_layer(setting.coords, setting),
        "spheres": time_layer(spheres(), setting),
        "backward": time_backward(setting),
        "bfloat16": time_bfloat16(setting),
    }


SECTIONS = {"layer": time_layers, "network": time_network, "padding": count_padding}
