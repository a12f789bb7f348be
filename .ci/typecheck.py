# SPDX-License-Identifier: Apache-2.0
"""Runs pyright on the package as it is imported, not as its folders lie in the repository.

The sources are checked in the shape of the package (package_tree.py says why), with the settings of
pyproject.toml, and complaints are printed with the paths of the repository.

    python .ci/typecheck.py
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import tomllib

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
TREE = ROOT / "build" / "typing"


def package_tree():
    """The module beside this one; the interpreter runs without this folder on its path."""
    spec = importlib.util.spec_from_file_location("package_tree", HERE / "package_tree.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def inside_package(path: str) -> str:
    """A path of the repository as it lies in the tree."""
    return path if path.startswith("fieldline") else f"fieldline/{path}"


def main() -> int:
    """Copies, checks, and translates the paths of the complaints."""
    tree = package_tree()
    tree.copy_package(TREE)
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pyright"]
    settings["strict"] = [inside_package(path) for path in settings.get("strict", [])]
    settings["include"] = ["fieldline"]
    for editor_only in ("venv", "venvPath"):
        settings.pop(editor_only, None)
    (TREE / "pyrightconfig.json").write_text(json.dumps(settings, indent=2))
    command = [sys.executable, "-m", "pyright", "--project", str(TREE), "--pythonpath"]
    command.append(sys.executable)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    text = done.stdout
    for part in tree.PARTS[1:]:
        text = text.replace(f"{TREE}/fieldline/{part}/", f"{part}/")
    print(text.replace(f"{TREE}/", ""), end="")
    # A package that is not installed is a warning, for the optional ones; ours must all be found.
    return 1 if 'Import ".' in text else done.returncode


if __name__ == "__main__":
    sys.exit(main())
