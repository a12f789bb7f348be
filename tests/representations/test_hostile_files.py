# SPDX-License-Identifier: Apache-2.0
"""Valid files damaged at random give an object or FileFormatError, in bounded memory."""

from __future__ import annotations

import re
import subprocess
import sys
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from fieldline.representations import CameraPath, Gaussians3D, PointCloud
from fieldline.representations.files import PlyList, read_ply, write_ply
from hypothesis import given, settings
from hypothesis import strategies as st

import fieldline as fl

# Far more than any of the small seeds needs, far less than a lying count would take.
MAX_PEAK_BYTES = 32_000_000

Edit = tuple[str, int, bytes]
NUMBERS = [
    b"0",
    b"-1",
    b"1",
    b"7",
    b"255",
    b"65536",
    b"4294967295",
    b"999999999999",
    b"1e9",
    b"nan",
]
WORDS = [
    b"ply",
    b"end_header",
    b"property list uchar int x\n",
    b"property double x\n",
    b"element vertex 3\n",
    b"list",
    b"float",
    b"uchar",
    b"double",
    b"ascii",
    b"binary_big_endian",
    b"\r",
    b"\n",
    b" ",
    b'"F64"',
    b"[]",
    b"{",
    b"null",
    b"\x00\x00\x80\x7f",
    b"\x00\x00\xc0\x7f",
    b"\xff\xff\xff\xff",
]

EDITS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.integers(0, 1 << 20), st.binary(min_size=1, max_size=1)),
        st.tuples(st.just("insert"), st.integers(0, 1 << 20), st.binary(max_size=8)),
        st.tuples(st.just("insert"), st.integers(0, 1 << 20), st.sampled_from(WORDS)),
        st.tuples(st.just("delete"), st.integers(0, 1 << 20), st.binary(min_size=1, max_size=40)),
        st.tuples(st.just("truncate"), st.integers(0, 1 << 20), st.just(b"")),
        st.tuples(st.just("number"), st.integers(0, 1 << 20), st.sampled_from(NUMBERS)),
        st.tuples(st.just("word"), st.integers(0, 1 << 20), st.sampled_from(WORDS)),
    ),
    min_size=1,
    max_size=4,
)


def apply(content: bytes, edits: list[Edit]) -> bytes:
    """Damage bytes; positions wrap around, so that every edit lands somewhere."""
    for kind, position, data in edits:
        at = position % (len(content) + 1)
        if kind == "set":
            content = content[:at] + data + content[at + 1 :]
        elif kind == "insert":
            content = content[:at] + data + content[at:]
        elif kind == "delete":
            content = content[:at] + content[at + len(data) :]
        elif kind == "truncate":
            content = content[:at]
        else:
            # Numbers and words of the first kilobytes are where counts and types stand.
            pattern = rb"[0-9]+" if kind == "number" else rb"[A-Za-z_]+"
            found = list(re.finditer(pattern, content[:4096]))
            if found:
                chosen = found[position % len(found)]
                content = content[: chosen.start()] + data + content[chosen.end() :]
    return content


def make_seeds(folder: Path, write_compressed_ply: Callable[..., None]) -> dict[str, bytes]:
    gaussians = Gaussians3D.random(6, sh_degree=1, seed=0)
    colors = torch.arange(15, dtype=torch.uint8).reshape(5, 3)
    cloud = PointCloud(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), colors)
    faces = PlyList(np.arange(10, dtype=np.int32), np.array([3, 4, 3]))
    triangles = PlyList(np.arange(9, dtype=np.int32), np.array([3, 3, 3]))
    x = np.arange(4, dtype=np.float32)
    mesh = {"vertex": {"x": x, "y": x, "z": x}, "face": {"a": x[:3], "vertex_indices": faces}}
    flat = {**mesh, "face": {"vertex_indices": triangles, "b": x[:3].astype(np.uint16)}}
    for i, format in enumerate(("binary_little_endian", "binary_big_endian", "ascii")):
        fl.save(gaussians, folder / f"gaussians{i}.ply", format=format)
        fl.save(cloud, folder / f"cloud{i}.ply", format=format)
        write_ply(folder / f"mesh{i}.ply", mesh, format=format)
        write_ply(folder / f"flat{i}.ply", flat, format=format)
    write_compressed_ply(gaussians, folder / "compressed.ply")
    fl.save(gaussians, folder / "a.splat")
    fl.save(gaussians, folder / "a.safetensors")
    box = ((-1, -1, -1), (1, 1, 1))
    fl.save(CameraPath.circle(box, 3, width=8, height=8), folder / "a.json")
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


NAMES = [
    *(f"{kind}{i}.ply" for kind in ("gaussians", "cloud", "mesh", "flat") for i in range(3)),
    "compressed.ply",
    "a.splat",
    "a.safetensors",
    "a.json",
]


@pytest.fixture(scope="module")
def seeds(
    tmp_path_factory: pytest.TempPathFactory, write_compressed_ply: Callable[..., None]
) -> dict[str, bytes]:
    return make_seeds(tmp_path_factory.mktemp("seeds"), write_compressed_ply)


def load_bounded(path: Path, load: Callable[[Path], object]) -> None:
    """Load, let FileFormatError pass and nothing else, and check the peak of memory."""
    tracemalloc.start()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            load(path)
    except fl.FileFormatError as error:
        assert path.name in str(error) and len(str(error)) < 1000
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < MAX_PEAK_BYTES


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=120)
@given(edits=EDITS)
def test_damaged_files(
    name: str, edits: list[Edit], seeds: dict[str, bytes], tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(apply(seeds[name], edits))
    load_bounded(path, fl.load)
    if name.startswith(("mesh", "flat")):
        load_bounded(path, read_ply)


@pytest.mark.parametrize("suffix", [".ply", ".splat", ".safetensors", ".json"])
@given(content=st.binary(max_size=200))
def test_any_bytes(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"any{suffix}"
    path.write_bytes(content)
    load_bounded(path, fl.load)


@pytest.mark.parametrize("name", NAMES)
def test_every_truncation(name: str, seeds: dict[str, bytes], tmp_path: Path) -> None:
    content = seeds[name]
    path = tmp_path / name
    for length in range(0, len(content), max(1, len(content) // 40)):
        path.write_bytes(content[:length])
        load_bounded(path, fl.load)


HUGE_HEADERS = {
    "singles.ply": "element vertex 900000000000\nproperty float x\n",
    "lists.ply": "element vertex 900000000000\nproperty list uchar float x\n",
    "gaussians.ply": "element vertex 4000000000\n"
    + "".join(f"property float {n}\n" for n in ("x", "y", "z", "f_dc_0")),
}


def test_lying_counts_cost_no_memory(tmp_path: Path) -> None:
    """In a process of its own, whose peak of memory covers torch's allocations too."""
    for name, declaration in HUGE_HEADERS.items():
        for format in ("ascii", "binary_little_endian"):
            header = f"ply\nformat {format} 1.0\n{declaration}end_header\n"
            (tmp_path / f"{format}_{name}").write_bytes(header.encode() + b"1 2 3 4\n" * 100)
    (tmp_path / "lies.safetensors").write_bytes(b"\xff" * 7 + b"\x7f" + b"{}")
    program = (
        "import resource, sys, pathlib\n"
        "import fieldline as fl\n"
        "import fieldline.representations.files\n"
        "used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):\n"
        "    try:\n"
        "        fl.load(path)\n"
        "    except fl.FileFormatError:\n"
        "        continue\n"
        "    sys.exit(f'{path} was read')\n"
        "grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used\n"
        "sys.exit(f'{grown} KiB more' if grown > 50_000 else 0)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
