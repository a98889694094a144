"""Real galaxies with magnitudes and spectroscopic redshifts, from a table of the BOSS survey. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from advbench.api import DataError
from advbench_astro.photoz.sdss import BANDS

COLUMNS = (*(f"F:{what}_{band.name.upper()}" for band in BANDS for what in ("MAG", "MAGERR")), "D:Z")
MAG_RANGE = (10.0, 30.0)
MAX_ERROR_MAG = 0.5
"""Largest error in g, r, i, z: a detection at twice the noise. Red galaxies are not seen in u, which is no fault."""
FAINTEST_U = 26.0
"""What is fainter in u counts as this faint: no light."""
MIN_REDSHIFT = 0.005
"""Stars and nonsense lie below."""


@dataclass(frozen=True)
class Catalogue:
    """Galaxies of a table; names tell their rows."""

    names: NDArray[np.str_]
    magnitudes: NDArray[np.float64]  # (n, 5) AB
    redshift: NDArray[np.float64]
    dropped: int


def read_catalogue(path: Path) -> Catalogue:
    """The galaxies of a table with the columns `COLUMNS`, between which there are ``;`` or ``,``.

    Rows with a magnitude or an error that cannot be, or a redshift below `MIN_REDSHIFT`, are dropped.

    Raises
    ------
    DataError
        If columns are missing, rows are broken, or none is good.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        header = [name.strip() for name in lines[0].lstrip("#").replace(";", ",").split(",")]
        rows = [line.replace(";", ",") for line in lines[1:] if line.strip()]
        values = np.loadtxt(rows, delimiter=",", ndmin=2)
    except (OSError, ValueError, IndexError) as error:
        raise DataError(f"{path} is no readable table of galaxies: {error}") from None
    missing = [name for name in COLUMNS if name not in header]
    if missing or values.shape[1] != len(header):
        problem = (
            f"misses the columns {', '.join(missing)}"
            if missing
            else "has rows of another length than its header"
        )
        raise DataError(f"{path} {problem}")
    chosen = values[:, [header.index(name) for name in COLUMNS]]
    magnitudes, errors, redshift = chosen[:, 0:10:2], chosen[:, 1:10:2], chosen[:, 10]
    good = _good(magnitudes, errors) & (redshift > MIN_REDSHIFT)
    if not good.any():
        raise DataError(f"{path}: none of {len(values)} rows has good magnitudes, errors and redshift")
    magnitudes = magnitudes[good]
    magnitudes[:, 0] = np.minimum(magnitudes[:, 0], FAINTEST_U)
    names = np.array([f"boss{row:05d}" for row in np.flatnonzero(good)])
    return Catalogue(names, magnitudes, redshift[good], int((~good).sum()))


def _good(magnitudes: NDArray[np.float64], errors: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Rows that may be used, (n,)."""
    with np.errstate(invalid="ignore"):
        sane = np.isfinite(magnitudes) & np.isfinite(errors) & (errors > 0)
        sane[:, 1:] &= (magnitudes[:, 1:] > MAG_RANGE[0]) & (magnitudes[:, 1:] < MAG_RANGE[1])
        sane[:, 0] &= magnitudes[:, 0] > MAG_RANGE[0]
        return np.asarray(sane.all(1) & (errors[:, 1:] < MAX_ERROR_MAG).all(1))
