# SPDX-License-Identifier: Apache-2.0
"""NerfAcc's module paths, over ours: its users' code runs after changing the package's name."""

from __future__ import annotations

import doctest
import importlib
import inspect
import subprocess
import sys

import pytest
import torch
from torch import Tensor

import fieldline
from fieldline.compat import _MODULES, nerfacc
from fieldline.compat.nerfacc.grid import _enlarge_aabb, _query, _ray_aabb_intersect

# Arguments of NerfAcc 0.5.3 (and of its repository since), in order.
SIGNATURES = {
    "volrend.rendering": "t_starts t_ends ray_indices n_rays rgb_sigma_fn rgb_alpha_fn render_bkgd "
    "expected_depths",
    "volrend.render_transmittance_from_alpha": "alphas packed_info ray_indices n_rays prefix_trans",
    "volrend.render_transmittance_from_density": "t_starts t_ends sigmas packed_info ray_indices "
    "n_rays prefix_trans",
    "volrend.render_weight_from_alpha": "alphas packed_info ray_indices n_rays prefix_trans",
    "volrend.render_weight_from_density": "t_starts t_ends sigmas packed_info ray_indices n_rays "
    "prefix_trans",
    "volrend.render_visibility_from_alpha": "alphas packed_info ray_indices n_rays early_stop_eps "
    "alpha_thre prefix_trans",
    "volrend.render_visibility_from_density": "t_starts t_ends sigmas packed_info ray_indices "
    "n_rays early_stop_eps alpha_thre prefix_trans",
    "volrend.accumulate_along_rays": "weights values ray_indices n_rays",
    "volrend.accumulate_along_rays_": "weights values ray_indices outputs",
    "scan.inclusive_sum": "inputs packed_info indices",
    "scan.exclusive_sum": "inputs packed_info indices",
    "scan.inclusive_prod": "inputs packed_info indices",
    "scan.exclusive_prod": "inputs packed_info indices",
    "pack.pack_info": "ray_indices n_rays",
    "pdf.importance_sampling": "intervals cdfs n_intervals_per_ray stratified",
    "pdf.searchsorted": "sorted_sequence values",
    "losses.distortion": "weights t_starts t_ends ray_indices n_rays",
    "cameras.opencv_lens_undistortion": "uv params eps iters",
    "cameras.opencv_lens_undistortion_fisheye": "uv params eps iters",
    "grid.ray_aabb_intersect": "rays_o rays_d aabbs near_plane far_plane miss_value",
    "grid.traverse_grids": "rays_o rays_d binaries aabbs near_planes far_planes step_size "
    "cone_angle traverse_steps_limit over_allocate rays_mask t_sorted t_indices hits",
    "grid._query": "x data base_aabb",
    "grid._enlarge_aabb": "aabb factor",
    "estimators.occ_grid.OccGridEstimator": "roi_aabb resolution levels",
    "estimators.occ_grid.OccGridEstimator.sampling": "self rays_o rays_d sigma_fn alpha_fn "
    "near_plane far_plane t_min t_max render_step_size early_stop_eps alpha_thre stratified "
    "cone_angle",
    "estimators.occ_grid.OccGridEstimator.update_every_n_steps": "self step occ_eval_fn occ_thre "
    "ema_decay warmup_steps n",
    "estimators.occ_grid.OccGridEstimator._update": "self step occ_eval_fn occ_thre ema_decay "
    "warmup_steps",
    "estimators.occ_grid.OccGridEstimator.mark_invisible_cells": "self K c2w width height "
    "near_plane chunk",
    "estimators.prop_net.PropNetEstimator": "optimizer scheduler",
    "estimators.prop_net.PropNetEstimator.sampling": "self prop_sigma_fns prop_samples num_samples "
    "n_rays near_plane far_plane sampling_type stratified requires_grad",
    "estimators.prop_net.PropNetEstimator.compute_loss": "self trans loss_scaler",
    "estimators.prop_net.PropNetEstimator.update_every_n_steps": "self trans requires_grad "
    "loss_scaler",
    "estimators.prop_net.get_proposal_requires_grad_fn": "target num_steps",
    "data_specs.RayIntervals": "vals packed_info ray_indices is_left is_right",
    "data_specs.RaySamples": "vals packed_info ray_indices is_valid",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures(name: str) -> None:
    path, wanted = name.split("."), SIGNATURES[name].split()
    cut = next(i for i in range(len(path), 0, -1) if _is_module(path[:i]))
    found = importlib.import_module("fieldline.compat.nerfacc." + ".".join(path[:cut]))
    for part in path[cut:]:
        found = getattr(found, part)
    # What is ours alone comes after.
    assert list(inspect.signature(found).parameters)[: len(wanted)] == wanted


def _is_module(path: list[str]) -> bool:
    return "nerfacc." + ".".join(path) in _MODULES["nerfacc"]


@pytest.mark.parametrize("name", [n for n in _MODULES["nerfacc"] if "." in n])
def test_examples(name: str) -> None:
    module = importlib.import_module(f"fieldline.compat.{name}")
    assert doctest.testmod(module, extraglobs={"torch": torch}).failed == 0


def test_top_level_names() -> None:
    names = (
        "inclusive_prod exclusive_prod inclusive_sum exclusive_sum pack_info "
        "render_visibility_from_alpha render_visibility_from_density render_weight_from_alpha "
        "render_weight_from_density render_transmittance_from_alpha "
        "render_transmittance_from_density accumulate_along_rays rendering importance_sampling "
        "searchsorted RayIntervals RaySamples ray_aabb_intersect traverse_grids OccGridEstimator "
        "PropNetEstimator __version__"
    )
    for name in names.split():
        assert hasattr(nerfacc, name) and name in nerfacc.__all__


SCRIPT = """
import fieldline
fieldline.compat.install("nerfacc")
import nerfacc
import nerfacc.volrend as volrend
from nerfacc.estimators.occ_grid import OccGridEstimator
from nerfacc.estimators.prop_net import PropNetEstimator, get_proposal_requires_grad_fn
from nerfacc.grid import _enlarge_aabb, ray_aabb_intersect, traverse_grids
from nerfacc.volrend import accumulate_along_rays_, render_weight_from_density, rendering
assert nerfacc.__version__ == "0.5.3" and nerfacc.volrend is volrend
assert OccGridEstimator is fieldline.OccupancyEstimator is nerfacc.OccGridEstimator
"""


def test_install() -> None:
    subprocess.run([sys.executable, "-c", SCRIPT], check=True)


def test_query_reads_the_innermost_grid() -> None:
    generator = torch.Generator().manual_seed(0)
    data = torch.rand(3, 4, 5, 6, generator=generator)
    base = torch.tensor([-1.0, 0.0, 1.0, 3.0, 2.0, 2.0])
    x = (torch.rand(500, 3, generator=generator) - 0.5) * 20 + torch.tensor([1.0, 1.0, 1.5])
    values, inside = _query(x, data, base)
    for point, value, found in zip(x, values, inside):
        expected = None
        for level in range(3):
            box = _enlarge_aabb(base, 2**level)
            if bool(((point >= box[:3]) & (point < box[3:])).all()):
                unit = (point - box[:3]) / (box[3:] - box[:3])
                cell = (unit * torch.tensor([4, 5, 6])).long().tolist()
                expected = data[level][tuple(cell)]
                break
        assert bool(found) == (expected is not None)
        assert float(value) == (0.0 if expected is None else float(expected))


def box_by_definition(o: Tensor, d: Tensor, box: Tensor) -> tuple[float, float, bool]:
    first, second = (box[:3] - o) / d, (box[3:] - o) / d
    near = float(torch.minimum(first, second).max())
    far = float(torch.maximum(first, second).min())
    return near, far, far > near and far > 0


def test_rays_meet_boxes() -> None:
    generator = torch.Generator().manual_seed(1)
    o = torch.rand(200, 3, generator=generator) * 4 - 2
    d = torch.nn.functional.normalize(torch.randn(200, 3, generator=generator), dim=-1)
    boxes = torch.stack([_enlarge_aabb(torch.tensor([-0.5] * 3 + [0.5] * 3), s) for s in (1, 2)])
    for function in (nerfacc.ray_aabb_intersect, _ray_aabb_intersect):
        t_mins, t_maxs, hits = function(o, d, boxes)
        for ray in range(200):
            for box in range(2):
                near, far, hit = box_by_definition(o[ray], d[ray], boxes[box])
                assert bool(hits[ray, box]) == hit
                if hit:
                    assert float(t_mins[ray, box]) == pytest.approx(near, abs=1e-5)
                    assert float(t_maxs[ray, box]) == pytest.approx(far, abs=1e-5)


def trained() -> tuple[nerfacc.OccGridEstimator, Tensor, Tensor]:
    """An estimator in training and some rays, as in NerfAcc's example scripts."""
    torch.manual_seed(0)
    estimator = nerfacc.OccGridEstimator(roi_aabb=[-1, -1, -1, 1, 1, 1], resolution=16, levels=2)
    estimator.train()
    for step in range(0, 64, 16):
        estimator.update_every_n_steps(
            step=step,
            occ_eval_fn=lambda x: (x.norm(dim=-1, keepdim=True) < 0.7).float(),
            occ_thre=1e-2,
        )
    origins = torch.nn.functional.normalize(torch.randn(100, 3), dim=-1) * 4
    return estimator, origins, torch.nn.functional.normalize(-origins + 0.2, dim=-1)


def test_a_training_loop() -> None:
    """The loop of NerfAcc's README, on a CPU."""
    estimator, rays_o, rays_d = trained()
    color = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.Adam([color], lr=0.1)

    def sigma_fn(t_starts: Tensor, t_ends: Tensor, ray_indices: Tensor) -> Tensor:
        x = rays_o[ray_indices] + rays_d[ray_indices] * (t_starts + t_ends)[:, None] / 2
        return 20.0 * (x.norm(dim=-1) < 0.7)

    def rgb_sigma_fn(
        t_starts: Tensor, t_ends: Tensor, ray_indices: Tensor
    ) -> tuple[Tensor, Tensor]:
        sigmas = sigma_fn(t_starts, t_ends, ray_indices)
        return torch.sigmoid(color).expand(len(sigmas), 3), sigmas

    target = torch.tensor([0.9, 0.5, 0.1])
    for _ in range(60):
        ray_indices, t_starts, t_ends = estimator.sampling(
            rays_o, rays_d, sigma_fn=sigma_fn, near_plane=0.2, far_plane=1e10,
            render_step_size=0.05, stratified=True, early_stop_eps=1e-4, alpha_thre=1e-2,
        )  # fmt: skip
        rgb, opacity, _, _ = nerfacc.rendering(
            t_starts, t_ends, ray_indices, n_rays=100, rgb_sigma_fn=rgb_sigma_fn
        )
        loss = (rgb - target * opacity.detach()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(torch.sigmoid(color), target, atol=0.05, rtol=0)


def test_the_early_terminated_test_loop() -> None:
    """NerfAcc's test-time loop: a few samples of each living ray, again and again; exactly."""
    estimator, rays_o, rays_d = trained()
    binaries, aabbs = estimator.binaries, estimator.aabbs
    expected = nerfacc.traverse_grids(rays_o, rays_d, binaries, aabbs, step_size=0.05)[1]
    near = torch.zeros(100)
    mask = torch.ones(100, dtype=torch.bool)
    found: list[tuple[Tensor, Tensor]] = []
    for _ in range(100):
        _, samples, near = nerfacc.traverse_grids(
            rays_o, rays_d, binaries, aabbs, near_planes=near, step_size=0.05,
            traverse_steps_limit=7, over_allocate=True, rays_mask=mask,
        )  # fmt: skip
        valid = samples.is_valid
        if not bool(valid.any()):
            break
        found.append((samples.ray_indices[valid], samples.vals[valid]))
        mask = torch.zeros(100, dtype=torch.bool).index_fill(0, samples.ray_indices[valid], True)
    rays = torch.cat([rays for rays, _ in found])
    order = rays.sort(stable=True)[1]
    assert torch.equal(rays[order], expected.ray_indices)
    assert torch.equal(torch.cat([t for _, t in found])[order], expected.vals)


def test_a_vdb_estimator_in_one_line() -> None:
    estimator, rays_o, rays_d = trained()
    fast = fieldline.VDBEstimator.from_estimator(estimator)
    for a, b in zip(
        *(e.sampling(rays_o, rays_d, render_step_size=0.05) for e in (estimator, fast))
    ):
        assert torch.equal(a, b) and len(a)
