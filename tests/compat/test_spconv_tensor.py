# SPDX-License-Identifier: Apache-2.0
"""spconv's tensor, and the rules of indice_key."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from spconv_twin import Cloud, Randomise, at, kernel_of
from torch import Tensor
from torch.nn import functional

from fieldline.compat.spconv import pytorch as sp


def test_indice_key_is_reused_through_the_dict(cloud: Cloud, randomise: Randomise) -> None:
    x = cloud()
    first, second = (randomise(sp.SubMConv3d(3, 3, 3, indice_key="a"), n) for n in (1, 2))
    y = first(x)
    assert x.indice_dict == {} and list(y.indice_dict) == ["a"]
    z = second(y)
    assert z.find_indice_pair("a") is y.find_indice_pair("a")
    assert z.find_indice_pair(None) is None and z.find_indice_pair("b") is None
    expected = functional.conv3d(y.dense(), kernel_of(second), padding=1)
    torch.testing.assert_close(z.features, at(expected, z.indices) + second.bias)


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (lambda: sp.SubMConv3d(3, 3, 5, indice_key="a"), r"kernel size: expected \[3, 3, 3\], got"),
        (lambda: sp.SubMConv3d(3, 3, 3, dilation=2, indice_key="a"), "dilation: expected"),
    ],
)
def test_mismatched_submanifold_key(
    cloud: Cloud, randomise: Randomise, layer: object, text: str
) -> None:
    y = randomise(sp.SubMConv3d(3, 3, 3, indice_key="a"))(cloud())
    with pytest.raises(ValueError, match=text):
        randomise(layer())(y)


def test_mismatched_cells_under_a_key(cloud: Cloud, randomise: Randomise) -> None:
    y = randomise(sp.SubMConv3d(3, 3, 3, indice_key="a"))(cloud())
    fewer = y.replace_feature(y.features[1:])
    fewer.indices = y.indices[1:]
    layer = randomise(sp.SubMConv3d(3, 3, 3, indice_key="a"))
    with pytest.raises(ValueError, match="number of indices"):
        layer(fewer)
    y.spatial_shape = [9, 9, 9]
    with pytest.raises(ValueError, match="spatial shape"):
        layer(y)


def test_strided_key_must_be_new(cloud: Cloud, randomise: Randomise) -> None:
    x = randomise(sp.SparseConv3d(3, 3, 3, 1, 1, indice_key="a"))(cloud())
    for error in (AssertionError, ValueError):
        with pytest.raises(error, match="indice_key: 'a' already exists"):
            randomise(sp.SparseConv3d(3, 3, 3, 1, 1, indice_key="a"))(x)
    with pytest.raises(AssertionError, match="not submanifold"):
        randomise(sp.SubMConv3d(3, 3, 3, indice_key="a"))(x)


def test_inverse_needs_its_key(cloud: Cloud, randomise: Randomise) -> None:
    x = randomise(sp.SubMConv3d(3, 3, 3, indice_key="same"))(cloud())
    with pytest.raises(AssertionError, match=r"no layer before this one has the key 'down'"):
        randomise(sp.SparseInverseConv3d(3, 3, 3, "down"))(x)
    with pytest.raises(AssertionError, match="a submanifold layer"):
        randomise(sp.SparseInverseConv3d(3, 3, 3, "same"))(x)
    y = randomise(sp.SparseConv3d(3, 3, 3, 2, 1, indice_key="down"))(x)
    with pytest.raises(ValueError, match="kernel size"):
        randomise(sp.SparseInverseConv3d(3, 3, 2, "down"))(y)
    z = randomise(sp.SparseConv3d(3, 3, 3, 2, 1))(y)
    with pytest.raises(ValueError, match="spatial shape"):
        randomise(sp.SparseInverseConv3d(3, 3, 3, "down"))(z)


def test_indices_edited_in_place_never_spoil_a_map(cloud: Cloud, randomise: Randomise) -> None:
    x = cloud()
    original = x.indices.clone()
    down = randomise(sp.SparseConv3d(3, 4, 3, 2, 1, indice_key="down"))
    same = randomise(sp.SubMConv3d(4, 4, 3, indice_key="same"))
    back = randomise(sp.SparseInverseConv3d(4, 3, 3, "down"))
    y = same(down(x))
    expected = back(same(y))
    # VoxelNeXt does this to outputs; here to inputs as well.
    x.indices[:, 1:] *= 2
    again = back(y)
    assert torch.equal(again.indices, original)
    coarse = y.indices.clone()
    y.indices[:, 1:] += 1
    moved = same(y)
    dense = functional.conv3d(
        functional.pad(_dense_at(y, coarse), (1, 1, 1, 1, 1, 1)), kernel_of(same)
    )
    torch.testing.assert_close(moved.features, at(dense, coarse) + same.bias)
    y.indices[:, 1:] -= 1
    torch.testing.assert_close(back(same(y)).features, expected.features)


def _dense_at(x: sp.SparseConvTensor, indices: Tensor) -> Tensor:
    return sp.SparseConvTensor(x.features, indices, x.spatial_shape, x.batch_size).dense()


def test_edit_that_tears_neighbours_apart(device: torch.device, randomise: Randomise) -> None:
    indices = torch.tensor([[0, 1, 1, 1], [0, 1, 1, 2]], dtype=torch.int32, device=device)
    x = sp.SparseConvTensor(
        torch.ones(2, 1, dtype=torch.float64, device=device), indices, [9] * 3, 1
    )
    layer = randomise(sp.SubMConv3d(1, 1, 3, bias=False, indice_key="a"))
    y = layer(x).replace_feature(x.features)
    y.indices[:, 1:] *= 3
    centre = layer.weight[0, 1, 1, 1, 0]
    torch.testing.assert_close(layer(y).features, centre.expand(2, 1))


def test_features_cannot_be_set_and_underscore_can(cloud: Cloud) -> None:
    x = cloud()
    with pytest.raises(ValueError, match="replace_feature"):
        x.features = x.features
    x._features = torch.zeros(len(x.indices), 2, 5)
    assert x.features.shape[1:] == (2, 5)
    assert x.replace_feature(x._features).features.dim() == 3


def test_tensor_methods(cloud: Cloud) -> None:
    x = cloud()
    x.indice_dict["k"] = object()
    assert repr(x) == f"SparseConvTensor[shape={x.features.shape}]"
    assert x.spatial_size == 343 and isinstance(x.spatial_shape, list)
    copy = x.shadow_copy()
    assert copy is not x and copy.indice_dict is x.indice_dict and copy.features is x.features
    assert torch.equal(x.minus().features, -x.features)
    some = x.select_by_index(x.features[:, 0] > 0)
    assert some.indice_dict == {} and x.indice_dict and (some.features[:, 0] > 0).all()
    assert len(some.indices) == len(some.features) < len(x.features)
    for total in (x + x, x + x.features, x.__radd__(x.features)):
        assert torch.equal(total.features, 2 * x.features)
    assert sp.RemoveGrid()(x).grid is None
    assert torch.equal(sp.ToDense()(x), x.dense())


@pytest.mark.parametrize(
    "shape", [np.array([4, 5, 6]), torch.tensor([4, 5, 6]), [torch.tensor(n) for n in (4, 5, 6)]]
)
def test_spatial_shape_of_many_kinds(shape: object) -> None:
    x = sp.SparseConvTensor(torch.ones(1, 1), torch.zeros(1, 4).int(), shape, 1)
    assert x.spatial_shape == [4, 5, 6] and all(type(n) is int for n in x.spatial_shape)


def test_dense_and_back(cloud: Cloud) -> None:
    x = cloud(seed=8)
    dense = x.dense(channels_first=False)
    assert dense.shape == (2, 7, 7, 7, 3)
    assert torch.equal(dense.movedim(-1, 1), x.dense())
    back = sp.SparseConvTensor.from_dense(dense)
    order = torch.tensor(sorted(range(len(x.indices)), key=lambda row: x.indices[row].tolist()))
    assert torch.equal(back.indices, x.indices[order])
    assert torch.equal(back.features, x.features[order]) and back.batch_size == 2
    outside = torch.tensor([[0, 7, 0, 0], [-1, 0, 0, 0], [2, 0, 0, 0]], dtype=torch.int32)
    alone = sp.SparseConvTensor(torch.ones(3, 1), outside, [7] * 3, 2)
    assert not alone.dense().any()
