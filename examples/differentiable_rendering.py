# SPDX-License-Identifier: Apache-2.0
"""Gradients through the renderer: finds the pose of a camera from the picture it took.

    python examples/differentiable_rendering.py

The renderer is differentiable in the splats, the pose and the intrinsics; here only the camera's
position is unknown, and plain Adam finds it.
"""

from __future__ import annotations

import torch

import fieldline as fl


def main(steps: int = 100) -> float:
    """Prints how far off the position is and returns the last distance."""
    splats = fl.Gaussians3D.random(2000, seed=1).requires_grad_(False)
    view = {"fov_y": 0.9, "width": 96, "height": 72}
    truth = fl.Camera.look_at((0.3, -3.0, 0.6), (0.0, 0.0, 0.0), **view)
    target = fl.render(splats, truth).rgb

    shift = torch.tensor([0.15, -0.1, 0.1], requires_grad=True)
    optimiser = torch.optim.Adam([shift], lr=0.01)
    for step in range(steps):
        pose = truth.world_to_camera.clone()
        pose[:3, 3] = pose[:3, 3] + shift
        camera = fl.Camera(pose, truth.K, truth.width, truth.height)
        loss = (fl.render(splats, camera).rgb - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 20 == 0:
            print(f"step {step}: loss {loss.item():.6f}, off by {shift.detach().norm():.4f}")
    return float(shift.detach().norm())


if __name__ == "__main__":
    main()
