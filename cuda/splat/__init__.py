# SPDX-License-Identifier: Apache-2.0
"""Gaussian splatting kernels: project, shade, bin, blend, and their backward passes."""
