# SPDX-License-Identifier: Apache-2.0
"""transforms.json and its relatives: every key that is read, and everything that may be wrong."""

from __future__ import annotations

import copy
import json
import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fieldline.datasets import load
from fieldline.representations import Camera, Gaussians3D, PointCloud
from fieldline.representations.files import save
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fieldline import FileFormatError

# -- what is read --------------------------------------------------------------------------------


def test_shared_intrinsics_and_poses(folder) -> None:
    scene = load(folder.path)
    assert len(scene.views) == 9 and len(scene.test) == 2
    view = scene.views[4]
    assert view.name == "images/4.png"
    K = torch.tensor([[40.0, 0.0, 15.0], [0.0, 41.0, 12.5], [0.0, 0.0, 1.0]])
    assert torch.equal(view.camera.K, K)
    pose = torch.tensor(folder.content["frames"][4]["transform_matrix"])
    torch.testing.assert_close(view.camera.to_opengl(), pose, atol=1e-6, rtol=0)
    pixels = np.asarray(Image.open(folder.path / "images/4.png"))
    assert np.array_equal(view.image.numpy(), pixels)
    assert view.mask is None and scene.background is None and scene.points is None


def test_the_json_file_itself(folder) -> None:
    assert len(load(folder.save("other.json") / "other.json").views) == 9


def test_intrinsics_of_each_frame(folder) -> None:
    folder.content["frames"][2] |= {"fl_x": 55.0, "cx": 11.0}
    scene = load(folder.save())
    assert scene.views[2].camera.K[0].tolist() == [55.0, 0.0, 11.0]
    assert scene.views[3].camera.K[0].tolist() == [40.0, 0.0, 15.0]


@pytest.mark.parametrize(
    "fields",
    [
        {"camera_angle_x": 2 * math.atan(16 / 40)},
        {"camera_angle_x": 2 * math.atan(16 / 40), "camera_angle_y": 2 * math.atan(12 / 40)},
        {"camera_angle_y": 2 * math.atan(12 / 40)},
        {"x_fov": math.degrees(2 * math.atan(16 / 40))},
        {"fl_y": 40.0},
    ],
)
def test_field_of_view(folder, fields: dict[str, float]) -> None:
    for key in ("fl_x", "fl_y", "cx", "cy", "w", "h"):
        del folder.content[key]
    folder.content |= fields
    K = load(folder.save()).views[0].camera.K
    expected = torch.tensor([[40.0, 0.0, 16.0], [0.0, 40.0, 12.0], [0.0, 0.0, 1.0]])
    torch.testing.assert_close(K, expected)


def test_intrinsics_follow_a_scaled_copy_of_the_images(folder) -> None:
    folder.content |= {"w": 64, "h": 48, "fl_x": 80.0, "fl_y": 82.0, "cx": 30.0, "cy": 25.0}
    view = load(folder.save()).views[0]
    assert (view.width, view.height) == (32, 24)
    assert view.camera.K.diagonal().tolist() == [40.0, 41.0, 1.0]
    assert view.camera.K[:2, 2].tolist() == [15.0, 12.5]


def test_downscale(folder) -> None:
    scene = load(folder.path, downscale=2)
    view, full = scene.views[5], load(folder.path).views[5]
    assert (view.width, view.height) == (16, 12)
    assert view.camera.K[:2, 2].tolist() == [7.5, 6.25]
    blocks = full.image.float().view(12, 2, 16, 2, 3).mean(dim=(1, 3))
    assert float((view.image.float() - blocks).abs().max()) <= 0.51
    odd = load(folder.path, downscale=3.1).views[0]
    assert tuple(odd.image.shape) == (odd.height, odd.width, 3) == (8, 10, 3)


def test_images_of_different_sizes(folder) -> None:
    del folder.content["w"], folder.content["h"]
    Image.new("RGB", (50, 20)).save(folder.path / "images/3.png")
    scene = load(folder.save())
    sizes = {(view.width, view.height) for view in scene.views}
    assert sizes == {(32, 24), (50, 20)}
    assert tuple(scene.views[3].image.shape) == (20, 50, 3)
    assert "of 2 sizes" in repr(scene)


