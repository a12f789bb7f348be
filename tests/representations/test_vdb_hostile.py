# SPDX-License-Identifier: Apache-2.0
"""Damaged VDB files give grids or FileFormatError, in bounded time and memory."""

from __future__ import annotations

import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fieldline.representations.files import VDBTiles, VDBTree, read_vdb, read_vdb_grids, write_vdb
from fieldline.representations.files.nvdb_layout import GRID_BYTES, HEAD_BYTES, HEADER, META
from fieldline.representations.files.nvdb_reader import read_nvdb
from fieldline.representations.files.nvdb_writer import write_nvdb
from fieldline.representations.files.openvdb_reader import read_openvdb
from hypothesis import given
from hypothesis import strategies as st
from vdb_samples import FILES, index_tree, sample_tree

import fieldline as fl

# What the format's densest honest blocks may ask for; a lying count would take gigabytes.
MAX_PEAK_BYTES = 96_000_000
MAX_SECONDS = 10.0
WORDS = (
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\0\0\0\x80",
    b"\xff" * 8,
    b"\0" * 8,
    struct.pack("<q", -1),
    struct.pack("<q", 1 << 62),
    struct.pack("<q", 1 << 40),
    struct.pack("<I", 512),
    struct.pack("<I", 65536),
    b"\x06",
    b"\x05",
)

Read = Callable[[Path], object]


def read_bounded(path: Path, read: Read) -> bool:
    """Read a file; say whether it could be read. Nothing but FileFormatError may come."""
    tracemalloc.start()
    start = time.process_time()
    try:
        read(path)
        return True
    except fl.FileFormatError as error:
        assert path.name in str(error) and len(str(error)) < 1500
        return False
    finally:
        seconds, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < MAX_PEAK_BYTES, f"{peak} bytes"
        assert seconds < MAX_SECONDS, f"{seconds} s"


def without_checksums(path: Path) -> object:
    """Read a .nvdb file past the checksums, which stop most damage at the door."""
    return read_nvdb(path, verify=False)


def readers(name: str) -> tuple[Read, ...]:
    return (read_vdb, without_checksums) if name.endswith(".nvdb") else (read_vdb,)


