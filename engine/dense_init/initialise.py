# SPDX-License-Identifier: Apache-2.0
"""Dense initialisation: Gaussians for a whole scene from matches between its views.

    choose references and neighbours -> match -> check views against each other -> complete depths
    -> draw points -> fit colours -> splats

Each step is a module of its own; this one puts them in order, keeps the time, and says clearly
what is wrong when nothing can come of it.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, overload

import torch
from torch import Tensor

from ...datasets import Scene, View
from ...representations import Gaussians3D
from .appearance import fit_colours
from .consistency import DepthEstimate, cross_check
from .draw import Draw, draw_points
from .estimate import allowed_pixels, estimate_depth
from .matcher import Matcher
from .neighbours import NO_PARALLAX, ViewGraph, choose_neighbours, choose_references, view_graph
from .plane_sweep import PlaneSweep
from .point_cloud import PointCloudMatcher
from .reduced import ReducedMatcher
from .report import DenseInitProgress, DenseInitReport, ProgressCallback, ViewCoverage
from .splats import (
    FAR,
    INTERPOLATED,
    MATCHED,
    SPARSE,
    SplatStyle,
    SurfacePoints,
    make_splats,
)
from .view_maps import ViewMaps, completed, fill_view, shell_of, verified_maps, with_sparse_points

ScaleRule = Literal["spacing", "distance"]

# With wrong poses, depth maps of an object on a table still agree by chance in a tenth to a third
# of the pixels (with right ones in 19 of 20), and a sweep that checks its own result finds depth
# for 0.7 % of a photo (with right ones for half of it).
_MIN_VERIFIED = 0.4
_MIN_COVERAGE = 0.02
# Below this mean contrast of neighbouring pixels, images show nothing that could be matched.
_NO_TEXTURE = 0.0025
# The default matcher's planes are one pixel apart or closer: finding the place between them does as
# well as twice as many planes.
_PLANES = 48
# The default matcher works at a size at which a point's cell is some six pixels wide, but at no
# less than a third of the photos'.
_SIDE_PER_PIXEL = 6.0
_MOST_REDUCED = 3
# In images smaller than this, every pixel counts.
_SHORTEST_SIDE = 128
# Opacities of interpolated points: see docs/methods/dense_init.md for what they were chosen by.
_PHOTO_GUESS = 0.9
_OBJECT_GUESS = 0.1


@dataclass(frozen=True)
class _Options:
    """The arguments of `dense_init`, checked."""

    per_view: int
    max_points: int | None
    neighbours: int
    max_references: int
    sh_degree: int
    seed: int
    min_confidence: float
    max_error: float
    flat_share: float
    sparse_points: bool
    interpolate: bool
    far_shell: bool | None
    guess_opacity: float | None
    style: SplatStyle

    def __post_init__(self) -> None:
        least = {"per_view": 1, "neighbours": 1, "max_references": 1, "sh_degree": 0, "seed": 0}
        for name, low in least.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ValueError(f"dense_init: {name}: expected an int >= {low}, got {value!r}")
        if self.sh_degree > 4:
            raise ValueError(f"dense_init: sh_degree: expected 0 to 4, got {self.sh_degree}")
        cap = self.max_points
        if cap is not None and (isinstance(cap, bool) or not isinstance(cap, int) or cap < 1):
            raise ValueError(f"dense_init: max_points: expected None or an int >= 1, got {cap!r}")
        if not (0 < self.min_confidence <= 1 and 0 < self.flat_share <= 1):
            raise ValueError(
                "dense_init: expected min_confidence and flat_share in (0, 1], "
                f"got {self.min_confidence} and {self.flat_share}"
            )
        if not (math.isfinite(self.max_error) and self.max_error > 0):
            raise ValueError(
                f"dense_init: max_error: expected a number > 0, got {self.max_error!r}"
            )
        guess = self.guess_opacity
        if guess is not None and not 0 < guess < 1:
            raise ValueError(f"dense_init: guess_opacity: expected None or in (0, 1), got {guess}")
        if self.style.scale not in ("spacing", "distance"):
            raise ValueError(
                f'dense_init: scale: expected "spacing" or "distance", got {self.style.scale!r}'
            )


class _Clock:
    """Wall time by stage, and the progress callback."""

    def __init__(self, progress: ProgressCallback | None) -> None:
        self.progress = progress
        self.seconds: dict[str, float] = {}
        self.start = self.last = time.perf_counter()

    def tick(self, stage: str, done: int, total: int, view: str = "") -> None:
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self.last
        self.last = now
        if self.progress is not None:
            self.progress(DenseInitProgress(stage, done, total, view))


@overload
def dense_init(
    scene: Scene,
    *,
    matcher: Matcher | None = ...,
    per_view: int = ...,
    max_points: int | None = ...,
    neighbours: int = ...,
    sh_degree: int = ...,
    seed: int = ...,
    device: torch.device | str | None = ...,
    progress: ProgressCallback | None = ...,
    return_report: Literal[False] = ...,
    max_references: int = ...,
    min_confidence: float = ...,
    max_error: float = ...,
    flat_share: float = ...,
    sparse_points: bool = ...,
    interpolate: bool = ...,
    far_shell: bool | None = ...,
    guess_opacity: float | None = ...,
    scale: ScaleRule = ...,
) -> Gaussians3D: ...


@overload
def dense_init(
    scene: Scene,
    *,
    matcher: Matcher | None = ...,
    per_view: int = ...,
    max_points: int | None = ...,
    neighbours: int = ...,
    sh_degree: int = ...,
    seed: int = ...,
    device: torch.device | str | None = ...,
    progress: ProgressCallback | None = ...,
    return_report: Literal[True],
    max_references: int = ...,
    min_confidence: float = ...,
    max_error: float = ...,
    flat_share: float = ...,
    sparse_points: bool = ...,
    interpolate: bool = ...,
    far_shell: bool | None = ...,
    guess_opacity: float | None = ...,
    scale: ScaleRule = ...,
) -> tuple[Gaussians3D, DenseInitReport]: ...


@torch.no_grad()
def dense_init(
    scene: Scene,
    *,
    matcher: Matcher | None = None,
    per_view: int = 15_000,
    max_points: int | None = None,
    neighbours: int = 4,
    sh_degree: int = 3,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: ProgressCallback | None = None,
    return_report: bool = False,
    max_references: int = 180,
    min_confidence: float = 0.1,
    max_error: float = 1.5,
    flat_share: float = 0.3,
    sparse_points: bool = True,
    interpolate: bool = True,
    far_shell: bool | None = None,
    guess_opacity: float | None = None,
    scale: ScaleRule = "spacing",
) -> Gaussians3D | tuple[Gaussians3D, DenseInitReport]:
    """Makes Gaussians for a scene from dense matches between its training views.

    What comes out covers the surfaces that the views see, so that training needs no densification.

    Args:
        scene: At least two training views with poses (one is enough for a matcher that brings
            depth). Masked and transparent pixels give no points.
        matcher: Finds the correspondences; default `PlaneSweep` on the device, on images reduced
            (`ReducedMatcher`) to what the number of points calls for.
        per_view: Cells that each view's image is cut into, each of which gives one point unless an
            earlier view's point lies in it.
        max_points: Most splats in all; the cells become larger to keep to it. Default no limit.
        neighbours: Views that each view is matched against, at most.
        sh_degree: Of the spherical harmonics, 0 to 4.
        seed: Of all draws. The same seed gives the same splats.
        device: Where to work and where the splats are; default the CPU.
        progress: Called with a `DenseInitProgress` as views are done.
        return_report: Also return a `DenseInitReport`.
        max_references: Views to take points from, at most; chosen to cover the scene.
        min_confidence: Matches below it count as none, in (0, 1].
        max_error: Reprojection error up to which views agree, pixels.
        flat_share: Density of splats on a featureless area over the average, in (0, 1].
        sparse_points: Put the scene's own points where matching is blank.
        interpolate: Interpolate depth into blank regions.
        far_shell: Put points on a far sphere where rays find nothing, for skies and backgrounds;
            default if the images have no alpha channel.
        guess_opacity: Of interpolated points; default 0.9, or 0.1 if the images have an alpha
            channel: a gap in an object shows its other side, a gap in a photo nothing.
        scale: "spacing", of neighbouring points; or "distance", the EDGS rule.

    Returns:
        The Gaussians; with `return_report` also what happened.

    Raises:
        ValueError: If there are too few views, or they do not overlap, or all stand in one place;
            if the images show no texture and the scene has no points; if the views' depths
            contradict each other, as with wrong poses; or an argument is out of range.
        FileFormatError: If an image cannot be read.

    Source:
        Kotovenko, Grebenkova and Ommer, EDGS: Eliminating Densification for Efficient Convergence
        of 3DGS, arXiv 2504.13204. See docs/methods/dense_init.md for what differs.

    Example:
        >>> from fieldline.engine.dense_init import DepthMaps
        >>> splats = dense_init(scene, matcher=DepthMaps(), per_view=200)
        >>> len(splats) > 100
        True
    """
    options = _Options(
        per_view,
        max_points,
        neighbours,
        max_references,
        sh_degree,
        seed,
        min_confidence,
        max_error,
        flat_share,
        sparse_points,
        interpolate,
        far_shell,
        guess_opacity,
        SplatStyle(scale=scale),
    )
    clock = _Clock(progress)
    place = torch.device("cpu" if device is None else device)
    gaussians, report = _Initialiser(
        scene,
        PlaneSweep(planes=_PLANES, device=place) if matcher is None else matcher,
        options,
        place,
        clock,
        fits_resolution=matcher is None,
    ).run()
    return (gaussians, report) if return_report else gaussians


class _Initialiser:
    """One call of `dense_init`."""

    def __init__(
        self,
        scene: Scene,
        matcher: Matcher,
        options: _Options,
        device: torch.device,
        clock: _Clock,
        fits_resolution: bool,
    ) -> None:
        self.scene, self.matcher, self.options = scene, matcher, options
        self.fits_resolution = fits_resolution
        self.device, self.clock = device, clock
        self.views = list(scene.train)
        # A matcher that brings depth needs no second view to see it.
        self.needs_parallax = bool(getattr(matcher, "needs_parallax", True))
        # One that finds single points, not surfaces, covers little, and two views rarely agree on
        # a pixel.
        self.is_sparse = bool(getattr(matcher, "sparse", False))
        self.errors: list[Tensor] = []

    def run(self) -> tuple[Gaussians3D, DenseInitReport]:
        """Does all steps."""
        graph, references, neighbours = self._choose_views()
        estimates = self._match(references, neighbours)
        maps, counts, consistency = self._verify(references, neighbours, estimates)
        self._check_result(counts)
        maps = self._complete(maps, references, neighbours)
        order = _drawing_order(graph, references)
        draws, chosen, over_cap = self._draw([maps[i] for i in order])
        sh = self._colours(chosen, [maps[i] for i in order])
        gaussians = make_splats(chosen, sh, self._style())
        good = gaussians.finite()
        if not bool(good.all()):
            gaussians, chosen = gaussians.select(good), chosen.select(good.nonzero().squeeze(1))
        self.clock.tick("colour", len(maps), len(maps))
        by_view = {order[i]: draw for i, draw in enumerate(draws)}
        views = tuple(
            _coverage(maps[i], len(neighbours[i]), counts[i], by_view[i]) for i in range(len(maps))
        )
        return gaussians, self._report(views, chosen, over_cap, consistency)

    # -- steps -------------------------------------------------------------------------------------

    def _choose_views(self) -> tuple[ViewGraph, list[int], list[list[int]]]:
        """The graph, the numbers of the references, and of each one's neighbours."""
        count = len(self.views)
        if self.needs_parallax and count < 2:
            raise ValueError(
                "dense_init: scene: expected at least 2 training views (one view has no depth), "
                f"got {count}"
            )
        graph = view_graph(self.scene, self.views, seed=self.options.seed)
        if self.needs_parallax:
            _check_graph(graph)
        references = choose_references(graph, self.options.max_references)
        chosen = choose_neighbours(graph, self.options.neighbours)
        neighbours = [chosen[i] for i in references]
        self._fit_resolution(len(references))
        self.matcher.prepare(
            self.scene,
            [self.views[i] for i in references],
            [[self.views[j] for j in near] for near in neighbours],
        )
        self.clock.tick("prepare", 1, 1)
        return graph, references, neighbours

    def _fit_resolution(self, references: int) -> None:
        """Lets the default matcher work at the resolution that the points call for."""
        if not self.fits_resolution:
            return
        options = self.options
        points = float(options.per_view)
        if options.max_points is not None:
            points = min(points, options.max_points / references)
        pixels = sorted(view.width * view.height for view in self.views)[len(self.views) // 2]
        factor = int(math.sqrt(pixels / max(points, 1.0)) / _SIDE_PER_PIXEL)
        shortest = min(min(view.width, view.height) for view in self.views)
        factor = min(factor, _MOST_REDUCED, shortest // _SHORTEST_SIDE)
        if factor > 1:
            self.matcher = ReducedMatcher(self.matcher, factor)

    def _match(
        self, references: list[int], neighbours: list[list[int]]
    ) -> dict[int, DepthEstimate]:
        estimates: dict[int, DepthEstimate] = {}
        for done, (i, near) in enumerate(zip(references, neighbours), start=1):
            view, others = self.views[i], [self.views[j] for j in neighbours[done - 1]]
            if self.needs_parallax and not near:
                blank = torch.zeros(view.height, view.width, device=self.device)
                camera = view.camera.to(self.device).to(torch.float32)
                estimates[i] = DepthEstimate(camera, blank, blank)
            else:
                estimates[i], errors = estimate_depth(
                    view,
                    others,
                    self.matcher.match(view, others),
                    min_confidence=self.options.min_confidence,
                    max_error=self.options.max_error,
                    device=self.device,
                )
                if errors is not None:
                    self.errors.append(errors)
            self.clock.tick("match", done, len(references), view.name)
        return estimates

    def _verify(
        self,
        references: list[int],
        neighbours: list[list[int]],
        estimates: dict[int, DepthEstimate],
    ) -> tuple[list[ViewMaps], list[dict[str, int]], float]:
        """What other views confirm, counts of pixels, and the share that is confirmed."""
        maps, counts = [], []
        confirmed = judged = 0
        for done, (i, near) in enumerate(zip(references, neighbours), start=1):
            view, estimate = self.views[i], estimates[i]
            others = [estimates[j] for j in near if j in estimates]
            agreement = cross_check(estimate, others, self.options.max_error)
            allowed = allowed_pixels(view).to(self.device)
            verified, count = verified_maps(view, estimate, agreement, allowed)
            maps.append(verified)
            counts.append(count)
            judged += int((agreement.known > 0).sum())
            confirmed += int((agreement.confirmed > 0).sum())
            self.clock.tick("check", done, len(references), view.name)
        return maps, counts, confirmed / judged if judged else 1.0

    def _check_result(self, counts: list[dict[str, int]]) -> None:
        """Raises ValueError where going on would make a scene out of noise."""
        matched = sum(count["matched"] for count in counts)
        verified = sum(count["verified"] for count in counts)
        pixels = sum(count["pixels"] for count in counts)
        if pixels == 0:
            raise ValueError(
                "dense_init: scene: expected pixels that count in some view, got none: "
                "all are masked out or transparent"
            )
        enough = self.is_sparse or verified >= _MIN_COVERAGE * pixels
        if enough and (verified >= _MIN_VERIFIED * matched or self.is_sparse):
            return
        if _texture(self.views) < _NO_TEXTURE:
            if self.options.sparse_points and self._has_points():
                return
            raise ValueError(
                "dense_init: scene: expected images with texture to match, got nearly uniform "
                f"ones (mean contrast {_texture(self.views):.4f})"
            )
        held = 100 * verified / matched if matched else 0.0
        raise ValueError(
            f"dense_init: scene: views do not fit together: depth was found for "
            f"{100 * matched / pixels:.1f} % of the pixels (expected at least "
            f"{100 * _MIN_COVERAGE:.0f} %), and {held:.0f} % of it agrees with other views "
            f"(expected at least {100 * _MIN_VERIFIED:.0f} %). The camera poses are probably "
            "wrong, or the scene moves"
        )

    @functools.cached_property
    def _opaque(self) -> bool:
        """Whether no image has an alpha channel."""
        return all(view.image.shape[-1] == 3 for view in self.views)

    def _style(self) -> SplatStyle:
        guess = self.options.guess_opacity
        if guess is None:
            guess = _PHOTO_GUESS if self._opaque else _OBJECT_GUESS
        return replace(self.options.style, guess_opacity=guess)

    def _has_points(self) -> bool:
        return self.scene.points is not None and len(self.scene.points) > 0

    def _complete(
        self, maps: list[ViewMaps], references: list[int], neighbours: list[list[int]]
    ) -> list[ViewMaps]:
        """Fills blanks: the scene's points, interpolation, the far shell."""
        if self.options.sparse_points and self._has_points():
            points = PointCloudMatcher()
            points.prepare(self.scene, [], [])
            for k, view in enumerate(maps):
                depth = points.match(view.view, []).depth
                assert depth is not None
                maps[k] = with_sparse_points(view, depth.to(self.device))
        far = self.options.far_shell
        if far is None:
            far = self._opaque
        if not (self.options.interpolate or far):
            return maps
        small = {i: fill_view(view) for i, view in zip(references, maps)}
        shell = shell_of(maps)
        for k, (i, near) in enumerate(zip(references, neighbours)):
            others = [small[j] for j in near if j in small]
            maps[k] = completed(
                maps[k],
                small[i],
                others,
                shell,
                interpolate=self.options.interpolate,
                far=far,
            )
            self.clock.tick("complete", k + 1, len(maps), maps[k].view.name)
        return maps

    def _draw(self, maps: list[ViewMaps]) -> tuple[list[Draw], SurfacePoints, int]:
        """Points of all views, within the cap."""
        cap = self.options.max_points
        draws = draw_points(
            maps,
            self.options.per_view,
            flat_share=self.options.flat_share,
            seed=self.options.seed,
            max_points=cap,
        )
        parts = [draw.points for draw in draws if draw.points is not None]
        if not parts:
            raise ValueError(
                "dense_init: scene: expected depth for some pixels, found none: matching failed "
                "everywhere, and the scene has no points"
            )
        chosen = SurfacePoints.join(parts)
        over = 0 if cap is None else max(0, len(chosen) - cap)
        if over:
            generator = torch.Generator().manual_seed(self.options.seed)
            kept = torch.randperm(len(chosen), generator=generator)[: len(chosen) - over]
            chosen = chosen.select(kept.sort().values.to(self.device))
        self.clock.tick("draw", len(maps), len(maps))
        return draws, chosen, over

    def _colours(self, chosen: SurfacePoints, maps: list[ViewMaps]) -> Tensor:
        total = len(maps)
        return fit_colours(
            chosen,
            maps,
            self.options.sh_degree,
            lambda done, name: self.clock.tick("colour", done, total, name),
        )

    def _report(
        self,
        views: tuple[ViewCoverage, ...],
        chosen: SurfacePoints,
        over_cap: int,
        consistency: float,
    ) -> DenseInitReport:
        by_kind = {kind: int((chosen.kind == kind).sum()) for kind in range(1, 5)}
        errors = torch.cat(self.errors) if self.errors else None
        return DenseInitReport(
            views=views,
            points=len(chosen),
            matched=by_kind[MATCHED],
            sparse=by_kind[SPARSE],
            interpolated=by_kind[INTERPOLATED],
            far=by_kind[FAR],
            over_cap=over_cap,
            consistency=consistency,
            median_error=None if errors is None or not len(errors) else float(errors.median()),
            seconds=time.perf_counter() - self.clock.start,
            stage_seconds=self.clock.seconds,
        )


def _check_graph(graph: ViewGraph) -> None:
    """Raises ValueError if no two views overlap, or none of those that do stand apart."""
    others = ~torch.eye(len(graph.score), dtype=torch.bool)
    overlap = graph.overlap.where(others, 0.0)
    if float(overlap.max()) < 0.01:
        raise ValueError(
            f"dense_init: scene: expected views that overlap, got {len(graph.score)} of which no "
            "two see the same part of the scene"
        )
    angle = graph.angle.where(others & (overlap > 0), 0.0)
    if float(angle.max()) < NO_PARALLAX:
        raise ValueError(
            "dense_init: scene: expected cameras that stand apart, got "
            f"{len(graph.score)} that see their surroundings from one place (largest angle "
            f"{math.degrees(float(angle.max())):.4f} degrees): rotation alone shows no depth"
        )


def _texture(views: Sequence[View]) -> float:
    """Mean absolute difference of neighbouring pixels, over some of the views, in [0, 1]."""
    some = views[:: max(1, len(views) // 8)]
    contrasts = []
    for view in some:
        gray = view.rgb().mean(-1)
        contrasts.append(float((gray[:, 1:] - gray[:, :-1]).abs().mean()))
    return sum(contrasts) / len(contrasts)


def _drawing_order(graph: ViewGraph, references: list[int]) -> list[int]:
    """Positions in `references`: those that see most first, so that most points have one source."""
    seen = graph.sees[references].sum(-1)
    return seen.argsort(descending=True, stable=True).tolist()


def _coverage(maps: ViewMaps, near: int, count: dict[str, int], draw: Draw) -> ViewCoverage:
    return ViewCoverage(
        name=maps.view.name,
        neighbours=near,
        **count,
        cells=draw.cells,
        points=0 if draw.points is None else len(draw.points),
        merged=draw.merged,
        empty=draw.empty,
    )
