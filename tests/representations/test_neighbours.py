# SPDX-License-Identifier: Apache-2.0
"""Nearest neighbours against brute force, on clouds of every awkward kind."""

from __future__ import annotations

import pytest
import torch
from fieldline.representations import nearest_neighbour_distances


def brute_force(points: torch.Tensor, k: int) -> torch.Tensor:
    difference = points.double()[:, None] - points.double()[None]
    distance = difference.norm(dim=-1)
    distance.fill_diagonal_(float("inf"))
    missing = torch.full((points.shape[0], k), float("inf"), dtype=torch.float64)
    return torch.cat((distance, missing), dim=1).topk(k, largest=False).values


def cloud(kind: str, n: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(n)
    points = torch.rand(n, 3, generator=generator)
    if kind == "duplicates":
        points = (3 * points).round()
    elif kind == "all equal":
        points = torch.full((n, 3), 0.7)
    elif kind == "line":
        points[:, 1:] = 0
    elif kind == "heavy tail":
        points = torch.randn(n, 3, generator=generator)
        points *= torch.exp(3 * torch.randn(n, 1, generator=generator))
    elif kind == "far from origin":
        points = points.double() + 1e6
    elif kind == "huge":
        points *= 1e30
    return points


KINDS = (
    "uniform",
    "duplicates",
    "all equal",
    "line",
    "heavy tail",
    "far from origin",
    "huge",
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 2, 3, 4, 31, 32, 33, 63, 64, 65, 129, 500, 1500])
def test_equals_brute_force(kind: str, n: int) -> None:
    points = cloud(kind, n)
    for k in (1, 3, 8):
        found = nearest_neighbour_distances(points, k)
        assert found.dtype == points.dtype
        torch.testing.assert_close(found.double(), brute_force(points, k), rtol=2e-5, atol=1e-12)


def test_a_large_cloud_agrees_on_a_sample() -> None:
    points = cloud("heavy tail", 40_000)
    found = nearest_neighbour_distances(points, 3)
    chosen = torch.arange(0, 40_000, 1000)
    distance = torch.cdist(points[chosen].double(), points.double())
    expected = distance.topk(4, largest=False).values[:, 1:]
    torch.testing.assert_close(found[chosen].double(), expected, rtol=1e-4, atol=1e-6)


def test_no_points() -> None:
    assert nearest_neighbour_distances(torch.zeros(0, 3), 3).shape == (0, 3)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"points: expected a floating tensor \[n_points, 3\]"):
        nearest_neighbour_distances(torch.zeros(5, 2))
    with pytest.raises(ValueError, match="finite"):
        nearest_neighbour_distances(torch.tensor([[float("nan"), 0, 0]]))
    with pytest.raises(ValueError, match="k: expected 1 to 32"):
        nearest_neighbour_distances(torch.zeros(5, 3), 0)