def damaged(content: bytes, rng: np.random.Generator, front: int) -> bytes:
    """Change a few places; half of them near the front, where counts and places stand."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        limit = front if rng.random() < 0.5 else len(data)
        at = int(rng.integers(0, max(1, min(limit, len(data)))))
        kind = rng.integers(0, 5)
        if kind == 0:
            data[at : at + 1] = bytes([int(rng.integers(0, 256))])
        elif kind == 1:
            word = WORDS[int(rng.integers(0, len(WORDS)))]
            data[at : at + len(word)] = word
        elif kind == 2:
            data[at] ^= 1 << int(rng.integers(0, 8))
        elif kind == 3:
            del data[at : at + int(rng.integers(1, 40))]
        else:
            data[at:at] = rng.bytes(int(rng.integers(1, 40)))
        if not data:
            break
    return bytes(data)


def seed_files(folder: Path) -> dict[str, bytes]:
    """Small files of every kind."""
    small = {name: sample_tree(name, leaves=4) for name in ("float", "vec3s", "bool", "mask")}
    for name, tree in small.items():
        # In one node, so that damage meets more than empty tables.
        row = np.arange(len(tree.leaf_origins), dtype=np.int32)[:, None] * np.array([0, 0, 8])
        few = replace(tree, leaf_origins=row.astype(np.int32), tiles=VDBTiles.none(tree.type))
        for compression in ("none", "zip", "blosc"):
            write_vdb(tree, folder / f"{name}-{compression}.vdb", compression=compression)
        write_vdb(few, folder / f"{name}-few.vdb")
        write_vdb(few, folder / f"{name}.nvdb", version="32.9.2" if name == "bool" else "32.4.2")
    write_vdb(replace(small["float"], half=True), folder / "half.vdb")
    write_vdb([small["float"], replace(small["float"], name="b")], folder / "instances.vdb")
    write_vdb(small["float"], folder / "zip.nvdb", compression="zip")
    write_vdb(small["float"], folder / "blosc.nvdb", compression="blosc")
    write_vdb(index_tree(sparse=True), folder / "index.nvdb", compression="zip")
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return seed_files(tmp_path_factory.mktemp("seeds"))


SEEDS = (
    *(f"{kind}-{c}.vdb" for kind in ("float", "vec3s", "bool", "mask") for c in ("none", "zip")),
    *(f"{kind}-{c}.vdb" for kind in ("float", "vec3s", "bool", "mask") for c in ("blosc", "few")),
    *(f"{kind}.nvdb" for kind in ("float", "vec3s", "bool", "mask")),
    *("half.vdb", "instances.vdb", "zip.nvdb", "blosc.nvdb", "index.nvdb"),
)


@pytest.mark.parametrize("name", SEEDS)
def test_damaged_files(name: str, seeds: dict[str, bytes], tmp_path: Path) -> None:
    rng = np.random.default_rng(SEEDS.index(name))
    path, content = tmp_path / name, seeds[name]
    outcomes = []
    for _ in range(80):
        path.write_bytes(damaged(content, rng, 1500))
        outcomes += [read_bounded(path, read) for read in readers(name)]
    # Damage that nothing notices, and damage that stops the reader, must both be among it.
    assert not all(outcomes)


@pytest.mark.parametrize("name", SEEDS)
def test_every_truncation(name: str, seeds: dict[str, bytes], tmp_path: Path) -> None:
    path, content = tmp_path / name, seeds[name]
    for read in readers(name):
        assert read_bounded(path, read) if path.write_bytes(content) else False
        for length in range(0, len(content), max(1, len(content) // 50)):
            path.write_bytes(content[:length])
            assert not read_bounded(path, read)


@pytest.mark.parametrize("name", FILES)
def test_damaged_shared_files(name: str, data_dir: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(FILES.index(name))
    content, path = (data_dir / "vdb" / name).read_bytes(), tmp_path / name
    n = 200 if len(content) < 200_000 else 12
    if name.startswith("float_tiles_voxels.nvdb"):
        n = 100
    for _ in range(n):
        path.write_bytes(damaged(content, rng, 3000))
        for read in readers(name):
            read_bounded(path, read)
    for length in range(0, len(content), max(1, len(content) // 12)):
        path.write_bytes(content[:length])
        assert not read_bounded(path, readers(name)[-1])


@pytest.mark.parametrize("suffix", [".vdb", ".nvdb"])
@pytest.mark.parametrize("head", [b"", b" BDV\0\0\0\0", b"NanoVDB0", b"NanoVDB1", b"NanoVDB2"])
@given(content=st.binary(max_size=300))
def test_any_bytes(suffix: str, head: bytes, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"any{suffix}"
    path.write_bytes(head + content)
    read_bounded(path, fl.load)


# -- made by hand: .vdb ----------------------------------------------------------------------------


def refused(path: Path, content: bytes, message: str) -> None:
    """A file cannot be read, for the right reason."""
    path.write_bytes(content)
    for read in readers(path.name)[-1:]:
        with pytest.raises(fl.FileFormatError, match=message):
            read(path)
        assert not read_bounded(path, read)


class VDBParts:
    """A plain .vdb file of one float grid and where its numbers stand."""

    def __init__(self, folder: Path, tree: VDBTree) -> None:
        self.path = folder / "parts.vdb"
        write_vdb(tree, self.path, compression="none", active_mask=False)
        self.content = self.path.read_bytes()
        self.name_at = self.content.index(b"Tree_float") - 4 - len(tree.name)
        self.positions_at = self.content.index(b"Tree_float_5_4_3") + len("Tree_float_5_4_3") + 4
        self.map_at = self.content.index(b"Map")
        self.tree_at = self.content.index(b"ScaleTranslateMap") + 17 + 8 * 18

    def with_bytes(self, at: int, data: bytes) -> bytes:
        return self.content[:at] + data + self.content[at + len(data) :]


@pytest.fixture
def parts(tmp_path: Path) -> VDBParts:
    tree = sample_tree("float", leaves=3)
    return VDBParts(tmp_path, replace(tree, name="x"))


def test_vdb_headers(parts: VDBParts) -> None:
    for at, data, message in (
        (0, b" XYZ", "magic"),
        (8, struct.pack("<I", 221), "file version before byte 12: expected 222 to 224, got 221"),
        (8, struct.pack("<I", 999), "file version"),
        (57, struct.pack("<I", 1 << 31), "metadata count"),
        (61, struct.pack("<i", 1 << 30), "grid count"),
        (61, struct.pack("<i", -1), "grid count"),
        (65, struct.pack("<I", 1 << 31), "grid name before byte 69: expected at most"),
        (parts.positions_at, struct.pack("<q", -5), "positions of grid 'x'"),
        (parts.positions_at, struct.pack("<q", 1 << 62), "positions of grid 'x'"),
        (parts.positions_at + 16, struct.pack("<q", 1 << 62), "positions of grid 'x'"),
        (parts.positions_at + 16, struct.pack("<q", 0), "positions of grid 'x'"),
        (parts.positions_at + 24, struct.pack("<I", 77), "compression"),
        (parts.map_at, b"Mop", "transform"),
        (parts.map_at + 3, struct.pack("<d", float("nan")), "finite numbers"),
        (parts.map_at + 3 + 24, struct.pack("<d", 0.0), "a volume"),
        (parts.tree_at, struct.pack("<I", 2), "buffer count"),
        (parts.tree_at + 8, struct.pack("<I", 1 << 31), "root tiles"),
        (parts.tree_at + 12, struct.pack("<I", 1 << 31), "nodes"),
    ):
        refused(parts.path, parts.with_bytes(at, data), message)


def test_vdb_nodes(parts: VDBParts) -> None:
    tile = 3 * 4 + 4 + 1
    tiles = struct.unpack_from("<I", parts.content, parts.tree_at + 8)[0]
    node_at = parts.tree_at + 16 + tile * tiles
    first = parts.content[node_at : node_at + 12]
    second = (
        parts.content.index(first, node_at + 12) if first in parts.content[node_at + 12 :] else 0
    )
    for at, data, message in (
        (node_at, struct.pack("<i", 77), "node origin before byte .*: expected multiples of 4096"),
        (node_at + 12, b"\xff" * 4096, "code of a block|bytes left"),
        (node_at + 12 + 8192, b"\x07", "code of a block before byte .*: expected 0 to 6, got 7"),
        (node_at + 12 + 8192, b"\xff", "code of a block"),
    ):
        refused(parts.path, parts.with_bytes(at, data), message)
    assert second == 0
    root_tile = parts.tree_at + 16
    refused(parts.path, parts.with_bytes(root_tile, first), "root before byte .*: expected nodes")


def test_vdb_types_that_are_not_read(parts: VDBParts, tmp_path: Path) -> None:
    kind = b"Tree_float_5_4_3"
    for other in (b"Tree_ptdataidx32", b"Tree_float_3_4_5", b"Tree_string_5_43"):
        refused(parts.path, parts.content.replace(kind, other), "Tree_T_5_4_3 with T one of float")
    frustum = b"ScaleTranslateMap", b"NonlinearFrustum_"
    refused(
        parts.path, parts.content.replace(*frustum), "affine map, got 'UniformNonlinearFrustum_'"
    )
    # Other grids of such a file can still be read.
    write_vdb([sample_tree("bool"), replace(sample_tree("float"), name="p")], tmp_path / "b.vdb")
    content = (tmp_path / "b.vdb").read_bytes().replace(b"Tree_bool_5_4_3", b"Tree_ptda_5_4_3")
    refused(tmp_path / "b.vdb", content, "got Tree_ptda_5_4_3")
    assert [tree.name for tree in read_openvdb(tmp_path / "b.vdb", names=["p"])] == ["p"]


def test_vdb_instances_of_nothing(tmp_path: Path) -> None:
    tree = replace(sample_tree("float", leaves=3), name="one")
    write_vdb([tree, replace(tree, name="two")], tmp_path / "a.vdb")
    content = (tmp_path / "a.vdb").read_bytes()
    parent = content.rindex(b"one")
    content = content[:parent] + b"six" + content[parent + 3 :]
    refused(tmp_path / "a.vdb", content, "grid 'two': expected a grid 'six' to repeat, got none")
    # An instance of an instance, and one of itself.
    content = content[:parent] + b"two" + content[parent + 3 :]
    refused(tmp_path / "a.vdb", content, "grid 'two': expected a grid 'two' to repeat, got none")


def test_packed_blocks_that_lie(tmp_path: Path) -> None:
    """A block may neither claim more than it holds, nor hold more than it claims."""
    tree = replace(
        VDBTree.empty("float"),
        leaf_origins=np.zeros((1, 3), np.int32),
        leaf_masks=np.full((1, 8), 2**64 - 1, np.uint64),
        leaf_values=np.zeros((1, 512), np.float32),
    )
    write_vdb(tree, tmp_path / "a.vdb", active_mask=False)
    content = (tmp_path / "a.vdb").read_bytes()
    block = zlib.compress(bytes(2048))
    at = content.rindex(struct.pack("<q", len(block)) + block)
    for block, message in (
        (zlib.compress(bytes(1 << 26)), "unpacks to 2048 bytes, got more than"),
        (zlib.compress(bytes(2047)), "unpacks to 2048 bytes, got 2047"),
        (zlib.compress(bytes(2048))[:-2], "unpacks to 2048 bytes"),
        (b"nothing of the sort", "a zlib block"),
    ):
        damaged = content[:at] + struct.pack("<q", len(block)) + block
        end = struct.pack("<q", len(damaged))
        damaged = damaged.replace(struct.pack("<q", len(content)), end)
        refused(tmp_path / "a.vdb", damaged, message)
    damaged = content[:at] + struct.pack("<q", -7) + content[at + 8 :]
    refused(tmp_path / "a.vdb", damaged, "expected 2048 bytes as they are, got -7")


def test_blosc_blocks_that_lie(tmp_path: Path) -> None:
    pytest.importorskip("blosc")
    write_nvdb(sample_tree("float", leaves=3), tmp_path / "a.nvdb", compression="blosc")
    content = (tmp_path / "a.nvdb").read_bytes()
    name = len(sample_tree("float").name) + 1
    block = 16 + META.itemsize + name + 8
    for at, word, message in (
        (block + 4, 1 << 31, "a Blosc block of"),
        (block + 8, 1 << 31, "packed bytes"),
        (block + 8, 0, "packed bytes"),
        (block + 12, 20, "packed bytes"),
    ):
        data = content[:at] + struct.pack("<I", word) + content[at + 4 :]
        refused(tmp_path / "a.nvdb", data, message)
    # The grid's size, the header's and the block's agree on a terabyte.
    huge = bytearray(content)
    huge[16:24] = struct.pack("<Q", 1 << 40)
    refused(tmp_path / "a.nvdb", bytes(huge), "size of a grid")


# -- made by hand: .nvdb ---------------------------------------------------------------------------


class NVDBParts:
    """A plain .nvdb file of one float grid and where its numbers stand."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "parts.nvdb"
        self.tree = sample_tree("float", leaves=6)
        write_nvdb(self.tree, self.path)
        self.content = self.path.read_bytes()
        self.grid = HEADER.itemsize + META.itemsize + len(self.tree.name) + 1
        self.root = self.grid + HEAD_BYTES
        self.offsets = self.grid + GRID_BYTES
        n_tiles = struct.unpack_from("<I", self.content, self.root + 24)[0]
        self.tiles = self.root + 64
        self.upper = self.tiles + 32 * n_tiles
        # The tiles without children come first.
        self.child = self.tiles + 32 * int((self.tree.tiles.log2_edges == 12).sum()) + 8

    def with_bytes(self, at: int, data: bytes) -> bytes:
        return self.content[:at] + data + self.content[at + len(data) :]

    def number(self, at: int) -> int:
        return struct.unpack_from("<q", self.content, at)[0]


