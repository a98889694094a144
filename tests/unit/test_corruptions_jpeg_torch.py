from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.oracle.stand_in import random_tensor

from advbench_corruptions.jpeg import jpeg
from advbench_corruptions.jpeg_torch import jpeg_torch

DATA = Path(__file__).parents[3] / "shared" / "data"
ZERO, ONE = torch.zeros(1), torch.ones(1)


def agreement(x, quality, subsampling="4:2:0"):
    """Fractions of the values that are equal to Pillow's, and within one grey level."""
    expected = jpeg(x, ZERO, ONE, quality=quality, subsampling=subsampling)
    levels = ((jpeg_torch(x, quality, subsampling=subsampling) - expected) * 255).round().abs()
    return float((levels == 0).float().mean()), float((levels <= 1).float().mean())


def scene(count, channels, height, width):
    row, column = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    phase = random_tensor(count, channels, 1, 1, seed=4, high=6.0)
    wave = 0.5 + 0.4 * torch.sin(6 * row + 9 * column * row + phase)
    return (wave + 0.2 * random_tensor(count, channels, height, width, seed=5)).clamp(0, 1)


@pytest.mark.parametrize("quality", [1, 10, 50, 75, 95, 100])
@pytest.mark.parametrize("subsampling", ["4:2:0", "4:2:2", "4:4:4"])
def test_rgb_is_pillows(quality, subsampling):
    for height, width in ((32, 48), (33, 21), (7, 10), (1, 1)):  # also where sides are no multiple of a block
        equal, close = agreement(scene(3, 3, height, width), quality, subsampling)
        assert close == 1
        assert equal > 0.999


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_other_numbers_of_channels_are_grey_images(channels):
    for quality in (5, 40, 90):
        assert agreement(scene(3, channels, 28, 30), quality)[0] > 0.999


@pytest.mark.parametrize("folder", ["galaxy_gz1", "animals3"])
def test_real_images_are_pillows(folder):
    files = sorted((DATA / folder).rglob("*.jp*g"))[::30][:4]
    if not files:
        pytest.skip(f"no {folder} in ../shared/data")
    images = [np.asarray(Image.open(file).convert("RGB").resize((150, 101))) for file in files]
    x = torch.tensor(np.stack(images)).permute(0, 3, 1, 2) / 255
    for quality in (10, 50, 90):
        equal, close = agreement(x, quality)
        assert close > 0.9999
        assert equal > 0.999


def test_extremes():
    x = torch.stack([torch.zeros(3, 16, 16), torch.ones(3, 16, 16), scene(1, 3, 16, 16)[0].round()])
    for quality in (1, 50, 100):
        assert agreement(x, quality)[0] == 1


def test_units_are_those_of_the_bounds():
    x = scene(2, 3, 16, 24)
    lower, upper = (
        torch.tensor([-4.0, 0.0, 10.0]).view(1, 3, 1, 1),
        torch.tensor([50.0, 2.0, 11.0]).view(1, 3, 1, 1),
    )
    found = jpeg_torch(lower + x * (upper - lower), 60, lower=lower, upper=upper)
    expected = lower + jpeg_torch(x, 60) * (upper - lower)
    assert ((found - expected).abs() <= 1e-4 * (upper - lower)).float().mean() > 0.98


def test_hard_and_straight_through_have_the_same_values_and_soft_is_close():
    x = scene(2, 3, 24, 24)
    hard, through, soft = (jpeg_torch(x, 70, rounding=kind) for kind in ("hard", "straight-through", "soft"))
    assert torch.equal(hard, through)
    assert 0 < (soft - hard).abs().mean() < 0.02
    point = x.clone().requires_grad_()
    assert not jpeg_torch(point, 70, rounding="hard").requires_grad
    assert torch.allclose(jpeg_torch(point, 70).detach(), hard, atol=1e-6)


def test_the_gradient_straight_through_is_that_of_a_lossless_chain():
    """Without rounding everything but subsampling is its own inverse: for grey images the gradient is 1."""
    point = (0.3 + 0.4 * scene(2, 1, 21, 18)).requires_grad_()  # nothing reaches the bounds
    weight = random_tensor(2, 1, 21, 18, seed=8)
    (gradient,) = torch.autograd.grad((weight * jpeg_torch(point, 80)).sum(), point)
    inside = gradient[..., :16, :16] - weight[..., :16, :16]  # beyond, blocks are filled up by copies
    assert inside.abs().max() < 2e-3
    (colour,) = torch.autograd.grad(jpeg_torch(p := scene(1, 3, 16, 16).requires_grad_(), 30).sum(), p)
    assert colour.isfinite().all()
    assert (colour != 0).float().mean() > 0.5


def test_the_soft_gradient_vanishes_at_the_levels():
    point = torch.full((1, 1, 8, 8), 128 / 255, requires_grad=True)  # every coefficient is 0
    (gradient,) = torch.autograd.grad(jpeg_torch(point, 50, rounding="soft")[0, 0, 3, 3], point)
    assert gradient.abs().max() < 1e-6


def test_companions_inputs_and_dtype():
    x = scene(19, 3, 20, 20)
    before = x.clone()
    whole = jpeg_torch(x, 40)
    for rows in torch.arange(19).flip(0).split(7):
        assert torch.equal(jpeg_torch(x[rows], 40), whole[rows])
    assert torch.equal(x, before)
    assert jpeg_torch(x.double(), 40).dtype == torch.float64
