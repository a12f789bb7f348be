# SPDX-License-Identifier: Apache-2.0
"""torchsparse's names and signatures, 2.1 and 2.0, its parameters and settings."""

from __future__ import annotations

import doctest
import importlib
import inspect
import subprocess
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from spconv_twin import Randomise
from torch import nn
from torchsparse_twin import (
    BOTH,
    MakeTensor,
)

from fieldline.compat import _MODULES, torchsparse, torchsparse20
from fieldline.compat.torchsparse.nn import functional as spf

SIGNATURES = {
    (torchsparse, "Conv3d"): "in_channels out_channels kernel_size stride padding dilation bias "
    "transposed generative config",
    (torchsparse20, "Conv3d"): "in_channels out_channels kernel_size stride dilation bias "
    "transposed config",
    (torchsparse, "functional.conv3d"): "input weight kernel_size bias stride padding dilation "
    "config transposed generative training",
    (torchsparse20, "functional.conv3d"): "input weight kernel_size bias stride dilation "
    "transposed epsilon mm_thresh kmap_mode",
    (torchsparse, "functional.spdownsample"): "_coords stride kernel_size padding spatial_range "
    "downsample_mode",
    (torchsparse20, "functional.spdownsample"): "coords stride kernel_size tensor_stride",
}


NAMES = (
    "Conv3d BatchNorm GroupNorm InstanceNorm ReLU LeakyReLU SiLU GlobalAvgPool GlobalMaxPool "
    "SparseCrop ToBEVReduction ToDenseBEVConvolution ToBEVConvolution ToBEVHeightCompression "
    "functional utils"
)


FUNCTIONS = (
    "conv3d relu silu leaky_relu spvoxelize spdevoxelize calc_ti_weights sphash sphashquery "
    "spcount spdownsample spcrop global_avg_pool global_max_pool"
)


FUNCTIONS_OF_21 = (
    "build_kernel_map Dataflow get_default_conv_config set_global_conv_config set_kmap_mode "
    "set_downsample_mode set_conv_mode conv_config"
)


@pytest.mark.parametrize("key", SIGNATURES)
def test_signatures(key: tuple[ModuleType, str]) -> None:
    found = key[0].nn
    for part in key[1].split("."):
        found = getattr(found, part)
    assert list(inspect.signature(found).parameters) == SIGNATURES[key].split()


@pytest.mark.parametrize("library", BOTH)
def test_names(library: ModuleType) -> None:
    for name in NAMES.split():
        assert hasattr(library.nn, name) and name in library.nn.__all__
    own = FUNCTIONS_OF_21 if library is torchsparse else ""
    for name in (FUNCTIONS + " " + own).split():
        assert name in library.nn.functional.__all__
    for name in ("SparseTensor", "PointTensor", "cat", "tune", "backends", "backend", "utils"):
        assert name in library.__all__
    assert library.__version__ == ("2.1.0" if library is torchsparse else "2.0.0")
    assert library.nn.utils.get_kernel_offsets(3).shape == (27, 3)


MODULES = sorted({*_MODULES["torchsparse"].values(), *_MODULES["torchsparse20"].values()})

MODULES += ["torchsparse20.nn.conv", "torchsparse.nn.modules.layers"]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    module = importlib.import_module(f"fieldline.compat.{name}")
    names = {"torch": torch, "np": np}
    assert doctest.testmod(module, extraglobs=names).failed == 0


SCRIPT = """
import fieldline, torch
library = fieldline.compat.install("{name}")
import torchsparse
import torchsparse.nn as spnn
import torchsparse.nn.functional as F
from torchsparse import PointTensor, SparseTensor, cat
from torchsparse.backbones import SparseResNet21D, SparseResUNet42
from torchsparse.nn.utils import fapply, get_kernel_offsets
from torchsparse.utils import make_ntuple
from torchsparse.utils.collate import sparse_collate, sparse_collate_fn
from torchsparse.utils.quantize import sparse_quantize
assert torchsparse.__version__ == library.__version__ == "{version}"
assert torchsparse.backend.GPUHashTable and spnn.functional is F
torchsparse.backends.benchmark = True
sample = SparseTensor(torch.ones(2, 1), torch.tensor([[1, 2, 3], [4, 5, 6]]))
assert sparse_collate([sample]).C[0].tolist() == {first}
"""


