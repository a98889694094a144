"""A finished leaderboard, read back: typed rows, the run's folder, and the outcomes of every sample."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from advbench.errors import UserError
from advbench.evidence.arrays import Arrays, WorstArrays
from advbench.evidence.columns import NAMES
from advbench.evidence.leaderboard import text
from advbench.evidence.packed import SUFFIX, Packed
from advbench.evidence.sound import check_rows, typed
from advbench.evidence.table import LEADERBOARD, Table, check_untouched, read_table

__all__ = ["LEADERBOARD", "Board", "Outcomes", "Row", "read_board"]

Row = Mapping[str, Any]
Outcomes = Mapping[str, "NDArray[Any]"]

SHARED = (
    "dataset", "model", "defense", "knowledge", "seed", "trained_on", "adapted_to", "dataset_params", "model_params",
    "defense_params",
)  # fmt: skip
"""What a worst-case row has in common with its members; labels alone may be those of several rows after a merge."""

CELL_ID = re.compile(r"[\w.-]+")
NOT_IN_RECORDS = {"flags"}
"""What the leaderboard adds to by looking at several rows."""


@dataclass(frozen=True)
class Board:
    """A leaderboard that was found sound.

    Attributes
    ----------
    rows
        One mapping for each row, in the order of the file, with every column: numbers are int or float, ``targeted``
        is a bool, everything else is text; an empty cell is None.
    extra
        Names of the columns that metrics of the suite added.
    path
        The CSV.
    folder
        The run folder, if there are per-sample outcomes in its ``cells/``.
    packed
        The outcomes of all rows, if a file beside the CSV holds them.
    suite
        Text of the suite as it was run, YAML with full ids and every parameter.
    run
        What ``run.json`` says: time, host, command line; or ``NAME.run.json``. Empty without it.
    digests
        Hashes of the files with outcomes, by cell id.
    title
        What to call it, if not by its place.
    gone
        Files with outcomes that were looked for in vain although their records speak of them.
    """

    rows: Sequence[Row]
    extra: tuple[str, ...]
    path: Path
    folder: Path | None = None
    packed: Packed | None = field(default=None, repr=False, compare=False)
    suite: str | None = None
    run: Mapping[str, Any] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict, repr=False)
    title: str = ""
    gone: dict[str, None] = field(default_factory=dict, repr=False, compare=False)

    @functools.cached_property
    def name(self) -> str:
        """What to call it in a sentence: its title, its run folder, or its file."""
        return self.title or str(self.path.parent if self.path.name == LEADERBOARD else self.path)

    @property
    def suite_file(self) -> Path:
        """Where its suite is, or would be: in its run folder, or beside ``NAME.csv``."""
        own = self.path.name == LEADERBOARD
        return self.path.parent / "suite.yaml" if own else self.path.with_suffix(".suite.yaml")

    def outcomes(self, row: Row) -> Outcomes | None:
        """Arrays (n, ...) of one row's samples, in one order for all rows of a data set; None where there are none.

        In a run folder those of a worst-case row are put together from its members, and each array is read when it is
        asked for.

        Raises
        ------
        UserError
            If the file is damaged, or is not the one that its record speaks of.
        """
        if row["status"] != "ok":
            return None
        if self.packed is not None:
            return self.packed.outcomes(row)
        if self.folder is None:
            return None
        if row["kind"] != "worst-case":
            cell_id = str(row["cell_id"])
            data = self._bytes(cell_id)
            return None if data is None else _arrays(self._place(cell_id), data)
        members = [self.outcomes(member) for member in self.members(row)]
        found = [member for member in members if member is not None]
        return WorstArrays(found) if found and len(found) == len(members) else None

    def digest(self, row: Row) -> str | None:
        """Hash of what stands in one row's outcomes, or in those of its members; equal hashes, equal outcomes."""
        if row["status"] != "ok":
            return None
        if self.packed is not None:
            return self.packed.digest(row)
        if row["kind"] == "worst-case":
            hashes = [self.digest(member) for member in self.members(row)]
            return " ".join(map(str, hashes)) if hashes and None not in hashes else None
        return self.digests.get(str(row["cell_id"]))

    def stored(self, row: Row) -> bytes | None:
        """The file with a row's own outcomes as it stands in the run folder; None where there is none.

        Raises
        ------
        UserError
            If it is damaged, or is not the one that its record speaks of.
        """
        alone = row["status"] == "ok" and row["kind"] != "worst-case"
        return self._bytes(str(row["cell_id"])) if alone else None

    def file_of(self, row: Row) -> str:
        """The file with the outcomes of a row, the leaderboard if it has none of its own."""
        if self.packed is not None:
            return str(self.packed.file)
        alone = self.folder is not None and row["kind"] != "worst-case"
        return self._place(str(row["cell_id"])) if alone else str(self.path)

    def _place(self, cell_id: str) -> str:
        return f"{self.folder}/cells/{cell_id}.npz"

    def _bytes(self, cell_id: str) -> bytes | None:
        """The file of a cell; None if no record speaks of it, or it is gone."""
        digest = self.digests.get(cell_id)
        if digest is None or self.folder is None:
            return None
        path = self._place(cell_id)
        try:
            data = _bytes(path)
        except FileNotFoundError:
            self.gone[path] = None
            return None
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from None
        if hashlib.sha256(data).hexdigest() != digest:
            raise UserError(
                f"{path}: not the outcomes that {cell_id}.json speaks of: run the suite again to mend it"
            )
        return data

    def members(self, row: Row) -> list[Row]:
        """The rows over which a worst-case row takes the worst for each sample; empty if one is gone or in doubt."""
        labels = json.loads(row["perturbation_params"])
        known = self._members.get(tuple(row[name] for name in SHARED), {})
        found = [one for label in labels for one in known.get(label, ())]
        return found if len(found) == len(labels) and all(label in known for label in labels) else []

    @functools.cached_property
    def _members(self) -> dict[tuple[Any, ...], dict[str, list[Row]]]:
        found: dict[tuple[Any, ...], dict[str, list[Row]]] = {}
        for row in self.rows:
            if row["kind"] != "worst-case":
                labels = found.setdefault(tuple(row[name] for name in SHARED), {})
                labels.setdefault(row["perturbation"], []).append(row)
        return found

    def part(self, axis: str, value: str) -> Board:
        """The rows with this label on an axis, as a leaderboard of its own."""
        rows = [row for row in self.rows if str(row[axis]) == value]
        return replace(self, rows=rows, title=f"{axis}={value}")


