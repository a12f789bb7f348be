# SPDX-License-Identifier: Apache-2.0
"""torchsparse's ``conv_config`` and modes.

Dataflow, sorting and splitting are kept and change nothing: our engine chooses by itself. Two
fields have a meaning: ``downsample_mode`` ("spconv": every coarse cell that the kernel reaches;
"minkowski": the cells that fine ones lie in, under a centred kernel) and ``kmap_mode``, which says
where an even kernel of stride 1 begins ("hashmap_on_the_fly": at 0; "hashmap": at -(k - 1) // 2).
"""

from __future__ import annotations

from enum import Enum
from typing import Any

__all__ = [
    "ConvMode",
    "Dataflow",
    "clear_global_conv_config",
    "get_conv_mode",
    "get_default_conv_config",
    "get_downsample_mode",
    "get_global_conv_config",
    "get_kmap_mode",
    "set_conv_mode",
    "set_downsample_mode",
    "set_global_conv_config",
    "set_kmap_mode",
]

KMAP_MODES = ("hashmap_on_the_fly", "hashmap")
DOWNSAMPLE_MODES = ("spconv", "minkowski")


class Dataflow(Enum):
    """torchsparse's ways to convolve."""

    ImplicitGEMM = 0
    GatherScatter = 1
    FetchOnDemand = 2
    CodedCSR = 3


class ConvMode(Enum):
    """torchsparse's ways to sort and split."""

    mode0 = 0
    mode1 = 1
    mode2 = 2


class AttributeDict(dict):
    """A dict whose entries are attributes too."""

    def __getattr__(self, key: str) -> Any:
        if key not in self:
            raise AttributeError(key)
        return self[key]

    def __setattr__(self, key: str, value: Any) -> None:
        self[key] = value

    def copy(self) -> AttributeDict:
        """Another dict of the same entries."""
        return AttributeDict(self)


_conv_mode = ConvMode.mode0
_kmap_mode, _downsample_mode = KMAP_MODES[0], DOWNSAMPLE_MODES[0]
_global_config: AttributeDict | None = None


def get_default_conv_config(
    conv_mode: ConvMode = ConvMode.mode0, training: bool = False
) -> AttributeDict:
    """A new config of the modes that are set.

    Args:
        conv_mode: Sets ``ifsort`` and ``split_mask_num``.
        training: Accepted.

    Returns:
        The config.

    Example:
        >>> get_default_conv_config().downsample_mode
        'spconv'
    """
    return AttributeDict(
        dataflow=Dataflow.ImplicitGEMM,
        ifsort=conv_mode is not ConvMode.mode0,
        kmap_mode=_kmap_mode,
        downsample_mode=_downsample_mode,
        split_mask_num=3 if conv_mode is ConvMode.mode2 else 1,
        split_mask_num_bwd=3,
        epsilon=0.0,
        mm_thresh=0,
        FOD_fusion=True,
    )


def get_global_conv_config() -> AttributeDict | None:
    """The config of layers that have none; None: the default one."""
    return _global_config


def set_global_conv_config(conv_config: Any) -> None:
    """Sets the config of layers that have none; missing fields are the default's."""
    global _global_config
    _global_config = AttributeDict({**get_default_conv_config(), **conv_config})


def clear_global_conv_config() -> None:
    """Goes back to the default config."""
    global _global_config
    _global_config = None


def effective_config(config: Any) -> AttributeDict:
    """The config that a layer follows."""
    if config is None:
        config = _global_config or {}
    return AttributeDict({**get_default_conv_config(_conv_mode), **config})


def get_conv_mode() -> ConvMode:
    """How to sort and split."""
    return _conv_mode


def set_conv_mode(conv_mode: ConvMode | int) -> None:
    """Chooses how to sort and split; ours does not change."""
    global _conv_mode
    _conv_mode = ConvMode(conv_mode)


def get_kmap_mode() -> str:
    """Where even kernels of stride 1 begin."""
    return _kmap_mode


def set_kmap_mode(kmap_mode: str) -> None:
    """Chooses where even kernels of stride 1 begin, for layers without a config."""
    global _kmap_mode
    _kmap_mode = _one_of("set_kmap_mode", "kmap_mode", kmap_mode, KMAP_MODES)


def get_downsample_mode() -> str:
    """Which coarse cells strided layers make."""
    return _downsample_mode


def set_downsample_mode(downsample_mode: str) -> None:
    """Chooses which coarse cells strided layers make, for layers without a config."""
    global _downsample_mode
    _downsample_mode = _one_of(
        "set_downsample_mode", "downsample_mode", downsample_mode, DOWNSAMPLE_MODES
    )


def _one_of(function: str, argument: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise ValueError(f"{function}: {argument}: expected one of {allowed}, got {value!r}")
    return value
