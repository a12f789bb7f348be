# SPDX-License-Identifier: Apache-2.0
"""Sparse convolution on a GPU: a layer, a whole network, steps of training, beside two peers.

Times are medians of CUDA events around calls from Python. What a library does once, at its first
call (tuning, above all), is recorded apart, in seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from common import cuda_milliseconds
from fieldline.engine.sparse.models import Sample
from fieldline.engine.sparse.models.measure import without_maps
from sparse_inputs import Layer, NewFrames, Setting, TheirLayer, difference, network
from sparse_peers import Spconv
from sparse_shares import shares
from torch import Tensor

import fieldline as fl

Rows = dict[str, float]


def first_seconds(function: Callable[[], object]) -> float:
    """Wall time of a call, and of what it leaves to the GPU."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    torch.cuda.synchronize()
    return time.perf_counter() - start


@torch.no_grad()
def time_layer(setting: Setting) -> Rows:
    layer = Layer(setting.coords.cuda(), torch.float16)
    found = {
        "first_call_s": first_seconds(layer.cached),
        "with_map_ms": cuda_milliseconds(layer.with_map),
        "cached_ms": cuda_milliseconds(layer.cached),
    }
    for peer in setting.peers:
        made: list[TheirLayer] = []
        found[f"{peer.name}_first_call_s"] = first_seconds(
            lambda peer=peer, made=made: made.append(TheirLayer(peer, layer))
        )
        (twin,) = made
        found[f"{peer.name}_difference"] = difference(layer.with_map(), twin.with_map())
        found[f"{peer.name}_with_map_ms"] = cuda_milliseconds(twin.with_map)
        found[f"{peer.name}_cached_ms"] = cuda_milliseconds(twin.cached)
    return found


def time_network(setting: Setting) -> Rows:
    """Evaluation in float16: maps from scratch as they come, planned, in a graph; and in place."""
    start = time.perf_counter()
    model, sample = network(setting, "cuda", torch.float16)
    with torch.inference_mode():
        result = model(*sample.arguments).feats
        torch.cuda.synchronize()
        found = {"first_call_s": time.perf_counter() - start}
        fused = fl.sparse.fuse(model)
        frames, plan = NewFrames(sample), fl.sparse.plan(sample.tensor, model)
        found["maps_ms"] = cuda_milliseconds(lambda: plan(frames.next()))
        for name, net in (("", model), ("fused_", fused)):
            calls = {
                "with_maps": lambda net=net: net(*without_maps(sample)),
                "planned": lambda net=net: net(plan(frames.next())),
                "cached": lambda net=net: net(*sample.arguments),
            }
            for kind, call in calls.items():
                found[f"{name}{kind}_ms"] = cuda_milliseconds(call)
        anywhere = fl.sparse.capture(sample.tensor, fused)
        found["captured_with_maps_ms"] = cuda_milliseconds(lambda: anywhere(frames.next()))
        graph = captured(lambda: fused(*sample.arguments))
        found["captured_ms"] = cuda_milliseconds(graph.replay)
    for peer in setting.peers:
        found |= time_their_network(peer, model, sample, result)
    return found


@torch.no_grad()
def time_their_network(
    peer: Spconv, model: torch.nn.Module, sample: Sample, expected: Tensor
) -> Rows:
    twin = peer.network(model)
    x = peer.tensor(sample.tensor.coords, sample.tensor.feats)

    def forward() -> Tensor:
        return twin(peer.fresh(x))

    found = {f"{peer.name}_first_call_s": first_seconds(forward)}
    found[f"{peer.name}_difference"] = difference(expected, forward())
    found[f"{peer.name}_with_maps_ms"] = cuda_milliseconds(forward)
    return found


def captured(function: Callable[[], object]) -> torch.cuda.CUDAGraph:
    """A graph of what a call does on the GPU."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph


def time_training(setting: Setting) -> Rows:
    """Forward and backward in mixed precision, of a frame without maps."""
    model, sample = network(setting, "cuda", torch.float32)
    model.train()
    frames, plan = NewFrames(sample), fl.sparse.plan(sample.tensor, model)
    steps = {
        "": step_of(model, lambda: model(*without_maps(sample)).feats),
        "planned_": step_of(model, lambda: model(plan(frames.next())).feats),
    }
    for peer in setting.peers:
        steps[f"{peer.name}_"] = their_step(peer, model, sample)
    found: Rows = {}
    for name, step in steps.items():
        found[f"{name}first_step_s"] = first_seconds(step)
        found[f"{name}step_ms"] = cuda_milliseconds(step, 10, 3)
    return found


def their_step(peer: Spconv, model: torch.nn.Module, sample: Sample) -> Callable[[], None]:
    twin = peer.network(model)
    x = peer.tensor(sample.tensor.coords, sample.tensor.feats)
    return step_of(twin, lambda: twin(peer.fresh(x)))


def step_of(net: torch.nn.Module, logits: Callable[[], Tensor]) -> Callable[[], None]:
    def step() -> None:
        net.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.float16):
            loss = logits().float().square().mean()
        loss.backward()

    return step


def time_shares(setting: Setting) -> dict[str, Any]:
    model, sample = network(setting, "cuda", torch.float16)
    return shares(model, sample.tensor, lambda call: cuda_milliseconds(captured(call).replay))


# The network first, while nothing has been called.
SECTIONS = {
    "network": time_network,
    "layer": time_layer,
    "training": time_training,
    "shares": time_shares,
}
