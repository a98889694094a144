"""The LSST in three bands: exposures, zero points, sky, seeing and noise.

Numbers as in the survey table of WeakLensingDeblending (https://github.com/LSSTDESC/WeakLensingDeblending),
which follows Ivezic et al. 2008, https://arxiv.org/abs/0805.2366. Fluxes are count rates in electrons per
second, so that a galaxy has the same flux at every depth and only its noise differs.
"""

from __future__ import annotations

import functools
import hashlib
import math
from dataclasses import dataclass

import galsim
import numpy as np
from numpy.typing import ArrayLike, NDArray

PIXEL_SCALE_ARCSEC = 0.2
AIRMASS = 1.2
ZERO_POINT_AIRMASS = 1.2
MIRROR_DIAMETER_M = 8.36
EFFECTIVE_AREA_M2 = 32.4

DEPTHS = {"y10": 1.0, "y1": 0.1}
"""Fraction of the ten-year exposure."""


@dataclass(frozen=True)
class Band:
    """One filter: what the survey collects in ten years, and through which air.

    ``zero_point`` is in electrons per second at AB magnitude 24 and airmass 1.2, ``sky_mag`` in magnitudes per
    square arcsecond, ``zenith_fwhm`` in arcseconds, ``extinction`` in magnitudes per airmass.
    """

    name: str
    wavelength_nm: float
    exposure_s: float
    zero_point: float
    sky_mag: float
    zenith_fwhm: float
    extinction: float


BANDS = (
    Band("g", 479.0, 2400.0, 50.70, 22.3, 0.73, 0.163),
    Band("r", 620.0, 5520.0, 43.70, 21.2, 0.70, 0.10),
    Band("i", 752.9, 5520.0, 32.36, 20.5, 0.67, 0.07),
)


def count_rate(band: Band, magnitude: float, airmass: float = AIRMASS) -> float:
    """Electrons per second from a source of this AB magnitude: ``zp 10^(-0.4 (m + k (X - 1.2) - 24))``."""
    dimmed = magnitude + band.extinction * (airmass - ZERO_POINT_AIRMASS)
    return float(band.zero_point * 10 ** (-0.4 * (dimmed - 24.0)))


def sky_rate(band: Band) -> float:
    """Electrons per second and pixel from the sky."""
    return count_rate(band, band.sky_mag) * PIXEL_SCALE_ARCSEC**2


def psf_fwhm_arcsec(band: Band) -> float:
    """Atmospheric seeing: full width at half maximum at zenith times airmass^0.6."""
    return float(band.zenith_fwhm * AIRMASS**0.6)


def psf(band: Band) -> galsim.GSObject:
    """Kolmogorov seeing convolved with the Airy pattern of the obscured mirror, unit flux."""
    covered = EFFECTIVE_AREA_M2 / (math.pi * (MIRROR_DIAMETER_M / 2) ** 2)
    airy = galsim.Airy(lam=band.wavelength_nm, diam=MIRROR_DIAMETER_M, obscuration=math.sqrt(1 - covered))
    return galsim.Convolve(galsim.Kolmogorov(fwhm=psf_fwhm_arcsec(band)), airy)


@functools.cache
def _per_band(depth: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    sky = np.array([sky_rate(band) for band in BANDS], dtype=np.float32)
    time = np.array([band.exposure_s * DEPTHS[depth] for band in BANDS], dtype=np.float32)
    return sky[:, None, None], time[:, None, None]


def noise_sigma(flux: ArrayLike, depth: str) -> NDArray[np.float32]:
    """Standard deviation of the noise in e-/s per pixel, for noiseless fluxes (..., 3, h, w) in e-/s.

    Photon noise of sky and source: the variance is ``(sky + flux) / t`` with the exposure time t of the depth.
    """
    sky, time = _per_band(depth)
    sigma: NDArray[np.float32] = np.sqrt((sky + np.maximum(np.asarray(flux, dtype=np.float32), 0)) / time)
    return sigma


def observe(flux: NDArray[np.float32], depth: str, name: str, seed: int) -> NDArray[np.float32]:
    """One exposure of the noiseless ``flux`` (3, h, w), sky-subtracted, in e-/s.

    The draw depends on the sample's name, the depth and the seed alone. A pixel collects more than 2000 electrons
    in every band and depth, so that Poisson noise is drawn as Gaussian noise of the same variance.
    """
    digest = hashlib.blake2b(f"{seed}:{depth}:{name}".encode(), digest_size=16).digest()
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
    draw = generator.standard_normal(flux.shape, dtype=np.float32)
    return flux + noise_sigma(flux, depth) * draw
