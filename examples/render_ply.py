# SPDX-License-Identifier: Apache-2.0
"""Opens any file of Gaussians and renders it once around.

python examples/render_ply.py scene.ply pictures/
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from PIL import Image

import fieldline as fl


def main(source: str, folder: str) -> None:
    """Writes 24 PNG files."""
    splats = fl.load(source)
    flight = fl.CameraPath.circle(splats.bounds(), 24, width=640, height=480)
    Path(folder).mkdir(parents=True, exist_ok=True)
    for i, camera in enumerate(flight.cameras):
        with torch.no_grad():
            rgb = fl.render(splats, camera).rgb
        pixels = (rgb.clamp(0, 1) * 255).round().to(torch.uint8)
        Image.fromarray(pixels.numpy()).save(Path(folder) / f"{i:03d}.png")


if __name__ == "__main__":
    main(*sys.argv[1:3])
