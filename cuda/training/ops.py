# SPDX-License-Identifier: Apache-2.0
"""The operators of training loops: a typed function each, its fake kernel and gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from .. import library

Padding = Literal["same", "valid"]


class ImageLoss(NamedTuple):
    """What `image_loss` returns; each is a scalar, or [B] with ``reduction="none"``."""

    loss: Tensor
    l1: Tensor
    ssim: Tensor


def _check_images(
    function: str, image: Tensor, target: Tensor, mask: Tensor | None, padding: str, reduction: str
) -> None:
    if image.dim() != 4 or image.shape != target.shape:
        raise ValueError(
            f"{function}: image, target: expected two images of one shape with 4 dimensions, "
            f"got {list(image.shape)} and {list(target.shape)}"
        )
    if image.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{function}: image: expected float32 or float64, got {image.dtype}")
    if target.dtype not in (image.dtype, torch.uint8):
        raise TypeError(
            f"{function}: target: expected {image.dtype} or torch.uint8, got {target.dtype}"
        )
    if target.requires_grad:
        raise ValueError(
            f"{function}: target: expected a tensor without requires_grad (only the image gets a "
            "gradient), got one with it"
        )
    if mask is not None and mask.dtype != torch.bool:
        raise TypeError(f"{function}: mask: expected torch.bool, got {mask.dtype}")
    if padding not in ("same", "valid"):
        raise ValueError(f'{function}: padding: expected "same" or "valid", got {padding!r}')
    if reduction not in ("mean", "none"):
        raise ValueError(f'{function}: reduction: expected "mean" or "none", got {reduction!r}')


def fused_ssim(
    image: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    padding: Padding = "same",
    channels_last: bool = False,
    reduction: Literal["mean", "none"] = "mean",
) -> Tensor:
    """Structural similarity of images under an 11 x 11 Gaussian window, differentiable in `image`.

    The window has sigma 1.5 and the constants are 0.01^2 and 0.03^2, for values in [0, 1]. The
    result is deterministic, at any number of threads.

    Args:
        image: [B, C, H, W] (or [B, H, W, C], see `channels_last`), float32 or float64.
        target: Same shape; same dtype, or uint8, which is read as value / 255.
        mask: Optional bool [B, H, W]: only windows centred where it is true count, and both images
            are taken as 0 where it is false. An image without any true pixel has similarity 1.
        padding: "same" averages over every pixel, with zeros outside the image; "valid" over
            those whose window lies inside it (needs 11 x 11 pixels).
        channels_last: Whether images are [B, H, W, C], as renderers make them.
        reduction: "mean" over the batch, or "none".

    Returns:
        A scalar, or [B] with ``reduction="none"``.

    Raises:
        TypeError: For another dtype.
        ValueError: For shapes that differ, or a target that requires a gradient.

    Source:
        Wang, Bovik, Sheikh, Simoncelli: Image quality assessment, IEEE TIP 2004.

    Example:
        >>> image = torch.rand(1, 3, 16, 16)
        >>> float(fused_ssim(image, image))
        1.0
    """
    _check_images("fused_ssim", image, target, mask, padding, reduction)
    similarity, _ = library.ops().ssim(
        image, target, mask, channels_last, padding == "valid", _needs_gradient(image)
    )
    return similarity.mean() if reduction == "mean" else similarity


def image_loss(
    image: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    ssim_weight: float = 0.2,
    padding: Padding = "same",
    channels_last: bool = True,
    reduction: Literal["mean", "none"] = "mean",
) -> ImageLoss:
    """(1 - w) L1 + w (1 - SSIM) in one sweep over the rows, differentiable in `image`.

    Args:
        image: [B, H, W, C] (or [B, C, H, W], see `channels_last`), float32 or float64.
        target: Same shape; same dtype, or uint8, which is read as value / 255.
        mask: Optional bool [B, H, W]: where it is false, a pixel counts in neither term. An image
            without any true pixel has loss 0.
        ssim_weight: w, in [0, 1].
        padding: As for `fused_ssim`.
        channels_last: Whether images are [B, H, W, C], as renderers make them.
        reduction: "mean" over the batch, or "none".

    Returns:
        The loss, which has a gradient, and its two terms, which have none.

    Raises:
        TypeError: For another dtype.
        ValueError: For shapes that differ, a weight outside [0, 1], or a target that requires a
            gradient.

    Source:
        Kerbl et al.: 3D Gaussian Splatting, 2023, section 5.1.

    Example:
        >>> image = torch.rand(1, 16, 16, 3)
        >>> float(image_loss(image, image).loss)
        0.0
    """
    _check_images("image_loss", image, target, mask, padding, reduction)
    if not 0.0 <= ssim_weight <= 1.0:
        raise ValueError(f"image_loss: ssim_weight: expected a value in [0, 1], got {ssim_weight}")
    loss, l1, ssim, _ = library.ops().image_loss(
        image,
        target,
        mask,
        channels_last,
        padding == "valid",
        ssim_weight,
        _needs_gradient(image),
    )
    result = ImageLoss(loss, l1, ssim)
    return ImageLoss(*(value.mean() for value in result)) if reduction == "mean" else result


def _needs_gradient(image: Tensor) -> bool:
    return image.requires_grad and torch.is_grad_enabled()


def _fake_gradient(image: Tensor, with_gradient: bool) -> Tensor:
    return (
        torch.empty_like(image, memory_format=torch.contiguous_format)
        if with_gradient
        else image.new_empty(0)
    )


def _ssim_fake(
    image: Tensor,
    target: Tensor,
    mask: Tensor | None,
    channels_last: bool,
    valid: bool,
    with_gradient: bool,
) -> tuple[Tensor, Tensor]:
    return image.new_empty(image.shape[0]), _fake_gradient(image, with_gradient)


def _loss_fake(
    image: Tensor,
    target: Tensor,
    mask: Tensor | None,
    channels_last: bool,
    valid: bool,
    ssim_weight: float,
    with_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    terms = [image.new_empty(image.shape[0]) for _ in range(3)]
    return terms[0], terms[1], terms[2], _fake_gradient(image, with_gradient)


def _keep_gradient(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """The forward has made the gradient already; the terms beside the loss have none."""
    ctx.computed = bool(inputs[-1])
    ctx.save_for_backward(output[-1])
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx: Any, g_loss: Tensor, *unused: Tensor | None) -> tuple[Tensor | None, ...]:
    if not ctx.computed:
        raise RuntimeError(
            "image loss: backward: expected a forward with with_gradient=True, got False"
        )
    (gradient,) = ctx.saved_tensors
    return (g_loss[:, None, None, None] * gradient, *[None] * (5 if len(unused) == 1 else 6))


library.declare("ssim", _ssim_fake, _keep_gradient, _backward)
library.declare("image_loss", _loss_fake, _keep_gradient, _backward)


def fused_adam_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    learning_rates: Sequence[float],
    *,
    step: int,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-15,
    visible: Tensor | None = None,
) -> None:
    """One Adam step of several tensors, in place, each with its own learning rate.

    The arithmetic is that of ``torch.optim.Adam`` (without weight decay), to rounding.

    Args:
        params: Contiguous float32 or float64 tensors, updated in place.
        grads: Their gradients.
        exp_avgs: Running averages of the gradients, updated in place; zeros at first.
        exp_avg_sqs: Running averages of the squared gradients, likewise.
        learning_rates: One a tensor.
        step: Which step this is, counted from 1; sets the bias correction.
        betas: Decay of the two averages.
        eps: Added to the root of the squared average.
        visible: Optional bool [N]: rows of the parameters (all of N rows) to update. The others
            keep value and averages, as if the step did not happen for them.

    Raises:
        RuntimeError: If shapes, dtypes, devices or list lengths do not fit together.

    Source:
        Kingma, Ba: Adam, ICLR 2015, algorithm 1.

    Example:
        >>> p, g = torch.zeros(2), torch.ones(2)
        >>> fused_adam_([p], [g], [torch.zeros(2)], [torch.zeros(2)], [0.1], step=1)
        >>> p
        tensor([-0.1000, -0.1000])
    """
    with torch.no_grad():
        library.ops().fused_adam_(
            list(params),
            list(grads),
            list(exp_avgs),
            list(exp_avg_sqs),
            [float(rate) for rate in learning_rates],
            betas[0],
            betas[1],
            eps,
            step,
            visible,
        )


def _adam_fake(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    learning_rates: list[float],
    beta1: float,
    beta2: float,
    eps: float,
    step: int,
    visible: Tensor | None,
) -> None:
    return None


library.declare("fused_adam_", _adam_fake)


def splat_noise_(
    means: Tensor,
    quats: Tensor,
    log_scales: Tensor,
    opacity_logits: Tensor,
    *,
    strength: float,
    seed: int,
    step: int,
) -> None:
    """Moves transparent splats at random, within their own extent, in place.

    Each mean moves by strength x sigmoid(100 (0.005 - opacity)) x covariance x normal draw; above
    an opacity of 0.2, not at all. The draws are a function of seed, step and row: the same on
    every device, and for any number of threads.

    Args:
        means: [N, 3], contiguous float32 or float64, updated in place.
        quats: [N, 4] rotations, wxyz, of any non-zero length.
        log_scales: [N, 3] natural logarithms of the standard deviations.
        opacity_logits: [N] opacities before the sigmoid.
        strength: World units per squared world unit.
        seed: Of the draws; at least 0.
        step: Which draw; at least 0.

    Raises:
        RuntimeError: If shapes, dtypes or devices do not fit together.

    Source:
        Kheradmand et al.: 3D Gaussian Splatting as Markov Chain Monte Carlo, 2024, equation 10.

    Example:
        >>> means, quats = torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 0.0, 0.0]])
        >>> scales, logits = torch.zeros(1, 3), torch.tensor([-9.0])
        >>> splat_noise_(means, quats, scales, logits, strength=1.0, seed=0, step=0)
        >>> bool(means.abs().min() > 0)
        True
    """
    with torch.no_grad():
        library.ops().splat_noise_(means, quats, log_scales, opacity_logits, strength, seed, step)


def _noise_fake(
    means: Tensor,
    quats: Tensor,
    log_scales: Tensor,
    opacity_logits: Tensor,
    strength: float,
    seed: int,
    step: int,
) -> None:
    return None


library.declare("splat_noise_", _noise_fake)
