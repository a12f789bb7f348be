# SPDX-License-Identifier: Apache-2.0
"""How a GPU goes about a convolution: the schedule by size, measured where someone asked for it.

Schedules that `tune` measured lie in a file of the user's cache folder and are read once, when this
module is imported. Everything else takes the defaults: a convolution itself never measures.
"""

from __future__ import annotations

import functools
import json
import os
import tempfile
import warnings
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from ..library import ops
from .kernel_map import KernelMap

Form = Literal["implicit", "grouped"]
_FORMS: tuple[str, ...] = get_args(Form)
_MOST_SPLIT_TAPS = 32  # bits of a tile's mask
_TILES = (64, 128)


class Schedule(NamedTuple):
    """One way to go about a convolution.

    Args:
        form: "implicit": a block gathers the inputs of a tile of output rows; "grouped": of a tile
            of one tap's pairs, whose sums are then added up for each output row.
        splits: Of an implicit convolution, in how many runs the taps are sorted apart.
        tile_rows: Of an implicit convolution, 64 or 128.
    """

    form: Form
    splits: int
    tile_rows: int


def default_splits(n_taps: int) -> int:
    """Runs of about nine taps, three at most, as long as a run has no more taps than a mask bits.

    Args:
        n_taps: Taps of the kernel.

    Returns:
        The number of runs.

    Example:
        >>> [default_splits(k) for k in (1, 8, 9, 27, 125)]
        [1, 1, 1, 3, 4]
    """
    return max(1, min(3, -(-n_taps // 9)), -(-n_taps // _MOST_SPLIT_TAPS))


def default_schedule(n_out: int, n_taps: int, channels_out: int) -> Schedule:
    """What is done without measuring.

    Args:
        n_out: Output rows.
        n_taps: Taps of the kernel.
        channels_out: Of the output.

    Returns:
        The implicit form. Few output channels cost so little at a tap that what a second run of
        taps saves is less than its partial sums and its launch take; where there are too few rows
        to fill a card, runs side by side do. Large tiles where there are rows for them and runs are
        short, in which neighbours agree about their taps.
    """
    if n_out >= 1 << 15 and channels_out <= 96 and n_taps <= _MOST_SPLIT_TAPS:
        return Schedule("implicit", 1, 64)
    splits = default_splits(n_taps)
    large = n_out >= 1 << 13 and channels_out > 96 and splits > 1
    return Schedule("implicit", splits, 128 if large else 64)


def schedule(
    device: torch.device,
    dtype: torch.dtype,
    n_out: int,
    n_taps: int,
    channels_in: int,
    channels_out: int,
) -> Schedule:
    """The measured schedule of such a convolution, or else the default.

    Args:
        device: Where it runs.
        dtype: Of its features.
        n_out: Output rows; counted to the next power of two.
        n_taps: Taps of the kernel.
        channels_in: Of the features.
        channels_out: Of the output.

    Returns:
        The schedule.
    """
    if _measured and device.type == "cuda":
        found = _measured.get(_key(device, dtype, n_out, n_taps, channels_in, channels_out))
        if found is not None:
            return found
    return default_schedule(n_out, n_taps, channels_out)


def revision() -> int:
    """A number that changes whenever a measurement may have changed what `schedule` says."""
    return _revision


def candidates(n_out: int, n_taps: int, channels_out: int) -> list[Schedule]:
    """The schedules that `tune` compares.

    Args:
        n_out: Output rows.
        n_taps: Taps of the kernel.
        channels_out: Of the output.

    Returns:
        The default first.
    """
    fewest = -(-n_taps // _MOST_SPLIT_TAPS)
    splits = sorted({s for s in (1, 2, 3) if fewest <= s <= n_taps} | {default_splits(n_taps)})
    every = [Schedule("implicit", s, rows) for s in splits for rows in _TILES]
    first = default_schedule(n_out, n_taps, channels_out)
    return [first, *(s for s in every if s != first), Schedule("grouped", 1, 64)]


def tune(
    features: Tensor, weight: Tensor, kernel_map: KernelMap, repeats: int = 20, save: bool = True
) -> Schedule:
    """Measures every candidate on a GPU and keeps the fastest for convolutions of that size.

    Args:
        features: [n_in, C_in] on a GPU.
        weight: [K, C_in, C_out].
        kernel_map: The map.
        repeats: Calls that are timed together.
        save: Write the choice to the cache file as well.

    Returns:
        The fastest schedule.

    Raises:
        ValueError: The features are not on a GPU, or the convolution has groups.
    """
    _check_map("tune", kernel_map)
    for argument, tensor in (("features", features), ("weight", weight)):
        if not isinstance(tensor, Tensor) or not tensor.dim():
            got = type(tensor).__name__
            raise TypeError(f"tune: {argument}: expected a tensor with axes, got {got}")
    if not features.is_cuda:
        raise ValueError(f"tune: features: expected a CUDA tensor, got one on {features.device}")
    if weight.dim() != 3 or weight.shape[1] != features.shape[1]:
        raise ValueError(
            f"tune: weight: expected shape [K, {features.shape[1]}, C_out], "
            f"got {list(weight.shape)}"
        )
    found = candidates(kernel_map.n_out, kernel_map.n_taps, weight.shape[2])
    best = min(found, key=lambda s: _time(s, features, weight, kernel_map, repeats))
    size = (kernel_map.n_out, kernel_map.n_taps, features.shape[1], weight.shape[2])
    _measured[_key(features.device, features.dtype, *size)] = best
    global _revision
    _revision += 1
    if save:
        _save(cache_file())
    return best


def padded_pairs(kernel_map: KernelMap, tile_rows: int = 64, splits: int | None = None) -> int:
    """What an implicit convolution multiplies, in pairs: each tile all of the taps of its rows.

    Args:
        kernel_map: The map, on any device.
        tile_rows: 64 or 128.
        splits: In how many runs the taps are sorted apart; default: as `default_splits`.

    Returns:
        Pairs; at least ``kernel_map.n_pairs``, which is the work that has to be done.

    Raises:
        TypeError: It is no map.
        ValueError: There are no such tiles.

    Example:
        >>> line = torch.tensor([[-1, 0, 1], [0, 1, 2], [1, 2, -1]], dtype=torch.int32)
        >>> padded_pairs(KernelMap.from_table(line, n_in=3), tile_rows=64)
        192
    """
    _check_map("padded_pairs", kernel_map)
    if tile_rows not in (64, 128):
        raise ValueError(f"padded_pairs: tile_rows: expected 64 or 128, got {tile_rows!r}")
    splits = default_splits(kernel_map.n_taps) if splits is None else splits
    if not isinstance(splits, int) or not 1 <= splits <= max(kernel_map.n_taps, 1):
        raise ValueError(
            f"padded_pairs: splits: expected 1 to the {kernel_map.n_taps} taps, got {splits!r}"
        )
    masks = kernel_map.plan(splits, tile_rows).tile_masks
    bits = torch.arange(_MOST_SPLIT_TAPS, dtype=torch.int32, device=masks.device)
    return int((masks[..., None] >> bits & 1).sum()) * tile_rows


def _check_map(name: str, kernel_map: object) -> None:
    if not isinstance(kernel_map, KernelMap):
        got = type(kernel_map).__name__
        raise TypeError(f"{name}: kernel_map: expected a KernelMap, got {got}")


def cache_file() -> Path:
    """Where measured schedules are kept: in FIELDLINE_CACHE, or else in the user's cache folder."""
    folder = os.environ.get("FIELDLINE_CACHE")
    if folder:
        return Path(folder) / "sparse_schedules.json"
    user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(user) / "fieldline" / "sparse_schedules.json"


def _key(
    device: torch.device,
    dtype: torch.dtype,
    n_out: int,
    n_taps: int,
    channels_in: int,
    channels_out: int,
) -> str:
    card = _card(device)
    tf32 = dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32
    kind = "tf32" if tf32 else str(dtype).removeprefix("torch.")
    return f"{card} {kind} 2^{n_out.bit_length()} {n_taps} {channels_in} {channels_out}"


@functools.cache
def _card(device: torch.device) -> str:
    return torch.cuda.get_device_name(device).replace(" ", "-")


def _time(
    choice: Schedule, features: Tensor, weight: Tensor, kernel_map: KernelMap, repeats: int
) -> float:
    forms = kernel_map.gpu_operands(choice.form, choice.splits, choice.tile_rows)
    tf32 = torch.backends.cuda.matmul.allow_tf32

    def run() -> None:
        ops().sparse_conv(
            *(features.detach(), weight.detach(), None, None, 0, 0.0, tf32, kernel_map.n_out),
            *(*forms, *forms, kernel_map.symmetric),
        )

    for _ in range(3):
        run()
    times = []
    for _ in range(3):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(repeats):
            run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return min(times)


def _save(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Processes that tune at the same time each leave a whole file.
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".json", delete=False) as file:
        json.dump(_load(path) | _measured, file, indent=1, sort_keys=True)
    Path(file.name).replace(path)


def _load(path: Path) -> dict[str, Schedule]:
    try:
        entries = json.loads(path.read_text())
        return {str(key): _schedule(*entry) for key, entry in entries.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        warnings.warn(f"{path}: schedules of convolutions are ignored: {error}", stacklevel=2)
        return {}


def _schedule(form: str, splits: int, tile_rows: int) -> Schedule:
    if form not in _FORMS or not isinstance(splits, int) or splits < 1 or tile_rows not in _TILES:
        raise ValueError(f"expected a schedule, got {[form, splits, tile_rows]}")
    return Schedule("grouped" if form == "grouped" else "implicit", splits, tile_rows)


_measured: dict[str, Schedule] = _load(cache_file())
_revision = 0
