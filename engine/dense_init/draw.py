# SPDX-License-Identifier: Apache-2.0
"""Draws points from the views one after the other, each only where earlier ones left room.

A view's image is cut into cells (`sampling`). A cell in which a point of an earlier view already
lies, on the same surface and not much coarser than the cell, gives none: so duplicates never
arise, and the number of splats is that of the surface's cells, not of the views.

How many that will be is known only once it is done. So pixels are chosen first, with cells of
another size until there are as many as wanted, and become points of the surface once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .geometry import inside, lift, pixel_size
from .sampling import cell_sizes, centrality, cut_into_cells, sample_cells
from .splats import INTERPOLATED, SurfacePoints
from .structure import detail, edge_shapes
from .surface import fit_surface, tangents
from .view_maps import ViewMaps

# Points of another view lie on this view's surface if their depths differ by no more, relative.
_SAME_SURFACE = 0.025
_SAME_GUESS = 0.15
# Points whose cell is this much wider than a cell of this view leave room for a finer one.
_COARSER = 2.0
# The chance of a guessed pixel in a cell that holds measured ones.
_GUESS_WEIGHT = 1e-4
# A cap is met by choosing a few times, until there are this many over it or this share of it; what
# is over is left out at random. Views share surfaces, hence the first guess.
_ROUNDS, _MOST, _LEAST = 5, 1.04, 0.93
_SHARED = 5.0


@dataclass(frozen=True)
class Draw:
    """What one view gave.

    Args:
        points: None if there are none.
        cells: Cells of the image.
        merged: Cells that earlier points lie in.
        empty: Cells without a depth.
    """

    points: SurfacePoints | None
    cells: int
    merged: int
    empty: int


@dataclass(frozen=True)
class _Chosen:
    """Pixels of one view that will be points, and what later views must know of them."""

    pixels: Tensor  # int64 [M], flat indices
    sizes: Tensor  # float32 [M], sides of their cells, pixels
    points: Tensor  # float32 [M, 3]
    spacing: Tensor  # float32 [M], sides of their cells in the world
    guess: Tensor  # bool [M]
    cells: int
    merged: int


def draw_points(
    maps: Sequence[ViewMaps],
    per_view: int,
    *,
    flat_share: float,
    seed: int,
    max_points: int | None = None,
) -> list[Draw]:
    """Draws points from all views.

    Args:
        maps: The views, in the order in which they are drawn from.
        per_view: Cells in each view, at most.
        flat_share: Of `detail`.
        seed: Of the draws.
        max_points: Cells are made larger until there are about so many points in all: no fewer
            than 0.93 of it where the views give as many, and a few percent more at most.

    Returns:
        One entry for each view.
    """
    densities = [detail(_picture(view)[..., :3], flat_share) * view.allowed for view in maps]
    per_view_limit = per_view
    if max_points is not None:
        per_view = min(per_view, max(1, round(_SHARED * max_points / max(1, len(maps)))))
    for _ in range(_ROUNDS):
        chosen = _choose(maps, densities, per_view, seed)
        total = sum(len(one.pixels) for one in chosen)
        if max_points is None or total == 0:
            break
        better = min(per_view_limit, max(1, int(per_view * max_points / total)))
        if better == per_view or _LEAST * max_points <= total <= _MOST * max_points:
            break
        per_view = better
    return [_draw(number, *pair) for number, pair in enumerate(zip(maps, chosen))]


def _choose(
    maps: Sequence[ViewMaps], densities: Sequence[Tensor], per_view: int, seed: int
) -> list[_Chosen]:
    """Pixels of all views, with so many cells in each."""
    generator = torch.Generator().manual_seed(seed)
    chosen: list[_Chosen] = []
    for view, density in zip(maps, densities):
        chosen.append(_choose_in_view(view, density, chosen, per_view, generator))
    return chosen


def _choose_in_view(
    maps: ViewMaps,
    density: Tensor,
    earlier: Sequence[_Chosen],
    per_view: int,
    generator: torch.Generator,
) -> _Chosen:
    cells = cut_into_cells(density, per_view)
    sizes = cell_sizes(cells)
    n_cells = int(cells.max()) + 1
    taken = _taken_cells(maps, cells, sizes, earlier, n_cells)
    guess = maps.kind >= INTERPOLATED
    weight = maps.estimate.confidence * maps.score * torch.where(guess, _GUESS_WEIGHT, 1.0)
    weight = weight * (maps.kind > 0) * centrality(cells)
    free = cells.where(~taken[cells.clamp(min=0)], -1) if n_cells else cells
    pixels = sample_cells(free, weight, generator)
    camera, depth = maps.estimate.camera, maps.estimate.depth.flatten()[pixels]
    side = sizes.flatten()[pixels]
    return _Chosen(
        pixels,
        side,
        lift(camera, camera.pixel_centers().view(-1, 2)[pixels], depth),
        side * pixel_size(camera, depth),
        guess.flatten()[pixels],
        cells=n_cells,
        merged=int(taken.sum()),
    )


def _picture(maps: ViewMaps) -> Tensor:
    """The image [H, W, C] whose edges count: where there is alpha, it is a channel, so that a dark
    silhouette has an edge too."""
    view = maps.view
    rgb = view.rgb().to(maps.kind.device)
    if view.image.shape[-1] == 3:
        return rgb
    return torch.cat((rgb, view.image[..., 3:].to(rgb) / 255), dim=-1)


def _taken_cells(
    maps: ViewMaps, cells: Tensor, sizes: Tensor, earlier: Sequence[_Chosen], n_cells: int
) -> Tensor:
    """Which cells earlier points lie in, bool [n_cells]."""
    taken = torch.zeros(n_cells, dtype=torch.bool, device=cells.device)
    if not earlier or not n_cells:
        return taken
    points, spacing, guessed = (
        torch.cat([getattr(one, name) for one in earlier])
        for name in ("points", "spacing", "guess")
    )
    camera = maps.estimate.camera
    xy, z = camera.project(points)
    seen = inside(camera, xy, z).nonzero().squeeze(1)
    xy, z, spacing = xy[seen], z[seen], spacing[seen]
    pixel = xy.long().clamp(min=0)
    at = pixel[:, 1] * cells.shape[1] + pixel[:, 0]
    surface, cell = maps.estimate.depth.flatten()[at], cells.flatten()[at]
    # A guess that something measured stands before, or behind, is wrong or hidden here.
    guess = (maps.kind.flatten()[at] >= INTERPOLATED) | guessed[seen]
    tolerance = torch.where(guess, _SAME_GUESS, _SAME_SURFACE)
    on_surface = (surface > 0) & ((z - surface).abs() <= tolerance * surface)
    fine = spacing <= _COARSER * sizes.flatten()[at] * pixel_size(camera, z)
    taken[cell[on_surface & fine & (cell >= 0)]] = True
    return taken


def _draw(number: int, maps: ViewMaps, chosen: _Chosen) -> Draw:
    count = len(chosen.pixels)
    return Draw(
        _surface_points(number, maps, chosen) if count else None,
        cells=chosen.cells,
        merged=chosen.merged,
        empty=chosen.cells - chosen.merged - count,
    )


def _surface_points(number: int, maps: ViewMaps, chosen: _Chosen) -> SurfacePoints:
    estimate, pixels = maps.estimate, chosen.pixels
    surface = fit_surface(estimate, pixels)
    camera = estimate.camera
    xy = camera.pixel_centers().view(-1, 2)[pixels]
    points = lift(camera, xy, surface.depth)
    shape = edge_shapes(_picture(maps)).view(-1, 2, 2)[pixels]
    frame = tangents(camera, xy, points, surface.normal) @ shape
    sure = estimate.confidence * maps.score
    return SurfacePoints(
        points,
        surface.normal,
        frame * chosen.sizes[:, None, None],
        (camera.center - points).norm(dim=-1),
        chosen.sizes * pixel_size(camera, surface.depth),
        sure.flatten()[pixels],
        maps.kind.flatten()[pixels].long(),
        torch.full_like(pixels, number),
    )
