# SPDX-License-Identifier: Apache-2.0
"""Batch norms that run with the residual and the activation behind them, and when they do not."""

from __future__ import annotations

import copy
import doctest
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fieldline.cuda.sparse import norm_ops
from fieldline.engine.sparse.functional import normalisation as functions
from fieldline.engine.sparse.nn import activation, containers, normalisation
from op_harness import assert_near, seeded
from torch import Tensor, nn

import fieldline as fl

n = fl.nn


def tensor(rows: int = 60, channels: int = 4, dtype: torch.dtype = torch.float64) -> Any:
    coords = torch.stack([torch.zeros(rows), torch.arange(rows)], 1).int()
    feats = torch.randn(rows, channels, generator=seeded("rows"), dtype=torch.float64)
    return fl.SparseTensor(coords, feats.to(dtype).requires_grad_())


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """Of each normalisation, its activation and whether it had a residual."""
    seen: list[tuple[str, bool]] = []
    plain = norm_ops.sparse_batch_norm

    def watched(*args: Any) -> Tensor:
        seen.append((args[9], args[8] is not None))
        return plain(*args)

    monkeypatch.setattr(normalisation, "sparse_batch_norm", watched)
    return seen


def one_by_one(model: nn.Module) -> nn.Module:
    """A copy whose layers all run by themselves."""
    model = copy.deepcopy(model)
    for module in model.modules():
        module.register_forward_hook(lambda *_: None)
    return model


def assert_same(model: nn.Module, x: fl.SparseTensor) -> None:
    """Outputs, gradients and statistics are those of layers that run one by one."""
    plain = one_by_one(model)
    results = []
    for net in (model, plain):
        leaves = [x.feats, *net.parameters()]
        out = net(x).feats
        g = torch.randn(out.shape, generator=seeded("g"), dtype=torch.float64).to(out.dtype)
        results.append([out.detach(), *torch.autograd.grad(out, leaves, g)])
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(model.state_dict(), plain.state_dict(), rtol=1e-12, atol=1e-12)


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": n.ReLU,
    "leaky_relu": lambda: n.LeakyReLU(-0.3),
    "silu": n.SiLU,
    "gelu": n.GELU,
    "sigmoid": nn.Sigmoid,
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_sequences(name: str, training: bool, calls: list[tuple[str, bool]]) -> None:
    model = n.Sequential(n.BatchNorm(4), ACTIVATIONS[name](), nn.BatchNorm1d(4), nn.ReLU(True))
    model.double().train(training)
    assert_same(model, tensor())
    assert calls[:2] == [(name, False), ("relu", False)]
    assert [activation for activation, _ in calls[2:]] == ["none"]  # torch's runs by itself


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_residuals(name: str, training: bool, calls: list[tuple[str, bool]]) -> None:
    shortcut = n.Sequential(n.Linear(4, 4), n.BatchNorm(4))
    main = n.Sequential(n.Linear(4, 4), n.BatchNorm(4), n.ReLU(), n.Linear(4, 4), n.BatchNorm(4))
    model = n.Residual(main, shortcut, ACTIVATIONS[name]()).double().train(training)
    assert_same(model, tensor())
    assert calls[:3] == [("none", False), ("relu", False), (name, True)]
    assert calls[3:] == [("none", False)] * 3


def test_residuals_of_other_forms(calls: list[tuple[str, bool]]) -> None:
    for model, expected in (
        (n.Residual(n.BatchNorm(4)), ("none", True)),
        (n.Residual(n.BatchNorm(4), activation=n.Tanh()), ("none", True)),
        (n.Residual(n.Sequential(), activation=n.ReLU()), None),
        (n.Residual(n.Sequential(n.BatchNorm(4), n.ReLU())), ("relu", False)),
        (n.Residual(n.Sequential(n.BatchNorm(4), n.Sequential(n.BatchNorm(4)))), ("none", False)),
    ):
        calls.clear()
        assert_same(model.double(), tensor())
        assert calls[:1] == ([] if expected is None else [expected])


def test_names_and_text_stay() -> None:
    model = n.Sequential(n.BatchNorm(4), n.ReLU())
    assert repr(model) == repr(nn.Sequential(*model)).replace("torch.", "")
    names = [f"0.{name}" for name in nn.BatchNorm1d(4).state_dict()]
    assert list(model.state_dict()) == names


class Doubled(n.ReLU):
    def forward(self, x: fl.SparseTensor) -> fl.SparseTensor:
        return super().forward(x) * 2


class Called(n.BatchNorm):
    def __call__(self, x: fl.SparseTensor) -> fl.SparseTensor:
        return super().__call__(x) * 5


class Shifted(n.BatchNorm):
    def forward(self, x: fl.SparseTensor) -> fl.SparseTensor:
        return super().forward(x) + 1


def test_what_is_changed_or_watched_runs_by_itself(calls: list[tuple[str, bool]]) -> None:
    x = tensor()
    for norm, act in ((n.BatchNorm(4), Doubled()), (Shifted(4), n.ReLU()), (Called(4), n.ReLU())):
        assert_same(n.Sequential(norm, act).double(), x)
    assert {name for name, _ in calls} == {"none"}
    seen: list[float] = []

    def look(module: nn.Module, args: Any, out: fl.SparseTensor) -> None:
        seen.append(float(out.feats.detach().min()))

    for index in (0, 1):
        model = n.Sequential(n.BatchNorm(4), n.ReLU()).double()
        model[index].register_forward_hook(
            lambda module, args, out: seen.append(float(out.feats.detach().min()))
        )
        model(x)
    assert seen[0] < 0 and seen[1] == 0
    model = n.Sequential(n.BatchNorm(4), n.ReLU()).double()
    model[1].forward = lambda given: given * 0 - 3
    assert bool((model(x).feats == -3).all())
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        calls.clear()
        n.Sequential(n.BatchNorm(4), n.ReLU()).double()(x)
        assert calls == [("none", False)]
    finally:
        handle.remove()


