# SPDX-License-Identifier: Apache-2.0
"""Pooling and upsampling as modules, of tensors of any dimension."""

from __future__ import annotations

from torch import Tensor, nn

from ..arguments import Ints, check_kind, flag, sizes
from ..functional.pooling import GlobalMode, PoolMode, global_pool, pool, pool_recipe, upsample
from ..tensor import SparseTensor


class _Pool(nn.Module):
    """Pools the rows under a kernel; positions without a row do not count.

    Args:
        kernel_size: A number, or one per axis.
        stride: A number, or one per axis; default: the kernel size.
        padding: A number, or one per axis.
        dilation: A number, or one per axis.
    """

    mode: PoolMode

    def __init__(
        self,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Ints = 0,
        dilation: Ints = 1,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.kernel_size = sizes(name, "kernel_size", kernel_size)
        self.stride = self.kernel_size if stride is None else sizes(name, "stride", stride)
        self.padding = sizes(name, "padding", padding, 0)
        self.dilation = sizes(name, "dilation", dilation)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Pools."""
        name = type(self).__name__
        check_kind(name, "x", x, SparseTensor)
        recipe = pool_recipe(
            self.kernel_size, self.stride, self.padding, self.dilation, x.ndim, name
        )
        return pool(x, recipe, self.mode)

    def extra_repr(self) -> str:
        """What `repr` says between the brackets."""
        return f"{self.kernel_size}, stride={self.stride}, padding={self.padding}"


class MaxPool(_Pool):
    """The largest feature under a kernel, whatever its sign.

    Args:
        kernel_size: A number, or one per axis.
        stride: A number, or one per axis; default: the kernel size.
        padding: A number, or one per axis.
        dilation: A number, or one per axis.

    Example:
        >>> x = SparseTensor(torch.zeros(1, 4, dtype=torch.int32), torch.tensor([[-1.0]]))
        >>> MaxPool(2)(x).feats
        tensor([[-1.]])
    """

    mode = "max"


class AvgPool(_Pool):
    """The mean of the rows under a kernel; positions without a row do not count.

    Args:
        kernel_size: A number, or one per axis.
        stride: A number, or one per axis; default: the kernel size.
        padding: A number, or one per axis.
        dilation: A number, or one per axis.

    Example:
        >>> x = SparseTensor(torch.zeros(1, 4, dtype=torch.int32), torch.tensor([[-1.0]]))
        >>> AvgPool(2)(x).feats
        tensor([[-1.]])
    """

    mode = "mean"


class SumPool(_Pool):
    """The sum of the rows under a kernel.

    Args:
        kernel_size: A number, or one per axis.
        stride: A number, or one per axis; default: the kernel size.
        padding: A number, or one per axis.
        dilation: A number, or one per axis.

    Example:
        >>> x = SparseTensor(torch.zeros(1, 4, dtype=torch.int32), torch.tensor([[-1.0]]))
        >>> SumPool(2)(x).feats
        tensor([[-1.]])
    """

    mode = "sum"


class _GlobalPool(nn.Module):
    """Reduces the rows of each batch item to one; zero for items without rows."""

    mode: GlobalMode

    def forward(self, x: SparseTensor) -> Tensor:
        """[N, C] to [batch_size, C]."""
        check_kind(type(self).__name__, "x", x, SparseTensor)
        return global_pool(x, self.mode)


class GlobalMaxPool(_GlobalPool):
    """The largest feature of each batch item, [batch_size, C]; zero for items without rows."""

    mode = "max"


class GlobalAvgPool(_GlobalPool):
    """The mean of each batch item's rows, [batch_size, C]; zero for items without rows."""

    mode = "mean"


class GlobalSumPool(_GlobalPool):
    """The sum of each batch item's rows, [batch_size, C]; zero for items without rows."""

    mode = "sum"


class Upsample(nn.Module):
    """Copies each row to the finer coordinates that it covers.

    Args:
        scale: Finer coordinates in a coarse one, a number, or one per axis.
        generative: To all of them; by default, to those of the level that a strided convolution
            or pooling of that stride came from.

    Example:
        >>> x = SparseTensor(torch.zeros(1, 4, dtype=torch.int32), torch.tensor([[-1.0]]))
        >>> len(Upsample(2)(MaxPool(2)(x))), len(Upsample(2, generative=True)(x))
        (1, 8)
    """

    def __init__(self, scale: Ints = 2, generative: bool = False) -> None:
        super().__init__()
        self.scale = sizes("Upsample", "scale", scale)
        self.generative = flag("Upsample", "generative", generative)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Upsamples."""
        check_kind("Upsample", "x", x, SparseTensor)
        return upsample(x, self.scale, self.generative)

    def extra_repr(self) -> str:
        """What `repr` says between the brackets."""
        return f"{self.scale}, generative={self.generative}"
