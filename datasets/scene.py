# SPDX-License-Identifier: Apache-2.0
"""A captured scene: views (a camera and what it saw), which of them train and which test, and
sparse points.

`View` loads its pixels when they are asked for and keeps them in a cache with a budget; `Scene`
holds the views and what follows from their geometry. Neither changes the world's frame:
`Scene.normalised` does so on request and says by which transform.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..representations.cameras import Camera
from .cache import ByteCache
from .coverage import camera_bounds, random_points

__all__ = ["Scene", "View", "random_points"]

_Source = Tensor | Callable[[], Tensor | None] | None
_Rgb = tuple[float, float, float]

# What views built without a cache of their own share.
_SHARED_CACHE = ByteCache(1 << 30)


class View:
    """One camera and what it saw.

    Args:
        name: What to call it; loaders take the image's path below the scene's folder.
        camera: A single camera, of the size of the image.
        image: uint8 [H, W, 3], or [H, W, 4] with straight alpha; or a function that loads it.
        mask: bool [H, W], True where a pixel counts; or a function that loads it (it may give
            None); default None, all pixels count.
        depth: float32 [H, W] along the camera's z axis in world units, 0 where unknown; or a
            function.
        time: When it was taken, in [0, 1] unless the data says seconds; default None, a static
            scene.
        cache: Where loaded tensors are kept; default one that all such views share, of 1 GiB.

    Raises:
        ValueError: If the camera is a batch, or (when loaded) a tensor does not fit it.

    Example:
        >>> camera = Camera(torch.eye(4), torch.eye(3), 8, 6)
        >>> View("a", camera, torch.zeros(6, 8, 3, dtype=torch.uint8)).image.shape
        torch.Size([6, 8, 3])
    """

    def __init__(
        self,
        name: str,
        camera: Camera,
        image: _Source,
        *,
        mask: _Source = None,
        depth: _Source = None,
        time: float | None = None,
        cache: ByteCache | None = None,
    ) -> None:
        if camera.shape:
            raise ValueError(
                f"View: camera: expected a single camera, got a batch {list(camera.shape)}"
            )
        if time is not None and not math.isfinite(time):
            raise ValueError(f"View: time: expected a finite number, got {time}")
        self.name = name
        self.camera = camera
        self.time = time
        self._sources: dict[str, _Source] = {"image": image, "mask": mask, "depth": depth}
        self._cache = _SHARED_CACHE if cache is None else cache

    @property
    def width(self) -> int:
        """Image width in pixels."""
        return self.camera.width

    @property
    def height(self) -> int:
        """Image height in pixels."""
        return self.camera.height

    @property
    def image(self) -> Tensor:
        """The pixels, uint8 [H, W, 3] or [H, W, 4] with straight alpha (shared: do not write to
        it).

        Raises:
            FileFormatError: If the file does not decode.
        """
        image = self._load("image", torch.uint8)
        if image is None or image.dim() != 3 or image.shape[-1] not in (3, 4):
            got = None if image is None else list(image.shape)
            raise ValueError(f"View {self.name}: image: expected [H, W, 3 or 4], got {got}")
        return image

    @property
    def mask(self) -> Tensor | None:
        """Which pixels count, bool [H, W]; None if all do. Those no lens saw do not."""
        return self._load("mask", torch.bool)

    @property
    def depth(self) -> Tensor | None:
        """Depth along the camera's z axis, float32 [H, W], 0 where unknown; or None."""
        return self._load("depth", torch.float32)

    def rgb(self, background: Sequence[float] | None = None) -> Tensor:
        """Give the colours as floats, an alpha channel blended over a background.

        Args:
            background: Three numbers in [0, 1]; default black. Without an alpha channel it has no
                effect.

        Returns:
            float32 [H, W, 3] in [0, 1].

        Example:
            >>> camera = Camera(torch.eye(4), torch.eye(3), 1, 1)
            >>> clear = View("clear", camera, torch.zeros(1, 1, 4, dtype=torch.uint8))
            >>> clear.rgb((1, 1, 1)).flatten().tolist()
            [1.0, 1.0, 1.0]
        """
        values = self.image.to(torch.float32) / 255
        if values.shape[-1] == 3:
            return values
        alpha = values[..., 3:]
        back = values.new_tensor((0.0, 0.0, 0.0) if background is None else tuple(background))
        return values[..., :3] * alpha + back * (1 - alpha)

    def _load(self, kind: str, dtype: torch.dtype) -> Tensor | None:
        source = self._sources[kind]
        value = self._cache.get((self, kind), source) if callable(source) else source
        if value is None:
            return None
        size = (self.height, self.width)
        if value.dtype != dtype or tuple(value.shape[:2]) != size:
            raise ValueError(
                f"View {self.name}: {kind}: expected {dtype} [{size[0]}, {size[1]}, ...], "
                f"got {value.dtype} {list(value.shape)}"
            )
        return value

    def __repr__(self) -> str:
        extras = [kind for kind in ("mask", "depth") if self._sources[kind] is not None]
        extras += [] if self.time is None else [f"time={self.time:g}"]
        return " ".join([f"View({self.name!r}, {self.width} x {self.height}", *extras]) + ")"


