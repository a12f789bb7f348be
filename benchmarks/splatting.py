# SPDX-License-Identifier: Apache-2.0
"""Splatting: CPU time of binning and blending, memory of a render, and gsplat beside us on a GPU.

    python benchmarks/splatting.py              all that this machine can measure
    python benchmarks/splatting.py cpu --json   one section, as JSON

- ``cpu``: 100,000 Gaussians drawn on the garden cloud, 400 x 400, degree 3; binning and blending,
  forward and backward, on one thread in sgemm units, and how much faster two threads are.
- ``memory``: growth of the process during a 1080p render of 150,000 splats.
- ``cuda``: forward and forward + backward beside gsplat, on the same inputs.

The garden cloud and the biker are real data (FIELDLINE_DATA); without them a generated cloud
stands in, and the record says so.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parent))

from common import (
    DATA,
    Seconds,
    arguments,
    clock,
    cuda_milliseconds,
    least,
    record,
    sgemm_unit,
    threads,
)
from fieldline.cuda.splat import ops

import fieldline as fl

SECTIONS = ("cpu", "memory", "cuda")
GARDEN = DATA / "gs" / "gsplat" / "test_garden.npz"
BIKER = DATA / "gs" / "splats" / "biker.compressed.ply"
TARGETS = {"forward_units": 4.0, "backward_units": 7.0, "speedup": 1.7, "memory_mb": 400.0}


@dataclass
class Cloud:
    """Points with a camera that sees them."""

    source: str
    means: Tensor  # [N, 3]
    viewmat: Tensor  # [1, 4, 4]
    K: Tensor  # [1, 3, 3], for 648 x 420 pixels


def garden() -> Cloud:
    """The cloud of gsplat's own benchmarks, or a generated one."""
    if GARDEN.is_file():
        data = np.load(GARDEN)
        arrays = (data["means3d"], data["viewmats"][:1], data["Ks"][:1])
        return Cloud("test_garden.npz", *(torch.from_numpy(a).float() for a in arrays))
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(138_766, 3, generator=generator) * torch.tensor([2.0, 2.0, 3.0])
    view = torch.eye(4)[None].clone()
    view[:, 2, 3] = 8
    K = torch.tensor([[[480.0, 0, 324], [0, 480, 210], [0, 0, 1]]])
    return Cloud("generated: no real data at hand", means, view, K)


# CPU.


@dataclass
class CpuCase:
    """Inputs of binning and blending, after projection and colours."""

    splats: tuple[Tensor, ...]  # means2d, radii, depths, conics, colors, opacities
    width: int = 400
    height: int = 400

    def bin(self) -> ops.Bins:
        means2d, radii, depths, conics, _, opacities = self.splats
        return ops.bin_splats(
            means2d, radii, depths, 1, 16, 25, 25, conics=conics, opacities=opacities
        )

    def leaves(self) -> list[Tensor]:
        means2d, _, _, conics, colors, opacities = self.splats
        return [t.detach().clone().requires_grad_() for t in (means2d, conics, colors, opacities)]

    def blend(self, leaves: list[Tensor], bins: ops.Bins) -> tuple[Tensor, Tensor]:
        return ops.blend(*leaves, self.width, self.height, 16, bins)


def cpu_case(cloud: Cloud, scale: float) -> CpuCase:
    """100,000 points of the cloud with random shapes, opacities and harmonics."""
    g = torch.Generator().manual_seed(42)
    N, W, H = 100_000, 400, 400
    means = cloud.means[torch.randperm(len(cloud.means), generator=g)[:N]][None]
    K = cloud.K.clone()
    K[:, 0] *= W / 648
    K[:, 1] *= H / 420
    scales = torch.rand(N, 3, generator=g) * 0.02 * scale + 1e-4
    quats = torch.randn(N, 4, generator=g)
    opacities = torch.rand(N, generator=g)
    coefficients = torch.randn(N, 16, 3, generator=g) * 0.2
    p = ops.project(
        means, cloud.viewmat[None], K[None], W, H,
        quats=quats[None], scales=scales[None], opacities=opacities[None],
    )  # fmt: skip
    colors = ops.shade(3, means, cloud.viewmat[None], coefficients[None], p.radii)
    rows = (p.means2d, p.radii, p.depths, p.conics, colors)
    return CpuCase((*(t.reshape(N, *t.shape[3:]) for t in rows), opacities))


def time_cpu_case(case: CpuCase, repeats: int) -> dict[str, Seconds]:
    """Least times of each part, at one and two threads in turn."""
    times: dict[str, list[Seconds]] = {}
    for _ in range(repeats + 1):
        for count in (1, 2):
            with threads(count):
                for part, seconds in _run_once(case).items():
                    times.setdefault(f"{part}_{count}", []).append(seconds)
    return {part: least(*seconds[1:]) for part, seconds in times.items()}


