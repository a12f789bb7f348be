# SPDX-License-Identifier: Apache-2.0
"""The steps of dense initialisation, each against what is known exactly."""

from __future__ import annotations

import math

import pytest
import torch
from fieldline.cuda.splat.ops import spherical_harmonics
from fieldline.datasets import Scene, View
from fieldline.datasets.synthetic import still_life
from fieldline.engine.dense_init.colour import ColourFit, sh_basis
from fieldline.engine.dense_init.consistency import DepthEstimate, cross_check, visible
from fieldline.engine.dense_init.fill import choose_far, far_depth, prepare_fill
from fieldline.engine.dense_init.geometry import bilinear, lift
from fieldline.engine.dense_init.neighbours import (
    choose_neighbours,
    choose_references,
    view_graph,
)
from fieldline.engine.dense_init.sampling import cell_sizes, cut_into_cells, sample_cells
from fieldline.engine.dense_init.structure import detail, edge_shapes
from fieldline.engine.dense_init.surface import fit_surface, tangents
from fieldline.engine.dense_init.triangulate import triangulate
from hypothesis import given
from hypothesis import strategies as st

import fieldline as fl


@pytest.fixture(scope="module")
def still() -> Scene:
    return still_life(n_views=10, width=80, height=60, n_points=400)


def rig(*eyes: tuple[float, float, float], model: str = "pinhole") -> list[fl.Camera]:
    return [
        fl.Camera.look_at(eye, (0, 0, 5), (0, -1, 0), focal=120, width=160, height=120, model=model)
        for eye in eyes
    ]


EYES = ((0.0, 0, 0), (-1.0, 0.1, 0), (1.0, 0, 0.2), (0.3, 0.8, 0))


