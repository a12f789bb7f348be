# SPDX-License-Identifier: Apache-2.0
"""Checkpoints between libraries: each layout against its own definition, and round trips."""

from __future__ import annotations

import doctest
import itertools

import pytest
import torch
from fieldline.engine.sparse import convert
from fieldline.engine.sparse.convert import LAYOUTS, convert_state_dict
from torch import Tensor

SIZES = [(3, 3, 3), (2, 2, 2), (1, 1, 1), (4, 4, 4), (5, 5, 5), (1, 3, 1), (3, 2, 1)]


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def first_axis_fastest(size: tuple[int, ...]) -> list[tuple[int, ...]]:
    return [tap[::-1] for tap in itertools.product(*map(range, reversed(size)))]


def last_axis_fastest(size: tuple[int, ...]) -> list[tuple[int, ...]]:
    return list(itertools.product(*map(range, size)))


def matrix_of(weight: Tensor, layout: str, size: tuple[int, ...], tap: tuple[int, ...]) -> Tensor:
    """[C_in, C_out] of one tap, read as the library itself reads it."""
    odd = size[0] * size[1] * size[2] % 2 == 1
    if layout in ("torchsparse", "torchsparse20", "minkowski"):
        fast_first = odd or layout == "minkowski"
        order = first_axis_fastest(size) if fast_first else last_axis_fastest(size)
        return weight if weight.dim() == 2 else weight[order.index(tap)]
    if layout == "spconv":
        if size == (1, 1, 1):
            return weight.view(weight.shape[-1], weight.shape[0])
        return weight[(slice(None), *tap)].t()
    if layout == "fvdb":
        return weight[(slice(None), slice(None), *tap)].t()
    return weight[tap]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", SIZES)
def test_every_tap_keeps_its_matrix(layout: str, size: tuple[int, int, int]) -> None:
    native = random(*size, 4, 6)
    parameter = LAYOUTS[layout].parameter
    converted = convert_state_dict({"a.weight": native}, "native", layout)[f"a.{parameter}"]
    for tap in last_axis_fastest(size):
        assert torch.equal(matrix_of(converted, layout, size, tap), native[tap])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("pair", list(itertools.permutations(LAYOUTS, 2)))
def test_round_trip(pair: tuple[str, str], size: tuple[int, int, int]) -> None:
    one, other = pair
    native = {"net.0.weight": random(*size, 4, 6), "net.0.bias": random(6)}
    sizes = {"net.0": size}
    there = convert_state_dict(native, "native", one)
    across = convert_state_dict(there, one, other, kernel_sizes=sizes)
    back = convert_state_dict(across, other, one, kernel_sizes=sizes)
    assert list(back) == list(there)
    assert all(torch.equal(back[name], there[name]) for name in there)
    home = convert_state_dict(across, other, "native", kernel_sizes=sizes)
    assert all(torch.equal(home[name], native[name]) for name in native)


def test_known_permutations() -> None:
    weight = random(6, 3, 3, 3, 4)
    kernel = convert_state_dict({"weight": weight}, "spconv", "torchsparse")["kernel"]
    assert torch.equal(kernel, weight.permute(3, 2, 1, 4, 0).reshape(27, 4, 6))
    even = random(6, 2, 2, 2, 4)
    kernel = convert_state_dict({"weight": even}, "spconv", "torchsparse")["kernel"]
    assert torch.equal(kernel, even.permute(1, 2, 3, 4, 0).reshape(8, 4, 6))
    old = random(3, 3, 3, 4, 6)
    new = convert_state_dict({"weight": old}, "spconv1", "spconv")["weight"]
    assert torch.equal(new, old.permute(4, 0, 1, 2, 3))


