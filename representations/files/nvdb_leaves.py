# SPDX-License-Identifier: Apache-2.0
"""The values in the leaves of .nvdb grids: stored, quantised, or told by a mask."""

from __future__ import annotations

import numpy as np

from .nvdb_layout import (
    BOOLEAN,
    FP4,
    FP8,
    FP16,
    FPN,
    INDEX,
    LEAF_MASK_AT,
    MASK,
    NEW_INDICES,
    ON_INDEX,
    SPARSE_INDICES,
    NanoLayout,
    Version,
)
from .vdb_types import count_bits, unpack_bits

_BITS = {FP4: 4, FP8: 8, FP16: 16}
MAX_INDEX = 1 << 62


def column(rows: np.ndarray, at: int, dtype: str | np.dtype, n: int = 1) -> np.ndarray:
    """Take numbers out of rows of bytes.

    Args:
        rows: uint8 [n_rows, n_bytes].
        at: Where they begin in each row.
        dtype: Their type.
        n: How many.

    Returns:
        [n_rows, n].

    Example:
        >>> column(np.array([[9, 1, 0], [9, 2, 1]], np.uint8), 1, "<u2").tolist()
        [[1], [258]]
    """
    dtype = np.dtype(dtype)
    part = np.ascontiguousarray(rows[:, at : at + n * dtype.itemsize])
    return part.view(dtype).reshape(len(rows), n)


def leaf_masks(rows: np.ndarray) -> np.ndarray:
    """Give the masks of leaves, uint64 [L, 8], from their bytes [L, n_bytes]."""
    return column(rows, LEAF_MASK_AT, "<u8", 8).astype(np.uint64)


def code_bits(rows: np.ndarray, layout: NanoLayout) -> np.ndarray:
    """Give the bits of a quantised value in each leaf, [L]; more than 16 is no valid number."""
    if layout.number != FPN:
        return np.full(len(rows), _BITS[layout.number], np.int64)
    return 1 << (rows[:, 15] >> 5).astype(np.int64)


def leaf_values(rows: np.ndarray, layout: NanoLayout, version: Version) -> np.ndarray:
    """Give the values of leaves of a fixed size.

    Args:
        rows: uint8 [L, layout.leaf_bytes].
        layout: Of the grid.
        version: Of the grid.

    Returns:
        [L, 512, *channels].

    Raises:
        ValueError: If indices do not fit 62 bits.
    """
    kind, at = layout.type, layout.values_at
    if layout.number == MASK:
        return unpack_bits(leaf_masks(rows))
    if layout.number == BOOLEAN:
        return unpack_bits(column(rows, at, "<u8", 8))
    if layout.number in (INDEX, ON_INDEX):
        return _indices(rows, layout, version)
    if layout.number in _BITS:
        codes = rows[:, at:]
        return dequantise(rows, unpack_codes(codes, _BITS[layout.number]))
    values = column(rows, at, kind.dtype, 512 * kind.channels)
    return values.reshape(len(rows), 512, *kind.shape).astype(kind.dtype, copy=True)


def unpack_codes(data: np.ndarray, bits: int) -> np.ndarray:
    """Unpack numbers of 1, 2, 4, 8 or 16 bits, low ones first.

    Args:
        data: uint8 [n, 64 bits].
        bits: Of a number.

    Returns:
        uint16 [n, 512].

    Example:
        >>> unpack_codes(np.full((1, 256), 0x21, np.uint8), 4)[0, :4].tolist()
        [1, 2, 1, 2]
    """
    data = np.ascontiguousarray(data)
    if bits == 16:
        return data.view("<u2").astype(np.uint16)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    codes = data[:, :, None] >> shifts & np.uint8((1 << bits) - 1)
    return codes.reshape(len(data), 512).astype(np.uint16)


def dequantise(rows: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Turn codes into values: the leaf's minimum plus code times quantum.

    Args:
        rows: uint8 [L, >= 96].
        codes: uint16 [L, 512].

    Returns:
        float32 [L, 512].
    """
    low, quantum = column(rows, 80, "<f4", 2)[:, :, None].transpose(1, 0, 2)
    with np.errstate(over="ignore", invalid="ignore"):
        return codes.astype(np.float32) * quantum + low


def _indices(rows: np.ndarray, layout: NanoLayout, version: Version) -> np.ndarray:
    """Number a leaf's voxels: all of them, or the active ones, the others being 0."""
    new = version >= NEW_INDICES
    first = column(rows, layout.values_at + (0 if new else 8), "<u8")
    if first.size and first.max() >= MAX_INDEX:
        raise ValueError(f"expected indices below 2^62, got {int(first.max())}")
    first = first.astype(np.int64)
    every = first + np.arange(512)
    active = unpack_bits(leaf_masks(rows))
    below = np.cumsum(active, axis=1) - active
    if layout.number == ON_INDEX:
        return np.where(active, first + below, 0)
    if new:
        return every
    sparse = (rows[:, 15:16] & SPARSE_INDICES) != 0
    return np.where(sparse, np.where(active, first + below, 0), every)


def index_counts(masks: np.ndarray) -> np.ndarray:
    """Give how many indices lie before each leaf's when only active voxels have one.

    Args:
        masks: uint64 [L, 8].

    Returns:
        int64 [L].
    """
    counts = count_bits(masks)
    return np.cumsum(counts) - counts
