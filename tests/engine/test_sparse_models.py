# SPDX-License-Identifier: Apache-2.0
"""The networks: their sizes, that each runs on its input, learns, and keeps batch items apart."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import fieldline.engine.sparse.models as models
import pytest
import torch
from fieldline.datasets import LidarFrame
from fieldline.engine.sparse.models import CONFIGURATIONS, SPVCNN, MinkUNet, configuration, measure

import fieldline as fl

SUBMODULES = [module.name for module in pkgutil.iter_modules(models.__path__)]


@pytest.fixture(scope="module")
def frame() -> LidarFrame:
    return fl.datasets.synthetic.street(16, 128)


@pytest.mark.parametrize("name", SUBMODULES)
def test_examples(name: str) -> None:
    module = importlib.import_module(f"{models.__name__}.{name}")
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for test in doctest.DocTestFinder().find(module, extraglobs={"torch": torch, "fl": fl}):
        runner.run(test)
    assert runner.failures == 0


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        # As the papers and the projects that published them state.
        ("minkunet-1.0", 21.7),
        ("spvcnn-1.0", 21.8),
        ("spunet-scannet", 39.2),
    ],
)
def test_parameters(name: str, millions: float) -> None:
    count = sum(p.numel() for p in configuration(name).make().parameters())
    assert round(count / 1e6, 1) == millions


def test_encoder_of_centerpoint_has_21_convolutions() -> None:
    encoder = configuration("centerpoint-waymo-1f").make().encoder
    convolutions = [m for m in encoder.modules() if isinstance(m, fl.nn.SubmConv3d | fl.nn.Conv3d)]
    assert len(convolutions) == 21


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_runs(name: str, frame: LidarFrame) -> None:
    torch.manual_seed(0)
    chosen = configuration(name)
    model = chosen.make().eval()
    sample = chosen.prepare(frame)
    with torch.no_grad():
        out = model(*sample.arguments)
    if chosen.box is not None:
        x, y, _ = chosen.spatial_range
        assert out.shape == (1, 64, (x + 7) // 8, (y + 7) // 8)
    elif chosen.points:
        assert len(out) == len(sample.points)
    else:
        assert torch.equal(out.coords, sample.tensor.coords)
        out = out.feats
    assert bool(torch.isfinite(out).all()) and float(out.std()) > 0


def test_prepare(frame: LidarFrame) -> None:
    chosen = configuration("centerpoint-nuscenes-10f")
    sample = chosen.prepare(frame)
    low, high = (torch.tensor(corner) for corner in chosen.box)
    inside = ((frame.points >= low) & (frame.points < high)).all(1)
    assert torch.equal(sample.points, inside.nonzero()[:, 0])
    cells = ((frame.points[inside].double() - low) / torch.tensor(chosen.voxel_size)).floor()
    assert torch.equal(sample.tensor.coords[sample.inverse, 1:], cells.int())
    assert torch.equal(sample.tensor.feats[:, 4], torch.zeros(len(sample.tensor)))
    away = LidarFrame(frame.points + 1000, frame.channels)
    with pytest.raises(ValueError, match="finite points within"):
        chosen.prepare(away)
    with pytest.raises(ValueError, match=r"expected one of \('minkunet-0.5'.*got 'resnet'"):
        configuration("resnet")


@pytest.mark.parametrize("network", [MinkUNet, SPVCNN])
def test_batch_items_do_not_mix(network: type[torch.nn.Module], frame: LidarFrame) -> None:
    """Two frames together give what each gives alone."""
    torch.manual_seed(0)
    model = network(4, 5, 0.25).double().eval()
    other = fl.datasets.synthetic.street(16, 128, seed=1)
    clouds = [f.points.double() / 0.2 for f in (frame, other)]
    feats = [f.features().double() for f in (frame, other)]
    batch = torch.cat([torch.full((len(c),), i) for i, c in enumerate(clouds)])

    def run(points: torch.Tensor, feats: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
        x, inverse = fl.SparseTensor.from_points(points, feats, 1.0, batch)
        if network is SPVCNN:
            return model(x, points, batch)
        return model(x).devoxelize(inverse=inverse)

    with torch.no_grad():
        together = run(torch.cat(clouds), torch.cat(feats), batch)
        alone = [run(c, f, torch.zeros(len(c), dtype=torch.int64)) for c, f in zip(clouds, feats)]
    torch.testing.assert_close(together, torch.cat(alone))


@pytest.mark.parametrize("network", [MinkUNet, SPVCNN])
def test_learns(network: type[torch.nn.Module], frame: LidarFrame) -> None:
    torch.manual_seed(0)
    model = network(4, len(frame.classes), 0.25)
    points = frame.points.double() / 0.4
    x, inverse = fl.SparseTensor.from_points(points, frame.features(), 1.0)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(8):
        out = model(x, points) if network is SPVCNN else model(x).devoxelize(inverse=inverse)
        loss = torch.nn.functional.cross_entropy(out, frame.labels)
        optimiser.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in model.parameters())
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_measure(frame: LidarFrame) -> None:
    chosen = configuration("minkunet-0.5")
    sample, model = chosen.prepare(frame), chosen.make().eval()
    with torch.no_grad():
        model(*measure.without_maps(sample))
        assert len(sample.tensor.maps.levels) == 1, "the sample's own cache stays empty"
        kinds = measure.seconds_by_kind(model, sample.arguments, 1)
    assert {"SubmConv3d 3x3x3", "Conv3d 2x2x2 /2", "InverseConv3d 2x2x2 /2"} < set(kinds)
    assert all(spent > 0 for spent in kinds.values())
    levels = measure.count_levels(sample.tensor.maps)
    coords = sample.tensor.coords.long()
    for level, stride in zip(levels, (1, 2, 4, 8, 16), strict=True):
        place = torch.cat((coords[:, :1], coords[:, 1:] // stride), 1).unique(dim=0)
        assert level.stride == (stride,) * 3 and level.voxels == len(place)
        near = torch.cdist(place.double(), place.double(), p=float("inf")) < 1.5
        assert level.pairs == pytest.approx(near.sum().item() / len(place))
