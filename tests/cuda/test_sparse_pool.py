# SPDX-License-Identifier: Apache-2.0
"""Pooling over kernel maps, reductions over segments, interpolation between voxels."""

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
import sparse_pool_reference as reference
import torch
from fieldline.cuda import library
from fieldline.cuda.sparse import map_ops, pool_ops, segment_ops, trilinear_ops
from fieldline.cuda.sparse.kernel_map import KernelMap
from op_harness import HAS_CUDA, Case, Error, Inputs, assert_near, parametrize, running_on, seeded
from torch import Tensor

BACKENDS = ["cpu", "emulated", *(["cuda"] if HAS_CUDA else [])]
HALVES = {torch.float16: 1e-3, torch.bfloat16: 8e-3}
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12, **HALVES}
DTYPES = tuple(TOLERANCE)


# Pooling. The harness sees a map's tensors, so that it can move and stride them.


def random_table(
    generator: torch.Generator, taps: int, n_in: int, n_out: int, share: float
) -> Tensor:
    """A map in which no tap reads or writes a row twice."""
    table = torch.full((taps, n_out), -1, dtype=torch.int32)
    for tap in table:
        count = int(share * min(n_in, n_out))
        rows = torch.randperm(n_in, generator=generator)[:count]
        tap[torch.randperm(n_out, generator=generator)[:count]] = rows.int()
    return table


def pool_input(
    generator: torch.Generator,
    mode: str,
    taps: int = 8,
    n_in: int = 150,
    n_out: int = 130,
    channels: int = 8,
    share: float = 0.4,
    ties: bool = False,
) -> Inputs:
    features = torch.randn(n_in, channels, generator=generator, dtype=torch.float64)
    if ties:
        features = features.round().clamp(-1, 1)
    return {
        "features": features,
        "table": random_table(generator, taps, n_in, n_out, share),
        "mode": mode,
    }


def map_of(table: Tensor, n_in: int) -> KernelMap:
    """A map with its reverse, made on the CPU."""
    kernel_map = KernelMap.from_table(table, n_in)
    kernel_map._reverse = KernelMap.from_table(reference.invert(table, n_in), table.shape[1])
    return kernel_map


def pool(features: Tensor, kernel_map: KernelMap, mode: Any) -> Tensor:
    return pool_ops.sparse_pool(features, kernel_map.to(features.device), mode)


def pool_by_forms(
    features: Tensor, mode: str, n_out: int, forms: list[Tensor], reverse: list[Tensor]
) -> Tensor:
    return pool_ops.pool_forms(
        features, n_out, mode, pool_ops.PoolMap(*forms), pool_ops.PoolMap(*reverse)
    )


def forms_input(generator: torch.Generator, mode: str, **settings: Any) -> Inputs:
    """Every form of a map at once: each backend reads its own."""
    inputs = pool_input(generator, mode, **settings)
    table, n_in = inputs.pop("table"), len(inputs["features"])
    inverse = reference.invert(table, n_in)
    return {
        **inputs,
        "n_out": table.shape[1],
        "forms": [*reference.pairs_of(table), table],
        "reverse": [*reference.pairs_of(inverse), inverse],
    }


def pool_by_forms_reference(features: Tensor, mode: str, forms: list[Tensor], **_: Any) -> Tensor:
    return reference.pool(features, forms[3], mode)


SHAPES: dict[str, dict[str, Any]] = {
    "some": {},
    "odd": {"channels": 5, "taps": 27, "share": 0.2},
    "one_channel": {"channels": 1},
    "wide": {"channels": 264, "n_in": 20, "n_out": 12, "taps": 3},
    "full": {"share": 1.0, "n_in": 130, "taps": 9},
    "ties": {"ties": True},
    "few": {"n_in": 6, "n_out": 5, "taps": 3, "channels": 3, "share": 0.7},
    "empty_map": {"share": 0.0},
    "no_rows": {"n_in": 0, "n_out": 0},
    "no_inputs": {"n_in": 0},
    "no_outputs": {"n_out": 0},
    "no_taps": {"taps": 0},
    "no_channels": {"channels": 0},
}


