# SPDX-License-Identifier: Apache-2.0
"""The grids of a .vdb or .nvdb file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .vdb_tree import Metadatum, VDBTree


@dataclass(frozen=True, eq=False)
class VDBFile:
    """Grids with nothing lost, in the order of the file.

    Args:
        grids: The grids. Those that share their arrays are one grid in several places.
        metadata: What a .vdb file says about itself.

    Example:
        >>> from dataclasses import replace
        >>> file = VDBFile((VDBTree.empty("float"), replace(VDBTree.empty("mask"), name="occ")))
        >>> file.names, file["occ"].value_type
        (['', 'occ'], 'mask')
    """

    grids: tuple[VDBTree, ...]
    metadata: dict[str, Metadatum] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The grids' names; one that is there already gets a number: "smoke", "smoke[1]"."""
        names: dict[str, None] = {}
        counts: dict[str, int] = {}
        for tree in self.grids:
            name = tree.name
            while name in names:
                counts[tree.name] = counts.get(tree.name, 0) + 1
                name = f"{tree.name}[{counts[tree.name]}]"
            names[name] = None
        return list(names)

    def __len__(self) -> int:
        return len(self.grids)

    def __iter__(self) -> Iterator[VDBTree]:
        return iter(self.grids)

    def __getitem__(self, key: int | str) -> VDBTree:
        if isinstance(key, int):
            return self.grids[key]
        names = self.names
        if key not in names:
            raise KeyError(f"expected a grid of {names}, got {key!r}")
        return self.grids[names.index(key)]


def trees_of(thing: VDBFile | VDBTree | Iterable[VDBTree]) -> list[VDBTree]:
    """Give the grids that somebody wants written.

    Args:
        thing: A file, a grid, or grids.

    Returns:
        The grids.

    Raises:
        TypeError: If it is something else.

    Example:
        >>> len(trees_of(VDBTree.empty("float")))
        1
    """
    trees = [thing] if isinstance(thing, VDBTree) else list(thing)
    for tree in trees:
        if not isinstance(tree, VDBTree):
            raise TypeError(f"trees_of: thing: expected VDBTree, got {type(tree).__name__}")
    return trees


def read_bytes(path: Path) -> bytes:
    """Read a file as a whole."""
    return path.read_bytes()
