# SPDX-License-Identifier: Apache-2.0
"""What dense initialisation reports while it works and when it is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class DenseInitProgress:
    """One view is done with one stage.

    Args:
        stage: "prepare", "match", "check", "sample" or "colour".
        done: Views that are.
        total: Views there are.
        view: The name of the last; empty where a stage is not about views.
    """

    stage: str
    done: int
    total: int
    view: str = ""


ProgressCallback = Callable[[DenseInitProgress], None]


@dataclass(frozen=True)
class ViewCoverage:
    """What became of one reference view.

    Pixels: matched = verified + contradicted + unconfirmed. Cells: cells = points + merged + empty.

    Args:
        name: The view's.
        neighbours: How many views it was compared with.
        pixels: That may hold points: not masked, not transparent.
        matched: Pixels that the matcher found with enough confidence.
        verified: Of these, those that other views confirm, or that no other view can judge.
        contradicted: Those that other views look through more than they confirm.
        unconfirmed: Those that other views have other depths for, without looking through.
        cells: Cells of the sampling.
        points: Cells that gave a point.
        merged: Cells that a point of an earlier view lies in already.
        empty: Cells without any depth.
    """

    name: str
    neighbours: int
    pixels: int
    matched: int
    verified: int
    contradicted: int
    unconfirmed: int
    cells: int = 0
    points: int = 0
    merged: int = 0
    empty: int = 0

    @property
    def coverage(self) -> float:
        """Share of the pixels whose depth is verified."""
        return self.verified / max(1, self.pixels)


@dataclass(frozen=True)
class DenseInitReport:
    """What dense initialisation did.

    points = matched + sparse + interpolated + far, after `over_cap` were left out.

    Args:
        views: One entry for each reference view.
        points: Splats in the result.
        matched: Of these, from verified matches.
        sparse: From the scene's points, where matching was blank.
        interpolated: From depth interpolated into blank regions.
        far: On the far shell.
        over_cap: Points left out to keep within `max_points`.
        consistency: Share of the pixels that other views could judge and confirmed.
        median_error: Median reprojection error of what the matcher matched across views, pixels;
            None where it gave depth, not matches.
        seconds: Wall time.
        stage_seconds: Wall time by stage.
    """

    views: tuple[ViewCoverage, ...]
    points: int
    matched: int
    sparse: int
    interpolated: int
    far: int
    over_cap: int
    consistency: float
    median_error: float | None
    seconds: float
    stage_seconds: dict[str, float]

    @property
    def coverage(self) -> float:
        """Share of all views' pixels whose depth is verified."""
        return sum(v.verified for v in self.views) / max(1, sum(v.pixels for v in self.views))

    def as_dict(self) -> dict[str, Any]:
        """Gives everything as plain values, for JSON.

        Returns:
            The fields, with `coverage` added to the whole and to each view.
        """
        views = [{**asdict(view), "coverage": view.coverage} for view in self.views]
        return {**asdict(self), "coverage": self.coverage, "views": views}
