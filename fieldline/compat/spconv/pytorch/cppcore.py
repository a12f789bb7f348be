# SPDX-License-Identifier: Apache-2.0
"""spconv's ``pytorch.cppcore``: torch's stream and tensors as cumm sees them."""

from __future__ import annotations

import torch

from ...cumm import tensorview as tv

__all__ = ["get_current_stream", "torch_tensor_to_tv"]


def get_current_stream() -> int:
    """The current CUDA stream's handle; 0 without a GPU."""
    return torch.cuda.current_stream().cuda_stream if torch.cuda.is_available() else 0


def torch_tensor_to_tv(ten: torch.Tensor) -> tv.Tensor:
    """A tensor's memory as ``cumm.tensorview`` shows it."""
    return tv.Tensor(ten.detach())
