# SPDX-License-Identifier: Apache-2.0
"""Samples packed by ray, and running sums and products along rays.

Samples of many rays lie in one flat tensor, ray after ray. Where each ray's samples lie is said by
``packed_info``, int64 [n_rays, 2] of (start, count), or by ``ray_indices``, int64 [n_samples],
ascending. Without either, tensors are batched: the last dimension runs along a ray. The signatures
are NerfAcc's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..cuda.volume import ops
from .checks import check_count, check_tensor

# More would be a damaged index.
_MOST_RAYS = 1 << 40


def pack_info(ray_indices: Tensor, n_rays: int | None = None) -> Tensor:
    """Where each ray's samples lie.

    Args:
        ray_indices: int64 [n_samples], the ray of each sample, ascending.
        n_rays: How many rays there are; default: up to the last one with a sample, for which a GPU
            is waited for.

    Returns:
        int64 [n_rays, 2], start and count. Not differentiable.

    Raises:
        TypeError: ray_indices is no int64 tensor.
        ValueError: It is not [n_samples]; on the CPU, also if it does not ascend or reaches n_rays
            (on a GPU such samples belong to no ray, or to a wrong one).

    Example:
        >>> pack_info(torch.tensor([0, 0, 1, 1, 1, 2, 2, 2, 2]), n_rays=3).tolist()
        [[0, 2], [2, 3], [5, 4]]
    """
    check_tensor("pack_info", "ray_indices", ray_indices, ("n_samples",), dtype=torch.int64)
    if n_rays is None:
        n_rays = int(ray_indices[-1]) + 1 if ray_indices.numel() else 0
    elif n_rays < 0:
        raise ValueError(f"pack_info: n_rays: expected at least 0, got {n_rays}")
    elif not torch.compiler.is_compiling():
        n_rays = check_count("pack_info", "n_rays", n_rays, 0)
    if not torch.compiler.is_compiling() and n_rays > _MOST_RAYS:
        raise ValueError(f"pack_info: n_rays: expected at most 2^40, got {n_rays}")
    return named("pack_info", ops.pack_info, ray_indices, max(n_rays, 0))


def inclusive_sum(
    inputs: Tensor, packed_info: Tensor | None = None, indices: Tensor | None = None
) -> Tensor:
    """Running sums along rays, each with its own sample.

    Args:
        inputs: [n_samples] packed, or [..., n] batched.
        packed_info: int64 [n_rays, 2], start and count of each ray.
        indices: int64 [n_samples], the ray of each sample, ascending; instead of packed_info.

    Returns:
        The shape of inputs; differentiable.

    Raises:
        TypeError: inputs is no floating tensor.
        ValueError: Shapes or devices do not fit, or packed_info does not ascend (CPU).

    Example:
        >>> inclusive_sum(torch.tensor([1.0, 2, 3, 4]), torch.tensor([[0, 2], [2, 2]])).tolist()
        [1.0, 3.0, 3.0, 7.0]
    """
    return _scan("inclusive_sum", inputs, packed_info, indices)


def exclusive_sum(
    inputs: Tensor, packed_info: Tensor | None = None, indices: Tensor | None = None
) -> Tensor:
    """Running sums along rays, each without its own sample.

    Args:
        inputs: [n_samples] packed, or [..., n] batched.
        packed_info: int64 [n_rays, 2], start and count of each ray.
        indices: int64 [n_samples], the ray of each sample, ascending; instead of packed_info.

    Returns:
        The shape of inputs; differentiable.

    Raises:
        TypeError: inputs is no floating tensor.
        ValueError: Shapes or devices do not fit, or packed_info does not ascend (CPU).

    Example:
        >>> exclusive_sum(torch.tensor([1.0, 2, 3, 4]), torch.tensor([[0, 2], [2, 2]])).tolist()
        [0.0, 1.0, 0.0, 3.0]
    """
    return _scan("exclusive_sum", inputs, packed_info, indices, exclusive=True)


def inclusive_prod(
    inputs: Tensor, packed_info: Tensor | None = None, indices: Tensor | None = None
) -> Tensor:
    """Running products along rays, each with its own sample.

    Args:
        inputs: [n_samples] packed, or [..., n] batched.
        packed_info: int64 [n_rays, 2], start and count of each ray.
        indices: int64 [n_samples], the ray of each sample, ascending; instead of packed_info.

    Returns:
        The shape of inputs; differentiable, also where inputs are zero.

    Raises:
        TypeError: inputs is no floating tensor.
        ValueError: Shapes or devices do not fit, or packed_info does not ascend (CPU).

    Example:
        >>> inclusive_prod(torch.tensor([1.0, 2, 3, 4]), torch.tensor([[0, 2], [2, 2]])).tolist()
        [1.0, 2.0, 3.0, 12.0]
    """
    return _scan("inclusive_prod", inputs, packed_info, indices, product=True)


def exclusive_prod(
    inputs: Tensor, packed_info: Tensor | None = None, indices: Tensor | None = None
) -> Tensor:
    """Running products along rays, each without its own sample.

    Args:
        inputs: [n_samples] packed, or [..., n] batched.
        packed_info: int64 [n_rays, 2], start and count of each ray.
        indices: int64 [n_samples], the ray of each sample, ascending; instead of packed_info.

    Returns:
        The shape of inputs; differentiable, also where inputs are zero.

    Raises:
        TypeError: inputs is no floating tensor.
        ValueError: Shapes or devices do not fit, or packed_info does not ascend (CPU).

    Example:
        >>> exclusive_prod(torch.tensor([1.0, 2, 3, 4]), torch.tensor([[0, 2], [2, 2]])).tolist()
        [1.0, 1.0, 1.0, 3.0]
    """
    return _scan("exclusive_prod", inputs, packed_info, indices, product=True, exclusive=True)


def _scan(
    function: str,
    inputs: Tensor,
    packed_info: Tensor | None,
    indices: Tensor | None,
    **options: bool,
) -> Tensor:
    check_tensor(function, "inputs", inputs)
    packed_info = packing_of(function, inputs, packed_info, indices, None, "inputs", "indices")
    (flat,) = computable(inputs)
    if packed_info is None:
        flat = as_rows(flat)
    return named(function, ops.scan, flat, packed_info, **options).reshape(inputs.shape)


def packing_of(
    function: str,
    samples: Tensor,
    packed_info: Tensor | None,
    ray_indices: Tensor | None,
    n_rays: int | None,
    samples_name: str,
    indices_name: str = "ray_indices",
) -> Tensor | None:
    """How samples are packed, from either way to say it; None where they are batched.

    Args:
        function: Who asks; begins errors.
        samples: One value a sample.
        packed_info: int64 [n_rays, 2], or None.
        ray_indices: int64 [n_samples], or None.
        n_rays: Number of rays, for ray_indices.
        samples_name: What errors call the samples.
        indices_name: What errors call ray_indices.

    Returns:
        packed_info, or None.

    Raises:
        TypeError: An argument has another type.
        ValueError: Shapes or devices do not fit.
    """
    if packed_info is None and ray_indices is None:
        if samples.dim() == 0:
            raise ValueError(f"{function}: {samples_name}: expected shape [..., n], got []")
        return None
    if samples.dim() != 1:
        raise ValueError(
            f"{function}: {samples_name}: expected shape [n_samples] with packed_info or "
            f"{indices_name}, got {list(samples.shape)}"
        )
    if packed_info is not None:
        check_tensor(
            function, "packed_info", packed_info, ("n_rays", 2), like=samples, dtype=torch.int64
        )
        return packed_info
    check_tensor(
        function, indices_name, ray_indices, tuple(samples.shape), like=samples, dtype=torch.int64
    )
    assert ray_indices is not None
    return named(function, pack_info, ray_indices, n_rays)


def computable(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in one type that kernels have: float64 if any has it, else float32."""
    wanted = torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32
    return tuple(t.to(wanted) for t in tensors)


def as_rows(tensor: Tensor) -> Tensor:
    """[..., n] as [n_rays, n]."""
    return tensor.reshape(tensor.shape[:-1].numel(), tensor.shape[-1])


def named(function: str, operator: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Calls an operator; what it finds wrong in a packing becomes a ValueError of the caller's.

    Raises:
        ValueError: packed_info or ray_indices do not ascend, or reach beyond the samples.
    """
    if torch.compiler.is_compiling():
        return operator(*args, **options)
    try:
        return operator(*args, **options)
    except RuntimeError as error:
        for argument in ("packed_info: ", "ray_indices: "):
            _, found, facts = str(error).partition(argument + "expected")
            if found:
                facts = facts.partition("\n")[0]
                raise ValueError(f"{function}: {argument}expected{facts}") from None
        raise
