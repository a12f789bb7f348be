# SPDX-License-Identifier: Apache-2.0
"""NerfAcc's ``scan``: running sums and products along rays."""

from ...tracers.packing import exclusive_prod, exclusive_sum, inclusive_prod, inclusive_sum

__all__ = ["exclusive_prod", "exclusive_sum", "inclusive_prod", "inclusive_sum"]
