# SPDX-License-Identifier: Apache-2.0
"""Plane sweep, semi-global aggregation, winners and consistency against plain torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import match_reference as reference
import pytest
import torch
from fieldline.cuda.match import ops
from op_harness import Case, Error, Inputs, parametrize
from torch import Tensor


def smooth_image(generator: torch.Generator, height: int, width: int) -> Tensor:
    """Texture of several sizes, int16; some pixels do not count."""
    coarse = torch.rand(1, 1, 2 + height // 4, 2 + width // 4, generator=generator)
    image = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0, 0]
    image = image + 0.3 * torch.rand(height, width, generator=generator)
    grey = (image.clamp(0, 1.3) / 1.3 * 1020).round().to(torch.int16)
    grey[: height // 3, : width // 4] = 500  # no texture
    return grey


def turned(angle: float, shift: float, focal: float, size: tuple[int, int]) -> Tensor:
    """The warp to a camera turned about the vertical and moved aside."""
    c, s = torch.cos(torch.tensor(angle)), torch.sin(torch.tensor(angle))
    K = torch.tensor([[focal, 0, size[1] / 2], [0, focal, size[0] / 2], [0, 0, 1]])
    turn = torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    move = torch.tensor([[shift], [0.1 * shift], [0.05]])
    return torch.cat([K @ turn @ torch.linalg.inv(K), K @ move], dim=1)


def sweep(
    generator: torch.Generator,
    size: tuple[int, int] = (21, 37),
    others: tuple[tuple[int, int], ...] = ((21, 37), (19, 40), (21, 37)),
    planes: int = 7,
    best: int = 2,
    prior: tuple[int, int] | None = None,
    prior_weight: float = 0.5,
    masks: bool = False,
    near: float = 0.5,
) -> Inputs:
    own = smooth_image(generator, *size)
    images = [smooth_image(generator, *other) for other in others]
    if masks:
        own[:5] = -1 - own[:5]
        for image in images:
            image[:, -7:] = -1 - image[:, -7:]
    warps = [turned(0.05 * (i - 1), 0.4 * (i + 0.5), 30.0, size) for i in range(len(others))]
    inputs: Inputs = {
        "reference": own,
        "neighbours": images,
        "warps": torch.stack(warps).double(),
        "inverse_depths": torch.linspace(0.02, near, planes, dtype=torch.float64),
        "best": best,
        "prior_weight": prior_weight,
    }
    if prior is not None:
        inputs["prior"] = torch.randint(
            0, 255, (*prior, planes), generator=generator, dtype=torch.uint8
        )
    return inputs


def costs_agree(
    outputs: list[Tensor], expected: list[Tensor], inputs: Inputs, dtype: torch.dtype
) -> None:
    """A rounding may go the other way: one sampled value in a thousand, and its windows' costs."""
    difference = (outputs[0].int() - expected[0].int()).abs()
    assert outputs[0].shape == expected[0].shape
    assert float((difference > 1).double().mean()) < 0.01
    assert int(difference.max()) <= 24


SWEEP = Case(
    name="sweep",
    op=ops.plane_sweep,
    reference=reference.plane_sweep,
    variants={
        "three": sweep,
        "one": partial(sweep, others=((24, 33),), best=1),
        "all": partial(sweep, best=3),
        "many_planes": partial(sweep, size=(9, 40), others=((9, 40),) * 4, planes=35, best=4),
        "prior": partial(sweep, prior=(11, 18)),
        "prior_odd": partial(sweep, prior=(5, 9), prior_weight=0.25),
        "masks": partial(sweep, masks=True),
        "behind": partial(sweep, near=50.0),
        "tiny": partial(sweep, size=(1, 1), others=((1, 1), (2, 1)), planes=3, best=1),
        "column": partial(sweep, size=(40, 1), others=((30, 2), (1, 30)), planes=4),
        "large": partial(sweep, size=(150, 170), others=((150, 170),) * 3, planes=33),
    },
    large=("large",),
    emulated=("three", "one", "prior", "masks", "behind", "tiny", "many_planes"),
    dtypes=(torch.float32,),
    compare=costs_agree,
    errors=(
        Error("dtype", {"reference": torch.zeros(21, 37)}, RuntimeError, "reference: expected dt"),
        Error("none", {"neighbours": []}, RuntimeError, "neighbours: expected 1 to 16"),
        Error("warps", {"warps": torch.zeros(2, 3, 4)}, RuntimeError, r"warps.*\[3, 3, 4\]"),
        Error("best", {"best": 4}, RuntimeError, "best: expected 1 to 3, got 4"),
        Error(
            "planes", {"inverse_depths": torch.ones(2)}, RuntimeError, "expected 3 to 256 planes"
        ),
        Error("weight", {"prior_weight": 1.5}, RuntimeError, "prior_weight: expected 0 to 1"),
        Error(
            "prior",
            {"prior": torch.zeros(4, 4, 6, dtype=torch.uint8)},
            RuntimeError,
            r"prior.*\[\*, \*, 7\]",
        ),
    ),
)


