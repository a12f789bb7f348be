# SPDX-License-Identifier: Apache-2.0
"""VDB grids: rays through nested masks, and what those take to build and to hold.

    python benchmarks/vdb.py                    all that this machine can measure on the CPU
    python benchmarks/vdb.py sampling --json    one section, as JSON
    python benchmarks/vdb.py --device cuda      on a GPU, beside nerfacc where it is installed

The rays are those of NeRF-Synthetic: a camera 4.03 from the centre of a box of +-1.5, 0.69 radians
wide, 800 x 800 pixels (every `--stride`-th row and column on the CPU), steps of 5e-3, no cone. Grid
A holds random shells, about 5 % of the voxels; grid B the shell of the armadillo, from
FIELDLINE_DATA. Both at 128^3 and at 512^3.

- ``sampling``: CPU nanoseconds a ray on one thread, outputs allocated and written, against our
  port of NerfAcc's algorithm (plain C++, -O3 -march=native, writing into memory that is ready),
  whose samples are compared bit by bit; and the same on two threads, wall time.
- ``spans``: occupied segments against NanoVDB's HDDA (Debian's libnanovdb-dev, compiled here).
- ``grids``: bytes of the masks, and CPU time to build them from the dense table.

Times are the least of `--repeats` runs, alternating with the peer's.
"""

from __future__ import annotations

import ctypes
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parent))

from common import DATA, arguments, best_of, clock, cuda_milliseconds, record, threads
from fieldline.cuda.vdb import walk_ops
from fieldline.cuda.vdb.grid_ops import Masks, build_masks

SECTIONS = ("sampling", "spans", "grids")
TARGETS = {
    "speedup_128": 5.0,
    "speedup_512": 14.0,
    "two_threads": 1.8,
    "bytes_128": 45_000,
    "bytes_512": 2_000_000,
    "build_ms_128": 1.0,
    "build_ms_512": 40.0,
    "cuda_image_ms_128": 1.2,
    "cuda_image_ms_512": 1.5,
    "cuda_chunks_speedup": 5.0,
}
BOX = torch.tensor([[-1.5, -1.5, -1.5, 1.5, 1.5, 1.5]])
STEP = 5e-3
CHUNK = 8192  # rays, as NerfAcc's own renderer takes them


def shells(resolution: int) -> Tensor:
    """Random shells, at least 5 % of the voxels: bool [1, n, n, n]."""
    generator = torch.Generator().manual_seed(7)
    axis = (torch.arange(resolution) + 0.5) / resolution
    occupied = torch.zeros(resolution, resolution, resolution, dtype=torch.bool)
    while occupied.float().mean() < 0.05:
        center = 0.25 + 0.5 * torch.rand(3, generator=generator)
        radius = 0.04 + 0.16 * float(torch.rand(1, generator=generator))
        x, y, z = ((axis - c) ** 2 for c in center)
        distance = (x[:, None, None] + y[:, None] + z).sqrt()
        occupied |= (distance - radius).abs() < 0.011
    return occupied[None]


def armadillo(resolution: int) -> Tensor | None:
    """The voxels within about 0.02 of the armadillo's surface, its height that of the box."""
    path = DATA / "sdf" / "armadillo.obj"
    if not path.is_file():
        return None
    rows = [line.split()[1:4] for line in path.read_text().splitlines() if line.startswith("v ")]
    points = torch.tensor([[float(x) for x in row] for row in rows])
    low, high = points.amin(0), points.amax(0)
    points = (points - (low + high) / 2) / (high - low).max() * 0.8 + 0.5
    occupied = torch.zeros(1, 1, 128, 128, 128)
    i, j, k = (points * 128).long().clamp(0, 127).unbind(1)
    occupied[0, 0, i, j, k] = 1
    occupied = torch.nn.functional.max_pool3d(occupied, 3, 1, 1)
    if resolution > 128:
        smooth = torch.nn.functional.avg_pool3d(occupied, 5, 1, 2)
        size = (resolution,) * 3
        smooth = torch.nn.functional.interpolate(smooth, size, mode="trilinear")
        return smooth[0] > 0.5
    return occupied[0] > 0.5


