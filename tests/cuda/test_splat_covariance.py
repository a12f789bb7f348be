# SPDX-License-Identifier: Apache-2.0
"""Covariances and precisions of rotated scales."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import splat_reference as reference
import torch
from fieldline.cuda.splat import ops
from op_harness import Case, Error, Inputs, parametrize


def splats(generator: torch.Generator, M: int = 300, inverse: bool = False) -> Inputs:
    quats = torch.randn(M, 4, generator=generator, dtype=torch.float64)
    scales = torch.rand(M, 3, generator=generator, dtype=torch.float64) + 0.2
    return {"quats": quats, "scales": scales, "inverse": inverse}


CASES = [
    Case(
        name="covariance",
        op=ops.covariance,
        reference=reference.covariance,
        variants={
            "covariance": splats,
            "precision": partial(splats, inverse=True),
            "few": partial(splats, M=4),
            "few_precision": partial(splats, M=4, inverse=True),
            "none": partial(splats, M=0),
        },
        differentiable=("quats", "scales"),
        gradcheck=("few", "few_precision"),
        emulated_gradcheck=("few",),
        errors=(
            Error("quats", {"quats": torch.ones(300, 3)}, RuntimeError, r"quats.*\[300, 3\]"),
            Error("scales", {"scales": torch.ones(2, 3)}, RuntimeError, r"scales.*\[300, 3\]"),
            Error("dtype", {"scales": torch.ones(300, 3).double()}, RuntimeError, "scales.*dtype"),
        ),
    )
]


@parametrize(CASES)
def test_covariance(check: Callable[[], None]) -> None:
    check()


def test_length_of_the_quaternion_does_not_matter() -> None:
    inputs = splats(torch.Generator().manual_seed(0), M=10)
    longer = ops.covariance(7 * inputs["quats"], inputs["scales"])
    torch.testing.assert_close(longer, ops.covariance(inputs["quats"], inputs["scales"]))


def test_precision_is_the_inverse() -> None:
    inputs = splats(torch.Generator().manual_seed(0), M=10)
    covariance, precision = (
        reference.full_matrix(ops.covariance(inputs["quats"], inputs["scales"], inverse))
        for inverse in (False, True)
    )
    identity = torch.eye(3, dtype=torch.float64).expand(10, 3, 3)
    torch.testing.assert_close(covariance @ precision, identity)
