# SPDX-License-Identifier: Apache-2.0
"""torchsparse's convolution, and the coordinates that it makes."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .....cuda.sparse import conv_ops, map_ops
from .....cuda.sparse.map_ops import Taps
from .....engine.sparse.arguments import check_coordinates, check_tensor, ints
from .....engine.sparse.maps import strided_taps, submanifold_taps, transposed_map
from ...tensor import SparseTensor, get_allow_negative_coordinates
from ...utils.utils import make_ntuple
from . import maps
from .conv_config import effective_config
from .maps import Kmap, Level
from .pooling import check_input

__all__ = ["build_kernel_map", "conv3d", "spdownsample", "spupsample_generative"]

_ONE = (1, 1, 1)


def conv3d(
    input: SparseTensor,
    weight: Tensor,
    kernel_size: Any,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    config: Any = None,
    transposed: bool = False,
    generative: bool = False,
    training: bool = False,
) -> SparseTensor:
    """Convolves a sparse tensor.

    Unlike torchsparse, dilation is applied, and kept maps are used only on the coordinates that
    they were made of.

    Args:
        input: Of C_in channels.
        weight: [K, C_in, C_out]; [C_in, C_out] of one tap.
        kernel_size: Per axis or for all.
        bias: [C_out].
        stride: Per axis or for all; 1: the output has the input's coordinates.
        padding: Per axis or for all, of a strided layer.
        dilation: Per axis or for all.
        config: Modes (`conv_config`).
        transposed: Back to the coordinates that a strided layer of this kernel came from.
        generative: Transposed, to all coordinates that are reached.
        training: Accepted.

    Returns:
        The output.

    Raises:
        ValueError: No strided layer of this kernel was there before a transposed one.
    """
    check_operands(input, weight, bias)
    size, step, spread = layer_sizes(kernel_size, stride, dilation)
    if size == step == _ONE:
        return input.like(pointwise(input.feats, weight, bias))
    if transposed and not generative:
        return convolve_back(input, weight, bias, (size, step, spread))
    mode = effective_config(config)
    if generative:
        return _generate(input, weight, bias, size, step, spread)
    key = (input.stride, size, step, spread)
    around = make_ntuple(padding, 3)
    negative = get_allow_negative_coordinates()
    recipe = (around, mode.kmap_mode, mode.downsample_mode, negative, input.spatial_range)
    kmap = find(input, key, recipe)
    if kmap is None:
        kmap = _make(input, size, step, spread, around, mode)
        kmap.recipe = recipe
        input._caches.kmaps[key] = kmap
    return convolve(input, weight, bias, kmap, step)


def layer_sizes(kernel_size: Any, stride: Any, dilation: Any) -> tuple[Any, Any, Any]:
    """Kernel size, stride and dilation, one number per axis each.

    Args:
        kernel_size: Per axis or for all.
        stride: Per axis or for all.
        dilation: Per axis or for all.

    Returns:
        The three.

    Raises:
        TypeError: They are no whole numbers.
        ValueError: There are more or fewer than three, or one is below 1.
    """
    sizes = (make_ntuple(kernel_size, 3), make_ntuple(stride, 3), make_ntuple(dilation, 3))
    return _checked_sizes(*sizes)


@lru_cache
def _checked_sizes(size: Any, step: Any, spread: Any) -> tuple[Any, Any, Any]:
    named = (("kernel_size", size), ("stride", step), ("dilation", spread))
    for argument, value in named:
        ints("conv3d", argument, value, 3)
    return size, step, spread


def check_operands(input: SparseTensor, weight: Tensor, bias: Tensor | None) -> None:
    """Raises unless these can be convolved.

    Args:
        input: Any object.
        weight: Any object.
        bias: Any object, or None.

    Raises:
        TypeError: One is of another kind.
        ValueError: The input has another number of channels than the weight.
    """
    check_input("conv3d", input)
    check_tensor("conv3d", "weight", weight)
    if bias is not None:
        check_tensor("conv3d", "bias", bias)
    if input.feats.shape[-1:] != weight.shape[-2:-1]:
        raise ValueError(
            f"conv3d: input: expected channels for a weight [..., C_in, C_out] of shape "
            f"{list(weight.shape)}, got features {list(input.feats.shape)}"
        )


def pointwise(feats: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A matrix product, for a kernel of one tap without a stride."""
    feats, weight, bias = of_one_type(feats, weight, bias)
    product = feats @ weight.reshape(weight.shape[-2:])
    return product if bias is None else product + bias


def find(input: SparseTensor, key: tuple[Any, ...], recipe: Any = None) -> Kmap | None:
    """The kept map of a layer, if it was made of the input's coordinates in the same way."""
    kmap = input._caches.kmaps.get(key)
    if not isinstance(kmap, Kmap) or kmap.recipe != recipe:
        return None
    return kmap if kmap.inputs.is_of(input.coords) else None