def read_board(path: Path) -> Board:
    """Read a run folder or a leaderboard, and look whether it is as a run wrote it.

    ``NAME.csv`` may have ``NAME.samples.npz`` with its outcomes, ``NAME.suite.yaml`` and ``NAME.run.json`` beside it.

    Raises
    ------
    UserError
        In one line, if there is no such file, it is no leaderboard, it has another schema, is cut off, or was edited:
        with the line, the column and both values.
    """
    path = Path(path)
    file = path / LEADERBOARD if path.is_dir() else path
    table = read_table(file)
    rows = typed(file, table.header, table.rows, table.numbers)
    check_rows(file, rows, table.numbers)
    extra = tuple(table.header[len(NAMES) :])
    if file.name != LEADERBOARD:
        samples = file.with_suffix(SUFFIX)
        packed = Packed(samples, table) if samples.is_file() else None
        suite, run = _text(file.with_suffix(".suite.yaml")), _run(file.with_suffix(".run.json"))
        return Board(rows, extra, file, packed=packed, suite=suite, run=run)
    home = file.parent
    folder = home if (home / "cells").is_dir() else None
    digests = {} if folder is None else _checked_records(table, folder / "cells", rows)
    run = _run(home / "run.json")
    check_untouched(file, run)
    return Board(rows, extra, file, folder, suite=_text(home / "suite.yaml"), run=run, digests=digests)


# --- what stands beside the table ---------------------------------------------------------------------------------


def _checked_records(table: Table, cells: Path, rows: Sequence[Row]) -> dict[str, str]:
    """Hashes of outcomes by cell id; refuses a figure that is not the one in the record of its cell."""
    digests = {}
    places = {name: place for place, name in enumerate(table.header) if name not in NOT_IN_RECORDS}
    for row, shown, number in zip(rows, table.rows, table.numbers):
        if row["status"] != "ok" or row["kind"] == "worst-case":
            continue
        record = _record(cells, str(row["cell_id"]))
        if record is None or record.get("status") != "ok":  # gone, or tried again since
            continue
        for name, value in record["figures"].items():
            cell = shown[places[name]] if name in places else None
            if cell is not None and not _written(value, cell):
                raise UserError(
                    f"{table.file}:{number}: column {name}: {cell or 'empty'} here,"
                    f" {text(value) or 'empty'} in cells/{row['cell_id']}.json: one of them was edited"
                )
        if isinstance(record.get("outcomes_sha256"), str):
            digests[row["cell_id"]] = record["outcomes_sha256"]
    return digests


def _written(value: Any, cell: str) -> bool:
    """Whether a cell is what a value is written as; the usual types first, for the sake of speed."""
    kind = value.__class__
    usual = f"{value:.6g}" if kind is float else str(value) if kind in (int, str) else ""
    return usual == cell or text(value) == cell


def _record(cells: Path, cell_id: str) -> dict[str, Any] | None:
    if not CELL_ID.fullmatch(cell_id):
        return None
    try:
        value = json.loads(_bytes(f"{cells}/{cell_id}.json"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        raise UserError(f"{cells / cell_id}.json: not a record: run the suite again to mend it") from None
    if not isinstance(value, dict) or not isinstance(value.get("figures"), dict):
        raise UserError(f"{cells / cell_id}.json: not a record: run the suite again to mend it")
    return value


def _arrays(path: str, data: bytes) -> Outcomes:
    try:
        return Arrays(data)
    except ValueError as error:
        raise UserError(f"{path}: cannot be read: {error}") from None


def _bytes(path: str) -> bytes:
    """A file, of thousands: to make a `Path` of each takes as long as to read it."""
    with open(path, "rb") as file:
        return file.read()


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8") if path.is_file() else None
    except UnicodeDecodeError:
        raise UserError(f"{path}: it is not UTF-8 text") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def _run(path: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
