# SPDX-License-Identifier: Apache-2.0
"""All maps of an input in one go, like those of an input that took the same way before.

Two inputs that take the same way through a network have the same levels and maps, of other
coordinates. What the layers asked the maps of the first for is therefore known of the second before
it enters the network, and a GPU makes it in a few launches: coordinates of all levels, one wait to
learn how many there are, then tables, orders of rows and pairs. Levels beyond a transposed or
generative convolution are made one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from torch import Tensor

from ...cuda.sparse import map_ops
from ...cuda.sparse.coordinate_ops import reaching_levels
from ...cuda.sparse.kernel_map import KernelMap, MapPairs, OperandKey, Plan, lasting
from ...cuda.sparse.map_ops import Taps
from ...cuda.sparse.network_ops import (
    MapWanted,
    NetworkMaps,
    NetworkProgram,
    ScheduleWanted,
    TableName,
)
from . import maps
from .cache import Found, Key, MapCache, Shape
from .coordinates import Level


def make_reverses(cache: MapCache) -> None:
    """Makes the maps that features' gradients take.

    Args:
        cache: Of the maps; symmetric ones serve both ways.
    """
    with lasting():
        for found in cache.entries.values():
            if not found.kernel_map.symmetric:
                found.kernel_map.reverse  # noqa: B018 - made when it is first looked at


class _Descent(NamedTuple):
    """How a level is reached: the set before it, and its own size if there are any."""

    source: int
    taps: Taps
    size: Shape | None


class Way:
    """The way of a network from level to level, and what its layers ask of the maps.

    Sets are numbered as `sparse_network_maps` does: the root, then levels as they are reached.

    Args:
        like: A cache that went through the network.
        gradients: Whether what backward passes need is made as well.
    """

    def __init__(self, like: MapCache, gradients: bool) -> None:
        self._entries = {key: found.level for key, found in like.entries.items()}
        self._asked = {key: _asked_both(found.kernel_map) for key, found in like.entries.items()}
        self._seen = _times_asked(like)
        self._gradients = gradients
        # Before a backward pass was seen, any layer may turn out to need its pairs.
        self._all_pairs = gradients and not any(
            key[-1] is True for own, _ in self._asked.values() for key in own
        )
        self._descents: list[_Descent] = []
        self._wanted: list[MapWanted] = []
        self._number_of: dict[Key, int] = {}
        self._set_of = {0: 0}  # of each level
        self._sizes = [like.levels[0].spatial_range]
        self._tiles: dict[tuple[TableName, int], set[int]] = {}
        self._pairs: dict[TableName, None] = {}
        for key, found in like.entries.items():
            self._foresee(key, found)
        self._views = {key: Way(view.maps, gradients) for key, view in like.views.items()}
        columns = like.levels[0].ndim + 1
        self._reaching = reaching_levels(
            columns,
            [descent.taps for descent in self._descents],
            [descent.source for descent in self._descents],
            [descent.size for descent in self._descents],
        )
        self._program = NetworkProgram(
            columns,
            len(self._descents) + 1,
            self._wanted,
            [ScheduleWanted(table, n, tuple(tiles)) for (table, n), tiles in self._tiles.items()],
            [*self._pairs],
        )

    def covers(self, like: MapCache) -> bool:
        """Whether layers asked no more of that cache than is known here."""
        return (
            self._seen == _times_asked(like)
            and self._views.keys() == like.views.keys()
            and all(way.covers(like.views[key].maps) for key, way in self._views.items())
        )

    def _foresee(self, key: Key, found: Found) -> None:
        number, recipe = key
        own = self._set_of.get(number)
        if own is None:
            return
        if recipe.kind == "strided":
            size = self._sizes[own]
            size = None if size is None else maps.strided_range(size, recipe.taps)
            self._descents.append(_Descent(own, recipe.taps, size))
            self._sizes.append(size)
            reached = self._set_of[found.level] = len(self._descents)
            self._want(key, found.kernel_map, own, reached)
        elif recipe.kind == "submanifold" and recipe.taps.count > 1:
            self._want(key, found.kernel_map, own, own)
        elif recipe.kind == "nearest" and found.level in self._set_of:
            self._want(key, found.kernel_map, self._set_of[found.level], own)

    def _want(self, key: Key, before: KernelMap, fine: int, coarse: int) -> None:
        number = self._number_of[key] = len(self._wanted)
        turned = key[1].kind == "nearest"
        own, back = self._asked[key]
        both = turned or before.made_reverse is not None or self._gradients
        both = both and not before.symmetric
        self._wanted.append(MapWanted(fine, coarse, key[1].taps, before.symmetric, both))
        self._want_forms(TableName(number, turned), own)
        if both:
            self._want_forms(TableName(number, not turned), back)

    def _want_forms(self, table: TableName, asked: Iterable[OperandKey]) -> None:
        for form, *rest in asked:
            if form == "implicit":
                splits, tile_rows, with_pairs = rest
                self._tiles.setdefault((table, int(splits)), set()).add(int(tile_rows))
                if not (with_pairs or self._all_pairs):
                    continue
            if form != "table":
                self._pairs[table] = None

    def go(self, cache: MapCache) -> None:
        """Makes the maps of a cache that holds nothing but its root.

        Args:
            cache: Where they go, in the order in which layers made them.
        """
        with lasting():
            if self._entries and map_ops.runs_cuda(cache.levels[0].tensor):
                self._make_together(cache)
            else:
                for number, recipe in self._entries:
                    cache.make(cache.levels[number], recipe)
        if self._gradients:
            make_reverses(cache)
        for (number, axis), way in self._views.items():
            way.go(cache.view(cache.levels[number], axis).maps)

    def _make_together(self, cache: MapCache) -> None:
        sets = self.reach(cache.levels[0])
        self.enter(cache, sets, self.run(sets))

    @property
    def is_closed(self) -> bool:
        """Whether all maps follow from the sets, and the host waits for nothing but their sizes."""
        derived = {"submanifold", "inverse"}
        known = (key in self._number_of or key[1].kind in derived for key in self._entries)
        return all(known) and not self._program.pairs and not self._views

    def reach(self, root: Level) -> list[Tensor]:
        """Finds the sets of an input, on a GPU; the host waits once, to learn how large they are.

        Args:
            root: The first level.

        Returns:
            int32 [N, 1 + D] each, the first that of the root.
        """
        return [root.tensor, *self._reaching.run(root.tensor, root.limits)]

    def run(self, sets: Sequence[Tensor]) -> NetworkMaps:
        """Makes what layers will ask the maps between sets for.

        Args:
            sets: As of `reach`.

        Returns:
            For `enter`.
        """
        return self._program.run(sets)

    def enter(self, cache: MapCache, sets: Sequence[Tensor], made: NetworkMaps) -> None:
        """Hands the maps between sets to a cache.

        Args:
            cache: One that holds nothing but its root.
            sets: As of `reach`.
            made: Of these sets.
        """
        forms = _Forms(self._program, made)
        for key, reached in self._entries.items():
            number = self._number_of.get(key)
            if number is None:
                cache.make(cache.levels[key[0]], key[1])
                continue
            own = forms.kernel_map(number, sets, key[1].kind == "nearest")
            if key[1].kind == "strided":
                cache.enter_strided(key, own, sets[self._wanted[number].coarse])
            else:
                cache.entries[key] = Found(own, reached)
            asked, asked_back = self._asked[key]
            own.prepare(asked)
            if own.made_reverse is not None:
                own.made_reverse.prepare(asked_back)
        for level, place in self._set_of.items():
            cache.levels[level].adopt_index(made.indexes[place])

    def set_of(self, level: int) -> int | None:
        """Which set the coordinates of a level are, by its number; None: they are none of them."""
        return self._set_of.get(level)


def _asked_both(kernel_map: KernelMap) -> tuple[list[OperandKey], list[OperandKey]]:
    """What a map was asked for, and its reverse."""
    back = kernel_map.made_reverse
    return kernel_map.asked, [] if back is None else back.asked


def _times_asked(cache: MapCache) -> list[int]:
    return [
        len(asked) for found in cache.entries.values() for asked in _asked_both(found.kernel_map)
    ]


class _Forms:
    """Kernel maps out of what was made for all of them."""

    def __init__(self, program: NetworkProgram, made: NetworkMaps) -> None:
        self._tables = made.tables
        self._program = program
        self._plans: dict[TableName, dict[tuple[int, int], Plan]] = {}
        for wanted, schedule in zip(program.schedules, made.schedules):
            plans = self._plans.setdefault(wanted.table, {})
            for tile_rows, masks in schedule.tile_masks.items():
                plans[wanted.splits, tile_rows] = Plan(schedule.order, masks, schedule.table)
        self._pairs = {table: MapPairs(*found) for table, found in zip(program.pairs, made.pairs)}

    def kernel_map(self, number: int, sets: Sequence[Tensor], turned: bool) -> KernelMap:
        """A map from fine to coarse, or turned around; with its reverse if that was made."""
        wanted = self._program.maps[number]
        sides = sets[wanted.fine].shape[0], sets[wanted.coarse].shape[0]
        own, back = (
            None
            if table is None
            else self._one(TableName(number, bool(side)), table, sides[side], wanted)
            for side, table in enumerate(self._tables[number])
        )
        own, back = (back, own) if turned else (own, back)
        assert own is not None
        own.adopt({}, None, back)
        return own

    def _one(self, name: TableName, table: Tensor, n_in: int, wanted: MapWanted) -> KernelMap:
        made = KernelMap.from_table(table, n_in, wanted.symmetric)
        made.adopt(self._plans.get(name, {}), self._pairs.get(name))
        return made