def pool_case(mode: str) -> Case:
    return Case(
        name=f"pool_{mode}",
        op=pool_by_forms,
        reference=pool_by_forms_reference,
        variants={name: partial(forms_input, mode=mode, **shape) for name, shape in SHAPES.items()},
        differentiable=("features",),
        gradcheck=("few",),
        emulated_gradcheck=("few",),
        dtypes=DTYPES,
        tolerance=TOLERANCE,
        errors=(
            Error(
                "dtype", {"features": torch.ones(150, 8).int()}, RuntimeError, "expected float32"
            ),
            Error("shape", {"features": torch.ones(150)}, RuntimeError, r"shape \[\*, \*\]"),
        ),
    )


# Segments.


def segment_input(
    generator: torch.Generator,
    mode: str,
    n: int = 300,
    n_segments: int = 40,
    channels: int = 8,
    is_sorted: bool = False,
    ignored: bool = True,
    ties: bool = False,
    dtype: torch.dtype = torch.int64,
    skew: float = 1.0,
) -> Inputs:
    share = torch.rand(n, generator=generator, dtype=torch.float64) ** skew
    segments = (share * n_segments).long()
    if is_sorted:
        segments = segments.sort().values
    elif ignored:
        segments[::7] = -1
    features = torch.randn(n, channels, generator=generator, dtype=torch.float64)
    if ties:
        features = features.round().clamp(-1, 1)
    return {
        "features": features,
        "segments": segments.to(dtype),
        "n_segments": n_segments,
        "mode": mode,
    }


SEGMENT_SHAPES: dict[str, dict[str, Any]] = {
    "some": {},
    "sorted": {"is_sorted": True},
    "int32": {"dtype": torch.int32, "channels": 5},
    "one": {"n": 1500, "n_segments": 1, "ignored": False},
    "long": {"n": 2000, "n_segments": 3, "channels": 12},
    "long_sorted": {"n": 2100, "n_segments": 4, "channels": 1, "is_sorted": True},
    "long_and_short": {"n": 1800, "n_segments": 60, "channels": 3, "skew": 6.0},
    "long_ties": {"n": 1500, "n_segments": 2, "channels": 2, "ties": True},
    "wide": {"n": 700, "n_segments": 2, "channels": 260},
    "many_segments": {"n": 10, "n_segments": 2000, "channels": 4},
    "ties": {"ties": True},
    "few": {"n": 9, "n_segments": 4, "channels": 2},
    "no_rows": {"n": 0, "n_segments": 3},
    "no_segments": {"n": 0, "n_segments": 0},
    "no_channels": {"channels": 0},
}


def segment_case(mode: str) -> Case:
    return Case(
        name=f"segment_{mode}",
        op=pool_ops.sparse_segment_reduce,
        reference=reference.segment_reduce,
        variants={
            name: partial(segment_input, mode=mode, **shape)
            for name, shape in SEGMENT_SHAPES.items()
        },
        differentiable=("features",),
        gradcheck=("few",),
        emulated_gradcheck=("few",),
        dtypes=DTYPES,
        tolerance=TOLERANCE,
        errors=(
            Error("mode", {"mode": "median"}, ValueError, "mode: expected one of sum.*'median'"),
            Error("dtype", {"features": torch.ones(300, 8).int()}, TypeError, "got torch.int32"),
            Error("shape", {"features": torch.ones(300)}, ValueError, r"got \[300\]"),
            Error("segments", {"segments": torch.ones(300)}, TypeError, "int32 or int64, got"),
            Error(
                "rank", {"segments": torch.ones(3, 1).long()}, ValueError, r"\[N\], got \[3, 1\]"
            ),
            Error("length", {"segments": torch.ones(3).long()}, ValueError, "300, got 3"),
            Error("outside", {"n_segments": 3}, RuntimeError, "expected segments below 3, got"),
            Error("negative", {"n_segments": -1}, RuntimeError, "n_segments: expected 0 to"),
            Error("number", {"n_segments": None}, ValueError, "n_segments: expected a number"),
        ),
    )


