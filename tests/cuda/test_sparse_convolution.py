# SPDX-License-Identifier: Apache-2.0
"""Convolution over kernel maps: values, gradients, maps in all their forms."""

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
import sparse_convolution_reference as reference
import torch
from fieldline.cuda import library
from fieldline.cuda.sparse import activations, conv_ops, kernel_map
from fieldline.cuda.sparse.conv_ops import sparse_convolution
from fieldline.cuda.sparse.kernel_map import KernelMap
from op_harness import Case, Error, Inputs, assert_near, parametrize, running_on
from safetensors.torch import load_file, save_file
from torch import Tensor


def of_table(
    features: Tensor, weight: Tensor, table: Tensor, symmetric: bool = False, **rest: Any
) -> Tensor:
    """The convolution with its map as a table, which the harness can move and stride."""
    made = KernelMap.from_table(table, features.shape[0], symmetric)
    return sparse_convolution(features, weight, made, **rest)


def by_table(symmetric: bool = False, **inputs: Any) -> Tensor:
    return reference.convolution(**inputs)


def some(
    generator: torch.Generator,
    channels: tuple[int, int] = (5, 7),
    n: int = 60,
    kernel_size: tuple[int, ...] = (3, 3, 3),
    size: tuple[int, ...] = (4, 5, 6),
    groups: int = 1,
    bias: bool = False,
    residual: bool = False,
    **rest: Any,
) -> Inputs:
    coords = reference.random_coordinates(generator, n, size)
    table = reference.submanifold_table(coords, kernel_size)
    return drawn(generator, table, len(coords), channels, groups, bias, residual) | rest


def drawn(
    generator: torch.Generator,
    table: Tensor,
    n_in: int,
    channels: tuple[int, int],
    groups: int = 1,
    bias: bool = False,
    residual: bool = False,
) -> Inputs:
    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    own, channels_out = channels[0] // groups, channels[1]
    scale = (own * table.shape[0]) ** -0.5
    return {
        "features": normal(n_in, channels[0]),
        "weight": normal(table.shape[0], own, channels_out) * scale,
        "table": table,
        "bias": normal(channels_out) if bias else None,
        "residual": normal(table.shape[1], channels_out) if residual else None,
    }


def strided(generator: torch.Generator, channels: tuple[int, int] = (6, 9)) -> Inputs:
    fine = reference.random_coordinates(generator, 90, (8, 9, 7))
    halved = torch.cat([fine[:, :1], fine[:, 1:].div(2, rounding_mode="floor")], 1)
    coarse = torch.unique(halved, dim=0)
    table = reference.strided_table(fine, coarse, (3, 2, 2), (2, 2, 2), [-1, 0, 0])
    return drawn(generator, table, len(fine), channels)