def test_sums_of_two_dtypes_are_those_of_torch(calls: list[tuple[str, bool]]) -> None:
    model = n.Residual(n.Sequential(n.Linear(4, 4), n.BatchNorm(4)), activation=n.ReLU())
    x = tensor(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(x)
    assert out.dtype == torch.float32 and calls == [("none", False)]
    with torch.autocast("cpu", torch.bfloat16):
        assert model(x.to(torch.bfloat16)).dtype == torch.bfloat16
    assert calls[1:] == [("relu", True)]


def test_modes_of_statistics() -> None:
    """As torch's, whatever is kept and whichever mode the module is in."""
    x = tensor()
    for settings in (
        {},
        {"momentum": None},
        {"affine": False, "eps": 0.1},
        {"track_running_stats": False},
        {"momentum": 0.7, "dtype": torch.float64},
    ):
        ours, theirs = n.BatchNorm(4, **settings).double(), nn.BatchNorm1d(4, **settings).double()
        for training in (True, True, False):
            found = ours.train(training)(x).feats
            assert_near("output", found, theirs.train(training)(x.feats), 1e-12)
        for name, value in theirs.state_dict().items():
            assert_near(name, ours.state_dict()[name].double(), value.double(), 1e-12)
    ours, theirs = n.BatchNorm(4).double(), nn.BatchNorm1d(4).double()
    ours.track_running_stats = theirs.track_running_stats = False
    assert_near("untracked", ours(x).feats, theirs(x.feats), 1e-12)
    assert torch.equal(ours.running_mean, theirs.running_mean)
    assert int(ours.num_batches_tracked) == int(theirs.num_batches_tracked) == 0
    for norm in (ours, theirs):
        norm.running_mean = norm.running_var = None
        norm.track_running_stats = True
    assert_near("removed", ours.eval()(x).feats, theirs.eval()(x.feats), 1e-12)
    assert int(ours.num_batches_tracked) == int(theirs.num_batches_tracked) == 0


def test_statistics_written_to_before_the_gradient_are_an_error() -> None:
    norm = n.BatchNorm(4).double().eval()
    out = norm(tensor()).feats
    norm.running_mean.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_function_takes_what_torchs_takes() -> None:
    x, other = tensor(), tensor(59)
    lists = [torch.rand(4, generator=seeded(k)).double() for k in range(4)]
    for training in (True, False):
        mine, theirs = ([t.clone() for t in lists] for _ in range(2))
        found = n.functional.batch_norm(x, *mine, training, 0.4, 1e-3)
        expected = nn.functional.batch_norm(x.feats, *theirs, training, 0.4, 1e-3)
        assert_near("output", found.feats, expected, 1e-12)
        assert_near("variance", mine[1], theirs[1], 1e-12)
        again = n.functional.batch_norm(x, *lists, residual=x, activation="leaky_relu", slope=0.2)
        expected = nn.functional.batch_norm(x.feats, *lists) + x.feats
        assert_near("sum", again.feats, nn.functional.leaky_relu(expected, 0.2), 1e-12)
        assert again.level is x.level
    with pytest.raises(ValueError, match="batch_norm: residual: expected the coordinates of x"):
        n.functional.batch_norm(x, *lists, residual=other)


def test_errors_name_the_layer() -> None:
    with pytest.raises(ValueError, match="BatchNorm: x: expected 8 channels, got 4"):
        n.BatchNorm(8)(tensor())
    with pytest.raises(ValueError, match="BatchNorm1d: x: expected 8 channels, got 4"):
        n.Sequential(nn.BatchNorm1d(8), n.ReLU())(tensor())
    with pytest.raises(TypeError, match="BatchNorm: x: expected a SparseTensor, got Tensor"):
        n.BatchNorm(4)(torch.ones(3, 4))  # pyright: ignore[reportArgumentType]


def test_no_rows_reach_every_parameter() -> None:
    """Of what trains on several machines, one may have no rows."""
    model = n.Residual(n.Sequential(n.BatchNorm(4)), activation=n.ReLU()).double()
    before = copy.deepcopy(model.state_dict())
    model(tensor(0)).feats.sum().backward()
    assert all(bool(p.grad.eq(0).all()) for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_compiles_in_training() -> None:
    model = n.Sequential(n.Residual(n.BatchNorm(4), activation=n.ReLU()), n.BatchNorm(4), n.SiLU())
    plain = copy.deepcopy(model.double())
    x = tensor()

    def run(feats: Tensor) -> Tensor:
        return plain(x.replace(feats)).feats

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    results = [model(x).feats, compiled(x.feats)]
    gradients = [
        torch.autograd.grad(out.square().sum(), [x.feats, *net.parameters()])
        for out, net in zip(results, (model, plain))
    ]
    for ours, theirs in zip((*gradients[0], results[0]), (*gradients[1], results[1])):
        assert torch.equal(ours, theirs)
    for name, value in model.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), name


@pytest.mark.parametrize("module", [activation, containers, normalisation, functions])
def test_examples(module: Any) -> None:
    names = {"SparseTensor": fl.SparseTensor, "torch": torch}
    assert doctest.testmod(module, extraglobs=names).failed == 0
