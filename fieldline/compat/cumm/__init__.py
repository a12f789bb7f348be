# SPDX-License-Identifier: Apache-2.0
"""The part of cumm that spconv's users call: ``tensorview``."""

from . import tensorview

__all__ = ["__version__", "tensorview"]

__version__ = "0.8.2"
