# SPDX-License-Identifier: Apache-2.0
"""Convolutions as functions.

Kernels are [*kernel_size, C_in // groups, C_out]: axis i of a kernel goes along axis i of space,
and kernels are not flipped (as those of ``torch.nn.functional.conv3d``). Where a tensor has a
spatial range, a convolution's outputs are those of the dense one of that size where its receptive
field meets a row; without one, all that rows reach.
"""

from __future__ import annotations

from torch import Tensor

from ....cuda.sparse.activations import Activation
from ....cuda.sparse.conv_ops import sparse_convolution
from .. import cache
from ..arguments import Ints, check_kind, check_tensor, ints
from ..cache import Recipe
from ..tensor import SparseTensor


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
    if len(recipe.kernel_size) != x.level.ndim:
        raise ValueError(
            f"convolution: x: expected {len(recipe.kernel_size)} dimensions, got {x.ndim}"
        )
    kernel_map, level = x.maps.find(x.level, recipe)
    if isinstance(residual, SparseTensor):
        if not level.same_as(residual.level):
            raise ValueError(
                f"convolution: residual: expected the coordinates of the output ({len(level)} "
                f"rows, stride {level.stride}), got others ({len(residual)} rows, stride "
                f"{residual.stride})"
            )
        residual = residual.feats
    elif residual is not None:
        check_tensor("convolution", "residual", residual)
    try:
        out = sparse_convolution(x.feats, weight, kernel_map, bias, residual, activation, slope)
    except ValueError as error:
        if weight.shape[-2] and x.channels % weight.shape[-2] == 0:
            raise
        raise ValueError(
            f"convolution: x: expected channels in a multiple of the {weight.shape[-2]} that each "
            f"kernel of shape {list(weight.shape)} takes, got {x.channels}"
        ) from error
    return SparseTensor.on(out, level, x.maps)


def _kernel_size(
    name: str, x: SparseTensor, weight: Tensor, bias: Tensor | None
) -> tuple[int, ...]:
    check_kind(name, "x", x, SparseTensor)
    check_tensor(name, "weight", weight)
    if bias is not None:
        check_tensor(name, "bias", bias)
    if weight.dim() != x.ndim + 2 or 0 in weight.shape:
        raise ValueError(
            f"{name}: weight: expected {x.ndim + 2} axes [*kernel_size, C_in // groups, C_out], "
            f"none of them 0, for a {x.ndim}D tensor, got {list(weight.shape)}"
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
    size = _kernel_size("subm_conv", x, weight, bias)
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
    name = "conv"
    size = _kernel_size(name, x, weight, bias)
    ndim = x.ndim
    recipe = cache.strided(
        size,
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
    name = "conv_transpose"
    size = _kernel_size(name, x, weight, bias)
    ndim = x.ndim
    recipe = cache.transposed(
        size,
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
        >>> y = conv(x, torch.ones(2, 1, 1), stride=2)
        >>> y = y.replace(torch.ones(1, 1))
        >>> inverse_conv(y, torch.tensor([1.0, 2.0]).view(2, 1, 1), stride=2).feats.tolist()
        [[1.0], [2.0]]
    """
    name = "inverse_conv"
    size = _kernel_size(name, x, weight, bias)
    ndim = x.ndim
    recipe = cache.inverse(
        size,
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
    name = "generative_conv_transpose"
    size = _kernel_size(name, x, weight, bias)
    ndim = x.ndim
    recipe = cache.generative(
        size,
        ints(name, "stride", stride, ndim),
        ints(name, "dilation", dilation, ndim),
        ndim=ndim,
    )
    return convolve(x, recipe, weight, bias)
