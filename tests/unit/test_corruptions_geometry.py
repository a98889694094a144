from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import fourier_shift, gaussian_filter, map_coordinates
from scipy.ndimage import rotate as scipy_rotate
from tests.oracle.stand_in import KeyedRng, random_tensor, space_of

from advbench_corruptions.elastic import Elastic, elastic, smooth_field
from advbench_corruptions.rotation import Rotation, rotate
from advbench_corruptions.shift import SubpixelShift, Translation, shift_matrix, subpixel_shift
from advbench_corruptions.warp import pixels, warp

ZERO = torch.zeros(1, 1, 1, 1)
SHAPE = (2, 31, 31)
SPACE = space_of(SHAPE, -4.0, 50.0)
X = random_tensor(4, *SHAPE, low=-4, high=50)


def smooth(count, channels, height, width):
    noise = random_tensor(count, channels, height, width, seed=9).numpy()
    return torch.tensor(gaussian_filter(noise, 2.5, axes=(2, 3), mode="wrap"))


def real_image():
    files = sorted((Path(__file__).parents[3] / "shared/data/galaxy_gz1").rglob("*.jp*g"))
    if not files:
        pytest.skip("no galaxy_gz1 in ../shared/data")
    return np.asarray(Image.open(files[0]).convert("L").crop((150, 150, 250, 250)), dtype=np.float32) / 255


@pytest.mark.parametrize("turns", [1, 2, 3])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_right_angles_move_pixels(turns, interpolation):
    angle = torch.full((4,), turns * math.pi / 2)
    found = rotate(X, angle, fill=ZERO, interpolation=interpolation)
    assert (found - torch.rot90(X, turns, (2, 3))).abs().max() < 5e-4  # of a range of 54


@pytest.mark.parametrize("degrees", [7.0, -33.0])
def test_a_rotated_galaxy_is_scipys_and_pillows(degrees):
    image = real_image()
    angle = torch.tensor([math.radians(degrees)])
    found = rotate(torch.tensor(image)[None, None], angle, fill=ZERO)[0, 0].numpy()
    assert np.abs(found - scipy_rotate(image, degrees, reshape=False, order=1, mode="reflect")).max() < 1e-4
    pillow = np.asarray(Image.fromarray(image).rotate(degrees, Image.Resampling.BILINEAR))
    inside = slice(25, 75)
    assert np.abs(found - pillow)[inside, inside].max() < 1e-3


def test_sense_and_border_of_a_rotation():
    left, right = (
        Rotation(angle=20, sense=s).corrupt(X, SPACE, KeyedRng(range(4))) for s in ("left", "right")
    )
    drawn = Rotation(angle=20).corrupt(X, SPACE, KeyedRng(range(4)))
    for one, a, b in zip(drawn, left, right):
        assert torch.equal(one, a) or torch.equal(one, b)
    many = Rotation(angle=20).corrupt(X[:1].expand(20, -1, -1, -1), SPACE, KeyedRng(range(20)))
    assert 3 <= sum(torch.equal(one, left[0]) for one in many) <= 17
    constant = Rotation(angle=45, border="constant").corrupt(
        torch.full_like(X, 9.0), SPACE, KeyedRng(range(4))
    )
    assert torch.allclose(constant[..., 0, 0], torch.tensor(-4.0))
    assert torch.allclose(constant[..., 15, 15], torch.tensor(9.0))


@pytest.mark.parametrize(
    ("angle", "down", "right"), [(0, 0, 3), (90, -3, 0), (180, 0, -3), (270, 3, 0), (45, -2, 2)]
)
def test_whole_pixels_are_moved_exactly(angle, down, right):
    found = Translation(distance=3, angle=angle, border="constant").corrupt(X, SPACE, KeyedRng(range(4)))
    rolled = torch.roll(X, (down, right), (2, 3))
    row, column = pixels(31, 31, X.device)
    known = (row - down >= 0) & (row - down < 31) & (column - right >= 0) & (column - right < 31)
    assert torch.equal(found, torch.where(known, rolled, -4.0))
    edge = Translation(distance=3, angle=angle, border="edge").corrupt(X, SPACE, KeyedRng(range(4)))
    rows, columns = (row - down).clamp(0, 30).long(), (column - right).clamp(0, 30).long()
    assert torch.equal(edge, X[:, :, rows, columns])


def test_directions_are_drawn_for_each_sample():
    many = Translation(distance=5).corrupt(X[:1].expand(40, -1, -1, -1), SPACE, KeyedRng(range(40)))
    assert len({tuple(image.flatten().tolist()) for image in many}) > 10


