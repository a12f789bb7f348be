# SPDX-License-Identifier: Apache-2.0
"""spconv's names, signatures, parameters and checkpoints."""

from __future__ import annotations

import doctest
import importlib
import inspect
import subprocess
import sys

import pytest
import torch
from spconv_twin import Cloud

import fieldline
from fieldline.compat import _MODULES, spconv
from fieldline.compat.spconv import pytorch as sp

CONV = (
    "in_channels out_channels kernel_size stride padding dilation groups bias indice_key algo "
    "fp32_accum record_voxel_count large_kernel_fast_algo name"
)


SIGNATURES = {
    "SparseConv{}d": CONV,
    "SparseConvTranspose{}d": CONV,
    "SubMConv{}d": CONV.replace("record_voxel_count ", ""),
    "SparseInverseConv{}d": "in_channels out_channels kernel_size indice_key bias algo fp32_accum "
    "large_kernel_fast_algo name",
    "SparseMaxPool{}d": "kernel_size stride padding dilation indice_key algo record_voxel_count "
    "name",
}


NAMES = {
    "pytorch": "SparseConvTensor SparseModule SparseSequential SparseBatchNorm SparseReLU "
    "SparseIdentity assign_name_for_sparse_modules Identity ToDense RemoveGrid ConvAlgo AddTable "
    "ConcatTable JoinTable SparseAvgPool1d SparseAvgPool2d SparseAvgPool3d SparseGlobalMaxPool "
    "SparseGlobalAvgPool functional ops modules",
    "pytorch.ops": "get_conv_output_size get_deconv_output_size get_indice_pairs "
    "get_indice_pairs_implicit_gemm indice_conv indice_conv_backward implicit_gemm "
    "implicit_gemm_backward indice_maxpool indice_maxpool_backward indice_maxpool_implicit_gemm "
    "indice_maxpool_implicit_gemm_backward indice_avgpool_implicit_gemm "
    "indice_avgpool_implicit_gemm_backward global_pool_rearrange maximum_value_int_ ConvAlgo",
    "pytorch.functional": "indice_conv implicit_gemm indice_inverse_conv indice_subm_conv "
    "indice_maxpool indice_maxpool_implicit_gemm indice_avgpool_implicit_gemm sparse_add "
    "sparse_add_hash_based",
    "pytorch.utils": "PointToVoxel gather_features_by_pc_voxel_id",
    "pytorch.hash": "HashTable",
    "pytorch.modules": "is_spconv_module is_sparse_conv SparseSyncBatchNorm",
    "pytorch.conv": "SparseConvolution",
    "pytorch.spatial": "RemoveDuplicate",
    "pytorch.tables": "AddTableMisaligned",
    "utils": "Point2VoxelCPU1d Point2VoxelCPU2d Point2VoxelCPU3d Point2VoxelCPU4d",
    "constants": "SPCONV_USE_DIRECT_TABLE SPCONV_ALLOW_TF32",
}


@pytest.mark.parametrize("ndim", [1, 2, 3, 4])
@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures(name: str, ndim: int) -> None:
    found = inspect.signature(getattr(sp, name.format(ndim))).parameters
    assert list(found) == SIGNATURES[name].split()
    if "Conv" in name:
        assert found["bias"].default is True


@pytest.mark.parametrize("module", NAMES)
def test_names(module: str) -> None:
    found = importlib.import_module(f"fieldline.compat.spconv.{module}")
    for name in NAMES[module].split():
        assert hasattr(found, name) and name in found.__all__


@pytest.mark.parametrize("name", _MODULES["spconv"])
def test_examples(name: str) -> None:
    module = importlib.import_module(f"fieldline.compat.{name}")
    assert doctest.testmod(module, extraglobs={"torch": torch}).failed == 0


