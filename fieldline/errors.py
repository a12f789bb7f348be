# SPDX-License-Identifier: Apache-2.0
"""The exceptions that every part of fieldline raises."""

from __future__ import annotations

from os import PathLike


class FileFormatError(ValueError):
    """A file's bytes are not what its format says they should be.

    Args:
        path: The file.
        field: The field, element or entry at fault, such as ``"element vertex"``.
        expected: What the format asks for there.
        got: What the file holds.

    Example:
        >>> str(FileFormatError("a.ply", "magic", "b'ply'", "b'PK'"))
        "a.ply: magic: expected b'ply', got b'PK'"
    """

    def __init__(self, path: str | PathLike[str], field: str, expected: str, got: str) -> None:
        self.path = str(path)
        self.field = field
        self.expected = expected
        self.got = got
        super().__init__(f"{self.path}: {field}: expected {expected}, got {got}")
