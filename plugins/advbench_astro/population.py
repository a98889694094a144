"""How bright, how large and of what colour: the galaxies that the mock survey looks at.

Sizes and axis ratios follow the Sersic fits to COSMOS galaxies that GalSim distributes (F814W < 23.5,
https://doi.org/10.5281/zenodo.3242143); colours are those of the templates of Coleman, Wu & Weedman 1980,
https://doi.org/10.1086/190674, at redshift 0.1 through the LSST filters. No torch here: worker processes import
this module.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from advbench_astro.survey import FILTERS, count_rate

MAG_I_RANGE = (17.5, 19.9)
COUNT_SLOPE = 0.3
"""Galaxy counts rise as ``10^(0.3 m)``."""

DISC_SIZE = (-0.31, -0.93, 0.29)
SPHEROID_SIZE = (-0.36, -1.12, 0.45)
"""``ln(half-light radius / arcsec) = slope (i - 22) + intercept``, and its scatter."""
SIZE_BOOST = 0.75
"""Added to the logarithm: the extended side of the relation, because only large galaxies show their shape here."""
SIZE_RANGE_ARCSEC = (1.1, 3.5)

# AB colours (u - g, g - r, r - i, i - z, z - y)
COLOURS = {
    "old": (1.76, 0.91, 0.42, 0.24, 0.21),
    "disc": (1.30, 0.54, 0.33, 0.26, 0.21),
    "arms": (0.97, 0.38, 0.22, 0.15, 0.11),
    "young": (0.76, 0.21, 0.18, 0.17, 0.15),
}
COLOUR_SCATTER = 0.18
"""Standard deviation of g - r from one galaxy to the next; u - g moves as far, r - i half and i - z a quarter."""


@dataclass(frozen=True)
class Appearance:
    """What the whole galaxy looks like: i magnitude, half-light radius and colour offset (g - r)."""

    mag_i: float
    radius_arcsec: float
    reddening: float

    def rates(self, stars: str, fraction: float) -> NDArray[np.float64]:
        """Count rates (6,) in e-/s of a component of this stellar population with this share of the i-band light."""
        u_g, g_r, r_i, i_z, z_y = COLOURS[stars]
        i = self.mag_i - 2.5 * np.log10(fraction)
        r = i + r_i + self.reddening / 2
        g = r + g_r + self.reddening
        z = i - i_z - self.reddening / 4
        magnitudes = (g + u_g + self.reddening, g, r, i, z, z - z_y)
        return np.array([count_rate(band, mag) for band, mag in zip(FILTERS, magnitudes)])


def draw_appearance(rng: np.random.Generator, *, spheroid: bool) -> Appearance:
    """A galaxy from the population."""
    low, high = (10 ** (COUNT_SLOPE * mag) for mag in MAG_I_RANGE)
    mag_i = float(np.log10(rng.uniform(low, high)) / COUNT_SLOPE)
    slope, intercept, scatter = SPHEROID_SIZE if spheroid else DISC_SIZE
    size = float(np.exp(slope * (mag_i - 22) + intercept + SIZE_BOOST + scatter * rng.standard_normal()))
    return Appearance(mag_i, float(np.clip(size, *SIZE_RANGE_ARCSEC)), COLOUR_SCATTER * rng.standard_normal())
