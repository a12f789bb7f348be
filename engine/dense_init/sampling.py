# SPDX-License-Identifier: Apache-2.0
"""Which pixels become splats: one in each of n cells that share an image's detail evenly.

The image is walked along a Hilbert curve and cut where the running sum of `density` passes a whole
number. Each piece is a cell: compact, because the curve is, and small where density is high. In
each cell one pixel is drawn with probability proportional to its weight (confidence times
reprojection score). So samples are as even as a grid's, follow the detail, and avoid what is
doubtful wherever the cell holds something better.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor


@functools.lru_cache(maxsize=8)
def _hilbert_order(height: int, width: int) -> Tensor:
    """Flat pixel indices [H W] along the curve."""
    bits = max(1, (max(height, width) - 1).bit_length())
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    x, y = x.reshape(-1).clone(), y.reshape(-1).clone()
    distance = torch.zeros_like(x)
    for level in reversed(range(bits)):
        side = 1 << level
        right, down = (x & side) > 0, (y & side) > 0
        distance += side * side * ((3 * right.long()) ^ down.long())
        # The quadrants at the curve's ends are turned, so that it goes on where the last one ended.
        flip = right & ~down
        x, y = x.where(~flip, (side - 1) - (x & (side - 1))), y.where(~flip, (side - 1) - y)
        x, y = x & (side - 1), y & (side - 1)
        x, y = x.where(down, y), y.where(down, x)
    return distance.argsort()


def cut_into_cells(density: Tensor, n_cells: int) -> Tensor:
    """Cuts an image into compact cells of equal total density.

    Args:
        density: [H, W], at least 0; pixels of density 0 belong to no cell.
        n_cells: How many. No cell is smaller than a pixel, so there may be fewer.

    Returns:
        int64 [H, W], the cell of each pixel, -1 for none.

    Source:
        The order of the curve: Hilbert, "Ueber die stetige Abbildung einer Linie auf ein
        Flaechenstueck", 1891.

    Example:
        >>> cut_into_cells(torch.ones(2, 2), 4).unique().tolist()
        [0, 1, 2, 3]
    """
    order = _hilbert_order(*density.shape).to(density.device)
    along = _capped(density.flatten()[order].double(), n_cells)
    # Half a cell's offset keeps a last, partial cell from being a sliver.
    cell = (along.cumsum(0) - 0.5 * along).floor().long()
    cell = torch.where(along > 0, cell, -1)
    cells = torch.empty_like(cell)
    cells[order] = cell
    return cells.view(density.shape)


def _capped(density: Tensor, total: int) -> Tensor:
    """Scales density to a sum of `total` with no entry above 1."""
    density = density.clamp(min=0)
    count = int((density > 0).sum())
    if count <= total:
        return (density > 0).double()
    share = density * (total / density.sum())
    for _ in range(8):
        full = share >= 1
        room = total - int(full.sum())
        rest = share.where(~full, 0.0).sum()
        if room <= 0 or float(rest) <= 0 or not bool((share > 1).any()):
            break
        share = torch.where(full, 1.0, share * (room / rest))
    return share.clamp(max=1)


def sample_cells(cells: Tensor, weight: Tensor, generator: torch.Generator) -> Tensor:
    """Draws one pixel from each cell.

    Args:
        cells: int64 [H, W], of `cut_into_cells`; -1 for pixels in no cell.
        weight: [H, W], at least 0; a pixel's chance within its cell. Cells of weight 0 give none.
        generator: On the CPU; where the draws come from.

    Returns:
        int64 [M], flat pixel indices, in the order of the cells.

    Source:
        The Gumbel-max trick: Gumbel, Statistical Theory of Extreme Values, 1954.

    Example:
        >>> cells = torch.tensor([[0, 0, 1, -1]])
        >>> weight = torch.tensor([[0.0, 1.0, 1.0, 1.0]])
        >>> sample_cells(cells, weight, torch.Generator().manual_seed(0)).tolist()
        [1, 2]
    """
    flat, chance = cells.flatten(), weight.flatten().double()
    draw = torch.rand(flat.shape, generator=generator, dtype=torch.float64).to(chance.device)
    key = chance.log() - torch.log(-torch.log(draw.clamp(1e-300, 1 - 1e-16)))
    pixels = ((flat >= 0) & (chance > 0)).nonzero().squeeze(1)
    if pixels.numel() == 0:
        return pixels
    n_cells = int(flat.max()) + 1
    best = key.new_full((n_cells,), float("-inf"))
    best.scatter_reduce_(0, flat[pixels], key[pixels], "amax")
    winners = pixels[key[pixels] == best[flat[pixels]]]
    # Two equal draws in one cell: the first pixel wins.
    order = flat[winners].argsort(stable=True)
    winners = winners[order]
    first = torch.ones_like(winners, dtype=torch.bool)
    first[1:] = flat[winners[1:]] != flat[winners[:-1]]
    return winners[first]


def centrality(cells: Tensor) -> Tensor:
    """Gives how near each pixel is to the middle of its cell: samples there leave fewer gaps.

    Args:
        cells: int64 [H, W], of `cut_into_cells`.

    Returns:
        float32 [H, W] in (0, 1], exp(-(d / r)^2 / 2) for a distance d from the cell's centroid and
        r a quarter of the square root of its area; 0 for pixels in no cell.

    Example:
        >>> centrality(torch.tensor([[0, 0, 0]])).argmax().item()
        1
    """
    height, width = cells.shape
    flat = cells.flatten()
    inside = flat >= 0
    index = flat.clamp(min=0)
    y, x = torch.meshgrid(
        torch.arange(height, device=cells.device, dtype=torch.float64),
        torch.arange(width, device=cells.device, dtype=torch.float64),
        indexing="ij",
    )
    place = torch.stack((x.reshape(-1), y.reshape(-1), torch.ones_like(x.reshape(-1))), dim=-1)
    sums = place.new_zeros(int(flat.max().clamp(min=0)) + 1, 3)
    sums.index_add_(0, flat[inside], place[inside])
    area = sums[:, 2:].clamp(min=1)
    away = (place[:, :2] - (sums[:, :2] / area)[index]).square().sum(-1)
    near = torch.exp(-8 * away / area.squeeze(-1)[index])
    return near.where(inside, 0.0).float().view(cells.shape)


def cell_sizes(cells: Tensor) -> Tensor:
    """Gives the side of each pixel's cell.

    Args:
        cells: int64 [H, W], of `cut_into_cells`.

    Returns:
        float32 [H, W], the square root of the number of pixels in the cell; 0 for no cell.

    Example:
        >>> cell_sizes(torch.tensor([[0, 0, 0, 0, -1]])).tolist()
        [[2.0, 2.0, 2.0, 2.0, 0.0]]
    """
    flat = cells.flatten()
    known = flat >= 0
    counts = torch.bincount(flat[known], minlength=1)
    side = counts.float().sqrt()[flat.clamp(min=0)]
    return side.where(known, 0.0).view(cells.shape)