def test_nvdb_headers(tmp_path: Path) -> None:
    parts = NVDBParts(tmp_path)
    for at, data, message in (
        (0, b"NanoVDB9", "magic"),
        (8, struct.pack("<I", 31 << 21), "version before byte .*: expected 32.3 to 32.9, got 31"),
        (8, struct.pack("<I", 32 << 21 | 10 << 10), "version"),
        (12, struct.pack("<H", 65535), "grids"),
        (14, struct.pack("<H", 3), "codec before byte .*: expected 0 to 2, got 3"),
        (14, struct.pack("<H", 1), "packed"),
        (16, struct.pack("<Q", 1 << 60), "size of a grid"),
        (24, struct.pack("<Q", 1 << 60), "bytes left"),
        (24, struct.pack("<Q", 3), "size of a grid|magic"),
        (parts.grid + 32, struct.pack("<Q", 5), "size of a grid"),
        (parts.grid + 636, struct.pack("<I", 23), "type of a grid before byte .*OnIndex.* type 23"),
        (parts.grid + 636, struct.pack("<I", 1 << 31), "type of a grid"),
        (parts.grid + 384, struct.pack("<d", float("inf")), "map of the grid"),
        (parts.grid + 384, bytes(72), "map of the grid"),
    ):
        refused(parts.path, parts.with_bytes(at, data), message)


