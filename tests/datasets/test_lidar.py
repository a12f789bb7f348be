# SPDX-License-Identifier: Apache-2.0
"""Point clouds of every container: real ones, written ones, and broken ones."""

from __future__ import annotations

import json
import struct
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from fieldline.datasets import LidarFrame, NuScenes, load_point_cloud, merge_sweeps
from fieldline.datasets.lidar_classes import CLASSES, COLORS, classes_of_raw
from fieldline.representations.files.ply import write_ply
from hypothesis import given
from hypothesis import strategies as st

import fieldline as fl


@pytest.fixture
def lidar(data_dir: Path) -> Path:
    return data_dir / "lidar"


def table(n: int = 50, width: int = 4, seed: int = 0) -> np.ndarray:
    """Positions of both signs, everything else in [0, 1)."""
    rows = np.random.default_rng(seed).random((n, width), np.float32)
    rows[:, :3] = 40 * rows[:, :3] - 20
    return rows


# Real files


def test_semantickitti(lidar: Path) -> None:
    frame = load_point_cloud(lidar / "semantickitti_hdl64.bin")
    assert len(frame) == 123_389 and frame.classes == CLASSES
    assert frame.labels is not None and frame.instances is not None
    counts = torch.bincount(frame.labels + 1, minlength=20).tolist()
    raw = np.fromfile(lidar / "semantickitti_hdl64.label", np.uint32) & 0xFFFF
    road = int(np.isin(raw, (40, 60)).sum())
    assert counts[0] == 6924 and counts[1 + CLASSES.index("road")] == road > 10_000
    assert frame.channels["intensity"].min() >= 0 and frame.channels["intensity"].max() <= 1
    assert frame.features().shape == (123_389, 4)


@pytest.mark.parametrize(
    ("name", "count", "channels"),
    [
        ("kitti_000008_camfov.bin", 17_238, {"intensity"}),
        ("nuscenes_1sweep.bin", 34_688, {"intensity", "ring"}),
        ("argoverse2_315966265259836000.npz", 99_229, {"intensity", "laser", "offset_ns"}),
        ("ouster_os1_128_map.ply", 155_000, set()),
        ("spconv_benchmark_pc.npz", 198_130, set()),
        ("scannet_scene0000_00.bin", 40_684, {"red", "green", "blue"}),
        ("indoor_fragment.pcd", 113_662, {"red", "green", "blue", "nx", "ny", "nz", "curvature"}),
    ],
)
def test_real(lidar: Path, name: str, count: int, channels: set[str]) -> None:
    frame = load_point_cloud(lidar / name)
    assert len(frame) == count and set(frame.channels) == channels
    assert frame.labels is None and bool(frame.finite().all())
    assert 1 < float((frame.points.amax(0) - frame.points.amin(0)).max()) < 1000


def test_columns_that_several_data_sets_have(lidar: Path) -> None:
    with pytest.raises(fl.FileFormatError, match=r"sunrgbd.*kind= one of .*got 2 that fit"):
        load_point_cloud(lidar / "sunrgbd_000017.bin")
    frame = load_point_cloud(lidar / "sunrgbd_000017.bin", "scannet")
    assert len(frame) == 50_000 and frame.cloud().colors is not None


# Written files


@pytest.mark.parametrize(
    ("kind", "width", "channels"),
    [
        ("kitti", 4, ["intensity"]),
        ("nuscenes", 5, ["intensity", "ring"]),
        ("waymo", 6, ["intensity", "elongation", "no_label_zone"]),
        ("scannet", 6, ["red", "green", "blue"]),
    ],
)
@pytest.mark.parametrize("suffix", [".bin", ".npy", ".txt"])
def test_bare_tables(
    tmp_path: Path, kind: str, width: int, channels: list[str], suffix: str
) -> None:
    rows = table(width=width)
    path = tmp_path / f"a{suffix}"
    {
        ".bin": lambda: rows.tofile(path),
        ".npy": lambda: np.save(path, rows),
        ".txt": lambda: np.savetxt(path, rows, "%.9g"),
    }[suffix]()
    frame = load_point_cloud(path, kind)
    assert list(frame.channels) == channels
    assert np.array_equal(frame.features(["x", "y", "z", *channels]).numpy(), rows)


