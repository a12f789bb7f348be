# SPDX-License-Identifier: Apache-2.0
"""What mkdocs does besides Markdown: equations as MathML, and pieces of the sources by name.

``$...$`` and ``$$...$$`` become MathML when the site is built: browsers draw it without a script.
``<!-- code: cuda/splat/blend.h fragment_sigma -->`` becomes the definition of that name, taken from
the source as it is now, so that an equation and its code cannot drift apart; a name that is gone
fails the build.
"""

from __future__ import annotations

import html
import importlib.util
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

ROOT = Path(__file__).resolve().parent.parent
CODE = re.compile(r"^<!-- code: (\S+) (\S+) -->$", re.MULTILINE)
LANGUAGES = {".h": "cpp", ".cpp": "cpp", ".cu": "cpp", ".py": "python"}


def on_startup(**_: Any) -> None:
    """Lays the package out for the API pages, before their plugin looks for it."""
    location = ROOT / ".ci" / "package_tree.py"
    spec = importlib.util.spec_from_file_location("package_tree", location)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.copy_package(ROOT / "build" / "docs")


def on_config(config: Any) -> Any:
    """Teaches Markdown the equations."""
    config.mdx_configs["pymdownx.arithmatex"] = {
        "inline_syntax": ["dollar"],
        "block_syntax": ["dollar"],
        "generic": True,
        "tex_inline_wrap": ["", ""],
        "tex_block_wrap": ["", ""],
    }
    return config


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Puts the named definitions in their places."""
    return CODE.sub(lambda match: definition(match[1], match[2]), markdown)


def on_page_content(content: str, **_: Any) -> str:
    """Turns the equations that arithmatex marked into MathML."""
    content = re.sub(
        r'<div class="arithmatex">(.*?)</div>',
        lambda match: convert(html.unescape(match[1]).strip(), display="block"),
        content,
        flags=re.DOTALL,
    )
    return re.sub(
        r'<span class="arithmatex">(.*?)</span>',
        lambda match: convert(html.unescape(match[1]).strip()),
        content,
        flags=re.DOTALL,
    )


def definition(path: str, name: str) -> str:
    """The definition of ``name`` in a source file, as a fenced block under its path.

    Raises:
        PluginError: If the file has no such definition.
    """
    lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
    find = python_range if path.endswith(".py") else cpp_range
    found = find(lines, name)
    if found is None:
        raise PluginError(f"{path} has no definition of {name}")
    body = "\n".join(lines[found[0] : found[1]])
    language = LANGUAGES[Path(path).suffix]
    return f'``` {language} title="{path}"\n{body}\n```'


def cpp_range(lines: list[str], name: str) -> tuple[int, int] | None:
    """First and past-last line of a function or struct, its comment and template line included."""
    heads = [i for i, line in enumerate(lines) if re.match(rf"\S.*\b{name}\b", line)]
    heads = [i for i in heads if not lines[i].startswith(("//", "#", "}"))]
    for head in heads:
        end = next((i for i in range(head, len(lines)) if lines[i].startswith("}")), None)
        if end is None or not any("{" in line for line in lines[head : end + 1]):
            continue
        start = head
        while start > 0 and lines[start - 1].startswith(("//", "template")):
            start -= 1
        return start, end + 1
    return None


def python_range(lines: list[str], name: str) -> tuple[int, int] | None:
    """First and past-last line of a top-level function or class, its decorators included."""
    head = next((i for i, x in enumerate(lines) if re.match(rf"(def|class) {name}\b", x)), None)
    if head is None:
        return None
    end = head + 1
    while end < len(lines) and (not lines[end] or lines[end][0] in " )"):
        end += 1
    while not lines[end - 1]:
        end -= 1
    while head > 0 and lines[head - 1].startswith("@"):
        head -= 1
    return head, end
