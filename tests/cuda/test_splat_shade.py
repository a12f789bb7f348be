# SPDX-License-Identifier: Apache-2.0
"""Spherical harmonics of degree 0 to 4, along given directions and as seen by cameras."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import splat_reference as reference
import torch
from fieldline.cuda.splat import ops
from op_harness import Case, Error, Inputs, parametrize

DEGREES = range(5)


def directions(
    generator: torch.Generator, degree: int, M: int = 300, bases: int = 25, masked: bool = False
) -> Inputs:
    inputs: Inputs = {
        "degree": degree,
        "dirs": torch.randn(M, 3, generator=generator, dtype=torch.float64),
        "coefficients": torch.randn(M, bases, 3, generator=generator, dtype=torch.float64),
    }
    if masked:
        inputs["masks"] = torch.rand(M, generator=generator) < 0.5
    return inputs


def views(
    generator: torch.Generator,
    degree: int,
    B: int = 2,
    C: int = 3,
    N: int = 40,
    bases: int = 25,
    culled: bool = True,
) -> Inputs:
    viewmats = torch.eye(4, dtype=torch.float64).repeat(B, C, 1, 1)
    quats = torch.randn(B, C, 4, generator=generator, dtype=torch.float64)
    viewmats[..., :3, :3] = reference.rotation_matrices(quats)
    viewmats[..., :3, 3] = torch.randn(B, C, 3, generator=generator, dtype=torch.float64)
    inputs: Inputs = {
        "degree": degree,
        "means": 2 * torch.randn(B, N, 3, generator=generator, dtype=torch.float64),
        "viewmats": viewmats,
        # Large enough that some colours are cut at 0.
        "coefficients": 0.6 * torch.randn(B, N, bases, 3, generator=generator, dtype=torch.float64),
    }
    if culled:
        inputs["radii"] = torch.randint(0, 3, (B, C, N, 2), generator=generator, dtype=torch.int32)
    return inputs


few = [(degree + 1) ** 2 for degree in DEGREES]
CASES = [
    Case(
        name="harmonics",
        op=ops.spherical_harmonics,
        reference=reference.spherical_harmonics,
        variants={
            "masked": partial(directions, degree=3, masked=True),
            **{f"degree{d}": partial(directions, degree=d) for d in DEGREES},
            **{f"few{d}": partial(directions, degree=d, M=3, bases=few[d]) for d in DEGREES},
            "none": partial(directions, degree=3, M=0),
        },
        differentiable=("dirs", "coefficients"),
        gradcheck=tuple(f"few{degree}" for degree in DEGREES),
        emulated_gradcheck=("few4",),
        errors=(
            Error("degree", {"degree": 5}, RuntimeError, "degree: expected 0 to 4, got 5"),
            Error("bases", {"degree": 4, "coefficients": torch.ones(300, 24, 3)}, RuntimeError,
                  "expected at least 25 bases for degree 4, got 24"),
            Error("dirs", {"dirs": torch.ones(300, 2)}, RuntimeError, r"dirs.*got \[300, 2\]"),
            Error("masks", {"masks": torch.ones(300).int()}, RuntimeError, "masks.*dtype"),
        ),
    ),
    Case(
        name="shade",
        op=ops.shade,
        reference=reference.shade,
        variants={
            "culled": partial(views, degree=3),
            **{f"degree{d}": partial(views, degree=d, culled=False) for d in DEGREES},
            "many": partial(views, degree=2, B=1, C=2, N=5000, bases=9),
            **{f"few{d}": partial(views, degree=d, C=2, N=2, bases=few[d]) for d in (0, 3, 4)},
            "no_splats": partial(views, degree=1, N=0),
            "no_cameras": partial(views, degree=1, C=0),
        },
        differentiable=("means", "viewmats", "coefficients"),
        gradcheck=("few0", "few3", "few4"),
        emulated_gradcheck=("few3",),
        gradient_tolerance={torch.float32: 1e-4, torch.float64: 1e-10},
        errors=(
            Error("degree", {"degree": -1}, RuntimeError, "degree: expected 0 to 4, got -1"),
            Error("bases", {"coefficients": torch.ones(2, 40, 9, 3)}, RuntimeError, "16 bases"),
            Error("radii", {"radii": torch.ones(2, 3, 40).int()}, RuntimeError, "radii: expected"),
            Error("means", {"means": torch.ones(2, 41, 3)}, RuntimeError, "coefficients: expected"),
        ),
    ),
]  # fmt: skip


@parametrize(CASES)
def test_shade(check: Callable[[], None]) -> None:
    check()


@pytest.mark.parametrize("degree", DEGREES)
def test_bases_are_orthonormal(degree: int) -> None:
    """Integrals over the sphere of products of two bases are 1 or 0."""
    n = 24
    z, weight = (torch.from_numpy(a) for a in _gauss_legendre(n))
    phi = torch.arange(2 * n, dtype=torch.float64) * torch.pi / n
    radius = (1 - z * z).sqrt()[:, None]
    dirs = torch.stack(
        [radius * phi.cos(), radius * phi.sin(), z[:, None].expand(n, 2 * n)], -1
    ).reshape(-1, 3)
    K = (degree + 1) ** 2
    # One coefficient at a time reads one basis.
    one_hot = torch.eye(K, dtype=torch.float64)[:, None, :, None].expand(K, len(dirs), K, 3)
    bases = torch.stack([ops.spherical_harmonics(degree, dirs, c)[:, 0] for c in one_hot])
    measure = (weight[:, None] * torch.pi / n).expand(n, 2 * n).reshape(-1)
    product = (bases * measure) @ bases.T
    torch.testing.assert_close(product, torch.eye(K, dtype=torch.float64), atol=1e-9, rtol=0)


def _gauss_legendre(n: int):
    import numpy

    return numpy.polynomial.legendre.leggauss(n)


def test_zero_direction_is_finite() -> None:
    dirs = torch.zeros(2, 3, requires_grad=True)
    coefficients = torch.ones(2, 16, 3, requires_grad=True)
    colors = ops.spherical_harmonics(3, dirs, coefficients)
    colors.sum().backward()
    for tensor in (colors, dirs.grad, coefficients.grad):
        assert tensor is not None and tensor.isfinite().all()
