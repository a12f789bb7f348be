# SPDX-License-Identifier: Apache-2.0
"""cumm's ``tensorview``: the array that spconv's voxelisers take and give, over torch's.

Voxelisers are called as ``generator.point_to_voxel(tv.from_numpy(points))`` and their results read
with ``.numpy()``. No operators are offered: `Tensor.torch` is the same memory, for those.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from . import gemm

__all__ = [
    "Tensor",
    "bool_",
    "empty",
    "float16",
    "float32",
    "float64",
    "from_numpy",
    "full",
    "gemm",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "zeros",
]

bool_ = torch.bool
float16, float32, float64 = torch.float16, torch.float32, torch.float64
uint8, int8, int16, int32, int64 = torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64


class Tensor:
    """An array on the CPU or a GPU.

    Args:
        data: The torch tensor whose memory it shows; None: empty.

    Example:
        >>> view = from_numpy(np.arange(6, dtype=np.float32).reshape(2, 3))
        >>> view.shape, view.dim(1), view[0].numpy().tolist()
        ([2, 3], 3, [0.0, 1.0, 2.0])
    """

    def __init__(self, data: torch.Tensor | None = None) -> None:
        self.torch = torch.empty(0) if data is None else data

    def numpy(self) -> np.ndarray:
        """A numpy array, of the same memory if it is the CPU's."""
        return self.torch.detach().cpu().numpy()

    def numpy_view(self) -> np.ndarray:
        """A numpy array of the same memory, which must be the CPU's."""
        return self.torch.detach().numpy()

    def cpu(self) -> Tensor:
        """A copy on the CPU, or itself."""
        return Tensor(self.torch.cpu())

    def cuda(self) -> Tensor:
        """A copy on the GPU, or itself."""
        return Tensor(self.torch.cuda())

    def clone(self) -> Tensor:
        """A copy."""
        return Tensor(self.torch.clone())

    def dim(self, axis: int) -> int:
        """The size of one axis."""
        return self.torch.shape[axis]

    def empty(self) -> bool:
        """Whether there are no elements."""
        return self.torch.numel() == 0

    def slice_first_axis(self, start: int, stop: int) -> Tensor:
        """Rows from ``start`` to ``stop``."""
        return Tensor(self.torch[start:stop])

    def view(self, *shape: Any) -> Tensor:
        """The same memory in another shape."""
        return Tensor(self.torch.view(*shape))

    def astype(self, dtype: torch.dtype) -> Tensor:
        """A copy of another type, or itself."""
        return Tensor(self.torch.to(dtype))

    @property
    def shape(self) -> list[int]:
        """The size of each axis."""
        return list(self.torch.shape)

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self.torch.dim()

    @property
    def size(self) -> int:
        """The number of elements."""
        return self.torch.numel()

    @property
    def dtype(self) -> torch.dtype:
        """The type of the elements."""
        return self.torch.dtype

    @property
    def device(self) -> int:
        """The number of the GPU; -1 for the CPU."""
        return self.torch.get_device()

    def __getitem__(self, key: Any) -> Tensor:
        return Tensor(self.torch[key])

    def __len__(self) -> int:
        return len(self.torch)

    def __repr__(self) -> str:
        return f"Tensor[shape={self.shape}, dtype={self.dtype}, device={self.device}]"


def from_numpy(array: np.ndarray) -> Tensor:
    """Shows an array's memory; a copy of it if it is not contiguous.

    Args:
        array: Any numeric array.

    Returns:
        The view.

    Raises:
        TypeError: It is no array of numbers.
    """
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
        kind = getattr(array, "dtype", type(array).__name__)
        raise TypeError(f"from_numpy: array: expected a numpy array of numbers, got {kind}")
    return Tensor(torch.from_numpy(np.ascontiguousarray(array)))


def zeros(shape: list[int], dtype: torch.dtype = float32, device: int = -1) -> Tensor:
    """An array of zeros; device -1 is the CPU."""
    return full(shape, 0, dtype, device)


def empty(shape: list[int], dtype: torch.dtype = float32, device: int = -1) -> Tensor:
    """An array of any contents; device -1 is the CPU."""
    return Tensor(torch.empty(shape, dtype=dtype, device=_device(device)))


def full(shape: list[int], value: float, dtype: torch.dtype = float32, device: int = -1) -> Tensor:
    """An array of one value; device -1 is the CPU."""
    return Tensor(torch.full(shape, value, dtype=dtype, device=_device(device)))


def _device(number: int) -> torch.device:
    return torch.device("cpu" if number < 0 else f"cuda:{number}")