def camera_rays(stride: int) -> tuple[Tensor, Tensor]:
    """Origins and directions, row by row."""
    size, focal = 800, 0.5 * 800 / math.tan(0.5 * 0.6911112)
    pixels = torch.arange(0, size, stride)
    j, i = torch.meshgrid(pixels, pixels, indexing="ij")
    eye = torch.tensor([4.0311 * math.cos(0.5), 0.0, 4.0311 * math.sin(0.5)])
    forward = -eye / eye.norm()
    right = torch.linalg.cross(forward, torch.tensor([0.0, 0.0, 1.0]))
    right = right / right.norm()
    up = torch.linalg.cross(right, forward)
    x, y = ((p + 0.5 - size / 2) / focal for p in (i, j))
    d = forward + x[..., None] * right - y[..., None] * up
    d = (d / d.norm(dim=-1, keepdim=True)).reshape(-1, 3).contiguous()
    return eye.expand_as(d).contiguous(), d


class Peers:
    """The programs of vdb_peers.cpp, compiled into a folder that goes away."""

    def __init__(self, folder: str) -> None:
        self.has_nanovdb = Path("/usr/include/nanovdb/NanoVDB.h").is_file()
        source = Path(__file__).with_name("vdb_peers.cpp")
        target = Path(folder) / "peers.so"
        # Contraction would move cell faces by a rounding, and the samples would not be NerfAcc's.
        options = ["-std=c++17", "-O3", "-march=native", "-ffp-contract=off", "-shared", "-fPIC"]
        options += ["-DWITH_NANOVDB"] * self.has_nanovdb
        subprocess.run(["g++", *options, str(source), "-o", str(target)], check=True)
        self._library = ctypes.CDLL(str(target))
        self._library.nerfacc_port.restype = ctypes.c_int64
        if self.has_nanovdb:
            self._library.nanovdb_build.restype = ctypes.c_void_p
            self._library.nanovdb_spans.restype = ctypes.c_int64

    def nerfacc(
        self, cells: Tensor, o: Tensor, d: Tensor, room: int
    ) -> Callable[[], tuple[float, list[Tensor]]]:
        """One call samples all rays: CPU seconds, and ray_indices, t_starts, t_ends."""
        outputs = [torch.zeros(room, dtype=torch.int64), torch.zeros(room), torch.zeros(room)]

        def run() -> tuple[float, list[Tensor]]:
            seconds = ctypes.c_double()
            n = self._library.nerfacc_port(
                *(pointer(cells), cells.shape[1], pointer(BOX), pointer(o), pointer(d)),
                *(ctypes.c_int64(len(o)), ctypes.c_float(STEP), *map(pointer, outputs)),
                ctypes.byref(seconds),
            )
            return seconds.value, [t[:n] for t in outputs]

        return run

    def hdda(
        self, cells: Tensor, o: Tensor, d: Tensor
    ) -> tuple[dict[str, Any], Callable[[], tuple[float, list[Tensor]]]]:
        """What the grid took; and a call that finds all spans: CPU seconds, rays, enter, exit."""
        seconds, size = ctypes.c_double(), ctypes.c_int64()
        handle = ctypes.c_void_p(
            self._library.nanovdb_build(
                pointer(cells), cells.shape[1], ctypes.byref(seconds), ctypes.byref(size)
            )
        )
        room = 64 * len(o)
        outputs = [torch.zeros(room, dtype=torch.int64), torch.zeros(room), torch.zeros(room)]

        def run() -> tuple[float, list[Tensor]]:
            spent = ctypes.c_double()
            n = self._library.nanovdb_spans(
                *(handle, cells.shape[1], pointer(BOX), pointer(o), pointer(d)),
                *(ctypes.c_int64(len(o)), *map(pointer, outputs), ctypes.byref(spent)),
            )
            return spent.value, [t[:n] for t in outputs]

        return {"bytes": size.value, "build_ms": round(seconds.value * 1e3, 1)}, run


def pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def grids() -> dict[str, Tensor]:
    found = {}
    for resolution in (128, 512):
        found[f"A_{resolution}"] = shells(resolution)
        other = armadillo(resolution)
        if other is not None:
            found[f"B_{resolution}"] = other
    return found


def planes(o: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(o[:, 0]), torch.full_like(o[:, 0], 1e10)


def time_sampling(cells: Tensor, stride: int, repeats: int, peers: Peers) -> dict[str, Any]:
    o, d = camera_rays(stride)
    near, far = planes(o)
    masks = build_masks(cells)

    def sparse() -> tuple[Tensor, ...]:
        return walk_ops.sample_masks(masks, BOX, o, d, near, far, step=STEP)

    def dense() -> tuple[Tensor, ...]:
        return walk_ops.sample_dense(cells, BOX, o, d, near, far, step=STEP)

    ours = sparse()
    port = peers.nerfacc(cells, o, d, len(ours[0]) + 1)
    with threads(1):
        times: dict[str, list[float]] = {"port": [], "masks": [], "dense": []}
        for _ in range(repeats):
            seconds, theirs = port()
            times["port"].append(seconds)
            times["masks"].append(clock(sparse).cpu)
            times["dense"].append(clock(dense).cpu)
    one = least_wall(sparse, 1, repeats)
    two = least_wall(sparse, 2, repeats)
    best = {name: min(values) for name, values in times.items()}
    return {
        "samples": len(ours[0]),
        "rays": len(o),
        "ns_per_ray": {name: round(value / len(o) * 1e9, 1) for name, value in best.items()},
        "speedup": round(best["port"] / best["masks"], 2),
        "dense_speedup": round(best["port"] / best["dense"], 2),
        "two_threads": round(one / two, 2),
        "same_bits": all(torch.equal(a, b) for a, b in zip(ours, theirs)),
    }


def least_wall(function: Callable[[], object], count: int, repeats: int) -> float:
    with threads(count):
        return best_of(function, repeats).wall


def time_spans(cells: Tensor, stride: int, repeats: int, peers: Peers) -> dict[str, Any]:
    o, d = camera_rays(stride)
    near, far = planes(o)
    masks = build_masks(cells)
    scale = cells.shape[1] / 3.0
    rays_o, rays_d = (o + 1.5) * scale, d * scale

    def ours() -> walk_ops.Pieces:
        return walk_ops.find_pieces(masks, rays_o, rays_d, near, far, voxels=False)

    about, theirs = peers.hdda(cells, o, d)
    times: dict[str, list[float]] = {"nanovdb": [], "masks": []}
    with threads(1):
        for _ in range(repeats):
            seconds, found = theirs()
            times["nanovdb"].append(seconds)
            times["masks"].append(clock(ours).cpu)
    best = {name: min(values) for name, values in times.items()}
    mine = ours()
    lengths = [float((exit - enter).double().sum()) for enter, exit in (mine[1:3], found[1:3])]
    return {
        "ns_per_ray": {name: round(value / len(o) * 1e9, 1) for name, value in best.items()},
        "speedup": round(best["nanovdb"] / best["masks"], 2),
        "spans": {"masks": len(mine.t_enter), "nanovdb": len(found[1])},
        "length_ratio": round(lengths[0] / lengths[1], 6),
        "nanovdb": about,
    }


def time_grid(cells: Tensor, repeats: int) -> dict[str, Any]:
    masks = build_masks(cells)
    with threads(1):
        built = best_of(lambda: build_masks(cells), repeats).cpu
    return {
        "occupied": round(float(cells.double().mean()), 4),
        "bytes": bytes_of(masks),
        "dense_bytes": cells.numel(),
        "build_ms": round(built * 1e3, 3),
    }


def bytes_of(masks: Masks) -> int:
    return sum(t.numel() * t.element_size() for t in (masks.tops, masks.nodes, masks.leaves))


def time_cuda(cells: Tensor) -> dict[str, Any]:
    """Milliseconds for an image, and for it in chunks, beside nerfacc's own traversal."""
    o, d = (t.cuda() for t in camera_rays(1))
    near, far = planes(o)
    box, dense = BOX.cuda(), cells.cuda()
    masks = build_masks(dense)

    def sample(part: slice) -> tuple[Tensor, ...]:
        return walk_ops.sample_masks(masks, box, o[part], d[part], near[part], far[part], step=STEP)

    def chunks(function: Callable[[slice], object]) -> Callable[[], None]:
        def run() -> None:
            for start in range(0, len(o), CHUNK):
                function(slice(start, start + CHUNK))

        return run

    whole = slice(None)
    found: dict[str, Any] = {
        "samples": len(sample(whole)[0]),
        "image_ms": round(cuda_milliseconds(lambda: sample(whole)), 3),
        "chunks_ms": round(cuda_milliseconds(chunks(sample), 7, 2), 3),
        "build_ms": round(cuda_milliseconds(lambda: build_masks(dense)), 3),
        "same_bits_as_dense": all(
            torch.equal(a, b)
            for a, b in zip(
                sample(whole), walk_ops.sample_dense(dense, box, o, d, near, far, step=STEP)
            )
        ),
    }
    try:
        from nerfacc.grid import traverse_grids
    except ImportError:
        return found

    def peer(part: slice) -> Any:
        return traverse_grids(o[part], d[part], dense, box, near[part], far[part], STEP, 0.0)

    found |= {
        "nerfacc_samples": int(peer(whole)[1].vals.numel()),
        "nerfacc_image_ms": round(cuda_milliseconds(lambda: peer(whole), 10), 3),
        "nerfacc_chunks_ms": round(cuda_milliseconds(chunks(peer), 5, 1), 3),
    }
    found["speedup"] = round(found["nerfacc_image_ms"] / found["image_ms"], 2)
    found["chunks_speedup"] = round(found["nerfacc_chunks_ms"] / found["chunks_ms"], 2)
    return found


def main() -> None:
    parser = arguments("Rays through sparse grids: time of the CPU or the GPU.", SECTIONS)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--stride", type=int, default=4, help="of pixels, on the CPU")
    options = parser.parse_args()
    chosen = options.sections or SECTIONS
    if unknown := set(chosen) - set(SECTIONS):
        parser.error(f"unknown sections: {', '.join(sorted(unknown))}")
    results: dict[str, Any] = {"targets": TARGETS, "stride": options.stride}
    every = grids()
    if options.device == "cuda":
        results["cuda"] = {name: time_cuda(cells) for name, cells in every.items()}
        text = record("vdb_cuda", results, options.output, ("nerfacc",))
        print(text if options.json else json.dumps(results, indent=2))
        return
    with tempfile.TemporaryDirectory() as folder:
        peers = Peers(folder)
        for name, cells in every.items():
            measures = {
                "sampling": lambda c=cells: time_sampling(
                    c, options.stride, options.repeats, peers
                ),
                "grids": lambda c=cells: time_grid(c, options.repeats),
            }
            if peers.has_nanovdb:
                measures["spans"] = lambda c=cells: time_spans(
                    c, options.stride, options.repeats, peers
                )
            else:
                results["spans"] = "left out: no headers of NanoVDB (apt install libnanovdb-dev)"
            for section in chosen:
                if section in measures:
                    results.setdefault(section, {})[name] = measures[section]()
    text = record("vdb_cpu", results, options.output)
    print(text if options.json else json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
