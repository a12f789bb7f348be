# SPDX-License-Identifier: Apache-2.0
"""The renderer: real gsplat images, a plain torch reference with gradients, meta, bad input."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import splat_reference as reference
import torch
from op_harness import Case, Factory, Inputs, parametrize
from safetensors.torch import load_file
from torch import Tensor

from fieldline import Camera, Gaussians3D, rasterization, render

WIDTH, HEIGHT = 38, 25


def scene(
    generator: torch.Generator,
    batch: tuple[int, ...] = (),
    C: int = 2,
    N: int = 24,
    D: int = 3,
    sh: int | None = None,
    per_camera: bool = False,
    covars: bool = False,
    background: bool = False,
    masked: bool = False,
    **options: Any,
) -> Inputs:
    """Splats in front of a few tilted cameras, some outside the view."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    views = torch.eye(4, dtype=torch.float64).repeat(*batch, C, 1, 1)
    tilt = torch.cat(
        [torch.ones(*batch, C, 1, dtype=torch.float64), 0.1 * normal(*batch, C, 3)], -1
    )
    views[..., :3, :3] = reference.rotation_matrices(tilt)
    views[..., :3, 3] = 0.2 * normal(*batch, C, 3) + torch.tensor([0.0, 0, 5])
    K = torch.tensor([[30.0, 0, 20], [0, 28, 12], [0, 0, 1]], dtype=torch.float64)
    if options.get("camera_model") == "ortho":
        K[:2, :2] *= 0.2
    channels = (D,) if sh is None else ((sh + 1) ** 2, 3)
    shared = (*batch, C, N) if per_camera else (*batch, N)
    quats, scales = normal(*batch, N, 4), torch.exp(0.5 * normal(*batch, N, 3) - 1.3)
    inputs: Inputs = {
        "means": normal(*batch, N, 3) * torch.tensor([1.6, 1.2, 1.0]),
        "quats": None if covars else quats,
        "scales": None if covars else scales,
        "opacities": torch.rand(*batch, N, generator=generator, dtype=torch.float64) ** 0.5,
        "colors": normal(*shared, *channels),
        "viewmats": views,
        "Ks": K.repeat(*batch, C, 1, 1),
        "width": WIDTH,
        "height": HEIGHT,
        "sh_degree": sh,
        **options,
    }
    if covars:
        inputs["covars"] = reference.full_matrix(reference.covariance(quats, scales))
    if background:
        inputs["backgrounds"] = normal(*batch, C, 3 if sh is not None else D)
    if masked:
        size = options.get("tile_size", 16)
        tiles = (-(-HEIGHT // size), -(-WIDTH // size))
        inputs["masks"] = torch.rand(*batch, C, *tiles, generator=generator) < 0.6
    return inputs


def _break(inputs: Inputs) -> None:
    """Puts what must be culled among the splats."""
    inputs["means"][..., 1, 0] = math.nan
    inputs["means"][..., 2, 2] = -9
    inputs["means"][..., 3, :] = math.inf
    inputs["quats"][..., 4, :] = 0
    inputs["scales"][..., 5, 1] = math.inf
    inputs["scales"][..., 6, 1] = math.nan
    inputs["opacities"][..., 7] = math.nan
    inputs["opacities"][..., 8] = 0.003


def projected(inputs: Inputs) -> list[Tensor]:
    """The visible splats of a scene with one camera, nearest first."""
    radii, means2d, depths, conics, _ = reference.project(
        inputs["means"][None], inputs["viewmats"][None], inputs["Ks"][None], WIDTH, HEIGHT,
        quats=inputs["quats"][None], scales=inputs["scales"][None],
        opacities=inputs["opacities"][None],
    )  # fmt: skip
    order = depths[0, 0].argsort()
    order = order[(radii[0, 0][order] > 0).all(-1)]
    return [means2d[0, 0, order], conics[0, 0, order], inputs["opacities"][order]]


def smooth_scene(generator: torch.Generator, **options: Any) -> Inputs:
    """A scene where no fragment lies near a jump, for finite differences."""
    everything = (torch.zeros(1, 1, 1, dtype=torch.int32), None)
    for _ in range(200):
        inputs = scene(generator, C=1, N=5, **options)
        splats = projected(inputs)
        ids = torch.arange(len(splats[0]), dtype=torch.int32)
        bins = (everything[0], ids)
        if reference.decision_margin(*splats, WIDTH, HEIGHT, 64, bins) > 3e-6:
            return inputs
    raise AssertionError("no scene keeps its distance from the jumps")


VARIANTS: dict[str, Factory] = {
    "dense": partial(scene, packed=False, background=True),
    "packed": partial(scene, packed=True, background=True),
    "sh": partial(scene, packed=False, sh=3),
    "sh_packed": partial(scene, sh=2, batch=(2,)),
    "sh_per_camera": partial(scene, sh=1, per_camera=True, packed=False),
    "sh_per_camera_packed": partial(scene, sh=4, per_camera=True, batch=(2,)),
    "per_camera": partial(scene, per_camera=True, packed=False),
    "per_camera_packed": partial(scene, per_camera=True, background=True),
    "batch": partial(scene, batch=(2,), packed=False, background=True),
    "batches": partial(scene, batch=(2, 1), background=True, masked=True),
    "antialiased": partial(scene, rasterize_mode="antialiased", packed=False),
    "antialiased_packed": partial(scene, rasterize_mode="antialiased"),
    "covars": partial(scene, covars=True),
    "ortho": partial(scene, camera_model="ortho", near_plane=-1.0, packed=False),
    "fisheye": partial(scene, camera_model="fisheye"),
    "depth": partial(scene, render_mode="D", background=True),
    "expected_depth": partial(scene, render_mode="ED", packed=False),
    "rgb_depth": partial(scene, render_mode="RGB+D", background=True, packed=False),
    "rgb_expected_depth": partial(scene, render_mode="RGB+ED", background=True, sh=1),
    "features": partial(scene, D=5, background=True),
    "chunks": partial(scene, D=40, channel_chunk=16, background=True, C=1, N=10),
    "one_chunk": partial(scene, D=70, channel_chunk=70, C=1, N=10),
    "alpha_cap": partial(scene, alpha_cap=0.99),
    "tile8": partial(scene, tile_size=8, masked=True, packed=False),
    "tile32": partial(scene, tile_size=32),
    "clip": partial(scene, radius_clip=8.0, eps2d=0.7, near_plane=4.0, far_plane=6.0),
    "smooth": smooth_scene,
    "smooth_sh": partial(smooth_scene, sh=1, packed=False, render_mode="RGB+ED"),
    "no_splats": partial(scene, N=0, background=True),
    "no_splats_dense": partial(scene, N=0, packed=False, render_mode="RGB+ED"),
    "nothing_visible": partial(scene, near_plane=100.0, background=True),
    "nothing_visible_dense": partial(scene, near_plane=100.0, packed=False),
}
CASES = [
    Case(
        name="rasterization",
        op=lambda **inputs: rasterization(**inputs)[:2],
        reference=reference.rasterization,
        variants=VARIANTS,
        differentiable=(
            *("means", "quats", "scales", "covars", "opacities", "colors"),
            *("viewmats", "Ks", "backgrounds"),
        ),
        gradcheck=("smooth", "smooth_sh"),
        step=1e-7,
        dtypes=(torch.float64,),
        tolerance={torch.float64: 1e-10},
        gradient_tolerance={torch.float64: 1e-8},
    )
]


@parametrize(CASES)
def test_rasterization(check: Callable[[], None]) -> None:
    check()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("name", ["tiny", "basic"])
def test_golden(data_dir: Path, name: str, packed: bool, dtype: torch.dtype) -> None:
    """Two images that gsplat's CUDA renderer made."""
    data = load_file(data_dir / "gs" / "golden" / f"{name}_case.safetensors")
    height, width = data["out_img"].shape[:2]
    focal = width / 2  # a field of view of 90 degrees
    K = torch.tensor([[[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]], dtype=dtype)
    view = torch.eye(4, dtype=dtype)[None].clone()
    view[0, :3, 3] = -torch.tensor([0.123, 0.456, -8.0])
    image, alpha, _ = rasterization(
        data["means"].to(dtype),
        data["quats"].to(dtype),
        data["scales"].to(dtype).exp(),
        data["opacities"].to(dtype).sigmoid(),
        data["coeffs"].to(dtype),
        view,
        K,
        width,
        height,
        sh_degree=3,
        packed=packed,
    )
    error = torch.cat([image[0], alpha[0]], -1) - data["out_img"]
    assert float(error.abs().max()) <= 1e-5


def drawn(**options: Any) -> Inputs:
    return scene(torch.Generator().manual_seed(7), **options)


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_meta_dense(batch: tuple[int, ...]) -> None:
    image, alpha, meta = rasterization(**drawn(batch=batch, packed=False))
    lead, tiles = (*batch, 2), (2, 3)
    assert image.shape == (*lead, HEIGHT, WIDTH, 3)
    assert alpha.shape == (*lead, HEIGHT, WIDTH, 1)
    wanted = {"radii": (2,), "means2d": (2,), "depths": (), "conics": (3,), "opacities": ()}
    for name, tail in wanted.items():
        assert meta[name].shape == (*lead, 24, *tail), name
    assert meta["radii"].dtype == meta["flatten_ids"].dtype == torch.int32
    assert meta["tiles_per_gauss"].shape == (*lead, 24)
    assert meta["isect_offsets"].shape == (*lead, *tiles)
    assert [meta[name] for name in ("batch_ids", "camera_ids", "gaussian_ids")] == [None] * 3
    expected = {"tile_width": 3, "tile_height": 2, "tile_size": 16, "width": WIDTH}
    expected |= {"height": HEIGHT, "n_batches": math.prod(batch), "n_cameras": 2}
    assert {name: meta[name] for name in expected} == expected


def test_meta_packed() -> None:
    options: Inputs = {"batch": (2,), "near_plane": 4.5}
    _, _, dense = rasterization(**drawn(**options, packed=False))
    _, _, meta = rasterization(**drawn(**options))
    visible = (dense["radii"] > 0).all(-1)
    assert 0 < int(visible.sum()) < visible.numel()
    place = visible.nonzero()
    for column, name in enumerate(("batch_ids", "camera_ids", "gaussian_ids")):
        assert torch.equal(meta[name], place[:, column])
    for name in ("radii", "means2d", "depths", "conics", "opacities", "tiles_per_gauss"):
        assert torch.equal(meta[name], dense[name][visible]), name
    assert torch.equal(meta["isect_offsets"], dense["isect_offsets"])
    rows = visible.flatten().nonzero().squeeze(1)
    assert torch.equal(rows[meta["flatten_ids"].long()], dense["flatten_ids"].long())
    assert torch.equal(meta["isect_ids"], dense["isect_ids"])


def test_intersection_ids() -> None:
    """image | tile | the bits of the depth, each field as wide as it must be, ascending."""
    _, _, meta = rasterization(**drawn(packed=False))
    ids = meta["isect_ids"]
    assert ids.dtype == torch.int64 and ids.shape == meta["flatten_ids"].shape
    assert torch.equal(ids, ids.sort().values)
    assert meta.get("isect_ids") is ids and "isect_ids" in meta
    depth = (ids & 0xFFFFFFFF).to(torch.int32).view(torch.float32)
    splat = meta["flatten_ids"].long()
    assert torch.equal(depth, meta["depths"].float().flatten()[splat])
    tile_bits = math.floor(math.log2(2 * 3)) + 1
    image = ids >> (32 + tile_bits)
    assert torch.equal(image, splat // 24)
    tile = (ids >> 32) & ((1 << tile_bits) - 1)
    runs = torch.bincount(image * 6 + tile, minlength=12)
    starts = torch.cat([runs.new_zeros(1), runs.cumsum(0)[:-1]])
    assert torch.equal(meta["isect_offsets"].flatten().long(), starts)


@pytest.mark.parametrize("packed", [True, False])
def test_strategies_read_the_gradients_of_means2d(packed: bool) -> None:
    """``meta["means2d"]`` is in the graph: gsplat's strategies read its grad and its absgrad."""
    inputs = drawn(packed=packed, absgrad=True)
    inputs["means"].requires_grad_()
    image, _, meta = rasterization(**inputs)
    meta["means2d"].retain_grad()
    weight = torch.randn(image.shape, generator=torch.Generator().manual_seed(1)).double()
    (image * weight).sum().backward()
    grad, absgrad = meta["means2d"].grad, meta["means2d"].absgrad
    assert grad.shape == absgrad.shape == meta["means2d"].shape
    assert (absgrad >= grad.abs() - 1e-12).all() and absgrad.sum() > 1.01 * grad.abs().sum()
    bins = (meta["isect_offsets"], meta["flatten_ids"])
    means2d = meta["means2d"].detach().reshape(-1, 2).requires_grad_()
    probe = torch.zeros_like(means2d, requires_grad=True)
    colors = inputs["colors"].expand(2, 24, 3).reshape(-1, 3)
    if packed:
        colors = inputs["colors"][meta["gaussian_ids"]]
    wanted, _ = reference.blend(
        means2d, meta["conics"].detach().reshape(-1, 3), colors,
        meta["opacities"].reshape(-1), WIDTH, HEIGHT, 16, bins, means2d_abs=probe,
    )  # fmt: skip
    (wanted * weight).sum().backward()
    torch.testing.assert_close(grad.reshape(-1, 2), means2d.grad)
    torch.testing.assert_close(absgrad.reshape(-1, 2), probe.grad)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("sh", [None, 2])
def test_broken_splats_change_nothing(packed: bool, sh: int | None) -> None:
    """Neither the image nor the others' gradients; their own gradient is zero."""
    whole = drawn(packed=packed, sh=sh)
    whole["opacities"][1:9] = 0
    broken = drawn(packed=packed, sh=sh)
    _break(broken)
    results = []
    for inputs in (whole, broken):
        leaves = [inputs[name].requires_grad_() for name in LEAVES]
        image, alpha, _ = rasterization(**inputs)
        gradients = torch.autograd.grad(image.square().sum() + alpha.sum(), leaves)
        results.append([image, alpha, *gradients])
    for value, wanted in zip(*results):
        assert wanted.isfinite().all() and torch.equal(value, wanted)
    for gradient in results[1][2:6]:
        assert not gradient[1:9].any() and gradient[9:].any()


LEAVES = ("means", "quats", "scales", "opacities", "colors", "viewmats", "Ks")


@pytest.mark.parametrize("covars", [False, True])
def test_sparse_gradients_hold_the_rows_that_are_seen(covars: bool) -> None:
    names = ("means", "covars") if covars else ("means", "quats", "scales")
    gradients = []
    for sparse_grad in (True, False):
        inputs = drawn(sh=1, near_plane=4.6, covars=covars, sparse_grad=sparse_grad)
        leaves = [inputs[name].requires_grad_() for name in names]
        image, _, meta = rasterization(**inputs)
        gradients.append(torch.autograd.grad(image.square().sum(), leaves))
    seen = meta["gaussian_ids"].unique()
    assert 0 < len(seen) < 24
    for sparse, dense in zip(*gradients):
        assert sparse.is_sparse and torch.equal(sparse.coalesce().indices()[0], seen)
        assert torch.equal(sparse.to_dense(), dense)


def test_float32_is_near_float64() -> None:
    inputs = drawn(packed=False, sh=3, N=200)
    single = {n: t.float() if isinstance(t, Tensor) else t for n, t in inputs.items()}
    for value, wanted in zip(rasterization(**single)[:2], rasterization(**inputs)[:2]):
        assert value.dtype == torch.float32
        error = (value - wanted).abs()
        # A fragment at the threshold may be there in one and not in the other: 1/255.
        assert float(error.max()) < 0.02 and float(error.mean()) < 1e-5


ERRORS: list[tuple[Inputs, type[Exception], str]] = [
    ({"means": torch.zeros(3)}, ValueError, r"means: expected shape \[..., N, 3\], got \[3\]"),
    (
        {"means": torch.zeros(24, 3).int()},
        TypeError,
        "means: expected float32 or float64",
    ),
    ({"quats": torch.zeros(24, 3)}, ValueError, r"quats: expected shape \[24, 4\], got \[24, 3\]"),
    ({"quats": None}, ValueError, "expected quats and scales, or covars"),
    ({"scales": torch.zeros(24, 3)}, TypeError, "scales: expected torch.float64 on cpu, as means"),
    ({"opacities": torch.zeros(24, 1)}, ValueError, r"opacities: expected shape \[24\]"),
    ({"viewmats": torch.zeros(4, 4)}, ValueError, r"viewmats: expected shape \['C', 4, 4\]"),
    ({"viewmats": torch.zeros(2, 3, 4)}, ValueError, r"viewmats: expected shape \[2, 4, 4\]"),
    ({"Ks": torch.zeros(1, 3, 3)}, ValueError, r"Ks: expected shape \[2, 3, 3\], got \[1, 3, 3\]"),
    ({"covars": torch.zeros(24, 6)}, ValueError, r"covars: expected shape \[24, 3, 3\]"),
    ({"colors": None}, ValueError, "colors: expected a tensor for 'RGB', got None"),
    ({"colors": torch.zeros(23, 3)}, ValueError, r"colors: expected shape \[24, D\]"),
    ({"colors": torch.zeros(3, 24, 3)}, ValueError, r"colors: expected shape \[2, 24, D\]"),
    ({"sh_degree": 1}, ValueError, r"colors: expected shape \[2, 24, K, 3\]"),
    ({"sh_degree": 5, "colors": torch.zeros(24, 36, 3)}, ValueError, "sh_degree: expected 0 to 4"),
    ({"sh_degree": 2, "colors": torch.zeros(24, 8, 3)}, ValueError, "at least 9 SH bases"),
    ({"backgrounds": torch.zeros(3)}, ValueError, r"backgrounds: expected shape \[2, 3\]"),
    ({"masks": torch.ones(2, 3, 2).bool()}, ValueError, r"masks: expected shape \[2, 2, 3\]"),
    ({"render_mode": "DEPTH"}, ValueError, "render_mode: expected one of .*got 'DEPTH'"),
    ({"rasterize_mode": "mip"}, ValueError, "rasterize_mode: expected one of .*got 'mip'"),
    ({"camera_model": "ftheta"}, ValueError, "camera_model: expected one of .*got 'ftheta'"),
    ({"width": 0}, ValueError, "width, height: expected at least 1, got 0 x 25"),
    ({"tile_size": 100}, ValueError, "tile_size: expected 1 to 64, got 100"),
    ({"channel_chunk": 0}, ValueError, "channel_chunk: expected at least 1, got 0"),
    ({"sparse_grad": True, "packed": False}, ValueError, "sparse_grad: expected packed=True"),
    ({"distributed": True}, ValueError, "distributed: not supported"),
    ({"with_ut": True}, ValueError, "with_ut: not supported"),
    ({"radial_coeffs": torch.zeros(2, 4)}, ValueError, "radial_coeffs: not supported"),
]


@pytest.mark.parametrize(("changes", "exception", "match"), ERRORS)
def test_errors(changes: Inputs, exception: type[Exception], match: str) -> None:
    with pytest.raises(exception, match=match):
        rasterization(**{**drawn(), **changes})


def test_render_is_rasterization_of_our_types() -> None:
    splats = Gaussians3D.random(50, seed=1)
    eyes = [(0.0, 0.0, -3.0), (1.0, 0.5, -3.0)]
    views = [Camera.look_at(e, (0, 0, 0), (0, -1, 0), fov_y=0.8, width=30, height=20) for e in eyes]
    background = torch.tensor([0.2, 0.4, 0.6])
    one = render(splats, views[0], background=background, depth=True)
    both = render(splats, Camera.stack(views), background=background, depth=True)
    assert one.rgb.shape == (20, 30, 3) and one.alpha.shape == (20, 30)
    assert both.rgb.shape == (2, 20, 30, 3)
    assert one.depth is not None and both.depth is not None
    torch.testing.assert_close(both.rgb[0], one.rgb)
    torch.testing.assert_close(both.depth[0], one.depth)
    image, alpha, _ = rasterization(
        splats.means, splats.quats, splats.scales, splats.opacities, splats.sh,
        views[0].world_to_camera[None], views[0].K[None], 30, 20,
        sh_degree=splats.sh_degree, backgrounds=background[None],
    )  # fmt: skip
    torch.testing.assert_close(image[0], one.rgb)
    torch.testing.assert_close(alpha[0, ..., 0], one.alpha)
    one.rgb.sum().backward()
    for name, parameter in splats.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