def volume(
    generator: torch.Generator, height: int = 9, width: int = 14, planes: int = 40, p2: int = 90
) -> Inputs:
    cost = torch.randint(0, 255, (height, width, planes), generator=generator, dtype=torch.uint8)
    return {"cost": cost, "guide": smooth_image(generator, height, width), "p1": 10, "p2": p2}


SGM = Case(
    name="sgm",
    op=ops.semi_global,
    reference=reference.semi_global,
    variants={
        "some": volume,
        "wide": partial(volume, height=4, width=23),
        "tall": partial(volume, height=23, width=4),
        "row": partial(volume, height=1, width=12),
        "column": partial(volume, height=12, width=1),
        "planes3": partial(volume, planes=3),
        "planes32": partial(volume, planes=32),
        "planes70": partial(volume, planes=70, height=6, width=7),
        "planes96": partial(volume, planes=96, height=6, width=7),
        "planes100": partial(volume, planes=100, height=6, width=7),
        "planes256": partial(volume, planes=256, height=4, width=5),
        "dear": partial(volume, p2=4000),
        "free": partial(volume, p2=10),
        "large": partial(volume, height=90, width=120, planes=48),
    },
    large=("large",),
    dtypes=(torch.float32,),
    errors=(
        Error("dtype", {"cost": torch.zeros(9, 14, 40)}, RuntimeError, "cost: expected dtype"),
        Error(
            "guide",
            {"guide": torch.zeros(9, 13, dtype=torch.int16)},
            RuntimeError,
            r"guide.*\[9, 14\], got \[9, 13\]",
        ),
        Error("order", {"p1": 91}, RuntimeError, "expected 0 <= p1 <= p2 <= 4000, got 91, 90"),
        Error("edge", {"edge": 0.0}, RuntimeError, "edge: expected a number in"),
    ),
)


def totals(
    generator: torch.Generator, height: int = 5, width: int = 30, planes: int = 37
) -> Inputs:
    total = torch.randint(0, 900, (height, width, planes), generator=generator, dtype=torch.int32)
    total[:, ::3] = 77  # ties
    if height:
        total[0, 0] = 0
        total[-1, 1, 0] = 0  # a winner at the end of the range
    cost = torch.randint(0, 255, (height, width, planes), generator=generator, dtype=torch.uint8)
    return {"total": total.to(torch.uint16), "cost": cost}


WINNER = Case(
    name="winner",
    op=ops.winner,
    reference=reference.winner,
    variants={
        "some": totals,
        "planes3": partial(totals, planes=3),
        "planes5": partial(totals, planes=5),
        "planes256": partial(totals, height=2, width=9, planes=256),
        "none": partial(totals, height=0),
        "large": partial(totals, height=120, width=100, planes=20),
    },
    large=("large",),
    dtypes=(torch.float32,),
    errors=(
        Error("dtype", {"total": torch.zeros(5, 30, 37)}, RuntimeError, "total: expected dtype"),
        Error(
            "shape",
            {"cost": torch.zeros(5, 30, 36, dtype=torch.uint8)},
            RuntimeError,
            r"cost.*\[5, 30, 37\]",
        ),
    ),
)


