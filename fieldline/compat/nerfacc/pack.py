# SPDX-License-Identifier: Apache-2.0
"""NerfAcc's ``pack``: where each ray's samples lie."""

from ...tracers.packing import pack_info

__all__ = ["pack_info"]
