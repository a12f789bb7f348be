# SPDX-License-Identifier: Apache-2.0
"""Every setting of a training run, as one frozen dataclass that the command line can show."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, get_args

Background = Literal["auto", "black", "white", "random"]
StrategyName = Literal["mcmc", "default", "decay", "decay_mcmc", "none"]


@dataclass(frozen=True)
class FitConfig:
    """How to train Gaussians; what is a share is a share of the run, so that short runs scale.

    A run has `steps` steps. With `max_seconds` it also ends when that time is spent, and every
    schedule follows whichever of the two is further, so that a run that time ends is as finished
    as one that ran all its steps. Only runs without `max_seconds` are reproducible.
    """

    steps: int = 3000
    """Steps of one view each."""
    max_seconds: float | None = None
    """Wall time for training, seconds; none: as long as the steps take."""
    seed: int = 0
    """Seed of the initial points, the order of the views, and all noise."""

    strategy: StrategyName = "mcmc"
    """How the set of splats changes: "mcmc" moves and adds them; "default" clones, splits and
    prunes by gradients; "decay" only lets opacities fade and prunes, which suits a dense
    initialisation; "decay_mcmc" does so, then goes on as "mcmc"; "none" keeps the set."""
    n_initial: int = 10_000
    """Splats to start from where the scene has no points."""
    max_splats: int = 30_000
    """Most splats that growth leads to."""
    sh_degree: int = 3
    """Degree of the spherical harmonics of a model that is made here."""
    background: Background = "auto"
    """Behind the splats: "auto" is the scene's own, else black; "random" changes every step."""
    antialiased: bool = False
    """Compensate opacities for the pixel filter."""

    ssim_weight: float = 0.2
    """w of the loss (1 - w) L1 + w (1 - SSIM)."""
    coarse_levels: int = 2
    """Start at 1 / 2^levels of the resolution."""
    full_resolution_at: float = 0.4
    """Share of the run after which images have their full size."""
    sh_every: float = 0.1
    """Share of the run after which each further band of spherical harmonics is switched on."""

    means_rate: float = 1.6e-4
    """Learning rate of positions, times the scene's extent."""
    means_rate_end: float = 0.01
    """What the positions' rate is multiplied by at the end, reached exponentially."""
    means_rate_from: float | None = None
    """Share of the run before which the positions' rate is the one it has there; none: 8 / 30 with
    "decay" and "decay_mcmc", whose positions are good from the start, else 0."""
    scales_rate: float = 5e-3
    """Learning rate of log scales."""
    opacities_rate: float = 5e-2
    """Learning rate of opacity logits."""
    quats_rate: float = 1e-3
    """Learning rate of rotations."""
    sh0_rate: float = 2.5e-3
    """Learning rate of the constant colour."""
    shN_rate: float = 2.5e-3 / 20
    """Learning rate of the other spherical harmonics."""
    visible_only: bool = False
    """Update only splats that the step's view sees."""

    refine_every: int = 100
    """Steps between two rounds of moving and adding splats (MCMC only)."""
    refine_from: float = 0.02
    """Share of the run before which there is no round."""
    refine_until: float | None = None
    """Share of the run after which there is none; none: 0.5 with "default", else 0.8."""
    growth: float = 0.05
    """Splats added a round, relative to those there are (MCMC only)."""
    min_opacity: float = 0.005
    """A splat below this is dead, and moved or removed."""
    noise_rate: float = 5e5
    """Strength of the positions' noise, times their learning rate."""
    opacity_regulariser: float = 0.01
    """Weight of the mean opacity in the loss (MCMC only)."""
    scale_regulariser: float = 0.01
    """Weight of the mean scale, relative to the scene's extent, in the loss (MCMC only)."""

    densify_every: float = 0.02
    """Share of the run between two rounds of cloning, splitting and pruning ("default" only, as
    what follows)."""
    densify_least_steps: int = 10
    """Fewest steps between two rounds: gradients of a few views say little."""
    grow_gradient: float | None = None
    """Mean gradient of the projected position, half image sizes, above which a splat is cloned or
    split; none: 2e-4, or 8e-4 with `absgrad`."""
    absgrad: bool = False
    """Add up the sizes of the pixels' gradients (AbsGS), in which opposed ones do not cancel."""
    revised_opacity: bool = False
    """Halves of a split splat together let through as much light as it did; off: each keeps its
    opacity."""
    split_scale: float = 0.01
    """A splat larger than this, times the scene's extent, is split; a smaller one is cloned."""
    prune_scale: float = 0.1
    """A splat larger than this, times the scene's extent, is removed, from the first reset on."""
    split_radius: float = 0.05
    """A splat with a larger radius, in image sizes, is split, until `radius_until`."""
    prune_radius: float = 0.15
    """A splat with a larger radius is removed, from the first reset on until `radius_until`."""
    radius_until: float = 0.0
    """Share of the run after which radii do not matter; 0: never do."""
    reset_every: float = 0.1
    """Share of the run between two resets of all opacities to at most twice `min_opacity`; 0: no
    resets."""
    reset_least_steps: int = 300
    """Fewest steps between two resets: splats need that many to become opaque again."""

    decay_every: int = 10
    """Steps between two lowerings of all opacities, each with a pruning ("decay" and "decay_mcmc"
    only, as what follows)."""
    decay_logit: float = 0.01005
    """What opacity logits are lowered by, each time; this one is 1 % of a small opacity."""
    decay_until: float = 0.5
    """Share of the run after which opacities no longer fade, and none is pruned."""

    progress_every: int = 10
    """Steps between two progress events."""
    evaluate_every: int = 0
    """Steps between two evaluations on the test views; 0: only at the end."""
    checkpoint_every: int = 1000
    """Steps between two checkpoints, where there is a run folder; 0: only when stopped."""
    keep_checkpoints: int = 2
    """How many checkpoints to keep; 0: all."""
    lpips: bool = True
    """Measure LPIPS too, where the lpips package and its weights are installed."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None or field.name not in _OPTIONAL:
                _check(field.name, value)


_CHOICES = {"strategy": get_args(StrategyName), "background": get_args(Background)}
_COUNTS = {
    "steps": 1,
    "seed": 0,
    "n_initial": 1,
    "max_splats": 1,
    "sh_degree": 0,
    "coarse_levels": 0,
    "refine_every": 1,
    "densify_least_steps": 1,
    "reset_least_steps": 1,
    "decay_every": 1,
    "progress_every": 1,
    "evaluate_every": 0,
    "checkpoint_every": 0,
    "keep_checkpoints": 0,
}
_SHARES = ("ssim_weight", "full_resolution_at", "sh_every", "refine_from", "refine_until")
_SHARES += ("means_rate_from", "densify_every", "radius_until", "reset_every", "decay_until")
_SWITCHES = ("antialiased", "visible_only", "lpips", "absgrad", "revised_opacity")
# None stands for what suits the strategy, or for no limit.
_OPTIONAL = ("max_seconds", "means_rate_from", "refine_until", "grow_gradient")
_LIMITS = {"sh_degree": 4, "coarse_levels": 6}


def _check(name: str, value: Any) -> None:
    """Raises ValueError unless a setting has a value that makes sense."""
    if name in _CHOICES:
        good, expected = value in _CHOICES[name], f"one of {_CHOICES[name]}"
    elif name in _COUNTS:
        most = _LIMITS.get(name, 2**62)
        good = isinstance(value, int) and not isinstance(value, bool)
        good = good and _COUNTS[name] <= value <= most
        expected = f"an int >= {_COUNTS[name]}" + (f" and <= {most}" if name in _LIMITS else "")
    elif name in _SWITCHES:
        good, expected = isinstance(value, bool), "True or False"
    else:
        most = 1.0 if name in _SHARES else float("inf")
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        good = number and 0 <= value <= most and value != float("inf")
        good = good and not (name == "max_seconds" and value == 0)
        expected = "a number in [0, 1]" if name in _SHARES else "a finite number >= 0"
    if not good:
        raise ValueError(f"FitConfig: {name}: expected {expected}, got {value!r}")


def make_config(config: FitConfig | None, overrides: dict[str, Any]) -> FitConfig:
    """Replaces settings by name.

    Raises:
        TypeError: For a name that is no setting.
        ValueError: For a value out of range.
    """
    names = [field.name for field in dataclasses.fields(FitConfig)]
    for name in overrides:
        if name not in names:
            raise TypeError(f"fit: {name}: expected a setting ({', '.join(names)}), got {name!r}")
    return dataclasses.replace(config or FitConfig(), **overrides)


def config_from_dict(values: dict[str, Any]) -> FitConfig:
    """Reads what ``dataclasses.asdict`` made of a config; settings of other versions are left out.

    Raises:
        ValueError: For a value out of range.
    """
    names = {field.name for field in dataclasses.fields(FitConfig)}
    return FitConfig(**{name: value for name, value in values.items() if name in names})