# -- sampling ------------------------------------------------------------------------------------


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    n_cells=st.integers(1, 300),
    seed=st.integers(0, 1000),
)
def test_cells_are_one_partition_with_one_sample_each(
    height: int, width: int, n_cells: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    density = torch.rand(height, width, generator=generator)
    density[density < 0.2] = 0
    cells = cut_into_cells(density, n_cells)
    assert torch.equal(cells >= 0, density > 0)
    used = cells[cells >= 0].unique()
    if len(used) == 0:
        return
    # Numbers run from 0 without gaps, up to about the number asked for.
    assert torch.equal(used, torch.arange(len(used)))
    assert len(used) <= min(n_cells + 1, int((density > 0).sum()))
    assert len(used) >= 0.5 * min(n_cells, int((density > 0).sum()))
    pixels = sample_cells(cells, density, generator)
    assert torch.equal(cells.flatten()[pixels], used)
    sizes = cell_sizes(cells)
    assert float(sizes.square().sum()) == pytest.approx(
        float(torch.bincount(cells[cells >= 0]).square().sum()), rel=1e-4
    )


def test_cells_are_compact_and_even() -> None:
    cells = cut_into_cells(torch.ones(64, 64), 256)
    counts = torch.bincount(cells.flatten())
    assert int(counts.min()) >= 14
    assert int(counts.max()) <= 18
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    for cell in (0, 17, 100, 255):
        mine = cells == cell
        assert int(rows[mine].max() - rows[mine].min()) <= 7
        assert int(columns[mine].max() - columns[mine].min()) <= 7


def test_cells_are_smaller_where_density_is_higher() -> None:
    density = torch.ones(32, 32)
    density[:, 16:] = 4
    sizes = cell_sizes(cut_into_cells(density, 200))
    assert float(sizes[:, :16].mean() / sizes[:, 16:].mean()) == pytest.approx(2, rel=0.1)


def test_samples_follow_the_weight_within_a_cell() -> None:
    cells = torch.arange(3000)[:, None].expand(3000, 4)
    weight = torch.tensor([0.0, 1.0, 2.0, 1.0]).expand(3000, 4)
    pixels = sample_cells(cells, weight, torch.Generator().manual_seed(0))
    share = torch.bincount(pixels % 4, minlength=4) / 3000
    assert share[0] == 0
    assert torch.allclose(share[1:], torch.tensor([0.25, 0.5, 0.25]), atol=0.03)


# -- triangulation -------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["pinhole", "fisheye", "ortho"])
def test_exact_pixels_give_exact_points(model: str) -> None:
    cameras = [camera.to(torch.float64) for camera in rig(*EYES, model=model)]
    points = torch.randn(200, 3, dtype=torch.float64) * 0.3 + torch.tensor([0, 0, 5.0])
    xy = torch.stack([camera.project(points)[0] for camera in cameras], dim=1)
    found = triangulate(cameras, xy, torch.ones(200, 4))
    assert float((found.points - points).norm(dim=-1).max()) < 1e-7
    assert float(found.error.max()) < 1e-6
    assert bool(found.used.all())
    assert bool(found.in_front.all())


def test_one_wrong_neighbour_is_left_out() -> None:
    cameras = rig(*EYES)
    points = torch.randn(100, 3) * 0.3 + torch.tensor([0, 0, 5.0])
    xy = torch.stack([camera.project(points)[0] for camera in cameras], dim=1)
    xy[:, 2] += torch.tensor([0.0, 15.0])
    found = triangulate(cameras, xy, torch.ones(100, 4), max_error=1.0)
    assert not bool(found.used[:, 2].any())
    assert float((found.points - points).norm(dim=-1).max()) < 1e-3


def test_gauss_newton_is_at_least_as_good_as_any_single_pair() -> None:
    generator = torch.Generator().manual_seed(0)
    cameras = rig(*EYES)
    points = torch.randn(300, 3, generator=generator) * 0.3 + torch.tensor([0, 0, 5.0])
    xy = torch.stack([camera.project(points)[0] for camera in cameras], dim=1)
    xy += 0.5 * torch.randn(xy.shape, generator=generator)
    all_views = triangulate(cameras, xy, torch.ones(300, 4), max_error=5.0)
    pair = torch.tensor([1.0, 1.0, 0.0, 0.0]).expand(300, 4)
    one_pair = triangulate(cameras, xy, pair, max_error=5.0)
    wrong = (all_views.points - points).norm(dim=-1).median()
    assert wrong < 0.8 * (one_pair.points - points).norm(dim=-1).median()


def test_what_cannot_be_trusted_is_marked() -> None:
    cameras = rig((0.0, 0, 0), (0.5, 0, 0))
    # Parallel rays, rays that part in front, a point seen once, a usable one, and a NaN.
    center = torch.tensor([80.0, 60.0])
    directions = cameras[1].world_to_camera[:3, :3] @ torch.tensor([0.0, 0.0, 1.0])
    parallel = cameras[1].K @ directions
    good = [camera.project(torch.tensor([[0.1, 0.1, 4.0]]))[0][0] for camera in cameras]
    apart = torch.stack((center + torch.tensor([-60.0, 0]), center + torch.tensor([60.0, 0])))
    xy = torch.stack(
        (
            torch.stack((center, parallel[:2] / parallel[2])),
            apart,
            torch.stack(good),
            torch.stack(good),
            torch.full((2, 2), float("nan")),
        )
    )
    weights = torch.ones(5, 2)
    weights[2, 1] = 0
    found = triangulate(cameras, xy, weights)
    assert found.good(1.0, math.radians(0.5)).tolist() == [False, False, False, True, False]
    assert bool(found.points.isfinite().all())
    assert found.angle[3] == pytest.approx(0.125, rel=0.05)


def test_nothing_to_triangulate() -> None:
    found = triangulate(rig((0.0, 0, 0), (0.5, 0, 0)), torch.zeros(0, 2, 2), torch.zeros(0, 2))
    assert found.points.shape == (0, 3)
    with pytest.raises(ValueError, match="at least 2 cameras"):
        triangulate(rig((0.0, 0, 0)), torch.zeros(1, 1, 2), torch.ones(1, 1))


# -- views ---------------------------------------------------------------------------------------


def scaled(scene: Scene, factor: float) -> Scene:
    """The scene in another unit."""
    views = []
    for view in scene.views:
        pose = view.camera.world_to_camera.clone()
        pose[:3, 3] *= factor
        camera = fl.Camera(pose, view.camera.K, view.width, view.height)
        views.append(View(view.name, camera, view.image))
    points = None if scene.points is None else scene.points * factor
    return Scene(views, points=points)


@pytest.mark.parametrize("points", [True, False])
@pytest.mark.parametrize("factor", [1000.0, 1e-3])
def test_neighbours_do_not_depend_on_the_unit(still: Scene, factor: float, points: bool) -> None:
    scene = scaled(still, 1.0)
    if not points:
        scene.points = None
    other = scaled(scene, factor)
    a, b = view_graph(scene, scene.views), view_graph(other, other.views)
    assert torch.allclose(a.score, b.score, atol=1e-3)
    assert choose_neighbours(a, 3) == choose_neighbours(b, 3)


def test_neighbours_on_an_orbit_are_near_and_on_both_sides(still: Scene) -> None:
    chosen = choose_neighbours(view_graph(still, still.views), 2)
    for i, near in enumerate(chosen):
        steps = sorted((j - i + 5) % 10 - 5 for j in near)
        assert i not in near
        assert steps[0] < 0 < steps[1]
        assert max(map(abs, steps)) <= 3


def test_references_cover_the_scene(still: Scene) -> None:
    graph = view_graph(still, still.views)
    assert choose_references(graph, 20) == list(range(10))
    some = choose_references(graph, 4)
    assert len(set(some)) == 4
    gaps = [(b - a) % 10 for a, b in zip(some, [*some[1:], some[0]])]
    assert max(gaps) <= 5, "they stand all around"


# -- agreement -----------------------------------------------------------------------------------


def estimate(view: View, factor: float = 1.0) -> DepthEstimate:
    depth = view.depth * factor
    return DepthEstimate(view.camera, depth, (depth > 0).float())


def test_true_depths_confirm_each_other(still: Scene) -> None:
    views = still.views
    found = cross_check(estimate(views[3]), [estimate(views[2]), estimate(views[4])])
    known = found.known > 0
    assert float((found.confirmed > 0)[known].float().mean()) > 0.93
    # Looked through are only pixels at the very edges of objects.
    assert float((found.denied > 0)[known].float().mean()) < 0.1
    assert float(found.score[known].mean()) > 0.7


def test_wrong_depths_are_denied(still: Scene) -> None:
    views = still.views
    others = [estimate(views[2]), estimate(views[4])]
    nearer = cross_check(estimate(views[3], 0.8), others)
    known = nearer.known > 0
    assert float((nearer.confirmed > 0)[known].float().mean()) < 0.1
    assert float((nearer.denied > 0)[known].float().mean()) > 0.7
    assert float(nearer.score[known].mean()) < 0.4


def test_points_behind_a_surface_are_not_seen(still: Scene) -> None:
    view = still.views[0]
    pixels = (view.depth > 0).flatten().nonzero().squeeze(1)
    xy = view.camera.pixel_centers().view(-1, 2)[pixels]
    on = lift(view.camera, xy, view.depth.flatten()[pixels])
    behind = lift(view.camera, xy, view.depth.flatten()[pixels] * 1.1)
    assert bool(visible(estimate(view), on).all())
    assert not bool(visible(estimate(view), behind).any())


# -- surfaces ------------------------------------------------------------------------------------


def plane_estimate(normal: torch.Tensor, noise: float = 0.0) -> tuple[DepthEstimate, torch.Tensor]:
    """A plane through (0, 0, 5) seen from the origin."""
    camera = rig((0.0, 0, 0))[0]
    origins, directions = camera.rays()
    distance = (normal @ torch.tensor([0.0, 0, 5.0])) / (directions @ normal)
    depth = distance * directions[..., 2]
    noisy = depth * (1 + noise * torch.randn(depth.shape, generator=torch.Generator()))
    return DepthEstimate(camera, noisy, torch.ones_like(depth)), depth


@pytest.mark.parametrize("noise", [0.0, 0.002])
def test_planes_are_recovered(noise: float) -> None:
    normal = torch.nn.functional.normalize(torch.tensor([0.5, -0.3, -1.0]), dim=0)
    seen, truth = plane_estimate(normal, noise)
    pixels = torch.arange(0, truth.numel(), 37)
    surface = fit_surface(seen, pixels)
    angle = torch.rad2deg(torch.acos((surface.normal @ normal).clamp(max=1)))
    assert float(angle.median()) < (0.5 if noise == 0 else 12)
    error = (surface.depth / truth.flatten()[pixels] - 1).abs().mean()
    raw = (seen.depth / truth - 1).abs().mean()
    assert float(error) < (1e-4 if noise == 0 else 0.6 * float(raw))


def test_an_edge_does_not_bend_the_surfaces_beside_it() -> None:
    camera = rig((0.0, 0, 0))[0]
    depth = torch.full((120, 160), 4.0)
    depth[:, 80:] = 8.0
    seen = DepthEstimate(camera, depth, torch.ones_like(depth))
    pixels = 60 * 160 + torch.tensor([78, 79, 80, 81])
    surface = fit_surface(seen, pixels)
    assert torch.allclose(surface.depth, depth.flatten()[pixels], rtol=1e-3)
    assert bool((surface.normal[:, 2] < -0.99).all())


def test_tangents_carry_pixels_along_the_plane() -> None:
    normal = torch.nn.functional.normalize(torch.tensor([0.2, 0.4, -1.0]), dim=0)
    seen, depth = plane_estimate(normal)
    xy = torch.tensor([[70.5, 40.5]])
    point = lift(seen.camera, xy, depth[40, 70][None])
    moved = tangents(seen.camera, xy, point, normal[None])[0]
    beside = lift(seen.camera, xy + torch.tensor([1.0, 0.0]), depth[40, 71][None])
    assert torch.allclose(moved[:, 0], (beside - point)[0], atol=1e-3)
    assert torch.allclose(normal @ moved, torch.zeros(2), atol=1e-4)


def test_edge_shapes_lie_along_edges() -> None:
    ramp = torch.linspace(-1, 1, 40)
    image = torch.sigmoid(8 * (ramp[None, :] - ramp[:, None]))[..., None].expand(40, 40, 3)
    shape = edge_shapes(image)[20, 20]
    along = torch.tensor([1.0, 1.0]) / math.sqrt(2)
    across = torch.tensor([1.0, -1.0]) / math.sqrt(2)
    assert float((shape @ along).norm()) > 1.4
    assert float((shape @ across).norm()) < 0.75
    assert torch.allclose(torch.det(edge_shapes(image)), torch.ones(40, 40), atol=1e-4)
    assert torch.allclose(edge_shapes(torch.zeros(5, 5, 3)), torch.eye(2).expand(5, 5, 2, 2))


def test_detail_is_dense_at_edges() -> None:
    image = torch.zeros(20, 20, 3)
    image[:, 10:] = 1
    density = detail(image, 0.3)
    assert float(density[10, 10]) > 3 * float(density[10, 0])
    assert float(density.min()) == pytest.approx(0.3)


# -- colours -------------------------------------------------------------------------------------


def unit(count: int, seed: int) -> torch.Tensor:
    draw = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(draw, dim=-1)


@pytest.mark.parametrize("degree", [0, 1, 2, 3, 4])
def test_basis_is_the_renderers(degree: int) -> None:
    count = (degree + 1) ** 2
    directions = unit(20, 0)
    coefficients = torch.randn(20, count, 3, generator=torch.Generator().manual_seed(1))
    direct = spherical_harmonics(degree, directions, coefficients)
    basis = sh_basis(degree, directions)
    assert torch.allclose(torch.einsum("nk,nkc->nc", basis, coefficients), direct, atol=1e-5)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_known_harmonics_are_recovered(degree: int) -> None:
    count = (degree + 1) ** 2
    truth = 0.05 * torch.randn(7, count, 3, generator=torch.Generator().manual_seed(degree))
    fit = ColourFit(7, degree, noise=1e-4)
    index = torch.arange(7)
    for view in range(60):
        directions = unit(7, 100 + view)
        colors = spherical_harmonics(degree, directions, truth) + 0.5
        fit.add(index, directions, colors, torch.ones(7))
    assert torch.allclose(fit.solve(), truth, atol=1e-4)


def test_degree_grows_with_views() -> None:
    truth = torch.zeros(1, 16, 3)
    truth[0, 2] = 0.2
    energy = []
    for n_views in (1, 3, 8, 40):
        fit = ColourFit(1, 3)
        for view in range(n_views):
            directions = unit(1, view)
            colors = spherical_harmonics(3, directions, truth) + 0.5
            fit.add(torch.tensor([0]), directions, colors, torch.ones(1))
        solved = fit.solve()
        assert bool(solved.isfinite().all())
        energy.append(float((solved - truth).norm()))
    assert energy[0] > 2 * energy[2] > 2 * energy[3]


def test_one_view_gives_its_colour_and_none_gives_grey() -> None:
    fit = ColourFit(2, 3)
    fit.add(torch.tensor([0]), unit(1, 0), torch.tensor([[0.9, 0.2, 0.4]]), torch.ones(1))
    solved = fit.solve()
    shown = spherical_harmonics(3, unit(1, 0), solved[:1]) + 0.5
    assert torch.allclose(shown, torch.tensor([[0.9, 0.2, 0.4]]), atol=0.03)
    turned = spherical_harmonics(3, unit(1, 1), solved[:1]) + 0.5
    assert float((turned - shown).abs().max()) < 0.2
    assert float(solved[1].abs().max()) == 0


# -- filling -------------------------------------------------------------------------------------


def test_blank_regions_end_at_edges_of_the_image() -> None:
    camera = rig((0.0, 0, 0))[0].resized(64, 48)
    image = torch.zeros(48, 64, 3)
    image[:, 32:] = 0.8
    depth = torch.zeros(48, 64)
    depth[:, :6], depth[:, -6:] = 2.0, 6.0
    everywhere = torch.ones(48, 64, dtype=torch.bool)
    small = prepare_fill(camera, image, depth, (depth > 0).float(), everywhere)
    assert float((small.filled[:, 8:30] - 2).abs().max()) < 0.25
    assert float((small.filled[:, 34:56] - 6).abs().max()) < 1.0


def test_sky_goes_to_the_shell_and_walls_stay() -> None:
    """A textured far sky over a near wall: only the shell explains the sky in both views."""
    cameras = [c.resized(64, 48) for c in rig((0.0, 0, 0), (0.6, 0, 0), (-0.6, 0, 0))]
    radius, center = 60.0, torch.zeros(3)
    views = []
    for camera in cameras:
        far = far_depth(camera, center, radius)
        points = lift(camera, camera.pixel_centers().view(-1, 2), far.flatten())
        angle = torch.atan2(points[:, 0], points[:, 2]).view(48, 64)
        image = (0.5 + 0.4 * torch.sin(40 * angle))[..., None].expand(48, 64, 3).clone()
        depth = torch.zeros(48, 64)
        image[24:], depth[28:] = 0.3, 4.0
        allowed = torch.ones(48, 64, dtype=torch.bool)
        views.append(prepare_fill(camera, image, depth, (depth > 0).float(), allowed))
    to_far, _ = choose_far(views[0], views[1:], far_depth(cameras[0], center, radius))
    assert float(to_far[:20, 12:52].float().mean()) > 0.7
    assert float(to_far[25:28].float().mean()) < 0.1
    assert not bool(to_far[28:].any())


def test_bilinear_reads_between_pixels() -> None:
    image = torch.arange(6.0).view(2, 3, 1)
    xy = torch.tensor([[0.5, 0.5], [1.0, 1.0], [2.5, 1.5]])
    assert torch.allclose(bilinear(image, xy)[:, 0], torch.tensor([0.0, 2.0, 5.0]), atol=1e-5)
