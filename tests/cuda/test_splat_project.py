# SPDX-License-Identifier: Apache-2.0
"""Projection: every camera model, quats or covariances, antialiasing; what is culled stays away."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import splat_reference as reference
import torch
from fieldline.cuda.splat import ops
from op_harness import Case, Error, Factory, Inputs, assert_near, parametrize
from torch import Tensor

WIDTH, HEIGHT = 48, 36


def cameras(generator: torch.Generator, B: int, C: int) -> tuple[Tensor, Tensor]:
    """Poses a few units back along z, tilted a little, and off-centre intrinsics."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    views = torch.eye(4, dtype=torch.float64).repeat(B, C, 1, 1)
    tilt = torch.cat([torch.ones(B, C, 1, dtype=torch.float64), 0.1 * normal(B, C, 3)], -1)
    views[..., :3, :3] = reference.rotation_matrices(tilt)
    views[..., :3, 3] = 0.2 * normal(B, C, 3) + torch.tensor([0.0, 0, 4])
    Ks = torch.zeros(B, C, 3, 3, dtype=torch.float64)
    Ks[..., 0, 0] = 30 + normal(B, C)
    Ks[..., 1, 1] = 28 + normal(B, C)
    Ks[..., 0, 2] = WIDTH / 2 + normal(B, C)
    Ks[..., 1, 2] = HEIGHT / 2 - 3 * normal(B, C)
    Ks[..., 2, 2] = 1
    return views, Ks


