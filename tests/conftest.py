# SPDX-License-Identifier: Apache-2.0
"""What every test shares: where the real data lies, how many threads, how hypothesis draws."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from op_harness import HAS_CUDA

REPOSITORY = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("FIELDLINE_DATA", REPOSITORY.parent / "shared" / "data")).resolve()
IN_CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")

settings.register_profile(
    "fieldline",
    deadline=None,
    derandomize=True,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("fieldline")


def pytest_configure(config: pytest.Config) -> None:
    """Shares the cores between the workers of pytest-xdist."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))


@pytest.fixture(params=["cpu", *(["cuda"] if HAS_CUDA else [])])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each device that there is."""
    return torch.device(request.param)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real test data, FIELDLINE_DATA.

    Absent, the test is skipped; in CI that is a failure, because CI has the data.
    """
    if not DATA.is_dir():
        missing = f"no real data at {DATA}: set FIELDLINE_DATA"
        if IN_CI:
            pytest.fail(missing)
        pytest.skip(missing)
    return DATA


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    """In CI, a test that skipped itself over FIELDLINE_DATA has failed."""
    report = yield
    if IN_CI and report.skipped and "FIELDLINE_DATA" in str(report.longrepr):
        report.outcome = "failed"
    return report
