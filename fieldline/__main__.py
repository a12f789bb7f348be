# SPDX-License-Identifier: Apache-2.0
"""``python -m fieldline``: the command line, where its script is not on PATH."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
