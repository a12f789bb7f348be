# SPDX-License-Identifier: Apache-2.0
"""What a scene is: cameras, points, Gaussians, voxels; and the files they live in."""

from .camera_models import CAMERA_MODELS, CameraModel
from .camera_path import CameraPath, focus_point, mean_up
from .cameras import Camera, intrinsics_matrix
from .gaussians import Gaussians3D, rgb_to_sh0, sh0_to_rgb
from .neighbours import nearest_neighbour_distances
from .points import PointCloud
from .rotations import matrix_to_quaternion, quaternion_to_matrix, slerp
from .vdb import VDBGrid, VDBLeaf

__all__ = [
    "CAMERA_MODELS",
    "Camera",
    "CameraModel",
    "CameraPath",
    "Gaussians3D",
    "PointCloud",
    "VDBGrid",
    "VDBLeaf",
    "focus_point",
    "intrinsics_matrix",
    "matrix_to_quaternion",
    "mean_up",
    "nearest_neighbour_distances",
    "quaternion_to_matrix",
    "rgb_to_sh0",
    "sh0_to_rgb",
    "slerp",
]