def test_missing_frames_are_dropped_with_one_warning(folder) -> None:
    for i in (1, 5, 6):
        (folder.path / f"images/{i}.png").unlink()
    with pytest.warns(UserWarning, match="3 of 9 frames dropped") as record:
        scene = load(folder.path)
    assert len(record) == 1
    assert [view.name for view in scene.views] == [f"images/{i}.png" for i in (0, 2, 3, 4, 7, 8)]


def test_natural_order(folder) -> None:
    for i, frame in enumerate(folder.content["frames"]):
        new = f"images/r_{i * 5}.png"
        (folder.path / frame["file_path"]).rename(folder.path / new)
        frame["file_path"] = new
    folder.content["frames"].reverse()
    names = [view.name for view in load(folder.save()).views]
    assert names == [f"images/r_{i * 5}.png" for i in range(9)]


def test_paths(folder, tmp_path: Path) -> None:
    frames = folder.content["frames"]
    frames[0]["file_path"] = "./images/0"
    frames[1]["file_path"] = "images\\1.png"
    (tmp_path / "elsewhere").mkdir()
    (folder.path / "images/2.png").rename(tmp_path / "elsewhere/2.png")
    frames[2]["file_path"] = "../elsewhere/2.png"
    (folder.path / "images/3.png").rename(folder.path / "images/3.JPG")
    frames[3]["file_path"] = "images/x/../3"
    assert len(load(folder.save()).views) == 9


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../../secret.png", "images/../../../secret", "C:\\secret.png", "", "a\0b"],
)
@pytest.mark.parametrize("key", ["file_path", "mask_path", "depth_file_path"])
def test_paths_that_lead_out(folder, path: str, key: str) -> None:
    folder.content["frames"][1][key] = path
    with pytest.raises(FileFormatError, match=rf"frames\[1\]\.{key}: expected a path"):
        load(folder.save())


def test_masks_depth_and_time(folder) -> None:
    frames = folder.content["frames"]
    for i, frame in enumerate(frames):
        Image.new("L", (32, 24), 255 if i else 0).save(folder.path / f"mask{i}.png")
        depth = np.full((12, 16), 1000 * (i + 1), np.uint16)
        Image.fromarray(depth).save(folder.path / f"depth{i}.png")
        frame |= {"mask_path": f"mask{i}.png", "depth_file_path": f"depth{i}.png", "time": i / 8}
    scene = load(folder.save())
    assert [view.time for view in scene.views] == [i / 8 for i in range(9)]
    first, last = scene.views[0], scene.views[8]
    assert first.mask is not None and not first.mask.any()
    assert last.mask is not None and last.mask.all()
    assert last.depth is not None and last.depth.shape == (24, 32)
    torch.testing.assert_close(last.depth, torch.full((24, 32), 9.0))
    folder.content["integer_depth_scale"] = 0.5
    depth = load(folder.save()).views[0].depth
    assert depth is not None and float(depth[0, 0]) == 500.0


def test_a_mask_of_another_aspect(folder) -> None:
    Image.new("L", (30, 30)).save(folder.path / "mask.png")
    folder.content["frames"][0]["mask_path"] = "mask.png"
    with pytest.raises(FileFormatError, match=r"mask\.png: size: expected the aspect"):
        _ = load(folder.save()).views[0].mask


def test_points(folder) -> None:
    cloud = PointCloud(torch.rand(20, 3), torch.randint(0, 256, (20, 3), dtype=torch.uint8))
    save(cloud, folder.path / "sparse_pc.ply")
    folder.content |= {
        "ply_file_path": "sparse_pc.ply",
        "applied_transform": torch.eye(4)[:3].tolist(),
    }
    scene = load(folder.save())
    assert scene.points is not None and scene.point_colors is not None
    assert torch.equal(scene.points, cloud.points)
    assert torch.equal(scene.point_colors, cloud.colors)
    assert float(scene.bounds[1].max()) <= 1.0


@pytest.mark.filterwarnings("ignore:.*points are not finite")
def test_points_that_are_not_points(folder) -> None:
    folder.content["ply_file_path"] = "images/0.png"
    with pytest.raises(FileFormatError, match=r"ply_file_path: expected a \.ply file"):
        load(folder.save())
    folder.content["ply_file_path"] = "points.ply"
    save(PointCloud(torch.full((2, 3), math.nan)), folder.path / "points.ply")
    with pytest.raises(FileFormatError, match=r"points\.ply: x, y, z: expected finite"):
        load(folder.save())
    save(Gaussians3D.random(3, seed=0), folder.path / "points.ply")
    with pytest.raises(FileFormatError, match="ply_file_path: expected a PLY point cloud"):
        load(folder.path)
    (folder.path / "points.ply").write_bytes(b"ply\nformat binary_little_endian 1.0\n")
    with pytest.raises(FileFormatError, match=r"points\.ply"):
        load(folder.path)


