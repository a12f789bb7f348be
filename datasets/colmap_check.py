# SPDX-License-Identifier: Apache-2.0
"""Walks COLMAP's binary files before a C++ reader sees them.

That reader believes every count: a wrong one makes it allocate or loop without bound. Here each
count is compared with the bytes that are left, each list is stepped over, and the file must end
where its lists end.
Layout: COLMAP documentation, "Output Format"; rigs.bin and frames.bin since COLMAP 3.12. All
    little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

from ..errors import FileFormatError

# COLMAP's model ids and their numbers of parameters.
MODEL_PARAMETERS = dict(enumerate((3, 4, 4, 5, 8, 8, 12, 5, 4, 5, 12, 16, 4, 5, 3, 4, 6, 2)))
_LONGEST_NAME = 4096
_LARGEST_SIZE = 1 << 20


class _Walker:
    """A position in a file's bytes that never passes the end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bytes = path.read_bytes()
        self.at = 0

    def error(self, field: str, expected: str, got: str) -> FileFormatError:
        return FileFormatError(self.path, field, expected, got)

    def take(self, layout: struct.Struct, field: str) -> tuple:
        if self.at + layout.size > len(self.bytes):
            left = len(self.bytes) - self.at
            raise self.error(field, f"{layout.size} bytes", f"{left} left at byte {self.at}")
        values = layout.unpack_from(self.bytes, self.at)
        self.at += layout.size
        return values

    def count(self, field: str, stride: int, layout: struct.Struct) -> int:
        """Take a count of items of at least `stride` bytes each."""
        (count,) = self.take(layout, field)
        left = len(self.bytes) - self.at
        if count * stride > left:
            raise self.error(
                field, f"at most {left // stride} (to fit the {left} bytes left)", f"{count}"
            )
        return count

    def skip(self, size: int) -> None:
        """Step over bytes that `count` has found to be there."""
        self.at += size

    def name(self, field: str) -> None:
        end = self.bytes.find(b"\0", self.at, self.at + _LONGEST_NAME)
        if end < 0:
            raise self.error(field, f"a name that ends within {_LONGEST_NAME} bytes", "none")
        self.at = end + 1

    def end(self) -> None:
        if self.at != len(self.bytes):
            raise self.error("end of file", f"at byte {self.at}", f"{len(self.bytes)} bytes")


_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_CAMERA = struct.Struct("<IiQQ")
_IMAGE = struct.Struct("<I7dI")
_POINT = struct.Struct("<Q3d3Bd")
_RIG_SENSOR = struct.Struct("<iIB")
_RIG = struct.Struct("<II")
_FRAME = struct.Struct("<II7d")
_POSE_BYTES = 56
_SENSOR_BYTES = 8
_POINT2D_BYTES = 24
_TRACK_BYTES = 8
_FRAME_DATA_BYTES = 16


def _walk_cameras(file: _Walker) -> None:
    for i in range(file.count("number of cameras", _CAMERA.size, _U64)):
        field = f"camera {i}"
        _, model, width, height = file.take(_CAMERA, field)
        if model not in MODEL_PARAMETERS:
            raise file.error(f"{field}.model", f"0 to {max(MODEL_PARAMETERS)}", f"{model}")
        if not (0 < width <= _LARGEST_SIZE and 0 < height <= _LARGEST_SIZE):
            raise file.error(
                f"{field}.width, height", f"1 to {_LARGEST_SIZE}", f"{width}, {height}"
            )
        size = 8 * MODEL_PARAMETERS[model]
        if file.at + size > len(file.bytes):
            raise file.error(
                f"{field}.params", f"{size} bytes", f"{len(file.bytes) - file.at} left"
            )
        file.skip(size)


def _walk_images(file: _Walker) -> None:
    for i in range(file.count("number of images", _IMAGE.size + 9, _U64)):
        file.take(_IMAGE, f"image {i}")
        file.name(f"image {i}.name")
        file.skip(_POINT2D_BYTES * file.count(f"image {i}.points2D", _POINT2D_BYTES, _U64))


def _walk_points(file: _Walker) -> None:
    for i in range(file.count("number of points", _POINT.size + 8, _U64)):
        file.take(_POINT, f"point {i}")
        file.skip(_TRACK_BYTES * file.count(f"point {i}.track", _TRACK_BYTES, _U64))


def _walk_rigs(file: _Walker) -> None:
    for i in range(file.count("number of rigs", _RIG.size, _U64)):
        file.take(_U32, f"rig {i}")
        sensors = file.count(f"rig {i}.sensors", _SENSOR_BYTES, _U32)
        if sensors:
            # The reference sensor has no pose; the others say whether they have one.
            file.skip(_SENSOR_BYTES)
        for j in range(1, sensors):
            *_, has_pose = file.take(_RIG_SENSOR, f"rig {i}.sensor {j}")
            if has_pose:
                file.take(struct.Struct("<7d"), f"rig {i}.sensor {j}.pose")


def _walk_frames(file: _Walker) -> None:
    for i in range(file.count("number of frames", _FRAME.size + 4, _U64)):
        file.take(_FRAME, f"frame {i}")
        file.skip(_FRAME_DATA_BYTES * file.count(f"frame {i}.data", _FRAME_DATA_BYTES, _U32))


_WALKS: dict[str, Callable[[_Walker], None]] = {
    "cameras.bin": _walk_cameras,
    "images.bin": _walk_images,
    "points3D.bin": _walk_points,
    "rigs.bin": _walk_rigs,
    "frames.bin": _walk_frames,
}


def check_binaries(folder: Path) -> None:
    """Check the structure of all binary files of a model.

    Args:
        folder: Holds cameras.bin, images.bin, points3D.bin and, since COLMAP 3.12, rigs.bin and
            frames.bin.

    Raises:
        FileFormatError: If a count does not fit the file, a camera model is unknown, or bytes are
            left over.
    """
    for name, walk in _WALKS.items():
        if (folder / name).is_file():
            file = _Walker(folder / name)
            walk(file)
            file.end()
