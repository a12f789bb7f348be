# SPDX-License-Identifier: Apache-2.0
"""The activations that operators run with what comes before them."""

from __future__ import annotations

from typing import Literal, get_args

Activation = Literal["none", "relu", "leaky_relu", "silu", "gelu", "sigmoid"]

ACTIVATIONS: tuple[str, ...] = get_args(Activation)
CODES = {name: code for code, name in enumerate(ACTIVATIONS)}  # of the operators


def has_gradient_from_output(activation: str, slope: float) -> bool:
    """Whether the gradient follows from what came out, without what went in.

    Args:
        activation: One of `ACTIVATIONS`; "none" has no gradient of its own.
        slope: Of "leaky_relu" below zero.

    Example:
        >>> has_gradient_from_output("relu", 0.0), has_gradient_from_output("silu", 0.0)
        (True, False)
    """
    if activation == "leaky_relu":
        return slope >= 0
    return activation in ("relu", "sigmoid")
