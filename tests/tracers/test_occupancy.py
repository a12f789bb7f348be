# SPDX-License-Identifier: Apache-2.0
"""Occupancy estimators: what they learn, what they forget, and where they sample."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from fieldline.representations.vdb import VDBGrid
from fieldline.tracers.occupancy import OccupancyEstimator, enlarge_aabb
from fieldline.tracers.vdb_estimator import VDBEstimator
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

KINDS = (OccupancyEstimator, VDBEstimator)
UNIT = [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]
BOX = [-1.0, -1.0, -1.0, 1.0, 1.0, 1.0]


def rays(n: int = 64, seed: int = 0, radius: float = 3.0) -> tuple[Tensor, Tensor]:
    """From a sphere, past the origin."""
    generator = torch.Generator().manual_seed(seed)
    origins = torch.nn.functional.normalize(torch.randn(n, 3, generator=generator), dim=-1) * radius
    aims = torch.randn(n, 3, generator=generator) * 0.4
    return origins, torch.nn.functional.normalize(aims - origins, dim=-1)


def filled(
    kind: type[OccupancyEstimator] = OccupancyEstimator,
    resolution: int | list[int] = 32,
    levels: int = 1,
    share: float = 0.3,
    seed: int = 0,
) -> OccupancyEstimator:
    estimator = kind(BOX, resolution, levels)
    draws = torch.rand(estimator.binaries.shape, generator=torch.Generator().manual_seed(seed))
    estimator.binaries = draws < share
    return estimator


def position(
    estimator: OccupancyEstimator, o: Tensor, d: Tensor, found: tuple[Tensor, ...]
) -> Tensor:
    rays, starts, ends = found
    return o[rays] + d[rays] * ((starts + ends) / 2)[:, None]


# -- state -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_state_is_nerfaccs(kind: type[OccupancyEstimator]) -> None:
    estimator = kind(BOX, [3, 4, 5], levels=2)
    state = estimator.state_dict()
    assert set(state) == {"resolution", "aabbs", "occs", "binaries"}
    assert state["resolution"].dtype == torch.int32
    assert state["resolution"].tolist() == [3, 4, 5]
    assert state["aabbs"].tolist() == [BOX, [2 * x for x in BOX]]
    assert state["occs"].shape == (2 * 60,)
    assert state["binaries"].shape == (2, 3, 4, 5)
    assert (estimator.levels, estimator.cells_per_lvl, estimator.DIM) == (2, 60, 3)
    assert estimator.device == torch.device("cpu")


@pytest.mark.parametrize("kind", KINDS)
def test_state_survives_saving(kind: type[OccupancyEstimator]) -> None:
    estimator, other = filled(kind), kind(BOX, 32)
    o, d = rays()
    assert len(other.sampling(o, d, render_step_size=0.05)[0]) == 0
    buffer = io.BytesIO()
    torch.save(estimator.state_dict(), buffer)
    buffer.seek(0)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    expected = estimator.sampling(o, d, render_step_size=0.05)
    for twin in (other, copy.deepcopy(estimator)):
        found = twin.sampling(o, d, render_step_size=0.05)
        assert all(torch.equal(a, b) for a, b in zip(found, expected))
    assert len(expected[0]) > 0


def test_a_cell_costs_five_bytes() -> None:
    """So that 512^3 cells need less than 0.7 GB."""
    estimator = OccupancyEstimator(BOX, 64)
    size = sum(t.numel() * t.element_size() for t in estimator.buffers())
    assert size <= 5 * 64**3 + 200
    assert 5 * 512**3 < 0.7e9


def test_enlarge_aabb() -> None:
    assert enlarge_aabb(torch.tensor(UNIT), 4).tolist() == [-1.5] * 3 + [2.5] * 3


# -- sampling --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("levels", [1, 4])
def test_samples_lie_in_occupied_cells(kind: type[OccupancyEstimator], levels: int) -> None:
    estimator = filled(kind, levels=levels)
    o, d = rays(200)
    found = estimator.sampling(o, d, render_step_size=0.01)
    assert len(found[0]) > 1000
    assert (found[0].diff() >= 0).all()
    same = found[0].diff() == 0
    assert (found[1].diff()[same] > 0).all()
    points = position(estimator, o, d, found)
    level = points.abs().amax(-1).log2().ceil().clamp_min(0).long()
    unit = (points / 2.0 ** level[:, None] + 1) / 2 * 32
    # Within rounding of a face, a point may belong to either cell.
    inner = ((unit - unit.round()).abs() > 1e-3).all(-1)
    cell = unit.long().clamp(0, 31)
    occupied = estimator.binaries[level, cell[:, 0], cell[:, 1], cell[:, 2]]
    assert occupied[inner].all()


@pytest.mark.parametrize("levels", [1, 3])
@pytest.mark.parametrize("cone_angle", [0.0, 0.01])
def test_nested_masks_sample_bit_for_bit(levels: int, cone_angle: float) -> None:
    dense = filled(resolution=[20, 33, 70], levels=levels, share=0.1)
    sparse = VDBEstimator.from_estimator(dense)
    o, d = rays(300)
    options = {"render_step_size": 0.02, "cone_angle": cone_angle, "stratified": True}
    a, b = (
        e.sampling(o, d, generator=torch.Generator().manual_seed(7), **options)  # pyright: ignore
        for e in (dense, sparse)
    )
    assert len(a[0]) > 1000
    assert all(torch.equal(x, y) for x, y in zip(a, b))


@pytest.mark.parametrize("kind", KINDS)
def test_near_and_far(kind: type[OccupancyEstimator]) -> None:
    estimator = filled(kind, share=1.0)
    o, d = rays(100)
    step = 0.03
    _, starts, ends = estimator.sampling(o, d, near_plane=2.5, far_plane=3.2, render_step_size=step)
    assert (starts >= 2.5 - step / 2).all()
    assert (ends <= 3.2 + step / 2).all()
    t_min = 2.2 + torch.rand(100, generator=torch.Generator().manual_seed(1)) * 0.5
    t_max = t_min + 0.6
    found, starts, ends = estimator.sampling(o, d, t_min=t_min, t_max=t_max, render_step_size=step)
    assert len(found)
    assert (starts >= t_min[found] - step / 2).all()
    assert (ends <= t_max[found] + step / 2).all()


@pytest.mark.parametrize("kind", KINDS)
def test_stratified_shifts_each_ray(kind: type[OccupancyEstimator]) -> None:
    estimator = filled(kind, share=1.0)
    o, d = rays(50)
    plain, shifted = (
        estimator.sampling(o, d, render_step_size=0.1, stratified=s)[1:] for s in (False, True)
    )
    assert ((plain[0] / 0.1) - (plain[0] / 0.1).round()).abs().max() < 1e-3
    assert ((shifted[0] / 0.1) - (shifted[0] / 0.1).round()).abs().max() > 0.1
    torch.testing.assert_close(shifted[1] - shifted[0], torch.full_like(shifted[0], 0.1))


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_samples_are_left_out(kind: type[OccupancyEstimator]) -> None:
    estimator = filled(kind, share=1.0)
    o, d = rays(20)
    everything = estimator.sampling(o, d, render_step_size=0.05)
    found = estimator.sampling(
        o, d, sigma_fn=lambda t0, t1, r: torch.full_like(t0, 40.0), render_step_size=0.05,
        early_stop_eps=1e-3,
    )  # fmt: skip
    # Each sample lets exp(-2) through: four are in front of 1e-3.
    counts = torch.bincount(everything[0], minlength=20).clamp_max(4)
    assert torch.equal(torch.bincount(found[0], minlength=20), counts)
    alphas = estimator.sampling(
        o, d, alpha_fn=lambda t0, t1, r: torch.full_like(t0, 1 - math.exp(-2)),
        render_step_size=0.05, early_stop_eps=1e-3,
    )  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(found, alphas))


def test_alpha_threshold_is_at_most_the_mean_occupancy() -> None:
    estimator = filled(share=1.0)
    o, d = rays(20)

    def thin(t0: Tensor, t1: Tensor, r: Tensor) -> Tensor:
        return torch.full_like(t0, 0.05)

    options = {"alpha_fn": thin, "render_step_size": 0.05, "alpha_thre": 0.1, "early_stop_eps": 0.0}
    everything = len(estimator.sampling(o, d, render_step_size=0.05)[0])
    for occupancy, kept in ((0.0, everything), (0.02, everything), (0.2, 0), (-1.0, everything)):
        estimator.occs.fill_(occupancy)
        assert len(estimator.sampling(o, d, **options)[0]) == kept  # pyright: ignore


def test_functions_are_not_asked_about_nothing() -> None:
    def never(*args: Tensor) -> Tensor:
        raise AssertionError("asked about no samples")

    estimator = OccupancyEstimator(BOX, 4)
    found = estimator.sampling(*rays(), sigma_fn=never)
    assert [len(t) for t in found] == [0, 0, 0]
    none = torch.zeros(0, 3)
    assert len(filled().sampling(none, none, sigma_fn=never)[0]) == 0


# -- learning --------------------------------------------------------------------------------------


def ball(x: Tensor) -> Tensor:
    return (x.norm(dim=-1, keepdim=True) < 0.5).float()


@pytest.mark.parametrize("kind", KINDS)
def test_learns_a_ball(kind: type[OccupancyEstimator]) -> None:
    torch.manual_seed(0)
    estimator = kind(BOX, 16, levels=2)
    for step in range(0, 320, 16):
        estimator.update_every_n_steps(step, ball, warmup_steps=64)
    centre = (torch.stack(torch.meshgrid(*[torch.arange(16)] * 3, indexing="ij"), -1) + 0.5) / 8 - 1
    for level, scale in enumerate((1.0, 2.0)):
        distance = (centre * scale).norm(dim=-1)
        reach = scale * math.sqrt(3) / 16
        assert estimator.binaries[level][distance < 0.5 - reach].all()
        assert not estimator.binaries[level][distance > 0.5 + reach].any()


def test_updates_every_n_steps_only() -> None:
    estimator, asked = OccupancyEstimator(BOX, 4), []
    for step in range(33):
        estimator.update_every_n_steps(step, lambda x: asked.append(len(x)) or ball(x))
    assert asked == [64, 64, 64]


def test_values_fade_and_grow() -> None:
    """occ = max(decay * occ, found), and cells that no camera sees stay as they are."""
    estimator = OccupancyEstimator(BOX, 4)
    estimator.occs[:] = 0.5
    estimator.occs[:3] = -1
    estimator._update(0, lambda x: torch.full((len(x), 1), 0.1), ema_decay=0.9)
    assert estimator.occs[:3].tolist() == [-1, -1, -1]
    torch.testing.assert_close(estimator.occs[3:], torch.full((61,), 0.45))
    estimator._update(0, lambda x: torch.full((len(x),), 0.7), ema_decay=0.9)
    torch.testing.assert_close(estimator.occs[3:], torch.full((61,), 0.7))


def test_after_warmup_a_quarter_is_drawn() -> None:
    torch.manual_seed(0)
    estimator = OccupancyEstimator(BOX, 8)
    estimator.occs[:100] = -1
    estimator.occs[100:] = 0.5
    estimator.binaries.view(-1)[400:] = True
    asked: list[Tensor] = []
    estimator._update(1000, lambda x: asked.append(x) or torch.zeros(len(x), 1), ema_decay=0.5)
    # 128 drawn from all 512, of which about a fifth is not seen; all 112 occupied ones.
    assert 112 + 80 < sum(len(x) for x in asked) < 112 + 125
    values, counts = estimator.occs.unique(return_counts=True)
    # However often it was drawn, a cell fades once.
    assert values.tolist() == [-1.0, 0.25, 0.5]
    assert counts[0] == 100
    assert (estimator.occs[400:] == 0.25).all()


def test_places_cover_each_cell() -> None:
    torch.manual_seed(0)
    estimator = OccupancyEstimator([0.0, 0, 0, 2, 3, 4], [2, 3, 4])
    seen: list[Tensor] = []
    for _ in range(50):
        estimator._update(0, lambda x: seen.append(x) or torch.zeros(len(x), 1))
    cells = torch.stack(seen).floor().long()
    grid = torch.stack(torch.meshgrid(*map(torch.arange, (2, 3, 4)), indexing="ij"), -1)
    assert (cells == grid.reshape(-1, 3)).all()
    inside = torch.stack(seen) - cells
    assert inside.amin() < 0.1 and inside.amax() > 0.9


def test_threshold_is_the_mean_of_seen_cells() -> None:
    estimator = OccupancyEstimator(BOX, [1, 1, 4])
    estimator.occs[:] = torch.tensor([-1.0, 0.001, 0.003, 0.005])
    estimator._binarize(0.01)
    assert estimator.binaries.flatten().tolist() == [False, False, False, True]
    estimator._binarize(0.002)
    assert estimator.binaries.flatten().tolist() == [False, False, True, True]
    estimator.occs[:] = -1
    estimator._binarize(0.01)
    assert not estimator.binaries.any()


def test_invisible_cells() -> None:
    """Counts that NerfAcc's own test gives."""
    estimator = OccupancyEstimator(BOX, 32, levels=4)
    K = torch.tensor([[[100.0, 0, 50], [0, 100, 50], [0, 0, 1]]])
    pose = torch.tensor([[[-1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 2.5]]])
    estimator.mark_invisible_cells(K, pose, 100, 100)
    assert int((estimator.occs == -1).sum()) == 77_660
    assert int((estimator.occs == 0).sum()) == 53_412
    before = estimator.occs.clone()
    chunked = OccupancyEstimator(BOX, 32, levels=4)
    homogeneous = torch.cat([pose, torch.tensor([[[0.0, 0, 0, 1]]])], 1)
    chunked.mark_invisible_cells(K, homogeneous, 100, 100, chunk=777)
    assert torch.equal(chunked.occs, before)
    # What was left out once stays out, whatever is seen later.
    estimator.mark_invisible_cells(K, -pose, 100, 100)
    assert (estimator.occs[before == -1] == -1).all()


