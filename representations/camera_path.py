# SPDX-License-Identifier: Apache-2.0
"""Camera paths: circles and spirals around a box, and smooth motion through keyframes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .cameras import Camera, as_tensor
from .poses import homogeneous
from .rotations import matrix_to_quaternion, quaternion_to_matrix, slerp


@dataclass(frozen=True, eq=False)
class CameraPath:
    """The frames of a fly-through.

    Args:
        cameras: [n_frames] cameras of one image size.
        fps: Frames a second.
        times: [n_frames] scene time of each frame for a dynamic scene, or None.
        closed: Whether the first frame follows the last.

    Raises:
        ValueError: If there is no frame, or shapes or values do not fit.

    Example:
        >>> path = CameraPath.circle(((-1, -1, -1), (1, 1, 1)), 24, width=64, height=48)
        >>> len(path), path.seconds
        (24, 1.0)
    """

    cameras: Camera
    fps: float = 24.0
    times: Tensor | None = None
    closed: bool = False

    def __post_init__(self) -> None:
        shape = self.cameras.shape
        if len(shape) != 1 or shape[0] < 1:
            raise ValueError(f"CameraPath: cameras: expected [n_frames >= 1], got {list(shape)}")
        if not (math.isfinite(self.fps) and self.fps > 0):
            raise ValueError(f"CameraPath: fps: expected a number > 0, got {self.fps}")
        if self.times is not None and self.times.shape != shape:
            raise ValueError(
                f"CameraPath: times: expected {list(shape)}, got {list(self.times.shape)}"
            )

    def __len__(self) -> int:
        return len(self.cameras)

    @property
    def seconds(self) -> float:
        """How long the path takes."""
        return len(self) / self.fps

    @classmethod
    def circle(
        cls,
        bounds: Any,
        n_frames: int,
        *,
        width: int,
        height: int,
        fov_y: float = 0.9,
        up: Any = (0.0, 0.0, 1.0),
        elevation: float = 0.35,
        distance: float | None = None,
        fps: float = 24.0,
    ) -> CameraPath:
        """Walk once around a box, looking at its centre.

        Args:
            bounds: [2, 3] lower and upper corner.
            n_frames: How many frames.
            width: Image width in pixels.
            height: Image height in pixels.
            fov_y: Vertical field of view in radians; default 0.9.
            up: The axis of the circle; default +z.
            elevation: Angle above the plane of the circle in radians; default 0.35.
            distance: From the centre; default so far that the box fits into the image.
            fps: Frames a second.

        Returns:
            A closed path.

        Raises:
            ValueError: If the box, the angles or the number of frames are out of range.

        Example:
            >>> box = ((-1, -1, -1), (1, 1, 1))
            >>> path = CameraPath.circle(box, 8, width=64, height=48, distance=5)
            >>> path.cameras.center.norm(dim=1)[0]
            tensor(5.)
        """
        angles = torch.arange(_checked_frames(n_frames)) * (2 * math.pi / n_frames)
        heights = torch.full((n_frames,), float(elevation))
        view = {"width": width, "height": height, "fov_y": fov_y}
        return cls(_orbit(bounds, angles, heights, up, distance, view), fps, closed=True)

    @classmethod
    def spiral(
        cls,
        bounds: Any,
        n_frames: int,
        *,
        width: int,
        height: int,
        fov_y: float = 0.9,
        up: Any = (0.0, 0.0, 1.0),
        turns: float = 2.0,
        elevations: tuple[float, float] = (-0.2, 1.0),
        distance: float | None = None,
        fps: float = 24.0,
    ) -> CameraPath:
        """Climb around a box from one elevation to another, looking at its centre.

        Args:
            bounds: [2, 3] lower and upper corner.
            n_frames: How many frames.
            width: Image width in pixels.
            height: Image height in pixels.
            fov_y: Vertical field of view in radians; default 0.9.
            up: The axis of the spiral; default +z.
            turns: How often it goes around; default 2.
            elevations: First and last angle above the horizon in radians; default -0.2 and 1.
            distance: From the centre; default so far that the box fits into the image.
            fps: Frames a second.

        Returns:
            An open path.

        Raises:
            ValueError: If the box, the angles or the number of frames are out of range.

        Example:
            >>> box = ((-1, -1, -1), (1, 1, 1))
            >>> path = CameraPath.spiral(box, 8, width=64, height=48)
            >>> bool((path.cameras.center[1:, 2] > path.cameras.center[:-1, 2]).all())
            True
        """
        angles = torch.linspace(0, 2 * math.pi * turns, _checked_frames(n_frames))
        heights = torch.linspace(*elevations, n_frames)
        view = {"width": width, "height": height, "fov_y": fov_y}
        return cls(_orbit(bounds, angles, heights, up, distance, view), fps)

    @classmethod
    def through(
        cls,
        keyframes: Camera,
        n_frames: int,
        *,
        times: Tensor | None = None,
        closed: bool = False,
        fps: float = 24.0,
    ) -> CameraPath:
        """Move smoothly through keyframes, evenly many frames between each two.

        Positions follow a cubic spline through the keyframes' positions (Catmull and Rom, 1974),
        rotations the shortest arcs between their quaternions (Shoemake, 1985); focal lengths change
        by equal factors, principal points and times by equal steps.

        Args:
            keyframes: [n_keyframes] cameras of one image size.
            n_frames: How many frames. An open path begins and ends on a keyframe.
            times: [n_keyframes] scene times, or None.
            closed: Whether to return from the last keyframe to the first.
            fps: Frames a second.

        Returns:
            The path.

        Raises:
            ValueError: If there is no keyframe or no frame, or times have another shape.

        Example:
            >>> eyes = torch.tensor([[0.0, -3, 0], [1, -3, 0]])
            >>> two = Camera.look_at(eyes, torch.zeros(3), focal=9, width=8, height=8)
            >>> CameraPath.through(two, 3).cameras.center[1, :2]
            tensor([ 0.5000, -3.0000])
        """
        if len(keyframes.shape) != 1 or len(keyframes) < 1:
            raise ValueError(
                f"CameraPath.through: keyframes: expected [n_keyframes >= 1], "
                f"got {list(keyframes.shape)}"
            )
        if times is not None and times.shape != keyframes.shape:
            raise ValueError(
                f"CameraPath.through: times: expected {list(keyframes.shape)}, "
                f"got {list(times.shape)}"
            )
        before, fraction = _knots(len(keyframes), _checked_frames(n_frames), closed)
        before, fraction = before.to(keyframes.device), fraction.to(keyframes.K)
        after = (before + 1) % len(keyframes)
        pose = keyframes.camera_to_world
        quats = matrix_to_quaternion(pose[:, :3, :3])
        rotation = quaternion_to_matrix(slerp(quats[before], quats[after], fraction))
        position = _catmull_rom(pose[:, :3, 3], before, fraction, closed)
        world_to_camera = rotation.transpose(-1, -2)
        translation = -(world_to_camera @ position.unsqueeze(-1)).squeeze(-1)
        K = _blend_intrinsics(keyframes.K, before, after, fraction)
        cameras = Camera(
            homogeneous(world_to_camera, translation),
            K,
            keyframes.width,
            keyframes.height,
            keyframes.model,
        )
        if times is not None:
            times = torch.lerp(times[before], times[after], fraction.to(times))
        return cls(cameras, fps, times, closed)


def mean_up(cameras: Camera) -> Tensor:
    """Give the direction that is up in most images, for the axis of a circle around a capture.

    Args:
        cameras: [n_cameras].

    Returns:
        [3], unit length.

    Example:
        >>> camera = Camera.look_at((0, -3, 0), (0, 0, 0), (0, 0, 1), focal=9, width=8, height=8)
        >>> mean_up(Camera.stack([camera, camera]))[2]
        tensor(1.)
    """
    up = -cameras.world_to_camera[..., 1, :3].reshape(-1, 3).sum(0)
    return up / up.norm().clamp(min=1e-12)


def focus_point(cameras: Camera) -> Tensor:
    """Give the point nearest to all optical axes, in the least-squares sense.

    Args:
        cameras: [n_cameras].

    Returns:
        [3]. Where the axes are all parallel, the point on them nearest to the mean position.

    Example:
        >>> path = CameraPath.circle(((0, 0, 0), (2, 2, 2)), 5, width=8, height=8)
        >>> torch.allclose(focus_point(path.cameras), torch.ones(3), atol=1e-4)
        True
    """
    center = cameras.center.reshape(-1, 3).double()
    axis = cameras.world_to_camera[..., 2, :3].reshape(-1, 3).double()
    identity = torch.eye(3, dtype=torch.float64, device=axis.device)
    across = identity - axis.unsqueeze(-1) * axis.unsqueeze(-2)
    mean = center.mean(0)
    target = (across @ (center - mean).unsqueeze(-1)).sum(0)
    return (mean + (torch.linalg.pinv(across.sum(0), rtol=1e-9) @ target).squeeze(-1)).to(cameras.K)


def _checked_frames(n_frames: int) -> int:
    if n_frames < 1:
        raise ValueError(f"CameraPath: n_frames: expected an int >= 1, got {n_frames}")
    return n_frames


def _orbit(
    bounds: Any,
    angles: Tensor,
    elevations: Tensor,
    up: Any,
    distance: float | None,
    view: dict[str, Any],
) -> Camera:
    """Place cameras around a box at the given angles [n_frames] about `up`."""
    box, up = as_tensor(bounds), as_tensor(up)
    if box.shape != (2, 3) or not bool(torch.isfinite(box).all() & (box[0] <= box[1]).all()):
        raise ValueError(
            f"CameraPath: bounds: expected lower and upper corner [2, 3], got {bounds}"
        )
    if up.shape != (3,) or not 0 < float(up.norm()) < math.inf:
        raise ValueError(f"CameraPath: up: expected a direction [3], got {up.tolist()}")
    up = up / up.norm()
    center, radius = box.mean(0), 0.5 * float((box[1] - box[0]).norm())
    if distance is None:
        narrow = math.atan(math.tan(0.5 * view["fov_y"]) * min(1.0, view["width"] / view["height"]))
        distance = max(radius, 1e-6) / math.sin(narrow)
    axis = torch.nn.functional.one_hot(up.abs().argmin(), 3).to(up)
    east = torch.linalg.cross(axis, up)
    east = east / east.norm()
    north = torch.linalg.cross(up, east)
    level = angles.cos()[:, None] * east + angles.sin()[:, None] * north
    direction = elevations.cos()[:, None] * level + elevations.sin()[:, None] * up
    return Camera.look_at(center + distance * direction, center, up, **view)


def _knots(n_keyframes: int, n_frames: int, closed: bool) -> tuple[Tensor, Tensor]:
    """Give each frame's keyframe before it, and how far it is on the way to the next, in [0, 1]."""
    steps = n_keyframes if closed else n_keyframes - 1
    position = torch.arange(n_frames, dtype=torch.float64)
    position = position * steps / max(n_frames if closed else n_frames - 1, 1)
    before = position.floor().clamp(max=max(steps - 1, 0)).long()
    return before, position - before