# Interpolation.


def interpolate_input(
    generator: torch.Generator,
    n: int = 50,
    queries: int = 120,
    taps: int = 8,
    channels: int = 8,
    weighted: bool = True,
    dtype: torch.dtype = torch.int32,
    missing: float = 0.3,
    one_row: bool = False,
) -> Inputs:
    rows = torch.randint(0, max(n, 1), (queries, taps), generator=generator, dtype=dtype)
    if one_row:
        rows[:] = n // 2
    rows[torch.rand(queries, taps, generator=generator) < missing] = -1
    weights = torch.rand(queries, taps, generator=generator, dtype=torch.float64)
    return {
        "features": torch.randn(n, channels, generator=generator, dtype=torch.float64),
        "rows": rows,
        "weights": weights if weighted else None,
    }


INTERPOLATE = Case(
    name="interpolate",
    op=pool_ops.sparse_interpolate,
    reference=reference.interpolate,
    variants={
        "some": interpolate_input,
        "odd": partial(interpolate_input, channels=5, taps=3, dtype=torch.int64),
        "unweighted": partial(interpolate_input, weighted=False),
        "gather": partial(interpolate_input, weighted=False, taps=1, channels=12),
        "wide": partial(interpolate_input, channels=260, queries=10, taps=11),
        "one_channel": partial(interpolate_input, channels=1),
        "one_row": partial(interpolate_input, one_row=True, queries=300, taps=4),
        "few": partial(interpolate_input, n=4, queries=5, taps=3, channels=2),
        "all_missing": partial(interpolate_input, missing=1.1),
        "no_queries": partial(interpolate_input, queries=0),
        "no_rows": partial(interpolate_input, n=0, missing=1.1),
        "no_taps": partial(interpolate_input, taps=0),
        "no_channels": partial(interpolate_input, channels=0),
    },
    differentiable=("features", "weights"),
    gradcheck=("few",),
    emulated_gradcheck=("few",),
    dtypes=DTYPES,
    tolerance=TOLERANCE,
    errors=(
        Error("features", {"features": torch.ones(3).long()}, TypeError, "features: expected"),
        Error("rows", {"rows": torch.ones(3)}, TypeError, "rows: expected int32 or int64"),
        Error("rank", {"rows": torch.ones(3).int()}, ValueError, r"\[Q, T\], got \[3\]"),
        Error("weights", {"weights": torch.ones(3)}, ValueError, r"\[120, 8\], got \[3\]"),
        Error("whole", {"weights": torch.ones(120, 8).int()}, TypeError, "floating dtype, got"),
        Error("outside", {"features": torch.ones(3, 1)}, RuntimeError, "rows below 3, got"),
    ),
)  # fmt: skip


# Between voxels. A hash stands for a table of coordinates: it can be traced.


def hashed_row(queries: Tensor) -> Tensor:
    """A row for two coordinates of three."""
    factors = queries.new_tensor([7, 31, 57, 11, 3], dtype=torch.int64)[: queries.shape[1]]
    mixed = (queries.long() * factors).sum(dim=1)
    return torch.where(mixed % 3 == 0, -1, mixed % 10).int()


def trilinear_input(
    generator: torch.Generator,
    ndim: int = 3,
    n: int = 60,
    align: str = "centre",
    renormalise: bool = True,
) -> Inputs:
    points = 8 * torch.rand(n, ndim, generator=generator, dtype=torch.float64) - 4
    return {
        "points": points.float().double(),
        "batch": torch.randint(0, 3, (n,), generator=generator),
        "align": align,
        "renormalise": renormalise,
    }


