# SPDX-License-Identifier: Apache-2.0
"""Volume rendering with NerfAcc's signatures: packed and batched alike, and known values."""

from __future__ import annotations

import doctest
import importlib
from collections.abc import Callable

import pytest
import torch
from fieldline.tracers import packing
from fieldline.tracers.packing import pack_info
from fieldline.tracers.volume_rendering import (
    accumulate_along_rays,
    accumulate_along_rays_,
    distortion,
    render_transmittance_from_alpha,
    render_transmittance_from_density,
    render_visibility_from_alpha,
    render_visibility_from_density,
    render_weight_from_alpha,
    render_weight_from_density,
    rendering,
)
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

MODULES = ("packing", "volume_rendering", "ray_samples", "ray_sampling", "proposal", "estimator",
           "lens", "occupancy", "vdb_estimator", "ray_rendering")  # fmt: skip
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
RAYS, EACH = 12, 37


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    module = importlib.import_module(f"fieldline.tracers.{name}")
    assert doctest.testmod(module, extraglobs={"torch": torch}).failed == 0


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def ray_indices(device: str) -> Tensor:
    return torch.arange(RAYS, device=device).repeat_interleave(EACH)


# -- scans -----------------------------------------------------------------------------------------

SCANS: list[tuple[Callable[..., Tensor], Callable[[Tensor], Tensor]]] = [
    (packing.inclusive_sum, lambda x: x.cumsum(-1)),
    (packing.exclusive_sum, lambda x: x.cumsum(-1) - x),
    (packing.inclusive_prod, lambda x: x.cumprod(-1)),
    (packing.exclusive_prod,
     lambda x: torch.cat([torch.ones_like(x[..., :1]), x[..., :-1]], -1).cumprod(-1)),
]  # fmt: skip


@pytest.mark.parametrize(("ours", "theirs"), SCANS, ids=lambda f: getattr(f, "__name__", ""))
@pytest.mark.parametrize("how", ["batched", "packed_info", "indices"])
def test_scans_are_torchs(
    ours: Callable[..., Tensor],
    theirs: Callable[[Tensor], Tensor],
    how: str,
    device: str,
    ray_indices: Tensor,
) -> None:
    x = (normal(RAYS, EACH).to(device) + 1.5).requires_grad_()
    y = x.detach().clone().requires_grad_()
    weights = normal(RAYS, EACH, seed=1).to(device)
    if how == "batched":
        found = ours(x)
    elif how == "packed_info":
        found = ours(x.flatten(), packed_info=pack_info(ray_indices, RAYS)).view_as(x)
    else:
        found = ours(x.flatten(), indices=ray_indices).view_as(x)
    expected = theirs(y)
    torch.testing.assert_close(found, expected)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(x.grad, y.grad)


def test_scans_take_leading_dimensions(device: str) -> None:
    x = normal(2, 3, 4).to(device)
    torch.testing.assert_close(packing.inclusive_sum(x), x.cumsum(-1))
    assert packing.inclusive_sum(x[:, :0]).shape == (2, 0, 4)
    assert packing.inclusive_sum(x[..., :0]).shape == (2, 3, 0)
    assert packing.inclusive_sum(x[0, 0]).shape == (4,)


def test_half_precision_is_computed_in_float32(device: str) -> None:
    x = torch.full((1, 4096), 1.0, dtype=torch.float16, device=device)
    found = packing.inclusive_sum(x)
    assert found.dtype == torch.float32
    assert float(found[0, -1]) == 4096


@given(st.lists(st.integers(0, 6), max_size=12))
def test_pack_info_counts(counts: list[int]) -> None:
    rays = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts).long())
    packed = pack_info(rays, len(counts))
    assert packed[:, 1].tolist() == counts
    assert packed[:, 0].tolist() == [sum(counts[:i]) for i in range(len(counts))]
    if len(rays):
        assert len(pack_info(rays)) == int(rays[-1]) + 1


# -- known values ----------------------------------------------------------------------------------


