# SPDX-License-Identifier: Apache-2.0
"""Gaussians3D: activations, state dicts of any length, selection, joining, initialisation."""

from __future__ import annotations

import copy

import pytest
import torch
from fieldline.representations import Gaussians3D, PointCloud, sh0_to_rgb


def parameters_equal(a: Gaussians3D, b: Gaussians3D) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))


@pytest.mark.parametrize("degree", range(5))
def test_activations_and_shapes(degree: int) -> None:
    gaussians = Gaussians3D.random(20, sh_degree=degree, seed=1)
    assert (gaussians.n, len(gaussians), gaussians.sh_degree) == (20, 20, degree)
    assert gaussians.sh.shape == (20, (degree + 1) ** 2, 3)
    torch.testing.assert_close(gaussians.scales.log(), gaussians.log_scales)
    torch.testing.assert_close(torch.logit(gaussians.opacities), gaussians.opacity_logits)
    assert bool((gaussians.opacities > 0).all()) and bool((gaussians.scales > 0).all())
    assert len(list(gaussians.parameters())) == 6


def test_gradients_reach_every_parameter() -> None:
    gaussians = Gaussians3D.random(3, sh_degree=1, seed=0)
    parts = (gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.sh)
    sum(part.sum() for part in parts).backward()  # type: ignore[union-attr]
    assert all(parameter.grad is not None for parameter in gaussians.parameters())


def test_state_dict_loads_at_any_length_and_degree() -> None:
    source = Gaussians3D.random(50, sh_degree=2, seed=0)
    for target in (Gaussians3D.empty(), Gaussians3D.random(80, sh_degree=4, seed=1)):
        held_by_optimiser = target.means
        target.load_state_dict(source.state_dict())
        assert parameters_equal(source, target)
        assert target.means is held_by_optimiser and target.sh_degree == 2
    assert "version" in source.state_dict()


def test_state_dict_inside_another_module() -> None:
    outer = torch.nn.ModuleDict({"splats": Gaussians3D.random(5, seed=0)})
    other = torch.nn.ModuleDict({"splats": Gaussians3D.empty()})
    other.load_state_dict(outer.state_dict())
    assert len(other["splats"]) == 5  # type: ignore[arg-type]


def test_state_dict_that_does_not_fit_together() -> None:
    state = Gaussians3D.random(5, seed=0).state_dict()
    with pytest.raises(ValueError, match="quats"):
        Gaussians3D.empty().load_state_dict({**state, "quats": torch.zeros(4, 4)})
    with pytest.raises(ValueError, match="shN"):
        Gaussians3D.empty().load_state_dict({**state, "shN": torch.zeros(5, 4, 3)})
    with pytest.raises(ValueError, match="version"):
        Gaussians3D.empty().load_state_dict({**state, "version": torch.tensor(99)})
    state.pop("means")
    with pytest.raises(RuntimeError, match="means"):
        Gaussians3D.empty().load_state_dict(state)


def test_to_keeps_the_version_an_integer() -> None:
    gaussians = Gaussians3D.random(4, seed=0).to(torch.float64)
    assert gaussians.dtype == torch.float64
    assert gaussians.version.dtype == torch.int64
    assert parameters_equal(gaussians, copy.deepcopy(gaussians))


def test_select_by_mask_and_index() -> None:
    gaussians = Gaussians3D.random(6, seed=0)
    mask = torch.tensor([True, False, True, False, False, True])
    assert parameters_equal(gaussians.select(mask), gaussians.select(torch.tensor([0, 2, 5])))
    turned = gaussians.select(torch.tensor([5, 0]))
    assert torch.equal(turned.means, gaussians.means[[5, 0]])
    with torch.no_grad():
        turned.means.zero_()
    assert bool((gaussians.means != 0).any())
    assert len(gaussians.select(torch.zeros(6, dtype=torch.bool))) == 0
    with pytest.raises(ValueError, match=r"bool \[6\]"):
        gaussians.select(torch.ones(5, dtype=torch.bool))
    with pytest.raises(ValueError, match="index"):
        gaussians.select(torch.zeros(2))


def test_pruned_drops_faint_large_and_broken() -> None:
    gaussians = Gaussians3D.random(5, seed=0)
    with torch.no_grad():
        gaussians.opacity_logits[:] = 0
        gaussians.log_scales[:] = -3
        gaussians.opacity_logits[0] = -9
        gaussians.log_scales[1, 2] = 4
        gaussians.shN[2, 0, 0] = float("nan")
        gaussians.means[3, 0] = float("inf")
    assert gaussians.finite().tolist() == [True, True, False, False, True]
    kept = gaussians.pruned(max_scale=1.0)
    assert torch.equal(kept.means, gaussians.means[4:])


def test_concatenate_fills_lower_degrees() -> None:
    a, b = Gaussians3D.random(2, sh_degree=1, seed=0), Gaussians3D.random(3, sh_degree=3, seed=1)
    both = Gaussians3D.concatenate([a, b])
    assert both.sh_degree == 3 and len(both) == 5
    assert torch.equal(both.shN[:2, :3], a.shN) and not bool(both.shN[:2, 3:].any())
    assert torch.equal(both.shN[2:], b.shN)
    assert torch.equal(both.means, torch.cat((a.means, b.means)))
    with pytest.raises(ValueError, match="at least one"):
        Gaussians3D.concatenate([])
    with pytest.raises(ValueError, match=r"parts\[1\]"):
        Gaussians3D.concatenate([a, b.double()])


