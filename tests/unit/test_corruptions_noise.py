from __future__ import annotations

import pytest
import torch
from tests.oracle.stand_in import KeyedRng, classes, random_tensor, space_of

from advbench_corruptions.gaussian_noise import GaussianNoise
from advbench_corruptions.impulse_noise import ImpulseNoise
from advbench_corruptions.photon_noise import PoissonNoise, SpeckleNoise

SHAPE = (2, 32, 32)
SPACE = space_of(SHAPE, [-4.0, 0.0], [50.0, 1.0])
COUNT = 64
VALUES = COUNT * 32 * 32  # per channel


def level(fraction):
    """Constant images at a fraction of the range."""
    low, high = SPACE.bounds_like(torch.zeros(1, *SHAPE))
    return (low + fraction * (high - low)).expand(COUNT, *SHAPE).clone(), (high - low)[:, :, 0, 0]


def noise_of(corruption, x, space=SPACE):
    return corruption.corrupt(x, space, KeyedRng(range(len(x)))) - x


@pytest.mark.parametrize(
    ("fraction", "photons", "background"), [(0.5, 20.0, 0.0), (0.1, 5.0, 100.0), (0.9, 400.0, 0.0)]
)
def test_photons_have_the_mean_and_variance_of_counts(fraction, photons, background):
    x, width = level(fraction)
    noise = noise_of(PoissonNoise(photons=photons, background=background), x) / width[:, :, None, None]
    variance = (fraction * photons + background) / photons**2
    # Standard errors: sqrt(variance / n) of the mean, 0.6 % of the variance.
    assert (noise.mean((0, 2, 3)).abs() < 4.5 * (variance / VALUES) ** 0.5).all()
    assert torch.allclose(noise.var((0, 2, 3)), torch.tensor(variance), rtol=0.03)


def test_photons_per_unit_and_zero_point():
    x = torch.full((COUNT, *SHAPE), 7.0)
    noise = noise_of(PoissonNoise(photons=3.0, per="unit", zero=2.0), x)
    assert torch.allclose(noise.var((0, 2, 3)), torch.tensor(5 / 3), rtol=0.03)
    counts = (noise + 5) * 3
    assert torch.allclose(counts, counts.round(), atol=1e-4)
    dark = torch.full((4, *SHAPE), 1.0)  # below the zero point there is no photon to count
    assert torch.equal(
        noise_of(PoissonNoise(photons=3.0, per="unit", zero=2.0), dark), torch.zeros_like(dark)
    )


def test_speckle_is_proportional_to_the_signal():
    for fraction in (0.0, 0.25, 1.0):
        x, width = level(fraction)
        spread = noise_of(SpeckleNoise(sigma=0.3), x).std((0, 2, 3)) / width[0]
        assert torch.allclose(spread, torch.tensor(0.3 * fraction), rtol=0.02, atol=1e-6)


@pytest.mark.parametrize("value", ["bounds", "uniform"])
def test_impulses_have_the_rate_and_values_that_were_asked_for(value):
    x, width = level(0.3)
    found = ImpulseNoise(fraction=0.2, value=value).corrupt(x, SPACE, KeyedRng(range(COUNT)))
    unit = (found - SPACE.bounds_like(x)[0]) / width[:, :, None, None]
    changed = (unit - 0.3).abs() > 1e-6
    error = 4.5 * (0.2 * 0.8 / VALUES) ** 0.5
    assert (changed.float().mean((0, 2, 3)) - 0.2).abs().max() < error
    values = unit[changed]
    if value == "bounds":
        assert set(values.tolist()) == {0.0, 1.0}
        assert values.mean() == pytest.approx(0.5, abs=0.02)
    else:
        assert values.std() == pytest.approx(12**-0.5, rel=0.02)


def test_a_larger_fraction_replaces_the_same_values_and_more():
    x, _ = level(0.3)
    weak, strong = (noise_of(ImpulseNoise(fraction=fraction), x) for fraction in (0.05, 0.2))
    assert torch.equal(strong[weak != 0], weak[weak != 0])


def test_relative_noise_is_in_units_of_the_range():
    x, width = level(0.5)
    corruption = GaussianNoise(severity=2)
    spread = noise_of(corruption, x).std((0, 2, 3))
    assert torch.allclose(spread, 0.12 * width[0], rtol=0.02)
    assert (corruption.strength(), corruption.strength_unit()) == (0.12, "range")
    assert GaussianNoise(sigma=0.12).strength_unit() == "input units"


def test_inputs_of_any_shape():
    space = space_of((5,), -1.0, 1.0)
    x = random_tensor(3, 5, low=-1)
    for cls in (PoissonNoise, SpeckleNoise, ImpulseNoise, GaussianNoise):
        assert cls().supports(space, classes(2)) is None
        assert cls().corrupt(x, space, KeyedRng(range(3))).shape == x.shape
