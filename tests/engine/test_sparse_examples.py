# SPDX-License-Identifier: Apache-2.0
"""The examples in the docstrings of sparse convolution do what they show."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import fieldline.engine.sparse
import fieldline.engine.sparse.functional
import fieldline.engine.sparse.nn
import pytest
import torch
from fieldline.engine.sparse import SparseTensor

PACKAGES = (
    fieldline.engine.sparse,
    fieldline.engine.sparse.functional,
    fieldline.engine.sparse.nn,
)
MODULES = [
    module.name
    for package in PACKAGES
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
    if not module.ispkg
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    module = importlib.import_module(name)
    known = {"torch": torch, "SparseTensor": SparseTensor}
    assert doctest.testmod(module, extraglobs=known).failed == 0
