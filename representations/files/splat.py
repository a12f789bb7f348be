# SPDX-License-Identifier: Apache-2.0
"""The .splat format of web viewers: 32 bytes a Gaussian, no header, no view dependence.

===========  =======================================================
bytes        content
===========  =======================================================
0 - 11       position, 3 little-endian float32
12 - 23      standard deviations (not logarithms), 3 float32
24 - 27      red, green, blue, opacity; 0 to 255 for 0 to 1
28 - 31      rotation wxyz, each 128 + 128 q
===========  =======================================================
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...errors import FileFormatError
from ..gaussians import Gaussians3D, rgb_to_sh0, sh0_to_rgb
from .atomic import atomic_write
from .checks import warn_if_not_finite

_ROW = np.dtype(
    [("mean", "<f4", (3,)), ("scale", "<f4", (3,)), ("rgba", "u1", (4,)), ("quat", "u1", (4,))]
)
# A zero deviation has no logarithm; this one is as good as zero and comes back as it was written.
_MIN_SCALE = 1e-20


def opacity_from_bytes(alpha: Tensor) -> Tensor:
    """Turn opacities 0..255 into finite logits that give the same bytes back.

    Args:
        alpha: uint8 [N].

    Returns:
        float32 [N]. 0 and 255 become a quarter of a step above 0 and below 1.
    """
    return torch.logit((alpha.float() / 255).clamp(0.25 / 255, 1 - 0.25 / 255))


def read_splat(path: str | os.PathLike[str]) -> Gaussians3D:
    """Read a .splat file.

    Args:
        path: The file.

    Returns:
        The Gaussians, degree 0. A rotation of four bytes 128 (no direction) becomes the identity.

    Raises:
        FileFormatError: If the size is not a multiple of 32 bytes, or a standard deviation is
            negative.

    Example:
        >>> write_splat(Gaussians3D.random(3, seed=0), tmp_path / "a.splat")
        >>> len(read_splat(tmp_path / "a.splat"))
        3
    """
    path = Path(path)
    size = path.stat().st_size
    if size % _ROW.itemsize:
        raise FileFormatError(path, "size", f"a multiple of {_ROW.itemsize} bytes", f"{size} bytes")
    rows = np.fromfile(path, _ROW)
    scales = rows["scale"].astype(np.float32)
    negative = (scales < 0).any(axis=1)
    if negative.any():
        first = int(negative.argmax())
        raise FileFormatError(path, f"Gaussian {first}, scale", ">= 0", str(scales[first].tolist()))
    rgba = torch.from_numpy(rows["rgba"].copy())
    quats = (torch.from_numpy(rows["quat"].copy()).float() - 128) / 128
    quats[(quats == 0).all(dim=1), 0] = 1.0
    gaussians = Gaussians3D(
        means=torch.from_numpy(rows["mean"].astype(np.float32)),
        quats=quats,
        log_scales=torch.from_numpy(scales).clamp(min=_MIN_SCALE).log(),
        opacity_logits=opacity_from_bytes(rgba[:, 3]),
        sh0=rgb_to_sh0(rgba[:, :3].float() / 255).unsqueeze(1),
    )
    warn_if_not_finite(path, gaussians.finite(), "Gaussians")
    return gaussians


def write_splat(gaussians: Gaussians3D, path: str | os.PathLike[str]) -> None:
    """Write a .splat file: colours and opacities in 8 bits, rotations in 4 x 8, bands above 0
    dropped.

    Args:
        gaussians: Any degree; NaN colours, opacities and rotations are written as 0.
        path: The file.

    Example:
        >>> write_splat(Gaussians3D.random(2, seed=0), tmp_path / "b.splat")
        >>> (tmp_path / "b.splat").stat().st_size
        64
    """
    with torch.no_grad():
        rgb = sh0_to_rgb(gaussians.sh0.float().squeeze(1))
        rgba = torch.cat((rgb, gaussians.opacities.float().unsqueeze(1)), dim=1)
        quats = torch.nn.functional.normalize(gaussians.quats.float(), dim=-1)
        rows = np.zeros(len(gaussians), _ROW)
        rows["mean"] = gaussians.means.float().cpu().numpy()
        rows["scale"] = gaussians.scales.float().cpu().numpy()
        rows["rgba"] = _to_bytes(255 * rgba)
        rows["quat"] = _to_bytes(128 + 128 * quats)
    with atomic_write(path) as file:
        file.write(rows.tobytes())


def _to_bytes(values: Tensor) -> np.ndarray:
    return values.nan_to_num(0.0).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
