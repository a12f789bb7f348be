# SPDX-License-Identifier: Apache-2.0
"""The examples in the docstrings of representations do what they show."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from pathlib import Path

import fieldline.representations
import numpy as np
import pytest
import torch
from fieldline.representations.files import registry

MODULES = [
    module.name
    for module in pkgutil.walk_packages(
        fieldline.representations.__path__, "fieldline.representations."
    )
]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name: str, tmp_path: Path) -> None:
    readers, writers = list(registry._readers), list(registry._writers)
    try:
        results = doctest.testmod(
            importlib.import_module(name),
            extraglobs={"torch": torch, "np": np, "tmp_path": tmp_path},
        )
    finally:
        registry._readers[:], registry._writers[:] = readers, writers
    assert results.failed == 0


def test_modules_were_found() -> None:
    assert "fieldline.representations.files.ply" in MODULES and len(MODULES) > 15
