"""From a row of the population to an image of 5x64x64 pixels. No torch here: worker processes import this module.

A stamp is put together in Fourier space: the analytic transform of a Sersic profile as GalSim knows it, once for all
bands, times that of seeing and pixel of each band. Seeing of 1.3 arcsec suppresses the Nyquist frequency of pixels of
0.396 arcsec to 1e-3 or less, so that nothing is lost by working at the pixel scale.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

import galsim
import numpy as np
import scipy.fft
from numpy.typing import NDArray

from advbench_astro.photoz.sdss import BANDS, PIXEL_SCALE_ARCSEC, count_rate, observe, psf

STAMP = 64
GRID = 96
"""Side of the periodic grid that a stamp is cut from."""
SHAPE = (len(BANDS), STAMP, STAMP)


@dataclass(frozen=True)
class Stamps:
    """Images of the galaxies in ``table``, a file (n, 11) as `Galaxies.table` gives it, named by ``names`` (n,)."""

    table: Path
    names: Path
    exposures: int
    seed: int

    def __call__(self, row: int) -> NDArray[np.float32]:
        """The galaxy of this row with the noise that belongs to its name, (5, 64, 64) in e-/s."""
        galaxy = np.load(self.table, mmap_mode="r")[row]
        name = str(np.load(self.names, mmap_mode="r")[row])
        digest = hashlib.blake2b(f"{self.seed}:{self.exposures}:{name}".encode(), digest_size=16).digest()
        rng = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
        return observe(render(galaxy[:5], galaxy[5:]), self.exposures, rng)


def render(magnitudes: NDArray[np.float64], shape: NDArray[np.float64]) -> NDArray[np.float64]:
    """Noiseless stamp (5, 64, 64) in e-/s of a galaxy with these magnitudes (5,) and this shape.

    ``shape`` (6,) is the Sersic index, the half-light radius in arcsec (that of a circle of the same area), the axis
    ratio, the angle in radians and the offset x, y from the middle in pixels.
    """
    index, radius, ratio, angle, x, y = (float(value) for value in shape)
    profile = galsim.Sersic(index, half_light_radius=radius).shear(q=ratio, beta=angle * galsim.radians)
    rates = np.array([float(count_rate(band, mag)) for band, mag in zip(BANDS, magnitudes)])
    spectrum = _transform(profile) * _shift((GRID - 1) / 2 + x, (GRID - 1) / 2 + y)
    image = scipy.fft.irfft2(rates[:, None, None] * (spectrum * _response()), s=(GRID, GRID))
    edge = (GRID - STAMP) // 2
    stamp: NDArray[np.float64] = image[:, edge : edge + STAMP, edge : edge + STAMP]
    return stamp


def _transform(profile: galsim.GSObject) -> NDArray[np.complex128]:
    """Fourier transform on the frequencies of ``rfft2``, (GRID, GRID // 2 + 1)."""
    step = 2 * np.pi / (GRID * PIXEL_SCALE_ARCSEC)
    image = galsim.ImageCD(galsim.BoundsI(0, GRID // 2, -GRID // 2, GRID // 2 - 1), scale=step)
    profile.drawKImage(image=image, recenter=False)
    return np.asarray(np.fft.ifftshift(image.array, axes=0))


@functools.cache
def _response() -> NDArray[np.complex128]:
    pixel = galsim.Pixel(PIXEL_SCALE_ARCSEC)
    return np.stack([_transform(galsim.Convolve(psf(band), pixel)) for band in BANDS])


def _shift(x: float, y: float) -> NDArray[np.complex128]:
    column = np.exp(-2j * np.pi * x * np.fft.rfftfreq(GRID))
    row = np.exp(-2j * np.pi * y * np.fft.fftfreq(GRID))
    return np.asarray(row[:, None] * column)
