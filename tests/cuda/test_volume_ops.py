# SPDX-License-Identifier: Apache-2.0
"""Operators on samples along rays: scans, compositing, sums, resampling, distortion."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
import volume_reference as reference
from fieldline.cuda.volume import ops
from op_harness import HAS_CUDA, Case, Error, Inputs, parametrize, running_on
from torch import Tensor

COUNTS = [3, 0, 1, 70, 32, 33, 0, 5]
FEW = [2, 0, 4]


def packed(counts: list[int], gap: int = 0) -> Tensor:
    """Rays of these lengths, with samples of no ray between them."""
    starts = torch.tensor([0, *(c + gap for c in counts)])[:-1].cumsum(0)
    return torch.stack([starts, torch.tensor(counts, dtype=torch.int64)], -1)


def size(info: Tensor | None, batch: tuple[int, int]) -> tuple[int, ...]:
    if info is None:
        return batch
    return (int(info.sum(-1).max()) + 2 if len(info) and info[:, 0].max() > 0 else int(info.sum()),)


def layout(kind: str) -> tuple[Tensor | None, tuple[int, ...]]:
    """packed_info and the shape of the samples."""
    if kind == "packed":
        info = packed(COUNTS)
        return info, (sum(COUNTS),)
    if kind == "gaps":
        info = packed(COUNTS, gap=2)
        return info, (sum(COUNTS) + 2 * len(COUNTS),)
    if kind == "few":
        return packed(FEW), (sum(FEW),)
    if kind == "no_samples":
        return packed([0, 0]), (0,)
    if kind == "no_rays":
        return torch.zeros(0, 2, dtype=torch.int64), (0,)
    if kind == "many":
        info = packed([i % 41 for i in range(3000)])
        return info, (int(info[:, 1].sum()),)
    return None, {"batched": (6, 50), "few_batched": (2, 3), "batched_empty": (3, 0)}[kind]


KINDS = ("packed", "gaps", "batched", "few", "few_batched", "no_samples", "no_rays",
         "batched_empty", "many")  # fmt: skip


def random(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


def edges_of(generator: torch.Generator, kind: str) -> tuple[Tensor, Tensor, Tensor | None]:
    """Ascending starts and ends along each ray."""
    info, shape = layout(kind)
    steps = random(generator, *shape) * 0.2 + 0.01
    gaps = random(generator, *shape) * 0.1
    ends = torch.zeros(shape, dtype=torch.float64)
    for run in reference.runs(steps, info):
        ends.reshape(-1)[run] = (steps + gaps).reshape(-1)[run].cumsum(0)
    return ends - steps, ends, info


def scans(generator: torch.Generator, kind: str, **options: bool) -> Inputs:
    info, shape = layout(kind)
    inputs = random(generator, *shape) + 0.3
    if options.get("product"):
        # Two zeros in one ray, and one in another.
        flat = inputs.reshape(-1)
        flat[flat.numel() // 3 :: max(1, flat.numel() // 4)] = 0
    return {"inputs": inputs, "packed_info": info, **options}


def densities(generator: torch.Generator, kind: str) -> Inputs:
    starts, ends, info = edges_of(generator, kind)
    sigmas = random(generator, *starts.shape) * 8
    sigmas.reshape(-1)[::7] = 0
    sigmas.reshape(-1)[3::11] *= 1e-3
    return {"t_starts": starts, "t_ends": ends, "values": sigmas, "packed_info": info}


def alphas(generator: torch.Generator, kind: str) -> Inputs:
    info, shape = layout(kind)
    values = random(generator, *shape) * 0.3
    values.reshape(-1)[2::9] = 1.0
    values.reshape(-1)[::6] = 0.0
    return {"t_starts": None, "t_ends": None, "values": values, "packed_info": info}


def visible(
    generator: torch.Generator, kind: str, maker: Callable[..., Inputs], prefix: bool
) -> Inputs:
    inputs = maker(generator, kind)
    values = inputs["values"]
    more = {"prefix_trans": random(generator, *values.shape)} if prefix else {}
    return {**inputs, **more, "early_stop_eps": 0.137, "alpha_thre": 0.0413}


def weighted(generator: torch.Generator, kind: str, channels: int | None) -> Inputs:
    info, shape = layout(kind)
    values = None if channels is None else random(generator, *shape, channels) - 0.5
    return {"weights": random(generator, *shape), "values": values, "packed_info": info}


def distorted(generator: torch.Generator, kind: str) -> Inputs:
    starts, ends, info = edges_of(generator, kind)
    weights = random(generator, *starts.shape)
    return {"weights": weights, "t_starts": starts, "t_ends": ends, "packed_info": info}


def searches(generator: torch.Generator, keys: str, values: str) -> Inputs:
    _, sorted_keys, keys_info = edges_of(generator, keys)
    rays = sorted_keys.shape[0] if keys_info is None else len(keys_info)
    if values == "batched":
        asked, info = random(generator, rays, 9) * 6 - 0.5, None
    else:
        counts = [(3 * i) % 7 for i in range(rays)]
        info = packed(counts)
        asked = random(generator, sum(counts)) * 6 - 0.5
    return {"keys": sorted_keys, "keys_info": keys_info, "values": asked, "values_info": info}


def resampled(
    generator: torch.Generator, kind: str, n: int | list[int], biased: bool = False
) -> Inputs:
    _, edges, info = edges_of(generator, kind)
    rise = random(generator, *edges.shape)
    rise.reshape(-1)[::5] = 0  # flat stretches
    cdfs = torch.zeros_like(edges)
    for run in reference.runs(edges, info):
        cdfs.reshape(-1)[run] = rise.reshape(-1)[run].cumsum(0) + 0.1
    rays = edges.shape[0] if info is None else len(info)
    counts = n if isinstance(n, int) else torch.tensor(n * rays)[:rays]
    bias = random(generator, rays) if biased else None
    return {"edges": edges, "cdfs": cdfs, "packed_info": info, "n_samples": counts, "bias": bias}


def packs(generator: torch.Generator, n_rays: int, n: int) -> Inputs:
    return {"ray_indices": torch.randint(0, max(1, n_rays), (n,), generator=generator).sort()[0],
            "n_rays": n_rays}  # fmt: skip


def pack_reference(ray_indices: Tensor, n_rays: int) -> Tensor:
    counts = torch.bincount(ray_indices, minlength=n_rays)[:n_rays]
    return torch.stack([counts.cumsum(0) - counts, counts], -1)


def resample_tensors(**inputs: object) -> tuple[Tensor, Tensor]:
    """The part of the result that the reference makes too."""
    return ops.resample(**inputs)[:2]  # pyright: ignore


GRADCHECKED = ("few", "few_batched")
EMULATED = tuple(kind for kind in KINDS if kind != "many")
BAD_INFO = torch.tensor([[0, 2], [1, 3]])

CASES = [
    Case(
        name="pack",
        op=ops.pack_info,
        reference=pack_reference,
        variants={
            "some": partial(packs, n_rays=40, n=300),
            "dense": partial(packs, n_rays=5, n=300),
            "sparse": partial(packs, n_rays=2000, n=9),
            "many": partial(packs, n_rays=30_000, n=200_000),
            "none": partial(packs, n_rays=3, n=0),
            "no_rays": partial(packs, n_rays=0, n=0),
        },
        dtypes=(torch.float32,),
        emulated=("some", "dense", "sparse", "none", "no_rays"),
        errors=(
            Error("order", {"ray_indices": torch.tensor([1, 0])}, RuntimeError, "ascending"),
            Error("range", {"n_rays": 3}, RuntimeError, "ray_indices: expected ascending"),
            Error("negative", {"ray_indices": torch.tensor([-1, 0])}, RuntimeError, "got -1 at 0"),
            Error("dtype", {"ray_indices": torch.zeros(3).int()}, RuntimeError, "dtype"),
            Error("rays", {"n_rays": -1}, RuntimeError, "n_rays: expected at least 0, got -1"),
        ),
    ),
    *[
        Case(
            name=f"{'prod' if product else 'sum'}-{'exclusive' if exclusive else 'inclusive'}",
            op=ops.scan,
            reference=reference.scan,
            variants={
                **{
                    kind: partial(scans, kind=kind, product=product, exclusive=exclusive)
                    for kind in KINDS
                },
                **(
                    {}
                    if product
                    else {"reverse": partial(scans, kind="packed", exclusive=exclusive,
                                             reverse=True)}
                ),
            },
            differentiable=("inputs",),
            gradcheck=GRADCHECKED,
            emulated_gradcheck=("few",),
            emulated=(*EMULATED, "reverse")[: None if not product else -1],
            large=("many",),
            errors=(
                Error("packed_info", {"packed_info": BAD_INFO}, RuntimeError,
                      r"expected starts and counts that ascend within 144 samples, got \(1, 3\)"),
                Error("shape", {"packed_info": torch.ones(4, 3).long()}, RuntimeError,
                      r"packed_info: expected shape \[\*, 2\]"),
                Error("dtype", {"packed_info": BAD_INFO.int()}, RuntimeError, "packed_info.*dtype"),
                Error("inputs", {"inputs": torch.ones(4).long()}, RuntimeError, "expected float32"),
                Error("flat", {"inputs": torch.ones(4, 2)}, RuntimeError, r"inputs: .* \[\*\]"),
            ),
        )
        for product in (False, True)
        for exclusive in (False, True)
    ],
    Case(
        name="composite",
        op=ops.composite,
        reference=reference.composite,
        variants={
            **{kind: partial(densities, kind=kind) for kind in KINDS},
            **{f"alphas_{kind}": partial(alphas, kind=kind) for kind in KINDS},
        },
        differentiable=("t_starts", "t_ends", "values"),
        gradcheck=("few", "few_batched", "alphas_few", "alphas_few_batched"),
        emulated_gradcheck=("few", "alphas_few"),
        emulated=(*EMULATED, *(f"alphas_{kind}" for kind in EMULATED)),
        large=("many", "alphas_many"),
        errors=(
            Error("edges", {"t_ends": None}, RuntimeError, "t_starts and t_ends together"),
            Error("t_ends", {"t_ends": torch.ones(3)}, RuntimeError, r"t_ends.*got \[3\]"),
            Error("dtype", {"t_starts": torch.ones(144).double()}, RuntimeError, "t_starts.*dtype"),
        ),
    ),
    Case(
        name="visibility",
        op=ops.visibility,
        reference=reference.visibility,
        variants={
            f"{name}{kind}{'_prefix' * prefix}": partial(
                visible, kind=kind, maker=maker, prefix=prefix
            )
            for name, maker in (("", densities), ("alphas_", alphas))
            for kind in ("packed", "gaps", "batched", "no_samples")
            for prefix in (False, True)
        },
        errors=(
            Error("prefix", {"prefix_trans": torch.ones(3)}, RuntimeError, "prefix_trans"),
        ),
    ),
    Case(
        name="accumulate",
        op=ops.accumulate,
        reference=reference.accumulate,
        variants={
            **{kind: partial(weighted, kind=kind, channels=3) for kind in KINDS},
            **{f"weights_{kind}": partial(weighted, kind=kind, channels=None) for kind in KINDS},
            **{f"channels{d}": partial(weighted, kind="packed", channels=d) for d in (0, 1, 4, 9)},
        },
        differentiable=("weights", "values"),
        gradcheck=(*GRADCHECKED, "weights_few"),
        emulated_gradcheck=("few",),
        large=("many", "weights_many"),
        errors=(
            Error("values", {"values": torch.ones(3, 3)}, RuntimeError, r"values.*got \[3, 3\]"),
            Error("dtype", {"values": torch.ones(144, 3).double()}, RuntimeError, "values.*dtype"),
        ),
    ),
    Case(
        name="distortion",
        op=ops.distortion,
        reference=reference.distortion,
        variants={kind: partial(distorted, kind=kind) for kind in KINDS},
        differentiable=("weights", "t_starts", "t_ends"),
        gradcheck=GRADCHECKED,
        emulated_gradcheck=("few",),
        emulated=EMULATED,
        large=("many",),
        errors=(Error("t_starts", {"t_starts": torch.ones(3)}, RuntimeError, "t_starts"),),
    ),
    Case(
        name="searchsorted",
        op=ops.searchsorted,
        reference=reference.searchsorted,
        variants={
            f"{keys}-{values}": partial(searches, keys=keys, values=values)
            for keys in ("packed", "batched", "few", "no_samples", "no_rays")
            for values in ("packed", "batched")
        },
        errors=(
            Error("rays", {"values": torch.ones(3, 4), "values_info": None}, RuntimeError,
                  "values: expected 8 rays, got 3"),
        ),
    ),
    Case(
        name="resample",
        op=resample_tensors,
        reference=reference.resample,
        variants={
            "packed": partial(resampled, kind="packed", n=7),
            "batched": partial(resampled, kind="batched", n=40),
            "biased": partial(resampled, kind="batched", n=5, biased=True),
            "one": partial(resampled, kind="batched", n=1),
            "uneven": partial(resampled, kind="packed", n=[3, 0, 1, 50, 2]),
            "uneven_batched": partial(resampled, kind="batched", n=[4, 1, 0], biased=True),
            "no_rays": partial(resampled, kind="no_rays", n=4),
        },
        # A place within rounding of an edge of the CDF may fall on either side.
        tolerance={torch.float32: 2e-5, torch.float64: 1e-10},
        errors=(
            Error("n_samples", {"n_samples": 0}, RuntimeError, "n_samples, n_edges: expected"),
            Error("bias", {"bias": torch.ones(3)}, RuntimeError, r"bias.*got \[3\]"),
            Error("cdfs", {"cdfs": torch.ones(3)}, RuntimeError, r"cdfs.*got \[3\]"),
        ),
    ),
]  # fmt: skip


@parametrize(CASES)
def test_volume(check: Callable[[], None]) -> None:
    check()


BACKENDS = ["cpu", "emulated", *(["cuda"] if HAS_CUDA else [])]


@pytest.mark.parametrize("backend", BACKENDS)
def test_opaque_samples_keep_gradients_finite(backend: str) -> None:
    """Behind alpha = 1 nothing is seen, and nothing divides by what gets through."""
    with running_on(backend) as device:
        alpha = torch.tensor([[0.5, 1.0, 0.25, 0.5]], device=device, requires_grad=True)
        weights, trans, _ = ops.composite(None, None, alpha)
        assert trans.tolist() == [[1.0, 0.5, 0.0, 0.0]]
        (gradient,) = torch.autograd.grad(weights.sum(), alpha)
        assert gradient.tolist() == [[0.0, 0.1875, 0.0, 0.0]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_thin_samples_keep_their_opacity(backend: str) -> None:
    """1 - exp(-tau) does not cancel where tau is small."""
    tau = torch.logspace(-9, 0.5, 200, dtype=torch.float64)[None]
    with running_on(backend) as device:
        start = torch.zeros_like(tau, dtype=torch.float32, device=device)
        alphas = ops.composite(start, start + 1, tau.float().to(device))[2]
    expected = -torch.expm1(-tau.float().double())
    error = ((alphas.cpu().double() - expected) / expected).abs().max()
    assert error < 1e-6


@pytest.mark.skipif(not HAS_CUDA, reason="the CPU raises instead")
def test_bad_packing_stays_in_bounds_on_cuda() -> None:
    inputs = torch.ones(10, device="cuda")
    info = torch.tensor([[-5, 3], [8, 2**62], [100, 5]], device="cuda")
    assert ops.scan(inputs, info).tolist()[8:] == [1.0, 2.0]


def test_bad_packing_stays_in_bounds_emulated() -> None:
    with running_on("emulated"):
        found = ops.scan(torch.ones(10), torch.tensor([[-5, 3], [8, 2**62], [100, 5]]))
    assert found.tolist()[8:] == [1.0, 2.0]


def test_product_in_reverse_has_no_gradient() -> None:
    x = torch.ones(1, 3, requires_grad=True)
    with pytest.raises(NotImplementedError, match="products in reverse"):
        ops.scan(x, product=True, reverse=True).sum().backward()
