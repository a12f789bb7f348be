# SPDX-License-Identifier: Apache-2.0
"""The correspondence operators in plain torch: slow, and read at a glance."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

RADIUS, WINDOW_PIXELS = 3, 49
WORST, UNSEEN = 254, 170
FLATNESS, NCC_SHARE, NEAREST = 16.0 * WINDOW_PIXELS, 0.6, 1e-3


def grey(image: Tensor) -> Tensor:
    return torch.where(image < 0, -1 - image, image).double()


def windows(image: Tensor) -> Tensor:
    """All windows of an image continued by its edge, [H, W, 49]."""
    padded = functional.pad(image[None, None], (RADIUS,) * 4, mode="replicate")
    columns = functional.unfold(padded, 2 * RADIUS + 1)[0]
    return columns.T.reshape(*image.shape, WINDOW_PIXELS)


def census(image: Tensor) -> Tensor:
    """Each pixel of the first half of a window against the one opposite, bool [H, W, 24]."""
    w = (windows(image) / 4).floor()
    return w[..., :24] > w.flip(-1)[..., :24]


def landing(warp: Tensor, w: float, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    pixel = torch.stack([x, y, torch.ones_like(x)], dim=-1)
    u, v, s = (pixel @ warp[:, :3].T + w * warp[:, 3]).unbind(-1)
    return u / s.clamp(min=NEAREST), v / s.clamp(min=NEAREST), s


def centres(height: int, width: int) -> tuple[Tensor, Tensor]:
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return x.double() + 0.5, y.double() + 0.5


def warped(image: Tensor, warp: Tensor, w: float, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """What a plane makes of a neighbour, and which pixels it sees."""
    height, width = image.shape
    u, v, s = landing(warp, w, *centres(*size))
    seen = (s >= NEAREST) & (u >= 0) & (v >= 0) & (u <= width) & (v <= height)
    x, y = (u - 0.5).clamp(0, width - 1), (v - 0.5).clamp(0, height - 1)
    x0, y0 = x.floor().long(), y.floor().long()
    x1, y1 = (x0 + 1).clamp(max=width - 1), (y0 + 1).clamp(max=height - 1)
    fx, fy, values = x - x0, y - y0, grey(image)
    upper = values[y0, x0] * (1 - fx) + values[y0, x1] * fx
    lower = values[y1, x0] * (1 - fx) + values[y1, x1] * fx
    counts = image >= 0
    seen &= counts[y0, x0] & counts[y0, x1] & counts[y1, x0] & counts[y1, x1]
    return (upper * (1 - fy) + lower * fy + 0.5).floor(), seen


def window_costs(own: Tensor, other: Tensor) -> Tensor:
    a, b = windows(own), windows(other)
    a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
    size = ((a * a).sum(-1) + FLATNESS).sqrt() * ((b * b).sum(-1) + FLATNESS).sqrt()
    unlike = (1 - (a * b).sum(-1) / size).clamp(0, 1)
    bits = ((census(own) != census(other)).sum(-1) / 12).clamp(max=1)
    return (WORST * (NCC_SHARE * unlike + (1 - NCC_SHARE) * bits) + 0.5).floor()


def plane_sweep(
    reference: Tensor,
    neighbours: Sequence[Tensor],
    warps: Tensor,
    inverse_depths: Tensor,
    *,
    best: int = 2,
    prior: Tensor | None = None,
    prior_weight: float = 0.5,
) -> Tensor:
    own, size = grey(reference), (reference.shape[0], reference.shape[1])
    planes = []
    for w in inverse_depths.tolist():
        costs = []
        for image, warp in zip(neighbours, warps):
            other, seen = warped(image, warp.double(), w, size)
            costs.append(torch.where(seen, window_costs(own, other), float(UNSEEN)))
        kept = torch.stack(costs).sort(dim=0).values[:best]
        planes.append(((kept.sum(0) + best // 2) / best).floor())
    cost = torch.stack(planes, dim=-1)
    if prior is not None:
        share = round(256 * prior_weight)
        cost = ((cost * (256 - share) + enlarged(prior, size) * share + 128) / 256).floor()
    cost[reference < 0] = UNSEEN
    return cost.to(torch.uint8)


def enlarged(volume: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, with shares in sixteenths."""

    def axis(fine: int, coarse: int) -> tuple[Tensor, Tensor, Tensor]:
        at = ((torch.arange(fine).double() + 0.5) * coarse / fine - 0.5).clamp(min=0)
        first = at.long().clamp(max=coarse - 1)
        share = ((at - first) * 16 + 0.5).floor().clamp(max=16)
        return first, (first + 1).clamp(max=coarse - 1), share

    y0, y1, fy = axis(size[0], volume.shape[0])
    x0, x1, fx = axis(size[1], volume.shape[1])
    v, fx, fy = volume.double(), fx[None, :, None], fy[:, None, None]
    upper = v[y0][:, x0] * (16 - fx) + v[y0][:, x1] * fx
    lower = v[y1][:, x0] * (16 - fx) + v[y1][:, x1] * fx
    return ((upper * (16 - fy) + lower * fy + 128) / 256).floor()