def test_cells_that_no_camera_sees_stay_out_of_late_updates() -> None:
    """Even where they were occupied before a camera was asked."""
    estimator = filled(resolution=8, share=1.0)
    estimator.occs[:256] = -1
    estimator._update(1000, lambda x: torch.ones(len(x)))
    assert (estimator.occs[:256] == -1).all() and not estimator.binaries.view(-1)[:256].any()


def test_a_checkpoint_of_masks() -> None:
    dense = filled(resolution=20, levels=2, share=0.1)
    finer = VDBEstimator.from_estimator(dense).refined(ball, 2, 0.0)
    buffer = io.BytesIO()
    torch.save(finer.state_dict(), buffer)
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    o, d = rays(50)
    expected = finer.sampling(o, d, render_step_size=0.05)
    assert len(expected[0])
    for other in (VDBEstimator([0, 0, 0, 1, 1, 1], 4), copy.deepcopy(finer)):
        other.load_state_dict(state)
        found = other.sampling(o, d, render_step_size=0.05)
        assert all(torch.equal(a, b) for a, b in zip(found, expected))
        assert other.levels == 2 and other.resolution.tolist() == [40, 40, 40]
        with pytest.raises(RuntimeError, match="cannot be trained"):
            other.train().update_every_n_steps(0, ball)


