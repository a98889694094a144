"""Noise of survey perturbations against GalSim, and errors of the sky."""

from __future__ import annotations

import galsim
import numpy as np
import pytest
import torch
from tests.oracle.stand_in import classes
from tests.oracle.survey import changed_flux, draws, inputs, random_flux, survey_space

from advbench_astro.perturbations.exposure import Exposure
from advbench_astro.perturbations.psf import PSF
from advbench_astro.perturbations.sky import SkyGradient, SkyLevel
from advbench_astro.perturbations.sources import Transient

COUNT, SIDE = 64, 100  # 640,000 pixels: the variance is known to 0.18 %
TASK = classes(3)


def galsim_noise(noise: galsim.BaseNoise, electrons: float) -> np.ndarray:
    """What this noise makes of 64 flat images, in electrons."""
    images = []
    for _ in range(COUNT):
        image = galsim.ImageD(SIDE, SIDE, init_value=electrons)
        image.addNoise(noise)
        images.append(image.array.copy())
    return np.stack(images)


def exposed(flux: float, start: np.ndarray | None = None, reach: float = 100.0, **conditions) -> np.ndarray:
    """64 flat images of one band, 552 s long, of an exposure 552 s or longer; in electrons of 552 s."""
    conditions = {"sky_rate": 0.0, "exposure_s": 1e9, **conditions}
    space = survey_space(1, SIDE, SIDE, facts=False, reach=reach)
    light = torch.full((COUNT, 1, SIDE, SIDE), flux) if start is None else torch.from_numpy(start)[:, None]
    return changed_flux(Exposure(exposure_s=552.0, conditions=conditions), space, light)[:, 0].numpy() * 552


def test_photon_noise_of_a_source_is_galsims() -> None:
    expected = galsim_noise(galsim.PoissonNoise(galsim.BaseDeviate(1)), 4.0 * 552)
    found = exposed(4.0)
    assert found.var() == pytest.approx(expected.var(), rel=0.01)
    assert found.var() == pytest.approx(4.0 * 552, rel=0.01)
    assert found.mean() == pytest.approx(4.0 * 552, abs=5 * (4.0 * 552 / found.size) ** 0.5)


def test_photon_noise_of_the_sky_is_galsims() -> None:
    noise = galsim.PoissonNoise(galsim.BaseDeviate(2), sky_level=30.0 * 552)
    expected = galsim_noise(noise, 1.0 * 552)
    assert exposed(1.0, sky_rate=30.0).var() == pytest.approx(expected.var(), rel=0.01)


def test_read_noise_is_galsims() -> None:
    expected = galsim_noise(galsim.GaussianNoise(galsim.BaseDeviate(3), sigma=9.0), 0.0)
    assert exposed(0.0, read_noise_e=9.0).var() == pytest.approx(expected.var(), rel=0.01)


def test_all_noise_of_a_ccd_is_galsims() -> None:
    noise = galsim.CCDNoise(galsim.BaseDeviate(4), sky_level=0.2 * 552, gain=1.0, read_noise=9.0)
    expected = galsim_noise(noise, 0.3 * 552)
    assert exposed(0.3, sky_rate=0.2, read_noise_e=9.0).var() == pytest.approx(expected.var(), rel=0.01)


def test_noise_that_is_there_already_is_not_added_again() -> None:
    """A long exposure by GalSim that is shortened has the variance of a short exposure by GalSim."""
    long, short = (
        galsim.CCDNoise(galsim.BaseDeviate(5), sky_level=0.2 * seconds, gain=1.0, read_noise=9.0)
        for seconds in (900.0, 552.0)
    )
    start = galsim_noise(long, 0.3 * 900.0) / 900.0
    found = exposed(0.0, start, sky_rate=0.2, read_noise_e=9.0, exposure_s=900.0)
    assert found.var() == pytest.approx(galsim_noise(short, 0.3 * 552).var(), rel=0.01)


