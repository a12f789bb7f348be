# SPDX-License-Identifier: Apache-2.0
"""Sparse convolution: networks on the cells that exist."""
