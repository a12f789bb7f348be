# SPDX-License-Identifier: Apache-2.0
"""What convolutions and pools share: maps found by ``indice_key``, and the record of times.

Maps are our engine's; only the rules of ``indice_key`` are spconv's:

- a submanifold layer takes the map under its key if that is one of its own kernel on the same
  coordinates, and otherwise says what differs;
- a strided layer or a pool writes its map under its key, which must be new;
- an inverse layer goes back along the map under its key.

A layer writes to a copy of its input's dict, so that only what follows it finds the map.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ....engine.sparse import maps
from ....engine.sparse.arguments import ints
from ...coordinate_set import CoordinateSet
from ..core import ConvAlgo
from .core import IndiceData, IndiceKeyError, SparseConvTensor, expand_nd
from .modules import SparseModule
from .ops import get_conv_output_size, get_deconv_output_size

MAX_NUM_VOXELS = "max_num_voxels_during_training"


class MapLayer(SparseModule):
    """A layer that reads its input through a kernel map.

    Args:
        ndim: Axes of space.
        kernel_size: Per axis or for all.
        stride: Per axis or for all.
        padding: Per axis or for all.
        dilation: Per axis or for all.
        subm: Stay on the input's coordinates.
        indice_key: Where the map is kept.
        algo: Accepted and shown.
        record_voxel_count: Keep the largest number of outputs in a buffer.
        name: Under which times are recorded.
    """

    transposed = False
    inverse = False
    output_padding: list[int]

    def __init__(
        self,
        ndim: int,
        kernel_size: Any,
        stride: Any,
        padding: Any,
        dilation: Any,
        subm: bool,
        indice_key: str | None,
        algo: ConvAlgo | None,
        record_voxel_count: bool,
        name: str | None,
    ) -> None:
        super().__init__(name)
        self.ndim = ndim
        self.kernel_size = self._sizes("kernel_size", kernel_size, 1)
        self.stride = self._sizes("stride", stride, 1)
        self.padding = self._sizes("padding", padding, 0)
        self.dilation = self._sizes("dilation", dilation, 1)
        self.output_padding = [0] * ndim
        self.subm = subm
        self.indice_key = indice_key
        self.algo = ConvAlgo.MaskImplicitGemm if algo is None else algo
        self.record_voxel_count = record_voxel_count

    def _sizes(self, argument: str, value: Any, least: int) -> list[int]:
        numbers = expand_nd(self.ndim, value)
        return list(ints(type(self).__name__, argument, numbers, self.ndim, least))

    def register_voxel_count(self) -> None:
        """Adds the buffer of the largest number of outputs, where the layer makes outputs."""
        if self.record_voxel_count and not self.subm and not self.inverse:
            self.register_buffer(MAX_NUM_VOXELS, torch.zeros(1, dtype=torch.int32))

    def get_max_num_voxels(self) -> Tensor | None:
        """int32 [1], the largest number of outputs so far; None: not recorded."""
        return getattr(self, MAX_NUM_VOXELS, None)

    def extra_repr(self) -> str:
        """The layer's sizes."""
        shown = f"kernel_size={self.kernel_size}, stride={self.stride}"
        for attribute, plain in (("padding", 0), ("dilation", 1), ("output_padding", 0)):
            value = getattr(self, attribute)
            if any(v != plain for v in value):
                shown += f", {attribute}={value}"
        return shown

    def out_spatial_shape(self, shape: list[int]) -> list[int]:
        """Cells of the output along each axis."""
        if self.subm:
            return shape
        sizes = (self.kernel_size, self.stride, self.padding, self.dilation)
        if self.transposed:
            return get_deconv_output_size(shape, *sizes, self.output_padding)
        out = get_conv_output_size(shape, *sizes)
        if min(out) <= 0:
            raise ValueError(
                f"{type(self).__name__}: spatial_shape: nothing is left of {shape} with "
                f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
                f"dilation={self.dilation}: {out}"
            )
        return out

    def run(
        self, input: SparseConvTensor, compute: Callable[[IndiceData], Tensor]
    ) -> SparseConvTensor:
        """Finds the map, computes, and places the result.

        Args:
            input: The layer's input.
            compute: Features from the map.

        Returns:
            The layer's output.
        """
        if len(input.features) != len(input.indices):
            raise ValueError(
                f"{type(self).__name__}: input: expected features of {len(input.indices)} rows as "
                f"indices, got {len(input.features)}"
            )
        clock = _Clock(self, input)
        data, indice_dict = self._find_map(input)
        clock.lap("indice_gen_time")
        features = compute(data)
        clock.lap("time")
        back = self.inverse
        coordinates = data.inputs if back else data.outputs
        shape = data.spatial_shape if back else data.out_spatial_shape
        clock.count(input.features.shape[0], features.shape[0])
        recorded = self.get_max_num_voxels()
        if recorded is not None:
            recorded.clamp_(min=features.shape[0])
        return input.placed(features, coordinates, shape, indice_dict)

    def _find_map(self, input: SparseConvTensor) -> tuple[IndiceData, dict[str, IndiceData]]:
        indice_dict = dict(input.indice_dict)
        found = input.find_indice_pair(self.indice_key)
        if self.inverse:
            return self._check_inverse(input, found), indice_dict
        if self.subm and found is not None:
            self._check_same(input, found)
            if found.inputs.is_of(input.indices, input.batch_size):
                return found, indice_dict
            # The indices were edited since: a map of them as they are, for this layer only.
            return self._make_map(input), indice_dict
        if found is not None:
            raise IndiceKeyError(
                f"{type(self).__name__}: indice_key: {self.indice_key!r} already exists in this "
                f"sparse tensor; only submanifold layers share a key"
            )
        data = self._make_map(input)
        if self.indice_key is not None:
            indice_dict[self.indice_key] = data
        return data, indice_dict

    def _make_map(self, input: SparseConvTensor) -> IndiceData:
        inputs = input.coordinate_set()
        out_shape = self.out_spatial_shape(input.spatial_shape)
        outputs, kernel_map = self._reach(inputs, out_shape)
        return IndiceData(
            inputs,
            outputs,
            kernel_map,
            list(input.spatial_shape),
            out_shape,
            self.subm,
            self.algo,
            self.kernel_size,
            self.stride,
            self.dilation,
            self.padding,
        )

    @torch.no_grad()
    def _reach(self, inputs: CoordinateSet, out_shape: list[int]) -> tuple[CoordinateSet, Any]:
        size, dilation = tuple(self.kernel_size), tuple(self.dilation)
        if self.subm:
            if any(k % 2 == 0 for k in size):
                raise ValueError(
                    f"{type(self).__name__}: kernel_size: submanifold layers need odd sizes, "
                    f"got {self.kernel_size}"
                )
            return inputs, inputs.submanifold(size, dilation)
        taps = maps.strided_taps(size, tuple(self.stride), dilation, tuple(self.padding))
        reach = inputs.transposed if self.transposed else inputs.strided
        return reach(taps, (0,) * self.ndim, tuple(out_shape))

    def _check_same(self, input: SparseConvTensor, found: IndiceData) -> None:
        """Raises unless a submanifold layer may take this map."""
        if not found.is_subm:
            raise IndiceKeyError(
                f"{type(self).__name__}: indice_key: {self.indice_key!r} belongs to a layer that "
                f"is not submanifold"
            )
        self._check_equal(
            ("kernel size", found.ksize, self.kernel_size),
            ("dilation", found.dilation, self.dilation),
            ("spatial shape", found.spatial_shape, input.spatial_shape),
            ("number of indices", len(found.inputs.coords), len(input.indices)),
        )

    def _check_inverse(self, input: SparseConvTensor, found: IndiceData | None) -> IndiceData:
        """The map to go back along, or an error."""
        if found is None or found.is_subm:
            kind = "no layer" if found is None else "a submanifold layer"
            raise IndiceKeyError(
                f"{type(self).__name__}: indice_key: {kind} before this one has the key "
                f"{self.indice_key!r}; expected a strided convolution or pool (known keys: "
                f"{list(input.indice_dict)})"
            )
        self._check_equal(
            ("kernel size", found.ksize, self.kernel_size),
            ("spatial shape", found.out_spatial_shape, input.spatial_shape),
            ("number of indices", len(found.outputs.coords), len(input.indices)),
        )
        return found

    def _check_equal(self, *facts: tuple[str, Any, Any]) -> None:
        for what, expected, got in facts:
            if expected != got:
                raise ValueError(
                    f"{type(self).__name__}: indice_key: layers that share {self.indice_key!r} "
                    f"must have the same {what}: expected {expected}, got {got}"
                )


