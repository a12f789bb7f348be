# SPDX-License-Identifier: Apache-2.0
"""Reading and writing .vdb files through the OpenVDB library, where its Python module is installed.

The module gives no access to leaves and tiles, so it is used as a translator: it reads what we
cannot (files of versions before 222) or writes as the library itself does, and the file between
the two is one of ours.
"""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .atomic import atomic_path

_MODULES = ("openvdb", "pyopenvdb")


def openvdb_module() -> Any:
    """Import OpenVDB's Python module.

    Returns:
        `openvdb`, or `pyopenvdb` as older versions call it.

    Raises:
        ImportError: If neither is installed.

    Example:
        >>> try:
        ...     found = openvdb_module() is not None
        ... except ImportError as error:
        ...     found = "python3-openvdb" in str(error)
        >>> found
        True
    """
    for name in _MODULES:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise ImportError(
        f"the backend 'openvdb' needs OpenVDB's Python module ({' or '.join(_MODULES)}), "
        "such as Debian's python3-openvdb"
    )


@contextmanager
def translated(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Let OpenVDB read a file and write what it read.

    Args:
        path: A .vdb file.

    Yields:
        The file that it wrote, which goes when the block ends.

    Raises:
        ImportError: If OpenVDB's Python module is not installed.
        OSError: If OpenVDB cannot read the file.
    """
    vdb = openvdb_module()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "grids.vdb"
        _rewrite(vdb, Path(path), copy)
        yield copy


def write_through(source: Path, path: str | os.PathLike[str]) -> None:
    """Let OpenVDB write what is in one of our files.

    Args:
        source: A .vdb file.
        path: The file to write.

    Raises:
        ImportError: If OpenVDB's Python module is not installed.
        OSError: If OpenVDB does not read the file: the module has few types of values.
    """
    vdb = openvdb_module()
    with atomic_path(path) as temporary, tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "grids.vdb"
        _rewrite(vdb, source, copy)
        temporary.write_bytes(copy.read_bytes())


def _rewrite(vdb: Any, source: Path, target: Path) -> None:
    try:
        grids, metadata = vdb.readAll(str(source))
        vdb.write(str(target), grids, metadata)
    except Exception as error:  # the module raises what its C++ threw
        raise OSError(f"{source}: OpenVDB cannot translate it: {error}") from error
