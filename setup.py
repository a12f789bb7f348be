# SPDX-License-Identifier: Apache-2.0
"""Builds the core with CMake + Ninja and maps the top-level folders into the package.

Environment: FIELDLINE_CUDA (AUTO, ON, OFF), FIELDLINE_CUDA_ARCHITECTURES ("80;90"),
FIELDLINE_CUDA_SELFTEST (ON, OFF), FIELDLINE_EMULATED (ON, OFF), FIELDLINE_ASAN (ON, OFF),
FIELDLINE_WERROR (ON, OFF), MAX_JOBS.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
PARTS = ["cuda", "representations", "tracers", "datasets", "engine", "viewer"]
OPTIONS = [
    "FIELDLINE_CUDA",
    "FIELDLINE_CUDA_ARCHITECTURES",
    "FIELDLINE_CUDA_SELFTEST",
    "FIELDLINE_EMULATED",
    "FIELDLINE_ASAN",
    "FIELDLINE_WERROR",
]


def package_map() -> tuple[list[str], dict[str, str]]:
    """Every package name, and the folder that each part of the house lives in."""
    packages = ["fieldline", *(f"fieldline.{p}" for p in find_packages("fieldline"))]
    folders = {"fieldline": "fieldline"}
    for part in PARTS:
        if not (ROOT / part / "__init__.py").exists():
            continue
        packages += [f"fieldline.{part}", *(f"fieldline.{part}.{p}" for p in find_packages(part))]
        folders[f"fieldline.{part}"] = part
    return packages, folders


def tool(name: str) -> str:
    """The build tool beside this Python if there is one, else the one on PATH."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise SystemExit(f"fieldline needs {name} to build: pip install {name}")
    return found


class CMakeBuild(build_ext):
    """Configures, builds and installs the libraries into the package fieldline.cuda."""

    def run(self) -> None:
        try:
            import torch
        except ImportError:
            raise SystemExit(
                "fieldline builds against the torch in this environment, and there is none: "
                "pip install 'torch>=2.10', then pip install --no-build-isolation fieldline"
            ) from None
        torch_root = Path(torch.__file__).parent
        build = ROOT / "build" / ("asan" if os.environ.get("FIELDLINE_ASAN") == "ON" else "core")
        build.mkdir(parents=True, exist_ok=True)
        target = ROOT / "cuda" if self.inplace else Path(self.build_lib) / "fieldline" / "cuda"
        target = Path(os.environ.get("FIELDLINE_LIBRARY_DIR", target)).resolve()
        # An option that is not given now goes back to its default, whatever the last build had.
        options = [
            f"-D{name}={os.environ[name]}" if name in os.environ else f"-U{name}"
            for name in OPTIONS
        ]
        configure = [
            *(tool("cmake"), "-S", str(ROOT), "-B", str(build), "-G", "Ninja"),
            f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}",
            f"-DCMAKE_INSTALL_PREFIX={target}",
            f"-DTORCH_INCLUDE={torch_root / 'include'}",
            f"-DTORCH_LIB={torch_root / 'lib'}",
            f"-DFIELDLINE_VERSION={self.distribution.get_version()}",
            *options,
        ]
        if subprocess.run(configure, check=False).returncode != 0:
            # A build folder of another machine or CMake cannot be reused: start over once.
            shutil.rmtree(build)
            subprocess.run(configure, check=True)
        jobs = os.environ.get("MAX_JOBS", str(os.cpu_count() or 2))
        subprocess.run([tool("cmake"), "--build", str(build), "-j", jobs], check=True)
        subprocess.run([tool("cmake"), "--install", str(build)], check=True)

    def get_outputs(self) -> list[str]:
        return []


class FreshBuild(build_py):
    """Starts from an empty folder: a wheel never holds a module that was since deleted."""

    def run(self) -> None:
        if not self.editable_mode:
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


class AnyPythonWheel(bdist_wheel):
    """The libraries use neither Python's nor torch's unstable ABI: one wheel serves them all."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


packages, package_dir = package_map()
setup(
    packages=packages,
    package_dir=package_dir,
    package_data={"fieldline": ["py.typed"], "fieldline.cuda": ["**/*.h"]},
    ext_modules=[Extension("fieldline.cuda._C", sources=[])],
    cmdclass={"build_py": FreshBuild, "build_ext": CMakeBuild, "bdist_wheel": AnyPythonWheel},
)
