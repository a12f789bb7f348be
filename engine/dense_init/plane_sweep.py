# SPDX-License-Identifier: Apache-2.0
"""Matching by plane sweep: depth maps from posed photographs, without learned weights.

A reference view is compared with its neighbours on planes parallel to it, evenly spaced in inverse
depth: each pixel of each plane gets a cost (census and normalised correlation, the mean over the
neighbours that fit best, so that occlusion in some does no harm), coarser images steady finer ones,
semi-global aggregation along eight paths fills what single windows cannot decide, and a parabola
places the winner between planes. What the neighbours' own depth maps confirm is kept.

The kernels are in ``fieldline.cuda.match``; this module chooses ranges, keeps what views share, and
turns planes into depths, normals and confidence.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ...cuda.match import ops
from ...datasets import Scene, View
from ...datasets.images import area_resize
from ...representations.cameras import Camera
from .matcher import Correspondence

# Points that a view must see for its range of depths to come from them.
_MIN_POINTS = 20
# The range is that of all depths but the outermost, widened.
_QUANTILES = torch.tensor([0.005, 0.995], dtype=torch.float64)
_NEAR_ROOM, _FAR_ROOM = 0.85, 1.3
# Without points the range is scanned for: from so many baselines away (nearer things look too
# different from two places) to so many times as far, by pixels that are surely matched.
_NEAREST_BASELINES, _FARTHEST, _SCAN_PLANES = 1.5, 1000.0, 192
_SCAN_COST, _SCAN_MARGIN, _MIN_SCANNED = 0.3, 0.08, 100
# Images smaller than this on a side are not reduced further.
_MIN_SIDE = 48
# A neighbour that shifts the image by less over the whole range says nothing about depth.
_MIN_SHIFT = 1.0
# Cameras nearer to each other than this part of their coordinates stand in one place: poses are
# float32.
_SAME_PLACE = 2e-6
# Views whose reduced images are kept.
_PYRAMIDS = 24
_PARTNERS = 4


@dataclass(frozen=True)
class _Level:
    """A view at one size."""

    camera: Camera
    grey: Tensor  # int16 [H, W], see cuda.match.ops


@dataclass(frozen=True)
class _Swept:
    """What the sweep of one view found, before its neighbours had their say."""

    depth: Tensor  # float32 [H, W], 0 where unknown
    cost: Tensor  # float32 [H, W], 0 to 1


class PlaneSweep:
    """The default matcher: plane sweep with semi-global aggregation, in the core.

    Views may differ in size and intrinsics. Pixels outside a view's mask, or with an alpha below
    one half, are not matched. Neighbours that stand where the reference stands are ignored, because
    depth cannot be seen from one place: with no other neighbour, nothing is found (confidence 0).
    Where there is no texture, and where fewer than `min_views` neighbours confirm a depth, the
    confidence is 0.

    Args:
        planes: Depth planes of a view, 3 to 256.
        max_planes: Planes are added up to this number where a step of one plane would move the
            image by more than a pixel; at most 256, at least `planes`.
        scales: Image sizes, each half of the one before, whose costs are blended.
        best: How many of the neighbours count for a pixel, 1 to 4; the others may be occluded.
        prior_weight: Share of the coarser size's costs, 0 to 1.
        p1: Price of a change by one plane between pixels (costs are 0 to 254).
        p2: Price of a larger change; halved at an edge of 10 grey levels.
        max_cost: Pixels whose best cost, 0 to 1, is above it are unknown.
        min_views: How many neighbours must confirm a depth (one, if there is only one neighbour).
        depth_tolerance: Difference of depth that no longer confirms, relative.
        pixel_tolerance: Distance of the two points in the image that no longer confirms, pixels.
        min_confidence: Confidence below it becomes 0.
        device: Where to work; default the CPU. Results come back there.

    Raises:
        ValueError: If a number is out of range.

    Source: Collins, "A space-sweep approach to true multi-image matching" (1996); Hirschmueller,
        "Stereo processing by semiglobal matching and mutual information" (2008).

    Example:
        >>> from fieldline.datasets.synthetic import still_life
        >>> scene = still_life(n_views=12, width=96, height=72)
        >>> found = PlaneSweep(planes=32).match(scene.views[3], [scene.views[2], scene.views[4]])
        >>> found.depth.shape
        torch.Size([72, 96])
    """

    def __init__(
        self,
        *,
        planes: int = 96,
        max_planes: int = 192,
        scales: int = 2,
        best: int = 2,
        prior_weight: float = 0.5,
        p1: int = 12,
        p2: int = 90,
        max_cost: float = 0.5,
        min_views: int = 2,
        depth_tolerance: float = 0.02,
        pixel_tolerance: float = 1.0,
        min_confidence: float = 0.05,
        device: torch.device | str = "cpu",
    ) -> None:
        _check_int("planes", planes, 3, ops.MAX_PLANES)
        _check_int("max_planes", max_planes, planes, ops.MAX_PLANES)
        _check_int("scales", scales, 1, 8)
        _check_int("best", best, 1, ops.MAX_BEST)
        _check_int("p2", p2, 0, 4000)
        _check_int("p1", p1, 0, p2)
        _check_int("min_views", min_views, 1, ops.MAX_NEIGHBOURS)
        for name, value in (
            ("prior_weight", prior_weight),
            ("max_cost", max_cost),
            ("min_confidence", min_confidence),
        ):
            if not 0 <= value <= 1:
                raise ValueError(f"PlaneSweep: {name}: expected 0 to 1, got {value}")
        for name, value in (
            ("depth_tolerance", depth_tolerance),
            ("pixel_tolerance", pixel_tolerance),
        ):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"PlaneSweep: {name}: expected a number above 0, got {value}")
        self.planes, self.max_planes, self.scales, self.best = planes, max_planes, scales, best
        self.prior_weight, self.p1, self.p2 = prior_weight, p1, p2
        self.max_cost, self.min_views = max_cost, min_views
        self.depth_tolerance, self.pixel_tolerance = depth_tolerance, pixel_tolerance
        self.min_confidence = min_confidence
        self.device = torch.device(device)
        self._forget()

    def _forget(self) -> None:
        self._points: Tensor | None = None
        self._partners: dict[View, list[View]] = {}
        self._swept: dict[View, _Swept] = {}
        self._pyramids: OrderedDict[View, list[_Level]] = OrderedDict()

    # -- the interface of a matcher ----------------------------------------------------------------

    def prepare(
        self, scene: Scene, references: Sequence[View], neighbours: Sequence[Sequence[View]]
    ) -> None:
        """Takes in the scene's points, and who will be matched with whom; forgets the last scene.

        Args:
            scene: Its points, if it has any, give the range of depths of each view.
            references: The views that `match` will be called for.
            neighbours: Those of each reference.

        Raises:
            ValueError: If the two lists differ in length, or a camera is no pinhole.
        """
        if len(references) != len(neighbours):
            raise ValueError(
                f"PlaneSweep.prepare: neighbours: expected one list for each of "
                f"{len(references)} references, got {len(neighbours)}"
            )
        for view in (*references, *(v for views in neighbours for v in views)):
            _check_pinhole(view)
        self._forget()
        self._points = scene.points
        for reference, views in zip(references, neighbours):
            self._partners[reference] = list(views)[: ops.MAX_NEIGHBOURS]
        for reference, views in zip(references, neighbours):
            self._adopt(reference, views)

    def match(self, reference: View, neighbours: Sequence[View]) -> Correspondence:
        """Finds the depth of a view's pixels.

        The neighbours are swept too, once each, to be asked for their opinion.

        Args:
            reference: The view.
            neighbours: At least one other view, 16 at most count.

        Returns:
            Depth, confidence and normals. The confidence is the mean agreement of the neighbours
            that confirm, times the share of those that see the point and do, times 1 - cost.

        Raises:
            ValueError: If there is no neighbour, the reference is among them, or a camera is no
                pinhole.
        """
        views = list(neighbours)[: ops.MAX_NEIGHBOURS]
        if not views:
            raise ValueError("PlaneSweep.match: neighbours: expected at least one view, got none")
        if any(view is reference for view in views):
            raise ValueError(
                f"PlaneSweep.match: neighbours: expected views other than {reference.name}"
            )
        for view in (reference, *views):
            _check_pinhole(view)
        if self._partners.get(reference) != views:
            self._partners[reference] = views
            self._swept.pop(reference, None)
        self._adopt(reference, views)
        own = self._sweep(reference)
        confidence = self._confirm(reference, own, views)
        depth = own.depth
        normal = normals_from_depth(depth, confidence, reference.camera)
        return Correspondence(confidence=confidence, depth=depth, normal=normal)

    # -- one view ----------------------------------------------------------------------------------

    def _adopt(self, reference: View, views: Sequence[View]) -> None:
        """A neighbour that is no reference itself is swept with the reference and its others."""
        for view in views:
            if view not in self._partners:
                others = [other for other in views if other is not view]
                self._partners[view] = [reference, *others][:_PARTNERS]

    def _levels(self, view: View) -> list[_Level]:
        levels = self._pyramids.pop(view, None) or self._reduce(view)
        self._pyramids[view] = levels
        while len(self._pyramids) > _PYRAMIDS:
            self._pyramids.popitem(last=False)
        return levels

    def _reduce(self, view: View) -> list[_Level]:
        rgb, seen = view.rgb(), _seen(view)
        levels = []
        for scale in range(self.scales):
            width, height = (max(1, round(n / 2**scale)) for n in (view.width, view.height))
            if scale > 0 and min(width, height) < _MIN_SIDE:
                break
            if scale > 0:
                rgb = area_resize(rgb, width, height)
                if seen is not None:
                    seen = area_resize(seen[..., None].float(), width, height)[..., 0]
            mask = None if seen is None else seen > 0.999
            grey = ops.grey_image(rgb, mask).to(self.device)
            levels.append(_Level(view.camera.resized(width, height), grey))
        return levels

    def _sweep(self, view: View) -> _Swept:
        if view not in self._swept:
            self._swept[view] = self._sweep_anew(view)
        return self._swept[view]

    def _sweep_anew(self, view: View) -> _Swept:
        near, far = self._range(view)
        shifts = [image_shift(view.camera, v.camera, near, far) for v in self._partners[view]]
        partners = [v for v, s in zip(self._partners[view], shifts) if s >= _MIN_SHIFT]
        levels = self._levels(view)
        if not partners:
            nothing = torch.zeros(view.height, view.width, device=self.device)
            return _Swept(nothing, nothing + 1)
        middle = sorted(s for s in shifts if s >= _MIN_SHIFT)[len(partners) // 2]
        count = min(max(self.planes, math.ceil(min(middle, 1e6)) + 1), self.max_planes)
        inverse = torch.linspace(1 / far, 1 / near, count, device=self.device)
        cost = self._costs(levels, [self._levels(v) for v in partners], inverse)
        total = ops.semi_global(cost, levels[0].grey, p1=self.p1, p2=self.p2)
        return self._read(ops.winner(total, cost), inverse, levels[0].grey)

    def _costs(self, levels: list[_Level], others: list[list[_Level]], inverse: Tensor) -> Tensor:
        """The costs [H, W, D] of the finest size, coarser ones blended in."""
        cost: Tensor | None = None
        for scale in reversed(range(len(levels))):
            own = levels[scale]
            theirs = [other[min(scale, len(other) - 1)] for other in others]
            warps = torch.stack([plane_warp(own.camera, other.camera) for other in theirs])
            cost = ops.plane_sweep(
                own.grey,
                [other.grey for other in theirs],
                warps.to(self.device),
                inverse,
                best=min(self.best, len(theirs)),
                prior=cost,
                prior_weight=self.prior_weight,
            )
        assert cost is not None
        return cost

    def _read(self, found: ops.Winners, inverse: Tensor, grey: Tensor) -> _Swept:
        last = len(inverse) - 1
        step = (inverse[-1] - inverse[0]) / last
        depth = 1 / (inverse[0] + found.plane * step)
        # The first and the last plane also win where the truth lies beyond them.
        known = (found.plane >= 0.75) & (found.plane <= last - 0.75)
        known &= (found.cost <= self.max_cost) & (grey >= 0)
        return _Swept(torch.where(known, depth, 0.0), found.cost)

    def _range(self, view: View) -> tuple[float, float]:
        """The nearest and the farthest plane of a view."""
        if self._points is not None and len(self._points):
            xy, depth = view.camera.project(self._points.to(view.camera.K))
            inside = (xy >= 0).all(-1) & (xy[:, 0] < view.width) & (xy[:, 1] < view.height)
            depth = depth[inside & (depth > 0)].double()
            if len(depth) >= _MIN_POINTS:
                near, far = depth.quantile(_QUANTILES.to(depth)).tolist()
                return _NEAR_ROOM * near, _FAR_ROOM * far
        return self._scan(view)

    def _scan(self, view: View) -> tuple[float, float]:
        """The range of depths that a sweep of the smallest size finds, all but to infinity."""
        gaps = [_gap(view.camera, v.camera) for v in self._partners[view]]
        nearest = _NEAREST_BASELINES * sorted(gaps)[min(1, len(gaps) - 1)]
        if nearest <= 0:
            return 1.0, 2.0  # From one place any depth looks the same.
        farthest = nearest * _FARTHEST
        level = [self._levels(view)[-1]]
        partners = [[self._levels(v)[-1]] for v in self._partners[view]]
        inverse = torch.linspace(1 / farthest, 1 / nearest, _SCAN_PLANES, device=self.device)
        cost = self._costs(level, partners, inverse)
        total = ops.semi_global(cost, level[0].grey, p1=self.p1, p2=self.p2)
        found = ops.winner(total, cost)
        depth = self._read(found, inverse, level[0].grey).depth
        depth = depth[(depth > 0) & (found.cost < _SCAN_COST) & (found.margin > _SCAN_MARGIN)]
        if len(depth) < _MIN_SCANNED:
            return nearest, farthest
        near, far = depth.double().quantile(_QUANTILES.to(depth.device)).tolist()
        return _NEAR_ROOM * near, _FAR_ROOM * far

    # -- several views -----------------------------------------------------------------------------

    def _confirm(self, reference: View, own: _Swept, views: list[View]) -> Tensor:
        """Confidence [H, W] from what the neighbours' depth maps say."""
        confirmed = torch.zeros_like(own.depth)
        agreement = torch.zeros_like(own.depth)
        asked = torch.zeros_like(own.depth)
        for view in views:
            there = plane_warp(reference.camera, view.camera).to(self.device)
            back = plane_warp(view.camera, reference.camera).to(self.device)
            answer = ops.consistency(
                own.depth,
                self._sweep(view).depth,
                there,
                back,
                depth_tolerance=self.depth_tolerance,
                pixel_tolerance=self.pixel_tolerance,
            )
            confirmed += answer > 0
            asked += answer >= 0
            agreement += answer.clamp(min=0)
        needed = min(self.min_views, len(views))
        confidence = agreement / asked.clamp(min=1) * (1 - own.cost)
        kept = (confirmed >= needed) & (confidence >= self.min_confidence) & (own.depth > 0)
        return torch.where(kept, confidence, 0.0)


