# SPDX-License-Identifier: Apache-2.0
"""Kernel maps: which input row meets which output row at which tap of a kernel."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import map_ops, network_ops


@contextmanager
def lasting() -> Iterator[None]:
    """Runs the block so that tensors made in it last: they may be used in training afterwards.

    Made under ``torch.inference_mode`` without it, what is kept for later could be used nowhere
    else.

    Example:
        >>> with torch.inference_mode(), lasting():
        ...     torch.ones(1).is_inference()
        False
    """
    with torch.inference_mode(False), torch.no_grad():
        yield


class MapPairs(NamedTuple):
    """A kernel map as pairs, tap by tap.

    Args:
        in_rows: int32 [P].
        out_rows: int32 [P], ascending within a tap.
        starts: int64 [K + 1], where the pairs of each tap begin.
    """

    in_rows: Tensor
    out_rows: Tensor
    starts: Tensor


class MapOperands(NamedTuple):
    """The forms of a kernel map that the operators take; those not needed have no elements."""

    in_rows: Tensor
    out_rows: Tensor
    starts: Tensor
    table: Tensor
    order: Tensor
    tile_masks: Tensor


class Plan(NamedTuple):
    """The order in which implicit GEMM on a GPU takes output rows, for each run of taps.

    Args:
        order: int32 [2, splits, n_out], the row at each place and the place of each row, -1 where
            the row has none of the run's taps.
        tile_masks: int32 [splits, tiles], bits for the taps of each tile.
        table: int32 [K, n_out], the map's table with each tap in the order of its run.
    """

    order: Tensor
    tile_masks: Tensor
    table: Tensor


OperandKey = tuple[str | int | bool, ...]
"""What `KernelMap.operands` or `KernelMap.gpu_operands` was asked for."""


def _make_nothing(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Tensors without elements: int32 of one axis and of two, int64."""
    with lasting():
        rows = torch.empty(0, dtype=torch.int32, device=device)
        return rows, rows.view(0, 0), torch.empty(0, dtype=torch.int64, device=device)


_kept_nothing = functools.cache(_make_nothing)


