# SPDX-License-Identifier: Apache-2.0
"""Batch normalisation with the residual sum and the activation behind it."""

from __future__ import annotations

import doctest
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fieldline.cuda import library
from fieldline.cuda.sparse import norm_ops
from fieldline.cuda.sparse.norm_ops import sparse_batch_norm
from op_harness import HAS_CUDA, Case, Error, Inputs, assert_near, parametrize, running_on, seeded
from torch import Tensor

BACKENDS = ["cpu", "emulated", *(["cuda"] if HAS_CUDA else [])]
HALVES = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12, **HALVES}
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": F.relu,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "silu": F.silu,
    "gelu": F.gelu,
    "sigmoid": torch.sigmoid,
}


def norm(
    features: Tensor, running_mean: Tensor | None, running_var: Tensor | None, **settings: Any
) -> list[Tensor]:
    """The output and what the running statistics become."""
    kept = [t if t is None else t.clone() for t in (running_mean, running_var)]
    out = sparse_batch_norm(features, *kept, slope=0.2, momentum=0.3, **settings)
    return [out, *(t for t in kept if t is not None)]


def norm_reference(
    features: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    residual: Tensor | None,
    activation: str,
    eps: float = 1e-5,
) -> list[Tensor]:
    mean, variance = running_mean, running_var
    kept = [t for t in (running_mean, running_var) if t is not None]
    n = len(features)
    if training and n > 0:
        mean = features.mean(0)
        variance = ((features - mean) ** 2).mean(0)
        kept = [0.7 * t + 0.3 * new for t, new in zip(kept, (mean, variance * n / (n - 1)))]
    if n == 0:
        return [features + (0 if residual is None else residual), *kept]
    out = (features - mean) / torch.sqrt(variance + eps)
    out = out if weight is None else out * weight
    out = out if bias is None else out + bias
    out = out if residual is None else out + residual
    return [ACTIVATIONS[activation](out), *(t.detach() for t in kept)]


def norm_input(
    generator: torch.Generator,
    activation: str,
    n: int = 70,
    channels: int = 8,
    training: bool = True,
    affine: bool = True,
    residual: bool = True,
    running: bool = True,
) -> Inputs:
    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return {
        "features": normal(n, channels) * 2 + 1,
        "running_mean": normal(channels) if running else None,
        "running_var": normal(channels).exp() if running else None,
        "weight": normal(channels) if affine else None,
        "bias": normal(channels) if affine else None,
        "training": training,
        "residual": normal(n, channels) if residual else None,
        "activation": activation,
    }


KINDS: dict[str, dict[str, Any]] = {
    "some": {},
    "alone": {"residual": False},
    "evaluation": {"training": False, "n": 40},
    "evaluation_alone": {"training": False, "residual": False, "affine": False, "n": 40},
    "few": {"n": 6, "channels": 3},
    "few_alone": {"n": 5, "channels": 2, "residual": False},
    "few_evaluation": {"n": 4, "channels": 2, "training": False},
}
SHAPES: dict[str, dict[str, Any]] = {
    "odd": {"channels": 5},
    "one_channel": {"channels": 1, "n": 33},
    "wide": {"channels": 264, "n": 21},
    "three_rows": {"n": 3},
    "many_rows": {"n": 1300, "channels": 4},
    "many_odd_rows": {"n": 1101, "channels": 3, "residual": False},
    "not_affine": {"affine": False},
    "not_running": {"running": False},
    "no_rows": {"n": 0},
    "no_rows_in_evaluation": {"n": 0, "training": False},
    "no_channels": {"channels": 0},
}
ERRORS = (
    Error("dtype", {"features": torch.ones(70, 8).int()}, TypeError, "features: .*torch.int32"),
    Error("shape", {"features": torch.ones(70)}, ValueError, r"features: .*\[N, C\], got \[70\]"),
    Error("one_row", {"features": torch.ones(1, 8), "residual": None}, ValueError, "more than 1"),
    Error("weight", {"weight": torch.ones(7)}, ValueError, r"weight: expected shape \[8\], got"),
    Error("bias", {"bias": torch.ones(8).double()}, TypeError, "bias: .*float32 .*float64"),
    Error("mean", {"running_mean": torch.ones(8, 1)}, ValueError, r"running_mean: .*\[8, 1\]"),
    Error("one_of_two", {"running_var": None}, ValueError, "running_var: expected one beside"),
    Error("none", {"running_mean": None, "training": False}, ValueError, "both in evaluation"),
    Error("residual", {"residual": torch.ones(3, 8)}, ValueError, r"residual: .*\[3, 8\]"),
    Error("half", {"residual": torch.ones(70, 8).half()}, TypeError, "residual: .*float16"),
    Error("activation", {"activation": "tanh"}, ValueError, "expected one of none.*got 'tanh'"),
)


