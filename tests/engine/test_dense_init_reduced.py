# SPDX-License-Identifier: Apache-2.0
"""Matching at a fraction of the size: what comes back fits the full one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from fieldline.datasets import Scene, View
from fieldline.datasets.synthetic import still_life
from fieldline.engine.dense_init import (
    Correspondence,
    DepthMaps,
    PlaneSweep,
    ReducedMatcher,
    dense_init,
)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return still_life(12, 120, 90, n_points=300)


class Shift:
    """A warp that moves every pixel by a part of the image's size."""

    seen: Sequence[tuple[int, int]] = ()

    def prepare(
        self, scene: Scene, references: Sequence[View], neighbours: Sequence[Sequence[View]]
    ) -> None:
        self.seen = [(view.width, view.height) for view in references]

    def match(self, reference: View, neighbours: Sequence[View]) -> Correspondence:
        x = (torch.arange(reference.width) + 0.5) / reference.width + 0.25
        y = (torch.arange(reference.height)[:, None] + 0.5) / reference.height - 0.125
        warps = [
            torch.stack(torch.broadcast_tensors(x * v.width, y * v.height), dim=-1)
            for v in neighbours
        ]
        confidence = torch.ones(len(neighbours), reference.height, reference.width)
        return Correspondence(confidence, warp=torch.stack(warps))


def test_a_warp_comes_back_in_pixels_of_the_full_size(scene: Scene) -> None:
    inner = Shift()
    matcher = ReducedMatcher(inner, 3)
    reference, others = scene.train[0], scene.train[1:3]
    matcher.prepare(scene, [reference], [others])
    assert inner.seen == [(40, 32)]
    found = matcher.match(reference, others)
    assert found.warp is not None and found.confidence.shape == (2, 90, 120)
    x, y = torch.arange(120) + 0.5 + 30, torch.arange(90)[:, None] + 0.5 - 11.25
    wanted = torch.stack(torch.broadcast_tensors(x, y), dim=-1)
    torch.testing.assert_close(found.warp[0], wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("factor", [1, 2])
def test_depth_comes_back_on_the_true_surface(scene: Scene, factor: int) -> None:
    matcher = ReducedMatcher(DepthMaps(), factor)
    reference, others = scene.train[0], scene.train[1:4]
    matcher.prepare(scene, [reference], [others])
    found = matcher.match(reference, others)
    truth = reference.depth
    assert found.depth is not None and truth is not None
    assert found.depth.shape == truth.shape == found.confidence.shape
    both = (found.depth > 0) & (truth > 0)
    error = (found.depth[both] / truth[both] - 1).abs()
    assert both.sum() > 0.6 * (truth > 0).sum()
    assert error.median() < 0.002 and (error < 0.03).float().mean() > 0.95


def test_a_plane_keeps_its_depth() -> None:
    """Between pixels the plane goes on; across a step nothing is mixed."""
    from fieldline.engine.dense_init.reduced import _enlarged_depth

    inverse = torch.linspace(0.4, 0.6, 10)[None].expand(8, 10)
    large = _enlarged_depth(1 / inverse, 16, 20)
    steps = (1 / large)[:, 1:-1].diff(dim=1)
    torch.testing.assert_close(steps, torch.full_like(steps, 0.2 / 9 / 2), atol=1e-6, rtol=0)
    step = torch.tensor([[1.0, 1, 2, 2], [1, 1, 0, 2]])
    assert set(_enlarged_depth(step, 4, 8).unique().tolist()) == {0.0, 1.0, 2.0}


def test_masks_and_alpha_stay_out_of_the_averages() -> None:
    image = torch.zeros(64, 64, 4, dtype=torch.uint8)
    image[:, ::2] = torch.tensor([200, 100, 50, 255], dtype=torch.uint8)
    mask = torch.ones(64, 64, dtype=torch.bool)
    mask[:2, :2] = False
    view = View("a", still_life(2, 64, 64, n_points=10).views[0].camera, image, mask=mask)
    small = ReducedMatcher(DepthMaps(), 2)._reduced(view)
    assert small.image[..., :3].reshape(-1, 3).unique(dim=0).tolist() == [[200, 100, 50]]
    assert small.image[..., 3].unique().tolist() == [128]
    assert small.mask is not None and int((~small.mask).sum()) == 1


def test_a_factor_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="factor: expected at least 1, got 0"):
        ReducedMatcher(PlaneSweep(), 0)


@pytest.mark.parametrize(
    ("size", "max_points", "factor"),
    [((480, 270), 2000, 2), ((480, 270), None, 1), ((200, 150), 200, 1), ((1920, 1080), 2000, 3)],
)
def test_the_default_matcher_works_at_the_size_that_points_call_for(
    size: tuple[int, int],
    max_points: int | None,
    factor: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Few points want few pixels; small images and other people's matchers stay as they are."""
    views = [
        View(view.name, view.camera.resized(*size), torch.zeros(size[1], size[0], 3).byte())
        for view in still_life(4, 40, 30, n_points=50).views
    ]
    seen = []

    def prepare(self: PlaneSweep, scene: Scene, references: Sequence[View], near: object) -> None:
        seen.append(references[0].width)
        raise InterruptedError

    monkeypatch.setattr(PlaneSweep, "prepare", prepare)
    scene = Scene(views, test_every=0, points=torch.randn(50, 3) * 0.1)
    with pytest.raises(InterruptedError):
        dense_init(scene, max_points=max_points)
    with pytest.raises(InterruptedError):
        dense_init(scene, max_points=max_points, matcher=PlaneSweep())
    assert seen == [size[0] // factor, size[0]]
