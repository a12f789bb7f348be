# SPDX-License-Identifier: Apache-2.0
"""One cloud of measured points, and several sweeps brought into one frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..representations.points import PointCloud

IGNORED = -1
"""The label of points that belong to no class: what losses take as `ignore_index`."""


@dataclass(frozen=True, eq=False)
class LidarFrame:
    """Points with whatever was measured or marked at each of them.

    Args:
        points: float32 [n_points, 3], metres, in the frame of the file, less `origin`.
        channels: By name, float32 [n_points] each: "intensity", "ring", "time_lag", "red", ... in
            the units of the file, but colours in [0, 1].
        labels: int64 [n_points], the class, -1 for none; None if the file has no labels.
        instances: int64 [n_points], the number of the object within its class; or None.
        classes: The names of the classes.
        origin: What was taken off every point, so that float32 holds coordinates such as UTM's.

    Raises:
        TypeError: If something is no tensor.
        ValueError: If a shape or dtype is another.

    Example:
        >>> frame = LidarFrame(torch.zeros(5, 3), {"intensity": torch.ones(5)})
        >>> frame.features(("x", "intensity")).tolist()[0]
        [0.0, 1.0]
    """

    points: Tensor
    channels: dict[str, Tensor] = field(default_factory=dict)
    labels: Tensor | None = None
    instances: Tensor | None = None
    classes: tuple[str, ...] = ()
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        points = self.points
        n = points.shape[0] if isinstance(points, Tensor) and points.dim() else 0
        self._check("points", self.points, torch.float32, (n, 3))
        for name, values in self.channels.items():
            self._check(f"channels[{name!r}]", values, torch.float32, (n,))
        for name in ("labels", "instances"):
            if (values := getattr(self, name)) is not None:
                self._check(name, values, torch.int64, (n,))

    @staticmethod
    def _check(name: str, values: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
        if not isinstance(values, Tensor):
            got = type(values).__name__
            raise TypeError(f"LidarFrame: {name}: expected a tensor, got {got}")
        if values.dtype != dtype or tuple(values.shape) != shape:
            raise ValueError(
                f"LidarFrame: {name}: expected {dtype} {list(shape)}, "
                f"got {values.dtype} {list(values.shape)}"
            )

    def __len__(self) -> int:
        return self.points.shape[0]

    def features(self, names: Sequence[str] = ("x", "y", "z", "intensity")) -> Tensor:
        """Put coordinates and channels side by side, as a network takes them.

        Args:
            names: "x", "y", "z" and channels.

        Returns:
            float32 [n_points, len(names)].

        Raises:
            ValueError: If there is no such channel.
        """
        columns = dict(zip("xyz", self.points.unbind(1))) | self.channels
        if missing := [name for name in names if name not in columns]:
            raise ValueError(
                f"LidarFrame.features: names: expected of {sorted(columns)}, got {missing[0]!r}"
            )
        return torch.stack([columns[name] for name in names], dim=1)

    def select(self, which: Tensor) -> LidarFrame:
        """Keep some points.

        Args:
            which: bool [n_points], or int64 rows.

        Returns:
            The frame with those.

        Raises:
            TypeError: If it is neither.
            ValueError: If a mask has another length.
        """
        if not isinstance(which, Tensor) or which.dtype not in (torch.bool, torch.int64):
            got = getattr(which, "dtype", type(which).__name__)
            raise TypeError(f"LidarFrame.select: which: expected bool or int64, got {got}")
        if which.dim() != 1 or (which.dtype == torch.bool and len(which) != len(self)):
            raise ValueError(
                f"LidarFrame.select: which: expected a mask [{len(self)}] or rows [n], "
                f"got {which.dtype} {list(which.shape)}"
            )
        return self._each(lambda values: values[which])

    def finite(self) -> Tensor:
        """Say which points have a position.

        Returns:
            bool [n_points], False where a coordinate is NaN or infinite.
        """
        return torch.isfinite(self.points).all(dim=1)

    def to(self, device: torch.device | str) -> LidarFrame:
        """Move all tensors to a device.

        Args:
            device: Where to.

        Returns:
            The frame there.
        """
        return self._each(lambda values: values.to(device))

    def cloud(self, colors: Tensor | None = None) -> PointCloud:
        """Give the points as a `PointCloud`, which `fl.save` writes.

        Args:
            colors: uint8 [n_points, 3]; default the channels "red", "green", "blue" if there are.

        Returns:
            The cloud.
        """
        if colors is None and {"red", "green", "blue"} <= self.channels.keys():
            colors = (self.features(("red", "green", "blue")) * 255).round().clamp(0, 255).byte()
        return PointCloud(self.points, colors)

    def _each(self, change: Callable[[Tensor], Tensor]) -> LidarFrame:
        return replace(
            self,
            points=change(self.points),
            channels={name: change(values) for name, values in self.channels.items()},
            labels=None if self.labels is None else change(self.labels),
            instances=None if self.instances is None else change(self.instances),
        )


def merge_sweeps(
    frames: Sequence[LidarFrame],
    poses: Tensor,
    times: Sequence[float],
    *,
    min_distance: float = 0.0,
) -> LidarFrame:
    """Bring sweeps of a moving sensor into the frame of the first.

    Each point gets the channel "time_lag": how long before the first sweep its own was taken, as
    networks for nuScenes (10 sweeps) and Waymo (3 frames) take it. What only some sweeps have is
    left out.

    Args:
        frames: The sweep to be looked at, then those before it.
        poses: float64 [n_sweeps, 4, 4], each sensor to one common world frame.
        times: When each was taken, seconds.
        min_distance: Leave out points closer to their own sensor than this in x and y, metres: the
            vehicle itself. nuScenes uses 1.

    Returns:
        All points, sweep after sweep.

    Raises:
        TypeError: If a frame or the poses are something else.
        ValueError: If the numbers of frames, poses and times differ, there is none, or a pose
            cannot be inverted.

    Example:
        >>> frame = LidarFrame(torch.zeros(1, 3))
        >>> poses = torch.eye(4).repeat(2, 1, 1)
        >>> poses[0, 0, 3] = 2.0
        >>> both = merge_sweeps([frame, frame], poses, [0.1, 0.0])
        >>> both.points[:, 0].tolist()
        [0.0, -2.0]
    """
    for number, frame in enumerate(frames):
        if not isinstance(frame, LidarFrame):
            got = type(frame).__name__
            raise TypeError(f"merge_sweeps: frames[{number}]: expected a LidarFrame, got {got}")
    if not isinstance(poses, Tensor):
        raise TypeError(f"merge_sweeps: poses: expected a tensor, got {type(poses).__name__}")
    n = len(frames)
    if n == 0 or tuple(poses.shape) != (n, 4, 4) or len(times) != n:
        raise ValueError(
            "merge_sweeps: frames, poses, times: expected as many of each, at least one, "
            f"got {n}, {list(poses.shape)}, {len(times)}"
        )
    inverse, failed = torch.linalg.inv_ex(poses[0].double())
    if int(failed) or not bool(torch.isfinite(poses).all()):
        raise ValueError("merge_sweeps: poses: expected finite, invertible matrices, got others")
    moved = [
        _moved(frame, inverse @ pose.double(), times[0] - time, min_distance)
        for frame, pose, time in zip(frames, poses, times)
    ]
    return _joined(moved)


def _moved(frame: LidarFrame, pose: Tensor, lag: float, min_distance: float) -> LidarFrame:
    if min_distance > 0:
        frame = frame.select((frame.points[:, :2].abs() >= min_distance).any(dim=1))
    pose = pose.to(frame.points.device)
    points = (frame.points.double() @ pose[:3, :3].T + pose[:3, 3]).float()
    channels = frame.channels | {"time_lag": torch.full_like(points[:, 0], lag)}
    return replace(frame, points=points, channels=channels)


def _joined(frames: list[LidarFrame]) -> LidarFrame:
    first = frames[0]
    shared = [c for c in first.channels if all(c in frame.channels for frame in frames)]
    labels = [frame.labels for frame in frames if frame.labels is not None]
    instances = [frame.instances for frame in frames if frame.instances is not None]
    return replace(
        first,
        points=torch.cat([frame.points for frame in frames]),
        channels={c: torch.cat([frame.channels[c] for frame in frames]) for c in shared},
        labels=torch.cat(labels) if len(labels) == len(frames) else None,
        instances=torch.cat(instances) if len(instances) == len(frames) else None,
    )