def test_visibility_of_known_alphas(device: str) -> None:
    rays = torch.tensor([0, 0, 2, 2, 2], device=device)
    alphas = torch.tensor([0.4, 0.3, 0.8, 0.8, 0.5], device=device)
    # Transmittances: 1, 0.6 | 1, 0.2, 0.04
    for eps, last in ((0.03, True), (0.05, False)):
        seen = render_visibility_from_alpha(
            alphas, ray_indices=rays, n_rays=3, early_stop_eps=eps, alpha_thre=0.0
        )
        assert seen.tolist() == [True, True, True, True, last]
    seen = render_visibility_from_alpha(alphas, ray_indices=rays, n_rays=3, alpha_thre=0.35)
    assert seen.tolist() == [True, False, True, True, True]


def test_visibility_thresholds_are_inclusive(device: str) -> None:
    alphas = torch.tensor([[0.5, 0.5, 0.25]], device=device)
    assert render_visibility_from_alpha(alphas, early_stop_eps=0.25, alpha_thre=0.25).tolist() == [
        [True, True, True]
    ]


def test_visibility_from_density_agrees_with_alpha(device: str, ray_indices: Tensor) -> None:
    starts = normal(RAYS * EACH).abs().to(device)
    ends = starts + normal(RAYS * EACH, seed=1).abs().to(device) * 0.1
    sigmas = normal(RAYS * EACH, seed=2).abs().to(device) * 5
    options = {"ray_indices": ray_indices, "n_rays": RAYS, "early_stop_eps": 0.05}
    found = render_visibility_from_density(starts, ends, sigmas, alpha_thre=0.01, **options)
    alphas = 1 - torch.exp(-sigmas * (ends - starts))
    assert torch.equal(found, render_visibility_from_alpha(alphas, alpha_thre=0.01, **options))
    assert 0 < int(found.sum()) < len(found)


def test_weights_and_gradients_of_known_densities(device: str) -> None:
    rays = torch.tensor([0, 2, 2, 2, 2], device=device)
    sigmas = torch.tensor([0.4, 0.8, 0.1, 0.8, 0.1], device=device, requires_grad=True)
    starts = torch.zeros_like(sigmas, requires_grad=False)
    weights, _, _ = render_weight_from_density(
        starts, torch.ones_like(starts), sigmas, ray_indices=rays, n_rays=3
    )
    expected = torch.tensor([0.3297, 0.5507, 0.0428, 0.2239, 0.0174], device=device)
    torch.testing.assert_close(weights, expected, atol=1e-4, rtol=1e-4)
    weights.sum().backward()
    expected = torch.tensor([0.6703, 0.1653, 0.1653, 0.1653, 0.1653], device=device)
    torch.testing.assert_close(sigmas.grad, expected, atol=1e-4, rtol=1e-4)


def test_packed_is_batched(device: str, ray_indices: Tensor) -> None:
    """All functions of densities and alphas, values and gradients."""
    sigmas = normal(RAYS, EACH).abs().to(device).requires_grad_()
    starts = normal(RAYS, EACH, seed=1).abs().to(device).cumsum(-1)
    ends = starts + 0.3
    packed = pack_info(ray_indices, RAYS)
    flat = [t.flatten() for t in (starts, ends, sigmas)]
    for say in ({"packed_info": packed}, {"ray_indices": ray_indices, "n_rays": RAYS}):
        batched = render_weight_from_density(starts, ends, sigmas)
        found = render_weight_from_density(*flat, **say)  # pyright: ignore
        for a, b in zip(found, batched):
            assert torch.equal(a.view_as(b), b)
        alphas = batched[2]
        a, b = (
            render_weight_from_alpha(alphas.flatten(), **say),  # pyright: ignore
            render_weight_from_alpha(alphas),
        )
        assert all(torch.equal(x.view_as(y), y) for x, y in zip(a, b))
        torch.testing.assert_close(b[0], batched[0])
        gradients = [torch.autograd.grad(w[0].square().sum(), sigmas, retain_graph=True)[0]
                     for w in (found, batched, a, b)]  # fmt: skip
        for gradient in gradients[1:]:
            torch.testing.assert_close(gradient, gradients[0])


