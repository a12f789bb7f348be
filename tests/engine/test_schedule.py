# SPDX-License-Identifier: Apache-2.0
"""Settings, and what they make of the share of a run that is done."""

from __future__ import annotations

import dataclasses

import pytest
from fieldline.engine.training import FitConfig
from fieldline.engine.training.config import config_from_dict, make_config
from fieldline.engine.training.schedule import Schedule


def schedule(**settings: object) -> Schedule:
    return Schedule(make_config(None, settings), extent=2.0, sh_degree=3)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("steps", 0, "an int >= 1, got 0"),
        ("steps", 1.5, "an int >= 1, got 1.5"),
        ("max_seconds", 0, "a finite number >= 0, got 0"),
        ("max_seconds", float("nan"), "a finite number"),
        ("strategy", "adc", "one of ('mcmc', 'default', 'decay', 'decay_mcmc', 'none'), got 'adc'"),
        ("background", "grey", "one of"),
        ("ssim_weight", 1.1, "a number in [0, 1], got 1.1"),
        ("means_rate", float("inf"), "a finite number >= 0, got inf"),
        ("sh_degree", 5, "an int >= 0 and <= 4, got 5"),
        ("antialiased", 1, "True or False, got 1"),
    ],
)
def test_settings_are_checked(name: str, value: object, expected: str) -> None:
    with pytest.raises(ValueError) as error:
        make_config(None, {name: value})
    assert f"FitConfig: {name}: expected" in str(error.value)
    assert expected in str(error.value)


def test_unknown_settings_are_named() -> None:
    with pytest.raises(TypeError, match="fit: stepz: expected a setting"):
        make_config(FitConfig(), {"stepz": 3})


def test_config_survives_json_of_another_version() -> None:
    config = FitConfig(steps=77, max_seconds=3.0)
    values = dataclasses.asdict(config) | {"of_the_future": 1}
    assert config_from_dict(values) == config


def test_run_ends_by_steps_or_by_time() -> None:
    by_steps = schedule(steps=100)
    assert by_steps.fraction(0, 1e9) == 0
    assert by_steps.fraction(50, 0) == 0.5
    both = schedule(steps=100, max_seconds=10.0)
    assert both.fraction(50, 8.0) == 0.8
    assert both.fraction(90, 8.0) == 0.9
    assert both.fraction(10, 11.0) == 1.0


def test_rates_follow_extent_and_decay() -> None:
    s = schedule(means_rate=1e-3, means_rate_end=0.01)
    assert s.means_rate(0.0) == pytest.approx(2e-3)
    assert s.means_rate(0.5) == pytest.approx(2e-4)
    assert s.means_rate(1.0) == pytest.approx(2e-5)
    assert s.rates(0.5)["means"] == s.means_rate(0.5)


def test_bands_are_switched_on_one_by_one() -> None:
    s = schedule(sh_every=0.1)
    assert [s.degree(f) for f in (0.0, 0.09, 0.1, 0.2, 0.3, 0.9)] == [0, 0, 1, 2, 3, 3]
    assert schedule(sh_every=0.0).degree(0.0) == 3


def test_resolution_grows_to_full() -> None:
    s = schedule(coarse_levels=2, full_resolution_at=0.4)
    assert [s.divisor(f) for f in (0.0, 0.19, 0.2, 0.39, 0.4, 1.0)] == [4, 4, 2, 2, 1, 1]
    assert schedule(coarse_levels=0).divisor(0.0) == 1
    assert schedule(full_resolution_at=0.0).divisor(0.0) == 1


def test_refinement_keeps_to_its_window() -> None:
    s = schedule(refine_every=10, refine_from=0.1, refine_until=0.5)
    assert not s.refines(10, 0.05)
    assert s.refines(10, 0.1)
    assert not s.refines(11, 0.2)
    assert s.refines(20, 0.5)
    assert not s.refines(20, 0.51)
