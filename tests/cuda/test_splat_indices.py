# SPDX-License-Identifier: Apache-2.0
"""The list of every (splat, pixel) that blends, whole and in ranges of batches."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import splat_reference as reference
import torch
from fieldline.cuda.splat import ops
from op_harness import Case, Error, Inputs, parametrize
from torch import Tensor

SIZE = (21, 14)


def scene(
    generator: torch.Generator,
    M: int = 50,
    images: int = 2,
    tile_size: int = 8,
    batches: tuple[int, int] = (0, 1),
    start: float = 1.0,
) -> Inputs:
    """Round splats of which no fragment lies near 1/255 or the stop."""

    def random(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    tiles = [-(-pixels // tile_size) for pixels in SIZE]
    inputs: Inputs = {"width": SIZE[0], "height": SIZE[1], "tile_size": tile_size}
    for _ in range(100):
        variance = 0.5 + 8 * random(M)
        conics = torch.stack([1 / variance, torch.zeros_like(variance), 1 / variance], 1)
        inputs.update(means2d=random(M, 2) * torch.tensor(SIZE), conics=conics, opacities=random(M))
        radii = torch.ceil(3.33 * variance.sqrt())[:, None].expand(M, 2).int()
        _, ids, offsets, *_ = reference.bin_splats(
            inputs["means2d"], radii, random(M), images, tile_size, *tiles
        )
        if reference.decision_margin(**inputs, bins=(offsets, ids)) > 3e-8:
            break
    else:
        raise AssertionError("no scene keeps its distance from the jumps")
    transmittances = torch.full((images, *reversed(SIZE)), start, dtype=torch.float64)
    return {
        **inputs,
        "offsets": offsets,
        "flatten_ids": ids,
        "range_start": batches[0],
        "range_end": batches[1],
        "transmittances": transmittances,
    }


CASES = [
    Case(
        name="indices",
        op=ops.indices_in_range,
        reference=reference.indices_in_range,
        variants={
            "first": scene,
            "all": partial(scene, tile_size=16, batches=(0, 100)),
            # Batches of four: the range cuts every list.
            "small_tiles": partial(scene, tile_size=2, images=1, batches=(1, 3), start=0.9),
            "empty_range": partial(scene, batches=(3, 3)),
            "beyond": partial(scene, batches=(50, 60)),
            "no_splats": partial(scene, M=0),
        },
        errors=(
            Error("start", {"transmittances": torch.ones(2, 3, 4)}, RuntimeError, "transmittances"),
            Error(
                "ids", {"flatten_ids": torch.ones(3)}, RuntimeError, "flatten_ids: expected dtype"
            ),
        ),
    )
]


@parametrize(CASES)
def test_indices(check: Callable[[], None]) -> None:
    check()


def test_lists_what_blending_blends() -> None:
    """Compositing the listed fragments gives the image that blend gives."""
    inputs = scene(torch.Generator().manual_seed(0), images=1, batches=(0, 100))
    splats, pixels, _ = ops.indices_in_range(**inputs)
    bins = (inputs["offsets"], inputs["flatten_ids"])
    geometry = [inputs[name] for name in ("means2d", "conics", "opacities")]
    colors = torch.rand(50, 3, dtype=torch.float64)
    image, _ = ops.blend(*geometry[:2], colors, geometry[2], *SIZE, 8, bins)
    canvas = torch.zeros(SIZE[0] * SIZE[1], 3, dtype=torch.float64)
    T = torch.ones(SIZE[0] * SIZE[1], dtype=torch.float64)
    centers = reference.pixel_centers(0, 0, *SIZE)
    for i, pixel in zip(splats.tolist(), pixels.tolist()):
        alpha = reference.tile_alphas(
            *(t[i : i + 1] for t in geometry), centers[pixel][None], 0.999
        ).squeeze()
        canvas[pixel] += T[pixel] * alpha * colors[i]
        T[pixel] *= 1 - alpha
    torch.testing.assert_close(canvas.reshape(image.shape), image)
