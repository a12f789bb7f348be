# SPDX-License-Identifier: Apache-2.0
"""Exact nearest neighbours among the points of one cloud, on a k-d tree, in plain torch.

The tree is balanced and has no pointers: every level sorts each node's points along its box's
longest axis and cuts at the middle, so that a node is an equal run of the sorted order. All points
then search together. A point's own leaf bounds its reach; the pairs (point, node) whose distance is
within reach go down the tree level by level; and the surviving pairs (point, leaf) are compared by
brute force, nearest leaf first, while the reach shrinks. Memory is bounded whatever the points are,
because a set of points whose list of pairs outgrows its budget is halved and tried again.
"""

from __future__ import annotations

import torch
from torch import Tensor

_LEAF_POINTS = 32
_POINTS_AT_ONCE = 1 << 16
_MAX_PAIRS = 1 << 21
_COMPARISONS_AT_ONCE = 1 << 20


def _build_order(points: Tensor, levels: int) -> Tensor:
    """Return the permutation [2 ** levels * leaf] that puts each leaf's points in one run."""
    order = torch.arange(points.shape[0], device=points.device)
    for level in range(levels):
        nodes = points[order].view(1 << level, -1, 3)
        axis = (nodes.amax(1) - nodes.amin(1)).argmax(dim=-1)
        keys = nodes.gather(2, axis[:, None, None].expand(-1, nodes.shape[1], 1)).squeeze(2)
        order = order.view(1 << level, -1).gather(1, keys.argsort(dim=1)).view(-1)
    return order


def _smallest(values: Tensor, k: int) -> Tensor:
    return values.topk(k, dim=-1, largest=False, sorted=True).values