def _nothing(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    # What is traced holds no real tensors, and must not be kept.
    return (_make_nothing if torch.compiler.is_compiling() else _kept_nothing)(device)


class KernelMap:
    """The pairs of rows that each tap of a kernel brings together; it does not change.

    A map has several forms. It is made from one; the others are made when they are first asked for,
    and kept.

    Args:
        n_in: Input rows.
        n_out: Output rows.
        n_taps: Taps of the kernel, K.
        table: int32 [K, n_out], the input row of each tap and output row, -1 for none.
        pairs: The same as pairs. One of both forms is needed, but by the identity.
        symmetric: Inputs and outputs are the same rows, and where tap t takes i to j, tap K - 1 - t
            takes j to i.
        is_identity: One tap takes each row to itself; such a map needs neither form.
        device: Where the rows are, of a map without forms.

    Example:
        >>> line = KernelMap.from_table(torch.tensor([[-1, 0], [0, 1]], dtype=torch.int32), n_in=2)
        >>> line.n_pairs, line.pairs.in_rows.tolist(), line.reverse.table.tolist()
        (3, [0, 0, 1], [[1, -1], [0, 1]])
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        n_taps: int,
        *,
        table: Tensor | None = None,
        pairs: MapPairs | None = None,
        symmetric: bool = False,
        is_identity: bool = False,
        device: torch.device | None = None,
    ) -> None:
        self.n_in = n_in
        self.n_out = n_out
        self.n_taps = n_taps
        self.symmetric = symmetric
        self.is_identity = is_identity
        forms = [t for t in (table, *(pairs or ())) if t is not None]
        self.device = device or forms[0].device  # where the rows are
        self._table = table
        self._pairs = pairs
        self._reverse: KernelMap | None = None
        # What this is the reverse of. Two maps that hold each other would keep their memory until
        # the garbage collector runs, which knows nothing of a GPU's.
        self._origin: weakref.ref[KernelMap] | None = None
        self._plans: dict[tuple[int, int], Plan] = {}
        self._pair_places: Tensor | None = None
        self._operands: dict[OperandKey, MapOperands] = {}
        # What a convolution's operators are told of the map, by the kind of layer; of conv_ops.py.
        self.arguments: dict[tuple[Any, ...], tuple[Any, ...]] = {}

    @classmethod
    def from_table(cls, table: Tensor, n_in: int, symmetric: bool = False) -> KernelMap:
        """A map from its table.

        Args:
            table: int32 [K, n_out], the input row of each tap and output row, -1 for none; no input
                row stands twice in a tap.
            n_in: Input rows.
            symmetric: As for the class.

        Returns:
            The map.

        Raises:
            TypeError: The table is not int32.
            ValueError: Its shape is another, or a symmetric map has other inputs than outputs.
        """
        name = "KernelMap.from_table"
        _check_int(name, "table", table, torch.int32, dim=2)
        n_taps, n_out = table.shape
        _check_sides(name, n_in, n_out, symmetric)
        return cls(n_in, n_out, n_taps, table=table, symmetric=symmetric)

    @classmethod
    def from_pairs(
        cls, pairs: tuple[Tensor, Tensor, Tensor], n_in: int, n_out: int, symmetric: bool = False
    ) -> KernelMap:
        """A map from its pairs.

        Args:
            pairs: in_rows int32 [P], out_rows int32 [P], starts int64 [K + 1]: tap by tap, within a
                tap out_rows ascend.
            n_in: Input rows.
            n_out: Output rows.
            symmetric: As for the class.

        Returns:
            The map.

        Raises:
            TypeError: A dtype is another.
            ValueError: A shape is another, or a symmetric map has other inputs than outputs.
        """
        name = "KernelMap.from_pairs"
        in_rows, out_rows, starts = pairs
        _check_int(name, "in_rows", in_rows, torch.int32, dim=1)
        _check_int(name, "out_rows", out_rows, torch.int32, dim=1)
        _check_int(name, "starts", starts, torch.int64, dim=1)
        if in_rows.shape != out_rows.shape or starts.shape[0] < 2:
            raise ValueError(
                f"{name}: pairs: expected in_rows [P], out_rows [P] and starts [K + 1], got "
                f"{list(in_rows.shape)}, {list(out_rows.shape)} and {list(starts.shape)}"
            )
        _check_sides(name, n_in, n_out, symmetric)
        kept = MapPairs(in_rows, out_rows, starts)
        return cls(n_in, n_out, starts.shape[0] - 1, pairs=kept, symmetric=symmetric)

    @classmethod
    def identity(cls, n: int, device: torch.device | str | None = None) -> KernelMap:
        """The map of a 1 x 1 convolution: its one tap takes each of n rows to itself."""
        device = torch.empty(0, device=device).device
        return cls(n, n, 1, symmetric=True, is_identity=True, device=device)

    @property
    def table(self) -> Tensor:
        """int32 [K, n_out]: the input row of each tap and output row, -1 for none."""
        if self._table is None and self.is_identity:
            self._table = torch.arange(self.n_out, dtype=torch.int32, device=self.device)[None]
        elif self._table is None:
            assert self._pairs is not None
            self._table = map_ops.sparse_pairs_table(map_ops.Pairs(*self._pairs), self.n_out)
        return self._table

    @property
    def pairs(self) -> MapPairs:
        """The pairs, tap by tap; within a tap out_rows ascend."""
        if self._pairs is None and self.is_identity:
            rows = self.table[0]
            starts = torch.arange(2, device=self.device) * self.n_out  # made there, without waiting
            self._pairs = MapPairs(rows, rows, starts)
        elif self._pairs is None:
            assert self._table is not None
            self._pairs = MapPairs(*map_ops.sparse_table_pairs(self._table))
        return self._pairs

    @property
    def reverse(self) -> KernelMap:
        """The map with inputs and outputs swapped, at the same taps."""
        if self.is_identity:
            return self
        origin = None if self._origin is None else self._origin()
        if origin is not None:
            return origin
        if self._reverse is None:
            self._reverse = self._reversed()
            self._reverse._origin = weakref.ref(self)
        return self._reverse

    def _reversed(self) -> KernelMap:
        n_in, n_out = self.n_out, self.n_in
        if self._pairs is None:
            table = self._inverted_table()
            return KernelMap(n_in, n_out, self.n_taps, table=table, symmetric=self.symmetric)
        found = map_ops.sparse_invert_pairs(map_ops.Pairs(*self._pairs), self.n_in)
        pairs = MapPairs(found.coarse_rows, found.fine_rows, found.starts)
        return KernelMap(n_in, n_out, self.n_taps, pairs=pairs, symmetric=self.symmetric)

    def _inverted_table(self) -> Tensor:
        if self.symmetric:
            return self.table.flip(0)
        return map_ops.sparse_invert_table(self.table, self.n_in)

    @property
    def n_pairs(self) -> int:
        """How many pairs of rows meet: a convolution's multiply-adds by C_in C_out."""
        if self.is_identity:
            return self.n_out
        if self._pairs is not None:
            return self._pairs.in_rows.shape[0]
        return int((self.table >= 0).sum())

    @property
    def memory_bytes(self) -> int:
        """What the forms made so far take, those of the reverse map included."""
        tensors = self._tensors()
        if self._reverse is not None:
            tensors = [*tensors, *self._reverse._tensors()]
        # Not of storages: a network's maps share them.
        return sum({t.data_ptr(): t.nbytes for t in tensors}.values())

    def to(self, device: torch.device | str) -> KernelMap:
        """The map on a device, with the forms made so far; itself if it is there already."""
        if self.device == torch.empty(0, device=device).device:
            return self
        moved = self._moved(device)
        if self._reverse is not None:
            moved._reverse = self._reverse._moved(device)
            moved._reverse._origin = weakref.ref(moved)
        return moved

    def _moved(self, device: torch.device | str) -> KernelMap:
        table, pairs = self._table, self._pairs
        return KernelMap(
            self.n_in,
            self.n_out,
            self.n_taps,
            table=None if table is None else table.to(device),
            pairs=None if pairs is None else MapPairs(*(t.to(device) for t in pairs)),
            symmetric=self.symmetric,
            is_identity=self.is_identity,
            device=torch.empty(0, device=device).device,
        )

    def operands(self, mode: str) -> MapOperands:
        """What the convolution operators read.

        Args:
            mode: "pairs" or "table".

        Returns:
            The forms of that mode, and tensors without elements for the others.
        """
        found = self._operands.get((mode,))
        if found is None:
            with lasting():
                found = self._operands[mode,] = self._make_operands(mode)
        return found

    def _make_operands(self, mode: str) -> MapOperands:
        rows, no_table, no_starts = _nothing(self.device)
        if mode == "table":
            return MapOperands(rows, rows, no_starts, self.table, rows, rows)
        return MapOperands(*self.pairs, no_table, rows, rows)

    def plan(self, splits: int, tile_rows: int) -> Plan:
        """The order in which implicit GEMM takes the output rows.

        Args:
            splits: In how many runs the taps are sorted apart, at most 32 taps a run.
            tile_rows: Rows that share the work on a tap, 64 or 128.

        Returns:
            The plan.
        """
        if (splits, tile_rows) not in self._plans:
            made = network_ops.sparse_conv_plan(self.table, splits, tile_rows)
            self._plans[splits, tile_rows] = Plan(*made)
        return self._plans[splits, tile_rows]

    @property
    def pair_places(self) -> Tensor:
        """int32 [K, n_out]: where in the pairs each tap and output row stands, -1 for nowhere."""
        if self._pair_places is None:
            exists = self.table >= 0
            places = exists.flatten().cumsum(0).view_as(self.table) - 1
            self._pair_places = torch.where(exists, places, -1).int()
        return self._pair_places

    def gpu_operands(
        self, form: str, splits: int, tile_rows: int, with_pairs: bool = False
    ) -> MapOperands:
        """What the convolution operators read on a GPU.

        Args:
            form: "implicit", "grouped" or "table", which serves groups of channels.
            splits: Of an implicit convolution.
            tile_rows: Of an implicit convolution.
            with_pairs: The gradient of the weight is wanted too, which reads the pairs.

        Returns:
            The forms, and tensors without elements for the others.
        """
        if form == "table":
            return self.operands("table")
        key = form, splits, tile_rows, with_pairs
        found = self._operands.get(key)
        if found is None:
            with lasting():
                found = self._operands[key] = self._make_gpu_operands(*key)
        return found

    def _make_gpu_operands(
        self, form: str, splits: int, tile_rows: int, with_pairs: bool
    ) -> MapOperands:
        rows, _, no_starts = _nothing(self.device)
        if form == "grouped":
            return MapOperands(*self.pairs, self.pair_places, rows, rows)
        plan = self.plan(splits, tile_rows)
        pairs = self.pairs if with_pairs else (rows, rows, no_starts)
        return MapOperands(*pairs, plan.table, plan.order, plan.tile_masks)

    @property
    def asked(self) -> list[OperandKey]:
        """What operators have asked for so far; `prepare` makes it of another map."""
        return list(self._operands)

    def adopt(
        self,
        plans: dict[tuple[int, int], Plan],
        pairs: MapPairs | None,
        reverse: KernelMap | None = None,
    ) -> None:
        """Takes over forms that were made together with those of other maps.

        Args:
            plans: By splits and tile_rows.
            pairs: The pairs, if they were made.
            reverse: The same map turned around, if it was made.
        """
        self._plans.update(plans)
        self._pairs = self._pairs or pairs
        if reverse is not None:
            self._reverse = reverse
            reverse._origin = weakref.ref(self)

    @property
    def made_reverse(self) -> KernelMap | None:
        """The reverse, if somebody looked at it."""
        return self._reverse

    def prepare(self, asked: Iterable[OperandKey]) -> None:
        """Makes operands that another map was asked for; within `lasting`.

        Args:
            asked: What its `asked` says.
        """
        for key in asked:
            if key not in self._operands:
                make = self._make_operands if len(key) == 1 else self._make_gpu_operands
                self._operands[key] = make(*key)  # type: ignore[arg-type]

    def _tensors(self) -> list[Tensor]:
        pairs = () if self._pairs is None else self._pairs
        plans = (t for plan in self._plans.values() for t in plan)
        return [t for t in (*pairs, self._table, *plans, self._pair_places) if t is not None]

    def __repr__(self) -> str:
        symmetric = ", symmetric" if self.symmetric else ""
        return f"KernelMap({self.n_in} -> {self.n_out} rows, {self.n_taps} taps{symmetric})"


def _check_int(name: str, argument: str, tensor: Tensor, dtype: torch.dtype, dim: int) -> None:
    if tensor.dtype != dtype:
        wanted, got = (str(d).removeprefix("torch.") for d in (dtype, tensor.dtype))
        raise TypeError(f"{name}: {argument}: expected {wanted}, got {got}")
    if tensor.dim() != dim:
        raise ValueError(
            f"{name}: {argument}: expected {dim} dimensions, got shape {list(tensor.shape)}"
        )


def _check_sides(name: str, n_in: int, n_out: int, symmetric: bool) -> None:
    if symmetric and n_in != n_out:
        raise ValueError(
            f"{name}: symmetric: expected as many inputs as outputs, got {n_in} and {n_out}"
        )
