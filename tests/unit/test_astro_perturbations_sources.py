"""Magnitudes of added sources, photometric errors, compression."""

from __future__ import annotations

import io
import math

import galsim
import numpy as np
import pytest
import torch
from astropy.io import fits
from tests.oracle.stand_in import classes
from tests.oracle.survey import changed_flux, draws, inputs, random_flux, survey_space

from advbench_astro.perturbations.fits_compression import FitsCompression, compressed
from advbench_astro.perturbations.photometry import BandOffset, ZeroPoint
from advbench_astro.perturbations.sources import Neighbours, Transient

TASK = classes(3)
SIDE = 101
SPACE = survey_space(3, SIDE, SIDE, reach=300.0)
BLANK = torch.zeros(2, 3, SIDE, SIDE)


def expected_flux(magnitudes: list[float]) -> list[float]:
    return [10 ** (-0.4 * (m - zp)) for m, zp in zip(magnitudes, SPACE.facts["zero_point_mag"])]


def test_a_transient_is_as_bright_as_asked_for() -> None:
    magnitudes = [21.0, 22.5, 20.0]
    found = changed_flux(Transient(magnitude=magnitudes), SPACE, BLANK)
    assert found.sum((2, 3))[1].tolist() == pytest.approx(expected_flux(magnitudes), rel=0.01)
    on_top = changed_flux(Transient(magnitude=21.0), SPACE, random_flux(2, 3, SIDE, SIDE))
    light = on_top - random_flux(2, 3, SIDE, SIDE)
    assert light.sum((2, 3))[0].tolist() == pytest.approx(expected_flux([21.0] * 3), rel=0.01)


def test_a_transient_is_the_star_that_galsim_draws() -> None:
    found = changed_flux(Transient(magnitude=20.0, distance_arcsec=1.23, angle=60.0), SPACE, BLANK)[0]
    right, up = 1.23 * math.cos(math.pi / 3), 1.23 * math.sin(math.pi / 3)
    for band, rate in enumerate(expected_flux([20.0] * 3)):
        star = galsim.Kolmogorov(fwhm=SPACE.facts["psf_fwhm_arcsec"][band], flux=rate).shift(right, -up)
        drawn = star.drawImage(nx=SIDE, ny=SIDE, scale=0.2).array
        assert np.abs(found[band].numpy() - drawn).max() < 2e-3 * drawn.max()


