# SPDX-License-Identifier: Apache-2.0
"""The blocks of values in .vdb files: a node's active values, and what replaces the others.

Each block begins with a code that says how inactive values are told:

====  =============================================================================
code  inactive values
====  =============================================================================
0     all the background
1     all minus the background
2     all one value, which follows
3     minus the background, or the background where a mask that follows is set
4     one value that follows, or the background where a mask that follows is set
5     one of two values that follow, the second where a mask that follows is set
6     stored with the active ones, in order
====  =============================================================================

Then come the active values (all values for code 6, or if the file does not leave inactive ones
out), packed by zlib or Blosc behind their size, which is zero or negative for a block as it is.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np

from .byte_reader import ByteReader
from .vdb_codec import CodecError, enblosc, unblosc, unzip
from .vdb_types import ValueType, pack_bits, unpack_bits

ZIP, ACTIVE_MASK, BLOSC = 1, 2, 4
_ALL_VALUES = 6
_N_INACTIVE = (0, 0, 1, 0, 1, 2, 0)
_HAS_MASK = (False, False, False, True, True, True, False)


@dataclass(frozen=True, eq=False)
class BlockFormat:
    """How a grid's blocks are stored.

    Args:
        type: Of the values.
        background: [*channels].
        compression: ZIP, ACTIVE_MASK and BLOSC, added.
        half: Whether real values have 16 bits.
    """

    type: ValueType
    background: np.ndarray
    compression: int
    half: bool

    @property
    def stored(self) -> np.dtype:
        """The type of a component in the file."""
        return np.dtype("<f2") if self.half and self.type.is_real else self.type.dtype

    @property
    def stored_bytes(self) -> int:
        """Bytes of a value in the file."""
        return self.stored.itemsize * self.type.channels

    def has_size(self, count: int) -> bool:
        """Whether a packed block of so many values has its size before it.

        OpenVDB leaves an empty block of half floats out altogether.
        """
        return count > 0 or self.stored == self.type.dtype

    def values(self, data: bytes | memoryview) -> np.ndarray:
        """Turn a block's bytes into values, [n, *channels]."""
        if self.type.dtype == np.bool_:
            return np.frombuffer(data, np.uint8) != 0
        flat = np.frombuffer(data, self.stored)
        return flat.astype(self.type.dtype, copy=False).reshape(-1, *self.type.shape)


def negative(value: np.ndarray) -> np.ndarray:
    """Give minus a value as OpenVDB understands it: of a bool, the other one."""
    return ~value if value.dtype == np.bool_ else np.negative(value)


def read_value(reader: ByteReader, kind: ValueType, field: str) -> np.ndarray:
    """Read one value.

    Args:
        reader: At the value.
        kind: Its type.
        field: What it is.

    Returns:
        [*channels].

    Raises:
        FileFormatError: If it is cut short.
    """
    if kind.dtype == np.bool_:
        return np.array(reader.take(1, field)[0] != 0)
    return reader.array(kind.dtype, kind.shape, field).copy()


def read_block(reader: ByteReader, format: BlockFormat, count: int) -> bytes | memoryview:
    """Read a block of packed values.

    Args:
        reader: At the block.
        format: How it is stored.
        count: Values in it.

    Returns:
        count * format.stored_bytes bytes.

    Raises:
        FileFormatError: If it is cut short, damaged, or unpacks to another size.
    """
    size = count * format.stored_bytes
    if not format.compression & (ZIP | BLOSC) or not format.has_size(count):
        return reader.take(size, "values")
    packed = reader.number("<q", "size of a block")
    if packed <= 0:
        if -packed != size:
            raise reader.fail("size of a block", f"{size} bytes as they are", packed)
        return reader.take(size, "values")
    data = reader.take(packed, "packed values")
    try:
        # OpenVDB asks for Blosc first.
        return unblosc(data, size) if format.compression & BLOSC else unzip(data, size)
    except CodecError as error:
        raise reader.fail("packed values", error.expected, error.got) from error


def _read_code(reader: ByteReader) -> int:
    code = reader.take(1, "code of a block")[0]
    if code > _ALL_VALUES:
        raise reader.fail("code of a block", f"0 to {_ALL_VALUES}", code)
    return code


def read_node_values(reader: ByteReader, format: BlockFormat, active: np.ndarray) -> np.ndarray:
    """Read the values of an internal node.

    Args:
        reader: At the code.
        format: How they are stored.
        active: bool [S], the slots with active tiles.

    Returns:
        [S, *channels]; of no meaning where the node has a child.

    Raises:
        FileFormatError: If it is cut short or damaged.
    """
    words = pack_bits(active)[None]
    return read_values(reader, format, words, words_follow=False)[1][0]


