# SPDX-License-Identifier: Apache-2.0
"""COLMAP models: what is read, and files that lie about what they hold."""

from __future__ import annotations

import struct
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from fieldline.datasets import load
from fieldline.datasets.colmap_check import check_binaries
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fieldline import FileFormatError

pycolmap = pytest.importorskip("pycolmap")


def test_a_model_and_its_photographs(make_colmap: Callable) -> None:
    path = make_colmap()
    scene = load(path)
    assert [view.name for view in scene.views] == ["0.png", "1.png", "2.png"]
    assert scene.points is not None and scene.points.shape == (5, 3)
    assert scene.point_colors is not None
    assert scene.point_colors.tolist() == [[10, 20, 30]] * 5
    view = scene.views[1]
    K = torch.tensor([[40.0, 0.0, 15.0], [0.0, 41.0, 12.5], [0.0, 0.0, 1.0]])
    assert torch.equal(view.camera.K, K)
    assert view.mask is None
    assert view.image.unique().tolist() == [40]
    image = pycolmap.Reconstruction(str(path / "sparse/0")).images[2]
    expected = torch.tensor(image.cam_from_world().matrix(), dtype=torch.float32)
    torch.testing.assert_close(view.camera.world_to_camera[:3], expected)


def test_where_a_model_may_lie(make_colmap: Callable, tmp_path: Path) -> None:
    path = make_colmap()
    assert len(load(path / "sparse/0").views) == 3
    (path / "images").rename(tmp_path / "photos")
    with pytest.raises(ValueError, match=r"load: images: .*pass images=FOLDER"):
        load(path)
    assert len(load(path, images=tmp_path / "photos").views) == 3
    (path / "sparse/0").rename(path / "model")
    (path / "sparse").rmdir()
    (path / "model").rename(path / "sparse")
    assert len(load(path, images=tmp_path / "photos").views) == 3


def test_text_models(make_colmap: Callable) -> None:
    path = make_colmap()
    binary = load(path)
    model = path / "sparse/0"
    pycolmap.Reconstruction(str(model)).write_text(str(model))
    for file in model.glob("*.bin"):
        file.unlink()
    text = load(path)
    assert torch.equal(text.views[2].camera.world_to_camera, binary.views[2].camera.world_to_camera)
    assert text.points is not None and binary.points is not None
    assert torch.equal(text.points.sort(dim=0)[0], binary.points.sort(dim=0)[0])
    (model / "cameras.txt").write_text("1 PINHOLE 32 24 nonsense\n")
    with pytest.raises(FileFormatError, match="model: expected a COLMAP sparse model"):
        load(path)


def test_scaled_and_missing_photographs(make_colmap: Callable) -> None:
    path = make_colmap()
    (path / "images/1.png").unlink()
    Image.new("RGB", (16, 12)).save(path / "images/2.png")
    with pytest.warns(UserWarning, match="1 of 3 images dropped"):
        scene = load(path)
    assert [(view.width, view.height) for view in scene.views] == [(32, 24), (16, 12)]
    assert scene.views[1].camera.K.diagonal().tolist() == [20.0, 20.5, 1.0]
    Image.new("RGB", (20, 20)).save(path / "images/2.png")
    with pytest.raises(FileFormatError, match=r"camera 1\.width, height: expected the aspect of 2"):
        load(path)
    for file in (path / "images").glob("*"):
        file.unlink()
    with pytest.raises(FileFormatError, match="3 registered, 3 without a file"):
        load(path)


