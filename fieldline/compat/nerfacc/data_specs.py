# SPDX-License-Identifier: Apache-2.0
"""NerfAcc's ``data_specs``: values along rays."""

from ...tracers.traversal import RayIntervals, RaySamples

__all__ = ["RayIntervals", "RaySamples"]