def test_transients_are_drawn_around_the_centre() -> None:
    found = changed_flux(Transient(magnitude=21.0, distance_arcsec=3.0), SPACE, torch.zeros(9, 3, SIDE, SIDE))
    place = found[:, 0].flatten(1).argmax(1)
    radius = ((place // SIDE - 50) ** 2 + (place % SIDE - 50) ** 2) ** 0.5
    assert ((radius - 15).abs() < 0.8).all()
    assert len(set(place.tolist())) == 9


@pytest.mark.parametrize("sersic", [0.5, 1.0, 4.0])
def test_neighbours_are_as_bright_as_asked_for(sersic: float) -> None:
    settings = {"sersic": sersic, "half_light_arcsec": 0.5, "inner_arcsec": 0.0, "outer_arcsec": 1.0}
    found = changed_flux(Neighbours(magnitude=20.0, count=3, **settings), SPACE, BLANK)
    lost = 0.03 if sersic == 4.0 else 0.01  # wings of a de Vaucouleurs profile leave the image
    wanted = [3 * rate for rate in expected_flux([20.0] * 3)]
    assert found.sum((2, 3))[0].tolist() == pytest.approx(wanted, rel=lost)


@pytest.mark.parametrize(("sersic", "ellipticity"), [(1.0, 0.3), (2.5, 0.0)])
def test_a_neighbour_is_the_galaxy_that_galsim_draws(sersic: float, ellipticity: float) -> None:
    settings = {"sersic": sersic, "half_light_arcsec": 0.7, "inner_arcsec": 0.0, "outer_arcsec": 3.0}
    perturbation = Neighbours(count=1, magnitude=20.0, ellipticity=ellipticity, **settings)
    found = changed_flux(perturbation, SPACE, BLANK)[0, 0]
    radius, turn, angle = draws(2).uniform(1, 3)[0, 0].double().tolist()
    distance = 3.0 * radius**0.5
    galaxy = galsim.Sersic(n=sersic, half_light_radius=0.7, flux=expected_flux([20.0] * 3)[0])
    # GalSim's y axis is the row index, which grows downwards here.
    galaxy = galaxy.shear(g=ellipticity, beta=-math.pi * angle * galsim.radians)
    galaxy = galaxy.shift(distance * math.cos(2 * math.pi * turn), -distance * math.sin(2 * math.pi * turn))
    seen = galsim.Convolve(galaxy, galsim.Kolmogorov(fwhm=SPACE.facts["psf_fwhm_arcsec"][0]))
    drawn = seen.drawImage(nx=SIDE, ny=SIDE, scale=0.2).array
    assert np.abs(found.numpy() - drawn).max() < 5e-3 * drawn.max()


def test_neighbours_lie_in_their_ring_and_few_are_among_many() -> None:
    space = survey_space(1, SIDE, SIDE, reach=300.0)
    ring = {"magnitude": 22.0, "inner_arcsec": 5.0, "outer_arcsec": 6.0, "half_light_arcsec": 0.1}
    blank = torch.zeros(9, 1, SIDE, SIDE)
    one, two = (changed_flux(Neighbours(count=count, **ring), space, blank) for count in (1, 2))
    place = one.flatten(1).argmax(1)
    radius = 0.2 * ((place // SIDE - 50) ** 2 + (place % SIDE - 50) ** 2) ** 0.5
    assert ((radius > 4.8) & (radius < 6.2)).all()
    assert ((two - one) > -1e-3 * one.max()).all()
    assert not torch.equal(changed_flux(Neighbours(count=0), space, blank[:2]), one[:2])
    with pytest.raises(ValueError, match="inner_arcsec"):
        Neighbours(inner_arcsec=3.0, outer_arcsec=2.0)


@pytest.mark.parametrize("bands", [1, 3, 5])
def test_photometric_errors_are_in_magnitudes(bands: int) -> None:
    space, flux = survey_space(bands, reach=100.0), random_flux(4, bands).abs() + 1
    fainter = changed_flux(ZeroPoint(offset_mag=0.3), space, flux) / flux
    assert torch.allclose(fainter, torch.tensor(10**-0.12).double(), rtol=1e-3)
    given = [0.1 * band - 0.1 for band in range(bands)]
    offsets = -2.5 * (changed_flux(BandOffset(offset_mag=given, scatter=False), space, flux) / flux).log10()
    assert torch.allclose(offsets, torch.tensor(given).double().view(1, -1, 1, 1), atol=2e-3)
    x = inputs(space, flux)
    for nothing in (
        ZeroPoint(offset_mag=0.0),
        ZeroPoint(offset_mag=0.0, scatter=True),
        BandOffset(offset_mag=0.0),
    ):
        assert torch.equal(nothing.corrupt(x, space, draws(4)), x)


def test_drawn_photometric_errors_have_the_spread_asked_for() -> None:
    space = survey_space(3, 4, 4, reach=400.0)
    flux = torch.full((4000, 3, 4, 4), 100.0)
    common = -2.5 * (changed_flux(ZeroPoint(offset_mag=0.2, scatter=True), space, flux) / flux).log10()
    assert torch.allclose(common, common[:, :1, :1, :1].expand_as(common), atol=1e-3)
    assert common[:, 0, 0, 0].std().item() == pytest.approx(0.2, rel=0.05)
    bands = (
        -2.5 * (changed_flux(BandOffset(offset_mag=[0.1, 0.2, 0.0]), space, flux) / flux).log10()[..., 0, 0]
    )
    assert bands.std(0).tolist() == pytest.approx([0.1, 0.2, 0.0], rel=0.05, abs=1e-3)
    assert abs(torch.corrcoef(bands[:, :2].T)[0, 1].item()) < 0.06


def by_hand(image: np.ndarray, level: float, seed: int | None) -> np.ndarray:
    """A file written and read by astropy."""
    method = {"quantize_method": -1} if seed is None else {"quantize_method": 1, "dither_seed": seed}
    file = io.BytesIO()
    hdu = fits.CompImageHDU(
        image, compression_type="RICE_1", quantize_level=level, tile_shape=(1, 1, image.shape[2]), **method
    )
    hdu.writeto(file)
    with fits.open(io.BytesIO(file.getvalue())) as written:
        assert written[1].compression_type == "RICE_1"
        return np.array(written[1].data)


@pytest.mark.parametrize("dither", [True, False])
def test_compression_is_that_of_astropy(dither: bool) -> None:
    space = survey_space(2, reach=100.0)
    x = inputs(space, random_flux(5, 2))
    found = FitsCompression(quantize_level=2.0, dither=dither).corrupt(x, space, draws(5))
    seeds = 1 + draws(5).integers(10_000)
    flux = space.link.to_physical(x.double()).float().numpy()
    for sample in range(5):
        read = by_hand(flux[sample], 2.0, int(seeds[sample]) if dither else None)
        assert torch.equal(found[sample], space.link.from_physical(torch.from_numpy(read).double()).float())


def test_compression_errs_by_a_step_of_the_noise() -> None:
    noise = np.random.default_rng(0).normal(0, 0.7, (64, 512)).astype(np.float32)
    for level in (1.0, 4.0, 32.0):
        error = compressed(noise, quantize_level=level, seed=7) - noise
        # Quantised with subtractive dithering: uniform within half a step, whatever the value.
        assert np.abs(error).max() < 0.5 * 0.7 / level * 1.2
        assert error.std() == pytest.approx(0.7 / level / 12**0.5, rel=0.05)
        assert abs(error.mean()) < 5 * error.std() / error.size**0.5
    assert np.array_equal(
        compressed(noise, quantize_level=1.0, seed=7), compressed(noise, quantize_level=1.0, seed=7)
    )
    assert not np.array_equal(
        compressed(noise, quantize_level=1.0, seed=7), compressed(noise, quantize_level=1.0, seed=8)
    )
