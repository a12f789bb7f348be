# SPDX-License-Identifier: Apache-2.0
"""fieldline: 3D vision and neural fields for PyTorch, on one C++/CUDA core.

    import fieldline as fl

    scene = fl.datasets.load("photos/", downscale=4)
    result = fl.fit(None, scene, steps=3000)
    image = fl.render(result.model, scene.test[0].camera).rgb
    fl.save(result.model, "scene.ply")

Names are loaded when they are first used: importing this module loads neither torch nor the core,
compiles nothing and touches no GPU.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .errors import FileFormatError

if TYPE_CHECKING:
    from . import compat, cuda, datasets, engine, representations, tracers
    from .cuda import cuda_include_dir
    from .engine import sparse
    from .engine.dense_init import DenseInitReport, PlaneSweep, dense_init
    from .engine.sparse import nn
    from .engine.sparse.tensor import SparseTensor
    from .engine.training import (
        FitConfig,
        FitFinished,
        FitProgress,
        FitResult,
        evaluate,
        fit,
        fit_events,
    )
    from .representations.camera_path import CameraPath
    from .representations.cameras import Camera
    from .representations.files import VDBFile, VDBTree, load, read_vdb, save, write_vdb
    from .representations.gaussians import Gaussians3D
    from .representations.points import PointCloud
    from .representations.vdb import VDBGrid
    from .tracers import vdb
    from .tracers.occupancy import OccupancyEstimator
    from .tracers.ray_rendering import RayRender, render_rays
    from .tracers.splatting import RenderOutput, rasterization, render
    from .tracers.vdb_estimator import VDBEstimator

    __version__: str

# Where each name lives. A name that is its own module stands for that module, as do those of
# _MODULES.
_MODULES = ("nn", "sparse", "vdb")
_HOME = {
    "Camera": "representations.cameras",
    "CameraPath": "representations.camera_path",
    "DenseInitReport": "engine.dense_init",
    "FitConfig": "engine.training",
    "FitFinished": "engine.training",
    "FitProgress": "engine.training",
    "FitResult": "engine.training",
    "Gaussians3D": "representations.gaussians",
    "OccupancyEstimator": "tracers.occupancy",
    "PlaneSweep": "engine.dense_init",
    "PointCloud": "representations.points",
    "RayRender": "tracers.ray_rendering",
    "RenderOutput": "tracers.splatting",
    "SparseTensor": "engine.sparse.tensor",
    "VDBEstimator": "tracers.vdb_estimator",
    "VDBFile": "representations.files",
    "VDBGrid": "representations.vdb",
    "VDBTree": "representations.files",
    "cuda_include_dir": "cuda",
    "dense_init": "engine.dense_init",
    "evaluate": "engine.training",
    "fit": "engine.training",
    "fit_events": "engine.training",
    "load": "representations.files",
    "rasterization": "tracers.splatting",
    "read_vdb": "representations.files",
    "render": "tracers.splatting",
    "render_rays": "tracers.ray_rendering",
    "save": "representations.files",
    "write_vdb": "representations.files",
    "compat": "compat",
    "cuda": "cuda",
    "datasets": "datasets",
    "engine": "engine",
    "nn": "engine.sparse.nn",
    "representations": "representations",
    "sparse": "engine.sparse",
    "tracers": "tracers",
    "vdb": "tracers.vdb",
}

__all__ = [
    "Camera",
    "CameraPath",
    "DenseInitReport",
    "FileFormatError",
    "FitConfig",
    "FitFinished",
    "FitProgress",
    "FitResult",
    "Gaussians3D",
    "OccupancyEstimator",
    "PlaneSweep",
    "PointCloud",
    "RayRender",
    "RenderOutput",
    "SparseTensor",
    "VDBEstimator",
    "VDBFile",
    "VDBGrid",
    "VDBTree",
    "__version__",
    "compat",
    "cuda",
    "cuda_include_dir",
    "datasets",
    "dense_init",
    "engine",
    "evaluate",
    "fit",
    "fit_events",
    "load",
    "nn",
    "rasterization",
    "read_vdb",
    "render",
    "render_rays",
    "representations",
    "save",
    "sparse",
    "tracers",
    "vdb",
    "write_vdb",
]


def __getattr__(name: str) -> Any:
    """Loads a name of the public interface from its home, once."""
    if name == "__version__":
        value: Any = _version()
    elif name in _HOME:
        home = _HOME[name]
        value = importlib.import_module(f".{home}", __name__)
        if home != name and name not in _MODULES:
            value = getattr(value, name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


def _version() -> str:
    """The installed version; a source tree that was never installed has none."""
    from importlib import metadata

    try:
        return metadata.version(__name__)
    except metadata.PackageNotFoundError:
        return "0+unknown"
