"""Cell records: one JSON file of figures and one npz of per-sample outcomes for each cell."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advbench.store.files import sha256, write_atomic, write_json

Outcomes = dict[str, "NDArray[Any]"]

HISTORIES = "trainings"
"""Folder with the history of each training: a list with one entry for each epoch, named by the weights."""


@dataclass(frozen=True)
class Record:
    """What is kept of a cell: its status, its figures and where they come from."""

    cell_id: str
    status: str  # ok | failed | timeout | crashed
    reason: str
    figures: Mapping[str, Any]

    def json(self) -> dict[str, Any]:
        """As a mapping."""
        return {
            "cell_id": self.cell_id,
            "status": self.status,
            "reason": self.reason,
            "figures": dict(self.figures),
        }


class Records:
    """Records in one or more folders; the first is the run's own, the others are shared.

    A record without its outcomes, or with damaged ones, does not count: it is computed again.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = tuple(folders)

    def get(self, cell_id: str) -> Record | None:
        """The record of a cell, from the first folder that has a sound one."""
        for folder in self.folders:
            record = _read(folder, cell_id)
            if record is not None:
                return record
        return None

    def put(self, record: Record, outcomes: Outcomes | None) -> None:
        """Write a record. Failures stay in the run's own folder: another machine may do better."""
        for folder in self.folders if record.status == "ok" else self.folders[:1]:
            value = record.json()
            if outcomes is not None:
                path = folder / f"{record.cell_id}.npz"
                write_atomic(path, lambda temporary: _save(temporary, outcomes))
                value["outcomes_sha256"] = sha256(path)
            write_json(folder / f"{record.cell_id}.json", value)

    def outcomes(self, cell_id: str) -> Outcomes:
        """Per-sample outcomes of a cell, from the first folder that has a sound record with them."""
        for folder in self.folders:
            path = folder / f"{cell_id}.npz"
            if _read(folder, cell_id) is not None and path.is_file():
                with np.load(path, allow_pickle=False) as arrays:
                    return {name: arrays[name] for name in arrays.files}
        raise FileNotFoundError(f"no outcomes of cell {cell_id} in {', '.join(map(str, self.folders))}")

    def adopt(self, cell_id: str) -> None:
        """Copy a record that only a shared folder has into the run's own."""
        own = self.folders[0]
        if _read(own, cell_id) is None:
            record = self.get(cell_id)
            if record is not None:
                Records([own]).put(record, self.outcomes(cell_id) if record.status == "ok" else None)

    def forget(self, cell_id: str) -> None:
        """Remove the run's own record."""
        for suffix in ("json", "npz"):
            (self.folders[0] / f"{cell_id}.{suffix}").unlink(missing_ok=True)


def _read(folder: Path, cell_id: str) -> Record | None:
    try:
        value = json.loads((folder / f"{cell_id}.json").read_text(encoding="utf-8"))
        expected = value.get("outcomes_sha256")
        if expected and sha256(folder / f"{cell_id}.npz") != expected:
            return None
        return Record(value["cell_id"], value["status"], value["reason"], value["figures"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _save(path: Path, outcomes: Outcomes) -> None:
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {name: outcomes[name] for name in sorted(outcomes)}
    np.savez_compressed(buffer, **arrays)
    path.write_bytes(buffer.getvalue())
