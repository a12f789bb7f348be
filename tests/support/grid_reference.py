# SPDX-License-Identifier: Apache-2.0
"""Grids the slow way: dense tensors, Python loops and exact fractions."""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Any

import torch
from fieldline.cuda.vdb.grid_ops import Masks
from torch import Tensor


def signed(word: int) -> int:
    return word - (1 << 64) if word >= 1 << 63 else word


def build(dense: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Tops, nodes and leaves of bool [levels, X, Y, Z], from the drawing in masks.h."""
    levels, *size = dense.shape
    counts = [(n + 63) // 64 for n in size]
    padded = torch.zeros(levels, *(64 * n for n in counts), dtype=torch.bool)
    padded[:, : size[0], : size[1], : size[2]] = dense != 0
    nodes: list[list[int]] = []
    leaves: list[int] = []
    tops = torch.zeros(levels, *counts, 2, dtype=torch.int64)
    for place in itertools.product(range(levels), *map(range, counts)):
        level, *top = place
        block = padded[level]
        for axis, t in enumerate(top):
            block = block.narrow(axis, 64 * t, 64)
        mask, first = 0, len(nodes)
        for bit, node in enumerate(pieces(block, 16)):
            if not node.any():
                continue
            mask |= 1 << bit
            node_mask, first_leaf = 0, len(leaves)
            for leaf_bit, leaf in enumerate(pieces(node, 4)):
                word = sum(1 << i for i in leaf.flatten().nonzero().flatten().tolist())
                if word:
                    node_mask |= 1 << leaf_bit
                    leaves.append(signed(word))
            nodes.append([signed(node_mask), first_leaf])
        tops[place] = torch.tensor([signed(mask), first if mask else 0])
    return (
        tops,
        torch.tensor(nodes, dtype=torch.int64).reshape(-1, 2),
        torch.tensor(leaves, dtype=torch.int64),
    )


def pieces(block: Tensor, edge: int) -> list[Tensor]:
    """The 4x4x4 cubes of a cube, in bit order."""
    return [
        block[x : x + edge, y : y + edge, z : z + edge]
        for x, y, z in itertools.product(range(0, 4 * edge, edge), repeat=3)
    ]


def to_dense(masks: Masks) -> Tensor:
    """Reads the three tensors voxel by voxel, down the tree."""
    dense = torch.zeros(masks.levels, *masks.resolution, dtype=torch.bool)
    for level, x, y, z in leaf_origins(masks):
        index = find_leaf(masks, level, x, y, z)
        for bit in bits(int(masks.leaves[index])):
            dense[level, x + (bit >> 4), y + (bit >> 2 & 3), z + (bit & 3)] = True
    return dense


def bits(word: int) -> list[int]:
    return [bit for bit in range(64) if word >> bit & 1]


def bit_of(x: int, y: int, z: int) -> int:
    return (x & 3) * 16 + (y & 3) * 4 + (z & 3)


def find_leaf(masks: Masks, level: int, x: int, y: int, z: int) -> int:
    mask, first = masks.tops[level, x // 64, y // 64, z // 64].tolist()
    for table, edge in ((masks.nodes, 16), (None, 4)):
        bit = bit_of(x // edge, y // edge, z // edge)
        if not mask >> bit & 1:
            return -1
        child = first + len([b for b in bits(mask) if b < bit])
        if table is None:
            return child
        mask, first = table[child].tolist()
    raise AssertionError


def leaf_origins(masks: Masks) -> list[list[int]]:
    """Level and first voxel of each leaf, in storage order."""
    found = []
    for level, tx, ty, tz in itertools.product(*map(range, masks.tops.shape[:4])):
        mask, first = masks.tops[level, tx, ty, tz].tolist()
        for i, bit in enumerate(bits(mask)):
            node = [64 * t + 16 * b for t, b in zip((tx, ty, tz), unpack(bit))]
            for leaf_bit in bits(int(masks.nodes[first + i, 0])):
                found.append([level, *(n + 4 * b for n, b in zip(node, unpack(leaf_bit)))])
    return found


def unpack(bit: int) -> tuple[int, int, int]:
    return bit >> 4, bit >> 2 & 3, bit & 3


def active_coordinates(masks: Masks) -> Tensor:
    """int32 [n_active, 4] in storage order."""
    rows = []
    for (level, x, y, z), word in zip(leaf_origins(masks), masks.leaves.tolist()):
        for bit in bits(word):
            a, b, c = unpack(bit)
            rows.append([level, x + a, y + b, z + c])
    return torch.tensor(rows, dtype=torch.int32).reshape(-1, 4)


def dense_of_coordinates(coordinates: Tensor, resolution: Any, levels: int) -> Tensor:
    dense = torch.zeros(levels, *resolution, dtype=torch.bool)
    for row in coordinates.tolist():
        place = (0, *row) if len(row) == 3 else tuple(row)
        if all(0 <= v < n for v, n in zip(place, dense.shape)):
            dense[place] = True
    return dense


def neighbour_steps(neighbours: int) -> list[tuple[int, int, int]]:
    most = {6: 1, 18: 2, 26: 3}[neighbours]
    return [
        step for step in itertools.product((-1, 0, 1), repeat=3) if 1 <= sum(map(abs, step)) <= most
    ]


def shifted(dense: Tensor, step: tuple[int, int, int]) -> Tensor:
    """What lies a step before each voxel; nothing beyond the ends."""
    out = torch.zeros_like(dense)
    to, of = [slice(None)], [slice(None)]
    for s, n in zip(step, dense.shape[1:]):
        to.append(slice(max(s, 0), n + min(s, 0)))
        of.append(slice(max(-s, 0), n + min(-s, 0)))
    out[tuple(to)] = dense[tuple(of)]
    return out


def dilate(dense: Tensor, neighbours: int, iterations: int) -> Tensor:
    for _ in range(iterations):
        dense = torch.stack(
            [dense, *(shifted(dense, step) for step in neighbour_steps(neighbours))]
        ).any(0)
    return dense


def erode(dense: Tensor, neighbours: int, iterations: int) -> Tensor:
    for _ in range(iterations):
        dense = torch.stack(
            [dense, *(shifted(dense, step) for step in neighbour_steps(neighbours))]
        ).all(0)
    return dense


def coarsen(dense: Tensor, factor: int, every: bool) -> Tensor:
    size = [-(-n // factor) for n in dense.shape[1:]]
    out = torch.zeros(dense.shape[0], *size, dtype=torch.bool)
    for place in itertools.product(*map(range, size)):
        part = dense
        for axis, v in enumerate(place):
            part = part[(slice(None),) * (axis + 1) + (slice(v * factor, (v + 1) * factor),)]
        flat = part.flatten(1)
        out[(slice(None), *place)] = flat.all(1) if every else flat.any(1)
    return out


def refine(dense: Tensor, factor: int) -> Tensor:
    for axis in (1, 2, 3):
        dense = dense.repeat_interleave(factor, axis)
    return dense


def sample_trilinear(
    masks: Masks, offsets: Tensor, values: Tensor, points: Tensor, background: Any, level: int = 0
) -> Tensor:
    """Values spread over a dense tensor with a margin, and read from there."""
    rows = values if values.dim() == 2 else values[:, None]
    background = torch.as_tensor(background, dtype=rows.dtype).expand(rows.shape[1])
    size = [n + 2 for n in masks.resolution]
    # Less the background: where there is nothing else, the slope is exactly 0.
    dense = torch.zeros(masks.levels, *size, rows.shape[1], dtype=rows.dtype)
    level_of, x, y, z = active_coordinates(masks).long().T
    dense = dense.index_put((level_of, x + 1, y + 1, z + 1), rows - background)[level]
    known = torch.isfinite(points).all(1)
    for axis, n in enumerate(masks.resolution):
        known = known & (points[:, axis] > -0.5) & (points[:, axis] < n + 0.5)
    at = torch.where(known[:, None], points, torch.zeros_like(points)) + 0.5
    base = at.detach().floor()
    fraction = at - base
    sums = torch.zeros(points.shape[0], rows.shape[1], dtype=rows.dtype)
    for corner in itertools.product((0, 1), repeat=3):
        index = [(base[:, d].long() + corner[d]).clamp(max=size[d] - 1) for d in range(3)]
        weight = torch.ones(points.shape[0], dtype=rows.dtype)
        for d in range(3):
            weight = weight * (fraction[:, d] if corner[d] else 1 - fraction[:, d])
        sums = sums + weight[:, None] * dense[tuple(index)]
    out = background + torch.where(known[:, None], sums, torch.zeros_like(sums))
    return out if values.dim() == 2 else out[:, 0]


def triangle_meets_voxel(triangle: list[list[Fraction]], voxel: tuple[int, ...]) -> bool:
    """The separating-axis theorem, all 13 axes, in fractions."""
    corners = [[v - Fraction(p) for v, p in zip(corner, voxel)] for corner in triangle]
    edges = [[b - a for a, b in zip(corners[i], corners[(i + 1) % 3])] for i in range(3)]
    units = [[Fraction(int(i == d)) for i in range(3)] for d in range(3)]
    axes = [*units, cross(edges[0], edges[1]), *(cross(e, u) for e in edges for u in units)]
    for axis in axes:
        mine = [dot(axis, corner) for corner in corners]
        box = [sum(axis[d] for d in range(3) if k >> d & 1) for k in range(8)]
        if min(mine) > max(box) or max(mine) < min(box):
            return False
    return True


def cross(a: list[Fraction], b: list[Fraction]) -> list[Fraction]:
    return [a[(d + 1) % 3] * b[(d + 2) % 3] - a[(d + 2) % 3] * b[(d + 1) % 3] for d in range(3)]


def dot(a: list[Fraction], b: list[Fraction]) -> Fraction:
    return sum((x * y for x, y in zip(a, b)), Fraction(0))


def triangle_voxels(triangles: Tensor, resolution: Any) -> list[set[tuple[int, ...]]]:
    """The voxels of each triangle."""
    return [
        {
            voxel
            for voxel in itertools.product(*map(range, resolution))
            if triangle_meets_voxel([[Fraction(v) for v in c] for c in triangle], voxel)
        }
        for triangle in triangles.tolist()
    ]
