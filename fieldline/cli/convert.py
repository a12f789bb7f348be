# SPDX-License-Identifier: Apache-2.0
"""``fieldline convert``: one file format to another, by the suffixes of their names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from .console import output, print_json


@dataclass(frozen=True)
class Convert:
    """Read a file (or a run's scene.ply) and write it in another format."""

    input: tyro.conf.Positional[Path]
    """A file that fieldline reads, or a run folder."""
    output: tyro.conf.Positional[Path]
    """The file to write; its suffix decides the format."""
    overwrite: bool = False
    """Replace the output if it is already there."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> int:
        """Reads and writes."""
        from ..representations.files import save
        from .inputs import SCENE_FILE

        if self.output.exists() and not self.overwrite:
            raise ValueError(f"{self.output}: is already there; add --overwrite to replace it")
        source = self.input / SCENE_FILE if self.input.is_dir() else self.input
        thing = load_whole(source, self.output)
        save(thing, self.output)
        facts = {
            "input": str(source),
            "output": str(self.output),
            "kind": type(thing).__name__,
            "count": len(thing) if hasattr(thing, "__len__") else None,
            "bytes": self.output.stat().st_size,
        }
        if self.json:
            print_json(facts)
        else:
            count = "" if facts["count"] is None else f"{facts['count']:,} "
            output().print(
                f"{self.output}: {count}{facts['kind']}, {facts['bytes']:,} bytes", soft_wrap=True
            )
        return 0


def load_whole(source: Path, target: Path) -> Any:
    """Read a file for another to be made of it.

    Between two kinds of VDB files nothing is to be lost on the way, as it is in a `VDBGrid`.

    Args:
        source: The file.
        target: What will be written.

    Returns:
        What `load` gives, or the grids of a VDB file as they are stored.
    """
    from ..representations.files import VDB_SUFFIXES, load, read_vdb

    if all(path.suffix.lower() in VDB_SUFFIXES for path in (source, target)) and source.is_file():
        return read_vdb(source)
    return load(source)