def test_labels_lie_beside_or_in_their_own_folder(tmp_path: Path) -> None:
    (tmp_path / "velodyne").mkdir()
    (tmp_path / "labels").mkdir()
    table(3).tofile(tmp_path / "velodyne" / "000000.bin")
    raw = np.array([10, 252 | 7 << 16, 0], np.uint32)
    raw.tofile(tmp_path / "labels" / "000000.label")
    frame = load_point_cloud(tmp_path / "velodyne" / "000000.bin")
    assert frame.labels is not None and frame.labels.tolist() == [0, 0, -1]
    assert frame.instances is not None and frame.instances.tolist() == [0, 7, 0]
    raw[:2].tofile(tmp_path / "labels" / "000000.label")
    with pytest.raises(fl.FileFormatError, match="size: expected 12 bytes"):
        load_point_cloud(tmp_path / "velodyne" / "000000.bin")
    np.array([10, 12, 0], np.uint32).tofile(tmp_path / "labels" / "000000.label")
    with pytest.raises(fl.FileFormatError, match="ids of SemanticKITTI, got 12"):
        load_point_cloud(tmp_path / "velodyne" / "000000.bin")


def test_label_table() -> None:
    assert len(CLASSES) == len(COLORS) == 19
    assert len({tuple(color) for color in COLORS.tolist()}) == 19
    names = [CLASSES[i] for i in classes_of_raw(np.array([259, 60, 81, 253], np.uint16))]
    assert names == ["other-vehicle", "road", "traffic-sign", "bicyclist"]


def test_rooms(tmp_path: Path) -> None:
    rows = np.array([[1, 2, 3, 255, 0, 51], [4, 5, 6, 0, 255, 0]], float)
    np.savetxt(tmp_path / "office.txt", rows)
    room = load_point_cloud(tmp_path / "office.txt", "s3dis")
    assert torch.allclose(room.channels["blue"], torch.tensor([0.2, 0.0]))
    np.save(tmp_path / "room.npy", np.c_[rows, [3, 12]])
    labelled = load_point_cloud(tmp_path / "room.npy", "s3dis")
    assert labelled.labels is not None and labelled.labels.tolist() == [3, 12]

    prepared = tmp_path / "scene0000_00"
    prepared.mkdir()
    np.save(prepared / "coord.npy", rows[:, :3].astype(np.float32))
    np.save(prepared / "color.npy", rows[:, 3:].astype(np.uint8))
    np.save(prepared / "segment20.npy", np.array([5, -1], np.int16))
    scene = load_point_cloud(prepared)
    assert scene.labels is not None and scene.labels.tolist() == [5, -1]
    assert torch.equal(scene.cloud().colors, room.cloud().colors)


def test_npz(tmp_path: Path) -> None:
    rows = table(20, 6)
    np.savez_compressed(tmp_path / "waymo.npz", points=rows, labels=np.arange(20))
    frame = load_point_cloud(tmp_path / "waymo.npz")
    assert np.array_equal(frame.features(["z", "elongation"]).numpy(), rows[:, [2, 4]])
    assert frame.labels is not None and frame.labels[-1] == 19


def test_argoverse_feather(tmp_path: Path, lidar: Path) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow
    from pyarrow import feather

    sweep = np.load(lidar / "argoverse2_315966265259836000.npz")
    columns = {axis: sweep["xyz"][:, i] for i, axis in enumerate("xyz")}
    columns |= {"intensity": sweep["intensity"], "laser_number": sweep["laser"]}
    path = tmp_path / "sweep.feather"
    feather.write_feather(pyarrow.table(columns), path)
    frame = load_point_cloud(path)
    same = load_point_cloud(lidar / "argoverse2_315966265259836000.npz")
    assert torch.equal(frame.points, same.points)
    assert torch.equal(frame.channels["laser"], same.channels["laser"])
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(fl.FileFormatError):
        load_point_cloud(path)


