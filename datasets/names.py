# SPDX-License-Identifier: Apache-2.0
"""The order of views: by name, with the numbers in names compared as numbers."""

from __future__ import annotations

import re


def natural_order(name: str) -> list[tuple[int, int, str]]:
    """Give a sorting key by which r_2 comes before r_10.

    Args:
        name: Any string.

    Returns:
        A key for `sorted`.

    Example:
        >>> sorted(["r_10", "r_2"], key=natural_order)
        ['r_2', 'r_10']
    """
    parts = re.findall(r"[0-9]{1,18}|[^0-9]+", name)
    return [(0, int(part), "") if part[0] in "0123456789" else (1, 0, part) for part in parts]