class Scene:
    """Views, their split into training and test, and sparse points.

    Args:
        views: At least one, in the order that counts for the split.
        train: The views to learn from; default all but `test`.
        test: The views held out; default every `test_every`-th view, from the first on. At least
            one view is always left to train.
        test_every: Hold out views 0, test_every, 2 test_every, ...; 0 holds out none.
        points: float32 [M, 3] sparse points, such as SfM gives; default none.
        point_colors: uint8 [M, 3]; default none.
        background: What is behind everything, three numbers in [0, 1]; default None, unknown.
        path: Where it was loaded from.

    Raises:
        ValueError: If there is no view, or shapes, dtypes or numbers are wrong.

    Example:
        >>> camera = Camera(torch.eye(4), torch.eye(3), 8, 8)
        >>> image = torch.zeros(8, 8, 3, dtype=torch.uint8)
        >>> Scene([View(str(i), camera, image) for i in range(16)])
        Scene(16 views 8 x 8, 14 train + 2 test, no points)
    """

    def __init__(
        self,
        views: Iterable[View],
        *,
        train: Iterable[View] | None = None,
        test: Iterable[View] | None = None,
        test_every: int = 8,
        points: Tensor | None = None,
        point_colors: Tensor | None = None,
        background: Sequence[float] | None = None,
        path: str | Path | None = None,
    ) -> None:
        self.views = list(views)
        if not self.views:
            raise ValueError("Scene: views: expected at least one view, got none")
        self.train, self.test = _split(self.views, train, test, check_test_every(test_every))
        self.points, self.point_colors = _checked_points(points, point_colors)
        self.background = check_background(background)
        self.path = None if path is None else Path(path)

    # -- what follows from the geometry ------------------------------------------------------------

    @functools.cached_property
    def centers(self) -> Tensor:
        """The positions of all cameras, float32 [n_views, 3]."""
        return torch.stack([view.camera.center for view in self.views]).to(torch.float32)

    @functools.cached_property
    def extent(self) -> float:
        """The radius of the camera path: 1.1 x the largest distance of a training camera from their
        mean.

        Learning rates of positions are multiples of it (3D Gaussian Splatting, Kerbl et al. 2023).
        If all cameras stand in one place, it is the median distance to the points, or 1 without
        points.
        """
        centers = torch.stack([view.camera.center for view in self.train]).to(torch.float64)
        radius = 1.1 * float((centers - centers.mean(dim=0)).norm(dim=-1).max())
        if radius > 1e-9 * max(1.0, float(centers.abs().max())):
            return radius
        if self.points is not None and len(self.points):
            distance = float((self.points - centers[0].to(self.points)).norm(dim=-1).median())
            return distance if distance > 0 else 1.0
        return 1.0

    @functools.cached_property
    def bounds(self) -> Tensor:
        """Where the scene is: float32 [2, 3], the lower and upper corner of a box.

        With points: the box around them, the outermost 0.5 % of each axis and side left out,
        because SfM points have outliers. Without: the box around the region that many cameras look
        at (`coverage.camera_bounds`).
        """
        if self.points is not None and len(self.points):
            ordered = self.points.sort(dim=0).values
            cut = int(0.005 * len(ordered))
            return torch.stack((ordered[cut], ordered[len(ordered) - 1 - cut]))
        return camera_bounds([view.camera for view in self.views])

    # -- other scenes from this one ----------------------------------------------------------------

    def subset(self, indices: Sequence[int] | slice) -> Scene:
        """Keep some of the views; each stays a training or a test view.

        Args:
            indices: Positions in `views`, or a slice.

        Returns:
            A scene with those views and the same points. If no training view is among them, all
            train.

        Raises:
            ValueError: If an index is out of range, or none is given.

        Example:
            >>> scene.subset(slice(0, 2))
            Scene(2 views 40 x 30, 1 train + 1 test, 100 points)
        """
        if isinstance(indices, slice):
            indices = range(len(self.views))[indices]
        count = len(self.views)
        for index in indices:
            if not -count <= index < count:
                raise ValueError(f"Scene.subset: indices: expected below {count}, got {index}")
        views = [self.views[index] for index in indices]
        kept, train, test = set(views), set(self.train), set(self.test)
        if not kept & train:
            train, test = kept, set()
        return Scene(
            views,
            train=[view for view in views if view in train],
            test=[view for view in views if view in test],
            points=self.points,
            point_colors=self.point_colors,
            background=self.background,
            path=self.path,
        )

    def normalised(self) -> tuple[Scene, Tensor]:
        """Move the mean of the training cameras to the origin and scale `extent` to 1.

        Returns:
            The scene in the new frame and the transform [4, 4] that takes old world coordinates to
            new ones. Depths are scaled with it.

        Example:
            >>> round(scene.normalised()[0].extent, 4)
            1.0
        """
        centers = torch.stack([view.camera.center for view in self.train]).to(torch.float64)
        scale = 1.0 / self.extent
        transform = torch.eye(4, dtype=torch.float64)
        transform[:3, :3] *= scale
        transform[:3, 3] = -scale * centers.mean(dim=0)
        moved = {view: _moved(view, transform, scale) for view in self.views}
        points = self.points
        if points is not None:
            points = (points.double() * scale + transform[:3, 3]).to(torch.float32)
        scene = Scene(
            moved.values(),
            train=[moved[view] for view in self.train],
            test=[moved[view] for view in self.test],
            points=points,
            point_colors=self.point_colors,
            background=self.background,
            path=self.path,
        )
        return scene, transform.to(torch.float32)

    def __len__(self) -> int:
        return len(self.views)

    def __repr__(self) -> str:
        sizes = {(view.width, view.height) for view in self.views}
        width, height = next(iter(sizes))
        size = f"{width} x {height}" if len(sizes) == 1 else f"of {len(sizes)} sizes"
        points = "no" if self.points is None else f"{len(self.points):,}"
        count = f"{len(self.views)} view{'s' if len(self.views) != 1 else ''}"
        split = f"{len(self.train)} train + {len(self.test)} test"
        return f"Scene({count} {size}, {split}, {points} points)"