TRILINEAR = Case(
    name="trilinear",
    op=lambda **inputs: pool_ops.sparse_trilinear(hashed_row, **inputs),
    reference=lambda **inputs: reference.trilinear(hashed_row, **inputs),
    variants={
        f"{'no_points_' * (n == 0)}{ndim}_{align}{'_renormalised' * renormalise}": partial(
            trilinear_input, ndim=ndim, align=align, renormalise=renormalise, n=n
        )
        for ndim, align, renormalise, n in (
            (3, "centre", True, 60),
            (3, "corner", False, 60),
            (1, "corner", True, 20),
            (2, "centre", False, 30),
            (4, "centre", True, 30),
            (3, "centre", True, 0),
        )
    },
    differentiable=("points",),
    gradcheck=("3_centre_renormalised", "2_centre", "4_centre_renormalised"),
    emulated_gradcheck=("1_corner_renormalised",),
    # Where the weights of all corners together are small, rounding is divided by them.
    tolerance={torch.float32: 1e-4, torch.float64: 1e-10},
    errors=(
        Error("dtype", {"points": torch.ones(2, 3).half()}, TypeError, "points: expected float32"),
        Error("shape", {"points": torch.ones(3)}, ValueError, r"shape \[Q, D\].*got \[3\]"),
        Error("floats", {"batch": torch.ones(60)}, TypeError, "batch: expected whole numbers, got"),
        Error("batch", {"batch": torch.ones(3).int()}, ValueError, r"shape \[60\], got \[3\]"),
        Error("align", {"align": "left"}, ValueError, "expected one of centre, corner, got 'left'"),
    ),
)

CASES = [
    *(pool_case(mode) for mode in ("max", "sum", "mean")),
    *(segment_case(mode) for mode in ("sum", "mean", "max", "min", "first")),
    INTERPOLATE,
    TRILINEAR,
]


@parametrize(CASES)
def test_sparse_pool(check: Callable[[], None]) -> None:
    check()


# The face over kernel maps.


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mode", ["max", "sum", "mean"])
def test_pool_over_a_kernel_map(backend: str, mode: Any) -> None:
    inputs = pool_input(seeded("face"), mode)
    expected = reference.pool(**inputs)
    with running_on(backend) as device:
        features = inputs["features"].clone().to(device).requires_grad_()
        out = pool(features, map_of(inputs["table"], len(features)), mode)
        (gradient,) = torch.autograd.grad(out.sum(), features)
    assert_near("pooled", out.detach().cpu(), expected, 1e-12)
    leaf = inputs["features"].clone().requires_grad_()
    reference.pool(leaf, inputs["table"], mode).sum().backward()
    assert leaf.grad is not None
    assert_near("gradient", gradient.cpu(), leaf.grad, 1e-12)


def test_reverse_map_is_made_for_gradients_alone() -> None:
    inputs = pool_input(seeded("lazy"), "sum")
    kernel_map = KernelMap.from_table(inputs["table"], len(inputs["features"]))
    leaf = inputs["features"].clone().requires_grad_()
    with torch.no_grad():
        pool_ops.sparse_pool(leaf, kernel_map, "sum")
    assert kernel_map._reverse is None
    pool_ops.sparse_pool(leaf, kernel_map, "sum")
    assert kernel_map._reverse is not None


@pytest.mark.parametrize(
    ("features", "mode", "exception", "match"),
    [
        (torch.ones(3, 8).int(), "max", TypeError, "features: expected float32"),
        (torch.ones(3), "max", ValueError, r"features: expected shape \[N, C\], got \[3\]"),
        (torch.ones(3, 8), "min", ValueError, "mode: expected one of sum, mean, max, got 'min'"),
        (torch.ones(2, 8), "max", ValueError, "expected 3 rows, the inputs of kernel_map, got 2"),
        (torch.ones(3, 8, device="meta"), "max", ValueError, "device of features, meta, got cpu"),
    ],
)
def test_pool_says_what_is_wrong(
    features: Tensor, mode: Any, exception: type[Exception], match: str
) -> None:
    table = torch.tensor([[0, 2]], dtype=torch.int32)
    with pytest.raises(exception, match=match):
        pool_ops.sparse_pool(features, KernelMap.from_table(table, 3), mode)


