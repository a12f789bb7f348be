# SPDX-License-Identifier: Apache-2.0
"""Cameras: projection and its inverse in each model, the conventions of others, bad input."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from fieldline.representations import Camera, intrinsics_matrix, quaternion_to_matrix
from hypothesis import given
from hypothesis import strategies as st

MODELS = ("pinhole", "ortho", "fisheye")
SEEDS = st.integers(0, 2**31)


def random_camera(seed: int, model: str, batch: tuple[int, ...] = ()) -> Camera:
    """A camera anywhere, turned any way, with an off-centre principal point, in float64."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*batch, *shape, generator=generator, dtype=torch.float64)

    pose = torch.zeros(*batch, 4, 4, dtype=torch.float64)
    pose[..., :3, :3] = quaternion_to_matrix(draw(4))
    pose[..., :3, 3] = 3 * draw(3)
    pose[..., 3, 3] = 1
    fx, fy = (40 + 60 * torch.sigmoid(draw(2))).unbind(-1)
    cx, cy = (torch.tensor([16.0, 12.0]) + 2 * draw(2)).unbind(-1)
    return Camera(pose, intrinsics_matrix(fx, fy, cx, cy), 32, 24, model)  # type: ignore[arg-type]


def reference_projection(camera: Camera, point: torch.Tensor) -> tuple[float, float, float]:
    """One point, with plain numbers, straight from the definitions."""
    x, y, z, _ = (camera.world_to_camera @ torch.cat((point, point.new_ones(1)))).tolist()
    fx, fy, cx, cy = (float(camera.K[i, j]) for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    if camera.model == "pinhole":
        x, y = x / z, y / z
    elif camera.model == "fisheye":
        theta, phi = math.atan2(math.hypot(x, y), z), math.atan2(y, x)
        x, y = theta * math.cos(phi), theta * math.sin(phi)
    return fx * x + cx, fy * y + cy, z


@pytest.mark.parametrize("model", MODELS)
@given(seed=SEEDS)
def test_project_agrees_with_the_definition(model: str, seed: int) -> None:
    camera = random_camera(seed, model)
    generator = torch.Generator().manual_seed(seed)
    point = 4 * torch.randn(3, generator=generator, dtype=torch.float64)
    xy, depth = camera.project(point[None])
    u, v, z = reference_projection(camera, point)
    assert float(depth) == pytest.approx(z, abs=1e-12)
    if abs(z) > 1e-6:
        assert xy[0].tolist() == pytest.approx([u, v], rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("model", MODELS)
@given(seed=SEEDS, distance=st.floats(0.1, 100))
def test_points_along_a_pixels_ray_project_to_that_pixel(
    model: str, seed: int, distance: float
) -> None:
    camera = random_camera(seed, model, (2,))
    origins, directions = camera.rays()
    assert origins.shape == directions.shape == (2, 24, 32, 3)
    torch.testing.assert_close(directions.norm(dim=-1), torch.ones_like(directions[..., 0]))
    points = (origins + distance * directions).flatten(1, 2)
    xy, depth = camera.project(points)
    expected = camera.pixel_centers().reshape(-1, 2).expand(2, -1, -1)
    torch.testing.assert_close(xy, expected, rtol=0, atol=1e-8)
    assert bool((depth > 0).all())


@pytest.mark.parametrize("model", MODELS)
def test_rays_take_image_positions(model: str) -> None:
    camera = random_camera(7, model)
    everywhere = camera.rays()
    chosen = camera.rays(torch.tensor([[0.5, 0.5], [31.5, 23.5]], dtype=torch.float64))
    for all_rays, some in zip(everywhere, chosen):
        torch.testing.assert_close(some, torch.stack((all_rays[0, 0], all_rays[-1, -1])))


def test_fisheye_sees_behind_itself_and_stops_at_pi() -> None:
    K = intrinsics_matrix(10.0, 10.0, 50.0, 50.0)
    camera = Camera(torch.eye(4), K, 100, 100, "fisheye")
    xy, depth = camera.project(torch.tensor([[1.0, 0.0, -1.0]]))
    assert xy[0].tolist() == pytest.approx([50 + 10 * 0.75 * math.pi, 50.0], rel=1e-6)
    assert float(depth) == -1
    _, directions = camera.rays(torch.tensor([[99.0, 99.0]]))
    torch.testing.assert_close(directions, torch.tensor([[0.0, 0.0, -1.0]]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("model", MODELS)
def test_projection_and_rays_have_exact_gradients(model: str) -> None:
    camera = random_camera(3, model)
    on_axis = camera.center + 2 * camera.world_to_camera[2, :3]
    # The optical axis is where a naive fisheye divides zero by zero.
    points = torch.stack((on_axis, on_axis + camera.world_to_camera[0, :3]))

    def project(points: torch.Tensor, pose: torch.Tensor, K: torch.Tensor) -> torch.Tensor:
        return Camera(pose, K, 32, 24, camera.model).project(points)[0]

    def rays(pose: torch.Tensor, K: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return Camera(pose, K, 3, 2, camera.model).rays()

    arguments = [t.clone().requires_grad_() for t in (points, camera.world_to_camera, camera.K)]
    assert torch.autograd.gradcheck(project, arguments, atol=1e-5)
    assert torch.autograd.gradcheck(rays, arguments[1:], atol=1e-5)


def test_opengl_looks_down_minus_z_with_y_up() -> None:
    K = intrinsics_matrix(100.0, 100.0, 32.0, 24.0)
    camera = Camera.from_opengl(torch.eye(4), K, 64, 48)
    xy, depth = camera.project(torch.tensor([[0.0, 0, -5], [1, 0, -5], [0, 1, -5], [0, 0, 5]]))
    assert depth.tolist() == [5, 5, 5, -5]
    assert xy[:3].tolist() == [[32, 24], [52, 24], [32, 4]]


@pytest.mark.parametrize("model", MODELS)
@given(seed=SEEDS)
def test_conventions_round_trip(model: str, seed: int) -> None:
    camera = random_camera(seed, model, (3,))
    size = (camera.width, camera.height, camera.model)
    opengl = Camera.from_opengl(camera.to_opengl(), camera.K, *size)
    colmap = Camera.from_colmap(*camera.to_colmap(), camera.K, *size)
    nerfstudio = Camera.from_nerfstudio(**camera.to_nerfstudio())
    for other in (opengl, colmap, nerfstudio):
        torch.testing.assert_close(other.world_to_camera, camera.world_to_camera)
        torch.testing.assert_close(other.K, camera.K)
        assert (other.width, other.height, other.model) == size


@given(seed=SEEDS)
def test_conventions_agree_on_where_the_camera_is(seed: int) -> None:
    camera = random_camera(seed, "pinhole")
    flip = torch.diag(torch.tensor([1.0, -1, -1, 1], dtype=torch.float64))
    inverse = torch.linalg.inv(camera.world_to_camera)
    torch.testing.assert_close(camera.camera_to_world, inverse)
    torch.testing.assert_close(camera.to_opengl(), inverse @ flip)
    torch.testing.assert_close(camera.center, inverse[:3, 3])
    torch.testing.assert_close(camera.to_opengl()[:3, 3], camera.center)
    qvec, tvec = camera.to_colmap()
    assert float(qvec[0]) >= 0
    rotation = quaternion_to_matrix(qvec)
    torch.testing.assert_close(-rotation.T @ tvec, camera.center)


def test_colmap_model_of_real_photographs_reprojects(data_dir: Path) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    model = pycolmap.Reconstruction(str(data_dir / "gs" / "fern_colmap" / "sparse" / "0"))
    errors = []
    for image in model.images.values():
        pose = torch.as_tensor(image.cam_from_world().matrix())
        lens = model.cameras[image.camera_id]
        K = torch.as_tensor(lens.calibration_matrix())
        camera = Camera(torch.cat((pose, pose.new_tensor([[0, 0, 0, 1]]))), K, *lens_size(lens))
        qvec, tvec = camera.to_colmap()
        xyzw = torch.as_tensor(image.cam_from_world().rotation.quat)
        expected = xyzw.roll(1) * xyzw[3].sign()
        torch.testing.assert_close(qvec, expected)
        seen = [p for p in image.points2D if p.has_point3D()]
        points = torch.stack([torch.as_tensor(model.points3D[p.point3D_id].xyz) for p in seen])
        xy = torch.stack([torch.as_tensor(p.xy) for p in seen])
        camera = Camera.from_colmap(qvec, tvec, K, *lens_size(lens))
        errors.append((camera.project(points)[0] - xy).norm(dim=-1))
    # The model's own mean reprojection error is 0.74 px.
    assert 0.6 < float(torch.cat(errors).mean()) < 0.85


def lens_size(lens: object) -> tuple[int, int]:
    return lens.width, lens.height  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["PINHOLE", "OPENCV_FISHEYE"])
def test_models_agree_with_colmap(name: str) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    parameters = [50.0, 60.0, 31.0, 23.0] + [0.0] * (4 if name == "OPENCV_FISHEYE" else 0)
    lens = pycolmap.Camera(model=name, width=64, height=48, params=parameters)
    K = intrinsics_matrix(*torch.tensor(parameters[:4], dtype=torch.float64))
    model = "fisheye" if name == "OPENCV_FISHEYE" else "pinhole"
    camera = Camera(torch.eye(4, dtype=torch.float64), K, 64, 48, model)
    points = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    points[:, 2] = points[:, 2].abs() + 0.1
    expected = torch.as_tensor(lens.img_from_cam(points.numpy()))
    torch.testing.assert_close(camera.project(points)[0], expected)


@given(seed=SEEDS)
def test_look_at(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    eye, target, up = torch.randn(3, 5, 3, generator=generator, dtype=torch.float64)
    camera = Camera.look_at(eye, target, up, fov_y=0.8, width=40, height=30)
    torch.testing.assert_close(camera.center, eye)
    torch.testing.assert_close(camera.fov_y, torch.full_like(camera.fov_y, 0.8))
    xy, depth = camera.project(torch.stack((target, target + 0.01 * up), dim=1))
    middle = xy.new_tensor([20.0, 15.0]).expand(5, 2)
    torch.testing.assert_close(xy[:, 0], middle)
    torch.testing.assert_close(depth[:, 0], (target - eye).norm(dim=-1))
    assert bool((xy[:, 1, 1] < xy[:, 0, 1]).all())
    rotation = camera.world_to_camera[..., :3, :3]
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(5, dtype=torch.float64))


def test_look_at_along_up_still_gives_a_rotation() -> None:
    camera = Camera.look_at((0, 0, 4), (0, 0, 0), (0, 0, 1), focal=10, width=8, height=8)
    rotation = camera.world_to_camera[:3, :3]
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(3))
    assert camera.project(torch.zeros(1, 3))[0].tolist() == [[4, 4]]


@pytest.mark.parametrize("model", MODELS)
def test_resized_keeps_the_view(model: str) -> None:
    camera = random_camera(1, model)
    half = camera.resized(16, 6)
    points = camera.center + 2 * camera.world_to_camera[2, :3] + torch.rand(20, 3).double() / 4
    xy, half_xy = camera.project(points)[0], half.project(points)[0]
    torch.testing.assert_close(half_xy, xy * torch.tensor([0.5, 0.25], dtype=torch.float64))
    assert (half.width, half.height) == (16, 6)
    torch.testing.assert_close(half.resized(32, 24).K, camera.K)


@pytest.mark.parametrize("model", MODELS)
def test_a_batch_is_its_cameras(model: str) -> None:
    batch = random_camera(5, model, (2, 3))
    points = torch.rand(7, 3, dtype=torch.float64)
    xy, depth = batch.project(points)
    origins, directions = batch.rays()
    assert len(batch) == 2 and xy.shape == (2, 3, 7, 2)
    for i, row in enumerate(batch):
        for j, camera in enumerate(row):
            assert camera.shape == ()
            torch.testing.assert_close(camera.project(points)[0], xy[i, j])
            torch.testing.assert_close(camera.project(points)[1], depth[i, j])
            torch.testing.assert_close(camera.rays()[0], origins[i, j])
            torch.testing.assert_close(camera.rays()[1], directions[i, j])
    assert torch.equal(Camera.stack(list(batch)).K, batch.K)
    mask = torch.tensor([[True, False, True], [False, False, False]])
    assert batch[mask].shape == (2,) and batch[1, 2].shape == () and batch[:1].shape == (1, 3)
    assert batch.to(torch.float32).dtype == torch.float32


def test_a_slightly_rough_rotation_is_straightened() -> None:
    pose = torch.eye(4)
    pose[:3, :3] += 1e-3 * torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    rotation = Camera.from_opengl(pose, torch.eye(3), 8, 8).world_to_camera[:3, :3]
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(3), atol=1e-6, rtol=0)


def with_entry(row: int, column: int, value: float) -> torch.Tensor:
    matrix = torch.eye(4)
    matrix[row, column] = value
    return matrix


@pytest.mark.parametrize(
    ("pose", "message"),
    [
        (with_entry(0, 0, math.nan), "finite"),
        (with_entry(0, 3, math.inf), "finite"),
        (2 * torch.eye(4), r"last row|rotation"),
        (with_entry(0, 0, 2.0), "rotation"),
        (with_entry(0, 0, -1.0), "reflection"),
        (with_entry(3, 0, 5.0), "last row"),
        (torch.eye(3), r"\[\.\.\., 4, 4\]"),
    ],
)
def test_poses_that_are_none(pose: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Camera.from_opengl(pose, torch.eye(3), 8, 8)


def test_errors_name_the_argument() -> None:
    eye4, eye3 = torch.eye(4), torch.eye(3)
    bad: list[tuple[str, tuple]] = [
        ("world_to_camera", (torch.eye(3), eye3, 8, 8)),
        ("world_to_camera", (eye4.int(), eye3, 8, 8)),
        ("K", (eye4, eye4, 8, 8)),
        ("K", (eye4, eye3.double(), 8, 8)),
        ("K", (eye4.expand(2, 4, 4), eye3, 8, 8)),
        ("width", (eye4, eye3, 0, 8)),
        ("height", (eye4, eye3, 8, 8.0)),
        ("model", (eye4, eye3, 8, 8, "panorama")),
    ]
    for name, arguments in bad:
        with pytest.raises(ValueError, match=f"Camera: {name}"):
            Camera(*arguments)
    camera = Camera(eye4, eye3, 8, 8)
    with pytest.raises(ValueError, match="points"):
        camera.project(torch.zeros(3))
    with pytest.raises(TypeError, match="single camera"):
        len(camera)
    with pytest.raises(IndexError, match="single camera"):
        camera[0]
    with pytest.raises(ValueError, match="at least one"):
        Camera.stack([])
    with pytest.raises(ValueError, match=r"cameras\[1\]"):
        Camera.stack([camera, camera.resized(4, 4)])
    with pytest.raises(ValueError, match="qvec"):
        Camera.from_colmap(torch.zeros(4), torch.zeros(3), eye3, 8, 8)
    with pytest.raises(ValueError, match="camera_type"):
        Camera.from_nerfstudio(eye4, 1, 1, 1, 1, 8, 8, camera_type=3)
    with pytest.raises(ValueError, match="other than eye"):
        Camera.look_at((1, 1, 1), (1, 1, 1), focal=1, width=8, height=8)
    with pytest.raises(ValueError, match="radians"):
        Camera.look_at((1, 1, 1), (0, 0, 0), fov_y=45, width=8, height=8)
    with pytest.raises(ValueError, match="exactly one"):
        Camera.look_at((1, 1, 1), (0, 0, 0), width=8, height=8)
