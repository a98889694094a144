"""Galaxies of two real surveys with ten classes, one of which only one survey has; from their HDF5 files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from advbench.api import (
    Classification,
    Data,
    DataContext,
    DataError,
    Dataset,
    InputSpace,
    Split,
    Tags,
    param,
    split_indices,
)
from advbench_astro.files import class_numbers, colour_images, open_h5
from advbench_astro.shares import with_train
from advbench_astro.symmetry import turn_and_mirror

ADVICE = "get it from https://doi.org/10.5281/zenodo.7473597"
SIDE = 100
CLASSES = (
    "disturbed",
    "merging",
    "round smooth",
    "cigar",
    "barred spiral",
    "unbarred tight spiral",
    "unbarred loose spiral",
    "edge-on without bulge",
    "edge-on with bulge",
)
LENS = len(CLASSES)
"""Number of the tenth class in the files: gravitational lenses."""


class SurveyPair(Dataset):
    """Galaxies of SDSS or DECaLS in nine classes, and lenses that are none of them; https://doi.org/10.5281/zenodo.7473597.

    Files ``sdss_1.h5``, ``sdss_2.h5``, ``sdss_stripe82.h5`` and ``decals.h5``, looked for in the data folders and in
    ``survey-pair/`` there, with the arrays ``images`` (n, 100, 100, 3) and ``labels``, and ``images_test`` and
    ``labels_test``; channels may come first. They stay on disk. Ciprijanovic et al. 2023,
    https://arxiv.org/abs/2302.02005. Class 9, lenses, is in the target survey only: its samples have the target -1 in
    every data set, and none of them is in the calibration split.
    """

    tags: ClassVar[Tags] = Tags(tasks={"classification"}, reference="https://doi.org/10.5281/zenodo.7473597")
    version: ClassVar[int] = 1

    survey: Literal["sdss_1", "sdss_2", "sdss_stripe82", "decals"] = param("sdss_1", "which of the files")
    white: float | None = param(
        None, "value that becomes 1; 255 for files of 8-bit integers and 1 for others unless given", gt=0
    )
    valid: float = param(0.1, "fraction of `images` for validation", gt=0, lt=1)
    calibration: float = param(0.05, "fraction of `images` for calibration", ge=0, lt=1)
    seed: int = param(0, "which of the possible splits", ge=0)

    def _held_out(self) -> dict[str, float]:
        return {"valid": self.valid, "calibration": self.calibration}

    @model_validator(mode="after")
    def _something_is_left_to_train_on(self) -> SurveyPair:
        with_train(self._held_out())
        return self

    def files(self, data_dirs: Sequence[Path]) -> Sequence[Path]:
        """The file, where it is in a data folder."""
        paths = (folder / place for folder in data_dirs for place in self._places())
        return [path for path in paths if path.is_file()][:1]

    def load(self, context: DataContext) -> Data:
        """All splits, read batch by batch.

        Raises
        ------
        DataError
            Naming the file that is missing, or the array and row that are broken.
        """
        path = context.find(*self._places(), hint=ADVICE)
        images, labels = self._opened(path, "")
        rows = self._carved(labels, context.source)
        chosen = {name: (images, labels, part, "") for name, part in rows.items()}
        tested, truth = self._opened(path, "_test")
        chosen["test"] = (tested, truth, np.arange(len(truth)), "test")
        splits = {name: self._split(*parts) for name, parts in chosen.items()}
        space = InputSpace((3, SIDE, SIDE), (0.0,) * 3, (1.0,) * 3, ("red", "green", "blue"))
        return Data(space, Classification(CLASSES), splits, augment=turn_and_mirror)

    def _opened(self, path: Path, ending: str) -> tuple[Any, NDArray[np.int64]]:
        keys = f"images{ending}", f"labels{ending}"
        images = open_h5(path, keys[0], ADVICE)
        count = images.shape[0] if images.shape else 0
        labels = open_h5(path, keys[1], ADVICE)
        every = labels[np.arange(len(labels))] if labels.shape else np.zeros(0)
        numbers = class_numbers(f"{path}, {keys[1]}", every, LENS + 1, count)
        white = self.white or (255.0 if images.dtype == np.uint8 else 1.0)
        whole = colour_images(f"{path}, {keys[0]}", images, SIDE)
        return Whitened(whole, white, f"{path}, {keys[0]}"), np.where(numbers == LENS, -1, numbers)

    def _carved(self, labels: NDArray[np.int64], source: Data | None) -> dict[str, NDArray[np.int64]]:
        names = np.array([f"row{row:06d}" for row in range(len(labels))])
        return split_indices(
            names, with_train(self._held_out()), seed=self.seed, labels=labels, source=source
        )

    def _split(self, images: Any, labels: NDArray[np.int64], rows: NDArray[np.int64], ending: str) -> Split:
        ids = np.array([f"{self.survey}{ending}-{row:06d}" for row in rows], dtype=np.str_)
        return Split(Chosen(images, rows), labels[rows], ids)

    def _places(self) -> tuple[str, str]:
        return f"survey-pair/{self.survey}.h5", f"{self.survey}.h5"


@dataclass(frozen=True)
class Whitened:
    """Images (n, c, h, w) over the value that is white; float32, checked when they are read."""

    images: Any
    white: float
    where: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of all of them."""
        return tuple(self.images.shape)

    def __getitem__(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """Images at an integer or an integer array."""
        found = np.asarray(self.images[index], dtype=np.float32) / np.float32(self.white)
        bad = ~((found >= 0) & (found <= 1)).all(axis=(-3, -2, -1))
        if bad.any():
            place = int(bad.argmax())
            row, image = np.ravel(index)[place], found.reshape(-1, *found.shape[-3:])[place]
            low, high = float(image.min()), float(image.max())
            raise DataError(
                f"{self.where}: row {row} has values from {low * self.white:g} to {high * self.white:g}, not from 0 to "
                f"{self.white:g}; say with `white` which value is 1, and remove what is NaN"
            )
        return found


@dataclass(frozen=True)
class Chosen:
    """Some rows of images, read when they are asked for."""

    images: Any
    rows: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of all of them, (n, c, h, w)."""
        return (len(self.rows), *self.images.shape[1:])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> NDArray[np.float32]:
        """Images at an integer, a slice or an integer or bool array; float32."""
        found: NDArray[np.float32] = self.images[self.rows[index]]
        return found
