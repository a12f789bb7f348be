# SPDX-License-Identifier: Apache-2.0
"""What the commands print: tables for people, one JSON object for machines, progress on stderr."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

# Pipes have no width; a table that is cut at 80 columns would lose the ends of paths.
PIPE_WIDTH = 200


def output() -> Console:
    """The console of stdout."""
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return Console(width=width, highlight=False, markup=False)


def progress_console() -> Console:
    """The console of stderr, where progress goes: stdout stays clean for results."""
    return Console(stderr=True, highlight=False, markup=False)


def finite(value: Any) -> Any:
    """The value with NaN and infinities as None, which strict JSON can hold."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def print_json(value: Mapping[str, Any]) -> None:
    """Prints one JSON object on stdout."""
    print(json.dumps(finite(value), indent=2, default=str))


def print_facts(facts: Mapping[str, Any], title: str | None = None) -> None:
    """Prints names and values in two columns."""
    table = Table(title=title, show_header=False, box=None, title_justify="left", pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(Text(name), Text(str(value)))
    output().print(table)


def print_rows(
    columns: Iterable[str], rows: Iterable[Iterable[Any]], title: str | None = None
) -> None:
    """Prints a table with a header; numbers are aligned to the right."""
    rows = [list(row) for row in rows]
    table = Table(title=title, box=None, title_justify="left", pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], int | float) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(
            *(Text(f"{cell:.4g}" if isinstance(cell, float) else str(cell)) for cell in row)
        )
    output().print(table)
