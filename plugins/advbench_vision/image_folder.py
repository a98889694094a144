"""Pictures in class folders, or named by a CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import model_validator

from advbench.api import Classification, Data, DataContext, DataError, Dataset, Split, Tags, param
from advbench_vision.augment import Flip, Wiggle
from advbench_vision.decoding import Decoder
from advbench_vision.listing import Listed, choose, from_csv, from_folders
from advbench_vision.pixels import carve, remainder, unit_space


class ImageFolder(Dataset):
    """Images in class folders, or files and labels of a CSV, as squares of pixels in [0, 1].

    Class ids follow the sorted class names; sample names are paths relative to ``root``. Splits take the same
    fractions of every class, by a hash of the names. Files that cannot be read are named in the notes and
    left out, or are an error if ``strict``. Pictures are decoded once and kept as 8-bit pixels. Flips,
    rotations and shifts are for training batches only.
    """

    tags = Tags(tasks={"classification"})
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"root": "animals10/raw-img"},)
    root: str = param(..., "folder of the class folders, or the one that file names start from", min_length=1)
    csv: str = param("", "CSV with a header, in root or a data folder, instead of class folders")
    file_name: str = param("{file}", "file name relative to root, with columns of the CSV in braces")
    label_column: str = param("label", "column of the CSV with the class")
    where: dict[str, str] = param({}, "columns of the CSV and the value a row must have in each")
    merge: dict[str, str] = param({}, "classes to rename; several may get the same name")
    classes: tuple[str, ...] = param((), "classes to keep, after renaming; all if empty")
    size: int = param(64, "side of the square that the network sees", unit="pixel", ge=4)
    crop: int | None = param(None, "side of the central square taken before resizing", unit="pixel", ge=1)
    channels: Literal["rgb", "grey"] = param("rgb", "colour or grey")
    flip: Flip = param("horizontal", "flips of training images")
    rotation: float = param(15.0, "largest rotation of training images", unit="degree", ge=0, le=180)
    shift: float = param(0.05, "largest shift of training images, as a fraction of the side", ge=0, le=0.5)
    valid: float = param(0.1, "fraction used to choose the best epoch", ge=0, lt=1)
    calibration: float = param(0.1, "fraction used to set thresholds", ge=0, lt=1)
    test: float = param(0.2, "fraction evaluated", gt=0, le=1)
    split_seed: int = param(0, "which of the possible splits", ge=0)
    strict: bool = param(False, "refuse the data set if a file cannot be read")
    rare: Literal["refuse", "keep"] = param(
        "refuse", "a class that has too few images for every split: an error, or kept where it has some"
    )

    @model_validator(mode="after")
    def _settings_fit(self) -> ImageFolder:
        self._fractions()
        if self.where and not self.csv:
            raise ValueError("`where` chooses rows of a CSV; give one with `csv`")
        return self

    def _fractions(self) -> dict[str, float]:
        return remainder(valid=self.valid, calibration=self.calibration, test=self.test)

    def files(self, data_dirs: Sequence[Path]) -> Sequence[Path]:
        """The root folder, whose content includes the file names, and the CSV."""
        folders = (*data_dirs, Path())
        root = self._found(folders)
        if root is None or not self.csv:
            return [root] if root is not None else []
        tables = (folder / self.csv for folder in (root, *folders))
        return [root, *[path for path in tables if path.is_file()][:1]]

    def load(self, context: DataContext) -> Data:
        """List, decode (or take from the cache) and split."""
        root = self._root(context)
        labels = {
            item.name: item.label for item in choose(self._list(root, context), self.classes, self.merge)
        }
        classes = tuple(sorted(set(labels.values())))
        if len(classes) < 2:
            raise DataError(f"{root}: classification needs two classes, there is only {classes[0]!r}")
        decoder = Decoder(self.size, self.crop, self.channels == "grey")
        pixels, names, broken = decoder.decode(root, list(labels), context)
        notes = tuple(f"left out {name}: {reason}" for name, reason in broken.items())
        if self.strict and notes:
            raise DataError(
                f"{root}: {len(notes)} of {len(labels)} images cannot be read: {'; '.join(notes)}"
            )
        y = np.array([classes.index(labels[name]) for name in names], dtype=np.int64)
        ids = np.array(names, dtype=np.str_)
        splits = carve(pixels, y, ids, self._fractions(), self.split_seed, context.source)
        learned = context.source is None  # else no network learns the classes here
        poor = _missing(splits, classes)
        refused = learned and (self.rare == "refuse" or not _usable(splits, len(classes)))
        if poor and (refused or not all(map(len, splits.values()))):
            raise DataError(
                f"{root}: too few images for the splits: {'; '.join(poor)}; "
                "add images, leave classes out with `classes`, or change the fractions"
            )
        notes += tuple(f"few images: {one}" for one in poor)
        space = unit_space(pixels.shape[1], self.size, self.size)
        return Data(space, Classification(self._shown(classes)), splits, augment=self._augment(), notes=notes)

    def _found(self, folders: Sequence[Path]) -> Path | None:
        """What `_root` will be, where files are named before anything is loaded."""
        return next((folder / self.root for folder in folders if (folder / self.root).is_dir()), None)

    def _root(self, context: DataContext) -> Path:
        return context.find(self.root, hint="`root` is a folder in a data folder, or an absolute path")

    def _shown(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        """Names of the classes in tables, in the order of their ids."""
        return classes

    def _list(self, root: Path, context: DataContext) -> list[Listed]:
        if not self.csv:
            return from_folders(root)
        table = root / self.csv
        table = table if table.is_file() else context.find(self.csv, hint=f"it is not in {root} either")
        return from_csv(table, self.file_name, self.label_column, self.where)

    def _augment(self) -> Wiggle | None:
        wiggle = Wiggle(self.flip, self.rotation, self.shift)
        return None if wiggle == Wiggle("none", 0.0, 0.0) else wiggle


def _missing(splits: Mapping[str, Split], classes: Sequence[str]) -> list[str]:
    """The classes that some split has no image of, with their numbers of images."""
    counts = {name: np.bincount(split.y, minlength=len(classes)) for name, split in splits.items()}
    poor = []
    for k, label in enumerate(classes):
        empty = [name for name in counts if counts[name][k] == 0]
        if empty:
            total = sum(int(count[k]) for count in counts.values())
            poor.append(f"{label!r} ({total} images, none in {', '.join(empty)})")
    return poor


def _usable(splits: Mapping[str, Split], classes: int) -> bool:
    """Whether no split is empty and there is something to learn every class from."""
    learned = splits.get("train")
    return all(map(len, splits.values())) and (learned is None or len(np.unique(learned.y)) == classes)
