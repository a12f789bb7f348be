# SPDX-License-Identifier: Apache-2.0
"""Sparse voxel grids as nested masks, and how rays walk through them."""
