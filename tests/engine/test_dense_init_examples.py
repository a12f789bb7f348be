# SPDX-License-Identifier: Apache-2.0
"""The examples in the docstrings of dense initialisation do what they show."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from pathlib import Path

import fieldline.engine.dense_init
import pytest
import torch
from fieldline.datasets import Scene
from fieldline.datasets.synthetic import still_life
from fieldline.representations import Camera, Gaussians3D

MODULES = [module.name for module in pkgutil.iter_modules(fieldline.engine.dense_init.__path__)]


@pytest.fixture(scope="module")
def small() -> Scene:
    return still_life(n_views=6, width=40, height=30, n_points=200)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str, tmp_path: Path, small: Scene) -> None:
    module = importlib.import_module(f"fieldline.engine.dense_init.{name}")
    known = {"torch": torch, "Camera": Camera, "Gaussians3D": Gaussians3D, "tmp_path": tmp_path}
    known |= {"scene": small, "still_life": still_life}
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for test in doctest.DocTestFinder().find(module, extraglobs=known):
        runner.run(test)
    assert runner.failures == 0
