# SPDX-License-Identifier: Apache-2.0
"""Reconstruction of real scenes by the command line, on held-out views.

    python benchmarks/reconstruction.py              fox (photographs) and lego (rendered)
    python benchmarks/reconstruction.py fox --json   one of them, as JSON

Each is one ``fieldline reconstruct`` with its defaults, for a stated number of minutes on the CPU
cores at hand. Real data only (FIELDLINE_DATA).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent))

from common import DATA, arguments, record

# Folder below the data, downscaling, minutes, and the PSNR to reach.
SCENES = {
    "fox": ("fox", 4, 15, 22.0),
    "lego": ("nerf_synthetic/lego", 2, 3, 26.0),
}


def reconstruct(scene: str, runs: Path) -> dict[str, Any]:
    """Runs the command line on a scene and reads what it recorded."""
    folder, downscale, minutes, target = SCENES[scene]
    if not (DATA / folder).is_dir():
        return {"not_run": f"no {folder} in FIELDLINE_DATA"}
    options = ["--downscale", str(downscale), "--minutes", str(minutes), "--overwrite"]
    command = ["reconstruct", str(DATA / folder), "-o", str(runs / scene), *options]
    subprocess.run(
        [sys.executable, "-m", "fieldline", *command, "--json"], check=True, stdout=subprocess.PIPE
    )
    metrics = json.loads((runs / scene / "metrics.json").read_text(encoding="utf-8"))
    return {
        "command": f"fieldline reconstruct {folder} {' '.join(options)}",
        "target_psnr": target,
        "steps": metrics["step"],
        "training_seconds": metrics["seconds"],
        "n_splats": metrics["n_splats"],
        **metrics["test"]["mean"],
        "psnr_of_views": [round(view["psnr"], 2) for view in metrics["test"]["views"]],
    }


def main() -> None:
    """Measures, prints and records."""
    parser = arguments(__doc__.split("\n")[0], tuple(SCENES))
    parser.add_argument("--runs", type=Path, help="keep the run folders here")
    options = parser.parse_args()
    unknown = set(options.sections) - set(SCENES)
    if unknown:
        parser.error(f"unknown scene {sorted(unknown)[0]!r}: expected {', '.join(SCENES)}")
    with tempfile.TemporaryDirectory() as scratch:
        runs = options.runs or Path(scratch)
        results = {s: reconstruct(s, runs) for s in options.sections or SCENES}
    text = record("reconstruction_cpu", results, options.output)
    if options.json:
        print(text)
        return
    for scene, r in results.items():
        print(f"{scene}: {json.dumps(r)}")


if __name__ == "__main__":
    main()
