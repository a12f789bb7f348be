# SPDX-License-Identifier: Apache-2.0
"""The version of NerfAcc that these modules stand in for."""

__version__ = "0.5.3"
