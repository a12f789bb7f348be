# SPDX-License-Identifier: Apache-2.0
"""The example scripts do what they say, on small inputs."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
from PIL import Image

import fieldline as fl

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def test_render_ply(tmp_path: Path) -> None:
    fl.save(fl.Gaussians3D.random(20, seed=0), tmp_path / "scene.ply")
    main = runpy.run_path(str(EXAMPLES / "render_ply.py"))["main"]
    main(str(tmp_path / "scene.ply"), str(tmp_path / "pictures"))
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 24


def test_fit_photos(tmp_path: Path) -> None:
    folder = fl.datasets.synthetic.write(tmp_path / "photos", 8, 40, 30, n_points=200)
    main = runpy.run_path(str(EXAMPLES / "fit_photos.py"))["main"]
    psnr = main(str(folder), str(tmp_path / "scene.ply"), steps=60)
    assert psnr > 10
    assert len(fl.load(tmp_path / "scene.ply")) >= 200


def test_dense_init(tmp_path: Path) -> None:
    main = runpy.run_path(str(EXAMPLES / "dense_init.py"))["main"]
    assert main(str(tmp_path / "sheet.png"), steps=40, size=(80, 60)) > 15
    assert (tmp_path / "sheet.png").stat().st_size > 5000


def test_differentiable_rendering() -> None:
    main = runpy.run_path(str(EXAMPLES / "differentiable_rendering.py"))["main"]
    assert main(steps=40) < 0.05


def test_radiance_field(data_dir: Path, tmp_path: Path) -> None:
    """A short run on small pictures: both estimators see the same."""
    module = runpy.run_path(str(EXAMPLES / "radiance_field.py"))
    options = module["Options"](
        str(data_dir / "nerf_synthetic" / "lego"),
        steps=100,
        downscale=16,
        resolution=32,
        finest=128,
        rays=128,
        views=1,
        repeats=1,
        picture=str(tmp_path / "views.png"),
        json=str(tmp_path / "figures.json"),
    )
    found = module["main"](options)
    assert found["occupancy"]["psnr"] > 12
    assert abs(found["occupancy"]["psnr"] - found["vdb"]["psnr"]) < 0.01
    assert found["vdb"]["grid_bytes"] < found["occupancy"]["grid_bytes"]
    assert found["occupancy"]["samples"] == found["vdb"]["samples"] > 0
    assert abs(found["two_pass"]["psnr"] - found["occupancy"]["psnr"]) < 0.3
    assert found["two_pass"]["samples"] > 0 and found["two_pass_speedup"] > 0
    assert (tmp_path / "views.png").stat().st_size > 1000
    saved = json.loads((tmp_path / "figures.json").read_text())
    assert saved["steps"] == 100
    assert saved["refined_masks"]["occ_thre"] in (*module["REFINED_THRESHOLDS"], None)


def test_segment_lidar(tmp_path: Path) -> None:
    """A coarse street, written as SemanticKITTI writes it, and a few steps."""
    frame = fl.datasets.synthetic.street(16, 256)
    frame.features().numpy().tofile(tmp_path / "000000.bin")
    ids = [10, 11, 15, 18, 20, 30, 31, 32, 40, 44, 48, 49, 50, 51, 70, 71, 72, 80, 81]
    np.array(ids, np.uint32)[frame.labels].tofile(tmp_path / "000000.label")
    main = runpy.run_path(str(EXAMPLES / "segment_lidar.py"))["main"]
    found = main(str(tmp_path / "000000.bin"), str(tmp_path / "out"), voxel_size=0.4, steps=30)
    assert found > 0.75
    assert len(fl.load(tmp_path / "out.ply")) == len(frame)
    assert Image.open(tmp_path / "out.png").size == (3 * 560, 560)
