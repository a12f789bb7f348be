# SPDX-License-Identifier: Apache-2.0
"""A thread-safe cache of tensors with a budget in bytes: the least recently used go first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

from torch import Tensor


class ByteCache:
    """Keeps what `load` functions returned until the budget is spent.

    Threads that ask for one key at the same time load it once; different keys load in parallel. A
    tensor larger than the whole budget is returned and not kept.

    Args:
        budget: Most bytes to keep; 0 keeps nothing.

    Example:
        >>> cache = ByteCache(1 << 20)
        >>> cache.get("a", lambda: torch.zeros(4)) is cache.get("a", lambda: torch.ones(4))
        True
    """

    def __init__(self, budget: int) -> None:
        if isinstance(budget, bool) or not isinstance(budget, int) or budget < 0:
            raise ValueError(f"ByteCache: budget: expected bytes >= 0, got {budget!r}")
        self.budget = budget
        self._used = 0
        self._entries: OrderedDict[Hashable, Tensor | None] = OrderedDict()
        self._gates: dict[Hashable, threading.Lock] = {}
        self._lock = threading.Lock()

    @property
    def used(self) -> int:
        """Bytes kept now."""
        return self._used

    def get(self, key: Hashable, load: Callable[[], Tensor | None]) -> Tensor | None:
        """Return what is kept under `key`, or load it.

        Args:
            key: What names the tensor.
            load: Called without arguments if nothing is kept.

        Returns:
            The tensor (shared with other callers: do not write to it), or None if `load` gave None.
        """
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
                return self._entries[key]
            gate = self._gates.setdefault(key, threading.Lock())
        with gate:
            with self._lock:
                if key in self._entries:
                    return self._entries[key]
            try:
                value = load()
            finally:
                with self._lock:
                    self._gates.pop(key, None)
            self._keep(key, value)
        return value

    def _keep(self, key: Hashable, value: Tensor | None) -> None:
        size = _size(value)
        with self._lock:
            if size > self.budget or key in self._entries:
                return
            self._entries[key] = value
            self._used += size
            while self._used > self.budget:
                _, dropped = self._entries.popitem(last=False)
                self._used -= _size(dropped)


def _size(value: Tensor | None) -> int:
    return 0 if value is None else value.numel() * value.element_size()
