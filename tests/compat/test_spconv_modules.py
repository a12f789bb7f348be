# SPDX-License-Identifier: Apache-2.0
"""spconv's containers, tables and operators on pairs."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from spconv_twin import Cloud, Randomise, generator
from torch import nn

from fieldline.compat.spconv import pytorch as sp


def test_sequence(cloud: Cloud) -> None:
    x = cloud(dtype=torch.float32)
    conv, act = sp.SubMConv3d(3, 4, 3).to(x.features), nn.ReLU()
    for net in (
        sp.SparseSequential(conv, act),
        sp.SparseSequential(OrderedDict(conv=conv, act=act)),
        sp.SparseSequential(conv=conv, act=act),
    ):
        assert torch.equal(net(x).features, conv(x).features.relu())
        assert len(net) == 2 and net[0] is conv and net[-1] is act
    with pytest.raises(IndexError):
        net[2]
    with pytest.raises(ValueError, match="'conv' exists"):
        net.add(act, "conv")
    net.add(sp.ToDense())
    assert net(x).shape == (2, 4, 7, 7, 7)
    assert sp.SparseSequential(nn.Linear(3, 2))(torch.ones(1, 3)).shape == (1, 2)
    nested = sp.SparseSequential(sp.SparseSequential(conv), sp.SparseBatchNorm(4), sp.SparseReLU())
    assert (nested.to(x.features)(x).features >= 0).all()
    sp.assign_name_for_sparse_modules(nested)
    assert conv._sparse_unique_name == "0.0"
    assert sp.modules.is_spconv_module(nested) and not sp.modules.is_spconv_module(act)
    assert sp.modules.is_sparse_conv(conv) and sp.Identity()(3) == 3


def test_tables(cloud: Cloud) -> None:
    x = cloud()
    y = x.replace_feature(2 * x.features)
    assert torch.equal(sp.JoinTable()([x, y]).features, torch.cat([x.features, y.features], 1))
    assert torch.equal(sp.AddTable()([x, y]).features, 3 * x.features)
    both = sp.ConcatTable().add(sp.Identity()).add(sp.SparseReLU())(x)
    assert both[0] is x and (both[1].features >= 0).all()
    assert sp.JoinTable().input_spatial_size([4, 5]) == [4, 5]
    with pytest.raises(ValueError, match="JoinTable: input: expected tensors on the same cells"):
        sp.JoinTable()([x, x.select_by_index(torch.arange(3))])


def test_sparse_add(cloud: Cloud) -> None:
    x, y = cloud(seed=1), cloud(seed=2)
    total = sp.functional.sparse_add(x, y)
    torch.testing.assert_close(total.dense(), x.dense() + y.dense())
    assert total.indice_dict == {}
    part = x.select_by_index(torch.arange(5))
    x.indice_dict["k"] = object()
    assert list(sp.tables.AddTableMisaligned()([part, x]).indice_dict) == ["k"]
    with pytest.raises(ValueError, match="sparse_add: tens: expected one spatial shape"):
        sp.functional.sparse_add(x, cloud(channels=5))


def test_remove_duplicate(cloud: Cloud) -> None:
    x = cloud()
    twice = sp.SparseConvTensor(
        torch.cat([x.features, x.features + 1]), torch.cat([x.indices] * 2), x.spatial_shape, 2
    )
    once = sp.spatial.RemoveDuplicate()(twice)
    torch.testing.assert_close(once.dense(), x.dense())


@pytest.mark.parametrize("subm", [True, False])
def test_operators(cloud: Cloud, randomise: Randomise, subm: bool) -> None:
    x = cloud()
    layer = randomise(
        sp.SubMConv3d(3, 4, 3, bias=False) if subm else sp.SparseConv3d(3, 4, 3, 2, 1, bias=False)
    )
    sizes = ([3] * 3, [1 if subm else 2] * 3, [1] * 3, [1] * 3, [0] * 3)
    args = (x.indices, 2, x.spatial_shape, sp.ConvAlgo.Native, *sizes, subm)
    out, pairs, counts = sp.ops.get_indice_pairs(*args)
    expected, w = layer(x), layer.weight.detach()
    n_out = len(out)
    assert torch.equal(out, expected.indices)
    got = sp.functional.indice_conv(x.features, w, pairs, counts, n_out)
    torch.testing.assert_close(got, expected.features)
    table = sp.ops.get_indice_pairs_implicit_gemm(*args)
    forward, backward = table[2], table[3]
    assert torch.equal(table[1], counts)
    got = sp.functional.implicit_gemm(
        x.features, w, forward, backward, [], [], [], [], n_out, [], True, subm
    )
    torch.testing.assert_close(got, expected.features)
    gradient = torch.randn(n_out, 4, generator=generator(), dtype=torch.float64).to(x.features)
    features = x.features.clone().requires_grad_()
    layer(x.replace_feature(features)).features.backward(gradient)
    for found in (
        sp.ops.indice_conv_backward(x.features, w, gradient, pairs, counts),
        sp.ops.implicit_gemm_backward(x.features, w, gradient, forward, backward),
    ):
        torch.testing.assert_close(found[0], features.grad)
        torch.testing.assert_close(found[1], layer.weight.grad)
    largest = sp.functional.indice_maxpool(x.features, pairs, counts, n_out)
    same = sp.functional.indice_maxpool_implicit_gemm(x.features, forward, backward, n_out)
    assert torch.equal(largest, same) and (largest >= 0).all()
    mean, found = sp.ops.indice_avgpool_implicit_gemm(x.features, forward, n_out, True)
    inputs = x.features.clone().requires_grad_()
    pooled = sp.functional.indice_avgpool_implicit_gemm(inputs, forward, backward, n_out, True)
    pooled.backward(mean)
    share = sp.ops.indice_avgpool_implicit_gemm_backward(mean, backward, found)
    torch.testing.assert_close(share, inputs.grad)


def test_rows_of_each_item() -> None:
    coords = torch.tensor([[1, 0], [0, 0], [1, 1]], dtype=torch.int32)
    rows, counts = sp.ops.global_pool_rearrange(coords, 2)
    assert counts.tolist() == [1, 2] and rows[0, 0] == 1 and rows[1, :2].tolist() == [0, 2]