def _check_int(name: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"PlaneSweep: {name}: expected an int, got {type(value).__name__}")
    if not low <= value <= high:
        raise ValueError(f"PlaneSweep: {name}: expected {low} to {high}, got {value}")


def _check_pinhole(view: View) -> None:
    if view.camera.model != "pinhole":
        raise ValueError(
            f"PlaneSweep: {view.name}: expected a pinhole camera, got {view.camera.model}; "
            "load the scene undistorted"
        )


def _seen(view: View) -> Tensor | None:
    """Which pixels can be matched, bool [H, W]; None if all."""
    mask = view.mask
    if view.image.shape[-1] == 4:
        solid = view.image[..., 3] >= 128
        mask = solid if mask is None else mask & solid
    return mask


def _gap(a: Camera, b: Camera) -> float:
    """The distance of two cameras, 0 where rounding may be all of it."""
    gap = float((a.center - b.center).norm())
    return gap if gap > _SAME_PLACE * float(a.center.abs().max()) else 0.0


def plane_warp(reference: Camera, other: Camera) -> Tensor:
    """Gives the warp that planes of one view send its pixels to another view with.

    Args:
        reference: A single pinhole camera; planes are parallel to its image.
        other: A single pinhole camera.

    Returns:
        float32 [3, 4]: a pixel p = (x, y, 1) at inverse depth w is seen at
        ``warp[:, :3] @ p + w * warp[:, 3]``, in homogeneous pixels; the third number is the depth
        in the other view over that in the reference.

    Example:
        >>> camera = Camera(torch.eye(4), torch.eye(3), 8, 8)
        >>> plane_warp(camera, camera).tolist()
        [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]
    """
    move = other.world_to_camera.double() @ torch.linalg.inv(reference.world_to_camera.double())
    K = other.K.double()
    turn = K @ move[:3, :3] @ torch.linalg.inv(reference.K.double())
    return torch.cat([turn, K @ move[:3, 3:]], dim=1).float()


