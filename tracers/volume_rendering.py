# SPDX-License-Identifier: Apache-2.0
"""Volume rendering: from densities or opacities of samples along rays to colours.

Signatures, defaults and shapes are NerfAcc's. Samples are packed (flat, with ``packed_info``
or ascending ``ray_indices``; see `packing`) or batched, [n_rays, n_samples]. With alpha_i the
opacity of sample i and T_i the transmittance before it,

    alpha_i = 1 - exp(-sigma_i (t_end_i - t_start_i))    T_i = prod_{j<i} (1 - alpha_j)
    weight_i = T_i alpha_i                               color = sum_i weight_i rgb_i

Everything is differentiable and repeats bit for bit, on the CPU and on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..cuda.volume import ops
from .checks import check_background, check_tensor
from .packing import as_rows, computable, named, packing_of

FieldFunction = Callable[..., tuple[Tensor, Tensor]]


def rendering(
    t_starts: Tensor,
    t_ends: Tensor,
    ray_indices: Tensor | None = None,
    n_rays: int | None = None,
    rgb_sigma_fn: FieldFunction | None = None,
    rgb_alpha_fn: FieldFunction | None = None,
    render_bkgd: Tensor | None = None,
    expected_depths: bool = True,
) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
    """Renders rays through a radiance field.

    Args:
        t_starts: Where each sample begins, [n_samples] with ray_indices, or [n_rays, n] without.
        t_ends: Where it ends.
        ray_indices: int64 [n_samples], the ray of each sample, ascending.
        n_rays: How many rays there are; default: up to the last one with a sample.
        rgb_sigma_fn: (t_starts, t_ends, ray_indices) to colours [..., 3] and densities [...].
        rgb_alpha_fn: The same with opacities; used without rgb_sigma_fn.
        render_bkgd: [3] or [n_rays, 3], seen through what the samples leave; default black.
        expected_depths: Divide depths by opacities: the mean depth of what is seen.

    Returns:
        Colours [n_rays, 3], opacities [n_rays, 1], depths [n_rays, 1], and a dict of weights,
        alphas, trans, rgbs and (given rgb_sigma_fn) sigmas. Differentiable in what the function
        returned.

    Raises:
        TypeError: An argument has another type.
        ValueError: There is no function, or shapes or devices do not fit.

    Source: Max, "Optical models for direct volume rendering" (1995); Mildenhall et al., "NeRF"
        (2020).

    Example:
        >>> t = torch.tensor([0.0, 1.0])
        >>> red = lambda t0, t1, rays: (torch.tensor([[1.0, 0, 0]]).expand(2, 3), 50 + 0 * t0)
        >>> colors, opacities, depths, extras = rendering(t, t + 1, torch.tensor([0, 1]), 2, red)
        >>> colors.tolist(), depths.tolist()
        ([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]], [[0.5], [1.5]])
    """
    name = "rendering"
    if rgb_sigma_fn is None and rgb_alpha_fn is None:
        raise ValueError(f"{name}: expected rgb_sigma_fn or rgb_alpha_fn, got neither")
    check_tensor(name, "t_starts", t_starts)
    check_tensor(name, "t_ends", t_ends, tuple(t_starts.shape), like=t_starts)
    packed = packing_of(name, t_starts, None, ray_indices, n_rays, "t_starts")
    function = rgb_sigma_fn if rgb_sigma_fn is not None else rgb_alpha_fn
    assert function is not None
    rgbs, values = _evaluate(function, t_starts, t_ends, ray_indices)
    if rgb_sigma_fn is not None:
        weights, trans, alphas = _composite(name, t_starts, t_ends, values, packed)
        extras = {"weights": weights, "alphas": alphas, "trans": trans, "sigmas": values}
    else:
        weights, trans, alphas = _composite(name, None, None, values, packed)
        extras = {"weights": weights, "trans": trans, "alphas": alphas}
    extras["rgbs"] = rgbs
    colors = _accumulate(name, weights, rgbs, packed)
    opacities = _accumulate(name, weights, None, packed)
    depths = _accumulate(name, weights, ((t_starts + t_ends) / 2)[..., None], packed)
    if expected_depths:
        depths = depths / opacities.clamp_min(torch.finfo(opacities.dtype).eps)
    if render_bkgd is not None:
        check_background(name, "render_bkgd", render_bkgd, colors)
        colors = colors + render_bkgd * (1.0 - opacities)
    return colors, opacities, depths, extras


def _evaluate(
    function: FieldFunction, t_starts: Tensor, t_ends: Tensor, ray_indices: Tensor | None
) -> tuple[Tensor, Tensor]:
    """What the field says at the samples, checked; it is not asked about none."""
    if t_starts.shape[0] == 0:
        return t_starts.new_zeros(*t_starts.shape, 3), torch.zeros_like(t_starts)
    found = function(t_starts, t_ends, ray_indices)
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise TypeError(
            "rendering: expected two results of the function, colours and values, "
            f"got {type(found).__name__}"
        )
    rgbs, values = found
    check_tensor("rendering", "colours of the function", rgbs, (*t_starts.shape, 3), like=t_starts)
    check_tensor("rendering", "values of the function", values, tuple(t_starts.shape), like=rgbs)
    return rgbs, values


def _composite(
    function: str,
    t_starts: Tensor | None,
    t_ends: Tensor | None,
    values: Tensor,
    packed_info: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`ops.composite` over any leading dimensions."""
    if t_starts is None or t_ends is None:
        parts: tuple[Tensor | None, ...] = (None, None, *computable(values))
    else:
        parts = computable(t_starts, t_ends, values)
    if packed_info is None:
        parts = tuple(None if part is None else as_rows(part) for part in parts)
    found = named(function, ops.composite, *parts, packed_info)
    return tuple(value.reshape(values.shape) for value in found)  # pyright: ignore


