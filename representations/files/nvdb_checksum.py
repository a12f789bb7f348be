# SPDX-License-Identifier: Apache-2.0
"""The two CRC-32 of a .nvdb grid: one of its head, one of its nodes; all ones for none.

Until 32.6.0 the head ends with the root, and the second is the CRC of the CRCs of all nodes. After
that the head ends before the root, and the second is the CRC of the CRCs of blocks of 4096 bytes.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import numpy as np

from .nvdb_layout import HEAD_BYTES, NEW_CHECKSUMS, NO_CHECKSUM, Version

_AFTER_CHECKSUM = 16
_BLOCK = 4096

Nodes = Iterable[memoryview]


def checksums(
    version: Version, grid: memoryview, root_end: int, nodes: Nodes, word: str = "<u8"
) -> tuple[int, int]:
    """Compute a grid's checksums.

    Args:
        version: Of the grid.
        grid: All its bytes.
        root_end: Where the root's tiles end.
        nodes: Bytes of each upper node, lower node and leaf, in this order; only old versions look.
        word: How old versions hold the CRCs of nodes: "<u8" on 64-bit Linux, "<u4" elsewhere.

    Returns:
        The checksums of head and nodes.
    """
    if version >= NEW_CHECKSUMS:
        return zlib.crc32(grid[_AFTER_CHECKSUM:HEAD_BYTES]), _blocks(grid[HEAD_BYTES:])
    head = zlib.crc32(grid[_AFTER_CHECKSUM:root_end])
    each = np.array([zlib.crc32(node) for node in nodes], word)
    return head, zlib.crc32(each.tobytes()) if len(each) else NO_CHECKSUM


def _blocks(data: memoryview) -> int:
    if len(data) == 0:
        return NO_CHECKSUM
    n = len(data) // _BLOCK
    # The last block takes what is left over.
    ends = [_BLOCK * (i + 1) for i in range(n)]
    if n:
        ends[-1] = len(data)
    each = np.array([zlib.crc32(data[_BLOCK * i : end]) for i, end in enumerate(ends)], "<u4")
    return zlib.crc32(each.tobytes())


def matches(
    stored: tuple[int, int], version: Version, grid: memoryview, root_end: int, nodes: Nodes
) -> bool:
    """Tell whether a grid has the checksums that it says.

    Args:
        stored: What it says.
        version: Of the grid.
        grid: All its bytes.
        root_end: Where the root's tiles end.
        nodes: Bytes of each upper node, lower node and leaf, in this order.

    Returns:
        True too where it says nothing.
    """
    if stored == (NO_CHECKSUM, NO_CHECKSUM):
        return True
    if stored[1] == NO_CHECKSUM:
        return stored[0] == checksums(version, grid, root_end, [])[0]
    nodes = list(nodes)
    return any(stored == checksums(version, grid, root_end, nodes, w) for w in ("<u8", "<u4"))