def read_values(
    reader: ByteReader, format: BlockFormat, words: np.ndarray, words_follow: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Read the values of nodes that follow each other.

    Args:
        reader: At the first.
        format: How they are stored.
        words: uint64 [n, n_words], the masks of active values.
        words_follow: Whether each node's mask stands before its values and replaces `words`, as it
            does for leaves.

    Returns:
        The masks, and [n, 64 n_words, *channels] values.

    Raises:
        FileFormatError: If they are cut short or damaged.
    """
    n, n_words = words.shape
    slots, mask_bytes, kind = 64 * n_words, 8 * n_words, format.type
    sizes = 1 + (mask_bytes if words_follow else 0) + (8 if format.compression & 5 else 0)
    reader.need(n * sizes, f"{n} nodes")
    masks = [b""] * n
    selections = [bytes(mask_bytes)] * n
    full = np.ones(n, np.bool_)
    inactive = np.empty((2, n, *kind.shape), kind.dtype)
    inactive[:] = format.background
    opposite = negative(format.background)
    blocks = []
    for i in range(n):
        masks[i] = bytes(reader.take(mask_bytes, "mask")) if words_follow else words[i].tobytes()
        code = _read_code(reader)
        if code:
            inactive[0, i] = opposite
        for which in range(_N_INACTIVE[code]):
            inactive[which, i] = read_value(reader, kind, "inactive value")
        if _HAS_MASK[code]:
            selections[i] = bytes(reader.take(mask_bytes, "mask of inactive values"))
        count = slots
        if format.compression & ACTIVE_MASK and code != _ALL_VALUES:
            full[i], count = False, int.from_bytes(masks[i], "little").bit_count()
        blocks.append(read_block(reader, format, count))
    words = np.frombuffer(b"".join(masks), "<u8").reshape(n, n_words)
    chosen = unpack_bits(np.frombuffer(b"".join(selections), "<u8").reshape(n, n_words))
    values = np.where(
        chosen.reshape(n, slots, *(1 for _ in kind.shape)),
        inactive[1][:, None],
        inactive[0][:, None],
    )
    values[unpack_bits(words) | full[:, None]] = format.values(b"".join(blocks))
    return words.astype(np.uint64), values


def _same(a: np.ndarray, b: np.ndarray, kind: ValueType) -> np.ndarray:
    """Whether values have the same bits, so that NaN and -0 come back as they were."""
    unsigned = f"u{kind.dtype.itemsize}"
    equal = np.ascontiguousarray(a).view(unsigned) == np.ascontiguousarray(b).view(unsigned)
    return equal.all(axis=-1) if kind.shape else equal


def inactive_codes(
    values: np.ndarray, inactive: np.ndarray, background: np.ndarray, kind: ValueType
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find how inactive values can be told without storing each.

    Args:
        values: [n, S, *channels].
        inactive: bool [n, S]: the values that count, and are not active.
        background: [*channels].
        kind: Of the values.

    Returns:
        codes uint8 [n]; the two inactive values [2, n, *channels]; and which values are the second,
        bool [n, S].

    Example:
        >>> float32 = ValueType("float", "<f4")
        >>> values = np.array([[1, 1, -1, 7]], np.float32)
        >>> bits = np.array([[True, True, True, False]])
        >>> inactive_codes(values, bits, np.float32(1), float32)[0].tolist()
        [3]
    """
    rows = np.arange(len(values))
    first = values[rows, inactive.argmax(1)]
    others = inactive & ~_same(values, np.broadcast_to(first[:, None], values.shape), kind)
    second = values[rows, others.argmax(1)]
    has_second = others.any(1)
    is_second = _same(values, np.broadcast_to(second[:, None], values.shape), kind)
    too_many = (others & ~is_second).any(1)
    base = np.broadcast_to(background, first.shape)
    minus = negative(base)
    # The background, if it is one of the two, comes second.
    swap = has_second & _same(first, base, kind)
    index = swap.reshape(-1, *(1 for _ in kind.shape))
    low, high = np.where(index, second, first), np.where(index, first, second)
    low_is_minus, high_is_base = _same(low, minus, kind), _same(high, base, kind)
    one = np.where(_same(low, base, kind), 0, np.where(low_is_minus, 1, 2))
    two = np.where(high_is_base, np.where(low_is_minus, 3, 4), 5)
    codes = np.where(inactive.any(1), np.where(has_second, two, one), 0)
    codes[too_many] = _ALL_VALUES
    is_high = inactive & _same(values, np.broadcast_to(high[:, None], values.shape), kind)
    return codes.astype(np.uint8), np.stack((low, high)), is_high


def write_values(
    format: BlockFormat,
    values: np.ndarray,
    active: np.ndarray,
    inactive: np.ndarray,
    masks: np.ndarray | None = None,
) -> list[bytes]:
    """Give the values of nodes as bytes.

    Args:
        format: How to store them.
        values: [n, S, *channels].
        active: bool [n, S].
        inactive: bool [n, S], the others that are stored: not the places of children.
        masks: uint64 [n, S / 64] to stand before each node's values, or None.

    Returns:
        A piece for each node.
    """
    kind, n = format.type, len(values)
    codes = np.full(n, _ALL_VALUES, np.uint8)
    two, is_second = np.empty((2, n, *kind.shape), kind.dtype), np.zeros_like(inactive)
    if format.compression & ACTIVE_MASK:
        codes, two, is_second = inactive_codes(values, inactive, format.background, kind)
    chosen = pack_bits(is_second)
    stored = values.astype(format.stored, copy=False)
    pieces = []
    for i, code in enumerate(codes.tolist()):
        piece = b"" if masks is None else masks[i].astype("<u8").tobytes()
        piece += bytes([code])
        for which in range(_N_INACTIVE[code]):
            piece += two[which, i].tobytes()
        if _HAS_MASK[code]:
            piece += chosen[i].astype("<u8").tobytes()
        block = stored[i] if code == _ALL_VALUES else stored[i][active[i]]
        pieces.append(piece + _packed(format, len(block), block.tobytes()))
    return pieces


def _packed(format: BlockFormat, count: int, data: bytes) -> bytes:
    if not format.compression & (ZIP | BLOSC) or not format.has_size(count):
        return data
    packed = data
    if data:
        packed = enblosc(data) if format.compression & BLOSC else zlib.compress(data)
    if len(packed) < len(data):
        return struct.pack("<q", len(packed)) + packed
    return struct.pack("<q", -len(data)) + data


def round_to_half(values: np.ndarray, kind: ValueType, half: bool) -> np.ndarray:
    """Round real values to 16 bits if they are to be stored so."""
    if not half or not kind.is_real:
        return values
    with np.errstate(over="ignore"):
        return values.astype(np.float16).astype(kind.dtype)
