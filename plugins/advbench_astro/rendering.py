"""From light to pixels: exact profiles and sampled sheets, seen through atmosphere, mirror and pixel.

A stamp is put together in Fourier space. Sersic profiles enter with their analytic transform as GalSim knows it,
sheets of light with the transform of their samples; the sum is multiplied by the transform of point-spread function
and pixel. Kolmogorov seeing of 0.8 arcsec suppresses the Nyquist frequency of the 0.2 arcsec grid to 1e-5, so that
the image is known between the grid points as well, which is how pixels of another size are made. No torch here:
worker processes import this module.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import galsim
import numpy as np
import scipy.fft
from numpy.typing import NDArray

from advbench_astro.survey import LSST, PIXEL_SCALE_ARCSEC, View, psf

GRID = 128
"""Side of the grid that sheets are sampled on, with pixels of 0.2 arcsec."""
MARGIN_ARCSEC = 5.0
"""The periodic grid is larger than the stamp by this: what wraps around falls outside."""


@dataclass(frozen=True)
class Light:
    """Where a stamp's light comes from; rates are e-/s in each of the six filters (6,).

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


def render(light: Light, view: View = LSST) -> NDArray[np.float32]:
    """Noiseless stamp (filters, side, side) in e-/s per pixel."""
    grid = _grid(view)
    which = list(view.which)
    spectrum = np.zeros((len(which), grid, grid // 2 + 1), dtype=np.complex128)
    for profile, rates in light.profiles:
        spectrum += rates[which, None, None] * (transform(profile, grid) * _to_stamp_centre(grid))
    for sheet, rates in light.sheets:
        spectrum += rates[which, None, None] * (
            scipy.fft.rfft2(_centred(sheet, grid)) / sheet.sum(dtype=np.float64)
        )
    spectrum *= _response(view)
    if view.pixel_scale != PIXEL_SCALE_ARCSEC:
        return _resampled(spectrum, view)
    image = scipy.fft.irfft2(spectrum, s=(grid, grid))
    edge = (grid - view.side) // 2
    stamp: NDArray[np.float32] = image[:, edge : edge + view.side, edge : edge + view.side].astype(np.float32)
    return stamp


def transform(profile: galsim.GSObject, grid: int = GRID) -> NDArray[np.complex128]:
    """Fourier transform of a profile on the frequencies of ``rfft2``, (grid, grid // 2 + 1)."""
    step = 2 * np.pi / (grid * PIXEL_SCALE_ARCSEC)
    image = galsim.ImageCD(galsim.BoundsI(0, grid // 2, -grid // 2, grid // 2 - 1), scale=step)
    profile.drawKImage(image=image, recenter=False)
    shifted: NDArray[np.complex128] = np.fft.ifftshift(image.array, axes=0)
    return shifted


def _grid(view: View) -> int:
    """Side of the periodic grid, even multiples of `GRID` about the same centre."""
    wanted = (view.field_arcsec + MARGIN_ARCSEC) / PIXEL_SCALE_ARCSEC
    return GRID * max(1, int(np.ceil(wanted / GRID)))


def _centred(sheet: NDArray[np.float32], grid: int) -> NDArray[np.float32]:
    return sheet if grid == GRID else np.pad(sheet, (grid - GRID) // 2)


def _resampled(spectrum: NDArray[np.complex128], view: View) -> NDArray[np.float32]:
    """The image at the centres of the view's pixels: the trigonometric polynomial of the spectrum, evaluated there."""
    grid = spectrum.shape[1]
    rows, columns = _waves(grid, view.side, view.pixel_scale)
    image = (rows @ spectrum @ columns).real
    stamp: NDArray[np.float32] = (image * (view.pixel_scale / PIXEL_SCALE_ARCSEC) ** 2).astype(np.float32)
    return stamp


@functools.lru_cache(maxsize=4)
def _waves(grid: int, side: int, scale: float) -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
    """Inverse transform along rows (side, grid) and columns (grid // 2 + 1, side)."""
    place = (np.arange(side) - (side - 1) / 2) * scale / PIXEL_SCALE_ARCSEC + (grid - 1) / 2
    rows = np.exp(2j * np.pi * place[:, None] * np.fft.fftfreq(grid)) / grid
    frequency = np.arange(grid // 2 + 1)
    twice = np.where((frequency == 0) | (frequency == grid // 2), 1.0, 2.0)  # the other half is the conjugate
    columns = twice[:, None] * np.exp(2j * np.pi * frequency[:, None] / grid * place) / grid
    return rows, columns


@functools.lru_cache(maxsize=4)
def _response(view: View) -> NDArray[np.complex128]:
    pixel, grid = galsim.Pixel(view.pixel_scale), _grid(view)
    return np.stack([transform(galsim.Convolve(psf(band, view.seeing), pixel), grid) for band in view.bands])


@functools.lru_cache(maxsize=4)
def _to_stamp_centre(grid: int) -> NDArray[np.complex128]:
    middle = (grid - 1) / 2
    row = np.exp(-2j * np.pi * middle * np.fft.fftfreq(grid))
    column = np.exp(-2j * np.pi * middle * np.fft.rfftfreq(grid))
    phase: NDArray[np.complex128] = row[:, None] * column
    return phase
