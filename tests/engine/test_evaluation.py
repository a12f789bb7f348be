# SPDX-License-Identifier: Apache-2.0
"""Metrics of renderings against what they are defined to be."""

from __future__ import annotations

import math

import pytest
import torch
from fieldline.datasets import Scene, View
from fieldline.engine.training import evaluate, psnr_of_error
from fieldline.engine.training.evaluation import lpips_network, measure
from small_scene import make_cameras, make_scene, make_truth

import fieldline as fl


def flat(value: float, mask: torch.Tensor | None = None) -> tuple[View, torch.Tensor]:
    camera = make_cameras(1, 24, 20)[0]
    image = torch.full((20, 24, 3), round(value * 255), dtype=torch.uint8)
    return View("flat", camera, image, mask=mask), image / 255


def test_psnr_is_of_the_mean_squared_error() -> None:
    view, truth = flat(0.4)
    metrics = measure(view, truth + 0.1, truth)
    assert metrics.psnr == pytest.approx(20.0, abs=1e-4)
    assert metrics.lpips is None


def test_identical_images_are_infinitely_alike() -> None:
    view, truth = flat(0.4)
    metrics = measure(view, truth, truth)
    assert metrics.psnr == math.inf
    assert metrics.ssim == 1.0
    assert psnr_of_error(0.0) == math.inf
    assert math.isnan(psnr_of_error(math.nan))


def test_masked_pixels_do_not_count() -> None:
    mask = torch.ones(20, 24, dtype=torch.bool)
    mask[:, :6] = False
    view, truth = flat(0.4, mask)
    image = truth.clone()
    image[:, :6] = 1.0
    image[:, 6:] += 0.01
    assert measure(view, image, truth).psnr == pytest.approx(40.0, abs=1e-3)


def test_truth_reproduces_its_pictures_and_renderings_are_clamped(scene: Scene) -> None:
    truth = make_truth()
    evaluation = evaluate(truth, scene, lpips=False)
    assert evaluation.psnr > 45
    assert evaluation.ssim > 0.99
    assert evaluation.lpips is None
    assert evaluation.psnr == pytest.approx(
        sum(view.psnr for view in evaluation.views) / len(evaluation.views)
    )
    camera, white = make_cameras(1)[0], torch.full((32, 40, 3), 255, dtype=torch.uint8)
    model = fl.Gaussians3D.from_points(torch.zeros(1, 3), torch.ones(1, 3), opacity=0.999)
    with torch.no_grad():
        model.sh0 += 50.0
        model.log_scales.fill_(4.0)
    assert evaluate(model, [View("white", camera, white)], lpips=False).psnr > 60


def test_background_is_that_of_the_scene() -> None:
    scene = make_scene(alpha=True, background=(1.0, 1.0, 1.0))
    assert evaluate(make_truth(), scene, lpips=False).psnr > 40


def test_no_views_is_an_error(scene: Scene) -> None:
    with pytest.raises(ValueError, match="at least one test view, got none"):
        evaluate(make_truth(), [])


def test_lpips_is_measured_where_it_is_installed(scene: Scene) -> None:
    network = lpips_network()
    if network is None:
        pytest.skip("no lpips package, or no AlexNet weights on this machine")
    camera = make_cameras(1, 64, 64)[0]
    image = (torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(0)) * 255).byte()
    metrics = measure(View("a", camera, image), image / 255, image / 255, network)
    assert metrics.lpips == pytest.approx(0.0, abs=1e-6)
