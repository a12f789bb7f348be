# SPDX-License-Identifier: Apache-2.0
"""Sparse convolution, pooling and normalisation as functions of tensors and weights.

Kernels are [*kernel_size, C_in // groups, C_out]: axis i of a kernel goes along axis i of space,
and kernels are not flipped (as those of ``torch.nn.functional.conv3d``). Where a tensor has a
spatial range, a convolution's outputs are those of the dense one of that size where its receptive
field meets a row; without one, all that rows reach.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from ...cuda.sparse import pool_ops
from ...cuda.sparse.conv_ops import Activation, sparse_convolution
from . import cache
from .arguments import Ints, ints, one_of
from .cache import Recipe
from .tensor import SparseTensor

PoolMode = Literal["max", "sum", "mean"]
GlobalMode = Literal["mean", "max", "sum", "min"]


def convolve(
    x: SparseTensor,
    recipe: Recipe,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: SparseTensor | Tensor | None = None,
    activation: Activation = "none",
    slope: float = 0.01,
) -> SparseTensor:
    """Convolves along the map of a recipe; what all convolutions here come to.

    Args:
        x: The input.
        recipe: Of the map.
        weight: [*kernel_size, C_in // groups, C_out].
        bias: [C_out].
        residual: Added before the activation; rows of the output.
        activation: "none", "relu", "leaky_relu", "silu", "gelu" or "sigmoid".
        slope: Of the leaky ReLU.

    Returns:
        The output. Under autocast it is of its dtype, as those of torch's own convolutions.

    Raises:
        ValueError: Shapes do not fit together, or there is no such map.

    Example:
        >>> x = SparseTensor(torch.tensor([[0, 4], [0, 5]], dtype=torch.int32), torch.ones(2, 1))
        >>> kernel = torch.tensor([1.0, 10.0, 100.0]).view(3, 1, 1)
        >>> convolve(x, cache.submanifold(3, ndim=1), kernel).feats.tolist()
        [[110.0], [11.0]]
    """
    feats = x.feats
    if feats.shape[1] % weight.shape[-2] or len(recipe.kernel_size) != x.ndim:
        raise _misfit(x, recipe, weight)
    kernel_map, level = x.maps.find(x.level, recipe)
    if isinstance(residual, SparseTensor):
        if not level.same_as(residual.level):
            raise ValueError(
                f"convolution: residual: expected the coordinates of the output ({len(level)} "
                f"rows, stride {level.stride}), got others ({len(residual)} rows, stride "
                f"{residual.stride})"
            )
        residual = residual.feats
    out = sparse_convolution(
        feats, weight.flatten(0, -3), kernel_map, bias, residual, activation, slope
    )
    return SparseTensor.on(out, level, x.maps)


def _misfit(x: SparseTensor, recipe: Recipe, weight: Tensor) -> ValueError:
    ndim = len(recipe.kernel_size)
    if ndim != x.ndim:
        return ValueError(f"convolution: x: expected {ndim} dimensions, got {x.ndim}")
    return ValueError(
        f"convolution: x: expected channels in a multiple of the {weight.shape[-2]} that each "
        f"kernel of shape {list(weight.shape)} takes, got {x.channels}"
    )


def _kernel_size(name: str, x: SparseTensor, weight: Tensor) -> tuple[int, ...]:
    if weight.dim() != x.ndim + 2:
        raise ValueError(
            f"{name}: weight: expected {x.ndim + 2} axes [*kernel_size, C_in // groups, C_out] for "
            f"a {x.ndim}D tensor, got {list(weight.shape)}"
        )
    return tuple(weight.shape[: x.ndim])


def subm_conv(
    x: SparseTensor, weight: Tensor, bias: Tensor | None = None, dilation: Ints = 1
) -> SparseTensor:
    """Convolves on the coordinates there are: a submanifold convolution.

    Args:
        x: The input.
        weight: [*kernel_size, C_in // groups, C_out].
        bias: [C_out].
        dilation: A number, or one per axis.

    Returns:
        The output, on the input's coordinates.

    Raises:
        ValueError: Shapes do not fit together.

    Source:
        Graham, Engelcke, van der Maaten, 3D Semantic Segmentation with Submanifold Sparse
        Convolutional Networks, CVPR 2018.

    Example:
        >>> x = SparseTensor(torch.zeros(1, 3, dtype=torch.int32), torch.ones(1, 2))
        >>> subm_conv(x, torch.ones(3, 3, 2, 4)).feats
        tensor([[2., 2., 2., 2.]])
    """
    size = _kernel_size("subm_conv", x, weight)
    spread = ints("subm_conv", "dilation", dilation, x.ndim)
    return convolve(x, cache.submanifold(size, spread, ndim=x.ndim), weight, bias)


def conv(
    x: SparseTensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    dilation: Ints = 1,
) -> SparseTensor:
    """Convolves to all coordinates that a dense convolution would reach.

    Args:
        x: The input.
        weight: [*kernel_size, C_in // groups, C_out].
        bias: [C_out].
        stride: A number, or one per axis.
        padding: A number, or one per axis.
        dilation: A number, or one per axis.

    Returns:
        The output, at coordinates divided by the stride.

    Raises:
        ValueError: Shapes do not fit together.

    Example:
        >>> x = SparseTensor(torch.tensor([[0, 6], [0, 7]], dtype=torch.int32), torch.ones(2, 1))
        >>> y = conv(x, torch.ones(2, 1, 1), stride=2)
        >>> y.coords.tolist(), y.feats.tolist()
        ([[0, 3]], [[2.0]])
    """
    name, ndim = "conv", x.ndim
    recipe = cache.strided(
        _kernel_size(name, x, weight),
        ints(name, "stride", stride, ndim),
        ints(name, "padding", padding, ndim, 0),
        ints(name, "dilation", dilation, ndim),
        ndim=ndim,
    )
    return convolve(x, recipe, weight, bias)


def conv_transpose(
    x: SparseTensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    dilation: Ints = 1,
) -> SparseTensor:
    """Convolves to all finer coordinates that a dense transposed convolution would reach.

    Args:
        x: The input.
        weight: [*kernel_size, C_in // groups, C_out].
        bias: [C_out].
        stride: A number, or one per axis.
        padding: A number, or one per axis.
        output_padding: Added to the spatial range, if there is one.
        dilation: A number, or one per axis.

    Returns:
        The output, at coordinates multiplied by the stride.

    Raises:
        ValueError: Shapes do not fit together.

    Example:
        >>> x = SparseTensor(torch.tensor([[0, 3]], dtype=torch.int32), torch.ones(1, 1))
        >>> conv_transpose(x, torch.ones(2, 1, 1), stride=2).coords.tolist()
        [[0, 6], [0, 7]]
    """
    name, ndim = "conv_transpose", x.ndim
    recipe = cache.transposed(
        _kernel_size(name, x, weight),
        ints(name, "stride", stride, ndim),
        ints(name, "padding", padding, ndim, 0),
        ints(name, "output_padding", output_padding, ndim, 0),
        ints(name, "dilation", dilation, ndim),
        ndim=ndim,
    )
    return convolve(x, recipe, weight, bias)


def inverse_conv(
    x: SparseTensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints | None = None,
    dilation: Ints = 1,
) -> SparseTensor:
    """Convolves back to the coordinates that a strided convolution came from, along its map.

    Args:
        x: The input, on coordinates that a strided convolution or pooling made.
        weight: [*kernel_size, C_in // groups, C_out]; the kernel size of that convolution.
        bias: [C_out].
        stride: Of that convolution.
        padding: Of that convolution; default: whichever it had.
        dilation: Of that convolution.

    Returns:
        The output. Each pair of rows meets in the tap that it met in on the way there.

    Raises:
        ValueError: No such convolution made these coordinates, or shapes do not fit together.

    Example:
        >>> x = SparseTensor(torch.tensor([[0, 6], [0, 7]], dtype=torch.int32), torch.ones(2, 1))
        >>> y = max_pool(x, 2)
        >>> inverse_conv(y, torch.tensor([1.0, 2.0]).view(2, 1, 1), stride=2).feats.tolist()
        [[1.0], [2.0]]
    """
    name, ndim = "inverse_conv", x.ndim
    recipe = cache.inverse(
        _kernel_size(name, x, weight),
        ints(name, "stride", stride, ndim),
        None if padding is None else ints(name, "padding", padding, ndim, 0),
        ints(name, "dilation", dilation, ndim),
        ndim=ndim,
    )
    return convolve(x, recipe, weight, bias)


def generative_conv_transpose(
    x: SparseTensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 2,
    dilation: Ints = 1,
) -> SparseTensor:
    """Convolves to new, finer coordinates around each row, centred; to be pruned afterwards.

    Args:
        x: The input.
        weight: [*kernel_size, C_in // groups, C_out].
        bias: [C_out].
        stride: A number, or one per axis.
        dilation: A number, or one per axis.

    Returns:
        The output; a spatial range becomes ``stride`` times as large.

    Raises:
        ValueError: Shapes do not fit together.

    Source:
        Gwak, Choy, Savarese, Generative Sparse Detection Networks for 3D Single-shot Object
        Detection, ECCV 2020.

    Example:
        >>> x = SparseTensor(torch.tensor([[0, 3]], dtype=torch.int32), torch.ones(1, 1))
        >>> generative_conv_transpose(x, torch.ones(3, 1, 1), stride=2).coords.tolist()
        [[0, 5], [0, 6], [0, 7]]
    """
    name, ndim = "generative_conv_transpose", x.ndim
    recipe = cache.generative(
        _kernel_size(name, x, weight),
        ints(name, "stride", stride, ndim),
        ints(name, "dilation", dilation, ndim),
        ndim=ndim,
    )
    return convolve(x, recipe, weight, bias)


def pool(x: SparseTensor, recipe: Recipe, mode: PoolMode) -> SparseTensor:
    """Pools along the map of a recipe; what all pooling here comes to.

    Args:
        x: The input.
        recipe: Of the map.
        mode: "max", "sum" or "mean", over the rows there are.

    Returns:
        The output.

    Raises:
        ValueError: There is no such map.

    Example:
        >>> x = SparseTensor(torch.tensor([[0, 6], [0, 7]], dtype=torch.int32), torch.eye(2))
        >>> pool(x, cache.strided(2, 2, ndim=1), "sum").feats.tolist()
        [[1.0, 1.0]]
    """
    if len(recipe.kernel_size) != x.ndim:
        raise ValueError(f"pool: x: expected {len(recipe.kernel_size)} dimensions, got {x.ndim}")
    kernel_map, level = x.maps.find(x.level, recipe)
    return SparseTensor.on(pool_ops.sparse_pool(x.feats, kernel_map, mode), level, x.maps)


def pool_recipe(
    kernel_size: Ints, stride: Ints | None, padding: Ints, dilation: Ints, ndim: int, name: str
) -> Recipe:
    """The recipe of a pooling's map.

    Args:
        kernel_size: A number, or one per axis.
        stride: A number, or one per axis; None: the kernel size.
        padding: A number, or one per axis.
        dilation: A number, or one per axis.
        ndim: Axes.
        name: What errors call the function.

    Returns:
        The recipe.

    Raises:
        ValueError: A number is out of range.

    Example:
        >>> pool_recipe(2, None, 0, 1, 2, "max_pool").stride
        (2, 2)
    """
    return cache.strided(
        ints(name, "kernel_size", kernel_size, ndim),
        ints(name, "stride", kernel_size if stride is None else stride, ndim),
        ints(name, "padding", padding, ndim, 0),
        ints(name, "dilation", dilation, ndim),
        ndim=ndim,
    )


def max_pool(
    x: SparseTensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
) -> SparseTensor:
    """The largest feature of the rows under a kernel, whatever its sign.

    Args:
        x: The input.
        kernel_size: A number, or one per axis.
        stride: A number, or one per axis; default: the kernel size.
        padding: A number, or one per axis.
        dilation: A number, or one per axis.

    Returns:
        The output, at coordinates divided by the stride.

    Example:
        >>> coords = torch.tensor([[0, 0], [0, 1]], dtype=torch.int32)
        >>> max_pool(SparseTensor(coords, torch.tensor([[-3.0], [-2.0]])), 2).feats
        tensor([[-2.]])
    """
    recipe = pool_recipe(kernel_size, stride, padding, dilation, x.ndim, "max_pool")
    return pool(x, recipe, "max")


def avg_pool(
    x: SparseTensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
) -> SparseTensor:
    """The mean of the rows under a kernel; positions without a row do not count.

    Args:
        x: The input.
        kernel_size: A number, or one per axis.
        stride: A number, or one per axis; default: the kernel size.
        padding: A number, or one per axis.
        dilation: A number, or one per axis.

    Returns:
        The output, at coordinates divided by the stride.

    Example:
        >>> coords = torch.tensor([[0, 0], [0, 1]], dtype=torch.int32)
        >>> avg_pool(SparseTensor(coords, torch.tensor([[-3.0], [-2.0]])), 2).feats
        tensor([[-2.5000]])
    """
    recipe = pool_recipe(kernel_size, stride, padding, dilation, x.ndim, "avg_pool")
    return pool(x, recipe, "mean")


def sum_pool(
    x: SparseTensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
) -> SparseTensor:
    """The sum of the rows under a kernel.

    Args:
        x: The input.
        kernel_size: A number, or one per axis.
        stride: A number, or one per axis; default: the kernel size.
        padding: A number, or one per axis.
        dilation: A number, or one per axis.

    Returns:
        The output, at coordinates divided by the stride.

    Example:
        >>> coords = torch.tensor([[0, 0], [0, 1]], dtype=torch.int32)
        >>> sum_pool(SparseTensor(coords, torch.tensor([[-3.0], [-2.0]])), 2).feats
        tensor([[-5.]])
    """
    recipe = pool_recipe(kernel_size, stride, padding, dilation, x.ndim, "sum_pool")
    return pool(x, recipe, "sum")


def global_pool(x: SparseTensor, mode: GlobalMode = "mean") -> Tensor:
    """Reduces the rows of each batch item to one.

    Args:
        x: The input.
        mode: "mean", "max", "sum" or "min".

    Returns:
        [batch_size, C]; zero for items without rows.

    Raises:
        ValueError: There is no such mode.

    Example:
        >>> x = SparseTensor(torch.tensor([[0, 0], [0, 1]], dtype=torch.int32), torch.eye(2))
        >>> global_pool(x, "max")
        tensor([[1., 1.]])
    """
    one_of("global_pool", "mode", mode, get_args(GlobalMode))
    return pool_ops.sparse_segment_reduce(x.feats, x.level.segments, mode=mode)


def upsample(x: SparseTensor, scale: Ints = 2, generative: bool = False) -> SparseTensor:
    """Copies each row to the finer coordinates that it covers.

    Args:
        x: The input.
        scale: Finer coordinates in a coarse one, a number, or one per axis.
        generative: To all of them; by default, to those of the level that a strided convolution
            or pooling of that stride came from.

    Returns:
        The output, at coordinates multiplied by the scale; zero where no row covers one.

    Raises:
        ValueError: No strided convolution made these coordinates.

    Example:
        >>> x = SparseTensor(torch.tensor([[0, 6], [0, 9]], dtype=torch.int32), torch.eye(2))
        >>> upsample(max_pool(x, 2)).coords.tolist()
        [[0, 6], [0, 9]]
    """
    return pool(x, upsample_recipe(scale, generative, x.ndim), "sum")


def upsample_recipe(scale: Ints, generative: bool, ndim: int) -> Recipe:
    """The recipe of an upsampling's map.

    Args:
        scale: A number, or one per axis.
        generative: To new coordinates.
        ndim: Axes.

    Returns:
        The recipe.

    Example:
        >>> upsample_recipe(2, True, 1).kind
        'transposed'
    """
    sizes = ints("upsample", "scale", scale, ndim)
    if generative:
        return cache.transposed(sizes, sizes, ndim=ndim)
    return cache.nearest(sizes, ndim=ndim)


def group_norm(
    x: SparseTensor,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> SparseTensor:
    """Normalises each batch item over its rows and the channels of a group.

    Args:
        x: The input.
        groups: How many; the channels are a multiple of it.
        weight: [C], multiplied afterwards.
        bias: [C], added after that.
        eps: Added to the variance.

    Returns:
        The output; statistics of float16 and bfloat16 are taken in float32.

    Raises:
        ValueError: The channels are no multiple of the groups.

    Source:
        Wu, He, Group Normalization, ECCV 2018.

    Example:
        >>> x = SparseTensor(torch.tensor([[0, 0], [0, 1]], dtype=torch.int32), torch.eye(2))
        >>> group_norm(x, 1).feats.round(decimals=2)
        tensor([[ 1., -1.],
                [-1.,  1.]])
    """
    if groups < 1 or x.channels % groups:
        raise ValueError(
            f"group_norm: groups: expected a divisor of the {x.channels} channels, got {groups}"
        )
    feats = x.feats
    if feats.dtype in (torch.float16, torch.bfloat16):
        feats = feats.float()

    def mean_of_items(values: Tensor) -> Tensor:
        """[N, C] to the mean of each item's group, on each of its rows."""
        wide = values.unflatten(1, (groups, -1))
        means = pool_ops.sparse_segment_reduce(wide.mean(2), x.level.segments, mode="mean")
        back = pool_ops.sparse_gather(means, x.level.items)
        return back[:, :, None].expand_as(wide).flatten(1)

    centred = feats - mean_of_items(feats)
    out = centred * torch.rsqrt(mean_of_items(centred * centred) + eps)
    if weight is not None:
        out = out * weight
    if bias is not None:
        out = out + bias
    return x.replace(out.to(x.dtype))


def instance_norm(
    x: SparseTensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> SparseTensor:
    """Normalises each channel of each batch item over its rows.

    Args:
        x: The input.
        weight: [C], multiplied afterwards.
        bias: [C], added after that.
        eps: Added to the variance.

    Returns:
        The output.

    Source:
        Ulyanov, Vedaldi, Lempitsky, Instance Normalization, arXiv 1607.08022.

    Example:
        >>> x = SparseTensor(torch.tensor([[0, 0], [0, 1]], dtype=torch.int32), torch.eye(2))
        >>> instance_norm(x).feats.round(decimals=2)
        tensor([[ 1., -1.],
                [-1.,  1.]])
    """
    return group_norm(x, x.channels, weight, bias, eps)
