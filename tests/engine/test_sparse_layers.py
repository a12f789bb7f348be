# SPDX-License-Identifier: Apache-2.0
"""Every convolution and pooling against its dense twin, values and gradients."""

from __future__ import annotations

import itertools

import pytest
import sparse_twin as twin
import torch
from op_harness import seeded
from torch import Tensor
from torch.nn import functional as F

import fieldline as fl

SIZES = {1: (23,), 2: (11, 9), 3: (7, 8, 6), 4: (5, 4, 6, 5)}
# kernel size, stride, padding, dilation, batch, groups: each value of each with several others.
SETTINGS = [
    (1, 1, 0, 1, 1, 1),
    (1, 2, 0, 1, 2, 1),
    (1, 1, 1, 1, 1, 1),
    (2, 1, 0, 1, 3, 1),
    (2, 2, 0, 1, 2, 2),
    (2, 2, 1, 2, 1, 1),
    (3, 1, 1, 1, 1, 1),
    (3, 1, 0, 2, 2, 1),
    (3, 2, 1, 1, 2, 4),
    (3, 3, 2, 1, 3, 1),
    (4, 2, 1, 1, 1, 1),
    (4, 3, 0, 1, 2, 2),
    (5, 1, 2, 1, 1, 1),
    (5, 2, 2, 1, 2, 1),
    ("mixed", "mixed", "mixed", "mixed", 2, 1),
]
MIXED = {"k": (3, 2, 1, 2), "s": (1, 2, 1, 2), "p": (1, 0, 0, 1), "d": (2, 1, 3, 1)}


def spread(value: int | str, letter: str, ndim: int) -> tuple[int, ...]:
    return MIXED[letter][:ndim] if isinstance(value, str) else (value,) * ndim


def settings(ndim: int) -> list[tuple]:
    """Those whose kernel is not larger than the box, with a number per axis."""
    found = []
    for k, s, p, d, batch, groups in SETTINGS:
        shape = [spread(v, letter, ndim) for v, letter in zip((k, s, p, d), "kspd")]
        reach = zip(shape[0], shape[3], shape[2], SIZES[ndim])
        small = ndim < 4 or isinstance(k, str) or k <= 3
        if small and all(b * (a - 1) + 1 <= n + 2 * q for a, b, q, n in reach):
            found.append((ndim, *shape, batch, groups))
    return found


ALL = [setting for ndim in SIZES for setting in settings(ndim)]


def layer(kind: str, ndim: int, *arguments, **named) -> torch.nn.Module:
    module = getattr(fl.nn, f"{kind}{ndim}d")(*arguments, **named).double()
    with torch.no_grad():
        module.bias.add_(1)  # one that shows where it is added
    return module


def reached(x: fl.SparseTensor, size, stride, padding, dilation) -> Tensor:
    """[B, 1, *sizes], where the receptive field of a convolution meets a row."""
    ones = x.feats.new_ones(*size, 1, 1)
    return (twin.conv(twin.occupancy(x), ones, stride, padding, dilation) > 0).double()


@pytest.mark.parametrize(("ndim", "k", "s", "p", "d", "batch", "groups"), ALL)
def test_conv(device: torch.device, ndim: int, k, s, p, d, batch: int, groups: int) -> None:
    x = twin.random_tensor(SIZES[ndim], 4, batch, seeded("conv", ndim, k), device=device)
    conv = layer("Conv", ndim, 4, 8, k, s, p, d, groups).to(device)
    y = conv(x)
    expected = twin.conv(x.dense(), conv.weight, s, p, d, groups)
    expected = expected + conv.bias.view(-1, *(1,) * ndim)
    expected = expected * reached(x, k, s, p, d)
    assert y.spatial_range == tuple(expected.shape[2:])
    assert y.stride == s
    leaves = [x.feats, conv.weight, conv.bias]
    twin.assert_same_gradients(y.dense(), expected, leaves, leaves)
    assert torch.equal(twin.occupancy(y), reached(x, k, s, p, d))
    if y.level is not x.level:
        assert torch.equal(y.coords, torch.unique(y.coords, dim=0))