def convolve(
    input: SparseTensor, weight: Tensor, bias: Tensor | None, kmap: Kmap, step: tuple[int, ...]
) -> SparseTensor:
    """A convolution along a map, placed on its outputs.

    Args:
        input: On the map's inputs.
        weight: [K, C_in, C_out].
        bias: [C_out].
        kmap: The map.
        step: Stride of the layer.

    Returns:
        The output.
    """
    feats = _run(kmap.convolve, input, weight, bias)
    stride = tuple(a * b for a, b in zip(input.stride, step))
    output = input.like(feats, kmap.outputs.tensor, stride, kmap.spatial_range)
    output._caches.hashmaps[stride] = kmap.outputs
    return register(output)


def convolve_back(
    input: SparseTensor, weight: Tensor, bias: Tensor | None, key: tuple[Any, Any, Any]
) -> SparseTensor:
    """A convolution back along a kept map.

    Args:
        input: On the map's outputs.
        weight: [K, C_in, C_out].
        bias: [C_out].
        key: Kernel size, stride and dilation of the layer that made the map.

    Returns:
        The output, on the map's inputs.

    Raises:
        ValueError: There is no such map, or it leads to other coordinates.
    """
    size, step, spread = key
    stride = tuple(a // b for a, b in zip(input.stride, step))
    kmap = input._caches.kmaps.get((stride, size, step, spread))
    if not isinstance(kmap, Kmap):
        raise ValueError(
            f"conv3d: input: no strided convolution of kernel_size={size}, stride={step}, "
            f"dilation={spread} leads from stride {stride} to {input.stride} here; maps kept: "
            f"{list(input._caches.kmaps)}"
        )
    if not kmap.outputs.is_of(input.coords):
        raise ValueError(
            f"conv3d: input: its coords are not those that the convolution from stride {stride} "
            f"to {input.stride} made"
        )
    feats = _run(kmap.convolve_back, input, weight, bias)
    return register(input.like(feats, kmap.inputs.tensor, stride, kmap.input_range))


def register(output: SparseTensor) -> SparseTensor:
    """Keeps a tensor's coordinates under its stride, where torchsparse's users look."""
    kept = (output.coords, output.spatial_range)
    output._caches.cmaps.setdefault(output.stride, kept if output.batch_column == 0 else kept[0])
    return output


def of_one_type(
    feats: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """All in autocast's type, or in that of the features."""
    kind = feats.device.type
    autocast = torch.is_autocast_enabled(kind)
    dtype = torch.get_autocast_dtype(kind) if autocast else feats.dtype
    return feats.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


def _run(run: Any, input: SparseTensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    feats, weight, bias = of_one_type(input.feats, weight, bias)
    with torch.autocast(feats.device.type, enabled=False):
        return run(feats, weight.reshape(-1, *weight.shape[-2:]), bias)


@torch.no_grad()
def _make(input: SparseTensor, size: Any, step: Any, spread: Any, padding: Any, mode: Any) -> Kmap:
    level = maps.level_of(input)
    if step == _ONE:
        taps = submanifold_taps(size, spread)
        if mode.kmap_mode == "hashmap_on_the_fly" and any(k % 2 == 0 for k in size):
            taps = Taps(size, step, spread, (0, 0, 0))
        return maps.submanifold(level, taps, input.spatial_range)
    taps = strided_taps(size, step, spread, padding)
    fine = level.natural
    low, high, out_range = maps.coarse_range(fine.coords, input.spatial_range, taps)
    if mode.downsample_mode == "minkowski":
        taps = taps._replace(origin=submanifold_taps(size, spread).origin)
        coarse = maps.floored(fine.unique_coords, step)
    else:
        coarse = map_ops.sparse_coarse_coordinates(fine.unique_coords, taps, low, high)
    outputs = Level(coarse, 0, regular=True)
    return maps.strided(level, taps, coarse, outputs, out_range, input.spatial_range)


def _generate(
    input: SparseTensor, weight: Tensor, bias: Tensor | None, size: Any, step: Any, spread: Any
) -> SparseTensor:
    """To every coordinate around each coarse one.

    torchsparse applies an odd kernel mirrored here: the output at ``coarse * stride - offset``
    takes the tap of ``offset``.
    """
    level = maps.level_of(input)
    taps = Taps(size, step, spread, submanifold_taps(size, spread).origin)
    spatial_range, high = input.spatial_range, None
    if spatial_range is not None:
        high = tuple(n * s for n, s in zip(spatial_range[1:], step))
        spatial_range = (spatial_range[0], *high)
    coarse = level.ordered_for(len(weight))
    reversed_axes = coarse is not level.natural
    if reversed_axes:
        taps = Taps(*(tuple(shape[::-1]) for shape in taps))
        high = None if high is None else high[::-1]
    low = None if high is None else (0, 0, 0)
    with torch.no_grad():
        fine, kernel_map = transposed_map(coarse.unique_coords, taps, low, high)
    if len(weight) % 2:
        weight = weight.flip(0)

    def run(feats: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
        folding = coarse.folding
        feats = feats if folding is None else folding.add_up(feats)
        return conv_ops.sparse_convolution(feats, kernel, kernel_map, bias)

    feats = _run(run, input, weight, bias)
    if reversed_axes:
        unique = map_ops.sparse_unique(fine[:, [0, 3, 2, 1]])
        fine, feats = unique.coords, feats[unique.first]
    stride = tuple(a // b for a, b in zip(input.stride, step))
    output = input.like(feats, fine, stride, spatial_range)
    output._caches.cmaps[stride] = (fine, spatial_range)
    return output


@torch.no_grad()
def spdownsample(
    _coords: Tensor,
    stride: Any = 2,
    kernel_size: Any = 2,
    padding: Any = 0,
    spatial_range: tuple[int, ...] | None = None,
    downsample_mode: str = "spconv",
) -> Tensor:
    """The coordinates of a strided layer's output.

    Args:
        _coords: int32 [N, 4], batch first.
        stride: Per axis or for all.
        kernel_size: Per axis or for all.
        padding: Per axis or for all.
        spatial_range: Of the output, with the batch; None: up to the largest coordinate.
        downsample_mode: "minkowski": the cells that fine ones lie in, whatever the kernel.

    Returns:
        int32 [M, 4], in order.
    """
    check_coordinates("spdownsample", "_coords", _coords, 3)
    size, step, _ = layer_sizes(kernel_size, stride, 1)
    pad = make_ntuple(padding, 3)
    divides = all(s in (1, k) for s, k in zip(step, size))
    if downsample_mode == "minkowski" or divides:
        return maps.floored(_coords, step)
    taps = strided_taps(size, step, _ONE, pad)
    low, high, _ = maps.coarse_range(_coords, None, taps)
    if spatial_range is not None:
        high = tuple(spatial_range[1:])
    return map_ops.sparse_coarse_coordinates(_coords, taps, low, high)


@torch.no_grad()
def spupsample_generative(
    _coords: Tensor,
    stride: Any = 2,
    kernel_size: Any = 2,
    padding: Any = 0,
    spatial_range: tuple[int, ...] | None = None,
) -> Tensor:
    """The coordinates of a generative layer's output.

    Args:
        _coords: int32 [N, 4], batch first.
        stride: Per axis or for all.
        kernel_size: Per axis or for all.
        padding: Accepted.
        spatial_range: Of the output, with the batch; coordinates outside are left out.

    Returns:
        int32 [M, 4], in order.
    """
    check_coordinates("spupsample_generative", "_coords", _coords, 3)
    size, step, _ = layer_sizes(kernel_size, stride, 1)
    taps = Taps(size, step, _ONE, submanifold_taps(size, _ONE).origin)
    low, high = (None, None) if spatial_range is None else ((0, 0, 0), tuple(spatial_range[1:]))
    return map_ops.sparse_fine_coordinates(_coords, taps, low, high)


def build_kernel_map(
    _coords: Tensor,
    input_node_num: int,
    kernel_size: Any = 2,
    stride: Any = 2,
    padding: Any = 0,
    hashmap_keys: Tensor | None = None,
    hashmap_vals: Tensor | None = None,
    spatial_range: tuple[int, ...] | None = None,
    mode: str = "hashmap",
    dataflow: Any = None,
    downsample_mode: str = "spconv",
    training: bool = False,
    ifsort: bool = False,
    generative: bool = False,
    split_mask_num: int = 1,
    split_mask_num_bwd: int = 1,
) -> Kmap:
    """The map of a layer.

    Args:
        _coords: int32 [N, 4], batch first.
        input_node_num: Accepted: N.
        kernel_size: Per axis or for all.
        stride: Per axis or for all.
        padding: Per axis or for all.
        hashmap_keys: Accepted.
        hashmap_vals: Accepted.
        spatial_range: Of the input, with the batch.
        mode: ``kmap_mode``.
        dataflow: Accepted, as is all that follows but ``downsample_mode``.
        downsample_mode: "spconv" or "minkowski".
        training: Accepted.
        ifsort: Accepted.
        generative: Must be False.
        split_mask_num: Accepted.
        split_mask_num_bwd: Accepted.

    Returns:
        The map, with the items "coords", "sizes", "spatial_range", "out_in_map" [M, K] (input rows,
        -1: none), "nbmaps" [P, 2] (input and output rows, tap by tap) and "nbsizes" [K].

    Raises:
        ValueError: A generative map is asked for; `conv3d` makes those.
    """
    if generative:
        raise ValueError("build_kernel_map: generative: expected False; conv3d makes such maps")
    input = SparseTensor(_coords, _coords, 1, spatial_range)
    config = effective_config({"kmap_mode": mode, "downsample_mode": downsample_mode})
    size, step, _ = layer_sizes(kernel_size, stride, 1)
    pad = make_ntuple(padding, 3)
    return _make(input, size, step, _ONE, pad, config)
