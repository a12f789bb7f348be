# SPDX-License-Identifier: Apache-2.0
"""Which function reads or writes which file: by the name's suffix, then by the file's first bytes.

Each part of the package registers its own formats here when it is imported. Several kinds of file
may share a suffix (a .ply may hold a mesh, points or Gaussians); each reader then says from the
first bytes whether the file is one of its kind. The reader registered last is asked first, so that
a more special kind can be added later.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import FileFormatError

SNIFF_BYTES = 1 << 16
"""How many of a file's first bytes a reader's `sniff` is shown."""

Sniff = Callable[[bytes], bool]
Reader = Callable[[Path], Any]
Writer = Callable[..., None]


@dataclass(frozen=True)
class _ReaderEntry:
    suffix: str
    sniff: Sniff
    read: Reader
    kind: str


@dataclass(frozen=True)
class _WriterEntry:
    suffix: str
    type: type
    write: Writer


_readers: list[_ReaderEntry] = []
_writers: list[_WriterEntry] = []


def _checked_suffix(function: str, suffix: str) -> str:
    if not suffix.startswith(".") or len(suffix) < 2 or os.sep in suffix:
        raise ValueError(f"{function}: suffix: expected a form like '.ply', got {suffix!r}")
    return suffix.lower()


def register_reader(suffix: str, sniff: Sniff | None, fn: Reader, kind: str = "") -> None:
    """Let `load` open a kind of file.

    Args:
        suffix: End of the file name, with its dot, such as ".ply" or ".tar.gz"; case is ignored.
        sniff: Says from the first 64 KiB whether the file is of this kind. It is given any bytes
            and must not raise. None accepts every file with the suffix.
        fn: Takes a path and returns an object; raises FileFormatError for any bytes it cannot read.
        kind: What it reads, for messages; default the function's name.

    Raises:
        ValueError: If the suffix has no dot.

    Example:
        >>> register_reader(".doctest", None, lambda path: path.read_text(), "text")
        >>> (tmp_path / "a.doctest").write_text("hello")
        5
        >>> load(tmp_path / "a.doctest")
        'hello'
    """
    suffix = _checked_suffix("register_reader", suffix)
    sniff = sniff if sniff is not None else lambda head: True
    _readers.append(_ReaderEntry(suffix, sniff, fn, kind or getattr(fn, "__name__", "object")))


def register_writer(suffix: str, type: type, fn: Writer) -> None:
    """Let `save` write a type of object.

    Args:
        suffix: End of the file name, with its dot; case is ignored.
        type: Of the objects; subclasses too.
        fn: Takes the object, a path and the options given to `save`; replaces the file as a whole
            (see `atomic_write`).

    Raises:
        ValueError: If the suffix has no dot.

    Example:
        >>> register_writer(".doctest", str, lambda text, path: path.write_text(text))
        >>> save("hello", tmp_path / "b.doctest")
    """
    _writers.append(_WriterEntry(_checked_suffix("register_writer", suffix), type, fn))


def known_suffixes() -> dict[str, list[str]]:
    """List what can be read and written.

    Returns:
        {"read": [...], "write": [...]}: suffixes, sorted.

    Example:
        >>> ".ply" in known_suffixes()["read"]
        True
    """
    return {
        "read": sorted({entry.suffix for entry in _readers}),
        "write": sorted({entry.suffix for entry in _writers}),
    }


def _longest_match(name: str, suffixes: set[str]) -> str | None:
    matches = [suffix for suffix in suffixes if name.lower().endswith(suffix)]
    return max(matches, key=len, default=None)


def load(path: str | os.PathLike[str]) -> Any:
    """Open any file the package reads.

    Args:
        path: A file; its suffix and first bytes decide what it is.

    Returns:
        The object in it, such as `Gaussians3D` or `PointCloud`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is a folder or another non-file, or its suffix is unknown; the message
            lists the known ones.
        FileFormatError: If its bytes are not what the suffix promises.

    Example:
        >>> from fieldline.representations import Gaussians3D
        >>> save(Gaussians3D.random(5, seed=0), tmp_path / "scene.ply")
        >>> len(load(tmp_path / "scene.ply"))
        5
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if not path.is_file():
        raise ValueError(f"{path}: expected a file, got a folder or a device")
    suffix = _longest_match(path.name, {entry.suffix for entry in _readers})
    if suffix is None:
        known = ", ".join(known_suffixes()["read"])
        raise ValueError(f"{path}: expected a file with a suffix of {known}, got '{path.suffix}'")
    entries = [entry for entry in reversed(_readers) if entry.suffix == suffix]
    with path.open("rb") as file:
        head = file.read(SNIFF_BYTES)
    for entry in entries:
        if entry.sniff(head):
            return entry.read(path)
    kinds = " or ".join(entry.kind for entry in entries)
    raise FileFormatError(path, "content", f"{kinds} ({suffix})", _preview(head))


def _preview(head: bytes) -> str:
    return f"a file that begins with {head[:16]!r}" if head else "an empty file"


def save(object: Any, path: str | os.PathLike[str], **options: Any) -> None:
    """Write an object in the format that the path's suffix names.

    An existing file is replaced as a whole at the end, so that an error on the way loses nothing.

    Args:
        object: Such as `Gaussians3D` or `PointCloud`.
        path: Where to; its suffix decides the format.
        **options: Passed on to the format's writer.

    Raises:
        ValueError: If no format has the suffix.
        TypeError: If the format does not hold this type of object; the message lists what would do.
        FileNotFoundError: If the folder does not exist.

    Example:
        >>> import torch
        >>> from fieldline.representations import PointCloud
        >>> save(PointCloud(torch.zeros(2, 3)), tmp_path / "points.ply")
    """
    path = Path(path)
    suffix = _longest_match(path.name, {entry.suffix for entry in _writers})
    if suffix is None:
        known = ", ".join(known_suffixes()["write"])
        raise ValueError(f"{path}: expected a file with a suffix of {known}, got '{path.suffix}'")
    for entry in reversed(_writers):
        if entry.suffix == suffix and isinstance(object, entry.type):
            entry.write(object, path, **options)
            return
    types = sorted({entry.type.__name__ for entry in _writers if entry.suffix == suffix})
    suffixes = sorted({entry.suffix for entry in _writers if isinstance(object, entry.type)})
    raise TypeError(
        f"save: object: expected {' or '.join(types)} for {suffix}, got {type(object).__name__}"
        + (f" (writable as {', '.join(suffixes)})" if suffixes else "")
    )
