"""Seeing, registration and pixel scale."""

from __future__ import annotations

import math

import galsim
import numpy as np
import pytest
import torch
from tests.oracle.stand_in import classes
from tests.oracle.survey import changed_flux, draws, inputs, random_flux, survey_space

from advbench.api import InputSpace
from advbench_astro.perturbations.astrometry import AstrometricShift, shifted
from advbench_astro.perturbations.pixel_scale import PixelScale, resampled, resampling
from advbench_astro.perturbations.profiles import log_transform, sersic_transform
from advbench_astro.perturbations.psf import PSF

SIDE = 64
TASK = classes(3)


def star(
    fwhm: float, profile: type = galsim.Kolmogorov, side: int = SIDE, scale: float = 0.2
) -> torch.Tensor:
    """A star of flux 1000 that GalSim draws, (1, 1, side, side)."""
    image = profile(fwhm=fwhm, flux=1000.0).drawImage(nx=side, ny=side, scale=scale, method="no_pixel")
    return torch.from_numpy(image.array.copy())[None, None].float()


def fwhm_of(image: torch.Tensor, scale: float = 0.2) -> float:
    """GalSim's full width at half maximum in arcsec."""
    return float(galsim.Image(np.ascontiguousarray(image.numpy()), scale=scale).calculateFWHM())


def one_band(fwhm: float = 0.8, side: int = SIDE, scale: float = 0.2):
    return survey_space(1, side, side, psf_fwhm_arcsec=(fwhm,) * 5, pixel_scale_arcsec=scale, reach=300.0)


FREQUENCIES = [0.0, 0.003, 0.03, 0.2, 0.5, 1.0, 1.4]


@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        ("kolmogorov", galsim.Kolmogorov(fwhm=1)),
        ("gaussian", galsim.Gaussian(fwhm=1)),
        ("moffat", galsim.Moffat(beta=1.8, fwhm=1)),
        ("moffat", galsim.Moffat(beta=4.765, fwhm=1)),
    ],
)
def test_transforms_of_seeing_are_galsims(profile: str, expected: galsim.GSObject) -> None:
    scaled = torch.tensor(FREQUENCIES, dtype=torch.float64)
    found = log_transform(profile, scaled, getattr(expected, "beta", 3.0)).exp()
    wanted = [expected.kValue(2 * math.pi * f, 0).real for f in FREQUENCIES]
    assert found.tolist() == pytest.approx(wanted, abs=3e-6)


@pytest.mark.parametrize("index", [0.5, 1.0, 2.5, 4.0])
def test_transforms_of_galaxies_are_galsims(index: float) -> None:
    profile = galsim.Sersic(n=index, half_light_radius=1)
    found = sersic_transform(torch.tensor(FREQUENCIES, dtype=torch.float64), index)
    wanted = [profile.kValue(2 * math.pi * f, 0).real for f in FREQUENCIES]
    assert found.tolist() == pytest.approx(wanted, abs=5e-5)


def test_a_moffat_profile_of_a_high_exponent_is_a_gaussian() -> None:
    scaled = torch.tensor([0.0, 1e-6, 0.1, 0.5]).double()
    assert torch.allclose(
        log_transform("moffat", scaled, 100.0), log_transform("gaussian", scaled, 0.0), atol=0.02
    )


@pytest.mark.parametrize("profile", ["kolmogorov", "moffat", "gaussian"])
@pytest.mark.parametrize("fwhm", [0.9, 1.2, 2.0])
def test_the_width_of_the_psf_is_what_was_asked_for(profile: str, fwhm: float) -> None:
    fine = 0.1  # GalSim measures from pixel to pixel: at this scale to 2 %
    space, before = one_band(0.8, 96, fine), star(0.8, side=96, scale=fine)
    found = changed_flux(PSF(fwhm_arcsec=fwhm, profile=profile, beta=2.5), space, before)[0, 0]
    wanted = {
        "kolmogorov": galsim.Kolmogorov(fwhm=fwhm),
        "moffat": galsim.Moffat(beta=2.5, fwhm=fwhm),
        "gaussian": galsim.Gaussian(fwhm=fwhm),
    }[profile]
    assert fwhm_of(found, fine) == pytest.approx(wanted.calculateFWHM(), rel=0.05)
    drawn = wanted.drawImage(nx=96, ny=96, scale=fine, method="no_pixel")
    assert fwhm_of(found, fine) == pytest.approx(drawn.calculateFWHM(), rel=0.05)