@pytest.mark.parametrize(
    "pairs",
    [
        ([0, 1], [9999, 0], [0, 2]),  # rows written do not ascend
        ([0, 9], [0, 1], [0, 2]),  # no such row to read
        ([0, 1], [0, 10000], [0, 2]),  # no such row to write
        ([0, 1], [0, 1], [0, 1]),  # a pair of no tap
        ([0, 1], [0, 1], [2, 0]),  # starts descend
    ],
)
def test_bad_pairs_are_an_error(pairs: tuple[list[int], ...]) -> None:
    rows = [torch.tensor(rows, dtype=torch.int32) for rows in pairs[:2]]
    forms = pool_ops.PoolMap(*rows, torch.tensor(pairs[2]), torch.zeros(0, 0, dtype=torch.int32))
    with pytest.raises(RuntimeError, match=r"starts: expected|in_rows, out_rows: expected"):
        pool_ops.pool_forms(torch.ones(3, 2), 10000, "sum", forms, forms)


@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_bad_rows_stay_in_bounds(backend: str) -> None:
    with running_on(backend) as device:
        table = torch.tensor([[0, -7, 2**31 - 1, 3]], dtype=torch.int32, device=device)
        none = torch.zeros(0, dtype=torch.int32, device=device)
        forms = pool_ops.PoolMap(none, none, torch.zeros(1).long().to(device), table)
        out = pool_ops.pool_forms(torch.ones(3, 1, device=device), 4, "sum", forms, forms)
        assert out.flatten().tolist() == [1, 0, 0, 0]
        x = torch.ones(4, 1, device=device)
        segments = torch.tensor([5, 0, 2**40, -3], device=device)
        assert pool_ops.sparse_segment_reduce(x, segments, 2).flatten().tolist() == [1, 0]
        rows = torch.tensor([1, 4, -1, 2**40], device=device)
        assert pool_ops.sparse_gather(x, rows).flatten().tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_bad_lists_stay_in_bounds(backend: str) -> None:
    with running_on(backend) as device:
        order = torch.tensor([-5, 3, 2**31 - 1, -(2**31)], dtype=torch.int32, device=device)
        starts = torch.tensor([-(2**50), 2**50, 1, 0], device=device)
        x = torch.ones(2, 1, device=device)
        weights = torch.ones(2, 2, device=device)
        out = library.ops().sparse_interpolate_features_backward(x, weights, order, starts, 2)
        assert out.flatten().tolist() == [1, 0, 0]
        for mode in range(4):
            found, _ = library.ops().sparse_segment_reduce(x, order, order, starts, mode)
            assert found.flatten().tolist() == [0, 0, 0]
        picked = torch.tensor([[-7], [2**31 - 1]], dtype=torch.int32, device=device)
        put = library.ops().sparse_segment_picked_backward(x, picked, 3)
        assert put.flatten().tolist() == [0, 0, 0]


