# SPDX-License-Identifier: Apache-2.0
"""Rays rendered in rounds see what one pass over all samples sees."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fieldline.representations import Camera
from fieldline.tracers.occupancy import OccupancyEstimator
from fieldline.tracers.ray_rendering import render_rays
from fieldline.tracers.vdb_estimator import VDBEstimator
from fieldline.tracers.volume_rendering import rendering
from torch import Tensor

BOX = [-1.0, -1.0, -1.0, 1.0, 1.0, 1.0]
STEP = 0.02


def estimator(kind: type[OccupancyEstimator] = OccupancyEstimator) -> OccupancyEstimator:
    made = kind(BOX, 16)
    made.binaries = torch.rand(1, 16, 16, 16, generator=torch.Generator().manual_seed(3)) < 0.4
    return made.eval()


def rays(n: int = 300) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    origins = torch.nn.functional.normalize(torch.randn(n, 3, generator=generator), dim=-1) * 3
    aims = torch.randn(n, 3, generator=generator) * 0.5
    return origins, torch.nn.functional.normalize(aims - origins, dim=-1)


class Cloud:
    """A field of smooth colours; counts what it is asked."""

    def __init__(self, thickness: float) -> None:
        self.thickness = thickness
        self.asked: list[int] = []

    def __call__(self, x: Tensor, d: Tensor, rays: Tensor) -> tuple[Tensor, Tensor]:
        self.asked.append(len(x))
        sigma = self.thickness * (1 + torch.sin(7 * x).prod(-1))
        return 0.5 + 0.5 * torch.sin(3 * x + d), sigma


class TwoSteps(Cloud):
    """The same field, densities first."""

    def __init__(self, thickness: float) -> None:
        super().__init__(thickness)
        self.colored = 0

    def density(self, x: Tensor, rays: Tensor) -> tuple[Tensor, Tensor]:
        return self(x, x, rays)[1], x

    def color(self, x: Tensor, d: Tensor, rays: Tensor) -> Tensor:
        self.colored += len(x)
        return 0.5 + 0.5 * torch.sin(3 * x + d)


def one_pass(field: Cloud, sampled: OccupancyEstimator, o: Tensor, d: Tensor) -> tuple[Any, ...]:
    """Everything at once, nothing left out."""
    ray, t0, t1 = sampled.sampling(o, d, render_step_size=STEP)

    def function(t0: Tensor, t1: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        return field(o[r] + d[r] * ((t0 + t1) / 2)[:, None], d[r], r)

    return rendering(t0, t1, ray, len(o), rgb_sigma_fn=function)


@pytest.mark.parametrize("budget", [1, 7, 64, 1 << 18])
@pytest.mark.parametrize("field", [Cloud, TwoSteps])
def test_rounds_are_one_pass(field: type[Cloud], budget: int) -> None:
    count = 20 if budget == 1 else 300
    o, d = rays(count)
    sampled = estimator()
    expected = one_pass(Cloud(3.0), sampled, o, d)
    found = render_rays(
        field(3.0), sampled, (o, d), early_stop=0.0, sample_budget=budget, render_step_size=STEP
    )
    for value, wanted in zip(found[:3], expected[:3]):
        torch.testing.assert_close(value, wanted, atol=2e-6, rtol=1e-5)
    assert found.n_samples == len(expected[3]["weights"])


@pytest.mark.parametrize("early_stop", [1e-4, 1e-2, 0.3])
@pytest.mark.parametrize("field", [Cloud, TwoSteps])
def test_early_stop_bounds_the_error(field: type[Cloud], early_stop: float) -> None:
    o, d = rays()
    sampled, cloud = estimator(), field(30.0)
    colors, opacity, _, extras = one_pass(Cloud(30.0), sampled, o, d)
    found = render_rays(
        cloud, sampled, (o, d), early_stop=early_stop, sample_budget=1024, render_step_size=STEP
    )
    # Colours are at most 1.
    assert (colors - found.rgb).abs().max() <= early_stop + 1e-6
    assert (opacity - found.opacity).abs().max() <= early_stop + 1e-6
    assert found.n_samples == sum(cloud.asked) < len(extras["weights"])
    if isinstance(cloud, TwoSteps):
        assert cloud.colored < found.n_samples


def test_early_stop_is_samplings() -> None:
    """Leaving hidden samples out first, as in training, gives the same picture."""
    o, d = rays()
    sampled, field = estimator(), Cloud(30.0)

    def sigma(t0: Tensor, t1: Tensor, r: Tensor) -> Tensor:
        return field(o[r] + d[r] * ((t0 + t1) / 2)[:, None], d[r], r)[1]

    def both(t0: Tensor, t1: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        return field(o[r] + d[r] * ((t0 + t1) / 2)[:, None], d[r], r)

    ray, t0, t1 = sampled.sampling(o, d, sigma_fn=sigma, early_stop_eps=0.05, render_step_size=STEP)
    expected = rendering(t0, t1, ray, len(o), rgb_sigma_fn=both)
    found = render_rays(
        field, sampled, (o, d), early_stop=0.05, sample_budget=600, render_step_size=STEP
    )
    torch.testing.assert_close(found.rgb, expected[0], atol=1e-5, rtol=1e-5)


def test_budget_is_kept() -> None:
    o, d = rays()
    cloud = Cloud(1.0)
    render_rays(cloud, estimator(), (o, d), sample_budget=500, render_step_size=STEP)
    assert max(cloud.asked) <= 500
    assert sum(cloud.asked) > 5000


def test_thin_samples_count_for_nothing() -> None:
    o, d = rays()
    sampled = estimator()
    found = render_rays(Cloud(1.0), sampled, (o, d), alpha_thre=0.9, render_step_size=STEP)
    assert (found.opacity == 0).all() and (found.rgb == 0).all() and (found.depth == 0).all()


def test_light_samples_take_the_color_of_their_ray() -> None:
    o, d = rays()
    sampled, all_colors, few_colors = estimator(), TwoSteps(9.0), TwoSteps(9.0)
    options: dict[str, Any] = {"early_stop": 0.0, "sample_budget": 2048, "render_step_size": STEP}
    a = render_rays(all_colors, sampled, (o, d), **options)
    b = render_rays(few_colors, sampled, (o, d), color_thre=0.02, **options)
    assert torch.equal(a.opacity, b.opacity) and torch.equal(a.depth, b.depth)
    weights = one_pass(Cloud(9.0), sampled, o, d)[3]["weights"]
    light = weights * (weights <= 0.02)
    ray = sampled.sampling(o, d, render_step_size=STEP)[0]
    # Colours lie between 0 and 1: a ray errs by at most what its light samples weigh.
    most = torch.zeros(len(o)).index_add(0, ray, light)
    error = (a.rgb - b.rgb).abs().amax(-1)
    assert (error <= most + 1e-5).all() and error.max() > 1e-3
    assert abs(few_colors.colored - int((weights > 0.02).sum())) <= 2 < all_colors.colored

    class Grey(TwoSteps):
        def color(self, x: Tensor, d: Tensor, rays: Tensor) -> Tensor:
            return torch.full_like(x, 0.5)

    # Where all samples are alike, nothing is lost but rays of light samples alone.
    grey = render_rays(Grey(9.0), sampled, (o, d), color_thre=0.02, **options)
    heavy = torch.zeros(len(o)).index_add(0, ray, weights * (weights > 0.03)) > 0
    assert heavy.sum() > 50
    torch.testing.assert_close(grey.rgb[heavy], 0.5 * grey.opacity[heavy].expand(-1, 3))


@pytest.mark.parametrize("field", [Cloud, TwoSteps])
def test_nested_masks_give_the_same_picture(field: type[Cloud]) -> None:
    o, d = rays()
    dense, sparse = estimator(), VDBEstimator.from_estimator(estimator())
    options: dict[str, Any] = {"sample_budget": 700, "render_step_size": STEP}
    a, b = (render_rays(field(9.0), e, (o, d), **options) for e in (dense, sparse))
    assert all(torch.equal(torch.as_tensor(x), torch.as_tensor(y)) for x, y in zip(a, b))


def test_estimators_of_others() -> None:
    """Anything with NerfAcc's ``sampling`` does."""

    class Foreign:
        def sampling(self, *args: Any, **options: Any) -> tuple[Tensor, ...]:
            return estimator().sampling(*args, **options)

    o, d = rays()
    a, b = (
        render_rays(Cloud(9.0), e, (o, d), render_step_size=STEP) for e in (Foreign(), estimator())
    )
    assert torch.equal(a.rgb, b.rgb)


