# SPDX-License-Identifier: Apache-2.0
"""Dense correspondence kernels: plane sweep, semi-global aggregation, winner, consistency."""
