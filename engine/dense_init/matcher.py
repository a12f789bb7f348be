# SPDX-License-Identifier: Apache-2.0
"""What a matcher is: it finds where the pixels of a reference view are in its neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ...datasets import Scene, View


@dataclass(frozen=True)
class Correspondence:
    """What a matcher found for one reference view.

    Args:
        confidence: float32 [H, W] with depth, [n_neighbours, H, W] with a warp; in [0, 1], 0 where
            nothing was found.
        depth: float32 [H, W] along the reference camera's z axis, world units, 0 where unknown.
        warp: float32 [n_neighbours, H, W, 2], the pixel (x, y) in each neighbour, centres at +0.5.
        normal: float32 [H, W, 3], unit, in the reference camera's axes; or None.
    """

    confidence: Tensor
    depth: Tensor | None = None
    warp: Tensor | None = None
    normal: Tensor | None = None


class Matcher(Protocol):
    """Finds correspondences; `prepare` is called once before any `match`."""

    def prepare(
        self, scene: Scene, references: Sequence[View], neighbours: Sequence[Sequence[View]]
    ) -> None:
        """Takes in what will be matched; may do work that views share."""
        ...

    def match(self, reference: View, neighbours: Sequence[View]) -> Correspondence:
        """Matches one reference view against its neighbours."""
        ...
