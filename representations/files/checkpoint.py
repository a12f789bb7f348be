# SPDX-License-Identifier: Apache-2.0
"""Gaussians as .safetensors: the state dict, exactly, at its own precision.

The tensors are those of `Gaussians3D.state_dict()`, the format's version among them; the metadata
says what the file is: {"format": "fieldline.Gaussians3D"}.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ...errors import FileFormatError
from ..gaussians import FORMAT_VERSION, PARAMETER_NAMES, Gaussians3D
from .atomic import atomic_path
from .checks import warn_if_not_finite

_FORMAT = "fieldline.Gaussians3D"
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


def is_gaussian_checkpoint(head: bytes) -> bool:
    """Tell whether a file that begins so is a checkpoint of Gaussians."""
    return f'"{_FORMAT}"'.encode() in head


def write_gaussian_checkpoint(gaussians: Gaussians3D, path: str | os.PathLike[str]) -> None:
    """Write all parameters without loss.

    Args:
        gaussians: Any dtype, any device.
        path: The file.

    Example:
        >>> gaussians = Gaussians3D.random(3, seed=0)
        >>> write_gaussian_checkpoint(gaussians, tmp_path / "a.safetensors")
        >>> torch.equal(read_gaussian_checkpoint(tmp_path / "a.safetensors").sh, gaussians.sh)
        True
    """
    tensors = {name: value.cpu().contiguous() for name, value in gaussians.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"format": _FORMAT})


def read_gaussian_checkpoint(path: str | os.PathLike[str]) -> Gaussians3D:
    """Read a checkpoint.

    Args:
        path: The file.

    Returns:
        The Gaussians, on the CPU, in the dtype they were written in.

    Raises:
        FileFormatError: If the file is damaged, of a later version, or lacks a tensor.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="pt") as file:
            _check_contents(path, file)
            tensors = {name: file.get_tensor(name) for name in PARAMETER_NAMES}
        gaussians = Gaussians3D(**tensors)
    except (FileFormatError, FileNotFoundError):
        raise
    except (SafetensorError, ValueError, RuntimeError, OSError) as error:
        expected = f"tensors of {_FORMAT}"
        raise FileFormatError(path, "content", expected, str(error)[:300]) from error
    warn_if_not_finite(path, gaussians.finite(), "Gaussians")
    return gaussians


def _check_contents(path: Path, file: Any) -> None:
    """Check format, version, names and types before any tensor is read."""
    found = (file.metadata() or {}).get("format")
    if found != _FORMAT:
        raise FileFormatError(path, "metadata format", _FORMAT, str(found)[:100])
    missing = {"version", *PARAMETER_NAMES} - set(file.keys())
    if missing:
        raise FileFormatError(path, "tensors", ", ".join(PARAMETER_NAMES), f"no {min(missing)}")
    version = file.get_slice("version")
    if version.get_shape() != [] or version.get_dtype() != "I64":
        raise FileFormatError(path, "version", "one int64", f"{version.get_dtype()}")
    number = int(file.get_tensor("version"))
    if not 1 <= number <= FORMAT_VERSION:
        raise FileFormatError(path, "version", f"1 to {FORMAT_VERSION}", str(number))
    for name in PARAMETER_NAMES:
        dtype = file.get_slice(name).get_dtype()
        if dtype not in _DTYPES:
            raise FileFormatError(path, f"tensor {name}", f"one of {list(_DTYPES)}", str(dtype))
