# SPDX-License-Identifier: Apache-2.0
"""The scene that most tests of training share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fieldline.datasets import Scene
from op_harness import threads
from small_scene import make_scene


@pytest.fixture(scope="session")
def scene() -> Scene:
    return make_scene()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Steps of a millisecond gain nothing from a second thread, and lose much on a busy machine."""
    with threads(1):
        yield
