# SPDX-License-Identifier: Apache-2.0
"""Networks of sparse convolutions: segmentation of scans and rooms, encoders of detectors."""

from .configurations import CONFIGURATIONS, Configuration, Sample, configuration
from .detection import BirdsEyeStem, CenterPoint, SparseResNet21D, VoxelBackBone8x
from .minkunet import MinkUNet
from .spunet import SpUNet
from .spvcnn import SPVCNN

__all__ = [
    "CONFIGURATIONS",
    "SPVCNN",
    "BirdsEyeStem",
    "CenterPoint",
    "Configuration",
    "MinkUNet",
    "Sample",
    "SpUNet",
    "SparseResNet21D",
    "VoxelBackBone8x",
    "configuration",
]
