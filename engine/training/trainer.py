# SPDX-License-Identifier: Apache-2.0
"""One training run: its state, one step of it, and taking it to a checkpoint and back."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ...cuda.training.ops import image_loss
from ...datasets import Scene
from ...representations import Gaussians3D
from ...representations.gaussians import PARAMETER_NAMES
from ...tracers.splatting import Meta, rasterization
from .adc import ADC
from .checkpoint import Checkpoint
from .config import FitConfig
from .decay import Decay, DecayThenMCMC
from .evaluation import psnr_of_error
from .events import FitProgress
from .images import ImagePyramid, TrainingView
from .mcmc import MCMC
from .optimiser import GaussianAdam
from .schedule import Schedule
from .strategy import FixedSet, Strategy, StrategyState

_SMALLEST_SSIM_IMAGE = 11
# How much of the running means one step makes up.
_SMOOTHING = 0.02


@dataclass(frozen=True)
class StepRecord:
    """What one step was about. The loss may still be on its way on a GPU."""

    step: int
    view: str
    loss: Tensor
    resolution: tuple[int, int]


@dataclass
class RunningMeans:
    """Exponential means of what progress shows."""

    values: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, value: float, weight: float = _SMOOTHING) -> float:
        """Takes in a value and returns the mean; the first value is the mean."""
        if not math.isfinite(value):
            return self.values.get(name, value)
        before = self.values.get(name, value)
        self.values[name] = before + weight * (value - before)
        return self.values[name]


def check_training_views(scene: Scene) -> None:
    """Raises ValueError for a scene with fewer than two training views."""
    if len(scene.train) < 2:
        raise ValueError(
            "fit: scene: expected at least 2 training views (one view has no depth), "
            f"got {len(scene.train)}"
        )


def make_strategy(config: FitConfig) -> Strategy:
    """The strategy of a name."""
    made: dict[str, Callable[[], Strategy]] = {
        "mcmc": MCMC,
        "default": lambda: ADC(config),
        "decay": Decay,
        "decay_mcmc": DecayThenMCMC,
        "none": FixedSet,
    }
    return made[config.strategy]()


class Trainer:
    """Trains a model on a scene, one view a step.

    Args:
        model: Trained in place.
        scene: Its training views are learnt from.
        config: The settings.

    Raises:
        ValueError: If the scene has fewer than two training views, or the model no Gaussians.
    """

    def __init__(self, model: Gaussians3D, scene: Scene, config: FitConfig) -> None:
        check_training_views(scene)
        if len(model) == 0:
            raise ValueError("fit: model: expected at least one Gaussian, got none")
        self.model = model
        self.scene = scene
        self.config = config
        self.step = 0
        self.seconds = 0.0
        self.history: list[tuple[float, ...]] = []
        self.running = RunningMeans()
        self.images = ImagePyramid(scene.train, model.device)
        self.strategy = make_strategy(config)
        schedule = Schedule(config, scene.extent, model.sh_degree)
        self.state = StrategyState(
            model, GaussianAdam(model), schedule, self._generator(model.device)
        )
        self._backdrop = self._fixed_background()
        self._order: tuple[int, Tensor] | None = None

    def _generator(self, device: torch.device) -> torch.Generator:
        return torch.Generator(device).manual_seed(self.config.seed)

    @property
    def fraction(self) -> float:
        """Share of the run that is done."""
        return self.state.schedule.fraction(self.step, self.seconds)

    @property
    def done(self) -> bool:
        """Whether the run has come to its end."""
        return self.fraction >= 1.0

    # -- one step --------------------------------------------------------------------------------

    def run_step(self) -> StepRecord:
        """Does one step; the caller checks that its loss is finite."""
        start = time.perf_counter()
        fraction, schedule = self.fraction, self.state.schedule
        self.state.fraction = fraction
        view = self.images.get(self._view_of(self.step), schedule.divisor(fraction))
        background = self._background()
        image, loss, meta = self._loss(view, background, schedule.degree(fraction))
        self.strategy.before_backward(self.state, meta)
        loss.backward()
        value = loss.detach()
        if self.model.device.type != "cpu" or math.isfinite(float(value)):
            self.strategy.after_backward(self.state, meta)
            visible = (meta["radii"][0] > 0).all(dim=-1) if self.config.visible_only else None
            self.state.optimiser.step(schedule.rates(fraction), visible)
            self.strategy.after_step(self.state, self.step + 1, fraction)
        self.step += 1
        size = (view.camera.width, view.camera.height)
        if self.step % self.config.progress_every == 0:
            self._note(image, view.over(background), view.mask, value)
        elapsed = time.perf_counter() - start
        self.seconds += elapsed
        self.running.add("seconds_a_step", elapsed)
        return StepRecord(self.step, view.name, value, size)

    def _loss(
        self, view: TrainingView, background: Tensor | None, degree: int
    ) -> tuple[Tensor, Tensor, Meta]:
        """Renders a view and gives the image, the whole loss, and what it went through."""
        model, config = self.model, self.config
        opacities, scales = model.opacities, model.scales
        bands = (degree + 1) ** 2 - 1
        sh = torch.cat((model.sh0, model.shN[:, :bands]), dim=1) if bands else model.sh0
        image, _, meta = rasterization(
            model.means,
            model.quats,
            scales,
            opacities,
            sh,
            view.camera.world_to_camera.to(model.dtype)[None],
            view.camera.K.to(model.dtype)[None],
            view.camera.width,
            view.camera.height,
            sh_degree=degree,
            packed=False,
            absgrad=self.strategy.absgrad,
            backgrounds=None if background is None else background.to(model.dtype)[None],
            rasterize_mode="antialiased" if config.antialiased else "classic",
            camera_model=view.camera.model,
        )
        target = view.over(background)
        loss = image_loss(
            image,
            (target if target.dtype == torch.uint8 else target.to(model.dtype))[None],
            None if view.mask is None else view.mask[None],
            ssim_weight=config.ssim_weight,
            padding="valid" if min(target.shape[:2]) >= _SMALLEST_SSIM_IMAGE else "same",
        ).loss
        extra = self.strategy.regulariser(self.state, opacities, scales)
        return image[0].detach(), loss if extra is None else loss + extra, meta

    def _view_of(self, step: int) -> int:
        """Every view once an epoch, in an order that depends on seed and epoch alone."""
        epoch, place = divmod(step, len(self.images))
        if self._order is None or self._order[0] != epoch:
            generator = torch.Generator().manual_seed((self.config.seed << 24) + epoch)
            self._order = (epoch, torch.randperm(len(self.images), generator=generator))
        return int(self._order[1][place])

    def _fixed_background(self) -> Tensor | None:
        named = {"black": None, "white": (1.0, 1.0, 1.0), "auto": self.scene.background}
        rgb = named.get(self.config.background)
        return None if rgb is None or not any(rgb) else torch.tensor(rgb, device=self.model.device)

    def _background(self) -> Tensor | None:
        if self.config.background != "random":
            return self._backdrop
        return torch.rand(3, generator=self.state.generator, device=self.model.device)

    # -- progress --------------------------------------------------------------------------------

    @torch.no_grad()
    def _note(self, image: Tensor, target: Tensor, mask: Tensor | None, loss: Tensor) -> None:
        truth = target.to(image.dtype) / 255 if target.dtype == torch.uint8 else target
        squared = (image.clamp(0, 1) - truth).square()
        error = float(squared.mean() if mask is None else squared[mask].mean())
        weight = min(1.0, _SMOOTHING * self.config.progress_every)
        mean_loss = self.running.add("loss", float(loss), weight)
        psnr = self.running.add("psnr", psnr_of_error(error), weight)
        self.history.append((self.step, self.seconds, mean_loss, psnr, len(self.model)))

    def progress(self, resolution: tuple[int, int]) -> FitProgress:
        """What to report after a step of this resolution."""
        each = max(self.running.values.get("seconds_a_step", 0.0), 1e-9)
        left = float(self.config.steps - self.step) * each
        steps = self.config.steps
        if self.config.max_seconds is not None:
            limit = max(0.0, self.config.max_seconds - self.seconds)
            left = min(left, limit)
            steps = min(steps, self.step + round(left / each))
        values = self.running.values
        return FitProgress(
            step=self.step,
            steps=steps,
            fraction=self.fraction,
            loss=values.get("loss", math.nan),
            psnr=values.get("psnr", math.nan),
            n_splats=len(self.model),
            iterations_per_second=1.0 / each,
            eta_seconds=left,
            resolution=resolution,
        )

    # -- checkpoints -----------------------------------------------------------------------------

    def checkpoint(self) -> Checkpoint:
        """Everything that the next step depends on."""
        history = torch.tensor(self.history, dtype=torch.float64).reshape(-1, 5)
        return Checkpoint(
            step=self.step,
            seconds=self.seconds,
            config=self.config,
            views=[view.name for view in self.scene.train],
            model={name: getattr(self.model, name).detach() for name in PARAMETER_NAMES},
            adam=self.state.optimiser.state(),
            adam_steps=self.state.optimiser.steps,
            random={self.model.device.type: self.state.generator.get_state()},
            history=history,
            running=dict(self.running.values),
            strategy=self.strategy.tensors(),
        )

    def restore(self, saved: Checkpoint) -> None:
        """Goes on from a checkpoint.

        Raises:
            ValueError: If it was made with other training views, or its tensors do not fit.
        """
        names = [view.name for view in self.scene.train]
        if saved.views != names:
            raise ValueError(
                f"fit: resume: expected a checkpoint of these {len(names)} training views, "
                f"got one of {len(saved.views)} views, beginning with {saved.views[:1]}"
            )
        # Another strategy begins anew.
        same_strategy = saved.config.strategy == self.config.strategy
        for name in PARAMETER_NAMES:
            value = saved.model[name].to(self.model.device, copy=True)
            setattr(self.model, name, nn.Parameter(value))
        self.state.optimiser.load_state(saved.adam, saved.adam_steps)
        self.strategy.restore(self.state, saved.strategy if same_strategy else {})
        state = saved.random.get(self.model.device.type)
        # A run that moves to another kind of device goes on with fresh draws.
        if state is not None:
            self.state.generator.set_state(state)
        self.step, self.seconds = saved.step, saved.seconds
        self.history = [tuple(row) for row in saved.history.tolist()]
        self.running.values = dict(saved.running)
