# SPDX-License-Identifier: Apache-2.0
"""Quaternions against matrices, and arcs between them."""

from __future__ import annotations

import math

import pytest
import torch
from fieldline.representations import matrix_to_quaternion, quaternion_to_matrix, slerp
from hypothesis import given
from hypothesis import strategies as st


def random_quats(seed: int, n: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 4, generator=generator, dtype=torch.float64)


@given(st.integers(0, 2**31))
def test_matrix_is_a_rotation_and_turns_back_into_the_quaternion(seed: int) -> None:
    quats = random_quats(seed)
    matrices = quaternion_to_matrix(quats)
    identity = torch.eye(3, dtype=torch.float64).expand_as(matrices)
    torch.testing.assert_close(matrices @ matrices.transpose(-1, -2), identity)
    torch.testing.assert_close(torch.linalg.det(matrices), torch.ones(8, dtype=torch.float64))
    back = matrix_to_quaternion(matrices)
    unit = quats / quats.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(back, torch.where(unit[:, :1] < 0, -unit, unit))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_half_turns_which_leave_no_w(axis: int) -> None:
    quat = torch.zeros(4)
    quat[1 + axis] = 1
    diagonal = -torch.ones(3)
    diagonal[axis] = 1
    assert torch.equal(quaternion_to_matrix(quat), torch.diag(diagonal))
    assert torch.equal(matrix_to_quaternion(torch.diag(diagonal)).abs(), quat)


def test_a_quarter_turn_about_z_takes_x_to_y() -> None:
    quat = torch.tensor([math.cos(math.pi / 4), 0, 0, math.sin(math.pi / 4)])
    turned = quaternion_to_matrix(quat) @ torch.tensor([1.0, 0, 0])
    torch.testing.assert_close(turned, torch.tensor([0.0, 1.0, 0.0]))


@given(st.integers(0, 2**31), st.floats(0, 1))
def test_slerp_walks_the_shortest_arc_evenly(seed: int, fraction: float) -> None:
    start, end = random_quats(seed, 2)
    middle = slerp(start, end, torch.tensor(fraction, dtype=torch.float64))

    def angle(a: torch.Tensor, b: torch.Tensor) -> float:
        cosine = float((a @ b).abs() / (a.norm() * b.norm()))
        return 2 * math.acos(min(1.0, cosine))

    whole = angle(start, end)
    assert angle(start, middle) == pytest.approx(fraction * whole, abs=1e-6)
    assert angle(middle, end) == pytest.approx((1 - fraction) * whole, abs=1e-6)


def test_slerp_between_equal_rotations_has_a_gradient() -> None:
    quat = torch.tensor([1.0, 2, 3, 4], dtype=torch.float64, requires_grad=True)
    slerp(quat, quat, torch.tensor(0.3, dtype=torch.float64)).sum().backward()
    assert quat.grad is not None and bool(torch.isfinite(quat.grad).all())


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="quaternion_to_matrix: quats"):
        quaternion_to_matrix(torch.zeros(3))
    with pytest.raises(ValueError, match="matrix_to_quaternion: matrices"):
        matrix_to_quaternion(torch.zeros(4, 4))
    with pytest.raises(ValueError, match="slerp: end"):
        slerp(torch.zeros(4), torch.zeros(5), torch.tensor(0.0))
