# SPDX-License-Identifier: Apache-2.0
"""Adam for the parameters of `Gaussians3D`, whose rows come, move and go."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...cuda.training.ops import fused_adam_
from ...representations import Gaussians3D
from ...representations.gaussians import PARAMETER_NAMES


class GaussianAdam:
    """Adam with one learning rate a parameter, all parameters in one call of the core.

    Args:
        model: Its parameters are updated in place. Rows are added through `append` and removed
            through `keep`.
        betas: Decay of the averages of the gradient and its square.
        eps: Added to the root of the squared average.

    Example:
        >>> model = Gaussians3D.random(10, seed=0)
        >>> adam = GaussianAdam(model)
        >>> model.means.sum().backward()
        >>> adam.step({"means": 1e-3})
        >>> adam.steps
        1
    """

    def __init__(
        self,
        model: Gaussians3D,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-15,
    ) -> None:
        self.model = model
        self.betas = betas
        self.eps = eps
        self.steps = 0
        self.averages = {name: torch.zeros_like(p.detach()) for name, p in self._parameters()}
        self.squares = {name: torch.zeros_like(p.detach()) for name, p in self._parameters()}

    def _parameters(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, getattr(self.model, name)) for name in PARAMETER_NAMES]

    def step(self, rates: dict[str, float], visible: Tensor | None = None) -> None:
        """Updates every parameter that has a gradient and a learning rate, and drops the gradients.

        Args:
            rates: Learning rate by parameter name.
            visible: Optional bool [N]: which rows to update; the others stay as they are.
        """
        self.steps += 1
        active = [(name, p) for name, p in self._parameters() if p.grad is not None]
        active = [(name, p) for name, p in active if name in rates and p.numel() > 0]
        fused_adam_(
            [p for _, p in active],
            [p.grad for _, p in active if p.grad is not None],
            [self.averages[name] for name, _ in active],
            [self.squares[name] for name, _ in active],
            [rates[name] for name, _ in active],
            step=self.steps,
            betas=self.betas,
            eps=self.eps,
            visible=visible,
        )
        for _, p in self._parameters():
            p.grad = None

    @torch.no_grad()
    def forget(self, rows: Tensor | None, names: Sequence[str] = PARAMETER_NAMES) -> None:
        """Sets averages to zero: what they were gathered for has moved.

        Args:
            rows: int64 [M]; None is every row.
            names: Of which parameters; default all.
        """
        for name in names:
            self.averages[name][slice(None) if rows is None else rows] = 0
            self.squares[name][slice(None) if rows is None else rows] = 0

    @torch.no_grad()
    def keep(self, rows: Tensor) -> None:
        """Removes all other rows from the model, and their averages.

        Args:
            rows: bool [N], or int64 [M] in the order that rows are to have.
        """
        for name, parameter in self._parameters():
            setattr(self.model, name, nn.Parameter(parameter.detach()[rows]))
            for averages in (self.averages, self.squares):
                averages[name] = averages[name][rows]

    @torch.no_grad()
    def append(self, rows: dict[str, Tensor]) -> None:
        """Adds rows to the model, with averages of zero.

        Args:
            rows: The new rows of every parameter, by name.
        """
        for name, parameter in self._parameters():
            new = rows[name]
            setattr(self.model, name, nn.Parameter(torch.cat((parameter.detach(), new))))
            for averages in (self.averages, self.squares):
                averages[name] = torch.cat((averages[name], torch.zeros_like(new)))

    def state(self) -> dict[str, Tensor]:
        """The averages by name, for a checkpoint; `steps` is kept beside them."""
        state = {f"average.{name}": tensor for name, tensor in self.averages.items()}
        return {**state, **{f"square.{name}": tensor for name, tensor in self.squares.items()}}

    def load_state(self, state: dict[str, Tensor], steps: int) -> None:
        """Takes over what `state` gave.

        Raises:
            ValueError: If a tensor is missing or does not have the shape of its parameter.
        """
        for kind, averages in (("average", self.averages), ("square", self.squares)):
            for name, parameter in self._parameters():
                value = state.get(f"{kind}.{name}")
                if value is None or value.shape != parameter.shape:
                    got = "none" if value is None else str(list(value.shape))
                    raise ValueError(
                        f"GaussianAdam: {kind}.{name}: expected {list(parameter.shape)}, got {got}"
                    )
                averages[name] = value.to(parameter.detach(), copy=True)
        self.steps = steps