def render_transmittance_from_alpha(
    alphas: Tensor,
    packed_info: Tensor | None = None,
    ray_indices: Tensor | None = None,
    n_rays: int | None = None,
    prefix_trans: Tensor | None = None,
) -> Tensor:
    """Transmittance before each sample, from opacities: T_i = prod_{j<i} (1 - alpha_j).

    Args:
        alphas: In [0, 1], [n_samples] packed, or [..., n] batched.
        packed_info: int64 [n_rays, 2], start and count of each ray.
        ray_indices: int64 [n_samples], ascending; instead of packed_info.
        n_rays: How many rays there are, for ray_indices.
        prefix_trans: A factor of each sample's transmittance, shaped like alphas.

    Returns:
        The shape of alphas; differentiable, also where an alpha is 1.

    Raises:
        TypeError: An argument has another type.
        ValueError: Shapes or devices do not fit.

    Example:
        >>> alphas = torch.tensor([0.5, 0.5, 0.5, 0.25, 0.5])
        >>> rays = torch.tensor([0, 0, 0, 1, 1])
        >>> render_transmittance_from_alpha(alphas, ray_indices=rays).tolist()
        [1.0, 0.5, 0.25, 1.0, 0.75]
    """
    return render_weight_from_alpha(alphas, packed_info, ray_indices, n_rays, prefix_trans)[1]


