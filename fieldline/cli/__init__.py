# SPDX-License-Identifier: Apache-2.0
"""The command line: one file a command, each a typed dataclass that tyro turns into options."""

from .main import main

__all__ = ["main"]