@pytest.mark.parametrize(
    ("key", "change", "text"),
    [
        ("masks.leaves", lambda x: x[:-1], "leaves: expected"),
        ("masks.nodes", lambda x: x + 1, "check_masks"),
        ("masks.tops", lambda x: x.float(), "expected int64"),
        ("masks.tops", lambda x: x[0], r"masks.tops \[levels, X, Y, Z, 2\]"),
        ("resolution", lambda x: x * 99, "check_masks"),
        ("aabbs", lambda x: x[:1], r"aabbs: expected shape \[2, 6\]"),
        ("masks.nodes", lambda x: None, "masks.nodes: expected a tensor, got NoneType"),
    ],
)
def test_damaged_masks_of_a_checkpoint(
    key: str, change: Callable[[torch.Tensor], object], text: str
) -> None:
    dense = filled(resolution=20, levels=2)
    state = VDBEstimator.from_estimator(dense).refined(ball, 2, 0.0).state_dict()
    state[key] = change(state[key])
    with pytest.raises(RuntimeError, match=text):
        VDBEstimator(BOX, 4).load_state_dict(state)


@pytest.mark.parametrize("kind", [OccupancyEstimator, VDBEstimator])
def test_a_checkpoint_of_other_cells_is_named(kind: type[OccupancyEstimator]) -> None:
    state = filled(resolution=8).state_dict()
    with pytest.raises(
        RuntimeError, match=r"resolution: expected \[4, 4, 4\] cells, got \[8, 8, 8\]"
    ):
        kind(BOX, 4).load_state_dict(state)
    state["resolution"] = torch.tensor([4, 4, 32], dtype=torch.int32)  # as many, and others
    with pytest.raises(RuntimeError, match=r"expected \[8, 8, 8\] cells, got \[4, 4, 32\]"):
        kind(BOX, 8).load_state_dict(state)


