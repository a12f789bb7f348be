# SPDX-License-Identifier: Apache-2.0
"""torchsparse's ``tensor``: coordinates with features, and points with features."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import Tensor

from ...engine.sparse.arguments import check_kind, ints
from .utils.tensor_cache import TensorCache, new_cache
from .utils.to_dense import to_dense
from .utils.utils import make_ntuple

__all__ = ["PointTensor", "SparseTensor"]

_allow_negative_coordinates = False
_SAME: Any = object()
T = TypeVar("T", bound="SparseTensor")
P = TypeVar("P", bound="PointTensor")


def get_allow_negative_coordinates() -> bool:
    """Whether strided layers make coordinates below 0."""
    return _allow_negative_coordinates


def set_allow_negative_coordinates(allow_negative_coordinates: bool) -> None:
    """Chooses whether strided layers make coordinates below 0; by default they do not."""
    global _allow_negative_coordinates
    _allow_negative_coordinates = allow_negative_coordinates


class SparseTensor:
    """Features of the cells that exist.

    Args:
        feats: [N, C]; any shape, and arrays, before collation.
        coords: int32 [N, 4], batch, x, y, z, in units of the stride; [N, 3] before collation.
        stride: Cells of the input in one of these, for all axes or per axis.
        spatial_range: Sizes (batch, x, y, z); None: unknown.

    Example:
        >>> import torch
        >>> coords = torch.tensor([[0, 1, 2, 3]], dtype=torch.int32)
        >>> x = SparseTensor(torch.ones(1, 2), coords, spatial_range=(1, 4, 4, 4))
        >>> (x + x).F.tolist(), x.s, x.dense().shape
        ([[2.0, 2.0]], (1, 1, 1), torch.Size([1, 4, 4, 4, 2]))
    """

    batch_column = 0

    def __init__(
        self,
        feats: Any,
        coords: Any,
        stride: int | tuple[int, ...] = 1,
        spatial_range: int | tuple[int, ...] | None = None,
    ) -> None:
        self.feats = feats
        self.coords = coords
        # What layers make keeps the default: it is not looked at again.
        if not (isinstance(stride, int) and stride == 1):
            ints("SparseTensor", "stride", make_ntuple(stride, 3), 3)
        self.stride = stride
        if spatial_range is not None:
            sizes = make_ntuple(spatial_range, 4)
            spatial_range = ints("SparseTensor", "spatial_range", sizes, 4, 0)
        self.spatial_range = spatial_range
        self._caches = new_cache()

    @property
    def stride(self) -> tuple[int, ...]:
        """Cells of the input in one of these, per axis."""
        return self._stride

    @stride.setter
    def stride(self, stride: int | tuple[int, ...]) -> None:
        self._stride = make_ntuple(stride, 3)

    @property
    def F(self) -> Any:
        """``feats``."""
        return self.feats

    @F.setter
    def F(self, feats: Any) -> None:
        self.feats = feats

    @property
    def C(self) -> Any:
        """``coords``."""
        return self.coords

    @C.setter
    def C(self, coords: Any) -> None:
        self.coords = coords

    @property
    def s(self) -> tuple[int, ...]:
        """``stride``."""
        return self.stride

    @s.setter
    def s(self, stride: int | tuple[int, ...]) -> None:
        self.stride = stride

    @property
    def cmaps(self) -> dict[tuple[int, ...], Any]:
        """Coordinates by stride, of the cache."""
        return self._caches.cmaps

    @cmaps.setter
    def cmaps(self, cmaps: dict[tuple[int, ...], Any]) -> None:
        self._caches.cmaps = cmaps

    @property
    def kmaps(self) -> dict[tuple[Any, ...], Any]:
        """Maps by what they are made from, of the cache."""
        return self._caches.kmaps

    @kmaps.setter
    def kmaps(self, kmaps: dict[tuple[Any, ...], Any]) -> None:
        self._caches.kmaps = kmaps

    def cpu(self: T) -> T:
        """Moves this tensor to the CPU and returns it."""
        return self.to("cpu", non_blocking=False)

    def cuda(self: T) -> T:
        """Moves this tensor to the GPU and returns it."""
        return self.to("cuda", non_blocking=False)

    def half(self: T) -> T:
        """Makes the features half precision and returns this tensor."""
        self.feats = self.feats.half()
        return self

    def detach(self: T) -> T:
        """Takes the features off the graph and returns this tensor."""
        self.coords, self.feats = self.coords.detach(), self.feats.detach()
        return self

    def to(self: T, device: Any, non_blocking: bool = True) -> T:
        """Moves this tensor to a device and returns it."""
        self.coords = self.coords.to(device, non_blocking=non_blocking)
        self.feats = self.feats.to(device, non_blocking=non_blocking)
        return self

    def dense(self) -> Tensor:
        """[B, X, Y, Z, C], zeros where no cell exists.

        Raises:
            ValueError: ``spatial_range`` is unknown.
        """
        if self.spatial_range is None:
            raise ValueError("SparseTensor.dense: spatial_range: expected sizes, got None")
        return to_dense(self.feats, self.coords, self.spatial_range)

    def __add__(self, other: SparseTensor) -> SparseTensor:
        check_kind("SparseTensor.__add__", "other", other, SparseTensor)
        return self.like(self.feats + other.feats)

    def like(
        self,
        feats: Any,
        coords: Any = _SAME,
        stride: Any = _SAME,
        spatial_range: Any = _SAME,
        caches: TensorCache | None = _SAME,
    ) -> SparseTensor:
        """A new tensor with this one's members, except for those given.

        Args:
            feats: Its features.
            coords: Its coordinates.
            stride: Its stride.
            spatial_range: Its sizes.
            caches: Its cache; None: a new one.

        Returns:
            The tensor, of this library's class even if this one's is a user's.
        """
        tensor = self._plain(feats, self.coords if coords is _SAME else coords)
        tensor.stride = self.stride if stride is _SAME else stride
        tensor.spatial_range = self.spatial_range if spatial_range is _SAME else spatial_range
        if caches is not None:
            tensor._caches = self._caches if caches is _SAME else caches
        return tensor

    @staticmethod
    def _plain(feats: Any, coords: Any) -> SparseTensor:
        return SparseTensor(feats, coords)


class PointTensor:
    """Features of points, with what was worked out for them.

    Args:
        feats: [N, C].
        coords: [N, 4].
        idx_query: Rows of the voxels around each point, by stride.
        weights: Weights of those rows, by stride.
    """

    def __init__(
        self,
        feats: Tensor,
        coords: Tensor,
        idx_query: dict[Any, Any] | None = None,
        weights: dict[Any, Any] | None = None,
    ) -> None:
        self.F = feats
        self.C = coords
        self.idx_query = {} if idx_query is None else idx_query
        self.weights = {} if weights is None else weights
        self.additional_features: dict[str, Any] = {"idx_query": {}, "counts": {}}

    def cuda(self: P) -> P:
        """Moves the points to the GPU and returns this tensor."""
        return self.to("cuda", non_blocking=False)

    def detach(self: P) -> P:
        """Takes the features off the graph and returns this tensor."""
        self.F, self.C = self.F.detach(), self.C.detach()
        return self

    def to(self: P, device: Any, non_blocking: bool = True) -> P:
        """Moves the points to a device and returns this tensor."""
        self.F = self.F.to(device, non_blocking=non_blocking)
        self.C = self.C.to(device, non_blocking=non_blocking)
        return self

    def __add__(self, other: PointTensor) -> PointTensor:
        tensor = PointTensor(self.F + other.F, self.C, self.idx_query, self.weights)
        tensor.additional_features = self.additional_features
        return tensor
