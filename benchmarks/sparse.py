# SPDX-License-Identifier: Apache-2.0
"""Sparse convolution: layers and a whole MinkUNet, on the CPU or a GPU, beside its peers.

    python benchmarks/sparse.py --peers DIR                  all that this machine measures on CPU
    python benchmarks/sparse.py layer --peers DIR            one section
    python benchmarks/sparse.py --device cuda --peers DIR    on a GPU

`sparse_peers.py` says how spconv and spconv-triton get into DIR; the columns of one that is not
there are left out, and `--peer` chooses. The inputs are a SemanticKITTI sweep at 0.05 m, from
FIELDLINE_DATA (the street that fieldline makes, if that is not there), and 100,000 voxels on
spheres.

- ``layer``: SubmConv3d 3x3x3 64 -> 64, float32: with its map cached, and the map included; on one
  thread, and on two; backward; bfloat16. CPU time of one thread, wall time of two.
- ``network``: MinkUNet of 21.7 M parameters in evaluation, maps included, with the same weights as
  the peer's, and with normalisation folded into its convolutions.
- ``padding``: multiply-adds that a GPU's tiles do in vain, levels 0 to 2.

On a GPU ``layer`` is in float16; ``network`` is timed on frames that it has not seen, its maps made
layer by layer, by a plan at once, or within a CUDA graph, and with maps cached, in a graph too;
``training`` is a step of mixed precision; and ``shares`` splits the old way to convolve (gather,
one product a tap, scatter) into its parts, as the papers of TorchSparse do.

Times are the least of `--repeats` runs on the CPU, alternating with the peer's, and medians on a
GPU. Results are compared with the peer's before any clock starts. The record is written after each
section. spconv-triton tunes for minutes at the first call of a layer, which `first_call_s` and
`first_step_s` show; Triton's cache keeps what it found for a second run.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

# spconv's CPU layers multiply with numpy, whose threads torch does not set.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

sys.path.append(str(Path(__file__).resolve().parent))

import sparse_cpu
import sparse_cuda
import sparse_peers
from common import arguments, record, sgemm_unit, threads
from sparse_inputs import Setting, sweep

SECTIONS = {"cpu": sparse_cpu.SECTIONS, "cuda": sparse_cuda.SECTIONS}
NAMES = tuple(dict.fromkeys(name for device in SECTIONS.values() for name in device))
# Of the peers, the one with CPU kernels comes first.
PEERS = {"cpu": sparse_peers.LIBRARIES[:1], "cuda": sparse_peers.LIBRARIES}
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


def main() -> None:
    parser = arguments("Sparse convolution: time of the CPU or the GPU.", NAMES)
    parser.add_argument("--device", choices=tuple(SECTIONS), default="cpu")
    parser.add_argument("--peers", type=Path, help="folder that the peers were installed into")
    parser.add_argument(
        "--peer",
        action="append",
        choices=sparse_peers.LIBRARIES,
        help="measure this one alone; may be given twice (all that the device has)",
    )
    options = parser.parse_args()
    if unknown := set(options.sections) - set(NAMES):
        parser.error(f"unknown sections: {', '.join(sorted(unknown))}")
    peers = sparse_peers.load(options.peers, options.peer or PEERS[options.device])
    name, frame = sweep()
    results: dict[str, Any] = {"targets": TARGETS, "input": name}
    if options.device == "cpu":
        results["sgemm_unit_s"] = round(sgemm_unit(3), 5)
    setting = Setting(frame, peers, options.repeats)
    text = ""
    # With two threads spconv 2.3.8 gives wrong rows now and then, and could not be compared.
    with threads(1):
        for section, measure in SECTIONS[options.device].items():
            if section in (options.sections or NAMES):
                results[section] = measure(setting)
                text = record(
                    f"sparse_{options.device}",
                    results,
                    options.output,
                    ("spconv", "spconv-cu126", "cumm", "spconv-triton"),
                )
    print(text if options.json else json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