CONVOLUTION = Case(
    name="convolution",
    op=of_table,
    reference=by_table,
    variants={
        "strided": strided,
        "symmetric": partial(some, symmetric=True),
        "all": partial(some, bias=True, residual=True, activation="relu", symmetric=True),
        "leaky": partial(some, bias=True, activation="leaky_relu", slope=0.2),
        "silu": partial(some, residual=True, activation="silu"),
        "gelu": partial(some, bias=True, activation="gelu"),
        "sigmoid": partial(some, activation="sigmoid"),
        "narrow": partial(some, channels=(4, 3)),
        "wide": partial(some, channels=(33, 70), n=300, size=(9, 9, 9), symmetric=True),
        "odd": partial(some, channels=(17, 41), n=37),
        "groups": partial(some, channels=(8, 12), groups=4, bias=True, symmetric=True),
        "depthwise": partial(some, channels=(19, 19), groups=19, symmetric=True),
        "multiplier": partial(some, channels=(6, 18), groups=6),
        "pointwise": partial(some, kernel_size=(1, 1, 1)),
        "large-kernel": partial(some, kernel_size=(7, 7, 7), n=40),
        "line": partial(some, kernel_size=(5,), size=(40,)),
        "one": partial(some, n=1),
        "empty": partial(some, n=0),
        "nothing-in": lambda generator: drawn(
            generator, torch.full((3, 4), -1, dtype=torch.int32), 0, (2, 3), bias=True
        ),
        "nothing-out": lambda generator: drawn(
            generator, torch.full((3, 0), -1, dtype=torch.int32), 4, (2, 3), bias=True
        ),
    },
    differentiable=("features", "weight", "bias", "residual"),
    gradcheck=("strided", "all", "leaky", "silu", "sigmoid", "groups", "depthwise", "one"),
    errors=(
        Error("dtype", {"features": torch.ones(4, 6).int()}, TypeError, "features: expected float"),
        Error("rows", {"features": torch.ones(4, 6, 1)}, ValueError, r"features: expected shape"),
        Error("taps", {"weight": torch.ones(3, 6, 9)}, ValueError, r"weight: expected shape \[12,"),
        Error("channels", {"weight": torch.ones(12, 4, 9)}, ValueError, "for C_in = 6"),
        Error("groups", {"weight": torch.ones(12, 3, 9)}, ValueError, "groups that divide C_out"),
        Error("none", {"weight": torch.ones(12, 0, 9)}, ValueError, "for C_in = 6"),
        Error("kinds", {"weight": torch.ones(12, 6, 9).double()}, TypeError, "dtype of features"),
        Error("bias", {"bias": torch.ones(8)}, ValueError, r"bias: expected shape \[9\]"),
        Error("residual", {"residual": torch.ones(1, 9)}, ValueError, "residual: expected shape"),
        Error("activation", {"activation": "tanh"}, ValueError, "activation: expected one of none"),
    ),
)


@parametrize([CONVOLUTION])
def test_convolution(check: Callable[[], None]) -> None:
    check()


HALVES = Case(
    name="halves",
    op=of_table,
    reference=by_table,
    variants={
        "all": partial(some, bias=True, residual=True, activation="relu", symmetric=True),
        "strided": strided,
        "wide": partial(some, channels=(64, 64), n=300, size=(9, 9, 9), symmetric=True),
        "odd": partial(some, channels=(17, 41), n=37),
        "groups": partial(some, channels=(8, 12), groups=4),
        "depthwise": partial(some, channels=(19, 19), groups=19),
        "empty": partial(some, n=0),
    },
    differentiable=("features", "weight", "bias", "residual"),
    dtypes=(torch.float16, torch.bfloat16),
    # Sums are exact to float32; one rounding at the end is left.
    tolerance={torch.float16: 6e-4, torch.bfloat16: 5e-3},
    gradient_tolerance={torch.float16: 2e-3, torch.bfloat16: 1.5e-2},
)


@parametrize([HALVES])
def test_halves(check: Callable[[], None]) -> None:
    check()


def table_of(seed: int = 0, **settings: Any) -> tuple[Tensor, int]:
    inputs = some(torch.Generator().manual_seed(seed), **settings)
    return inputs["table"], inputs["features"].shape[0]


def test_forms_agree() -> None:
    inputs = strided(torch.Generator().manual_seed(0))
    table, n_in = inputs["table"], inputs["features"].shape[0]
    made = KernelMap.from_table(table, n_in)
    again = KernelMap.from_pairs(made.pairs, n_in, table.shape[1])
    assert torch.equal(again.table, table)
    assert again.n_pairs == made.n_pairs == int((table >= 0).sum())
    assert made.reverse.reverse is made
    for reverse in (made.reverse, again.reverse):
        assert (reverse.n_in, reverse.n_out) == (table.shape[1], n_in)
        for tap in range(table.shape[0]):
            pairs = {(i, o) for o, i in enumerate(table[tap].tolist()) if i >= 0}
            turned = {(i, o) for o, i in enumerate(reverse.table[tap].tolist()) if i >= 0}
            assert turned == {(o, i) for i, o in pairs}
        for begin, end in zip(reverse.pairs.starts[:-1], reverse.pairs.starts[1:]):
            rows = reverse.pairs.out_rows[begin:end]
            assert (rows.diff() > 0).all()