def test_pycolmap_missing(make_colmap: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_colmap()
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    with pytest.raises(ModuleNotFoundError, match="pip install pycolmap"):
        load(path)


@pytest.mark.parametrize("name", ["/etc/passwd", "../../secret.png", "a/../../b.png"])
def test_names_that_lead_out(make_colmap: Callable, name: str) -> None:
    path = make_colmap()
    images = path / "sparse/0/images.bin"
    images.write_bytes(images.read_bytes().replace(b"1.png", name.encode()))
    with pytest.raises(FileFormatError, match="image name: expected a path below"):
        load(path)


def test_unsupported_lens(make_colmap: Callable) -> None:
    path = make_colmap(model=7, params=(40.0, 40.0, 16.0, 12.0, 0.9))
    with pytest.raises(FileFormatError, match=r"camera 1\.model: .*image_undistorter.*got FOV"):
        load(path)


@pytest.mark.parametrize(
    "params", [(0.0, 40.0, 16.0, 12.0), (np.nan, 40.0, 16.0, 12.0), (40.0, 40.0, np.inf, 12.0)]
)
def test_bad_intrinsics(make_colmap: Callable, params: tuple[float, ...]) -> None:
    with pytest.raises(FileFormatError, match=r"camera 1\.params|model: expected"):
        load(make_colmap(params=params))


@pytest.mark.parametrize("quaternion", [(0, 0, 0, 0), (np.nan, 0, 0, 0), (np.inf, 0, 0, 1)])
def test_bad_poses(make_colmap: Callable, quaternion: tuple[float, ...]) -> None:
    path = make_colmap()
    images = path / "sparse/0/images.bin"
    data = bytearray(images.read_bytes())
    data[12 : 12 + 32] = struct.pack("<4d", *quaternion)
    images.write_bytes(data)
    with pytest.raises(FileFormatError, match=r"image '0\.png'\.pose|model: expected"):
        load(path)


# file, offset of a 64-bit count, the field the error must name
COUNTS = [
    ("cameras.bin", 0, "number of cameras"),
    ("images.bin", 0, "number of images"),
    ("images.bin", 8 + 64 + 6, r"image 0\.points2D"),
    ("points3D.bin", 0, "number of points"),
    ("points3D.bin", 8 + 43, r"point 0\.track"),
]


@pytest.mark.parametrize(("file", "offset", "field"), COUNTS)
@pytest.mark.parametrize("count", [10**6, 2**40, 2**61, 2**64 - 1])
def test_counts_larger_than_the_file(
    make_colmap: Callable, file: str, offset: int, field: str, count: int
) -> None:
    path = make_colmap() / "sparse/0" / file
    data = bytearray(path.read_bytes())
    data[offset : offset + 8] = struct.pack("<Q", count)
    path.write_bytes(data)
    with pytest.raises(FileFormatError, match=rf"{file}: {field}: expected at most"):
        load(path.parent.parent.parent)


@pytest.mark.parametrize("file", ["cameras.bin", "images.bin", "points3D.bin"])
def test_truncated_and_overlong(make_colmap: Callable, file: str) -> None:
    root = make_colmap()
    path = root / "sparse/0" / file
    data = path.read_bytes()
    for content in (data[:-1], data[:7], b"", data + b"\0"):
        path.write_bytes(content)
        with pytest.raises(FileFormatError, match=file):
            load(root)


def test_rigs_and_frames_are_checked_too(make_colmap: Callable, tmp_path: Path) -> None:
    root = make_colmap()
    model = tmp_path / "with_rigs"
    model.mkdir()
    pycolmap.Reconstruction(str(root / "sparse/0")).write_binary(str(model))
    assert (model / "rigs.bin").is_file() and (model / "frames.bin").is_file()
    check_binaries(model)
    for file, offset, size in (("rigs.bin", 0, 8), ("rigs.bin", 12, 4), ("frames.bin", 72, 4)):
        data = (model / file).read_bytes()
        hostile = bytearray(data)
        hostile[offset : offset + size] = b"\xff" * size
        (model / file).write_bytes(hostile)
        with pytest.raises(FileFormatError, match=rf"{file}: .*expected at most"):
            check_binaries(model)
        (model / file).write_bytes(data)


@settings(max_examples=120)
@given(
    file=st.sampled_from(["cameras.bin", "images.bin", "points3D.bin"]),
    position=st.integers(0, 2000),
    value=st.sampled_from([b"", b"\0", b"\xff", b"\xff" * 8, b"\0" * 8])
    | st.binary(min_size=1, max_size=8)
    | st.integers(0, 40).map(lambda n: struct.pack("<Q", n))
    | st.floats().map(lambda x: struct.pack("<d", x)),
    cut=st.booleans(),
)
def test_any_bytes_give_a_scene_or_the_error(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    make_colmap: Callable,
    file: str,
    position: int,
    value: bytes,
    cut: bool,
) -> None:
    root = make_colmap(tmp_path_factory.mktemp("fuzz").name + "/scene")
    path = root / "sparse/0" / file
    data = path.read_bytes()
    position %= len(data)
    rest = b"" if cut else data[position + len(value) :]
    path.write_bytes(data[:position] + value + rest)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            scene = load(root)
            assert scene.train and scene.bounds.shape == (2, 3)
        except FileFormatError as error:
            assert str(root) in str(error)