def _moved(view: View, transform: Tensor, scale: float) -> View:
    """Put a view into the frame that `transform` (a similarity) leads to."""
    pose = view.camera.world_to_camera.double() @ torch.linalg.inv(transform)
    # World-to-camera of a scaled world: the camera's own axes take the new unit too, so scale rows
    # back.
    pose[:3] *= scale
    camera = replace(view.camera, world_to_camera=pose.to(view.camera.dtype))
    sources: dict[str, Any] = dict(view._sources)
    depth = sources["depth"]
    if callable(depth):
        sources["depth"] = lambda: None if view.depth is None else view.depth * scale
    elif depth is not None:
        sources["depth"] = depth * scale
    return View(view.name, camera, **sources, time=view.time, cache=view._cache)


def _split(
    views: list[View], train: Iterable[View] | None, test: Iterable[View] | None, test_every: int
) -> tuple[list[View], list[View]]:
    if test is None:
        chosen = None if train is None else set(train)
        rest = views if chosen is None else [view for view in views if view not in chosen]
        if chosen is None:
            rest = views[::test_every] if test_every and len(views) > 1 else []
        test = rest
    test = list(test)
    held_out = set(test)
    train = [view for view in views if view not in held_out] if train is None else list(train)
    if not train:
        raise ValueError(f"Scene: train: expected at least one of {len(views)} views, got none")
    strangers = (set(train) | held_out) - set(views)
    if strangers:
        raise ValueError(f"Scene: train, test: expected members of views, got {strangers.pop()}")
    return train, test


def check_test_every(test_every: int) -> int:
    """Return `test_every` if it leaves views to train: 0 (no test views) or at least 2."""
    if isinstance(test_every, bool) or not isinstance(test_every, int):
        raise TypeError(f"Scene: test_every: expected an int, got {type(test_every).__name__}")
    if test_every < 0 or test_every == 1:
        raise ValueError(f"Scene: test_every: expected 0 or at least 2, got {test_every}")
    return test_every


def check_background(background: Sequence[float] | None) -> _Rgb | None:
    """Return a background as three floats in [0, 1], or None."""
    if background is None:
        return None
    values = tuple(float(value) for value in background)
    if len(values) != 3 or not all(0 <= value <= 1 for value in values):
        raise ValueError(f"Scene: background: expected three numbers in [0, 1], got {background!r}")
    return values[0], values[1], values[2]


def _checked_points(
    points: Tensor | None, colors: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    if points is None:
        if colors is not None:
            raise ValueError("Scene: point_colors: expected None without points, got a tensor")
        return None, None
    if points.dim() != 2 or points.shape[1] != 3 or not points.is_floating_point():
        got = f"{points.dtype} {list(points.shape)}"
        raise ValueError(f"Scene: points: expected float32 [n_points, 3], got {got}")
    if not bool(torch.isfinite(points).all()):
        raise ValueError("Scene: points: expected finite numbers, got NaN or Inf")
    if colors is not None and (colors.dtype != torch.uint8 or colors.shape != points.shape):
        got = f"{colors.dtype} {list(colors.shape)}"
        raise ValueError(f"Scene: point_colors: expected uint8 {list(points.shape)}, got {got}")
    return points.to(torch.float32), colors