def test_prefix_continues_a_ray(device: str) -> None:
    """A ray cut in two: what the first half let through is the second's prefix."""
    alphas = (normal(5, 20).abs() * 0.2).clamp(0, 1).to(device)
    weights, trans = render_weight_from_alpha(alphas)
    passed = (trans * (1 - alphas))[:, 7:8]
    prefix = passed.expand(5, 12)
    tail_weights, tail_trans = render_weight_from_alpha(alphas[:, 8:], prefix_trans=prefix)
    torch.testing.assert_close(tail_weights, weights[:, 8:])
    torch.testing.assert_close(tail_trans, trans[:, 8:])
    tail = render_transmittance_from_alpha(alphas[:, 8:], prefix_trans=prefix)
    torch.testing.assert_close(tail, trans[:, 8:])
    seen = render_visibility_from_alpha(alphas[:, 8:], prefix_trans=prefix, early_stop_eps=0.1)
    assert torch.equal(seen, trans[:, 8:] >= 0.1)
    starts = torch.zeros_like(alphas)
    sigmas = -torch.log1p(-alphas)
    tail, _ = render_transmittance_from_density(
        starts[:, 8:], starts[:, 8:] + 1, sigmas[:, 8:], prefix_trans=prefix
    )
    torch.testing.assert_close(tail, trans[:, 8:])


# -- sums ------------------------------------------------------------------------------------------


def test_accumulate_is_index_add(device: str) -> None:
    rays = torch.tensor([0, 2, 2, 2, 2], device=device)
    weights = normal(5).to(device).requires_grad_()
    values = normal(5, 2, seed=1).to(device).requires_grad_()
    found = accumulate_along_rays(weights, values, ray_indices=rays, n_rays=4)
    expected = torch.zeros(4, 2, dtype=torch.float64, device=device)
    expected = expected.index_add(0, rays, weights[:, None] * values)
    torch.testing.assert_close(found, expected)
    for a, b in zip(
        torch.autograd.grad(found.square().sum(), (weights, values)),
        torch.autograd.grad(expected.square().sum(), (weights, values)),
    ):
        torch.testing.assert_close(a, b)


def test_accumulate_sorts_rays(device: str) -> None:
    rays = torch.tensor([3, 0, 3, 1, 0], device=device)
    weights, values = normal(5).to(device), normal(5, 2, seed=1).to(device)
    found = accumulate_along_rays(weights, values, rays, 5)
    expected = torch.zeros(5, 2, dtype=torch.float64, device=device)
    torch.testing.assert_close(found, expected.index_add(0, rays, weights[:, None] * values))


def test_accumulate_in_place(device: str, ray_indices: Tensor) -> None:
    weights, outputs = normal(RAYS, EACH).to(device), normal(RAYS, 1).to(device)
    expected = outputs + weights.sum(-1, keepdim=True)
    batched = outputs.clone()
    accumulate_along_rays_(weights, outputs=batched)
    accumulate_along_rays_(weights.flatten(), None, ray_indices, outputs)
    torch.testing.assert_close(outputs, expected)
    torch.testing.assert_close(batched, expected)


def test_accumulate_takes_leading_dimensions(device: str) -> None:
    weights, values = normal(2, 3, 5).to(device), normal(2, 3, 5, 4, seed=1).to(device)
    expected = (weights[..., None] * values).sum(-2)
    torch.testing.assert_close(accumulate_along_rays(weights, values), expected)
    torch.testing.assert_close(accumulate_along_rays(weights), weights.sum(-1, keepdim=True))


def test_distortion_packed_is_batched(device: str, ray_indices: Tensor) -> None:
    weights = normal(RAYS, EACH).abs().to(device)
    starts = normal(RAYS, EACH, seed=1).abs().to(device).cumsum(-1)
    batched = distortion(weights, starts, starts + 0.1)
    flat = (t.flatten() for t in (weights, starts, starts + 0.1))
    found = distortion(*flat, ray_indices, RAYS)
    assert found.shape == (RAYS, 1)
    assert torch.equal(found, batched)


# -- rendering -------------------------------------------------------------------------------------


