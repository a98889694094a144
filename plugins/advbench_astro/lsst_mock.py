"""Simulated galaxies as the LSST sees them after one and after ten years."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import model_validator

from advbench.api import Classification, Data, DataContext, Dataset, Split, Tags, param, split_indices
from advbench_astro.factory import Exposures, Galaxies, Maker, fill, sample_name
from advbench_astro.morphology import CLASSES
from advbench_astro.stretch import StretchedRows, space_for
from advbench_astro.survey import BANDS
from advbench_astro.symmetry import turn_and_mirror


class LsstMock(Dataset):
    """Simulated spirals, ellipticals and mergers in g, r, i at the depth of one or ten years of LSST.

    Drawn with GalSim, 100x100 pixels of 0.2 arcsec; survey numbers of Ivezic et al. 2008,
    https://arxiv.org/abs/0805.2366. Both depths show the same galaxies: sample g000123 of ``y1`` is sample g000123 of
    ``y10`` with ten times the noise variance. Inputs are arcsinh-stretched fluxes; see `stretch`. The galaxies are made
    once, in parallel, and kept.
    """

    tags: ClassVar[Tags] = Tags(tasks={"classification"}, reference="https://arxiv.org/abs/0805.2366")
    version: ClassVar[int] = 1
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"n": 42},)

    depth: Literal["y10", "y1"] = param("y10", "survey depth: ten years of exposure, or one")
    n: int = param(4000, "number of galaxies, all splits together", ge=30)
    seed: int = param(0, "seed of galaxies, noise and splits", ge=0)
    valid: float = param(0.075, "fraction for validation; what the others leave is for training", gt=0, lt=1)
    calibration: float = param(0.075, "fraction for calibration", gt=0, lt=1)
    test: float = param(0.15, "fraction for testing", gt=0, lt=1)

    @model_validator(mode="after")
    def _something_is_left_to_train_on(self) -> LsstMock:
        if self.valid + self.calibration + self.test >= 1:
            raise ValueError("valid + calibration + test must be below 1: the rest is for training")
        return self

    def load(self, context: DataContext) -> Data:
        """The galaxies, from the store or made now; with a source, its stretch."""
        flux = np.load(self._exposures(context), mmap_mode="r")
        ids = np.array([sample_name(row) for row in range(self.n)])
        labels = np.arange(self.n, dtype=np.int64) % len(CLASSES)
        held_out = {"valid": self.valid, "calibration": self.calibration, "test": self.test}
        fractions = {"train": 1 - sum(held_out.values()), **held_out}
        rows = split_indices(ids, fractions, seed=self.seed, labels=labels)
        space = space_for(context.source, flux, rows["train"], tuple(band.name for band in BANDS), "e-/s")
        splits = {
            name: Split(StretchedRows(flux, part, space), labels[part], ids[part])
            for name, part in rows.items()
        }
        return Data(space, Classification(CLASSES), splits, augment=turn_and_mirror)

    def _exposures(self, context: DataContext) -> Path:
        galaxies = {"n": self.n, "seed": self.seed}

        def make(folder: Path) -> None:
            noiseless = context.artifact(
                "galaxies",
                galaxies,
                lambda place: self._fill(context, place, "galaxies", Galaxies(self.seed)),
            )
            self._fill(
                context,
                folder,
                f"{self.depth} exposures",
                Exposures(noiseless / "flux.npy", self.depth, self.seed),
            )

        return context.artifact("exposures", {**galaxies, "depth": self.depth}, make) / "flux.npy"

    def _fill(self, context: DataContext, folder: Path, label: str, maker: Maker) -> None:
        with context.progress(label, self.n) as bar:
            fill(folder / "flux.npy", self.n, maker, bar.advance)
