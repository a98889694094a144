"""Simulated mergers, as a simulation shows them and as a telescope would."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import model_validator

from advbench.api import Classification, Data, DataContext, Dataset, Split, Tags, param, split_indices
from advbench_astro.sample import Sample
from advbench_astro.scene import Scene
from advbench_astro.shares import with_train
from advbench_astro.stretch import StretchedRows, space_for
from advbench_astro.survey import Exposure, View
from advbench_astro.symmetry import turn_and_mirror

CLASSES = ("non-merger", "merger")
KINDS = ("spiral", "merger", "elliptical", "merger")
SIDE = 75
PIXEL_SCALE_ARCSEC = 20 / SIDE
FIRST = {"simulated": 1 << 40, "observed": 1 << 41}
"""Numbers of the galaxies, which no other sample has."""


class MergersMock(Dataset):
    """Merging galaxies or not, 75x75 pixels in g, r, i: from a simulation, or as if a telescope had observed them.

    The galaxies are those of ``astro/lsst-mock``: mergers on one side, spirals and ellipticals in equal numbers on the
    other. ``simulated`` ones are alone in their stamps, sharp and almost without noise; ``observed`` ones have wider
    seeing, the noise of a short exposure, and stars and galaxies in front and behind. They are other galaxies of the
    same population, unless ``paired``. The sizes of Ciprijanovic et al. 2020, https://arxiv.org/abs/2004.11981; inputs
    are arcsinh-stretched fluxes of the source's scale.
    """

    tags: ClassVar[Tags] = Tags(tasks={"classification"}, reference="https://arxiv.org/abs/2004.11981")
    version: ClassVar[int] = 1
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"n": 40}, {"n": 40, "domain": "observed"})

    domain: Literal["simulated", "observed"] = param("simulated", "how the galaxies are seen")
    paired: bool = param(False, "observed: the very galaxies of the simulated sample")
    n: int = param(1600, "number of galaxies, all splits together", ge=40)
    seed: int = param(0, "seed of galaxies, noise and splits", ge=0)
    psf: float = param(1.6, "observed: width of the seeing, over that of LSST", ge=0.6, le=2.5)
    exposure: float = param(0.03, "observed: fraction of LSST's ten-year exposure", ge=0.01, le=10)
    neighbours: float = param(
        2.0, "observed: mean number of stars and galaxies beyond the usual ones", ge=0, le=100
    )
    valid: float = param(0.1, "fraction for validation; what the others leave is for training", gt=0, lt=1)
    calibration: float = param(0.05, "fraction for calibration", gt=0, lt=1)
    test: float = param(0.2, "fraction for testing", gt=0, lt=1)

    def _held_out(self) -> dict[str, float]:
        return {"valid": self.valid, "calibration": self.calibration, "test": self.test}

    @model_validator(mode="after")
    def _settings_fit(self) -> MergersMock:
        with_train(self._held_out())
        if self.paired and self.domain == "simulated":
            raise ValueError(
                "`paired` is for the observed domain: its galaxies are those of the simulated one"
            )
        return self

    def load(self, context: DataContext) -> Data:
        """The galaxies, from the store or made now; with a source, its stretch."""
        sample = self._sample()
        flux, ids = sample.flux(context), sample.names()
        kinds = np.array(KINDS)[np.arange(self.n) % len(KINDS)]
        labels = (kinds == CLASSES[1]).astype(np.int64)
        # Stratified by kind, so that both kinds of non-mergers are in every split.
        rows = split_indices(ids, with_train(self._held_out()), seed=self.seed, labels=kinds)
        channels = tuple(sample.view.filters)
        space = space_for(context.source, flux, rows["train"], channels, "e-/s", sample.facts())
        splits = {
            name: Split(StretchedRows(flux, part, space), labels[part], ids[part])
            for name, part in rows.items()
        }
        return Data(space, Classification(CLASSES), splits, augment=turn_and_mirror)

    def _sample(self) -> Sample:
        if self.domain == "simulated":
            scene = Scene(KINDS, company=False, first=FIRST["simulated"])
            return Sample(
                self.n, self.seed, scene, View(pixel_scale=PIXEL_SCALE_ARCSEC, side=SIDE), prefix="s"
            )
        whose: Literal["simulated", "observed"] = "simulated" if self.paired else "observed"
        scene = Scene(KINDS, neighbours=self.neighbours, first=FIRST[whose])
        view = View(seeing=self.psf, pixel_scale=PIXEL_SCALE_ARCSEC, side=SIDE)
        return Sample(self.n, self.seed, scene, view, Exposure(self.exposure), prefix=whose[0])
