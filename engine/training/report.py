# SPDX-License-Identifier: Apache-2.0
"""What a run leaves in its folder.

config.json      the settings
metrics.json     metrics of each test view and their means, steps, seconds, number of splats
scene.ply        the Gaussians
views.png        test views: truth | rendering | error
curve.png        loss and PSNR over the steps
checkpoints/     what a run is resumed from
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...datasets import Scene
from ...representations import Gaussians3D
from ...representations.files import atomic_path, save
from .config import FitConfig
from .evaluation import rendered_views
from .events import Evaluation, FitResult

RUN_FILES = ("config.json", "metrics.json", "scene.ply", "views.png", "curve.png")
_SHEET_ROWS = 6
_SHEET_HEIGHT = 320
_GAP = 4
# An error of this much is shown at full brightness.
_FULL_ERROR = 0.3


def prepare_run_folder(folder: str | Path, overwrite: bool = False) -> Path:
    """Makes the folder of a new run.

    Args:
        folder: Made if it is not there; other files in it are left alone.
        overwrite: Delete the run that it holds.

    Returns:
        The folder.

    Raises:
        ValueError: If it holds a run and `overwrite` is not set, or is no folder.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: expected a folder for the run, got a file")
    held = held_run(folder)
    if held and not overwrite:
        raise ValueError(
            f"{folder}: expected a folder without a run, got one with {held[0].name}; "
            "resume it, overwrite it, or give another name"
        )
    for path in held:
        path.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def held_run(folder: Path) -> list[Path]:
    """The files of a run that a folder holds."""
    checkpoints = sorted((folder / "checkpoints").glob("step_*.safetensors"))
    return [*(folder / name for name in RUN_FILES if (folder / name).exists()), *checkpoints]


def write_config(folder: Path, config: FitConfig, scene: Scene) -> Path:
    """Writes config.json."""
    about = {
        "path": None if scene.path is None else str(scene.path),
        "train": len(scene.train),
        "test": [view.name for view in scene.test],
    }
    return _write_json(
        folder / "config.json", {"version": 1, "fit": dataclasses.asdict(config), "scene": about}
    )


def metrics_dict(result: FitResult) -> dict[str, Any]:
    """The figures of a run, ready for JSON; a figure that is infinite or NaN becomes None."""
    evaluation = result.evaluation
    return {
        "version": 1,
        "step": result.step,
        "seconds": round(result.seconds, 3),
        "n_splats": len(result.model),
        "interrupted": result.interrupted,
        "test": None if evaluation is None else evaluation_dict(evaluation),
    }


def evaluation_dict(evaluation: Evaluation) -> dict[str, Any]:
    """An evaluation, ready for JSON; a figure that is infinite or NaN becomes None."""
    mean = {name: _number(getattr(evaluation, name)) for name in ("psnr", "ssim", "lpips")}
    views = [
        {key: _number(value) for key, value in dataclasses.asdict(view).items()}
        for view in evaluation.views
    ]
    return {"mean": mean, "views": views}


def _number(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_metrics(folder: Path, result: FitResult) -> Path:
    """Writes metrics.json."""
    return _write_json(folder / "metrics.json", metrics_dict(result))


def _write_json(path: Path, content: dict[str, Any]) -> Path:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return path


def write_scene(folder: Path, model: Gaussians3D) -> Path:
    """Writes scene.ply."""
    path = folder / "scene.ply"
    save(model, path)
    return path


def write_views(
    folder: Path,
    model: Gaussians3D,
    scene: Scene,
    background: Sequence[float] | None = None,
    antialiased: bool = False,
) -> Path:
    """Writes views.png: up to six test views, evenly chosen, truth | rendering | error.

    Args:
        folder: The run folder.
        model: The Gaussians.
        scene: With at least one test view.
        background: As for `evaluate`.
        antialiased: As for `evaluate`.

    Returns:
        The file.
    """
    count = min(_SHEET_ROWS, len(scene.test))
    chosen = [
        scene.test[round(i * (len(scene.test) - 1) / max(1, count - 1))] for i in range(count)
    ]
    behind = scene.background if background is None else background
    rows = [
        _sheet_row(image, truth)
        for _, image, truth in rendered_views(model, chosen, behind, antialiased)
    ]
    path = folder / "views.png"
    with atomic_path(path) as temporary:
        Image.fromarray(_stack_rows(rows)).save(temporary, format="PNG")
    return path


def _sheet_row(image: Tensor, truth: Tensor) -> np.ndarray:
    """Truth, rendering and error side by side, uint8 [H, W, 3]."""
    error = (image - truth).abs().mean(dim=-1) / _FULL_ERROR
    gap = torch.ones(image.shape[0], _GAP, 3, dtype=image.dtype, device=image.device)
    row = torch.cat((truth, gap, image, gap, _heat(error)), dim=1)
    values = (row.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    if values.shape[0] <= _SHEET_HEIGHT:
        return values
    width = round(values.shape[1] * _SHEET_HEIGHT / values.shape[0])
    small = Image.fromarray(values).resize((width, _SHEET_HEIGHT), Image.Resampling.BOX)
    return np.asarray(small)


def _heat(value: Tensor) -> Tensor:
    """Black through red and yellow to white as a value goes from 0 to 1, [..., 3]."""
    return (3 * value[..., None] - value.new_tensor([0.0, 1.0, 2.0])).clamp(0, 1)


def _stack_rows(rows: list[np.ndarray]) -> np.ndarray:
    width = max(row.shape[1] for row in rows)
    parts = []
    for row in rows:
        part = np.full((row.shape[0] + _GAP, width, row.shape[2]), 255, row.dtype)
        part[: row.shape[0], : row.shape[1]] = row
        parts.append(part)
    return np.concatenate(parts)[:-_GAP]


def write_curve(folder: Path, history: Sequence[Sequence[float]]) -> Path | None:
    """Writes curve.png.

    Args:
        folder: The run folder.
        history: Rows of step, seconds, loss, psnr and number of splats.

    Returns:
        The file; None without any row.
    """
    if not history:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    steps, _, loss, psnr, splats = zip(*history)
    figure = Figure(figsize=(8, 4), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    left.semilogy(steps, loss, color="tab:red")
    left.set(xlabel="step", ylabel="loss (running mean)")
    right.plot(steps, psnr, color="tab:blue")
    right.set(xlabel="step", ylabel="PSNR of training views, dB")
    count = right.twinx()
    count.plot(steps, splats, color="tab:gray", linewidth=0.8)
    count.set_ylabel("splats")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    path = folder / "curve.png"
    with atomic_path(path) as temporary:
        canvas.print_figure(str(temporary), format="png", dpi=110)
    return path
