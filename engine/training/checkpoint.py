# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a run: one .safetensors file with everything that the next step depends on.

Tensors: ``model.*``, the averages of the optimiser ``adam.*``, the states of the random generators
``random.*``, and the progress so far ``history``. The metadata holds the format's version, and as
JSON the step, the settings, the elapsed time and which views were trained on. A file appears under
its name only when it is whole.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ...errors import FileFormatError
from ...representations import Gaussians3D
from ...representations.files import atomic_path
from ...representations.gaussians import PARAMETER_NAMES
from .config import FitConfig, config_from_dict

FORMAT = "fieldline.training"
VERSION = 1
_NAME = re.compile(r"step_(\d{8})\.safetensors")
_MODEL, _ADAM, _RANDOM, _STRATEGY = "model.", "adam.", "random.", "strategy."


@dataclass
class Checkpoint:
    """What a run needs to go on as if it had not stopped."""

    step: int
    seconds: float
    config: FitConfig
    views: list[str]
    """Names of the training views, in order."""
    model: dict[str, Tensor]
    adam: dict[str, Tensor]
    adam_steps: int
    random: dict[str, Tensor]
    history: Tensor
    """float64 [M, 5]: step, seconds, loss, psnr, number of splats."""
    running: dict[str, float]
    """The running means that progress events show."""
    strategy: dict[str, Tensor] = field(default_factory=dict)
    """What the strategy gathered."""


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies in a run folder."""
    return folder / "checkpoints" / f"step_{step:08d}.safetensors"


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run folder, oldest first."""
    places = (folder / "checkpoints").glob("step_*.safetensors")
    return sorted(path for path in places if _NAME.fullmatch(path.name))


def save_checkpoint(checkpoint: Checkpoint, folder: Path, keep: int = 0) -> Path:
    """Writes a checkpoint, then deletes the oldest beyond those to keep.

    Args:
        checkpoint: What to write.
        folder: The run folder.
        keep: How many to keep; 0 keeps all.

    Returns:
        The file.
    """
    tensors = {
        **{_MODEL + name: tensor for name, tensor in checkpoint.model.items()},
        **{_ADAM + name: tensor for name, tensor in checkpoint.adam.items()},
        **{_RANDOM + name: tensor for name, tensor in checkpoint.random.items()},
        **{_STRATEGY + name: tensor for name, tensor in checkpoint.strategy.items()},
        "history": checkpoint.history,
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    state = {
        "step": checkpoint.step,
        "seconds": checkpoint.seconds,
        "config": dataclasses.asdict(checkpoint.config),
        "views": checkpoint.views,
        "adam_steps": checkpoint.adam_steps,
        "running": checkpoint.running,
    }
    metadata = {"format": FORMAT, "version": str(VERSION), "state": json.dumps(state)}
    path = checkpoint_path(folder, checkpoint.step)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)
    others = [other for other in list_checkpoints(folder) if other != path]
    excess = max(0, len(others) + 1 - keep) if keep > 0 else 0
    for old in others[:excess]:
        old.unlink(missing_ok=True)
    return path


def find_checkpoint(place: Path) -> Path:
    """The checkpoint that a path names: itself, or the last one of a run folder.

    Raises:
        FileNotFoundError: If there is none.
    """
    if place.is_file():
        return place
    found = list_checkpoints(place)
    if not found:
        raise FileNotFoundError(f"{place}: no checkpoint to resume from")
    return found[-1]


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint.

    Args:
        path: The file.

    Returns:
        The checkpoint, on the CPU.

    Raises:
        FileFormatError: If the file is damaged, of another kind or of a later version.
    """
    try:
        with safe_open(path, framework="pt") as file:
            state = _state(path, file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise FileFormatError(path, "content", "a safetensors file", str(error)[:300]) from error
    missing = {_MODEL + name for name in PARAMETER_NAMES} | {"history"}
    missing -= tensors.keys()
    if missing:
        raise FileFormatError(path, "tensors", min(missing), "none of that name")

    def group(prefix: str) -> dict[str, Tensor]:
        return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}

    try:
        return Checkpoint(
            step=int(state["step"]),
            seconds=float(state["seconds"]),
            config=config_from_dict(state["config"]),
            views=[str(name) for name in state["views"]],
            model=group(_MODEL),
            adam=group(_ADAM),
            adam_steps=int(state["adam_steps"]),
            random=group(_RANDOM),
            history=tensors["history"],
            running={str(k): float(v) for k, v in state["running"].items()},
            strategy=group(_STRATEGY),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FileFormatError(path, "metadata state", "step, config, ...", repr(error)) from error


def _state(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    if metadata.get("format") != FORMAT:
        raise FileFormatError(path, "metadata format", FORMAT, str(metadata.get("format")))
    if metadata.get("version") != str(VERSION):
        raise FileFormatError(path, "metadata version", str(VERSION), str(metadata.get("version")))
    try:
        state = json.loads(metadata.get("state", ""))
    except json.JSONDecodeError as error:
        raise FileFormatError(path, "metadata state", "JSON", str(error)) from error
    if not isinstance(state, dict):
        raise FileFormatError(path, "metadata state", "a JSON object", type(state).__name__)
    return state


def model_of_checkpoint(path: Path) -> Gaussians3D:
    """The Gaussians that a checkpoint holds, on the CPU.

    Raises:
        FileFormatError: If the file is damaged, of another kind or of a later version.
    """
    try:
        return Gaussians3D(**load_checkpoint(path).model)
    except (ValueError, TypeError) as error:
        if isinstance(error, FileFormatError):
            raise
        raise FileFormatError(path, "tensors", "Gaussians", str(error)) from error
