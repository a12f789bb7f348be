# SPDX-License-Identifier: Apache-2.0
"""torchsparse's ``utils.tensor_cache``: where maps are kept."""

from __future__ import annotations

from enum import Enum
from typing import Any

__all__ = [
    "TensorCache",
    "TensorCacheMode",
    "clear_global_tensor_cache",
    "get_global_tensor_cache",
    "get_tensor_cache_mode",
    "set_global_tensor_cache",
    "set_tensor_cache_mode",
]


class TensorCacheMode(Enum):
    """Whether every new tensor begins a cache, or all share one until it is cleared."""

    SEPARATE_TENSOR_CACHE = 0
    GLOBAL_TENSOR_CACHE = 1


class TensorCache:
    """Coordinates by stride, maps by (stride, kernel size, stride of the layer, dilation)."""

    def __init__(self) -> None:
        self.cmaps: dict[tuple[int, ...], Any] = {}
        self.kmaps: dict[tuple[Any, ...], Any] = {}
        self.hashmaps: dict[tuple[int, ...], Any] = {}


_mode = TensorCacheMode.SEPARATE_TENSOR_CACHE
_global_cache: TensorCache | None = None


def set_tensor_cache_mode(mode: TensorCacheMode) -> None:
    """Chooses where maps of new tensors are kept.

    Args:
        mode: With GLOBAL_TENSOR_CACHE, call `clear_global_tensor_cache` after each step: nothing
            else frees the maps.

    Raises:
        TypeError: It is no mode.
    """
    if not isinstance(mode, TensorCacheMode):
        raise TypeError(f"set_tensor_cache_mode: mode: expected a TensorCacheMode, got {mode!r}")
    global _mode
    _mode = mode


def get_tensor_cache_mode() -> TensorCacheMode:
    """Where maps of new tensors are kept."""
    return _mode


def get_global_tensor_cache() -> TensorCache | None:
    """The cache that tensors share; None: cleared, or never used."""
    return _global_cache


def set_global_tensor_cache(tensor_cache: TensorCache | None) -> None:
    """Replaces the cache that tensors share."""
    global _global_cache
    _global_cache = tensor_cache


def clear_global_tensor_cache() -> None:
    """Forgets the cache that tensors share."""
    set_global_tensor_cache(None)


def new_cache() -> TensorCache:
    """The cache of a new tensor."""
    if _mode is TensorCacheMode.SEPARATE_TENSOR_CACHE:
        return TensorCache()
    if _global_cache is None:
        set_global_tensor_cache(TensorCache())
    assert _global_cache is not None
    return _global_cache
