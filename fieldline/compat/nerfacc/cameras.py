# SPDX-License-Identifier: Apache-2.0
"""NerfAcc's ``cameras``: undoing the distortion of lenses."""

from ...tracers.lens import opencv_lens_undistortion, opencv_lens_undistortion_fisheye

__all__ = ["opencv_lens_undistortion", "opencv_lens_undistortion_fisheye"]
