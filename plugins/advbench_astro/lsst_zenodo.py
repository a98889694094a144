"""The published LSST mock galaxies, from their files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from advbench.api import (
    Classification,
    Data,
    DataContext,
    DataError,
    Dataset,
    Split,
    Tags,
    param,
    split_indices,
)
from advbench_astro.download import fetch
from advbench_astro.morphology import CLASSES
from advbench_astro.stretch import Scaled, StretchedRows, space_for
from advbench_astro.survey import BANDS, DEPTHS, LSST, Exposure
from advbench_astro.symmetry import turn_and_mirror

DOI = "10.5281/zenodo.5514180"
PARTS = ("train", "valid", "test")


class LsstZenodo(Dataset):
    """Galaxies of the IllustrisTNG simulation at the depth of one or ten years of LSST, https://doi.org/10.5281/zenodo.5514180.

    The files ``images_{Y10,Y1}_{train,valid,test}.npy`` (n, 3, 100, 100) and ``labels_{train,valid,test}.npy`` (n, 3),
    one-hot, are looked for in the data folders and in ``lsst-zenodo/`` there, and stay on disk: images are read, cut
    to float32 and stretched batch by batch. Row i is the same galaxy at both depths. The published validation
    set is shared between validation and calibration. The stretch is measured on at most 512 training images.
    Survey perturbations in electrons need to be told what a flux of 1 means, by ``gain``; pixel scale, exposure and
    seeing are LSST's.
    """

    tags: ClassVar[Tags] = Tags(tasks={"classification"}, reference="https://doi.org/10.5281/zenodo.5514180")
    version: ClassVar[int] = 1

    depth: Literal["y10", "y1"] = param("y10", "survey depth: ten years of exposure, or one")
    calibration: float = param(
        0.5, "fraction of the published validation set that is kept for calibration", gt=0, lt=1
    )
    seed: int = param(0, "seed of that choice", ge=0)
    gain: tuple[float, float, float] | None = param(
        None, "electrons per second that a flux of 1 stands for, in g, r and i; unknown unless given"
    )
    url: str = param(
        "https://zenodo.org/record/5514180/files/{name}?download=1",
        "where a missing file is downloaded from, if the run allows it",
    )
    hashes: dict[str, str] = param({}, "SHA-256 by file name, checked after a download")

    def files(self, data_dirs: Sequence[Path]) -> Sequence[Path]:
        """The files of this depth that are in the data folders."""
        names = [name for part in PARTS for name in (self._images(part), _labels(part))]
        found = ([folder / place for folder in data_dirs for place in _places(name)] for name in names)
        return [
            next(path for path in paths if path.is_file())
            for paths in found
            if any(path.is_file() for path in paths)
        ]

    def load(self, context: DataContext) -> Data:
        """All splits, memory-mapped; with a source, its stretch.

        Raises
        ------
        DataError
            Naming the file that is missing or broken, and the DOI to get it from.
        """
        images = {part: _open(self._locate(context, self._images(part))) for part in PARTS}
        labels = {part: _classes(self._locate(context, _labels(part))) for part in PARTS}
        for part in PARTS:
            _check(self._images(part), images[part], labels[part])
        channels = tuple(band.name for band in BANDS)
        if self.gain is not None:
            images = {part: Scaled(images[part], self.gain) for part in PARTS}
        unit = "flux" if self.gain is None else "e-/s"
        train = images["train"]
        space = space_for(
            context.source, train, np.arange(len(labels["train"])), channels, unit, self._facts()
        )

        def split(part: str, rows: NDArray[np.int64] | None = None) -> Split:
            names = np.array([f"{part}{row:06d}" for row in range(len(labels[part]))])
            chosen = np.arange(len(names)) if rows is None else rows
            return Split(StretchedRows(images[part], chosen, space), labels[part][chosen], names[chosen])

        shares = {"valid": 1 - self.calibration, "calibration": self.calibration}
        whole = split("valid")
        carved = split_indices(whole.ids, shares, seed=self.seed, labels=whole.y, source=context.source)
        splits = {"train": split("train"), "test": split("test")}
        splits |= {name: split("valid", rows) for name, rows in carved.items()}
        return Data(space, Classification(CLASSES), splits, augment=turn_and_mirror)

    def _facts(self) -> Mapping[str, tuple[float, ...]]:
        facts = Exposure(DEPTHS[self.depth]).conditions(LSST).facts()
        counted = ("sky_rate", "zero_point_mag", "read_noise_e")
        return {name: fact for name, fact in facts.items() if self.gain is not None or name not in counted}

    def _images(self, part: str) -> str:
        return f"images_{self.depth.upper()}_{part}.npy"

    def _locate(self, context: DataContext, name: str) -> Path:
        try:
            return context.find(
                *_places(name), hint=f"download it from https://doi.org/{DOI}, or allow downloads"
            )
        except DataError:
            if not context.download:
                raise
        url, sha256 = self.url.replace("{name}", name), self.hashes.get(name)

        def make(folder: Path) -> None:
            with context.progress(f"downloading {name}", 100) as bar:
                fetch(url, folder / name, sha256, bar, f"get it from https://doi.org/{DOI}")

        return context.artifact("download", {"url": url, "sha256": sha256}, make) / name


def _labels(part: str) -> str:
    return f"labels_{part}.npy"


def _places(name: str) -> tuple[str, str]:
    return f"lsst-zenodo/{name}", name


def _open(path: Path) -> Any:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} is no readable .npy file ({error}); get it again from https://doi.org/{DOI}"
        ) from None


def _classes(path: Path) -> NDArray[np.int64]:
    onehot = np.asarray(_open(path))
    if onehot.ndim != 2 or onehot.shape[1] != len(CLASSES):
        raise DataError(f"{path}: labels have shape {onehot.shape}, not (n, {len(CLASSES)})")
    bad = (np.sort(onehot, axis=1) != [0] * (len(CLASSES) - 1) + [1]).any(axis=1)
    if bad.any():
        raise DataError(f"{path}: row {int(bad.argmax())} is not one-hot: {onehot[bad.argmax()].tolist()}")
    classes: NDArray[np.int64] = onehot.argmax(axis=1).astype(np.int64)
    return classes


def _check(name: str, images: Any, labels: NDArray[np.int64]) -> None:
    if images.ndim != 4 or images.shape[1] != len(BANDS) or images.shape[2] != images.shape[3]:
        raise DataError(f"{name}: images have shape {images.shape}, not (n, {len(BANDS)}, side, side)")
    if len(images) != len(labels):
        raise DataError(f"{name}: {len(images)} images for {len(labels)} labels")
