# SPDX-License-Identifier: Apache-2.0
"""Imports only go down: a part of the house never imports its own floor's neighbour or above."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOOR = {
    "cuda": 0,
    "representations": 1,
    "tracers": 2,
    "datasets": 2,
    "engine": 3,
    "viewer": 4,
    "fieldline": 5,
}
FOR_EVERYONE = "fieldline.errors"


def module_name(path: Path, root: Path) -> str:
    """The dotted name that ``path`` has once the folders are mapped into the package."""
    parts = list(path.relative_to(root).with_suffix("").parts)
    if parts[0] != "fieldline":
        parts.insert(0, "fieldline")
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts)


def part_of(module: str) -> str | None:
    """The part of the house that a module belongs to; None for other people's modules."""
    names = module.split(".")
    if names[0] != "fieldline":
        return None
    return names[1] if len(names) > 1 and names[1] in FLOOR else "fieldline"


def imported_modules(tree: ast.AST, module: str, is_package: bool) -> list[tuple[int, str]]:
    """Line and absolute dotted name of everything that a module imports, lazily or not."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, name.name) for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".") if is_package else module.split(".")[:-1]
                kept = package[: len(package) - (node.level - 1)]
                base = ".".join([*kept, *([node.module] if node.module else [])])
            found += [(node.lineno, f"{base}.{name.name}") for name in node.names]
    return found


def climbing_imports(root: Path) -> list[str]:
    """One line for every import of the package under ``root`` that does not go down."""
    complaints = []
    for part, floor in FLOOR.items():
        for path in sorted((root / part).rglob("*.py")):
            module = module_name(path, root)
            tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
            for line, target in imported_modules(tree, module, path.name == "__init__.py"):
                where = f"{path.relative_to(root)}:{line}"
                if target.split(".")[0] in FLOOR and part_of(target) is None:
                    complaints.append(f"{where}: {target} is not the name of an installed module")
                other = part_of(target)
                if other is None or other == part or target.startswith(FOR_EVERYONE):
                    continue
                if FLOOR[other] >= floor:
                    complaints.append(f"{where}: {part} imports {target}, which is not below it")
    return complaints


def test_imports_go_down() -> None:
    assert climbing_imports(ROOT) == []


@pytest.mark.parametrize(
    ("part", "line"),
    [
        ("cuda", "from ..representations import cameras"),
        ("tracers", "from ..datasets.scene import Scene"),
        ("datasets", "import fieldline.tracers.splatting"),
        ("representations", "def f():\n    from ..engine import training"),
        ("engine", "from fieldline import cli"),
        ("engine", "from .. import cli"),
        ("engine", "import representations"),
    ],
)
def test_climbing_import_is_caught(tmp_path: Path, part: str, line: str) -> None:
    (tmp_path / part).mkdir()
    (tmp_path / part / "module.py").write_text(line)
    assert len(climbing_imports(tmp_path)) == 1


@pytest.mark.parametrize(
    ("part", "line"),
    [
        ("cuda", "from ..errors import FileFormatError"),
        ("engine", "from ..representations.cameras import Camera\nfrom .. import tracers"),
        ("tracers", "from . import splatting\nimport torch.cuda\nfrom torch import cuda"),
        ("fieldline", "from .engine import training"),
    ],
)
def test_descending_import_is_accepted(tmp_path: Path, part: str, line: str) -> None:
    (tmp_path / part).mkdir()
    (tmp_path / part / "module.py").write_text(line)
    assert climbing_imports(tmp_path) == []
