# SPDX-License-Identifier: Apache-2.0
"""A grid exactly as a .vdb or .nvdb file holds it, as arrays.

Values lie in leaves of 8^3 voxels. Where larger cubes hold one value, the file stores a tile: of
8^3, 128^3 or 4096^3 voxels. Everything else has the background value and is inactive. Within a leaf
voxels count z fastest: 64 x + 8 y + z.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from .vdb_types import GRID_CLASSES, VALUE_TYPES, ValueType, count_bits, unpack_bits

TILE_LOG2 = (3, 7, 12)
"""Base-2 logarithms of the edges of tiles."""

MetadataValue = str | bool | int | float | tuple[int, ...] | tuple[float, ...] | bytes


@dataclass(frozen=True)
class Metadatum:
    """A value of a .vdb file's metadata with the type it has there.

    Args:
        type: OpenVDB's name: string, bool, float, double, int32, int64, vec2i .. vec4d, mat4s,
            mat4d, or any other with `value` as raw bytes.
        value: A str, bool, int, float, a tuple of numbers, or bytes.
    """

    type: str
    value: MetadataValue


@dataclass(frozen=True, eq=False)
class VDBTiles:
    """Cubes of one value.

    Args:
        origins: int32 [T, 3]: lowest voxel, a multiple of the edge.
        log2_edges: uint8 [T]: 3, 7 or 12.
        values: [T, *channels].
        active: bool [T].
    """

    origins: np.ndarray
    log2_edges: np.ndarray
    values: np.ndarray
    active: np.ndarray

    @staticmethod
    def none(value_type: ValueType) -> VDBTiles:
        """Give an empty set of tiles.

        Args:
            value_type: Of their values.

        Returns:
            No tiles.
        """
        return VDBTiles(
            np.zeros((0, 3), np.int32),
            np.zeros(0, np.uint8),
            np.zeros((0, *value_type.shape), value_type.dtype),
            np.zeros(0, np.bool_),
        )

    def __len__(self) -> int:
        return len(self.origins)

    @property
    def voxels(self) -> int:
        """How many voxels the active ones hold; a Python int, which nothing overflows."""
        counts = np.bincount(self.log2_edges[self.active], minlength=13)
        return sum(int(counts[log2]) << (3 * log2) for log2 in TILE_LOG2)


@dataclass(frozen=True, eq=False)
class VDBTree:
    """A grid as a file holds it, with nothing lost: inactive values, tiles, metadata.

    Args:
        value_type: "float", "double", "int32", "int64", "vec3s", "vec3d", "vec3i", "bool", "mask";
            .nvdb files also hold "int16", "uint32", "uint8", "rgba8", "vec4s", "vec4d" and "index".
        background: [*channels], the value outside of leaves and tiles.
        leaf_origins: int32 [L, 3]: lowest voxel of each leaf, multiples of 8.
        leaf_masks: uint64 [L, 8]: which of a leaf's 512 voxels are active.
        leaf_values: [L, 512, *channels], inactive voxels too. For "mask" equal to the masks.
        tiles: Cubes of one value.
        transform: float64 [4, 4], index to world, column vectors. As in OpenVDB, whole indices are
            the centres of voxels; `fl.VDBGrid` has them at +0.5.
        name: Of the grid, "" for none.
        grid_class: "level set", "fog volume", "staggered", or "unknown" (more in .nvdb files).
        metadata: What else a .vdb file says about the grid; .nvdb files hold none.
        half: Whether a .vdb file stores its real values in 16 bits.
        channels: Arrays that a grid of indices points into, by name, each [n_values, ...].

    Raises:
        ValueError: If a shape, type or origin is another.

    Example:
        >>> tree = VDBTree.empty("float")
        >>> tree.active_voxels
        0
    """

    value_type: str
    background: np.ndarray
    leaf_origins: np.ndarray
    leaf_masks: np.ndarray
    leaf_values: np.ndarray
    tiles: VDBTiles
    transform: np.ndarray = field(default_factory=lambda: np.eye(4))
    name: str = ""
    grid_class: str = "unknown"
    metadata: dict[str, Metadatum] = field(default_factory=dict)
    half: bool = False
    channels: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.value_type not in VALUE_TYPES:
            raise _wrong("value_type", f"one of {', '.join(VALUE_TYPES)}", repr(self.value_type))
        if self.grid_class not in GRID_CLASSES:
            raise _wrong("grid_class", f"one of {', '.join(GRID_CLASSES)}", repr(self.grid_class))
        kind, L, T = self.type, len(self.leaf_origins), len(self.tiles.origins)
        for name, array, dtype, shape in (
            ("background", self.background, kind.dtype, kind.shape),
            ("leaf_origins", self.leaf_origins, np.int32, (L, 3)),
            ("leaf_masks", self.leaf_masks, np.uint64, (L, 8)),
            ("leaf_values", self.leaf_values, kind.dtype, (L, 512, *kind.shape)),
            ("tiles.origins", self.tiles.origins, np.int32, (T, 3)),
            ("tiles.log2_edges", self.tiles.log2_edges, np.uint8, (T,)),
            ("tiles.values", self.tiles.values, kind.dtype, (T, *kind.shape)),
            ("tiles.active", self.tiles.active, np.bool_, (T,)),
            ("transform", self.transform, np.float64, (4, 4)),
        ):
            if array.dtype != dtype or array.shape != shape:
                raise _wrong(
                    name, f"{np.dtype(dtype)} {list(shape)}", f"{array.dtype} {list(array.shape)}"
                )
        self._check_places()

    def _check_places(self) -> None:
        if np.any(self.leaf_origins & 7):
            raise _wrong("leaf_origins", "multiples of 8", "others")
        if not np.isin(self.tiles.log2_edges, TILE_LOG2).all():
            raise _wrong("tiles.log2_edges", "3, 7 or 12", "others")
        edges = np.left_shift(1, self.tiles.log2_edges.astype(np.int32))
        if np.any(self.tiles.origins & (edges[:, None] - 1)):
            raise _wrong("tiles.origins", "multiples of the edges", "others")
        if not np.isfinite(self.transform).all():
            raise _wrong("transform", "finite numbers", "others")

    @staticmethod
    def empty(value_type: str, background: float = 0) -> VDBTree:
        """Give a grid without leaves and tiles.

        Args:
            value_type: Of its values.
            background: The value everywhere.

        Returns:
            The grid.

        Raises:
            ValueError: If there is no such type.
        """
        if value_type not in VALUE_TYPES:
            raise _wrong("value_type", f"one of {', '.join(VALUE_TYPES)}", repr(value_type))
        kind = VALUE_TYPES[value_type]
        return VDBTree(
            value_type,
            np.full(kind.shape, background, kind.dtype),
            np.zeros((0, 3), np.int32),
            np.zeros((0, 8), np.uint64),
            np.zeros((0, 512, *kind.shape), kind.dtype),
            VDBTiles.none(kind),
        )

    @property
    def type(self) -> ValueType:
        """What is known of the value type."""
        return VALUE_TYPES[self.value_type]

    @property
    def active_voxels(self) -> int:
        """How many voxels are active, those in active tiles included."""
        return int(count_bits(self.leaf_masks).sum()) + self.tiles.voxels

    @property
    def active_bits(self) -> np.ndarray:
        """bool [L, 512]: the masks of the leaves."""
        return unpack_bits(self.leaf_masks)

    def bounds(self) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """Give the box of the active voxels.

        Returns:
            The lowest and the highest voxel, or None if no voxel is active.

        Example:
            >>> VDBTree.empty("mask").bounds() is None
            True
        """
        lows, highs = leaf_boxes(self.leaf_origins, self.active_bits)
        some = count_bits(self.leaf_masks) > 0
        on = self.tiles.active
        corner = self.tiles.origins[on].astype(np.int64)
        top = corner + np.left_shift(1, self.tiles.log2_edges[on].astype(np.int64))[:, None] - 1
        low = np.concatenate((lows[some], corner))
        if len(low) == 0:
            return None
        high = np.concatenate((highs[some], top))
        return tuple(low.min(0).tolist()), tuple(high.max(0).tolist())

    @property
    def voxel_size(self) -> list[float]:
        """World lengths of a voxel's edges."""
        return np.linalg.norm(self.transform[:3, :3], axis=0).tolist()

    def with_channel(self, name: str) -> VDBTree:
        """Replace the indices of an index grid by the values they point at.

        Args:
            name: One of `channels`.

        Returns:
            A grid of those values; its background is the channel's value 0.

        Raises:
            ValueError: If this is no index grid, there is no such channel, or an index is outside
                of it.
        """
        if self.value_type != "index" or name not in self.channels:
            known = ", ".join(map(repr, self.channels)) or "no channel"
            raise ValueError(f"VDBTree.with_channel: name: expected one of {known}, got {name!r}")
        values = self.channels[name]
        names = [
            t.name
            for t in VALUE_TYPES.values()
            if (t.dtype, t.shape) == (values.dtype, values.shape[1:])
            and t.name not in ("mask", "index")
        ]
        if not names or len(values) == 0:
            raise ValueError(
                f"VDBTree.with_channel: channel {name!r}: expected values of a known type, "
                f"got {values.dtype} {list(values.shape)}"
            )
        for indices in (self.leaf_values, self.tiles.values, self.background):
            if indices.size and not 0 <= indices.min() <= indices.max() < len(values):
                raise ValueError(
                    f"VDBTree.with_channel: channel {name!r}: expected indices below "
                    f"{len(values)}, got {indices.min()} to {indices.max()}"
                )
        return replace(
            self,
            value_type=names[0],
            background=values[self.background],
            leaf_values=values[self.leaf_values],
            tiles=replace(self.tiles, values=values[self.tiles.values]),
            grid_class="unknown",
            channels={},
        )


def _wrong(name: str, expected: str, got: str) -> ValueError:
    return ValueError(f"VDBTree: {name}: expected {expected}, got {got}")


def leaf_boxes(origins: np.ndarray, bits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give the box of the active voxels of each leaf.

    Args:
        origins: int32 [L, 3].
        bits: bool [L, 512].

    Returns:
        Lowest and highest voxel, int64 [L, 3] each; of no meaning where no voxel is active.

    Example:
        >>> low, high = leaf_boxes(np.zeros((1, 3), np.int32), np.arange(512)[None] == 65)
        >>> low.tolist(), high.tolist()
        ([[1, 0, 1]], [[1, 0, 1]])
    """
    cubes = bits.reshape(-1, 8, 8, 8)
    low = np.empty((len(cubes), 3), np.int64)
    high = np.empty((len(cubes), 3), np.int64)
    for axis, others in enumerate(((2, 3), (1, 3), (1, 2))):
        some = np.asarray(cubes.any(axis=others))
        low[:, axis] = some.argmax(axis=1)
        high[:, axis] = 7 - some[:, ::-1].argmax(axis=1)
    return low + origins, high + origins
