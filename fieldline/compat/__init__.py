# SPDX-License-Identifier: Apache-2.0
"""Other projects' names over our operators: their users' code runs after changing its import."""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from types import ModuleType

# Each project's modules that stand on ours, and the one module of ours that they all show.
_MODULES = {
    "gsplat": ("gsplat", "gsplat.rendering", "gsplat.cuda", "gsplat.cuda._wrapper"),
}


def install(project: str) -> ModuleType:
    """Makes ``import PROJECT`` mean our module, in this process, for code that is not ours.

    Args:
        project: "gsplat". Its submodules ``rendering`` and ``cuda._wrapper`` resolve too; others
            do not, even if the real package is installed.

    Returns:
        Our module. Calling again changes nothing.

    Raises:
        ValueError: We have no such module.
        ImportError: The real package was imported before.

    Example:
        >>> gsplat = install("gsplat")
        >>> from gsplat.rendering import rasterization
        >>> rasterization is gsplat.rasterization
        True
    """
    if project not in _MODULES:
        raise ValueError(f"install: project: expected one of {tuple(_MODULES)}, got {project!r}")
    ours = importlib.import_module(f".{project}", __name__)
    for name in _MODULES[project]:
        there = sys.modules.get(name)
        if there is not None and getattr(there, "__fieldline__", None) is not ours:
            where = getattr(there, "__file__", "an unknown place")
            raise ImportError(f"install: {name} was imported before, from {where}; install first")
    for name in _MODULES[project]:
        if name not in sys.modules:
            sys.modules[name] = _stand_in(name, ours)
            parent, _, child = name.rpartition(".")
            if parent:
                setattr(sys.modules[parent], child, sys.modules[name])
    return ours


def _stand_in(name: str, ours: ModuleType) -> ModuleType:
    """A module of that name that shows what ours shows; a package without files of its own."""
    module = module_from_spec(ModuleSpec(name, None, is_package=True))
    module.__doc__ = ours.__doc__
    shown = {key: getattr(ours, key) for key in (*ours.__all__, "__version__")}
    module.__dict__.update(shown, __fieldline__=ours, __all__=list(ours.__all__))
    return module
