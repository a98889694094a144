from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from tests.oracle.stand_in import KeyedRng, classes, random_tensor, space_of

from advbench_corruptions.photometry import Brightness, Contrast, Gamma, Saturation

SHAPE = (3, 20, 24)
SPACE = space_of(SHAPE, [-4.0, 0.0, 10.0], [50.0, 1.0, 12.0])
LOW, HIGH = SPACE.bounds_like(torch.zeros(1, *SHAPE))
UNIT = random_tensor(4, *SHAPE)
X = LOW + UNIT * (HIGH - LOW)


def in_unit(corruption, x=X):
    return (corruption.corrupt(x, SPACE, KeyedRng(range(len(x)))) - LOW) / (HIGH - LOW)


def test_brightness_adds_a_part_of_the_range():
    for offset in (-0.2, 0.35):
        assert torch.allclose(in_unit(Brightness(offset=offset)), UNIT + offset, atol=1e-5)


def test_contrast_scales_about_the_mean_of_each_channel():
    found = in_unit(Contrast(factor=0.3))
    assert torch.allclose(found.mean((2, 3)), UNIT.mean((2, 3)), atol=1e-5)
    assert torch.allclose(found.std((2, 3)), 0.3 * UNIT.std((2, 3)), rtol=1e-4)
    assert in_unit(Contrast(factor=0)).std((2, 3)).max() < 1e-5


def test_saturation_is_pillows_with_luma():
    space = space_of(SHAPE)
    levels = (UNIT[:1] * 255).round()
    picture = Image.fromarray(levels[0].permute(1, 2, 0).to(torch.uint8).numpy())
    for factor in (0.0, 0.5, 1.5):
        expected = np.asarray(ImageEnhance.Color(picture).enhance(factor)).astype(float)
        found = Saturation(factor=factor, grey="luma").corrupt(levels / 255, space, KeyedRng([0])).clamp(0, 1)
        # Pillow rounds the grey level and the result.
        assert np.abs(found[0].permute(1, 2, 0).numpy() * 255 - expected).max() < 1.5


def test_saturation_pulls_channels_to_their_mean_in_units_of_their_ranges():
    found = in_unit(Saturation(factor=0.25))
    assert torch.allclose(found.mean(1), UNIT.mean(1), atol=1e-5)
    assert torch.allclose(found.std(1), 0.25 * UNIT.std(1), atol=1e-5)
    assert in_unit(Saturation(factor=0)).std(1).max() < 1e-5
    assert (
        Saturation(grey="luma").supports(space_of((5, 8, 8)), classes(2))
        == "grey: luma is for 3 channels, not 5"
    )


@pytest.mark.parametrize("gamma", [0.4, 1.7, 3.0])
def test_gamma_is_a_power_of_the_unit_range(gamma):
    found = in_unit(Gamma(gamma=gamma))
    assert torch.allclose(found, UNIT**gamma, atol=1e-5)
    ends = torch.cat([LOW, HIGH]).expand(2, *SHAPE)
    assert torch.allclose(
        in_unit(Gamma(gamma=gamma), ends), torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, *SHAPE)
    )