def test_every_visit_is_read_out() -> None:
    space = survey_space(1, SIDE, SIDE, facts=False, reach=100.0)
    conditions = {"sky_rate": 0.0, "exposure_s": 3000.0, "read_noise_e": 9.0}
    shortened = Exposure(fraction=0.1, visit_s=30.0, conditions=conditions)
    found = changed_flux(shortened, space, torch.zeros(COUNT, 1, SIDE, SIDE))
    assert found.var().item() == pytest.approx(9.0**2 * (10 / 300**2 - 100 / 3000**2), rel=0.01)


def test_photons_of_added_light_are_galsims() -> None:
    """The noise of all pixels of a star together."""
    space = survey_space(1, SIDE, SIDE, reach=100.0)
    zero = torch.zeros(COUNT, 1, SIDE, SIDE)
    settings = {"magnitude": 20.0, "distance_arcsec": 0.0}
    mean = changed_flux(Transient(**settings), space, zero)
    found = changed_flux(Transient(**settings, photon_noise=True), space, zero)
    assert (mean[0] > -1e-6).all()
    electrons = mean[0, 0].clamp_min(0).numpy() * 2400.0
    noise, squares = galsim.PoissonNoise(galsim.BaseDeviate(6)), []
    for _ in range(COUNT):
        image = galsim.ImageD(electrons.copy())
        image.addNoise(noise)
        squares.append(((image.array - electrons) ** 2).sum())
    own = (((found - mean) * 2400.0) ** 2).sum((1, 2, 3)).mean().item()
    spread = np.std(squares) / COUNT**0.5
    assert abs(own - np.mean(squares)) < 5 * spread
    assert own == pytest.approx(electrons.sum(), rel=5 * spread / electrons.sum())


def test_a_year_of_blank_sky_has_ten_times_the_variance_of_ten() -> None:
    space = survey_space(3, SIDE, SIDE, reach=100.0)
    generator = torch.Generator().manual_seed(1)
    rate = torch.tensor(space.facts["sky_rate"]).view(1, 3, 1, 1)
    seconds = torch.tensor(space.facts["exposure_s"]).view(1, 3, 1, 1)
    y10 = torch.randn(COUNT, 3, SIDE, SIDE, generator=generator) * (rate / seconds).sqrt()
    y1 = changed_flux(Exposure(fraction=0.1), space, y10)
    assert torch.allclose(
        y1.var((0, 2, 3)) / y10.double().var((0, 2, 3)), torch.tensor(10.0).double(), rtol=0.02
    )
    error = 5 * (y1.std((0, 2, 3)) / (COUNT * SIDE * SIDE) ** 0.5)
    assert ((y1 - y10).mean((0, 2, 3)).abs() < error).all()


def test_bands_may_have_exposures_of_their_own() -> None:
    space = survey_space(2, SIDE, SIDE, reach=100.0)
    blank = torch.zeros(16, 2, SIDE, SIDE)
    found = changed_flux(Exposure(exposure_s=[240.0, 5520.0]), space, blank).var((0, 2, 3))
    assert found[0].item() == pytest.approx(9.7 * (1 / 240 - 1 / 2400), rel=0.02)
    assert found[1] < 1e-9


def test_nothing_is_added_to_the_whole_exposure() -> None:
    space = survey_space()
    x = inputs(space, random_flux(4))
    assert torch.equal(Exposure(fraction=1.0).corrupt(x, space, draws(4)), x)
    assert torch.equal(Exposure(exposure_s=[2400.0, 5520.0, 5520.0]).corrupt(x, space, draws(4)), x)