def test_cells_too_near_to_a_camera_are_left_out() -> None:
    near, far = OccupancyEstimator(BOX, 16), OccupancyEstimator(BOX, 16)
    K = torch.tensor([[[50.0, 0, 50], [0, 50, 50], [0, 0, 1]]])
    pose = torch.eye(4)[None]
    far.mark_invisible_cells(K, pose, 100, 100)
    near.mark_invisible_cells(K, pose, 100, 100, near_plane=0.5)
    gone = (far.occs == 0) & (near.occs == -1)
    z = near._coordinates(torch.arange(16**3))[:, 2] / 15 * 2 - 1
    assert gone.any() and (z[gone] < 0.5).all()


# -- nested masks ----------------------------------------------------------------------------------


def test_masks_follow_binaries() -> None:
    estimator = VDBEstimator(BOX, 16)
    assert isinstance(estimator, VDBEstimator)
    o, d = rays(50)

    def count() -> int:
        return len(estimator.sampling(o, d, render_step_size=0.05)[0])

    assert count() == 0
    first = estimator.masks()
    assert estimator.masks() is first
    estimator.binaries[:, 4:12] = True  # written to
    some = count()
    assert some > 0
    estimator.binaries = torch.ones_like(estimator.binaries)  # assigned
    assert count() > some
    estimator.binaries.zero_()
    assert count() == 0
    estimator.load_state_dict(filled(resolution=16, share=1.0).state_dict())
    assert count() > some
    estimator.binaries.data.zero_()  # cannot be noticed
    assert count() > some
    estimator.refresh()
    assert count() == 0


