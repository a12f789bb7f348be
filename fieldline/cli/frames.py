# SPDX-License-Identifier: Apache-2.0
"""Where rendered frames go: a folder of PNG files, or an mp4 through the optional package av."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from PIL import Image
from torch import Tensor

from ..representations.files.atomic import atomic_path

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv")


class FrameSink(Protocol):
    """Takes frames one by one; complete when its block ends without an error."""

    def __enter__(self) -> FrameSink: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None: ...

    def add(self, name: str, rgb: Tensor) -> None:
        """Takes a frame: float [H, W, 3] in [0, 1]."""
        ...


def open_sink(path: Path, fps: float, overwrite: bool) -> FrameSink:
    """The sink that a path names: a video by its suffix, else a folder.

    Args:
        path: Such as ``circle.mp4`` or ``pictures``.
        fps: Frames per second of a video.
        overwrite: Whether to replace what is there.

    Raises:
        ValueError: If something is there and ``overwrite`` is off, or the suffix is another one.
        ImportError: For a video without the package ``av``.
    """
    if path.suffix and path.suffix.lower() not in VIDEO_SUFFIXES and not path.is_dir():
        known = ", ".join(VIDEO_SUFFIXES)
        raise ValueError(f"{path}: expected a folder or a video ({known}), got '{path.suffix}'")
    if is_taken(path) and not overwrite:
        raise ValueError(f"{path}: is already there; choose another name or add --overwrite")
    if path.suffix.lower() in VIDEO_SUFFIXES and not path.is_dir():
        return VideoSink(path, fps)
    return FolderSink(path)


def is_taken(path: Path) -> bool:
    """Whether writing to the path would replace something."""
    return any(path.iterdir()) if path.is_dir() else path.exists()


def to_bytes(rgb: Tensor) -> np.ndarray:
    """Float [H, W, 3] as uint8, rounded; out of range is clamped and NaN is black."""
    values = rgb.detach().cpu().float().nan_to_num(0.0).clamp(0, 1)
    return (values * 255).round().byte().numpy()


class FolderSink:
    """One PNG a frame."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> FolderSink:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *error: Any) -> None:
        return None

    def add(self, name: str, rgb: Tensor) -> None:
        """Writes ``name``.png; slashes of a view's name become underscores."""
        stem = name.replace("/", "_").replace("\\", "_")
        with atomic_path(self.folder / f"{stem}.png") as temporary:
            Image.fromarray(to_bytes(rgb)).save(temporary, format="png")


class VideoSink:
    """H.264 in the container that the suffix names."""

    def __init__(self, path: Path, fps: float) -> None:
        try:
            import av
        except ImportError:
            raise ImportError(f"{path}: videos need av: pip install 'fieldline[video]'") from None
        self._av: Any = av
        self.path = path
        self.rate = Fraction(fps).limit_denominator(1001)
        self._stream: Any = None

    def __enter__(self) -> VideoSink:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._replacement = atomic_path(self.path)
        self._temporary = self._replacement.__enter__()
        container = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}[self.path.suffix.lower()]
        self._container = self._av.open(str(self._temporary), "w", format=container)
        return self

    def add(self, name: str, rgb: Tensor) -> None:
        """Encodes a frame; an odd last row or column is left out, as the pixel format demands."""
        pixels = to_bytes(rgb)
        height, width = (size - size % 2 for size in pixels.shape[:2])
        if self._stream is None:
            self._stream = self._container.add_stream("libx264", rate=self.rate)
            self._stream.width, self._stream.height = width, height
            self._stream.pix_fmt = "yuv420p"
            self._stream.options = {"crf": "18"}
        frame = self._av.VideoFrame.from_ndarray(
            np.ascontiguousarray(pixels[:height, :width]), format="rgb24"
        )
        self._container.mux(self._stream.encode(frame))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None and self._stream is not None:
            self._container.mux(self._stream.encode())
        self._container.close()
        self._replacement.__exit__(kind, error, trace)
