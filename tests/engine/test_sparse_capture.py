# SPDX-License-Identifier: Apache-2.0
"""Networks in a CUDA graph, for inputs of any coordinates; without a GPU, what the graph runs."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from fieldline.engine.sparse import nn
from fieldline.engine.sparse.capture import _absent
from op_harness import HAS_CUDA, running_on

import fieldline as fl

BACKENDS = ["cpu", "emulated", *(["cuda"] if HAS_CUDA else [])]


def network() -> torch.nn.Module:
    """Down and up again, with pooling, a residual and a 1 x 1 convolution."""
    torch.manual_seed(0)
    block = nn.Sequential(nn.SubmConv3d(8, 8, 3), nn.BatchNorm(8))
    model = nn.Sequential(
        nn.SubmConv3d(3, 8, 3),
        nn.ReLU(),
        nn.Conv3d(8, 8, 2, 2),
        nn.Residual(block, activation=nn.ReLU()),
        nn.Conv3d(8, 12, 3, 2, padding=1),
        nn.InverseConv3d(12, 8, 3, 2, padding=1),
        nn.InverseConv3d(8, 8, 2, 2),
        nn.SubmConv3d(8, 5, 1),
    )
    return model.eval()


def scene(
    seed: int, count: int, device: torch.device, spatial_range: bool = False
) -> fl.SparseTensor:
    generator = torch.Generator().manual_seed(seed)
    coords = torch.randint(-9, 9, (count, 4), generator=generator, dtype=torch.int32)
    coords[:, 0] = torch.randint(0, 2, (count,), generator=generator)
    if spatial_range:
        coords[:, 1:] += 9
    coords = torch.unique(coords, dim=0)
    feats = torch.randn(len(coords), 3, generator=generator)
    size = (18, 18, 18) if spatial_range else None
    return fl.SparseTensor(coords.to(device), feats.to(device), 1, size, batch_size=2)


def same(ours: fl.SparseTensor, theirs: fl.SparseTensor) -> None:
    assert torch.equal(ours.coords, theirs.coords)
    assert (ours.stride, ours.batch_size) == (theirs.stride, theirs.batch_size)
    assert torch.allclose(ours.feats, theirs.feats, atol=1e-5)


@pytest.mark.parametrize("spatial_range", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
@torch.no_grad()
def test_frames_of_any_size(backend: str, spatial_range: bool) -> None:
    with running_on(backend) as device:
        model = network().to(device)
        captured = fl.sparse.capture(scene(0, 300, device, spatial_range), model)
        # Smaller ones, larger than the first, one voxel, none, and small ones after large ones.
        for seed, count in enumerate((300, 120, 420, 1, 0, 200)):
            same(
                captured(scene(seed, count, device, spatial_range)),
                model(scene(seed, count, device, spatial_range)),
            )


@pytest.mark.parametrize("backend", BACKENDS)
@torch.no_grad()
def test_coarser_output_and_changed_weights(backend: str) -> None:
    with running_on(backend) as device:
        model = network()[:4].to(device)
        captured = fl.sparse.capture(scene(0, 300, device), model)
        first = captured(scene(1, 200, device))
        assert first.stride == (2, 2, 2)
        kept = first.feats.clone()
        for parameter in model.parameters():
            parameter.mul_(1.5)
        same(captured(scene(2, 250, device)), model(scene(2, 250, device)))
        assert torch.equal(first.feats, kept), "outputs are their own"


@torch.no_grad()
def test_other_rows_stay_apart() -> None:
    with running_on("emulated") as device:
        captured = fl.sparse.capture(scene(0, 300, device), network())
        x = scene(1, 350, device)
        captured(x.replace(torch.full_like(x.feats, float("nan"))))
        assert captured(scene(2, 100, device)).feats.isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
@torch.no_grad()
def test_other_numbers_of_items(backend: str) -> None:
    with running_on(backend) as device:
        model = network().to(device)
        captured = fl.sparse.capture(scene(0, 200, device), model)
        for items in (5, 2, 1):
            x = scene(items, 100, device)
            coords = x.coords.clone()
            coords[:, 0] %= items
            x = fl.SparseTensor(coords, x.feats, batch_size=items, reduce="sum")
            same(captured(x), model(x))


@torch.no_grad()
def test_inputs_that_other_networks_have_seen() -> None:
    """What they asked its maps for, and what numbers their levels have, is not this network's."""
    other = nn.Sequential(nn.Conv3d(3, 3, 3, 2, padding=1), nn.SubmConv3d(3, 3, 3))
    with running_on("emulated") as device:
        x, model = scene(0, 200, device), network()
        with torch.enable_grad():
            coarse = other(x)
        captured = fl.sparse.capture(x, model)
        same(captured(scene(1, 150, device)), model(scene(1, 150, device)))
        captured = fl.sparse.capture(coarse, model)
        same(captured(other(scene(1, 150, device))), model(other(scene(1, 150, device))))


