"""Which galaxies there are: those of a catalogue, or drawn ones.

Every column is drawn from a generator of its own that the seed and the column's name decide, so that galaxy k is the
same whatever their number. No torch here.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from advbench.api import sample_order
from advbench_astro.photoz.boss import Catalogue
from advbench_astro.photoz.cosmology import arcsec_per_kpc, distance_modulus
from advbench_astro.photoz.sdss import BANDS, extinction
from advbench_astro.photoz.spectra import Templates

EBV_MEDIAN, EBV_SCATTER, EBV_RANGE = 0.03, 0.8, (0.003, 0.3)
"""Log-normal reddening, round numbers of high galactic latitude: median in mag, scatter of its logarithm."""

FADED_MAG = 0.03
"""Scatter in each band of a drawn galaxy, and of a second image of a galaxy of the catalogue."""

MAG_R_LIMIT = 21.0
"""Faintest drawn galaxy."""
SMAIL_Z0 = 0.25
"""Drawn redshifts: ``z^2 exp(-(z / z0)^1.5)`` (Smail et al. 1994), cut at `REDSHIFT_RANGE`; z0 is a round number."""
REDSHIFT_RANGE = (0.01, 1.0)
SCHECHTER_M, SCHECHTER_ALPHA = -21.2, -1.05
"""Luminosity function in r of Blanton et al. 2003, https://arxiv.org/abs/astro-ph/0210215, for h = 0.7."""

EARLY_RADIUS, LATE_RADIUS = (3.0, 0.6), (4.0, 0.35)
"""Half-light radius in kpc at the Schechter magnitude, and its power of luminosity: round numbers after Shen et al.
2003, https://arxiv.org/abs/astro-ph/0301527."""
RADIUS_SCATTER = 0.3
RADIUS_RANGE_ARCSEC = (0.3, 6.0)
SERSIC = np.array([1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0])
"""Sersic indices that are drawn; few, because each needs a table before it is rendered."""


@dataclass(frozen=True)
class Galaxies:
    """A population; first axis = galaxies.

    ``origin`` tells which galaxy of the sky an image shows: images of the same one belong in the same split.
    """

    names: NDArray[np.str_]
    origin: NDArray[np.str_]
    redshift: NDArray[np.float64]
    ebv: NDArray[np.float64]
    magnitudes: NDArray[np.float64]  # (n, 5) AB, through the dust
    kind: NDArray[np.float64]  # 0 (old) to 3 (young)
    shapes: NDArray[
        np.float64
    ]  # (n, 6): Sersic index, radius in arcsec, axis ratio, angle, and offset x, y in pixels

    def __len__(self) -> int:
        return len(self.names)

    def table(self) -> NDArray[np.float64]:
        """What a stamp is drawn from, (n, 11): magnitudes and shapes."""
        return np.concatenate([self.magnitudes, self.shapes], axis=1)


def of_catalogue(catalogue: Catalogue, templates: Templates, count: int, seed: int) -> Galaxies:
    """So many galaxies of a catalogue, in the order of a hash of their names.

    Where more are asked for than it has, they come again: with the same redshift, magnitudes that scatter by
    `FADED_MAG`, another shape, other dust. Magnitudes count as free of dust.
    """
    order = sample_order(catalogue.names, seed)
    turn, position = np.divmod(np.arange(count), len(order))
    row = order[position]
    scatter = FADED_MAG * _draws(seed, "resampled").standard_normal((count, len(BANDS)))
    magnitudes = catalogue.magnitudes[row] + np.where(turn[:, None] > 0, scatter, 0.0)
    redshift = catalogue.redshift[row]
    kind = _nearest_type(templates, magnitudes, redshift)
    names = np.array(
        [f"{catalogue.names[i]}-{t}" if t else str(catalogue.names[i]) for i, t in zip(row, turn)]
    )
    return _dressed(names, catalogue.names[row], redshift, magnitudes, kind, templates, seed)


