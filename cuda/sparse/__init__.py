# SPDX-License-Identifier: Apache-2.0
"""Sparse convolution: coordinates, kernel maps, convolution, pooling."""
