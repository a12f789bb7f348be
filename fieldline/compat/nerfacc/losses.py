# SPDX-License-Identifier: Apache-2.0
"""NerfAcc's ``losses``."""

from ...tracers.volume_rendering import distortion

__all__ = ["distortion"]
