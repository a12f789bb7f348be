# SPDX-License-Identifier: Apache-2.0
"""Kernels that training loops share: the image loss and the fused optimiser step."""
