# SPDX-License-Identifier: Apache-2.0
"""spconv's ``pytorch.hash``: a table of keys and values, over sorted tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from ....engine.sparse.arguments import check_tensor

__all__ = ["HashTable"]


class HashTable:
    """Values by key, on any device; keys come out in order.

    Args:
        device: Where the tensors are.
        key_dtype: int32 or int64; floating types work too.
        value_dtype: Of the values.
        max_size: Most keys; -1 on the CPU: any number.

    Raises:
        ValueError: A GPU's table is made without ``max_size``.

    Example:
        >>> table = HashTable(torch.device("cpu"), torch.int32, torch.int64)
        >>> table.insert(torch.tensor([5, 3]).int(), torch.tensor([50, 30]))
        >>> values, missing = table.query(torch.tensor([3, 4]).int())
        >>> values[0].item(), missing.tolist()
        (30, [False, True])
    """

    def __init__(
        self,
        device: torch.device,
        key_dtype: torch.dtype,
        value_dtype: torch.dtype,
        max_size: int = -1,
    ) -> None:
        device = torch.device(device)
        self.is_cpu = device.type == "cpu"
        if not self.is_cpu and max_size <= 0:
            raise ValueError(f"HashTable: max_size: expected above 0 on {device}, got {max_size}")
        self.key_dtype, self.value_dtype, self.max_size = key_dtype, value_dtype, max_size
        self._keys = torch.empty(0, dtype=key_dtype, device=device)
        self._values = torch.empty(0, dtype=value_dtype, device=device)

    def insert(self, keys: Tensor, values: Tensor | None = None) -> None:
        """Adds keys, or gives those that exist new values; of one key's values the last counts.

        Args:
            keys: [N].
            values: [N]; None: 0 for keys that are new.
        """
        _check_keys("HashTable.insert", keys)
        if values is not None and len(values) != len(keys):
            raise ValueError(
                f"HashTable.insert: values: expected {len(keys)}, one for each key, "
                f"got {len(values)}"
            )
        if values is None:
            keys = keys[self._find(keys) < 0]
            values = torch.zeros(len(keys), dtype=self.value_dtype, device=keys.device)
        keys = torch.cat([self._keys, keys.to(self.key_dtype)])
        values = torch.cat([self._values, values.to(self.value_dtype)])
        order = keys.argsort(stable=True)
        keys = keys[order]
        last = torch.ones_like(keys, dtype=torch.bool)
        last[:-1] = keys[1:] != keys[:-1]
        if 0 < self.max_size < int(last.sum()):
            raise ValueError(
                f"HashTable.insert: keys: the table holds {self.max_size}, got {int(last.sum())}"
            )
        self._keys, self._values = keys[last], values[order[last]]

    def query(self, keys: Tensor, values: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Values of keys.

        Args:
            keys: [N].
            values: [N], written to; None: a new tensor.

        Returns:
            The values, those of missing keys as they were (0 in a new tensor), and which keys are
            missing, bool [N].
        """
        _check_keys("HashTable.query", keys)
        if values is not None:
            check_tensor("HashTable.query", "values", values)
        rows = self._find(keys)
        if values is None:
            values = torch.zeros(len(keys), dtype=self.value_dtype, device=keys.device)
        found = rows >= 0
        values[found] = self._values[rows[found]].to(values.dtype)
        return values, ~found

    def insert_exist_keys(self, keys: Tensor, values: Tensor) -> Tensor:
        """Gives keys that exist new values.

        Args:
            keys: [N].
            values: [N].

        Returns:
            uint8 [N], 1 for keys that do not exist.
        """
        _check_keys("HashTable.insert_exist_keys", keys)
        rows = self._find(keys)
        found = rows >= 0
        self._values[rows[found]] = values[found].to(self.value_dtype)
        return (~found).to(torch.uint8)

    def assign_arange_(self) -> Tensor:
        """Numbers the keys from 0, in the order of `items`.

        Returns:
            How many there are, int64 [1].
        """
        count = len(self._keys)
        self._values = torch.arange(count, dtype=self.value_dtype, device=self._keys.device)
        return torch.tensor([count], device=self._keys.device)

    def items(self, max_size: int = -1) -> tuple[Tensor, Tensor, Tensor]:
        """All keys and values.

        Args:
            max_size: Give the first so many; -1: all.

        Returns:
            Keys, values, and how many there are, int64 [1].
        """
        most = len(self._keys) if max_size < 0 else max_size
        count = torch.tensor([len(self._keys)], device=self._keys.device)
        return self._keys[:most].clone(), self._values[:most].clone(), count

    def _find(self, keys: Tensor) -> Tensor:
        """int64 [N], the place of each key, -1: none."""
        keys = keys.to(self.key_dtype)
        if not len(self._keys):
            return torch.full_like(keys, -1, dtype=torch.int64)
        rows = torch.searchsorted(self._keys, keys).clamp_max(len(self._keys) - 1)
        return torch.where(self._keys[rows] == keys, rows, -1)


def _check_keys(name: str, keys: Tensor) -> None:
    check_tensor(name, "keys", keys)
    if keys.dim() != 1:
        raise ValueError(f"{name}: keys: expected shape [N], got {list(keys.shape)}")
