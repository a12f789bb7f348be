# SPDX-License-Identifier: Apache-2.0
"""The examples in the docstrings do what they show."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from pathlib import Path

import fieldline.datasets
import pytest
import torch
from fieldline.datasets import Scene, write_scene
from fieldline.representations import Camera

MODULES = [module.name for module in pkgutil.iter_modules(fieldline.datasets.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str, tmp_path: Path, tiny_scene: Scene) -> None:
    module = importlib.import_module(f"fieldline.datasets.{name}")
    known = {"torch": torch, "Camera": Camera, "tmp_path": tmp_path}
    known |= {"write_scene": write_scene, "scene": tiny_scene}
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for test in doctest.DocTestFinder().find(module, extraglobs=known):
        runner.run(test)
    assert runner.failures == 0
