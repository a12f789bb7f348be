# SPDX-License-Identifier: Apache-2.0
"""The examples in the docstrings of the splatting operators, the renderer and its gsplat face."""

from __future__ import annotations

import doctest
import importlib
import sys

import pytest

MODULES = (
    "compat",
    "compat.gsplat",
    "compat.gsplat_harmonics",
    "compat.gsplat_projection",
    "cuda.splat.ops",
    "tracers.splat_gradients",
    "tracers.splatting",
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    before = set(sys.modules)
    try:
        result = doctest.testmod(importlib.import_module(f"fieldline.{name}"))
    finally:
        # One example makes "gsplat" mean ours: the next test shall not see that.
        for module in set(sys.modules) - before:
            if module.partition(".")[0] == "gsplat":
                del sys.modules[module]
    assert result.attempted > 0 and result.failed == 0
