# SPDX-License-Identifier: Apache-2.0
"""Binning: every tile in which a pixel centre sees a splat is listed, few others, nearest first."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial

import pytest
import splat_reference as reference
import torch
from fieldline.cuda.splat import ops
from op_harness import Case, Error, Inputs, parametrize
from torch import Tensor


def splats(
    generator: torch.Generator,
    M: int = 120,
    images: int = 2,
    tile_size: int = 16,
    tiles: tuple[int, int] = (5, 3),
    exact: bool = True,
    packed: bool = False,
    spread: float = 1.6,
    thin: bool = False,
) -> Inputs:
    """Splats of all shapes and opacities, in and around the image; some culled, some at one depth.

    The radii are those of the projection: they bound what is visible.
    """

    def random(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    size = torch.tensor(tiles) * tile_size
    means2d = (random(M, 2) - 0.5) * spread * size + size / 2
    angle = 2 * torch.pi * random(M)
    # Standard deviations; the projection's blur keeps the smallest over half a pixel.
    long = 0.55 + 30 * random(M) ** 3
    short = torch.full_like(long, 0.55) if thin else 0.55 + (long - 0.55) * random(M)
    c, s = angle.cos(), angle.sin()
    a = (c * long) ** 2 + (s * short) ** 2
    b = c * s * (long**2 - short**2)
    d = (s * long) ** 2 + (c * short) ** 2
    det = a * d - b * b
    opacities = 1.05 * random(M) ** 2
    extent = (2 * torch.log(255 * opacities).clamp(min=0)).sqrt().clamp(max=3.33)
    radii = torch.ceil(extent[:, None] * torch.stack([a, d], 1).sqrt()).int()
    radii[::9, 1] = 0
    depths = 10 * random(M)
    depths[::5] = 3.0
    inputs: Inputs = {
        "means2d": means2d,
        "radii": radii,
        "depths": depths,
        "n_images": images,
        "tile_size": tile_size,
        "tile_width": tiles[0],
        "tile_height": tiles[1],
    }
    if exact:
        conics = torch.stack([d, -b, a], 1) / det[:, None]
        inputs.update(conics=conics, opacities=opacities)
    if packed:
        image_ids = torch.randint(0, images, (M,), generator=generator, dtype=torch.int32)
        inputs["image_ids"] = image_ids.sort().values
    return inputs


def runs(flatten_ids: Tensor, offsets: Tensor) -> list[list[int]]:
    """Each tile's list."""
    starts = [*offsets.flatten().tolist(), flatten_ids.numel()]
    return [flatten_ids[a:b].tolist() for a, b in itertools.pairwise(starts)]


def compare(
    outputs: list[Tensor], expected: list[Tensor], inputs: Inputs, dtype: torch.dtype
) -> None:
    """Holds the lists to their promises; without conics there is one right answer."""
    counts, ids, offsets = outputs[:3]
    check_places(outputs)
    if "conics" not in inputs:
        for value, wanted in zip(outputs[:3], expected):
            assert torch.equal(value, wanted)
        return
    assert offsets.shape == expected[2].shape
    found, needed = runs(ids, offsets), runs(*expected[1:3])
    depths = inputs["depths"].float().tolist()
    for mine, wanted in zip(found, needed):
        assert set(wanted) <= set(mine)
        assert len(set(mine)) == len(mine)
        keys = [(depths[i], i) for i in mine]
        assert keys == sorted(keys)
    # An ellipse can pass between pixel centres: those tiles are listed in vain.
    assert ids.numel() <= 1.12 * expected[1].numel() + 3


def check_places(outputs: list[Tensor]) -> None:
    """The second listing of the pairs, splat by splat, fits the first."""
    counts, ids, _, slots, starts = (t.long() for t in outputs)
    M, P = len(counts), len(ids)
    assert torch.equal(counts, torch.bincount(ids, minlength=M))
    assert torch.equal(starts.diff(), counts)
    assert int(starts[0]) == 0 and int(starts[-1]) == P
    assert torch.equal(slots.sort().values, torch.arange(P))
    assert ((starts[ids] <= slots) & (slots < starts[ids + 1])).all()


