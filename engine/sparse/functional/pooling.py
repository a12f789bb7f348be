# SPDX-License-Identifier: Apache-2.0
"""Pooling and upsampling as functions; what is not active takes no part."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from ....cuda.sparse import pool_ops
from .. import cache
from ..arguments import Ints, check_kind, flag, ints, one_of
from ..cache import Recipe
from ..tensor import SparseTensor

PoolMode = Literal["max", "sum", "mean"]
GlobalMode = Literal["mean", "max", "sum", "min"]


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


def _pooled(
    name: str,
    x: SparseTensor,
    kernel_size: Ints,
    stride: Ints | None,
    padding: Ints,
    dilation: Ints,
    mode: PoolMode,
) -> SparseTensor:
    check_kind(name, "x", x, SparseTensor)
    recipe = pool_recipe(kernel_size, stride, padding, dilation, x.ndim, name)
    return pool(x, recipe, mode)


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
    return _pooled("max_pool", x, kernel_size, stride, padding, dilation, "max")


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
    return _pooled("avg_pool", x, kernel_size, stride, padding, dilation, "mean")


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
    return _pooled("sum_pool", x, kernel_size, stride, padding, dilation, "sum")


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
    check_kind("global_pool", "x", x, SparseTensor)
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
    check_kind("upsample", "x", x, SparseTensor)
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
    if flag("upsample", "generative", generative):
        return cache.transposed(sizes, sizes, ndim=ndim)
    return cache.nearest(sizes, ndim=ndim)
