# SPDX-License-Identifier: Apache-2.0
"""Dense twins of sparse layers: torch's dense operators, masked to where a sparse one has rows."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from fieldline.engine.sparse import SparseTensor
from torch import Tensor
from torch.nn import functional as F

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def random_tensor(
    sizes: Sequence[int],
    channels: int,
    batch_size: int,
    generator: torch.Generator,
    share: float = 0.3,
    bounded: bool = True,
    device: torch.device | str = "cpu",
) -> SparseTensor:
    """Random rows in a box from 0, in float64 with gradients; their order is shuffled."""
    mask = torch.rand((batch_size, *sizes), generator=generator) < share
    coords = mask.nonzero().int()
    coords = coords[torch.randperm(len(coords), generator=generator)]
    feats = torch.randn(len(coords), channels, generator=generator, dtype=torch.float64)
    spatial_range = tuple(sizes) if bounded else None
    feats = feats.to(device).requires_grad_()
    return SparseTensor(coords.to(device), feats, 1, spatial_range, batch_size)


def dense_kernel(weight: Tensor) -> Tensor:
    """[*kernel_size, C_in // groups, C_out] as dense convolutions take it."""
    ndim = weight.dim() - 2
    return weight.permute(ndim + 1, ndim, *range(ndim))


def conv(x: Tensor, weight: Tensor, stride, padding, dilation, groups: int = 1) -> Tensor:
    """A dense convolution of [B, C, *sizes] in 1 to 4 dimensions."""
    ndim = weight.dim() - 2
    if ndim in _CONV:
        return _CONV[ndim](x, dense_kernel(weight), None, stride, padding, dilation, groups)
    return _slow_conv(x, weight, stride, padding, dilation, groups)


def _slow_conv(x: Tensor, weight: Tensor, stride, padding, dilation, groups: int) -> Tensor:
    """Tap by tap, in any dimension."""
    ndim = weight.dim() - 2
    size = weight.shape[:ndim]
    x = F.pad(x, [p for p in reversed(padding) for _ in range(2)])
    counts = [
        (n - d * (k - 1) - 1) // s + 1 for n, k, s, d in zip(x.shape[2:], size, stride, dilation)
    ]
    out: Tensor | float = 0.0
    for tap in itertools.product(*(range(k) for k in size)):
        window = x
        for axis in range(ndim):
            start = tap[axis] * dilation[axis]
            stop = start + (counts[axis] - 1) * stride[axis] + 1
            window = window[(slice(None),) * (2 + axis) + (slice(start, stop, stride[axis]),)]
        parts = window.unflatten(1, (groups, -1))
        kernel = weight[tap].unflatten(1, (groups, -1))
        out = out + torch.einsum("bgc...,cgo->bgo...", parts, kernel).flatten(1, 2)
    assert isinstance(out, Tensor)
    return out


def conv_transpose(
    x: Tensor, weight: Tensor, stride, padding, output_padding, dilation, groups: int = 1
) -> Tensor:
    """A dense transposed convolution: what the gradient of `conv` does, in 1 to 4 dimensions."""
    ndim = weight.dim() - 2
    kernel = weight.unflatten(-1, (groups, -1)).movedim(-2, 0).flatten(0, 0)
    kernel = kernel.permute(0, ndim + 1, ndim + 2, *range(1, ndim + 1)).flatten(0, 1)
    if ndim in _TRANSPOSE:
        return _TRANSPOSE[ndim](x, kernel, None, stride, padding, output_padding, groups, dilation)
    # Spread the input out, and convolve with the flipped kernel.
    assert groups == 1 and not any(output_padding)
    sizes = [(n - 1) * s + 1 for n, s in zip(x.shape[2:], stride)]
    spread = x.new_zeros(*x.shape[:2], *sizes)
    spread[(slice(None), slice(None), *(slice(None, None, s) for s in stride))] = x
    reach = [d * (k - 1) - p for d, k, p in zip(dilation, weight.shape, padding)]
    return conv(spread, weight.flip(tuple(range(ndim))), (1,) * ndim, reach, dilation)


def occupancy(x: SparseTensor) -> Tensor:
    """[B, 1, *sizes], one where there is a row."""
    return x.replace(torch.ones_like(x.feats[:, :1])).dense().detach()


def assert_close(value: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)


def assert_same_gradients(
    output: Tensor, expected: Tensor, leaves: Sequence[Tensor], twins: Sequence[Tensor]
) -> None:
    """Outputs and the gradients of both sides' leaves are equal."""
    assert_close(output, expected)
    seed = torch.randn(output.shape, generator=torch.Generator().manual_seed(3), dtype=output.dtype)
    seed = seed.to(output.device)
    got = torch.autograd.grad(output, leaves, seed, retain_graph=True)
    wanted = torch.autograd.grad(expected, twins, seed, retain_graph=True)
    for value, twin in zip(got, wanted):
        assert_close(value, twin)
