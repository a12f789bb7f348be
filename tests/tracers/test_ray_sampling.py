# SPDX-License-Identifier: Apache-2.0
"""Importance sampling, searches, proposals and lenses."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from fieldline.tracers.lens import opencv_lens_undistortion, opencv_lens_undistortion_fisheye
from fieldline.tracers.proposal import PropNetEstimator, get_proposal_requires_grad_fn
from fieldline.tracers.ray_samples import RayIntervals, RaySamples
from fieldline.tracers.ray_sampling import importance_sampling, searchsorted
from torch import Tensor

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return request.param


def histogram(n: int, bins: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Edges and CDFs of n rays."""
    generator = torch.Generator().manual_seed(0)
    widths = torch.rand(n, bins, generator=generator) + 0.1
    weights = torch.rand(n, bins, generator=generator) ** 3
    edges = torch.cat([torch.zeros(n, 1), widths.cumsum(-1)], -1)
    cdfs = torch.cat([torch.zeros(n, 1), (weights / weights.sum(-1, True)).cumsum(-1)], -1)
    return edges.to(device), cdfs.to(device)


def inverse(edges: Tensor, cdf: Tensor, u: Tensor) -> Tensor:
    """Where a CDF reaches u, by its definition."""
    for k in range(len(cdf) - 1):
        if cdf[k + 1] >= u:
            return edges[k] + (u - cdf[k]) / (cdf[k + 1] - cdf[k]) * (edges[k + 1] - edges[k])
    return edges[-1]


def test_importance_sampling_inverts_cdfs(device: str) -> None:
    edges, cdfs = histogram(5, 8, device)
    intervals, samples = importance_sampling(RayIntervals(edges), cdfs, 16)
    assert intervals.vals.shape == (5, 17) and samples.vals.shape == (5, 16)
    for ray in range(5):
        places = (torch.arange(16) + 0.5) / 16
        expected = torch.stack([inverse(edges[ray].cpu(), cdfs[ray].cpu(), u) for u in places])
        torch.testing.assert_close(samples.vals[ray].cpu(), expected, atol=1e-4, rtol=0)
    middles = (samples.vals[:, 1:] + samples.vals[:, :-1]) / 2
    torch.testing.assert_close(intervals.vals[:, 1:-1], middles)
    assert (intervals.vals.diff() >= 0).all()
    assert (intervals.vals[:, 0] >= edges[:, 0]).all()
    assert (intervals.vals[:, -1] <= edges[:, -1]).all()


def test_importance_sampling_packed_is_batched(device: str) -> None:
    edges, cdfs = histogram(6, 9, device)
    packed = torch.stack([torch.arange(6) * 10, torch.full((6,), 10)], -1).to(device)
    counts = torch.tensor([4, 0, 1, 7, 4, 2], device=device)
    intervals, samples = importance_sampling(
        RayIntervals(edges.flatten(), packed), cdfs.flatten(), counts
    )
    assert samples.packed_info is not None and intervals.packed_info is not None
    assert samples.packed_info[:, 1].tolist() == counts.tolist()
    assert intervals.packed_info[:, 1].tolist() == [5, 0, 2, 8, 5, 3]
    for ray, n in enumerate(counts.tolist()):
        if n == 0:
            continue
        alone, own = importance_sampling(RayIntervals(edges[ray : ray + 1]), cdfs[ray : ray + 1], n)
        assert torch.equal(samples.vals[samples.ray_indices == ray], own.vals[0])
        mine = intervals.ray_indices == ray
        assert torch.equal(intervals.vals[mine], alone.vals[0])
        assert intervals.is_left is not None and intervals.is_right is not None
        assert intervals.is_left[mine].tolist() == [True] * n + [False]
        assert intervals.is_right[mine].tolist() == [False] + [True] * n
    batched, _ = importance_sampling(RayIntervals(edges.flatten(), packed), cdfs.flatten(), 4)
    assert batched.vals.shape == (6, 5)


def test_stratified_samples_shift_together() -> None:
    edges = torch.tensor([[0.0, 1.0]]).expand(4, 2)
    _, samples = importance_sampling(
        RayIntervals(edges), edges, 8, True, generator=torch.Generator().manual_seed(1)
    )
    offsets = samples.vals * 8 - torch.arange(8)
    assert (offsets >= 0).all() and (offsets < 1).all()
    torch.testing.assert_close(offsets, offsets[:, :1].expand(4, 8), atol=1e-5, rtol=0)
    assert offsets[:, 0].unique().numel() == 4


