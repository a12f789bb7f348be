# SPDX-License-Identifier: Apache-2.0
"""Colours of points: spherical harmonics fitted to what all views that see a point show of it.

For a point seen with colours c_v along directions d_v, with weights w_v,

    sum_v w_v |B(d_v) k - (c_v - 1/2)|^2 + sum_j lambda_j k_j^2  ->  min over the coefficients k,

B the (degree + 1)^2 basis functions. lambda = (noise / spread of a coefficient)^2 is what Bayes'
rule gives for coefficients of that spread: 0 for the constant, growing with the band. So few or
narrow views give a constant colour, and bands appear as views determine them: the fit has full
rank whatever the number of views.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...cuda.splat.ops import spherical_harmonics

# Spread of the coefficients of bands 1, 2, 3, 4, in colour units, of photographed surfaces.
_SPREAD = (0.10, 0.05, 0.03, 0.02)
# Keeps the constant solvable where no view saw the point.
_TINY = 1e-9


def sh_basis(degree: int, directions: Tensor) -> Tensor:
    """Gives all basis functions along directions.

    Args:
        degree: 0 to 4.
        directions: Floating [M, 3], of any length.

    Returns:
        [M, (degree + 1)^2].

    Example:
        >>> sh_basis(1, torch.tensor([[0.0, 0.0, 1.0]]))
        tensor([[0.2821, 0.0000, 0.4886, 0.0000]])
    """
    count, n = (degree + 1) ** 2, len(directions)
    # The core evaluates three channels at once, so three basis functions a call.
    columns = []
    for first in range(0, count, 3):
        unit = directions.new_zeros(count, 3)
        for channel in range(min(3, count - first)):
            unit[first + channel, channel] = 1
        values = spherical_harmonics(degree, directions, unit.expand(n, count, 3).contiguous())
        columns.append(values[:, : min(3, count - first)])
    return torch.cat(columns, dim=1)


class ColourFit:
    """Collects what views show of N points, and fits their spherical harmonics.

    Args:
        n_points: N.
        degree: Of the harmonics, 0 to 4.
        noise: Standard deviation of a view's colour, in [0, 1] units; default 0.04.
        device: Where.

    Example:
        >>> fit = ColourFit(1, degree=1)
        >>> for eye in torch.eye(3):
        ...     fit.add(torch.tensor([0]), eye[None], torch.full((1, 3), 0.75), torch.ones(1))
        >>> (fit.solve()[0, 0] * 0.2821 + 0.5).round(decimals=2).tolist()
        [0.75, 0.75, 0.75]
    """

    def __init__(
        self,
        n_points: int,
        degree: int,
        *,
        noise: float = 0.04,
        device: torch.device | str = "cpu",
    ) -> None:
        self.degree = degree
        self.noise = noise
        count = (degree + 1) ** 2
        options = {"dtype": torch.float64, "device": device}
        self.normal = torch.zeros(n_points, count, count, **options)
        self.side = torch.zeros(n_points, count, 3, **options)
        self.views = torch.zeros(n_points, dtype=torch.int64, device=device)

    def add(self, index: Tensor, directions: Tensor, colors: Tensor, weights: Tensor) -> None:
        """Takes in one view.

        Args:
            index: int64 [M], the points that it sees, each once.
            directions: [M, 3], from the camera to the points.
            colors: [M, 3], in [0, 1].
            weights: [M], at least 0.
        """
        basis = sh_basis(self.degree, directions.double())
        weighted = basis * weights.double()[:, None]
        self.normal.index_add_(0, index, weighted[:, :, None] * basis[:, None, :])
        target = (colors.double() - 0.5)[:, None, :]
        self.side.index_add_(0, index, weighted[:, :, None] * target)
        self.views.index_add_(0, index, (weights > 0).long())

    def solve(self) -> Tensor:
        """Fits.

        Returns:
            float32 [N, (degree + 1)^2, 3]; a point that no view saw is grey.
        """
        band = torch.tensor([b for b in range(self.degree + 1) for _ in range(2 * b + 1)])
        spread = torch.tensor([1.0, *_SPREAD], dtype=torch.float64)[band] / 0.2820948
        ridge = (self.noise / spread).square().to(self.normal.device)
        ridge[0] = _TINY
        factor = torch.linalg.cholesky(self.normal + torch.diag(ridge))
        return torch.cholesky_solve(self.side, factor).float()