def test_split_lists(folder) -> None:
    folder.content["train_filenames"] = [f"images/{i}.png" for i in (1, 2, 3)]
    folder.content["val_filenames"] = ["./images/0.png", "images/3.png", "images/7.png"]
    scene = load(folder.save())
    assert [view.name for view in scene.train] == [f"images/{i}.png" for i in (1, 2, 3)]
    assert [view.name for view in scene.test] == ["images/0.png", "images/7.png"]
    folder.content["test_filenames"] = ["images/5.png"]
    assert [view.name for view in load(folder.save()).test] == ["images/5.png"]


def test_blender_splits(make_folder: Callable) -> None:
    folder = make_folder(mode="RGBA")
    whole = copy.deepcopy(folder.content)
    (folder.path / "transforms.json").unlink()
    folder.content["frames"] = whole["frames"][:6]
    for frame in folder.content["frames"]:
        frame["file_path"] = "./" + frame["file_path"].removesuffix(".png")
    folder.save("transforms_train.json")
    scene = load(folder.path)
    assert len(scene.train) == 5 and len(scene.test) == 1
    assert scene.background == (1.0, 1.0, 1.0)
    assert load(folder.path, background=(0, 0, 0)).background == (0.0, 0.0, 0.0)
    folder.content["frames"] = whole["frames"][6:]
    folder.save("transforms_test.json")
    scene = load(folder.path)
    assert len(scene.train) == 6 and len(scene.test) == 3 and len(scene.views) == 9
    folder.content["frames"] = [dict(frame, file_path="gone") for frame in whole["frames"][6:]]
    folder.save("transforms_test.json")
    with pytest.warns(UserWarning, match="3 of 3 frames dropped"):
        scene = load(folder.path)
    assert len(scene.train) == 5 and len(scene.test) == 1


def test_alpha_is_averaged_premultiplied(make_folder: Callable) -> None:
    folder = make_folder(mode="RGBA")
    pixels = np.zeros((24, 32, 4), np.uint8)
    pixels[::2, ::2] = (255, 0, 0, 255)
    pixels[1::2, 1::2] = (0, 255, 0, 0)
    Image.fromarray(pixels).save(folder.path / "images/0.png")
    image = load(folder.path, downscale=2).views[0].image
    assert image[3, 4].tolist() == [255, 0, 0, 64]


def test_some_images_without_alpha(make_folder: Callable) -> None:
    folder = make_folder(mode="RGBA")
    Image.new("RGB", (32, 24), (9, 9, 9)).save(folder.path / "images/2.png")
    scene = load(folder.path)
    assert scene.views[1].image.shape[-1] == 4 and scene.views[2].image.shape[-1] == 3
    assert scene.views[2].rgb(scene.background).shape == scene.views[1].rgb().shape


def test_background_of_the_file(folder) -> None:
    folder.content["background_color"] = [0.1, 0.2, 0.3]
    assert load(folder.save()).background == (0.1, 0.2, 0.3)
    folder.content["background_color"] = [0.1, 0.2, 3]
    with pytest.raises(FileFormatError, match="background_color: expected three numbers"):
        load(folder.save())


def test_one_view_loads(make_folder: Callable) -> None:
    scene = load(make_folder(n_frames=1).path)
    assert len(scene.train) == 1 and not scene.test
    assert scene.extent == 1.0 and bool(torch.isfinite(scene.bounds).all())


def test_duplicate_poses_warn(folder) -> None:
    frames = folder.content["frames"]
    frames[3]["transform_matrix"] = frames[4]["transform_matrix"] = frames[0]["transform_matrix"]
    with pytest.warns(UserWarning, match="2 of 9 views have the same pose"):
        load(folder.save())
    for i, frame in enumerate(frames):
        frame["time"] = i / 8
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(folder.save())


# -- what is refused -----------------------------------------------------------------------------


