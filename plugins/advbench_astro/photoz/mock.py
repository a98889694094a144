"""Simulated SDSS galaxies with a redshift."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import model_validator

from advbench.api import Data, DataContext, DataError, Dataset, InputSpace, Regression, Split, Tags, param
from advbench_astro.photoz.boss import read_catalogue
from advbench_astro.photoz.link import SkyUnits
from advbench_astro.photoz.making import fill
from advbench_astro.photoz.population import Galaxies, drawn, of_catalogue
from advbench_astro.photoz.sdss import BANDS, conditions, sky_sigma
from advbench_astro.photoz.spectra import FILTER_FILES, SED_FILES, Templates, from_files, stand_in
from advbench_astro.photoz.splits import split_by_origin
from advbench_astro.photoz.stamps import SHAPE, Stamps
from advbench_astro.shares import with_train
from advbench_astro.stretch import StretchedRows
from advbench_astro.symmetry import turn_and_mirror

TABLE = "boss_dr10_0.csv"
FILTERS = "filters"


class PhotozMock(Dataset):
    """Simulated 5x64x64 stamps of SDSS galaxies in u, g, r, i, z; the target is the redshift.

    Magnitudes and redshifts are those of real galaxies where the data folders hold ``photoz/boss_dr10_0.csv``, else
    drawn; see `population`, and the notes of a loaded data set for which it was. Milky Way dust dims each band by
    ``R_b E(B-V)`` and its E(B-V) comes along as the extra input ``ebv``. Sersic profiles, seeing, sky and Poisson noise
    as the SDSS has them (https://arxiv.org/abs/astro-ph/0006396); inputs are `SkyUnits`. Images of the same real
    galaxy are always in the same split.
    """

    tags: ClassVar[Tags] = Tags(tasks={"regression"}, reference="https://arxiv.org/abs/astro-ph/0006396")
    version: ClassVar[int] = 1
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"n": 42, "population": "drawn"},)

    n: int = param(4000, "number of galaxies, all splits together", ge=20)
    population: Literal["auto", "boss", "drawn"] = param(
        "auto", "real magnitudes and redshifts, drawn ones, or real ones if their table is found"
    )
    exposures: int = param(1, "drift scans that are added up; 20 is about what Stripe 82 has", ge=1)
    softening: float = param(
        20.0, "flux at which the stretch turns from linear to logarithmic", unit="sky sigma", gt=0
    )
    eta_threshold: float = param(
        0.05, "scaled error |z - z_true| / (1 + z_true) beyond which a galaxy is an outlier", gt=0
    )
    seed: int = param(0, "seed of population, shapes, noise and splits", ge=0)
    valid: float = param(0.1, "fraction for validation; what the others leave is for training", gt=0, lt=1)
    calibration: float = param(0.1, "fraction for calibration", gt=0, lt=1)
    test: float = param(0.2, "fraction for testing", gt=0, lt=1)

    def _held_out(self) -> dict[str, float]:
        return {"valid": self.valid, "calibration": self.calibration, "test": self.test}

    @model_validator(mode="after")
    def _something_is_left_to_train_on(self) -> PhotozMock:
        with_train(self._held_out())
        return self

    def files(self, data_dirs: Sequence[Path]) -> Sequence[Path]:
        """The table and the templates that are in the data folders."""
        names = [*(_places(f"{FILTERS}/{name}") for name in (*SED_FILES, *FILTER_FILES))]
        if self.population != "drawn":
            names.append(_places(TABLE))
        candidates = [[folder / name for folder in (*data_dirs, Path()) for name in some] for some in names]
        found = [[path for path in paths if path.is_file()] for paths in candidates]
        return [paths[0] for paths in found if paths]

    def load(self, context: DataContext) -> Data:
        """The galaxies, from the store or made now; with a source, its stretch.

        Raises
        ------
        DataError
            If the table is asked for and missing, or files are broken.
        """
        galaxies, note = self._galaxies(context)
        flux = np.load(self._stamps(context, galaxies), mmap_mode="r")
        space = self._space(context.source)
        splits = {}
        for name, rows in split_by_origin(galaxies.origin, self._held_out(), self.seed).items():
            extras = {"ebv": galaxies.ebv[rows].astype(np.float32)}
            target = galaxies.redshift[rows].astype(np.float32)[:, None]
            splits[name] = Split(StretchedRows(flux, rows, space), target, galaxies.names[rows], extras)
        task = Regression(("z",), tolerance=self.eta_threshold, relative=True)
        return Data(space, task, splits, augment=turn_and_mirror, notes=(note,))

    def _galaxies(self, context: DataContext) -> tuple[Galaxies, str]:
        templates = _templates(context)
        try:
            path = None if self.population == "drawn" else context.find(*_places(TABLE))
        except DataError:
            if self.population == "boss":
                raise
            path = None
        if path is None:
            return drawn(templates, self.n, self.seed), f"drawn population: {templates.name}"
        catalogue = read_catalogue(path)
        galaxies = of_catalogue(catalogue, templates, self.n, self.seed)
        again = self.n - len(np.unique(galaxies.origin))
        count = f"{len(catalogue.names)} good ones, {catalogue.dropped} dropped"
        shapes = f"types and sizes by {templates.name}"
        return galaxies, f"real galaxies of {TABLE} ({count}); {again} of {self.n} come again; {shapes}"

    def _stamps(self, context: DataContext, galaxies: Galaxies) -> Path:
        table = galaxies.table()
        content = hashlib.sha256(table.tobytes() + "\n".join(galaxies.names).encode()).hexdigest()

        def make(folder: Path) -> None:
            np.save(folder / "table.npy", table)
            np.save(folder / "names.npy", galaxies.names)
            stamps = Stamps(folder / "table.npy", folder / "names.npy", self.exposures, self.seed)
            with context.progress("stamps", self.n) as bar:
                fill(folder / "flux.npy", self.n, stamps, bar.advance)

        key = {"galaxies": content, "exposures": self.exposures, "seed": self.seed}
        return context.artifact("stamps", key, make) / "flux.npy"

    def _space(self, source: Data | None) -> InputSpace:
        facts = conditions(self.exposures).facts()
        if source is None:
            link = SkyUnits(tuple(float(sigma) for sigma in sky_sigma(self.exposures)), self.softening)
            return link.space(SHAPE, [band.name for band in BANDS], dict(facts))
        if source.space.link is None or source.space.shape != SHAPE:
            raise DataError(
                f"stamps of shape {SHAPE} cannot take the stretch of data of shape {source.space.shape}"
                f" with {'no' if source.space.link is None else 'a'} link to fluxes"
            )
        return replace(source.space, facts=facts)


def _templates(context: DataContext) -> Templates:
    try:
        return from_files(context.find(*_places(FILTERS)))
    except DataError as error:
        if "not found" not in str(error):
            raise
        return stand_in()


def _places(name: str) -> tuple[str, str]:
    return f"photoz/{name}", name
