# SPDX-License-Identifier: Apache-2.0
"""Reduced images, alpha, and masks."""

from __future__ import annotations

import torch
from fieldline.datasets import View
from fieldline.engine.training.images import ImagePyramid
from small_scene import make_cameras


def pyramid_of(image: torch.Tensor, mask: torch.Tensor | None = None) -> ImagePyramid:
    camera = make_cameras(1, image.shape[1], image.shape[0])[0]
    return ImagePyramid([View("a", camera, image, mask=mask)], torch.device("cpu"))


def test_reduced_pixels_are_means_and_the_camera_follows() -> None:
    image = (torch.rand(32, 48, 3, generator=torch.Generator().manual_seed(0)) * 255).byte()
    view = pyramid_of(image).get(0, 2)
    means = image.float().reshape(16, 2, 24, 2, 3).mean((1, 3))
    assert torch.equal(view.colors, means.round().byte())
    assert (view.camera.width, view.camera.height) == (24, 16)
    assert view.mask is None
    assert view.alpha is None


def test_full_size_is_the_image_itself() -> None:
    image = (torch.rand(20, 30, 3, generator=torch.Generator().manual_seed(0)) * 255).byte()
    assert torch.equal(pyramid_of(image).get(0).colors, image)


def test_small_images_are_not_reduced_to_nothing() -> None:
    view = pyramid_of(torch.zeros(20, 10, 3, dtype=torch.uint8)).get(0, 8)
    assert view.colors.shape == (16, 10, 3)


def test_alpha_is_composited_before_any_background() -> None:
    image = torch.zeros(20, 20, 4, dtype=torch.uint8)
    image[..., 0] = 200
    image[..., 3] = 51
    view = pyramid_of(image).get(0)
    assert torch.equal(view.over(None)[0, 0], torch.tensor([40, 0, 0], dtype=torch.uint8))
    over = view.over(torch.tensor([1.0, 0.5, 0.0]))
    expected = torch.tensor([40 / 255 + 0.8, 0.4, 0.0])
    assert torch.allclose(over[0, 0], expected, atol=1e-6)


def test_transparent_pixels_do_not_bleed_into_reduced_ones() -> None:
    image = torch.zeros(32, 32, 4, dtype=torch.uint8)
    image[:, ::2] = torch.tensor([100, 100, 100, 255], dtype=torch.uint8)
    image[:, 1::2, :3] = 255
    view = pyramid_of(image).get(0, 2)
    assert view.alpha is not None
    assert view.alpha.unique().tolist() == [128]
    assert view.colors.unique().tolist() == [50]


def test_reduced_mask_needs_every_pixel() -> None:
    mask = torch.ones(32, 32, dtype=torch.bool)
    mask[5, 9] = False
    view = pyramid_of(torch.zeros(32, 32, 3, dtype=torch.uint8), mask).get(0, 2)
    assert view.mask is not None
    assert (~view.mask).nonzero().tolist() == [[2, 4]]


def test_mask_that_keeps_all_is_none() -> None:
    mask = torch.ones(16, 16, dtype=torch.bool)
    assert pyramid_of(torch.zeros(16, 16, 3, dtype=torch.uint8), mask).get(0).mask is None
