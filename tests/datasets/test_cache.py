# SPDX-License-Identifier: Apache-2.0
"""The cache of loaded tensors: its budget, its order, and threads."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from fieldline.datasets.cache import ByteCache


def block(value: int, size: int = 100) -> torch.Tensor:
    return torch.full((size,), value, dtype=torch.uint8)


def test_loads_once_and_keeps() -> None:
    cache = ByteCache(1000)
    first = cache.get("a", lambda: block(1))
    assert cache.get("a", lambda: block(2)) is first
    assert cache.used == 100


def test_none_is_kept_too() -> None:
    cache = ByteCache(1000)
    calls: list[int] = []
    for _ in range(3):
        assert cache.get("mask", lambda: calls.append(1)) is None
    assert len(calls) == 1


def test_least_recently_used_goes_first() -> None:
    cache = ByteCache(300)
    for key in "abc":
        cache.get(key, lambda: block(0))
    cache.get("a", lambda: pytest.fail("a was dropped"))
    cache.get("d", lambda: block(0))
    assert cache.used == 300
    cache.get("a", lambda: pytest.fail("a was dropped"))
    reloaded: list[str] = []
    cache.get("b", lambda: (reloaded.append("b"), block(0))[1])
    assert reloaded == ["b"]


def test_larger_than_the_budget_is_returned_but_not_kept() -> None:
    cache = ByteCache(50)
    value = cache.get("a", lambda: block(3))
    assert value is not None and value.sum() == 300
    assert cache.used == 0


def test_threads_that_want_one_key_load_it_once() -> None:
    cache = ByteCache(1 << 20)
    calls: list[int] = []

    def load() -> torch.Tensor:
        calls.append(1)
        time.sleep(0.05)
        return block(7)

    results: list[torch.Tensor | None] = []
    threads = [
        threading.Thread(target=lambda: results.append(cache.get("a", load))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert len(calls) == 1
    assert len(results) == 8 and all(result is results[0] for result in results)


def test_many_threads_stay_within_the_budget() -> None:
    cache = ByteCache(1000)

    def work(seed: int) -> None:
        for i in range(200):
            key = (seed * 7 + i * 13) % 40
            value = cache.get(key, lambda key=key: block(key))
            assert value is not None and int(value[0]) == key

    errors: list[BaseException] = []

    def guarded(seed: int) -> None:
        try:
            work(seed)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert not errors
    assert cache.used <= 1000


def test_an_error_while_loading_does_not_lock_the_key() -> None:
    cache = ByteCache(1000)

    def fail() -> torch.Tensor:
        raise RuntimeError("disk")

    with pytest.raises(RuntimeError, match="disk"):
        cache.get("a", fail)
    assert cache.get("a", lambda: block(1)) is not None


@pytest.mark.parametrize("budget", [-1, 1.5, True, None])
def test_bad_budget(budget: object) -> None:
    with pytest.raises(ValueError, match="ByteCache: budget"):
        ByteCache(budget)  # type: ignore[arg-type]
