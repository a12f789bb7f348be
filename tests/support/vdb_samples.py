# SPDX-License-Identifier: Apache-2.0
"""Grids of every type of values for tests of VDB files, and what to compare them by."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from fieldline.representations.files import VDBTiles, VDBTree
from fieldline.representations.files.vdb_types import VALUE_TYPES, pack_bits

FILES = (
    "float_tiles_voxels.nvdb",
    "float_tiles_voxels.vdb",
    "multi_bool_vec3_float.vdb",
    "smoke-blosc.nvdb",
    "sphere_ls_half.vdb",
    "sphere_ls_r10-b.nvdb",
    "sphere_ls_r10-z.nvdb",
    "sphere_ls_r10.vdb",
    "sphere_ls_r10_zip.vdb",
)


def sample_tree(value_type: str, seed: int = 0, leaves: int = 30) -> VDBTree:
    """A grid with all there can be: every code of inactive values, tiles of each size, a full leaf
    and an empty one, negative and far places, in no order."""
    rng = np.random.default_rng(seed)
    kind = VALUE_TYPES[value_type]
    origins = np.unique(rng.integers(-40, 40, (leaves, 3)) * 8, axis=0)
    origins = origins[rng.permutation(len(origins))].astype(np.int32)
    n = len(origins)
    bits = rng.random((n, 512)) < rng.random((n, 1))
    bits[0], bits[1] = False, True

    def draw(count: int) -> np.ndarray:
        if kind.dtype == np.bool_:
            return rng.random(count) < 0.5
        values = rng.normal(size=(count, *kind.shape)) * 50
        return (
            values.astype(np.int64).astype(kind.dtype)
            if kind.dtype.kind in "iu"
            else (values.astype(kind.dtype))
        )

    background = draw(1)[0]
    if kind.is_mask:
        values, background = bits.copy(), np.False_
    else:
        values = draw(n * 512).reshape(n, 512, *kind.shape)
    if kind.dtype != np.bool_:
        minus = np.negative(background)
        pairs = (
            (background, background),
            (minus, minus),
            (values[4 % n, 0], values[4 % n, 0]),
            (background, minus),
            (background, values[6 % n, 0]),
            (values[7 % n, 1], values[7 % n, 0]),
        )
        for leaf, (a, b) in zip(range(2, n), pairs):
            off = ~bits[leaf]
            which = (rng.random(int(off.sum())) < 0.5).reshape(-1, *(1 for _ in kind.shape))
            values[leaf][off] = np.where(which, a, b)
    places = [[800, 0, 0], [800, 8, 0], [2560, 0, 128], [2688, 0, -128], [-12288, 4096, 0]]
    active = np.array([1, 0, 1, 0, 1], np.bool_)
    shown = active.copy() if kind.is_mask else draw(5)
    # A tile that says what would be so without it is not kept.
    kept = active | (shown != background if not kind.shape else np.ones(5, np.bool_))
    sizes = np.array([3, 3, 7, 7, 12], np.uint8)
    tiles = VDBTiles(np.array(places, np.int32)[kept], sizes[kept], shown[kept], active[kept])
    matrix = np.diag([0.25, 0.25, 0.25, 1.0])
    matrix[:3, 3] = rng.normal(size=3)
    return VDBTree(
        value_type,
        np.asarray(background, kind.dtype),
        origins,
        pack_bits(bits),
        np.ascontiguousarray(values, kind.dtype),
        tiles,
        matrix,
        name=f"a grid of {value_type}",
    )


def index_tree(*, sparse: bool, seed: int = 0) -> VDBTree:
    """A grid of indices into two channels, over active voxels or over all of each leaf."""
    tree = sample_tree("float", seed)
    bits = tree.active_bits
    below = np.cumsum(bits, axis=1) - bits
    counts = bits.sum(axis=1) if sparse else np.full(len(bits), 512)
    first = 1 + np.cumsum(counts) - counts
    indices = first[:, None] + np.arange(512)
    if sparse:
        indices = np.where(bits, first[:, None] + below, 0)
    total = int(1 + counts.sum())
    rng = np.random.default_rng(seed)
    return replace(
        tree,
        value_type="index",
        background=np.array(0, np.int64),
        leaf_values=indices.astype(np.int64),
        tiles=VDBTiles.none(VALUE_TYPES["index"]),
        grid_class="index grid",
        channels={
            "density": rng.normal(size=total).astype(np.float32),
            "velocity": rng.normal(size=(total, 3)).astype(np.float32),
        },
    )


def in_order(tree: VDBTree) -> VDBTree:
    """The same grid with its leaves and tiles in the order that files have."""

    def order(origins: np.ndarray) -> np.ndarray:
        places = [tuple(o >> s for s in (12, 7, 3) for o in row) for row in origins.tolist()]
        return np.array(sorted(range(len(places)), key=places.__getitem__), np.int64)

    leaves, tiles = order(tree.leaf_origins), order(tree.tiles.origins)
    return replace(
        tree,
        leaf_origins=tree.leaf_origins[leaves],
        leaf_masks=tree.leaf_masks[leaves],
        leaf_values=tree.leaf_values[leaves],
        tiles=VDBTiles(
            tree.tiles.origins[tiles],
            tree.tiles.log2_edges[tiles],
            tree.tiles.values[tiles],
            tree.tiles.active[tiles],
        ),
    )


def assert_same(a: VDBTree, b: VDBTree, *, facts: bool = True) -> None:
    """Two grids, bit for bit; with `facts` also what is said about them."""
    assert a.value_type == b.value_type
    for name in ("leaf_origins", "leaf_masks", "leaf_values", "background"):
        assert getattr(a, name).tobytes() == getattr(b, name).tobytes(), name
    for name in ("origins", "log2_edges", "values", "active"):
        assert getattr(a.tiles, name).tobytes() == getattr(b.tiles, name).tobytes(), name
    np.testing.assert_array_equal(a.transform, b.transform)
    assert a.channels.keys() == b.channels.keys()
    for name in a.channels:
        np.testing.assert_array_equal(a.channels[name], b.channels[name])
    if facts:
        assert (a.name, a.grid_class, a.half) == (b.name, b.grid_class, b.half)
        assert a.metadata == b.metadata


def value_at(tree: VDBTree, voxels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """States and values of voxels, one at a time: [n] and [n, ...]."""
    leaves = {tuple(o): i for i, o in enumerate(tree.leaf_origins.tolist())}
    tiles = {
        (int(log2), *o): i
        for i, (log2, o) in enumerate(zip(tree.tiles.log2_edges, tree.tiles.origins.tolist()))
    }
    bits = tree.active_bits
    states, values = [], []
    for x, y, z in voxels.tolist():
        leaf = leaves.get((x & ~7, y & ~7, z & ~7))
        state, value = False, tree.background
        if leaf is not None:
            place = (x & 7) << 6 | (y & 7) << 3 | z & 7
            state, value = bits[leaf, place], tree.leaf_values[leaf, place]
        else:
            for log2 in (3, 7, 12):
                m = -1 << log2
                tile = tiles.get((log2, x & m, y & m, z & m))
                if tile is not None:
                    state, value = tree.tiles.active[tile], tree.tiles.values[tile]
                    break
        states.append(bool(state))
        values.append(value)
    return np.array(states), np.array(values)


def probes(tree: VDBTree, n: int = 400, seed: int = 0) -> np.ndarray:
    """Voxels worth looking at: in leaves, in tiles, and outside."""
    rng = np.random.default_rng(seed)
    corners = np.concatenate((tree.leaf_origins, tree.tiles.origins))
    near = corners[rng.integers(len(corners), size=n)] + rng.integers(0, 8, (n, 3))
    return np.concatenate((near, rng.integers(-600, 600, (n // 4, 3)))).astype(np.int64)


def vdb_folder(data_dir: Path) -> Path:
    """Where the shared VDB files are."""
    return data_dir / "vdb"
