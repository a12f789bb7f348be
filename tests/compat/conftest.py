# SPDX-License-Identifier: Apache-2.0
"""What the tests of the drop-ins are given: inputs and layers on each device that there is."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
import spconv_twin
import torch
import torchsparse_twin
from torch import nn

from fieldline.compat import torchsparse
from fieldline.compat.torchsparse.nn import functional as spf
from fieldline.compat.torchsparse.utils import tensor_cache


@pytest.fixture
def randomise(device: torch.device) -> spconv_twin.Randomise:
    """Fills a layer in float64 with normal numbers, and brings it to the device."""

    def fill(layer: nn.Module, seed: int = 1) -> nn.Module:
        for parameter in layer.double().parameters():
            nn.init.normal_(parameter, generator=spconv_twin.generator(seed))
        return layer.to(device)

    return fill


@pytest.fixture
def cloud(device: torch.device) -> spconv_twin.Cloud:
    """spconv's tensor of random cells on the device."""
    return partial(spconv_twin.cloud, device=device)


@pytest.fixture
def cells(device: torch.device) -> torchsparse_twin.MakeCells:
    """Random coordinates, batch first, on the device."""
    return partial(torchsparse_twin.cells, device=device)


@pytest.fixture
def tensor(device: torch.device) -> torchsparse_twin.MakeTensor:
    """A torchsparse tensor of random cells on the device."""
    return partial(torchsparse_twin.tensor, device=device)


@pytest.fixture(autouse=True)
def plain_modes() -> Iterator[None]:
    """Undoes what a test sets for the whole of torchsparse."""
    yield
    spf.set_kmap_mode("hashmap_on_the_fly")
    spf.set_downsample_mode("spconv")
    spf.set_conv_mode(0)
    spf.conv_config.clear_global_conv_config()
    torchsparse.tensor.set_allow_negative_coordinates(False)
    tensor_cache.set_tensor_cache_mode(tensor_cache.TensorCacheMode.SEPARATE_TENSOR_CACHE)
    tensor_cache.clear_global_tensor_cache()
