# SPDX-License-Identifier: Apache-2.0
"""The 19 classes that SemanticKITTI is evaluated on, and the raw ids that fall into each.

Behley et al., "SemanticKITTI: A Dataset for Semantic Scene Understanding of LiDAR Sequences"
(ICCV 2019), and the benchmark's own table: moving things count as what they are, lane markings as
road; other structures and objects are not evaluated.
"""

from __future__ import annotations

import numpy as np

# Name, raw ids, colour.
_TABLE: tuple[tuple[str, tuple[int, ...], tuple[int, int, int]], ...] = (
    ("car", (10, 252), (100, 150, 245)),
    ("bicycle", (11,), (100, 230, 245)),
    ("motorcycle", (15,), (30, 60, 150)),
    ("truck", (18, 258), (80, 30, 180)),
    ("other-vehicle", (13, 16, 20, 256, 257, 259), (0, 0, 255)),
    ("person", (30, 254), (255, 30, 30)),
    ("bicyclist", (31, 253), (255, 40, 200)),
    ("motorcyclist", (32, 255), (150, 30, 90)),
    ("road", (40, 60), (255, 0, 255)),
    ("parking", (44,), (255, 150, 255)),
    ("sidewalk", (48,), (75, 0, 75)),
    ("other-ground", (49,), (175, 0, 75)),
    ("building", (50,), (255, 200, 0)),
    ("fence", (51,), (255, 120, 50)),
    ("vegetation", (70,), (0, 175, 0)),
    ("trunk", (71,), (135, 60, 0)),
    ("terrain", (72,), (150, 240, 80)),
    ("pole", (80,), (255, 240, 150)),
    ("traffic-sign", (81,), (255, 0, 0)),
)
_IGNORED = (0, 1, 52, 99)
_UNKNOWN = -2

CLASSES = tuple(name for name, _, _ in _TABLE)
COLORS = np.array([color for _, _, color in _TABLE], np.uint8)


def _learning_map() -> np.ndarray:
    table = np.full(1 << 16, _UNKNOWN, np.int64)
    table[list(_IGNORED)] = -1
    for index, (_, raw, _) in enumerate(_TABLE):
        table[list(raw)] = index
    return table


_LEARNING_MAP = _learning_map()


def classes_of_raw(raw: np.ndarray) -> np.ndarray:
    """Give the class of each raw id.

    Args:
        raw: uint16 [n_points], the lower half of what a .label file holds.

    Returns:
        int64 [n_points]: 0 to 18, -1 where the benchmark ignores the point.

    Raises:
        ValueError: If an id is none of SemanticKITTI's.

    Example:
        >>> classes_of_raw(np.array([10, 252, 0], np.uint16)).tolist()
        [0, 0, -1]
    """
    found = _LEARNING_MAP[raw]
    if found.size and found.min() == _UNKNOWN:
        raise ValueError(
            "classes_of_raw: raw: expected ids of SemanticKITTI, "
            f"got {int(raw[found == _UNKNOWN][0])}"
        )
    return found
