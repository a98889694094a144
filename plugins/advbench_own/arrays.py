"""Data of your own in array files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, model_validator

from advbench.api import Data, DataContext, DataError, param
from advbench_own.described import WHOLE, OwnDataset, Table
from advbench_own.lookup import locate
from advbench_own.rows import Images
from advbench_own.storage import Reference, open_array, read_array


class ArrayFiles(BaseModel):
    """The arrays of one split, each ``file`` or ``file:key``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    inputs: str = param(..., "inputs (n, c, h, w), (n, h, w) or (n, c)", min_length=1)
    labels: str = param("", "class labels: integers, text or one-hot rows")
    targets: str = param("", "regression targets (n,) or (n, t)")
    extras: dict[str, str] = param({}, "extra scalar inputs by name, each (n,) or (n, k)")
    ids: str = param("", "sample names (n,); row numbers if empty")


class Arrays(OwnDataset):
    """Your own arrays in npy, npz or HDF5 files, split here or already, for classification or regression.

    Every array is named ``file`` or ``file:key``, in a data folder or by its absolute path. npy is memory-mapped,
    HDF5 read row by row, npz read whole. The least to give is ``inputs``, ``labels`` or ``targets``, and ``bounds``.

    The splits are made by a hash of the sample names, with the same fractions of every class; or given by
    ``indices``, a file of row numbers for each; or given by ``splits``, a set of arrays for each instead of
    ``inputs`` and so on.
    """

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"inputs": "galaxies.npz:images", "labels": "galaxies.npz:classes", "bounds": [0, 1]},
    )
    inputs: str = param("", "inputs (n, c, h, w), (n, h, w) or (n, c)")
    labels: str = param("", "class labels: integers, text or one-hot rows")
    targets: str = param("", "regression targets (n,) or (n, t)")
    extras: dict[str, str] = param({}, "extra scalar inputs by name, each (n,) or (n, k); never attacked")
    ids: str = param("", "sample names (n,), which draws and splits depend on; row numbers if empty")
    channels_last: bool = param(False, "inputs are (n, h, w, c)")
    indices: dict[str, str] = param({}, "row numbers of each split, instead of fractions")
    splits: dict[str, ArrayFiles] = param({}, "arrays of each split: train, valid, calibration, test")

    @model_validator(mode="after")
    def _arrays_fit(self) -> Arrays:
        top = [
            name
            for name in ("inputs", "labels", "targets", "extras", "ids", "indices")
            if getattr(self, name)
        ]
        if self.splits and top:
            raise ValueError(f"give `splits`, or {', '.join(top)} for all splits, not both")
        if not self.splits and not self.inputs:
            raise ValueError("give `inputs`, or `splits` with the inputs of each split")
        for name in ("splits", "indices"):
            if getattr(self, name) and "test" not in getattr(self, name):
                raise ValueError(f"`{name}` has no `test`")
        kinds = {(bool(table.labels), bool(table.targets)) for table in self._tables().values()}
        if not kinds <= {(True, False), (False, True)} or len(kinds) != 1:
            raise ValueError(
                "give either `labels` (classification) or `targets` (regression), the same for all splits"
            )
        if len({frozenset(table.extras) for table in self._tables().values()}) != 1:
            raise ValueError("every split needs the same `extras`")
        self.check_task(self._is_regression())
        return self

    def files(self, data_dirs: Sequence[Path]) -> Sequence[Path]:
        """All files that are named, each once."""
        texts = [
            text
            for table in self._tables().values()
            for text in (table.inputs, table.labels, table.targets, table.ids)
        ]
        texts += [text for table in self._tables().values() for text in table.extras.values()]
        paths = [
            locate(Reference.of(text).file, data_dirs) for text in (*texts, *self.indices.values()) if text
        ]
        return list(dict.fromkeys(path for path in paths if path is not None))

    def load(self, context: DataContext) -> Data:
        """Open the arrays and split them."""
        tables = {name: self._read(name, files, context) for name, files in self._tables().items()}
        rows = None
        if self.indices:
            count = len(tables[WHOLE].ids)
            rows = {name: _rows(context, text, count) for name, text in self.indices.items()}
            _check_disjoint(rows, self.indices)
        return self.assemble(tables, regression=self._is_regression(), source=context.source, rows=rows)

    def _tables(self) -> Mapping[str, ArrayFiles]:
        if self.splits:
            return self.splits
        files = {"inputs": self.inputs, "labels": self.labels, "targets": self.targets, "ids": self.ids}
        return {WHOLE: ArrayFiles(**files, extras=self.extras)}

    def _is_regression(self) -> bool:
        return any(table.targets for table in self._tables().values())

    def _read(self, split: str, files: ArrayFiles, context: DataContext) -> Table:
        reference = Reference.of(files.inputs)
        x = Images(open_array(context.find(reference.file), reference.key), self.channels_last)
        count = x.shape[0] if len(x.shape) > 1 else 0
        if not count:
            raise DataError(
                f"{files.inputs}: expected at least one sample and its values, found shape {tuple(x.array.shape)}"
            )

        def column(text: str) -> NDArray[Any]:
            return _column(context, text, count, files.inputs)

        extras = {name: column(text) for name, text in files.extras.items()}
        for name, values in extras.items():
            if values.dtype.kind not in "biuf" or values.ndim > 2:
                raise DataError(
                    f"{files.extras[name]}: extras must be numbers (n,) or (n, k), not {values.dtype} {values.shape}"
                )
        prefix = f"{split}-" if split else ""
        ids = (
            column(files.ids).astype(np.str_)
            if files.ids
            else np.array([f"{prefix}{i:06d}" for i in range(count)])
        )
        if ids.ndim != 1:
            raise DataError(f"{files.ids}: sample names must be (n,), not {ids.shape}")
        y = column(files.labels or files.targets)
        return Table(files.labels or files.targets, x, y, ids, extras)


def _column(context: DataContext, text: str, count: int, inputs: str) -> NDArray[Any]:
    reference = Reference.of(text)
    values = read_array(context.find(reference.file), reference.key)
    if values.ndim == 0 or len(values) != count:
        found = f"{len(values)} rows" if values.ndim else "a single value"
        raise DataError(f"{text}: {found} for the {count} samples of {inputs}")
    return values


def _rows(context: DataContext, text: str, count: int) -> NDArray[np.int64]:
    reference = Reference.of(text)
    values = read_array(context.find(reference.file), reference.key)
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise DataError(f"{text}: row numbers must be integers (n,), not {values.dtype} {values.shape}")
    if len(values) and not (values.min() >= 0 and values.max() < count):
        raise DataError(
            f"{text}: row numbers run from {values.min()} to {values.max()}, there are {count} samples"
        )
    return values.astype(np.int64)


def _check_disjoint(rows: Mapping[str, NDArray[np.int64]], texts: Mapping[str, str]) -> None:
    owner: dict[int, str] = {}
    for name, index in rows.items():
        for row in index.tolist():
            other = owner.setdefault(row, name)
            if other != name:
                raise DataError(
                    f"{texts[name]}: row {row} is also in {texts[other]}; splits must be disjoint"
                )
        if len(np.unique(index)) != len(index):
            raise DataError(f"{texts[name]}: a row is listed twice")