CASES = [
    Case(
        name="bin",
        op=ops.bin_splats,
        reference=reference.bin_splats,
        variants={
            "exact": splats,
            "rectangle": partial(splats, exact=False),
            "packed": partial(splats, packed=True, images=3),
            "packed_rectangle": partial(splats, packed=True, images=3, exact=False),
            "thin": partial(splats, thin=True),
            "tiles8": partial(splats, tile_size=8),
            "tiles24": partial(splats, tile_size=24, tiles=(2, 3)),
            "tiles32": partial(splats, tile_size=32, tiles=(2, 1)),
            "tiles5": partial(splats, tile_size=5, tiles=(7, 7)),
            "far": partial(splats, spread=8.0),
            "many": partial(splats, M=20_000, images=1, tiles=(9, 6), spread=1.2),
            "no_splats": partial(splats, M=0),
            "no_images": partial(splats, M=0, images=0),
        },
        large=("many",),
        compare=compare,
        errors=(
            Error("radii", {"radii": torch.ones(120, 2)}, RuntimeError, "radii: expected dtype"),
            Error("depths", {"depths": torch.ones(3)}, RuntimeError, r"depths.*\[120\], got \[3\]"),
            Error("alone", {"opacities": None}, RuntimeError, "conics and opacities together"),
            Error("tile", {"tile_size": 0}, RuntimeError, "tile_size, tile_width.*>= 1"),
            Error("uneven", {"n_images": 7}, RuntimeError, "120 splats to divide into 7 images"),
            Error("image", {"image_ids": torch.full((120,), 2).int()}, RuntimeError, "image_ids"),
            Error(
                "grid", {"tile_width": 1 << 20, "tile_height": 1 << 20}, RuntimeError, "2.31 tiles"
            ),
        ),
    )
]


@parametrize(CASES)
def test_bin(check: Callable[[], None]) -> None:
    check()


@pytest.mark.parametrize("seed", range(8))
def test_no_visible_fragment_is_lost(seed: int) -> None:
    """Many shapes, in float32 as rendering runs: whatever a pixel sees is in its tile's list."""
    generator = torch.Generator().manual_seed(seed)
    inputs = splats(generator, M=200, images=1, tiles=(6, 4), thin=seed % 2 == 0)
    inputs = {
        name: value.float() if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in inputs.items()
    }
    bins = ops.bin_splats(**inputs)
    listed = torch.zeros(200, 24, dtype=torch.bool)
    for tile, ids in enumerate(runs(bins.flatten_ids, bins.offsets)):
        listed[ids, tile] = True
    seen = reference.tiles_reached(
        inputs["means2d"], inputs["conics"], inputs["opacities"], 16, 6, 4
    )
    # Just above the threshold, the radii themselves may be a rounding too short.
    seen &= (inputs["radii"] > 0).all(-1)[:, None]
    assert not (seen & ~listed).any()


def test_huge_splat_and_huge_coordinates() -> None:
    """What covers everything is in every tile; what lies far away is in none."""
    means2d = torch.tensor([[8.0, 8.0], [1e30, 0.0], [-1e30, 8.0], [8.0, 3e9]])
    radii = torch.tensor([[1 << 30, 1 << 30], [5, 5], [5, 5], [1 << 30, 7]], dtype=torch.int32)
    bins = ops.bin_splats(means2d, radii, torch.ones(4), 1, 16, 4, 3)
    assert bins.tiles_per_splat.tolist() == [12, 0, 0, 0]


def test_negative_and_equal_depths_sort() -> None:
    """Orthographic cameras may see negative depths; ties keep the splats' order."""
    depths = torch.tensor([1.0, -2.0, 0.0, -0.5, 1.0, -0.0, 0.0])
    means2d = torch.full((7, 2), 8.0)
    bins = ops.bin_splats(means2d, torch.full((7, 2), 2).int(), depths, 1, 16, 1, 1)
    assert bins.flatten_ids[:2].tolist() == [1, 3]
    assert sorted(bins.flatten_ids[2:5].tolist()) == [2, 5, 6]
    assert bins.flatten_ids[5:].tolist() == [0, 4]


@pytest.mark.parametrize("name", ["means2d", "depths", "conics", "opacities"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_broken_splats_disturb_no_other(name: str, value: float) -> None:
    """Projection culls them; listed all the same, they leave the others' lists as they were."""
    inputs = splats(torch.Generator().manual_seed(4), images=1)
    inputs["radii"][7] = 30
    without = {**inputs, "radii": inputs["radii"].clone()}
    without["radii"][7] = 0
    inputs[name] = inputs[name].clone()
    inputs[name][7] = value
    bins, wanted = ops.bin_splats(**inputs), ops.bin_splats(**without)
    check_places(list(bins))
    others = [
        [[i for i in ids if i != 7] for ids in runs(b.flatten_ids, b.offsets)]
        for b in (bins, wanted)
    ]
    assert others[0] == others[1]