@pytest.mark.parametrize(
    ("name", "version", "first"),
    [("torchsparse", "2.1.0", [0, 1, 2, 3]), ("torchsparse20", "2.0.0", [1, 2, 3, 0])],
)
def test_install(name: str, version: str, first: list[int]) -> None:
    script = SCRIPT.format(name=name, version=version, first=first)
    if name == "torchsparse":
        script += "import torchsparse.nn.functional.conv.conv_config\n"
        script += "from torchsparse.utils.tensor_cache import TensorCache\n"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_only_one_of_them_in_a_process() -> None:
    script = (
        "import fieldline\nfieldline.compat.install('torchsparse')\n"
        "try:\n    fieldline.compat.install('torchsparse20')\n"
        "except ImportError:\n    pass\nelse:\n    raise AssertionError\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_both_argument_orders() -> None:
    """TRELLIS passes 2.1's seven by position; code for 2.0 passes dilation fifth."""
    new = torchsparse.nn.Conv3d(2, 4, 3, 2, 0, 1, True)
    old = torchsparse20.nn.Conv3d(2, 4, 3, 2, 2, True, True)
    assert (new.padding, new.dilation, new.transposed) == ((0, 0, 0), 1, False)
    assert new.bias is not None
    assert (old.dilation, old.bias is not None, old.transposed) == (2, True, True)
    assert new._config is None and new.kernel_volume == 27


@pytest.mark.parametrize("library", BOTH)
def test_parameters(library: ModuleType) -> None:
    conv = library.nn.Conv3d
    assert conv(4, 8, 3).kernel.shape == (27, 4, 8) and conv(4, 8, 3).bias is None
    assert conv(4, 8, 1).kernel.shape == (4, 8)
    strided = (1, 4, 8) if library is torchsparse else (4, 8)
    assert conv(4, 8, 1, 2).kernel.shape == strided
    for transposed, fan in ((False, 16), (True, 32)):
        layer = conv(16, 32, 2, 2, bias=True, transposed=transposed)
        bound = 1 / (fan * 8) ** 0.5
        for parameter in layer.parameters():
            assert 0.8 * bound < parameter.abs().max() <= bound
    assert "stride=(2, 2, 2)" in repr(conv(4, 8, 2, 2))


def test_config(tensor: MakeTensor, randomise: Randomise) -> None:
    config = spf.conv_config.get_default_conv_config()
    config.kmap_mode = "hashmap"
    config.dataflow = spf.Dataflow.GatherScatter
    assert spf.get_default_conv_config().kmap_mode == "hashmap_on_the_fly"
    spf.conv_config.set_global_conv_config(config)
    x = tensor(torchsparse)
    layer = randomise(torchsparse.nn.Conv3d(3, 4, 4))
    by_global = layer(x).F
    spf.conv_config.clear_global_conv_config()
    layer._config = {"kmap_mode": "hashmap"}
    fresh = torchsparse.SparseTensor(x.F, x.C)
    torch.testing.assert_close(layer(fresh).F, by_global)
    spf.set_conv_mode(2)
    assert spf.get_conv_mode() is spf.ConvMode.mode2
    assert spf.get_default_conv_config(spf.get_conv_mode()).split_mask_num == 3
    with pytest.raises(ValueError, match=r"set_kmap_mode: kmap_mode: expected one of .*'grid'"):
        spf.set_kmap_mode("grid")
    with pytest.raises(ValueError, match="set_downsample_mode"):
        spf.set_downsample_mode("none")
    with pytest.raises(AttributeError):
        config.nothing


def test_tune(tensor: MakeTensor) -> None:
    x = tensor(torchsparse)
    seen = []
    net = nn.Sequential(torchsparse.nn.Conv3d(3, 4, 3), nn.Identity()).to(x.F)
    net[1].register_forward_hook(lambda *_: seen.append(1))
    torchsparse.tune(net, [{"x": x}] * 5, n_samples=3, collect_fn=lambda data: data["x"])
    assert len(seen) == 3 and net.training


def test_utilities() -> None:
    utils = torchsparse.utils
    for value in (3, [3, 3], (3, 3), torch.tensor([3, 3]), np.array([3, 3]), np.int64(3)):
        assert utils.make_ntuple(value, 2) == (3, 3)
    with pytest.raises(ValueError, match="make_ntuple: x: expected 3 numbers"):
        utils.make_ntuple((1, 2), 3)
    assert utils.make_tensor((1, 2), torch.int32, "cpu").tolist() == [1, 2]
    assert utils.make_divisible(128, 128) == 128
    assert torchsparse.nn.utils.get_kernel_offsets((3, 1, 1), 2, 2)[:, 0].tolist() == [-4, 0, 4]
    assert torchsparse.nn.utils.get_kernel_offsets(4).amin() == -1
