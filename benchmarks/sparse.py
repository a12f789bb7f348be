# SPDX-License-Identifier: Apache-2.0
"""Sparse convolution: layers and a whole MinkUNet, on the CPU or a GPU, beside spconv.

    python benchmarks/sparse.py --peers DIR                  all that this machine measures on CPU
    python benchmarks/sparse.py layer --peers DIR            one section
    python benchmarks/sparse.py --device cuda --peers DIR    on a GPU

`sparse_peers.py` says how spconv gets into DIR; without it the peer's columns are left out. The
inputs are a SemanticKITTI sweep at 0.05 m, from FIELDLINE_DATA (the street that fieldline makes, if
that is not there), and 100,000 voxels on spheres.

- ``layer``: SubmConv3d 3x3x3 64 -> 64, float32: with its map cached, and the map included; on one
  thread, and on two; backward; bfloat16. CPU time of one thread, wall time of two.
- ``network``: MinkUNet of 21.7 M parameters in evaluation, maps included, with the same weights as
  the peer's, and with normalisation folded into its convolutions.
- ``padding``: multiply-adds that a GPU's tiles do in vain, levels 0 to 2.

On a GPU ``layer`` is in float16; ``network`` is timed with maps from scratch, cached, captured in a
CUDA graph, and as a step of mixed-precision training; and ``shares`` splits the old way to convolve
(gather, one product a tap, scatter) into its parts, as the papers of TorchSparse do.

Times are the least of `--repeats` runs on the CPU, alternating with the peer's, and medians on a
GPU. Results are compared with the peer's before any clock starts.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# spconv's CPU layers multiply with numpy, whose threads torch does not set.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import torch
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parent))

import sparse_peers
from common import DATA, arguments, best_of, clock, cuda_milliseconds, record, sgemm_unit, threads
from fieldline.engine.sparse.models import Sample, configuration, measure

import fieldline as fl

SECTIONS = ("layer", "network", "padding", "shares")
TARGETS = {
    "cached_ratio": 0.55,
    "with_map_ratio": 0.55,
    "spheres_ratio": 0.6,
    "two_threads": 1.7,
    "backward": 2.5,
    "bfloat16": 1.5,
    "network_ratio": 0.55,
    "padded": 1.25,
    "cuda_network_ms": 2.5,
    "cuda_captured_ms": 1.5,
    "cuda_training_ms": 14.0,
    "cuda_layer_ms": 0.15,
    "cuda_layer_cached_ms": 0.07,
    "cuda_first_call_s": 2.0,
}
CHANNELS = 64
MODEL = "minkunet-1.0"

Input = tuple[Tensor, Tensor]  # coords, feats


def sweep() -> tuple[str, fl.datasets.LidarFrame]:
    path = DATA / "lidar" / "semantickitti_hdl64.bin"
    if path.is_file():
        return "semantickitti_hdl64.bin at 0.05 m", fl.datasets.load_point_cloud(path)
    return "a street made here, at 0.05 m", fl.datasets.synthetic.street()


def spheres(count: int = 100_000) -> Tensor:
    """Coordinates of voxels that random spheres pass through: int32 [count, 4]."""
    generator = torch.Generator().manual_seed(0)
    found = torch.empty(0, 3, dtype=torch.int64)
    axis = torch.arange(-50, 51)
    grid = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    distance = grid.double().norm(dim=1)
    while len(found) < count:
        radius = 20 + 28 * torch.rand((), generator=generator).item()
        center = torch.randint(60, 450, (3,), generator=generator)
        found = torch.cat((found, grid[(distance - radius).abs() < 0.5] + center)).unique(dim=0)
    # A slab of whole spheres' parts, so that neighbours stay together.
    coords = found[:count].int()
    return torch.cat((torch.zeros(count, 1, dtype=torch.int32), coords), dim=1)


class Layer:
    """One convolution of ours, and the peer's with the same weight."""

    def __init__(
        self, coords: Tensor, dtype: torch.dtype, peer: sparse_peers.Spconv | None
    ) -> None:
        torch.manual_seed(0)
        device = coords.device
        self.conv = fl.nn.SubmConv3d(CHANNELS, CHANNELS, 3, bias=False).to(device, dtype)
        feats = torch.randn(len(coords), CHANNELS).to(device, dtype)
        self.x = fl.SparseTensor(coords, feats)
        self.peer = peer
        if peer is not None:
            self.their_conv = peer.layer(self.conv.weight.detach()).eval()
            self.their_x = peer.tensor(coords - coords.amin(0), feats)
            self.their_cached = self.their_conv(self.their_x)

    def fresh(self) -> fl.SparseTensor:
        return measure.without_maps(Sample((self.x,), Tensor(), Tensor()))[0]

    def cached(self) -> Tensor:
        return self.conv(self.x).feats

    def with_map(self) -> Tensor:
        return self.conv(self.fresh()).feats

    def their_with_map(self) -> Tensor:
        assert self.peer is not None
        return self.their_conv(self.peer.fresh(self.their_x)).features

    def theirs(self) -> Tensor:
        # The map lives in the tensor that the first call returned.
        return self.their_conv(self.their_cached).features

    def difference(self) -> float:
        """The greatest difference from the peer's result, by the greatest value."""
        theirs = self.their_with_map().float()
        return ((self.with_map().float() - theirs).abs().max() / theirs.abs().max()).item()


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
def time_layer(coords: Tensor, repeats: int, peer: sparse_peers.Spconv | None) -> dict[str, Any]:
    layer = Layer(coords, torch.float32, peer)
    kernel_map = measure.count_levels(_after(layer).maps)[0]
    found: dict[str, Any] = {"voxels": len(coords), "pairs_per_voxel": round(kernel_map.pairs, 3)}
    ours: dict[str, Callable[[], object]] = {"cached": layer.cached, "with_map": layer.with_map}
    theirs: dict[str, Callable[[], object]] = {}
    if peer is not None:
        theirs = {"spconv_cached": layer.theirs, "spconv_with_map": layer.their_with_map}
        found["difference"] = layer.difference()
    with threads(1):
        found["cpu_ms"] = times = alternating(repeats, **ours, **theirs)
    if peer is not None:
        for name in ours:
            found[f"{name}_ratio"] = round(times[name] / times[f"spconv_{name}"], 3)
    multiply_adds = kernel_map.pairs * len(coords) * CHANNELS * CHANNELS
    found["gflops"] = round(2 * multiply_adds / times["cached"] / 1e6, 1)
    walls = {}
    for count in (1, 2):
        with threads(count):
            walls[count] = best_of(layer.cached, repeats).wall
    found["two_threads"] = round(walls[1] / walls[2], 2)
    return found