def depths(
    generator: torch.Generator,
    size: tuple[int, int] = (16, 22),
    other: tuple[int, int] = (14, 25),
    nothing: bool = False,
) -> Inputs:
    def depth(height: int, width: int) -> Tensor:
        d = 4 + 0.08 * torch.rand(height, width, generator=generator, dtype=torch.float64)
        d[::5, ::4] = 0
        d[::7, 1::5] = 2
        return d * (0 if nothing else 1)

    there = turned(0.1, 0.4, 30.0, size).double()
    # The way back of a warp (H, t) whose third row is that of a rigid motion.
    turn = torch.linalg.inv(there[:, :3])
    back = torch.cat([turn, -turn @ there[:, 3:]], dim=1)
    return {
        "depth": depth(*size),
        "neighbour_depth": depth(*other),
        "there": there,
        "back": back,
        "depth_tolerance": 0.05,
    }


def agreements_agree(
    outputs: list[Tensor], expected: list[Tensor], inputs: Inputs, dtype: torch.dtype
) -> None:
    """On a pixel's edge, float32 may ask the pixel beside."""
    difference = (outputs[0] - expected[0]).abs()
    assert float((difference > 1e-3).double().mean()) < 0.01


CONSISTENCY = Case(
    name="consistency",
    op=ops.consistency,
    reference=reference.consistency,
    variants={
        "some": depths,
        "small_neighbour": partial(depths, other=(3, 4)),
        "unknown": partial(depths, nothing=True),
        "one": partial(depths, size=(1, 1), other=(1, 1)),
    },
    dtypes=(torch.float32,),
    compare=agreements_agree,
    errors=(
        Error("dtype", {"depth": torch.zeros(4, 4).int()}, RuntimeError, "depth: expected dtype"),
        Error("warp", {"there": torch.zeros(3, 3)}, RuntimeError, r"there.*\[3, 4\]"),
        Error("zero", {"pixel_tolerance": 0.0}, RuntimeError, "expected numbers above 0"),
    ),
)


@parametrize([SWEEP, SGM, WINNER, CONSISTENCY])
def test_match(check: Callable[[], None]) -> None:
    check()


def test_consistency_sees_agreement_and_disagreement() -> None:
    """The variants above reach every branch."""
    inputs = {
        name: value.float() if isinstance(value, Tensor) else value
        for name, value in depths(torch.Generator().manual_seed(0)).items()
    }
    found = ops.consistency(**inputs)
    assert (found == -1).any() and (found == 0).any() and (found > 0.3).any()


def test_sweep_finds_the_plane_a_picture_lies_on() -> None:
    """A picture on a plane, seen from two places: that plane costs least nearly everywhere."""
    generator = torch.Generator().manual_seed(3)
    own = smooth_image(generator, 40, 60)
    own[:15, :20] = smooth_image(generator, 30, 40)[10:25, 10:30]
    warp = turned(0.0, 0.5, 40.0, (40, 60))
    w = 0.25  # shifts by 40 * 0.5 * 0.25 = 5 pixels across and half a pixel down
    plane = warp[:, :3].clone()
    plane[:, 2] += w * warp[:, 3]
    back = torch.cat([torch.linalg.inv(plane), torch.zeros(3, 1)], dim=1).double()
    other, _ = reference.warped(own, back, 0.0, (40, 60))
    planes = torch.linspace(0.05, 0.45, 9)
    cost = ops.plane_sweep(own, [other.to(torch.int16)], warp[None], planes, best=1)
    inner = cost[5:-5, 5:-12]
    assert float((inner.argmin(-1) == 4).double().mean()) > 0.97


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_broken_warps_and_depths_are_unseen(value: float) -> None:
    """What is not a number matches nothing, and reads nothing outside."""
    generator = torch.Generator().manual_seed(1)
    image = smooth_image(generator, 12, 20)
    cost = ops.plane_sweep(image, [image], torch.full((1, 3, 4), value), torch.ones(4), best=1)
    assert (cost == reference.UNSEEN).all()
    depth = torch.full((3, 4), value)
    warp = torch.eye(3, 4)
    found = ops.consistency(depth, torch.ones(3, 4), warp, warp)
    assert not found.isnan().any() and (found <= 0).all()
