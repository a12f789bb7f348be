# SPDX-License-Identifier: Apache-2.0
"""NerfAcc's ``pdf``: importance sampling, and searches in sorted values."""

from ...tracers.ray_sampling import importance_sampling, searchsorted

__all__ = ["importance_sampling", "searchsorted"]