def _after(layer: Layer) -> fl.SparseTensor:
    layer.cached()
    return layer.x


def time_backward(coords: Tensor, repeats: int) -> dict[str, Any]:
    """Both gradients beside the forward pass, one thread."""
    layer = Layer(coords, torch.float32, None)
    feats = layer.x.feats.requires_grad_()
    out = layer.cached()
    gradient = torch.randn_like(out)
    inputs = (feats, layer.conv.weight)
    with threads(1):
        times = alternating(
            repeats,
            forward=layer.cached,
            backward=lambda: torch.autograd.grad(out, inputs, gradient, retain_graph=True),
        )
    return {"cpu_ms": times, "backward_by_forward": round(times["backward"] / times["forward"], 2)}


@torch.no_grad()
def time_bfloat16(coords: Tensor, repeats: int) -> dict[str, Any]:
    wide, narrow = (Layer(coords, dtype, None) for dtype in (torch.float32, torch.bfloat16))
    with threads(1):
        times = alternating(repeats, float32=wide.cached, bfloat16=narrow.cached)
    flags = Path("/proc/cpuinfo")
    return {
        "cpu_ms": times,
        "speedup": round(times["float32"] / times["bfloat16"], 2),
        "avx512_bf16": flags.is_file() and "avx512_bf16" in flags.read_text(),
    }


def network(
    frame: fl.datasets.LidarFrame, device: str, dtype: torch.dtype
) -> tuple[torch.nn.Module, Sample]:
    """The network with statistics that normalise, as if it had been trained."""
    torch.manual_seed(0)
    chosen = configuration(MODEL)
    model = chosen.make().to(device)
    with torch.no_grad():
        model.train()(*chosen.prepare(frame, device).arguments)
    return model.eval().to(dtype), chosen.prepare(frame, device, dtype)


def their_input(peer: sparse_peers.Spconv, sample: Sample) -> Any:
    return peer.tensor(sample.tensor.coords, sample.tensor.feats)