def test_cameras_and_shapes() -> None:
    K = torch.tensor([[20.0, 0, 8], [0, 20, 6], [0, 0, 1]])
    camera = Camera(_behind(), K, 16, 12)
    white = torch.ones(3)
    found = render_rays(Cloud(9.0), estimator(), camera, background=white, render_step_size=STEP)
    assert found.rgb.shape == (12, 16, 3)
    assert found.opacity.shape == found.depth.shape == (12, 16, 1)
    missed = found.opacity[..., 0] == 0
    assert (found.rgb[missed] == 1).all() and (found.depth[missed] == 0).all()
    assert (found.depth[~missed] > 1).all()
    none = render_rays(Cloud(1.0), estimator(), (torch.zeros(0, 3), torch.zeros(0, 3)))
    assert none.rgb.shape == (0, 3) and none.n_samples == 0


def _behind() -> Tensor:
    """World to camera of a camera at z = -3 that looks at the origin."""
    matrix = torch.eye(4)
    matrix[2, 3] = 3
    return matrix


def test_ray_indices_are_the_rays() -> None:
    o, d = rays(100)
    seen: list[Tensor] = []

    def field(x: Tensor, way: Tensor, ray: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(ray)
        torch.testing.assert_close(way, d[ray])
        off = torch.linalg.cross(x - o[ray], d[ray]).norm(dim=-1)
        assert off.max() < 1e-5
        return torch.zeros_like(x), torch.zeros_like(x[:, 0])

    render_rays(field, estimator(), (o, d), sample_budget=64, render_step_size=STEP)
    assert len(torch.cat(seen).unique()) > 50


O3 = torch.zeros(4, 3)
BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"rays": (O3, O3[:2])}, ValueError, r"rays: expected shape \[4, 3\], got \[2, 3\]"),
    ({"rays": (O3[:, :2], O3[:, :2])}, ValueError, r"rays: expected shape \[..., 3\]"),
    ({"early_stop": -1}, ValueError, "early_stop: expected a number of at least 0.0, got -1"),
    ({"sample_budget": 0}, ValueError, "sample_budget: expected a number of at least 1, got 0"),
    ({"color_thre": -0.1}, ValueError, "color_thre: expected a number of at least 0.0, got -0.1"),
    ({"alpha_thre": "x"}, TypeError, "alpha_thre: expected a number, got str"),
    ({"field": lambda x, d, r: (x, x)}, ValueError, r"field: densities: expected shape \[\d+\]"),
    ({"field": lambda x, d, r: (x[:, 0], x[:, 0])}, ValueError, "field: colours: expected shape"),
    ({"field": lambda x, d, r: x}, TypeError, "field: colours and densities: expected two results"),
    ({"sample_budget": float("inf")}, TypeError, "sample_budget: expected an integer, got float"),
    ({"rays": O3}, TypeError, "rays: expected a camera or a pair"),
    ({"background": torch.ones(2)}, ValueError, r"background: expected shape \[3\] or \[\d+, 3\]"),
    ({"background": torch.ones(99, 3)}, ValueError, r"background: .*got \[99, 3\]"),
    ({"render_step_size": 0.0}, ValueError, "render_step_size: expected a number above"),
]


