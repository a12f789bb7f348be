# SPDX-License-Identifier: Apache-2.0
"""Whole networks: norms, activations, views from above, autocast, compilation, plans, fusing."""

from __future__ import annotations

import pickle

import pytest
import sparse_twin as twin
import torch
from fieldline.engine.sparse import maps
from op_harness import running_on, seeded, threads
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import fieldline as fl


def scan(
    channels: int = 4, batch_size: int = 2, seed: str = "scan", dtype: torch.dtype = torch.float64
) -> fl.SparseTensor:
    x = twin.random_tensor((9, 8, 7), channels, batch_size, seeded(seed), share=0.2)
    return x.replace(x.feats.detach().to(dtype).requires_grad_())


def on(device: torch.device, x: fl.SparseTensor) -> fl.SparseTensor:
    """The tensor on a device, its features a leaf."""
    moved = x.to(device)
    return moved.replace(moved.feats.detach().requires_grad_())


def unet(channels: int = 4, dtype: torch.dtype = torch.float64) -> nn.Module:
    """All kinds of layers, on three levels, with a shortcut over each."""
    n = fl.nn
    torch.manual_seed(0)

    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = n.Sequential(n.SubmConv3d(channels, 8, 3), n.BatchNorm(8), n.ReLU())
            self.down = n.Sequential(
                n.Conv3d(8, 16, 2, 2, bias=False), n.BatchNorm(16), n.LeakyReLU(0.1)
            )
            self.block = n.Residual(
                n.Sequential(
                    n.SubmConv3d(16, 16, 3), n.BatchNorm(16), n.SiLU(),
                    n.SubmConv3d(16, 16, 3, groups=4), n.BatchNorm(16),
                ),
                activation=n.ReLU(),
            )  # fmt: skip
            self.pool = n.MaxPool(2)
            self.deep = n.Sequential(n.SubmConv3d(16, 16, 1), n.GroupNorm(4, 16), n.GELU())
            self.rise = n.Upsample(2)
            self.up = n.Sequential(n.InverseConv3d(32, 8, 2, 2), n.BatchNorm(8), n.Sigmoid())
            self.head = n.Linear(16, 3)

        def forward(self, x: fl.SparseTensor) -> fl.SparseTensor:
            fine = self.stem(x)
            coarse = self.block(self.down(fine))
            deep = self.rise(self.deep(self.pool(coarse)))
            return self.head(fl.sparse.cat([self.up(fl.sparse.cat([coarse, deep])), fine]))

    model = UNet().to(dtype)
    for module in model.modules():  # statistics that are not those of a new network
        if isinstance(module, nn.BatchNorm1d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.bias, -1, 1)
    return model


# -- normalisation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_group_norm_is_that_of_each_item(groups: int) -> None:
    x = scan()
    x = x.replace((x.feats * 3 + 5).detach().requires_grad_())
    norm = fl.nn.GroupNorm(groups, 4).double()
    nn.init.uniform_(norm.weight)
    nn.init.uniform_(norm.bias)
    dense = nn.GroupNorm(groups, 4).double()
    dense.load_state_dict(norm.state_dict())
    expected = torch.zeros_like(x.feats)
    for item in range(2):
        rows = x.coords[:, 0] == item
        expected[rows] = dense(x.feats[rows].t()[None])[0].t()
    leaves = [x.feats, norm.weight, norm.bias]
    twin.assert_same_gradients(norm(x).feats, expected, leaves, [x.feats, dense.weight, dense.bias])


def test_instance_norm_layer_norm_and_batch_norm() -> None:
    x = scan()
    expected = torch.zeros_like(x.feats)
    for item in range(2):
        rows = x.coords[:, 0] == item
        expected[rows] = nn.functional.instance_norm(x.feats[rows].t()[None])[0].t()
    twin.assert_same_gradients(fl.nn.InstanceNorm(4)(x).feats, expected, [x.feats], [x.feats])
    layer = fl.nn.LayerNorm(4).double()
    twin.assert_close(layer(x).feats, nn.functional.layer_norm(x.feats, (4,)))
    ours, theirs = fl.nn.BatchNorm(4).double(), nn.BatchNorm1d(4).double()
    twin.assert_close(ours(x).feats, theirs(x.feats))
    assert torch.equal(ours.running_var, theirs.running_var)
    twin.assert_close(ours.eval()(x).feats, theirs.eval()(x.feats))


