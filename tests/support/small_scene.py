# SPDX-License-Identifier: Apache-2.0
"""A scene small enough to train on in a second: pictures of known Gaussians."""

from __future__ import annotations

import math

import torch
from fieldline.datasets import Scene, View

import fieldline as fl

WIDTH, HEIGHT = 40, 32


def make_cameras(count: int, width: int = WIDTH, height: int = HEIGHT) -> list[fl.Camera]:
    cameras = []
    for i in range(count):
        angle = 2 * math.pi * i / count
        eye = (3 * math.cos(angle), 3 * math.sin(angle), 1.0 + 0.5 * (i % 3))
        cameras.append(fl.Camera.look_at(eye, (0, 0, 0), fov_y=0.8, width=width, height=height))
    return cameras


def make_truth() -> fl.Gaussians3D:
    return fl.Gaussians3D.random(150, sh_degree=0, seed=3, scale=(0.1, 0.2))


def picture(truth: fl.Gaussians3D, camera: fl.Camera, alpha: bool = False) -> torch.Tensor:
    with torch.no_grad():
        output = fl.render(truth, camera)
    rgb = output.rgb.clamp(0, 1)
    if alpha:
        straight = rgb / output.alpha.clamp(min=1e-3)[..., None]
        rgb = torch.cat((straight.clamp(0, 1), output.alpha[..., None]), dim=-1)
    return (rgb * 255).round().to(torch.uint8)


def make_scene(count: int = 16, alpha: bool = False, points: bool = True, **options) -> Scene:
    truth = make_truth()
    views = [
        View(f"view_{i}", camera, picture(truth, camera, alpha))
        for i, camera in enumerate(make_cameras(count))
    ]
    if points:
        generator = torch.Generator().manual_seed(0)
        noise = 0.05 * torch.randn(truth.means.shape, generator=generator)
        options = {"points": truth.means.detach() + noise, **options}
    return Scene(views, **options)
