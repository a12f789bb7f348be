# SPDX-License-Identifier: Apache-2.0
"""NerfAcc's ``estimators.prop_net``."""

from ....tracers.proposal import PropNetEstimator, get_proposal_requires_grad_fn

__all__ = ["PropNetEstimator", "get_proposal_requires_grad_fn"]