# What is not a number.


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("n", [9, 1500])
def test_nan_wins(backend: str, mode: Any, n: int) -> None:
    features = torch.randn(n, 6, generator=seeded("nan"))
    features[n // 3, 0] = features[n // 2, 0] = torch.nan
    features[:, 1] = torch.inf if mode == "min" else -torch.inf
    features[n - 1, 2] = torch.nan
    with running_on(backend) as device:
        leaf = features.to(device).requires_grad_()
        segments = torch.zeros(n, dtype=torch.int64, device=device)
        out = pool_ops.sparse_segment_reduce(leaf, segments, 1, mode)
        (gradient,) = torch.autograd.grad(out, leaf, torch.ones_like(out))
    expected = reference.segment_reduce(features, torch.zeros(n), 1, mode)
    assert torch.equal(out.detach().cpu().nan_to_num(7.0), expected.nan_to_num(7.0))
    picked = gradient.cpu().argmax(0).tolist()
    assert picked[:3] == [n // 3, 0, n - 1]


@pytest.mark.parametrize("backend", BACKENDS)
def test_pool_nan_wins(backend: str) -> None:
    features = torch.tensor([[1.0, torch.nan, -torch.inf], [torch.nan, 2.0, -torch.inf]])
    with running_on(backend) as device:
        table = torch.tensor([[0], [1]], dtype=torch.int32)
        leaf = features.to(device).requires_grad_()
        out = pool(leaf, map_of(table, 2), "max")
        (gradient,) = torch.autograd.grad(out, leaf, torch.ones_like(out))
    assert out.isnan().tolist() == [[True, True, False]] and out[0, 2] == -torch.inf
    assert gradient.tolist() == [[0, 1, 1], [1, 0, 0]]


# Sixteen bits.


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_half_survives(backend: str, dtype: torch.dtype) -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)[:, None]
    with running_on(backend) as device:
        out = pool_ops.sparse_gather(every.to(device), torch.arange(2**16, device=device)).cpu()
    assert torch.equal(out.isnan(), every.isnan())
    assert bool(((out.view(torch.int16) == every.view(torch.int16)) | every.isnan()).all())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_round_as_torch_rounds(backend: str, dtype: torch.dtype) -> None:
    generator = seeded("round", dtype)
    bits = torch.randint(-(2**31), 2**31, (20_000,), generator=generator).int()
    values = bits.view(torch.float32)
    near = torch.randn(20_000, generator=generator) * 10.0 ** torch.randint(-9, 6, (20_000,))
    ties = torch.arange(2049.0, 4096.0, 2.0)
    values = torch.cat([values[values.isfinite()], near, ties, ties * 2.0**-24])
    values = values[values.abs() >= 2.0**-126]  # a GPU takes subnormal numbers for zeros
    with running_on(backend) as device:
        rows = torch.zeros(len(values), 1, dtype=torch.int32, device=device)
        one = torch.ones(1, 1, dtype=dtype, device=device)
        out = pool_ops.sparse_interpolate(one, rows, values[:, None].to(device))[:, 0].cpu()
    assert torch.equal(out, values.to(dtype))


# Sorting.


@pytest.mark.parametrize("backend", BACKENDS)
def test_segments_are_sorted_once(backend: str) -> None:
    values = torch.tensor([2, -1, 0, 2, 0])
    features = torch.arange(10.0).view(5, 2)
    with running_on(backend) as device:
        segments = pool_ops.sparse_segments(values.to(device), 4)
        assert segments.order.tolist() == [2, 4, 0, 3, 1]
        assert segments.starts.tolist() == [0, 2, 2, 4, 4]
        assert pool_ops.first_rows(segments).tolist() == [2, -1, 0, -1]
        out = pool_ops.sparse_segment_reduce(features.to(device), segments)
        assert out.tolist() == [[12, 14], [0, 0], [6, 8], [0, 0]]
        ascending = torch.tensor([0, 0, 2, -1], device=device)
        promised = pool_ops.sparse_segments(ascending, 3, is_sorted=True)
        assert promised.order.tolist() == [0, 1, 2, 3]
        assert promised.starts.tolist() == [0, 2, 2, 3]


def test_a_broken_promise_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="expected ascending segments"):
        pool_ops.sparse_segments(torch.tensor([1, 0]), 2, is_sorted=True)


# Between voxels.


def lookup_in(coords: Tensor) -> Callable[[Tensor], Tensor]:
    rows_of = {tuple(c): row for row, c in reversed(list(enumerate(coords.tolist())))}
    return lambda queries: torch.tensor(
        [rows_of.get(tuple(q), -1) for q in queries.tolist()], dtype=torch.int32
    ).to(queries.device)