@pytest.mark.parametrize(("ndim", "k", "s", "p", "d", "batch", "groups"), ALL)
def test_subm_conv(device: torch.device, ndim: int, k, s, p, d, batch: int, groups: int) -> None:
    x = twin.random_tensor(SIZES[ndim], 4, batch, seeded("subm", ndim, k), device=device)
    conv = layer("SubmConv", ndim, 4, 8, k, d, groups).to(device)
    y = conv(x)
    assert y.level is x.level
    # Enough padding for any kernel; the centre of an even one has one more tap above it.
    low = [b * ((a - 1) // 2) for a, b in zip(k, d)]
    high = [b * (a - 1) - below for a, b, below in zip(k, d, low)]
    sides = [side for pair in reversed(list(zip(low, high))) for side in pair]
    expected = twin.conv(F.pad(x.dense(), sides), conv.weight, (1,) * ndim, (0,) * ndim, d, groups)
    expected = (expected + conv.bias.view(-1, *(1,) * ndim)) * twin.occupancy(x)
    leaves = [x.feats, conv.weight, conv.bias]
    twin.assert_same_gradients(y.dense(), expected, leaves, leaves)


@pytest.mark.parametrize(("ndim", "k", "s", "p", "d", "batch", "groups"), ALL)
def test_conv_transpose(
    device: torch.device, ndim: int, k, s, p, d, batch: int, groups: int
) -> None:
    if ndim == 4:
        groups = 1
    x = twin.random_tensor(SIZES[ndim], 4, batch, seeded("transpose", ndim, k), device=device)
    more = tuple(min(1, a - 1) if ndim < 4 else 0 for a in s)
    conv = layer("ConvTranspose", ndim, 4, 8, k, s, p, more, d, groups).to(device)
    y = conv(x)
    expected = twin.conv_transpose(x.dense(), conv.weight, s, p, more, d, groups)
    ones = x.feats.new_ones(*k, 1, 1)
    where = twin.conv_transpose(twin.occupancy(x), ones, s, p, more, d) > 0
    expected = (expected + conv.bias.view(-1, *(1,) * ndim)) * where
    assert y.spatial_range == tuple(expected.shape[2:])
    leaves = [x.feats, conv.weight, conv.bias]
    twin.assert_same_gradients(y.dense(), expected, leaves, leaves)
    assert torch.equal(twin.occupancy(y), where.double())


@pytest.mark.parametrize(("ndim", "k", "s", "p", "d", "batch", "groups"), ALL)
def test_inverse_conv(device: torch.device, ndim: int, k, s, p, d, batch: int, groups: int) -> None:
    """Going back is the dense transposed convolution, masked to where the way there began."""
    if ndim == 4:
        groups = 1
    x = twin.random_tensor(SIZES[ndim], 4, batch, seeded("inverse", ndim, k), device=device)
    there = layer("Conv", ndim, 4, 4, k, s, p, d).to(device)
    back = layer("InverseConv", ndim, 4, 8, k, s, p, d, groups).to(device)
    middle = there(x)
    middle = middle.replace(middle.feats.detach().requires_grad_())
    y = back(middle)
    assert y.level is x.level
    zeros = (0,) * ndim
    expected = twin.conv_transpose(middle.dense(), back.weight, s, zeros, zeros, d, groups)
    # Cut or filled to the box of the input: the padding on the lower side, what is left above.
    for axis, (lead, size) in enumerate(zip(p, SIZES[ndim])):
        expected = expected.movedim(2 + axis, -1)[..., lead:]
        expected = F.pad(expected, (0, max(size - expected.shape[-1], 0)))[..., :size]
        expected = expected.movedim(-1, 2 + axis)
    expected = (expected + back.bias.view(-1, *(1,) * ndim)) * twin.occupancy(x)
    leaves = [middle.feats, back.weight, back.bias]
    twin.assert_same_gradients(y.dense(), expected, leaves, leaves)


@pytest.mark.parametrize("ndim", [1, 2, 3, 4])
@pytest.mark.parametrize("kernel_size", [2, 3])
def test_unbounded_convolution_is_that_of_a_box_far_larger(
    device: torch.device, ndim: int, kernel_size: int
) -> None:
    """Coordinates of any sign, no spatial range: every coarse coordinate is reached."""
    stride, shift = 2, 4
    sizes = tuple(n + 4 * shift for n in SIZES[ndim]) if ndim < 4 else (11,) * 4
    middle = twin.random_tensor(
        SIZES[ndim], 2, 2, seeded("unbounded", ndim), bounded=False, device=device
    )
    offset = middle.coords.new_tensor([0, *[-shift] * ndim])
    x = fl.SparseTensor(middle.coords + offset, middle.feats, batch_size=2)
    conv = layer("Conv", ndim, 2, 4, kernel_size, stride, 1).to(device)
    boxed = fl.SparseTensor(middle.coords - offset // 2, middle.feats, 1, sizes, 2)
    y, expected = conv(x), conv(boxed)
    assert torch.equal(y.coords, expected.coords + offset // 4 * 3)
    twin.assert_close(y.feats, expected.feats)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kernel_size", [2, 3, (3, 2, 1)])
def test_generative_conv_transpose(device: torch.device, kernel_size, groups: int) -> None:
    sizes = (4, 5, 3)
    x = twin.random_tensor(sizes, 4, 2, seeded("generative"), share=0.1, device=device)
    conv = fl.nn.GenerativeConvTranspose3d(4, 6, kernel_size, 2, groups=groups).double().to(device)
    k = conv.kernel_size
    y = conv(x)
    zeros, two = (0, 0, 0), (2, 2, 2)
    full = twin.conv_transpose(x.dense(), conv.weight, two, zeros, zeros, (1, 1, 1), groups)
    ones = x.feats.new_ones(*k, 1, 1)
    where = twin.conv_transpose(twin.occupancy(x), ones, two, zeros, zeros, (1, 1, 1)) > 0
    full = (full + conv.bias.view(-1, 1, 1, 1)) * where
    for axis, size in enumerate(k):  # centred
        low, n = (size - 1) // 2, 2 * sizes[axis]
        full = full.movedim(2 + axis, -1)[..., low : low + n]
        full = F.pad(full, (0, n - full.shape[-1])).movedim(-1, 2 + axis)
    assert y.spatial_range == tuple(full.shape[2:]) == tuple(2 * n for n in sizes)
    leaves = [x.feats, conv.weight, conv.bias]
    twin.assert_same_gradients(y.dense(), full, leaves, leaves)


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_depthwise(device: torch.device, ndim: int) -> None:
    x = twin.random_tensor(SIZES[ndim], 6, 2, seeded("depthwise", ndim), device=device)
    conv = layer("SubmConv", ndim, 6, 6, 3, groups=6).to(device)
    assert conv.weight.shape == (*(3,) * ndim, 1, 6)
    ones = (1,) * ndim
    expected = twin.conv(x.dense(), conv.weight, ones, ones, ones, 6)
    expected = (expected + conv.bias.view(-1, *ones)) * twin.occupancy(x)
    leaves = [x.feats, conv.weight, conv.bias]
    twin.assert_same_gradients(conv(x).dense(), expected, leaves, leaves)


POOLS = [(2, None, 0), (3, 2, 1), (3, 1, 1), ((3, 2, 1), 1, 0)]


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize(("size", "stride", "padding"), POOLS)
@pytest.mark.parametrize("name", ["MaxPool", "AvgPool", "SumPool"])
def test_pools(device: torch.device, name: str, size, stride, padding: int, ndim: int) -> None:
    if not isinstance(size, int):
        size = size[:ndim]
    x = twin.random_tensor(SIZES[ndim], 3, 2, seeded("pool", ndim), device=device)
    y = getattr(fl.nn, name)(size, stride, padding)(x)
    k = (size,) * ndim if isinstance(size, int) else size
    s = k if stride is None else (stride,) * ndim
    p = (padding,) * ndim
    ones = x.feats.new_ones(*k, 1, 1)
    count = twin.conv(twin.occupancy(x), ones, s, p, (1,) * ndim)
    if name == "MaxPool":
        masked = x.dense() + torch.where(twin.occupancy(x) > 0, 0.0, -1e6)
        pool = getattr(F, f"max_pool{ndim}d")
        masked = F.pad(masked, [padding] * 2 * ndim, value=-1e6)
        expected = torch.where(count > 0, pool(masked, k, s), 0)
    else:
        kernel = ones.expand(*k, 1, 3)
        expected = twin.conv(x.dense(), kernel, s, p, (1,) * ndim, groups=3)
        if name == "AvgPool":
            expected = expected / count.clamp(min=1)
    twin.assert_same_gradients(y.dense(), expected, [x.feats], [x.feats])
    assert torch.equal(twin.occupancy(y), (count > 0).double())


@pytest.mark.parametrize("name", ["GlobalMaxPool", "GlobalAvgPool", "GlobalSumPool"])
def test_global_pools(device: torch.device, name: str) -> None:
    x = twin.random_tensor((5, 5), 3, 2, seeded("global"), device=device)
    x = fl.SparseTensor(x.coords * x.coords.new_tensor([2, 1, 1]), x.feats, batch_size=4)
    y = getattr(fl.nn, name)()(x)
    reduce = {"GlobalMaxPool": lambda t: t.amax(0), "GlobalAvgPool": lambda t: t.mean(0)}.get(
        name, lambda t: t.sum(0)
    )
    items = [x.feats[x.coords[:, 0] == item] for item in range(4)]
    expected = torch.stack([reduce(f) if len(f) else f.new_zeros(3) for f in items])
    twin.assert_same_gradients(y, expected, [x.feats], [x.feats])


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_upsample(device: torch.device, ndim: int) -> None:
    x = twin.random_tensor(SIZES[ndim], 3, 2, seeded("upsample", ndim), device=device)
    middle = fl.nn.MaxPool(2)(x)
    scale = (2,) * ndim
    dense = middle.dense()
    for axis in range(ndim):
        dense = dense.repeat_interleave(2, 2 + axis)
    back = fl.nn.Upsample(2)(middle)
    assert back.level is x.level
    for axis, size in enumerate(SIZES[ndim]):  # an odd size lost its last position
        dense = dense.movedim(2 + axis, -1)
        dense = F.pad(dense, (0, max(size - dense.shape[-1], 0))).movedim(-1, 2 + axis)
    twin.assert_same_gradients(back.dense(), dense * twin.occupancy(x), [x.feats], [x.feats])
    made = fl.nn.Upsample(scale, generative=True)(middle)
    assert len(made) == 2**ndim * len(middle)
    twin.assert_close(made.feats.sum(0), 2**ndim * middle.feats.sum(0))


def test_both_ways_of_a_network_meet_on_one_level() -> None:
    """Equal recipes give one level, so that shortcuts add up."""
    x = twin.random_tensor((8, 8, 8), 4, 1, seeded("meet"))
    convolved = fl.nn.Conv3d(4, 4, 2, 2).double()(x)
    pooled = fl.nn.MaxPool(2)(x)
    assert convolved.level is pooled.level
    assert len(x.maps.entries) == 1
    assert len(convolved + pooled) == len(pooled)


def test_functions_are_the_layers() -> None:
    x = twin.random_tensor((8, 8), 4, 2, seeded("functional"))
    f, w = fl.nn.functional, torch.randn(2, 2, 4, 4, dtype=torch.float64)
    coarse = f.conv(x, w, stride=2)
    pairs = [
        (f.subm_conv(x, w), fl.nn.SubmConv2d(4, 4, 2)(x.float())),
        (coarse, fl.nn.Conv2d(4, 4, 2, 2)(x.float())),
        (f.inverse_conv(coarse, w, stride=2), fl.nn.InverseConv2d(4, 4, 2, 2)(coarse.float())),
        (f.conv_transpose(x, w, None, 2), fl.nn.ConvTranspose2d(4, 4, 2, 2)(x.float())),
        (f.max_pool(x, 2), fl.nn.MaxPool(2)(x)),
        (f.avg_pool(x, 2), fl.nn.AvgPool(2)(x)),
        (f.sum_pool(x, 2), fl.nn.SumPool(2)(x)),
        (f.upsample(coarse), fl.nn.Upsample()(coarse)),
    ]
    for function, module in pairs:
        assert function.level is module.level
    for pair in itertools.islice(pairs, 4, None):
        assert torch.equal(pair[0].feats, pair[1].feats)


@pytest.mark.parametrize("build", [lambda n: n.SubmConv3d(4, 8, 3), lambda n: n.Conv3d(4, 8, 2, 2)])
def test_gradients_flow_in_evaluation(device: torch.device, build) -> None:
    """A frozen network still hands gradients on, and still learns if it is asked to."""
    x = twin.random_tensor((5, 5, 5), 4, 1, seeded("evaluation"), device=device)
    conv = build(fl.nn).double().to(device).eval()
    conv(x).feats.sum().backward()
    assert x.feats.grad is not None and float(x.feats.grad.abs().sum()) > 0
    assert conv.weight.grad is not None and float(conv.weight.grad.abs().sum()) > 0


def test_dilation_is_not_ignored() -> None:
    coords = torch.tensor([[0, 0], [0, 2]], dtype=torch.int32)
    x = fl.SparseTensor(coords, torch.tensor([[1.0], [10.0]]))
    weight = torch.ones(3, 1, 1)
    assert fl.nn.functional.subm_conv(x, weight).feats[:, 0].tolist() == [1, 10]
    assert fl.nn.functional.subm_conv(x, weight, dilation=2).feats[:, 0].tolist() == [11, 11]
    y = fl.nn.functional.conv(x, weight, dilation=2)
    assert y.coords[:, 1].tolist() == [-4, -2, 0, 2]
    assert y.feats[:, 0].tolist() == [1, 11, 11, 10]


@pytest.mark.parametrize("x", [torch.ones(2, 4), [1.0], None])
def test_a_convolution_takes_sparse_tensors(x: object) -> None:
    with pytest.raises(TypeError, match="SubmConv2d: x: expected a SparseTensor, got"):
        fl.nn.SubmConv2d(4, 4, 3)(x)  # pyright: ignore[reportArgumentType]
