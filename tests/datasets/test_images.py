# SPDX-License-Identifier: Apache-2.0
"""Reading and scaling images, and what happens with files that are not what they seem."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from fieldline.datasets.images import (
    area_resize,
    from_premultiplied,
    has_alpha,
    image_size,
    read_depth,
    read_image,
    read_mask,
    to_premultiplied,
)
from fieldline.datasets.photos import Photo
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fieldline import FileFormatError


def brute_force_area(values: np.ndarray, width: int, height: int) -> np.ndarray:
    """The mean over each new pixel's rectangle, by summing overlaps one by one."""
    rows, columns, channels = values.shape
    result = np.zeros((height, width, channels))
    for y in range(height):
        for x in range(width):
            for row in range(rows):
                for column in range(columns):
                    high = min((y + 1) * rows / height, row + 1) - max(y * rows / height, row)
                    wide = min((x + 1) * columns / width, column + 1)
                    wide -= max(x * columns / width, column)
                    result[y, x] += max(high, 0) * max(wide, 0) * values[row, column]
    return result * (height / rows) * (width / columns)


@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    part=st.tuples(st.floats(0.1, 1), st.floats(0.1, 1)),
)
def test_area_resize_is_the_mean_over_each_pixel(
    size: tuple[int, int], part: tuple[float, float]
) -> None:
    height, width = (max(1, round(n * p)) for n, p in zip(size, part))
    values = np.random.default_rng(1).random((*size, 2))
    result = area_resize(torch.from_numpy(values).float(), width, height)
    np.testing.assert_allclose(result, brute_force_area(values, width, height), atol=1e-5)


def test_transparent_colours_do_not_bleed() -> None:
    image = torch.zeros(2, 2, 4, dtype=torch.uint8)
    image[0, 0] = torch.tensor([200, 100, 50, 255])
    image[1, 1] = torch.tensor([0, 255, 0, 0])
    small = from_premultiplied(area_resize(to_premultiplied(image), 1, 1))
    assert small[0, 0].tolist() == [200, 100, 50, 64]


def test_premultiplied_round_trip_is_exact_where_opaque() -> None:
    image = torch.randint(0, 256, (5, 6, 4), dtype=torch.uint8)
    image[..., 3] = 255
    assert torch.equal(from_premultiplied(to_premultiplied(image)), image)


@pytest.mark.parametrize(
    ("mode", "suffix", "channels"),
    [
        ("RGB", "png", 3),
        ("RGBA", "png", 4),
        ("L", "png", 3),
        ("LA", "png", 4),
        ("P", "png", 3),
        ("1", "png", 3),
        ("CMYK", "jpg", 3),
        ("RGB", "webp", 3),
        ("RGB", "tiff", 3),
    ],
)
def test_modes(tmp_path: Path, mode: str, suffix: str, channels: int) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.new("RGB", (7, 5), (120, 130, 140)).convert(mode).save(path)
    image = read_image(path)
    assert image.dtype == torch.uint8 and tuple(image.shape) == (5, 7, channels)
    assert image_size(path) == (7, 5)
    assert has_alpha(path) == (channels == 4)


def test_sixteen_bits_keep_the_upper_eight(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 256, 65535]], np.uint16)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[0, :, 1].tolist() == [0, 1, 255]


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises width x height pixels and holds none."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_decompression_bomb(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(png_header(60_000, 60_000))
    with pytest.raises(FileFormatError, match=r"bomb\.png: image: .*DecompressionBomb"):
        image_size(tmp_path / "bomb.png")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not an image",
        b"\x89PNG\r\n\x1a\n",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    ],
)
def test_not_an_image(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(FileFormatError, match=r"a\.png: image"):
        image_size(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_truncated(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert image_size(path) == (64, 64)
    with pytest.raises(FileFormatError, match="complete image data"):
        read_image(path)


@given(position=st.integers(0, 400), value=st.binary(min_size=1, max_size=8))
def test_any_bytes_give_an_image_or_the_error(tmp_path: Path, position: int, value: bytes) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.arange(108, dtype=np.uint8).reshape(6, 6, 3)).save(path)
    data = bytearray(path.read_bytes())
    data[position : position + len(value)] = value
    path.write_bytes(data)
    try:
        assert read_image(path).dtype == torch.uint8
    except FileFormatError as error:
        assert "a.png" in str(error)


def test_mask_is_white(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 127, 128, 255]], np.uint8)).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png").tolist() == [[False, False, True, True]]


def test_depth_in_integers_and_floats(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 1500]], np.uint16)).save(tmp_path / "d.png")
    np.save(tmp_path / "d.npy", np.array([[np.nan, 1.5, -2.0, np.inf]]))
    assert read_depth(tmp_path / "d.png", 1e-3)[0].tolist() == pytest.approx([0.0, 1.5])
    assert read_depth(tmp_path / "d.npy", 1e-3).tolist() == [[0.0, 1.5, 0.0, 0.0]]


def test_hostile_arrays(tmp_path: Path) -> None:
    path = tmp_path / "d.npy"
    np.save(path, np.zeros((4, 4), np.float32))
    data = path.read_bytes().replace(b"(4, 4)", b"(99999, 99999)").ljust(200)
    for content in (data, b"\x93NUMPY", b"garbage"):
        path.write_bytes(content)
        with pytest.raises(FileFormatError, match=r"d\.npy: depth"):
            read_depth(path, 1.0)
    np.save(path, np.array([[object()]]), allow_pickle=True)
    with pytest.raises(FileFormatError, match="depth"):
        read_depth(path, 1.0)
    np.save(path, np.zeros((2, 3, 4)))
    with pytest.raises(FileFormatError, match="height, width"):
        read_depth(path, 1.0)


def test_a_file_that_changed_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (8, 6)).save(path)
    photo = Photo(path, (8, 6), (8, 6))
    Image.new("RGB", (9, 6)).save(path)
    with pytest.raises(FileFormatError, match="8 x 6 pixels as in its header, got 9 x 6"):
        photo.image()


def test_masks_and_depth_follow_the_downscale(tmp_path: Path) -> None:
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    mask = np.full((6, 8), 255, np.uint8)
    mask[0, 0] = 0
    Image.fromarray(mask).save(tmp_path / "m.png")
    depth = np.arange(1, 49, dtype=np.float32).reshape(6, 8)
    np.save(tmp_path / "d.npy", depth)
    photo = Photo(tmp_path / "a.png", (8, 6), (4, 3), None, tmp_path / "m.png", tmp_path / "d.npy")
    small = photo.mask()
    assert small is not None and small.shape == (3, 4)
    # One masked source pixel masks the whole pixel above it, and no other.
    assert not small[0, 0] and int(small.sum()) == 11
    result = photo.depth()
    assert result is not None
    # Depth is picked, never averaged.
    assert set(result.flatten().tolist()) <= set(depth.flatten().tolist())
    assert result.shape == (3, 4)
