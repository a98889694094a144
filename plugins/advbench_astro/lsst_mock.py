"""Simulated galaxies as the LSST sees them: after one and ten years, or under other conditions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import field_validator, model_validator

from advbench.api import Classification, Data, DataContext, Dataset, Split, Tags, param, split_indices
from advbench_astro.morphology import CLASSES
from advbench_astro.sample import Sample
from advbench_astro.scene import Scene
from advbench_astro.shares import with_train
from advbench_astro.stretch import Joined, StretchedRows, space_for
from advbench_astro.survey import DEPTHS, PIXEL_SCALE_ARCSEC, Exposure, View
from advbench_astro.symmetry import turn_and_mirror

ODDITIES = 1 << 33
"""Numbers of the galaxies of no class start here, far beyond any sample of the classes."""


class LsstMock(Dataset):
    """Simulated spirals, ellipticals and mergers as LSST sees them, at the depth of one or ten years or otherwise.

    Drawn with GalSim, 100x100 pixels of 0.2 arcsec in g, r, i; survey numbers of Ivezic et al. 2008,
    https://arxiv.org/abs/0805.2366. All depths show the same galaxies: sample g000123 of ``y1`` is sample g000123 of
    ``y10`` with ten times the noise variance. So it is under every other condition (seeing, pixels, filters, sky,
    dust, brightness, crowding, class shares), each of which changes only what it names. Galaxies of an ``unknown``
    kind have the target -1. Inputs are arcsinh-stretched fluxes; see `stretch`. The galaxies are made once, in
    parallel, and kept.
    """

    tags: ClassVar[Tags] = Tags(tasks={"classification"}, reference="https://arxiv.org/abs/0805.2366")
    version: ClassVar[int] = 1
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"n": 42},
        {
            "n": 42,
            "exposure": 0.05,
            "psf": 1.4,
            "pixel_scale": 0.3,
            "filters": "riz",
            "fainter": 0.5,
            "sky": 0.5,
        },
        {"n": 42, "ebv": 0.1, "neighbours": 3.0, "class_mix": {"spiral": 3, "elliptical": 2, "merger": 1}},
        {"n": 42, "depth": "y1", "unknown": "lens"},
    )

    depth: Literal["y10", "y1"] = param("y10", "survey depth: ten years of exposure, or one")
    n: int = param(4000, "number of galaxies, all splits together", ge=30)
    seed: int = param(0, "seed of galaxies, noise and splits", ge=0)
    valid: float = param(0.075, "fraction for validation; what the others leave is for training", gt=0, lt=1)
    calibration: float = param(0.075, "fraction for calibration", gt=0, lt=1)
    test: float = param(0.15, "fraction for testing", gt=0, lt=1)
    exposure: float | None = param(
        None, "fraction of the ten-year exposure, instead of that of `depth`", ge=0.01, le=10
    )
    psf: float = param(1.0, "width of the seeing, over that of the survey", ge=0.6, le=2.5)
    pixel_scale: float = param(PIXEL_SCALE_ARCSEC, "size of a pixel", unit="arcsec", ge=0.1, le=0.5)
    filters: str = param("gri", "filters of LSST, each a channel: some of u, g, r, i, z, y", min_length=1)
    fainter: float = param(
        0.0, "how much fainter the same galaxies are, as at a deeper limit", unit="mag", ge=-3, le=5
    )
    sky: float = param(0.0, "how much brighter the sky is, per square arcsec", unit="mag", ge=-2, le=5)
    ebv: float = param(0.0, "reddening E(B-V) by Galactic dust", unit="mag", ge=0, le=2)
    neighbours: float = param(
        0.0, "mean number of further stars and galaxies in 20 x 20 arcsec", ge=0, le=100
    )
    class_mix: dict[str, float] = param(
        {}, "shares of the classes, of any sum; galaxies are left out for it. All alike if empty"
    )
    unknown: Literal["none", "lens", "irregular"] = param(
        "none", "galaxies of no class in every split but calibration: gravitational lenses or irregulars"
    )
    unknown_share: float = param(0.2, "how many of them there are for each of the n galaxies", gt=0, le=1)

    @field_validator("filters")
    @classmethod
    def _filters_exist(cls, value: str) -> str:
        if set(value) - set("ugrizy") or len(set(value)) < len(value):
            raise ValueError(f"some of the letters u, g, r, i, z, y, each once, not {value!r}")
        return value

    def _held_out(self) -> dict[str, float]:
        return {"valid": self.valid, "calibration": self.calibration, "test": self.test}

    @model_validator(mode="after")
    def _shares_fit(self) -> LsstMock:
        with_train(self._held_out())
        strange = sorted(set(self.class_mix) - set(CLASSES))
        if strange:
            raise ValueError(f"class_mix: there is no class {strange[0]!r}; there are {', '.join(CLASSES)}")
        if self.class_mix and (min(self.class_mix.values()) < 0 or max(self.class_mix.values()) == 0):
            raise ValueError("class_mix: shares are >= 0 and one of them is above")
        return self

    def load(self, context: DataContext) -> Data:
        """The galaxies, from the store or made now; with a source, its stretch."""
        sample = self._sample()
        flux: Any = sample.flux(context)
        ids, labels = sample.names(), np.arange(self.n, dtype=np.int64) % len(CLASSES)
        fractions = with_train(self._held_out())
        rows = split_indices(ids, fractions, seed=self.seed, labels=labels)
        rows = {name: _mixed(part, labels, self.class_mix) for name, part in rows.items()}
        space = space_for(context.source, flux, rows["train"], tuple(self.filters), "e-/s", sample.facts())
        if self.unknown != "none":
            odd = self._odd()
            flux, ids = Joined(flux, odd.flux(context)), np.concatenate([ids, odd.names()])
            labels = np.concatenate([labels, np.full(odd.count, -1)])
            shares = {name: share / (1 - self.calibration) for name, share in fractions.items()}
            more = split_indices(odd.names(), {**shares, "calibration": 0.0}, seed=self.seed)
            rows = {name: np.concatenate([part, self.n + more[name]]) for name, part in rows.items()}
        splits = {
            name: Split(StretchedRows(flux, part, space), labels[part], ids[part])
            for name, part in rows.items()
        }
        return Data(space, Classification(CLASSES), splits, augment=turn_and_mirror)

    def _sample(self) -> Sample:
        fraction = DEPTHS[self.depth] if self.exposure is None else self.exposure
        scene = Scene(fainter=self.fainter, neighbours=self.neighbours)
        view = View(self.filters, self.psf, self.pixel_scale)
        return Sample(self.n, self.seed, scene, view, Exposure(fraction, self.sky, self.ebv))

    def _odd(self) -> Sample:
        """The galaxies of no class, under the same conditions."""
        known = self._sample()
        scene = Scene((self.unknown,), self.fainter, neighbours=self.neighbours, first=ODDITIES)
        count = max(1, round(self.unknown_share * self.n))
        return Sample(count, self.seed, scene, known.view, known.exposure, prefix="u")


def _mixed(rows: NDArray[np.int64], labels: NDArray[np.int64], mix: Mapping[str, float]) -> NDArray[np.int64]:
    """As many of the rows as can be kept, the first ones of each class, for classes to have these shares."""
    if not mix:
        return rows
    shares = np.array([mix.get(name, 0.0) for name in CLASSES]) / sum(mix.values())
    there = np.bincount(labels[rows], minlength=len(CLASSES))
    total = min(there[k] / share for k, share in enumerate(shares) if share > 0)
    keep = [rows[labels[rows] == k][: round(total * share)] for k, share in enumerate(shares)]
    return rows[np.isin(rows, np.concatenate(keep))]