def test_searchsorted_brackets(device: str) -> None:
    edges, _ = histogram(7, 11, device)
    values = torch.rand(7, 30, generator=torch.Generator().manual_seed(1)).to(device) * 5
    left, right = searchsorted(RayIntervals(edges), RaySamples(values))
    inside = (values >= edges[:, :1]) & (values < edges[:, -1:])
    assert ((edges.gather(-1, left) <= values) | ~inside).all()
    assert ((values < edges.gather(-1, right)) | ~inside).all()
    assert (right - left == 1).all()
    packed = torch.stack([torch.arange(7) * 12, torch.full((7,), 12)], -1).to(device)
    asked = torch.stack([torch.arange(7) * 30, torch.full((7,), 30)], -1).to(device)
    flat = searchsorted(RayIntervals(edges.flatten(), packed), RaySamples(values.flatten(), asked))
    for a, b in zip(flat, (left, right)):
        assert torch.equal(a.view_as(b), b + packed[:, :1])


# -- proposals -------------------------------------------------------------------------------------


def wall(t_starts: Tensor, t_ends: Tensor) -> Tensor:
    return 40.0 * (((t_starts + t_ends) / 2 - 3).abs() < 0.25)


@pytest.mark.parametrize("kind", ["uniform", "lindisp"])
def test_proposals_find_a_wall(kind: str) -> None:
    estimator = PropNetEstimator()
    t_starts, t_ends = estimator.sampling(
        [wall, wall],
        [64, 32],
        16,
        5,
        2.0,
        6.0,
        kind,
        stratified=True,  # pyright: ignore
    )
    assert t_starts.shape == t_ends.shape == (5, 16)
    assert torch.equal(t_starts[:, 1:], t_ends[:, :-1])
    assert (t_starts >= 2).all() and (t_ends <= 6.0001).all()
    middles = (t_starts + t_ends) / 2
    assert ((middles - 3).abs() < 0.3).float().mean() > 0.8


def test_proposals_learn() -> None:
    torch.manual_seed(0)
    table = torch.zeros(64, requires_grad=True)

    def proposal(t_starts: Tensor, t_ends: Tensor) -> Tensor:
        cell = (((t_starts + t_ends) / 2 - 2) * 16).long().clamp(0, 63)
        return torch.nn.functional.softplus(table[cell])

    optimizer = torch.optim.Adam([table], lr=0.3)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1000)
    estimator = PropNetEstimator(optimizer, scheduler)
    losses = []
    for _ in range(60):
        t_starts, t_ends = estimator.sampling(
            [proposal], [64], 48, 32, 2.0, 6.0, "uniform", stratified=True, requires_grad=True
        )
        passed = torch.exp(-(wall(t_starts, t_ends) * (t_ends - t_starts)).cumsum(-1))
        trans = torch.cat([torch.ones(32, 1), passed[:, :-1]], -1)
        losses.append(estimator.update_every_n_steps(trans, requires_grad=True))
    assert losses[-1] < 0.2 * losses[0]
    middle = (torch.arange(64) + 0.5) / 16 + 2
    inside = (middle - 3).abs() < 0.2
    assert table[inside].mean() > table[middle < 2.6].mean() + 1
    assert estimator.update_every_n_steps(trans) == 0.0
    assert float(estimator.compute_loss(trans)) == 0.0


def test_proposals_are_trained_ever_more_rarely() -> None:
    due = get_proposal_requires_grad_fn(target=5.0, num_steps=100)
    steps = [step for step in range(400) if due(step)]
    gaps = [b - a for a, b in pairwise(steps)]
    assert gaps[0] == 1 and set(gaps[-10:]) == {6}
    assert gaps == sorted(gaps)


# -- lenses ----------------------------------------------------------------------------------------


def distort(uv: Tensor, p: Tensor) -> Tensor:
    k1, k2, p1, p2, k3, k4, k5, k6 = torch.nn.functional.pad(p, (0, 8 - len(p)))
    u, v = uv.unbind(-1)
    r = u * u + v * v
    scale = (1 + k1 * r + k2 * r**2 + k3 * r**3) / (1 + k4 * r + k5 * r**2 + k6 * r**3)
    return torch.stack([u * scale + 2 * p1 * u * v + p2 * (r + 2 * u * u),
                        v * scale + 2 * p2 * u * v + p1 * (r + 2 * v * v)], -1)  # fmt: skip


