"""The survey's physics: seeing, sky, noise, colours of light."""

import galsim
import numpy as np
import pytest

from advbench_astro.rendering import Light, render
from advbench_astro.survey import BANDS, DEPTHS, Exposure, count_rate, noise_sigma, observe, psf, sky_rate

Y10 = Exposure()

# Band, zenith FWHM, ten-year exposure, zero point, sky: retyped from the survey table, not imported.
TABLE = [
    ("g", 0.73, 2400, 50.70, 22.3),
    ("r", 0.70, 5520, 43.70, 21.2),
    ("i", 0.67, 5520, 32.36, 20.5),
]


def half_width(image: np.ndarray) -> float:
    """Full width at half maximum in arcsec of a round image, from its area above half maximum, finely interpolated."""
    finer = 8
    spectrum = np.fft.fftshift(np.fft.fft2(image))
    padded = np.pad(spectrum, (finer - 1) * len(image) // 2)
    fine = np.fft.ifft2(np.fft.ifftshift(padded)).real
    return float(2 * np.sqrt((fine > fine.max() / 2).sum() / np.pi) * 0.2 / finer)


@pytest.mark.parametrize(("which", "row"), list(enumerate(TABLE)), ids="gri")
def test_a_star_has_the_seeing_of_its_band(which: int, row: tuple[str, float, int, float, float]) -> None:
    star = galsim.DeltaFunction().shift(0.03, -0.06)
    stamp = render(Light([(star, np.eye(6)[1 + which])], []))[which]
    assert half_width(stamp) == pytest.approx(row[1] * 1.2**0.6, rel=0.05)


def test_the_psf_is_kolmogorov_times_the_airy_pattern_of_the_mirror() -> None:
    for band, (_, zenith, *_rest) in zip(BANDS, TABLE):
        seeing = galsim.Kolmogorov(fwhm=zenith * 1.2**0.6)
        cutoff = 2 * np.pi * 8.36 / (band.wavelength_nm * 1e-9) * np.radians(1 / 3600)
        assert psf(band).flux == pytest.approx(1.0)
        mirror = [psf(band).kValue(k, 0).real / seeing.kValue(k, 0).real for k in (3.0, 6.0)]
        assert 0.9 < mirror[1] < mirror[0] < 1.0
        # A filled mirror passes 1 - (4 / pi) k / cutoff of a low frequency; the hole in it costs some more.
        assert all(part < 1 - 4 / np.pi * k / cutoff for part, k in zip(mirror, (3.0, 6.0)))


@pytest.mark.parametrize("depth", sorted(DEPTHS))
def test_the_background_varies_like_the_sky_electrons(depth: str) -> None:
    years = {"y10": 1.0, "y1": 0.1}[depth]
    empty = np.zeros((3, 100, 100), dtype=np.float32)
    noise = np.stack([observe(empty, Exposure(DEPTHS[depth]), f"blank{i}", 0) for i in range(20)])
    for band, (_, _, seconds, zero_point, sky) in enumerate(TABLE):
        electrons = years * seconds * zero_point * 10 ** (-0.4 * (sky - 24)) * 0.2**2
        assert np.var(noise[:, band] * years * seconds) == pytest.approx(electrons, rel=0.05)
        assert abs(noise[:, band].mean()) < 5 * noise[:, band].std() / np.sqrt(noise[:, band].size)


def test_one_year_is_ten_times_noisier_in_variance() -> None:
    empty = np.zeros((3, 100, 100), dtype=np.float32)
    variance = {
        d: np.var([observe(empty, Exposure(part), f"b{i}", 0) for i in range(20)], axis=(0, 2, 3))
        for d, part in DEPTHS.items()
    }
    assert variance["y1"] / variance["y10"] == pytest.approx(10.0, rel=0.05)


def test_bright_pixels_carry_their_own_photon_noise() -> None:
    flux = np.full((3, 1, 1), 50.0, dtype=np.float32)
    seconds = np.array([2400.0, 5520.0, 5520.0])
    sky = np.array([sky_rate(band) for band in BANDS])
    assert noise_sigma(flux, Y10).ravel() ** 2 == pytest.approx((sky + 50) / seconds, rel=1e-5)


def test_noise_belongs_to_name_depth_and_seed() -> None:
    flux = np.ones((3, 8, 8), dtype=np.float32)
    first = observe(flux, Y10, "g000001", 0)
    assert np.array_equal(first, observe(flux, Y10, "g000001", 0))
    others = [(Exposure(0.1), "g000001", 0), (Y10, "g000002", 0), (Y10, "g000001", 1)]
    for other in others:
        draw = (observe(flux, *other) - flux) / noise_sigma(flux, other[0])
        same = (first - flux) / noise_sigma(flux, Y10)
        assert abs(np.corrcoef(draw.ravel(), same.ravel())[0, 1]) < 0.4


def test_magnitudes() -> None:
    for band, (_, _, _, zero_point, _) in zip(BANDS, TABLE):
        assert count_rate(band, 24.0) == pytest.approx(zero_point)
        assert count_rate(band, 21.5) == pytest.approx(10 * zero_point)
        higher = count_rate(band, 24.0, airmass=2.2)
        assert higher == pytest.approx(zero_point * 10 ** (-0.4 * band.extinction))