def image_shift(reference: Camera, other: Camera, near: float, far: float) -> float:
    """Says how far the reference's central pixel moves in another view, from near to far.

    Args:
        reference: A single pinhole camera.
        other: A single pinhole camera.
        near: A depth in the reference.
        far: A larger one.

    Returns:
        Pixels; 0 if the other camera does not have both in front of it.

    Example:
        >>> a = Camera(torch.eye(4), torch.eye(3) * 100, 8, 8)
        >>> pose = torch.eye(4); pose[0, 3] = 0.5
        >>> image_shift(a, Camera(pose, a.K, 8, 8), 1.0, 2.0)
        25.0
    """
    warp = plane_warp(reference, other).double()
    centre = warp.new_tensor([reference.width / 2, reference.height / 2, 1.0])
    ends = [warp[:, :3] @ centre + warp[:, 3] / depth for depth in (near, far)]
    if min(float(end[2]) for end in ends) <= 1e-6:
        return 0.0
    return float((ends[0][:2] / ends[0][2] - ends[1][:2] / ends[1][2]).norm())


def normals_from_depth(
    depth: Tensor, confidence: Tensor, camera: Camera, *, radius: int = 3
) -> Tensor:
    """Fits a plane to each pixel's surroundings: inverse depth is linear in the image on a plane.

    Args:
        depth: float32 [H, W], 0 where unknown.
        confidence: float32 [H, W], the weight of each pixel in the fits.
        camera: The pinhole camera.
        radius: Of the square window, pixels.

    Returns:
        float32 [H, W, 3], unit, in the camera's axes and towards it; towards the camera along the
        ray where fewer than three pixels are known.

    Example:
        >>> camera = Camera(torch.eye(4), torch.eye(3) * 9, 9, 9)
        >>> normals_from_depth(torch.full((9, 9), 2.0), torch.ones(9, 9), camera)[4, 4].tolist()
        [-0.0, -0.0, -1.0]
    """
    fx, fy, cx, cy = (float(camera.K[i, j]) for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    weight = torch.where(depth > 0, confidence, 0.0)
    inverse = torch.where(depth > 0, 1 / depth.clamp(min=1e-12), 0.0)
    slope_x, slope_y, level = _fit_planes(weight, inverse, radius)
    y, x = torch.meshgrid(
        *(torch.arange(n, device=depth.device) + 0.5 for n in depth.shape), indexing="ij"
    )
    ray = torch.stack([(x - cx) / fx, (y - cy) / fy, torch.ones_like(x)], dim=-1)
    alpha, beta = slope_x * fx, slope_y * fy
    gamma = level - alpha * ray[..., 0] - beta * ray[..., 1]
    normal = -functional.normalize(torch.stack([alpha, beta, gamma], dim=-1), dim=-1, eps=1e-20)
    fallback = -functional.normalize(ray, dim=-1)
    return torch.where((level > 0)[..., None], normal, fallback)


def _fit_planes(weight: Tensor, value: Tensor, radius: int) -> tuple[Tensor, Tensor, Tensor]:
    """Slopes along x and y and the level at each pixel [H, W], by weighted least squares."""
    offset = torch.arange(-radius, radius + 1, device=weight.device, dtype=weight.dtype)
    powers = torch.stack([torch.ones_like(offset), offset, offset * offset])
    images = torch.stack([weight, weight * value])[:, None]
    # Moments along x of both images, then along y.
    rows = functional.conv2d(images, powers[:, None, None, :], padding=(0, radius))
    both = functional.conv2d(
        rows.flatten(0, 1)[:, None], powers[:, None, :, None], padding=(radius, 0)
    ).unflatten(0, (2, 3))  # [image, power of x, power of y, H, W]
    w, v = both[0], both[1]
    total = w[0, 0].clamp(min=1e-12)
    mean_x, mean_y, mean = w[1, 0] / total, w[0, 1] / total, v[0, 0] / total
    xx = w[2, 0] / total - mean_x * mean_x
    yy = w[0, 2] / total - mean_y * mean_y
    xy = w[1, 1] / total - mean_x * mean_y
    xv = v[1, 0] / total - mean_x * mean
    yv = v[0, 1] / total - mean_y * mean
    determinant = xx * yy - xy * xy
    flat = determinant < 1e-3
    scale = 1 / torch.where(flat, 1.0, determinant)
    slope_x = torch.where(flat, 0.0, (yy * xv - xy * yv) * scale)
    slope_y = torch.where(flat, 0.0, (xx * yv - xy * xv) * scale)
    known = w[0, 0] > 1e-6
    level = torch.where(known, mean - slope_x * mean_x - slope_y * mean_y, 0.0)
    return slope_x, slope_y, level