def test_nvdb_places(tmp_path: Path) -> None:
    parts = NVDBParts(tmp_path)
    node = 270_400
    table = parts.upper + 8256
    mask = np.frombuffer(parts.content[parts.upper + 4128 :][:4096], "<u8")
    bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
    slots = np.flatnonzero(bits)
    lower_child = table + 8 * int(slots[0])
    second = parts.child + 32
    for at, data, message in (
        (parts.offsets + 24, struct.pack("<q", 1 << 50), "place of the root"),
        (parts.offsets + 24, struct.pack("<q", -736), "place of the root"),
        (parts.offsets + 24, struct.pack("<q", 65), "place of the root"),
        (parts.offsets + 32, struct.pack("<I", 1 << 31), "number of leaves"),
        (parts.offsets + 36, struct.pack("<I", 0), "number of lower nodes"),
        (parts.offsets + 40, struct.pack("<I", 99), "number of upper nodes"),
        (parts.root + 24, struct.pack("<I", 1 << 31), "root tiles"),
        (parts.child, struct.pack("<q", 1 << 40), "places of upper nodes"),
        (parts.child, struct.pack("<q", (1 << 63) - 32 - 736), "places of upper nodes"),
        (parts.child, struct.pack("<q", -(1 << 63) + 32), "places of upper nodes"),
        (parts.child, struct.pack("<q", parts.number(parts.child) + 1), "places of upper nodes"),
        (parts.child, struct.pack("<q", parts.number(second) + 0), "places of upper nodes"),
        (parts.child - 8, parts.content[second - 8 : second], "root tiles"),
        (parts.child - 8, b"\xff" * 8, "root tiles"),
        (lower_child, struct.pack("<q", -(1 << 40)), "places of lower nodes"),
        (lower_child, struct.pack("<q", 1 << 62), "places of lower nodes"),
        (parts.upper + 4128, b"\xff" * 4096, "number of lower nodes"),
    ):
        refused(parts.path, parts.with_bytes(at, data), message)
    assert parts.number(second) - parts.number(parts.child) == node