@pytest.mark.parametrize(("changed", "kind", "text"), BAD)
def test_errors(changed: dict[str, Any], kind: type[Exception], text: str) -> None:
    arguments: dict[str, Any] = {
        "field": Cloud(1.0), "estimator": estimator(), "rays": rays(), "render_step_size": STEP,
    }  # fmt: skip
    with pytest.raises(kind, match=text):
        render_rays(**{**arguments, **changed})


def test_rays_of_other_types() -> None:
    o, d = rays()
    seen = [
        render_rays(Cloud(1.0), estimator(), (o.to(kind), d.to(kind)), render_step_size=STEP)
        for kind in (torch.float32, torch.float64, torch.float16)
    ]
    assert torch.equal(seen[0].rgb, seen[1].rgb)
    assert all(found.rgb.dtype == torch.float32 for found in seen)
    torch.testing.assert_close(seen[0].opacity, seen[2].opacity, atol=0.1, rtol=0)


def test_gradients_do_not_flow() -> None:
    o, d = rays(10)
    scale = torch.ones((), requires_grad=True)

    def field(x: Tensor, way: Tensor, ray: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(x) * scale, torch.ones_like(x[:, 0]) * scale

    found = render_rays(field, estimator(), (o, d), render_step_size=STEP)
    assert not found.rgb.requires_grad
