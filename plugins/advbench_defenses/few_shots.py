"""A few labelled samples of each class of a data set, as a data set."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advbench.api import Classification, Data, DataError, Split, sample_order


class Rows:
    """Some rows of an array, read when they are asked for."""

    def __init__(self, array: Any, rows: NDArray[np.int64]) -> None:
        self._array, self._rows = array, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        return self._array[self._rows[index]]


def chosen(split: Split, classes: int, shots: int | None) -> NDArray[np.int64]:
    """Places (n,) of the first ``shots`` samples of each class in hash order of their names, or of all in a class.

    More shots contain fewer. Samples of no class (label -1) are left out.
    """
    order = sample_order(split.ids)
    y = np.asarray(split.y)[order]
    return np.concatenate([order[y == label][:shots] for label in range(classes)])


def taken(split: Split, rows: NDArray[np.int64], length: int = 0) -> Split:
    """The samples ``rows`` of a split, repeated as often as fits in ``length`` and at least once.

    Repetitions have names of their own, and so draws of their own for what is random in training.
    """
    turns = max(1, length // max(len(rows), 1))
    index = np.tile(rows, turns)
    marks = np.repeat([f"#{turn}" if turn else "" for turn in range(turns)], len(rows))
    ids = np.char.add(np.asarray(split.ids)[index].astype(np.str_), marks)
    extras = {name: np.asarray(value)[index] for name, value in split.extras.items()}
    return Split(Rows(split.x, index), np.asarray(split.y)[index], ids, extras)


def few_shots(source: Data, target: Data, shots: int | None) -> Data:
    """Training and validation split of the target with so many samples of each class, or all unless given.

    They are repeated until an epoch is as long as one of the source.

    Raises
    ------
    DataError
        If a split is missing, or has no sample of any class.
    """
    splits = {}
    for name in ("train", "valid"):
        split = target.splits.get(name)
        rows = np.empty(0, np.int64)
        if split is not None:
            known = isinstance(target.task, Classification)
            rows = chosen(split, target.task.outputs, shots) if known else np.arange(len(split))
        if split is None or not len(rows):
            raise DataError(
                f"transfer learning needs labelled samples in the split {name!r} of the target data set"
            )
        length = len(source.splits.get("train", ())) if name == "train" else 0
        splits[name] = taken(split, rows, length)
    return replace(target, splits=splits)
