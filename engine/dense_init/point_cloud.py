# SPDX-License-Identifier: Apache-2.0
"""A cloud of points as a matcher: SfM's, a laser scanner's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...datasets import Scene, View
from ...representations import PointCloud, nearest_neighbour_distances
from .geometry import inside, pixel_size
from .matcher import Correspondence

# A point is hidden if another lies before it by more than this, relative to its depth, within the
# distance that points have from each other.
_HIDDEN = 0.03


class PointCloudMatcher:
    """Draws points into each view, nearest first, so that each gives depth to the pixel it hits.

    A cloud has gaps that a far surface shows through. So each point also hides what lies behind it
    within half the distance to its neighbours.

    Args:
        cloud: The points; default the scene's.

    Raises:
        ValueError: In `prepare`, if there are no points.

    Example:
        >>> matcher = PointCloudMatcher()
        >>> matcher.prepare(scene, scene.train, [])
        >>> int((matcher.match(scene.train[0], []).depth > 0).sum()) > 20
        True
    """

    needs_parallax = False
    sparse = True

    def __init__(self, cloud: PointCloud | None = None) -> None:
        self.cloud = cloud
        self._points = torch.zeros(0, 3)
        self._reach = torch.zeros(0)

    def prepare(
        self, scene: Scene, references: Sequence[View], neighbours: Sequence[Sequence[View]]
    ) -> None:
        """Takes in the points and how far apart they are.

        Args:
            scene: Its points are taken if no cloud was given.
            references: Not used.
            neighbours: Not used.

        Raises:
            ValueError: If there are no finite points.
        """
        points = scene.points if self.cloud is None else self.cloud.points
        if points is None or not bool(points.isfinite().all(-1).any()):
            raise ValueError("PointCloudMatcher: cloud: expected at least one finite point")
        self._points = points[points.isfinite().all(-1)].to(torch.float32).cpu()
        spacing = nearest_neighbour_distances(self._points, k=3)
        spacing = spacing.where(spacing.isfinite(), 0.0).mean(-1)
        # Isolated points hide no more than the typical one.
        self._reach = 0.5 * torch.minimum(spacing, 2 * spacing.median())

    def match(self, reference: View, neighbours: Sequence[View]) -> Correspondence:
        """Draws the points into a view.

        Args:
            reference: The view.
            neighbours: Not used.

        Returns:
            Depth and confidence 1 at the pixels that visible points hit, 0 elsewhere.
        """
        camera = reference.camera
        xy, z = camera.project(self._points)
        seen = inside(camera, xy, z).nonzero().squeeze(1)
        xy, z, reach = xy[seen], z[seen], self._reach[seen]
        size = (camera.height, camera.width)
        front = _curtain(xy, z, reach / pixel_size(camera, z), size)
        pixel = xy[:, 1].long() * camera.width + xy[:, 0].long()
        shown = z <= front.flatten()[pixel] * (1 + _HIDDEN)
        depth = torch.full((size[0] * size[1],), float("inf"))
        depth.scatter_reduce_(0, pixel[shown], z[shown], "amin")
        depth = depth.where(depth.isfinite(), 0.0).view(size)
        return Correspondence((depth > 0).to(torch.float32), depth)


def _curtain(xy: Tensor, z: Tensor, radius: Tensor, size: tuple[int, int]) -> Tensor:
    """The depth [H, W] of the nearest point's square at each pixel; infinite where there is none.

    Squares are drawn by their power-of-two size: one pooling for each, however many points.
    """
    height, width = size
    front = torch.full(size, float("inf"))
    level = radius.clamp(1, 32).log2().floor().long()
    for value in level.unique().tolist():
        mine = level == value
        pixel = xy[mine, 1].long() * width + xy[mine, 0].long()
        layer = torch.full((height * width,), float("inf"))
        layer.scatter_reduce_(0, pixel, z[mine], "amin")
        reach = 1 << value
        grown = -torch.nn.functional.max_pool2d(
            -layer.view(1, 1, height, width), 2 * reach + 1, stride=1, padding=reach
        )
        front = torch.minimum(front, grown[0, 0])
    return front
