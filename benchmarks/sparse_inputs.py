# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks of sparse convolution run on: inputs, a layer, a network."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

import torch
from common import DATA
from fieldline.engine.sparse.models import Sample, configuration
from fieldline.engine.sparse.models.measure import without_maps
from sparse_peers import Spconv
from torch import Tensor

import fieldline as fl

CHANNELS = 64
MODEL = "minkunet-1.0"


@dataclass(frozen=True)
class Setting:
    """What every section is given.

    Args:
        frame: The points.
        peers: Libraries to measure beside ours.
        repeats: Runs of each measurement on a CPU.
    """

    frame: fl.datasets.LidarFrame
    peers: list[Spconv]
    repeats: int

    @cached_property
    def coords(self) -> Tensor:
        """int32 [N, 4] of the network's voxels, on the CPU."""
        return configuration(MODEL).prepare(self.frame).tensor.coords


def sweep() -> tuple[str, fl.datasets.LidarFrame]:
    path = DATA / "lidar" / "semantickitti_hdl64.bin"
    if path.is_file():
        return "semantickitti_hdl64.bin at 0.05 m", fl.datasets.load_point_cloud(path)
    return "a street made here, at 0.05 m", fl.datasets.synthetic.street()


def spheres(count: int = 100_000) -> Tensor:
    """Coordinates of voxels that random spheres pass through: int32 [count, 4]."""
    generator = torch.Generator().manual_seed(0)
    found = torch.empty(0, 3, dtype=torch.int64)
    axis = torch.arange(-50, 51)
    grid = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    distance = grid.double().norm(dim=1)
    while len(found) < count:
        radius = 20 + 28 * torch.rand((), generator=generator).item()
        center = torch.randint(60, 450, (3,), generator=generator)
        found = torch.cat((found, grid[(distance - radius).abs() < 0.5] + center)).unique(dim=0)
    # A slab of whole spheres' parts, so that neighbours stay together.
    coords = found[:count].int()
    return torch.cat((torch.zeros(count, 1, dtype=torch.int32), coords), dim=1)


class Layer:
    """SubmConv3d 3x3x3, 64 -> 64, without bias, on some coordinates."""

    def __init__(self, coords: Tensor, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        device = coords.device
        self.conv = fl.nn.SubmConv3d(CHANNELS, CHANNELS, 3, bias=False).to(device, dtype)
        feats = torch.randn(len(coords), CHANNELS).to(device, dtype)
        self.x = fl.SparseTensor(coords, feats)

    def cached(self) -> Tensor:
        return self.conv(self.x).feats

    def with_map(self) -> Tensor:
        return self.conv(fresh(self.x)).feats


class TheirLayer:
    """A peer's layer with the weight of ours, which has been called once."""

    def __init__(self, peer: Spconv, ours: Layer) -> None:
        self.peer = peer
        self.conv = peer.layer(ours.conv.weight.detach()).eval()
        self.x = peer.tensor(ours.x.coords - ours.x.coords.amin(0), ours.x.feats)
        # The map lives in the tensor that the first call returned.
        self.called = self.conv(self.x)

    def cached(self) -> Tensor:
        return self.conv(self.called).features

    def with_map(self) -> Tensor:
        return self.conv(self.peer.fresh(self.x)).features


class NewFrames:
    """Frames that differ in their last rows, so that a plan finds each of them new.

    Args:
        sample: The frame that they are cut from.
        count: How many there are before the first comes again; a plan remembers four.
    """

    def __init__(self, sample: Sample, count: int = 8) -> None:
        self.sample = sample
        n = len(sample.tensor)
        self.lengths = itertools.cycle(range(n - count, n))

    def next(self) -> fl.SparseTensor:
        return without_maps(self.sample, next(self.lengths))[0]


def fresh(x: fl.SparseTensor) -> fl.SparseTensor:
    """The same rows without any map."""
    return without_maps(Sample((x,), Tensor(), Tensor()))[0]


def difference(ours: Tensor, theirs: Tensor) -> float:
    """The greatest difference, by the greatest value."""
    theirs = theirs.float()
    return ((ours.float() - theirs).abs().max() / theirs.abs().max()).item()


def network(setting: Setting, device: str, dtype: torch.dtype) -> tuple[torch.nn.Module, Sample]:
    """The network with statistics that normalise, as if it had been trained."""
    torch.manual_seed(0)
    chosen = configuration(MODEL)
    model = chosen.make().to(device)
    with torch.no_grad():
        model.train()(*chosen.prepare(setting.frame, device).arguments)
    return model.eval().to(dtype), chosen.prepare(setting.frame, device, dtype)
