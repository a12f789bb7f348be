# SPDX-License-Identifier: Apache-2.0
"""Every kind of layer in one graph, forward and backward, once its maps exist."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sparse_twin as twin
import torch
from op_harness import seeded
from torch import Tensor, nn

import fieldline as fl

n = fl.nn


class Ends(nn.Module):
    """What stands between layers: arithmetic, joining, points."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = n.SubmConv3d(4, 4, 3)

    def forward(self, x: fl.SparseTensor) -> fl.SparseTensor:
        y = self.conv(x) + x
        return fl.sparse.cat([y * 2.0, x.replace(x.feats.sin())])


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "SubmConv": lambda: n.SubmConv3d(4, 6, 3),
    "depthwise": lambda: n.SubmConv3d(4, 4, 3, groups=4),
    "one tap": lambda: n.SubmConv3d(4, 6, 1),
    "Conv": lambda: n.Conv3d(4, 6, 3, 2, 1, groups=2),
    "ConvTranspose": lambda: n.ConvTranspose3d(4, 6, 2, 2),
    "InverseConv": lambda: n.Sequential(n.Conv3d(4, 4, 3, 2, 1), n.InverseConv3d(4, 6, 3, 2, 1)),
    "Generative": lambda: n.GenerativeConvTranspose3d(4, 6, 3, 2),
    "MaxPool": lambda: n.MaxPool(2),
    "AvgPool": lambda: n.AvgPool(3, 2, 1),
    "SumPool": lambda: n.SumPool(2),
    "Upsample": lambda: n.Sequential(n.MaxPool(2), n.Upsample(2)),
    "Upsample, generative": lambda: n.Upsample(2, generative=True),
    "GlobalMaxPool": n.GlobalMaxPool,
    "GlobalAvgPool": n.GlobalAvgPool,
    "GlobalSumPool": n.GlobalSumPool,
    "BatchNorm": lambda: n.BatchNorm(4),
    "GroupNorm": lambda: n.GroupNorm(2, 4),
    "InstanceNorm": lambda: n.InstanceNorm(4),
    "LayerNorm": lambda: n.LayerNorm(4),
    "Linear": lambda: n.Linear(4, 6),
    "Residual": lambda: n.Residual(
        n.Sequential(n.SubmConv3d(4, 4, 3, bias=False), n.BatchNorm(4)), activation=n.ReLU()
    ),
    "ToBEVDense": n.ToBEVDense,
    "ToBEVReduction": n.ToBEVReduction,
    "ToBEVConvolution": lambda: n.ToBEVConvolution(4, 6, 5),
    "fused": lambda: fl.sparse.fuse(
        n.Sequential(n.SubmConv3d(4, 6, 3), n.BatchNorm(6), n.ReLU()).eval()
    ),
    "ends of a network": Ends,
}


def rows(output: Any) -> Tensor:
    return output.feats if isinstance(output, fl.SparseTensor) else output


@pytest.mark.parametrize("name", LAYERS)
def test_no_graph_breaks(name: str) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    x = twin.random_tensor((6, 7, 5), 4, 2, seeded("compile"))
    x = x.replace(x.feats.detach().float().requires_grad_())
    model = LAYERS[name]()
    planned = fl.sparse.plan(x, model, gradients=True)
    x = planned(x)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    y, expected = compiled(x), model(x)
    assert type(y) is type(expected)
    if isinstance(y, fl.SparseTensor):
        assert y.level is expected.level
    torch.testing.assert_close(rows(y), rows(expected))
    leaves = [x.feats, *(p for p in model.parameters() if p.requires_grad)]
    got, wanted = (torch.autograd.grad(rows(t).square().sum(), leaves) for t in (y, expected))
    for a, b in zip(got, wanted):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_a_plan_follows_a_network_that_looks_from_above() -> None:
    """Maps of the view exist before another input enters, so that it compiles as well."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = n.Sequential(
        n.SubmConv3d(4, 4, 3), n.ToBEVReduction(), n.SubmConv2d(4, 4, 3), n.Conv2d(4, 4, 2, 2)
    )
    inputs = [twin.random_tensor((6, 7, 5), 4, 2, seeded("above", k)) for k in range(3)]
    inputs = [x.replace(x.feats.detach().float()) for x in inputs]
    planned = fl.sparse.plan(inputs[0], model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for x in inputs:
        expected = model(fl.SparseTensor(x.coords, x.feats, 1, x.spatial_range, 2))
        y = compiled(planned(x))
        assert torch.equal(y.coords, expected.coords)
        torch.testing.assert_close(y.feats, expected.feats)
