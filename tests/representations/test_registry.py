# SPDX-License-Identifier: Apache-2.0
"""fl.load and fl.save: which reader and writer is chosen, and that writing is all or nothing."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from fieldline.representations import Gaussians3D, PointCloud
from fieldline.representations.files import (
    atomic_path,
    atomic_write,
    known_suffixes,
    register_reader,
    register_writer,
    registry,
)

import fieldline as fl


@pytest.fixture(autouse=True)
def forget_what_the_test_registers() -> Iterator[None]:
    readers, writers = list(registry._readers), list(registry._writers)
    yield
    registry._readers[:], registry._writers[:] = readers, writers


def test_suffix_then_content_choose_the_reader(tmp_path: Path) -> None:
    gaussians, cloud = Gaussians3D.random(4, seed=0), PointCloud(torch.rand(3, 3))
    fl.save(gaussians, tmp_path / "a.ply")
    fl.save(cloud, tmp_path / "b.PLY")
    assert isinstance(fl.load(tmp_path / "a.ply"), Gaussians3D)
    assert isinstance(fl.load(str(tmp_path / "b.PLY")), PointCloud)


def test_the_last_registered_is_asked_first_and_may_pass(tmp_path: Path) -> None:
    register_reader(".ply", lambda head: b"comment special" in head, lambda path: "special")
    fl.save(PointCloud(torch.rand(3, 3)), tmp_path / "plain.ply")
    content = (tmp_path / "plain.ply").read_bytes()
    (tmp_path / "special.ply").write_bytes(content.replace(b"ply\n", b"ply\ncomment special\n", 1))
    assert isinstance(fl.load(tmp_path / "plain.ply"), PointCloud)
    assert fl.load(tmp_path / "special.ply") == "special"


def test_the_longest_suffix_wins(tmp_path: Path) -> None:
    register_reader(".gz", None, lambda path: "gz")
    register_reader(".tar.gz", None, lambda path: "tar.gz")
    for name in ("a.tar.gz", "b.gz"):
        (tmp_path / name).write_bytes(b"x")
        assert fl.load(tmp_path / name) == name[2:]


def test_subclasses_and_options_reach_the_writer(tmp_path: Path) -> None:
    class Special(Gaussians3D):
        pass

    special = Special(*Gaussians3D.random(2, seed=0).parameters())
    fl.save(special, tmp_path / "a.ply", format="ascii")
    assert (tmp_path / "a.ply").read_bytes().startswith(b"ply\nformat ascii")


def test_errors_say_what_would_do(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_bytes(b"1 2 3")
    with pytest.raises(ValueError, match=r"\.ply, .*\.splat.*'\.xyz'"):
        fl.load(tmp_path / "a.xyz")
    with pytest.raises(FileNotFoundError, match=r"none\.ply"):
        fl.load(tmp_path / "none.ply")
    with pytest.raises(ValueError, match="folder"):
        fl.load(tmp_path)
    with pytest.raises(ValueError, match="device"):
        fl.load("/dev/null")
    with pytest.raises(ValueError, match=r"\.ply"):
        fl.save(PointCloud(torch.rand(3, 3)), tmp_path / "a.xyz")
    with pytest.raises(TypeError, match=r"Gaussians3D for \.splat, got PointCloud .*\.ply"):
        fl.save(PointCloud(torch.rand(3, 3)), tmp_path / "a.splat")
    with pytest.raises(FileNotFoundError, match="folder"):
        fl.save(PointCloud(torch.rand(3, 3)), tmp_path / "none" / "a.ply")
    (tmp_path / "a.safetensors").write_bytes(b"not one")
    with pytest.raises(fl.FileFormatError, match=r"a\.safetensors: content: expected Gaussians"):
        fl.load(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="suffix"):
        register_reader("ply", None, lambda path: None)
    with pytest.raises(ValueError, match="suffix"):
        register_writer("", str, lambda text, path: None)


def test_known_suffixes() -> None:
    known = known_suffixes()
    assert {".ply", ".splat", ".safetensors", ".json"} <= set(known["read"])
    assert {".ply", ".splat", ".safetensors", ".json"} <= set(known["write"])


def test_a_failed_write_loses_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="on the way"), atomic_write(path) as file:
        file.write(b"new, but only ha")
        raise RuntimeError("on the way")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    with atomic_write(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]


def test_writing_keeps_permissions_and_links(tmp_path: Path) -> None:
    target, link = tmp_path / "target.bin", tmp_path / "link.bin"
    target.write_bytes(b"old")
    target.chmod(0o640)
    link.symlink_to(target)
    with atomic_path(link) as temporary:
        temporary.write_bytes(b"new")
    assert link.is_symlink() and target.read_bytes() == b"new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    with pytest.raises(ValueError, match="folder"), atomic_path(tmp_path):
        pass


def test_a_new_file_obeys_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with atomic_write(tmp_path / "a.bin") as file:
            file.write(b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.bin").stat().st_mode) == 0o640