@pytest.mark.parametrize(("interpolation", "order"), [("bilinear", 1), ("bicubic", None), ("fourier", None)])
def test_shifts_equal_scipy_or_the_analytic_wave(interpolation, order):
    down, right = torch.tensor([0.4, -1.3]), torch.tensor([-0.25, 2.6])
    x = smooth(2, 1, 40, 36)
    found = subpixel_shift(x, down, right, interpolation=interpolation)
    for image, shifted, dy, dx in zip(x[:, 0], found[:, 0], down, right):
        if order is not None:
            place = np.meshgrid(np.arange(40) - dy.item(), np.arange(36) - dx.item(), indexing="ij")
            expected = map_coordinates(image.numpy(), place, order=order, mode="reflect")
            assert np.abs(shifted.numpy() - expected).max() < 1e-5
        else:  # away from the borders the image is band-limited: the Fourier shift of scipy is exact
            spectrum = fourier_shift(np.fft.fft2(image.numpy()), (dy.item(), dx.item()))
            expected = np.fft.ifft2(spectrum).real[6:-6, 6:-6]
            tolerance = {"fourier": 3e-3, "bicubic": 6e-3}[interpolation]
            assert np.abs(shifted.numpy()[6:-6, 6:-6] - expected).max() < tolerance


def test_a_fourier_shift_of_a_cosine_is_exact_to_the_border():
    place = torch.arange(24).double() + 0.5
    for waves in (0, 1, 5, 23):
        wave = torch.cos(math.pi * waves * place / 24)
        moved = torch.cos(math.pi * waves * (place - 0.37) / 24)
        found = shift_matrix(24, torch.tensor([0.37]), interpolation="fourier")[0, 0] @ wave
        assert (found - moved).abs().max() < 1e-7  # 0.37 is a float32


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "fourier"])
def test_constants_and_whole_shifts(interpolation):
    shift = torch.tensor([0.3, -7.0, 100.2])
    assert torch.allclose(
        shift_matrix(9, shift, interpolation=interpolation).sum(-1), torch.ones(3, 1, 9).double()
    )
    moved = subpixel_shift(X, torch.full((4,), 2.0), torch.zeros(4), interpolation=interpolation)
    assert (moved[:, :, 2:] - X[:, :, :-2]).abs().max() < 1e-4
    assert (moved[:, :, :2] - X[:, :, :2].flip(2)).abs().max() < 1e-4  # the reflection


def test_a_shift_has_its_length():
    row, column = pixels(31, 31, X.device)
    ramp = torch.stack([row, column])[None].expand(6, -1, -1, -1).float()
    moved = SubpixelShift(distance=0.7).corrupt(ramp, SPACE, KeyedRng(range(6)))
    change = (ramp - moved)[:, :, 15, 15]
    assert torch.allclose(change.norm(dim=1), torch.full((6,), 0.7), atol=1e-4)
    assert change.std(0).min() > 0.1


@pytest.mark.parametrize(("border", "mode"), [("reflect", "reflect"), ("edge", "nearest")])
def test_a_warp_is_scipys_map_coordinates(border, mode):
    place = pixels(31, 31, X.device) + 3 * random_tensor(4, 2, 31, 31, seed=3, low=-1).double()
    found = warp(X, place, interpolation="bilinear", border=border, fill=ZERO)
    for image, at, warped in zip(X, place, found):
        for plane, result in zip(image, warped):
            expected = map_coordinates(plane.numpy(), at.numpy(), order=1, mode=mode)
            assert np.abs(result.numpy() - expected).max() < 2e-3  # of 54; places are float32


def test_displacements_have_the_amplitude_everywhere():
    noise = torch.randn(100, 2, 40, 44, generator=torch.Generator().manual_seed(1)).double()
    field = smooth_field(noise, scale=3.0)
    spread = field.square().mean((0, 1)).sqrt()
    assert (spread - 1).abs().max() < 4.5 / (2 * 200) ** 0.5
    inside = field[..., 12:-12]
    step = (inside[..., 1:] - inside[..., :-1]).square().mean().sqrt()
    assert step == pytest.approx(1 / (3 * 2**0.5), rel=0.03)


def test_elastic_reads_at_the_displaced_places():
    row, column = pixels(*SHAPE[1:], X.device)
    ramp = torch.stack([row, column])[None].expand(5, -1, -1, -1).float()
    noise = KeyedRng(range(5)).normal(2, 31, 31)
    field = 1.5 * smooth_field(noise.double(), scale=4.0)
    found = elastic(ramp, noise, amplitude=1.5, scale=4.0, fill=ZERO)
    inside = (slice(None), slice(None), slice(8, -8), slice(8, -8))
    assert (found - ramp - field)[inside].abs().max() < 1e-3
    again = Elastic(amplitude=1.5, scale=4.0).corrupt(ramp, SPACE, KeyedRng(range(5)))
    assert torch.equal(found, again)
