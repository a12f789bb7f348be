# SPDX-License-Identifier: Apache-2.0
"""Runs pyright on the package as it is imported, not as its folders lie in the repository.

The parts become subpackages of ``fieldline`` only when they are installed, and pyright resolves a
relative import by where the file lies. So the sources are copied into the shape of the package,
checked there with the settings of pyproject.toml, and complaints are printed with their own paths.

    python .ci/typecheck.py
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import tomllib

ROOT = Path(__file__).resolve().parent.parent
TREE = ROOT / "build" / "typing"


def copy_package(parts: list[str]) -> None:
    """Lays the parts out under build/typing/fieldline."""
    shutil.rmtree(TREE, ignore_errors=True)
    for part in parts:
        target = TREE / "fieldline" / ("" if part == "fieldline" else part)
        for source in (ROOT / part).rglob("*.py"):
            copy = target / source.relative_to(ROOT / part)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)


def inside_package(path: str) -> str:
    """A path of the repository as it lies in the tree."""
    return path if path.startswith("fieldline") else f"fieldline/{path}"


def main() -> int:
    """Copies, checks, and translates the paths of the complaints."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pyright"]
    parts = [part for part in settings.pop("include") if (ROOT / part).is_dir()]
    copy_package(parts)
    settings["strict"] = [inside_package(path) for path in settings.get("strict", [])]
    settings |= {"include": ["fieldline"], "reportMissingImports": "error"}
    for editor_only in ("venv", "venvPath"):
        settings.pop(editor_only, None)
    (TREE / "pyrightconfig.json").write_text(json.dumps(settings, indent=2))
    command = [sys.executable, "-m", "pyright", "--project", str(TREE), "--pythonpath"]
    done = subprocess.run(
        [*command, sys.executable], stdout=subprocess.PIPE, text=True, check=False
    )
    text = done.stdout
    for part in parts:
        if part != "fieldline":
            text = text.replace(f"{TREE}/fieldline/{part}/", f"{part}/")
    print(text.replace(f"{TREE}/", ""), end="")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
