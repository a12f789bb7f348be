# SPDX-License-Identifier: Apache-2.0
"""Every instruction set that this machine has renders the same image and gradients.

The level is chosen once per process, so each runs in one of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = """
import sys
import torch
from safetensors.torch import save_file
from fieldline.cuda import library
from fieldline.cuda.splat import ops

torch.set_num_threads(1)
g = torch.Generator().manual_seed(5)
M, size = 400, (75, 41)
means = torch.rand(M, 2, generator=g) * torch.tensor(size)
sd = 0.6 + 6 * torch.rand(M, generator=g) ** 2
tilt = 0.6 * (torch.rand(M, generator=g) - 0.5)
conics = torch.stack([1 / sd**2, tilt / sd**2, 1 / sd**2], 1)
opacities = torch.rand(M, generator=g)
radii = torch.ceil(4 * sd)[:, None].expand(M, 2).int()
bins = ops.bin_splats(
    means, radii, torch.rand(M, generator=g), 1, 16, 5, 3, conics=conics, opacities=opacities
)
saved = {}
for D in (1, 3, 4, 7):
    colors = torch.rand(M, D, generator=g)
    probe = torch.zeros(M, 2)
    leaves = [t.requires_grad_() for t in (means, conics, colors, opacities, probe)]
    image, alpha = ops.blend(
        means, conics, colors, opacities, *size, 16, bins, means2d_abs=probe
    )
    weight = torch.rand(image.shape, generator=g)
    gradients = torch.autograd.grad([(image * weight).sum() + alpha.square().sum()], leaves)
    saved |= {f"{D}.image": image.detach(), f"{D}.alpha": alpha.detach()}
    saved |= {f"{D}.gradient{i}": t for i, t in enumerate(gradients)}
saved["isa"] = torch.tensor(library.ops().core_isa())
save_file(saved, sys.argv[1])
"""


def run(isa: str, folder: Path) -> dict[str, torch.Tensor]:
    path = folder / f"{isa}.safetensors"
    environment = {**os.environ, "FIELDLINE_ISA": isa}
    subprocess.run(
        [sys.executable, "-P", "-c", SCRIPT, str(path)], env=environment, check=True, timeout=120
    )
    return load_file(path)


@pytest.fixture(scope="module")
def best(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return run("best", tmp_path_factory.mktemp("isa"))


@pytest.mark.parametrize(("level", "isa"), [(0, "baseline"), (1, "avx2")])
def test_same_result(level: int, isa: str, best: dict[str, torch.Tensor], tmp_path: Path) -> None:
    if int(best["isa"]) <= level:
        pytest.skip(f"this machine has nothing beyond {isa}")
    lower = run(isa, tmp_path)
    assert int(lower.pop("isa")) == level
    for name, value in lower.items():
        scale = float(best[name].abs().max())
        error = float((value - best[name]).abs().max())
        assert error <= 3e-5 * scale, f"{name}: {error} of {scale}"