def checker(t_starts: Tensor, t_ends: Tensor, rays: Tensor | None) -> tuple[Tensor, Tensor]:
    middle = (t_starts + t_ends) / 2
    return torch.stack([middle.sin() ** 2, middle.cos() ** 2, middle * 0.1], -1), 2 * middle.abs()


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("opacities", [False, True])
def test_rendering(batched: bool, opacities: bool, device: str, ray_indices: Tensor) -> None:
    starts = normal(RAYS, EACH).abs().to(device).cumsum(-1) * 0.05
    ends = starts + 0.02
    background = torch.tensor([0.2, 0.4, 0.6], dtype=torch.float64, device=device)

    def alphas(t0: Tensor, t1: Tensor, rays: Tensor | None) -> tuple[Tensor, Tensor]:
        rgb, sigma = checker(t0, t1, rays)
        return rgb, 1 - torch.exp(-sigma * (t1 - t0))

    given_rays = (None, None) if batched else (ray_indices, RAYS)
    t = (starts, ends) if batched else (starts.flatten(), ends.flatten())
    function = {"rgb_alpha_fn": alphas} if opacities else {"rgb_sigma_fn": checker}
    colors, opacity, depths, extras = rendering(
        *t,
        *given_rays,
        render_bkgd=background,
        **function,  # pyright: ignore
    )
    rgb, sigma = checker(starts, ends, None)
    alpha = 1 - torch.exp(-sigma * (ends - starts))
    trans = torch.cat([torch.ones_like(alpha[:, :1]), (1 - alpha).cumprod(-1)[:, :-1]], -1)
    weights = trans * alpha
    total = weights.sum(-1, keepdim=True)
    torch.testing.assert_close(opacity, total)
    torch.testing.assert_close(colors, (weights[..., None] * rgb).sum(1) + background * (1 - total))
    middle = (starts + ends) / 2
    torch.testing.assert_close(depths, (weights * middle).sum(-1, keepdim=True) / total)
    keys = {"weights", "alphas", "trans", "rgbs"} | (set() if opacities else {"sigmas"})
    assert set(extras) == keys
    summed = rendering(*t, *given_rays, expected_depths=False, **function)[2]  # pyright: ignore
    torch.testing.assert_close(summed, (weights * middle).sum(-1, keepdim=True))


def test_rendering_of_nothing(device: str) -> None:
    none = torch.zeros(0, device=device)
    rays = torch.zeros(0, dtype=torch.int64, device=device)

    def never(*args: Tensor) -> tuple[Tensor, Tensor]:
        raise AssertionError("asked about no samples")

    background = torch.ones(3, device=device)
    colors, opacities, depths, _ = rendering(
        none, none, rays, 4, rgb_sigma_fn=never, render_bkgd=background
    )
    assert colors.tolist() == [[1.0] * 3] * 4
    assert opacities.tolist() == depths.tolist() == [[0.0]] * 4


def test_rendering_is_differentiable(ray_indices: Tensor) -> None:
    starts = (normal(RAYS, EACH).abs().cumsum(-1) * 0.05).flatten()
    sigmas = normal(RAYS * EACH, seed=1).abs()
    rgbs = normal(RAYS * EACH, 3, seed=2)
    rays, n = ray_indices.cpu(), 12

    def render(sigmas: Tensor, rgbs: Tensor) -> tuple[Tensor, ...]:
        return rendering(starts[:n], starts[:n] + 0.1, rays[:n] + torch.arange(n) // 5, 4,
                         rgb_sigma_fn=lambda *_: (rgbs, sigmas))[:3]  # fmt: skip

    leaves = (sigmas[:n].clone().requires_grad_(), rgbs[:n].clone().requires_grad_())
    assert torch.autograd.gradcheck(render, leaves)


# -- compiled --------------------------------------------------------------------------------------


def test_compiles_whole(ray_indices: Tensor) -> None:
    rays = ray_indices.cpu()
    starts = (normal(RAYS, EACH).abs().cumsum(-1) * 0.05).flatten().float()

    def render(sigmas: Tensor) -> Tensor:
        return rendering(
            starts, starts + 0.1, rays, RAYS,
            rgb_sigma_fn=lambda t0, t1, r: (t0[:, None].expand(-1, 3), sigmas),
        )[0]  # fmt: skip

    sigmas = normal(RAYS * EACH, seed=1).abs().float()
    compiled = torch.compile(render, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(sigmas), render(sigmas))


# -- errors ----------------------------------------------------------------------------------------

