"""The published images of merging galaxies, from their files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import model_validator

from advbench.api import Classification, Data, DataContext, Dataset, Split, Tags, param, split_indices
from advbench_astro.files import class_numbers, colour_images, open_npy
from advbench_astro.mergers_mock import CLASSES, SIDE
from advbench_astro.shares import with_train
from advbench_astro.stretch import StretchedRows, space_for
from advbench_astro.symmetry import turn_and_mirror

DOI = "10.5281/zenodo.4507941"
ADVICE = f"get it from https://doi.org/{DOI}"
FILES = {
    ("simsim", "source"): "SimSim_SOURCE_{}_Illustris2_pristine.npy",
    ("simsim", "target"): "SimSim_TARGET_{}_Illustris2_noisy.npy",
    ("simreal", "source"): "SimReal_SOURCE_{}_Illustris0.npy",
    ("simreal", "target"): "SimReal_TARGET_{}_postmergers_SDSS.npy",
}


class DeepMerge(Dataset):
    """Merging galaxies of the Illustris simulation and of SDSS, https://doi.org/10.5281/zenodo.4507941.

    Two pairs: ``simsim``, simulated images without and with the noise of a telescope, and ``simreal``, an earlier time
    of the simulation and real galaxies of SDSS. Files are looked for in the data folders and in ``deepmerge/`` there:
    ``..._X_....npy`` of 75x75 pixels in three bands, channels first or last, and ``..._y_....npy``, 0 non-merger and 1
    merger. They stay on disk. The splits 70:10:20 follow the row alone, so that a galaxy that both domains show has
    the same place in both; half of the validation tenth is for calibration. Inputs are arcsinh-stretched fluxes,
    the stretch is measured on training images of the source.
    """

    tags: ClassVar[Tags] = Tags(tasks={"classification"}, reference="https://doi.org/10.5281/zenodo.4507941")
    version: ClassVar[int] = 1

    pair: Literal["simsim", "simreal"] = param(
        "simsim", "two simulated domains, or a simulated and a real one"
    )
    domain: Literal["source", "target"] = param("source", "which of the two")
    valid: float = param(0.05, "fraction for validation; what the others leave is for training", gt=0, lt=1)
    calibration: float = param(0.05, "fraction for calibration", ge=0, lt=1)
    test: float = param(0.2, "fraction for testing", gt=0, lt=1)
    seed: int = param(0, "which of the possible splits", ge=0)

    def _held_out(self) -> dict[str, float]:
        return {"valid": self.valid, "calibration": self.calibration, "test": self.test}

    @model_validator(mode="after")
    def _something_is_left_to_train_on(self) -> DeepMerge:
        with_train(self._held_out())
        return self

    def files(self, data_dirs: Sequence[Path]) -> Sequence[Path]:
        """The two files, where they are in the data folders."""
        found = []
        for what in ("X", "y"):
            paths = (folder / place for folder in data_dirs for place in self._places(what))
            found += [path for path in paths if path.is_file()][:1]
        return found

    def load(self, context: DataContext) -> Data:
        """All splits, memory-mapped; with a source, its stretch.

        Raises
        ------
        DataError
            Naming the file that is missing or broken, and the DOI to get it from.
        """
        images_at, labels_at = (context.find(*self._places(what), hint=ADVICE) for what in ("X", "y"))
        flux = colour_images(str(images_at), open_npy(images_at, ADVICE), SIDE)
        labels = class_numbers(str(labels_at), open_npy(labels_at, ADVICE), len(CLASSES), len(flux))
        ids = np.array([f"{self.pair}{row:06d}" for row in range(len(labels))])
        rows = split_indices(ids, with_train(self._held_out()), seed=self.seed)
        channels = tuple(f"band {k}" for k in range(1, 4))
        space = space_for(context.source, flux, rows["train"], channels, "flux")
        splits = {
            name: Split(StretchedRows(flux, part, space), labels[part], ids[part])
            for name, part in rows.items()
        }
        return Data(space, Classification(CLASSES), splits, augment=turn_and_mirror)

    def _places(self, what: str) -> tuple[str, str]:
        name = FILES[self.pair, self.domain].format(what)
        return f"deepmerge/{name}", name
