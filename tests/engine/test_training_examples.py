# SPDX-License-Identifier: Apache-2.0
"""The examples in the docstrings of training do what they show."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import fieldline.engine.training
import pytest
import torch
from fieldline.representations import Gaussians3D

MODULES = [module.name for module in pkgutil.iter_modules(fieldline.engine.training.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    module = importlib.import_module(f"fieldline.engine.training.{name}")
    known = {"torch": torch, "Gaussians3D": Gaussians3D}
    assert doctest.testmod(module, extraglobs=known).failed == 0