def test_symmetric_reverse_is_the_map_with_its_taps_turned() -> None:
    table, n = table_of()
    symmetric = KernelMap.from_table(table, n, symmetric=True).reverse.table
    assert torch.equal(symmetric, KernelMap.from_table(table, n).reverse.table)


def test_identity_is_a_matrix_product() -> None:
    generator = torch.Generator().manual_seed(1)
    made = KernelMap.identity(11)
    plain = KernelMap.from_table(made.table, 11)
    for groups, channels in ((1, (6, 4)), (2, (6, 4))):
        inputs = drawn(generator, made.table, 11, channels, groups, bias=True, residual=True)
        del inputs["table"]
        for activation in reference.ACTIVATIONS:
            settings = {**inputs, "activation": activation}
            fast = sparse_convolution(kernel_map=made, **settings)
            assert torch.allclose(fast, sparse_convolution(kernel_map=plain, **settings))
    assert made.reverse is made


def test_moved_maps_keep_their_forms() -> None:
    table, n = table_of()
    made = KernelMap.from_table(table, n)
    assert made.to("cpu") is made
    made.reverse.pairs
    moved = made.to("meta")
    assert moved.device.type == moved.reverse.device.type == "meta"
    assert moved.reverse.reverse is moved
    assert made.memory_bytes > KernelMap.from_table(table, n).memory_bytes


@pytest.mark.parametrize(
    ("make", "exception", "text"),
    [
        (lambda t: KernelMap.from_table(t.long(), 3), TypeError, "table: expected int32"),
        (lambda t: KernelMap.from_table(t[0], 3), ValueError, "table: expected 2 dimensions"),
        (lambda t: KernelMap.from_table(t, 3, True), ValueError, "symmetric: expected as many"),
        (
            lambda t: KernelMap.from_pairs((t[0], t[0], t[0]), 3, 3),
            TypeError,
            "starts: expected int64",
        ),
        (
            lambda t: KernelMap.from_pairs((t[0], t[0, :1], t[0].long()), 3, 3),
            ValueError,
            "pairs: expected in_rows",
        ),
    ],
)
def test_bad_maps(make: Callable[[Tensor], Any], exception: type[Exception], text: str) -> None:
    with pytest.raises(exception, match=text):
        make(torch.zeros(2, 4, dtype=torch.int32))


def call_with_pairs(in_rows: list[int], out_rows: list[int], starts: list[int]) -> Tensor:
    made = KernelMap.from_pairs(
        (
            torch.tensor(in_rows, dtype=torch.int32),
            torch.tensor(out_rows, dtype=torch.int32),
            torch.tensor(starts),
        ),
        3,
        3,
    )
    return sparse_convolution(torch.ones(3, 2), torch.ones(2, 2, 2), made)


@pytest.mark.parametrize(
    ("pairs", "text"),
    [
        (([0, 3], [0, 1], [0, 1, 2]), "in_rows: expected rows from 0 to 2"),
        (([0, 1], [0, -1], [0, 1, 2]), "out_rows: expected rows from 0 to 2"),
        (([0, 1], [0, 1], [0, 1, 3]), "starts: expected to ascend from 0 to 2"),
        (([0, 1], [0, 1], [0, 3, 2]), "starts: expected to ascend"),
        (([0, 1], [1, 0], [0, 2, 2]), "ascending within a tap"),
        (([0, 1], [1, 1], [0, 2, 2]), "ascending within a tap"),
    ],
)
def test_pairs_outside_the_features_are_an_error(pairs: Any, text: str) -> None:
    with pytest.raises(RuntimeError, match=text):
        call_with_pairs(*pairs)


SECOND = {
    "strided": partial(strided, channels=(2, 3)),
    "symmetric": partial(some, channels=(2, 3), n=9, symmetric=True),
    "relu": partial(some, channels=(3, 2), n=9, bias=True, residual=True, activation="relu"),
    "silu": partial(some, channels=(2, 2), n=7, bias=True, activation="silu", symmetric=True),
    "sigmoid": partial(some, channels=(2, 2), n=7, activation="sigmoid"),
    "groups": partial(some, channels=(4, 6), n=7, groups=2, symmetric=True),
    "pointwise": partial(some, channels=(2, 3), n=7, kernel_size=(1, 1, 1), bias=True),
}


