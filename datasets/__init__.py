# SPDX-License-Identifier: Apache-2.0
"""What is read from disk: photographs with poses, clouds of points; and what is made here."""

from . import synthetic
from .export import write_scene
from .lidar import is_point_cloud, load_point_cloud
from .lidar_frame import LidarFrame, merge_sweeps
from .lidar_nuscenes import NuScenes
from .load import load
from .posing import PosedPhotos, PosingProgress, solve_poses
from .scene import Scene, View, random_points

__all__ = [
    "LidarFrame",
    "NuScenes",
    "PosedPhotos",
    "PosingProgress",
    "Scene",
    "View",
    "is_point_cloud",
    "load",
    "load_point_cloud",
    "merge_sweeps",
    "random_points",
    "solve_poses",
    "synthetic",
    "write_scene",
]
