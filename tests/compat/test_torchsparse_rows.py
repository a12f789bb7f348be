# SPDX-License-Identifier: Apache-2.0
"""Rows that users of torchsparse feed all the same."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from spconv_twin import Randomise
from torch import nn
from torchsparse_twin import (
    BOTH,
    MakeTensor,
)

from fieldline.compat import torchsparse, torchsparse20


@pytest.mark.parametrize("library", BOTH)
def test_no_rows(device: torch.device, library: ModuleType) -> None:
    x = library.SparseTensor(torch.zeros(0, 3), torch.zeros(0, 4).int()).to(device)
    down = nn.Sequential(library.nn.Conv3d(3, 3, 3), library.nn.Conv3d(3, 4, 3, 2)).to(device)
    y = down(x)
    assert y.F.shape == (0, 4)
    assert library.nn.Conv3d(4, 3, 3, 2, transposed=True).to(device)(y).F.shape == (0, 3)
    assert library.nn.GlobalMaxPool()(y).shape == (0, 4)


@pytest.mark.parametrize("library", BOTH)
def test_duplicates_and_strides_of_memory(
    tensor: MakeTensor, randomise: Randomise, library: ModuleType
) -> None:
    x = tensor(library)
    twice = library.SparseTensor(torch.cat([x.F, x.F]), torch.cat([x.C, x.C]))
    down = randomise(library.nn.Conv3d(3, 4, 2, 2))
    torch.testing.assert_close(down(twice).F, 2 * down(x).F)
    same = randomise(library.nn.Conv3d(3, 4, 3))
    torch.testing.assert_close(same(twice).F, same(x).F.repeat(2, 1))
    turned = library.SparseTensor(x.F, x.C.t().contiguous().t())
    assert torch.equal(same(turned).F, same(x).F)


def test_strided_maps_past_32_bits(device: torch.device, randomise: Randomise) -> None:
    """2.1 cuts the number of a coordinate to 32 bits, and pairs vanish."""
    far = 3000
    coords = torch.tensor([[7, far, far, far], [0, 0, 0, 0]], dtype=torch.int32)
    layer = randomise(torchsparse.nn.Conv3d(1, 1, 2, 2))
    x = torchsparse.SparseTensor(torch.ones(2, 1, dtype=torch.float64), coords).to(device)
    y = layer(x)
    assert y.C.tolist() == [[0, 0, 0, 0], [7, far // 2, far // 2, far // 2]]
    torch.testing.assert_close(y.F[:, 0], layer.kernel[0, 0, 0].expand(2))


def test_negative_coordinates(device: torch.device) -> None:
    coords = torch.tensor([[0, -2, -2, -2], [0, 4, 4, 4]], dtype=torch.int32)
    x = torchsparse.SparseTensor(torch.ones(2, 1), coords).to(device)
    layer = torchsparse.nn.Conv3d(1, 1, 2, 2).to(device)
    assert layer(x).C.tolist() == [[0, 2, 2, 2]]
    torchsparse.tensor.set_allow_negative_coordinates(True)
    fresh = torchsparse.SparseTensor(x.F, x.C)
    assert layer(fresh).C.tolist() == [[0, -1, -1, -1], [0, 2, 2, 2]]
    old = torchsparse20.SparseTensor(x.F, x.C[:, [1, 2, 3, 0]])
    assert torchsparse20.nn.Conv3d(1, 1, 2, 2).to(device)(old).C.tolist() == [
        [-2, -2, -2, 0],
        [4, 4, 4, 0],
    ]
