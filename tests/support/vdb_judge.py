# SPDX-License-Identifier: Apache-2.0
"""What Debian's OpenVDB and NanoVDB say about a file: the judges of our readers and writers.

OpenVDB's Python module is built for the system's Python, so it runs in a process of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PACKAGES = "python3-openvdb libopenvdb-tools libnanovdb-tools libnanovdb-dev"
TOOLS = ("vdb_print", "nanovdb_convert", "nanovdb_print", "nanovdb_validate")
_PYTHON = "/usr/bin/python3"

# Every value of a box, which iterating over would take a minute.
_DUMP = """
import json, sys
import numpy as np
import pyopenvdb as vdb
low, shape = json.loads(sys.argv[3]), json.loads(sys.argv[4])
grids, metadata = vdb.readAll(sys.argv[1])
out, arrays = [], {}
for i, grid in enumerate(grids):
    vector = isinstance(grid, vdb.Vec3SGrid)
    kind = bool if isinstance(grid, vdb.BoolGrid) else np.float32
    box = np.zeros((*shape, 3) if vector else shape, kind)
    grid.copyToArray(box, ijk=tuple(low))
    arrays[f"box{i}"] = box
    active = [(*v.min, v.count, *np.ravel(v.value)) for v in grid.citerOnValues()]
    arrays[f"active{i}"] = np.array(active, np.float64)
    points = [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]
    out.append({
        "name": grid.name,
        "kind": type(grid).__name__,
        "class": str(grid.gridClass),
        "half": grid.saveFloatAsHalf,
        "background": grid.background,
        "active": grid.activeVoxelCount(),
        "leaves": grid.leafCount(),
        "nodes": grid.nonLeafCount(),
        "world": [list(grid.transform.indexToWorld(tuple(p))) for p in points],
        "metadata": {k: v for k, v in grid.metadata.items() if not k.startswith("file_")},
    })
np.savez(sys.argv[2], **arrays)
json.dump({"grids": out, "metadata": metadata}, sys.stdout)
"""


def require_openvdb() -> None:
    """Skip, or fail in CI, without Debian's tools."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    probe = [_PYTHON, "-c", "import pyopenvdb"]
    has_python = Path(_PYTHON).exists()
    if not has_python or subprocess.run(probe, capture_output=True, check=False).returncode:
        missing.append("pyopenvdb")
    if not Path("/usr/include/nanovdb/NanoVDB.h").exists():
        missing.append("NanoVDB.h")
    if missing:
        message = f"no {', '.join(missing)}: apt install {PACKAGES}"
        if os.environ.get("CI", "").lower() in ("1", "true", "yes"):
            pytest.fail(message)
        pytest.skip(message)


def run(*command: str | Path) -> str:
    """Run a tool and give what it printed; it must succeed."""
    result = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=120, check=False
    )
    said = result.stdout + result.stderr
    assert result.returncode == 0, f"{command}: {said}"
    return said


def openvdb_contents(
    path: Path, low: tuple[int, ...] = (-24, -24, -24), shape: tuple[int, ...] = (64, 64, 64)
) -> list[dict[str, Any]]:
    """What pyopenvdb reads in a .vdb file of float, bool and vec3s grids, sorted by name.

    Args:
        path: The file.
        low: Lowest voxel of the box of which each value is given, inactive ones too.
        shape: Of the box.

    Returns:
        A dict for each grid: facts, `box` [*shape, ...], and `active`: origin, voxels and value of
        each active value, in order.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "arrays.npz"
        said = run(_PYTHON, "-c", _DUMP, path, file, json.dumps(low), json.dumps(shape))
        with np.load(file) as arrays:
            grids = json.loads(said)["grids"]
            for i, grid in enumerate(grids):
                grid["box"], grid["active_values"] = arrays[f"box{i}"], arrays[f"active{i}"]
    return sorted(grids, key=lambda grid: grid["name"])


def openvdb_run(program: str, *arguments: str | Path) -> str:
    """Run a program in the Python that has pyopenvdb."""
    return run(_PYTHON, "-c", program, *arguments)


def build_probe(folder: Path) -> Path:
    """Compile the program that asks NanoVDB's headers about a file."""
    program = folder / "probe"
    source = Path(__file__).with_name("nanovdb_probe.cpp")
    run(os.environ.get("CXX", "g++"), "-std=c++17", "-O1", "-w", source, "-o", program)
    return program


def nanovdb_contents(
    program: Path, path: Path, voxels: np.ndarray
) -> list[tuple[dict[str, Any], np.ndarray, np.ndarray]]:
    """What NanoVDB finds in a .nvdb file.

    Args:
        program: From `build_probe`.
        path: The file.
        voxels: int [n, 3], those to look at.

    Returns:
        For each grid: facts, whether each voxel is active, and its value's components.
    """
    asked = "".join(f"{x} {y} {z}\n" for x, y, z in voxels.tolist())
    result = subprocess.run(
        [program, path], input=asked, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    grids = []
    for part in result.stdout.split("grid ")[1:]:
        head, *lines = part.strip().split("\n")
        active, valid, *box = map(int, head.split())
        facts = {"active": active, "valid": bool(valid), "box": box}
        rows = np.array([list(map(float, line.split())) for line in lines])
        grids.append((facts, rows[:, 0] != 0, rows[:, 1:]))
    return grids
