# SPDX-License-Identifier: Apache-2.0
"""VDB files and VDBGrid: voxels, values, half a voxel, tiles; load, save and the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fieldline.representations import VDBGrid
from fieldline.representations.files import (
    Metadatum,
    VDBTiles,
    VDBTree,
    grid_to_tree,
    read_vdb,
    tree_to_grid,
    write_vdb,
)
from vdb_samples import assert_same, index_tree, sample_tree, value_at

import fieldline as fl
from fieldline.cli import main


def random_grid(dtype: torch.dtype, channels: int | None = None, n: int = 500) -> VDBGrid:
    generator = torch.Generator().manual_seed(0)
    voxels = torch.randint(-70, 90, (n, 3), generator=generator).unique(dim=0)
    shape = (len(voxels),) if channels is None else (len(voxels), channels)
    values = (torch.randn(shape, generator=generator) * 20).to(dtype)
    background = 3.0 if channels is None else tuple(range(channels))
    matrix = torch.tensor(
        [[0.5, 0, 0, 1], [0, 0.25, 0.125, -2], [0, 0, 2, 3], [0, 0, 0, 1]], dtype=torch.float64
    )
    return VDBGrid.from_coordinates(
        voxels,
        values,
        background=background,
        transform=matrix,
        name="random",
        metadata={"frame": 7, "who": "we", "where": (0.5, 1.5, 2.5)},
        grid_class="fog_volume" if channels is None and dtype.is_floating_point else "unknown",
    )


def assert_same_grid(a: VDBGrid, b: VDBGrid) -> None:
    order = [g.coordinates().tolist() for g in (a, b)]
    assert sorted(order[0]) == sorted(order[1])
    assert a.lookup(b.coordinates()).equal(b.lookup(b.coordinates()))
    assert (a.name, a.background, a.grid_class) == (b.name, b.background, b.grid_class)
    torch.testing.assert_close(a.transform, b.transform, rtol=1e-14, atol=1e-14)


KINDS = (
    (torch.float32, None),
    (torch.float64, None),
    (torch.int32, None),
    (torch.int64, None),
    (torch.float32, 3),
    (torch.float64, 3),
)


@pytest.mark.parametrize("suffix", [".vdb", ".nvdb"])
@pytest.mark.parametrize(("dtype", "channels"), KINDS)
def test_grids_come_back(
    suffix: str, dtype: torch.dtype, channels: int | None, tmp_path: Path
) -> None:
    grid = random_grid(dtype, channels)
    fl.save(grid, tmp_path / f"a{suffix}")
    back = fl.load(tmp_path / f"a{suffix}")
    assert isinstance(back, VDBGrid) and back.values is not None and back.values.dtype == dtype
    assert_same_grid(back, grid)
    kept = {"frame": 7, "who": "we", "where": (0.5, 1.5, 2.5)}
    assert back.metadata == (kept if suffix == ".vdb" else {})


@pytest.mark.parametrize("suffix", [".vdb", ".nvdb"])
@pytest.mark.parametrize("value_type", [None, "bool", "mask", "float"])
def test_sets_of_voxels_come_back(suffix: str, value_type: str | None, tmp_path: Path) -> None:
    grid = random_grid(torch.float32).with_values(None, background=0.0)
    fl.save(grid, tmp_path / f"a{suffix}", value_type=value_type)
    back = fl.load(tmp_path / f"a{suffix}")
    assert read_vdb(tmp_path / f"a{suffix}")[0].value_type == (value_type or "mask")
    assert sorted(back.coordinates().tolist()) == sorted(grid.coordinates().tolist())
    if value_type == "float":
        assert back.values.tolist() == [1.0] * back.active_count
    else:
        assert back.values is None


def test_several_grids_and_options(tmp_path: Path) -> None:
    grids = {"density": random_grid(torch.float32), "velocity": random_grid(torch.float32, 3)}
    for suffix in (".vdb", ".nvdb"):
        fl.save(grids, tmp_path / f"a{suffix}", compression="zip")
        back = fl.load(tmp_path / f"a{suffix}")
        assert list(back) == list(grids)
        for name, grid in grids.items():
            assert_same_grid(back[name], replace(grid, name=name))
        fl.save(list(grids.values()), tmp_path / f"b{suffix}")
        assert list(fl.load(tmp_path / f"b{suffix}")) == ["random", "random[1]"]
    fl.save(random_grid(torch.float16), tmp_path / "half.vdb")
    assert read_vdb(tmp_path / "half.vdb")[0].half
    exact = random_grid(torch.float32)
    fl.save(exact, tmp_path / "half.vdb", half=True)
    loaded = fl.load(tmp_path / "half.vdb").lookup(exact.coordinates())
    assert loaded.equal(exact.values.half().float())
    fl.save(random_grid(torch.float32, 1), tmp_path / "one.vdb")
    assert fl.load(tmp_path / "one.vdb").values.dim() == 1


def test_values_stand_at_voxel_centres(tmp_path: Path) -> None:
    """Files have them at whole indices, a VDBGrid at + 0.5: their places agree."""
    grid = random_grid(torch.float32)
    tree = grid_to_tree(grid)
    voxels = grid.coordinates().double()
    theirs = voxels.numpy() @ tree.transform[:3, :3].T + tree.transform[:3, 3]
    np.testing.assert_allclose(theirs, grid.index_to_world(voxels + 0.5).numpy(), rtol=1e-14)
    back = tree_to_grid(tree)
    torch.testing.assert_close(back.transform, grid.transform, rtol=1e-14, atol=1e-14)
    # A grid of OpenVDB's with no transform has its first voxel's centre at the world's origin.
    plain = tree_to_grid(replace(VDBTree.empty("float"), transform=np.eye(4)))
    assert plain.index_to_world(torch.tensor([[0.5, 0.5, 0.5]])).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("value_type", ["float", "vec3s", "int64", "bool"])
def test_every_voxel_of_a_file(value_type: str) -> None:
    tree = sample_tree(value_type)
    small = tree.tiles.log2_edges == 3
    tree = replace(
        tree,
        tiles=VDBTiles(
            tree.tiles.origins[small],
            tree.tiles.log2_edges[small],
            tree.tiles.values[small],
            tree.tiles.active[small],
        ),
    )
    grid = tree_to_grid(tree)
    assert grid.active_count == tree.active_voxels
    low, high = tree.bounds() or ((), ())
    assert grid.bounding_box() == (low, high)
    corners = np.concatenate((tree.leaf_origins, tree.tiles.origins))
    near = (corners[:, None] + np.indices((8, 8, 8)).reshape(3, -1).T[::5]).reshape(-1, 3)
    states, values = value_at(tree, near)
    assert grid.contains(torch.from_numpy(near)).tolist() == states.tolist()
    found = grid.lookup(torch.from_numpy(near[states])).double().numpy()
    np.testing.assert_array_equal(found, values[states].astype(np.float64))


def test_tiles_become_voxels_up_to_a_limit(data_dir: Path) -> None:
    tree = read_vdb(data_dir / "vdb" / "float_tiles_voxels.vdb")[0]
    grid = fl.load(data_dir / "vdb" / "float_tiles_voxels.vdb")
    assert grid.active_count == tree.active_voxels == 2_102_687 and grid.background == -2.5
    with pytest.raises(ValueError, match=r"at most 1000 voxels in active tiles, got 20976"):
        tree_to_grid(tree, max_tile_voxels=1000)
    back = grid_to_tree(grid)
    assert back.bounds() == tree.bounds() and back.active_voxels == tree.active_voxels
    picked = grid.coordinates()[::50_000].numpy().astype(np.int64)
    np.testing.assert_array_equal(value_at(back, picked)[1], value_at(tree, picked)[1])


def test_level_sets_and_shared_files(data_dir: Path) -> None:
    sphere = fl.load(data_dir / "vdb" / "sphere_ls_r10.vdb")
    assert (
        sphere.grid_class == "level_set" and sphere.background == 3 and sphere.name == "sphere_ls"
    )
    with np.load(data_dir / "vdb" / "expected.npz") as expected:
        rows, occupied = torch.from_numpy(expected["sphere_ijk_val"]), expected["occ_ijk"]
    assert sphere.active_count == len(rows)
    assert sphere.lookup(rows[:, :3].int()).double().equal(rows[:, 3])
    # The distance itself, at voxel centres: the sphere has its centre at the world's origin.
    distance = sphere.index_to_world(sphere.coordinates().double() + 0.5).norm(dim=1) - 10
    assert (sphere.values.double() - distance).abs().max().item() < 0.06
    grids = fl.load(data_dir / "vdb" / "multi_bool_vec3_float.vdb")
    assert list(grids) == ["occ", "vel", "sphere_ls"]
    assert sorted(grids["occ"].coordinates().tolist()) == sorted(occupied.tolist())
    assert grids["occ"].values is None and grids["vel"].values.shape == (50, 3)
    smoke = fl.load(data_dir / "vdb" / "smoke-blosc.nvdb")
    assert smoke.active_count == 1_049_275 and smoke.values.min().item() >= 0


@pytest.mark.parametrize("name", ["sphere_ls_r10.vdb", "sphere_ls_half.vdb"])
def test_the_inside_of_a_level_set_gets_its_sign_back(
    name: str, data_dir: Path, tmp_path: Path
) -> None:
    """Through a VDBGrid, which knows nothing of it, to what OpenVDB had written."""
    tree = read_vdb(data_dir / "vdb" / name)[0]
    fl.save(fl.load(data_dir / "vdb" / name), tmp_path / "a.vdb", half=tree.half)
    back = read_vdb(tmp_path / "a.vdb")[0]
    assert (back.leaf_values < 0).any()
    assert_same(replace(back, transform=tree.transform), tree)
    np.testing.assert_allclose(back.transform, tree.transform, rtol=1e-14, atol=1e-14)


def test_index_grids_have_their_channels_values(tmp_path: Path) -> None:
    tree = index_tree(sparse=True)
    assert tree_to_grid(tree).values.dtype == torch.int64
    one = replace(tree, channels={"density": tree.channels["density"]})
    write_vdb(one, tmp_path / "a.nvdb", version="32.9.2")
    grid = fl.load(tmp_path / "a.nvdb")
    assert grid.values.dtype == torch.float32 and grid.active_count == tree.active_voxels
    expected = set(one.channels["density"][1:].tolist())
    assert set(grid.values.tolist()) == expected


def test_metadata_that_has_no_python_type_comes_back(tmp_path: Path) -> None:
    metadata = {"odd": Metadatum("something", b"\1\2"), "text": Metadatum("string", "a")}
    tree = replace(
        sample_tree("float"), metadata=metadata, tiles=VDBTiles.none(sample_tree("float").type)
    )
    write_vdb(tree, tmp_path / "a.vdb")
    grid = fl.load(tmp_path / "a.vdb")
    assert grid.metadata["text"] == "a"
    fl.save(grid, tmp_path / "b.vdb")
    assert read_vdb(tmp_path / "b.vdb")[0].metadata == metadata


def test_what_a_file_cannot_hold(tmp_path: Path) -> None:
    grid = random_grid(torch.float32)
    levels = VDBGrid.empty(levels=2)
    for thing, options, error, message in (
        (levels, {}, ValueError, "grid_to_tree: grid: expected one level, got 2"),
        (random_grid(torch.float32, 5), {}, ValueError, "got float32 x 5"),
        (grid, {"value_type": "fish"}, ValueError, "value_type: expected one of"),
        (grid, {"value_type": "vec3s"}, ValueError, "expected one for 1 channels, got 'vec3s'"),
        (replace(grid, metadata={"a": object()}), {}, TypeError, "metadata 'a': metadatum"),
        ({"a": torch.zeros(3)}, {}, TypeError, "expected VDBGrid or VDBTree, got Tensor"),
    ):
        with pytest.raises(error, match=message):
            fl.save(thing, tmp_path / "a.vdb", **options)
    with pytest.raises(TypeError, match=r"save: object: expected .*VDBGrid.* for .vdb, got Tensor"):
        fl.save(torch.zeros(3), tmp_path / "a.vdb")
    with pytest.raises(ValueError, match=r"that \.vdb files hold, got int16"):
        fl.save(random_grid(torch.int16), tmp_path / "a.vdb")
    assert list(tmp_path.iterdir()) == []


# -- the command line ------------------------------------------------------------------------------


def test_info_and_convert(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = data_dir / "vdb" / "sphere_ls_r10.vdb"
    assert main(["convert", str(source), str(tmp_path / "a.nvdb")]) == 0
    assert main(["convert", str(tmp_path / "a.nvdb"), str(tmp_path / "b.vdb")]) == 0
    capsys.readouterr()
    # Between files nothing is lost: neither minus signs inside of the band, nor tiles.
    for path in (tmp_path / "a.nvdb", tmp_path / "b.vdb"):
        assert_same(read_vdb(path)[0], read_vdb(source)[0])
    assert main(["info", str(tmp_path / "b.vdb"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)["grids"]["sphere_ls"]
    assert facts["active_voxels"] == 7674 and facts["class"] == "level set"
    assert facts["lower_voxel"] == [-12] * 3 and facts["voxel_size"] == [1, 1, 1]
    assert main(["info", str(tmp_path / "b.vdb")]) == 0
    assert "grid sphere_ls" in capsys.readouterr().out
    (tmp_path / "bad.vdb").write_bytes(b"no grid")
    assert main(["info", str(tmp_path / "bad.vdb")]) == 2
    assert "magic" in capsys.readouterr().err
