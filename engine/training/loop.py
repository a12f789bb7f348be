# SPDX-License-Identifier: Apache-2.0
"""The training run: `fit_events` reports as it goes, `fit` is the simple call over it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ...datasets import Scene
from ...representations import Gaussians3D
from . import report
from .checkpoint import find_checkpoint, load_checkpoint, save_checkpoint
from .config import FitConfig, make_config
from .evaluation import evaluate
from .events import (
    Evaluation,
    FitCheckpoint,
    FitEvaluated,
    FitEvent,
    FitFinished,
    FitResult,
    FitStarted,
    TrainingDivergedError,
)
from .initialise import initial_gaussians
from .interrupt import StopRequest
from .trainer import StepRecord, Trainer, check_training_views

# On a GPU, losses are looked at together, so that steps need not wait for each other.
_CHECK_EVERY_ON_GPU = 20

_NAMED_BACKGROUNDS = {"white": (1.0, 1.0, 1.0), "black": (0.0, 0.0, 0.0)}


def fit(
    model: Gaussians3D | None,
    scene: Scene,
    *,
    steps: int | None = None,
    config: FitConfig | None = None,
    progress: Callable[[FitEvent], None] | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    resume: bool | str | Path = False,
    device: torch.device | str | None = None,
    evaluate_at: Sequence[float] = (),
    **overrides: Any,
) -> FitResult:
    """Trains Gaussians on a scene.

    Args:
        model: Trained in place, where it is; None makes one from the scene's points, or from random
            ones.
        scene: At least two training views. Its test views are only measured.
        steps: Number of steps; default that of `config`.
        config: Settings; default `FitConfig()`.
        progress: Called with every event.
        out: Run folder; default none, and nothing is written.
        overwrite: Delete the run that `out` holds.
        resume: A checkpoint or run folder to go on from; True is the last checkpoint in `out`. Its
            settings are kept, except for those given by name.
        device: Where a model that is made here goes; default CUDA if there is one, else the CPU.
        evaluate_at: Seconds of training at which the test views are measured too, each after the
            step that reaches it; the measuring does not count as training, as that of
            `evaluate_every` does. Default never.
        **overrides: Settings of `FitConfig` by name.

    Returns:
        The model, its metrics on the test views, and what was written. After Ctrl-C, with
        `interrupted` set, what there was by then.

    Raises:
        TypeError: For a setting that does not exist.
        ValueError: For a setting out of range, fewer than two training views, a model without
            Gaussians, or a folder that holds a run.
        TrainingDivergedError: If the loss becomes NaN or infinite; the last checkpoint is intact.

    Example:
        >>> from fieldline.datasets import synthetic
        >>> scene = synthetic.still_life(4, 32, 24, n_points=100)
        >>> fit(None, scene, steps=20).step
        20
    """
    events = fit_events(
        model,
        scene,
        steps=steps,
        config=config,
        out=out,
        overwrite=overwrite,
        resume=resume,
        device=device,
        evaluate_at=evaluate_at,
        **overrides,
    )
    result = None
    for event in events:
        if progress is not None:
            progress(event)
        if isinstance(event, FitFinished):
            result = event.result
    assert result is not None
    return result


def fit_events(
    model: Gaussians3D | None,
    scene: Scene,
    *,
    steps: int | None = None,
    config: FitConfig | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    resume: bool | str | Path = False,
    device: torch.device | str | None = None,
    evaluate_at: Sequence[float] = (),
    **overrides: Any,
) -> Iterator[FitEvent]:
    """Trains Gaussians on a scene, a step whenever the next event is asked for.

    The arguments, results and errors are those of `fit`; arguments are checked at once. While the
    iterator is alive, the first Ctrl-C asks the run to stop after its step (in the main thread).
    An iterator that is closed early leaves the model as trained so far.

    Yields:
        `FitStarted`, then `FitProgress`, `FitEvaluated` and `FitCheckpoint` as they come, and
        `FitFinished` with the result.

    Example:
        >>> from fieldline.datasets import synthetic
        >>> scene = synthetic.still_life(4, 32, 24, n_points=100)
        >>> [type(event).__name__ for event in fit_events(None, scene, steps=10)]
        ['FitStarted', 'FitProgress', 'FitFinished']
    """
    if steps is not None:
        overrides["steps"] = steps
    folder = None if out is None else Path(out)
    source = _resumed_file(resume, folder)
    saved = None if source is None else load_checkpoint(source)
    if saved is not None:
        config = config or saved.config
    config = make_config(config, overrides)
    check_training_views(scene)
    if model is None:
        place = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if saved is not None:
            model = Gaussians3D(**saved.model).to(torch.device(place))
        else:
            model = initial_gaussians(scene, config, place)
    trainer = Trainer(model, scene, config)
    if saved is not None:
        trainer.restore(saved)
    if folder is not None and not (source and source.is_relative_to(folder.resolve())):
        report.prepare_run_folder(folder, overwrite)
    return _Run(trainer, folder, _checked_times(evaluate_at)).events()


def _checked_times(times: Sequence[float]) -> list[float]:
    """Times of evaluations, the latest first."""
    for value in times:
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
            raise ValueError(f"fit: evaluate_at: expected seconds >= 0, got {value!r}")
    return sorted(map(float, times), reverse=True)


def _resumed_file(resume: bool | str | Path, folder: Path | None) -> Path | None:
    """The checkpoint to go on from; None for a new run."""
    if resume is False:
        return None
    place = folder if resume is True else Path(resume)
    if place is None:
        raise ValueError("fit: resume: expected a checkpoint, or True with `out`, got True")
    return find_checkpoint(place).resolve()


@dataclass
class _Run:
    """A trainer, where it writes, and what it has written."""

    trainer: Trainer
    folder: Path | None
    times: list[float]
    """When to evaluate, seconds of training, the latest first; those that have come are gone."""
    checkpoint: Path | None = None
    pending: list[StepRecord] = field(default_factory=list)

    def events(self) -> Iterator[FitEvent]:
        trainer, config = self.trainer, self.trainer.config
        scene = trainer.scene
        if self.folder is not None:
            report.write_config(self.folder, config, scene)
        with StopRequest() as stop:
            yield FitStarted(
                config, len(trainer.model), len(scene.train), len(scene.test), trainer.step
            )
            while not trainer.done and not stop.requested:
                yield from self._after(trainer.run_step())
            if stop.requested:
                yield from self._write_checkpoint()
        yield FitFinished(self._finish(stop.requested))

    def _after(self, record: StepRecord) -> Iterator[FitEvent]:
        """Checks a step, and reports and writes what is due."""
        trainer, config = self.trainer, self.trainer.config
        self.pending.append(record)
        due = config.checkpoint_every and record.step % config.checkpoint_every == 0
        every = 1 if record.loss.device.type == "cpu" else _CHECK_EVERY_ON_GPU
        if len(self.pending) >= every or due or trainer.done:
            self._check_losses()
        if record.step % config.progress_every == 0:
            yield trainer.progress(record.resolution)
        if due and not trainer.done:
            yield from self._write_checkpoint()
        if config.evaluate_every and record.step % config.evaluate_every == 0 and not trainer.done:
            yield from self._evaluated(self._timed(self._evaluate))
        if self.times and trainer.seconds >= self.times[-1]:
            while self.times and trainer.seconds >= self.times[-1]:
                self.times.pop()
            yield from self._evaluated(self._evaluate())

    def _evaluated(self, evaluation: Evaluation | None) -> Iterator[FitEvent]:
        trainer = self.trainer
        if evaluation is not None:
            yield FitEvaluated(trainer.step, evaluation, trainer.seconds, len(trainer.model))

    def _check_losses(self) -> None:
        for record in self.pending:
            loss = float(record.loss)
            if not math.isfinite(loss):
                raise TrainingDivergedError(record.step, record.view, loss, self.checkpoint)
        self.pending.clear()

    def _write_checkpoint(self) -> Iterator[FitEvent]:
        if self.folder is None:
            return
        self._check_losses()
        keep = self.trainer.config.keep_checkpoints
        self.checkpoint = save_checkpoint(self.trainer.checkpoint(), self.folder, keep)
        yield FitCheckpoint(self.trainer.step, self.checkpoint)

    def _timed(self, work: Callable[[], Evaluation | None]) -> Evaluation | None:
        """What is done during the run counts as its time."""
        start = time.perf_counter()
        result = work()
        self.trainer.seconds += time.perf_counter() - start
        return result

    def _background(self) -> tuple[float, float, float] | None:
        return _NAMED_BACKGROUNDS.get(self.trainer.config.background)

    def _evaluate(self) -> Evaluation | None:
        trainer, config = self.trainer, self.trainer.config
        if not trainer.scene.test:
            return None
        return evaluate(
            trainer.model,
            trainer.scene,
            background=self._background(),
            antialiased=config.antialiased,
            lpips=config.lpips,
        )

    def _finish(self, interrupted: bool) -> FitResult:
        trainer, config = self.trainer, self.trainer.config
        evaluation = None if interrupted else self._evaluate()
        result = FitResult(
            model=trainer.model,
            config=config,
            step=trainer.step,
            seconds=trainer.seconds,
            evaluation=evaluation,
            interrupted=interrupted,
            checkpoint=self.checkpoint,
        )
        return result if self.folder is None else self._write_report(self.folder, result)

    def _write_report(self, folder: Path, result: FitResult) -> FitResult:
        trainer, config = self.trainer, self.trainer.config
        files = [
            folder / "config.json",
            report.write_scene(folder, trainer.model),
            report.write_metrics(folder, result),
            report.write_curve(folder, trainer.history),
        ]
        if trainer.scene.test and not result.interrupted:
            files.append(
                report.write_views(
                    folder, trainer.model, trainer.scene, self._background(), config.antialiased
                )
            )
        written = tuple(path for path in files if path is not None)
        return FitResult(**{**result.__dict__, "files": written})