def test_norms_of_half_precision_keep_their_dtype() -> None:
    x = scan(dtype=torch.float32)
    for dtype in (torch.float16, torch.bfloat16):
        narrow = x.to(dtype)
        for norm in (fl.nn.GroupNorm(2, 4), fl.nn.InstanceNorm(4), fl.nn.BatchNorm(4)):
            got = norm.to(dtype)(narrow)
            assert got.dtype == dtype
            wide = norm.float()(x)
            assert float((got.feats.float() - wide.feats).detach().abs().max()) < 0.1
    with pytest.raises(ValueError, match="GroupNorm: x: expected 8 channels, got 4"):
        fl.nn.GroupNorm(2, 8)(x)


@pytest.mark.parametrize("name", fl.nn.activation.__all__)
def test_activations_are_those_of_torch(name: str) -> None:
    x = scan()
    arguments = {"Linear": (4, 5), "Threshold": (0.1, 2.0)}.get(name, ())
    arguments = (1,) if "Softm" in name or name == "LogSoftmax" else arguments
    torch.manual_seed(1)
    module = getattr(fl.nn, name)(*arguments).double()
    plain = getattr(nn, name)(*arguments).double()
    plain.load_state_dict(module.state_dict())
    torch.manual_seed(2)
    y = module(x)
    torch.manual_seed(2)
    assert torch.equal(y.feats, plain(x.feats))
    assert y.level is x.level and isinstance(module, getattr(nn, name))
    assert type(module).__name__ == name


ROWWISE = [n for n in fl.nn.functional.__all__ if hasattr(fl.nn.functional.rowwise, n)]


@pytest.mark.parametrize("name", ROWWISE)
def test_functions_of_rows_are_those_of_torch(name: str) -> None:
    x = scan()
    arguments = {
        "batch_norm": (torch.zeros(4).double(), torch.ones(4).double()),
        "layer_norm": ((4,),),
        "linear": (torch.ones(3, 4).double(),),
        "prelu": (torch.ones(1).double(),),
        "threshold": (0.1, 2.0),
    }.get(name, (1,) if "softm" in name else ())
    torch.manual_seed(2)
    y = getattr(fl.nn.functional, name)(x, *arguments)
    torch.manual_seed(2)
    assert torch.equal(y.feats, getattr(nn.functional, name)(x.feats, *arguments))
    assert y.level is x.level


def test_sequential_and_residual() -> None:
    x = scan()
    mixed = fl.nn.Sequential(
        nn.Linear(4, 4), nn.Sequential(fl.nn.SubmConv3d(4, 4, 3), fl.nn.ReLU()), nn.Dropout(0.0)
    ).double()
    assert mixed(x).level is x.level
    block = fl.nn.Residual(mixed, nn.Linear(4, 4).double(), nn.ReLU())
    expected = torch.relu(mixed(x).feats + block.shortcut(x.feats))
    assert torch.equal(block(x).feats, expected)
    with pytest.raises(ValueError, match="union"):
        fl.nn.Residual(fl.nn.MaxPool(2))(x)


# -- views from above ------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_to_bev(axis: int) -> None:
    x = scan()
    dense = x.dense().movedim(2 + axis % 3, 2)  # [B, C, heights, ...]
    flat = fl.nn.ToBEVDense(axis)(x)
    twin.assert_same_gradients(flat, dense.flatten(1, 2), [x.feats], [x.feats])
    y = fl.nn.ToBEVReduction(axis)(x)
    assert y.ndim == 2 and y.spatial_range == tuple(dense.shape[3:])
    twin.assert_same_gradients(y.dense(), dense.sum(2), [x.feats], [x.feats])
    top = fl.nn.ToBEVReduction(axis, "max")(x)
    assert top.level.same_as(y.level)
    heights = x.spatial_range[axis]
    conv = fl.nn.ToBEVConvolution(4, 6, heights, axis).double()
    kernel = conv.weight.reshape(heights, 4, 6)
    expected = torch.einsum("bchxy,hco->boxy", dense, kernel) + conv.bias.view(-1, 1, 1)
    expected = expected * (twin.occupancy(y) > 0)
    twin.assert_same_gradients(
        conv(x).dense(), expected, [x.feats, conv.weight], [x.feats, conv.weight]
    )


