# SPDX-License-Identifier: Apache-2.0
"""NerfAcc's ``estimators.base``."""

from ....tracers.estimator import AbstractEstimator

__all__ = ["AbstractEstimator"]