def test_made_in_inference_mode_and_used_outside() -> None:
    with running_on("emulated") as device:
        model = network()
        with torch.inference_mode():
            captured = fl.sparse.capture(scene(0, 200, device), model)
            captured(scene(0, 200, device))
        out = captured(scene(1, 150, device))
        nn.SubmConv3d(5, 2, 3)(out).feats.sum().backward()


@torch.no_grad()
def test_each_autocast_has_a_graph_of_its_own() -> None:
    with running_on("emulated") as device:
        model = network()
        captured = fl.sparse.capture(scene(0, 200, device), model)
        for enabled in (True, False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                out = captured(scene(1, 150, device))
                frame = captured._frame
                same(out, model(scene(1, 150, device)))
            assert out.dtype == (torch.bfloat16 if enabled else torch.float32)
            assert frame is not None and frame.casts.enabled == enabled
            frame.run(scene(1, 150, device), captured._way.reach(scene(1, 150, device).level))
            assert frame._out is not None and frame._out.dtype == out.dtype, "as it was captured"


@torch.no_grad()
def test_copies_have_no_graph_yet() -> None:
    with running_on("emulated") as device:
        model = network()
        captured = fl.sparse.capture(scene(0, 200, device), model)
        captured(scene(0, 200, device))
        for other in (copy.deepcopy(captured), pickle.loads(pickle.dumps(captured))):
            assert other._frame is None
            same(other(scene(1, 150, device)), model(scene(1, 150, device)))


class _Pruned(torch.nn.Module):
    def forward(self, x: fl.SparseTensor) -> fl.SparseTensor:
        return x.prune(x.feats[:, 0] > 0)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (_Pruned(), "do not follow from the input"),
        (nn.GlobalAvgPool(), "an item of the batch"),
        (nn.Sequential(nn.ConvTranspose3d(3, 3, 2, 2)), "follow from the coordinates"),
        (nn.GroupNorm(1, 3), "an item of the batch"),
    ],
)
def test_refused_networks(model: torch.nn.Module, message: str) -> None:
    with running_on("emulated") as device, pytest.raises(ValueError, match=message):
        x = scene(0, 50, device)
        fl.sparse.capture(x, model)(x)


def test_refused_arguments() -> None:
    x = scene(0, 50, torch.device("cpu"))
    with pytest.raises(TypeError, match="capture: x: expected a SparseTensor"):
        fl.sparse.capture(x.feats, network())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="capture: model"):
        fl.sparse.capture(x, lambda x: x)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="headroom"):
        fl.sparse.capture(x, network(), headroom=0.5)
    captured = fl.sparse.capture(x, network())
    with pytest.raises(TypeError, match="float32, got float64"):
        captured(x.replace(x.feats.double()))
    with pytest.raises(ValueError, match="3 channels"):
        captured(x.replace(x.feats[:, :2]))
    with pytest.raises(TypeError, match="SparseTensor"):
        captured(x.feats)  # type: ignore[arg-type]
    with running_on("emulated") as device:
        captured = fl.sparse.capture(scene(0, 50, device), network())
        x.coords.add_(1)
        with pytest.raises(ValueError, match="edited in place"):
            captured(x)


def test_spare_rows_meet_nothing() -> None:
    absent = _absent(5, 3, torch.device("cpu"))
    assert (absent[:, 0] < 0).all() and absent.unique(dim=0).shape == (5, 4)
