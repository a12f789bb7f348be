# SPDX-License-Identifier: Apache-2.0
"""Lenses: the formulas, and that an undistorted image shows things where a pinhole would."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from fieldline.datasets import View, load
from fieldline.datasets.undistort import Lens, Undistortion
from hypothesis import given
from hypothesis import strategies as st

from fieldline import FileFormatError

FX, FY, CX, CY = 90.0, 88.0, 78.0, 63.0
WIDTH, HEIGHT = 160, 120

# name: (transforms.json fields, COLMAP model id, COLMAP's parameters after focal lengths and
# centre, whether COLMAP's model has one focal length)
LENSES = {
    "simple radial": ({"k1": -0.12}, 2, [-0.12], True),
    "radial": ({"k1": -0.1, "k2": 0.03}, 3, [-0.1, 0.03], True),
    "opencv": (
        {"k1": -0.1, "k2": 0.02, "p1": 0.004, "p2": -0.006},
        4,
        [-0.1, 0.02, 0.004, -0.006],
        False,
    ),
    "full opencv": (
        {"camera_model": "FULL_OPENCV"}
        | dict(zip(("k1", "k2", "p1", "p2"), (0.1, 0.02, 0.002, 0.003)))
        | dict(zip(("k3", "k4", "k5", "k6"), (0.01, 0.15, 0.03, 0.01))),
        6,
        [0.1, 0.02, 0.002, 0.003, 0.01, 0.15, 0.03, 0.01],
        False,
    ),
    "fisheye": (
        {"camera_model": "OPENCV_FISHEYE", "k1": -0.05, "k2": 0.01, "k3": -0.003, "k4": 0.001},
        5,
        [-0.05, 0.01, -0.003, 0.001],
        False,
    ),
    "equidistant": ({"is_fisheye": True}, 15, [], False),
}


def distort(name: str, x: float, y: float) -> tuple[float, float]:
    """The models again, one point at a time, as COLMAP's and OpenCV's documentation write them."""
    fields = LENSES[name][0]
    k1, k2, k3, k4, k5, k6, p1, p2 = (
        float(fields.get(key, 0.0)) for key in ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")
    )
    r2 = x * x + y * y
    if name in ("fisheye", "equidistant"):
        theta = math.atan(math.sqrt(r2))
        t2 = theta * theta
        bent = theta * (1 + k1 * t2 + k2 * t2**2 + k3 * t2**3 + k4 * t2**4)
        return x * bent / math.sqrt(r2), y * bent / math.sqrt(r2)
    radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
    if name == "full opencv":
        radial /= 1 + k4 * r2 + k5 * r2**2 + k6 * r2**3
    return (
        x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
        y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
    )


def lens_of(name: str) -> Lens:
    fields, _, rest, _ = LENSES[name]
    if name in ("fisheye", "equidistant"):
        return Lens("fisheye", tuple(rest))
    if name == "full opencv":
        return Lens("brown", (0.1, 0.02, 0.01), (0.002, 0.003), (0.15, 0.03, 0.01))
    tangential = (float(fields.get("p1", 0.0)), float(fields.get("p2", 0.0)))
    return Lens("brown", (float(fields["k1"]), float(fields.get("k2", 0.0))), tangential)


@pytest.mark.parametrize("name", LENSES)
def test_formulas(name: str) -> None:
    xy = torch.rand(50, 2, dtype=torch.float64) * 1.6 - 0.8
    expected = [distort(name, x, y) for x, y in xy.tolist()]
    torch.testing.assert_close(lens_of(name).distort(xy), torch.tensor(expected).double())
    assert lens_of(name).distort(torch.zeros(1, 2)).tolist() == [[0.0, 0.0]]


# Directions of the lights in the picture, X/Z and Y/Z.
LIGHTS = [(0.0, 0.05), (-0.5, -0.4), (0.55, 0.35), (0.3, -0.45), (-0.6, 0.3)]


def lights_through(name: str) -> np.ndarray:
    """What a camera with the lens sees of a few small lights: blobs where the lens puts them."""
    one_focal = LENSES[name][3]
    fy = FX if one_focal else FY
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    picture = np.zeros((HEIGHT, WIDTH))
    for light in LIGHTS:
        u, v = distort(name, *light)
        picture += np.exp(-0.5 * ((x - FX * u - CX) ** 2 + (y - fy * v - CY) ** 2) / 1.8**2)
    return np.repeat(np.round(250 * picture.clip(0, 1))[..., None], 3, axis=-1).astype(np.uint8)


def check_lights(view: View) -> None:
    """Each blob's centre must be where the view's own pinhole camera projects its direction."""
    image = view.image[..., 0].double()
    y, x = torch.meshgrid(
        torch.arange(view.height) + 0.5, torch.arange(view.width) + 0.5, indexing="ij"
    )
    to_world = view.camera.camera_to_world
    for light in LIGHTS:
        direction = torch.tensor([[*light, 1.0]]) @ to_world[:3, :3].T
        xy, _ = view.camera.project(view.camera.center + 5 * direction)
        u, v = xy[0].double()
        near = ((x - u) ** 2 + (y - v) ** 2) < 8**2
        weight = image * near
        assert float(weight.max()) > 100, f"no blob near {light}"
        center = torch.stack(((weight * x).sum(), (weight * y).sum())) / weight.sum()
        assert float((center - xy[0]).norm()) < 0.25, light


@pytest.mark.parametrize("name", LENSES)
def test_transforms_are_undistorted(name: str, make_folder: Callable) -> None:
    folder = make_folder()
    fields, _, _, one_focal = LENSES[name]
    folder.content |= fields
    folder.content |= {"w": WIDTH, "h": HEIGHT, "fl_x": FX, "fl_y": FX if one_focal else FY}
    folder.content |= {"cx": CX, "cy": CY}
    from PIL import Image

    for i in range(9):
        Image.fromarray(lights_through(name)).save(folder.path / f"images/{i}.png")
    scene = load(folder.save())
    assert (scene.views[0].width, scene.views[0].height) == (WIDTH, HEIGHT)
    assert scene.views[0].camera.K[0, 0] == FX
    check_lights(scene.views[2])


@pytest.mark.parametrize("name", LENSES)
def test_colmap_models_are_undistorted(name: str, make_colmap: Callable) -> None:
    pytest.importorskip("pycolmap")
    _, model, rest, one_focal = LENSES[name]
    focal = (FX,) if one_focal else (FX, FY)
    path = make_colmap(model=model, params=(*focal, CX, CY, *rest), image=lights_through(name))
    # The helper writes a camera of 32 x 24; this one is of 160 x 120.
    cameras = bytearray((path / "sparse/0/cameras.bin").read_bytes())
    cameras[16:32] = np.array([WIDTH, HEIGHT], "<u8").tobytes()
    (path / "sparse/0/cameras.bin").write_bytes(cameras)
    scene = load(path)
    assert scene.views[1].camera.K[1, 1] == (FX if one_focal else FY)
    check_lights(scene.views[1])


def test_mask_marks_what_the_lens_did_not_see() -> None:
    # Pincushion: the pinhole's corners look outside the distorted image.
    undistortion = Undistortion(Lens("brown", (0.3,)), (FX, FX), (80.0, 60.0), WIDTH, HEIGHT)
    grid, valid = undistortion.maps()
    assert bool(valid[60, 80]) and not bool(valid[0, 0])
    inside = (grid.abs() <= 1).all(dim=-1)
    assert torch.equal(valid, inside)
    # Barrel: every pinhole pixel has a source.
    assert bool(
        Undistortion(Lens("brown", (-0.2,)), (FX, FX), (80, 60), WIDTH, HEIGHT).maps()[1].all()
    )


def test_folding_back_is_not_valid() -> None:
    # r (1 - r^2 / 2) falls beyond r = sqrt(2 / 3): there the model shows the image a second time.
    lens = Lens("brown", (-0.5,))
    assert lens.largest_radius(2.0) == pytest.approx(math.sqrt(2 / 3), abs=1e-3)
    undistortion = Undistortion(lens, (40.0, 40.0), (80.0, 60.0), WIDTH, HEIGHT)
    grid, valid = undistortion.maps()
    assert bool(((grid.abs() < 1).all(dim=-1) & ~valid).any())
    x = (torch.arange(WIDTH) + 0.5 - 80) / 40
    y = (torch.arange(HEIGHT) + 0.5 - 60) / 40
    radius = torch.hypot(*torch.meshgrid(x, y, indexing="xy"))
    assert float(radius[valid].max()) <= math.sqrt(2 / 3) + 1e-3


def test_a_lens_that_shows_nothing(folder, tmp_path: Path) -> None:
    folder.content["k1"] = -1e9
    scene = load(folder.save())
    with pytest.raises(FileFormatError, match="distortion"):
        _ = scene.views[0].mask


@given(
    numbers=st.lists(st.floats(-1e6, 1e6, allow_nan=False), min_size=8, max_size=8),
    fisheye=st.booleans(),
)
def test_any_lens_gives_finite_maps(numbers: list[float], fisheye: bool) -> None:
    if fisheye:
        lens = Lens("fisheye", tuple(numbers[:4]))
    else:
        lens = Lens("brown", tuple(numbers[:3]), (numbers[3], numbers[4]), tuple(numbers[5:]))
    grid, valid = Undistortion(lens, (20.0, 20.0), (8.0, 6.0), 16, 12).maps()
    assert bool(torch.isfinite(grid).all())
    assert bool((grid[valid].abs() <= 1 + 1e-6).all())


def test_undistorted_views_survive_a_round_trip(folder, tmp_path: Path) -> None:
    from fieldline.datasets import write_scene

    folder.content |= {"k1": 0.2, "p1": 0.01}
    scene = load(folder.save())
    copy = load(write_scene(scene, tmp_path / "copy"))
    for view, again in zip(scene.views, copy.views):
        assert torch.equal(view.image, again.image)
        assert view.mask is not None and again.mask is not None
        assert torch.equal(view.mask, again.mask)
    content = json.loads((tmp_path / "copy/transforms.json").read_text())
    assert content["camera_model"] == "PINHOLE"
