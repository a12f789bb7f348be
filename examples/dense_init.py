# SPDX-License-Identifier: Apache-2.0
"""Dense initialisation: splats on all surfaces before the first training step.

    python examples/dense_init.py                    a scene made here, half a minute on two cores
    python examples/dense_init.py sheet.png          and a picture of each stage

The picture shows, for two held-out views: the truth, the splats that training starts from, and
those it ends with; and for two training views their depth and the matcher's confidence.
"""

from __future__ import annotations

import sys

import torch
from fieldline.engine.dense_init import PlaneSweep
from fieldline.engine.dense_init.neighbours import choose_neighbours, view_graph
from torch import Tensor

import fieldline as fl


def psnr(model: fl.Gaussians3D, scene: fl.datasets.Scene) -> float:
    """Mean over the held-out views, dB."""
    return fl.evaluate(model, scene, lpips=False).psnr


def picture(model: fl.Gaussians3D, camera: fl.Camera) -> Tensor:
    """A rendering as uint8 [H, W, 3]."""
    with torch.no_grad():
        return (255 * fl.render(model, camera).rgb.clamp(0, 1)).to(torch.uint8)


def matched(scene: fl.datasets.Scene, number: int) -> list[Tensor]:
    """A training view, its depth and the matcher's confidence, as pictures."""
    from matplotlib import colormaps

    neighbours = choose_neighbours(view_graph(scene, scene.train, seed=0), 4)
    near = [[scene.train[j] for j in some] for some in neighbours]
    matcher = PlaneSweep()
    matcher.prepare(scene, scene.train, near)
    found = matcher.match(scene.train[number], near[number])
    assert found.depth is not None
    seen = found.depth > 0
    low, high = found.depth[seen].quantile(torch.tensor([0.02, 0.98])).tolist()
    scaled = ((found.depth - low) / (high - low)).clamp(0, 1)
    depth = torch.from_numpy(colormaps["turbo"](scaled.numpy())[..., :3]) * seen[..., None]
    shades = found.confidence[..., None].expand(-1, -1, 3)
    pictures = [(255 * values).to(torch.uint8) for values in (depth, shades)]
    return [scene.train[number].image[..., :3], *pictures]


def main(sheet: str | None = None, steps: int = 1500, size: tuple[int, int] = (240, 180)) -> float:
    """Prints PSNR before and after training, and returns the last."""
    scene = fl.datasets.synthetic.still_life(48, *size, n_points=1500, seed=0)
    splats, report = fl.dense_init(scene, max_points=15_000, sh_degree=1, return_report=True)
    shown = scene.test[1:3]
    stages = [[view.image[..., :3], picture(splats, view.camera)] for view in shown]
    print(f"{len(splats)} splats in {report.seconds:.1f} s: {psnr(splats, scene):.2f} dB untrained")
    result = fl.fit(splats, scene, steps=steps, strategy="decay")
    last = psnr(result.model, scene)
    print(f"{len(result.model)} splats after {steps} steps: {last:.2f} dB")
    if sheet is not None:
        from PIL import Image

        rows = [
            torch.cat([*row, picture(result.model, view.camera)], dim=1)
            for row, view in zip(stages, shown)
        ]
        rows += [torch.cat(matched(scene, number), dim=1) for number in (4, 20)]
        Image.fromarray(torch.cat(rows).numpy()).save(sheet)
    return last


if __name__ == "__main__":
    main(*sys.argv[1:2])