@pytest.mark.parametrize("ndim", [1, 2, 3, 4])
def test_trilinear_looks_coordinates_up(ndim: int) -> None:
    generator = seeded("trilinear", ndim)
    coords = torch.randint(-2, 3, (60, 1 + ndim), generator=generator, dtype=torch.int32)
    coords[:, 0] = coords[:, 0].abs()
    points = 5 * torch.rand(80, ndim, generator=generator, dtype=torch.float64) - 2.5
    batch = torch.randint(0, 3, (80,), generator=generator)
    points[:3] = points[:3].round()
    expected = reference.trilinear(lookup_in(coords), points, batch, "corner", True)
    index = map_ops.sparse_index(coords)
    for place, column, align in (
        (points, batch, "corner"),
        (points + 0.5, batch[:, None], "centre"),
    ):
        rows, weights = pool_ops.sparse_trilinear(index, place, column, align=align)
        assert torch.equal(rows, expected[0])
        assert_near("weights", weights, expected[1], 1e-12)


def test_trilinear_gives_a_linear_field_and_its_gradient() -> None:
    """Inside a full block, interpolated positions are the points themselves."""
    coords = torch.cartesian_prod(torch.arange(1), *[torch.arange(6)] * 3).int()
    points = 1 + 3 * torch.rand(50, 3, generator=seeded("linear"), dtype=torch.float64)
    points.requires_grad_()
    rows, weights = pool_ops.sparse_trilinear(lookup_in(coords), points)
    out = pool_ops.sparse_interpolate(coords[:, 1:].double() + 0.5, rows, weights)
    assert torch.allclose(out, points)
    (gradient,) = torch.autograd.grad(out[:, 0].sum(), points)
    expected = torch.tensor([1.0, 0, 0]).double().expand_as(gradient)
    assert torch.allclose(gradient, expected, atol=1e-12)


def test_trilinear_where_there_is_nothing() -> None:
    points = torch.tensor([[torch.nan, 0.0], [torch.inf, 0], [3e9, 0], [-3e9, 0], [9, 9]])
    coords = torch.zeros(1, 3, dtype=torch.int32)
    rows, weights = pool_ops.sparse_trilinear(lookup_in(coords), points)
    assert bool((rows == -1).all()) and bool((weights == 0).all())
    rows, weights = pool_ops.sparse_trilinear(lookup_in(coords), points[:0])
    assert rows.shape == weights.shape == (0, 4)


def test_trilinear_at_the_ends_of_int32() -> None:
    low, high = -(2**31), 2**31 - 1
    coords = torch.tensor([[0, low], [0, high]], dtype=torch.int32)
    points = torch.tensor([[low], [low + 0.5], [high], [high + 0.75]], dtype=torch.float64)
    rows, weights = pool_ops.sparse_trilinear(lookup_in(coords), points, renormalise=False)
    assert rows.tolist() == [[-1, 0], [0, -1], [-1, 1], [1, -1]]
    assert weights.tolist() == [[0, 0.5], [1, 0], [0, 0.5], [0.75, 0]]


# Half a million rows, against torch.


@pytest.mark.parametrize("mode", ["sum", "mean", "max", "min", "first"])
@pytest.mark.parametrize("n_segments", [3, 100_000])
def test_segments_of_many_rows(mode: Any, n_segments: int) -> None:
    generator = seeded("many", n_segments)
    n = 500_000
    features = torch.randn(n, 8, generator=generator)
    segments = torch.randint(0, n_segments, (n,), generator=generator)
    leaf = features.clone().requires_grad_()
    out = pool_ops.sparse_segment_reduce(leaf, segments, n_segments, mode)
    out.sum().backward()
    counts = segments.bincount(minlength=n_segments).double()
    order = segments.argsort(stable=True)
    firsts = order[(counts.cumsum(0) - counts).long().clamp(max=n - 1)]
    if mode == "first":
        expected = torch.where(counts[:, None] > 0, features[firsts].double(), 0)
    else:
        index = segments[:, None].expand_as(features)
        name = {"max": "amax", "min": "amin"}.get(mode, mode)
        expected = torch.zeros(n_segments, 8, dtype=torch.float64)
        expected.scatter_reduce_(0, index, features.double(), name, include_self=False)
    assert_near("output", out.detach().double(), expected, 1e-5)
    assert leaf.grad is not None
    if mode in ("sum", "mean"):
        share = torch.ones(n_segments).double() if mode == "sum" else 1 / counts
        assert_near("gradient", leaf.grad.double(), share[segments][:, None].expand(-1, 8), 1e-6)
    else:
        assert float(leaf.grad.sum()) == 8 * int((counts > 0).sum())
        assert torch.equal(
            (leaf.grad * features).double().sum(0), (leaf.grad.double() * features).sum(0)
        )


