"""What a stamp shows: a galaxy of some kind, as bright as the sample is, alone or in company.

No torch here: worker processes import this module.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from advbench_astro.morphology import (
    CLASSES,
    FIELD_ARCSEC,
    Profiles,
    crowd,
    elliptical,
    line_of_sight,
    merger,
    spiral,
)
from advbench_astro.oddities import irregular, lens
from advbench_astro.rendering import Light

DRAW = {"spiral": spiral, "elliptical": elliptical, "merger": merger, "lens": lens, "irregular": irregular}
"""How a galaxy of each kind is drawn from a generator."""
CROWD = 1 << 62
"""Set in the second key word of the generator that draws further neighbours."""


@dataclass(frozen=True)
class Scene:
    """What a sample of galaxies consists of.

    Parameters
    ----------
    kinds
        Galaxy ``index`` is of kind ``index % len(kinds)``.
    fainter
        Magnitudes by which the galaxies, not their neighbours, are dimmer.
    company
        Whether anything else lies in the line of sight.
    neighbours
        Mean number of further stars and galaxies in 20 x 20 arcsec.
    first
        Added to the index, so that samples with other galaxies can be made.
    """

    kinds: tuple[str, ...] = CLASSES
    fainter: float = 0.0
    company: bool = True
    neighbours: float = 0.0
    first: int = 0

    def galaxy(self, seed: int, index: int, field_arcsec: float = FIELD_ARCSEC) -> Light:
        """Galaxy ``index`` with its neighbours; it depends on nothing but scene and arguments.

        Whatever else a scene changes, the galaxy and the neighbours that two scenes have in common are the same.
        """
        number = self.first + index
        rng = np.random.Generator(np.random.Philox(key=[seed, number]))
        light = DRAW[self.kinds[index % len(self.kinds)]](rng)
        dimming = 10 ** (-0.4 * self.fainter)
        own: Profiles = [(body, rates * dimming) for body, rates in light.profiles]
        sheets = [(sheet, rates * dimming) for sheet, rates in light.sheets]
        others = line_of_sight(rng) if self.company else []
        if self.neighbours or (self.company and field_arcsec > FIELD_ARCSEC):
            others += crowd(
                np.random.Generator(np.random.Philox(key=[seed, number | CROWD])),
                self.neighbours,
                field_arcsec,
            )
        return Light([*own, *others], sheets)


USUAL = Scene()