def _run_once(case: CpuCase) -> dict[str, Seconds]:
    bins = case.bin()
    leaves = case.leaves()
    image, alpha = case.blend(leaves, bins)
    seeds = [torch.ones_like(image), torch.ones_like(alpha)]
    found = [t.detach() for t in leaves]
    return {
        "bin": clock(case.bin),
        "blend": clock(lambda: case.blend(found, bins)),
        "backward": clock(lambda: torch.autograd.grad([image, alpha], leaves, seeds)),
    }


def cpu(repeats: int) -> dict[str, Any]:
    """Binning and blending in sgemm units."""
    cloud, out = garden(), {}
    for name, scale in (("spec", 1.0), ("dense", 1.75)):
        case = cpu_case(cloud, scale)
        before = sgemm_unit()
        t = time_cpu_case(case, repeats)
        unit = min(before, sgemm_unit())
        forward = [t[f"bin_{n}"].wall + t[f"blend_{n}"].wall for n in (1, 2)]
        units = {part: t[f"{part}_1"].cpu / unit for part in ("bin", "blend", "backward")}
        out[name] = {
            "cloud": cloud.source,
            "pairs": case.bin().flatten_ids.numel(),
            "rectangle_pairs": _rectangle_pairs(case),
            "sgemm_unit_ms": 1e3 * unit,
            **{f"{part}_units": value for part, value in units.items()},
            "forward_units": units["bin"] + units["blend"],
            "forward_speedup": forward[0] / forward[1],
            "backward_speedup": t["backward_1"].wall / t["backward_2"].wall,
            "wall_ms": {part: 1e3 * seconds.wall for part, seconds in t.items()},
            "cpu_ms": {part: 1e3 * seconds.cpu for part, seconds in t.items()},
        }
    return out


def _rectangle_pairs(case: CpuCase) -> int:
    means2d, radii, depths = case.splats[:3]
    return ops.bin_splats(means2d, radii, depths, 1, 16, 25, 25).flatten_ids.numel()


# Memory.


def memory(repeats: int) -> dict[str, Any]:
    """Each measurement in a process of its own, whose peak nothing else has raised."""
    out = {}
    for what in ("render", "render_and_gradients"):
        run = subprocess.run(
            [sys.executable, __file__, "--measure-memory", what],
            capture_output=True,
            text=True,
            check=True,
        )
        out[what] = json.loads(run.stdout)
    return out


def measure_memory(what: str) -> dict[str, Any]:
    """Growth of this process's peak over what it held before one 1080p render."""
    splats, source = _many_splats()
    width, height = 1920, 1080
    camera = _filling_camera(splats, width, height)
    small = _filling_camera(splats, 64, 64)
    gradients = what != "render"
    splats.requires_grad_(gradients)
    with torch.set_grad_enabled(gradients):
        fl.render(splats, small)
        held = _resident_bytes()
        image = fl.render(splats, camera).rgb
        if gradients:
            image.sum().backward()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "splats": len(splats),
        "source": source,
        "size": [width, height],
        "held_before_mb": held / 1e6,
        "peak_mb": peak / 1e6,
        "growth_mb": (peak - held) / 1e6,
        "covered": float((image.detach().sum(-1) > 0).float().mean()),
    }


def _many_splats() -> tuple[fl.Gaussians3D, str]:
    if BIKER.is_file():
        return fl.load(BIKER), BIKER.name
    return fl.Gaussians3D.random(150_000, seed=0), "generated: no real data at hand"


def _filling_camera(splats: fl.Gaussians3D, width: int, height: int) -> fl.Camera:
    """Looks along the shallowest axis of the splats from where they fill the view."""
    low, high = (splats.means.detach().quantile(q, dim=0) for q in (0.02, 0.98))
    center, half = (low + high) / 2, (high - low) / 2
    axis = int(half.argmin())
    away = torch.zeros(3)
    away[axis] = 1
    up = torch.zeros(3)
    up[1 if axis != 1 else 2] = 1
    distance = float(half[axis] + 0.6 * half.max())
    return fl.Camera.look_at(
        center + distance * away, center, up, fov_y=0.9, width=width, height=height
    )


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


# GPU.

GPU_CASES = ((138_766, 648, 420), (138_766, 1920, 1080), (1_000_000, 1920, 1080))
GPU_TARGETS = {
    (138_766, 648, 420): {"forward_ms": 0.35, "forward_backward_ms": 0.9},
    (1_000_000, 1920, 1080): {"forward_ms": 0.6, "forward_backward_ms": 2.2},
}


