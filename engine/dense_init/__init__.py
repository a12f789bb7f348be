# SPDX-License-Identifier: Apache-2.0
"""Dense initialisation: Gaussians that cover a scene's surfaces before training begins.

    splats = dense_init(scene)                                # PlaneSweep: no weights, no downloads
    splats, report = dense_init(scene, matcher=DepthMaps(), return_report=True)

Matchers
    PlaneSweep, OpenCVMatcher; DepthMaps, PointCloudMatcher; RoMa, RoMaV2, DKM. One's own is a class
    with `prepare` and `match` (`Matcher`), which gives depth or a warp (`Correspondence`).

For other trainers
    fieldline.save (INRIA's .ply), gsplat_parameters, to_point_cloud, write_colmap.
"""

from .depth_maps import DepthMaps
from .export import gsplat_parameters, to_point_cloud, write_colmap
from .initialise import dense_init
from .matcher import Correspondence, Matcher
from .opencv import OpenCVMatcher
from .plane_sweep import PlaneSweep
from .point_cloud import PointCloudMatcher
from .reduced import ReducedMatcher
from .report import DenseInitProgress, DenseInitReport, ViewCoverage
from .romatch import DKM, RoMa, RoMaV2
from .triangulate import Triangulation, triangulate

__all__ = [
    "DKM",
    "Correspondence",
    "DenseInitProgress",
    "DenseInitReport",
    "DepthMaps",
    "Matcher",
    "OpenCVMatcher",
    "PlaneSweep",
    "PointCloudMatcher",
    "ReducedMatcher",
    "RoMa",
    "RoMaV2",
    "Triangulation",
    "ViewCoverage",
    "dense_init",
    "gsplat_parameters",
    "to_point_cloud",
    "triangulate",
    "write_colmap",
]
