# SPDX-License-Identifier: Apache-2.0
"""Rows that users of spconv feed all the same."""

from __future__ import annotations

import pytest
import torch
from spconv_twin import Cloud, Randomise, generator
from torch import nn

from fieldline.compat.spconv import pytorch as sp


def test_duplicates(device: torch.device, randomise: Randomise) -> None:
    """Centres are each row's own, neighbours the first row; strided layers add rows up."""
    indices = torch.tensor([[0, 1], [0, 2], [0, 1], [0, 4]], dtype=torch.int32, device=device)
    f = torch.tensor([[1.0], [10.0], [100.0], [1000.0]], dtype=torch.float64, device=device)
    x = sp.SparseConvTensor(f, indices, [6], 1)
    layer = sp.SubMConv1d(1, 1, 3, bias=False)
    layer.weight.data = f.new_tensor([2.0, 3.0, 5.0]).view(1, 3, 1)
    got = layer(x).features[:, 0]
    assert got.tolist() == [3 + 50, 2 + 30, 300 + 50, 3000]
    down = randomise(sp.SparseConv1d(1, 2, 3, 2, 1, indice_key="d"))
    sums = f.new_tensor([[101.0], [10.0], [1000.0]])
    summed = sp.SparseConvTensor(sums, indices[[0, 1, 3]], [6], 1)
    torch.testing.assert_close(down(x).dense(), down(summed).dense())
    back = randomise(sp.SparseInverseConv1d(2, 1, 3, "d"))
    up, once = back(down(x)), back(down(summed))
    assert torch.equal(up.indices, indices)
    torch.testing.assert_close(up.features[[0, 1, 3]], once.features)
    torch.testing.assert_close(up.features[2], once.features[0])
    assert sp.SparseMaxPool1d(2)(x).features[:, 0].tolist() == [100.0, 10.0, 1000.0]
    mean = sp.SparseAvgPool1d(2)(x)
    assert mean.features[:, 0].tolist() == [50.5, 10.0, 1000.0]
    assert torch.autograd.gradcheck(
        lambda t: layer(x.replace_feature(t)).features, f.requires_grad_(), fast_mode=True
    )


def test_many_duplicates(device: torch.device) -> None:
    numbers = generator(9)
    indices = torch.randint(0, 4, (500, 4), generator=numbers).int()
    features = torch.randn(500, 3, generator=numbers)
    x = sp.SparseConvTensor(features.to(device), indices.to(device), [4] * 3, 4)
    net = sp.SparseSequential(sp.SubMConv3d(3, 3, 3), sp.SparseConv3d(3, 4, 3, 2, 1)).to(device)
    y = net(x)
    assert len(y.indices) <= 4 * 8 and y.features.isfinite().all()


def test_rows_outside(device: torch.device, randomise: Randomise) -> None:
    inside = torch.tensor([[0, 1, 1, 1], [0, 1, 1, 2]], dtype=torch.int32, device=device)
    outside = torch.tensor(
        [[-1, -1, -1, -1], [-1, -1, -1, -1], [5, 1, 1, 1]], dtype=torch.int32, device=device
    )
    f = torch.randn(5, 2, generator=generator(), dtype=torch.float64).to(device)
    few = sp.SparseConvTensor(f[:2], inside, [6] * 3, 1)
    all_rows = sp.SparseConvTensor(f, torch.cat([inside, outside]), [6] * 3, 1)
    same, down = randomise(sp.SubMConv3d(2, 3, 3)), randomise(sp.SparseConv3d(2, 3, 3, 2, 1))
    torch.testing.assert_close(same(all_rows).features[:2], same(few).features)
    alone = f[2:] @ same.weight[:, 1, 1, 1].t() + same.bias
    torch.testing.assert_close(same(all_rows).features[2:], alone)
    assert torch.equal(down(all_rows).indices, down(few).indices)
    torch.testing.assert_close(down(all_rows).features, down(few).features)


def test_a_row_outside_the_shape_counts_where_the_kernel_reaches(
    device: torch.device, randomise: Randomise
) -> None:
    indices = torch.tensor([[0, -1]], dtype=torch.int32, device=device)
    x = sp.SparseConvTensor(torch.ones(1, 1, dtype=torch.float64, device=device), indices, [4], 1)
    layer = randomise(sp.SparseConv1d(1, 1, 3, 1, 1, bias=False))
    y = layer(x)
    assert y.indices.tolist() == [[0, 0]]
    torch.testing.assert_close(y.features[0, 0], layer.weight[0, 0, 0])


@pytest.mark.parametrize("kind", ["SubMConv3d", "SparseConv3d", "SparseConvTranspose3d"])
def test_no_rows(device: torch.device, kind: str) -> None:
    features, indices = torch.zeros(0, 3, device=device), torch.zeros(0, 4, device=device)
    x = sp.SparseConvTensor(features, indices.int(), [8] * 3, 2)
    net = sp.SparseSequential(getattr(sp, kind)(3, 4, 3, 2, 1), nn.BatchNorm1d(4), nn.ReLU()).to(
        device
    )
    y = net(x)
    assert y.features.shape == (0, 4)
    y.features.sum().backward()
    assert sp.SparseMaxPool3d(2)(y).features.shape == (0, 4)
    assert y.dense().shape[:2] == (2, 4)


def test_indices_that_are_not_contiguous(cloud: Cloud) -> None:
    x = cloud()
    turned = x.indices.t().contiguous().t()
    assert not turned.is_contiguous()
    for layer in (sp.SubMConv3d(3, 4, 3), sp.SparseConv3d(3, 4, 3, 2, 1), sp.SparseMaxPool3d(2)):
        layer.to(x.features)
        y = layer(sp.SparseConvTensor(x.features, turned, x.spatial_shape, 2))
        assert torch.equal(y.features, layer(x).features)


def test_cells_past_2_to_the_31(device: torch.device, randomise: Randomise) -> None:
    far = 2**20
    indices = torch.tensor(
        [[0, far, far, far], [0, far, far, far - 1]], dtype=torch.int32, device=device
    )
    x = sp.SparseConvTensor(
        torch.ones(2, 1, dtype=torch.float64, device=device), indices, [2 * far] * 3, 1
    )
    layer = randomise(sp.SubMConv3d(1, 1, 3, bias=False))
    w = layer.weight[0, 1, 1, :, 0]
    torch.testing.assert_close(layer(x).features[:, 0], torch.stack([w[0] + w[1], w[1] + w[2]]))