def pose_with(change: Callable[[np.ndarray], Any]) -> Any:
    pose = np.eye(4)
    result = change(pose)
    return (pose if result is None else result).tolist()


BAD_POSES = {
    "nan": (pose_with(lambda p: p.__setitem__((0, 3), math.nan)), "finite numbers"),
    "inf": (pose_with(lambda p: p.__setitem__((0, 3), math.inf)), "finite numbers"),
    "huge": (pose_with(lambda p: p.__setitem__((0, 3), 1e300)), "numbers up to"),
    "scaled": (pose_with(lambda p: p * [[2], [2], [2], [1]]), "rigid"),
    "sheared": (pose_with(lambda p: p.__setitem__((0, 1), 0.3)), "rigid"),
    "mirrored": (pose_with(lambda p: p.__setitem__((0, 0), -1)), "reflection"),
    "zero": (pose_with(lambda p: p.__setitem__((slice(0, 3), slice(0, 3)), 0)), "rigid"),
    "last row": (pose_with(lambda p: p.__setitem__((3, 0), 1)), "last row"),
    "shape": (pose_with(lambda p: p[:2]), "4 x 4"),
    "ragged": ([[1, 0, 0, 0], [0, 1], [0, 0, 1, 0]], "4 x 4"),
    "text": ([["1", 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]], "finite numbers"),
    "bools": ([[True, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]], "finite numbers"),
    "big int": ([[10**400, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]], "finite numbers"),
    "null": (None, "4 x 4"),
    "string": ("identity", "4 x 4"),
}


@pytest.mark.parametrize("name", BAD_POSES)
def test_bad_poses(folder, name: str) -> None:
    pose, message = BAD_POSES[name]
    folder.content["frames"][2]["transform_matrix"] = pose
    pattern = rf"transforms\.json: frames\[2\]\.transform_matrix: expected .*{message}"
    with pytest.raises(FileFormatError, match=pattern):
        load(folder.save())


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("fl_x", "forty", r"frames\[0\]\.fl_x: expected a positive number"),
        ("fl_x", -40, r"frames\[0\]\.fl_x: expected a positive number"),
        ("fl_x", 0, r"frames\[0\]\.fl_x: expected a positive number"),
        ("fl_x", math.nan, r"frames\[0\]\.fl_x: expected a positive number"),
        ("fl_x", 1e300, r"fl_x, fl_y, cx, cy: expected pixels"),
        ("cx", [], r"frames\[0\]\.cx: expected a finite number"),
        ("w", 0, r"frames\[0\]\.w: expected a positive number"),
        ("w", 100, r"w, h: expected the aspect of 0\.png, 32 x 24"),
        ("k1", {}, r"frames\[0\]\.k1: expected a finite number"),
        ("camera_model", "EQUIRECTANGULAR", r"camera_model: expected one of"),
        ("camera_model", 3, r"camera_model: expected a string"),
        ("frames", {}, r"frames: expected a list, got an object of 0"),
        ("frames", [], r"frames: expected at least one frame"),
        ("frames", [3], r"frames\[0\]: expected an object"),
        ("frames", None, r"frames: expected a list, got nothing"),
        ("frames", [{"transform_matrix": np.eye(4).tolist()}], r"file_path: expected a path"),
        ("ply_file_path", "gone.ply", r"ply_file_path: expected an existing file"),
        ("ply_file_path", 7, r"ply_file_path: expected a string"),
        ("applied_transform", [[1]], r"applied_transform: expected 4 x 4"),
        ("train_filenames", ["gone.png"], r"train_filenames: expected at least one"),
        ("train_filenames", 5, r"train_filenames: expected a list"),
        ("integer_depth_scale", 0, r"integer_depth_scale: expected a positive number"),
        ("time", "now", r"time: expected a finite number"),
    ],
)
def test_bad_fields(folder, key: str, value: Any, message: str) -> None:
    folder.content[key] = value
    with pytest.raises(FileFormatError, match=rf"transforms\.json: .*{message}"):
        load(folder.save())