def norm_case(activation: str) -> Case:
    shapes = {**KINDS, **(SHAPES if activation == "relu" else {})}
    return Case(
        name=f"norm_{activation}",
        op=norm,
        reference=norm_reference,
        variants={k: partial(norm_input, activation=activation, **s) for k, s in shapes.items()},
        differentiable=("features", "weight", "bias", "residual"),
        gradcheck=("few", "few_alone", "few_evaluation"),
        emulated_gradcheck=("few", "few_alone", "few_evaluation"),
        dtypes=tuple(TOLERANCE),
        tolerance=TOLERANCE,
        errors=ERRORS if activation == "relu" else (),
    )


@parametrize([norm_case(activation) for activation in ACTIVATIONS])
def test_norm(check: Callable[[], None]) -> None:
    check()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("offset", [0.0, 3e4])
def test_statistics_far_from_zero(backend: str, offset: float) -> None:
    """The variance of float32 keeps its digits where a difference of sums would have none left."""
    features = torch.randn(3000, 4, generator=seeded("far")) + offset
    mean, variance = torch.zeros(4), torch.zeros(4)
    with running_on(backend) as device:
        features, mean, variance = (t.to(device) for t in (features, mean, variance))
        sparse_batch_norm(features, mean, variance, training=True, momentum=1.0)
    assert_near("mean", mean.double() + 1, features.double().mean(0) + 1, 1e-7)
    assert_near("variance", variance.double(), features.double().var(0), 2e-4 if offset else 1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", HALVES)
def test_parameters_of_float32_beside_halves(backend: str, dtype: torch.dtype) -> None:
    inputs = norm_input(seeded("mixed"), "relu", n=200)
    with running_on(backend) as device:
        tensors = {
            k: v.to(device, dtype if k in ("features", "residual") else torch.float32)
            for k, v in inputs.items()
            if isinstance(v, Tensor)
        }
        leaves = {k: v.requires_grad_("running" not in k) for k, v in tensors.items()}
        out = sparse_batch_norm(**leaves, training=True, activation="relu")
        g = torch.randn(out.shape, generator=seeded("g")).to(out)
        wanted = [leaves[k] for k in ("features", "weight", "bias", "residual")]
        found = torch.autograd.grad(out, wanted, g)
    wide = {k: v.detach().double().requires_grad_("running" not in k) for k, v in leaves.items()}
    expected = norm_reference(**wide, training=True, activation="relu")[0]
    again = torch.autograd.grad(
        expected, [wide[k] for k in ("features", "weight", "bias", "residual")], g.double()
    )
    assert out.dtype == dtype
    assert_near("output", out.detach().double(), expected.detach(), HALVES[dtype])
    for gradient, leaf, near in zip(found, wanted, again):
        assert gradient.dtype == leaf.dtype
        assert_near("gradient", gradient.double(), near, 5 * HALVES[dtype])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("momentum", [0.2, None])
def test_running_statistics_are_those_of_torch(backend: str, momentum: float | None) -> None:
    theirs = torch.nn.BatchNorm1d(300, momentum=momentum).double()
    with running_on(backend) as device:
        mean, variance = (t.clone().to(device) for t in (theirs.running_mean, theirs.running_var))
        tracked = theirs.num_batches_tracked.clone().to(device)
        for k in range(3):
            x = torch.randn(400, 300, generator=seeded("batch", k)).double() * (k + 1) + k
            theirs(x)
            kept = (mean, variance)
            sparse_batch_norm(
                x.to(device), *kept, training=True, momentum=momentum, tracked=tracked
            )
    assert int(tracked) == 3
    assert_near("mean", mean.cpu(), theirs.running_mean, 1e-12)
    assert_near("variance", variance.cpu(), theirs.running_var, 1e-12)


def test_errors_leave_statistics_alone() -> None:
    mean, variance, tracked = torch.zeros(4), torch.ones(4), torch.tensor(0)
    for wrong in ({"residual": torch.ones(2, 4)}, {"weight": torch.ones(3)}):
        with pytest.raises(ValueError, match="expected"):
            sparse_batch_norm(
                torch.randn(9, 4), mean, variance, training=True, tracked=tracked, **wrong
            )
    sparse_batch_norm(torch.randn(0, 4), mean, variance, training=True, tracked=tracked)
    assert mean.eq(0).all() and variance.eq(1).all() and int(tracked) == 0


def test_momentum_of_none_takes_a_count() -> None:
    with pytest.raises(ValueError, match="momentum: expected a number without tracked, got None"):
        sparse_batch_norm(
            torch.randn(9, 4), torch.zeros(4), torch.ones(4), training=True, momentum=None
        )
    with pytest.raises(TypeError, match="tracked: expected int64"):
        sparse_batch_norm(
            *(torch.randn(9, 4), torch.zeros(4), torch.ones(4)),
            training=True,
            tracked=torch.ones(1),
        )


def test_second_derivatives_are_refused() -> None:
    x = torch.randn(9, 4, requires_grad=True)
    out = sparse_batch_norm(x, training=True)
    (g,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        g.sum().backward()


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_what_is_not_a_number_stays_so(activation: Any) -> None:
    x = torch.randn(40, 4)
    x[7, 2] = float("nan")
    out = sparse_batch_norm(x, torch.zeros(4), torch.ones(4), activation=activation)
    assert bool(out[7, 2].isnan()) and int(out.isnan().sum()) == 1
    out = sparse_batch_norm(x, training=True, activation=activation)
    assert out.isnan().sum(0).tolist() == [0, 0, 40, 0]


@pytest.mark.parametrize("backend", [b for b in BACKENDS if b != "emulated"])
def test_many_rows(backend: str) -> None:
    """As torch's own in float64, on as many rows as a scan has."""
    generator = seeded("many")
    x = torch.randn(100_003, 20, generator=generator)
    tensors = [x, torch.rand(20, generator=generator), torch.rand(20), torch.randn_like(x)]
    g = torch.randn(x.shape, generator=generator)
    with running_on(backend) as device:
        leaves = [t.to(device).requires_grad_() for t in tensors]
        out = sparse_batch_norm(leaves[0], None, None, *leaves[1:3], True, residual=leaves[3])
        found = [out.detach(), *torch.autograd.grad(out, leaves, g.to(device))]
    leaves = [t.double().requires_grad_() for t in tensors]
    out = F.batch_norm(leaves[0], None, None, *leaves[1:3], True) + leaves[3]
    expected = [out.detach(), *torch.autograd.grad(out, leaves, g.double())]
    for index, (ours, theirs) in enumerate(zip(found, expected)):
        assert_near(f"tensor {index}", ours.cpu().double(), theirs, 3e-6)


@pytest.mark.parametrize(("level", "isa"), [(0, "baseline"), (1, "avx2")])
def test_every_instruction_set(level: int, isa: str) -> None:
    if int(library.ops().core_isa()) <= level:
        pytest.skip(f"this machine has nothing beyond {isa}")
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(
        [*command, "-k", "values-cpu or halves and cpu"],
        env={**os.environ, "FIELDLINE_ISA": isa, "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:]


def test_examples() -> None:
    assert doctest.testmod(norm_ops).failed == 0
