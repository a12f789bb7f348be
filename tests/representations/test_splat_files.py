# SPDX-License-Identifier: Apache-2.0
"""Gaussians and points as files: exact round trips, the exact layout, real files, and bad ones."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from fieldline.representations import (
    Gaussians3D,
    PointCloud,
    quaternion_to_matrix,
    sh0_to_rgb,
)
from fieldline.representations.files import read_ply, write_ply
from safetensors.torch import save_file

import fieldline as fl

FORMATS = ("ascii", "binary_little_endian", "binary_big_endian")


def same(a: Gaussians3D, b: Gaussians3D) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))


def angle_between(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    cosine = torch.nn.functional.cosine_similarity(a.double(), b.double()).abs()
    return 2 * torch.acos(cosine.clamp(max=1))


# -- 3DGS .ply -----------------------------------------------------------------------------------


@pytest.mark.parametrize("degree", range(5))
@pytest.mark.parametrize("format", FORMATS)
def test_gaussian_ply_comes_back_exactly(tmp_path: Path, degree: int, format: str) -> None:
    gaussians = Gaussians3D.random(300, sh_degree=degree, seed=degree)
    fl.save(gaussians, tmp_path / "a.ply", format=format)
    assert same(fl.load(tmp_path / "a.ply"), gaussians)


def test_gaussian_ply_has_the_layout_others_expect(tmp_path: Path) -> None:
    gaussians = Gaussians3D.random(2, sh_degree=1, seed=0)
    fl.save(gaussians, tmp_path / "a.ply")
    content = (tmp_path / "a.ply").read_bytes()
    names = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"]
    names += [f"f_rest_{i}" for i in range(9)]
    names += ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    header = "ply\nformat binary_little_endian 1.0\nelement vertex 2\n"
    header += "".join(f"property float {name}\n" for name in names) + "end_header\n"
    assert content.startswith(header.encode())
    row = dict(zip(names, struct.unpack("<26f", content[-104:])))
    assert [row[n] for n in ("x", "y", "z", "nx", "ny", "nz")] == [
        *gaussians.means[1].tolist(),
        *(0.0, 0.0, 0.0),
    ]
    # Channel-major: all of red's coefficients, then green's, then blue's.
    rest = [row[f"f_rest_{i}"] for i in range(9)]
    assert rest == [gaussians.shN[1, i, c].item() for c in range(3) for i in range(3)]
    assert row["opacity"] == gaussians.opacity_logits[1].item()
    assert row["scale_2"] == gaussians.log_scales[1, 2].item()
    assert row["rot_0"] == gaussians.quats[1, 0].item()


def gaussian_columns(n: int = 3, degree: int = 1) -> dict[str, np.ndarray]:
    names = ["x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2"]
    names += [f"f_rest_{i}" for i in range(3 * (degree + 1) ** 2 - 3)]
    names += ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    values = np.random.default_rng(0).normal(size=(len(names), n))
    return dict(zip(names, values.astype(np.float32)))


def test_gaussian_ply_is_read_by_name_in_any_order_and_type(tmp_path: Path) -> None:
    columns = gaussian_columns()
    write_ply(tmp_path / "a.ply", {"vertex": columns})
    shuffled = {name: columns[name].astype(np.float64) for name in sorted(columns)}
    extra = {"segment": np.zeros(3, np.int32), **shuffled}
    write_ply(tmp_path / "b.ply", {"camera": {"f": np.zeros(1, np.float32)}, "vertex": extra})
    assert same(fl.load(tmp_path / "a.ply"), fl.load(tmp_path / "b.ply"))


@pytest.mark.parametrize("name", ["x", "opacity", "scale_2", "rot_3", "f_rest_8"])
def test_gaussian_ply_without_a_property(tmp_path: Path, name: str) -> None:
    columns = gaussian_columns()
    del columns[name]
    write_ply(tmp_path / "a.ply", {"vertex": columns})
    with pytest.raises(fl.FileFormatError, match="f_rest" if "rest" in name else name):
        fl.load(tmp_path / "a.ply")


@pytest.mark.parametrize("name", ["x", "f_dc_0", "opacity"])
def test_gaussian_ply_with_a_property_of_the_wrong_type(tmp_path: Path, name: str) -> None:
    columns = gaussian_columns()
    columns[name] = columns[name].astype(np.int32)
    write_ply(tmp_path / "a.ply", {"vertex": columns})
    with pytest.raises(fl.FileFormatError, match=rf"property {name}: expected float.*int32"):
        fl.load(tmp_path / "a.ply")


def test_rest_names_must_be_consecutive(tmp_path: Path) -> None:
    columns = gaussian_columns()
    columns["f_rest_9"] = columns.pop("f_rest_0")
    write_ply(tmp_path / "a.ply", {"vertex": columns})
    with pytest.raises(fl.FileFormatError, match="f_rest_0"):
        fl.load(tmp_path / "a.ply")


def test_what_is_not_finite_is_kept_with_one_warning(tmp_path: Path) -> None:
    gaussians = Gaussians3D.random(5, seed=0)
    with torch.no_grad():
        gaussians.means[1, 2] = float("nan")
        gaussians.log_scales[3] = float("inf")
    fl.save(gaussians, tmp_path / "a.ply")
    with pytest.warns(UserWarning, match=r"a\.ply: 2 of 5 Gaussians are not finite") as caught:
        back = fl.load(tmp_path / "a.ply")
    assert len(caught) == 1 and caught[0].filename == __file__
    torch.testing.assert_close(back.means, gaussians.means, equal_nan=True, rtol=0, atol=0)
    assert len(back.pruned()) == 3


@pytest.mark.parametrize("suffix", [".ply", ".splat", ".safetensors"])
def test_no_gaussians(tmp_path: Path, suffix: str) -> None:
    fl.save(Gaussians3D.empty(sh_degree=3), tmp_path / f"a{suffix}")
    back = fl.load(tmp_path / f"a{suffix}")
    assert len(back) == 0 and back.sh_degree == (0 if suffix == ".splat" else 3)


# -- .splat ----------------------------------------------------------------------------------------


def test_splat_fixture(data_dir: Path, tmp_path: Path) -> None:
    fixture = data_dir / "gs" / "fixtures" / "minimal.splat"
    gaussians = fl.load(fixture)
    assert gaussians.means.tolist() == [[-1, 0, -1], [0, 0, -1], [-1, 0, 0], [0, 0, 0]]
    torch.testing.assert_close(gaussians.scales, torch.full((4, 3), 0.1))
    torch.testing.assert_close(gaussians.opacities, torch.full((4,), 230 / 255))
    expected = torch.tensor([[85, 85, 128], [170, 85, 128], [85, 170, 128], [170, 170, 128]]) / 255
    torch.testing.assert_close(sh0_to_rgb(gaussians.sh0[:, 0]), expected)
    fl.save(gaussians, tmp_path / "a.splat")
    before = np.fromfile(fixture, np.uint8).reshape(-1, 32)
    after = np.fromfile(tmp_path / "a.splat", np.uint8).reshape(-1, 32)
    np.testing.assert_array_equal(after[:, :12], before[:, :12])
    np.testing.assert_array_equal(after[:, 24:], before[:, 24:])
    scales = [rows[:, 12:24].copy().view("<f4") for rows in (before, after)]
    np.testing.assert_allclose(*scales, rtol=1e-6)


def test_splat_loses_only_precision(tmp_path: Path) -> None:
    gaussians = Gaussians3D.random(500, sh_degree=0, seed=0)
    fl.save(gaussians, tmp_path / "a.splat")
    back = fl.load(tmp_path / "a.splat")
    assert torch.equal(back.means, gaussians.means)
    torch.testing.assert_close(back.scales, gaussians.scales)
    torch.testing.assert_close(back.opacities, gaussians.opacities, atol=0.5 / 255 + 1e-6, rtol=0)
    rgb = sh0_to_rgb(gaussians.sh0)
    torch.testing.assert_close(sh0_to_rgb(back.sh0), rgb, atol=0.5 / 255 + 1e-6, rtol=0)
    assert angle_between(back.quats, gaussians.quats).max().item() < 0.02


def test_splat_bytes_survive(tmp_path: Path) -> None:
    rows = np.zeros((256, 32), np.uint8)
    rows[:, 24:28] = np.arange(256)[:, None]
    rows[:, 28] = 255
    rows[:, 29:] = 128
    rows[:, 12:24] = np.full((256, 3), 0.5, "<f4").view(np.uint8)
    (tmp_path / "a.splat").write_bytes(rows.tobytes())
    gaussians = fl.load(tmp_path / "a.splat")
    assert bool(gaussians.finite().all())
    fl.save(gaussians, tmp_path / "b.splat")
    assert (tmp_path / "b.splat").read_bytes() == rows.tobytes()


def test_splat_without_direction_or_size(tmp_path: Path) -> None:
    row = struct.pack("<6f8B", 1, 2, 3, 0, 0, 0, *[255] * 4, *[128] * 4)
    (tmp_path / "a.splat").write_bytes(row)
    gaussians = fl.load(tmp_path / "a.splat")
    assert gaussians.quats.tolist() == [[1, 0, 0, 0]] and bool(gaussians.finite().all())


def test_bad_splats(tmp_path: Path) -> None:
    (tmp_path / "a.splat").write_bytes(b"\0" * 33)
    with pytest.raises(fl.FileFormatError, match="multiple of 32"):
        fl.load(tmp_path / "a.splat")
    row = struct.pack("<6f8B", 1, 2, 3, 1, -1, 1, *[255] * 8)
    (tmp_path / "a.splat").write_bytes(b"\0" * 32 + row)
    with pytest.raises(fl.FileFormatError, match="Gaussian 1, scale"):
        fl.load(tmp_path / "a.splat")


# -- compressed .ply -------------------------------------------------------------------------------


def test_biker(data_dir: Path, tmp_path: Path) -> None:
    gaussians = fl.load(data_dir / "gs" / "splats" / "biker.compressed.ply")
    assert len(gaussians) == 152_746 and gaussians.sh_degree == 0
    assert bool(gaussians.finite().all())
    low, high = gaussians.bounds()
    size = (high - low).tolist()
    # A rider on a motorcycle: about as tall as three times its width, in units near a metre.
    assert 0.9 < size[0] < 1.2 and 3.0 < size[1] < 3.3 and 1.0 < size[2] < 1.3
    assert 1e-4 < gaussians.scales.median().item() < 0.02
    torch.testing.assert_close(gaussians.quats.norm(dim=1), torch.ones(len(gaussians)))
    assert 0.2 < gaussians.opacities.mean().item() < 0.4
    rgb = sh0_to_rgb(gaussians.sh0)
    assert -0.1 < rgb.median().item() < 0.9
    fl.save(gaussians, tmp_path / "a.ply")
    assert same(fl.load(tmp_path / "a.ply"), gaussians)


def test_bikers_thin_axes_stand_on_its_surface(data_dir: Path) -> None:
    """Only the right order of packed quaternions turns flat Gaussians along the surface."""
    gaussians = fl.load(data_dir / "gs" / "splats" / "biker.compressed.ply")
    solid = gaussians.select(gaussians.opacities > 0.5)
    means, quats = solid.means.detach(), solid.quats.detach()
    chosen = torch.arange(0, len(solid), len(solid) // 1500)
    nearest = torch.cdist(means[chosen], means).topk(12, largest=False).indices
    around = means[nearest] - means[nearest].mean(1, keepdim=True)
    _, spread, axes = torch.linalg.svd(around)
    flat = spread[:, 2] < 0.3 * spread[:, 1]
    thin = solid.log_scales[chosen].argmin(1)

    def agreement(quats: torch.Tensor) -> float:
        local = quaternion_to_matrix(quats[chosen])
        normal = local.gather(2, thin[:, None, None].expand(-1, 3, 1)).squeeze(2)
        return (normal * axes[:, 2]).sum(1).abs()[flat].mean().item()

    # Directions that have nothing to do with each other agree by a half on average.
    assert agreement(quats) > 0.7 > 0.62 > agreement(quats.roll(1, dims=1))


@pytest.mark.parametrize("degree", range(5))
@pytest.mark.parametrize("colour_range", [True, False])
def test_compressed_ply_decodes(
    tmp_path: Path, degree: int, colour_range: bool, write_compressed_ply: Callable[..., None]
) -> None:
    gaussians = Gaussians3D.random(600, sh_degree=degree, seed=degree)
    write_compressed_ply(gaussians, tmp_path / "a.compressed.ply", colour_range)
    back = fl.load(tmp_path / "a.compressed.ply")
    assert back.sh_degree == degree
    torch.testing.assert_close(back.means, gaussians.means, atol=2 / 1023, rtol=0)
    torch.testing.assert_close(back.log_scales, gaussians.log_scales, atol=3 / 1023, rtol=0)
    torch.testing.assert_close(back.opacities, gaussians.opacities, atol=0.6 / 255, rtol=0)
    rgb = sh0_to_rgb(gaussians.sh0)
    torch.testing.assert_close(sh0_to_rgb(back.sh0), rgb, atol=0.6 / 255, rtol=0)
    torch.testing.assert_close(back.shN, gaussians.shN, atol=4.1 / 256, rtol=0)
    assert angle_between(back.quats, gaussians.quats).max().item() < 0.01


def test_compressed_opacities_stay_finite(
    tmp_path: Path, write_compressed_ply: Callable[..., None]
) -> None:
    gaussians = Gaussians3D.random(2, sh_degree=0, seed=0)
    with torch.no_grad():
        gaussians.opacity_logits[:] = torch.tensor([-50.0, 50.0])
    write_compressed_ply(gaussians, tmp_path / "a.ply")
    logits = fl.load(tmp_path / "a.ply").opacity_logits
    assert torch.isfinite(logits).all() and (logits[0] < -6) & (logits[1] > 6)


def test_compressed_counts_must_agree(
    tmp_path: Path, write_compressed_ply: Callable[..., None]
) -> None:
    write_compressed_ply(Gaussians3D.random(300, sh_degree=1, seed=0), tmp_path / "a.ply")
    elements = {k: dict(v.columns) for k, v in read_ply(tmp_path / "a.ply").elements.items()}

    def cut(name: str, n: int) -> dict[str, dict]:
        shorter = {key: column[:n] for key, column in elements[name].items()}
        return {**elements, name: shorter}

    for name, n in (("chunk", 1), ("sh", 299), ("vertex", 100)):
        write_ply(tmp_path / "b.ply", cut(name, n))
        with pytest.raises(fl.FileFormatError, match="chunk" if name != "sh" else "element sh"):
            fl.load(tmp_path / "b.ply")
    narrow = {**elements["vertex"], "packed_scale": np.zeros(300, np.uint16)}
    write_ply(tmp_path / "b.ply", {**elements, "vertex": narrow})
    with pytest.raises(fl.FileFormatError, match="packed_scale: expected uint"):
        fl.load(tmp_path / "b.ply")
    del elements["chunk"]
    write_ply(tmp_path / "b.ply", elements)
    with pytest.raises(fl.FileFormatError, match="element chunk"):
        fl.load(tmp_path / "b.ply")


# -- checkpoints -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_checkpoint_comes_back_exactly(tmp_path: Path, dtype: torch.dtype) -> None:
    gaussians = Gaussians3D.random(50, sh_degree=2, seed=0).to(dtype)
    fl.save(gaussians, tmp_path / "a.safetensors")
    back = fl.load(tmp_path / "a.safetensors")
    assert back.dtype == dtype and same(back, gaussians)


def test_checkpoints_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    state = Gaussians3D.random(5, seed=0).state_dict()

    def write(**changes: torch.Tensor | None) -> None:
        tensors = {k: v for k, v in {**state, **changes}.items() if v is not None}
        save_file(tensors, path, metadata={"format": "fieldline.Gaussians3D"})

    for changes, message in (
        ({"means": None}, "means"),
        ({"version": None}, "version"),
        ({"version": torch.tensor(99)}, "version: expected 1 to 1, got 99"),
        ({"version": torch.tensor(1.0)}, "version"),
        ({"quats": torch.zeros(4, 4)}, "quats"),
        ({"sh0": torch.zeros(5, 1, 3, dtype=torch.int32)}, "sh0"),
        ({"sh0": state["sh0"].double()}, "sh0"),
    ):
        write(**changes)
        with pytest.raises(fl.FileFormatError, match=message):
            fl.load(path)
    save_file(dict(state), path, metadata={"format": "other"})
    with pytest.raises(fl.FileFormatError, match="Gaussians"):
        fl.load(path)


# -- points ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("colors", [True, False])
@pytest.mark.parametrize("normals", [True, False])
def test_points_come_back(tmp_path: Path, format: str, colors: bool, normals: bool) -> None:
    rgb = torch.arange(300).reshape(100, 3).to(torch.uint8) if colors else None
    cloud = PointCloud(torch.randn(100, 3), rgb, torch.randn(100, 3) if normals else None)
    fl.save(cloud, tmp_path / "a.ply", format=format)
    back = fl.load(tmp_path / "a.ply")
    for name in ("points", "colors", "normals"):
        expected, found = getattr(cloud, name), getattr(back, name)
        assert (found is None) == (expected is None)
        assert found is None or torch.equal(found, expected)


def test_real_point_clouds(data_dir: Path) -> None:
    cloud = fl.load(data_dir / "dynamic" / "fox_ball_box_multiview" / "points3d.ply")
    assert isinstance(cloud, PointCloud) and len(cloud) == 3710
    assert cloud.colors is not None and cloud.normals is not None
    assert len(torch.unique(cloud.colors, dim=0)) > 100
    scan = fl.load(data_dir / "lidar" / "ouster_os1_128_map.ply")
    assert len(scan) == 155_000 and scan.colors is None


def test_points_with_wrong_properties(tmp_path: Path) -> None:
    x = np.zeros(2, np.float32)
    for columns, message in (
        ({"x": x, "y": x}, "property z"),
        ({"x": x, "y": x, "z": x.astype(np.int8)}, "property z: expected float"),
        ({"x": x, "y": x, "z": x, "red": x, "green": x, "blue": x}, "property red"),
        ({"x": x, "y": x, "z": x, "red": x.astype(np.uint8)}, "property green"),
        ({"x": x, "y": x, "z": x, "nx": x}, "property ny"),
    ):
        write_ply(tmp_path / "a.ply", {"vertex": columns})
        with pytest.raises(fl.FileFormatError, match=message):
            fl.load(tmp_path / "a.ply")
    write_ply(tmp_path / "a.ply", {"face": {"x": x}})
    with pytest.raises(fl.FileFormatError, match="element vertex"):
        fl.load(tmp_path / "a.ply")
