# SPDX-License-Identifier: Apache-2.0
"""Blending and its gradients, against a compositor that takes one splat at a time.

Alpha jumps at 1/255 and blending at the stop, and the cap has a corner. The scenes are drawn until
no fragment lies near any of these, so that finite differences and float32 are comparable.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import splat_reference as reference
import torch
from fieldline.cuda.splat import ops
from op_harness import Case, Error, Inputs, parametrize, running_on
from torch import Tensor

MARGIN = 3e-8  # of values: float32 rounds alphas near 1/255 by less
WIDE_MARGIN = 1e-6  # of finite differences with steps of 1e-7


def draw(
    generator: torch.Generator, M: int, size: tuple[int, int], spread: float
) -> dict[str, Tensor]:
    """Splats over the image; some nearly opaque, so that the cap and the stop are reached."""

    def random(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    means2d = (random(M, 2) * 1.2 - 0.1) * torch.tensor(size)
    long = 0.6 + spread * random(M) ** 2
    short = 0.6 + (long - 0.6) * random(M)
    angle = 2 * torch.pi * random(M)
    c, s = angle.cos(), angle.sin()
    a, d = (c * long) ** 2 + (s * short) ** 2, (s * long) ** 2 + (c * short) ** 2
    b = c * s * (long**2 - short**2)
    det = a * d - b * b
    opacities = random(M) ** 2
    opacities[::4] = 0.9 + 0.1 * random(len(opacities[::4]))
    return {
        "means2d": means2d,
        "conics": torch.stack([d, -b, a], 1) / det[:, None],
        "opacities": opacities,
        "depths": random(M),
        "radii": torch.ceil(3.33 * torch.stack([a, d], 1).sqrt()).int(),
    }


def lists(
    splats: dict[str, Tensor], images: int, tile_size: int, size: tuple[int, int]
) -> ops.Bins:
    tiles = [-(-pixels // tile_size) for pixels in size]
    return ops.bin_splats(
        splats["means2d"],
        splats["radii"],
        splats["depths"],
        images,
        tile_size,
        *tiles,
        conics=splats["conics"],
        opacities=splats["opacities"],
    )


def scene(
    generator: torch.Generator,
    M: int = 60,
    D: int = 3,
    images: int = 1,
    size: tuple[int, int] = (44, 27),
    tile_size: int = 16,
    alpha_cap: float = 0.999,
    spread: float = 5.0,
    margin: float = MARGIN,
    background: bool = False,
    masked: bool = False,
    absgrad: bool = False,
    plain: bool = False,
) -> Inputs:
    """Splats and their lists; ``plain`` passes only what gsplat passes: offsets and ids."""
    settings = {"width": size[0], "height": size[1], "tile_size": tile_size, "alpha_cap": alpha_cap}
    for _ in range(200):
        splats = draw(generator, M, size, spread)
        bins = lists(splats, images, tile_size, size)
        geometry = {name: splats[name] for name in ("means2d", "conics", "opacities")}
        inputs: Inputs = {**geometry, **settings, "bins": bins}
        if margin == 0 or reference.decision_margin(**inputs) > margin:
            break
    else:
        raise AssertionError("no scene keeps its distance from the jumps")
    inputs["colors"] = torch.randn(M, D, generator=generator, dtype=torch.float64)
    if plain:
        inputs["bins"] = (bins.offsets, bins.flatten_ids)
    if background:
        inputs["backgrounds"] = torch.randn(images, D, generator=generator, dtype=torch.float64)
    if masked:
        inputs["masks"] = torch.rand(bins.offsets.shape, generator=generator) < 0.6
    if absgrad:
        inputs["means2d_abs"] = torch.zeros(M, 2, dtype=torch.float64)
    return inputs


everything = partial(
    scene, images=2, M=80, D=3, background=True, masked=True, absgrad=True, alpha_cap=0.99
)
tiny = partial(scene, M=6, size=(19, 13), tile_size=8, spread=2.5, margin=WIDE_MARGIN)
CASES = [
    Case(
        name="blend",
        op=ops.blend,
        reference=reference.blend,
        variants={
            "everything": everything,
            "plain": partial(scene, plain=True, images=2),
            "background": partial(scene, background=True),
            "masked": partial(scene, masked=True),
            "masked_background": partial(scene, masked=True, background=True),
            "absgrad": partial(scene, absgrad=True),
            "tiles8": partial(scene, tile_size=8),
            "tiles24": partial(scene, tile_size=24, size=(61, 30)),
            "tiles32": partial(scene, tile_size=32, size=(70, 40), absgrad=True),
            "tiles5": partial(scene, tile_size=5, size=(23, 17)),
            "tiles4": partial(scene, tile_size=4, size=(7, 5), M=140, spread=8.0),
            "tiles1": partial(scene, tile_size=1, size=(3, 2), M=90, spread=8.0),
            "one_pixel": partial(scene, size=(1, 1), M=20),
            "deep": partial(scene, M=300, size=(20, 17), spread=8.0),
            **{f"channels{D}": partial(scene, D=D, M=25, size=(20, 18), background=True)
               for D in (1, 2, 4, 5, 16, 32, 64, 65, 100)},
            "tiny": tiny,
            "tiny_background": partial(tiny, background=True, D=2),
            "tiny_masked": partial(tiny, masked=True, D=5),
            "tiny_deep": partial(tiny, M=24, size=(6, 5)),
            "many": partial(scene, M=4000, size=(150, 90), D=4, images=2, absgrad=True, margin=0),
            "many_channels": partial(scene, M=3000, size=(100, 80), D=9, margin=0, plain=True),
            "no_splats": partial(scene, M=0, background=True),
            "no_images": partial(scene, M=0, images=0),
        },
        differentiable=("means2d", "conics", "colors", "opacities", "backgrounds", "means2d_abs"),
        gradcheck=("tiny", "tiny_background", "tiny_masked", "tiny_deep"),
        step=1e-7,
        large=("many", "many_channels"),
        emulated_gradcheck=("tiny_background",),
        tolerance={torch.float32: 1e-5, torch.float64: 1e-12},
        gradient_tolerance={torch.float32: 1e-4, torch.float64: 1e-10},
        errors=(
            Error("means", {"means2d": torch.ones(80, 3)}, RuntimeError, r"means2d.*\[M, 2\]"),
            Error("conics", {"conics": torch.ones(80, 2)}, RuntimeError, r"conics.*\[80, 3\]"),
            Error("colors", {"colors": torch.ones(79, 3)}, RuntimeError, r"colors.*\[80, D\]"),
            Error("channels", {"colors": torch.ones(80, 0)}, RuntimeError, r"colors.*\[80, D\]"),
            Error("dtype", {"opacities": torch.ones(80).half()}, RuntimeError, "opacities.*type"),
            Error("background", {"backgrounds": torch.ones(2, 4)}, RuntimeError, "backgrounds"),
            Error("masks", {"masks": torch.ones(2, 2, 3).int()}, RuntimeError, "masks.*dtype"),
            Error("size", {"height": 0}, RuntimeError, "width, height: expected 1 to"),
            Error("tile", {"tile_size": 65}, RuntimeError, "tile_size: expected 1 to 64"),
            Error("grid", {"width": 200}, RuntimeError, "offsets: expected shape"),
        ),
    )
]  # fmt: skip


@parametrize(CASES)
def test_blend(check: Callable[[], None]) -> None:
    check()


def one_tile(*ids: int) -> tuple[Tensor, Tensor]:
    return torch.zeros(1, 1, 1, dtype=torch.int32), torch.tensor(ids, dtype=torch.int32)


def flat(opacities: list[float], alpha_cap: float = 0.999) -> tuple[list[float], float]:
    """Blends splats that are flat over one pixel; what each colour contributes, and alpha."""
    M = len(opacities)
    render, alpha = ops.blend(
        torch.full((M, 2), 0.5, dtype=torch.float64),
        torch.tensor([[1.0, 0, 1]], dtype=torch.float64).repeat(M, 1),
        torch.eye(M, dtype=torch.float64),
        torch.tensor(opacities, dtype=torch.float64),
        *(1, 1, 1),
        one_tile(*range(M)),
        alpha_cap=alpha_cap,
    )
    return render.flatten().tolist(), alpha.item()


def test_front_to_back_by_hand() -> None:
    weights, alpha = flat([0.5, 0.25, 1.0])
    assert weights == pytest.approx([0.5, 0.125, 0.375 * 0.999])
    assert alpha == pytest.approx(1 - 0.375 * 0.001)


@pytest.mark.parametrize("cap", [0.99, 0.999])
def test_cap(cap: float) -> None:
    assert flat([1.0], cap)[0] == pytest.approx([cap])


def test_alpha_below_one_in_255_is_skipped() -> None:
    assert flat([0.0039, 0.5])[0] == pytest.approx([0, 0.5])
    assert flat([0.00393, 0.5])[0] == pytest.approx([0.00393, 0.5 * 0.99607])


def test_stops_before_the_splat_that_would_end_transmittance() -> None:
    """0.01 * 0.01 = 1e-4: the second may not blend, nor what lies behind it."""
    weights, alpha = flat([0.99, 0.99 + 1e-9, 0.5])
    assert weights == pytest.approx([0.99, 0, 0])
    assert alpha == pytest.approx(0.99)
    assert flat([0.99, 0.9899, 0.5])[0][1] == pytest.approx(0.01 * 0.9899)


@pytest.mark.parametrize(
    ("offsets", "ids", "match"),
    [
        ([[[0, 2]]], [0, 1, 5], "flatten_ids: expected 0 to 1, got 5"),
        ([[[0, 2]]], [0, -1, 1], "flatten_ids: expected 0 to 1, got -1"),
        ([[[2, 1]]], [0, 1, 1], "offsets: expected values rising"),
        ([[[0, 9]]], [0, 1, 1], "offsets: expected values rising"),
        ([[[-1, 0]]], [0, 1, 1], "offsets: expected values rising"),
    ],
)
def test_lists_that_point_outside_are_refused(
    offsets: list[list[list[int]]], ids: list[int], match: str
) -> None:
    bins = (torch.tensor(offsets).int(), torch.tensor(ids).int())
    ones = torch.ones(2, 3)
    with pytest.raises(RuntimeError, match=match):
        ops.blend(torch.ones(2, 2), ones, ones, torch.ones(2), 32, 16, 16, bins)


def test_pairs_before_the_first_tile_count_for_nothing() -> None:
    """Lists may begin later than at their first entry: what precedes it is in no tile."""
    for backend in ("cpu", "emulated"):
        with running_on(backend):
            colors = torch.ones(2, 3, requires_grad=True)
            image, _ = ops.blend(
                torch.full((2, 2), 4.0),
                torch.tensor([[0.1, 0, 0.1]]).repeat(2, 1),
                colors,
                torch.full((2,), 0.5),
                *(8, 8, 8),
                (torch.ones(1, 1, 1, dtype=torch.int32), torch.arange(2, dtype=torch.int32)),
            )
            image.sum().backward()
            assert colors.grad is not None and colors.grad[0].abs().sum() == 0
            assert colors.grad[1].min() > 0


def test_broken_splats_do_not_poison_the_tile() -> None:
    """What projection would have culled, listed all the same: the others blend as without it."""
    inputs = scene(torch.Generator().manual_seed(3), M=30, size=(16, 16))
    inputs["bins"] = one_tile(*range(30))
    for name in ("means2d", "conics", "opacities"):
        for dtype in (torch.float32, torch.float64):
            good = {n: t.to(dtype) if n in GEOMETRY else t for n, t in inputs.items()}
            bad = {**good, name: good[name].clone()}
            good["opacities"] = good["opacities"].clone()
            good["opacities"][7] = 0
            bad[name][7] = torch.nan
            for value, wanted in zip(ops.blend(**bad), ops.blend(**good)):
                assert torch.equal(value, wanted)


GEOMETRY = ("means2d", "conics", "opacities", "colors")