def test_reasons_against_a_shorter_exposure() -> None:
    blind = survey_space(facts=False)
    reason = Exposure().supports(blind, TASK)
    assert reason is not None
    assert "do not tell exposure_s and sky_rate" in reason
    assert Exposure(conditions={"exposure_s": 100.0, "sky_rate": 3.0}).supports(blind, TASK) is None
    assert "sky_rate" in (Exposure(conditions={"exposure_s": 100.0}).supports(blind, TASK) or "")
    longer = Exposure(exposure_s=3000.0).supports(survey_space(), TASK)
    assert longer == "exposure_s 3000 is longer than that of the data, 2400"
    assert (
        Exposure(exposure_s=[1.0, 2.0]).supports(survey_space(), TASK)
        == "exposure_s has 2 entries for 3 bands"
    )
    with pytest.raises(ValueError, match="not both"):
        Exposure(exposure_s=3.0, fraction=0.5)
    assert Exposure(**Exposure(exposure_s=3.0).model_dump()).exposure_s == 3.0


@pytest.mark.parametrize("bands", [1, 3, 5])
def test_a_residue_of_the_sky_in_units_of_its_noise_or_of_itself(bands: int) -> None:
    space = survey_space(bands, read_noise_e=500.0)
    flux = random_flux(2, bands)
    sky, seconds = (torch.tensor(space.facts[name]).double() for name in ("sky_rate", "exposure_s"))
    sigma = (sky / seconds + (500.0 / seconds) ** 2).sqrt()
    for perturbation, expected in (
        (SkyLevel(amount=-0.7), -0.7 * sigma),
        (SkyLevel(amount=0.02, per="sky"), 0.02 * sky),
    ):
        difference = changed_flux(perturbation, space, flux) - flux
        assert torch.allclose(difference, expected.view(1, -1, 1, 1).expand_as(flux), atol=1e-2, rtol=1e-3)
    x = inputs(space, flux)
    assert torch.equal(SkyLevel(amount=0.0).corrupt(x, space, draws(2)), x)
    assert torch.equal(SkyGradient(amount=0.0).corrupt(x, space, draws(2)), x)


@pytest.mark.parametrize(("angle", "bright"), [(0, (20, 49)), (90, (0, 25)), (-90, (39, 25)), (45, (0, 49))])
def test_a_gradient_rises_from_edge_to_edge_in_its_direction(angle: float, bright: tuple[int, int]) -> None:
    space = survey_space(2, 40, 50, reach=100.0)
    rise = changed_flux(
        SkyGradient(amount=0.1, per="sky", angle=angle), space, torch.zeros(2, 2, 40, 50)
    ) / torch.tensor(space.facts["sky_rate"]).view(1, 2, 1, 1)
    assert rise.mean().abs() < 1e-6
    assert rise.amax((2, 3)) == pytest.approx(rise[:, :, bright[0], bright[1]], rel=1e-4)
    # Pixel centres lie half a pixel within the outline.
    assert 0.1 * (1 - 1 / 40) - 1e-5 < (rise.amax((2, 3)) - rise.amin((2, 3)))[0, 0] < 0.1
    assert torch.allclose(rise.diff(dim=2).diff(dim=2), torch.zeros(()).double(), atol=1e-5)


def test_a_gradient_is_drawn_for_each_sample() -> None:
    space = survey_space(reach=100.0)
    found = changed_flux(SkyGradient(), space, torch.zeros(5, 3, 32, 32))
    corners = found[:, 0, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert len({tuple(row) for row in corners.tolist()}) == 5


def test_sky_noise_can_be_kept_when_the_seeing_is_worse() -> None:
    space = survey_space(1, SIDE, SIDE, reach=100.0)
    sigma = (9.7 / 2400) ** 0.5
    noise = sigma * torch.randn(COUNT, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(3))
    kept = changed_flux(PSF(factor=1.5, noise="kept"), space, noise)
    blurred = changed_flux(PSF(factor=1.5), space, noise)
    assert kept.var().item() == pytest.approx(sigma**2, rel=0.01)
    assert blurred.var().item() < 0.5 * sigma**2
    neighbours = (kept[..., 1:] * kept[..., :-1]).mean() / kept.var()
    assert abs(neighbours.item()) < 0.01  # white again