def test_nvdb_blind_data(tmp_path: Path) -> None:
    write_nvdb(index_tree(sparse=True), tmp_path / "a.nvdb")
    content = (tmp_path / "a.nvdb").read_bytes()
    grid = HEADER.itemsize + META.itemsize + len("a grid of float") + 1
    blind = grid + struct.unpack_from("<q", content, grid + 640)[0]
    for at, data, message in (
        (grid + 640, struct.pack("<q", 1 << 60), "blind data"),
        (grid + 640, struct.pack("<q", -1), "blind data"),
        (grid + 648, struct.pack("<I", 1 << 31), "blind data"),
        (blind, struct.pack("<q", 1 << 60), "blind data"),
        (blind + 8, struct.pack("<Q", 1 << 61), "channel"),
        (blind + 8, struct.pack("<Q", (1 << 64) - 1), "channel"),
    ):
        refused(tmp_path / "a.nvdb", content[:at] + data + content[at + len(data) :], message)
    leaf = grid + 672 + struct.unpack_from("<q", content, grid + 672)[0]
    data = content[: leaf + 88] + b"\xff" * 8 + content[leaf + 96 :]
    refused(tmp_path / "a.nvdb", data, "indices below 2\\^62")


# -- grids too large to be made --------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".vdb", ".nvdb"])
def test_tiles_that_would_fill_the_memory(suffix: str, tmp_path: Path) -> None:
    tree = sample_tree("float")
    path = tmp_path / f"a{suffix}"
    write_vdb(tree, path)
    assert not read_bounded(path, fl.load)
    with pytest.raises(
        fl.FileFormatError,
        match=rf"at most 16777216 voxels in active tiles, got {tree.tiles.voxels}",
    ):
        fl.load(path)
    assert read_bounded(path, read_vdb)


def test_grids_that_are_too_wide(tmp_path: Path) -> None:
    tree = VDBTree.empty("float")
    far = np.array([[0, 0, 0], [2**31 - 8, 2**31 - 8, 2**31 - 8]], np.int32)
    tree = replace(
        tree,
        leaf_origins=far,
        leaf_masks=np.ones((2, 8), np.uint64),
        leaf_values=np.zeros((2, 512), np.float32),
    )
    for name in ("a.vdb", "a.nvdb"):
        write_vdb(tree, tmp_path / name)
        assert not read_bounded(tmp_path / name, read_vdb_grids)
        assert read_bounded(tmp_path / name, read_vdb)