@pytest.mark.parametrize("profile", ["kolmogorov", "moffat", "gaussian"])
@pytest.mark.parametrize("shape", [(24, 24), (13, 18)])
def test_the_flux_is_kept_borders_included(profile: str, shape: tuple[int, int]) -> None:
    space = InputSpace((2, *shape), (-1.0,) * 2, (9.0,) * 2, ("a", "b"))  # no link: inputs are fluxes
    x = torch.rand(3, 2, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    conditions = {"psf_fwhm_arcsec": 0.8, "pixel_scale_arcsec": 0.2}
    found = PSF(factor=1.7, profile=profile, conditions=conditions).corrupt(x, space, draws(3))
    assert torch.allclose(found.sum((2, 3)), x.sum((2, 3)), rtol=1e-12)
    assert found.var() < x.var()
    constant = torch.full_like(x, 3.0)
    drawn_out = PSF(factor=1.7, ellipticity=0.2, profile=profile, conditions=conditions)
    assert torch.allclose(drawn_out.corrupt(constant, space, draws(3)), constant, rtol=1e-12)


@pytest.mark.parametrize(("profile", "fwhm"), [("kolmogorov", 1.1), ("moffat", 1.1)])
def test_a_star_becomes_the_star_that_galsim_draws(profile: str, fwhm: float) -> None:
    kinds = {"kolmogorov": galsim.Kolmogorov, "moffat": lambda **kw: galsim.Moffat(beta=3.5, **kw)}
    space, before = one_band(), star(0.8, kinds[profile])
    found = changed_flux(PSF(fwhm_arcsec=fwhm, profile=profile, data_profile=profile), space, before)
    assert (found - star(fwhm, kinds[profile])).abs().max() < 2e-3 * found.max()


def test_an_elliptical_psf_has_the_moments_and_direction_asked_for() -> None:
    found = changed_flux(PSF(fwhm_arcsec=1.5, profile="gaussian", data_profile="gaussian", ellipticity=0.2, angle=30),
                         one_band(), star(0.8, galsim.Gaussian))  # fmt: skip
    moments = galsim.hsm.FindAdaptiveMom(galsim.Image(found[0, 0].numpy(), scale=0.2))
    shape = moments.observed_shape
    assert shape.g == pytest.approx(0.2, abs=0.005)
    # GalSim's y axis is the row index, which grows downwards here.
    assert math.degrees(shape.beta.rad) == pytest.approx(-30, abs=1)
    assert moments.moments_sigma * 0.2 == pytest.approx(1.5 / (2 * math.sqrt(2 * math.log(2))), rel=0.01)


def test_each_band_has_its_own_seeing() -> None:
    space = survey_space(3, SIDE, SIDE, reach=300.0)
    stars = torch.cat([star(fwhm) for fwhm in space.facts["psf_fwhm_arcsec"]], 1)
    found = changed_flux(PSF(factor=1.4), space, stars)[0]
    for image, fwhm in zip(found, space.facts["psf_fwhm_arcsec"]):
        assert fwhm_of(image) == pytest.approx(fwhm_of(star(1.4 * fwhm)[0, 0]), rel=0.002)
    common = changed_flux(PSF(fwhm_arcsec=1.3), space, stars)[0]
    assert [fwhm_of(image) for image in common] == pytest.approx([fwhm_of(star(1.3)[0, 0])] * 3, rel=0.002)


def test_no_noise_is_amplified_by_an_impossible_profile() -> None:
    space = one_band()
    noise = torch.randn(4, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    found = changed_flux(PSF(factor=1.0, profile="moffat", beta=2.5), space, noise)
    spectrum, before = (
        torch.fft.rfft2(torch.cat([t, t.flip(-1)], -1)).abs() for t in (found, noise.double())
    )
    assert found.var() < noise.var()
    assert spectrum.sum() < before.sum()


def test_reasons_against_a_sharper_psf() -> None:
    space = survey_space()
    assert "cannot be made narrower" in (PSF(fwhm_arcsec=0.5).supports(space, TASK) or "")
    across = PSF(factor=1.1, ellipticity=0.3).supports(space, TASK)
    assert across is not None
    assert "across its long axis" in across
    assert PSF(factor=1.1, ellipticity=0.04).supports(space, TASK) is None
    assert "psf_fwhm_arcsec" in (PSF().supports(survey_space(facts=False), TASK) or "")
    assert PSF(fwhm_arcsec=[1.0, 1.0, 1.0]).supports(space, TASK) is None
    assert PSF(fwhm_arcsec=[1.0, 1.0]).supports(space, TASK) == "fwhm_arcsec has 2 entries for 3 bands"
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        PSF(factor=0.9)
    with pytest.raises(ValueError, match="give factor or fwhm_arcsec"):
        PSF(factor=None)


def test_optics_of_strength_zero_change_no_bit() -> None:
    space = survey_space()
    x = inputs(space, random_flux(3))
    for nothing in (
        PSF(factor=1.0),
        PSF(fwhm_arcsec=list(space.facts["psf_fwhm_arcsec"])),
        AstrometricShift(distance_arcsec=0.0),
        PixelScale(factor=1.0),
        PixelScale(scale_arcsec=0.2),
    ):
        assert torch.equal(nothing.corrupt(x, space, draws(3)), x)


@pytest.mark.parametrize(("angle", "across", "up"), [(0, 0.37, 0), (90, 0, 0.37), (217, -0.2955, -0.2227)])
def test_a_star_moves_by_what_was_asked_for(angle: float, across: float, up: float) -> None:
    image = galsim.Kolmogorov(fwhm=0.8, flux=1000.0).shift(across * 0.2, -up * 0.2)
    expected = image.drawImage(nx=SIDE, ny=SIDE, scale=0.2, method="no_pixel").array
    found = changed_flux(AstrometricShift(distance_arcsec=0.074, angle=angle), one_band(), star(0.8))[0, 0]
    assert np.abs(found.numpy() - expected).max() < 1e-3 * expected.max()
    assert found.sum().item() == pytest.approx(expected.sum(), rel=1e-4)


def test_whole_pixels_are_moved_exactly_and_noise_keeps_its_variance() -> None:
    x = torch.randn(3, 2, 16, 12, generator=torch.Generator().manual_seed(1))
    moved = shifted(x, torch.full((3, 1), 2.0), torch.full((3, 1), -1.0))
    assert torch.allclose(moved[..., 2:, :-1], x[..., :-2, 1:].double(), atol=1e-12)
    assert torch.allclose(moved[..., :2, :-1], x[..., :2, 1:].flip(-2).double(), atol=1e-12)  # the reflection
    space = survey_space(1, SIDE, SIDE)
    noise = torch.randn(16, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
    found = changed_flux(AstrometricShift(distance_arcsec=0.1), space, noise)
    assert found.var().item() == pytest.approx(noise.var().item(), rel=0.02)


def test_bands_are_misregistered_only_if_asked_for() -> None:
    space = survey_space()
    same = random_flux(2, 1).expand(-1, 3, -1, -1)
    together = changed_flux(AstrometricShift(), space, same)
    assert torch.allclose(together[:, 0], together[:, 2], atol=1e-3)
    apart = changed_flux(AstrometricShift(per_band=True), space, same)
    assert (apart[:, 0] - apart[:, 2]).abs().amax((1, 2)).min() > 0.1


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.3, 1.965])
@pytest.mark.parametrize("conserve", ["flux", "surface-brightness"])
def test_a_source_keeps_its_flux_or_its_surface_brightness(factor: float, conserve: str) -> None:
    image = star(1.2, galsim.Gaussian)
    perturbation = PixelScale(factor=factor, conserve=conserve, border="blank")
    found = changed_flux(perturbation, one_band(), image)
    area = 1.0 if conserve == "flux" else factor**2
    assert found.sum().item() * area == pytest.approx(image.sum().item(), rel=1e-3)
    new = 0.2 * factor
    # Light spread over an old pixel and collected by a new one: both add their variance (if their grids meet at all
    # phases, which a whole number of pixels does only nearly). Cubic convolution adds none.
    added = (new**2 + 0.2**2) / 12 if factor > 1 else 0.0
    place = (torch.arange(SIDE) - (SIDE - 1) / 2) * new
    variance = ((found[0, 0].sum(0) * place.square()).sum() / found.sum()).item()
    assert variance == pytest.approx((1.2 / 2.35482) ** 2 + added, rel=0.02)
    level = changed_flux(
        PixelScale(factor=factor, conserve=conserve, border="reflect"),
        one_band(),
        torch.full((1, 1, SIDE, SIDE), 3.0),
    )
    expected = 3.0 * (factor**2 if conserve == "flux" else 1)
    assert torch.allclose(level, torch.tensor(expected).double(), rtol=1e-4)


def test_two_by_two_pixels_become_one() -> None:
    x = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(4)).double()
    found = resampled(x, 2.0, torch.zeros(1, 1, 20, 20))
    assert torch.allclose(found[..., 2:6, 2:6], torch.nn.functional.avg_pool2d(x, 2), atol=1e-7)
    assert torch.equal(found[..., :2, :], torch.zeros(1, 1, 2, 8).double())
    mirrored = resampled(x, 2.0, None)
    assert torch.allclose(mirrored[..., 1, 2:6], mirrored[..., 2, 2:6], atol=1e-12)
    for factor in (0.4, 0.9, 1.0, 1.7):
        weights, margin = resampling(9, factor, x.device)
        assert torch.allclose(weights.sum(1), torch.ones(9).double())
        if factor == 1:
            assert torch.equal(weights[:, margin:-margin], torch.eye(9).double())