def drawn(templates: Templates, count: int, seed: int) -> Galaxies:
    """So many galaxies of a magnitude-limited survey, from a redshift distribution and a luminosity function."""
    kind = 3 * _draws(seed, "type").beta(0.8, 1.2, count)  # more old galaxies than young ones
    grid = np.linspace(*REDSHIFT_RANGE, 2000)
    redshift = _inverse(
        grid, grid**2 * np.exp(-((grid / SMAIL_Z0) ** 1.5)), _draws(seed, "redshift").random(count)
    )
    apparent = templates.at(kind, redshift)
    faintest = MAG_R_LIMIT - distance_modulus(redshift) - apparent[:, 2]
    absolute = _schechter(faintest, _draws(seed, "luminosity").random(count))
    magnitudes = apparent + (absolute + distance_modulus(redshift))[:, None]
    magnitudes = magnitudes + FADED_MAG * _draws(seed, "scatter").standard_normal(magnitudes.shape)
    names = np.array([f"drawn{row:06d}" for row in range(count)])
    return _dressed(names, names, redshift, magnitudes, kind, templates, seed)


def _dressed(
    names: NDArray[np.str_],
    origin: NDArray[np.str_],
    redshift: NDArray[np.float64],
    magnitudes: NDArray[np.float64],
    kind: NDArray[np.float64],
    templates: Templates,
    seed: int,
) -> Galaxies:
    """With dust before them and a shape."""
    ebv = EBV_MEDIAN * np.exp(EBV_SCATTER * _draws(seed, "dust").standard_normal(len(names)))
    ebv = np.clip(ebv, *EBV_RANGE)
    absolute = magnitudes[:, 2] - distance_modulus(redshift) - templates.at(kind, redshift)[:, 2]
    shapes = _shapes(kind, absolute, redshift, seed)
    return Galaxies(names, origin, redshift, ebv, magnitudes + extinction(ebv), kind, shapes)


def _shapes(
    kind: NDArray[np.float64], absolute_r: NDArray[np.float64], redshift: NDArray[np.float64], seed: int
) -> NDArray[np.float64]:
    count, early = len(kind), kind < 1
    steep = np.where(early, 4.0, 1.2) * np.exp(0.2 * _draws(seed, "profile").standard_normal(count))
    index = SERSIC[np.abs(steep[:, None] - SERSIC).argmin(1)]
    size, power = (np.where(early, old, young) for old, young in zip(EARLY_RADIUS, LATE_RADIUS))
    luminosity = 10 ** (-0.4 * (absolute_r - SCHECHTER_M))
    scatter = np.exp(RADIUS_SCATTER * _draws(seed, "radius").standard_normal(count))
    radius = np.clip(size * luminosity**power * scatter * arcsec_per_kpc(redshift), *RADIUS_RANGE_ARCSEC)
    ratio = np.where(early, 0.5, 0.2) + np.where(early, 0.5, 0.8) * _draws(seed, "axes").random(count)
    angle = np.pi * _draws(seed, "angle").random(count)
    offset = _draws(seed, "offset").random((count, 2)) - 0.5
    shapes: NDArray[np.float64] = np.stack([index, radius, ratio, angle, *offset.T], axis=1)
    return shapes


def _nearest_type(
    templates: Templates, magnitudes: NDArray[np.float64], redshift: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The template (n,) whose g - i at that redshift is nearest to the observed one."""
    kinds = np.arange(len(templates.magnitudes))
    colours = [templates.at(np.full(len(redshift), float(kind)), redshift) for kind in kinds]
    expected = np.stack([seen[:, 1] - seen[:, 3] for seen in colours], axis=1)
    found = np.abs(expected - (magnitudes[:, 1] - magnitudes[:, 3])[:, None]).argmin(1)
    nearest: NDArray[np.float64] = found.astype(np.float64)
    return nearest


def _schechter(faintest: NDArray[np.float64], uniform: NDArray[np.float64]) -> NDArray[np.float64]:
    """Absolute magnitudes (n,) brighter than ``faintest`` (n,)."""
    grid = np.linspace(-26.0, -10.0, 3201)
    luminosity = 10 ** (-0.4 * (grid - SCHECHTER_M))
    density = luminosity ** (SCHECHTER_ALPHA + 1) * np.exp(-luminosity)
    cumulative = np.cumsum(density)
    reach = np.interp(faintest, grid, cumulative)
    return np.asarray(np.interp(uniform * reach, cumulative, grid))


def _inverse(
    grid: NDArray[np.float64], density: NDArray[np.float64], uniform: NDArray[np.float64]
) -> NDArray[np.float64]:
    cumulative = np.cumsum(density)
    return np.asarray(np.interp(uniform * cumulative[-1], cumulative, grid))


def _draws(seed: int, column: str) -> np.random.Generator:
    digest = hashlib.blake2b(f"photoz:{seed}:{column}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
