# SPDX-License-Identifier: Apache-2.0
"""gsplat's functions: shapes and values as gsplat defines them, batched and packed."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys

import pytest
import splat_reference as reference
import torch
from torch import Tensor

import fieldline
from fieldline.compat import gsplat

WIDTH, HEIGHT, TILE = 50, 34, 16
TILES = (math.ceil(WIDTH / TILE), math.ceil(HEIGHT / TILE))
BATCHES = [(), (2,), (1, 2)]
C, N = 3, 40


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(11)


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def scene(generator: torch.Generator, batch: tuple[int, ...]) -> dict[str, Tensor]:
    views = torch.eye(4, dtype=torch.float64).repeat(*batch, C, 1, 1)
    tilt = 0.1 * normal(generator, *batch, C, 4)
    tilt[..., 0] = 1
    views[..., :3, :3] = reference.rotation_matrices(tilt)
    views[..., 2, 3] = 4
    K = torch.tensor([[40.0, 0, 26], [0, 38, 16], [0, 0, 1]], dtype=torch.float64)
    return {
        "means": normal(generator, *batch, N, 3) * 1.5,
        "quats": normal(generator, *batch, N, 4),
        "scales": torch.exp(normal(generator, *batch, N, 3) - 1.5),
        "opacities": torch.rand(*batch, N, generator=generator, dtype=torch.float64),
        "viewmats": views,
        "Ks": K.repeat(*batch, C, 1, 1),
    }


def project(s: dict[str, Tensor], **options: object) -> tuple[Tensor, ...]:
    arguments = (s["means"], None, s["quats"], s["scales"], s["viewmats"], s["Ks"], WIDTH, HEIGHT)
    return gsplat.fully_fused_projection(*arguments, **options)  # pyright: ignore


# Covariances and projection.


@pytest.mark.parametrize("batch", BATCHES)
def test_quat_scale_to_covar_preci(generator: torch.Generator, batch: tuple[int, ...]) -> None:
    quats, scales = normal(generator, *batch, N, 4), 0.1 + normal(generator, *batch, N, 3).abs()
    covars, precis = gsplat.quat_scale_to_covar_preci(quats, scales)
    R = reference.rotation_matrices(quats)
    torch.testing.assert_close(covars, R @ torch.diag_embed(scales**2) @ R.mT)
    torch.testing.assert_close(precis, R @ torch.diag_embed(scales**-2) @ R.mT)
    upper = gsplat.quat_scale_to_covar_preci(quats, scales, triu=True)
    for triangle, full in zip(upper, (covars, precis)):
        assert triangle is not None and full is not None
        torch.testing.assert_close(triangle, reference.upper_triangle(full))
    assert gsplat.quat_scale_to_covar_preci(quats, scales, False, True)[0] is None
    assert gsplat.quat_scale_to_covar_preci(quats, scales, True, False)[1] is None


@pytest.mark.parametrize("camera_model", ["pinhole", "ortho", "fisheye"])
@pytest.mark.parametrize("batch", BATCHES)
def test_proj_is_the_projection_without_blur(
    generator: torch.Generator, batch: tuple[int, ...], camera_model: str
) -> None:
    """Blurred and inverted, its covariances are the conics of what is not culled."""
    s = scene(generator, batch)
    covars, _ = gsplat.quat_scale_to_covar_preci(s["quats"], s["scales"], True, False)
    assert covars is not None
    means, covars = gsplat.world_to_cam(s["means"], covars, s["viewmats"])
    means2d, covars2d = gsplat.proj(means, covars, s["Ks"], WIDTH, HEIGHT, camera_model)
    assert means2d.shape == (*batch, C, N, 2) and covars2d.shape == (*batch, C, N, 2, 2)
    radii, wanted, depths, conics, _ = project(s, camera_model=camera_model)
    seen = (radii > 0).all(-1)
    assert seen.sum() > 10
    blurred = covars2d + 0.3 * torch.eye(2)
    torch.testing.assert_close(means2d[seen], wanted[seen])
    torch.testing.assert_close(
        torch.linalg.inv(blurred)[seen][:, (0, 0, 1), (0, 1, 1)], conics[seen]
    )
    torch.testing.assert_close(means[..., 2][seen], depths[seen])


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("covars", [False, True])
@pytest.mark.parametrize("compensations", [False, True])
def test_fully_fused_projection(
    generator: torch.Generator,
    batch: tuple[int, ...],
    packed: bool,
    covars: bool,
    compensations: bool,
) -> None:
    s = scene(generator, batch)
    flat = {k: t.reshape(-1, *t.shape[len(batch) :]) for k, t in s.items()}
    wanted = reference.project(
        flat["means"], flat["viewmats"], flat["Ks"], WIDTH, HEIGHT,
        quats=flat["quats"], scales=flat["scales"], opacities=flat["opacities"],
        compensate=compensations, near_plane=3.0,
    )  # fmt: skip
    triangle, _ = gsplat.quat_scale_to_covar_preci(s["quats"], s["scales"], triu=True)
    shape = (triangle, None, None) if covars else (None, s["quats"], s["scales"])
    found = gsplat.fully_fused_projection(
        s["means"], *shape, s["viewmats"], s["Ks"], WIDTH, HEIGHT, near_plane=3.0, packed=packed,
        calc_compensations=compensations, opacities=s["opacities"],
    )  # fmt: skip
    assert len(found) == (8 if packed else 5)
    assert (found[-1] is None) == (not compensations)
    seen = (wanted[0] > 0).all(-1)
    if packed:
        ids = seen.nonzero()
        for column, name in enumerate(found[:3]):
            assert name is not None and torch.equal(name, ids[:, column])
    for value, want in zip(found[3:] if packed else found, wanted):
        if value is not None:
            rows = want[seen] if packed else want.reshape(*batch, *want.shape[1:])
            torch.testing.assert_close(value, rows)


def test_packed_projection_with_sparse_gradients(generator: torch.Generator) -> None:
    s = scene(generator, ())
    leaves = [s[name].requires_grad_() for name in ("means", "quats", "scales")]
    gradients = []
    for sparse_grad in (True, False):
        found = project(s, packed=True, sparse_grad=sparse_grad, near_plane=4.0)
        gradients.append(torch.autograd.grad(found[4].square().sum(), leaves))
    for sparse, dense in zip(*gradients):
        assert sparse.is_sparse and torch.equal(sparse.to_dense(), dense)


# Tiles.


def splats(generator: torch.Generator, lead: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    means2d = normal(generator, *lead, N, 2) * WIDTH
    radii = torch.randint(0, WIDTH, (*lead, N, 2), generator=generator, dtype=torch.int32)
    return means2d, radii, torch.rand(*lead, N, generator=generator, dtype=torch.float64)


def keys_by_definition(
    means2d: Tensor, radii: Tensor, depths: Tensor
) -> tuple[list[int], list[tuple[int, int]]]:
    """Tile counts, and (key, splat) of every tile of every rectangle, splat by splat."""
    bits = math.floor(math.log2(TILES[0] * TILES[1])) + 1
    counts, pairs = [], []
    images = means2d.shape[:-2].numel()
    flat = (means2d.reshape(-1, 2), radii.reshape(-1, 2), depths.float().reshape(-1))
    for i, (mean, radius, depth) in enumerate(zip(*flat)):
        low = torch.floor((mean - radius) / TILE).clamp(min=0).int().tolist()
        high = torch.ceil((mean + radius) / TILE).int().tolist()
        columns, rows = (range(low[k], min(high[k], TILES[k])) for k in (0, 1))
        cells = list(itertools.product(rows, columns)) if bool((radius > 0).all()) else []
        counts.append(len(cells))
        image, depth_bits = i // (len(flat[0]) // images), int(depth.view(torch.int32))
        for y, x in cells:
            tile = (image << bits) | (y * TILES[0] + x)
            pairs.append(((tile << 32) | depth_bits, i))
    return counts, pairs


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
def test_isect_tiles_of_rectangles(generator: torch.Generator, lead: tuple[int, ...]) -> None:
    means2d, radii, depths = splats(generator, lead)
    counts, pairs = keys_by_definition(means2d, radii, depths)
    found = gsplat.isect_tiles(means2d, radii, depths, TILE, *TILES, sort=False)
    assert [t.dtype for t in found] == [torch.int32, torch.int64, torch.int32]
    assert found[0].shape == depths.shape and found[0].flatten().tolist() == counts
    assert list(zip(found[1].tolist(), found[2].tolist())) == pairs
    pairs.sort()
    found = gsplat.isect_tiles(means2d, radii, depths, TILE, *TILES)
    assert list(zip(found[1].tolist(), found[2].tolist())) == pairs
    images = math.prod(lead)
    offsets = gsplat.isect_offset_encode(found[1], images, *TILES)
    assert offsets.shape == (images, TILES[1], TILES[0]) and offsets.dtype == torch.int32
    bits = (TILES[0] * TILES[1]).bit_length()
    keys = [key >> 32 for key, _ in pairs]
    for image, row, column in itertools.product(range(images), range(TILES[1]), range(TILES[0])):
        first = (image << bits) | (row * TILES[0] + column)
        assert int(offsets[image, row, column]) == sum(key < first for key in keys)


def test_isect_tiles_packed(generator: torch.Generator) -> None:
    means2d, radii, depths = splats(generator, (3,))
    seen = (radii > 0).all(-1)
    image_ids, gaussian_ids = seen.nonzero().unbind(1)
    dense = gsplat.isect_tiles(means2d, radii, depths, TILE, *TILES)
    packed = gsplat.isect_tiles(
        means2d[seen], radii[seen], depths[seen], TILE, *TILES, packed=True, n_images=3,
        image_ids=image_ids, gaussian_ids=gaussian_ids,
    )  # fmt: skip
    assert torch.equal(packed[0], dense[0][seen])
    assert torch.equal(packed[1], dense[1])
    rows = seen.flatten().nonzero().squeeze(1)
    assert torch.equal(rows[packed[2].long()], dense[2].long())


def test_isect_tiles_of_ellipses(generator: torch.Generator) -> None:
    """With conics and opacities, as in 1.6: fewer tiles, and all that are reached."""
    s = scene(generator, ())
    radii, means2d, depths, conics, _ = project(s, opacities=s["opacities"])
    opacities = s["opacities"].expand(C, N)
    arguments = (means2d, radii, depths, TILE, *TILES)
    exact, _, ids = gsplat.isect_tiles(*arguments, conics=conics, opacities=opacities)
    rectangles, _, _ = gsplat.isect_tiles(*arguments)
    assert (exact <= rectangles).all() and exact.sum() < rectangles.sum()
    assert exact.sum() == len(ids)
    reached = [
        reference.tiles_reached(means2d[c], conics[c], opacities[c], TILE, *TILES).sum(1)
        for c in range(C)
    ]
    assert (exact >= torch.stack(reached) * (radii > 0).all(-1)).all()


# Pixels.


def lists(s: dict[str, Tensor], found: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    radii, means2d, depths = found[:3]
    lead = radii.shape[:-2]
    _, keys, ids = gsplat.isect_tiles(means2d, radii, depths, TILE, *TILES)
    offsets = gsplat.isect_offset_encode(keys, math.prod(lead), *TILES)
    return offsets.reshape(*lead, *reversed(TILES)), ids


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("channels", [1, 3, 37])
def test_the_pieces_make_the_image(
    generator: torch.Generator, batch: tuple[int, ...], channels: int
) -> None:
    """Projection, tiles and pixels, called one by one, are rasterization."""
    s = scene(generator, batch)
    found = project(s)
    offsets, ids = lists(s, found)
    colors = normal(generator, *batch, C, N, channels)
    backgrounds = normal(generator, *batch, C, channels)
    opacities = s["opacities"][..., None, :].expand(*batch, C, N)
    image, alpha = gsplat.rasterize_to_pixels(
        found[1], found[3], colors, opacities, WIDTH, HEIGHT, TILE, offsets, ids, backgrounds
    )
    wanted, wanted_alpha, _ = gsplat.rasterization(
        s["means"], s["quats"], s["scales"], s["opacities"], colors, s["viewmats"], s["Ks"],
        WIDTH, HEIGHT, backgrounds=backgrounds, packed=False,
    )  # fmt: skip
    torch.testing.assert_close(image, wanted)
    torch.testing.assert_close(alpha, wanted_alpha)
    masks = torch.rand(offsets.shape, generator=generator) < 0.5
    shown, _ = gsplat.rasterize_to_pixels(
        found[1], found[3], colors, opacities, WIDTH, HEIGHT, TILE, offsets, ids, backgrounds, masks
    )
    seen = masks.repeat_interleave(TILE, -2).repeat_interleave(TILE, -1)
    seen = seen[..., :HEIGHT, :WIDTH, None]
    torch.testing.assert_close(shown, torch.where(seen, image, backgrounds[..., None, None, :]))


@pytest.mark.parametrize("packed", [False, True])
def test_rasterize_to_pixels_sets_absgrad(generator: torch.Generator, packed: bool) -> None:
    s = scene(generator, ())
    found = project(s)
    offsets, ids = lists(s, found)
    seen = (found[0] > 0).all(-1)
    rows = (lambda t: t[seen]) if packed else (lambda t: t)
    if packed:
        ids = (seen.flatten().cumsum(0) - 1)[ids.long()].int()
    means2d = rows(found[1]).clone().requires_grad_()
    colors = normal(generator, C, N, 3)
    image, _ = gsplat.rasterize_to_pixels(
        means2d, rows(found[3]), rows(colors), rows(s["opacities"].expand(C, N)),
        WIDTH, HEIGHT, TILE, offsets, ids, packed=packed, absgrad=True,
    )  # fmt: skip
    assert image.shape == (C, HEIGHT, WIDTH, 3)
    image.square().sum().backward()
    assert means2d.grad is not None
    absgrad = means2d.absgrad  # pyright: ignore
    assert absgrad.shape == means2d.shape and (absgrad >= means2d.grad.abs() - 1e-12).all()
    assert absgrad.sum() > 0


@pytest.mark.parametrize("batch", BATCHES)
def test_indices_cover_the_image(generator: torch.Generator, batch: tuple[int, ...]) -> None:
    """Accumulating the listed fragments gives the alphas of the image."""
    s = scene(generator, batch)
    found = project(s)
    offsets, ids = lists(s, found)
    lead = (*batch, C)
    opacities = s["opacities"][..., None, :].expand(*lead, N)
    start = torch.ones(*lead, HEIGHT, WIDTH, dtype=torch.float64)
    gaussians, pixels, images = gsplat.rasterize_to_indices_in_range(
        0, int(1e10), start, found[1], found[3], opacities, WIDTH, HEIGHT, TILE, offsets, ids
    )
    assert gaussians.max() < N and images.max() == math.prod(lead) - 1
    flat = images * N + gaussians
    centers = torch.stack([pixels % WIDTH, pixels // WIDTH], -1) + 0.5
    alphas = reference.tile_alphas(
        found[1].reshape(-1, 2)[flat], found[3].reshape(-1, 3)[flat],
        opacities.reshape(-1)[flat], centers[:, None].double(), 0.999,
    )  # fmt: skip
    colors = torch.zeros(*lead, N, 1, dtype=torch.float64)
    _, wanted = gsplat.rasterize_to_pixels(
        found[1], found[3], colors, opacities, WIDTH, HEIGHT, TILE, offsets, ids
    )
    left = torch.zeros(math.prod(lead) * HEIGHT * WIDTH, dtype=torch.float64)
    left.index_add_(0, images * HEIGHT * WIDTH + pixels, torch.log1p(-alphas.squeeze(1)))
    torch.testing.assert_close(1 - left.exp(), wanted.flatten())


# Spherical harmonics.


@pytest.mark.parametrize("degree", range(5))
@pytest.mark.parametrize("batch", BATCHES)
def test_harmonics_of_directions(
    generator: torch.Generator, batch: tuple[int, ...], degree: int
) -> None:
    dirs, coeffs = normal(generator, *batch, N, 3), normal(generator, *batch, N, 25, 3)
    wanted = reference.spherical_harmonics(degree, dirs, coeffs)
    torch.testing.assert_close(gsplat.spherical_harmonics(degree, dirs, coeffs), wanted)
    masks = torch.rand(*batch, N, generator=generator) < 0.5
    shown = gsplat.spherical_harmonics(degree, dirs, coeffs, masks)
    torch.testing.assert_close(shown, wanted * masks[..., None])
    named = gsplat.spherical_harmonics(degree, dirs=dirs, coeffs=coeffs, masks=masks)
    assert torch.equal(named, shown)


@pytest.mark.parametrize("channels", [1, 3, 4, 8])
@pytest.mark.parametrize("batch", BATCHES)
def test_harmonics_of_views(
    generator: torch.Generator, batch: tuple[int, ...], channels: int
) -> None:
    """The form of 1.6: directions come from the cameras; any number of channels; packed."""
    s, coeffs = scene(generator, batch), normal(generator, N, 9, channels)
    R, t = s["viewmats"][..., :3, :3], s["viewmats"][..., :3, 3:]
    centers = -(R.mT @ t).squeeze(-1)
    dirs = s["means"][..., None, :, :] - centers[..., :, None, :]
    wanted = reference.spherical_harmonics(2, dirs, coeffs)
    found = gsplat.spherical_harmonics(2, s["means"], s["viewmats"], coeffs)
    assert found.shape == (*batch, C, N, channels)
    torch.testing.assert_close(found, wanted)
    masks = torch.rand(*batch, C, N, generator=generator) < 0.5
    shown = gsplat.spherical_harmonics(2, s["means"], s["viewmats"], coeffs=coeffs, masks=masks)
    torch.testing.assert_close(shown, wanted * masks[..., None])
    ids = masks.reshape(-1, C, N).nonzero().unbind(1)
    packed = gsplat.spherical_harmonics(
        2, s["means"], s["viewmats"], coeffs[ids[2]], None, *ids, viewmats_rs=s["viewmats"]
    )
    torch.testing.assert_close(packed, wanted[masks])


# Errors, and being gsplat.


def test_errors(generator: torch.Generator) -> None:
    s = scene(generator, ())
    ones = torch.ones
    cases = [
        (lambda: gsplat.quat_scale_to_covar_preci(ones(2, 4), ones(3, 3)), r"scales: .*\[2, 3\]"),
        (lambda: gsplat.quat_scale_to_covar_preci(ones(2, 3), ones(2, 3)), r"quats: .*\[2, 4\]"),
        (
            lambda: project({**s, "quats": s["means"]}),
            r"fully_fused_projection: quats: .*\[40, 4\]",
        ),
        (lambda: project(s, sparse_grad=True), "sparse_grad: expected packed=True"),
        (lambda: project(s, camera_model="ftheta"), "camera_model: expected one of"),
        (lambda: project(s, opacities=ones(3)), r"opacities: expected shape \[40\], got \[3\]"),
        (lambda: gsplat.isect_tiles(ones(4, 2), ones(4, 3).int(), ones(4), 16, 1, 1), "radii: "),
        (
            lambda: gsplat.isect_tiles(
                ones(4, 2), ones(4, 2).int(), ones(4), 16, 1, 1, packed=True
            ),
            "n_images: expected an integer when packed, got None",
        ),
        (
            lambda: gsplat.spherical_harmonics(1, ones(4, 3), ones(3, 4, 3)),
            r"coeffs: .*\[4, K, D\]",
        ),
        (
            lambda: gsplat.proj(ones(1, 4, 3), ones(1, 4, 3, 3), ones(3, 3), 8, 8),
            r"Ks: .*\[1, 3, 3\]",
        ),
    ]
    for call, match in cases:
        with pytest.raises(ValueError, match=match):
            call()


THIRD_PARTY = """
import importlib.util
import fieldline.compat
ours = fieldline.compat.install("gsplat")
assert fieldline.compat.install("gsplat") is ours

import gsplat
import gsplat.cuda._wrapper as wrapper
from gsplat import rasterization
from gsplat.cuda._wrapper import fully_fused_projection, isect_tiles
from gsplat.rendering import rasterization as again

assert rasterization is again is ours.rasterization
assert wrapper.spherical_harmonics is gsplat.spherical_harmonics is ours.spherical_harmonics
assert importlib.util.find_spec("gsplat.rendering").name == "gsplat.rendering"
assert gsplat.cuda._wrapper is wrapper and gsplat.__version__ == "1.5.3"
try:
    import gsplat.strategy
except ModuleNotFoundError:
    print("fine")
"""


def test_install() -> None:
    """In a process of its own: ``import gsplat`` then means ours."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", THIRD_PARTY],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0 and done.stdout == "fine\n", done.stderr


def test_install_refuses_what_it_would_break(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"expected one of .*gsplat.* got 'colmap'"):
        fieldline.compat.install("colmap")
    monkeypatch.setitem(sys.modules, "gsplat", math)
    with pytest.raises(ImportError, match="gsplat was imported before"):
        fieldline.compat.install("gsplat")
