# SPDX-License-Identifier: Apache-2.0
"""``fieldline doctor``: what this installation can do, and what would mend what it cannot."""

from __future__ import annotations

import json
import os
import platform
import sys
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from .console import output, print_facts, print_json, print_rows

# Package, the extra that installs it, and what it is for.
OPTIONAL = [
    ("pycolmap", "data", "COLMAP models and poses from photos"),
    ("av", "video", "mp4 output of render"),
    ("lpips", "metrics", "the LPIPS metric"),
    ("pyarrow", "lidar", "Argoverse 2's .feather"),
    ("laspy", "lidar", "surveys as .las"),
    ("lazrs", "lidar", "surveys as .laz"),
    ("viser", "viewer", "the web viewer"),
    ("open3d", "geometry", "meshes and exact ray casting"),
    ("nerfacc", "peers", "estimators to plug into and to compare with"),
    ("gsplat", "peers", "comparison on a GPU"),
    ("pycuda", "cuda", "users' own kernels"),
]
INSTRUCTION_SETS = ["baseline", "avx2", "avx512"]


@dataclass(frozen=True)
class Doctor:
    """Show versions, what loaded, the instruction set, CUDA, and a remedy for what is missing."""

    json: bool = False
    """Print one JSON object instead of tables."""

    def run(self) -> int:
        """Prints the report; the exit code is 1 if the core does not work."""
        report = examine()
        if self.json:
            print_json(report)
        else:
            show(report)
        return 0 if report["core"]["works"] else 1


def examine() -> dict[str, Any]:
    """Everything that the command reports, as plain values."""
    import fieldline

    torch = examine_torch()
    core = examine_core() if torch["version"] else {"works": False, "error": torch["error"]}
    return {
        "fieldline": fieldline.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "torch": torch,
        "core": core,
        "cuda": examine_cuda(torch, core),
        "optional": examine_optional(),
    }


def examine_torch() -> dict[str, Any]:
    """Torch's version and GPUs; asking for their names starts CUDA, here and only here."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return {"version": None, "error": f"torch does not import: {error}", "gpus": []}
    gpus = []
    try:
        for index in range(torch.cuda.device_count()):
            gpu = torch.cuda.get_device_properties(index)
            gpus.append({"name": gpu.name, "capability": f"{gpu.major}{gpu.minor}"})
    except RuntimeError as error:
        return {
            "version": torch.__version__,
            "cuda": torch.version.cuda,
            "gpus": [],
            "error": str(error),
        }
    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "gpus": gpus,
    }


def examine_core() -> dict[str, Any]:
    """The compiled libraries: which loaded, why the others did not, and how they were built."""
    from ..cuda import library

    core: dict[str, Any] = {"works": True, "folder": str(library.FOLDER)}
    try:
        library.load()
        code = library.ops().core_isa()
        core["instruction_set"] = INSTRUCTION_SETS[code]
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        core |= {"works": False, "error": str(error)}
    core["loaded"] = {name: str(path) for name, path in library.loaded().items()}
    core["not_loaded"] = library.problems()
    try:
        core["build"] = json.loads((library.FOLDER / "build.json").read_text())
    except (OSError, ValueError):
        core["build"] = {}
    return core


def examine_cuda(torch: dict[str, Any], core: dict[str, Any]) -> dict[str, Any]:
    """Whether our kernels run on this machine's GPU, and if not, what is missing."""
    built = core.get("build", {}).get("cuda_architectures", "")
    architectures = [name for name in built.split(",") if name]
    report: dict[str, Any] = {"architectures": architectures, "usable": False, "remedy": None}
    rebuild = "pip install --no-build-isolation --force-reinstall --no-deps PATH/TO/fieldline"
    if not torch.get("cuda"):
        report["remedy"] = "this torch is a CPU build; for a GPU install torch with CUDA"
    elif not torch["gpus"]:
        report["remedy"] = "torch sees no GPU: check the driver with nvidia-smi"
    elif "_C_cuda" not in core.get("loaded", {}):
        report["remedy"] = f"the CUDA kernels did not load; with nvcc on PATH: {rebuild}"
    elif not all(covers(architectures, gpu["capability"]) for gpu in torch["gpus"]):
        wanted = ";".join(sorted({gpu["capability"] for gpu in torch["gpus"]}))
        report["remedy"] = f"FIELDLINE_CUDA_ARCHITECTURES='{wanted}' {rebuild}"
    else:
        report["usable"] = True
    return report


def covers(architectures: list[str], capability: str) -> bool:
    """Whether code of one of the architectures runs on a GPU of this capability.

    Machine code runs on its own major version from its minor version on; the intermediate code of
    the newest architecture is translated for any later GPU.
    """
    numbers = [int(name) for name in architectures]
    wanted = int(capability)
    same_major = any(n // 10 == wanted // 10 and n <= wanted for n in numbers)
    return same_major or (bool(numbers) and max(numbers) <= wanted)


def examine_optional() -> list[dict[str, Any]]:
    """Optional packages: version, or the command that installs them. None is imported."""
    found = []
    for package, extra, purpose in OPTIONAL:
        try:
            version: str | None = metadata.version(package)
        except metadata.PackageNotFoundError:
            version = None
        remedy = None if version else f"pip install 'fieldline[{extra}]'"
        found.append({"package": package, "version": version, "for": purpose, "remedy": remedy})
    return found


def show(report: dict[str, Any]) -> None:
    """Prints the report as tables."""
    torch, core, cuda = report["torch"], report["core"], report["cuda"]
    build = core.get("build", {})
    facts = {
        "fieldline": report["fieldline"],
        "python": f"{report['python']} on {report['platform']}",
        "torch": torch["version"] or torch["error"],
        "core": "works" if core["works"] else f"broken: {core['error']}",
        "libraries": ", ".join(core.get("loaded", {})) or "none",
        "instruction set": core.get("instruction_set", "unknown"),
        "threads": f"{torch.get('threads', '?')} of {report['cpus']} CPUs",
        "compiler": build.get("compiler", "unknown"),
        "CUDA in torch": torch.get("cuda") or "none",
        "CUDA kernels": built_for(cuda["architectures"], build),
        "GPUs": ", ".join(f"{g['name']} (sm_{g['capability']})" for g in torch["gpus"]) or "none",
    }
    print_facts(facts)
    problems = [(name, reason) for name, reason in core.get("not_loaded", {}).items()]
    if problems:
        output().print()
        print_rows(["not loaded", "because"], problems)
    output().print()
    rows = [
        (o["package"], o["version"] or "-", o["for"], o["remedy"] or "") for o in report["optional"]
    ]
    print_rows(["optional", "version", "for", "to install"], rows)
    if cuda["remedy"]:
        output().print(f"\nGPU: {cuda['remedy']}", soft_wrap=True)
    sys.stdout.flush()


def built_for(architectures: list[str], build: dict[str, Any]) -> str:
    """The compute capabilities that the CUDA library holds code for."""
    if not architectures:
        return "not built"
    names = ", ".join(f"sm_{name}" for name in architectures)
    return f"{names} and later, by nvcc {build.get('cuda_compiler', '?')}"
