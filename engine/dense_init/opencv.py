# SPDX-License-Identifier: Apache-2.0
"""OpenCV's matchers: keypoints (SIFT, AKAZE) along epipolar lines, or SGBM on rectified pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ...datasets import Scene, View
from ...datasets.coverage import depth_ranges
from ...representations import Camera
from .geometry import inside, lift, nearest
from .matcher import Correspondence

Method = Literal["sgbm", "sift", "akaze"]

_RATIO = 0.85
_SGBM_CONFIDENCE = 0.8
_BLOCK = 5
# SGBM searches multiples of 16 disparities.
_STEP = 16
_MAX_DISPARITIES = 512


class OpenCVMatcher:
    """Matches with OpenCV; needs the package opencv-python-headless (extra `match`).

    Args:
        method: "sgbm", dense, for pinhole cameras side by side; "sift" or "akaze", keypoints, for
            any cameras.
        epipolar_error: Keypoints further than this from their epipolar line are no match, pixels.
        max_keypoints: In each view, for SIFT.

    Raises:
        ValueError: If the method is another.
        ImportError: When matching, if OpenCV is not installed.

    Source:
        Hirschmueller 2008 (SGBM); Lowe 2004 (SIFT); Alcantarilla et al. 2013 (AKAZE).

    Example:
        >>> OpenCVMatcher("sift").sparse
        True
    """

    def __init__(
        self,
        method: Method = "sgbm",
        *,
        epipolar_error: float = 1.5,
        max_keypoints: int = 8192,
    ) -> None:
        if method not in get_args(Method):
            raise ValueError(
                f"OpenCVMatcher: method: expected one of {get_args(Method)}, got {method!r}"
            )
        self.method = method
        self.sparse = method != "sgbm"
        self.epipolar_error = epipolar_error
        self.max_keypoints = max_keypoints
        self._features: dict[View, tuple[Tensor, Any]] = {}
        self._ranges: dict[View, tuple[float, float]] = {}

    def prepare(
        self, scene: Scene, references: Sequence[View], neighbours: Sequence[Sequence[View]]
    ) -> None:
        """Detects keypoints, or finds the range of depths to search.

        Args:
            scene: Its cameras and points say how deep it is.
            references: The views.
            neighbours: Their neighbours.

        Raises:
            ImportError: If OpenCV is not installed.
        """
        _cv2()
        self._features.clear()
        views = scene.train
        ranges = depth_ranges([view.camera for view in views], scene.points)
        self._ranges = {view: (a, b) for view, (a, b) in zip(views, ranges.tolist())}

    def match(self, reference: View, neighbours: Sequence[View]) -> Correspondence:
        """Matches a view against each of its neighbours.

        Args:
            reference: The view.
            neighbours: At least one.

        Returns:
            Warps with confidence 0 where nothing was found.
        """
        pair = self._dense_pair if self.method == "sgbm" else self._sparse_pair
        found = [pair(reference, view) for view in neighbours]
        warps, confidences = zip(*found)
        return Correspondence(torch.stack(confidences), warp=torch.stack(warps))

    # -- keypoints ---------------------------------------------------------------------------------

    def _sparse_pair(self, reference: View, neighbour: View) -> tuple[Tensor, Tensor]:
        size = (reference.height, reference.width)
        warp, confidence = torch.zeros(*size, 2), torch.zeros(size)
        first, second = self._detected(reference), self._detected(neighbour)
        here, there, quality = self._mutual(first, second)
        if not len(here):
            return warp, confidence
        error = epipolar_distance(reference.camera, neighbour.camera, here, there)
        good = error <= self.epipolar_error
        here, there, quality = here[good], there[good], quality[good]
        row, column = here[:, 1].long(), here[:, 0].long()
        # The pixel's centre stands for the keypoint: the match moves by as much.
        center = torch.stack((column, row), dim=-1) + 0.5
        warp[row, column] = there + (center - here)
        confidence[row, column] = quality
        return warp, confidence

    def _detected(self, view: View) -> tuple[Tensor, Any]:
        """Keypoints [M, 2] in pixels and their descriptors."""
        if view not in self._features:
            cv2 = _cv2()
            if self.method == "sift":
                detector = cv2.SIFT_create(nfeatures=self.max_keypoints)
            else:
                detector = _akaze(cv2)
            points, descriptors = detector.detectAndCompute(_gray(view), None)
            # OpenCV's pixel centres are whole numbers.
            xy = torch.tensor([p.pt for p in points]).view(-1, 2) + 0.5
            limit = xy.new_tensor([view.width, view.height]) - 1e-3
            self._features[view] = (xy.clamp(min=0).minimum(limit), descriptors)
        return self._features[view]

    def _mutual(
        self, first: tuple[Tensor, Any], second: tuple[Tensor, Any]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Positions in both views [M, 2] and confidences [M] of unambiguous mutual matches."""
        none = torch.zeros(0, 2)
        if first[1] is None or second[1] is None or len(second[0]) < 2 or len(first[0]) < 2:
            return none, none, none[:, 0]
        cv2 = _cv2()
        norm = cv2.NORM_L2 if self.method == "sift" else cv2.NORM_HAMMING
        matcher = cv2.BFMatcher(norm)
        back = {m.queryIdx: m.trainIdx for m in matcher.match(second[1], first[1])}
        rows = []
        for pair in matcher.knnMatch(first[1], second[1], k=2):
            if len(pair) < 2 or back.get(pair[0].trainIdx) != pair[0].queryIdx:
                continue
            ratio = pair[0].distance / max(pair[1].distance, 1e-9)
            if ratio < _RATIO:
                rows.append((pair[0].queryIdx, pair[0].trainIdx, 1 - 0.5 * ratio))
        if not rows:
            return none, none, none[:, 0]
        query, train, quality = zip(*rows)
        return first[0][list(query)], second[0][list(train)], torch.tensor(quality)

    # -- rectified pairs ---------------------------------------------------------------------------

    def _dense_pair(self, reference: View, neighbour: View) -> tuple[Tensor, Tensor]:
        size = (reference.height, reference.width)
        warp, confidence = torch.zeros(*size, 2), torch.zeros(size)
        cameras = (reference.camera, neighbour.camera)
        rectified = rectify(*cameras)
        if rectified is None:
            return warp, confidence
        left, right = rectified
        near, far = self._ranges.get(reference) or depth_ranges(list(cameras)).tolist()[0]
        focal, shift = float(left.K[0, 0]), float(left.K[0, 2] - right.K[0, 2])
        baseline = float((left.center - right.center).norm())
        lowest = int(np.floor(focal * baseline / far + shift))
        highest = int(np.ceil(focal * baseline / near + shift))
        count = min(_MAX_DISPARITIES, -(-(highest - lowest + 1) // _STEP) * _STEP)
        disparity = _sgbm(_resampled(reference, left), _resampled(neighbour, right), lowest, count)
        depth = focal * baseline / (disparity - shift).clamp(min=1e-6)
        depth = depth.where((disparity >= lowest) & (disparity > shift), 0.0)
        # From the rectified image back to the reference's pixels, and on to the neighbour's.
        xy = reference.camera.pixel_centers().view(-1, 2)
        far_points = lift(reference.camera, xy, torch.full((len(xy),), far))
        position, z = left.project(far_points)
        read = nearest(depth, position)
        points = lift(left, position, read.where(read > 0, 1.0))
        target, z_there = neighbour.camera.project(points)
        good = inside(left, position, z) & (read > 0) & inside(neighbour.camera, target, z_there)
        warp = target.where(good[:, None], 0.0).view(*size, 2)
        return warp, (good * _SGBM_CONFIDENCE).view(size)


def epipolar_distance(first: Camera, second: Camera, here: Tensor, there: Tensor) -> Tensor:
    """Gives how far matches are from their epipolar lines, for any camera model.

    The ray through the pixel of the first view is projected into the second at two depths; the line
    through these is straight for a pinhole, and nearly so between them for others.

    Args:
        first: A single camera.
        second: Another.
        here: [M, 2] in the first, pixels.
        there: [M, 2] in the second.

    Returns:
        [M], pixels; infinite where there is no line.

    Example:
        >>> a = Camera.look_at((-1, 0, 0), (0, 0, 5), (0, -1, 0), focal=50, width=9, height=9)
        >>> b = Camera.look_at((1, 0, 0), (0, 0, 5), (0, -1, 0), focal=50, width=9, height=9)
        >>> center = torch.tensor([[4.5, 4.5]])
        >>> float(epipolar_distance(a, b, center, center + 1)) > 0.9
        True
    """
    origins, directions = first.to(torch.float64).rays(here.double())
    center = second.to(torch.float64).center
    baseline = (center - origins).norm(dim=-1)
    ends = []
    for distance in (2.0, 200.0):
        points = origins + directions * (distance * baseline)[:, None]
        position, depth = second.to(torch.float64).project(points)
        ends.append(position.where((depth > 0)[:, None], float("nan")))
    line = ends[1] - ends[0]
    away = there.double() - ends[0]
    cross = (line[:, 0] * away[:, 1] - line[:, 1] * away[:, 0]).abs()
    distance = cross / line.norm(dim=-1).clamp(min=1e-9)
    return distance.nan_to_num(float("inf")).float()


def rectify(first: Camera, second: Camera) -> tuple[Camera, Camera] | None:
    """Turns two pinhole cameras so that matches lie on one row.

    Args:
        first: It becomes the left one.
        second: The right one.

    Returns:
        Cameras in the same places with one orientation, focal length and height; None if they
        stand in one place, look along their baseline, or are no pinholes.

    Example:
        >>> a = Camera.look_at((-1, 0, 0), (0, 0, 5), (0, -1, 0), focal=50, width=9, height=9)
        >>> b = Camera.look_at((1, 0, 0), (0, 0, 5), (0, -1, 0), focal=50, width=9, height=9)
        >>> left, right = rectify(a, b)
        >>> point = torch.tensor([[0.3, 0.1, 4.0]])
        >>> bool((left.project(point)[0] - right.project(point)[0])[0, 1].abs() < 1e-4)
        True
    """
    if first.model != "pinhole" or second.model != "pinhole":
        return None
    across = (second.center - first.center).double()
    length = across.norm()
    forward = (first.world_to_camera[2, :3] + second.world_to_camera[2, :3]).double()
    forward = forward / forward.norm().clamp(min=1e-12)
    if float(length) < 1e-12 or float((across / length @ forward).abs()) > 0.7:
        return None
    x = across / length
    y = torch.linalg.cross(forward, x)
    y = y / y.norm()
    rotation = torch.stack((x, y, torch.linalg.cross(x, y)))
    focal = float((first.K[0, 0] + second.K[0, 0]) / 2)
    spans = [_span(camera, rotation, focal) for camera in (first, second)]
    if spans[0] is None or spans[1] is None:
        return None
    low = min(float(span[0, 1]) for span in spans if span is not None)
    high = max(float(span[1, 1]) for span in spans if span is not None)
    cameras = []
    for camera, span in zip((first, second), spans):
        assert span is not None
        limit = 2 * (camera.width + camera.height)
        width = max(_STEP, min(limit, int(span[1, 0] - span[0, 0]) + 1))
        height = max(_STEP, min(limit, int(high - low) + 1))
        pose = torch.eye(4, dtype=torch.float64)
        pose[:3, :3] = rotation
        pose[:3, 3] = -rotation @ camera.center.double()
        K = torch.tensor([[focal, 0, -float(span[0, 0])], [0, focal, -low], [0, 0, 1]])
        cameras.append(Camera(pose.float(), K.float(), width, height))
    return cameras[0], cameras[1]


def _span(camera: Camera, rotation: Tensor, focal: float) -> Tensor | None:
    """The box [2, 2] that an image fills after turning, pixels from the axis."""
    width, height = float(camera.width), float(camera.height)
    corners = torch.tensor([[0.0, 0.0], [width, 0.0], [0.0, height], [width, height]])
    _, directions = camera.rays(corners.to(camera.K))
    local = directions.double() @ rotation.T
    if float(local[:, 2].min()) < 0.2:
        return None
    xy = focal * local[:, :2] / local[:, 2:]
    return torch.stack((xy.amin(0), xy.amax(0)))


def _resampled(view: View, rectified: Camera) -> np.ndarray:
    """A view as its rectified camera sees it, gray uint8."""
    _, directions = rectified.rays()
    points = view.camera.center + directions.view(-1, 3)
    xy, depth = view.camera.project(points)
    # OpenCV's pixel centres are whole numbers.
    grid = (xy - 0.5).where((depth > 0)[:, None], -10.0)
    grid = grid.view(rectified.height, rectified.width, 2).numpy()
    cv2 = _cv2()
    return cv2.remap(_gray(view), grid[..., 0].copy(), grid[..., 1].copy(), cv2.INTER_LINEAR)


def _sgbm(left: np.ndarray, right: np.ndarray, lowest: int, count: int) -> Tensor:
    """Disparities [h, w] of the left image; below `lowest` where there is none."""
    cv2 = _cv2()
    # Both images as wide as the wider, so that the matcher accepts them.
    width = max(left.shape[1], right.shape[1])
    left, right = (
        cv2.copyMakeBorder(image, 0, 0, 0, width - image.shape[1], cv2.BORDER_CONSTANT)
        for image in (left, right)
    )
    matcher = cv2.StereoSGBM_create(
        minDisparity=lowest,
        numDisparities=count,
        blockSize=_BLOCK,
        P1=4 * _BLOCK**2,
        P2=24 * _BLOCK**2,
        disp12MaxDiff=1,
        uniquenessRatio=8,
        speckleWindowSize=60,
        speckleRange=2,
        mode=cv2.STEREO_SGBM_MODE_HH,
    )
    disparity = torch.from_numpy(matcher.compute(left, right).astype(np.float32) / 16)
    return disparity


def _akaze(cv2: Any) -> Any:
    """OpenCV 5 keeps AKAZE with its extra modules."""
    for module in (cv2, getattr(cv2, "xfeatures2d", None)):
        make = getattr(module, "AKAZE_create", None)
        if make is not None:
            return make()
    raise ImportError(
        f"OpenCVMatcher: this OpenCV ({cv2.__version__}) has no AKAZE: install "
        "opencv-contrib-python-headless, or use sift"
    )


def _gray(view: View) -> np.ndarray:
    return (view.rgb().mean(-1) * 255).round().to(torch.uint8).numpy()


def _cv2() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise ImportError(
            "OpenCVMatcher: the package opencv-python-headless is not installed: "
            "pip install fieldline[match]"
        ) from error
    return cv2