def test_to_bev_of_heights_out_of_range() -> None:
    coords = torch.tensor([[0, 1, 1, -1], [0, 1, 1, 2], [0, 2, 2, 3]], dtype=torch.int32)
    x = fl.SparseTensor(coords, torch.ones(3, 1))
    conv = fl.nn.ToBEVConvolution(1, 1, heights=3, bias=False)
    y = conv(x)
    assert y.coords.tolist() == [[0, 1, 1]]
    assert torch.equal(y.feats[0, 0], conv.weight[0, 0, 2, 0, 0])
    with pytest.raises(ValueError, match="ToBEVDense: x: expected a spatial_range"):
        fl.nn.ToBEVDense()(x)
    with pytest.raises(ValueError, match="ToBEVReduction: axis"):
        fl.nn.ToBEVReduction(3)(x)
    with pytest.raises(ValueError, match="ToBEVReduction: reduce"):
        fl.nn.ToBEVReduction(reduce="or")


# -- autocast, determinism, state ------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(device: torch.device, dtype: torch.dtype) -> None:
    x = on(device, scan(dtype=torch.float32))
    model = unet(dtype=torch.float32).to(device)
    with torch.autocast(device.type, dtype):
        y = model(x)
        for size in (1, 3):
            conv = fl.nn.SubmConv3d(4, 8, size, device=device)
            assert conv(x).dtype == dtype
            assert conv.eval()(x).dtype == dtype
            assert conv.double()(x.to(torch.float64)).dtype == torch.float64
    expected = model(x)
    error = (y.feats.float() - expected.feats).detach().abs().max()
    assert error < 0.1 * expected.feats.detach().abs().max()
    y.feats.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())


