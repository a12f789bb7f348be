# SPDX-License-Identifier: Apache-2.0
"""The functions of ``torch.nn.functional`` that work on rows or channels of features.

Each takes the arguments of the one it is named after, a sparse tensor in place of the first.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch.nn.functional as F

from ..arguments import check_kind
from ..tensor import SparseTensor


def _on_features(function: Callable[..., Any]) -> Callable[..., SparseTensor]:
    @wraps(function, assigned=("__name__", "__qualname__"))
    def wrapped(x: SparseTensor, *args: Any, **kwargs: Any) -> SparseTensor:
        check_kind(function.__name__, "x", x, SparseTensor)
        return SparseTensor.on(function(x.feats, *args, **kwargs), x.level, x.maps)

    wrapped.__module__ = __name__
    wrapped.__doc__ = f"``torch.nn.functional.{wrapped.__name__}`` on a sparse tensor's features."
    return wrapped


alpha_dropout = _on_features(F.alpha_dropout)
celu = _on_features(F.celu)
dropout = _on_features(F.dropout)
elu = _on_features(F.elu)
gelu = _on_features(F.gelu)
glu = _on_features(F.glu)
hardshrink = _on_features(F.hardshrink)
hardsigmoid = _on_features(F.hardsigmoid)
hardswish = _on_features(F.hardswish)
hardtanh = _on_features(F.hardtanh)
layer_norm = _on_features(F.layer_norm)
leaky_relu = _on_features(F.leaky_relu)
linear = _on_features(F.linear)
log_softmax = _on_features(F.log_softmax)
logsigmoid = _on_features(F.logsigmoid)
mish = _on_features(F.mish)
prelu = _on_features(F.prelu)
relu = _on_features(F.relu)
relu6 = _on_features(F.relu6)
rrelu = _on_features(F.rrelu)
selu = _on_features(F.selu)
sigmoid = _on_features(F.sigmoid)
silu = _on_features(F.silu)
softmax = _on_features(F.softmax)
softmin = _on_features(F.softmin)
softplus = _on_features(F.softplus)
softshrink = _on_features(F.softshrink)
softsign = _on_features(F.softsign)
tanh = _on_features(F.tanh)
tanhshrink = _on_features(F.tanhshrink)
threshold = _on_features(F.threshold)