@pytest.mark.parametrize("suffix", [".las", ".laz"])
def test_survey_keeps_its_millimetres(tmp_path: Path, suffix: str) -> None:
    laspy = pytest.importorskip("laspy")
    pytest.importorskip("lazrs")
    survey = laspy.LasData(laspy.LasHeader(point_format=3, version="1.4"))
    survey.header.scales = np.full(3, 0.001)
    survey.header.offsets = np.array([500_000.0, 5_400_000.0, 0.0])
    survey.x = 500_000 + np.array([1.234, 100.001])
    survey.y = 5_400_000 + np.array([0.001, 2.002])
    survey.z = np.array([312.5, 313.25])
    survey.classification = np.array([2, 6])
    survey.red = np.array([65535, 0])
    survey.write(tmp_path / f"survey{suffix}")
    frame = load_point_cloud(tmp_path / f"survey{suffix}")
    assert frame.origin == (500_001.0, 5_400_000.0, 312.0)
    expected = torch.tensor([[0.234, 0.001, 0.5], [99.001, 2.002, 1.25]])
    torch.testing.assert_close(frame.points, expected, rtol=0, atol=1e-5)
    assert frame.labels is not None and frame.labels.tolist() == [2, 6]
    assert frame.channels["red"].tolist() == [1.0, 0.0]


def pcd(coding: str, rows: np.ndarray, tags: np.ndarray) -> bytes:
    """x y z rgb tag, with the padding that PCL writes."""
    colors = np.arange(len(rows), dtype=np.uint32) * 0x010203
    header = (
        "# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\n"
        "FIELDS x y z _ rgb tag\nSIZE 4 4 4 1 4 2\nTYPE F F F U F U\nCOUNT 1 1 1 4 1 2\n"
        f"WIDTH {len(rows)}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {len(rows)}\n"
        f"DATA {coding}\n"
    ).encode()
    row = [("p", "<f4", 3), ("_", "u1", 4), ("rgb", "<u4"), ("tag", "<u2", 2)]
    packed = np.zeros(len(rows), row)
    packed["p"], packed["rgb"], packed["tag"] = rows[:, :3], colors, tags
    if coding == "binary":
        return header + packed.tobytes()
    fields = b"".join(
        np.ascontiguousarray(part).tobytes()
        for part in (*rows[:, :3].T, packed["_"], packed["rgb"], packed["tag"])
    )
    stream = lzf(fields)
    return header + struct.pack("<II", len(stream), len(fields)) + stream


def lzf(data: bytes) -> bytes:
    """A plain packer: runs of equal bytes as copies that overlap themselves, the rest as it is."""
    out, at, literal = bytearray(), 0, bytearray()

    def flush() -> None:
        for i in range(0, len(literal), 32):
            out.append(len(literal[i : i + 32]) - 1)
            out.extend(literal[i : i + 32])
        literal.clear()

    while at < len(data):
        run = 1
        while at + run < len(data) and run < 265 and data[at + run] == data[at]:
            run += 1
        literal.append(data[at])
        if run >= 4:
            flush()
            length = run - 1 - 2
            out.extend([length << 5, 0] if length < 7 else [7 << 5, length - 7, 0])
            at += run
        else:
            at += 1
    flush()
    return bytes(out)


@pytest.mark.parametrize("coding", ["binary", "binary_compressed"])
def test_pcd(tmp_path: Path, coding: str) -> None:
    rows, tags = table(1000), np.zeros((1000, 2), np.uint16)
    (tmp_path / "a.pcd").write_bytes(pcd(coding, rows, tags))
    frame = load_point_cloud(tmp_path / "a.pcd")
    assert np.array_equal(frame.points.numpy(), rows[:, :3])
    assert torch.equal(frame.cloud().colors[3], torch.tensor([3, 6, 9], dtype=torch.uint8))
    assert set(frame.channels) == {"red", "green", "blue"}


