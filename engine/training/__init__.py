# SPDX-License-Identifier: Apache-2.0
"""Training Gaussians on a scene, and measuring them.

    result = fit(None, scene, steps=3000, out="runs/fox")          # the simple call
    for event in fit_events(None, scene, max_seconds=600):         # the same, step by step
        if isinstance(event, FitProgress): ...

Calls
    fit(model, scene, *, steps, config, progress, out, overwrite, resume, device, evaluate_at,
        **settings)
        -> FitResult(model, config, step, seconds, evaluation, interrupted, checkpoint, files)
    fit_events(...)                     the same as an iterator of events
    evaluate(model, scene_or_views, *, background, antialiased, lpips)
        -> Evaluation(views: tuple[ViewMetrics], psnr, ssim, lpips)
    initial_gaussians(scene, config, device) -> Gaussians3D
    prepare_run_folder(folder, overwrite), held_run(folder), metrics_dict(result),
    evaluation_dict(evaluation), write_views, write_curve            (report.py)
    load_checkpoint(path), find_checkpoint(folder), model_of_checkpoint(path)

Events, in order
    FitStarted; FitProgress, FitEvaluated and FitCheckpoint as they come; FitFinished(result).

Settings
    `FitConfig`, a frozen dataclass that tyro turns into options. What ends a run: `steps`, or
    `max_seconds` of wall time if that comes first; all schedules follow the share that is done.

A run folder holds config.json, metrics.json, scene.ply, views.png, curve.png and checkpoints/.
"""

from .adc import ADC
from .checkpoint import Checkpoint, find_checkpoint, load_checkpoint, model_of_checkpoint
from .config import FitConfig
from .decay import Decay, DecayThenMCMC
from .evaluation import evaluate, psnr_of_error, rendered_views
from .events import (
    Evaluation,
    FitCheckpoint,
    FitEvaluated,
    FitEvent,
    FitFinished,
    FitProgress,
    FitResult,
    FitStarted,
    TrainingDivergedError,
    ViewMetrics,
)
from .initialise import initial_gaussians
from .loop import fit, fit_events
from .mcmc import MCMC, split_opacity_and_scale
from .optimiser import GaussianAdam
from .report import (
    evaluation_dict,
    held_run,
    metrics_dict,
    prepare_run_folder,
    write_curve,
    write_views,
)
from .strategy import FixedSet, Strategy, StrategyState, prune

__all__ = [
    "ADC",
    "MCMC",
    "Checkpoint",
    "Decay",
    "DecayThenMCMC",
    "Evaluation",
    "FitCheckpoint",
    "FitConfig",
    "FitEvaluated",
    "FitEvent",
    "FitFinished",
    "FitProgress",
    "FitResult",
    "FitStarted",
    "FixedSet",
    "GaussianAdam",
    "Strategy",
    "StrategyState",
    "TrainingDivergedError",
    "ViewMetrics",
    "evaluate",
    "evaluation_dict",
    "find_checkpoint",
    "fit",
    "fit_events",
    "held_run",
    "initial_gaussians",
    "load_checkpoint",
    "metrics_dict",
    "model_of_checkpoint",
    "prepare_run_folder",
    "prune",
    "psnr_of_error",
    "rendered_views",
    "split_opacity_and_scale",
    "write_curve",
    "write_views",
]