def _catmull_rom(points: Tensor, before: Tensor, fraction: Tensor, closed: bool) -> Tensor:
    """Interpolate points [n, 3] by cubics; the slope at each is that of its two neighbours."""
    n = points.shape[0]
    around = torch.stack((before - 1, before, before + 1, before + 2))
    if closed:
        p0, p1, p2, p3 = points[around % n]
    else:
        p0, p1, p2, p3 = points[around.clamp(0, n - 1)]
        # At an open end the line is continued straight.
        p0 = torch.where((before == 0)[:, None], 2 * p1 - p2, p0)
        p3 = torch.where((before >= n - 2)[:, None], 2 * p2 - p1, p3)
    t = fraction[:, None]
    slope1, slope2 = 0.5 * (p2 - p0), 0.5 * (p3 - p1)
    cubic = 2 * (p1 - p2) + slope1 + slope2
    square = 3 * (p2 - p1) - 2 * slope1 - slope2
    return p1 + t * (slope1 + t * (square + t * cubic))


def _blend_intrinsics(K: Tensor, before: Tensor, after: Tensor, fraction: Tensor) -> Tensor:
    blended = torch.lerp(K[before], K[after], fraction[:, None, None])
    for i in range(2):
        logs = K[:, i, i].log()
        blended[:, i, i] = torch.lerp(logs[before], logs[after], fraction).exp()
    return blended
