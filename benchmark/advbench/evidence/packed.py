"""Outcomes of all rows of a leaderboard in one small file beside its CSV: what comparisons need, and no more."""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from advbench.errors import UserError
from advbench.evidence.figures import successes
from advbench.evidence.table import Table

Row = Mapping[str, Any]
Outcomes = Mapping[str, "NDArray[Any]"]

VERSION = 1
SUFFIX = ".samples.npz"
ALWAYS = ("id", "clean_correct", "perturbed_correct", "eligible", "goal_reached")
OF_REGRESSORS = ("target", "clean_prediction", "perturbed_prediction", "relative")
OF_DETECTORS = ("clean_score", "network_fooled", "known")
HEADER = ("version", "cell_id", "digest", "name", "block", "length")
"""What the file holds beside the arrays: of each row its id, the digest of its cells and the number of its block of
each named array, -1 for none; of each block its length. Blocks of one array stand one after another by their number."""


def pack(
    rows: Sequence[Row], cells: Sequence[Sequence[str]], outcomes: Callable[[Row], Outcomes | None]
) -> bytes | None:
    """An npz with the outcomes of some rows; equal rows give equal bytes, and None if none has outcomes.

    Distances are kept of inputs that became wrong, scores of perturbed ones where they fool the network: no figure that
    is compared asks for others, and the rest is NaN. What rows share, such as ids and clean outcomes, is there once.

    Parameters
    ----------
    rows, cells
        Rows, and what the CSV says of each.
    outcomes
        Gives the arrays (n, ...) of a row, or None.
    """
    blocks: dict[tuple[str, bytes], int] = {}
    values: dict[str, list[NDArray[Any]]] = {}
    lengths: list[int] = []
    places: list[dict[str, int]] = []
    for row in rows:
        found = outcomes(row)
        places.append({})
        for name, array in ({} if found is None else _needed(found, row)).items():
            key = name, hashlib.sha256(f"{array.dtype.str}{array.shape}".encode() + array.tobytes()).digest()
            if key not in blocks:
                blocks[key] = len(lengths)
                lengths.append(array.size)
                values.setdefault(name, []).append(array.ravel())
            places[-1][name] = blocks[key]
    if not lengths:
        return None
    names = sorted(values)
    header = {
        "version": np.array(VERSION, np.int16),
        "cell_id": np.array([str(row["cell_id"]) for row in rows]),
        "digest": np.array([_digest(one) for one in cells], np.uint64),
        "name": np.array(names),
        "block": np.array([[place.get(name, -1) for name in names] for place in places], np.int32),
        "length": np.array(lengths, np.int32),
    }
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {**header, **{name: np.concatenate(values[name]) for name in names}}
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _needed(outcomes: Outcomes, row: Row) -> dict[str, NDArray[Any]]:
    detector = OF_DETECTORS if "clean_score" in outcomes else ()
    names = (*ALWAYS, *(() if row["metric"] == "accuracy" else OF_REGRESSORS), *detector)
    kept = {name: outcomes[name] for name in names if name in outcomes}
    changed = successes(outcomes) | outcomes["clean_correct"] & ~outcomes["perturbed_correct"]
    for norm in sorted({"l2", "linf", row["norm"]} & outcomes.keys()):
        kept[norm] = np.where(changed, outcomes[norm], np.nan)
    if detector:
        kept["perturbed_score"] = np.where(outcomes["network_fooled"], outcomes["perturbed_score"], np.nan)
    return {name: _narrow(np.ascontiguousarray(array)) for name, array in kept.items()}


def _narrow(array: NDArray[Any]) -> NDArray[Any]:
    """Single precision where it holds the same numbers."""
    if array.dtype != np.float64:
        return array
    with np.errstate(over="ignore"):
        narrow = array.astype(np.float32)
    return narrow if np.array_equal(narrow, array, equal_nan=True) else array


def _digest(cells: Iterable[str]) -> int:
    return int.from_bytes(hashlib.sha256("\0".join(cells).encode()).digest()[:8], "little")


