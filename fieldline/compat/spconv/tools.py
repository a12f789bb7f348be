# SPDX-License-Identifier: Apache-2.0
"""spconv's ``tools``: its timer, which times nothing here (``torch.profiler`` does)."""

from contextlib import AbstractContextManager, nullcontext

from .constants import CPU_ONLY_BUILD

__all__ = ["CPU_ONLY_BUILD", "CUDAKernelTimer", "nullcontext"]


class CUDAKernelTimer:
    """spconv's timer of kernels, without times.

    Args:
        enable: Accepted.
    """

    def __init__(self, enable: bool = True) -> None:
        self.enable = enable

    def namespace(self, name: str) -> AbstractContextManager:
        """A context that does nothing."""
        return nullcontext()

    def record(self, name: str, stream: int = 0) -> AbstractContextManager:
        """A context that does nothing."""
        return nullcontext()

    def get_all_pair_time(self) -> dict[str, float]:
        """No times."""
        return {}

    @staticmethod
    def collect_by_name(name: str, res: dict[str, float]) -> dict[str, float]:
        """The entries of ``res`` with that part in their dotted names."""
        return {key: value for key, value in res.items() if name in key.split(".")}
