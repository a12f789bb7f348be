# SPDX-License-Identifier: Apache-2.0
"""Two forms of gradient that gsplat's users expect: AbsGS's, and sparse ones of what is seen."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def probe_absgrad(means2d: Tensor, shape: torch.Size | None = None) -> Tensor | None:
    """A tensor whose gradient becomes ``means2d.absgrad``, as gsplat's strategies read it.

    Args:
        means2d: Projected means, in the shape in which the attribute is set.
        shape: Shape of the probe, as blending takes it; default that of ``means2d``.

    Returns:
        What to pass to ``blend`` as ``means2d_abs``; None if ``means2d`` gets no gradient.

    Example:
        >>> probe_absgrad(torch.zeros(4, 2)) is None
        True
    """
    if not (means2d.requires_grad and torch.is_grad_enabled()):
        return None
    probe = means2d.new_zeros(means2d.shape if shape is None else shape).requires_grad_()

    def keep(accumulated: Tensor) -> None:
        assert accumulated.grad is not None
        means2d.absgrad = accumulated.grad.reshape(means2d.shape)  # pyright: ignore

    probe.register_post_accumulate_grad_hook(keep)
    return probe


class SeenRows:
    """Makes the gradients of per-Gaussian tensors sparse, over the rows that were seen.

    Tensors pass through ``sparse`` before the projection; ``rows`` is set after it.

    Example:
        >>> seen, x = SeenRows(), torch.ones(3, 2, requires_grad=True)
        >>> y = seen.sparse(x)
        >>> seen.rows = torch.tensor([1])
        >>> y[1].sum().backward()
        >>> x.grad.is_sparse, x.grad.coalesce().indices().tolist()
        (True, [[1]])
    """

    rows: Tensor | None = None  # int64, ascending

    def sparse(self, tensor: Tensor) -> Tensor:
        """The same tensor, whose gradient will be in COO layout."""
        return _Sparse.apply(tensor, self)  # pyright: ignore


class _Sparse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, seen: SeenRows) -> Tensor:
        ctx.seen = seen
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        gradient, rows = grads[0], ctx.seen.rows
        return torch.sparse_coo_tensor(
            rows[None], gradient[rows], gradient.shape, is_coalesced=True, check_invariants=False
        ), None
