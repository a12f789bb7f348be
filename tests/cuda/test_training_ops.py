# SPDX-License-Identifier: Apache-2.0
"""The image loss, the fused Adam step and the noise of splats against plain torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fieldline.cuda.training import ops
from fieldline.representations import quaternion_to_matrix
from op_harness import Case, Error, parametrize, running_on
from torch import Tensor

Inputs = dict[str, Any]


# -- the image loss ------------------------------------------------------------------------------


def average(planes: Tensor, padding: str) -> Tensor:
    """The 11 x 11 Gaussian window over [B, C, H, W]."""
    offset = torch.arange(-5, 6, dtype=planes.dtype)
    window = torch.exp(-offset.square() / (2 * 1.5**2))
    window = window / window.sum()
    channels = planes.shape[1]
    kernel = torch.outer(window, window).expand(channels, 1, 11, 11)
    return F.conv2d(planes, kernel, padding=5 if padding == "same" else 0, groups=channels)


def similarity_map(x: Tensor, y: Tensor, padding: str) -> Tensor:
    """Wang et al. 2004, equation 13, at every window."""
    mean_x, mean_y = average(x, padding), average(y, padding)
    var_x = average(x * x, padding) - mean_x * mean_x
    var_y = average(y * y, padding) - mean_y * mean_y
    covariance = average(x * y, padding) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return luminance * (2 * covariance + c2) / (var_x + var_y + c2)


def mean_of_kept(values: Tensor, kept: Tensor, empty: float) -> Tensor:
    """Mean over the last three dimensions where `kept` [B, 1, H, W], `empty` where nothing is."""
    kept = kept.expand_as(values)
    count = kept.sum((1, 2, 3))
    total = torch.where(kept, values, 0.0).sum((1, 2, 3))
    return torch.where(count > 0, total / count.clamp(min=1), empty)


def terms_reference(
    image: Tensor, target: Tensor, mask: Tensor | None, padding: str, channels_last: bool
) -> tuple[Tensor, Tensor]:
    """L1 and SSIM of each image."""
    target = target.to(image.dtype) / 255 if target.dtype == torch.uint8 else target
    if channels_last:
        image, target = image.permute(0, 3, 1, 2), target.permute(0, 3, 1, 2)
    if image.numel() == 0:
        zero = image.sum((1, 2, 3))
        return zero, zero + 1
    kept = torch.ones_like(image[:, :1], dtype=torch.bool) if mask is None else mask[:, None]
    image, target = torch.where(kept, image, 0.0), torch.where(kept, target, 0.0)
    l1 = mean_of_kept((image - target).abs(), kept, 0.0)
    centres = kept if padding == "same" else kept[..., 5:-5, 5:-5]
    return l1, mean_of_kept(similarity_map(image, target, padding), centres, 1.0)


def ssim_reference(
    image: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    padding: str = "same",
    channels_last: bool = False,
    reduction: str = "mean",
) -> Tensor:
    _, ssim = terms_reference(image, target, mask, padding, channels_last)
    return ssim.mean() if reduction == "mean" else ssim


def loss_reference(
    image: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    ssim_weight: float = 0.2,
    padding: str = "same",
    channels_last: bool = True,
    reduction: str = "mean",
) -> tuple[Tensor, Tensor, Tensor]:
    l1, ssim = terms_reference(image, target, mask, padding, channels_last)
    loss = (1 - ssim_weight) * l1 + ssim_weight * (1 - ssim)
    result = (loss, l1.detach(), ssim.detach())
    return tuple(x.mean() for x in result) if reduction == "mean" else result  # type: ignore[return-value]


def images(*shape: int, byte_target: bool = False, **options: Any) -> Callable[..., Inputs]:
    """Smooth images that differ a little, as renderings do, with all values distinct."""

    def make(generator: torch.Generator) -> Inputs:
        draw = torch.rand(2, *shape, generator=generator, dtype=torch.float64)
        target = (0.25 + 0.5 * draw[0]) if draw.numel() else draw[0]
        image = target + 0.2 * (draw[1] - 0.5)
        target = (target * 255).to(torch.uint8) if byte_target else target
        return {"image": image, "target": target, **options}

    return make


def masked(make: Callable[..., Inputs], n: int, height: int, width: int) -> Callable[..., Inputs]:
    """A mask with holes, whose last image has no pixel at all."""

    def make_masked(generator: torch.Generator) -> Inputs:
        inputs = make(generator)
        mask = torch.rand(n, height, width, generator=generator) > 0.3
        mask[-1] = False
        return {**inputs, "mask": mask}

    return make_masked


SSIM_VARIANTS = {
    "planes": images(2, 3, 19, 23),
    "valid": images(1, 2, 12, 18, padding="valid", reduction="none"),
    "interleaved": images(1, 17, 14, 3, channels_last=True),
    "masked": masked(images(2, 1, 13, 15, reduction="none"), 2, 13, 15),
    "tiny": images(1, 1, 2, 3),
    "bands": images(1, 1, 131, 40),
    "empty": images(0, 3, 16, 16, reduction="none"),
}
LOSS_VARIANTS = {
    "interleaved": images(2, 19, 23, 3),
    "valid": images(1, 12, 18, 3, padding="valid", reduction="none"),
    "planes": images(1, 3, 14, 17, channels_last=False, ssim_weight=0.7),
    "masked": masked(images(2, 13, 15, 3, reduction="none"), 2, 13, 15),
    "masked_valid": masked(images(2, 13, 15, 2, padding="valid", reduction="none"), 2, 13, 15),
    "bytes": images(1, 16, 16, 3, byte_target=True),
    "bands": images(1, 131, 20, 3),
    "no_rows": images(2, 0, 16, 3, reduction="none"),
}
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-12}
GRADIENT_TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-11}

IMAGE = torch.rand(1, 12, 12, 3, generator=torch.Generator().manual_seed(0))
IMAGE_ERRORS = (
    Error("shape", {"target": IMAGE[:, 1:]}, ValueError, "image, target: expected two images"),
    Error(
        "dtype", {"image": IMAGE.half(), "target": IMAGE.half()}, TypeError, "image: expected fl"
    ),
    Error(
        "target_dtype", {"image": IMAGE, "target": IMAGE.double()}, TypeError, "target: expected"
    ),
    Error(
        "target_gradient",
        {"image": IMAGE, "target": IMAGE.clone().requires_grad_()},
        ValueError,
        "target: expected a tensor without requires_grad",
    ),
    Error("padding", {"padding": "reflect"}, ValueError, "padding: expected"),
    Error("reduction", {"reduction": "sum"}, ValueError, "reduction: expected"),
    Error("mask_dtype", {"mask": IMAGE[..., 0]}, TypeError, "mask: expected torch.bool"),
    Error(
        "mask_shape",
        {"mask": torch.ones(1, 2, 2, dtype=torch.bool)},
        RuntimeError,
        r"mask: expected shape \[\d+, \d+, \d+\], got \[1, 2, 2\]",
    ),
    Error(
        "too_small",
        {"image": IMAGE[:, :5, :5], "target": IMAGE[:, :5, :5], "padding": "valid"},
        RuntimeError,
        'at least 11 x 11 pixels for padding "valid"',
    ),
)


# -- Adam ----------------------------------------------------------------------------------------


def adam_face(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    learning_rates: list[float],
    **options: Any,
) -> list[Tensor]:
    """The operator on copies, so that inputs stay what they were."""
    copies = [[t.clone().contiguous() for t in ts] for ts in (params, exp_avgs, exp_avg_sqs)]
    ops.fused_adam_(copies[0], grads, copies[1], copies[2], learning_rates, **options)
    return [*copies[0], *copies[1], *copies[2]]


def adam_reference(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    learning_rates: list[float],
    *,
    step: int,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-15,
    visible: Tensor | None = None,
) -> list[Tensor]:
    """Kingma and Ba 2015, algorithm 1."""
    results: tuple[list[Tensor], ...] = ([], [], [])
    for p, g, m, v, rate in zip(params, grads, exp_avgs, exp_avg_sqs, learning_rates):
        new_m = betas[0] * m + (1 - betas[0]) * g
        new_v = betas[1] * v + (1 - betas[1]) * g * g
        m_hat, v_hat = new_m / (1 - betas[0] ** step), new_v / (1 - betas[1] ** step)
        new_p = p - rate * m_hat / (v_hat.sqrt() + eps)
        for result, old, new in zip(results, (p, m, v), (new_p, new_m, new_v)):
            if visible is not None:
                rows = visible.view(-1, *[1] * (old.dim() - 1))
                new = torch.where(rows, new, old)
            result.append(new)
    return [*results[0], *results[1], *results[2]]


def adam_inputs(
    *shapes: tuple[int, ...], hide: bool = False, **options: Any
) -> Callable[..., Inputs]:
    def make(generator: torch.Generator) -> Inputs:
        def draw() -> list[Tensor]:
            return [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]

        inputs = {
            "params": draw(),
            "grads": draw(),
            "exp_avgs": draw(),
            "exp_avg_sqs": [x.square() for x in draw()],
            "learning_rates": [10.0**-i for i in range(1, len(shapes) + 1)],
            "step": 3,
            **options,
        }
        if hide:
            inputs["visible"] = torch.rand(shapes[0][0], generator=generator) > 0.5
        return inputs

    return make


ADAM_VARIANTS = {
    "splats": adam_inputs((37, 3), (37, 4), (37,), (37, 1, 3), (37, 8, 3)),
    "visible": adam_inputs((300, 3), (300,), (300, 15, 3), hide=True),
    "many": adam_inputs(*[(5,)] * 11, step=1),
    "large": adam_inputs((20_000,), (3, 4_000)),
    "options": adam_inputs((9, 2), betas=(0.5, 0.8), eps=1e-3, step=1000),
    "empty": adam_inputs((0, 3), (0,), hide=True),
    "scalar": adam_inputs(()),
}


def adam_list(name: str, *tensors: Tensor) -> Inputs:
    return {name: list(tensors)}


ADAM_ERRORS = (
    Error("count", adam_list("grads"), RuntimeError, "expected 5 entries as in params, got 0"),
    Error("step", {"step": 0}, RuntimeError, "step: expected at least 1, got 0"),
    Error("betas", {"betas": (1.0, 0.9)}, RuntimeError, r"betas: expected values in \[0, 1\)"),
    Error(
        "shape",
        adam_list("grads", *[torch.ones(2)] * 5),
        RuntimeError,
        r"grads\[0\]: expected shape \[37, 3\], got \[2\]",
    ),
    Error(
        "visible",
        {"visible": torch.ones(5, dtype=torch.bool)},
        RuntimeError,
        r"visible: expected shape \[37\], got \[5\]",
    ),
    Error(
        "dtype",
        {k: [torch.ones(2).int()] for k in ("params", "grads", "exp_avgs", "exp_avg_sqs")}
        | {"learning_rates": [0.1]},
        RuntimeError,
        "params: expected float32 or float64",
    ),
)

# -- noise ---------------------------------------------------------------------------------------


def philox(seed: int, index: int, stream: int) -> tuple[int, ...]:
    """Philox 4x32-10 in integers, after Salmon et al. 2011, section 3."""
    low = 0xFFFFFFFF
    c = [index & low, index >> 32, stream & low, stream >> 32]
    k = [seed & low, seed >> 32]
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b & low, (a >> 32) ^ c[3] ^ k[1], a & low]
        k = [(k[0] + 0x9E3779B9) & low, (k[1] + 0xBB67AE85) & low]
    return tuple(c)


def normal_draws(seed: int, index: int, step: int) -> list[float]:
    u = [((bits >> 8) + 1) / 2**24 for bits in philox(seed, index, step)]
    radius, angle = (
        [math.sqrt(-2 * math.log(u[i])) for i in (0, 2)],
        [math.tau * u[i] for i in (1, 3)],
    )
    return [
        radius[0] * math.cos(angle[0]),
        radius[0] * math.sin(angle[0]),
        radius[1] * math.cos(angle[1]),
    ]


def noise_face(means: Tensor, **inputs: Any) -> Tensor:
    moved = means.clone().contiguous()
    ops.splat_noise_(moved, **inputs)
    return moved


def noise_reference(
    means: Tensor,
    quats: Tensor,
    log_scales: Tensor,
    opacity_logits: Tensor,
    *,
    strength: float,
    seed: int,
    step: int,
) -> Tensor:
    opacity = opacity_logits.sigmoid()
    fade = torch.where(opacity < 0.2, torch.sigmoid(100 * (0.005 - opacity)), 0.0)
    rows = [normal_draws(seed, i, step) for i in range(len(means))]
    draws = torch.tensor(rows, dtype=torch.float64).reshape(-1, 3)
    axes = quaternion_to_matrix(quats) * log_scales.exp()[:, None, :]
    covariance = axes @ axes.transpose(-1, -2)
    moved = (covariance @ draws.to(means)[:, :, None])[:, :, 0]
    return means + strength * fade[:, None] * moved


def noise_inputs(n: int, **options: Any) -> Callable[..., Inputs]:
    def make(generator: torch.Generator) -> Inputs:
        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        return {
            "means": draw(n, 3),
            "quats": draw(n, 4),
            "log_scales": 0.3 * draw(n, 3),
            "opacity_logits": 3 * draw(n) - 4,
            "strength": 0.7,
            "seed": 5,
            "step": 11,
            **options,
        }

    return make


NOISE_VARIANTS = {
    "some": noise_inputs(60),
    "large_numbers": noise_inputs(9, seed=2**40 + 3, step=2**33 + 1),
    "many": noise_inputs(5000),
    "empty": noise_inputs(0),
}


def test_reference_draws_are_those_of_the_paper() -> None:
    # The known answers that the authors' Random123 library is tested with.
    assert philox(0, 0, 0) == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    ones = 2**64 - 1
    assert philox(ones, ones, ones) == (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)


CASES = [
    Case(
        name="splat_noise",
        op=noise_face,
        reference=noise_reference,
        variants=NOISE_VARIANTS,
        emulated=("some", "large_numbers", "empty"),
        tolerance={torch.float32: 2e-6, torch.float64: 1e-12},
        errors=(
            Error(
                "shape",
                {"quats": torch.ones(60, 3)},
                RuntimeError,
                r"quats: expected shape \[60, 4\], got \[60, 3\]",
            ),
            Error(
                "dtype",
                {"log_scales": torch.ones(60, 3).double()},
                RuntimeError,
                "log_scales: expected dtype",
            ),
        ),
    ),
    Case(
        name="ssim",
        op=ops.fused_ssim,
        reference=ssim_reference,
        variants=SSIM_VARIANTS,
        differentiable=("image",),
        gradcheck=("valid", "interleaved", "masked", "tiny"),
        emulated=("planes", "valid", "interleaved", "masked", "tiny", "empty"),
        emulated_gradcheck=("tiny",),
        tolerance=TOLERANCE,
        gradient_tolerance=GRADIENT_TOLERANCE,
        errors=IMAGE_ERRORS,
    ),
    Case(
        name="image_loss",
        op=ops.image_loss,
        reference=loss_reference,
        variants=LOSS_VARIANTS,
        differentiable=("image",),
        gradcheck=("valid", "planes", "masked_valid", "bytes"),
        emulated=("interleaved", "valid", "planes", "masked", "masked_valid", "bytes", "no_rows"),
        tolerance=TOLERANCE,
        gradient_tolerance=GRADIENT_TOLERANCE,
        errors=(
            *IMAGE_ERRORS,
            Error("weight", {"ssim_weight": 1.5}, ValueError, r"ssim_weight: expected a value in"),
        ),
    ),
    Case(
        name="fused_adam",
        op=adam_face,
        reference=adam_reference,
        variants=ADAM_VARIANTS,
        tolerance={torch.float32: 1e-6, torch.float64: 1e-14},
        errors=ADAM_ERRORS,
    ),
]


@parametrize(CASES)
def test_training_ops(check: Callable[[], None]) -> None:
    check()


# -- what the table does not say -----------------------------------------------------------------


@pytest.mark.parametrize("backend", ["cpu", "emulated"])
def test_nan_is_seen_by_the_loss_unless_masked(backend: str) -> None:
    image, target = IMAGE.clone(), IMAGE.flip(1)
    image[0, 3, 4, 0] = float("nan")
    mask = torch.ones(1, 12, 12, dtype=torch.bool)
    mask[0, 3, 4] = False
    with running_on(backend):
        assert ops.image_loss(image, target).loss.isnan()
        leaf = image.clone().requires_grad_()
        loss = ops.image_loss(leaf, target, mask).loss
        (gradient,) = torch.autograd.grad(loss, leaf)
    assert loss.isfinite()
    assert gradient.isfinite().all()
    assert gradient[0, 3, 4].abs().sum() == 0


def test_gradient_is_zero_where_images_agree() -> None:
    image = IMAGE.clone().requires_grad_()
    result = ops.image_loss(image, IMAGE)
    result.loss.backward()
    assert result.loss == 0
    assert result.ssim == 1
    assert image.grad is not None
    assert image.grad.abs().max() < 1e-6


def test_terms_of_the_loss_have_no_gradient() -> None:
    result = ops.image_loss(IMAGE.clone().requires_grad_(), IMAGE)
    assert result.loss.requires_grad
    assert not result.l1.requires_grad
    assert not result.ssim.requires_grad


def test_forward_without_gradient_computes_none() -> None:
    with torch.no_grad():
        image = IMAGE.clone().requires_grad_()
        assert not ops.image_loss(image, IMAGE).loss.requires_grad


@pytest.mark.parametrize("backend", ["cpu", "emulated"])
def test_adam_follows_torch_over_many_steps(backend: str) -> None:
    generator = torch.Generator().manual_seed(0)
    ours = torch.randn(41, 5, generator=generator)
    theirs = ours.clone().requires_grad_()
    optimiser = torch.optim.Adam([theirs], lr=0.01, eps=1e-15, foreach=False)
    average, square = torch.zeros_like(ours), torch.zeros_like(ours)
    for step in range(1, 31):
        gradient = torch.randn(ours.shape, generator=generator) * 10.0 ** (step % 5 - 2)
        theirs.grad = gradient.clone()
        optimiser.step()
        with running_on(backend):
            ops.fused_adam_([ours], [gradient], [average], [square], [0.01], step=step)
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-6)


def test_adam_leaves_hidden_rows_bit_by_bit() -> None:
    tensors = [torch.rand(6, 3) for _ in range(4)]
    before = [t.clone() for t in tensors]
    visible = torch.tensor([True, False, False, True, False, True])
    p, g, m, v = tensors
    ops.fused_adam_([p], [g], [m], [v], [0.1], step=1, visible=visible)
    for now, then in ((p, before[0]), (m, before[2]), (v, before[3])):
        assert torch.equal(now[~visible], then[~visible])
        assert (now[visible] != then[visible]).all()


def test_adam_refuses_parameters_with_gaps() -> None:
    gaps = torch.zeros(4, 6)[:, ::2]
    dense = torch.zeros(4, 3)
    with pytest.raises(RuntimeError, match=r"params\[0\]: expected a contiguous tensor"):
        ops.fused_adam_([gaps], [dense], [dense], [dense], [0.1], step=1)


def test_adam_steps_a_parameter_in_use_by_autograd() -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    loss = (parameter * 2).sum()
    loss.backward()
    assert parameter.grad is not None
    ops.fused_adam_(
        [parameter], [parameter.grad], [torch.zeros(3)], [torch.zeros(3)], [0.5], step=1
    )
    assert torch.allclose(parameter.detach(), torch.full((3,), 0.5))
