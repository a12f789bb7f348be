# SPDX-License-Identifier: Apache-2.0
"""torchsparse's ``version``: the one whose interface this is."""

__all__ = ["__version__"]

__version__ = "2.0.0"
