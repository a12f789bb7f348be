# SPDX-License-Identifier: Apache-2.0
"""VDB files against OpenVDB and NanoVDB themselves: what we write they read, and the other way."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import vdb_judge
from fieldline.representations import VDBGrid
from fieldline.representations.files import Metadatum, VDBTree, read_vdb, write_vdb
from vdb_samples import assert_same, in_order, index_tree, probes, sample_tree, value_at

import fieldline as fl

pytestmark = pytest.mark.usefixtures("judges")


@pytest.fixture(scope="module")
def judges() -> None:
    vdb_judge.require_openvdb()


@pytest.fixture(scope="module")
def probe(judges: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program that asks NanoVDB's headers."""
    return vdb_judge.build_probe(tmp_path_factory.mktemp("probe"))


def box_of(tree: VDBTree, low: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
    """All values of a box."""
    xyz = np.indices(shape).reshape(3, -1).T + low
    values = value_at(tree, xyz)[1]
    return values.reshape(*shape, *values.shape[1:])


def active_rows(tree: VDBTree) -> set[tuple[float, ...]]:
    """Origin, voxels and value of each active voxel and tile, as the judge lists them."""
    leaves, places = np.nonzero(tree.active_bits)
    xyz = tree.leaf_origins[leaves] + np.stack((places >> 6, places >> 3, places), -1) % 8
    on = tree.tiles.active
    counts = np.concatenate((np.ones(len(xyz)), 8.0 ** tree.tiles.log2_edges[on]))
    values = np.concatenate((tree.leaf_values[leaves, places], tree.tiles.values[on]))
    table = np.concatenate(
        (
            np.concatenate((xyz, tree.tiles.origins[on])),
            counts[:, None],
            values.reshape(len(counts), -1).astype(np.float64),
        ),
        axis=1,
    )
    return set(map(tuple, table.tolist()))


def assert_judged(tree: VDBTree, judged: dict[str, Any], low: Any, shape: Any) -> None:
    """What OpenVDB says of a grid is what it holds."""
    assert judged["name"] == tree.name and judged["class"] == tree.grid_class
    assert judged["half"] == tree.half
    assert judged["active"] == tree.active_voxels and judged["leaves"] == len(tree.leaf_origins)
    np.testing.assert_array_equal(judged["background"], tree.background)
    np.testing.assert_array_equal(judged["box"], box_of(tree, low, shape))
    assert set(map(tuple, judged["active_values"].tolist())) == active_rows(tree)
    world = [tree.transform[:3, 3] + tree.transform[:3, :3] @ p for p in np.eye(4)[:, 1:]]
    np.testing.assert_allclose(judged["world"], world, rtol=1e-14, atol=1e-14)


# -- .vdb ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value_type", ["float", "vec3s", "bool"])
@pytest.mark.parametrize("compression", ["none", "zip", "blosc"])
@pytest.mark.parametrize("active_mask", [True, False])
def test_openvdb_reads_what_we_write(
    value_type: str, compression: str, active_mask: bool, tmp_path: Path
) -> None:
    tree = sample_tree(value_type)
    write_vdb(tree, tmp_path / "a.vdb", compression=compression, active_mask=active_mask)
    low, shape = (-20, 60, -30), (24, 24, 24)
    (judged,) = vdb_judge.openvdb_contents(tmp_path / "a.vdb", low, shape)
    assert_judged(tree, judged, low, shape)


def test_openvdb_reads_names_metadata_half_and_instances(tmp_path: Path) -> None:
    tree = replace(
        sample_tree("float"),
        name="first",
        grid_class="level set",
        half=True,
        metadata={"frame": Metadatum("int32", 7), "scale": Metadatum("vec3d", (1.0, 2.0, 3.0))},
    )
    rounded = replace(
        tree,
        leaf_values=tree.leaf_values.astype(np.float16).astype(np.float32),
        background=tree.background.astype(np.float16).astype(np.float32),
        tiles=replace(tree.tiles, values=tree.tiles.values.astype(np.float16).astype(np.float32)),
    )
    shear = np.array([[0.1, 0.2, 0, 3], [0, 0.2, 0.7, -4], [0.5, 0, 0.3, 5], [0, 0, 0, 1]])
    moved = replace(tree, name="second", transform=shear)
    write_vdb([tree, moved], tmp_path / "a.vdb")
    low, shape = (-20, 60, -30), (16, 16, 16)
    first, second = vdb_judge.openvdb_contents(tmp_path / "a.vdb", low, shape)
    assert_judged(rounded, first, low, shape)
    assert_judged(replace(rounded, name="second", transform=shear), second, low, shape)
    assert first["metadata"]["frame"] == 7 and first["metadata"]["scale"] == [1, 2, 3]
    said = vdb_judge.run("vdb_print", "-l", tmp_path / "a.vdb")
    assert "Tree_float_5_4_3_HalfFloat" in said or "level set" in said


@pytest.mark.parametrize("value_type", ["double", "int32", "int64", "vec3d", "vec3i", "mask"])
def test_vdb_print_reads_other_types(value_type: str, tmp_path: Path) -> None:
    tree = sample_tree(value_type)
    write_vdb(tree, tmp_path / "a.vdb")
    said = vdb_judge.run("vdb_print", "-l", tmp_path / "a.vdb")
    assert f"Tree_{value_type}_5_4_3" in said and f"{tree.active_voxels:,}" in said
    assert f"Leaf({len(tree.leaf_origins)} x 8^3)" in said


@pytest.mark.parametrize(
    "name",
    [
        "sphere_ls_r10.vdb",
        "sphere_ls_half.vdb",
        "float_tiles_voxels.vdb",
        "multi_bool_vec3_float.vdb",
    ],
)
def test_we_read_what_openvdb_wrote(name: str, data_dir: Path) -> None:
    low, shape = (-16, -16, -16), (40, 32, 32)
    judged = vdb_judge.openvdb_contents(data_dir / "vdb" / name, low, shape)
    trees = sorted(read_vdb(data_dir / "vdb" / name), key=lambda tree: tree.name)
    assert len(trees) == len(judged)
    for tree, facts in zip(trees, judged):
        assert_judged(tree, facts, low, shape)


_MAKE = """
import sys
import pyopenvdb as vdb
sphere = vdb.createLevelSetSphere(radius=5.0, center=(1.0, 2.0, 3.0), voxelSize=0.5)
sphere.name = "sphere"
sphere["answer"], sphere["real"], sphere["word"] = 42, 0.5, "yes"
sphere["pair"], sphere["place"] = (1, 2), (0.5, 1.5, 2.5)
sphere.transform.rotate(0.3, vdb.Axis.Y)
tiles = vdb.Vec3SGrid((1.0, 2.0, 3.0))
tiles.fill((-200, 0, 0), (100, 40, 200), (4.0, 5.0, 6.0))
tiles.fill((0, 0, 0), (7, 7, 7), (0.0, 0.0, 0.0), False)
tiles.name, tiles.gridClass = "tiles", vdb.GridClass.STAGGERED
twin = tiles.copy()
twin.transform = vdb.createLinearTransform(0.25)
twin.name = "twin"
vdb.write(sys.argv[1], [sphere, tiles, twin], {"made": "here", "year": 7})
"""


def test_we_read_metadata_rotations_tiles_and_instances(tmp_path: Path) -> None:
    path = tmp_path / "made.vdb"
    vdb_judge.openvdb_run(_MAKE, path)
    low, shape = (-8, -8, -8), (20, 20, 20)
    file = read_vdb(path)
    assert file.names == ["sphere", "tiles", "twin"]
    for tree, facts in zip(file, vdb_judge.openvdb_contents(path, low, shape)):
        assert_judged(tree, facts, low, shape)
    assert {key: entry.value for key, entry in file.metadata.items()} == {"made": "here", "year": 7}
    metadata = {key: entry.value for key, entry in file["sphere"].metadata.items()}
    assert metadata == {
        "answer": 42,
        "real": 0.5,
        "word": "yes",
        "pair": (1, 2),
        "place": (0.5, 1.5, 2.5),
    }
    assert file["twin"].leaf_values is file["tiles"].leaf_values
    write_vdb(file, tmp_path / "again.vdb")
    before = vdb_judge.openvdb_contents(path, low, shape)
    for old, new in zip(before, vdb_judge.openvdb_contents(tmp_path / "again.vdb", low, shape)):
        assert old["metadata"] == new["metadata"] and old["nodes"] == new["nodes"]
        np.testing.assert_array_equal(old["active_values"], new["active_values"])


@pytest.fixture
def openvdb_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVDB's module in our Python, if it was built for this version."""
    monkeypatch.syspath_prepend("/usr/lib/python3/dist-packages")
    tag = f"cpython-{sys.version_info[0]}{sys.version_info[1]}"
    if not any(
        tag in path.name for path in Path("/usr/lib/python3/dist-packages").glob("pyopenvdb*")
    ):
        pytest.skip(f"pyopenvdb is built for another Python than {tag}")


@pytest.mark.usefixtures("openvdb_backend")
def test_the_openvdb_backend(data_dir: Path, tmp_path: Path) -> None:
    source = data_dir / "vdb" / "multi_bool_vec3_float.vdb"
    for tree in read_vdb(source):
        assert_same(read_vdb(source, backend="openvdb")[tree.name], tree)
    tree = in_order(sample_tree("float"))
    write_vdb(tree, tmp_path / "a.vdb", backend="openvdb")
    assert_same(read_vdb(tmp_path / "a.vdb")[0], tree)
    with pytest.raises(OSError, match="OpenVDB cannot translate it"):
        write_vdb(sample_tree("vec3i"), tmp_path / "b.vdb", backend="openvdb")
    assert not (tmp_path / "b.vdb").exists()


# -- .nvdb -----------------------------------------------------------------------------------------


NANO_TYPES = ("float", "double", "int16", "int32", "int64", "uint32", "vec3s", "vec3d", "bool")


@pytest.mark.parametrize("value_type", [*NANO_TYPES, "mask", "rgba8"])
@pytest.mark.parametrize("compression", ["none", "zip", "blosc"])
def test_nanovdb_accepts_what_we_write(value_type: str, compression: str, tmp_path: Path) -> None:
    tree = sample_tree(value_type)
    write_vdb(tree, tmp_path / "a.nvdb", compression=compression)
    assert "passed" in vdb_judge.run("nanovdb_validate", "-v", tmp_path / "a.nvdb")
    said = vdb_judge.run("nanovdb_print", "-v", tmp_path / "a.nvdb")
    assert str(tree.active_voxels) in said and "32.4.2" in said


@pytest.mark.parametrize("value_type", [*NANO_TYPES, "mask"])
def test_nanovdb_finds_every_value(value_type: str, tmp_path: Path, probe: Path) -> None:
    tree = sample_tree(value_type)
    write_vdb(tree, tmp_path / "a.nvdb")
    assert_probed(tree, tmp_path / "a.nvdb", probe)


def assert_probed(tree: VDBTree, path: Path, probe: Path) -> None:
    """NanoVDB finds a grid's values, states, box and checksum."""
    voxels = probes(tree)
    ((facts, states, values),) = vdb_judge.nanovdb_contents(probe, path, voxels)
    active, expected = value_at(tree, voxels)
    np.testing.assert_array_equal(states, active)
    np.testing.assert_array_equal(values, expected.reshape(len(voxels), -1).astype(np.float64))
    low, high = tree.bounds() or ((), ())
    assert facts == {"active": tree.active_voxels, "valid": True, "box": [*low, *high]}


@pytest.mark.parametrize("sparse", [True, False])
def test_nanovdb_finds_indices(sparse: bool, tmp_path: Path, probe: Path) -> None:
    tree = index_tree(sparse=sparse)
    write_vdb(tree, tmp_path / "a.nvdb")
    assert_probed(tree, tmp_path / "a.nvdb", probe)


@pytest.mark.parametrize("value_type", ["float", "double", "int32", "int64", "vec3s", "bool"])
@pytest.mark.parametrize("option", [(), ("-z",), ("-b",), ("-c", "full"), ("-s", "none")])
def test_nanovdb_converts_both_ways(value_type: str, option: tuple, tmp_path: Path) -> None:
    tree = in_order(sample_tree(value_type))
    write_vdb(tree, tmp_path / "a.vdb")
    vdb_judge.run("nanovdb_convert", *option, tmp_path / "a.vdb", tmp_path / "a.nvdb")
    assert_same(read_vdb(tmp_path / "a.nvdb")[0], tree)
    write_vdb(tree, tmp_path / "b.nvdb")
    vdb_judge.run("nanovdb_convert", tmp_path / "b.nvdb", tmp_path / "b.vdb")
    assert_same(read_vdb(tmp_path / "b.vdb")[0], tree)


@pytest.mark.parametrize("option", [("--fp4",), ("--fp8",), ("--fp16",), ("--fpN", "-a", "0.01")])
def test_quantised_grids(option: tuple, data_dir: Path, tmp_path: Path, probe: Path) -> None:
    source = data_dir / "vdb" / "sphere_ls_r10.vdb"
    vdb_judge.run("nanovdb_convert", "-c", "full", *option, source, tmp_path / "a.nvdb")
    tree, exact = read_vdb(tmp_path / "a.nvdb")[0], read_vdb(source)[0]
    assert tree.value_type == "float" and tree.grid_class == "level set"
    np.testing.assert_array_equal(tree.leaf_masks, exact.leaf_masks)
    voxels = probes(tree)
    ((facts, states, values),) = vdb_judge.nanovdb_contents(probe, tmp_path / "a.nvdb", voxels)
    active, found = value_at(tree, voxels)
    np.testing.assert_array_equal(states, active)
    # NanoVDB's compiler may round the product and the sum at once.
    np.testing.assert_allclose(found, values[:, 0], rtol=0, atol=1e-6)
    worst = np.abs(tree.leaf_values - exact.leaf_values).max()
    assert worst <= {"--fp4": 0.25, "--fp8": 0.02, "--fp16": 1e-4, "--fpN": 0.011}[option[0]]


def test_the_smoke_survives(data_dir: Path, tmp_path: Path) -> None:
    smoke = read_vdb(data_dir / "vdb" / "smoke-blosc.nvdb")
    write_vdb(smoke, tmp_path / "smoke.nvdb", compression="blosc")
    assert "passed" in vdb_judge.run("nanovdb_validate", "-v", tmp_path / "smoke.nvdb")
    write_vdb(smoke, tmp_path / "smoke.vdb", compression="blosc")
    said = vdb_judge.run("vdb_print", "-l", tmp_path / "smoke.vdb")
    assert "1,049,275" in said and "111 x 222 x 112" in said


# -- VDBGrid ---------------------------------------------------------------------------------------


def test_world_places_of_voxels_agree(tmp_path: Path) -> None:
    """A voxel's centre is at the same place of the world for OpenVDB and for us."""
    voxels = torch.tensor([[0, 0, 0], [-9, 4, 30]], dtype=torch.int32)
    matrix = torch.tensor(
        [[0.5, 0, 0, 1], [0, 0.25, 0, -2], [0, 0, 2, 3], [0, 0, 0, 1]], dtype=torch.float64
    )
    grid = VDBGrid.from_coordinates(
        voxels, torch.tensor([1.0, 2.0]), transform=matrix, name="two", background=7.0
    )
    fl.save(grid, tmp_path / "a.vdb")
    (judged,) = vdb_judge.openvdb_contents(tmp_path / "a.vdb")
    origin, *axes = np.array(judged["world"])
    theirs = origin + voxels.numpy() @ (np.array(axes) - origin)
    ours = grid.index_to_world(voxels.double() + 0.5).numpy()
    np.testing.assert_allclose(theirs, ours, rtol=1e-14)
    back = fl.load(tmp_path / "a.vdb")
    torch.testing.assert_close(back.transform, matrix, rtol=1e-14, atol=1e-14)
    assert judged["background"] == 7 and judged["active"] == 2