@torch.inference_mode()
def time_network(
    frame: fl.datasets.LidarFrame, repeats: int, peer: sparse_peers.Spconv | None
) -> dict[str, Any]:
    model, sample = network(frame, "cpu", torch.float32)
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
    if peer is not None:
        twin, x = peer.network(model), their_input(peer, sample)
        functions["spconv_with_maps"] = lambda: twin(peer.fresh(x))
        theirs = functions["spconv_with_maps"]()
        for name in ("with_maps", "fused_with_maps"):
            difference = (functions[name]() - theirs).abs().max() / theirs.abs().max()
            found[f"{name}_difference"] = difference.item()
    with threads(1):
        found["cpu_ms"] = times = alternating(repeats, **functions)
    if peer is not None:
        for name in ("with_maps", "fused_with_maps"):
            found[f"{name}_ratio"] = round(times[name] / times["spconv_with_maps"], 3)
    return found


def count_padding(frame: fl.datasets.LidarFrame) -> dict[str, float]:
    """Padded over real work of the submanifold convolutions of the first three levels."""
    chosen = configuration(MODEL)
    model, sample = chosen.make().eval(), chosen.prepare(frame)
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


def cuda_layer(coords: Tensor, peer: sparse_peers.Spconv | None) -> dict[str, Any]:
    with torch.no_grad():
        layer = Layer(coords.cuda(), torch.float16, peer)
        found: dict[str, Any] = {
            "with_map_ms": round(cuda_milliseconds(layer.with_map), 4),
            "cached_ms": round(cuda_milliseconds(layer.cached), 4),
        }
        if peer is not None:
            found["difference"] = layer.difference()
            found["spconv_with_map_ms"] = round(cuda_milliseconds(layer.their_with_map), 4)
            found["spconv_cached_ms"] = round(cuda_milliseconds(layer.theirs), 4)
    return found


def cuda_network(frame: fl.datasets.LidarFrame, peer: sparse_peers.Spconv | None) -> dict[str, Any]:
    torch.cuda.synchronize()
    start = time.perf_counter()
    model, sample = network(frame, "cuda", torch.float16)
    with torch.inference_mode():
        model(*sample.arguments)
        torch.cuda.synchronize()
        found: dict[str, Any] = {"first_call_s": round(time.perf_counter() - start, 2)}
        fused = fl.sparse.fuse(model)
        for name, net in (("", model), ("fused_", fused)):
            found[f"{name}with_maps_ms"] = cuda_milliseconds(
                lambda net=net: net(*measure.without_maps(sample))
            )
            found[f"{name}cached_ms"] = cuda_milliseconds(lambda net=net: net(*sample.arguments))
        found["captured_ms"] = cuda_milliseconds(captured(fused, sample).replay)
    found["training_ms"] = cuda_milliseconds(*training(frame, None), 10, 3)
    if peer is not None:
        twin, x = peer.network(model), their_input(peer, sample)
        with torch.no_grad():
            found["spconv_with_maps_ms"] = cuda_milliseconds(lambda: twin(peer.fresh(x)))
        found["spconv_training_ms"] = cuda_milliseconds(*training(frame, peer), 10, 3)
    return {k: round(v, 3) for k, v in found.items()}


