# SPDX-License-Identifier: Apache-2.0
"""What is read from disk: photographs with poses; and the scene that is made here."""

from . import synthetic
from .export import write_scene
from .load import load
from .posing import PosedPhotos, PosingProgress, solve_poses
from .scene import Scene, View, random_points

__all__ = [
    "PosedPhotos",
    "PosingProgress",
    "Scene",
    "View",
    "load",
    "random_points",
    "solve_poses",
    "synthetic",
    "write_scene",
]
