# SPDX-License-Identifier: Apache-2.0
"""What a .ply file holds, as arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class PlyList:
    """A property whose rows are lists of different lengths, one after the other.

    Args:
        values: [n_items] the items of all rows.
        lengths: int64 [n_rows]; their sum is n_items.

    Raises:
        ValueError: If the lengths do not add up.

    Example:
        >>> PlyList(np.array([0, 1, 2, 0, 2, 3]), np.array([3, 3])).table(3).tolist()
        [[0, 1, 2], [0, 2, 3]]
    """

    values: np.ndarray
    lengths: np.ndarray

    def __post_init__(self) -> None:
        total = int(self.lengths.sum())
        if self.values.shape != (total,) or (self.lengths.size and self.lengths.min() < 0):
            raise ValueError(
                f"PlyList: values: expected [{total}], the sum of the lengths, "
                f"got {list(self.values.shape)}"
            )

    def __len__(self) -> int:
        return self.lengths.size

    def table(self, width: int) -> np.ndarray:
        """Give the lists as one array, if all have the same length.

        Args:
            width: That length.

        Returns:
            [n_rows, width].

        Raises:
            ValueError: If a list has another length.
        """
        if np.any(self.lengths != width):
            raise ValueError(f"PlyList.table: width: expected lists of {width}, got other lengths")
        return self.values.reshape(-1, width)


Column = np.ndarray | PlyList
"""One property of all rows."""


@dataclass(frozen=True, eq=False)
class PlyElement:
    """One element: a table with named columns.

    Args:
        name: Such as "vertex".
        count: How many rows.
        columns: By property name, in the file's order; native byte order.
    """

    name: str
    count: int
    columns: dict[str, Column]

    def __len__(self) -> int:
        return self.count


@dataclass(frozen=True, eq=False)
class PlyFile:
    """A whole .ply file.

    Args:
        elements: By name, in the file's order.
        comments: Comment lines without the word "comment".
        format: "ascii", "binary_little_endian" or "binary_big_endian".
    """

    elements: dict[str, PlyElement]
    comments: tuple[str, ...] = ()
    format: str = "binary_little_endian"
