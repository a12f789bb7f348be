# SPDX-License-Identifier: Apache-2.0
"""Small scenes on disk that the tests load and break."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fieldline.representations as representations
import numpy as np
import pytest
import torch
from fieldline.datasets import Scene, synthetic
from PIL import Image


def ring_pose(i: int, n: int = 9) -> torch.Tensor:
    """Camera to world, OpenGL axes, float64: on a circle of radius 3, looking at the origin."""
    angle = 2 * np.pi * i / n
    eye = torch.tensor([3 * np.cos(angle), 3 * np.sin(angle), 1.0], dtype=torch.float64)
    camera = representations.Camera.look_at(eye, (0.0, 0.0, 0.0), focal=40.0, width=32, height=24)
    return camera.to_opengl()


def save_png(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


class Folder:
    """A folder with transforms.json, its content still in hand."""

    def __init__(self, path: Path, n_frames: int = 9, mode: str = "RGB") -> None:
        self.path = path
        rng = np.random.default_rng(0)
        channels = {"RGB": 3, "RGBA": 4}[mode]
        for i in range(n_frames):
            pixels = rng.integers(0, 256, (24, 32, channels), dtype=np.uint8)
            save_png(path / f"images/{i}.png", pixels)
        self.content: dict[str, Any] = {
            "fl_x": 40.0,
            "fl_y": 41.0,
            "cx": 15.0,
            "cy": 12.5,
            "w": 32,
            "h": 24,
            "frames": [
                {
                    "file_path": f"images/{i}.png",
                    "transform_matrix": ring_pose(i, n_frames).tolist(),
                }
                for i in range(n_frames)
            ],
        }
        self.save()

    def save(self, name: str = "transforms.json") -> Path:
        (self.path / name).write_text(json.dumps(self.content))
        return self.path


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Folder]:
    """Makes folders with transforms.json."""

    def make(name: str = "scene", **options: Any) -> Folder:
        return Folder(tmp_path / name, **options)

    return make


@pytest.fixture
def folder(make_folder: Callable[..., Folder]) -> Folder:
    """Nine frames of 32 x 24 pixels on a circle."""
    return make_folder()


@pytest.fixture(scope="session")
def tiny_scene() -> Scene:
    """A still life of nine views of 40 x 30 pixels."""
    return synthetic.still_life(n_views=9, width=40, height=30, n_points=100)


def colmap_bytes(
    model: int, params: list[float], poses: list[list[float]], points: np.ndarray
) -> dict[str, bytes]:
    """cameras.bin, images.bin and points3D.bin: one camera of 32 x 24, images 0.png, 1.png, ...

    Every image observes every point (at position 0, 0: the loader does not use observations).
    """
    n_points = len(points)
    cameras = struct.pack("<QIiQQ", 1, 1, model, 32, 24) + struct.pack(f"<{len(params)}d", *params)
    images = struct.pack("<Q", len(poses))
    for i, pose in enumerate(poses):
        images += struct.pack("<I7dI", i + 1, *pose, 1) + f"{i}.png".encode() + b"\0"
        images += struct.pack("<Q", n_points)
        for j in range(n_points):
            images += struct.pack("<2dQ", 0.0, 0.0, j + 1)
    cloud = struct.pack("<Q", n_points)
    for j, point in enumerate(points):
        cloud += struct.pack("<Q3d3Bd", j + 1, *point, 10, 20, 30, 0.5)
        cloud += struct.pack("<Q", len(poses))
        for i in range(len(poses)):
            cloud += struct.pack("<II", i + 1, j)
    return {"cameras.bin": cameras, "images.bin": images, "points3D.bin": cloud}


@pytest.fixture
def make_colmap(tmp_path: Path) -> Callable[..., Path]:
    """Makes COLMAP scenes: sparse/0 and images."""

    def make(
        name: str = "colmap",
        model: int = 1,
        params: tuple[float, ...] = (40.0, 41.0, 15.0, 12.5),
        n_images: int = 3,
        image: np.ndarray | None = None,
    ) -> Path:
        path = tmp_path / name
        poses = []
        for i in range(n_images):
            camera = representations.Camera.from_opengl(ring_pose(i), torch.eye(3), 32, 24)
            qvec, tvec = camera.to_colmap()
            poses.append([*qvec.tolist(), *tvec.tolist()])
            pixels = np.full((24, 32, 3), 40 * i, np.uint8) if image is None else image
            save_png(path / f"images/{i}.png", pixels)
        points = np.random.default_rng(0).normal(0, 0.3, (5, 3))
        (path / "sparse/0").mkdir(parents=True)
        for file, data in colmap_bytes(model, list(params), poses, points).items():
            (path / "sparse/0" / file).write_bytes(data)
        return path

    return make
