# SPDX-License-Identifier: Apache-2.0
"""From a file's grids to `VDBGrid` and back.

A `VDBGrid` holds active voxels and one background, so this is where things are lost: the values of
inactive voxels, and that tiles were tiles. In a level set those values are known: inside of the
band minus the background, which is put back when a grid of class "level_set" is written.
Files hold a voxel's value at whole indices, `VDBGrid` at +0.5: transforms are moved by that half.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..vdb import VDBGrid
from .openvdb_meta import metadatum
from .vdb_signs import with_signs
from .vdb_tree import MetadataValue, Metadatum, VDBTiles, VDBTree
from .vdb_types import VALUE_TYPES, ValueType, pack_bits, value_type_of

MAX_TILE_VOXELS = 1 << 24
"""How many voxels `tree_to_grid` makes of tiles unless told otherwise; one tile may hold 2^36."""

_CLASSES = {"level set": "level_set", "fog volume": "fog_volume", "staggered": "staggered"}
_HALF_A_VOXEL = np.array(
    [[1.0, 0.0, 0.0, 0.5], [0.0, 1.0, 0.0, 0.5], [0.0, 0.0, 1.0, 0.5], [0.0, 0.0, 0.0, 1.0]]
)
# torch has no arithmetic on these, or they would lose their sign.
_WIDER = {"uint32": np.int64}


def tree_to_grid(tree: VDBTree, *, max_tile_voxels: int = MAX_TILE_VOXELS) -> VDBGrid:
    """Turn a file's grid into a `VDBGrid` of its active voxels.

    Active tiles become voxels. A mask, and a grid of bools that are true exactly where it is
    active, becomes a set of voxels; a grid of indices into one channel has the channel's values.

    Args:
        tree: The grid.
        max_tile_voxels: The most voxels to be made of active tiles.

    Returns:
        The grid, on the CPU.

    Raises:
        ValueError: If there are more voxels in tiles, voxels lie too far apart, or the transform
            has no inverse.

    Example:
        >>> grid = tree_to_grid(VDBTree.empty("float", 3))
        >>> grid.active_count, grid.background
        (0, 3.0)
    """
    if tree.tiles.voxels > max_tile_voxels:
        raise ValueError(
            f"tree_to_grid: grid {tree.name!r}: expected at most {max_tile_voxels} voxels in "
            f"active tiles, got {tree.tiles.voxels}"
        )
    if tree.value_type == "index" and len(tree.channels) == 1:
        tree = tree.with_channel(next(iter(tree.channels)))
    bits = tree.active_bits
    rows, places = np.nonzero(bits)
    tile_voxels, tile_rows = _tile_voxels(tree.tiles)
    voxels = np.concatenate((tree.leaf_origins[rows] + _places_xyz(places), tile_voxels))
    values = np.concatenate((tree.leaf_values[bits], tree.tiles.values[tile_rows]))
    is_set = tree.type.is_mask or (
        tree.value_type == "bool" and not tree.background and bool(values.all())
    )
    background = tree.background.tolist()
    return VDBGrid.from_coordinates(
        torch.from_numpy(voxels),
        None
        if is_set
        else torch.from_numpy(values.astype(_WIDER.get(tree.value_type, values.dtype))),
        background=0.0 if is_set else tuple(background) if tree.type.shape else background,
        transform=torch.from_numpy(tree.transform @ np.linalg.inv(_HALF_A_VOXEL)),
        name=tree.name,
        metadata={key: _plain(entry) for key, entry in tree.metadata.items()},
        grid_class=_CLASSES.get(tree.grid_class, "unknown"),
    )


def _plain(entry: Metadatum) -> MetadataValue | Metadatum:
    # What has no Python type of its own keeps its name.
    return entry if isinstance(entry.value, bytes) else entry.value


def _places_xyz(places: np.ndarray) -> np.ndarray:
    """Coordinates within a leaf, int32 [n, 3]."""
    return np.stack((places >> 6, places >> 3, places), axis=-1).astype(np.int32) & 7


def _tile_voxels(tiles: VDBTiles) -> tuple[np.ndarray, np.ndarray]:
    """The voxels of active tiles, int32 [n, 3], and which tile each is of."""
    voxels, rows = [np.zeros((0, 3), np.int32)], [np.zeros(0, np.int64)]
    for row in np.flatnonzero(tiles.active).tolist():
        edge = 1 << int(tiles.log2_edges[row])
        cube = np.indices((edge, edge, edge), dtype=np.int32).reshape(3, -1).T
        voxels.append(cube + tiles.origins[row])
        rows.append(np.full(len(cube), row))
    return np.concatenate(voxels), np.concatenate(rows)


def grid_to_tree(grid: VDBGrid, *, value_type: str | None = None, half: bool = False) -> VDBTree:
    """Turn a `VDBGrid` into what a file holds.

    Args:
        grid: Of one level, on any device.
        value_type: What the file holds, such as "float" or "bool"; default what the values are:
            "mask" for a set of voxels.
        half: Whether a .vdb file stores real values in 16 bits; float16 values always are.

    Returns:
        The grid with leaves of 8^3 voxels, and no tiles but for the inside of a level set.

    Raises:
        ValueError: If it has several levels, or there is no type for its values.
        TypeError: If a file cannot hold its metadata.

    Example:
        >>> grid = VDBGrid.from_coordinates(torch.tensor([[0, 0, -1]]), torch.tensor([2.0]))
        >>> tree = grid_to_tree(grid)
        >>> tree.value_type, tree.leaf_origins.tolist(), tree.leaf_values[0, 7].item()
        ('float', [[0, 0, -8]], 2.0)
    """
    if grid.levels != 1:
        raise ValueError(f"grid_to_tree: grid: expected one level, got {grid.levels}")
    values, kind, is_half = _values(grid, value_type)
    voxels = grid.coordinates().cpu().numpy()
    origins, rows = _leaves_of(voxels)
    places = (voxels[:, 0] & 7) << 6 | (voxels[:, 1] & 7) << 3 | voxels[:, 2] & 7
    bits = np.zeros((len(origins), 512), np.bool_)
    bits[rows, places] = True
    background = np.asarray(grid.background)
    # One channel is none; one number stands for all channels.
    background = background.reshape(()) if background.size == 1 else background
    background = np.broadcast_to(background, kind.shape).astype(kind.dtype)
    leaves = np.empty((len(origins), 512, *kind.shape), kind.dtype)
    leaves[:] = background
    leaves[rows, places] = values
    names = {ours: theirs for theirs, ours in _CLASSES.items()}
    tree = VDBTree(
        kind.name,
        background,
        origins,
        pack_bits(bits),
        leaves,
        VDBTiles.none(kind),
        transform=grid.level_transform().numpy() @ _HALF_A_VOXEL,
        name=grid.name,
        grid_class=names.get(grid.grid_class, "unknown"),
        metadata={key: _typed(key, value) for key, value in grid.metadata.items()},
        half=(half or is_half) and kind.is_real,
    )
    is_level_set = grid.grid_class == "level_set" and kind.is_real and kind.channels == 1
    return with_signs(tree) if is_level_set else tree


def _typed(key: str, value: Any) -> Metadatum:
    try:
        return metadatum(value)
    except TypeError as error:
        raise TypeError(f"grid_to_tree: metadata {key!r}: {error}") from error


def _values(grid: VDBGrid, value_type: str | None) -> tuple[np.ndarray, ValueType, bool]:
    """The values as numpy, their type in the file, and whether they have 16 bits."""
    if value_type is not None and value_type not in VALUE_TYPES:
        known = ", ".join(VALUE_TYPES)
        raise ValueError(f"grid_to_tree: value_type: expected one of {known}, got {value_type!r}")
    tensor = grid.values
    if tensor is None:
        kind = VALUE_TYPES[value_type or "mask"]
        return np.ones((grid.active_count, *kind.shape), kind.dtype), kind, False
    is_half = tensor.dtype in (torch.float16, torch.bfloat16)
    tensor = tensor.detach().cpu()
    values = (tensor.float() if is_half else tensor).numpy()
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    channels = 1 if values.ndim == 1 else values.shape[1]
    if value_type is None:
        return values, value_type_of(values.dtype, channels), is_half
    kind = VALUE_TYPES[value_type]
    if kind.channels != channels or kind.name in ("mask", "index"):
        raise ValueError(
            f"grid_to_tree: value_type: expected one for {channels} channels, got {value_type!r}"
        )
    return values.astype(kind.dtype), kind, is_half


def _leaves_of(voxels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The origins of leaves that hold voxels, and each voxel's leaf."""
    if len(voxels) == 0:
        return np.zeros((0, 3), np.int32), np.zeros(0, np.int64)
    cells = voxels.astype(np.int64) >> 3
    low = cells.min(axis=0)
    size = cells.max(axis=0) - low + 1
    # A VDBGrid's extent is bounded, so that places in its box are whole numbers of 64 bits.
    place = np.ravel_multi_index(tuple((cells - low).T), tuple(size.tolist()))
    leaves, rows = np.unique(place, return_inverse=True)
    origins = np.stack(np.unravel_index(leaves, tuple(size.tolist())), axis=-1) + low
    return (origins << 3).astype(np.int32), rows.reshape(-1)
