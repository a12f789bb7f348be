# SPDX-License-Identifier: Apache-2.0
"""All maps of a network at once, before it runs.

A network always takes the same way from level to level, whatever its input. A plan is that way: the
keys of its maps in the order in which they were made, and what layers asked of them. On new
coordinates it makes all of it in one go; on coordinates that it has seen, nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .arguments import check_coordinates, check_kind, check_rows, flag, whole
from .cache import Key, MapCache
from .coordinates import Level
from .foresee import Way, make_reverses
from .tensor import SparseTensor


class Plan:
    """The way of a network from level to level, and the maps of inputs that it has seen.

    Args:
        x: The input that it was found with; others have its spatial range.
        keys: Of the maps, in the order in which they are made.
        gradients: Whether what backward passes need is made as well.
        capacity: Inputs whose maps are kept; of more, those longest unused go, but for
            the last one made.

    Example:
        >>> x = SparseTensor(torch.zeros(1, 4, dtype=torch.int32), torch.ones(1, 2))
        >>> planned = plan(x, torch.nn.Identity())
        >>> y = planned.tensor(x.coords, torch.zeros(1, 7))
        >>> y.level is x.level, y.channels
        (True, 7)
    """

    def __init__(
        self, x: SparseTensor, keys: tuple[Key, ...], gradients: bool, capacity: int = 4
    ) -> None:
        self.keys = keys
        self.gradients = gradients
        self.capacity = capacity
        self._like = x.level
        self._seen = [x.maps][:capacity]
        self._last = x.maps  # tells what layers ask for
        self._way: Way | None = None
        if gradients:
            make_reverses(x.maps)

    def tensor(self, coords: Tensor, feats: Tensor, batch_size: int | None = None) -> SparseTensor:
        """A tensor whose maps exist.

        Args:
            coords: int32 [N, 1 + D], as of `SparseTensor`.
            feats: [N, C].
            batch_size: Items of the batch; default: that of the plan's first input.

        Returns:
            The tensor. On coordinates that were seen, it shares their cache: nothing is made.

        Raises:
            TypeError: As `SparseTensor`.
            ValueError: As `SparseTensor`.
        """
        check_coordinates("Plan.tensor", "coords", coords, self._like.ndim)
        if batch_size is None:
            batch_size = self._like.batch_size
        else:
            batch_size = whole("Plan.tensor", "batch_size", batch_size, 0)
        # Asked of all of them, a GPU would be waited for once each.
        for cache in self._seen[:1]:
            root = cache.levels[0]
            if root.batch_size == batch_size and root.holds(coords):
                check_rows("Plan.tensor", "feats", feats, len(root), root.device)
                return SparseTensor.on(feats, root, cache)
        like = self._like
        x = SparseTensor(coords, feats, like.stride, like.spatial_range, batch_size)
        return self._planned(x, self._seen[1:])

    def __call__(self, x: SparseTensor) -> SparseTensor:
        """The same tensor, with maps.

        Args:
            x: An input of the network.

        Returns:
            Its features on coordinates whose maps exist.

        Raises:
            TypeError: It is no sparse tensor.
            ValueError: Its dimensions or spatial range are not those of the plan's first input.
        """
        check_kind("Plan", "x", x, SparseTensor)
        if x.ndim != self._like.ndim:
            raise ValueError(f"Plan: x: expected {self._like.ndim} dimensions, got {x.ndim}")
        if x.spatial_range != self._like.spatial_range:
            raise ValueError(
                f"Plan: x: expected spatial_range {self._like.spatial_range} as the plan was made "
                f"for, got {x.spatial_range}"
            )
        return self._planned(x, self._seen)

    def _planned(self, x: SparseTensor, seen: list[MapCache]) -> SparseTensor:
        for cache in seen:
            root = cache.levels[0]
            if _may_be_same(root, x.level) and root.same_as(x.level):
                self._seen = [cache, *(other for other in self._seen if other is not cache)]
                return SparseTensor.on(x.feats, root, cache)
        return self._make(x)

    def _make(self, x: SparseTensor) -> SparseTensor:
        if x.maps.entries:
            x = as_input(x)  # the levels that another network made have the numbers of the plan's
        if self._way is None or not self._way.covers(self._last):
            self._way = Way(self._last, self.gradients)
        self._way.go(x.maps)
        self._last = x.maps
        self._seen = [x.maps, *self._seen][: self.capacity]
        return x

    def __repr__(self) -> str:
        return f"Plan({len(self.keys)} maps, {len(self._seen)} inputs seen)"


def as_input(x: SparseTensor) -> SparseTensor:
    """The tensor as if no network had seen it, its coordinates the first level of a new cache.

    Args:
        x: Any.

    Returns:
        The tensor.

    Raises:
        ValueError: Its coordinates were edited.

    Example:
        >>> from fieldline.engine.sparse import nn
        >>> x = SparseTensor(torch.zeros(1, 4, dtype=torch.int32), torch.ones(1, 2))
        >>> y = nn.SubmConv3d(2, 4, 3)(x)
        >>> len(y.maps.entries), len(as_input(y).maps.entries)
        (1, 0)
    """
    level = x.level
    level.check_unchanged()
    if level.number:
        level = Level(
            level.tensor, level.stride, level.spatial_range, level.batch_size, limits=level.limits
        )
    return SparseTensor.on(x.feats, level, MapCache(level))


def _may_be_same(root: Level, other: Level) -> bool:
    """False where two sets differ in what the host knows of them."""
    if root is other:
        return True
    sizes = root.batch_size == other.batch_size and len(root) == len(other)
    return sizes and root.limits == other.limits


def plan(x: SparseTensor, model: nn.Module, gradients: bool | None = None) -> Plan:
    """Makes every map that a network needs, by running it once without changing it.

    Convolutions of tensors that `plan` prepared compile without graph breaks, wait for no device
    and can be captured in a CUDA graph. Maps beyond a pruning or union depend on features: those
    are made as they come.

    Args:
        x: An input of the network; its maps exist afterwards.
        model: The network, called with x alone.
        gradients: Whether what backward passes need is made as well; default: if the model is in
            training.

    Returns:
        The plan, which prepares other inputs.

    Raises:
        TypeError: An argument is of another kind.
        ValueError: The tensor comes out of a network.

    Example:
        >>> from fieldline.engine.sparse import nn
        >>> x = SparseTensor(torch.zeros(1, 4, dtype=torch.int32), torch.ones(1, 2))
        >>> plan(x, nn.Sequential(nn.SubmConv3d(2, 4, 3), nn.MaxPool(2)))
        Plan(2 maps, 1 inputs seen)
    """
    check_kind("plan", "x", x, SparseTensor)
    check_kind("plan", "model", model, nn.Module)
    if gradients is None:
        gradients = model.training
    flag("plan", "gradients", gradients)
    if x.level is not x.maps.levels[0]:
        raise ValueError(
            "plan: x: expected an input of a network, got a tensor that layers made of another"
        )
    with evaluating(model), torch.no_grad():
        model(x)
    return Plan(x, tuple(x.maps.entries), gradients)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Runs the block with the model in evaluation; each module goes back to its own mode.

    Args:
        model: The model.

    Example:
        >>> model = nn.Dropout()
        >>> with evaluating(model):
        ...     model.training
        False
        >>> model.training
        True
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