def test_masks_follow_updates() -> None:
    torch.manual_seed(0)
    estimator = VDBEstimator(BOX, 16)
    for step in (0, 16):
        estimator.update_every_n_steps(step, ball)
        dense = OccupancyEstimator(BOX, 16)
        dense.load_state_dict(estimator.state_dict())
        o, d = rays(50)
        a, b = (e.sampling(o, d, render_step_size=0.05) for e in (estimator, dense))
        assert len(a[0]) and all(torch.equal(x, y) for x, y in zip(a, b))


def test_from_estimator_copies() -> None:
    dense = filled(levels=2).eval()
    sparse = VDBEstimator.from_estimator(dense)
    assert not sparse.training
    dense.binaries.zero_()
    assert sparse.binaries.any()
    assert sparse.grid_bytes < dense.grid_bytes
    foreign = SimpleNamespace(**filled(levels=2).state_dict())
    made = VDBEstimator.from_estimator(foreign)
    assert torch.equal(made.binaries, filled(levels=2).binaries)


def test_from_estimator_of_something_else() -> None:
    with pytest.raises(TypeError, match="estimator: expected a trained occupancy grid with aabbs"):
        VDBEstimator.from_estimator(torch.nn.Linear(2, 2))
    odd = SimpleNamespace(**filled().state_dict())
    odd.binaries = odd.binaries[:, :5]
    with pytest.raises(ValueError, match=r"binaries: expected shape \[1, 32, 32, 32\], got"):
        VDBEstimator.from_estimator(odd)


