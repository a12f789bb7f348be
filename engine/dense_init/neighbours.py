# SPDX-License-Identifier: Apache-2.0
"""Which views to compare: by what they share, and how well it shows depth.

Every quantity is an angle or a ratio, so nothing depends on the unit of the world. For a pair of
views (a, b) and probe points that a sees, the score is the mean over the probes of

    [b sees the probe] * parallax(angle at the probe) * facing(angle between viewing directions)

Parallax too small shows no depth, too large changes how things look: the weight rises with the
angle until 4 degrees, stays, and falls from 20 degrees on. Probe points are the scene's points
where it has any, else points along the views' rays at the depths the cameras suggest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...datasets import Scene, View
from ...datasets.coverage import depth_ranges
from .geometry import inside

_BEST_ANGLES = (math.radians(4.0), math.radians(20.0))
_TURN_SPREAD = math.radians(35.0)
# Views this far apart are hardly alike.
_ALIKE = math.radians(20.0)
_PROBES = 1024
_PROBES_PER_VIEW = 48
# Below this angle at every probe, views show no depth.
NO_PARALLAX = math.radians(0.02)


@dataclass(frozen=True)
class ViewGraph:
    """How views relate.

    Args:
        sees: bool [n_views, n_probes].
        score: float32 [n_views, n_views], of column as a neighbour of row; 0 on the diagonal.
        overlap: float32 [n_views, n_views], the share of row's probes that column sees.
        angle: float32 [n_views, n_views], the median angle at the shared probes, radians.
    """

    sees: Tensor
    score: Tensor
    overlap: Tensor
    angle: Tensor


def view_graph(scene: Scene, views: Sequence[View], *, seed: int = 0) -> ViewGraph:
    """Compares all pairs of views.

    Args:
        scene: Its points, if any, are the probes.
        views: At least one.
        seed: Of the choice of probes.

    Returns:
        The graph.

    Example:
        >>> graph = view_graph(scene, scene.train)
        >>> bool((graph.score.diagonal() == 0).all())
        True
    """
    probes = _probes(scene, views, torch.Generator().manual_seed(seed))
    projected = [view.camera.to(torch.float64).project(probes) for view in views]
    sees = torch.stack([inside(view.camera, *place) for view, place in zip(views, projected)])
    centers = torch.stack([view.camera.center.double() for view in views])
    axes = torch.stack([view.camera.world_to_camera[2, :3].double() for view in views])
    rows = [_score_row(i, probes, sees, centers, axes) for i in range(len(views))]
    score, overlap, angle = (torch.stack(part).float() for part in zip(*rows))
    return ViewGraph(sees, score, overlap, angle)


def _score_row(
    i: int, probes: Tensor, sees: Tensor, centers: Tensor, axes: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, overlaps and median angles of view i with all views, [n_views] each."""
    mine = sees[i]
    if not bool(mine.any()):
        zero = centers.new_zeros(len(centers))
        return zero, zero, zero
    toward = centers[:, None] - probes[mine]
    toward = toward / toward.norm(dim=-1, keepdim=True).clamp(min=1e-300)
    half = 0.5 * (toward - toward[i]).norm(dim=-1)
    angle = 2 * torch.asin(half.clamp(max=1.0))
    low, high = _BEST_ANGLES
    parallax = (angle / low).clamp(max=1.0) * torch.exp(-((angle - high) / high).clamp(min=0))
    turn = torch.acos((axes @ axes[i]).clamp(-1, 1))
    facing = torch.exp(-0.5 * (turn / _TURN_SPREAD).square())
    shared = sees[:, mine].to(angle)
    score = (shared * parallax).mean(-1) * facing
    score[i] = 0
    middle = angle.masked_fill(shared == 0, float("nan")).nanmedian(dim=-1).values
    return score, shared.mean(-1), middle.nan_to_num(0.0)


def _probes(scene: Scene, views: Sequence[View], generator: torch.Generator) -> Tensor:
    points = scene.points
    if points is not None and len(points) >= 64:
        order = torch.randperm(len(points), generator=generator)[:_PROBES]
        return points[order].double()
    cameras = [view.camera for view in views]
    ranges = depth_ranges(cameras).double()
    batches = []
    for camera, (near, far) in zip(cameras, ranges.log().tolist()):
        draw = torch.rand((_PROBES_PER_VIEW, 3), generator=generator, dtype=torch.float64)
        xy = draw[:, :2] * draw.new_tensor([camera.width, camera.height])
        origins, directions = camera.to(torch.float64).rays(xy)
        # Evenly in inverse depth, as planes of a sweep.
        inverse = math.exp(-far) + (math.exp(-near) - math.exp(-far)) * draw[:, 2]
        batches.append(origins + directions / inverse[:, None])
    return torch.cat(batches)


def choose_neighbours(graph: ViewGraph, count: int) -> list[list[int]]:
    """Chooses the views that each view is compared with.

    The first is the best by score; each further one adds most to what is not yet covered, so that
    they lie on several sides rather than in one spot.

    Args:
        graph: Of the views.
        count: How many at most.

    Returns:
        For each view the indices of its neighbours, best first; fewer than `count` where fewer
        overlap it.

    Example:
        >>> graph = view_graph(scene, scene.train)
        >>> [len(chosen) for chosen in choose_neighbours(graph, 2)]
        [2, 2, 2, 2, 2]
    """
    return [_choose(graph, i, count) for i in range(len(graph.score))]


def _choose(graph: ViewGraph, i: int, count: int) -> list[int]:
    score = graph.score[i].double()
    mine = graph.sees[i]
    times_seen = torch.zeros(int(mine.sum()), dtype=torch.float64)
    chosen: list[int] = []
    sees = graph.sees[:, mine].double()
    while len(chosen) < count:
        # A probe that k chosen views see already counts 1 / (1 + k).
        fresh = (sees / (1 + times_seen)).mean(-1)
        gain = score * fresh / sees.mean(-1).clamp(min=1e-12)
        gain[chosen] = 0
        best = int(gain.argmax())
        if float(gain[best]) <= 0:
            break
        chosen.append(best)
        times_seen += sees[best]
    return chosen


def choose_references(graph: ViewGraph, count: int) -> list[int]:
    """Chooses the views that points are taken from, so that each view has one like it among them.

    A view stands for another as far as it sees the same probes from a similar side. Each choice
    adds most to the sum, over all views, of how well the best choice stands for it.

    Args:
        graph: Of the views.
        count: How many at most.

    Returns:
        Indices in ascending order; all if there are no more than `count`.

    Source:
        Greedy facility location: Nemhauser, Wolsey and Fisher 1978.

    Example:
        >>> len(choose_references(view_graph(scene, scene.train), 3))
        3
    """
    n_views = len(graph.sees)
    if n_views <= count:
        return list(range(n_views))
    alike = graph.overlap * torch.exp(-0.5 * (graph.angle / _ALIKE).square())
    alike.fill_diagonal_(1.0)
    # A view that nothing can be matched with stands for itself alone, and gives nothing.
    useful = 0.01 + 0.99 * (graph.score.amax(-1) > 0)
    stood_for = torch.zeros(n_views)
    chosen: list[int] = []
    while len(chosen) < count:
        gain = (alike - stood_for[:, None]).clamp(min=0).sum(0) * useful
        gain[chosen] = -1
        best = int(gain.argmax())
        chosen.append(best)
        stood_for = torch.maximum(stood_for, alike[:, best])
    return sorted(chosen)
