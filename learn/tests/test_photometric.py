"""Colour changes against values computed by hand."""

import pytest
import torch
from gaussgym_learn.photometric import (
    PhotometricCfg,
    adjust_brightness,
    adjust_contrast,
    adjust_saturation,
    augment,
    blur,
    luma,
    rotate_hue,
)


def pixel(*rgb):
    return torch.tensor(rgb).view(1, 3, 1, 1)


def factor(value):
    return torch.full((1, 1, 1, 1), value)


def test_brightness_multiplies_and_is_limited():
    found = adjust_brightness(pixel(0.2, 0.5, 0.8), factor(1.4))
    assert torch.allclose(found, pixel(0.28, 0.7, 1.0))


def test_contrast_moves_away_from_the_mean_luma():
    image = torch.cat([pixel(0.2, 0.2, 0.2), pixel(0.6, 0.6, 0.6)], dim=3)  # mean luma 0.4
    found = adjust_contrast(image, factor(1.5))
    assert torch.allclose(found[0, :, 0], torch.tensor([[0.1, 0.7]] * 3))


def test_saturation_moves_away_from_the_pixels_luma():
    red = pixel(1.0, 0.0, 0.0)  # luma 0.299
    assert torch.allclose(adjust_saturation(red, factor(0.0)), pixel(0.299, 0.299, 0.299))
    assert torch.allclose(adjust_saturation(red, factor(0.5)), pixel(0.6495, 0.1495, 0.1495))


@pytest.mark.parametrize(
    ("turns", "wanted"), [(0.0, (1, 0, 0)), (1 / 3, (0, 1, 0)), (2 / 3, (0, 0, 1)), (-1 / 3, (0, 0, 1))]
)
def test_a_third_of_a_turn_takes_red_to_green_to_blue(turns, wanted):
    assert torch.allclose(
        rotate_hue(pixel(1.0, 0.0, 0.0), torch.tensor([turns])), pixel(*map(float, wanted)), atol=1e-6
    )


def test_hue_keeps_greys_and_the_sum_of_the_channels():
    g = torch.Generator().manual_seed(0)
    image, turns = torch.rand(4, 3, 5, 6, generator=g), torch.tensor([0.05, -0.03, 0.2, 0.5])
    found = rotate_hue(image, turns)
    assert torch.allclose(found.sum(1), image.sum(1), atol=1e-6)
    grey = image[:, :1].expand(-1, 3, -1, -1)
    assert torch.allclose(rotate_hue(grey, turns), grey, atol=1e-6)


def test_blur_spreads_a_point_and_keeps_a_flat_image():
    point = torch.zeros(1, 3, 5, 5)
    point[:, :, 2, 2] = 1.0
    wanted = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
    assert torch.allclose(blur(point, factor(1.0))[0, 1, 1:4, 1:4], wanted)
    half = torch.tensor([[1.0, 2, 1], [2, 20, 2], [1, 2, 1]]) / 32
    assert torch.allclose(blur(point, factor(0.5))[0, 0, 1:4, 1:4], half)
    assert torch.allclose(blur(torch.full((2, 3, 4, 4), 0.3), factor(1.0)), torch.tensor(0.3))


def test_the_same_generator_draws_the_same_and_each_frame_its_own():
    image = torch.rand(1, 3, 8, 9, generator=torch.Generator().manual_seed(1)).expand(16, -1, -1, -1)
    first, again = (augment(image, PhotometricCfg(), torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, augment(image, PhotometricCfg(), torch.Generator().manual_seed(6)))
    assert len({round(float(v), 6) for v in luma(first).mean((1, 2, 3))}) > 8
    assert first.min() >= 0
    assert first.max() <= 1


def test_nothing_changes_at_probability_zero_and_within_limits_otherwise():
    image = torch.rand(64, 3, 4, 4, generator=torch.Generator().manual_seed(1)) * 0.5 + 0.1
    assert torch.allclose(augment(image, PhotometricCfg(probability=0.0)), image, atol=1e-6)
    only = PhotometricCfg(probability=1.0, brightness=0.4, contrast=0, saturation=0, hue=0, blur=0)
    ratio = augment(image, only, torch.Generator().manual_seed(0)) / image
    assert 0.6 <= ratio.min() < 0.7
    assert 1.3 < ratio.max() <= 1.4 + 1e-6
    assert torch.allclose(ratio, ratio[:, :1, :1, :1].expand_as(ratio), atol=1e-5)