def test_wider_pixels_see_the_sky_beyond_the_image() -> None:
    space = survey_space(2, SIDE, SIDE, reach=100.0)
    found = changed_flux(PixelScale(factor=2.0), space, torch.zeros(16, 2, SIDE, SIDE))
    assert (found[..., 17:47, 17:47].abs() < 1e-5).all()
    beyond = torch.cat([found[..., :15, :], found[..., -15:, :]], 2)
    sky, seconds = (torch.tensor(space.facts[name]).double() for name in ("sky_rate", "exposure_s"))
    # A new pixel is the sum of four old ones.
    assert torch.allclose(beyond.var((0, 2, 3)), 4 * sky / seconds, rtol=0.05)


def test_a_pixel_scale_in_arcsec_is_that_of_the_data_times_a_factor() -> None:
    space = survey_space()
    flux = random_flux(2)
    by_scale = changed_flux(PixelScale(scale_arcsec=0.3), space, flux)
    assert torch.allclose(by_scale, changed_flux(PixelScale(factor=1.5), space, flux), rtol=1e-4, atol=1e-4)
    assert "pixel_scale_arcsec" in (
        PixelScale(scale_arcsec=0.3).supports(survey_space(facts=False), TASK) or ""
    )
    assert PixelScale(factor=1.5, border="blank").supports(survey_space(facts=False), TASK) is None
    assert "ten times" in (PixelScale(scale_arcsec=5.0).supports(space, TASK) or "")