class _Clock:
    """Writes what a layer took to the tensor's record, where the tensor asks for it."""

    def __init__(self, layer: MapLayer, input: SparseConvTensor) -> None:
        self.record: dict[str, Any] | None = None
        if not input.benchmark:
            return
        if layer.name is None:
            raise ValueError(
                f"{type(layer).__name__}: name: expected one, because the tensor was made with "
                f"benchmark=True"
            )
        lists = ("indice_gen_time", "time", "num_points", "num_out_points")
        empty = {"type": type(layer).__name__, "params": {"kernel_size": layer.kernel_size}}
        empty |= {key: [] for key in lists}
        self.record = input.benchmark_record.setdefault(layer.name, empty)
        self.since = _now(input)
        self.input = input

    def lap(self, key: str) -> None:
        """The time since the last call, in seconds."""
        if self.record is not None:
            now = _now(self.input)
            self.record[key].append(now - self.since)
            self.since = now

    def count(self, n_in: int, n_out: int) -> None:
        """Rows that went in and came out."""
        if self.record is not None:
            self.record["num_points"].append(n_in)
            self.record["num_out_points"].append(n_out)


def _now(input: SparseConvTensor) -> float:
    if input.features.is_cuda:
        torch.cuda.synchronize(input.features.device)
    return time.perf_counter()
