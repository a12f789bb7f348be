# SPDX-License-Identifier: Apache-2.0
"""What a training run reports while it runs, and the error that stops it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ...representations import Gaussians3D
from .config import FitConfig


@dataclass(frozen=True)
class ViewMetrics:
    """How well one view is reproduced."""

    name: str
    psnr: float
    """dB, of the rendering clamped to [0, 1]."""
    ssim: float
    """11 x 11 Gaussian window of sigma 1.5; only windows inside the image count."""
    lpips: float | None
    """Perceptual distance (AlexNet); None without the lpips package and its weights."""


@dataclass(frozen=True)
class Evaluation:
    """Metrics of each view, and their means."""

    views: tuple[ViewMetrics, ...]
    psnr: float
    ssim: float
    lpips: float | None


@dataclass(frozen=True)
class FitStarted:
    """The first event: what the run works with."""

    config: FitConfig
    n_splats: int
    n_train: int
    n_test: int
    step: int
    """0, or the step that a checkpoint continues from."""


@dataclass(frozen=True)
class FitProgress:
    """Every `progress_every` steps; loss and PSNR are running means over training views."""

    step: int
    steps: int
    """Expected steps in all; an estimate when time ends the run."""
    fraction: float
    """Share of the run that is done, in [0, 1]."""
    loss: float
    psnr: float
    n_splats: int
    iterations_per_second: float
    eta_seconds: float
    resolution: tuple[int, int]
    """Width and height of the image of this step."""


@dataclass(frozen=True)
class FitEvaluated:
    """An evaluation on the test views during the run."""

    step: int
    evaluation: Evaluation
    seconds: float
    """Of training until then."""
    n_splats: int


@dataclass(frozen=True)
class FitCheckpoint:
    """A checkpoint is on disk."""

    step: int
    path: Path


@dataclass(frozen=True)
class FitResult:
    """What a run ends with."""

    model: Gaussians3D
    """The model that was given, trained; or the one that was made."""
    config: FitConfig
    step: int
    seconds: float
    """Wall time of training."""
    evaluation: Evaluation | None
    """On the test views; None where there are none, or after an interruption."""
    interrupted: bool = False
    """Ctrl-C ended the run; the last checkpoint holds where it stopped."""
    checkpoint: Path | None = None
    """The last checkpoint, if any was written."""
    files: tuple[Path, ...] = field(default=())
    """What was written into the run folder."""


@dataclass(frozen=True)
class FitFinished:
    """The last event."""

    result: FitResult


FitEvent = FitStarted | FitProgress | FitEvaluated | FitCheckpoint | FitFinished


class TrainingDivergedError(RuntimeError):
    """The loss became NaN or infinite."""

    def __init__(self, step: int, view: str, loss: float, checkpoint: Path | None) -> None:
        last = "none was written" if checkpoint is None else str(checkpoint)
        super().__init__(
            f"fit: loss: expected a finite number, got {loss} at step {step} on view {view}; "
            f"last good checkpoint: {last}"
        )
        self.step = step
        self.view = view
        self.checkpoint = checkpoint
