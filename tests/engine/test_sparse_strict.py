# SPDX-License-Identifier: Apache-2.0
"""What sparse tensors, functions and layers refuse: each error names function and argument."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fieldline.engine.sparse import functional as F
from fieldline.engine.sparse import models, nn
from torch import Tensor

import fieldline as fl

COORDS = torch.tensor([[0, 1, 2, 3], [0, 1, 2, 4], [1, 0, 0, 0]], dtype=torch.int32)
X: Any = fl.SparseTensor(COORDS, torch.ones(3, 4))
WEIGHT = torch.ones(2, 2, 2, 4, 5)
POINTS, FEATS = torch.rand(3, 3), torch.ones(3, 2)
MODEL = nn.SubmConv3d(4, 4, 3)
WRONG: list[Any] = [None, 3, "x", [1.0], torch.ones(3, 4), object(), {"x": 1}]


def on(device: str = "cpu", dtype: torch.dtype = torch.float32) -> fl.SparseTensor:
    return X.replace(X.feats.to(dtype)) if device == "cpu" else X.to(device)


def from_points(**settings: Any) -> Any:
    return fl.SparseTensor.from_points(
        **({"points": POINTS, "feats": FEATS, "voxel_size": 0.5} | settings)
    )


def convert(state: Any = None, source: Any = "native", target: Any = "spconv", **settings) -> Any:
    state = {"a.weight": torch.ones(3, 3, 3, 2, 2)} if state is None else state
    return fl.sparse.convert_state_dict(state, source, target, **settings)


# -- what takes a sparse tensor --------------------------------------------------------------------

TAKE_SPARSE: dict[str, Callable[[Any], Any]] = {
    "subm_conv: x": lambda x: F.subm_conv(x, WEIGHT),
    "conv: x": lambda x: F.conv(x, WEIGHT),
    "conv_transpose: x": lambda x: F.conv_transpose(x, WEIGHT),
    "inverse_conv: x": lambda x: F.inverse_conv(x, WEIGHT),
    "generative_conv_transpose: x": lambda x: F.generative_conv_transpose(x, WEIGHT),
    "max_pool: x": lambda x: F.max_pool(x, 2),
    "avg_pool: x": lambda x: F.avg_pool(x, 2),
    "sum_pool: x": lambda x: F.sum_pool(x, 2),
    "global_pool: x": F.global_pool,
    "upsample: x": F.upsample,
    "group_norm: x": lambda x: F.group_norm(x, 2),
    "instance_norm: x": F.instance_norm,
    "relu: x": F.relu,
    "linear: x": lambda x: F.linear(x, torch.ones(5, 4)),
    "SubmConv3d: x": nn.SubmConv3d(4, 4, 3),
    "MaxPool: x": nn.MaxPool(2),
    "GlobalAvgPool: x": nn.GlobalAvgPool(),
    "Upsample: x": nn.Upsample(2),
    "BatchNorm: x": nn.BatchNorm(4),
    "SyncBatchNorm: x": nn.SyncBatchNorm(4),
    "GroupNorm: x": nn.GroupNorm(2, 4),
    "InstanceNorm: x": nn.InstanceNorm(4),
    "LayerNorm: x": nn.LayerNorm(4),
    "ReLU: x": nn.ReLU(),
    "Linear: x": nn.Linear(4, 5),
    "ToBEVDense: x": nn.ToBEVDense(),
    "ToBEVReduction: x": nn.ToBEVReduction(),
    "ToBEVConvolution: x": nn.ToBEVConvolution(4, 4, 3),
    "count_operations: x": lambda x: fl.sparse.count_operations(MODEL, x),
    "plan: x": lambda x: fl.sparse.plan(x, MODEL),
    "Plan: x": fl.sparse.plan(X, MODEL),
    r"cat: tensors\[1\]": lambda x: fl.sparse.cat([X, x]),
    r"union: tensors\[1\]": lambda x: fl.sparse.union(X, x),
    r"intersection: tensors\[0\]": lambda x: fl.sparse.intersection(x, X),
    r"collate: samples\[1\]": lambda x: fl.sparse.collate([X, x]),
}


@pytest.mark.parametrize("argument", TAKE_SPARSE)
def test_what_is_no_sparse_tensor_is_named(argument: str) -> None:
    for wrong in WRONG:
        match = f"^{argument}: expected a SparseTensor, got {type(wrong).__name__}$"
        with pytest.raises(TypeError, match=match):
            TAKE_SPARSE[argument](wrong)


@pytest.mark.parametrize(
    "function",
    [
        fl.sparse.fuse,
        lambda model: fl.sparse.plan(X, model),
        lambda model: fl.sparse.count_operations(model, X),
        nn.Residual,
        nn.Sequential,
        nn.SyncBatchNorm.convert,
        lambda model: models.CenterPoint(model, 4, 2),
    ],
)
def test_what_is_no_module_is_named(function: Callable[[Any], Any]) -> None:
    for wrong in (*WRONG, nn.ReLU):
        with pytest.raises(TypeError, match=r"[\w.]+: \w+(\[0\])?: expected a Module, got "):
            function(wrong)


# -- everything else -------------------------------------------------------------------------------

Case = tuple[Callable[[], Any], type[Exception], str]
HUGE = 2**31 + 1

T, V = TypeError, ValueError

TENSORS: list[Case] = [
    # Features: labels may be whole numbers, nothing is complex.
    (lambda: fl.SparseTensor(COORDS, torch.ones(3, 1, dtype=torch.complex64)), T,
     "SparseTensor: feats: expected real numbers, got complex64"),
    (lambda: fl.SparseTensor(COORDS, torch.eye(3).to_sparse()), T,
     "SparseTensor: feats: expected a dense tensor, got one of layout torch.sparse_coo"),
    (lambda: fl.SparseTensor(COORDS, FEATS, stride=HUGE), V,
     r"SparseTensor: stride: expected at most 2\^31, got 2147483649"),
    (lambda: fl.SparseTensor(COORDS, FEATS, spatial_range=10**30), V,
     r"spatial_range: expected at most 2\^31"),
    (lambda: fl.SparseTensor(COORDS, FEATS, stride=b"x"), T,
     "stride: expected whole numbers, got b'x'"),
    (lambda: fl.SparseTensor(COORDS, FEATS, stride=torch.ones(3)), T,
     "stride: expected whole numbers, got Tensor"),
    (lambda: fl.SparseTensor(COORDS, FEATS, batch_size=[2]), T,
     r"SparseTensor: batch_size: expected a whole number, got \[2\]"),
    (lambda: fl.SparseTensor(COORDS, FEATS, batch_size=True), T, "got True"),
    (lambda: fl.SparseTensor(COORDS, FEATS, batch_size=HUGE), V, "batch_size: expected"),
    (lambda: fl.SparseTensor(COORDS, FEATS, reduce=torch.ones(2)), V,
     "SparseTensor: reduce: expected one of .* got Tensor"),
    (lambda: X.replace([1.0]), T, "SparseTensor.replace: feats: expected a tensor"),
    (lambda: X.replace(torch.ones(2, 4)), V, r"feats: expected shape \[3, C\]"),
    (lambda: X.replace(torch.ones(3, 4, device="meta")), V, "expected device cpu"),
    (lambda: X.replace(torch.ones(3, 4) * 1j), T, "feats: expected real numbers"),
    (lambda: X.prune(torch.ones(2, dtype=torch.bool)), V, r"prune: mask: .*\[3\]"),
    (lambda: X.prune(torch.ones(3)), T, "prune: mask: expected bool, got torch.float32"),
    (lambda: X.prune(torch.ones(3, dtype=torch.bool, device="meta")), V, "on cpu, got"),
    (lambda: X.prune([True]), T, "prune: mask: expected bool, got list"),
    (lambda: X.crop("a"), T, "SparseTensor.crop: low: expected whole numbers, got 'a'"),
    (lambda: X.crop(0, (1, 2)), V, "crop: high: expected 3 numbers, got 2"),
    (lambda: X.crop(HUGE), V, "crop: low: expected at most"),
    (lambda: X.dense(0, 2**31), V, r"dense: expected at most 2\^40 entries"),
    # Where to.
    (lambda: X.to("gpu"), V, "SparseTensor.to: device: expected one that torch knows"),
    (lambda: X.to(device=""), V, "to: device: expected one that torch knows"),
    (lambda: X.to("cuda:99"), V, r"expected one of the \d+ GPUs that torch sees"),
    (lambda: X.to(99), V, "GPUs that torch sees, got cuda:99"),
    (lambda: X.to(-1), V, "to: device: expected one that torch knows"),
    (lambda: X.cuda(99), V, "got cuda:99"),
    (lambda: X.cuda("cpu"), V, "SparseTensor.cuda: device: expected a GPU, got cpu"),
    (lambda: X.cuda(True), V, "GPUs that torch sees|one that torch knows"),
    (lambda: X.to(True), T, "to: expected a device, a dtype or a tensor first, got True"),
    (lambda: X.to(1.5), T, "got 1.5"),
    (lambda: X.to(torch.complex64), T, "to: dtype: expected real numbers, got complex64"),
    # Arithmetic.
    (lambda: X + "a", T, "unsupported operand"),
    (lambda: X - None, T, "unsupported operand"),
    (lambda: [1] * X, T, "multiply sequence"),
    (lambda: X + X.replace(torch.ones(3, 5)), V,
     "SparseTensor.__add__: other: expected 4 channels as this tensor, or 1, got 5"),
    (lambda: X * (torch.ones(3, 4) * 1j), T, "expected real numbers"),
    # From dense.
    (lambda: fl.SparseTensor.from_dense([[1.0]]), T, "from_dense: dense: expected a tensor"),
    (lambda: fl.SparseTensor.from_dense(torch.ones(2, 2)), V, "1 to 4 sizes"),
    (lambda: fl.SparseTensor.from_dense(torch.ones(1, 1, 2) * 1j), T, "real numbers"),
    (lambda: fl.SparseTensor.from_dense(torch.eye(2)[None].to_sparse()), T, "dense tensor"),
    (lambda: fl.SparseTensor.from_dense(torch.ones(1, 1, 2), torch.ones(1, 2)), T,
     "from_dense: mask: expected bool"),
    (lambda: fl.SparseTensor.from_dense(torch.ones(1, 1, 2), torch.ones(1, 3) > 0), V,
     r"from_dense: mask: expected shape \[1, 2\]"),
    (lambda: fl.SparseTensor.from_dense(torch.ones(1, 1, 2), stride=0), V, "stride"),
]  # fmt: skip

POINTS_AND_VOXELS: list[Case] = [
    (lambda: from_points(points=[[0.0]]), T, "from_points: points: expected a tensor"),
    (lambda: from_points(points=torch.tensor(3.0)), V, r"points: expected shape \[N, D\]"),
    (lambda: from_points(points=POINTS * 1j), T, "points: expected real numbers"),
    (lambda: from_points(points=torch.full((3, 3), float("nan"))), V, "finite points"),
    (lambda: from_points(points=torch.full((3, 3), 1e30)), V, r"within 2\^31 voxels"),
    (lambda: from_points(feats=torch.ones(2, 2)), V, r"feats: expected shape \[3, C\]"),
    (lambda: from_points(feats=FEATS.long()), T, "expected float32, float64"),
    (lambda: from_points(voxel_size=0), V, "voxel_size: expected a positive length"),
    (lambda: from_points(voxel_size=-0.1), V, "voxel_size: expected a positive length"),
    (lambda: from_points(voxel_size=float("inf")), V, "expected a positive length"),
    (lambda: from_points(voxel_size=float("nan")), V, "expected a positive length"),
    (lambda: from_points(voxel_size=[0.1, 0.1]), V, r"3 of them, got \[0.1, 0.1\]"),
    (lambda: from_points(voxel_size=[]), V, "voxel_size: expected a positive length"),
    (lambda: from_points(voxel_size="a"), T, "voxel_size: expected a length, got 'a'"),
    (lambda: from_points(voxel_size=True), T, "voxel_size: expected a length, got True"),
    (lambda: from_points(voxel_size=None), T, "voxel_size: expected a length, got None"),
    (lambda: from_points(batch=[0, 0, 0]), T, "batch: expected a tensor, got list"),
    (lambda: from_points(batch=torch.zeros(3)), T, "batch: expected whole numbers"),
    (lambda: from_points(batch=torch.ones(3) > 0), T, "expected whole numbers, got bool"),
    (lambda: from_points(batch=torch.zeros(2).long()), V, r"batch: expected shape \[3\]"),
    (lambda: from_points(batch=torch.full((3,), 2**31)), V,
     r"batch: expected items below 2\^31, got 2147483648"),
    (lambda: from_points(batch=torch.full((3,), -1)), V, "of at least 0, got -1 to -1"),
    (lambda: from_points(batch=torch.full((3,), 5), batch_size=5), V, "below batch_size 5"),
    (lambda: from_points(reduction="median"), V, "reduction: expected one of"),
    (lambda: fl.sparse.quantize(POINTS.to_sparse()), T, "quantize: points: expected a dense"),
    (lambda: fl.sparse.quantize(POINTS, torch.ones(3, 3)), V, "quantize: voxel_size"),
    (lambda: fl.sparse.quantize(torch.ones(2, 5)), V, "D = 1 to 4"),
    (lambda: fl.sparse.hash(COORDS.long()), T, "hash: coords: expected int32, got int64"),
    (lambda: fl.sparse.hash_query([1], torch.ones(1).long()), T, "queries: expected a tensor"),
    (lambda: fl.sparse.hash_query(torch.ones(1), torch.ones(1).long()), T, "expected int64"),
    (lambda: fl.sparse.hash_query(torch.ones(1).long(), torch.ones(1, 1).long()), V,
     r"keys: expected shape \[M\]"),
    (lambda: fl.sparse.hash_query(torch.ones(1).long(), torch.ones(1, device="meta").long()),
     V, "keys: expected the device of queries"),
    (lambda: X.devoxelize(inverse=[0]), T, "devoxelize: inverse: expected a tensor"),
    (lambda: X.devoxelize(inverse=torch.zeros(2)), T, "inverse: expected whole numbers"),
    (lambda: X.devoxelize(inverse=torch.zeros(2, 1).long()), V, r"inverse: .* \[N\]"),
    (lambda: X.devoxelize(inverse=torch.tensor([0, 3])), V,
     "SparseTensor.devoxelize: inverse: expected rows below 3, got 3"),
    (lambda: X.devoxelize([[0.0]]), T, "devoxelize: points: expected a tensor"),
    (lambda: X.devoxelize(torch.ones(2, 4)), V, r"points: expected shape \[N, 3\]"),
    (lambda: X.devoxelize(torch.ones(2, 3, device="meta")), V, "on cpu, got"),
    (lambda: X.devoxelize(POINTS, 0.0), V, "voxel_size: expected a positive length"),
    (lambda: X.devoxelize(POINTS, batch=torch.zeros(4).long()), V, "devoxelize: batch"),
    (lambda: X.devoxelize(POINTS, mode=None), V, "mode: expected one of"),
]  # fmt: skip

LAYERS: list[Case] = [
    (lambda: nn.SubmConv3d("a", 4, 3), T, "SubmConv3d: in_channels: expected a whole number"),
    (lambda: nn.SubmConv3d(4, 0, 3), V, "SubmConv3d: out_channels: expected at least 1"),
    (lambda: nn.SubmConv3d(4, True, 3), T, "out_channels: expected a whole number, got True"),
    (lambda: nn.SubmConv3d(4, 4, 2.5), T, "kernel_size: expected whole numbers, got 2.5"),
    (lambda: nn.Conv3d(4, 4, 3, groups="a"), T, "Conv3d: groups: expected a whole number"),
    (lambda: nn.Conv3d(4, 4, 3, groups=0), V, "Conv3d: groups: expected at least 1, got 0"),
    (lambda: nn.Conv3d(4, 4, 3, bias="no"), T, "bias: expected True or False, got 'no'"),
    (lambda: nn.Conv3d(4, 4, 3, bias=None), T, "bias: expected True or False, got None"),
    (lambda: nn.Conv3d(4, 4, 3, padding=-1), V, "padding: expected at least 0"),
    (lambda: nn.Conv3d(4, 4, 3, stride=HUGE), V, r"stride: expected at most 2\^31"),
    (lambda: nn.GroupNorm(0, 4), V, "GroupNorm: num_groups: expected at least 1, got 0"),
    (lambda: nn.GroupNorm(-1, 4), V, "GroupNorm: num_groups: expected at least 1"),
    (lambda: nn.GroupNorm(3, 4), V, "num_groups: expected a divisor of the 4 channels"),
    (lambda: nn.GroupNorm("a", 4), T, "num_groups: expected a whole number, got 'a'"),
    (lambda: nn.GroupNorm(1, 0), V, "num_channels: expected at least 1, got 0"),
    (lambda: nn.GroupNorm(1, 4, eps=-1.0), V, "eps: expected a finite number of at least"),
    (lambda: nn.GroupNorm(1, 4, eps="a"), T, "GroupNorm: eps: expected a number, got 'a'"),
    (lambda: nn.GroupNorm(1, 4, affine="no"), T, "affine: expected True or False"),
    (lambda: nn.InstanceNorm(0), V, "InstanceNorm: num_features: expected at least 1"),
    (lambda: nn.InstanceNorm(None), T, "num_features: expected a whole number, got None"),
    (lambda: nn.BatchNorm([4]), T, r"BatchNorm: num_features: .* got \[4\]"),
    (lambda: nn.BatchNorm(4, momentum="a"), T, "momentum: expected a number, got 'a'"),
    (lambda: nn.BatchNorm(4, eps=float("nan")), V, "eps: expected a finite number"),
    (lambda: nn.BatchNorm(4, track_running_stats=1), T, "track_running_stats: expected True"),
    (lambda: nn.LayerNorm((4,)), T, "LayerNorm: num_channels: expected a whole number"),
    (lambda: nn.LayerNorm(4, bias=0), T, "LayerNorm: bias: expected True or False, got 0"),
    (lambda: nn.BatchNorm(5)(X), V, "BatchNorm: x: expected 5 channels, got 4"),
    (lambda: nn.LayerNorm(5)(X), V, "LayerNorm: x: expected 5 channels, got 4"),
    (lambda: nn.GroupNorm(1, 5)(X), V, "GroupNorm: x: expected 5 channels, got 4"),
    (lambda: nn.MaxPool(0), V, "MaxPool: kernel_size: expected at least 1, got 0"),
    (lambda: nn.MaxPool("a"), T, "MaxPool: kernel_size: expected whole numbers"),
    (lambda: nn.AvgPool(2, (1, 0, 1)), V, "AvgPool: stride: expected at least 1"),
    (lambda: nn.SumPool(2, padding=(0,) * 5), V, "SumPool: padding: expected 4 numbers"),
    (lambda: nn.SumPool([]), V, "SumPool: kernel_size: expected 1 numbers, got 0"),
    (lambda: nn.MaxPool((2, 2))(X), V, "MaxPool: kernel_size: expected 3 numbers, got 2"),
    (lambda: nn.Upsample(0), V, "Upsample: scale: expected at least 1"),
    (lambda: nn.Upsample(2, generative="no"), T, "generative: expected True or False"),
    (lambda: nn.ToBEVDense(axis=0.5), T, "ToBEVDense: axis: expected a whole number"),
    (lambda: nn.ToBEVReduction(axis=3)(X), V, "axis: expected one of 2 to 4 spatial axes"),
    (lambda: nn.ToBEVReduction(reduce=None), V, "reduce: expected one of"),
    (lambda: nn.ToBEVConvolution(4, 4, 0), V, "heights: expected at least 1"),
    (lambda: nn.ToBEVConvolution(4, 4, 3, ndim=2**31), V, "expected one of 2 to 4 spatial"),
    (lambda: nn.Residual(nn.ReLU(), activation=nn.ReLU), T, "activation: expected a Module"),
    (lambda: F.conv(X, [1.0]), T, "conv: weight: expected a tensor"),
    (lambda: F.conv(X, WEIGHT, bias=0.5), T, "conv: bias: expected a tensor, got float"),
    (lambda: F.conv(X, torch.ones(2, 2, 2, 0, 5)), V, "conv: weight: expected 5 axes"),
    (lambda: F.conv(X, torch.ones(0, 2, 2, 4, 5)), V, "none of them 0"),
    (lambda: F.group_norm(X, "a"), T, "group_norm: groups: expected a whole number"),
    (lambda: F.group_norm(X, 2, torch.ones(3)), V, r"weight: expected shape \[4\]"),
    (lambda: F.group_norm(X, 2, bias=2.0), T, "group_norm: bias: expected a tensor"),
    (lambda: F.group_norm(X, 2, eps=-1), V, "group_norm: eps: expected a finite number"),
    (lambda: F.group_norm(on(dtype=torch.int64), 2), T, "x: expected floating features, got int64"),
    (lambda: nn.SubmConv3d(4, 4, 3)(X, 1.0), T, "convolution: residual: expected a tensor"),
    (lambda: F.upsample(X, generative=1), T, "generative: expected True or False"),
    (lambda: nn.SubmConv3d(4, 4, 3)(on(dtype=torch.int64)), T,
     "features: expected float32, float64, float16 or bfloat16, got int64"),
    (lambda: nn.MaxPool(2)(on(dtype=torch.int64)), T, "features: expected float32"),
    (lambda: models.MinkUNet(4, 0), V, "MinkUNet: classes: expected at least 1"),
    (lambda: models.MinkUNet(width=0.01), V, "MinkUNet: width: expected a finite number"),
    (lambda: models.SPVCNN(width="a"), T, "SPVCNN: width: expected a number, got 'a'"),
    (lambda: models.SparseResNet21D(width=float("inf")), V, "SparseResNet21D: width"),
    (lambda: models.CenterPoint(nn.ReLU(), 0, 2), V, "encoded_channels: expected at least"),
    (lambda: models.BirdsEyeStem(4, 0), V, "BirdsEyeStem: out_channels: expected at least"),
    (lambda: models.configuration(None), V, "configuration: name: expected one of"),
]  # fmt: skip

TOGETHER: list[Case] = [
    (lambda: fl.sparse.cat(X), T, "cat: tensors: expected a list or a tuple, got Sparse"),
    (lambda: fl.sparse.cat([]), V, "cat: tensors: expected at least one, got none"),
    (fl.sparse.union, V, "union: tensors: expected at least one, got none"),
    (lambda: fl.sparse.union(X, reduce=None), V, "union: reduce: expected one of"),
    (lambda: fl.sparse.collate("ab"), T, "collate: samples: expected a list or a tuple"),
    (lambda: fl.sparse.collate({"a": X}), T, "expected a list or a tuple, got dict"),
    (lambda: fl.sparse.collate([{"a": X}, {"b": X}]), V,
     r"expected the keys of the first, \['a'\], got \['b'\] in sample 1"),
    (lambda: fl.sparse.collate([{"a": X}, {"a": X, "b": 1}]), V, "in sample 1"),
    (lambda: fl.sparse.collate([{"a": X}, X]), T, "expected a Mapping, got SparseTensor"),
    (lambda: fl.sparse.collate([True, X]), T, r"samples\[1\]: expected what the first is, a bool"),
    (lambda: fl.sparse.collate([(X, 1), (X,)]), V,
     "expected 2 values as in the first, got 1 in sample 1"),
    (lambda: fl.sparse.collate([X, on(dtype=torch.float64)]), V, "expected dtype"),
    (lambda: fl.sparse.plan(X, MODEL, gradients="no"), T, "plan: gradients: expected True"),
    (lambda: fl.sparse.plan(X, MODEL).tensor([[0]], X.feats), T, "coords: expected a tensor"),
    (lambda: fl.sparse.plan(X, MODEL).tensor(COORDS[:, :3], X.feats), V, r"\[N, 1 \+ 3\]"),
    (lambda: fl.sparse.plan(X, MODEL).tensor(COORDS, X.feats, [1]), T, "batch_size"),
]  # fmt: skip

CONVERSIONS: list[Case] = [
    (lambda: convert([1]), T, "convert_state_dict: state_dict: expected a Mapping, got list"),
    (lambda: convert({"a": 1}), T, r"state_dict\['a'\]: expected a tensor, got int"),
    (lambda: convert(source=["native"]), V, "source: expected one of"),
    (lambda: convert(ndim=5), V, "ndim: expected 1 to 4, got 5"),
    (lambda: convert(ndim="a"), T, "ndim: expected a whole number, got 'a'"),
    (lambda: convert(kernel_sizes=[3]), T, "kernel_sizes: expected a Mapping, got list"),
    (lambda: convert(prefixes="a"), T, "prefixes: expected a Mapping, got str"),
    (lambda: convert(keep="a.b"), T, "keep: expected a list of names of modules, got 'a.b'"),
    (lambda: convert(strided=3), T, "strided: expected a list of names of modules, got 3"),
    (lambda: convert(keep=[None]), T, r"keep: expected a list of names of modules, got \[None\]"),
    (lambda: convert(prefixes={"a": 1}), T, "prefixes: expected a str, got int"),
    (lambda: convert(strict="no"), T, "strict: expected True or False, got 'no'"),
    (lambda: convert({"a.kernel": torch.ones(27, 2, 2)}, "torchsparse", kernel_sizes={"a": "x"}),
     T, "kernel_sizes: expected whole numbers, got 'x'"),
    # What looks like a convolution and is none of the source's would come out as it went in.
    (lambda: convert({"a.kernel": torch.ones(27, 2, 2)}), V,
     r"state_dict\['a.kernel'\]: expected no convolution but those of 'native' with ndim=3"),
    (lambda: convert(ndim=2), V, r"'native' with ndim=2, got shape \[3, 3, 3, 2, 2\]"),
    (lambda: convert({"a.weight": torch.ones(3, 3, 3, 2, 2)}, "torchsparse"), V,
     r"keep=\['a'\] leaves it alone, strict=False all such"),
]  # fmt: skip

MAP = X.maps.find(X.level, MODEL.recipe)[0]
MAPS: list[Case] = [
    (lambda: fl.sparse.padded_pairs([[0]]), T, "padded_pairs: kernel_map: expected a KernelMap"),
    (lambda: fl.sparse.padded_pairs(MAP, 100), V, "tile_rows: expected 64 or 128, got 100"),
    (lambda: fl.sparse.padded_pairs(MAP, splits=0), V, "splits: expected 1 to the 27 taps, got 0"),
    (lambda: fl.sparse.padded_pairs(MAP, splits=2.5), V, "splits: expected 1 to the 27 taps"),
    (lambda: fl.sparse.tune(FEATS, WEIGHT, None), T, "tune: kernel_map: expected a KernelMap"),
    (lambda: fl.sparse.tune(None, WEIGHT, MAP), T, "tune: features: expected a tensor"),
    (lambda: fl.sparse.tune(FEATS, WEIGHT, MAP), V, "tune: features: expected a CUDA tensor"),
]

CASES = [*MAPS, *TENSORS, *POINTS_AND_VOXELS, *LAYERS, *TOGETHER, *CONVERSIONS]


@pytest.mark.parametrize("case", CASES, ids=[f"{number}" for number in range(len(CASES))])
def test_refuses(case: Case) -> None:
    call, exception, match = case
    with pytest.raises(exception, match=match):
        call()


def test_batch_items_that_int32_would_cut_off_are_refused() -> None:
    """2^32 is 0 in 32 bits: the points would land in another item."""
    for item in (2**32, -(2**32), 2**31):
        with pytest.raises(ValueError, match=r"batch: expected items below 2\^31"):
            fl.sparse.quantize(POINTS, 1.0, torch.full((3,), item))


def test_numbers_that_say_they_are_whole_and_are_not() -> None:
    class Liar:
        def __index__(self) -> int:
            raise TypeError

    with pytest.raises(TypeError, match="stride: expected whole numbers, got Liar"):
        fl.SparseTensor(COORDS, FEATS, stride=Liar())  # pyright: ignore[reportArgumentType]


def test_errors_stay_short() -> None:
    with pytest.raises(ValueError, match="expected 3 numbers") as caught:
        X.crop(tuple(range(10_000)))
    assert len(str(caught.value)) < 200


# -- what is allowed -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_labels_may_be_whole_numbers(dtype: torch.dtype) -> None:
    labels = fl.SparseTensor(COORDS, torch.tensor([[1], [0], [1]]).to(dtype))
    batch = fl.sparse.collate([{"labels": labels}, {"labels": labels}])["labels"]
    assert batch.dtype == dtype and batch.feats[:, 0].tolist() == 2 * [1, 0, 1]
    assert labels.prune(COORDS[:, 0] == 0).feats[:, 0].tolist() == [1, 0]
    assert torch.equal(
        labels.crop(1, 9).dense(), labels.crop(1, 9).to(torch.float32).dense().to(dtype)
    )


def test_a_box_turned_around_is_empty() -> None:
    assert len(X.crop(3, 1)) == 0
    assert X.dense(3, 1).shape == (2, 4, 0, 0, 0)


def test_gates_of_one_channel_and_numbers_of_numpy() -> None:
    gate = X.replace(torch.full((3, 1), 2.0))
    assert (X * gate).feats.tolist() == (X * torch.tensor(2.0)).feats.tolist() == [[2.0] * 4] * 3
    assert (X * (torch.tensor(2.0).numpy()[()])).feats.tolist() == [[2.0] * 4] * 3


def test_what_is_not_strict_stays_what_it_is() -> None:
    kernel = torch.ones(27, 2, 2)
    state = {"a.kernel": kernel, "b.weight": torch.ones(3, 3, 3, 2, 2)}
    for settings in ({"strict": False}, {"keep": ["a"]}):
        converted = convert(state, **settings)
        assert converted["a.kernel"] is kernel
        assert converted["b.weight"].shape == (2, 3, 3, 3, 2)
    assert convert({}) == {}


def test_pickles_of_tensors_of_a_network() -> None:
    y = nn.Conv3d(4, 2, 2, 2)(fl.SparseTensor(COORDS, torch.ones(3, 4), 1, 9, 5))
    again = pickle.loads(pickle.dumps(y.detach()))
    assert torch.equal(again.coords, y.coords) and torch.equal(again.feats, y.feats)
    assert (again.stride, again.spatial_range, again.batch_size) == ((2, 2, 2), (4, 4, 4), 5)


def test_points_far_from_a_network_of_points_and_voxels() -> None:
    """Coordinates beyond int32 are in no voxel, not in the one that they wrap around to."""
    net = models.SPVCNN(4, 3, 0.125).eval()
    points = torch.tensor([[1.0, 2.0, 3.0], [2.0**32 + 1, 2.0, 3.0], [float("nan"), 0.0, 0.0]])
    with torch.no_grad():
        out: Tensor = net(X, points)
    assert bool(out[:2].isfinite().all())
    with pytest.raises(TypeError, match="SPVCNN: points: expected a tensor, got list"):
        net(X, [[1.0, 2.0, 3.0]])
    with pytest.raises(ValueError, match=r"SPVCNN: batch: expected shape \[3\]"):
        net(X, points, torch.zeros(2).long())