def gpu_inputs(cloud: Cloud, N: int, W: int, H: int) -> tuple[list[Tensor], Tensor, Tensor]:
    """Means, quats, scales, opacities and harmonics on the GPU; the camera."""
    device = torch.device("cuda")
    g = torch.Generator(device=device).manual_seed(42)
    base = cloud.means.to(device)
    means = base
    if len(base) != N:
        chosen = torch.randint(len(base), (N,), device=device, generator=g)
        means = base[chosen] + 0.02 * torch.randn(N, 3, device=device, generator=g)
    largest = 0.02 if N < 200_000 else 0.008
    scales = torch.rand(N, 3, device=device, generator=g) * largest + 1e-4
    quats = torch.randn(N, 4, device=device, generator=g)
    opacities = torch.rand(N, device=device, generator=g)
    coefficients = torch.randn(N, 16, 3, device=device, generator=g) * 0.2
    K = cloud.K.to(device).clone()
    K[:, 0] *= W / 648
    K[:, 1] *= H / 420
    return [means.clone(), quats, scales, opacities, coefficients], cloud.viewmat.to(device), K


def time_gpu(rasterization: Callable[..., Any], cloud: Cloud, N: int, W: int, H: int) -> Any:
    """Medians of a renderer's forward, and of forward and backward."""
    parameters, view, K = gpu_inputs(cloud, N, W, H)

    def render() -> Any:
        return rasterization(*parameters, view, K, W, H, sh_degree=3, packed=False)

    def step() -> None:
        for parameter in parameters:
            parameter.grad = None
        render()[0].square().mean().backward()

    with torch.no_grad():
        forward = cuda_milliseconds(render)
        meta = render()[2]
    for parameter in parameters:
        parameter.requires_grad_()
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    both = cuda_milliseconds(step, repeats=10, warm=3)
    return {
        "forward_ms": forward,
        "forward_backward_ms": both,
        "pairs": meta["flatten_ids"].numel(),
        "visible": int((meta["radii"] > 0).all(-1).sum()),
        "peak_mb": (torch.cuda.max_memory_allocated() - held) / 1e6,
    }


def cuda(repeats: int) -> dict[str, Any]:
    """Our renderer and gsplat's in turn."""
    if not torch.cuda.is_available():
        return {"not_run": "no GPU that torch can use"}
    cloud = garden()
    renderers: dict[str, Callable[..., Any]] = {"fieldline": fl.rasterization}
    out: dict[str, Any] = {"cloud": cloud.source}
    try:
        import gsplat

        renderers["gsplat"] = gsplat.rasterization
    except Exception as error:  # it also raises other things where its kernels do not build
        out["gsplat_not_run"] = f"{type(error).__name__}: {error}"
    for N, W, H in GPU_CASES:
        case = {name: time_gpu(f, cloud, N, W, H) for name, f in renderers.items()}
        if (N, W, H) in GPU_TARGETS:
            case["target"] = GPU_TARGETS[N, W, H]
        if "gsplat" in case:
            for part in ("forward_ms", "forward_backward_ms"):
                case[f"{part[:-3]}_speedup"] = case["gsplat"][part] / case["fieldline"][part]
        out[f"{N}@{W}x{H}"] = case
    return out


def describe(results: dict[str, Any]) -> str:
    """The figures for people."""
    lines = []
    for name, r in results.get("cpu", {}).items():
        lines.append(
            f"cpu {name}: {r['pairs']} pairs, unit {r['sgemm_unit_ms']:.1f} ms; "
            f"forward {r['forward_units']:.2f} (target {TARGETS['forward_units']}), "
            f"backward {r['backward_units']:.2f} (target {TARGETS['backward_units']}) units; "
            f"two threads x{r['forward_speedup']:.2f} and x{r['backward_speedup']:.2f} "
            f"(target x{TARGETS['speedup']})"
        )
    for name, r in results.get("memory", {}).items():
        lines.append(
            f"memory of {name}: {r['growth_mb']:.0f} MB over {r['held_before_mb']:.0f} MB, "
            f"{r['splats']} splats at {r['size'][0]} x {r['size'][1]} "
            f"(target {TARGETS['memory_mb']:.0f} MB)"
        )
    for name, r in results.get("cuda", {}).items():
        lines.append(f"cuda {name}: {json.dumps(r)}")
    return "\n".join(lines)


def main() -> None:
    """Measures, prints and records."""
    parser = arguments(__doc__.split("\n")[0], SECTIONS)
    parser.add_argument("--measure-memory", metavar="WHAT", help="used by the memory section")
    options = parser.parse_args()
    if options.measure_memory:
        print(json.dumps(measure_memory(options.measure_memory)))
        return
    chosen = options.sections or SECTIONS
    unknown = set(chosen) - set(SECTIONS)
    if unknown:
        parser.error(f"unknown section {sorted(unknown)[0]!r}: expected {', '.join(SECTIONS)}")
    functions = {"cpu": cpu, "memory": memory, "cuda": cuda}
    results: dict[str, Any] = {"targets": TARGETS}
    for section in chosen:
        results[section] = functions[section](options.repeats)
    where = "cuda" if torch.cuda.is_available() else "cpu"
    text = record(f"splatting_{where}", results, options.output, peers=("gsplat",))
    print(text if options.json else describe(results))


if __name__ == "__main__":
    main()