@pytest.mark.parametrize(
    ("name", "backend"), [*((name, "cpu") for name in SECOND), ("strided", "emulated")]
)
def test_second_derivatives(name: str, backend: str) -> None:
    inputs = SECOND[name](torch.Generator().manual_seed(8))
    table, symmetric = inputs.pop("table"), inputs.pop("symmetric", False)
    names = [k for k, v in inputs.items() if isinstance(v, Tensor)]

    def convolve(*leaves: Tensor) -> Tensor:
        return sparse_convolution(**{**inputs, **dict(zip(names, leaves))}, kernel_map=made)

    with running_on(backend):
        made = KernelMap.from_table(table, inputs["features"].shape[0], symmetric)
        leaves = [inputs[k].clone().requires_grad_() for k in names]
        assert torch.autograd.gradgradcheck(convolve, leaves, eps=1e-6, atol=1e-6)


def test_second_derivatives_of_the_operator() -> None:
    """Whoever calls it without our node around it finds the same."""
    inputs = SECOND["strided"](torch.Generator().manual_seed(9))
    made = KernelMap.from_table(inputs["table"], inputs["features"].shape[0])
    forms = (*made.operands("pairs"), *made.reverse.operands("pairs"), False)

    def convolve(x: Tensor, w: Tensor) -> Tensor:
        return torch.ops.fieldline.sparse_conv(x, w, None, None, 0, 0.0, False, made.n_out, *forms)

    leaves = [inputs[k].clone().requires_grad_() for k in ("features", "weight")]
    assert torch.autograd.gradgradcheck(convolve, leaves, eps=1e-6, atol=1e-6)


