# SPDX-License-Identifier: Apache-2.0
"""Dense initialisation: Gaussians that cover a scene's surfaces before training begins."""

from .initialise import dense_init
from .depth_maps import DepthMaps
from .matcher import Correspondence, Matcher
from .point_cloud import PointCloudMatcher
from .report import DenseInitProgress, DenseInitReport, ViewCoverage

__all__ = [
    "Correspondence",
    "DenseInitProgress",
    "DenseInitReport",
    "DepthMaps",
    "Matcher",
    "PointCloudMatcher",
    "ViewCoverage",
    "dense_init",
]
