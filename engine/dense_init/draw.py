# SPDX-License-Identifier: Apache-2.0
"""Draws points from the views one after the other, each only where earlier ones left room.

A view's image is cut into cells (`sampling`). A cell in which a point of an earlier view already
lies, on the same surface and not much coarser than the cell, gives none: so duplicates never
arise, and the number of splats is that of the surface's cells, not of the views.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .geometry import inside, lift, nearest, pixel_size
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


def draw_points(
    maps: Sequence[ViewMaps], per_view: int, *, flat_share: float, seed: int
) -> list[Draw]:
    """Draws points from all views.

    Args:
        maps: The views, in the order in which they are drawn from.
        per_view: Cells in each view.
        flat_share: Of `detail`.
        seed: Of the draws.

    Returns:
        One entry for each view.
    """
    generator = torch.Generator().manual_seed(seed)
    draws: list[Draw] = []
    earlier: list[SurfacePoints] = []
    for number, view in enumerate(maps):
        draw = _draw_view(number, view, earlier, per_view, flat_share, generator)
        draws.append(draw)
        if draw.points is not None:
            earlier.append(draw.points)
    return draws


def _draw_view(
    number: int,
    maps: ViewMaps,
    earlier: list[SurfacePoints],
    per_view: int,
    flat_share: float,
    generator: torch.Generator,
) -> Draw:
    picture = _picture(maps)
    density = detail(picture[..., :3], flat_share) * maps.allowed
    cells = cut_into_cells(density, per_view)
    sizes = cell_sizes(cells)
    n_cells = int(cells.max()) + 1
    taken = _taken_cells(maps, cells, sizes, earlier, n_cells)
    guess = torch.where(maps.kind >= INTERPOLATED, _GUESS_WEIGHT, 1.0)
    weight = maps.estimate.confidence * maps.score * guess * (maps.kind > 0)
    weight = weight * centrality(cells)
    free = cells.where(~taken[cells.clamp(min=0)], -1)
    pixels = sample_cells(free, weight, generator)
    merged, points = int(taken.sum()), len(pixels)
    return Draw(
        _surface_points(number, maps, picture, pixels, sizes) if points else None,
        cells=n_cells,
        merged=merged,
        empty=n_cells - merged - points,
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
    maps: ViewMaps, cells: Tensor, sizes: Tensor, earlier: list[SurfacePoints], n_cells: int
) -> Tensor:
    """Which cells earlier points lie in, bool [n_cells]."""
    taken = torch.zeros(max(1, n_cells), dtype=torch.bool, device=cells.device)
    camera = maps.estimate.camera
    for points in earlier:
        xy, z = camera.project(points.points)
        surface = nearest(maps.estimate.depth, xy)
        guess = (nearest(maps.kind, xy) >= INTERPOLATED) | (points.kind >= INTERPOLATED)
        tolerance = torch.where(guess, _SAME_GUESS, _SAME_SURFACE)
        on_surface = (z - surface).abs() <= tolerance * surface
        # A guess that something measured stands before, or behind, is wrong or hidden here.
        width = nearest(sizes, xy) * pixel_size(camera, z)
        fine = points.spacing <= _COARSER * width
        cell = nearest(cells, xy)
        hit = inside(camera, xy, z) & (surface > 0) & on_surface & fine & (cell >= 0)
        taken[cell[hit]] = True
    return taken[:n_cells]


def _surface_points(
    number: int, maps: ViewMaps, picture: Tensor, pixels: Tensor, sizes: Tensor
) -> SurfacePoints:
    estimate = maps.estimate
    surface = fit_surface(estimate, pixels)
    camera = estimate.camera
    xy = camera.pixel_centers().view(-1, 2)[pixels]
    points = lift(camera, xy, surface.depth)
    shape = edge_shapes(picture).view(-1, 2, 2)[pixels]
    frame = tangents(camera, xy, points, surface.normal) @ shape
    sure = estimate.confidence * maps.score
    return SurfacePoints(
        points,
        surface.normal,
        frame * sizes.flatten()[pixels][:, None, None],
        (camera.center - points).norm(dim=-1),
        sizes.flatten()[pixels] * pixel_size(camera, surface.depth),
        sure.flatten()[pixels],
        maps.kind.flatten()[pixels].long(),
        torch.full_like(pixels, number),
    )
