# SPDX-License-Identifier: Apache-2.0
"""NerfAcc's traversal as plain Python, one ray and one cell at a time, in numpy float32.

Slow on purpose: no table, no skipping, every addition made. What the operators must equal to the
last bit. Three cases that NerfAcc leaves open are closed here as in the operators: a ray in the
plane of a face is inside; a step that no longer moves t ends the ray; and samples do not go on
through a gap between two boxes.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

F = np.float32
FAR_AWAY = F(1e30)


class Found(NamedTuple):
    """One sample."""

    t_start: np.float32
    t_end: np.float32
    joined: bool  # shares its left edge with the sample before


def masks_of(binaries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Nested masks of bool [levels, X, Y, Z], by loops: tops, nodes, leaves."""
    table = binaries.numpy()
    tops_shape = [-(-size // 64) for size in table.shape[1:]]
    tops = np.zeros((len(table), *tops_shape, 2), dtype=np.uint64)
    nodes: list[list[int]] = []
    leaves: list[int] = []
    for index in np.ndindex(*tops.shape[:4]):
        level, corner = index[0], [64 * i for i in index[1:]]
        children = list(_children(table[level], corner, 16))
        tops[index] = (sum(1 << bit for bit, _ in children), len(nodes))
        grandchildren = [list(_children(table[level], at, 4)) for _, at in children]
        for found in grandchildren:
            nodes.append([sum(1 << bit for bit, _ in found), len(leaves)])
            for _, at in found:
                voxels = _children(table[level], at, 1)
                leaves.append(sum(1 << bit for bit, _ in voxels))
    node_array = np.array(nodes, dtype=np.uint64).reshape(-1, 2)
    leaf_array = np.array(leaves, dtype=np.uint64)
    return tuple(torch.from_numpy(a.view(np.int64)) for a in (tops, node_array, leaf_array))  # pyright: ignore


def _children(table: np.ndarray, corner: list[int], edge: int) -> Iterator[tuple[int, list[int]]]:
    """Bit and corner of each occupied block of this edge among the 4 x 4 x 4 from `corner` on."""
    for bit in range(64):
        at = [corner[a] + edge * ((bit >> (4 - 2 * a)) & 3) for a in range(3)]
        if table[at[0] : at[0] + edge, at[1] : at[1] + edge, at[2] : at[2] + edge].any():
            yield bit, at


def intersect(
    o: np.ndarray, d: np.ndarray, box: np.ndarray
) -> tuple[np.float32, np.float32] | None:
    enter, leave = -FAR_AWAY, FAR_AWAY
    for a in range(3):
        if d[a] == 0:
            if o[a] < box[a] or o[a] > box[3 + a]:
                return None
            continue
        inverse = F(1) / d[a]
        first, second = (box[a] - o[a]) * inverse, (box[3 + a] - o[a]) * inverse
        if d[a] < 0:
            first, second = second, first
        if enter > second or first > leave:
            return None
        enter, leave = max(enter, first), min(leave, second)
    return (enter, leave) if leave > 0 else None


def stretches(
    o: np.ndarray, d: np.ndarray, boxes: np.ndarray, near: np.float32, far: np.float32
) -> Iterator[tuple[np.float32, np.float32, int]]:
    """enter, leave and level of each part of the ray, in order."""
    events = []
    for level, box in enumerate(boxes):
        hit = intersect(o, d, box)
        if hit is not None:
            events.append((hit[0], 0, -level, level, True))
            events.append((hit[1], 1, level, level, False))
    events.sort(key=lambda e: e[:3])
    for event, after in pairwise(events):
        level, entering = event[3:]
        if not entering:
            if after[4]:
                continue
            level = after[3]
        enter, leave = max(event[0], near), min(after[0], far)
        if enter < leave:
            yield enter, leave, level


def cells(
    o: np.ndarray,
    d: np.ndarray,
    box: np.ndarray,
    resolution: tuple[int, ...],
    enter: np.float32,
    leave: np.float32,
) -> Iterator[tuple[tuple[int, int, int], np.float32]]:
    """Each cell that the ray passes, and when it leaves it."""
    eps, cell, last, step, tdist, delta = F(1e-6), [], [], [], [], []
    for a in range(3):
        n, low, extent = F(resolution[a]), box[a], box[3 + a] - box[a]
        voxel = extent / n
        start, stop = o[a] + d[a] * (enter + eps), o[a] + d[a] * (leave - eps)
        first, final = (
            int(min(max((point - low) / extent * n, F(0)), n - F(1))) for point in (start, stop)
        )
        sign = int(np.sign(d[a]))
        cell.append(first)
        step.append(sign)
        if sign == 0:
            last.append(first)
            tdist.append(leave)
            delta.append(F(0))
            continue
        behind = (final - first) * sign < 0
        last.append((resolution[a] - 1 if sign > 0 else 0) if behind else final)
        inverse = F(1) / d[a]
        face = F(first + (sign > 0)) * voxel
        tdist.append(min(max((low + (face - start)) * inverse + enter, -FAR_AWAY), FAR_AWAY))
        delta.append(min(abs(voxel * inverse), FAR_AWAY))
    while True:
        axis = 1 if tdist[1] < tdist[2] else 2
        if tdist[0] < tdist[1] and tdist[0] < tdist[2]:
            axis = 0
        yield (cell[0], cell[1], cell[2]), min(tdist[axis], leave)
        if cell[axis] == last[axis] or tdist[axis] >= leave:
            return
        cell[axis] += step[axis]
        tdist[axis] = tdist[axis] + delta[axis]


def sample_ray(
    binaries: np.ndarray,
    boxes: np.ndarray,
    o: np.ndarray,
    d: np.ndarray,
    near: np.float32,
    far: np.float32,
    step: float,
    cone_angle: float,
    most: int = 0,
) -> tuple[list[Found], np.float32]:
    """All samples of one ray, and where its last step ended; `most` > 0 stops it."""
    found: list[Found] = []
    d = np.where(np.abs(d) < np.finfo(F).tiny, F(0), d).astype(F)
    near = F(0) if abs(near) < np.finfo(F).tiny else near
    t, continuous, ended = near, False, near
    length, cone = F(step), F(cone_angle)

    def step_at(t: np.float32) -> np.float32:
        return max(length, min(t * cone, F(1e10)))

    def march(t: np.float32, until: np.float32) -> np.float32:
        if step <= 0:
            return until
        dt = step_at(t)
        while t + dt * F(0.5) < until:
            if t + dt == t:
                return F(np.inf)
            t = t + dt
        return t

    for enter, leave, level in stretches(o, d, boxes, near, far):
        if enter > ended:
            continuous = False
        ended = leave
        if not continuous:
            t = march(t, enter)
        for cell, exit in cells(o, d, boxes[level], binaries.shape[1:], enter, leave):
            if most > 0 and len(found) >= most:
                break
            if not binaries[(level, *cell)]:
                t = march(t, exit)
                continuous = False
                continue
            while most <= 0 or len(found) < most:
                if step <= 0:
                    after = exit
                    if not after > t:
                        break
                else:
                    dt = step_at(t)
                    if not t + dt * F(0.5) < exit:
                        break
                    after = t + dt
                    if after == t:
                        t = F(np.inf)
                        break
                found.append(Found(t, after, continuous))
                continuous = True
                t = after
                if step <= 0:
                    break
    return found, t


def sample(
    binaries: Tensor,
    aabbs: Tensor,
    rays_o: Tensor,
    rays_d: Tensor,
    near: Tensor,
    far: Tensor,
    *,
    step: float,
    cone_angle: float = 0.0,
    most: int = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """ray_indices, t_starts, t_ends, packed_info, joined and where each ray ended."""
    arrays = [t.numpy().astype(F) for t in (aabbs, rays_o, rays_d, near, far)]
    boxes, origins, directions, nears, fars = arrays
    table = binaries.numpy()
    rays, found, counts, ends = [], [], [], []
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for i in range(len(origins)):
            own, end = sample_ray(
                table, boxes, origins[i], directions[i], nears[i], fars[i], step, cone_angle, most
            )
            found += own
            rays += [i] * len(own)
            counts.append(len(own))
            ends.append(end)
    count = torch.tensor(counts, dtype=torch.int64)
    return (
        torch.tensor(rays, dtype=torch.int64),
        torch.tensor(np.array([f.t_start for f in found], dtype=F)),
        torch.tensor(np.array([f.t_end for f in found], dtype=F)),
        torch.stack([count.cumsum(0) - count, count], dim=1),
        torch.tensor([f.joined for f in found], dtype=torch.bool),
        torch.tensor(np.array(ends, dtype=F)),
    )


def dense_of(
    tops: Tensor, nodes: Tensor, leaves: Tensor, resolution: tuple[int, int, int]
) -> Tensor:
    """bool [levels, X, Y, Z] of nested masks, by loops."""
    words = [t.numpy().view(np.uint64) for t in (tops, nodes, leaves)]
    table = np.zeros((len(words[0]), *(64 * n for n in words[0].shape[1:4])), dtype=bool)

    def fill(level: int, corner: list[int], edge: int, mask: int, first: int) -> None:
        for bit in range(64):
            if not mask >> bit & 1:
                continue
            at = [corner[a] + edge * ((bit >> (4 - 2 * a)) & 3) for a in range(3)]
            if edge == 16:
                fill(level, at, 4, int(words[1][first, 0]), int(words[1][first, 1]))
            elif edge == 4:
                fill(level, at, 1, int(words[2][first]), 0)
            else:
                table[(level, *at)] = True
            first += 1

    for index in np.ndindex(*words[0].shape[:4]):
        mask, first = (int(word) for word in words[0][index])
        fill(index[0], [64 * i for i in index[1:]], 16, mask, first)
    x, y, z = resolution
    return torch.from_numpy(table[:, :x, :y, :z].copy())


def voxels_of_ray(
    table: Tensor, o: Tensor, d: Tensor, near: float, far: float
) -> list[tuple[float, float, tuple[int, int, int]]]:
    """Enter, exit and index of each active voxel of [X, Y, Z] on a ray of index space, by slabs."""
    found = []
    for voxel in table.nonzero().tolist():
        enter, leave = near, far
        for a in range(3):
            origin, direction = float(o[a]), float(d[a])
            if direction == 0:
                if not voxel[a] <= origin < voxel[a] + 1:
                    leave = -np.inf
                continue
            times = sorted((voxel[a] + side - origin) / direction for side in (0, 1))
            enter, leave = max(enter, times[0]), min(leave, times[1])
        if enter < leave:
            found.append((enter, leave, tuple(voxel)))
    return sorted(found)
