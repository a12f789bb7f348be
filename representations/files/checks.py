# SPDX-License-Identifier: Apache-2.0
"""What the readers of Gaussians and points share: choosing columns, and the rule for NaN and Inf.

The rule: a position, scale or colour that is not finite is kept as it is, so that a file can be
written back unchanged, and one warning names the file and the number of such rows. Renderers cull
them and `Gaussians3D.pruned` drops them.
"""

from __future__ import annotations

import os
import warnings

import numpy as np
import torch
from torch import Tensor

from ...errors import FileFormatError
from .ply_data import PlyElement

_ROWS_AT_ONCE = 1 << 11


def require_column(
    path: str | os.PathLike[str], element: PlyElement, name: str, kind: str = "f"
) -> np.ndarray:
    """Give a single-valued column of the right kind.

    Args:
        path: The file, for messages.
        element: Where it is.
        name: The property.
        kind: numpy's letters for the kinds of dtype that will do: "f" floating, "u" unsigned.

    Returns:
        [n_rows].

    Raises:
        FileFormatError: If it is missing, a list, or of another type.
    """
    column = element.columns.get(name)
    expected = {"f": "float or double", "u": "an unsigned integer"}[kind]
    field = f"element {element.name}, property {name}"
    if column is None:
        raise FileFormatError(path, field, expected, "no such property")
    if not isinstance(column, np.ndarray) or column.dtype.kind != kind:
        got = str(column.dtype) if isinstance(column, np.ndarray) else "a list"
        raise FileFormatError(path, field, expected, got)
    return column


def float32_table(path: str | os.PathLike[str], element: PlyElement, names: list[str]) -> Tensor:
    """Put floating columns side by side.

    Args:
        path: The file, for messages.
        element: Where they are.
        names: The properties.

    Returns:
        float32 [n_rows, len(names)].

    Raises:
        FileFormatError: If one is missing or of another type.
    """
    columns = [require_column(path, element, name) for name in names]
    table = np.empty((element.count, len(names)), np.float32)
    with np.errstate(over="ignore"):
        # Blocks of rows stay in the cache while column after column is written into them.
        for start in range(0, element.count, _ROWS_AT_ONCE):
            block = table[start : start + _ROWS_AT_ONCE]
            for i, column in enumerate(columns):
                block[:, i] = column[start : start + _ROWS_AT_ONCE]
    return torch.from_numpy(table)


def warn_if_not_finite(path: str | os.PathLike[str], finite: Tensor, what: str) -> None:
    """Warn once if some rows are not finite.

    Args:
        path: The file, for the message.
        finite: bool [n_rows].
        what: The rows' name, in the plural.
    """
    bad = int(finite.numel() - finite.sum())
    if bad:
        # Level 4 points at the caller of load(), past this module, the reader and the registry.
        warnings.warn(f"{path}: {bad} of {finite.numel()} {what} are not finite", stacklevel=4)
