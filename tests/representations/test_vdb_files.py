# SPDX-License-Identifier: Apache-2.0
"""VDB files: everything comes back, in every type, compression and version; the shared files."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fieldline.representations.files import (
    Metadatum,
    VDBFile,
    VDBTiles,
    VDBTree,
    read_vdb,
    vdb_codec,
    write_vdb,
)
from fieldline.representations.files.nvdb_reader import read_nvdb
from fieldline.representations.files.nvdb_writer import write_nvdb
from fieldline.representations.files.openvdb_writer import write_openvdb
from fieldline.representations.files.vdb_types import VALUE_TYPES
from vdb_samples import FILES, assert_same, in_order, index_tree, sample_tree

import fieldline as fl

OPENVDB_TYPES = [name for name, kind in VALUE_TYPES.items() if kind.openvdb]
NANOVDB_TYPES = [name for name, kind in VALUE_TYPES.items() if kind.nanovdb and name != "index"]
COMPRESSIONS = ("none", "zip", "blosc")


# -- round trips -----------------------------------------------------------------------------------


@pytest.mark.parametrize("value_type", OPENVDB_TYPES)
@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("active_mask", [True, False])
def test_vdb_comes_back(
    value_type: str, compression: str, active_mask: bool, tmp_path: Path
) -> None:
    tree = sample_tree(value_type)
    write_vdb(tree, tmp_path / "a.vdb", compression=compression, active_mask=active_mask)
    assert_same(read_vdb(tmp_path / "a.vdb")[0], in_order(tree))


@pytest.mark.parametrize("value_type", NANOVDB_TYPES)
@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("version", ["32.4.2", "32.9.2"])
def test_nvdb_comes_back(value_type: str, compression: str, version: str, tmp_path: Path) -> None:
    tree = sample_tree(value_type)
    write_vdb(tree, tmp_path / "a.nvdb", compression=compression, version=version)
    assert_same(read_vdb(tmp_path / "a.nvdb")[0], in_order(tree))


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("version", ["32.4.2", "32.9.2"])
def test_index_grids(sparse: bool, version: str, tmp_path: Path) -> None:
    tree = index_tree(sparse=sparse)
    write_vdb(tree, tmp_path / "a.nvdb", version=version)
    back = read_vdb(tmp_path / "a.nvdb")[0]
    assert_same(back, in_order(tree))
    velocity = back.with_channel("velocity")
    assert velocity.value_type == "vec3s"
    np.testing.assert_array_equal(velocity.leaf_values, tree.channels["velocity"][back.leaf_values])
    with pytest.raises(ValueError, match="'density', 'velocity', got 'heat'"):
        back.with_channel("heat")
    short = replace(back, channels={"x": np.zeros(3, np.float32)})
    with pytest.raises(ValueError, match="expected indices below 3"):
        short.with_channel("x")


def test_indices_that_nanovdb_cannot_number(tmp_path: Path) -> None:
    tree = index_tree(sparse=True)
    odd = replace(tree, leaf_values=tree.leaf_values[:, ::-1].copy())
    with pytest.raises(ValueError, match="write_nvdb: leaf_values: expected indices that count"):
        write_vdb(odd, tmp_path / "a.nvdb")


def test_half_floats(tmp_path: Path) -> None:
    for value_type in ("float", "double", "vec3s"):
        tree = replace(sample_tree(value_type), half=True)
        write_vdb(tree, tmp_path / "a.vdb")
        back = read_vdb(tmp_path / "a.vdb")[0]
        assert back.half
        rounded = in_order(tree).leaf_values.astype(np.float16).astype(tree.type.dtype)
        np.testing.assert_array_equal(back.leaf_values, rounded)
        write_vdb(back, tmp_path / "b.vdb", compression="none")
        assert_same(read_vdb(tmp_path / "b.vdb")[0], back)


def test_odd_numbers_come_back(tmp_path: Path) -> None:
    tree = sample_tree("float")
    values = tree.leaf_values.copy()
    values[:5, ::3] = np.array([np.nan, -0.0, np.inf, 1e-45, 0.0], np.float32)[:, None]
    for background in (np.nan, -0.0, 0.0):
        odd = replace(tree, leaf_values=values, background=np.array(background, np.float32))
        for name in ("a.vdb", "a.nvdb"):
            write_vdb(odd, tmp_path / name)
            assert_same(read_vdb(tmp_path / name)[0], in_order(odd))


@pytest.mark.parametrize("suffix", [".vdb", ".nvdb"])
def test_grids_without_anything(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    for name in OPENVDB_TYPES if suffix == ".vdb" else NANOVDB_TYPES:
        tree = VDBTree.empty(name, 1)
        write_vdb(tree, path)
        assert_same(read_vdb(path)[0], tree)
    only_tiles = replace(
        VDBTree.empty("float"),
        tiles=VDBTiles(
            np.array([[4096, 0, 0]], np.int32),
            np.array([12], np.uint8),
            np.ones(1, np.float32),
            np.ones(1, np.bool_),
        ),
    )
    write_vdb(only_tiles, path)
    assert_same(read_vdb(path)[0], only_tiles)
    assert only_tiles.active_voxels == 1 << 36


MATRICES = {
    "identity": np.eye(4),
    "scale": np.diag([0.5, 0.5, 0.5, 1.0]),
    "mirror": np.diag([-0.5, 2.0, 3.0, 1.0]),
    "move": np.array([[1.0, 0, 0, 3], [0, 1, 0, -4], [0, 0, 1, 5], [0, 0, 0, 1]]),
    "scale and move": np.array([[0.1, 0, 0, 3], [0, 0.2, 0, -4], [0, 0, 0.3, 5], [0, 0, 0, 1]]),
    "shear": np.array([[0.1, 0.2, 0, 3], [0, 0.2, 0.7, -4], [0.5, 0, 0.3, 5], [0, 0, 0, 1]]),
    "tiny": np.diag([1e-200, 1.0, 1.0, 1.0]),
}


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("suffix", [".vdb", ".nvdb"])
def test_transforms_come_back(name: str, suffix: str, tmp_path: Path) -> None:
    tree = replace(VDBTree.empty("float"), transform=MATRICES[name])
    write_vdb(tree, tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(read_vdb(tmp_path / f"a{suffix}")[0].transform, MATRICES[name])


def test_metadata_names_and_several_grids(tmp_path: Path) -> None:
    metadata = {
        "text": Metadatum("string", "caf\u00e9 \udc80"),
        "yes": Metadatum("bool", True),
        "real": Metadatum("float", 0.5),
        "exact": Metadatum("double", 0.1),
        "whole": Metadatum("int32", -7),
        "large": Metadatum("int64", 1 << 40),
        "place": Metadatum("vec3d", (1.0, 2.0, 3.0)),
        "pair": Metadatum("vec2i", (1, 2)),
        "matrix": Metadatum("mat4d", tuple(map(float, range(16)))),
        "unknown": Metadatum("something", b"\0\1\2"),
    }
    trees = [
        replace(sample_tree("float", 1), name="smoke", metadata=metadata, grid_class="fog volume"),
        replace(sample_tree("vec3s", 2), name="smoke", grid_class="staggered"),
        replace(sample_tree("mask", 3), name=""),
        replace(sample_tree("float", 4), name="", grid_class="level set"),
    ]
    write_vdb(VDBFile(tuple(trees), metadata), tmp_path / "a.vdb")
    file = read_vdb(tmp_path / "a.vdb")
    assert file.names == ["smoke", "smoke[1]", "", "[1]"] and file.metadata == metadata
    for back, tree in zip(file, trees):
        assert_same(back, in_order(tree))
    assert file["smoke[1]"].value_type == "vec3s"
    with pytest.raises(KeyError, match="fire"):
        file["fire"]
    chosen = read_vdb(tmp_path / "a.vdb", names=["smoke"])
    assert [tree.name for tree in chosen] == ["smoke", "smoke"]
    with pytest.raises(ValueError, match=r"names: expected some of .*'smoke'.*got \['fire'\]"):
        read_vdb(tmp_path / "a.vdb", names=["fire"])
    write_vdb(VDBFile(tuple(trees)), tmp_path / "a.nvdb")
    for back, tree in zip(read_vdb(tmp_path / "a.nvdb"), trees):
        assert_same(back, replace(in_order(tree), metadata={}))
    assert len(read_vdb(tmp_path / "a.nvdb", names=["smoke"])) == 2
    with pytest.raises(ValueError, match="fire"):
        read_vdb(tmp_path / "a.nvdb", names=["fire"])


def test_grids_that_repeat_another_are_stored_once(tmp_path: Path) -> None:
    tree = sample_tree("float", leaves=100)
    moved = replace(tree, name="there", transform=MATRICES["move"])
    write_vdb([tree], tmp_path / "one.vdb")
    write_vdb(VDBFile((tree, moved)), tmp_path / "two.vdb")
    sizes = [(tmp_path / name).stat().st_size for name in ("one.vdb", "two.vdb")]
    assert sizes[1] < sizes[0] + 1000
    first, second = read_vdb(tmp_path / "two.vdb")
    assert_same(second, in_order(moved))
    assert second.leaf_values is first.leaf_values
    assert_same(read_vdb(tmp_path / "two.vdb", names=["there"])[0], in_order(moved))


def test_raw_nvdb_grids_and_several_segments(tmp_path: Path) -> None:
    trees = [sample_tree("float"), sample_tree("bool")]
    whole, raw = b"", b""
    for tree in trees:
        write_nvdb(tree, tmp_path / "a.nvdb", version="32.9.2")
        content = (tmp_path / "a.nvdb").read_bytes()
        whole += content
        raw += content[16 + 176 + len(tree.name) + 1 :]
    for content in (whole, raw):
        (tmp_path / "b.nvdb").write_bytes(content)
        for back, tree in zip(read_nvdb(tmp_path / "b.nvdb"), trees, strict=True):
            assert_same(back, in_order(tree))
    assert raw.startswith(b"NanoVDB1")


# -- what cannot be written ------------------------------------------------------------------------


def test_what_is_refused(tmp_path: Path) -> None:
    tree = sample_tree("float")
    for arguments, options, error, message in (
        ((sample_tree("uint32"), "a.vdb"), {}, ValueError, "that .vdb files hold, got uint32"),
        ((sample_tree("vec3i"), "a.nvdb"), {}, ValueError, "that NanoVDB has, got vec3i"),
        ((tree, "a.xyz"), {}, ValueError, "path: expected a suffix of"),
        ((tree, "a.vdb"), {"compression": "rar"}, ValueError, "compression: expected one of"),
        ((tree, "a.nvdb"), {"version": "1"}, ValueError, "version: expected one of"),
        ((3, "a.nvdb"), {}, TypeError, "expected VDBGrid or VDBTree, got int"),
        (({"a": 3}, "a.vdb"), {}, TypeError, "expected VDBGrid or VDBTree, got int"),
        ((VDBFile(()), "a.nvdb"), {}, ValueError, "expected 1 to 65535 grids, got 0"),
        ((replace(tree, name="x" * 300), "a.nvdb"), {}, ValueError, "at most 255 bytes"),
    ):
        with pytest.raises(error, match=message):
            write_vdb(arguments[0], tmp_path / arguments[1], **options)
    assert list(tmp_path.iterdir()) == []
    tile = VDBTiles(
        tree.leaf_origins[:1] & ~127,
        np.array([7], np.uint8),
        np.zeros(1, np.float32),
        np.ones(1, np.bool_),
    )
    for overlapping in (
        replace(tree, tiles=tile),
        replace(tree, leaf_origins=tree.leaf_origins * 0),
    ):
        for write, name in ((write_openvdb, "a.vdb"), (write_nvdb, "a.nvdb")):
            with pytest.raises(ValueError, match="an overlap"):
                write(overlapping, tmp_path / name)
    with pytest.raises(ValueError, match="leaf_origins: expected multiples of 8"):
        replace(tree, leaf_origins=tree.leaf_origins + 1)
    with pytest.raises(ValueError, match=r"leaf_masks: expected uint64 \[30, 8\]"):
        replace(tree, leaf_masks=tree.leaf_masks[:, :4])


def test_without_blosc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data_dir: Path) -> None:
    for name in ("blosc", "numcodecs", "numcodecs.blosc"):
        monkeypatch.setitem(sys.modules, name, None)
    assert not vdb_codec.has_blosc()
    for name in ("sphere_ls_r10.vdb", "smoke-blosc.nvdb"):
        with pytest.raises(ImportError, match=r"pip install 'fieldline\[vdb\]'"):
            read_vdb(data_dir / "vdb" / name)
    for name in ("a.vdb", "a.nvdb"):
        with pytest.raises(ImportError, match="blosc"):
            write_vdb(sample_tree("float"), tmp_path / name, compression="blosc")
    assert list(tmp_path.iterdir()) == []
    read_vdb(data_dir / "vdb" / "sphere_ls_r10_zip.vdb")


def test_without_openvdb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("openvdb", "pyopenvdb"):
        monkeypatch.setitem(sys.modules, name, None)
    write_vdb(sample_tree("float"), tmp_path / "a.vdb")
    for use in (
        lambda: read_vdb(tmp_path / "a.vdb", backend="openvdb"),
        lambda: write_vdb(sample_tree("float"), tmp_path / "b.vdb", backend="openvdb"),
    ):
        with pytest.raises(ImportError, match="python3-openvdb"):
            use()
    with pytest.raises(ValueError, match="backend: expected 'native' or 'openvdb', got 'other'"):
        read_vdb(tmp_path / "a.vdb", backend="other")
    assert [path.name for path in tmp_path.iterdir()] == ["a.vdb"]


# -- the shared files ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_shared_files_come_back(name: str, data_dir: Path, tmp_path: Path) -> None:
    file = read_vdb(data_dir / "vdb" / name)
    for suffix in (".vdb", ".nvdb"):
        for compression in COMPRESSIONS if len(file[0].leaf_origins) < 1000 else ("blosc",):
            write_vdb(file, tmp_path / f"a{suffix}", compression=compression)
            back = read_vdb(tmp_path / f"a{suffix}")
            assert len(back) == len(file)
            for a, b in zip(back, file):
                assert_same(a, b if suffix == ".vdb" else replace(b, metadata={}, half=False))


def test_the_sphere_is_what_openvdb_read(data_dir: Path) -> None:
    with np.load(data_dir / "vdb" / "expected.npz") as expected:
        rows = expected["sphere_ijk_val"]
    voxels = {tuple(map(int, row[:3])): row[3] for row in rows}
    for name in FILES:
        if not name.startswith("sphere_ls_r10") and not name.startswith("multi"):
            continue
        tree = read_vdb(data_dir / "vdb" / name)["sphere_ls"]
        assert tree.grid_class == "level set" and tree.background == 3
        leaves, places = np.nonzero(tree.active_bits)
        xyz = tree.leaf_origins[leaves] + np.stack((places >> 6, places >> 3, places), -1) % 8
        values = tree.leaf_values[leaves, places].astype(np.float64)
        found = {tuple(p): v for p, v in zip(xyz.tolist(), values.tolist())}
        assert found == voxels
        # Inside of the band the values are minus the background, and not active.
        inside = tree.leaf_values[~tree.active_bits]
        assert set(np.unique(inside).tolist()) == {-3.0, 3.0}


def test_the_mask_is_what_openvdb_read(data_dir: Path) -> None:
    with np.load(data_dir / "vdb" / "expected.npz") as expected:
        voxels = set(map(tuple, expected["occ_ijk"].tolist()))
    tree = read_vdb(data_dir / "vdb" / "multi_bool_vec3_float.vdb")["occ"]
    leaves, places = np.nonzero(tree.active_bits)
    xyz = tree.leaf_origins[leaves] + np.stack((places >> 6, places >> 3, places), -1) % 8
    assert set(map(tuple, xyz.tolist())) == voxels and tree.value_type == "bool"


def test_both_formats_of_one_grid_agree(data_dir: Path) -> None:
    for vdb, nvdb in (
        ("float_tiles_voxels.vdb", "float_tiles_voxels.nvdb"),
        ("sphere_ls_r10.vdb", "sphere_ls_r10-z.nvdb"),
        ("sphere_ls_r10_zip.vdb", "sphere_ls_r10-b.nvdb"),
    ):
        assert_same(read_vdb(data_dir / "vdb" / vdb)[0], read_vdb(data_dir / "vdb" / nvdb)[0])


def test_the_smoke(data_dir: Path) -> None:
    tree = read_vdb(data_dir / "vdb" / "smoke-blosc.nvdb")[0]
    assert tree.active_voxels == 1_049_275 and len(tree.leaf_origins) == 3117
    low, high = tree.bounds() or ((), ())
    assert [b - a + 1 for a, b in zip(low, high)] == [111, 222, 112]
    assert np.isfinite(tree.leaf_values).all() and (tree.leaf_values[tree.active_bits] >= 0).all()


def test_a_checksum_that_does_not_match(data_dir: Path, tmp_path: Path) -> None:
    content = bytearray((data_dir / "vdb" / "float_tiles_voxels.nvdb").read_bytes())
    # NanoVDB's tools cover only the head unless asked for more: here, the grid's name.
    content[16 + 176 + len("tiles") + 1 + 50] ^= 1
    (tmp_path / "a.nvdb").write_bytes(content)
    with pytest.raises(fl.FileFormatError, match="checksum"):
        read_vdb(tmp_path / "a.nvdb")
    assert len(read_nvdb(tmp_path / "a.nvdb", verify=False)) == 1
    for version in ("32.4.2", "32.9.2"):
        write_nvdb(sample_tree("float"), tmp_path / "b.nvdb", version=version)
        content = bytearray((tmp_path / "b.nvdb").read_bytes())
        for at in (300, len(content) - 1000):
            damaged = content.copy()
            damaged[at] ^= 1
            (tmp_path / "b.nvdb").write_bytes(damaged)
            with pytest.raises(fl.FileFormatError, match="checksum"):
                read_vdb(tmp_path / "b.nvdb")
