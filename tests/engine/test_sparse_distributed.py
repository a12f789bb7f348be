# SPDX-License-Identifier: Apache-2.0
"""Training in two processes is training in one on both halves of the batch."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from sparse_processes import batch, half, network, step, worker

import fieldline as fl

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch has no distributed package")


def test_two_processes(tmp_path: Path) -> None:
    processes = mp.spawn(worker, (str(tmp_path),), nprocs=2, join=False)  # pyright: ignore
    deadline = time.monotonic() + 120
    while not processes.join(timeout=5):
        if time.monotonic() > deadline:
            for process in processes.processes:
                process.kill()
            pytest.fail("the processes wait for each other")
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    model = network()
    step(model, batch(), 1.0)
    expected = {name: p.grad for name, p in model.named_parameters()}
    for name, value in {**expected, **dict(model.named_buffers())}.items():
        assert torch.equal(first[name], second[name]), name
        if value.is_floating_point():
            torch.testing.assert_close(first[name], value, rtol=1e-9, atol=1e-9)
    assert torch.isfinite(first["with an empty process"])


def test_convert() -> None:
    model = fl.nn.Sequential(fl.nn.SubmConv3d(4, 4, 3), fl.nn.BatchNorm(4))
    model(half(0).float())
    state = {name: value.clone() for name, value in model.state_dict().items()}
    converted = fl.nn.SyncBatchNorm.convert(model)
    assert isinstance(converted[1], fl.nn.SyncBatchNorm)
    assert all(torch.equal(state[name], value) for name, value in converted.state_dict().items())
    converted(half(0).float())  # without a process group