T = torch.zeros(4)
R = torch.tensor([0, 0, 1, 1])
BAD: list[tuple[str, Callable[[], object], type[Exception], str]] = [
    ("unsorted", lambda: pack_info(R.flip(0), 2), ValueError,
     "pack_info: ray_indices: expected ascending indices below 2, got 0 at 2"),
    ("int32", lambda: pack_info(R.int()), TypeError, "ray_indices: expected torch.int64"),
    ("n_rays", lambda: pack_info(R, -1), ValueError, "n_rays: expected at least 0, got -1"),
    ("too many", lambda: pack_info(R, 1), ValueError, "below 1, got 1 at 3"),
    ("integers", lambda: packing.inclusive_sum(R), TypeError,
     "inclusive_sum: inputs: expected a floating type, got torch.int64"),
    ("no tensor", lambda: packing.inclusive_sum([1.0]), TypeError,  # pyright: ignore
     "expected a tensor, got list"),
    ("flat", lambda: packing.inclusive_sum(T[None], torch.zeros(1, 2).long()), ValueError,
     r"inputs: expected shape \[n_samples\] with packed_info or indices, got \[1, 4\]"),
    ("overlap", lambda: packing.exclusive_prod(T, torch.tensor([[0, 3], [2, 2]])), ValueError,
     r"exclusive_prod: packed_info: expected starts and counts that ascend within 4 samples, "
     r"got \(2, 2\) for ray 1"),
    ("outside", lambda: packing.exclusive_sum(T, torch.tensor([[0, 9]])), ValueError, r"\(0, 9\)"),
    ("packed_info", lambda: packing.exclusive_sum(T, torch.zeros(4, dtype=torch.int64)), ValueError,
     r"packed_info: expected shape \[n_rays, 2\], got \[4\]"),
    ("neither", lambda: rendering(T, T, R, 2), ValueError, "rgb_sigma_fn or rgb_alpha_fn"),
    ("t_ends", lambda: rendering(T, T[:3], R, 2, checker), ValueError,
     r"rendering: t_ends: expected shape \[4\], got \[3\]"),
    ("rgb", lambda: rendering(T, T, R, 2, lambda *_: (T, T)), ValueError,
     r"colours of the function: expected shape \[4, 3\], got \[4\]"),
    ("sigma", lambda: rendering(T, T, R, 2, lambda *_: (T[:, None].expand(4, 3), T[:, None])),
     ValueError, r"values of the function: expected shape \[4\], got \[4, 1\]"),
    ("one result", lambda: rendering(T, T, R, 2, lambda *_: T), TypeError,  # pyright: ignore
     "expected two results of the function, colours and values, got Tensor"),
    ("background", lambda: rendering(T, T, R, 2, lambda *_: (T[:, None].expand(4, 3), T),
                                     render_bkgd=torch.ones(4)), ValueError,
     r"rendering: render_bkgd: expected shape \[3\] or \[2, 3\], got \[4\]"),
    ("float n", lambda: pack_info(R, 2.0), TypeError, "n_rays: expected an integer"),  # pyright: ignore
    ("huge n", lambda: pack_info(R, 1 << 50), ValueError, r"n_rays: expected at most 2\^40"),
    ("missing n", lambda: accumulate_along_rays(T, None, R), ValueError, "n_rays: expected"),
    ("range", lambda: accumulate_along_rays(T, None, R, 1), ValueError, "n_rays - 1 = 0, got 0 to"),
    ("outputs", lambda: accumulate_along_rays_(T, None, R), ValueError, "outputs: expected"),
    ("prefix", lambda: render_transmittance_from_alpha(T[None], prefix_trans=T), ValueError,
     r"prefix_trans: expected shape \[1, 4\], got \[4\]"),
    ("sigmas", lambda: render_weight_from_density(T, T, T[:2]), ValueError,
     r"t_starts: expected shape \[2\], got \[4\]"),
    ("meta", lambda: render_weight_from_alpha(T, ray_indices=R.to("meta")), ValueError,
     "ray_indices: expected device cpu, got meta"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "text"), [row[1:] for row in BAD],
                         ids=[row[0] for row in BAD])  # fmt: skip
def test_errors(call: Callable[[], object], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        call()
