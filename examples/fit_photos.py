# SPDX-License-Identifier: Apache-2.0
"""Fits Gaussians to photos with poses, watching the run, and measures them on held-out views.

    python examples/fit_photos.py photos/ scene.ply

Without photos, a still life is made and used.
"""

from __future__ import annotations

import sys

import fieldline as fl


def main(photos: str | None = None, target: str = "scene.ply", steps: int = 1000) -> float:
    """Writes the scene and returns its PSNR on the held-out views."""
    scene = fl.datasets.load(photos) if photos else fl.datasets.synthetic.still_life(24, 120, 90)
    print(scene)
    result = None
    for event in fl.fit_events(None, scene, steps=steps):
        if isinstance(event, fl.FitProgress):
            print(f"step {event.step}: loss {event.loss:.4f}, {event.n_splats} splats", end="\r")
        elif isinstance(event, fl.FitFinished):
            result = event.result
    assert result is not None and result.evaluation is not None
    print(f"\nheld-out PSNR {result.evaluation.psnr:.2f} dB after {result.seconds:.0f} s")
    fl.save(result.model, target)
    return result.evaluation.psnr


if __name__ == "__main__":
    main(*sys.argv[1:3])