def semi_global(
    cost: Tensor, guide: Tensor, *, p1: int = 12, p2: int = 90, edge: float = 40.0
) -> Tensor:
    """Pixel by pixel, path by path."""
    height, width, _ = cost.shape
    values, levels, total = cost.double(), grey(guide), torch.zeros(cost.shape).double()
    for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1), (-1, 1), (1, -1)):
        path = torch.zeros(cost.shape).double()
        for y in range(height)[:: 1 if dy >= 0 else -1]:
            for x in range(width)[:: 1 if dx >= 0 else -1]:
                path[y, x] = values[y, x]
                if not (0 <= y - dy < height and 0 <= x - dx < width):
                    continue
                before = path[y - dy, x - dx]
                step = float((levels[y, x] - levels[y - dy, x - dx]).abs())
                jump = max(p1, int(p2 * edge / (edge + step)))
                side = functional.pad(before, (1, 1), value=float("inf"))
                near = torch.minimum(side[:-2], side[2:]) + p1
                way = torch.minimum(torch.minimum(before, near), before.min() + jump)
                path[y, x] += way - before.min()
        total += path
    return total.to(torch.int32).to(torch.uint16)


def winner(total: Tensor, cost: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    values = total.to(torch.int32)
    height, width, planes = values.shape
    found = torch.zeros(3, height, width, dtype=torch.float64)
    for y in range(height):
        for x in range(width):
            row = values[y, x].tolist()
            best = row.index(min(row))
            offset = 0.0
            if 0 < best < planes - 1:
                left, right = row[best - 1] - row[best], row[best + 1] - row[best]
                offset = 0.5 * (left - right) / (left + right) if left + right > 0 else 0.0
            rivals = [v for d, v in enumerate(row) if abs(d - best) > 2]
            rival = min(rivals, default=0)
            margin = 1 - row[best] / rival if 0 < rival < 65535 else 0.0
            found[:, y, x] = torch.tensor([best + offset, cost[y, x, best] / 254, margin])
    return found[0], found[1], found[2]


def consistency(
    depth: Tensor,
    neighbour_depth: Tensor,
    there: Tensor,
    back: Tensor,
    *,
    depth_tolerance: float = 0.02,
    pixel_tolerance: float = 1.0,
) -> Tensor:
    height, width = depth.shape
    agreement = torch.full((height, width), -1.0, dtype=torch.float64)
    for y in range(height):
        for x in range(width):
            z = float(depth[y, x])
            if not z > 0:
                continue
            p = torch.tensor([x + 0.5, y + 0.5, 1.0]).double()
            q = there[:, :3] @ p + there[:, 3] / z
            if q[2] <= NEAREST:
                continue
            u, v = float(q[0] / q[2]), float(q[1] / q[2])
            if not (0 <= u < neighbour_depth.shape[1] and 0 <= v < neighbour_depth.shape[0]):
                continue
            found = float(neighbour_depth[int(v), int(u)])
            if not found > 0:
                continue
            r = back[:, :3] @ torch.tensor([u, v, 1.0]).double() + back[:, 3] / found
            if r[2] <= NEAREST:
                agreement[y, x] = 0
                continue
            apart = abs(float(r[2]) * found - z) / z
            pixels = float((r[:2] / r[2] - p[:2]).norm())
            worst = max(apart / depth_tolerance, pixels / pixel_tolerance)
            agreement[y, x] = max(0.0, 1 - worst)
    return agreement
