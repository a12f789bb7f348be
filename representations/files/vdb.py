# SPDX-License-Identifier: Apache-2.0
"""VDB grids as files: .vdb of OpenVDB, .nvdb of NanoVDB.

    read_vdb, write_vdb      a file's grids with nothing lost (`VDBFile`, `VDBTree`)
    load, save               `VDBGrid`: active voxels and a background

=================  =============================================  ==============================
format             read                                           written
=================  =============================================  ==============================
.vdb               file versions 222 to 224                       224
    values         float double int32 int64 vec3s vec3d vec3i     the same
                   bool mask, real ones in 16 bits too
    packed by      none zip blosc                                 the same
.nvdb              32.3 to 32.9, segments or raw grids            32.4.2 or 32.9.2
    values         float double int16 int32 int64 uint32 uint8    the same but for Fp4 .. FpN,
                   vec3s vec3d vec4s vec4d rgba8 bool mask        which come as float
                   index; Fp4 Fp8 Fp16 FpN
    packed by      none zip blosc                                 the same
=================  =============================================  ==============================

Points, strings, trees other than 5_4_3 and frustums are named in an error. Blosc needs the package
blosc (or numcodecs).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from ...errors import FileFormatError
from ..vdb import VDBGrid
from .nvdb_reader import is_nvdb, read_nvdb
from .nvdb_writer import write_nvdb
from .openvdb_backend import translated, write_through
from .openvdb_reader import is_openvdb, read_openvdb
from .openvdb_writer import write_openvdb
from .vdb_convert import MAX_TILE_VOXELS, grid_to_tree, tree_to_grid
from .vdb_file import VDBFile
from .vdb_tree import VDBTree

VDB_SUFFIXES = (".vdb", ".nvdb")

Backend = Literal["native", "openvdb"]
Grid = VDBGrid | VDBTree
Grids = Grid | VDBFile | Sequence[Grid] | Mapping[str, Grid]


def read_vdb(
    path: str | os.PathLike[str],
    *,
    names: Sequence[str] | None = None,
    backend: Backend = "native",
) -> VDBFile:
    """Read the grids of a .vdb or .nvdb file with nothing lost; its first bytes say which it is.

    Args:
        path: The file.
        names: Which grids to read; default all.
        backend: "openvdb" has the OpenVDB library read a .vdb file; only for files that are
            trusted, and only float, bool and vec3s grids.

    Returns:
        The grids.

    Raises:
        FileFormatError: If the file is damaged, or holds what is not read.
        OSError: If OpenVDB cannot read it.
        ImportError: If it is packed by Blosc and no package for that is installed, or there is no
            OpenVDB for that backend.
        ValueError: If a name is not in the file.

    Example:
        >>> write_vdb(VDBTree.empty("double", 1), tmp_path / "a.nvdb")
        >>> read_vdb(tmp_path / "a.nvdb")[0].background
        array(1.)
    """
    path = Path(path)
    _check_backend("read_vdb", backend)
    with path.open("rb") as file:
        head = file.read(8)
    if is_openvdb(head) and backend == "openvdb":
        with translated(path) as copy:
            return read_openvdb(copy, names=names)
    if is_openvdb(head):
        return read_openvdb(path, names=names)
    if is_nvdb(head):
        return read_nvdb(path, names=names)
    raise FileFormatError(path, "magic", "that of a .vdb or .nvdb file", repr(head))


def _check_backend(function: str, backend: str) -> None:
    if backend not in ("native", "openvdb"):
        raise ValueError(f"{function}: backend: expected 'native' or 'openvdb', got {backend!r}")


def write_vdb(
    grids: Grids, path: str | os.PathLike[str], *, backend: Backend = "native", **options: Any
) -> None:
    """Write grids as .vdb or .nvdb, as the path's suffix says.

    Args:
        grids: A `VDBGrid`; a list of them, or a mapping by name; or what `read_vdb` gave.
        path: The file.
        backend: "openvdb" has the OpenVDB library write a .vdb file, packed as it does by default.
        **options: compression: "none", "zip" or "blosc" (default "zip" for .vdb, "none" for
            .nvdb). For .vdb, active_mask; for .nvdb, version: see `write_openvdb`, `write_nvdb`.
            For a `VDBGrid`, value_type and half: see `grid_to_tree`.

    Raises:
        ValueError: If the format does not hold such values, or the suffix is another.
        TypeError: If something is no grid.
        ImportError: If Blosc is asked for and not installed, or there is no OpenVDB for that
            backend.
        OSError: If OpenVDB cannot write it.

    Example:
        >>> import torch
        >>> voxels = torch.tensor([[0, 0, 0], [9, 9, 9]])
        >>> smoke = VDBGrid.from_coordinates(voxels, torch.tensor([1.0, 2.0]))
        >>> write_vdb({"smoke": smoke}, tmp_path / "smoke.vdb", half=True)
        >>> [(tree.name, tree.half) for tree in read_vdb(tmp_path / "smoke.vdb")]
        [('smoke', True)]
    """
    _check_backend("write_vdb", backend)
    suffix = Path(path).suffix.lower()
    if suffix not in VDB_SUFFIXES:
        raise ValueError(f"write_vdb: path: expected a suffix of {VDB_SUFFIXES}, got {suffix!r}")
    made = {key: options.pop(key) for key in ("value_type", "half") if key in options}
    if isinstance(grids, Mapping):
        items = [replace(_as_tree(grid, made), name=name) for name, grid in grids.items()]
        content: VDBFile | list[VDBTree] = items
    elif isinstance(grids, VDBFile):
        content = grids
    else:
        several = grids if isinstance(grids, list | tuple) else [grids]
        content = [_as_tree(grid, made) for grid in several]
    if suffix == ".nvdb":
        write_nvdb(content, path, **options)
    elif backend == "native":
        write_openvdb(content, path, **options)
    else:
        with tempfile.TemporaryDirectory() as folder:
            ours = Path(folder) / "grids.vdb"
            write_openvdb(content, ours, **options)
            write_through(ours, path)


def _as_tree(grid: object, made: dict[str, Any]) -> VDBTree:
    if isinstance(grid, VDBTree):
        return grid
    if isinstance(grid, VDBGrid):
        return grid_to_tree(grid, **made)
    raise TypeError(f"write_vdb: grids: expected VDBGrid or VDBTree, got {type(grid).__name__}")


def read_vdb_grids(
    path: str | os.PathLike[str], *, max_tile_voxels: int = MAX_TILE_VOXELS
) -> VDBGrid | dict[str, VDBGrid]:
    """Read a .vdb or .nvdb file as `load` does.

    Args:
        path: The file.
        max_tile_voxels: The most voxels to be made of a grid's active tiles.

    Returns:
        The grid, or grids by name if there is more than one (or none).

    Raises:
        FileFormatError: If the file is damaged, or holds what is not read; or a grid is too large,
            or its transform has no inverse.

    Example:
        >>> write_vdb(VDBTree.empty("float"), tmp_path / "a.vdb")
        >>> read_vdb_grids(tmp_path / "a.vdb").active_count
        0
    """
    file = read_vdb(path)
    grids = {}
    for name, tree in zip(file.names, file):
        try:
            grids[name] = tree_to_grid(tree, max_tile_voxels=max_tile_voxels)
        except ValueError as error:
            field, got = f"grid {name[:60]!r}", str(error)[:300]
            raise FileFormatError(path, field, "what a VDBGrid can hold", got) from error
    return next(iter(grids.values())) if len(grids) == 1 else grids
