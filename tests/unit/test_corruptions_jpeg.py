from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from tests.oracle.stand_in import KeyedRng, classes, random_tensor, space_of

from advbench_corruptions.jpeg import JPEG


def compress(x, space=None, **parameters):
    space = space_of(tuple(x.shape[1:])) if space is None else space
    return JPEG(**parameters).corrupt(x, space, KeyedRng(range(len(x))))


def scene(count: int, channels: int, height: int = 32, width: int = 40):
    """Smooth structure plus some texture: what JPEG is made for."""
    row, column = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    phase = random_tensor(count, channels, 1, 1, seed=4, high=6.0)
    wave = 0.5 + 0.3 * torch.sin(6 * row + 9 * column * row + phase)
    return (wave + 0.1 * random_tensor(count, channels, height, width, seed=5)).clamp(0, 1)


def through_pillow(image, **options):
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="JPEG", **options)
    with Image.open(file) as decoded:
        return np.asarray(decoded)


@pytest.mark.parametrize("quality", [1, 10, 75, 100])
def test_rgb_is_what_pillow_writes_by_default(quality):
    x = scene(2, 3, 33, 21)  # sides that are no multiple of a block
    for image, found in zip(x, compress(x, quality=quality)):
        pixels = (image.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        expected = through_pillow(pixels, quality=quality)
        assert torch.equal((found.permute(1, 2, 0) * 255).round().to(torch.uint8), torch.tensor(expected))


def test_chroma_subsampling_is_handed_on():
    x = random_tensor(1, 3, 16, 16)
    pixels = (x[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
        expected = torch.tensor(through_pillow(pixels, quality=80, subsampling=subsampling))
        found = compress(x, quality=80, subsampling=subsampling)[0].permute(1, 2, 0)
        assert torch.equal((found * 255).round().to(torch.uint8), expected)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_other_numbers_of_channels_are_grey_images(channels):
    x = scene(2, channels)
    found = compress(x, quality=30)
    for sample in range(2):
        for channel in range(channels):
            pixels = (x[sample, channel] * 255).round().to(torch.uint8).numpy()
            expected = torch.tensor(through_pillow(pixels, quality=30))
            assert torch.equal((found[sample, channel] * 255).round().to(torch.uint8), expected)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_bounds_per_channel_decide_the_levels(channels):
    x = scene(2, channels)
    lower = [-4.0, 0.0, 10.0, -1.0, 0.5][:channels]
    upper = [50.0, 1.0, 11.0, 0.0, 100.0][:channels]
    space = space_of(tuple(x.shape[1:]), lower, upper)
    low, high = space.bounds_like(x)
    found = compress(low + x * (high - low), space, quality=60)
    expected = low + compress(x, quality=60) * (high - low)
    # Scaling forth and back can move a value across the edge between two levels.
    assert ((found - expected).abs() <= 1e-4 * (high - low)).float().mean() > 0.98
    assert (found >= low - 1e-5).all()
    assert (found <= high + 1e-5).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_fidelity_rises_with_quality(channels):
    x = scene(4, channels)
    errors = [(compress(x, quality=quality) - x).square().mean() for quality in (1, 10, 30, 50, 75, 90, 100)]
    psnr = [-10 * float(torch.log10(error)) for error in errors]
    assert psnr == sorted(psnr)
    assert psnr[0] < 22
    assert psnr[-1] > (45 if channels == 1 else 30)


def test_a_constant_of_eight_bits_survives_and_rounding_has_no_bias():
    grey = torch.full((1, 1, 16, 16), 77 / 255)
    assert torch.equal(compress(grey, quality=90), grey)
    x = random_tensor(8, 1, 32, 32)
    bias = (compress(x, quality=100) - x).mean() * 255
    assert bias.abs() < 0.05  # truncation instead of rounding would give -0.5


def test_results_are_repeatable_and_do_not_depend_on_companions():
    for channels in (2, 3):
        x = scene(11, channels)
        whole = compress(x, quality=20)
        assert torch.equal(whole, compress(x, quality=20))
        for rows in torch.arange(11).flip(0).split(3):
            assert torch.equal(compress(x[rows], quality=20), whole[rows])


def test_inputs_and_the_global_generator_are_left_alone():
    state = torch.get_rng_state()
    for channels, dtype in ((3, torch.float32), (5, torch.float32), (3, torch.float64)):
        x = scene(3, channels).to(dtype)
        original = x.clone()
        found = compress(x)
        assert (found.shape, found.dtype, found.device) == (x.shape, x.dtype, x.device)
        assert found.is_contiguous()
        assert torch.equal(x, original)
    assert torch.equal(torch.get_rng_state(), state)


def test_parameters():
    for quality in (0, 101, 50.5):
        with pytest.raises(ValidationError):
            JPEG(quality=quality)
    assert JPEG(quality=10).strength() == 10
    assert JPEG().supports(space_of((3, 8, 8)), classes(2)) is None
    assert JPEG().supports(space_of((5,)), classes(2)) == "JPEG needs images (c, h, w)"