@pytest.mark.parametrize("count", [0, 1, 2, 4, 5, 8])
def test_lenses_are_undone(count: int, device: str) -> None:
    uv = torch.rand(3, 50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.5
    params = torch.tensor([0.1, -0.05, 0.01, -0.02, 0.03, 0.02, -0.01, 0.005]).double()[:count]
    found = opencv_lens_undistortion(distort(uv, params).to(device), params.to(device))
    torch.testing.assert_close(found.cpu(), uv, atol=1e-9, rtol=0)


def test_fisheyes_are_undone(device: str) -> None:
    uv = torch.rand(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 4 - 2
    uv[0] = 0
    params = torch.tensor([0.05, -0.01, 0.003, -0.0005], dtype=torch.float64)
    radius = uv.norm(dim=-1, keepdim=True)
    theta = radius.atan()
    k = params
    bent = theta * (1 + k[0] * theta**2 + k[1] * theta**4 + k[2] * theta**6 + k[3] * theta**8)
    distorted = torch.where(radius > 0, uv * bent / radius.clamp_min(1e-12), uv)
    found = opencv_lens_undistortion_fisheye(distorted.to(device), params.to(device))
    torch.testing.assert_close(found.cpu(), uv, atol=1e-7, rtol=0)


# -- errors ----------------------------------------------------------------------------------------

E2 = RayIntervals(torch.tensor([[0.0, 1.0]]))


def kept_with_other_trans() -> None:
    estimator = PropNetEstimator()
    estimator.sampling([wall], [4], 4, 1, 1.0, 2.0, requires_grad=True)
    estimator.compute_loss(torch.ones(1, 5))


BAD: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: importance_sampling(E2, torch.zeros(1, 3), 4), ValueError, r"cdfs: expected shape"),
    (lambda: importance_sampling(E2, E2.vals, 0), ValueError, "n_intervals_per_ray: expected at"),
    (lambda: importance_sampling(E2, E2.vals, torch.tensor([-1])), ValueError, "none below 0"),
    (lambda: importance_sampling(E2, E2.vals, 1.5), TypeError,  # pyright: ignore
     "n_intervals_per_ray: expected an integer, got float"),
    (lambda: importance_sampling(E2.vals, E2.vals, 2), TypeError,  # pyright: ignore
     "intervals: expected RayIntervals or RaySamples, got Tensor"),
    (lambda: PropNetEstimator().sampling([wall], [4], 4, -1, 1.0, 2.0), ValueError,
     "n_rays: expected 0 or more, got -1"),
    (lambda: PropNetEstimator().sampling([wall], [4], 4, 1, 1.0, float("nan")), ValueError,
     "far_plane: .*got nan"),
    (lambda: PropNetEstimator().sampling([lambda a, b: None], [4], 4, 1, 1.0, 2.0),  # pyright: ignore
     ValueError, "got NoneType"),
    (kept_with_other_trans, ValueError, r"trans: expected shape \[1, 4\], got \[1, 5\]"),
    (lambda: importance_sampling(E2, E2.vals, torch.tensor([1.0])), TypeError, "integers"),
    (lambda: importance_sampling(E2, E2.vals, torch.tensor([1, 1])), ValueError,
     r"n_intervals_per_ray: expected shape \[1\]"),
    (lambda: importance_sampling(RayIntervals(torch.zeros(4)), torch.zeros(4), 2), ValueError,
     r"intervals.vals: expected shape \[n_rays, n\] without packed_info"),
    (lambda: searchsorted(E2, RaySamples(torch.zeros(2, 2))), ValueError, "expected 1 rays, got 2"),
    (lambda: PropNetEstimator().sampling([wall], [1, 2], 4, 1, 1.0, 2.0), ValueError,
     "prop_samples: expected 1 numbers"),
    (lambda: PropNetEstimator().sampling([wall], [4], 4, 1, 0.0, 2.0), ValueError, "near_plane"),
    (lambda: PropNetEstimator().sampling([wall], [4], 4, 1, 1.0, 2.0, "cubic"),  # pyright: ignore
     ValueError, "sampling_type"),
    (lambda: PropNetEstimator().sampling([lambda a, b: a[:, :1]], [4], 4, 1, 1.0, 2.0), ValueError,
     r"prop_sigma_fns: expected densities \[1, 4\], got \[1, 1\]"),
    (lambda: PropNetEstimator().update_every_n_steps(E2.vals, True), RuntimeError, "an optimizer"),
    (lambda: opencv_lens_undistortion(torch.zeros(3), torch.zeros(4)), ValueError, "uv: expected"),
    (lambda: opencv_lens_undistortion(torch.zeros(2), torch.zeros(3)), ValueError, "0 or 1 or 2"),
    (lambda: opencv_lens_undistortion_fisheye(torch.zeros(2), torch.zeros(3)), ValueError,
     "expected 4 parameters"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "text"), BAD)
def test_errors(call: Callable[[], object], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        call()
