# SPDX-License-Identifier: Apache-2.0
"""Fails unless every .cu file was compiled, for every architecture that was asked for.

FIELDLINE_CUDA_ARCHITECTURES="80;90" python .ci/check_cuda.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "core"


def main() -> int:
    """Compares the sources and architectures with what the build holds."""
    wanted = os.environ["FIELDLINE_CUDA_ARCHITECTURES"].replace(";", ",")
    built = json.loads((ROOT / "cuda" / "build.json").read_text())
    if built["cuda_architectures"] != wanted or not (ROOT / "cuda" / "_C_cuda.so").exists():
        print(f"_C_cuda: expected architectures {wanted}, got '{built['cuda_architectures']}'")
        return 1
    sources = sorted((ROOT / "cuda").glob("*/*.cu"))
    objects = BUILD / "CMakeFiles" / "_C_cuda.dir" / "cuda"
    stale = []
    for source in sources:
        compiled = objects / source.parent.name / f"{source.name}.o"
        if not compiled.exists() or compiled.stat().st_mtime < source.stat().st_mtime:
            stale.append(str(source.relative_to(ROOT)))
    commands = subprocess.run(
        [str(Path(sys.executable).parent / "ninja"), "-C", str(BUILD), "-t", "commands", "_C_cuda"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    if stale or "-Werror" not in commands:
        print(f"not compiled: {stale}; warnings are errors: {'-Werror' in commands}")
        return 1
    print(f"{len(sources)} CUDA sources compiled for {wanted} by nvcc {built['cuda_compiler']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
