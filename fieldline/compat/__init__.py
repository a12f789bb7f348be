# SPDX-License-Identifier: Apache-2.0
"""Other projects' names over our operators: their users' code runs after changing its import."""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from types import ModuleType

# Each project's modules that stand on ours, and the module of ours that each shows.
_MODULES = {
    "gsplat": dict.fromkeys(
        ("gsplat", "gsplat.rendering", "gsplat.cuda", "gsplat.cuda._wrapper"), "gsplat"
    ),
    "nerfacc": {
        name: name
        for name in (
            "nerfacc",
            "nerfacc.cameras",
            "nerfacc.data_specs",
            "nerfacc.estimators",
            "nerfacc.estimators.base",
            "nerfacc.estimators.occ_grid",
            "nerfacc.estimators.prop_net",
            "nerfacc.grid",
            "nerfacc.losses",
            "nerfacc.pack",
            "nerfacc.pdf",
            "nerfacc.scan",
            "nerfacc.version",
            "nerfacc.volrend",
        )
    },
    "spconv": {
        name: name
        for name in (
            "spconv",
            "spconv.constants",
            "spconv.core",
            "spconv.pytorch",
            "spconv.pytorch.constants",
            "spconv.pytorch.conv",
            "spconv.pytorch.core",
            "spconv.pytorch.cppcore",
            "spconv.pytorch.functional",
            "spconv.pytorch.hash",
            "spconv.pytorch.identity",
            "spconv.pytorch.modules",
            "spconv.pytorch.ops",
            "spconv.pytorch.pool",
            "spconv.pytorch.spatial",
            "spconv.pytorch.tables",
            "spconv.pytorch.utils",
            "spconv.tools",
            "spconv.utils",
            "cumm",
            "cumm.tensorview",
            "cumm.tensorview.gemm",
        )
    },
    "torchsparse": {
        "torchsparse": "torchsparse",
        **{
            f"torchsparse.{name}": f"torchsparse.{name}"
            for name in (
                "backbones",
                "backend",
                "backends",
                "nn",
                "nn.functional",
                "nn.functional.activation",
                "nn.functional.conv",
                "nn.functional.hash",
                "nn.functional.pooling",
                "nn.functional.voxelize",
                "nn.modules",
                "nn.modules.bev",
                "nn.modules.conv",
                "nn.utils",
                "operators",
                "tensor",
                "utils",
                "utils.collate",
                "utils.quantize",
                "utils.tensor_cache",
                "utils.to_dense",
                "utils.tune",
                "utils.utils",
                "version",
            )
        },
        "torchsparse.backbones.modules": "torchsparse.backbones.blocks",
        "torchsparse.backbones.resnet": "torchsparse.backbones.networks",
        "torchsparse.backbones.unet": "torchsparse.backbones.networks",
        "torchsparse.nn.functional.conv.conv_config": "torchsparse.nn.functional.conv_config",
        "torchsparse.nn.functional.count": "torchsparse.nn.functional.voxelize",
        "torchsparse.nn.functional.crop": "torchsparse.nn.functional.pooling",
        "torchsparse.nn.functional.devoxelize": "torchsparse.nn.functional.voxelize",
        "torchsparse.nn.functional.query": "torchsparse.nn.functional.hash",
    },
    "torchsparse20": {
        "torchsparse": "torchsparse20",
        "torchsparse.backbones": "torchsparse20.backbones",
        "torchsparse.backbones.modules": "torchsparse20.backbones.blocks",
        "torchsparse.backend": "torchsparse.backend",
        "torchsparse.backends": "torchsparse.backends",
        "torchsparse.nn": "torchsparse20.nn",
        "torchsparse.nn.functional": "torchsparse20.nn.functional",
        "torchsparse.nn.functional.devoxelize": "torchsparse.nn.functional.voxelize",
        "torchsparse.nn.functional.hash": "torchsparse.nn.functional.hash",
        "torchsparse.nn.functional.query": "torchsparse.nn.functional.hash",
        "torchsparse.nn.functional.voxelize": "torchsparse.nn.functional.voxelize",
        "torchsparse.nn.utils": "torchsparse.nn.utils",
        "torchsparse.operators": "torchsparse.operators",
        "torchsparse.tensor": "torchsparse20.tensor",
        "torchsparse.utils": "torchsparse.utils",
        "torchsparse.utils.collate": "torchsparse.utils.collate",
        "torchsparse.utils.quantize": "torchsparse.utils.quantize",
        "torchsparse.utils.tune": "torchsparse.utils.tune",
        "torchsparse.version": "torchsparse20.version",
    },
}


def install(project: str) -> ModuleType:
    """Makes ``import PROJECT`` mean our module, in this process, for code that is not ours.

    Args:
        project: "gsplat", with its submodules ``rendering`` and ``cuda._wrapper``; "nerfacc",
            "spconv" (and ``cumm.tensorview`` with it), "torchsparse" (2.1, batch first) or
            "torchsparse20" (1.4 to 2.0, batch last; it is imported as ``torchsparse``), with the
            submodules that their users import. Others do not resolve, even if the real package is
            installed.

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
    shown = {
        name: importlib.import_module(f".{ours}", __name__)
        for name, ours in _MODULES[project].items()
    }
    for name, ours in shown.items():
        there = sys.modules.get(name)
        if there is not None and getattr(there, "__fieldline__", None) is not ours:
            where = getattr(there, "__file__", "an unknown place")
            raise ImportError(f"install: {name} was imported before, from {where}; install first")
    for name, ours in shown.items():
        if name not in sys.modules:
            sys.modules[name] = _stand_in(name, ours)
            parent, _, child = name.rpartition(".")
            if parent:
                setattr(sys.modules[parent], child, sys.modules[name])
    return next(iter(shown.values()))


def _stand_in(name: str, ours: ModuleType) -> ModuleType:
    """A module of that name that shows what ours shows; a package without files of its own."""
    module = module_from_spec(ModuleSpec(name, None, is_package=True))
    module.__doc__ = ours.__doc__
    names = getattr(ours, "__all__", [])
    shown = {key: getattr(ours, key) for key in (*names, "__version__") if hasattr(ours, key)}
    module.__dict__.update(shown, __fieldline__=ours, __all__=list(names))
    return module