@given(
    resolution=st.lists(st.integers(1, 70), min_size=3, max_size=3),
    levels=st.integers(1, 3),
    share=st.sampled_from([0.0, 0.01, 0.3, 1.0]),
    seed=st.integers(0, 99),
)
def test_any_grid_samples_bit_for_bit(
    resolution: list[int], levels: int, share: float, seed: int
) -> None:
    dense = filled(resolution=resolution, levels=levels, share=share, seed=seed)
    sparse = VDBEstimator.from_estimator(dense)
    o, d = rays(20, seed, radius=0.5 + seed % 4)
    a, b = (e.sampling(o, d, render_step_size=0.07) for e in (dense, sparse))
    assert all(torch.equal(x, y) for x, y in zip(a, b))


# -- errors ----------------------------------------------------------------------------------------

RO, RD, NAN = torch.zeros(3, 3), torch.ones(3, 3), float("nan")
BAD: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: OccupancyEstimator(BOX, contraction_type="x"), ValueError, "contraction_type"),
    (lambda: OccupancyEstimator(BOX, mystery=1), TypeError, "expected no argument 'mystery'"),
    (lambda: OccupancyEstimator([0, 1]), ValueError, r"roi_aabb: expected shape \[6\], got \[2\]"),
    (lambda: OccupancyEstimator(UNIT[::-1]), ValueError, "min xyz below max xyz"),
    (lambda: OccupancyEstimator([float("nan")] * 6), ValueError, "roi_aabb: expected finite"),
    (lambda: OccupancyEstimator(BOX, [4, 4]), ValueError, "resolution: expected 3 numbers"),
    (lambda: OccupancyEstimator(BOX, 0), ValueError, r"got \[0, 0, 0\]"),
    (lambda: OccupancyEstimator(BOX, 1.5), TypeError, "expected integers"),  # pyright: ignore
    (lambda: OccupancyEstimator(BOX, 1 << 20), ValueError, "at most 2.40 cells"),
    (lambda: OccupancyEstimator(BOX, levels=0), ValueError, "levels: expected 1 or more, got 0"),
    (lambda: OccupancyEstimator(BOX, levels=1.5), TypeError,  # pyright: ignore
     "levels: expected an integer, got float"),
    (lambda: OccupancyEstimator(BOX, levels=17), ValueError, "levels: expected at most 16, got 17"),
    (lambda: OccupancyEstimator(BOX, [1 << 33, 1, 1]), ValueError, "fewer than 2.31 along an axis"),
    (lambda: OccupancyEstimator(BOX, None), TypeError, "got None"),  # pyright: ignore
    (lambda: OccupancyEstimator("box"), TypeError, "roi_aabb: expected 6 numbers, got str"),
    (lambda: OccupancyEstimator([0, 0, 0, 1, 1, 9e17], 2, 3), ValueError, r"of 3 level\(s\) below"),
    (lambda: filled().sampling(RO * NAN, RD), ValueError,
     "^OccupancyEstimator.sampling: rays_o, rays_d, near, far: ray 0: expected finite"),
    (lambda: VDBEstimator(BOX).sampling(RO, RD, render_step_size=1e-20), ValueError,
     "^VDBEstimator.sampling: render_step_size: expected a length from 1e-12 to 1e10, got 1e-20"),
    (lambda: filled().sampling(RO, RD, max_samples=1.5), TypeError,  # pyright: ignore
     "max_samples: expected an integer, got float"),
    (lambda: filled().sampling(RO, RD, early_stop_eps=NAN), ValueError, "early_stop_eps: .*nan"),
    (lambda: filled().sampling(RO, RD, alpha_thre=NAN), ValueError, "alpha_thre: .*nan"),
    (lambda: filled().update_every_n_steps(0, ball, n=0), ValueError, "n: expected 1 or more"),
    (lambda: filled().update_every_n_steps(-1, ball), ValueError, "step: expected 0 or more"),
    (lambda: filled().update_every_n_steps(0, ball, ema_decay=NAN), ValueError, "ema_decay"),
    (lambda: filled().update_every_n_steps(0, ball, ema_decay=2), ValueError, "expected at most 1"),
    (lambda: filled().update_every_n_steps(0, ball, occ_thre=NAN), ValueError, "occ_thre"),
    (lambda: filled().mark_invisible_cells(torch.eye(3)[None] * NAN, torch.eye(4)[None], 4, 4),
     ValueError, "K: expected finite numbers"),
    (lambda: filled().mark_invisible_cells(torch.eye(3)[None], torch.eye(4)[None], 0, 4),
     ValueError, "width: expected 1 or more, got 0"),
    (lambda: filled().sampling(RO[:, :2], RD), ValueError, r"rays_o: expected shape \[n_rays, 3\]"),
    (lambda: filled().sampling(RO, RD[:2]), ValueError, r"rays_d: expected shape \[3, 3\]"),
    (lambda: filled().sampling(RO.long(), RD), TypeError, "rays_o: expected a floating type"),
    (lambda: filled().sampling(RO.to("meta"), RD), ValueError, "expected device cpu, got meta"),
    (lambda: filled().sampling(RO, RD, t_max=torch.ones(3, 1)), ValueError,
     r"OccupancyEstimator.sampling: t_max: expected shape \[3\], got \[3, 1\]"),
    (lambda: filled().sampling(RO, RD, render_step_size=-1), ValueError,
     "render_step_size: expected a number above 0.0, got -1"),
    (lambda: filled().sampling(RO, RD, render_step_size=float("nan")), ValueError, "got nan"),
    (lambda: filled().sampling(RO, RD, cone_angle=-0.1), ValueError, "cone_angle"),
    (lambda: filled().sampling(RO, RD * float("nan")), ValueError, "finite"),
    (lambda: filled().sampling(RO, RD * 0), ValueError, "rays_d|direction"),
    (lambda: filled(share=1.0).sampling(RO, RD, render_step_size=1e-3, max_samples=100), ValueError,
     "100"),
    (lambda: filled().sampling(RO, RD, sigma_fn=lambda a, b, c: a[:, None]), ValueError,
     r"sampling: sigma_fn: expected shape \[\d+\], got \[\d+, 1\]"),
    (lambda: filled().sampling(RO, RD, alpha_fn=lambda a, b, c: 1), TypeError, "expected a tensor"),
    (lambda: filled().eval().update_every_n_steps(0, ball), RuntimeError, "expected training mode"),
    (lambda: filled()._update(0, lambda x: x), ValueError,
     r"occ_eval_fn: expected shape \[32768, 1\], got \[32768, 3\]"),
    (lambda: filled()._update(0, lambda x: x[:, 0] * float("nan")), ValueError, "got NaN"),
    (lambda: filled().mark_invisible_cells(torch.eye(3), torch.eye(4)[None], 2, 2), ValueError,
     r"K: expected shape \[1 or n_cameras, 3, 3\], got \[3, 3\]"),
    (lambda: filled().mark_invisible_cells(torch.eye(3)[None], torch.zeros(1, 2, 4), 2, 2),
     ValueError, "c2w: expected shape"),
    (lambda: filled().mark_invisible_cells(torch.eye(3).expand(2, 3, 3), torch.zeros(3, 3, 4), 2,
                                           2), ValueError, "K: expected 1 or 3 intrinsics, got 2"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "text"), BAD)
