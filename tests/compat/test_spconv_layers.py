# SPDX-License-Identifier: Apache-2.0
"""spconv's layers and pools against dense twins, with gradients."""

from __future__ import annotations

import pytest
import torch
from spconv_twin import Cloud, Randomise, at, dense_conv, kernel_of
from torch import Tensor, nn
from torch.nn import functional

from fieldline.compat.cumm import tensorview as tv
from fieldline.compat.spconv import pytorch as sp


@pytest.mark.parametrize("ndim", [1, 2, 3, 4])
@pytest.mark.parametrize(("size", "dilation"), [(3, 1), (3, 2), (5, 1)])
def test_submanifold(
    cloud: Cloud, randomise: Randomise, ndim: int, size: int, dilation: int
) -> None:
    x = cloud(ndim)
    layer = randomise(
        getattr(sp, f"SubMConv{ndim}d")(3, 4, size, stride=2, padding=1, dilation=dilation)
    )
    y = layer(x)
    reach = dilation * (size - 1) // 2
    dense = dense_conv(x.dense(), layer, padding=reach, dilation=dilation)
    assert torch.equal(y.indices, x.indices) and y.spatial_shape == x.spatial_shape
    torch.testing.assert_close(y.features, at(dense, x.indices) + layer.bias)


@pytest.mark.parametrize("ndim", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(("padding", "dilation"), [(0, 1), (1, 1), (2, 2)])
def test_strided_and_inverse(
    cloud: Cloud,
    randomise: Randomise,
    ndim: int,
    size: int,
    stride: int,
    padding: int,
    dilation: int,
) -> None:
    if size == stride == 1:
        return
    x = cloud(ndim, seed=size)
    sizes = {"stride": stride, "padding": padding, "dilation": dilation}
    layer = randomise(
        getattr(sp, f"SparseConv{ndim}d")(3, 4, size, **sizes, bias=False, indice_key="down")
    )
    y = layer(x)
    dense = dense_conv(x.dense(), layer, **sizes)
    assert y.spatial_shape == list(dense.shape[2:])
    torch.testing.assert_close(y.features, at(dense, y.indices))
    # The cells are the support: nothing outside, and each has an input under its kernel.
    torch.testing.assert_close(y.dense(), dense)
    ones = randomise(getattr(sp, f"SparseConv{ndim}d")(1, 1, size, **sizes, bias=False))
    nn.init.ones_(ones.weight)
    there = dense_conv(x.replace_feature(torch.ones_like(x.features[:, :1])).dense(), ones, **sizes)
    assert int((there > 0).sum()) == len(y.indices)
    if size == 1:
        return
    back = randomise(getattr(sp, f"SparseInverseConv{ndim}d")(4, 2, size, "down", bias=False))
    z = back(y)
    assert torch.equal(z.indices, x.indices) and z.spatial_shape == x.spatial_shape
    if ndim < 4:
        reach = dilation * (size - 1) + 1 - 2 * padding
        rest = [n - (m - 1) * stride - reach for n, m in zip(x.spatial_shape, y.spatial_shape)]
        transposed = getattr(functional, f"conv_transpose{ndim}d")(
            y.dense(), back.weight.movedim(-1, 0), **sizes, output_padding=rest
        )
        torch.testing.assert_close(z.features, at(transposed, x.indices))


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize(
    ("size", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 1, 1), (2, 3, 0)]
)
def test_transposed(
    cloud: Cloud, randomise: Randomise, ndim: int, size: int, stride: int, padding: int
) -> None:
    x = cloud(ndim)
    layer = randomise(
        getattr(sp, f"SparseConvTranspose{ndim}d")(3, 4, size, stride, padding, bias=False)
    )
    y = layer(x)
    weight = layer.weight.movedim(-1, 0)
    dense = getattr(functional, f"conv_transpose{ndim}d")(
        x.dense(), weight, stride=stride, padding=padding
    )
    assert y.spatial_shape == list(dense.shape[2:])
    torch.testing.assert_close(y.dense(), dense)


def test_anisotropic(cloud: Cloud, randomise: Randomise) -> None:
    x = cloud()
    layer = randomise(sp.SparseConv3d(3, 4, (3, 1, 2), (2, 1, 1), (1, 0, 1), bias=False))
    y = layer(x)
    dense = functional.conv3d(x.dense(), kernel_of(layer), stride=(2, 1, 1), padding=(1, 0, 1))
    torch.testing.assert_close(y.dense(), dense)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", ["SubMConv3d", "SparseConv3d", "SparseConvTranspose3d"])
