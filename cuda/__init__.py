# SPDX-License-Identifier: Apache-2.0
"""The C++/CUDA core: one folder a system, each with its typed Python face in ``ops.py``."""

from __future__ import annotations

from pathlib import Path


def cuda_include_dir() -> str:
    """Says where the core's headers are, for kernels of your own.

    `vdb/masks.h` and `vdb/walk.h` need neither torch nor any library: a kernel that includes them
    walks through the masks of a grid as our own do, whether nvcc compiles it into an extension or
    pycuda at run time.

    Returns:
        The folder to search for includes.

    Example:
        >>> from pathlib import Path
        >>> (Path(cuda_include_dir()) / "vdb" / "walk.h").is_file()
        True
    """
    return str(Path(__file__).resolve().parent)