def test_errors(call: Callable[[], object], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        call()


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_binaries(kind: type[OccupancyEstimator]) -> None:
    estimator = filled(kind)
    estimator.binaries = estimator.binaries.float()
    with pytest.raises(TypeError, match=f"{kind.__name__}: binaries: expected torch.bool"):
        estimator.sampling(*rays())
    estimator.binaries = torch.zeros(1, 2, 2, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"binaries: expected shape \[1, 32, 32, 32\]"):
        estimator.sampling(*rays())


def test_nan_leaves_the_estimator_usable() -> None:
    estimator = filled()
    with pytest.raises(ValueError, match="NaN"):
        estimator._update(0, lambda x: torch.where(x[:, :1] > 0, float("nan"), 1.0))
    assert estimator.occs.isfinite().all()


# -- without a dense grid --------------------------------------------------------------------------


@pytest.mark.parametrize("placed", [False, True])
def test_from_grid_samples_its_voxels(placed: bool) -> None:
    dense = filled(resolution=[20, 33, 70], share=0.1)
    transform = torch.diag(torch.tensor([0.1, 2 / 33, 2 / 70, 1.0], dtype=torch.float64))
    transform[:3, 3] = -1
    grid = VDBGrid.from_dense(dense.binaries[0], transform=transform)
    sparse = VDBEstimator.from_grid(grid, BOX if placed else None)
    o, d = rays(200)
    a, b = (e.sampling(o, d, render_step_size=0.05) for e in (dense, sparse))
    if placed:
        assert len(a[0]) and all(torch.equal(x, y) for x, y in zip(a, b))
    assert abs(len(a[0]) - len(b[0])) <= 1e-3 * len(a[0])
    assert sparse.resolution.tolist() == [20, 33, 70] and sparse.binaries.numel() == 0
    moved = sparse.to(torch.float64).to(torch.float32)
    assert len(moved.sampling(o, d, render_step_size=0.05)[0]) == len(b[0])
    twin = copy.deepcopy(sparse)
    assert len(twin.sampling(o, d, render_step_size=0.05)[0]) == len(b[0])
    with pytest.raises(RuntimeError, match="made by from_grid, which cannot be trained"):
        sparse.train().update_every_n_steps(0, ball)


def test_from_grid_needs_an_upright_box() -> None:
    turned = torch.eye(4, dtype=torch.float64)
    turned[:2, :2] = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    grid = VDBGrid.from_dense(torch.ones(2, 2, 2, dtype=torch.bool), transform=turned)
    with pytest.raises(ValueError, match="a transform that scales along the axes"):
        VDBEstimator.from_grid(grid)


@pytest.mark.parametrize("levels", [1, 2])
def test_refined_keeps_what_is_seen(levels: int) -> None:
    coarse = VDBEstimator(BOX, 8, levels)
    coarse.binaries[:] = True
    finer = coarse.refined(ball, factor=4)
    assert finer.resolution.tolist() == [32] * 3 and not finer.training
    o, d = rays(100)
    kept, everything = (e.sampling(o, d, render_step_size=0.01) for e in (finer, coarse))
    assert 0 < len(kept[0]) < 0.5 * len(everything[0])
    points = position(coarse, o, d, everything)
    inside = points.norm(dim=-1) < 0.5
    wanted = torch.stack([everything[0][inside].double(), everything[1][inside].double()], -1)
    found = {tuple(row) for row in torch.stack([kept[0].double(), kept[1].double()], -1).tolist()}
    assert len(wanted) > 100 and all(tuple(row) in found for row in wanted.tolist())
    same = coarse.refined(lambda x: torch.ones(len(x)), factor=1)
    assert len(same.sampling(o, d, render_step_size=0.01)[0]) == len(everything[0])
    with pytest.raises(ValueError, match="factor: expected 1 or more, got 0"):
        coarse.refined(ball, 0)
    with pytest.raises(ValueError, match=r"occ_eval_fn: expected shape \[\d+, 1\]"):
        coarse.refined(lambda x: x)


def test_it_may_be_moved_before_it_has_masks() -> None:
    """As its base class does where the box lies on a GPU."""
    made = VDBEstimator.__new__(VDBEstimator)
    torch.nn.Module.__init__(made)
    assert made.to("cpu") is made


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_it_is_made_on_the_gpu_of_its_box() -> None:
    trained = OccupancyEstimator(torch.tensor([-1.0, -1, -1, 1, 1, 1], device="cuda"), 8)
    trained.binaries[:] = True
    made = VDBEstimator.from_estimator(trained)
    rays = torch.tensor([[[0.0, 0, -3]], [[0, 0, 1]]], device="cuda").unbind()
    found = made.sampling(*rays, render_step_size=0.5)
    assert found[0].is_cuda and len(found[0]) == len(
        trained.sampling(*rays, render_step_size=0.5)[0]
    )
