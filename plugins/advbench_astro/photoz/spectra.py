"""Colours of galaxies at a redshift: spectral templates seen through filters.

Where the data folders hold ``photoz/filters`` (or ``filters``), the templates are the four of Coleman, Wu & Weedman
1980 (https://doi.org/10.1086/190674, extended by Bolzonella et al. 2000), and the filters those of the LSST. Else a
stand-in of power laws with a break at 4000 A is seen through box filters at the places of the SDSS bands: the
strength of the break and the slopes are round numbers that give four types from red to blue. No torch here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import trapezoid

from advbench.api import DataError
from advbench_astro.photoz.sdss import BANDS

LIGHT_A_PER_S = 2.99792458e18
TYPES = ("E", "Sbc", "Scd", "Im")
SED_FILES = tuple(f"CWW_{name}_ext.sed" for name in TYPES)
FILTER_FILES = tuple(f"LSST_{band.name}.dat" for band in BANDS)

BREAKS = (2.2, 1.7, 1.35, 1.1)
"""Flux density above the 4000 A break over that below."""
SLOPES = (0.2, -0.7, -1.4, -2.0)
"""``f_lambda ~ lambda^slope``."""
BOX_WIDTH = 0.27
"""Full width of a stand-in filter over its wavelength."""


@dataclass(frozen=True)
class Curve:
    """A function of wavelength in A: linear between its points, zero beyond them."""

    wavelength_a: NDArray[np.float64]
    value: NDArray[np.float64]

    def __call__(self, wavelength_a: ArrayLike) -> NDArray[np.float64]:
        """Values at these wavelengths, any shape."""
        return np.asarray(
            np.interp(
                np.asarray(wavelength_a, dtype=np.float64), self.wavelength_a, self.value, left=0.0, right=0.0
            )
        )


def ab_magnitude(spectrum: Curve, response: Curve, redshift: ArrayLike) -> NDArray[np.float64]:
    """AB magnitudes (n,) of ``f_lambda`` in erg/s/cm2/A at rest, redshifted to (n,), as a photon counter sees it.

    ``m = -2.5 log10(int lambda f R dlambda / int (c / lambda) R dlambda) - 48.6``, where the ``f`` that is seen is
    ``f(lambda / (1 + z)) / (1 + z)``.
    """
    grid = np.linspace(response.wavelength_a[0], response.wavelength_a[-1], 800)
    through = response(grid)
    stretch = 1 + np.atleast_1d(np.asarray(redshift, dtype=np.float64))[:, None]
    seen = spectrum(grid / stretch) / stretch
    photons = trapezoid(grid * seen * through, grid)
    flat = trapezoid(LIGHT_A_PER_S / grid * through, grid)
    magnitude: NDArray[np.float64] = -2.5 * np.log10(np.maximum(photons / flat, 1e-300)) - 48.6
    return magnitude


@dataclass(frozen=True)
class Templates:
    """Types of galaxies as the bands see them.

    ``magnitudes`` (types, redshifts, 5) are observed minus rest-frame r magnitude, without the distance: minus the
    light that redshift moves out of a band (the K correction).
    """

    name: str
    redshift: NDArray[np.float64]
    magnitudes: NDArray[np.float64]

    @classmethod
    def of(cls, name: str, spectra: Sequence[Curve], filters: Sequence[Curve]) -> Templates:
        """Seen up to redshift 1.5."""
        redshift = np.linspace(0.0, 1.5, 151)
        rows = []
        for spectrum in spectra:
            seen = np.stack([ab_magnitude(spectrum, response, redshift) for response in filters], axis=1)
            rows.append(seen - seen[0, 2])
        return cls(name, redshift, np.stack(rows))

    def at(self, kind: NDArray[np.float64], redshift: NDArray[np.float64]) -> NDArray[np.float64]:
        """Magnitudes (n, 5) for types (n,) between 0 and 3, which mix neighbours, at redshifts (n,)."""
        place = np.clip(np.interp(redshift, self.redshift, np.arange(len(self.redshift))), 0, None)
        column = np.minimum(place.astype(int), len(self.redshift) - 2)
        row = np.minimum(kind.astype(int), len(self.magnitudes) - 2)
        along, across = (place - column)[:, None], (kind - row)[:, None]

        def corner(down: int) -> NDArray[np.float64]:
            left, right = self.magnitudes[row + down, column], self.magnitudes[row + down, column + 1]
            return np.asarray((1 - along) * left + along * right)

        return np.asarray((1 - across) * corner(0) + across * corner(1))


def from_files(folder: Path) -> Templates:
    """Coleman, Wu & Weedman through LSST filters, from the files of a folder.

    Raises
    ------
    DataError
        Naming the file that is missing or holds no two columns of numbers.
    """
    spectra = [_columns(folder / name, 1.0) for name in SED_FILES]
    filters = [_columns(folder / name, 10.0) for name in FILTER_FILES]  # nm
    return Templates.of("Coleman, Wu & Weedman templates through LSST filters", spectra, filters)


def stand_in() -> Templates:
    """Broken power laws through boxes."""
    grid = np.linspace(500.0, 15000.0, 2901)
    step = 0.5 * (1 + np.tanh((grid - 4000.0) / 120.0))
    spectra = [
        Curve(grid, (grid / 5500.0) ** slope * (1 / jump + (1 - 1 / jump) * step))
        for jump, slope in zip(BREAKS, SLOPES)
    ]
    filters = [box(band.wavelength_a) for band in BANDS]
    return Templates.of("broken power laws through box filters", spectra, filters)


def box(centre_a: float) -> Curve:
    """A filter that is 1 within `BOX_WIDTH` of its wavelength, and 0 elsewhere."""
    half = BOX_WIDTH / 2
    edges = np.array([1 - 1.01 * half, 1 - half, 1 + half, 1 + 1.01 * half]) * centre_a
    return Curve(edges, np.array([0.0, 1.0, 1.0, 0.0]))


def _columns(path: Path, to_angstrom: float) -> Curve:
    try:
        table = np.loadtxt(path, dtype=np.float64, usecols=(0, 1), ndmin=2)
    except (OSError, ValueError, IndexError) as error:
        raise DataError(f"{path} does not hold wavelengths and values in two columns: {error}") from None
    if len(table) < 2 or not (np.isfinite(table).all() and (np.diff(table[:, 0]) > 0).all()):
        raise DataError(f"{path}: wavelengths must rise and all numbers must be finite")
    return Curve(table[:, 0] * to_angstrom, table[:, 1])
