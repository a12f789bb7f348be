# SPDX-License-Identifier: Apache-2.0
"""The .ply reader and writer: every type and encoding, lists, and headers that lie."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from fieldline.representations.files import PlyList, peek_ply, read_ply, write_ply

import fieldline as fl

FORMATS = ("ascii", "binary_little_endian", "binary_big_endian")
TYPES = {
    "char": np.int8,
    "uchar": np.uint8,
    "short": np.int16,
    "ushort": np.uint16,
    "int": np.int32,
    "uint": np.uint32,
    "float": np.float32,
    "double": np.float64,
}


def extreme_columns() -> dict[str, np.ndarray]:
    columns = {}
    for name, dtype in TYPES.items():
        if np.issubdtype(dtype, np.integer):
            limits = np.iinfo(dtype)
            columns[name] = np.array([limits.min, 0, 1, limits.max], dtype)
        else:
            columns[name] = np.array([np.nan, -np.inf, 1 / 3, np.finfo(dtype).max], dtype)
    return columns


@pytest.mark.parametrize("format", FORMATS)
def test_every_type_comes_back_exactly(tmp_path: Path, format: str) -> None:
    columns = extreme_columns()
    write_ply(tmp_path / "a.ply", {"things": columns}, format=format, comments=["one", "two"])
    back = read_ply(tmp_path / "a.ply")
    assert back.format == format and back.comments == ("one", "two")
    element = back.elements["things"]
    assert list(element.columns) == list(columns) and len(element) == 4
    for name, column in columns.items():
        found = element.columns[name]
        assert isinstance(found, np.ndarray) and found.dtype == column.dtype
        np.testing.assert_array_equal(found, column)


def mesh(lengths: list[int]) -> dict[str, dict[str, np.ndarray | PlyList]]:
    n, total = len(lengths), sum(lengths)
    return {
        "vertex": {"x": np.arange(6, dtype=np.float32)},
        "face": {
            "flag": np.arange(n, dtype=np.int16),
            "vertex_indices": PlyList(np.arange(total, dtype=np.int32), np.array(lengths)),
            "area": np.linspace(0, 1, n),
            "texture": PlyList(np.arange(2 * n, dtype=np.float32) / 7, np.full(n, 2)),
        },
        "last": {"y": np.array([1.5])},
    }


LENGTHS = {
    "triangles": [3] * 7,
    "mixed": [3, 4, 0, 5, 3, 3],
    "empty lists": [0, 0],
    "no rows": [],
    "one long": [3, 300, 3],
}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", LENGTHS)
def test_lists_come_back(tmp_path: Path, format: str, kind: str) -> None:
    elements = mesh(LENGTHS[kind])
    write_ply(tmp_path / "a.ply", elements, format=format)
    back = read_ply(tmp_path / "a.ply").elements
    for element, columns in elements.items():
        for name, column in columns.items():
            found = back[element].columns[name]
            if isinstance(column, PlyList):
                assert isinstance(found, PlyList)
                np.testing.assert_array_equal(found.lengths, column.lengths)
                np.testing.assert_array_equal(found.values, column.values)
                assert found.values.dtype == column.values.dtype
            else:
                np.testing.assert_array_equal(found, column)
    only = read_ply(tmp_path / "a.ply", ("last",)).elements
    assert list(only) == ["last"] and only["last"].columns["y"].tolist() == [1.5]


@pytest.mark.parametrize("format", FORMATS)
def test_many_rows_of_mixed_lists(tmp_path: Path, format: str) -> None:
    lengths = np.random.default_rng(0).integers(0, 6, 40_000)
    values = np.arange(lengths.sum(), dtype=np.uint32)
    write_ply(tmp_path / "a.ply", {"face": {"i": PlyList(values, lengths)}}, format=format)
    found = read_ply(tmp_path / "a.ply").elements["face"].columns["i"]
    assert isinstance(found, PlyList)
    np.testing.assert_array_equal(found.lengths, lengths)
    np.testing.assert_array_equal(found.values, values)


def test_table_of_triangles() -> None:
    triangles = PlyList(np.arange(6), np.array([3, 3]))
    assert triangles.table(3).shape == (2, 3)
    with pytest.raises(ValueError, match="other lengths"):
        triangles.table(4)
    with pytest.raises(ValueError, match="sum of the lengths"):
        PlyList(np.arange(6), np.array([3, 2]))


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("binary", [False, True])
def test_line_endings_and_alternative_type_names(tmp_path: Path, ending: str, binary: bool) -> None:
    lines = [
        "ply",
        f"format {'binary_little_endian' if binary else 'ascii'} 1.0",
        "comment caf\u00e9",
        "obj_info scanned",
        "element vertex 2",
        "property float32 x",
        "property uint8 r",
        "end_header",
    ]
    body = struct.pack("<fBfB", 1.5, 10, 2.5, 13) if binary else b"1.5 10" + b"\n2.5 13"
    if not binary:
        body = body.replace(b"\n", ending.encode())
    (tmp_path / "a.ply").write_bytes((ending.join(lines) + ending).encode() + body)
    found = read_ply(tmp_path / "a.ply")
    assert found.comments == ("caf\u00e9", "scanned")
    assert found.elements["vertex"].columns["x"].tolist() == [1.5, 2.5]
    assert found.elements["vertex"].columns["r"].tolist() == [10, 13]


def test_real_meshes_and_scans(data_dir: Path) -> None:
    bunny = read_ply(data_dir / "rbf" / "mesh" / "stanford_bunny_closed_69k.ply").elements
    faces = bunny["face"].columns["vertex_indices"]
    assert isinstance(faces, PlyList)
    assert (len(bunny["vertex"]), faces.table(3).shape) == (34835, (69666, 3))
    assert faces.values.min() == 0 and faces.values.max() == 34834
    scan = read_ply(data_dir / "lidar" / "ouster_os1_128_map.ply").elements["vertex"]
    assert len(scan) == 155_000 and np.isfinite(scan.columns["x"]).all()


HEADER = "ply\nformat binary_little_endian 1.0\nelement vertex 2\nproperty float x\nend_header\n"
ASCII = HEADER.replace("binary_little_endian", "ascii")
FACES = HEADER.replace("property float x", "property list uchar int i")
BODY = struct.pack("<2f", 1, 2)

BAD = {
    "empty": (b"", "magic"),
    "not a ply": (b"PK\x03\x04", "magic"),
    "no end": (b"ply\nformat ascii 1.0\n", "end_header"),
    "endless": (b"ply\n" + b"comment x\n" * 200_000, "end_header"),
    "long line": (b"ply\ncomment " + b"x" * 5000 + b"\nend_header\n", "line"),
    "not ascii": (b"ply\n\xff\xfe\nend_header\n", "ASCII"),
    "no format": (b"ply\nend_header\n", "format"),
    "two formats": (HEADER.replace("element", "format ascii 1.0\nelement").encode(), "format"),
    "later version": (HEADER.replace("1.0", "2.0").encode() + BODY, "format"),
    "unknown encoding": (HEADER.replace("binary_little", "base64_little").encode(), "format"),
    "unknown keyword": (HEADER.replace("property", "prop").encode(), "keyword"),
    "unknown type": (HEADER.replace("float", "half").encode(), "property"),
    "negative count": (HEADER.replace("vertex 2", "vertex -2").encode(), "element"),
    "huge count": (HEADER.replace("vertex 2", "vertex 999999999999999").encode(), "vertex"),
    "endless count": (HEADER.replace("vertex 2", "vertex " + "9" * 4000).encode(), "element"),
    "no count": (HEADER.replace("vertex 2", "vertex").encode(), "element"),
    "property first": (HEADER.replace("element vertex 2\n", "").encode(), "property"),
    "no properties": (HEADER.replace("property float x\n", "").encode() + BODY, "property"),
    "property twice": (
        HEADER.replace("float x\n", "float x\nproperty float x\n").encode(),
        "each name once",
    ),
    "element twice": (
        HEADER.replace("end_", "element vertex 1\nend_").encode(),
        "each name once",
    ),
    "too many properties": (
        HEADER.replace(
            "end_", "".join(f"property char p{i}\n" for i in range(2000)) + "end_"
        ).encode(),
        "at most 1024",
    ),
    "too many elements": (
        HEADER.replace("end_", "".join(f"element e{i} 0\n" for i in range(99)) + "end_").encode(),
        "at most 64",
    ),
    "float count type": (FACES.replace("uchar", "float").encode(), "integer type"),
    "too short": (HEADER.encode() + BODY[:-1], "element vertex"),
    "too long": (HEADER.encode() + BODY + b"\n", "end of file"),
    "list runs out": (FACES.encode() + b"\x01\x00\x00\x00\x00\x05\x00\x00", "row 1"),
    "negative list": (FACES.replace("uchar", "char").encode() + b"\xff\xff\0\0\0\0", "row 0"),
    "huge list": (FACES.replace("uchar", "uint").encode() + b"\xff" * 8, "row 0"),
    "lists too many": (FACES.replace("vertex 2", "vertex 9").encode() + b"\0" * 8, "9 rows"),
    "ascii too few": (ASCII.encode() + b"1.0\n", "2 rows"),
    "ascii too many": (ASCII.encode() + b"1\n2\n3\n", "end of file"),
    "ascii wide row": (ASCII.encode() + b"1 2\n3\n", "row 0"),
    "ascii no number": (ASCII.encode() + b"1\nzwei\n", "zwei"),
    "ascii long number": (ASCII.encode() + b"1\n" + b"2" * 10_000, "numbers"),
    "ascii fraction": (ASCII.replace("float", "int").encode() + b"1\n2.5\n", "int32"),
    "ascii overflow": (ASCII.replace("float", "uchar").encode() + b"1\n256\n", "uint8"),
    "ascii nan integer": (ASCII.replace("float", "int").encode() + b"1\nnan\n", "int32"),
    "ascii list length": (
        ASCII.replace("property float x", "property list uchar int i").encode() + b"-1\n0\n",
        "a length",
    ),
    "ascii list short": (
        ASCII.replace("property float x", "property list uchar int i").encode() + b"3 1 2\n0\n",
        "3 values",
    ),
    "ascii list long": (
        ASCII.replace("property float x", "property list uchar int i").encode() + b"1 1 2\n0\n",
        "row 0",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_files_name_the_file_and_field(tmp_path: Path, kind: str) -> None:
    content, message = BAD[kind]
    (tmp_path / "bad.ply").write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(fl.FileFormatError, match=message) as caught:
            read_ply(tmp_path / "bad.ply")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "bad.ply" in str(caught.value) and len(str(caught.value)) < 600
    # Nothing is allocated for what the header merely claims.
    assert peak < 20_000_000


def test_peek_never_raises() -> None:
    header = peek_ply(HEADER.encode())
    assert header is not None and header.elements[0].count == 2
    assert peek_ply(b"") is None and peek_ply(HEADER.encode()[:-5]) is None


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_ply(tmp_path / "none.ply")


def test_writer_refuses_what_the_format_has_not(tmp_path: Path) -> None:
    path, x = tmp_path / "a.ply", np.zeros(2, np.float32)
    with pytest.raises(ValueError, match="format"):
        write_ply(path, {"v": {"x": x}}, format="binary")
    with pytest.raises(ValueError, match="one length"):
        write_ply(path, {"v": {"x": x, "y": x[:1]}})
    with pytest.raises(ValueError, match="int64"):
        write_ply(path, {"v": {"x": np.zeros(2, np.int64)}})
    with pytest.raises(ValueError, match="n_rows"):
        write_ply(path, {"v": {"x": np.zeros((2, 2), np.float32)}})
    with pytest.raises(ValueError, match="names"):
        write_ply(path, {"v": {"x\nelement": x}})
    with pytest.raises(ValueError, match="comments"):
        write_ply(path, {"v": {"x": x}}, comments=["a\nend_header"])
    assert list(tmp_path.iterdir()) == []
