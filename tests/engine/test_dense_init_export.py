# SPDX-License-Identifier: Apache-2.0
"""Initial splats as other programs read them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fieldline.datasets import Scene
from fieldline.datasets.synthetic import still_life
from fieldline.engine.dense_init import (
    DepthMaps,
    dense_init,
    gsplat_parameters,
    to_point_cloud,
    write_colmap,
)

import fieldline as fl


@pytest.fixture(scope="module")
def still() -> Scene:
    return still_life(n_views=6, width=60, height=45, n_points=200)


@pytest.fixture(scope="module")
def splats(still: Scene) -> fl.Gaussians3D:
    return dense_init(still, matcher=DepthMaps(), per_view=150)


@pytest.mark.parametrize("text", [False, True])
def test_colmap_model_comes_back(
    still: Scene, splats: fl.Gaussians3D, tmp_path: Path, text: bool
) -> None:
    scene_folder = fl.datasets.write_scene(still, tmp_path / "scene")
    (scene_folder / "transforms.json").unlink()
    write_colmap(splats, still, scene_folder / "sparse" / "0", text=text)
    again = fl.datasets.load(scene_folder)
    assert again.points is not None
    assert len(again.points) == len(splats)
    order, other = (p[p[:, 0].argsort()] for p in (again.points, splats.means.detach()))
    assert torch.allclose(order, other, atol=1e-5)
    assert again.point_colors is not None
    assert int(again.point_colors.float().std()) > 10
    for view, loaded in zip(still.views, again.views):
        assert torch.allclose(view.camera.world_to_camera, loaded.camera.world_to_camera, atol=1e-5)
        assert torch.allclose(view.camera.K, loaded.camera.K, atol=1e-4)
        assert torch.equal(view.image, loaded.image)
    with pytest.raises(ValueError, match="expected one without a model"):
        write_colmap(splats, still, scene_folder / "sparse" / "0")


def test_inria_ply_comes_back(splats: fl.Gaussians3D, tmp_path: Path) -> None:
    fl.save(splats, tmp_path / "splats.ply")
    again = fl.load(tmp_path / "splats.ply")
    for name, value in gsplat_parameters(splats).items():
        assert torch.allclose(gsplat_parameters(again)[name], value, atol=1e-6), name


def test_gsplat_tensors_render_the_same(still: Scene, splats: fl.Gaussians3D) -> None:
    plain = gsplat_parameters(splats)
    camera = still.views[0].camera
    image, _, _ = fl.rasterization(
        plain["means"],
        plain["quats"],
        plain["scales"].exp(),
        plain["opacities"].sigmoid(),
        torch.cat((plain["sh0"], plain["shN"]), dim=1),
        camera.world_to_camera[None],
        camera.K[None],
        camera.width,
        camera.height,
        sh_degree=3,
        packed=False,
    )
    assert torch.equal(image[0], fl.render(splats, camera).rgb)
    plain["means"].zero_()
    assert float(splats.means.abs().max()) > 0, "they are copies"


def test_points_have_normals(splats: fl.Gaussians3D, tmp_path: Path) -> None:
    cloud = to_point_cloud(splats)
    assert cloud.normals is not None
    assert torch.allclose(cloud.normals.norm(dim=-1), torch.ones(len(splats)), atol=1e-4)
    table = splats.means.detach()[:, 2].abs() < 2e-3
    assert float(cloud.normals[table, 2].abs().median()) > 0.98
    fl.save(cloud, tmp_path / "points.ply")
    again = fl.load(tmp_path / "points.ply")
    assert torch.allclose(again.points, cloud.points)
