"""The Sloan Digital Sky Survey in five bands: zero points, sky, seeing, dust.

Throughputs are those that Gunn measured in June 2001, quoted in the header of
https://desi.lbl.gov/svn/code/desimodel/branches/for_sims/data/throughput/sdss_jun2001_i_atm.dat; pixel size and
r-band seeing and sky are the constants and medians of the survey
(http://cas.sdss.org/dr2/en/help/browser/constants.asp?n=SDSSConstants, http://www.sdss.org/DR7/products/general/seeing.html);
what dust absorbs follows Schlegel, Finkbeiner & Davis 1998, https://arxiv.org/abs/astro-ph/9710327, table 6. Round
numbers of ours are marked. Fluxes are count rates in electrons per second. No torch here: worker processes import
this module.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import galsim
import numpy as np
from numpy.typing import ArrayLike, NDArray

from advbench_astro.conditions import Conditions

PIXEL_SCALE_ARCSEC = 0.396
EXPOSURE_S = 53.9
"""One drift scan."""
READ_NOISE_E = 5.0
"""Round number."""
SEEING_R_ARCSEC = 1.43

COLLECTING_AREA_M2 = 0.75 * math.pi * 1.25**2
"""2.5 m mirror; that the obstruction takes a quarter is a round number."""
AB_PHOTONS = 3631e-26 / 6.62607015e-34
"""Photons per second, square metre and unit of d ln(wavelength) from a source of AB magnitude 0: 3631 Jy over h."""


@dataclass(frozen=True)
class Band:
    """One filter.

    ``throughput`` is the integral of the efficiency over d ln(wavelength) at airmass 1.3, ``sky_mag`` in magnitudes
    per square arcsecond (a round number except in r), ``dust`` the extinction in magnitudes per E(B-V).
    """

    name: str
    wavelength_a: float
    throughput: float
    sky_mag: float
    dust: float

    @property
    def zero_point_mag(self) -> float:
        """AB magnitude of one electron per second."""
        return 2.5 * math.log10(AB_PHOTONS * COLLECTING_AREA_M2 * self.throughput)

    @property
    def sky_rate(self) -> float:
        """Electrons per second and pixel from the sky."""
        return float(count_rate(self, self.sky_mag)) * PIXEL_SCALE_ARCSEC**2

    @property
    def psf_fwhm_arcsec(self) -> float:
        """Seeing: that of r, scaled by wavelength^(-1/5) as Kolmogorov turbulence has it."""
        return float(SEEING_R_ARCSEC * (self.wavelength_a / 6166.0) ** -0.2)


BANDS = (
    Band("u", 3551.0, 0.0171, 22.1, 5.155),
    Band("g", 4686.0, 0.0893, 21.8, 3.793),
    Band("r", 6166.0, 0.0886, 20.86, 2.751),
    Band("i", 7480.0, 0.0591, 20.3, 2.086),
    Band("z", 8932.0, 0.0099, 19.2, 1.479),
)


def count_rate(band: Band, magnitude: ArrayLike) -> NDArray[np.float64]:
    """Electrons per second from sources of these AB magnitudes, any shape."""
    return np.asarray(10 ** (-0.4 * (np.asarray(magnitude, dtype=np.float64) - band.zero_point_mag)))


def extinction(ebv: ArrayLike) -> NDArray[np.float64]:
    """Magnitudes (n, 5) that dust of this reddening E(B-V) (n,) takes from each band: ``A_b = R_b E(B-V)``."""
    return np.outer(np.asarray(ebv, dtype=np.float64), [band.dust for band in BANDS])


def psf(band: Band) -> galsim.GSObject:
    """Kolmogorov seeing of unit flux."""
    return galsim.Kolmogorov(fwhm=band.psf_fwhm_arcsec)


def conditions(exposures: int) -> Conditions:
    """Observing conditions of the sum of so many drift scans; the read noise is that of the sum."""
    count = len(BANDS)
    return Conditions(
        PIXEL_SCALE_ARCSEC,
        (EXPOSURE_S * exposures,) * count,
        tuple(band.sky_rate for band in BANDS),
        tuple(band.psf_fwhm_arcsec for band in BANDS),
        tuple(band.zero_point_mag for band in BANDS),
        READ_NOISE_E * math.sqrt(exposures),
    )


def sky_sigma(exposures: int) -> NDArray[np.float64]:
    """Standard deviation (5,) of an empty pixel in e-/s: photon noise of the sky, and read noise."""
    seen = conditions(exposures)
    time = np.array(seen.exposure_s)
    sigma: NDArray[np.float64] = np.sqrt(np.array(seen.sky_rate) * time + seen.read_noise_e**2) / time
    return sigma


def observe(flux: NDArray[np.float64], exposures: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """An image of the noiseless ``flux`` (5, h, w) in e-/s, sky-subtracted, with Poisson and read noise."""
    seen = conditions(exposures)
    time, sky = (np.array(values)[:, None, None] for values in (seen.exposure_s, seen.sky_rate))
    counts = rng.poisson(np.maximum(flux + sky, 0) * time) + seen.read_noise_e * rng.standard_normal(
        flux.shape
    )
    image: NDArray[np.float32] = (counts / time - sky).astype(np.float32)
    return image