@pytest.mark.parametrize(
    ("layout", "strided", "shape"),
    [
        ("torchsparse", False, (4, 6)),
        ("torchsparse", True, (1, 4, 6)),
        ("torchsparse20", True, (4, 6)),
        ("minkowski", False, (4, 6)),
        ("minkowski", True, (1, 4, 6)),
        ("spconv", False, (6, 1, 1, 1, 4)),
    ],
)
def test_one_tap(layout: str, strided: bool, shape: tuple[int, ...]) -> None:
    native = {"a.weight": random(1, 1, 1, 4, 6)}
    names = ["a"] if strided else []
    converted = convert_state_dict(native, "native", layout, strided=names)
    assert tuple(next(iter(converted.values())).shape) == shape
    back = convert_state_dict(converted, layout, "native", strided=names)
    assert torch.equal(back["a.weight"], native["a.weight"])


def test_one_tap_of_spconv_depends_on_the_stride() -> None:
    weight = random(6, 1, 1, 1, 4)
    pointwise = convert_state_dict({"a.weight": weight}, "spconv", "native")["a.weight"]
    strided = convert_state_dict({"a.weight": weight}, "spconv", "native", strided=["a"])
    assert torch.equal(pointwise[0, 0, 0], weight.view(4, 6))
    assert torch.equal(strided["a.weight"][0, 0, 0], weight.view(6, 4).t())


def test_biases_norms_and_others() -> None:
    state = {
        "conv.kernel": random(27, 4, 6),
        "conv.bias": random(1, 6),
        "norm.bn.weight": random(6),
        "norm.bn.bias": random(6),
        "norm.bn.running_mean": random(6),
        "norm.bn.num_batches_tracked": torch.tensor(3),
        "head.weight": random(2, 6),
        "dense.weight": random(2, 6, 3, 3),
    }
    converted = convert_state_dict(state, "minkowski", "spconv")
    assert list(converted) == [
        "conv.weight",
        "conv.bias",
        "norm.weight",
        "norm.bias",
        "norm.running_mean",
        "norm.num_batches_tracked",
        "head.weight",
        "dense.weight",
    ]
    assert converted["conv.bias"].shape == (6,)
    assert converted["dense.weight"] is state["dense.weight"]
    back = convert_state_dict(converted, "spconv", "minkowski")
    assert list(back) == list(state)
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_prefixes_and_keep() -> None:
    state = {
        "module.net.weight": random(3, 3, 3, 4, 6),
        "module.dense.weight": random(6, 4, 3, 3, 3),
    }
    converted = convert_state_dict(
        state, "spconv1", "torchsparse", keep=["module.dense"], prefixes={"module.": "", "m": "x"}
    )
    assert list(converted) == ["net.kernel", "dense.weight"]
    assert converted["dense.weight"] is state["module.dense.weight"]


@pytest.mark.parametrize("ndim", [1, 2, 4])
def test_other_dimensions(ndim: int) -> None:
    native = {"a.weight": random(*(3,) * ndim, 2, 5)}
    for layout in LAYOUTS:
        there = convert_state_dict(native, "native", layout, ndim=ndim)
        back = convert_state_dict(there, layout, "native", ndim=ndim)
        assert torch.equal(back["a.weight"], native["a.weight"])


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"convert_state_dict: target: expected one of .*'spcnv'"):
        convert_state_dict({}, "native", "spcnv")
    with pytest.raises(ValueError, match=r"kernel_sizes: 'a' has 3 taps; expected its size of 3"):
        convert_state_dict({"a.kernel": random(3, 4, 6)}, "torchsparse", "spconv")
    with pytest.raises(ValueError, match=r"'a' has 3 taps.*got \(3, 3, 3\)"):
        convert_state_dict(
            {"a.kernel": random(3, 4, 6)}, "torchsparse", "spconv", kernel_sizes={"a": (3, 3, 3)}
        )
    with pytest.raises(ValueError, match=r"two entries of state_dict become 'b\.weight'"):
        convert_state_dict(
            {"a.weight": random(2), "b.weight": random(2)}, "native", "spconv", prefixes={"a": "b"}
        )


def test_examples() -> None:
    assert doctest.testmod(convert).failed == 0
