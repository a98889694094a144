"""The LSST: filters, zero points, sky, seeing, exposures and noise.

Numbers as in the survey table of WeakLensingDeblending (https://github.com/LSSTDESC/WeakLensingDeblending),
which follows Ivezic et al. 2008, https://arxiv.org/abs/0805.2366; wavelengths of u, z and y are the pivots of the
total throughputs (https://github.com/lsst/throughputs). Galactic extinction as in the LSST camera's configuration
(https://github.com/lsst/obs_lsst): the law of Cardelli, Clayton & Mathis 1989 with R_V = 3.1. Fluxes are count
rates in electrons per second, so that a galaxy has the same flux at every depth and only its noise differs.
No torch here: worker processes import this module.
"""

from __future__ import annotations

import functools
import hashlib
import math
from dataclasses import dataclass

import galsim
import numpy as np
from numpy.typing import ArrayLike, NDArray

from advbench_astro.conditions import Conditions

PIXEL_SCALE_ARCSEC = 0.2
STAMP = 100
"""Side of a stamp in pixels, unless a view says otherwise."""
AIRMASS = 1.2
ZERO_POINT_AIRMASS = 1.2
MIRROR_DIAMETER_M = 8.36
EFFECTIVE_AREA_M2 = 32.4

DEPTHS = {"y10": 1.0, "y1": 0.1}
"""Fraction of the ten-year exposure."""


@dataclass(frozen=True)
class Band:
    """One filter: what the survey collects in ten years, and through which air and dust.

    ``zero_point`` is in electrons per second at AB magnitude 24 and airmass 1.2, ``sky_mag`` in magnitudes per
    square arcsecond, ``zenith_fwhm`` in arcseconds, ``extinction`` in magnitudes per airmass, ``reddening`` in
    magnitudes of Galactic extinction per magnitude of E(B-V).
    """

    name: str
    wavelength_nm: float
    exposure_s: float
    zero_point: float
    sky_mag: float
    zenith_fwhm: float
    extinction: float
    reddening: float


FILTERS = (
    Band("u", 366.5, 1680.0, 9.16, 22.9, 0.77, 0.451, 4.757),
    Band("g", 479.0, 2400.0, 50.70, 22.3, 0.73, 0.163, 3.661),
    Band("r", 620.0, 5520.0, 43.70, 21.2, 0.70, 0.10, 2.701),
    Band("i", 752.9, 5520.0, 32.36, 20.5, 0.67, 0.07, 2.054),
    Band("z", 868.5, 4800.0, 22.68, 19.6, 0.65, 0.043, 1.590),
    Band("y", 970.4, 4800.0, 10.58, 18.6, 0.63, 0.138, 1.308),
)
"""All six."""
BANDS = FILTERS[1:4]
"""Those of the galaxy-morphology images: g, r, i."""


@dataclass(frozen=True)
class View:
    """Through what the survey looks: filters by name, seeing over its usual width, and the pixels of a stamp."""

    filters: str = "gri"
    seeing: float = 1.0
    pixel_scale: float = PIXEL_SCALE_ARCSEC
    side: int = STAMP

    @property
    def which(self) -> tuple[int, ...]:
        """Positions of the filters in `FILTERS`."""
        names = "".join(band.name for band in FILTERS)
        return tuple(names.index(name) for name in self.filters)

    @property
    def bands(self) -> tuple[Band, ...]:
        """The filters."""
        return tuple(FILTERS[i] for i in self.which)

    @property
    def field_arcsec(self) -> float:
        """Side of a stamp on the sky."""
        return self.side * self.pixel_scale


LSST = View()