def test_no_focal_length(folder) -> None:
    del folder.content["fl_x"], folder.content["fl_y"]
    with pytest.raises(FileFormatError, match="fl_x: expected fl_x, camera_angle_x or x_fov"):
        load(folder.save())
    folder.content["camera_angle_x"] = 3.2
    with pytest.raises(FileFormatError, match="camera_angle_x: expected less than pi"):
        load(folder.save())


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe\x00", b'{"frames": ' + b"[" * 100_000, b"9" * 5000],
)
def test_not_our_json(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "transforms.json").write_bytes(content)
    with pytest.raises(FileFormatError, match=r"transforms\.json: content: expected"):
        load(tmp_path)


def test_a_huge_json_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "transforms.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(FileFormatError, match="size: expected at most"):
        load(tmp_path)


def test_every_image_missing(folder) -> None:
    for frame in folder.content["frames"]:
        frame["file_path"] += "x" * 300
    with pytest.raises(FileFormatError, match="9 frames, 9 without an image file"):
        load(folder.save())


def test_an_image_that_does_not_decode(folder) -> None:
    path = folder.path / "images/2.png"
    path.write_bytes(path.read_bytes()[:200])
    scene = load(folder.path)
    _ = scene.views[1].image
    with pytest.raises(FileFormatError, match=r"2\.png: image: expected complete image data"):
        _ = scene.views[2].image
    path.write_bytes(b"no image at all")
    with pytest.raises(FileFormatError, match=r"2\.png: image"):
        load(folder.path)


def test_arguments_and_places(folder, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"load: path: .*nowhere: no such file"):
        load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileFormatError, match=r"empty: scene: .*got an empty folder"):
        load(tmp_path / "empty")
    with pytest.raises(FileFormatError, match=r"images: scene: .*got \d+ photos without poses"):
        load(folder.path / "images")
    with pytest.raises(FileFormatError, match=r"0\.png: file: expected a scene's folder"):
        load(folder.path / "images/0.png")
    for downscale in (0.5, math.nan, math.inf, -1):
        with pytest.raises(ValueError, match="load: downscale"):
            load(folder.path, downscale=downscale)
    with pytest.raises(TypeError, match="load: downscale"):
        load(folder.path, downscale="2")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="test_every"):
        load(folder.path, test_every=1)


# -- any mutation of a valid file ------------------------------------------------------------------

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["../x", "/etc/hostname", "images/0.png", "OPENCV_FISHEYE", 10**400, 1e308]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
OPTIONAL = st.sampled_from(
    [
        *("k1", "k2", "p1", "k4", "camera_model", "camera_angle_x", "is_fisheye", "time"),
        *("mask_path", "depth_path", "ply_file_path", "train_filenames", "background_color"),
        "applied_transform",
    ]
)


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Every path into a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield (*path, key)
        if isinstance(inner, dict | list):
            yield from places(inner, (*path, key))


def check_loads_or_says_why(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            scene = load(path)
            assert scene.train and math.isfinite(scene.extent)
            assert scene.bounds.shape == (2, 3)
            for view in scene.views:
                _ = view.image, view.mask, view.depth
                assert isinstance(view.camera, Camera)
        except FileFormatError as error:
            assert str(path) in str(error)


@settings(max_examples=150)
@given(data=st.data())
def test_any_change_of_a_value_gives_a_scene_or_the_error(
    make_folder: Callable, data: st.DataObject
) -> None:
    folder = make_folder(n_frames=3)
    content = copy.deepcopy(folder.content)
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(list(places(content))))
        target = content
        for key in path[:-1]:
            target = target[key]
        if data.draw(st.booleans()):
            target[path[-1]] = data.draw(JSON)
        elif isinstance(target, dict):
            target[data.draw(OPTIONAL)] = data.draw(JSON)
        else:
            del target[path[-1]]
        if not content.get("frames"):
            break
    (folder.path / "transforms.json").write_text(json.dumps(content))
    check_loads_or_says_why(folder.path)


@settings(max_examples=60)
@given(position=st.integers(0, 3000), replacement=st.binary(max_size=4), cut=st.booleans())
def test_any_bytes_give_a_scene_or_the_error(
    make_folder: Callable, position: int, replacement: bytes, cut: bool
) -> None:
    folder = make_folder(n_frames=3)
    path = folder.path / "transforms.json"
    data = path.read_bytes()
    position %= len(data)
    rest = b"" if cut else data[position + len(replacement) :]
    path.write_bytes(data[:position] + replacement + rest)
    check_loads_or_says_why(folder.path)
