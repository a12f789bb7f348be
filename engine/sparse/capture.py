# SPDX-License-Identifier: Apache-2.0
"""A network in a CUDA graph, for inputs of any coordinates.

A graph has fixed sizes, and every frame has others. Here each level has room for more rows than
there are: the spare ones hold coordinates of no item of the batch, which meet nothing but one
another, so that what a network computes of them reaches no other row. Kernel maps are made within
the graph as well; beside it, the host only finds how many rows the levels of a new frame have.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...cuda.sparse.kernel_map import lasting
from ...cuda.sparse.map_ops import runs_cuda
from .arguments import check_kind, dtype_text, number
from .cache import MapCache
from .coordinates import Level
from .foresee import Way
from .plan import as_input, evaluating
from .tensor import SparseTensor

_STEP = 128  # rows of the largest tile


class CapturedNetwork:
    """A network for inference that a GPU runs by itself; of `capture`.

    Args:
        x: An input.
        model: The network.
        headroom: Room for rows, in those of the largest input so far.
    """

    def __init__(self, x: SparseTensor, model: nn.Module, headroom: float) -> None:
        self.headroom = headroom
        self._model = model
        # What other networks, or training, asked the input's own maps for is not the network's.
        x = as_input(x)
        with evaluating(model), torch.no_grad():
            model(x)
        self._way = Way(x.maps, gradients=False)
        self._like = x
        self._frame: _Frame | None = None
        if runs_cuda(x.feats) and not self._way.is_closed:
            raise ValueError(
                "capture: model: expected layers whose maps all follow from the coordinates of the "
                "input (no transposed or generative convolution, no pruning, no schedule that "
                "lists pairs), got others"
            )

    @torch.no_grad()
    def __call__(self, x: SparseTensor) -> SparseTensor:
        """Runs the network on an input of any coordinates.

        Args:
            x: Of the dtype, channels, spatial range and device of the first input.

        Returns:
            What the network returns, in evaluation, without gradients.

        Raises:
            TypeError: It is no sparse tensor, or of another dtype.
            ValueError: It is unlike the first input, or the network cannot be captured.
        """
        self._check(x)
        x.level.check_unchanged()
        if not runs_cuda(x.feats):
            with evaluating(self._model):
                return self._model(x)
        sets = self._way.reach(x.level)
        frame = self._frame
        casts = _Casts.of(x.feats.device)
        if frame is None or frame.casts != casts or not frame.holds(sets):
            self._frame = None  # its memory serves the next
            room = self._room(frame, sets)
            with lasting():
                frame = self._frame = _Frame(self._model, self._way, x, room, casts)
        return frame.run(x, sets)

    def _room(self, frame: _Frame | None, sets: list[Tensor]) -> list[int]:
        """Rows for each set: with headroom where it is new or has outgrown its own."""
        before = [0] * len(sets) if frame is None else frame.room
        wanted = [math.ceil(max(len(s), 1) * self.headroom / _STEP) * _STEP for s in sets]
        return [b if len(s) <= b else w for s, b, w in zip(sets, before, wanted)]

    def _check(self, x: SparseTensor) -> None:
        check_kind("CapturedNetwork", "x", x, SparseTensor)
        like = self._like
        if x.feats.dtype != like.feats.dtype:
            wanted, got = dtype_text(like.feats.dtype), dtype_text(x.feats.dtype)
            raise TypeError(f"CapturedNetwork: x: expected {wanted}, got {got}")
        wanted, got = (
            (t.channels, t.ndim, t.stride, t.spatial_range, t.feats.device) for t in (like, x)
        )
        if wanted != got:
            text = "{} channels, {} dimensions, stride {}, spatial_range {}, device {}"
            raise ValueError(
                f"CapturedNetwork: x: expected {text.format(*wanted)}, got {text.format(*got)}"
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_frame": None}  # a graph has no copies

    def __repr__(self) -> str:
        room = None if self._frame is None else self._frame.room
        return f"CapturedNetwork({type(self._model).__name__}, room for {room} rows)"


def capture(x: SparseTensor, model: nn.Module, headroom: float = 1.25) -> CapturedNetwork:
    """Puts a network into a CUDA graph that serves inputs of any coordinates.

    An eager network on a GPU is bound by the host, which launches each layer. A captured one is
    launched at once, the making of its maps included. On a CPU the network runs as it is.

    Args:
        x: An input like those to come.
        model: The network, called with a sparse tensor alone, of convolutions, poolings and what
            works row by row. Its parameters may change in place afterwards; their dtype may not.
        headroom: Room for rows, in those of the largest input so far. An input with more rows in
            any level makes a new graph, which takes as long as a few calls.

    Returns:
        The network, to be called with sparse tensors.

    Raises:
        TypeError: An argument is of another kind.
        ValueError: The headroom is below 1, or maps depend on more than coordinates.

    Example:
        >>> from fieldline.engine.sparse import nn
        >>> x = SparseTensor(torch.zeros(1, 4, dtype=torch.int32), torch.ones(1, 2))
        >>> captured = capture(x, nn.SubmConv3d(2, 4, 3))
        >>> y = SparseTensor(torch.tensor([[0, 3, 1, 4], [0, 3, 1, 5]]).int(), torch.ones(2, 2))
        >>> captured(y).feats.shape
        torch.Size([2, 4])
    """
    check_kind("capture", "x", x, SparseTensor)
    check_kind("capture", "model", model, nn.Module)
    return CapturedNetwork(x, model, number("capture", "headroom", headroom, 1.0))


class _RoomyLevel(Level):
    """A level with spare rows. No layer may look at its rows as items of a batch."""

    @property
    def items(self) -> Tensor:
        raise self._refusal()

    @property
    def segments(self) -> object:
        raise self._refusal()

    @property
    def bounds(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        raise self._refusal()

    def _refusal(self) -> ValueError:
        return ValueError(
            "capture: model: expected layers that work row by row or along maps, got one that "
            "asks which rows an item of the batch has (global pooling, GroupNorm, dense)"
        )


class _Casts(NamedTuple):
    """What autocast does on a kind of device."""

    kind: str
    dtype: torch.dtype
    enabled: bool

    @classmethod
    def of(cls, device: torch.device) -> _Casts:
        kind = device.type
        return cls(kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))


class _Frame:
    """Room for an input and its levels, and the graph that works on it."""

    def __init__(
        self, model: nn.Module, way: Way, x: SparseTensor, room: list[int], casts: _Casts
    ) -> None:
        self.room = room
        self.casts = casts
        self._model = model
        self._way = way
        self._level = x.level
        self._absent = _absent(max(room), x.ndim, x.feats.device)
        self._sets = [self._absent[:rows].clone() for rows in room]
        self._feats = x.feats.new_zeros(room[0], x.channels)
        self._out: SparseTensor | None = None
        self._replay = self._compute
        if x.feats.is_cuda:
            self._replay = self._captured()

    def holds(self, sets: list[Tensor]) -> bool:
        """Whether there is room for sets."""
        return all(len(rows) <= room for rows, room in zip(sets, self.room))

    def run(self, x: SparseTensor, sets: list[Tensor]) -> SparseTensor:
        """Runs the network on an input whose sets were found."""
        given, places = [x.feats], [self._feats[: len(x)]]
        for rows, place in zip(sets, self._sets):
            n = len(rows)
            given += [rows, self._absent[: len(place) - n]]
            places += [place[:n], place[n:]]
        torch._foreach_copy_(places, given)
        self._replay()
        return self._taken(x, sets)

    def _compute(self) -> None:
        like = self._level
        root = _RoomyLevel(
            self._sets[0], like.stride, like.spatial_range, like.batch_size, limits=like.limits
        )
        cache = MapCache(root)
        self._way.enter(cache, self._sets, self._way.run(self._sets))
        # Autocast's cache dies with the caller's block; a graph would go on reading it.
        with torch.autocast(*self.casts, cache_enabled=False), evaluating(self._model):
            out = self._model(SparseTensor.on(self._feats, root, cache))
        self._out = self._checked(out, cache)

    def _checked(self, out: Any, cache: MapCache) -> SparseTensor:
        """The output, if it is on the sets; of other rows, nobody knows which are spare."""
        if not isinstance(out, SparseTensor):
            got = type(out).__name__
        elif out.maps is not cache or self._way.set_of(out.level.number) is None:
            got = "one on coordinates that do not follow from the input's (pruned, cropped or new)"
        else:
            return out
        raise ValueError(f"capture: model: expected one that returns a SparseTensor, got {got}")

    def _captured(self) -> Callable[[], None]:
        side = torch.cuda.Stream(self._feats.device)
        side.wait_stream(torch.cuda.current_stream(self._feats.device))
        with torch.cuda.stream(side):
            self._compute()  # kernels are loaded, and what layers keep is made
        torch.cuda.current_stream(self._feats.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self._compute()
        except RuntimeError as error:
            raise ValueError(
                "capture: model: expected layers that do not wait for the device, got one that "
                f"could not be captured: {error}"
            ) from error
        return graph.replay

    def _taken(self, x: SparseTensor, sets: list[Tensor]) -> SparseTensor:
        """The rows of the output that the input has, on its own coordinates."""
        out = self._out
        place = None if out is None else self._way.set_of(out.level.number)
        assert out is not None and place is not None
        feats = out.feats[: len(sets[place])].clone()
        if place == 0:
            return SparseTensor.on(feats, x.level, x.maps)
        level = Level(sets[place], out.stride, out.spatial_range, x.batch_size)
        return SparseTensor.on(feats, level, MapCache(level))


def _absent(rows: int, ndim: int, device: torch.device) -> Tensor:
    """Coordinates of no item, each of another: int32 [rows, 1 + ndim]."""
    coords = torch.zeros(rows, 1 + ndim, dtype=torch.int32, device=device)
    coords[:, 0] = torch.arange(-1, -rows - 1, -1, dtype=torch.int32, device=device)
    return coords
