# SPDX-License-Identifier: Apache-2.0
"""Cameras: where they stand, how they see, and the conventions other projects write them in.

A `Camera` is one camera or a batch of them (any leading dimensions) that share an image size and a
model.

============  ==========================  ================================================
convention    camera axes                 pose
============  ==========================  ================================================
ours, OpenCV  x right, y down, z forward  world_to_camera [4, 4]
COLMAP        x right, y down, z forward  world to camera, wxyz quaternion and translation
OpenGL        x right, y up, z backward   camera_to_world [4, 4]
nerfstudio    x right, y up, z backward   camera_to_world [3, 4], fx fy cx cy apart
============  ==========================  ================================================

The world axes are never changed. Intrinsics are in pixels with pixel centres at +0.5 in all four.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from . import camera_models
from .camera_models import CAMERA_MODELS, CameraModel
from .poses import checked_pose, flip_y_z, homogeneous, invert_rigid
from .rotations import matrix_to_quaternion, quaternion_to_matrix

# The values of nerfstudio's CameraType for the models we share with it.
_NERFSTUDIO_TYPES: dict[str, int] = {"pinhole": 1, "fisheye": 2, "ortho": 8}


def as_tensor(value: Any, like: Tensor | None = None) -> Tensor:
    """Make a floating tensor; numbers, lists and arrays take the dtype and device of `like`."""
    if isinstance(value, Tensor):
        return value if value.is_floating_point() else value.to(torch.get_default_dtype())
    dtype = like.dtype if like is not None else torch.get_default_dtype()
    return torch.as_tensor(value, dtype=dtype, device=like.device if like is not None else None)


def intrinsics_matrix(fx: Any, fy: Any, cx: Any, cy: Any) -> Tensor:
    """Assemble K from focal lengths and principal point.

    Args:
        fx: Focal length along x, pixels; a number or [...].
        fy: Focal length along y, pixels; a number or [...].
        cx: Principal point x, pixels; a number or [...].
        cy: Principal point y, pixels; a number or [...].

    Returns:
        K [..., 3, 3].

    Example:
        >>> intrinsics_matrix(100.0, 100.0, 32.0, 24.0)[0].tolist()
        [100.0, 0.0, 32.0]
    """
    like = next((value for value in (fx, fy, cx, cy) if isinstance(value, Tensor)), None)
    fx, fy, cx, cy = torch.broadcast_tensors(
        *(as_tensor(value, like) for value in (fx, fy, cx, cy))
    )
    zero, one = torch.zeros_like(fx), torch.ones_like(fx)
    rows = ((fx, zero, cx), (zero, fy, cy), (zero, zero, one))
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


@dataclass(frozen=True, eq=False)
class Camera:
    """One camera, or a batch that shares image size and model, in the OpenCV convention.

    Args:
        world_to_camera: [..., 4, 4] rotation and translation, acting on column vectors.
        K: [..., 3, 3] intrinsics in pixels (pixels per world unit for "ortho"); no skew.
        width: Image width in pixels.
        height: Image height in pixels.
        model: "pinhole", "ortho" or "fisheye" (equidistant); see `camera_models`.

    Raises:
        ValueError: If shapes, dtypes, devices or the image size do not fit together.

    Example:
        >>> camera = Camera.look_at((0, -3, 0), (0, 0, 0), (0, 0, 1), focal=80, width=64, height=48)
        >>> camera.project(torch.zeros(1, 3))
        (tensor([[32., 24.]]), tensor([3.]))
    """

    world_to_camera: Tensor
    K: Tensor
    width: int
    height: int
    model: CameraModel = "pinhole"

    def __post_init__(self) -> None:
        for name, size in (("world_to_camera", 4), ("K", 3)):
            tensor = getattr(self, name)
            shape = list(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
            if not isinstance(tensor, Tensor) or tensor.dim() < 2 or shape[-2:] != [size, size]:
                raise ValueError(
                    f"Camera: {name}: expected a tensor [..., {size}, {size}], got {shape}"
                )
            if not tensor.is_floating_point():
                raise ValueError(f"Camera: {name}: expected a floating dtype, got {tensor.dtype}")
        pose, K = self.world_to_camera, self.K
        if pose.shape[:-2] != K.shape[:-2]:
            raise ValueError(
                f"Camera: K: expected the leading dimensions of world_to_camera, "
                f"{list(pose.shape[:-2])}, got {list(K.shape[:-2])}"
            )
        if (pose.dtype, pose.device) != (K.dtype, K.device):
            raise ValueError(
                f"Camera: K: expected the dtype and device of world_to_camera, "
                f"{pose.dtype} on {pose.device}, got {K.dtype} on {K.device}"
            )
        for name in ("width", "height"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"Camera: {name}: expected an int >= 1, got {value!r}")
        if self.model not in CAMERA_MODELS:
            raise ValueError(f"Camera: model: expected one of {CAMERA_MODELS}, got {self.model!r}")

    # -- batches -----------------------------------------------------------------------------------

    @property
    def shape(self) -> torch.Size:
        """The leading dimensions; empty for a single camera."""
        return self.world_to_camera.shape[:-2]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of both tensors."""
        return self.world_to_camera.dtype

    @property
    def device(self) -> torch.device:
        """The device of both tensors."""
        return self.world_to_camera.device

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("Camera: len: expected a batch of cameras, got a single camera")
        return self.shape[0]

    def __getitem__(self, index: Any) -> Camera:
        if not self.shape:
            raise IndexError("Camera: index: expected a batch of cameras, got a single camera")
        key = index if isinstance(index, tuple) else (index,)
        if any(part is Ellipsis for part in key) or len(key) > len(self.shape):
            raise IndexError(
                f"Camera: index: expected at most {len(self.shape)} indices without '...', "
                f"got {index!r}"
            )
        return replace(self, world_to_camera=self.world_to_camera[index], K=self.K[index])

    def __iter__(self) -> Iterator[Camera]:
        return (self[i] for i in range(len(self)))

    @staticmethod
    def stack(cameras: Sequence[Camera]) -> Camera:
        """Join cameras of one image size, model and shape along a new first dimension.

        Args:
            cameras: At least one camera.

        Returns:
            A camera whose leading dimensions are [len(cameras), ...].

        Raises:
            ValueError: If the list is empty or the cameras differ.

        Example:
            >>> camera = Camera(torch.eye(4), torch.eye(3), 8, 8)
            >>> len(Camera.stack([camera, camera]))
            2
        """
        cameras = list(cameras)
        if not cameras:
            raise ValueError("Camera.stack: cameras: expected at least one camera, got none")

        def describe(camera: Camera) -> str:
            return f"{camera.width} x {camera.height} {camera.model} {list(camera.shape)}"

        first = cameras[0]
        for i, camera in enumerate(cameras):
            if describe(camera) != describe(first):
                raise ValueError(
                    f"Camera.stack: cameras[{i}]: expected {describe(first)}, "
                    f"got {describe(camera)}"
                )
        poses = torch.stack([camera.world_to_camera for camera in cameras])
        return replace(
            first, world_to_camera=poses, K=torch.stack([camera.K for camera in cameras])
        )

    def to(self, target: torch.device | torch.dtype | str) -> Camera:
        """Move to a device, or convert to a floating dtype.

        Args:
            target: A device, a device's name, or a dtype.

        Returns:
            The camera there; the same tensors if nothing changes.

        Example:
            >>> Camera(torch.eye(4), torch.eye(3), 8, 8).to(torch.float64).dtype
            torch.float64
        """
        return replace(self, world_to_camera=self.world_to_camera.to(target), K=self.K.to(target))

    # -- geometry ----------------------------------------------------------------------------------

    @property
    def camera_to_world(self) -> Tensor:
        """The inverse pose [..., 4, 4], OpenCV axes."""
        return invert_rigid(self.world_to_camera)

    @property
    def center(self) -> Tensor:
        """The position of the camera in the world, [..., 3]."""
        pose = self.world_to_camera
        return -(pose[..., :3, :3].transpose(-1, -2) @ pose[..., :3, 3:]).squeeze(-1)

    @property
    def fov_y(self) -> Tensor:
        """The vertical field of view in radians, [...], principal point taken as centred.

        Raises:
            ValueError: For an orthographic camera, which has none.
        """
        half = 0.5 * self.height / self.K[..., 1, 1]
        if self.model == "ortho":
            raise ValueError("Camera.fov_y: expected a pinhole or fisheye camera, got ortho")
        return 2 * (torch.atan(half) if self.model == "pinhole" else half)

    def resized(self, width: int, height: int) -> Camera:
        """Give the same view on another pixel grid.

        Since pixel centres are at +0.5, image coordinates scale without an offset: fx and cx by
        width / self.width, fy and cy by height / self.height.

        Args:
            width: New width in pixels.
            height: New height in pixels.

        Returns:
            The camera with K scaled.

        Example:
            >>> K = intrinsics_matrix(10.0, 10.0, 4.0, 4.0)
            >>> Camera(torch.eye(4), K, 8, 8).resized(16, 4).K.diagonal()
            tensor([20.,  5.,  1.])
        """
        scale = self.K.new_tensor([[width / self.width], [height / self.height], [1.0]])
        return replace(self, K=self.K * scale, width=width, height=height)

    def pixel_centers(self) -> Tensor:
        """Give the image coordinates of all pixel centres.

        Returns:
            [height, width, 2], x first; the first is (0.5, 0.5).
        """
        options = {"dtype": self.dtype, "device": self.device}
        y = torch.arange(self.height, **options) + 0.5
        x = torch.arange(self.width, **options) + 0.5
        return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)

    def rays(self, xy: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Give the world ray through each pixel centre, or through given image positions.

        Args:
            xy: [..., M, 2] image positions in pixels, whose leading dimensions broadcast with the
                camera's; default all pixel centres.

        Returns:
            Origins and unit directions, [..., H, W, 3] each; [..., M, 3] if `xy` is given. The
            origins of a pinhole or fisheye camera are one point, expanded without a copy.

        Example:
            >>> origins, directions = Camera(torch.eye(4), torch.eye(3), 4, 2).rays()
            >>> directions.shape
            torch.Size([2, 4, 3])
        """
        positions = self.pixel_centers().reshape(-1, 2) if xy is None else xy
        origins, directions = camera_models.unproject(positions, self.K, self.model)
        rotation = self.world_to_camera[..., :3, :3]
        # Row vectors times R are column vectors times its inverse.
        directions = directions @ rotation
        center = self.center.unsqueeze(-2)
        origins = origins @ rotation + center if self.model == "ortho" else center
        origins = origins.expand_as(directions)
        if xy is not None:
            return origins, directions
        image = (self.height, self.width)
        return origins.unflatten(-2, image), directions.unflatten(-2, image)

    def project(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Project world points into the image.

        Args:
            points: [..., M, 3]; the leading dimensions broadcast with the camera's.

        Returns:
            Image positions [..., M, 2] in pixels and depths (camera z) [..., M]. Whether a position
            is inside the image or, for a pinhole, in front of the camera (depth > 0) is the
            caller's test.

        Example:
            >>> Camera(torch.eye(4), torch.eye(3), 4, 4).project(torch.tensor([[2.0, 4.0, 2.0]]))
            (tensor([[1., 2.]]), tensor([2.]))
        """
        if points.dim() < 2 or points.shape[-1] != 3:
            raise ValueError(
                f"Camera.project: points: expected [..., n_points, 3], got {list(points.shape)}"
            )
        pose = self.world_to_camera
        local = points @ pose[..., :3, :3].transpose(-1, -2) + pose[..., None, :3, 3]
        return camera_models.project(local, self.K, self.model)

    # -- construction and conventions --------------------------------------------------------------

    @classmethod
    def look_at(
        cls,
        eye: Any,
        target: Any,
        up: Any = (0.0, 0.0, 1.0),
        *,
        width: int,
        height: int,
        fov_y: float | Tensor | None = None,
        focal: float | Tensor | None = None,
        model: CameraModel = "pinhole",
    ) -> Camera:
        """Stand at `eye` with `target` in the centre of the image and `up` pointing up in it.

        Args:
            eye: [..., 3] position of the camera; tensor, array or sequence.
            target: [..., 3] what it looks at.
            up: [..., 3] direction that points up in the image; default +z. If it is parallel to the
                line of sight, another axis takes its place.
            width: Image width in pixels.
            height: Image height in pixels.
            fov_y: Vertical field of view in radians (pinhole and fisheye); or give `focal`.
            focal: Focal length in pixels (pixels per world unit for "ortho"); or give `fov_y`.
            model: "pinhole", "ortho" or "fisheye".

        Returns:
            A camera with the broadcast leading dimensions of `eye` and `target`.

        Raises:
            ValueError: If eye and target coincide, or not exactly one of `fov_y` and `focal` is
                given.

        Example:
            >>> camera = Camera.look_at((0, -2, 0), (0, 0, 0), fov_y=1.0, width=8, height=8)
            >>> camera.center[1]
            tensor(-2.)
        """
        like = next((value for value in (eye, target, up) if isinstance(value, Tensor)), None)
        eye, target, up = (as_tensor(value, like) for value in (eye, target, up))
        forward = target - eye
        distance = forward.norm(dim=-1, keepdim=True)
        if not bool(((distance > 0) & torch.isfinite(distance)).all()):
            raise ValueError("Camera.look_at: target: expected a finite point other than eye")
        forward = forward / distance
        rotation = _look_rotation(forward, up)
        translation = -(rotation @ eye.expand_as(forward).unsqueeze(-1)).squeeze(-1)
        focal = _focal_length(fov_y, focal, height, model)
        focal = as_tensor(focal, forward).to(forward).expand(forward.shape[:-1])
        K = intrinsics_matrix(focal, focal, 0.5 * width, 0.5 * height)
        return cls(homogeneous(rotation, translation), K, width, height, model)

    @classmethod
    def from_opengl(
        cls, camera_to_world: Any, K: Any, width: int, height: int, model: CameraModel = "pinhole"
    ) -> Camera:
        """Read an OpenGL (Blender, nerfstudio) pose: camera x right, y up, z backward.

        Args:
            camera_to_world: [..., 4, 4] or [..., 3, 4]; tensor, array or nested lists.
            K: [..., 3, 3] in pixels; broadcasts over the poses.
            width: Image width in pixels.
            height: Image height in pixels.
            model: "pinhole", "ortho" or "fisheye".

        Returns:
            The camera, world axes unchanged.

        Raises:
            ValueError: If a pose is not finite or its 3 x 3 part is not a rotation.

        Example:
            >>> camera = Camera.from_opengl(torch.eye(4), torch.eye(3), 8, 8)
            >>> camera.world_to_camera.diagonal()
            tensor([ 1., -1., -1.,  1.])
        """
        pose = checked_pose("Camera.from_opengl", "camera_to_world", as_tensor(camera_to_world))
        return cls._from_pose(invert_rigid(flip_y_z(pose)), K, width, height, model)

    def to_opengl(self) -> Tensor:
        """Give the pose as OpenGL writes it.

        Returns:
            camera_to_world [..., 4, 4], camera x right, y up, z backward.
        """
        return flip_y_z(self.camera_to_world)

    @classmethod
    def from_colmap(
        cls,
        qvec: Any,
        tvec: Any,
        K: Any,
        width: int,
        height: int,
        model: CameraModel = "pinhole",
    ) -> Camera:
        """Read a COLMAP image's pose: the rotation and translation from world to camera.

        Args:
            qvec: [..., 4] quaternion, wxyz, any non-zero length.
            tvec: [..., 3].
            K: [..., 3, 3] in pixels; broadcasts over the poses. COLMAP's pixel centres are at +0.5
                too.
            width: Image width in pixels.
            height: Image height in pixels.
            model: "pinhole", "ortho" or "fisheye" (COLMAP's OPENCV_FISHEYE without distortion).

        Returns:
            The camera.

        Raises:
            ValueError: If a quaternion is zero or a number is not finite.

        Example:
            >>> Camera.from_colmap((1, 0, 0, 0), (0, 0, 5), torch.eye(3), 8, 8).center[2]
            tensor(-5.)
        """
        like = next((value for value in (qvec, tvec) if isinstance(value, Tensor)), None)
        qvec, tvec = as_tensor(qvec, like), as_tensor(tvec, like)
        if not bool((qvec.norm(dim=-1) > 0).all()):
            raise ValueError(
                "Camera.from_colmap: qvec: expected non-zero quaternions, got a zero or NaN"
            )
        rotation = quaternion_to_matrix(qvec.to(torch.float64)).to(tvec.dtype)
        pose = checked_pose("Camera.from_colmap", "qvec, tvec", homogeneous(rotation, tvec))
        return cls._from_pose(pose, K, width, height, model)

    def to_colmap(self) -> tuple[Tensor, Tensor]:
        """Give the pose as COLMAP writes it.

        Returns:
            qvec [..., 4] (wxyz, unit, w >= 0) and tvec [..., 3], world to camera.
        """
        pose = self.world_to_camera
        return matrix_to_quaternion(pose[..., :3, :3]), pose[..., :3, 3]

    @classmethod
    def from_nerfstudio(
        cls,
        camera_to_worlds: Any,
        fx: Any,
        fy: Any,
        cx: Any,
        cy: Any,
        width: int,
        height: int,
        camera_type: int = 1,
    ) -> Camera:
        """Read the fields of nerfstudio's `Cameras` (also those of a transforms.json frame).

        Args:
            camera_to_worlds: [..., 3, 4] or [..., 4, 4], OpenGL camera axes.
            fx: Focal length along x in pixels; a number, [...] or [..., 1].
            fy: Focal length along y in pixels.
            cx: Principal point x in pixels.
            cy: Principal point y in pixels.
            width: Image width in pixels.
            height: Image height in pixels.
            camera_type: nerfstudio's `CameraType` value: 1 perspective, 2 fisheye, 8 orthophoto.

        Returns:
            The camera.

        Raises:
            ValueError: If the camera type is another, or a pose is not a rotation and translation.

        Example:
            >>> Camera.from_nerfstudio(torch.eye(4), 10, 10, 4, 4, 8, 8).model
            'pinhole'
        """
        models: dict[int, CameraModel] = {1: "pinhole", 2: "fisheye", 8: "ortho"}
        if camera_type not in models:
            raise ValueError(
                f"Camera.from_nerfstudio: camera_type: expected one of {sorted(models)}, "
                f"got {camera_type}"
            )
        pose = as_tensor(camera_to_worlds)
        batch = pose.shape[:-2]
        values = [as_tensor(value, pose) for value in (fx, fy, cx, cy)]
        values = [v.squeeze(-1) if v.dim() == len(batch) + 1 else v for v in values]
        return cls.from_opengl(pose, intrinsics_matrix(*values), width, height, models[camera_type])

    def to_nerfstudio(self) -> dict[str, Any]:
        """Give the keyword arguments of nerfstudio's `Cameras`.

        Returns:
            camera_to_worlds [..., 3, 4] (OpenGL axes), fx, fy, cx, cy [..., 1], width, height and
            camera_type.

        Example:
            >>> Camera(torch.eye(4), torch.eye(3), 8, 8).to_nerfstudio()["camera_type"]
            1
        """
        return {
            "camera_to_worlds": self.to_opengl()[..., :3, :],
            "fx": self.K[..., 0, 0:1],
            "fy": self.K[..., 1, 1:2],
            "cx": self.K[..., 0, 2:3],
            "cy": self.K[..., 1, 2:3],
            "width": self.width,
            "height": self.height,
            "camera_type": _NERFSTUDIO_TYPES[self.model],
        }

    @classmethod
    def _from_pose(
        cls, pose: Tensor, K: Any, width: int, height: int, model: CameraModel
    ) -> Camera:
        K = as_tensor(K, pose).to(pose)
        if K.dim() < 2 or tuple(K.shape[-2:]) != (3, 3):
            raise ValueError(f"Camera: K: expected [..., 3, 3], got {list(K.shape)}")
        batch = torch.broadcast_shapes(pose.shape[:-2], K.shape[:-2])
        pose, K = pose.expand(*batch, 4, 4), K.expand(*batch, 3, 3)
        return cls(pose, K, int(width), int(height), model)


def _look_rotation(forward: Tensor, up: Tensor) -> Tensor:
    """Give world-to-camera rotations [..., 3, 3] whose z axis is `forward` and whose -y leans to
    `up`."""
    up = up.expand_as(forward)
    right = torch.linalg.cross(forward, up)
    # Any axis but the one nearest to the line of sight serves when `up` lies along it.
    spare = torch.nn.functional.one_hot(forward.abs().argmin(dim=-1), 3).to(forward)
    length = up.norm(dim=-1, keepdim=True).clamp(min=1e-30)
    parallel = right.norm(dim=-1, keepdim=True) < 1e-6 * length
    right = torch.where(parallel, torch.linalg.cross(forward, spare), right)
    right = right / right.norm(dim=-1, keepdim=True)
    return torch.stack((right, torch.linalg.cross(forward, right), forward), dim=-2)


def _focal_length(
    fov_y: float | Tensor | None, focal: float | Tensor | None, height: int, model: CameraModel
) -> float | Tensor:
    """Turn whichever of the two was given into a focal length in pixels."""
    if (fov_y is None) == (focal is None):
        raise ValueError("Camera.look_at: fov_y, focal: expected exactly one of the two")
    if focal is not None:
        return focal
    limit = math.pi if model == "pinhole" else 2 * math.pi
    angle = torch.as_tensor(fov_y, dtype=torch.float64)
    if model == "ortho" or not bool(((angle > 0) & (angle < limit)).all()):
        raise ValueError(
            f"Camera.look_at: fov_y: expected radians in (0, {limit:.4g}) for a pinhole or fisheye "
            f"camera, got {fov_y} for {model}"
        )
    half = 0.5 * angle
    return 0.5 * height / (half.tan() if model == "pinhole" else half)