SCRIPT = """
import fieldline
fieldline.compat.install("spconv")
import spconv
import spconv.pytorch as sp
from spconv.core import ConvAlgo
from spconv.pytorch import functional as Fsp
from spconv.pytorch.conv import SparseConvolution
from spconv.pytorch.utils import PointToVoxel
from spconv.utils import Point2VoxelCPU3d
import cumm.tensorview as tv
from cumm.tensorview.gemm import Activation
assert float(spconv.__version__[2:]) >= 2.2 and spconv.SPCONV_VERSION_NUMBERS == [2, 3, 8]
assert sp.modules.is_spconv_module(sp.SubMConv3d(2, 2, 3))
assert tv.gemm.Activation.ReLU is Activation.ReLU
spconv.constants.SPCONV_USE_DIRECT_TABLE = False
try:
    from spconv.utils import VoxelGeneratorV2
except ImportError:
    pass
else:
    raise AssertionError("spconv 1's voxeliser would be taken for the real one")
"""


def test_install() -> None:
    subprocess.run([sys.executable, "-c", SCRIPT], check=True)


def test_version() -> None:
    assert spconv.__version__ == "2.3.8"


def test_initialisation() -> None:
    layer = sp.SubMConv3d(16, 32, 3)
    bound = 1 / (16 * 27) ** 0.5
    assert layer.weight.shape == (32, 3, 3, 3, 16)
    for parameter in layer.parameters():
        assert 0.9 * bound < parameter.abs().max() <= bound


def test_voxel_count_and_older_checkpoints(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    x = cloud()
    layer = sp.SparseConv3d(3, 4, 3, 2, 1, record_voxel_count=True).to(x.features)
    n = len(layer(x).indices)
    assert layer.get_max_num_voxels().tolist() == [n]
    plain = sp.SparseConv3d(3, 4, 3, 2, 1).state_dict()
    layer.load_state_dict(plain)
    monkeypatch.setattr(spconv.constants, "SAVED_WEIGHT_LAYOUT", "RSCK")
    old = {**plain, "weight": plain["weight"].permute(1, 2, 3, 4, 0)}
    layer.load_state_dict(old)
    assert torch.equal(layer.weight.float().cpu(), plain["weight"])


def test_benchmark_record(cloud: Cloud) -> None:
    x = cloud(dtype=torch.float32)
    x.benchmark = True
    sp.SubMConv3d(3, 4, 3, name="first").to(x.features)(x)
    assert x.benchmark_record["first"]["num_points"] == [len(x.indices)]
    with pytest.raises(ValueError, match="name: expected one"):
        sp.SubMConv3d(3, 4, 3)(x)


def test_errors_of_the_tensor() -> None:
    features, indices = torch.ones(2, 3), torch.zeros(2, 4).int()
    with pytest.raises(TypeError, match=r"indices: expected int32, got torch\.int64"):
        sp.SparseConvTensor(features, indices.long(), [4] * 3, 1)
    with pytest.raises(ValueError, match="spatial_shape: expected 3 numbers"):
        sp.SparseConvTensor(features, indices, [4] * 2, 1)
    with pytest.raises(ValueError, match="batch_size: expected at least 1"):
        sp.SparseConvTensor(features, indices, [4] * 3, 0)
    with pytest.raises(ValueError, match=r"expected shapes \[N, C\]"):
        sp.SparseConvTensor(features[0], indices, [4] * 3, 1)
    x = sp.SparseConvTensor(features, indices, [4] * 3, 1)
    with pytest.raises(ValueError, match="input: expected 5 channels, got 3"):
        sp.SubMConv3d(5, 2, 3)(x)
    with pytest.raises(ValueError, match="groups: expected 1"):
        sp.SubMConv3d(4, 4, 3, groups=2)
    with pytest.raises(ValueError, match="need odd sizes"):
        sp.SubMConv3d(3, 2, 2)(x)
    with pytest.raises(ValueError, match="padding: expected 0"):
        sp.SparseConv3d(3, 2, 1, padding=1)
    with pytest.raises(ValueError, match="nothing is left"):
        sp.SparseConv3d(3, 2, 5)(x)


def test_native_layers_have_none_of_this() -> None:
    """True maxima, and one tap read as its shape says."""
    coords = torch.tensor([[0, 0, 0, 0]], dtype=torch.int32)
    x = fieldline.SparseTensor(coords, torch.tensor([[-1.0]]))
    assert fieldline.nn.MaxPool(2, 2)(x).feats.item() == -1.0