def many_pairs(generator: torch.Generator, n_in: int, taps: int) -> tuple[Tensor, int]:
    """Each input in one of eight taps of one output, as pooling by two has them, and again in a
    second map shifted by one tap: kernels that overlap."""
    n_out = n_in // 4
    table = torch.full((taps, n_out), -1, dtype=torch.int32)
    for tap in range(taps):
        count = n_in // 6
        rows = torch.randperm(n_in, generator=generator)[:count]
        table[tap, torch.randperm(n_out, generator=generator)[:count]] = rows.int()
    return table, n_out


@pytest.mark.parametrize("mode", ["max", "sum", "mean"])
def test_pool_of_many_rows(mode: Any) -> None:
    n, taps = 500_000, 8
    table, n_out = many_pairs(seeded("pool"), n, taps)
    features = torch.randn(n, 4, generator=seeded("features"))
    leaf = features.clone().requires_grad_()
    out = pool(leaf, KernelMap.from_table(table, n), mode)
    out.sum().backward()
    padded = torch.cat([features.double(), features.new_zeros(1, 4).double()])
    active = (table >= 0)[:, :, None]
    taken = padded[table.long()]
    counts = active.sum(0).clamp(min=1)
    if mode == "max":
        best, picked = torch.where(active, taken, -torch.inf).max(0)
        expected = torch.where(active.any(0), best, 0)
        share = torch.zeros_like(taken).scatter_(0, picked[None], 1.0) * active
    else:
        expected = taken.sum(0) / (counts if mode == "mean" else 1)
        share = active / (counts if mode == "mean" else 1) * torch.ones(4).double()
    assert_near("output", out.detach().double(), expected, 1e-6)
    gradient = torch.zeros_like(padded).index_add_(
        0, table.flatten() % (n + 1), share.flatten(0, 1)
    )
    assert leaf.grad is not None
    assert_near("gradient", leaf.grad.double(), gradient[:n], 1e-6)


def test_interpolation_of_many_rows() -> None:
    generator = seeded("interpolation")
    n, queries = 100_000, 500_000
    features = torch.randn(n, 4, generator=generator)
    rows = torch.randint(-1, n, (queries, 8), generator=generator, dtype=torch.int32)
    weights = torch.rand(queries, 8, generator=generator)
    leaves = features.clone().requires_grad_(), weights.clone().requires_grad_()
    out = pool_ops.sparse_interpolate(leaves[0], rows, leaves[1])
    found = torch.autograd.grad(out.sum(), leaves)
    padded = torch.cat([features, features.new_zeros(1, 4)])
    assert_near("output", out.detach(), (padded[rows.long()] * weights[..., None]).sum(1), 1e-5)
    sums = torch.zeros(n + 1).double()
    sums.index_add_(0, rows.flatten().long() % (n + 1), weights.flatten().double())
    assert_near("features", found[0].double(), sums[:n, None].expand(-1, 4), 1e-5)
    assert_near("weights", found[1], padded.sum(1)[rows.long()], 1e-5)


# Instruction sets and examples.


@pytest.mark.parametrize(("level", "isa"), [(0, "baseline"), (1, "avx2")])
def test_every_instruction_set(level: int, isa: str) -> None:
    if int(library.ops().core_isa()) <= level:
        pytest.skip(f"this machine has nothing beyond {isa}")
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    command += ["-k", "values-cpu and (some or odd or long) or half and cpu or halves and cpu"]
    done = subprocess.run(
        command,
        env={**os.environ, "FIELDLINE_ISA": isa, "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:]


@pytest.mark.parametrize("module", [pool_ops, segment_ops, trilinear_ops])
def test_examples(module: Any) -> None:
    assert doctest.testmod(module).failed == 0
