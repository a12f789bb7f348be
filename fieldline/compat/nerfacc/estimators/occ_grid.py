# SPDX-License-Identifier: Apache-2.0
"""NerfAcc's ``estimators.occ_grid``."""

from ....tracers.occupancy import OccupancyEstimator as OccGridEstimator

__all__ = ["OccGridEstimator"]
