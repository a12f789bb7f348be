# SPDX-License-Identifier: Apache-2.0
"""torchsparse's ``utils.tune``: our engine chooses by itself, so a few runs are all there is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import torch
from torch import nn

__all__ = ["tune"]


@torch.no_grad()
def tune(
    model: nn.Module,
    data_loader: Iterable[Any],
    n_samples: int = 100,
    collect_fn: Callable[[Any], Any] = lambda data: data,
    enable_fp16: bool = False,
    save_dir: str = ".torchsparse-tune",
    tune_tag: str = "temp",
    force_retune: bool = False,
    dataflow_range: Any = (),
    dataflow_prune: bool = False,
    tune_with_bwd: bool = False,
    verbose: bool = True,
    skip_warning: bool = False,
) -> None:
    """Runs a model on samples, so that the engine has seen their sizes.

    Args:
        model: Any module; not changed.
        data_loader: Samples.
        n_samples: How many to run.
        collect_fn: What the model is called with, from a sample.
        enable_fp16: Run under autocast.
        save_dir: Accepted, as is all that follows: nothing is written.
        tune_tag: Accepted.
        force_retune: Accepted.
        dataflow_range: Accepted.
        dataflow_prune: Accepted.
        tune_with_bwd: Accepted.
        verbose: Accepted.
        skip_warning: Accepted.
    """
    device = next(model.parameters()).device.type
    was_training = model.training
    model.eval()
    try:
        for sample in islice(data_loader, n_samples):
            with torch.autocast(device, enabled=enable_fp16):
                model(collect_fn(sample))
    finally:
        model.train(was_training)