class Packed:
    """Outcomes of the rows of a leaderboard, read from what `pack` made.

    Raises
    ------
    UserError
        In one line, if the file is damaged, or is not that of the table.
    """

    def __init__(self, file: Path, table: Table) -> None:
        self.file = file
        try:
            content = _content(file)
            if int(content["version"]) != VERSION:
                raise UserError(
                    f"{file}: version {content['version']} of its form, this advbench reads {VERSION}"
                )
            self._ids = [str(name) for name in content["cell_id"]]
            self._rows = {name: place for place, name in reversed(list(enumerate(self._ids)))}
            self._digests = [int(digest) for digest in content["digest"]]
            self._blocks = content["block"].tolist()
            self._names = [str(name) for name in content["name"]]
            self._parts = _parts(content)
            shape = len(self._ids), len(self._names)
            if content["block"].shape != shape or len(self._digests) != shape[0]:
                raise ValueError("its arrays do not fit each other")
        except (OSError, ValueError, KeyError, IndexError, TypeError, NotImplementedError, RuntimeError,
                EOFError, zipfile.BadZipFile, zlib.error) as error:  # fmt: skip
            raise UserError(f"{file}: damaged ({error}): restore it, or export its run again") from None
        self._check(table)

    def _check(self, table: Table) -> None:
        """Refuse a table that is not the one that the file was written with, row by row."""
        known, seen = dict.fromkeys(zip(self._ids, self._digests)), set()
        place = table.header.index("cell_id")
        for cells, number in zip(table.rows, table.numbers):
            key = cells[place], _digest(cells)
            if key not in known:
                raise UserError(
                    f"{table.file}:{number}: row {cells[place]} does not stand in {self.file.name} as it does here:"
                    " one of them was edited"
                )
            seen.add(key)
        gone = next((name for name, digest in known if (name, digest) not in seen), None)
        if gone is not None:
            raise UserError(f"{table.file}: row {gone} of {self.file.name} is gone: one of them was edited")

    def outcomes(self, row: Row) -> Outcomes | None:
        """Arrays (n, ...) of one row's samples; None where there are none.

        Raises
        ------
        UserError
            If they do not give the counts that the row shows.
        """
        arrays = self._arrays(row)
        if arrays is None:
            return None
        clean = arrays["clean_correct"]
        eligible = clean & arrays["eligible"] if "eligible" in arrays else clean
        counts = {
            "n": len(arrays["id"]),
            "n_clean_correct": int(clean.sum()),
            "n_eligible": int(eligible.sum()),
            "n_success": int(successes(arrays).sum()),
        }
        for name, count in counts.items():
            if row[name] != count:
                raise UserError(
                    f"{self.file}: row {row['cell_id']}: column {name} says {row[name]}, its outcomes give {count}:"
                    " one of them was edited"
                )
        return arrays

    def digest(self, row: Row) -> str | None:
        """Hash of one row's outcomes; equal hashes, equal outcomes."""
        arrays = self._arrays(row)
        if arrays is None:
            return None
        hasher = hashlib.sha256()
        for name in sorted(arrays):
            hasher.update(f"{name} {arrays[name].dtype.str} {arrays[name].shape};".encode())
            hasher.update(arrays[name].tobytes())
        return f"packed {hasher.hexdigest()}"

    def _arrays(self, row: Row) -> dict[str, NDArray[Any]] | None:
        place = self._rows.get(str(row["cell_id"]))
        if place is None:
            return None
        numbers = zip(self._names, self._blocks[place])
        found = {name: self._parts[name, number] for name, number in numbers if number >= 0}
        if not found:
            return None
        n = len(found["id"])
        return {name: part if len(part) == n else part.reshape(n, -1) for name, part in found.items()}


def _content(file: Path) -> dict[str, NDArray[Any]]:
    """All arrays of an npz; each is read whole, which checks its sum, before anything in it is believed."""
    with zipfile.ZipFile(file) as archive:
        plain = {name.removesuffix(".npy"): archive.read(name) for name in archive.namelist()}
    missing = [name for name in HEADER if name not in plain]
    if missing:
        raise ValueError(f"it lacks {missing[0]}")
    return {name: npy.read_array(io.BytesIO(data), allow_pickle=False) for name, data in plain.items()}


def _parts(content: Mapping[str, NDArray[Any]]) -> dict[tuple[str, int], NDArray[Any]]:
    """Blocks by the name of their array and their number; nobody can write to them."""
    parts = {}
    for name, column in zip(content["name"].tolist(), content["block"].T):
        numbers, values = np.unique(column[column >= 0]), content[name]
        ends = np.cumsum(content["length"][numbers])
        if len(ends) == 0 or ends[-1] != len(values):
            raise ValueError(f"its array {name} does not fit its lengths")
        values.flags.writeable = False
        for number, part in zip(numbers.tolist(), np.split(values, ends[:-1])):
            parts[name, number] = part
    return parts
