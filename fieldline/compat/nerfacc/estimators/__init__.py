# SPDX-License-Identifier: Apache-2.0
"""NerfAcc's estimators: where rays should be sampled."""