def render_transmittance_from_density(
    t_starts: Tensor,
    t_ends: Tensor,
    sigmas: Tensor,
    packed_info: Tensor | None = None,
    ray_indices: Tensor | None = None,
    n_rays: int | None = None,
    prefix_trans: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Transmittance before each sample and its opacity, from densities.

    Args:
        t_starts: Where each sample begins, [n_samples] packed, or [..., n] batched.
        t_ends: Where it ends.
        sigmas: Densities.
        packed_info: int64 [n_rays, 2], start and count of each ray.
        ray_indices: int64 [n_samples], ascending; instead of packed_info.
        n_rays: How many rays there are, for ray_indices.
        prefix_trans: A factor of each sample's transmittance, shaped like sigmas.

    Returns:
        Transmittances and alphas, shaped like sigmas; differentiable.

    Raises:
        TypeError: An argument has another type.
        ValueError: Shapes or devices do not fit.

    Example:
        >>> t = torch.tensor([[0.0, 1.0]])
        >>> trans, alphas = render_transmittance_from_density(t, t + 1, torch.tensor([[0.0, 99.0]]))
        >>> trans.tolist(), alphas.tolist()
        ([[1.0, 1.0]], [[0.0, 1.0]])
    """
    _, trans, alphas = render_weight_from_density(
        t_starts, t_ends, sigmas, packed_info, ray_indices, n_rays, prefix_trans
    )
    return trans, alphas


def render_weight_from_alpha(
    alphas: Tensor,
    packed_info: Tensor | None = None,
    ray_indices: Tensor | None = None,
    n_rays: int | None = None,
    prefix_trans: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """How much of each sample is seen, from opacities: w_i = T_i alpha_i.

    Args:
        alphas: In [0, 1], [n_samples] packed, or [..., n] batched.
        packed_info: int64 [n_rays, 2], start and count of each ray.
        ray_indices: int64 [n_samples], ascending; instead of packed_info.
        n_rays: How many rays there are, for ray_indices.
        prefix_trans: A factor of each sample's transmittance, shaped like alphas.

    Returns:
        Weights and transmittances, shaped like alphas; differentiable.

    Raises:
        TypeError: An argument has another type.
        ValueError: Shapes or devices do not fit.

    Example:
        >>> weights, trans = render_weight_from_alpha(torch.tensor([[0.5, 0.5, 1.0]]))
        >>> weights.tolist()
        [[0.5, 0.25, 0.25]]
    """
    name = "render_weight_from_alpha"
    check_tensor(name, "alphas", alphas)
    packed = packing_of(name, alphas, packed_info, ray_indices, n_rays, "alphas")
    weights, trans, _ = _composite(name, None, None, alphas, packed)
    return _prefixed(name, prefix_trans, weights, trans)


def render_weight_from_density(
    t_starts: Tensor,
    t_ends: Tensor,
    sigmas: Tensor,
    packed_info: Tensor | None = None,
    ray_indices: Tensor | None = None,
    n_rays: int | None = None,
    prefix_trans: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """How much of each sample is seen, from densities.

    Args:
        t_starts: Where each sample begins, [n_samples] packed, or [..., n] batched.
        t_ends: Where it ends.
        sigmas: Densities.
        packed_info: int64 [n_rays, 2], start and count of each ray.
        ray_indices: int64 [n_samples], ascending; instead of packed_info.
        n_rays: How many rays there are, for ray_indices.
        prefix_trans: A factor of each sample's transmittance, shaped like sigmas.

    Returns:
        Weights, transmittances and alphas, shaped like sigmas; differentiable.

    Raises:
        TypeError: An argument has another type.
        ValueError: Shapes or devices do not fit.

    Example:
        >>> t = torch.tensor([[0.0, 1.0]])
        >>> weights, _, _ = render_weight_from_density(t, t + 1, torch.tensor([[0.6931, 99.0]]))
        >>> weights.round(decimals=3).tolist()
        [[0.5, 0.5]]
    """
    name = "render_weight_from_density"
    packed = _checked_density(name, t_starts, t_ends, sigmas, packed_info, ray_indices, n_rays)
    weights, trans, alphas = _composite(name, t_starts, t_ends, sigmas, packed)
    return *_prefixed(name, prefix_trans, weights, trans), alphas


def _checked_density(
    function: str,
    t_starts: Tensor,
    t_ends: Tensor,
    sigmas: Tensor,
    packed_info: Tensor | None,
    ray_indices: Tensor | None,
    n_rays: int | None,
) -> Tensor | None:
    check_tensor(function, "sigmas", sigmas)
    check_tensor(function, "t_starts", t_starts, tuple(sigmas.shape), like=sigmas)
    check_tensor(function, "t_ends", t_ends, tuple(sigmas.shape), like=sigmas)
    return packing_of(function, sigmas, packed_info, ray_indices, n_rays, "sigmas")


def _prefixed(
    function: str, prefix_trans: Tensor | None, weights: Tensor, trans: Tensor
) -> tuple[Tensor, Tensor]:
    if prefix_trans is None:
        return weights, trans
    check_tensor(function, "prefix_trans", prefix_trans, tuple(trans.shape), like=trans)
    return weights * prefix_trans, trans * prefix_trans


@torch.no_grad()
def render_visibility_from_alpha(
    alphas: Tensor,
    packed_info: Tensor | None = None,
    ray_indices: Tensor | None = None,
    n_rays: int | None = None,
    early_stop_eps: float = 1e-4,
    alpha_thre: float = 0.0,
    prefix_trans: Tensor | None = None,
) -> Tensor:
    """Which samples are seen, from opacities: T_i >= early_stop_eps and alpha_i >= alpha_thre.

    Args:
        alphas: In [0, 1], [n_samples] packed, or [..., n] batched.
        packed_info: int64 [n_rays, 2], start and count of each ray.
        ray_indices: int64 [n_samples], ascending; instead of packed_info.
        n_rays: How many rays there are, for ray_indices.
        early_stop_eps: Least transmittance before a visible sample.
        alpha_thre: Least opacity of a visible sample; 0: any.
        prefix_trans: A factor of each sample's transmittance, shaped like alphas.

    Returns:
        bool, shaped like alphas. Not differentiable.

    Raises:
        TypeError: An argument has another type.
        ValueError: Shapes or devices do not fit.

    Example:
        >>> alphas = torch.tensor([0.4, 0.8, 0.1, 0.8, 0.1, 0.0, 0.9])
        >>> rays = torch.tensor([0, 0, 0, 1, 1, 2, 2])
        >>> render_visibility_from_alpha(
        ...     alphas, ray_indices=rays, early_stop_eps=0.3, alpha_thre=0.2).tolist()
        [True, True, False, True, False, False, True]
    """
    name = "render_visibility_from_alpha"
    check_tensor(name, "alphas", alphas)
    packed = packing_of(name, alphas, packed_info, ray_indices, n_rays, "alphas")
    return _visibility(name, None, None, alphas, packed, prefix_trans, early_stop_eps, alpha_thre)


@torch.no_grad()
def render_visibility_from_density(
    t_starts: Tensor,
    t_ends: Tensor,
    sigmas: Tensor,
    packed_info: Tensor | None = None,
    ray_indices: Tensor | None = None,
    n_rays: int | None = None,
    early_stop_eps: float = 1e-4,
    alpha_thre: float = 0.0,
    prefix_trans: Tensor | None = None,
) -> Tensor:
    """Which samples are seen, from densities.

    Args:
        t_starts: Where each sample begins, [n_samples] packed, or [..., n] batched.
        t_ends: Where it ends.
        sigmas: Densities.
        packed_info: int64 [n_rays, 2], start and count of each ray.
        ray_indices: int64 [n_samples], ascending; instead of packed_info.
        n_rays: How many rays there are, for ray_indices.
        early_stop_eps: Least transmittance before a visible sample.
        alpha_thre: Least opacity of a visible sample; 0: any.
        prefix_trans: A factor of each sample's transmittance, shaped like sigmas.

    Returns:
        bool, shaped like sigmas. Not differentiable.

    Raises:
        TypeError: An argument has another type.
        ValueError: Shapes or devices do not fit.

    Example:
        >>> t = torch.tensor([[0.0, 1.0, 2.0]])
        >>> render_visibility_from_density(t, t + 1, torch.tensor([[0.1, 99.0, 1.0]])).tolist()
        [[True, True, False]]
    """
    name = "render_visibility_from_density"
    packed = _checked_density(name, t_starts, t_ends, sigmas, packed_info, ray_indices, n_rays)
    return _visibility(
        name, t_starts, t_ends, sigmas, packed, prefix_trans, early_stop_eps, alpha_thre
    )


def _visibility(
    function: str,
    t_starts: Tensor | None,
    t_ends: Tensor | None,
    values: Tensor,
    packed_info: Tensor | None,
    prefix_trans: Tensor | None,
    early_stop_eps: float,
    alpha_thre: float,
) -> Tensor:
    if prefix_trans is not None:
        check_tensor(function, "prefix_trans", prefix_trans, tuple(values.shape), like=values)
    given = [t for t in (t_starts, t_ends, values, prefix_trans) if t is not None]
    parts = iter(computable(*given))
    t_starts, t_ends, flat, prefix = (
        None if t is None else (as_rows(next(parts)) if packed_info is None else next(parts))
        for t in (t_starts, t_ends, values, prefix_trans)
    )
    visible = named(
        function,
        ops.visibility,
        t_starts,
        t_ends,
        flat,
        packed_info,
        prefix_trans=prefix,
        early_stop_eps=early_stop_eps,
        alpha_thre=alpha_thre,
    )
    return visible.reshape(values.shape)


def accumulate_along_rays(
    weights: Tensor,
    values: Tensor | None = None,
    ray_indices: Tensor | None = None,
    n_rays: int | None = None,
) -> Tensor:
    """Sums weighted values along rays.

    Args:
        weights: [n_samples] with ray_indices, or [..., n] without.
        values: [n_samples, D] or [..., n, D]; default ones, D = 1.
        ray_indices: int64 [n_samples], the ray of each sample. Ascending is fast; other orders are
            sorted first.
        n_rays: How many rays there are; needed with ray_indices.

    Returns:
        [n_rays, D] or [..., D]; differentiable in weights and values.

    Raises:
        TypeError: An argument has another type.
        ValueError: n_rays is missing, or shapes, devices or indices do not fit.

    Example:
        >>> weights, rays = torch.tensor([0.5, 0.5, 1.0]), torch.tensor([0, 0, 2])
        >>> accumulate_along_rays(weights, torch.tensor([[2.0], [4.0], [1.0]]), rays, 3).tolist()
        [[3.0], [0.0], [1.0]]
    """
    name = "accumulate_along_rays"
    check_tensor(name, "weights", weights)
    if values is not None:
        check_tensor(name, "values", values, (*weights.shape, "D"), like=weights)
    if ray_indices is None:
        return _accumulate(name, weights, values, None)
    if n_rays is None:
        raise ValueError(f"{name}: n_rays: expected a number with ray_indices, got None")
    check_tensor(
        name, "ray_indices", ray_indices, tuple(weights.shape), like=weights, dtype=torch.int64
    )
    if not torch.compiler.is_compiling() and not _ascends(name, ray_indices, n_rays):
        ray_indices, order = ray_indices.sort(stable=True)
        weights, values = weights[order], None if values is None else values[order]
    packed = packing_of(name, weights, None, ray_indices, n_rays, "weights")
    return _accumulate(name, weights, values, packed)


def _ascends(function: str, ray_indices: Tensor, n_rays: int) -> bool:
    """Whether samples lie ray by ray; all must be below n_rays. A GPU is waited for once."""
    if ray_indices.numel() == 0:
        return True
    lowest, highest = ray_indices.aminmax()
    steps_up = (ray_indices[1:] >= ray_indices[:-1]).all()
    low, high, ascends = torch.stack([lowest, highest, steps_up.long()]).tolist()
    if low < 0 or high >= n_rays:
        raise ValueError(
            f"{function}: ray_indices: expected 0 to n_rays - 1 = {n_rays - 1}, got {low} to {high}"
        )
    return bool(ascends)


def _accumulate(
    function: str, weights: Tensor, values: Tensor | None, packed_info: Tensor | None
) -> Tensor:
    """`ops.accumulate` over any leading dimensions."""
    if values is None:
        flat_weights, flat_values = *computable(weights), None
    else:
        flat_weights, flat_values = computable(weights, values)
    lead = (-1,)
    if packed_info is None:
        lead = weights.shape[:-1]
        flat_weights = as_rows(flat_weights)
        if flat_values is not None:
            flat_values = flat_values.reshape(*flat_weights.shape, flat_values.shape[-1])
    sums = named(function, ops.accumulate, flat_weights, flat_values, packed_info)
    return sums if packed_info is not None else sums.reshape(*lead, sums.shape[-1])


def accumulate_along_rays_(
    weights: Tensor,
    values: Tensor | None = None,
    ray_indices: Tensor | None = None,
    outputs: Tensor | None = None,
) -> None:
    """Adds weighted sums along rays to a tensor, in place.

    Args:
        weights: [n_samples] with ray_indices, or [n_rays, n] without.
        values: [n_samples, D] or [n_rays, n, D]; default ones, D = 1.
        ray_indices: int64 [n_samples], the ray of each sample.
        outputs: [n_rays, D]; receives the sums.

    Raises:
        TypeError: An argument has another type.
        ValueError: outputs is missing, or shapes, devices or indices do not fit.

    Example:
        >>> outputs = torch.ones(2, 1)
        >>> accumulate_along_rays_(torch.tensor([0.5]), None, torch.tensor([1]), outputs)
        >>> outputs.tolist()
        [[1.0], [1.5]]
    """
    name = "accumulate_along_rays_"
    check_tensor(name, "weights", weights)
    channels = 1 if values is None else values.shape[-1]
    if outputs is None:
        raise ValueError(f"{name}: outputs: expected a tensor [n_rays, {channels}], got None")
    n_rays: int | str = "n_rays" if ray_indices is not None else weights.shape[0]
    check_tensor(name, "outputs", outputs, (n_rays, channels), like=weights)
    outputs.add_(accumulate_along_rays(weights, values, ray_indices, outputs.shape[0]))


def distortion(
    weights: Tensor,
    t_starts: Tensor,
    t_ends: Tensor,
    ray_indices: Tensor | None = None,
    n_rays: int | None = None,
) -> Tensor:
    """The distortion loss of each ray: how far apart its weights lie.

    Args:
        weights: [n_samples] with ray_indices, or [n_rays, n] without.
        t_starts: Where each sample begins, ascending along each ray.
        t_ends: Where it ends.
        ray_indices: int64 [n_samples], the ray of each sample, ascending.
        n_rays: How many rays there are; default: up to the last one with a sample.

    Returns:
        [n_rays, 1]; differentiable in weights, t_starts and t_ends.

    Raises:
        TypeError: An argument has another type.
        ValueError: Shapes or devices do not fit.

    Source: Barron et al., "Mip-NeRF 360" (2022), equation 15.

    Example:
        >>> t = torch.tensor([0.0, 3.0])
        >>> distortion(torch.tensor([0.5, 0.5]), t, t, torch.tensor([0, 0]), 1).tolist()
        [[1.5]]
    """
    name = "distortion"
    check_tensor(name, "weights", weights)
    check_tensor(name, "t_starts", t_starts, tuple(weights.shape), like=weights)
    check_tensor(name, "t_ends", t_ends, tuple(weights.shape), like=weights)
    packed = packing_of(name, weights, None, ray_indices, n_rays, "weights")
    parts: Any = computable(weights, t_starts, t_ends)
    if packed is None:
        parts = [as_rows(part) for part in parts]
    losses = named(name, ops.distortion, *parts, packed)
    return losses[:, None] if packed is not None else losses.reshape(*weights.shape[:-1], 1)