def test_sh_degree_can_change_both_ways() -> None:
    gaussians = Gaussians3D.random(4, sh_degree=2, seed=0)
    assert torch.equal(gaussians.with_sh_degree(1).shN, gaussians.shN[:, :3])
    assert torch.equal(gaussians.with_sh_degree(4).with_sh_degree(2).shN, gaussians.shN)
    with pytest.raises(ValueError, match="0 to 4"):
        gaussians.with_sh_degree(5)


def test_random_obeys_seed_generator_and_bounds() -> None:
    box = torch.tensor([[1.0, 2, 3], [2, 4, 3]])
    a = Gaussians3D.random(100, seed=3, bounds=box)
    b = Gaussians3D.random(100, generator=torch.Generator().manual_seed(3), bounds=box)
    assert parameters_equal(a, b)
    assert not parameters_equal(a, Gaussians3D.random(100, seed=4, bounds=box))
    low, high = a.bounds()
    assert bool((low >= box[0]).all()) and bool((high <= box[1]).all())
    with pytest.raises(ValueError, match="both"):
        Gaussians3D.random(1, seed=0, generator=torch.Generator())
    with pytest.raises(ValueError, match="n: expected"):
        Gaussians3D.random(-1)
    with pytest.raises(ValueError, match="bounds"):
        Gaussians3D.random(1, bounds=box.flip(0))


def test_bounds_leave_out_what_is_not_finite() -> None:
    gaussians = Gaussians3D.random(10, seed=0)
    expected = gaussians.select(torch.arange(1, 10)).bounds()
    with torch.no_grad():
        gaussians.means[0, 1] = float("nan")
    assert torch.equal(gaussians.bounds(), expected)
    assert Gaussians3D.empty().bounds().tolist() == [[0.0] * 3] * 2


def test_from_points_takes_scale_from_three_neighbours() -> None:
    points = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3], [50, 50, 50]])
    colors = torch.tensor([[0, 128, 255]] * 5, dtype=torch.uint8)
    gaussians = Gaussians3D.from_points(points, colors, sh_degree=2, opacity=0.25)
    torch.testing.assert_close(gaussians.scales[0], torch.full((3,), 2.0))
    torch.testing.assert_close(gaussians.opacities, torch.full((5,), 0.25))
    torch.testing.assert_close(sh0_to_rgb(gaussians.sh0[:, 0]), colors / 255)
    assert torch.equal(gaussians.means, points) and not bool(gaussians.shN.any())
    assert gaussians.quats.tolist() == [[1, 0, 0, 0]] * 5
    floating = Gaussians3D.from_points(points, colors / 255, sh_degree=2, opacity=0.25)
    assert parameters_equal(floating, gaussians)


def test_from_points_with_duplicates_and_loners() -> None:
    place = torch.tensor([[0.0, 0, 0], [1, 0, 0]])
    doubled = Gaussians3D.from_points(place.repeat(40, 1))
    torch.testing.assert_close(doubled.scales, torch.ones(80, 3))
    alone = Gaussians3D.from_points(torch.zeros(7, 3))
    torch.testing.assert_close(alone.scales, torch.ones(7, 3))
    assert len(Gaussians3D.from_points(torch.zeros(0, 3))) == 0


def test_from_points_checks_its_arguments() -> None:
    points = torch.rand(4, 3)
    with pytest.raises(ValueError, match="colors"):
        Gaussians3D.from_points(points, torch.zeros(4, 3, dtype=torch.int32))
    with pytest.raises(ValueError, match="colors"):
        Gaussians3D.from_points(points, torch.zeros(3, 3))
    with pytest.raises(ValueError, match="opacity"):
        Gaussians3D.from_points(points, opacity=1.0)
    with pytest.raises(ValueError, match="finite"):
        Gaussians3D.from_points(points / 0)
    with pytest.raises(ValueError, match="n_points, 3"):
        Gaussians3D.from_points(torch.rand(4, 2))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("means", (5, 2)),
        ("quats", (5, 3)),
        ("log_scales", (4, 3)),
        ("opacity_logits", (5, 1)),
        ("sh0", (5, 3)),
        ("shN", (5, 2, 3)),
    ],
)
def test_constructor_names_the_wrong_tensor(name: str, shape: tuple[int, ...]) -> None:
    tensors = {
        "means": torch.zeros(5, 3),
        "quats": torch.zeros(5, 4),
        "log_scales": torch.zeros(5, 3),
        "opacity_logits": torch.zeros(5),
        "sh0": torch.zeros(5, 1, 3),
        "shN": torch.zeros(5, 3, 3),
    }
    with pytest.raises(ValueError, match=f"Gaussians3D: {name}"):
        Gaussians3D(**{**tensors, name: torch.zeros(shape)})
    with pytest.raises(ValueError, match=f"Gaussians3D: {name}"):
        Gaussians3D(**{**tensors, name: tensors[name].long()})


def test_point_cloud_checks_and_moves() -> None:
    cloud = PointCloud(torch.zeros(3, 3), torch.zeros(3, 3, dtype=torch.uint8), torch.ones(3, 3))
    assert len(cloud.to("cpu")) == 3 and cloud.bounds().shape == (2, 3)
    with pytest.raises(ValueError, match="colors"):
        PointCloud(torch.zeros(3, 3), torch.zeros(3, 3))
    with pytest.raises(ValueError, match="points"):
        PointCloud(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="normals"):
        PointCloud(torch.zeros(3, 3), None, torch.zeros(2, 3))