@pytest.mark.parametrize("coding", ["binary", "binary_compressed"])
def test_pcd_of_nothing(tmp_path: Path, coding: str) -> None:
    (tmp_path / "a.pcd").write_bytes(pcd(coding, table(0), np.zeros((0, 2), np.uint16)))
    assert len(load_point_cloud(tmp_path / "a.pcd")) == 0


def test_frames_own_their_memory(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", xyz=table(4)[:, :3], intensity=np.ones(4, np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frame = load_point_cloud(tmp_path / "a.npz")
    frame.channels["intensity"] += 1
    assert frame.channels["intensity"].tolist() == [2.0] * 4


def test_pcd_ascii_with_holes(tmp_path: Path) -> None:
    text = (
        "VERSION .7\nFIELDS x y z intensity\nSIZE 4 4 4 4\nTYPE F F F F\nCOUNT 1 1 1 1\n"
        "WIDTH 2\nHEIGHT 1\nPOINTS 2\nDATA ascii\n1 2 3 0.5\nnan nan nan 0\n"
    )
    (tmp_path / "a.pcd").write_text(text)
    with pytest.warns(UserWarning, match="1 of 2 points are not finite"):
        frame = load_point_cloud(tmp_path / "a.pcd")
    assert frame.finite().tolist() == [True, False]
    assert len(frame.select(frame.finite())) == 1


def test_ply_channels(tmp_path: Path) -> None:
    columns = {axis: np.array([9000.5, 9001.25]) for axis in "xyz"}
    columns["label"] = np.array([4, 2], np.uint8)
    write_ply(tmp_path / "a.ply", {"vertex": columns})
    frame = load_point_cloud(tmp_path / "a.ply")
    assert frame.origin == (9000.0,) * 3 and frame.points[1].tolist() == [1.25] * 3
    assert frame.labels is not None and frame.labels.tolist() == [4, 2]


@pytest.mark.parametrize("kind", ["kitti", "nuscenes", "s3dis"])
def test_nothing(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.bin").write_bytes(b"")
    assert len(load_point_cloud(tmp_path / "a.bin", kind)) == 0


# Sweeps


def test_sweeps_meet_in_the_frame_of_the_first() -> None:
    """A wall seen from a vehicle that turns and moves is one wall."""
    wall = torch.tensor([[10.0, y, 1.0] for y in range(-3, 4)])
    poses, frames = [], []
    for step in range(3):
        angle = 0.1 * step
        pose = torch.eye(4, dtype=torch.float64)
        pose[:2, :2] = torch.tensor(
            [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        )
        pose[:3, 3] = torch.tensor([1e6 - 0.5 * step, 2e6, 0.0])
        world = wall.double() + torch.tensor([1e6, 2e6, 0.0], dtype=torch.float64)
        seen = (world - pose[:3, 3]) @ pose[:3, :3]
        extra = {"intensity": torch.full((7,), float(step))} | ({"a": wall[:, 0]} if step else {})
        frames.append(LidarFrame(seen.float(), extra))
        poses.append(pose)
    merged = merge_sweeps(frames, torch.stack(poses), [5.0, 4.95, 4.9])
    torch.testing.assert_close(merged.points, wall.repeat(3, 1), rtol=0, atol=1e-5)
    assert merged.channels.keys() == {"intensity", "time_lag"}
    lags = torch.tensor([0.0, 0.05, 0.1]).repeat_interleave(7)
    torch.testing.assert_close(merged.channels["time_lag"], lags)


def test_sweeps_without_the_vehicle() -> None:
    near = LidarFrame(torch.tensor([[0.5, -0.9, 3.0], [0.0, 1.5, 0.0]]))
    merged = merge_sweeps([near], torch.eye(4)[None], [0.0], min_distance=1.0)
    assert merged.points.tolist() == [[0.0, 1.5, 0.0]]
    with pytest.raises(ValueError, match="as many of each"):
        merge_sweeps([near], torch.eye(4)[None], [])
    with pytest.raises(ValueError, match="invertible"):
        merge_sweeps([near], torch.zeros(1, 4, 4), [0.0])


class Recording:
    """A copy of nuScenes: one vehicle that drives along x past a post at (20, 5) of the world."""

    def __init__(self, root: Path, n: int = 4) -> None:
        self.tables = root / "v1.0-mini"
        self.tables.mkdir(parents=True)
        half = np.sqrt(0.5)
        rows, poses = [], []
        for i in range(n):
            folder = "samples" if i % 2 else "sweeps"
            name = f"{folder}/LIDAR_TOP/{i}.pcd.bin"
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            # The sensor looks along the vehicle's y axis, 2 m above it.
            post = np.array([5.0, -(20.0 - 3 * i), 1.0 - 2.0])
            near = [0.3, 0.2, 0.0]
            points = np.array([[*post, 7, 0], [*near, 1, 0]], np.float32)
            points.tofile(root / name)
            rows.append(
                {
                    "token": f"s{i}",
                    "filename": name,
                    "timestamp": 1_000_000 + 50_000 * i,
                    "is_key_frame": folder == "samples",
                    "prev": f"s{i - 1}" if i else "",
                    "ego_pose_token": f"e{i}",
                    "calibrated_sensor_token": "c",
                }
            )
            pose = {"token": f"e{i}", "rotation": [1, 0, 0, 0], "translation": [3.0 * i, 0, 0]}
            poses.append(pose)
        sensor = {"token": "c", "rotation": [half, 0, 0, half], "translation": [0, 0, 2.0]}
        self.content = {"sample_data": rows, "ego_pose": poses, "calibrated_sensor": [sensor]}
        self.save()

    def save(self) -> None:
        for name, rows in self.content.items():
            (self.tables / f"{name}.json").write_text(json.dumps(rows))


def test_nuscenes_tables(tmp_path: Path) -> None:
    data = NuScenes(Recording(tmp_path).tables)
    assert data.files == ["samples/LIDAR_TOP/1.pcd.bin", "samples/LIDAR_TOP/3.pcd.bin"]
    frame = data.load(data.files[1], 10)
    post = torch.tensor([[5.0, -11.0, -1.0]]).repeat(4, 1)
    torch.testing.assert_close(frame.points, post)
    torch.testing.assert_close(frame.channels["time_lag"], torch.tensor([0.0, 0.05, 0.1, 0.15]))
    assert frame.channels["intensity"].tolist() == [7] * 4
    assert len(data.load(data.files[0], 1, min_distance=0)) == 2
    with pytest.raises(ValueError, match="sweeps: expected at least 1"):
        data.load(data.files[0], 0)
    with pytest.raises(ValueError, match=r"got 'no\.bin'"):
        data.load("no.bin")


@pytest.mark.parametrize(
    ("table", "key", "value", "message"),
    [
        ("ego_pose", "rotation", [0, 0, 0, 0], "unit quaternion"),
        ("ego_pose", "translation", [0, "x", 0], "3 numbers"),
        ("ego_pose", "token", 5, "objects with a token"),
        ("calibrated_sensor", "token", "d", "one named 'c', got none"),
        ("sample_data", "timestamp", None, "microseconds"),
        ("sample_data", "filename", "../../LIDAR_TOP.bin", "below the root"),
    ],
)
def test_broken_tables(tmp_path: Path, table: str, key: str, value: object, message: str) -> None:
    recording = Recording(tmp_path)
    for row in recording.content[table]:
        row[key] = value
    recording.save()
    with pytest.raises(fl.FileFormatError, match=rf"{table}.json.*{message}"):
        data = NuScenes(recording.tables)
        data.load(next(iter(data._by_file)), 1)


# The street that is made here


def test_street() -> None:
    frame = fl.datasets.synthetic.street(32, 512, seed=1)
    again = fl.datasets.synthetic.street(32, 512, seed=1)
    assert torch.equal(frame.points, again.points) and torch.equal(frame.labels, again.labels)
    assert 5000 < len(frame) <= 32 * 512
    present = torch.bincount(frame.labels, minlength=19) > 0
    expected = [
        "car",
        "person",
        "road",
        "sidewalk",
        "building",
        "vegetation",
        "trunk",
        "terrain",
        "pole",
        "fence",
    ]
    assert {CLASSES[i] for i in present.nonzero().flatten().tolist()} >= set(expected)
    road = frame.points[frame.labels == CLASSES.index("road")]
    assert float((road[:, 2] + 1.73).abs().max()) < 0.1
    assert float(road[:, 1].abs().max()) < 4.7
    with pytest.raises(ValueError, match="expected at least 1, got 0, 5"):
        fl.datasets.synthetic.street(0, 5)


# Wrong arguments, broken files


def test_arguments(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"kind: expected one of .*got 'kitty'"):
        load_point_cloud(tmp_path / "a.bin", "kitty")
    with pytest.raises(ValueError, match=r"path: expected a folder or .*got a\.jpg"):
        load_point_cloud(tmp_path / "a.jpg")
    with pytest.raises(FileNotFoundError):
        load_point_cloud(tmp_path / "a.bin")
    with pytest.raises(fl.FileFormatError, match="folder"):
        load_point_cloud(tmp_path)
    with pytest.raises(ValueError, match=r"got 'ring'"):
        LidarFrame(torch.zeros(1, 3)).features(["ring"])
    with pytest.raises(ValueError, match=r"kind: expected one of .*got \['kitti'\]"):
        load_point_cloud(tmp_path / "a.bin", ["kitti"])  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="points: expected a tensor, got list"):
        LidarFrame([[0.0, 0.0, 0.0]])  # pyright: ignore[reportArgumentType]
    frame = LidarFrame(torch.zeros(3, 3))
    with pytest.raises(ValueError, match=r"which: expected a mask \[3\] or rows"):
        frame.select(torch.ones(2, dtype=torch.bool))
    with pytest.raises(TypeError, match=r"which: expected bool or int64, got torch\.float32"):
        frame.select(torch.ones(3))
    with pytest.raises(TypeError, match=r"frames\[1\]: expected a LidarFrame, got NoneType"):
        merge_sweeps([frame, None], torch.eye(4).expand(2, 4, 4), [0, 0])  # pyright: ignore
    with pytest.raises(ValueError, match=r"labels: expected torch.int64 \[1\]"):
        LidarFrame(torch.zeros(1, 3), labels=torch.zeros(2, dtype=torch.int64))


def bomb(path: Path, shape: tuple[int, ...]) -> None:
    """An .npz whose header announces far more than the file holds."""
    header = repr({"descr": "<f4", "fortran_order": False, "shape": shape}).encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        array = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(1000)
        archive.writestr("points.npy", array)


BROKEN: dict[str, Callable[[Path], object]] = {
    "size.bin": lambda p: p.write_bytes(bytes(17)),
    "rows.npy": lambda p: np.save(p, np.zeros((3, 2))),
    "objects.npy": lambda p: np.save(p, np.array([None]), allow_pickle=True),
    "huge.npz": lambda p: bomb(p, (1 << 40, 3)),
    "negative.npz": lambda p: bomb(p, (-1, 3)),
    "empty.npz": np.savez,
    "lengths.npz": lambda p: np.savez(p, xyz=np.zeros((3, 3)), intensity=np.zeros(2)),
    "words.txt": lambda p: p.write_text("1 2 3\n1 2 three\n"),
    "ragged.txt": lambda p: p.write_text("1 2 3\n1 2\n"),
    "bytes.xyz": lambda p: p.write_bytes(bytes(range(256)) * 40),
    "magic.ply": lambda p: p.write_bytes(b"PK\x03\x04"),
    "magic.pcd": lambda p: p.write_bytes(b"\x00" * 100_000),
    "huge.pcd": lambda p: p.write_text(
        "FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nPOINTS 999999999999\nDATA binary\n"
    ),
    "bomb.pcd": lambda p: p.write_bytes(
        b"FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nPOINTS 300000000\nDATA binary_compressed\n"
        + struct.pack("<II", 4, 3_600_000_000)
        + bytes(4)
    ),
    "records.las": lambda p: p.write_bytes(b"LASF" + bytes(96) + b"\xff" * 4 + bytes(300)),
    "magic.las": lambda p: p.write_bytes(b"LASF" + bytes(400)),
    "magic.laz": lambda p: p.write_bytes(b"no"),
    "magic.feather": lambda p: p.write_bytes(b"ARROW1" + bytes(64)),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken(tmp_path: Path, name: str) -> None:
    for suffix, module in ((".las", "laspy"), (".laz", "laspy"), (".feather", "pyarrow")):
        if name.endswith(suffix):
            pytest.importorskip(module)
    BROKEN[name](tmp_path / name)
    start = time.process_time()
    with pytest.raises(fl.FileFormatError, match=name):
        load_point_cloud(tmp_path / name)
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("count", struct.pack("<I", 2**31), "chunks: expected at most"),
        ("table", struct.pack("<q", 2**40), "chunk table: expected a place in the file"),
        ("table", struct.pack("<q", -5), "chunk table: expected a place in the file"),
    ],
)
def test_laz_that_announces_too_much(
    tmp_path: Path, place: str, value: bytes, message: str
) -> None:
    """The decoder would allocate for the chunks that are announced, and abort the process."""
    laspy = pytest.importorskip("laspy")
    pytest.importorskip("lazrs")
    survey = laspy.LasData(laspy.LasHeader(point_format=3, version="1.2"))
    survey.x, survey.y, survey.z = table(40)[:, :3].T.astype(float)
    path = tmp_path / "a.laz"
    survey.write(path)
    data = bytearray(path.read_bytes())
    (start,) = struct.unpack_from("<I", data, 96)
    (chunks,) = struct.unpack_from("<q", data, start)
    at = start if place == "table" else chunks + 4
    data[at : at + len(value)] = value
    path.write_bytes(data)
    with pytest.raises(fl.FileFormatError, match=message):
        load_point_cloud(path)


@pytest.fixture
def sample(suffix: str, tmp_path: Path) -> bytes:
    path = tmp_path / f"sample{suffix}"
    rows = table(40)
    if suffix == ".npz":
        np.savez_compressed(path, points=rows)
    elif suffix == ".npy":
        np.save(path, rows)
    elif suffix == ".pcd":
        path.write_bytes(pcd("binary_compressed", rows, np.zeros((40, 2), np.uint16)))
    elif suffix == ".txt":
        np.savetxt(path, rows)
    elif suffix == ".feather":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import feather

        feather.write_feather(pyarrow.table(dict.fromkeys("xyz", rows[:, 0])), path)
    else:
        laspy = pytest.importorskip("laspy")
        survey = laspy.LasData(laspy.LasHeader(point_format=3, version="1.2"))
        survey.x, survey.y, survey.z = rows[:, :3].T.astype(float)
        survey.write(path)
    return path.read_bytes()


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".pcd", ".txt", ".feather", ".las", ".laz"])
@given(seed=st.integers(0, 2**32))
def test_damaged_bytes(sample: bytes, tmp_path: Path, suffix: str, seed: int) -> None:
    """Whatever is changed or cut off: a frame, or the one error."""
    rng = np.random.default_rng(seed)
    data = bytearray(sample)
    for _ in range(int(rng.integers(0, 4))):
        data[int(rng.integers(0, len(data)))] = int(rng.integers(0, 256))
    cut = int(rng.integers(0, 2 * len(data)))
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(data[:cut])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            frame = load_point_cloud(path, "kitti")
        except fl.FileFormatError:
            return
    assert isinstance(frame, LidarFrame)