def captured(model: torch.nn.Module, sample: Sample) -> torch.cuda.CUDAGraph:
    """A graph of the network with its maps in place."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            model(*sample.arguments)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        model(*sample.arguments)
    return graph


def training(
    frame: fl.datasets.LidarFrame, peer: sparse_peers.Spconv | None
) -> tuple[Callable[[], None]]:
    """A step with mixed precision, maps from scratch: forward and backward."""
    model, sample = network(frame, "cuda", torch.float32)
    if peer is None:
        net = model.train()

        def logits() -> Tensor:
            return net(*measure.without_maps(sample)).feats
    else:
        net, x = peer.network(model.train()), their_input(peer, sample)

        def logits() -> Tensor:
            return net(peer.fresh(x))

    def step() -> None:
        net.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.float16):
            loss = logits().float().square().mean()
        loss.backward()

    return (step,)


@torch.no_grad()
def cuda_shares(coords: Tensor) -> dict[str, Any]:
    """The old way in its parts, on one layer: what moving rows costs, and what grouping saves."""
    layer = Layer(coords.cuda(), torch.float16, None)
    layer.cached()
    (found,) = layer.x.maps.entries.values()
    rows_in, rows_out, starts = (rows.long() for rows in found.kernel_map.pairs)
    sizes = starts.diff().tolist()
    bounds = list(zip(starts.tolist(), starts.tolist()[1:]))
    weight = layer.conv.weight.view(-1, CHANNELS, CHANNELS)
    feats = layer.x.feats
    gathered = feats[rows_in]
    products = torch.empty_like(gathered)
    out = torch.zeros(len(feats), CHANNELS, device="cuda")
    groups = [
        (gathered.new_zeros(len(taps), longest, CHANNELS), weight[taps])
        for taps, longest in grouped(sizes)
    ]

    def one_by_one() -> None:
        for (a, b), w in zip(bounds, weight):
            torch.mm(gathered[a:b], w, out=products[a:b])

    def in_groups() -> None:
        for rows, kernels in groups:
            torch.bmm(rows, kernels)

    times = {
        "gather": cuda_milliseconds(lambda: torch.index_select(feats, 0, rows_in)),
        "scatter": cuda_milliseconds(lambda: out.index_add_(0, rows_out, products.float())),
        "products": cuda_milliseconds(one_by_one),
        "products_grouped": cuda_milliseconds(in_groups),
        "ours": cuda_milliseconds(layer.cached),
    }
    movement = times["gather"] + times["scatter"]
    return {
        "ms": {name: round(value, 4) for name, value in times.items()},
        "movement_share": round(movement / (movement + times["products"]), 3),
        "grouping_speedup": round(times["products"] / times["products_grouped"], 2),
        "speedup": round((movement + times["products"]) / times["ours"], 2),
    }


def grouped(sizes: list[int], waste: float = 0.25) -> list[tuple[list[int], int]]:
    """Taps of similar length, so that padding each to the longest adds at most a share of waste."""
    groups: list[tuple[list[int], int]] = []
    taps: list[int] = []
    for tap in sorted((t for t, size in enumerate(sizes) if size), key=lambda t: sizes[t]):
        longest, total = sizes[tap], sum(sizes[t] for t in [*taps, tap])
        if taps and longest * (len(taps) + 1) > (1 + waste) * total:
            groups.append((taps, sizes[taps[-1]]))
            taps = []
        taps.append(tap)
    return [*groups, (taps, sizes[taps[-1]])] if taps else groups


def measure_cpu(options: Any, chosen: tuple[str, ...]) -> dict[str, Any]:
    name, frame = sweep()
    peer = _peer(options)
    coords = configuration(MODEL).prepare(frame).tensor.coords
    results: dict[str, Any] = {"input": name, "sgemm_unit_s": round(sgemm_unit(3), 5)}
    # With two threads spconv 2.3.8 gives wrong rows now and then, and could not be compared.
    with threads(1):
        results |= _cpu_sections(options.repeats, chosen, frame, coords, peer)
    return results


def _cpu_sections(
    repeats: int,
    chosen: tuple[str, ...],
    frame: fl.datasets.LidarFrame,
    coords: Tensor,
    peer: sparse_peers.Spconv | None,
) -> dict[str, Any]:
    results: dict[str, Any] = {}
    if "layer" in chosen:
        results["layer"] = {
            "sweep": time_layer(coords, repeats, peer),
            "spheres": time_layer(spheres(), repeats, peer),
            "backward": time_backward(coords, repeats),
            "bfloat16": time_bfloat16(coords, repeats),
        }
    if "network" in chosen:
        results["network"] = time_network(frame, repeats, peer)
    if "padding" in chosen:
        results["padding"] = count_padding(frame)
    return results


def measure_cuda(options: Any, chosen: tuple[str, ...]) -> dict[str, Any]:
    name, frame = sweep()
    peer = _peer(options)
    results: dict[str, Any] = {"input": name}
    if "network" in chosen:
        results["network"] = cuda_network(frame, peer)
    coords = configuration(MODEL).prepare(frame).tensor.coords
    if "layer" in chosen:
        results["layer"] = cuda_layer(coords, peer)
    if "shares" in chosen:
        results["shares"] = cuda_shares(coords)
    return results


def _peer(options: Any) -> sparse_peers.Spconv | None:
    library = sparse_peers.load(options.peers)
    return None if library is None else sparse_peers.Spconv(library)


def main() -> None:
    parser = arguments("Sparse convolution: time of the CPU or the GPU.", SECTIONS)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--peers", type=Path, help="folder that spconv was installed into")
    options = parser.parse_args()
    chosen = tuple(options.sections) or SECTIONS
    if unknown := set(chosen) - set(SECTIONS):
        parser.error(f"unknown sections: {', '.join(sorted(unknown))}")
    measure_all = measure_cuda if options.device == "cuda" else measure_cpu
    results = {"targets": TARGETS, **measure_all(options, chosen)}
    text = record(f"sparse_{options.device}", results, options.output, ("spconv", "cumm"))
    print(text if options.json else json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