def test_gradient_penalties_reach_the_weight() -> None:
    """What a training loop would ask for: the gradient of the gradient's square."""
    inputs = some(torch.Generator().manual_seed(10), symmetric=True)
    symmetric = inputs.pop("symmetric")

    def penalty(convolve: Callable[..., Tensor], **rest: Any) -> Tensor:
        x, w = (inputs[k].clone().requires_grad_() for k in ("features", "weight"))
        out = convolve(x, w, inputs["table"], activation="sigmoid", **rest)
        (g,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
        return torch.autograd.grad(g.square().sum(), w)[0]

    found = penalty(of_table, symmetric=symmetric)
    assert_near("penalty", found, penalty(reference.convolution), 1e-10)


def test_reverse_maps_are_needed_for_gradients_of_features() -> None:
    inputs = strided(torch.Generator().manual_seed(11))
    made = KernelMap.from_table(inputs["table"], inputs["features"].shape[0])
    rest = (made.n_in, 1, False, False, *made.operands("pairs"), *(None,) * 6, False)
    g = torch.ones(made.n_out, 9, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="reverse_table: expected all forms"):
        library.ops().sparse_conv_backward(g, None, inputs["weight"], *rest)
    features, weight = library.ops().sparse_conv_backward(g, inputs["features"], None, *rest)
    assert features.shape == (0,) and weight.shape == inputs["weight"].shape


def test_taps_may_have_several_axes() -> None:
    inputs = some(torch.Generator().manual_seed(12), symmetric=True)
    flat = inputs["weight"].requires_grad_()
    deep = flat.detach().unflatten(0, (3, 3, 3)).requires_grad_()
    outs = [of_table(**{**inputs, "weight": w}) for w in (flat, deep)]
    gradients = [torch.autograd.grad(o.sum(), w)[0] for o, w in zip(outs, (flat, deep))]
    assert torch.equal(*outs) and torch.equal(gradients[0], gradients[1].flatten(0, 2))


def test_a_weight_written_to_before_its_gradient_is_an_error() -> None:
    inputs = some(torch.Generator().manual_seed(13))
    weight = inputs["weight"].clone().requires_grad_()
    out = of_table(**{**inputs, "weight": weight, "features": inputs["features"].requires_grad_()})
    with torch.no_grad():
        weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_identity_checks_what_a_matrix_product_would_broadcast() -> None:
    made, x, w = KernelMap.identity(5), torch.ones(5, 3), torch.ones(1, 3, 4)
    for changed, exception, text in (
        ({"bias": torch.ones(1)}, ValueError, r"bias: expected shape \[4\]"),
        ({"residual": torch.ones(1, 4)}, ValueError, r"residual: expected shape \[5, 4\]"),
        ({"weight": torch.ones(1, 2, 4)}, ValueError, "for C_in = 3"),
        ({"weight": w.double()}, TypeError, "weight: expected float32"),
        ({"features": x.long(), "weight": w.long()}, TypeError, "features: expected float"),
        ({"activation": "tanh"}, ValueError, "activation: expected one of none"),
    ):
        with pytest.raises(exception, match=text):
            sparse_convolution(**{"features": x, "weight": w, "kernel_map": made, **changed})


def test_autocast_casts_as_torch_does() -> None:
    generator = torch.Generator().manual_seed(2)
    inputs = some(generator, bias=True, residual=True)
    floats = {k: v.float() if v.is_floating_point() else v for k, v in inputs.items()}
    floats["features"].requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = of_table(**floats)
        assert out.dtype == torch.bfloat16
        assert of_table(**inputs).dtype == torch.float64
    out.sum().backward()
    assert floats["features"].grad.dtype == torch.float32
    narrow = {k: v.bfloat16() if v.is_floating_point() else v for k, v in floats.items()}
    assert torch.equal(out, of_table(**narrow))


@pytest.mark.parametrize("backend", ["cpu", "emulated"])
@pytest.mark.parametrize("name", ["strided", "symmetric", "groups"])
def test_gradients_of_float32_weights_are_not_rounded_on_the_way(name: str, backend: str) -> None:
    inputs = CONVOLUTION.variants[name](torch.Generator().manual_seed(14))
    inputs["bias"] = torch.ones(inputs["weight"].shape[2])
    table, symmetric = inputs["table"], inputs.get("symmetric", False)
    names = ("features", "weight", "bias")
    narrow = [inputs[k].bfloat16().double().requires_grad_() for k in names]
    weights = torch.linspace(-1, 2, table.shape[1]).bfloat16()[:, None]
    exact = reference.convolution(narrow[0], narrow[1], table, narrow[2])
    expected = torch.autograd.grad(exact, narrow[1:], weights.double().expand_as(exact))
    with running_on(backend), torch.autocast("cpu", dtype=torch.bfloat16):
        x, w, b = (inputs[k].float().requires_grad_() for k in names)
        out = of_table(x, w, table, symmetric, bias=b)
        found = torch.autograd.grad(out, (w, b), weights.expand_as(out))
    for what, value, wanted in zip(names[1:], found, expected):
        assert value.dtype == torch.float32
        assert_near(what, value.double(), wanted, 1e-5)


@pytest.mark.parametrize("groups", [1, 2])
def test_autocast_of_a_matrix_product(groups: int) -> None:
    made = KernelMap.identity(7)
    inputs = drawn(torch.Generator().manual_seed(15), made.table, 7, (4, 6), groups, True, True)
    del inputs["table"]
    floats = {k: v.float().requires_grad_() for k, v in inputs.items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = sparse_convolution(kernel_map=made, **floats)
        assert sparse_convolution(kernel_map=made, **inputs).dtype == torch.float64
    assert out.dtype == torch.bfloat16
    out.sum().backward()
    assert all(v.grad.dtype == torch.float32 for v in floats.values())
    narrow = {k: v.detach().bfloat16() for k, v in floats.items()}
    expected = sparse_convolution(kernel_map=made, **narrow)
    assert_near("out", out.detach().double(), expected.double(), 2e-2)


def test_compiles_over_a_map_made_outside() -> None:
    inputs = strided(torch.Generator().manual_seed(3))
    made = KernelMap.from_table(inputs["table"], inputs["features"].shape[0])
    x, w = (inputs[k].float().requires_grad_() for k in ("features", "weight"))

    def network(x: Tensor, w: Tensor, made: KernelMap) -> Tensor:
        down = sparse_convolution(x, w, made, activation="relu")
        return sparse_convolution(down, w.transpose(1, 2).contiguous(), made.reverse) * 2

    expected = torch.autograd.grad(network(x, w, made).square().sum(), (x, w))
    fresh = KernelMap.from_table(inputs["table"], inputs["features"].shape[0])
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        for known in (made, fresh):
            found = torch.autograd.grad(compiled(x, w, known).square().sum(), (x, w))
            assert all(torch.equal(a, b) for a, b in zip(found, expected))


LEVELS = """
import sys
import torch
from safetensors.torch import load_file, save_file
from fieldline.cuda.sparse.conv_ops import sparse_convolution
from fieldline.cuda.sparse.kernel_map import KernelMap

given = load_file(sys.argv[1])
saved = {}
for name in {key.split(".")[0] for key in given}:
    x, w, table = (given[f"{name}.{part}"] for part in ("features", "weight", "table"))
    made = KernelMap.from_table(table, x.shape[0], symmetric=True)
    leaves = [t.requires_grad_() for t in (x, w)]
    out = sparse_convolution(*leaves, made, activation="leaky_relu")
    gradients = torch.autograd.grad(out.double().square().sum(), leaves)
    parts = zip(("out", "features", "weight"), (out.detach(), *gradients))
    saved |= {f"{name}.{part}": value for part, value in parts}
save_file(saved, sys.argv[2])
"""


@pytest.mark.parametrize("products", ["tiles", "pairs"])
@pytest.mark.parametrize(("number", "level"), enumerate(["baseline", "avx2", "avx512"]))
def test_every_instruction_set(number: int, level: str, products: str, tmp_path: Path) -> None:
    """bfloat16 goes by tiles or pairs of channels, whether the CPU multiplies those or not."""
    if library.ops().core_isa() < number:
        pytest.skip(f"this machine has no {level}")
    generator = torch.Generator().manual_seed(6)
    given, expected = {}, {}
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        for channels, groups in (
            ((64, 64), 1),
            ((20, 41), 1),
            ((292, 24), 1),
            ((12, 24), 3),
            ((17, 17), 17),
        ):
            inputs = some(generator, channels, n=200, size=(7, 7, 7), groups=groups)
            name = f"{dtype}-{channels[0]}-{channels[1]}".replace("torch.", "")
            x, w = (inputs[k].to(dtype) for k in ("features", "weight"))
            given |= {f"{name}.features": x, f"{name}.weight": w, f"{name}.table": inputs["table"]}
            leaves = [t.double().requires_grad_() for t in (x, w)]
            out = reference.convolution(*leaves, inputs["table"], activation="leaky_relu")
            gradients = torch.autograd.grad(out.square().sum(), leaves)
            expected |= {f"{name}.out": out.detach()}
            expected |= {f"{name}.{k}": g for k, g in zip(("features", "weight"), gradients)}
    source, target = tmp_path / "given.safetensors", tmp_path / "found.safetensors"
    save_file(given, source)
    environment = {**os.environ, "FIELDLINE_ISA": level, "FIELDLINE_BF16": products}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, "-P", "-c", LEVELS, str(source), str(target)]
    subprocess.run(command, env=environment, check=True, timeout=300)
    for name, value in load_file(target).items():
        tolerance = {"float32": 1e-5, "float64": 1e-12, "float16": 3e-3, "bfloat16": 2e-2}
        assert_near(name, value.double(), expected[name], tolerance[name.split("-")[0]])


@pytest.mark.parametrize("module", [kernel_map, activations, conv_ops])
def test_examples(module: Any) -> None:
    found = doctest.testmod(module, extraglobs={"torch": torch})
    assert found.attempted > 0 and found.failed == 0
