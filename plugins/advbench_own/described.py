"""What any data of your own must say about itself, and how it becomes splits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from advbench.api import (
    Classification,
    Data,
    DataError,
    Dataset,
    Regression,
    Split,
    Task,
    param,
    split_indices,
)
from advbench_own.meaning import Bounds, class_numbers, classes_of, labels_of, space_of
from advbench_own.rows import Rows
from advbench_own.storage import ArrayLike

WHOLE = ""
"""Key of the only table where the split is made here."""


@dataclass(frozen=True)
class Table:
    """Samples as they were found, before it is known what they mean.

    Parameters
    ----------
    where
        File or factory, for messages.
    x
        Inputs, channels first.
    y
        Labels (text, integers or one-hot), or regression targets.
    ids
        Sample names (n,).
    extras
        Extra scalar inputs by name.
    """

    where: str
    x: ArrayLike
    y: NDArray[Any]
    ids: NDArray[np.str_]
    extras: Mapping[str, NDArray[Any]] = field(default_factory=dict)


class OwnDataset(Dataset):
    """The parameters that `own/arrays` and `own/dataset` share; no component by itself."""

    bounds: Bounds = param(
        ...,
        "[lower, upper] of valid inputs, each one number or one per channel; or data: their range",
    )
    channels: tuple[str, ...] = param((), "channel names; numbers from 0 if empty")
    unit: str = param("", "unit of an input value")
    classes: tuple[str, ...] = param(
        (), "class names in the order of their numbers; found in the labels if empty"
    )
    target_names: tuple[str, ...] = param((), "names of the regression targets")
    tolerance: float | None = param(None, "largest error of a correct prediction (regression)", gt=0)
    relative: bool = param(False, "errors are divided by 1 + target, as for redshifts (regression)")
    target_unit: str = param("", "unit of the regression targets")
    valid: float = param(0.1, "fraction used to choose the best epoch", ge=0, lt=1)
    calibration: float = param(0.1, "fraction used to set thresholds", ge=0, lt=1)
    test: float = param(0.2, "fraction evaluated", gt=0, le=1)
    split_seed: int = param(0, "which of the possible splits", ge=0)

    @model_validator(mode="after")
    def _fractions_fit(self) -> OwnDataset:
        if self.valid + self.calibration + self.test > 1 + 1e-9:
            raise ValueError("the fractions valid, calibration and test sum to more than 1")
        return self

    def check_task(self, regression: bool) -> None:
        """Classification has no tolerance, regression needs one (called by the validators of subclasses)."""
        if regression and self.tolerance is None:
            raise ValueError("regression needs `tolerance`: the largest error of a correct prediction")
        if regression and self.classes:
            raise ValueError("`classes` is for labels; the data have regression targets")
        if not regression and (self.tolerance is not None or self.target_names or self.relative):
            raise ValueError(
                "`tolerance`, `relative` and `target_names` are for regression targets; the data have labels"
            )

    def assemble(
        self,
        tables: Mapping[str, Table],
        *,
        regression: bool,
        source: Data | None,
        rows: Mapping[str, NDArray[np.int64]] | None = None,
    ) -> Data:
        """Data from one table for each split, or from one table `WHOLE` split by ``rows`` or by fractions.

        The ``source``, the data set that networks are trained on, decides about names that it has, too, and its labels
        instead of those here.

        Raises
        ------
        DataError
            If samples of different tables have different shapes, a split is empty, or labels, targets,
            bounds or channels do not fit.
        """
        first = next(iter(tables.values()))
        for table in tables.values():
            if table.x.shape[1:] != first.x.shape[1:]:
                raise DataError(
                    f"{table.where}: one sample is {table.x.shape[1:]}, but {first.x.shape[1:]} in {first.where}"
                )
        task, targets = self._regression(tables) if regression else self._classification(tables)
        if WHOLE in tables:
            parts = rows or self._parts(first.ids, None if regression else targets[WHOLE], source)
            splits = {name: _take(first, targets[WHOLE], index) for name, index in parts.items()}
        else:
            splits = {name: Split(t.x, targets[name], t.ids, t.extras) for name, t in tables.items()}
        for name, split in splits.items():
            if not len(split):
                raise DataError(f"{first.where}: no sample is left for the split {name!r}")
        space, notes = space_of(
            [s.x for s in splits.values()], self.bounds, self.channels, self.unit, first.where
        )
        return Data(space, task, splits, notes=notes)

    def _parts(
        self, ids: NDArray[np.str_], labels: NDArray[Any] | None, source: Data | None
    ) -> dict[str, NDArray[np.int64]]:
        shares = {"valid": self.valid, "calibration": self.calibration, "test": self.test}
        fractions = {"train": max(0.0, 1.0 - sum(shares.values())), **shares}
        wanted = {name: share for name, share in fractions.items() if share > 1e-9}
        return split_indices(ids, wanted, seed=self.split_seed, labels=labels, source=source)

    def _classification(self, tables: Mapping[str, Table]) -> tuple[Task, dict[str, NDArray[Any]]]:
        found = {name: labels_of(table.y, table.where) for name, table in tables.items()}
        task: Classification = classes_of(list(found.values()), self.classes)
        return task, {name: class_numbers(labels, task) for name, labels in found.items()}

    def _regression(self, tables: Mapping[str, Table]) -> tuple[Task, dict[str, NDArray[Any]]]:
        assert self.tolerance is not None
        targets: dict[str, NDArray[Any]] = {}
        for name, table in tables.items():
            if table.y.dtype.kind not in "iuf" or table.y.ndim not in (1, 2):
                raise DataError(
                    f"{table.where}: targets must be numbers (n,) or (n, t), not {table.y.dtype} {table.y.shape}"
                )
            targets[name] = table.y.reshape(len(table.y), -1).astype(np.float64)
        widths = {values.shape[1] for values in targets.values()}
        names = self.target_names or tuple(f"target {i}" for i in range(max(widths)))
        if widths != {len(names)}:
            raise DataError(f"{len(names)} target names for {sorted(widths)} targets per sample")
        return Regression(names, self.tolerance, self.relative, self.target_unit), targets


def _take(table: Table, targets: NDArray[Any], index: NDArray[np.int64]) -> Split:
    extras = {name: values[index] for name, values in table.extras.items()}
    return Split(Rows(table.x, index), targets[index], table.ids[index], extras)