class _Search:
    """The k nearest distances of every point, refined leaf by leaf.

    Args:
        leaves: [n_leaves, size, 3], n_leaves a power of two.
        is_copy: [n_leaves, size]; these points are never a neighbour.
        k: How many neighbours.
    """

    def __init__(self, leaves: Tensor, is_copy: Tensor, k: int) -> None:
        self.leaves = leaves.masked_fill(is_copy.unsqueeze(-1), float("inf"))
        self.points = leaves.reshape(-1, 3)
        self.k = k
        low, high = leaves.amin(1), leaves.amax(1)
        self.boxes = [(low, high)]
        while low.shape[0] > 1:
            low, high = low.view(-1, 2, 3).amin(1), high.view(-1, 2, 3).amax(1)
            self.boxes.insert(0, (low, high))
        self.nearest = leaves.new_empty(self.points.shape[0], k)
        size = leaves.shape[1]
        for points in self._range(0, self.points.shape[0]).split(_COMPARISONS_AT_ONCE // size):
            distance = self._distances(points, points // size)
            distance.scatter_(1, (points % size).unsqueeze(1), float("inf"))
            self.nearest[points] = _smallest(distance, k)

    def _range(self, first: int, last: int) -> Tensor:
        return torch.arange(first, last, device=self.points.device)

    def _distances(self, point: Tensor, leaf: Tensor) -> Tensor:
        """Return [n_pairs, size]."""
        return (self.leaves[leaf] - self.points[point].unsqueeze(1)).norm(dim=-1)

    def _pairs(self, first: int, last: int) -> tuple[Tensor, Tensor, Tensor] | None:
        """Return (point, leaf, distance) within reach of the points first..last; None if too
        many."""
        reach = self.nearest[first:last, -1]
        point = self._range(first, last)
        node = torch.zeros_like(point)
        distance = torch.zeros_like(reach)
        for low, high in self.boxes[1:]:
            point = point.repeat_interleave(2)
            node = torch.stack((2 * node, 2 * node + 1), dim=1).view(-1)
            position = self.points[point]
            gap = torch.maximum(low[node] - position, position - high[node]).clamp_(min=0)
            distance = gap.norm(dim=-1)
            keep = (distance < reach[point - first]).nonzero().squeeze(1)
            point, node, distance = point[keep], node[keep], distance[keep]
            if point.numel() > _MAX_PAIRS and last - first > 1:
                return None
        other = node != point // self.leaves.shape[1]
        return point[other], node[other], distance[other]

    def search(self, first: int, last: int) -> None:
        """Refine the points first..last against all leaves but their own."""
        found = self._pairs(first, last)
        if found is None:
            middle = (first + last) // 2
            self.search(first, middle)
            self.search(middle, last)
            return
        point, leaf, distance = found
        # In one turn each point meets one leaf, so that no two updates touch the same row.
        for turn in _turns(point - first, distance, last - first):
            near = turn[distance[turn] < self.nearest[point[turn], -1]]
            for part in near.split(_COMPARISONS_AT_ONCE // self.leaves.shape[1]):
                found = _smallest(self._distances(point[part], leaf[part]), self.k)
                both = torch.cat((self.nearest[point[part]], found), dim=-1)
                self.nearest[point[part]] = _smallest(both, self.k)


def _turns(row: Tensor, distance: Tensor, n_rows: int) -> list[Tensor]:
    """Split pair indices so that the t-th part holds each row's t-th nearest pair."""
    if row.numel() == 0:
        return []
    order = distance.argsort()
    order = order[row[order].argsort(stable=True)]
    count = torch.bincount(row, minlength=n_rows)
    start = count.cumsum(0) - count
    turn = torch.arange(row.numel(), device=row.device) - start[row[order]]
    return list(order[turn.argsort(stable=True)].split(torch.bincount(turn).tolist()))


def nearest_neighbour_distances(points: Tensor, k: int = 3) -> Tensor:
    """Give each point's distances to its k nearest other points, exactly.

    A duplicate is another point at distance zero. 200,000 points take seconds on a CPU.

    Args:
        points: [n_points, 3], finite, any floating dtype.
        k: How many neighbours, 1 to 32; default 3.

    Returns:
        [n_points, k], ascending. Entries are infinite where there are fewer than k other points.

    Raises:
        ValueError: If the shape or dtype is wrong, a coordinate is not finite, or k is out of
            range.

    Example:
        >>> line = torch.tensor([[0.0, 0, 0], [1, 0, 0], [3, 0, 0]])
        >>> nearest_neighbour_distances(line, k=1).flatten()
        tensor([1., 1., 2.])
    """
    name = "nearest_neighbour_distances"
    if points.dim() != 2 or points.shape[1] != 3 or not points.is_floating_point():
        raise ValueError(
            f"{name}: points: expected a floating tensor [n_points, 3], "
            f"got {points.dtype} {list(points.shape)}"
        )
    if not 1 <= k <= _LEAF_POINTS:
        raise ValueError(f"{name}: k: expected 1 to {_LEAF_POINTS}, got {k}")
    if not bool(torch.isfinite(points).all()):
        raise ValueError(f"{name}: points: expected finite coordinates, got NaN or Inf")
    points = points.detach()
    if points.dtype not in (torch.float32, torch.float64):
        points = points.float()
    n = points.shape[0]
    if n == 0:
        return points.new_empty(0, k)
    # A power of two keeps squares of very large or small coordinates in range and rounds nothing.
    _, exponent = torch.frexp(points.abs().max())
    points = torch.ldexp(points, -exponent)
    levels = max(0, (n // _LEAF_POINTS).bit_length() - 1)
    leaf_points = max(-(-n // (1 << levels)), k + 1)
    missing = (leaf_points << levels) - n
    # Leaves are equally long runs. Copies spread over the cloud fill them up; none is ever a
    # neighbour.
    copies = torch.linspace(0, n - 1, missing, device=points.device).long()
    filled = torch.cat((points, points[copies]))
    order = _build_order(filled, levels)
    leaf_of = order.view(1 << levels, leaf_points)
    search = _Search(filled[leaf_of], leaf_of >= n, k)
    for first in range(0, filled.shape[0], _POINTS_AT_ONCE):
        search.search(first, min(first + _POINTS_AT_ONCE, filled.shape[0]))
    nearest = torch.empty_like(search.nearest)
    nearest[order] = search.nearest
    return torch.ldexp(nearest[:n], exponent)
