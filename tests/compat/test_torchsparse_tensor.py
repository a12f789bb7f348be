# SPDX-License-Identifier: Apache-2.0
"""torchsparse's tensors and caches."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from spconv_twin import Randomise
from torch import Tensor
from torchsparse_twin import (
    BOTH,
    EXTENT,
    MakeTensor,
    dense,
)

from fieldline.compat import torchsparse, torchsparse20
from fieldline.compat.torchsparse.utils import tensor_cache


@pytest.mark.parametrize("library", BOTH)
def test_tensor(device: torch.device, tensor: MakeTensor, library: ModuleType) -> None:
    x = tensor(library)
    assert x.F is x.feats and x.C is x.coords and x.s == x.stride == (1, 1, 1)
    x.F, x.C, x.s = x.F + 1, x.C.clone(), 4
    assert x.stride == (4, 4, 4)
    assert x.detach() is x and x.to(device) is x
    assert x.half() is x and x.F.dtype == torch.float16
    joined = library.cat([x, x])
    assert joined.F.shape[1] == 6 and joined._caches is x._caches
    total = x + x
    assert torch.equal(total.F, x.F * 2) and total._caches is x._caches and total.s == x.s
    x.cmaps = {"mine": 1}
    assert x._caches.cmaps == {"mine": 1} and x.kmaps is x._caches.kmaps
    x._caches.anything = 5
    assert library.nn.ReLU()(x)._caches.anything == 5
    assert x.cpu() is x and x.F.device.type == x.C.device.type == "cpu"


def test_subclasses(tensor: MakeTensor, randomise: Randomise) -> None:
    class Points(torchsparse.SparseTensor):
        def __init__(self, feats: Tensor, coords: Tensor, idx_query: Any = None) -> None:
            super().__init__(feats=feats, coords=coords, stride=1)
            self._caches.idx_query = {} if idx_query is None else idx_query

    x = tensor(torchsparse)
    points = Points(x.F, x.C)
    y = randomise(torchsparse.nn.Conv3d(3, 4, 3))(points)
    assert type(y) is torchsparse.SparseTensor and y._caches.idx_query == {}


@pytest.mark.parametrize("library", BOTH)
def test_caches(tensor: MakeTensor, randomise: Randomise, library: ModuleType) -> None:
    x = tensor(library)
    first, second = (randomise(library.nn.Conv3d(3, 3, 3), n) for n in (1, 2))
    down = randomise(library.nn.Conv3d(3, 3, 2, 2))
    y = down(second(first(x)))
    assert list(x.kmaps) == [
        ((1, 1, 1), (3, 3, 3), (1, 1, 1), (1, 1, 1)),
        ((1, 1, 1), (2, 2, 2), (2, 2, 2), (1, 1, 1)),
    ]
    assert sorted(x.cmaps) == [(1, 1, 1), (2, 2, 2)]
    kept = x.cmaps[(2, 2, 2)]
    assert (kept[0] if library is torchsparse else kept) is y.C
    made = x.kmaps[next(iter(x.kmaps))]
    second(first(x))
    assert x.kmaps[next(iter(x.kmaps))] is made
    facts = x.kmaps[((1, 1, 1), (2, 2, 2), (2, 2, 2), (1, 1, 1))]
    assert facts["sizes"] == (len(x.C), len(y.C)) and facts["coords"] is y.C
    assert facts["out_in_map"].shape == (len(y.C), 8)
    assert facts["nbsizes"].sum() == len(facts["nbmaps"]) == (facts["out_in_map"] >= 0).sum()
    with pytest.raises(KeyError):
        facts["something"]


@pytest.mark.parametrize("library", BOTH)
def test_edited_coordinates_never_meet_an_old_map(
    tensor: MakeTensor, randomise: Randomise, library: ModuleType
) -> None:
    x = tensor(library)
    layer = randomise(library.nn.Conv3d(3, 4, 3))
    layer(x)
    first = 1 if library is torchsparse else 0
    x.C[:, first : first + 3] *= 2
    fresh = library.SparseTensor(x.F, x.C.clone())
    torch.testing.assert_close(layer(x).F, layer(fresh).F)


def test_layers_that_differ_in_padding_share_no_map(tensor: MakeTensor) -> None:
    """torchsparse's key has no padding, and the second of two such layers is given a wrong map."""
    x = tensor(torchsparse)
    first, second = (torchsparse.nn.Conv3d(3, 4, 3, 2, padding).to(x.F) for padding in (0, 1))
    first(x)
    alone = torchsparse.SparseTensor(x.F, x.C)
    assert torch.equal(second(x).C, second(alone).C)
    torch.testing.assert_close(second(x).F, second(alone).F)


def test_cache_modes(tensor: MakeTensor, randomise: Randomise) -> None:
    mode = tensor_cache.TensorCacheMode
    x, y = tensor(torchsparse, 1), tensor(torchsparse, 2)
    assert x._caches is not y._caches
    tensor_cache.set_tensor_cache_mode(mode.GLOBAL_TENSOR_CACHE)
    a, b = (torchsparse.SparseTensor(t.F, t.C) for t in (x, y))
    assert a._caches is b._caches is tensor_cache.get_global_tensor_cache()
    layer = randomise(torchsparse.nn.Conv3d(3, 4, 3))
    for shared, alone in ((a, x), (b, y), (a, x)):
        torch.testing.assert_close(layer(shared).F, layer(alone).F)
    tensor_cache.clear_global_tensor_cache()
    assert torchsparse.SparseTensor(x.F, x.C)._caches is not a._caches
    assert tensor_cache.get_tensor_cache_mode() is mode.GLOBAL_TENSOR_CACHE
    with pytest.raises(TypeError, match="expected a TensorCacheMode"):
        tensor_cache.set_tensor_cache_mode(1)


def test_point_tensor() -> None:
    points = torchsparse.PointTensor(torch.ones(2, 3), torch.zeros(2, 4))
    assert points.idx_query == {} and points.weights == {}
    points.additional_features["idx_query"][1] = 5
    total = points.to("cpu").detach() + points
    assert torch.equal(total.F, torch.full((2, 3), 2.0))
    assert total.additional_features is points.additional_features
    assert torchsparse20.PointTensor is torchsparse.PointTensor


def test_generative_add(tensor: MakeTensor) -> None:
    x, y = tensor(torchsparse, 1), tensor(torchsparse, 2)
    total = torchsparse.generative_add(x, y)
    shape = (EXTENT,) * 3
    torch.testing.assert_close(dense(total, shape), dense(x, shape) + dense(y, shape))


def test_dense(tensor: MakeTensor) -> None:
    x = tensor(torchsparse)
    with pytest.raises(ValueError, match="spatial_range: expected sizes, got None"):
        x.dense()
    x.spatial_range = (2, EXTENT, EXTENT, EXTENT)
    assert torch.equal(x.dense().movedim(-1, 1), dense(x, (EXTENT,) * 3))
    leaf = x.F.clone().requires_grad_()
    torchsparse.utils.to_dense(leaf, x.C, (2, 4, 4, 4)).sum().backward()
    inside = (x.C[:, 1:] < 4).all(1)
    assert torch.equal(leaf.grad[:, 0], inside.double())
