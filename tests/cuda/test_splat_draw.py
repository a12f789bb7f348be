# SPDX-License-Identifier: Apache-2.0
"""``draw`` is ``shade``, ``bin_splats`` and ``blend`` one after the other: images to the last bit,
gradients but for the order of sums over cameras."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fieldline.cuda.splat import ops
from op_harness import HAS_CUDA, running_on
from torch import Tensor

B, C, N, WIDTH, HEIGHT, TILE = 2, 3, 40, 37, 22, 16
BACKENDS = ["cpu", "emulated", *(["cuda"] if HAS_CUDA else [])]


def scene(dtype: torch.dtype, device: torch.device, scenes: int | None) -> dict[str, Tensor]:
    """Splats before cameras; without a dimension of scenes where ``scenes`` is None."""
    generator = torch.Generator().manual_seed(5)

    def normal(*shape: int) -> Tensor:
        lead = () if scenes is None else (scenes,)
        value = torch.randn(*lead, *shape, generator=generator, dtype=torch.float64)
        return value.to(device, dtype)

    views = torch.eye(4, dtype=dtype, device=device).expand(*normal(C).shape, 4, 4).clone()
    views[..., :3, 3] = 0.1 * normal(C, 3) + torch.tensor([0.0, 0, 4]).to(views)
    K = torch.tensor([[30.0, 0, 18], [0, 30, 11], [0, 0, 1]], dtype=dtype, device=device)
    return {
        "means": normal(N, 3),
        "quats": normal(N, 4),
        "scales": (0.3 * normal(N, 3) - 1.5).exp(),
        "opacities": normal(N).sigmoid(),
        "coefficients": normal(N, 4, 3),
        "colors": normal(C, N, 5),
        "viewmats": views,
        "Ks": K.expand(*normal(C).shape, 3, 3),
        "per_camera": normal(C, N).sigmoid(),
    }


def separately(s: dict[str, Tensor], p: ops.Projection, harmonics: bool, shared: bool) -> Any:
    """The three operators; they know no scene without its dimension."""
    lift = [t if t.dim() == 4 else t[None] for t in (p.radii, p.means2d, p.conics)]
    radii, means2d, conics = (t.reshape(-1, t.shape[-1]) for t in lift)
    opacities = s["per_camera"]
    if shared:
        opacities = s["opacities"][..., None, :].expand(*p.depths.shape)
    opacities, depths = opacities.reshape(-1), p.depths.reshape(-1)
    colors = s["colors"]
    if harmonics:
        rows = [s["means"], s["viewmats"], s["coefficients"]]
        means, views, coefficients = (t if p.means2d.dim() == 4 else t[None] for t in rows)
        colors = ops.shade(1, means, views, coefficients, lift[0])
    tiles = (-(-WIDTH // TILE), -(-HEIGHT // TILE))
    images = means2d.shape[0] // N
    bins = ops.bin_splats(
        means2d, radii, depths, images, TILE, *tiles, conics=conics, opacities=opacities
    )
    colors = colors.reshape(-1, colors.shape[-1])
    return *ops.blend(means2d, conics, colors, opacities, WIDTH, HEIGHT, TILE, bins), bins


def together(s: dict[str, Tensor], p: ops.Projection, harmonics: bool, shared: bool) -> Any:
    """The one operator."""
    options: dict[str, Any] = {}
    if harmonics:
        options = {"degree": 1, "means": s["means"], "viewmats": s["viewmats"]}
    return ops.draw(
        p,
        s["opacities"] if shared else s["per_camera"],
        s["coefficients"] if harmonics else s["colors"],
        WIDTH,
        HEIGHT,
        TILE,
        **options,
    )


@pytest.mark.parametrize("shared", [False, True], ids=["per_camera", "shared"])
@pytest.mark.parametrize("harmonics", [False, True], ids=["colors", "harmonics"])
@pytest.mark.parametrize("scenes", [None, B], ids=["one", "batch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("backend", BACKENDS)
def test_draw_is_its_parts(
    backend: str, dtype: torch.dtype, scenes: int | None, harmonics: bool, shared: bool
) -> None:
    results = []
    with running_on(backend) as device:
        for function in (separately, together):
            s = {name: t.requires_grad_() for name, t in scene(dtype, device, scenes).items()}
            geometry = {name: s[name] for name in ("quats", "scales", "opacities")}
            p = ops.project(s["means"], s["viewmats"], s["Ks"], WIDTH, HEIGHT, **geometry)
            image, alpha, bins = function(s, p, harmonics, shared)
            seed = torch.linspace(-1, 1, image.numel(), dtype=dtype, device=device)
            loss = (image * seed.reshape(image.shape)).sum() + (alpha * alpha).sum()
            names = [n for n in s if n != "Ks"]
            found = torch.autograd.grad(loss, [s[n] for n in names], allow_unused=True)
            results.append(({"image": image, "alpha": alpha}, dict(zip(names, found)), bins))
    (outputs, gradients, bins), (mine, my_gradients, my_bins) = results
    for name, value in outputs.items():
        assert torch.equal(mine[name].reshape(value.shape), value), name
    for name in ("tiles_per_splat", "flatten_ids", "offsets", "slots", "starts"):
        assert torch.equal(getattr(my_bins, name), getattr(bins, name)), name
    for name, value in gradients.items():
        assert (value is None) == (my_gradients[name] is None), name
        if value is not None:
            # Sums over cameras are taken in another order.
            close = 0 if name not in ("means", "opacities", "viewmats") else 1e-5
            torch.testing.assert_close(my_gradients[name], value, rtol=close, atol=close)


def test_slots_are_made_only_for_gradients() -> None:
    s = scene(torch.float32, torch.device("cpu"), None)
    geometry = {name: s[name] for name in ("quats", "scales", "opacities")}
    p = ops.project(s["means"], s["viewmats"], s["Ks"], WIDTH, HEIGHT, **geometry)
    bins = together(s, p, True, True).bins
    assert bins.slots.numel() == 0 and bins.flatten_ids.numel() == bins.starts[-1] > 0


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"opacities": torch.ones(3)}, "opacities: expected shape"),
        ({"colors": torch.ones(C, N + 1, 3)}, "colors: expected shape"),
        ({"tile_size": 65}, "tile_size: expected 1 to 64"),
        ({"degree": 1}, "means, viewmats: expected both"),
        ({"width": 0}, "width, height: expected 1 to"),
    ],
)
def test_errors(change: dict[str, Any], match: str) -> None:
    s = scene(torch.float32, torch.device("cpu"), None)
    geometry = {name: s[name] for name in ("quats", "scales", "opacities")}
    p = ops.project(s["means"], s["viewmats"], s["Ks"], WIDTH, HEIGHT, **geometry)
    arguments: dict[str, Any] = {
        "opacities": s["opacities"],
        "colors": s["colors"],
        "width": WIDTH,
        "height": HEIGHT,
        "tile_size": TILE,
    }
    with pytest.raises(RuntimeError, match=match):
        ops.draw(p, **{**arguments, **change})