def test_gradients_in_training_and_eval(
    cloud: Cloud, randomise: Randomise, kind: str, training: bool
) -> None:
    x = cloud(channels=2)
    layer = randomise(getattr(sp, kind)(2, 2, 3, 2, 1)).train(training)

    def forward(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        parameters = {"weight": weight, "bias": bias}
        return torch.func.functional_call(
            layer, parameters, (x.replace_feature(features),)
        ).features

    inputs = [t.detach().clone().requires_grad_() for t in (x.features, layer.weight, layer.bias)]
    assert torch.autograd.gradcheck(forward, inputs, fast_mode=True)


def test_one_tap_reads_its_weight_as_in_by_out(cloud: Cloud, randomise: Randomise) -> None:
    x = cloud()
    for layer in (sp.SubMConv3d(3, 4, 1, padding=1), sp.SparseConv3d(3, 4, 1)):
        randomise(layer)
        expected = x.features @ layer.weight.view(3, 4) + layer.bias
        torch.testing.assert_close(layer(x).features, expected)
    strided = randomise(sp.SparseConv3d(3, 4, 1, stride=2, bias=False))
    y = strided(x)
    dense = functional.conv3d(x.dense(), kernel_of(strided), stride=2)
    torch.testing.assert_close(y.dense(), dense)


def test_activation_and_added_input(cloud: Cloud, randomise: Randomise) -> None:
    x = cloud()
    layer = sp.conv.SparseConvolution(
        3, 3, 4, 3, subm=True, act_type=tv.gemm.Activation.LeakyReLU, act_alpha=0.2
    )
    plain = randomise(layer)(x).features
    layer.act_type = tv.gemm.Activation.None_
    torch.testing.assert_close(plain, functional.leaky_relu(layer(x).features, 0.2))
    other = x.replace_feature(x.features.new_ones(len(x.indices), 4))
    layer.act_type = tv.gemm.Activation.ReLU
    added = layer(x, add_input=other).features
    layer.act_type = tv.gemm.Activation.None_
    torch.testing.assert_close(added, (layer(x).features + 1).relu())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_in_training_and_not_in_eval(cloud: Cloud, dtype: torch.dtype) -> None:
    x = cloud(dtype=torch.float32)
    layer = sp.SubMConv3d(3, 4, 3).to(x.features)
    exact = layer(x).features
    with torch.autocast(x.features.device.type, dtype=dtype):
        half, whole = layer(x).features, layer.eval()(x).features
    assert half.dtype == dtype and whole.dtype == torch.float32
    torch.testing.assert_close(half.float(), exact, atol=0.05, rtol=0.05)
    torch.testing.assert_close(whole, exact)


def test_max_pool_is_at_least_zero(cloud: Cloud) -> None:
    x = cloud(seed=3)
    y = sp.SparseMaxPool3d(2, 2)(x)
    lowest = torch.full_like(x.dense(), -torch.inf)
    lowest[(x.indices[:, 0].long(), slice(None), *x.indices[:, 1:].long().unbind(1))] = x.features
    pooled = functional.max_pool3d(lowest, 2, 2)
    torch.testing.assert_close(y.features, at(pooled, y.indices).clamp_min(0))
    assert (at(pooled, y.indices) < 0).any()
    assert sp.SparseMaxPool3d(2).stride == [2, 2, 2]


@pytest.mark.parametrize("subm", [False, True])
def test_average_counts_cells_that_exist(cloud: Cloud, subm: bool) -> None:
    x = cloud(seed=4)
    y = sp.pool.SparseAvgPool(3, 3, 1 if subm else 2, 1, subm=subm)(x)
    ones = x.replace_feature(torch.ones_like(x.features)).dense()
    stride = 1 if subm else 2
    sums, counts = (27 * functional.avg_pool3d(t, 3, stride, 1) for t in (x.dense(), ones))
    torch.testing.assert_close(y.features, at(sums, y.indices) / at(counts, y.indices).round())
    assert torch.equal(y.indices, x.indices) == subm


def test_submanifold_max_pool(cloud: Cloud) -> None:
    x = cloud(seed=5)
    y = sp.pool.SparseMaxPool(3, 1, 1, 0, subm=True)(x)
    assert torch.equal(y.features, x.features.clamp_min(0))


def test_global_pools(cloud: Cloud) -> None:
    x = cloud(seed=6)
    items = [x.features[x.indices[:, 0] == item] for item in range(2)]
    largest = sp.SparseGlobalMaxPool()(x)
    mean = sp.SparseGlobalAvgPool()(x)
    torch.testing.assert_close(largest, torch.stack([item.amax(0) for item in items]))
    # As in spconv: the first channel alone.
    torch.testing.assert_close(mean, torch.stack([item[:, 0].mean() for item in items]))
    empty = sp.SparseConvTensor(x.features[:0], x.indices[:0], [7] * 3, 2)
    assert sp.SparseGlobalMaxPool()(empty).tolist() == [[0.0] * 3] * 2


def test_pool_and_inverse(cloud: Cloud, randomise: Randomise) -> None:
    x = cloud()
    pooled = sp.SparseMaxPool3d(2, 2, indice_key="pool")(x)
    y = randomise(sp.SparseInverseConv3d(3, 4, 2, "pool"))(pooled)
    assert torch.equal(y.indices, x.indices)
    with pytest.raises(ValueError, match="'pool' already exists"):
        sp.SparseMaxPool3d(2, 2, indice_key="pool")(pooled)