@dataclass(frozen=True)
class Exposure:
    """One observation: which fraction of the ten-year exposure, and where in the sky.

    ``sky`` is by how many magnitudes per square arcsecond it is brighter than a dark sky, ``ebv`` the reddening
    E(B-V) by Galactic dust.
    """

    fraction: float = 1.0
    sky: float = 0.0
    ebv: float = 0.0

    @property
    def depth(self) -> str:
        """Name of the depth: ``y10``, ``y1``, or the fraction."""
        return next((name for name, part in DEPTHS.items() if part == self.fraction), str(self.fraction))

    def transmission(self, view: View) -> NDArray[np.float32]:
        """Share of the light that the dust lets through, (bands, 1, 1)."""
        dimmed = [10 ** (-0.4 * band.reddening * self.ebv) for band in view.bands]
        return np.array(dimmed, dtype=np.float32)[:, None, None]

    def sky_rates(self, view: View) -> tuple[float, ...]:
        """Electrons per second and pixel from the sky, in each band."""
        brighter = 10 ** (0.4 * self.sky)
        return tuple(sky_rate(band, view.pixel_scale) * brighter for band in view.bands)

    def conditions(self, view: View) -> Conditions:
        """What a survey perturbation must know of it."""
        return Conditions(
            pixel_scale_arcsec=view.pixel_scale,
            exposure_s=tuple(band.exposure_s * self.fraction for band in view.bands),
            sky_rate=self.sky_rates(view),
            psf_fwhm_arcsec=tuple(psf_fwhm_arcsec(band, view.seeing) for band in view.bands),
            zero_point_mag=tuple(24.0 + 2.5 * math.log10(band.zero_point) for band in view.bands),
        )


YEAR_10 = Exposure()


def count_rate(band: Band, magnitude: float, airmass: float = AIRMASS) -> float:
    """Electrons per second from a source of this AB magnitude: ``zp 10^(-0.4 (m + k (X - 1.2) - 24))``."""
    dimmed = magnitude + band.extinction * (airmass - ZERO_POINT_AIRMASS)
    return float(band.zero_point * 10 ** (-0.4 * (dimmed - 24.0)))


def sky_rate(band: Band, pixel_scale: float = PIXEL_SCALE_ARCSEC) -> float:
    """Electrons per second and pixel from a dark sky."""
    return count_rate(band, band.sky_mag) * pixel_scale**2


def psf_fwhm_arcsec(band: Band, seeing: float = 1.0) -> float:
    """Atmospheric seeing: full width at half maximum at zenith times airmass^0.6, times ``seeing``."""
    return float(band.zenith_fwhm * AIRMASS**0.6 * seeing)


def psf(band: Band, seeing: float = 1.0) -> galsim.GSObject:
    """Kolmogorov seeing convolved with the Airy pattern of the obscured mirror, unit flux."""
    covered = EFFECTIVE_AREA_M2 / (math.pi * (MIRROR_DIAMETER_M / 2) ** 2)
    airy = galsim.Airy(lam=band.wavelength_nm, diam=MIRROR_DIAMETER_M, obscuration=math.sqrt(1 - covered))
    return galsim.Convolve(galsim.Kolmogorov(fwhm=psf_fwhm_arcsec(band, seeing)), airy)


@functools.lru_cache(maxsize=16)
def _per_band(exposure: Exposure, view: View) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    sky = np.array(exposure.sky_rates(view), dtype=np.float32)
    time = np.array([band.exposure_s * exposure.fraction for band in view.bands], dtype=np.float32)
    return sky[:, None, None], time[:, None, None]


def noise_sigma(flux: ArrayLike, exposure: Exposure, view: View = LSST) -> NDArray[np.float32]:
    """Standard deviation of the noise in e-/s per pixel, for noiseless fluxes (..., bands, h, w) in e-/s.

    Photon noise of sky and source: the variance is ``(sky + flux) / t`` with the exposure time t.
    """
    sky, time = _per_band(exposure, view)
    sigma: NDArray[np.float32] = np.sqrt((sky + np.maximum(np.asarray(flux, dtype=np.float32), 0)) / time)
    return sigma


def observe(
    flux: NDArray[np.float32], exposure: Exposure, name: str, seed: int, view: View = LSST, variant: str = ""
) -> NDArray[np.float32]:
    """One exposure of the noiseless ``flux`` (bands, h, w) above the dust, sky-subtracted, in e-/s.

    The draw depends on the sample's name, the depth, the seed and ``variant`` alone. A pixel collects more than 2000
    electrons in g, r and i at either depth, so that Poisson noise is drawn as Gaussian noise of the same variance.
    """
    digest = hashlib.blake2b(f"{seed}:{exposure.depth}:{name}{variant}".encode(), digest_size=16).digest()
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
    draw = generator.standard_normal(flux.shape, dtype=np.float32)
    seen = flux if exposure.ebv == 0 else flux * exposure.transmission(view)
    return seen + noise_sigma(seen, exposure, view) * draw
