# SPDX-License-Identifier: Apache-2.0
"""What all transmittance estimators have in common."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class AbstractEstimator(nn.Module):
    """An estimator of transmittance says where rays should be sampled.

    Example:
        >>> AbstractEstimator().device
        device(type='cpu')
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("_dummy", torch.empty(0), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the estimator is."""
        return self._dummy.device  # pyright: ignore[reportReturnType]

    def sampling(self, *args: Any, **kwargs: Any) -> Any:
        """Draws samples along rays; estimators say how."""
        raise NotImplementedError

    def update_every_n_steps(self, *args: Any, **kwargs: Any) -> Any:
        """Learns from the field that is being trained; estimators say how."""
        raise NotImplementedError
