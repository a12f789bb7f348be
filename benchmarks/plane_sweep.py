# SPDX-License-Identifier: Apache-2.0
"""Plane sweep: CPU time of a view, and depth against points and true depth.

    python benchmarks/plane_sweep.py              all that this machine can measure
    python benchmarks/plane_sweep.py cpu --json   one section, as JSON

- ``cpu``: one 353 x 264 view, 96 planes, 4 neighbours, 2 sizes, aggregation included, on one
  thread: each operator, and the matcher as a whole (both sizes, consistency, normals).
- ``fern``: LLFF fern at half size against its own SfM points, in every view that observed them.
  "all" are all observations; "reliable" those of points in three views or more with a reprojection
  error of at most one pixel at full size, the ones fit to judge a percent of depth.
- ``depth``: against true depth: the still life made here, `pi3_room_rgbd` (8 views, most farther
  apart than the room is deep) and `7scenes_rgbd` (colour taken with 525 pixels of focal length
  where the depth camera has 585; the two are not registered, so that a few percent are its own).

No setting differs between scenes. Real data is at FIELDLINE_DATA; what is absent is left out.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parent))

from common import DATA, Seconds, arguments, best_of, clock, record, threads
from fieldline.cuda.match import ops
from fieldline.datasets import Scene, View, synthetic
from fieldline.engine.dense_init.plane_sweep import PlaneSweep, plane_warp
from fieldline.representations.cameras import Camera

import fieldline as fl

SECTIONS = ("cpu", "fern", "depth")
FERN = DATA / "gs" / "fern_colmap"
TARGETS = {"cpu_seconds": 1.0, "kept": 0.60, "median": 0.009, "beyond_5_percent": 0.035}


def nearest(scene: Scene, index: int, count: int = 4) -> list[View]:
    """Neighbours by distance (in units of the median one) and viewing direction."""
    centers = scene.centers
    axes = torch.stack([view.camera.world_to_camera[2, :3] for view in scene.views])
    unit = torch.cdist(centers, centers).median().clamp(min=1e-9)
    score = (centers - centers[index]).norm(dim=1) / unit + 2 * (1 - axes @ axes[index])
    score[index] = torch.inf
    return [scene.views[i] for i in score.argsort()[:count].tolist()]


def time_view(repeats: int) -> dict[str, Any]:
    """Each operator on one fern view, and the matcher over all views."""
    scene = fl.datasets.load(FERN, downscale=2)
    view, others = scene.views[5], nearest(scene, 5)
    matcher = PlaneSweep()
    matcher.prepare(scene, [view], [others])
    near, far = matcher._range(view)
    greys = [ops.grey_image(v.rgb()) for v in (view, *others)]
    warps = torch.stack([plane_warp(view.camera, v.camera) for v in others])
    planes = torch.linspace(1 / far, 1 / near, 96)
    cost = ops.plane_sweep(greys[0], greys[1:], warps, planes)
    total = ops.semi_global(cost, greys[0])
    parts = {
        "plane_sweep_fine": lambda: ops.plane_sweep(greys[0], greys[1:], warps, planes),
        "semi_global": lambda: ops.semi_global(cost, greys[0]),
        "winner": lambda: ops.winner(total, cost),
    }
    found: dict[str, Any] = {"size": [view.width, view.height], "planes": 96}
    with threads(1):
        found |= {name: round(best_of(f, repeats).cpu, 4) for name, f in parts.items()}
        found["matcher_per_view"] = round(match_all(scene)[1].cpu / len(scene.views), 4)
    return found


def match_all(scene: Scene) -> tuple[list[tuple[View, Tensor, Tensor]], Seconds]:
    """Depth and confidence of every view, and the time of it all."""
    neighbours = [nearest(scene, i) for i in range(len(scene.views))]
    for view in scene.views:
        view.rgb()  # Decoding is not matching.
    matcher, found = PlaneSweep(), []

    def run() -> None:
        matcher.prepare(scene, scene.views, neighbours)
        for view, others in zip(scene.views, neighbours):
            result = matcher.match(view, others)
            assert result.depth is not None
            found.append((view, result.depth, result.confidence))

    seconds = clock(run)
    return found, seconds


def statistics(kept: Tensor, error: Tensor) -> dict[str, Any]:
    """Shares of the judged pixels that are kept, and of those within bounds."""
    e = error[kept]
    return {
        "judged": kept.numel(),
        "kept": round(float(kept.double().mean()), 4),
        "median": round(float(e.median()), 5) if len(e) else None,
        "within_1_percent": round(float((e < 0.01).double().mean()), 4),
        "within_2_percent": round(float((e < 0.02).double().mean()), 4),
        "beyond_5_percent": round(float((e > 0.05).double().mean()), 4),
    }


def against_points() -> dict[str, Any]:
    """Fern, at the observations of its SfM points."""
    import pycolmap

    scene = fl.datasets.load(FERN, downscale=2)
    model: Any = pycolmap.Reconstruction(str(FERN / "sparse" / "0"))
    images = {Path(image.name).name: image for image in model.images.values()}
    rows = []
    for view, depth, confidence in match_all(scene)[0]:
        seen = [p.point3D_id for p in images[Path(view.name).name].points2D if p.has_point3D()]
        points = [model.points3D[i] for i in seen]
        xy, z = view.camera.project(torch.from_numpy(np.array([p.xyz for p in points])).float())
        good = torch.tensor([p.track.length() >= 3 and p.error <= 1.0 for p in points])
        inside = (xy >= 0).all(-1) & (xy[:, 0] < view.width) & (xy[:, 1] < view.height) & (z > 0)
        x, y = xy[inside].long().unbind(-1)
        z = z[inside]
        rows.append((confidence[y, x] > 0, (depth[y, x] - z).abs() / z, good[inside]))
    kept, error, good = (torch.cat(column) for column in zip(*rows))
    return {
        "all": statistics(kept, error),
        "reliable": statistics(kept[good], error[good]),
        "reliable_share": round(float(good.double().mean()), 4),
    }


def room() -> Scene:
    folder = DATA / "multiview" / "pi3_room_rgbd"
    data = np.load(folder / "condition.npz")
    views = []
    for i, path in enumerate(sorted(folder.glob("*.png"))):
        image = torch.from_numpy(np.array(Image.open(path).convert("RGB")))
        pose = torch.linalg.inv(torch.from_numpy(data["poses"][i]).double()).float()
        K = torch.from_numpy(data["intrinsics"][i]).float()
        camera = Camera(pose, K, image.shape[1], image.shape[0])
        depth = torch.from_numpy(data["depths"][i]).float()
        views.append(View(path.name, camera, image, depth=depth))
    return Scene(views)


def seven_scenes(focal: float = 525.0) -> Scene:
    folder = DATA / "multiview" / "7scenes_rgbd"
    views = []
    for path in sorted(folder.glob("*.color.jpg"))[:40:2]:
        stem = str(path).removesuffix(".color.jpg")
        image = torch.from_numpy(
            np.array(Image.open(path).resize((320, 240), Image.Resampling.BOX))
        )
        depth = np.array(Image.open(f"{stem}.depth.png"))[::2, ::2].astype(np.float32)
        depth[depth == 65535] = 0
        K = torch.tensor([[focal / 2, 0, 160], [0, focal / 2, 120], [0, 0, 1]])
        pose = torch.linalg.inv(torch.from_numpy(np.loadtxt(f"{stem}.pose.txt"))).float()
        camera = Camera(pose, K, 320, 240)
        views.append(View(path.name, camera, image, depth=torch.from_numpy(depth / 1000)))
    return Scene(views)


def against_depth(scene: Scene) -> dict[str, Any]:
    """At every pixel whose depth is known."""
    found, seconds = match_all(scene)
    kept, error = [], []
    for view, depth, confidence in found:
        assert view.depth is not None
        known = view.depth > 0
        kept.append((confidence > 0)[known])
        error.append(((depth - view.depth).abs() / view.depth.clamp(min=1e-9))[known])
    cpu = {"views": len(found), "cpu_seconds_per_view": round(seconds.cpu / len(found), 3)}
    return statistics(torch.cat(kept), torch.cat(error)) | cpu


def depth_section() -> dict[str, Any]:
    results = {
        "still_life_with_points": against_depth(synthetic.still_life(n_views=48)),
        "still_life_without_points": against_depth(synthetic.still_life(n_views=48, n_points=0)),
    }
    for name, make in (("pi3_room_rgbd", room), ("7scenes_rgbd", seven_scenes)):
        if (DATA / "multiview" / name).is_dir():
            results[name] = against_depth(make())
    return results


def main() -> None:
    parser = arguments("Plane sweep: CPU time and accuracy.", SECTIONS)
    options = parser.parse_args()
    chosen = options.sections or SECTIONS
    if unknown := set(chosen) - set(SECTIONS):
        parser.error(f"unknown sections: {', '.join(sorted(unknown))}")
    results: dict[str, Any] = {"targets": TARGETS}
    with threads(1):
        if "cpu" in chosen and FERN.is_dir():
            results["cpu"] = time_view(options.repeats)
        if "fern" in chosen and FERN.is_dir():
            results["fern"] = against_points()
        if "depth" in chosen:
            results["depth"] = depth_section()
    text = record("plane_sweep_cpu", results, options.output, ("pycolmap", "numpy"))
    print(text if options.json else json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