def scene(
    generator: torch.Generator,
    B: int = 2,
    C: int = 3,
    N: int = 50,
    covars: bool = False,
    opacities: bool = True,
    **options: Any,
) -> Inputs:
    """Splats in and around what the cameras see, of many sizes; some behind them."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    means = normal(B, N, 3) * torch.tensor([2.0, 1.6, 1.5])
    if N > 8:
        means[:, ::8, 2] -= 6
    views, Ks = cameras(generator, B, C)
    if options.get("camera_model") == "ortho":
        Ks[..., :2, :2] *= 0.3
    quats, scales = normal(B, N, 4), torch.exp(normal(B, N, 3) - 1.5)
    inputs: Inputs = dict(means=means, viewmats=views, Ks=Ks, width=WIDTH, height=HEIGHT, **options)
    if covars:
        inputs["covars"] = reference.covariance(quats, scales)
    else:
        inputs.update(quats=quats, scales=scales)
    if opacities:
        inputs["opacities"] = torch.rand(B, N, generator=generator, dtype=torch.float64)
    return inputs


def compare(
    outputs: list[Tensor], expected: list[Tensor], inputs: Inputs, dtype: torch.dtype
) -> None:
    """float32 may round a radius up where float64 does not; all else agrees."""
    radii, wanted = outputs[0], expected[0]
    if dtype == torch.float64:
        assert torch.equal(radii, wanted)
    else:
        assert torch.equal((radii > 0).all(-1), (wanted > 0).all(-1))
        assert int((radii - wanted).abs().max().item() if radii.numel() else 0) <= 1
        assert float((radii != wanted).float().sum()) <= 0.01 * radii.numel()
    for name, value, want in zip(ops.Projection._fields[1:], outputs[1:], expected[1:]):
        # The inverse of a thin splat's covariance has lost some of float32's digits.
        rounding = 3e-4 if name == "conics" else 3e-5
        assert_near(name, value, want, rounding if dtype == torch.float32 else 1e-10)


small = {"B": 1, "C": 2, "N": 6}
VARIANTS: dict[str, Factory] = {
    "pinhole": scene,
    "many": partial(scene, B=1, C=2, N=6000),
    "covars": partial(scene, covars=True, opacities=False),
    "antialiased": partial(scene, compensate=True),
    "ortho": partial(scene, camera_model="ortho", radius_clip=3.0),
    "fisheye": partial(scene, camera_model="fisheye", near_plane=3.0, far_plane=5.0),
    "blur": partial(scene, eps2d=1.5),
    "small": partial(scene, **small),
    "small_antialiased": partial(scene, **small, compensate=True),
    "small_covars": partial(scene, **small, covars=True),
    "small_ortho": partial(scene, **small, camera_model="ortho", compensate=True),
    "small_fisheye": partial(scene, **small, camera_model="fisheye"),
    "no_splats": partial(scene, N=0),
    "no_cameras": partial(scene, C=0, N=3),
    "no_scenes": partial(scene, B=0, N=3),
}
GRADCHECKED = tuple(name for name in VARIANTS if name.startswith("small"))
TOO_MANY = torch.zeros(2, 51, 3)

CASES = [
    Case(
        name="project",
        op=ops.project,
        reference=reference.project,
        variants=VARIANTS,
        differentiable=("means", "covars", "quats", "scales", "viewmats", "Ks"),
        gradcheck=GRADCHECKED,
        large=("many",),
        emulated_gradcheck=("small",),
        compare=compare,
        gradient_tolerance={torch.float32: 2e-4, torch.float64: 1e-9},
        errors=(
            Error(
                "means", {"means": torch.zeros(3)}, RuntimeError, r"means: expected shape \[B, N"
            ),
            Error(
                "quats", {"quats": TOO_MANY}, RuntimeError, r"quats: expected shape \[2, 50, 4\]"
            ),
            Error("scales", {"scales": None}, RuntimeError, "expected covars, or quats and scales"),
            Error("dtype", {"means": torch.zeros(2, 50, 3).int()}, RuntimeError, "means.*float32"),
            Error(
                "mixed", {"scales": torch.zeros(2, 50, 3).double()}, RuntimeError, "scales.*dtype"
            ),
            Error("size", {"width": 0}, RuntimeError, "width, height: expected 1 to 2.24 pixels"),
            Error("model", {"camera_model": "lens"}, ValueError, "expected one of .*got 'lens'"),
        ),
    )
]


@parametrize(CASES)
def test_project(check: Callable[[], None]) -> None:
    check()


def one(mean: tuple[float, float, float], **changes: Any) -> ops.Projection:
    """Projects one splat of a tenth of a unit; the camera looks along z from the origin."""
    arguments: Inputs = {
        "means": torch.tensor([[mean]], dtype=torch.float64),
        "viewmats": torch.eye(4, dtype=torch.float64)[None, None],
        "Ks": torch.tensor([[[[30.0, 0, 24], [0, 30, 18], [0, 0, 1]]]], dtype=torch.float64),
        "width": WIDTH,
        "height": HEIGHT,
        "quats": torch.tensor([[[1.0, 0, 0, 0]]], dtype=torch.float64),
        "scales": torch.full((1, 1, 3), 0.1, dtype=torch.float64),
        "opacities": torch.ones(1, 1, dtype=torch.float64),
    }
    return ops.project(**{**arguments, **changes})


def test_values_by_hand() -> None:
    p = one((0.4, -0.2, 2.0))
    variance = (30 * 0.1 / 2) ** 2
    a = variance * (1 + 0.2**2) + 0.3
    b = variance * 0.2 * -0.1
    c = variance * (1 + 0.1**2) + 0.3
    det = a * c - b * b
    assert p.means2d.flatten().tolist() == pytest.approx([24 + 30 * 0.2, 18 - 30 * 0.1])
    assert p.conics.flatten().tolist() == pytest.approx([c / det, -b / det, a / det])
    extent = math.sqrt(2 * math.log(255))
    wanted = [math.ceil(extent * math.sqrt(v)) for v in (a, c)]
    assert p.radii.flatten().tolist() == wanted


@pytest.mark.parametrize(
    ("mean", "changes"),
    [
        ((0.0, 0.0, -1.0), {}),
        ((0.0, 0.0, 0.0), {}),
        ((0.0, 0.0, 2.0), {"near_plane": 2.1}),
        ((0.0, 0.0, 2.0), {"far_plane": 1.9}),
        ((0.0, 0.0, 2.0), {"radius_clip": 7.0}),
        ((0.0, 0.0, 2.0), {"opacities": torch.full((1, 1), 0.0039, dtype=torch.float64)}),
        ((3.0, 0.0, 2.0), {}),
        ((0.0, -3.0, 2.0), {}),
        ((math.nan, 0.0, 2.0), {}),
        ((0.0, 0.0, math.inf), {}),
        ((0.0, 0.0, 2.0), {"quats": torch.zeros(1, 1, 4, dtype=torch.float64)}),
        ((0.0, 0.0, 2.0), {"quats": torch.full((1, 1, 4), math.nan, dtype=torch.float64)}),
        ((0.0, 0.0, 2.0), {"scales": torch.full((1, 1, 3), math.inf, dtype=torch.float64)}),
        ((0.0, 0.0, 2.0), {"scales": torch.full((1, 1, 3), math.nan, dtype=torch.float64)}),
        ((0.0, 0.0, 2.0), {"scales": torch.full((1, 1, 3), 1e200, dtype=torch.float64)}),
        ((0.0, 0.0, 2.0), {"opacities": torch.full((1, 1), math.nan, dtype=torch.float64)}),
    ],
)
@pytest.mark.parametrize("camera_model", ops.CAMERA_MODELS)
def test_culled(mean: tuple[float, float, float], changes: Inputs, camera_model: str) -> None:
    if camera_model == "ortho":  # thirty times fewer pixels a unit, as at a distance of 2
        changes = {
            **changes,
            "Ks": torch.tensor([[[[15.0, 0, 24], [0, 15, 18], [0, 0, 1]]]]).double(),
        }
    p = one(mean, camera_model=camera_model, **changes)
    for values in p:
        assert not values.any()


def test_culled_splats_get_no_gradient() -> None:
    """Broken splats among good ones: gradients are finite, and zero for the broken."""
    inputs = scene(torch.Generator().manual_seed(0), B=1, C=2, N=40)
    good = {name: t.clone() for name, t in inputs.items() if isinstance(t, Tensor)}
    good["means"][0, 3, 1] = math.nan
    good["means"][0, 4] = math.inf
    good["quats"][0, 5] = 0
    good["scales"][0, 6, 2] = math.inf
    good["scales"][0, 7] = math.nan
    names = ("means", "quats", "scales", "viewmats", "Ks")
    leaves = [good[name].requires_grad_() for name in names]
    p = ops.project(**{**inputs, **good})
    assert int((p.radii[0, :, :3] > 0).sum()) > 0
    gradients = torch.autograd.grad([p.means2d.sum() + p.depths.sum() + p.conics.sum()], leaves)
    for gradient in gradients:
        assert gradient.isfinite().all()
    for gradient in gradients[:3]:
        assert not gradient[0, 3:8].any()
        assert gradient[0].any()


def test_fisheye_near_the_axis() -> None:
    """The series near the axis meets the closed form, in value and gradient."""
    for offset in (0.0, 1e-12, 1e-6, 0.27, 0.29):  # the change is at (x / z)^2 = 0.02
        mean = torch.tensor([[[offset, 0.0, 2.0]]], dtype=torch.float64, requires_grad=True)
        p = one((0, 0, 0), means=mean, camera_model="fisheye")
        angle = math.atan2(offset, 2.0)
        assert p.means2d[..., 0].item() == pytest.approx(24 + 30 * angle, rel=1e-12)
        (gradient,) = torch.autograd.grad(p.means2d[..., 0].sum(), mean)
        slope = 30 * 2.0 / (4 + offset * offset)
        wanted = [slope, 0.0, -slope * offset / 2.0]
        assert gradient.flatten().tolist() == pytest.approx(wanted, rel=1e-9, abs=1e-12)


def test_means_far_outside_the_image_use_the_clamped_jacobian() -> None:
    """A large splat beside the image keeps the covariance it has at the clamped place."""
    beside = one((9.0, 0.0, 2.0), scales=torch.full((1, 1, 3), 4.0, dtype=torch.float64))
    limit = (WIDTH - 24 + 0.15 * WIDTH) / 30
    a = (30 * 4 / 2) ** 2 * (1 + limit**2) + 0.3
    assert beside.radii[..., 0].item() == math.ceil(math.sqrt(2 * math.log(255)) * math.sqrt(a))


@pytest.mark.parametrize("opacity", [1.0, 0.5, 0.01, 0.00393])
def test_extent_reaches_where_alpha_is_one_in_255(opacity: float) -> None:
    p = one((0, 0, 2.0), opacities=torch.tensor([[opacity]], dtype=torch.float64))
    extent = min(3.33, math.sqrt(2 * math.log(255 * opacity)))
    assert p.radii[..., 0].item() == math.ceil(extent * math.sqrt(1.5**2 + 0.3))


def test_antialiasing_factor_has_a_floor() -> None:
    p = one(
        (0, 0, 2.0),
        scales=torch.full((1, 1, 3), 1e-9, dtype=torch.float64),
        compensate=True,
    )
    assert p.compensations.item() == pytest.approx(0.005)
