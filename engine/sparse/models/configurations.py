# SPDX-License-Identifier: Apache-2.0
"""Networks by name, each with the input that it is measured on.

The seven of the TorchSparse papers (Tang et al., MLSys 2022 and MICRO 2023) are the MinkUNets and
CenterPoints; SPVCNN, SECOND and SpUNet stand beside them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ....datasets import LidarFrame
from ..arguments import one_of
from ..tensor import SparseTensor
from .detection import CenterPoint, SparseResNet21D, VoxelBackBone8x
from .minkunet import MinkUNet
from .spunet import SpUNet
from .spvcnn import SPVCNN

_SCAN = ("x", "y", "z", "intensity")
_COLORED = ("red", "green", "blue", "nx", "ny", "nz")
Triple = tuple[float, float, float]
Box = tuple[Triple, Triple]
_KITTI_BOX: Box = ((0.0, -40.0, -3.0), (70.4, 40.0, 1.0))
_NUSCENES_BOX: Box = ((-54.0, -54.0, -5.0), (54.0, 54.0, 3.0))
_WAYMO_BOX: Box = ((-75.2, -75.2, -2.0), (75.2, 75.2, 4.0))
# What is left of 41 cells of height behind the encoders.
_ENCODED_HEIGHT = 2


class Sample(NamedTuple):
    """What a network is given, and how its voxels lead back to the points.

    Attributes:
        arguments: Of the network's forward.
        inverse: int64 [n_points], the row of each point's voxel.
        points: Rows of the frame's points that are inside the network's box.
    """

    arguments: tuple[SparseTensor | Tensor, ...]
    inverse: Tensor
    points: Tensor

    @property
    def tensor(self) -> SparseTensor:
        """The voxels."""
        first = self.arguments[0]
        assert isinstance(first, SparseTensor)
        return first


@dataclass(frozen=True)
class Configuration:
    """A network and how its input is made.

    Args:
        name: Its name.
        about: What it is, and for which data.
        make: Builds it, with random weights.
        voxel_size: Edges, metres.
        channels: What a point is described by; missing channels are zero.
        box: What the network looks at, metres; None: everything.
        points: Whether the network takes the points besides their voxels.
    """

    name: str
    about: str
    make: Callable[[], torch.nn.Module]
    voxel_size: Triple
    channels: tuple[str, ...] = _SCAN
    box: Box | None = None
    points: bool = False

    def prepare(
        self,
        frame: LidarFrame,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Sample:
        """Turn a frame into the network's input.

        Args:
            frame: The points.
            device: Where to.
            dtype: Of the features.

        Returns:
            Voxels with the mean of their points' channels.

        Raises:
            ValueError: If no point is finite and inside the box.
        """
        rows = self._inside(frame).nonzero()[:, 0]
        if not len(rows):
            where = "finite points" if self.box is None else f"finite points within {self.box}"
            raise ValueError(f"{self.name}: frame: expected {where}, got none of {len(frame)}")
        frame = frame.select(rows).to(device)
        zeros = torch.zeros_like(frame.points[:, 0])
        known = dict(zip("xyz", frame.points.unbind(1))) | frame.channels
        feats = torch.stack([known.get(name, zeros) for name in self.channels], dim=1)
        low = frame.points.amin(0) if self.box is None else frame.points.new_tensor(self.box[0])
        size = torch.tensor(self.voxel_size, dtype=torch.float64, device=device)
        points = (frame.points.double() - low.double()) / size
        tensor, inverse = SparseTensor.from_points(
            points, feats.nan_to_num(), 1.0, spatial_range=self.spatial_range, batch_size=1
        )
        tensor = tensor.to(dtype)
        arguments = (tensor, points) if self.points else (tensor,)
        return Sample(arguments, inverse, rows)

    @property
    def spatial_range(self) -> tuple[int, int, int] | None:
        """Cells of the box along each axis; one more in height, as the detectors have it."""
        if self.box is None:
            return None
        edges = zip(*self.box, self.voxel_size)
        x, y, z = (round((high - low) / size) for low, high, size in edges)
        return x, y, z + 1

    def _inside(self, frame: LidarFrame) -> Tensor:
        inside = frame.finite()
        if self.box is not None:
            low, high = (frame.points.new_tensor(corner) for corner in self.box)
            inside &= ((frame.points >= low) & (frame.points < high)).all(dim=1)
        return inside


def _center_point(in_channels: int) -> CenterPoint:
    encoder = SparseResNet21D(in_channels)
    return CenterPoint(encoder, encoder.out_channels, _ENCODED_HEIGHT)


def _minkunet(width: float, in_channels: int = 4, classes: int = 19) -> Callable[[], MinkUNet]:
    return lambda: MinkUNet(in_channels, classes, width)


_FINE, _WIDE = (0.05, 0.05, 0.05), (0.1, 0.1, 0.1)
_LAGGED = (*_SCAN, "time_lag")
_WAYMO = (*_SCAN, "elongation")

CONFIGURATIONS: dict[str, Configuration] = {
    configuration.name: configuration
    for configuration in (
        Configuration("minkunet-0.5", "SemanticKITTI, half width", _minkunet(0.5), _FINE),
        Configuration("minkunet-1.0", "SemanticKITTI", _minkunet(1.0), _FINE),
        Configuration("minkunet-nuscenes-1f", "nuScenes", _minkunet(1.0, 4, 16), _WIDE),
        Configuration(
            "minkunet-nuscenes-3f", "nuScenes, 3 sweeps", _minkunet(1.0, 5, 16), _WIDE, _LAGGED
        ),
        Configuration(
            "centerpoint-nuscenes-10f",
            "detection on nuScenes, 10 sweeps",
            lambda: _center_point(5),
            (0.075, 0.075, 0.2),
            _LAGGED,
            _NUSCENES_BOX,
        ),
        Configuration(
            "centerpoint-waymo-1f",
            "detection on Waymo",
            lambda: _center_point(5),
            (0.1, 0.1, 0.15),
            _WAYMO,
            _WAYMO_BOX,
        ),
        Configuration(
            "centerpoint-waymo-3f",
            "detection on Waymo, 3 sweeps",
            lambda: _center_point(6),
            (0.1, 0.1, 0.15),
            (*_WAYMO, "time_lag"),
            _WAYMO_BOX,
        ),
        Configuration(
            "spvcnn-0.5",
            "SemanticKITTI, half width, points and voxels",
            lambda: SPVCNN(width=0.5),
            _FINE,
            points=True,
        ),
        Configuration("spvcnn-1.0", "SemanticKITTI, points and voxels", SPVCNN, _FINE, points=True),
        Configuration(
            "second-kitti",
            "detection on KITTI",
            lambda: CenterPoint(VoxelBackBone8x(4), 128, _ENCODED_HEIGHT),
            (0.05, 0.05, 0.1),
            _SCAN,
            _KITTI_BOX,
        ),
        Configuration("spunet-scannet", "rooms, 2 cm", SpUNet, (0.02, 0.02, 0.02), _COLORED),
    )
}


def configuration(name: str) -> Configuration:
    """Find a network by its name.

    Args:
        name: One of `CONFIGURATIONS`.

    Returns:
        The network and its input.

    Raises:
        ValueError: If there is none of that name.

    Example:
        >>> configuration("minkunet-1.0").voxel_size
        (0.05, 0.05, 0.05)
    """
    return CONFIGURATIONS[one_of("configuration", "name", name, tuple(CONFIGURATIONS))]
