# SPDX-License-Identifier: Apache-2.0
"""Depth maps as a matcher: of RGB-D cameras, of a depth network, of any other program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ...datasets import Scene, View
from .matcher import Correspondence


class DepthMaps:
    """Takes each view's depth from what is given, or from the view itself.

    Depths are along the camera's z axis in the world's unit. Non-finite and non-positive ones are
    unknown. How far they agree with other views' is checked as for every matcher.

    Args:
        depths: View name to a floating [H, W] of the view's size; default each view's own `depth`.
        confidences: View name to a floating [H, W] in [0, 1]; default 1 wherever there is depth.

    Raises:
        ValueError: When matching: if a view has no depth, or a map not the view's size.

    Example:
        >>> matcher = DepthMaps()
        >>> matcher.match(scene.train[0], []).depth.shape
        torch.Size([30, 40])
    """

    needs_parallax = False

    def __init__(
        self,
        depths: Mapping[str, Tensor] | None = None,
        confidences: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.depths = depths
        self.confidences = confidences

    def prepare(
        self, scene: Scene, references: Sequence[View], neighbours: Sequence[Sequence[View]]
    ) -> None:
        """Raises ValueError if no view has a depth."""
        if not any(self._depth(view) is not None for view in references):
            raise ValueError(
                f"DepthMaps: depths: expected a depth map for some of {len(references)} views, "
                "got none"
            )

    def match(self, reference: View, neighbours: Sequence[View]) -> Correspondence:
        """Gives the reference's depth; the neighbours are not needed.

        Args:
            reference: The view.
            neighbours: Not used.

        Returns:
            Its depth and confidence; all unknown if it has none.
        """
        size = (reference.height, reference.width)
        depth = self._depth(reference)
        if depth is None:
            return Correspondence(torch.zeros(size), torch.zeros(size))
        depth = _checked("depths", reference, depth)
        known = depth.isfinite() & (depth > 0)
        confidence = known.to(torch.float32)
        if self.confidences is not None and reference.name in self.confidences:
            given = _checked("confidences", reference, self.confidences[reference.name])
            confidence = confidence * given.nan_to_num(0.0).clamp(0, 1)
        return Correspondence(confidence, depth.where(known, 0.0))

    def _depth(self, view: View) -> Tensor | None:
        return view.depth if self.depths is None else self.depths.get(view.name)


def _checked(what: str, view: View, values: Tensor) -> Tensor:
    size = (view.height, view.width)
    if tuple(values.shape) != size or not values.is_floating_point():
        raise ValueError(
            f"DepthMaps: {what}[{view.name!r}]: expected a floating tensor {list(size)}, "
            f"got {values.dtype} {list(values.shape)}"
        )
    return values.to(torch.float32)