def test_runs_are_equal_to_the_last_bit_and_allowed_to_be_deterministic(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    x, model = on(device, scan(dtype=torch.float32)), unet(dtype=torch.float32).to(device)
    runs = [bits(model, x, 1) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_threads_change_no_bit() -> None:
    """Of all layers but torch's batch norm, which adds up by thread."""
    x = twin.random_tensor((20, 20, 20), 4, 2, seeded("threads"), share=0.2)
    x = x.replace(x.feats.detach().float().requires_grad_())
    model = unet(dtype=torch.float32)
    for part in list(model.modules()):
        for name, layer in part.named_children():
            if isinstance(layer, fl.nn.BatchNorm):
                setattr(part, name, fl.nn.Identity())
    first, *others = (bits(model, x, count) for count in (1, 2, 3))
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def bits(model: nn.Module, x: fl.SparseTensor, count: int) -> list[torch.Tensor]:
    """Outputs and gradients of a network without maps, by so many threads."""
    torch.use_deterministic_algorithms(True)
    try:
        with threads(count):
            fresh = fl.SparseTensor(x.coords, x.feats, 1, x.spatial_range, x.batch_size)
            y = model.train()(fresh)
            leaves = [*model.parameters(), x.feats]
            return [y.feats, *torch.autograd.grad(y.feats.square().sum(), leaves)]
    finally:
        torch.use_deterministic_algorithms(False)


def test_state_dict_and_pickle() -> None:
    model = unet()
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert shapes["stem.0.weight"] == (3, 3, 3, 4, 8) and shapes["stem.0.bias"] == (8,)
    assert shapes["block.main.3.weight"] == (3, 3, 3, 4, 16)
    assert shapes["up.0.weight"] == (2, 2, 2, 32, 8)
    for part in (model.stem, fl.sparse.fuse(model.stem)):
        other = pickle.loads(pickle.dumps(part.eval()))
        x = scan()
        assert torch.equal(other(x).feats, part(x).feats)
        assert list(other.state_dict()) == list(part.state_dict())


# -- plans and compilation -------------------------------------------------------------------------


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of maps made from here on."""
    made: list[str] = []
    for name in ("submanifold_map", "strided_map", "transposed_map", "map_between"):
        original = getattr(maps, name)

        def wrapped(*arguments, name: str = name, original=original, **named):
            made.append(name)
            return original(*arguments, **named)

        monkeypatch.setattr(maps, name, wrapped)
    return made


def test_a_plan_makes_all_maps_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = unet(), scan()
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    made = counted(monkeypatch)
    planned = fl.sparse.plan(x, model)
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert "7 maps" in repr(planned) or len(planned.keys) == len(x.maps.entries)
    made.clear()
    model(x)
    again = planned.tensor(x.coords.clone(), x.feats * 2)
    assert again.level is x.level
    model(again)
    assert made == []
    other = scan(seed="other")
    assert planned(other) is other and made
    made.clear()
    model.eval()
    expected = fl.SparseTensor(other.coords, other.feats, 1, other.spatial_range, 2)
    y = model(other)
    assert made == [] and other.maps.entries.keys() == x.maps.entries.keys()
    assert torch.equal(y.feats, model(expected).feats)


MAKERS = {
    "sparse_reached", "sparse_index", "sparse_network_maps", "sparse_kernel_table",
    "sparse_kernel_pairs", "sparse_invert_table", "sparse_table_pairs", "sparse_conv_plan",
}  # fmt: skip


class Operators(TorchDispatchMode):
    """Names of the operators that make maps, in the order in which they run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        name = function.name().split("::")[1].split(".")[0]
        if name in MAKERS:
            self.names.append(name)
        return function(*arguments, **(named or {}))


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("ranged", [False, True])
def test_a_plan_makes_all_that_a_gpu_reads_at_once(ranged: bool, gradients: bool) -> None:
    """Two operators, whatever the network; its layers then find all forms of all maps."""
    model = unet(dtype=torch.float32).train(gradients)
    inputs = [scan(seed=seed, dtype=torch.float32).crop(high=6) for seed in "abc"]
    size = 6 if ranged else None

    def run(x: fl.SparseTensor, operators: Operators) -> list[torch.Tensor]:
        with operators, torch.set_grad_enabled(gradients):
            y = model(x)
            leaves = [x.feats, *model.parameters()]
            more = torch.autograd.grad(y.feats.square().sum(), leaves) if gradients else ()
            return [y.coords, y.feats, *more]

    def fresh(x: fl.SparseTensor) -> fl.SparseTensor:
        feats = x.feats.detach().requires_grad_()
        return fl.SparseTensor(x.coords, feats, spatial_range=size, batch_size=2)

    with running_on("emulated"):
        first, second, third = map(fresh, inputs)
        planned = fl.sparse.plan(first, model)
        run(first, Operators())
        run(planned(second), Operators())
        making, running = Operators(), Operators()
        with making:
            planned(third)
        got = run(third, running)
        expected = run(fresh(third), Operators())
    assert making.names == ["sparse_reached", "sparse_network_maps"]
    assert running.names == []
    for a, b in zip(got, expected):
        assert torch.equal(a, b)


def test_a_plan_sees_all_levels_of_another_input() -> None:
    model = unet().eval()
    first, second = (
        fl.SparseTensor(x.coords, x.feats, batch_size=2) for x in (scan(), scan(seed="other"))
    )
    for backend in ("cpu", "emulated"):
        with running_on(backend):
            planned = fl.sparse.plan(first, model)
            made = planned(fl.SparseTensor(second.coords, second.feats, batch_size=2))
            fresh = fl.SparseTensor(second.coords, second.feats, batch_size=2)
            assert torch.equal(model(made).feats, model(fresh).feats)
        assert made.maps.entries.keys() == fresh.maps.entries.keys()
        for a, b in zip(made.maps.levels, fresh.maps.levels):
            assert torch.equal(a.tensor, b.tensor) and a.stride == b.stride


def test_a_plan_takes_inputs_that_other_networks_have_seen() -> None:
    other = fl.nn.Sequential(fl.nn.Conv3d(4, 4, 3, 2, 1), fl.nn.SubmConv3d(4, 4, 3)).double()
    model = unet().eval()
    for backend in ("cpu", "emulated"):
        with running_on(backend):
            planned = fl.sparse.plan(scan(), model)
            x, fresh = scan(seed="other"), scan(seed="other")
            other(x)
            assert torch.equal(model(planned(x)).feats, model(fresh).feats)


def test_networks_run_on_the_emulated_kernels() -> None:
    """What a GPU runs, on the CPU: the same levels, and the same outputs and gradients."""
    model = fl.nn.Sequential(
        fl.nn.SubmConv3d(4, 8, 3), fl.nn.GroupNorm(2, 8), fl.nn.ReLU(), fl.nn.Conv3d(8, 8, 2, 2),
        fl.nn.MaxPool(2), fl.nn.Upsample(2), fl.nn.InverseConv3d(8, 4, 2, 2),
    )  # fmt: skip
    x = scan(dtype=torch.float32)
    x = x.crop(high=5)

    def run() -> list[torch.Tensor]:
        fresh = fl.SparseTensor(x.coords, x.feats.detach().requires_grad_(), batch_size=2)
        y = model(fresh)
        gradients = torch.autograd.grad(y.feats.square().sum(), [fresh.feats, *model.parameters()])
        return [y.coords, y.feats, *gradients]

    expected = run()
    with running_on("emulated"):
        got = run()
    for a, b in zip(got, expected):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_a_plan_forgets_the_oldest_and_names_what_does_not_fit() -> None:
    x = scan()
    planned = fl.sparse.plan(x, fl.nn.SubmConv3d(4, 4, 3).double())
    for seed in "abcd":
        planned(scan(seed=seed))
    assert "4 inputs seen" in repr(planned)
    assert planned.tensor(x.coords, x.feats).level is not x.level
    with pytest.raises(ValueError, match=r"Plan.tensor: feats: expected shape"):
        planned.tensor(x.coords, x.feats[:3])
    with pytest.raises(ValueError, match="Plan: x: expected spatial_range"):
        planned(fl.SparseTensor(x.coords, x.feats))
    flat = fl.SparseTensor(torch.zeros(1, 3, dtype=torch.int32), torch.ones(1, 4).double())
    with pytest.raises(ValueError, match="Plan: x: expected 3 dimensions, got 2"):
        planned(flat)
    with pytest.raises(ValueError, match="plan: x: expected an input"):
        fl.sparse.plan(fl.nn.MaxPool(2)(x), nn.Identity())


def test_compiles_without_graph_breaks() -> None:
    """Forward and backward of planned inputs, each as one graph."""
    torch._dynamo.reset()
    n, x = fl.nn, scan(dtype=torch.float32)
    model = n.Sequential(
        n.SubmConv3d(4, 4, 3), n.ReLU(), n.Conv3d(4, 8, 2, 2), n.MaxPool(2), n.Upsample(2),
        n.InverseConv3d(8, 4, 2, 2),
    )  # fmt: skip
    planned = fl.sparse.plan(x, model, gradients=True)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for tensor in (x, planned(scan(seed="other", dtype=torch.float32))):
        leaves = [tensor.feats, *model.parameters()]
        y, expected = compiled(tensor), model(tensor)
        assert isinstance(y, fl.SparseTensor) and y.level is tensor.level
        torch.testing.assert_close(y.feats, expected.feats)
        got = torch.autograd.grad(y.feats.square().sum(), leaves)
        wanted = torch.autograd.grad(expected.feats.square().sum(), leaves)
        for a, b in zip(got, wanted):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_compiles_without_a_plan_too() -> None:
    torch._dynamo.reset()
    model, x = fl.nn.Sequential(fl.nn.SubmConv3d(4, 4, 3), fl.nn.ReLU()), scan(dtype=torch.float32)
    y = torch.compile(model, backend="aot_eager")(x)
    torch.testing.assert_close(y.feats, model(x).feats)


# -- fusing and counting ---------------------------------------------------------------------------


def kinds(model: nn.Module) -> list[str]:
    return [type(m).__name__ for m in model.modules()]


def test_fused_networks_give_the_same() -> None:
    model, x = unet().eval(), scan()
    fused = fl.sparse.fuse(model)
    expected, y = model(x), fused(x)
    assert (y.feats - expected.feats).abs().max() < 1e-12
    assert y.level is expected.level
    assert "BatchNorm" not in kinds(fused) and "BatchNorm" in kinds(model)
    assert "FusedResidual" in kinds(fused)
    left = {"ReLU", "LeakyReLU", "SiLU", "Sigmoid"} & set(kinds(fused))
    assert not left and "GELU" in kinds(fused)  # behind a group norm, it stays
    assert not fused.training


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kind", ["ConvTranspose3d", "GenerativeConvTranspose3d", "Conv3d"])
def test_fused_convolutions_of_every_way(kind: str, groups: int) -> None:
    conv = getattr(fl.nn, kind)(4, 8, 3, 2, groups=groups)
    model = fl.nn.Sequential(conv, fl.nn.BatchNorm(8), fl.nn.SiLU()).double()
    x = scan()
    model(x)  # statistics
    fused = fl.sparse.fuse(model.eval())
    assert not {"BatchNorm", "SiLU"} & set(kinds(fused))
    assert (fused(x).feats - model(x).feats).abs().max() < 1e-12


def test_fusing_leaves_what_does_not_fit() -> None:
    n = fl.nn
    shared = n.SubmConv3d(4, 4, 3)
    model = n.Sequential(
        n.Sequential(shared, n.BatchNorm(4)),
        n.Sequential(shared, n.ReLU()),
        n.Sequential(n.SubmConv3d(4, 4, 3), n.BatchNorm(4, track_running_stats=False)),
        n.Sequential(n.SubmConv3d(4, 4, 3), n.ReLU(), n.BatchNorm(4), n.SiLU()),
        n.Sequential(n.SubmConv3d(4, 4, 3), n.GELU("tanh")),
        n.Sequential(n.SubmConv3d(4, 4, 3), n.Identity(), n.LeakyReLU(0.3), n.Sigmoid()),
        n.Residual(n.Sequential(n.SubmConv3d(4, 4, 3), n.ReLU()), activation=n.Tanh()),
        n.Residual(n.SubmConv3d(4, 4, 3), n.SubmConv3d(4, 4, 1), n.Tanh()),
        n.Residual(n.SubmConv3d(4, 4, 3), None, n.GELU()),
    ).double()
    x = scan()
    model(x)  # statistics
    model.eval()
    fused = fl.sparse.fuse(model)
    assert (fused(x).feats - model(x).feats).abs().max() < 1e-12
    left = kinds(fused)
    assert left.count("BatchNorm") == 3 and left.count("Tanh") == 2 and left.count("GELU") == 1
    assert left.count("Residual") == 1 and left.count("FusedResidual") == 2


def test_counts_operations() -> None:
    x = scan()
    model = fl.nn.Sequential(
        fl.nn.SubmConv3d(4, 8, 3, groups=2), fl.nn.SubmConv3d(8, 8, 1), fl.nn.Conv3d(8, 8, 2, 2)
    )
    model.append(fl.nn.Linear(8, 3)).double().train()
    count = fl.sparse.count_operations(model, x)
    dense = twin.occupancy(x)
    ones = torch.ones(3, 3, 3, 1, 1).double()
    near = twin.conv(dense, ones, (1,) * 3, (1,) * 3, (1,) * 3)
    pairs = int((near * dense).sum())
    coarse = len(model[:3](x))
    assert [layer.name for layer in count.layers] == ["0", "1", "2", "3"]
    assert [layer.pairs for layer in count.layers] == [pairs, len(x), _inside(x), coarse]
    expected = pairs * 2 * 8 + len(x) * 64 + _inside(x) * 64 + coarse * 24
    assert count.multiply_adds == expected
    assert count.padded_multiply_adds >= expected and count.overhead >= 1
    assert model.training
    assert fl.sparse.count_operations(nn.Identity(), x).overhead == 1


def _inside(x: fl.SparseTensor) -> int:
    """Rows that a stride of 2 does not leave beyond the last whole window."""
    sizes = torch.tensor([n // 2 * 2 for n in x.spatial_range])
    return int((x.coords[:, 1:] < sizes).all(1).sum())
