# SPDX-License-Identifier: Apache-2.0
"""The levels of a network and the maps between them, each made once.

A cache follows a tensor through a network: every tensor made from it on the way shares it. Levels
are numbered in the order in which they came to be. A map is known by what it is made from, the
number of its level and its recipe; no name that a user could get wrong stands in between, and two
inputs that take the same way through a network use the same keys.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from ...cuda.sparse import map_ops, pool_ops
from ...cuda.sparse.kernel_map import KernelMap, lasting
from ...cuda.sparse.map_ops import Bounds, Taps
from ...cuda.sparse.pool_ops import Segments
from . import maps
from .coordinates import Level

Shape = tuple[int, ...]


class Recipe(NamedTuple):
    """How a map is made from the coordinates of a level.

    `kind` says where it leads: "submanifold" stays; "strided" goes to a coarser level;
    "transposed" and "generative" go to all finer coordinates that they reach; "inverse" goes back
    to the level that a strided map of these taps came from, whatever its origin if `origin` is
    empty; "nearest" goes back to the level that any strided map of this stride came from.
    """

    kind: str
    kernel_size: Shape
    stride: Shape
    dilation: Shape
    origin: Shape
    output_padding: Shape = ()

    @property
    def taps(self) -> Taps:
        """What connects fine and coarse coordinates."""
        return Taps(self.kernel_size, self.stride, self.dilation, self.origin)


class Found(NamedTuple):
    """A map and the number of the level it leads to."""

    kernel_map: KernelMap
    level: int


Key = tuple[int, Recipe]


class View(NamedTuple):
    """A level seen along one of its axes: what is left of its coordinates, each once.

    Attributes:
        level: The coordinates without the axis, the first of a cache of their own.
        maps: That cache.
        columns: Which rows of the level seen fall on which of the view.
    """

    level: Level
    maps: MapCache
    columns: Segments


class MapCache:
    """Levels and the maps between them.

    Args:
        root: The first level.

    Example:
        >>> coords = torch.tensor([[0, 0], [0, 1], [0, 5]], dtype=torch.int32)
        >>> cache = MapCache(Level(coords, (1,), None, 1))
        >>> kernel_map, level = cache.find(cache.levels[0], strided(2, 2, ndim=1))
        >>> level.tensor.tolist(), level.stride
        ([[0, 0], [0, 2]], (2,))
    """

    def __init__(self, root: Level) -> None:
        self.levels = [root]
        self.entries: dict[Key, Found] = {}
        self.views: dict[tuple[int, int], View] = {}

    def find(self, level: Level, recipe: Recipe) -> tuple[KernelMap, Level]:
        """The map of a recipe, made if it is asked for the first time.

        Args:
            level: Where it begins; one of this cache's.
            recipe: What it is.

        Returns:
            The map, and the level of its outputs.

        Raises:
            ValueError: The level's coordinates were edited; or no strided map leads here from a
                finer level, and the recipe is the inverse of one.
        """
        found = self.entries.get((level.number, recipe))
        if found is None:
            found = self._make(level, recipe)
        level.check_unchanged()
        return found.kernel_map, self.levels[found.level]

    def view(self, level: Level, axis: int) -> View:
        """The view of a level along an axis, made if it is asked for the first time.

        Args:
            level: One of this cache's.
            axis: The spatial axis that goes.

        Returns:
            The view.
        """
        found = self.views.get((level.number, axis))
        return self._make_view(level, axis) if found is None else found

    @torch.compiler.disable(
        reason="the view is not known yet: fieldline.sparse.plan makes it before"
    )
    def _make_view(self, level: Level, axis: int) -> View:
        level.check_unchanged()
        kept = [column for column in range(1 + level.ndim) if column != 1 + axis]
        with lasting():
            unique = map_ops.sparse_unique(level.tensor[:, kept].contiguous())
            columns = pool_ops.sparse_segments(unique.inverse, unique.coords.shape[0])
        stride, size = (
            None if sizes is None else sizes[:axis] + sizes[axis + 1 :]
            for sizes in (level.stride, level.spatial_range)
        )
        assert stride is not None
        seen = Level(unique.coords, stride, size, level.batch_size)
        view = View(seen, MapCache(seen), columns)
        self.views[level.number, axis] = view
        return view

    @torch.compiler.disable(
        reason="the map is not known yet: fieldline.sparse.plan makes it before"
    )
    def _make(self, level: Level, recipe: Recipe) -> Found:
        level.check_unchanged()
        with lasting():
            return self.make(level, recipe)

    def make(self, level: Level, recipe: Recipe) -> Found:
        """Makes a map that does not exist yet; within `lasting`.

        Args:
            level: As of `find`.
            recipe: As of `find`.

        Returns:
            The map, and the number of the level of its outputs.
        """
        found = getattr(self, f"_make_{recipe.kind}")(level, recipe)
        self.entries[level.number, recipe] = found
        return found

    def enter_strided(self, key: Key, kernel_map: KernelMap, coords: torch.Tensor) -> None:
        """Takes over a strided map that was made together with others.

        Args:
            key: Of the map.
            kernel_map: The map.
            coords: Of the level that it leads to.
        """
        number, recipe = key
        self.entries[key] = Found(
            kernel_map, self._add_coarser(self.levels[number], recipe, coords)
        )

    def _make_submanifold(self, level: Level, recipe: Recipe) -> Found:
        kernel_map = maps.submanifold_map(level.tensor, recipe.taps, lambda: level.index)
        return Found(kernel_map, level.number)

    def _make_strided(self, level: Level, recipe: Recipe) -> Found:
        size = _strided_size(level, recipe)
        low = None if size is None else (0,) * level.ndim
        coords, kernel_map = maps.strided_map(level.index, recipe.taps, low, size, level.limits)
        return Found(kernel_map, self._add_coarser(level, recipe, coords))

    def _add_coarser(self, level: Level, recipe: Recipe, coords: torch.Tensor) -> int:
        stride = tuple(a * b for a, b in zip(level.stride, recipe.stride))
        limits = maps.strided_limits(level.limits, recipe.taps)
        return self._add(level, coords, stride, _strided_size(level, recipe), limits)

    def _make_transposed(self, level: Level, recipe: Recipe) -> Found:
        size = level.spatial_range
        if size is not None:
            size = maps.transposed_range(size, recipe.taps, recipe.output_padding)
        return self._make_finer(level, recipe, size)

    def _make_generative(self, level: Level, recipe: Recipe) -> Found:
        size = level.spatial_range
        if size is not None:
            size = tuple(n * s for n, s in zip(size, recipe.stride))
        return self._make_finer(level, recipe, size)

    def _make_finer(self, level: Level, recipe: Recipe, size: Shape | None) -> Found:
        low = None if size is None else (0,) * level.ndim
        coords, kernel_map = maps.transposed_map(level.tensor, recipe.taps, low, size, level.limits)
        stride = tuple(max(a // b, 1) for a, b in zip(level.stride, recipe.stride))
        limits = maps.transposed_limits(level.limits, recipe.taps)
        return Found(kernel_map, self._add(level, coords, stride, size, limits))

    def _make_nearest(self, level: Level, recipe: Recipe) -> Found:
        finer = [fine for fine, made in self._made(level) if made.stride == recipe.stride]
        if not finer:
            raise ValueError(
                f"Upsample: x: expected a tensor whose coordinates a strided convolution or "
                f"pooling of stride={recipe.stride} made (or generative=True); its level has "
                f"stride {level.stride}"
            )
        fine = self.levels[finer[0]]
        kernel_map = maps.map_between(fine.index, level.tensor, recipe.taps)
        return Found(kernel_map.reverse, fine.number)

    def _make_inverse(self, level: Level, recipe: Recipe) -> Found:
        for fine, made in self._made(level):
            if _inverts(recipe, made):
                return Found(self.entries[fine, made].kernel_map.reverse, fine)
        known = [
            f"kernel_size={made.kernel_size}, stride={made.stride}, dilation={made.dilation}"
            for _, made in self._made(level)
        ]
        raise ValueError(
            f"InverseConv: x: expected a tensor whose coordinates a strided convolution or pooling "
            f"of kernel_size={recipe.kernel_size}, stride={recipe.stride}, "
            f"dilation={recipe.dilation} made; its level (stride {level.stride}) was made by "
            f"{'; '.join(known) or 'none'}"
        )

    def _made(self, level: Level) -> list[Key]:
        """What strided maps lead to a level."""
        return [
            key
            for key, found in self.entries.items()
            if key[1].kind == "strided" and found.level == level.number
        ]

    def _add(
        self,
        level: Level,
        coords: torch.Tensor,
        stride: Shape,
        size: Shape | None,
        limits: Bounds,
    ) -> int:
        number = len(self.levels)
        kind = type(level)  # coarser levels of a captured network have spare rows as well
        self.levels.append(kind(coords, stride, size, level.batch_size, number, limits))
        return number


def _strided_size(level: Level, recipe: Recipe) -> Shape | None:
    size = level.spatial_range
    return None if size is None else maps.strided_range(size, recipe.taps)


def _inverts(recipe: Recipe, made: Recipe) -> bool:
    same = made.kernel_size, made.stride, made.dilation
    return same == (recipe.kernel_size, recipe.stride, recipe.dilation) and (
        not recipe.origin or recipe.origin == made.origin
    )


def _shapes(ndim: int, *values: int | Shape) -> list[Shape]:
    return [(value,) * ndim if isinstance(value, int) else value for value in values]


def submanifold(kernel_size: int | Shape, dilation: int | Shape = 1, *, ndim: int) -> Recipe:
    """The recipe of a map that stays on its coordinates.

    Args:
        kernel_size: For all axes, or per axis.
        dilation: For all axes, or per axis.
        ndim: Axes.

    Returns:
        The recipe.

    Example:
        >>> submanifold(3, ndim=2).origin
        (-1, -1)
    """
    return Recipe("submanifold", *maps.submanifold_taps(*_shapes(ndim, kernel_size, dilation)))


def strided(
    kernel_size: int | Shape,
    stride: int | Shape = 1,
    padding: int | Shape = 0,
    dilation: int | Shape = 1,
    *,
    ndim: int,
) -> Recipe:
    """The recipe of a map to a coarser level.

    Args:
        kernel_size: For all axes, or per axis.
        stride: For all axes, or per axis.
        padding: For all axes, or per axis.
        dilation: For all axes, or per axis.
        ndim: Axes.

    Returns:
        The recipe.

    Example:
        >>> strided(2, 2, ndim=1).stride
        (2,)
    """
    taps = maps.strided_taps(*_shapes(ndim, kernel_size, stride, dilation, padding))
    # One tap that moves nothing stays on its coordinates, and on their level.
    if max(*taps.kernel_size, *taps.stride) == 1 and not any(taps.origin):
        return submanifold(1, ndim=ndim)
    return Recipe("strided", *taps)


def transposed(
    kernel_size: int | Shape,
    stride: int | Shape = 1,
    padding: int | Shape = 0,
    output_padding: int | Shape = 0,
    dilation: int | Shape = 1,
    *,
    ndim: int,
) -> Recipe:
    """The recipe of a map to all finer coordinates that a transposed convolution reaches.

    Args:
        kernel_size: For all axes, or per axis.
        stride: For all axes, or per axis.
        padding: For all axes, or per axis.
        output_padding: For all axes, or per axis; it matters where the spatial range is known.
        dilation: For all axes, or per axis.
        ndim: Axes.

    Returns:
        The recipe.

    Example:
        >>> transposed(2, 2, ndim=1).kind
        'transposed'
    """
    *shapes, more = _shapes(ndim, kernel_size, stride, dilation, padding, output_padding)
    return Recipe("transposed", *maps.strided_taps(*shapes), more)


def inverse(
    kernel_size: int | Shape,
    stride: int | Shape = 1,
    padding: int | Shape | None = None,
    dilation: int | Shape = 1,
    *,
    ndim: int,
) -> Recipe:
    """The recipe of the way back along a strided map that was made before.

    Args:
        kernel_size: Of the strided map, for all axes, or per axis.
        stride: Of the strided map.
        padding: Of the strided map; None: any.
        dilation: Of the strided map.
        ndim: Axes.

    Returns:
        The recipe.

    Example:
        >>> inverse(2, 2, ndim=1).origin
        ()
    """
    recipe = strided(kernel_size, stride, padding or 0, dilation, ndim=ndim)
    if recipe.kind == "submanifold":
        return recipe
    origin = () if padding is None else recipe.origin
    return recipe._replace(kind="inverse", origin=origin)


def generative(
    kernel_size: int | Shape, stride: int | Shape = 1, dilation: int | Shape = 1, *, ndim: int
) -> Recipe:
    """The recipe of a map to finer coordinates around each coarse one, centred.

    Args:
        kernel_size: For all axes, or per axis.
        stride: For all axes, or per axis.
        dilation: For all axes, or per axis.
        ndim: Axes.

    Returns:
        The recipe.

    Example:
        >>> generative(3, 2, ndim=1).origin, generative(2, 2, ndim=1).origin
        ((-1,), (0,))
    """
    size, step, spread = _shapes(ndim, kernel_size, stride, dilation)
    origin = maps.submanifold_taps(size, spread).origin
    return Recipe("generative", size, step, spread, origin)


def nearest(scale: int | Shape, *, ndim: int) -> Recipe:
    """The recipe of the map from a coarse coordinate to the fine ones that it covers.

    Args:
        scale: Fine coordinates in a coarse one, for all axes, or per axis.
        ndim: Axes.

    Returns:
        The recipe.

    Example:
        >>> nearest(2, ndim=1).kind
        'nearest'
    """
    size, still, nothing = _shapes(ndim, scale, 1, 0)
    return Recipe("nearest", *maps.strided_taps(size, size, still, nothing))
