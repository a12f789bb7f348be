# SPDX-License-Identifier: Apache-2.0
"""What `load` was asked for: the part that every format's loader needs."""

from __future__ import annotations

from dataclasses import dataclass

from .cache import ByteCache

WHITE = (1.0, 1.0, 1.0)
"""What images with an alpha channel are blended over unless something else is asked for."""


@dataclass(frozen=True)
class Options:
    """What `load` was asked for; see there.

    Args:
        downscale: Divisor of the image sizes, >= 1.
        test_every: Every how many views one is held out; 0 for none.
        background: What is behind images with alpha; None: what the file says, else white.
        cache: Where the views keep what they loaded.
    """

    downscale: float
    test_every: int
    background: tuple[float, float, float] | None
    cache: ByteCache
