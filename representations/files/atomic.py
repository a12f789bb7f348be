# SPDX-License-Identifier: Apache-2.0
"""Writing a file so that a reader finds the old one or the whole new one, never half of it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a new empty file beside `path`, which replaces it when the block ends without an error.

    An existing file is overwritten, with its permissions kept; a symbolic link stays and its target
    is overwritten. After an error the existing file is as it was and nothing is left behind.

    Args:
        path: The file to write.

    Yields:
        Where to write meanwhile.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ValueError: If `path` is a folder.

    Example:
        >>> with atomic_path(tmp_path / "a.txt") as temporary:
        ...     _ = temporary.write_text("hello")
        >>> (tmp_path / "a.txt").read_text()
        'hello'
    """
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise ValueError(f"{path}: expected a path for a file, got a folder")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{path}: the folder {target.parent} does not exist")
    temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(6)}.tmp")
    try:
        # O_EXCL: never follow or reuse what somebody else put there. 0o666 lets the umask decide.
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        yield temporary
        if target.exists():
            temporary.chmod(target.stat().st_mode & 0o7777)
        _flush_to_disk(temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a binary file that takes the place of `path` when the block ends without an error.

    Args:
        path: The file to write; see `atomic_path`.

    Yields:
        The open file.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ValueError: If `path` is a folder.

    Example:
        >>> with atomic_write(tmp_path / "b.bin") as file:
        ...     _ = file.write(b"bytes")
        >>> (tmp_path / "b.bin").read_bytes()
        b'bytes'
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        yield file


def _flush_to_disk(path: Path) -> None:
    """Make sure the bytes are stored before the name points at them."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
