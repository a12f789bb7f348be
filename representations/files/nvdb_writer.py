# SPDX-License-Identifier: Apache-2.0
"""Writing .nvdb files."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable
from typing import Literal

import numpy as np

from .atomic import atomic_write
from .nvdb_grid_writer import GridBytes, grid_bytes
from .nvdb_layout import HEADER, MAGICS, META, NEW_MAGICS, Version, pack_version
from .vdb_codec import CODECS, enblosc, has_blosc, no_blosc
from .vdb_file import VDBFile, trees_of
from .vdb_tree import VDBTree

_VERSIONS: dict[str, Version] = {"32.4.2": (32, 4, 2), "32.9.2": (32, 9, 2)}
_BLOSC_CHUNK = 1 << 30
_MAX_GRIDS = (1 << 16) - 1


def write_nvdb(
    grids: VDBFile | VDBTree | Iterable[VDBTree],
    path: str | os.PathLike[str],
    *,
    compression: Literal["none", "zip", "blosc"] = "none",
    version: Literal["32.4.2", "32.9.2"] = "32.4.2",
) -> None:
    """Write a .nvdb file that NanoVDB maps into memory as it is.

    Values, tiles and transforms are kept; a .vdb file's metadata has no place in it.

    Args:
        grids: A file, a grid, or grids.
        path: The file.
        compression: "none" can be read by every build of NanoVDB; "blosc" needs the package blosc.
        version: Of NanoVDB. All of version 32 read the older one, except for its grids of indices,
            which were laid out anew in 32.5.

    Raises:
        ValueError: If a grid has values that NanoVDB does not have, a name is longer than 255
            bytes, or leaves and tiles overlap.
        ImportError: If Blosc is asked for and not installed.

    Example:
        >>> write_nvdb(VDBTree.empty("float", 3), tmp_path / "a.nvdb")
        >>> (tmp_path / "a.nvdb").read_bytes()[:8]
        b'NanoVDB0'
    """
    for name, value, known in (
        ("compression", compression, CODECS),
        ("version", version, tuple(_VERSIONS)),
    ):
        if value not in known:
            raise ValueError(f"write_nvdb: {name}: expected one of {known}, got {value!r}")
    if compression == "blosc" and not has_blosc():
        raise no_blosc()
    trees = trees_of(grids)
    if not 1 <= len(trees) <= _MAX_GRIDS:
        raise ValueError(f"write_nvdb: grids: expected 1 to {_MAX_GRIDS} grids, got {len(trees)}")
    number, codec = _VERSIONS[version], CODECS.index(compression)
    header = np.zeros((), HEADER)
    header["magic"] = MAGICS[2] if number >= NEW_MAGICS else MAGICS[0]
    header["version"], header["n_grids"], header["codec"] = pack_version(number), len(trees), codec
    names = [tree.name.encode("utf-8", "surrogateescape") + b"\0" for tree in trees]
    metas = np.zeros(len(trees), META)
    with atomic_write(path) as file:
        # The metadata is known once the grids are packed; its size is known now.
        file.write(bytes(HEADER.itemsize + metas.nbytes + sum(map(len, names))))
        for i, (tree, name) in enumerate(zip(trees, names)):
            content, meta = grid_bytes(tree, number), metas[i : i + 1]
            packed = _packed(content.data.data, compression)
            file.writelines(packed)
            _describe(meta, content, name)
            meta["file_size"], meta["codec"] = sum(map(len, packed)), codec
            meta["version"] = pack_version(number)
        file.seek(0)
        file.write(header.tobytes())
        file.writelines(meta.tobytes() + name for meta, name in zip(metas, names))


def _describe(meta: np.ndarray, content: GridBytes, name: bytes) -> None:
    """Repeat before the grids what a grid says about itself; `meta` is one row."""
    head, tree = content.head, content.tree
    meta["grid_size"], meta["voxels"] = len(content.data), tree["voxels"]
    meta["type"], meta["class"] = head["type"], head["class"]
    meta["world_box"], meta["voxel_size"] = head["world_box"], head["voxel_size"]
    meta["index_box"] = content.index_box.reshape(-1)
    meta["name_key"], meta["name_size"] = _name_key(name[:-1]), len(name)
    meta["nodes"] = (*tree["nodes"].tolist(), 1)
    meta["tiles"], meta["blind"] = tree["tiles"], head["blind_count"]


def _name_key(name: bytes) -> int:
    """NanoVDB's hash of a name."""
    key = 0
    for byte in name:
        key = (key * 67 + byte + (key >> 56)) & (1 << 64) - 1
    return key


def _packed(data: memoryview, compression: str) -> list[bytes | memoryview]:
    if compression == "none":
        return [data]
    if compression == "zip":
        parts = [zlib.compress(data)]
    else:
        chunks = range(0, len(data), _BLOSC_CHUNK)
        parts = [enblosc(bytes(data[at : at + _BLOSC_CHUNK])) for at in chunks]
    return [piece for part in parts for piece in (struct.pack("<Q", len(part)), part)]
