# SPDX-License-Identifier: Apache-2.0
"""spconv's ``pytorch.constants``: the version of torch."""

import re

import torch

__all__ = ["PYTORCH_VERSION"]

PYTORCH_VERSION = [int(part) for part in re.findall(r"\d+", torch.__version__)[:3]]
