"""From light to pixels: exact profiles and sampled sheets, seen through atmosphere, mirror and pixel.

A stamp is put together in Fourier space. Sersic profiles enter with their analytic transform as GalSim knows it,
sheets of light with the transform of their samples; the sum is multiplied by the transform of point-spread function
and pixel. Kolmogorov seeing of 0.8 arcsec suppresses the Nyquist frequency of 0.2 arcsec pixels to 1e-5, so that
nothing is lost by working at the pixel scale. No torch here: worker processes import this module.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import galsim
import numpy as np
import scipy.fft
from numpy.typing import NDArray

from advbench_astro.survey import BANDS, PIXEL_SCALE_ARCSEC, psf

STAMP = 100
"""Side of a stamp in pixels."""
GRID = 128
"""Side of the periodic grid that it is cut from; what wraps around falls outside the stamp."""


@dataclass(frozen=True)
class Light:
    """Where a stamp's light comes from; rates are e-/s in each band (3,).

    ``profiles`` are GalSim objects of unit flux, ``sheets`` surface brightnesses (GRID, GRID) sampled on `sky_grid`,
    of any norm.
    """

    profiles: Sequence[tuple[galsim.GSObject, NDArray[np.float64]]]
    sheets: Sequence[tuple[NDArray[np.float32], NDArray[np.float64]]]


@functools.cache
def sky_grid() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Positions (x, y) of the grid's pixel centres in arcsec from the stamp's centre, each (GRID, GRID)."""
    axis = ((np.arange(GRID) - (GRID - 1) / 2) * PIXEL_SCALE_ARCSEC).astype(np.float32)
    return np.broadcast_to(axis, (GRID, GRID)).copy(), np.broadcast_to(axis[:, None], (GRID, GRID)).copy()


def render(light: Light) -> NDArray[np.float32]:
    """Noiseless stamp (3, STAMP, STAMP) in e-/s per pixel, bands g, r, i."""
    spectrum = np.zeros((len(BANDS), GRID, GRID // 2 + 1), dtype=np.complex128)
    for profile, rates in light.profiles:
        spectrum += rates[:, None, None] * (transform(profile) * _to_stamp_centre())
    for sheet, rates in light.sheets:
        spectrum += rates[:, None, None] * (scipy.fft.rfft2(sheet) / sheet.sum(dtype=np.float64))
    image = scipy.fft.irfft2(spectrum * _response(), s=(GRID, GRID))
    edge = (GRID - STAMP) // 2
    stamp: NDArray[np.float32] = image[:, edge : edge + STAMP, edge : edge + STAMP].astype(np.float32)
    return stamp


def transform(profile: galsim.GSObject) -> NDArray[np.complex128]:
    """Fourier transform of a profile on the frequencies of ``rfft2``, (GRID, GRID // 2 + 1)."""
    step = 2 * np.pi / (GRID * PIXEL_SCALE_ARCSEC)
    image = galsim.ImageCD(galsim.BoundsI(0, GRID // 2, -GRID // 2, GRID // 2 - 1), scale=step)
    profile.drawKImage(image=image, recenter=False)
    shifted: NDArray[np.complex128] = np.fft.ifftshift(image.array, axes=0)
    return shifted


@functools.cache
def _response() -> NDArray[np.complex128]:
    pixel = galsim.Pixel(PIXEL_SCALE_ARCSEC)
    return np.stack([transform(galsim.Convolve(psf(band), pixel)) for band in BANDS])


@functools.cache
def _to_stamp_centre() -> NDArray[np.complex128]:
    middle = (GRID - 1) / 2
    row = np.exp(-2j * np.pi * middle * np.fft.fftfreq(GRID))
    column = np.exp(-2j * np.pi * middle * np.fft.rfftfreq(GRID))
    phase: NDArray[np.complex128] = row[:, None] * column
    return phase
