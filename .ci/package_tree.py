# SPDX-License-Identifier: Apache-2.0
"""Copies the Python sources into the shape of the installed package.

The parts become subpackages of ``fieldline`` only when they are installed; tools that read sources
without importing them (the type checker, the documentation) need them where the package has them.
"""

from __future__ import annotations

import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("fieldline", "cuda", "representations", "tracers", "datasets", "engine", "viewer")


def copy_package(tree: Path) -> None:
    """Lays the parts that exist out under ``tree``/fieldline, replacing what was there."""
    shutil.rmtree(tree, ignore_errors=True)
    for part in PARTS:
        target = tree / "fieldline" / ("" if part == "fieldline" else part)
        for source in (ROOT / part).rglob("*.py"):
            copy = target / source.relative_to(ROOT / part)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
