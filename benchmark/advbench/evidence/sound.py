"""Whether the rows of a leaderboard can be what a run wrote: types, ranges, figures that fit each other."""

from __future__ import annotations

import functools
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from advbench.errors import UserError
from advbench.evidence.columns import COLUMNS, NAMES
from advbench.evidence.leaderboard import text
from advbench.evidence.protocol import SCHEMA
from advbench.evidence.statistics import wilson
from advbench.evidence.table import other_schema

COUNTS = frozenset(
    {"schema", "protocol", "budget_passes", "n", "n_clean_correct", "n_eligible", "n_success"}
    | {"n_lost_by_rounding", "violations", "n_unknown"}
)
WHOLE = COUNTS | {"seed"}
"""Columns of whole numbers."""

TRUTHS = frozenset({"targeted"})
NUMBERS = frozenset(
    {"strength"}
    | {
        column.name
        for column in COLUMNS
        if column.group not in ("identity", "status", "flags", "origin")
        and column.name not in {*COUNTS, "metric", "size"}
    }
)
"""Columns of decimal numbers; columns of metrics that a suite added are such, too."""

SHARES = frozenset(
    name
    for name in NUMBERS
    if name.startswith(("attack_success_rate", "ece_", "eta_", "tpr_", "detector_", "closed_set_"))
    or name in ("accuracy_detect_or_reject", "unknown_auroc", "certificate_confidence")
) - {"eta_threshold"}
SIGNED = ("strength", "clean_price", "bias_")
INTERVALS = tuple(name for name in NAMES if f"{name}_lo" in NAMES)
METRICS = ("accuracy", "sigma_mad")
KINDS = ("cell", "worst-case", "audit")
KNOWLEDGE = ("none", "blackbox", "transfer", "oblivious", "adaptive")
STATUSES = ("ok", "skipped", "failed", "timeout", "crashed")
LABELS = ("dataset", "model", "defense", "perturbation", "knowledge", "seed", "kind")
FIGURES = tuple(
    column.name
    for column in COLUMNS
    if column.group not in ("identity", "status", "flags", "origin") and column.name != "clean_price"
)
"""Columns that the id of a cell decides; flags and the clean price also depend on the rows beside it."""

DOCUMENTS = {
    "dataset_params": dict,
    "model_params": dict,
    "defense_params": list,
    "perturbation_params": dict,
    "adaptation": dict,
    "plugin_versions": dict,
}
"""Columns of JSON, and what is in them."""

RESULTS = tuple(column.name for column in COLUMNS if column.group == "result")


# --- types --------------------------------------------------------------------------------------------------------


def typed(
    file: Path, header: Sequence[str], lines: Sequence[Sequence[str]], numbers: Sequence[int]
) -> list[dict[str, Any]]:
    """Rows with numbers as numbers, truth values as bool and None where a cell is empty.

    Raises
    ------
    UserError
        At the first value that its column cannot hold, with its line, its column and the value.
    """
    columns: list[Sequence[Any]] = []
    for name, cells in zip(header, zip(*lines)):
        column = Kind.of(name)
        try:
            columns.append(column.read(cells))
        except (ValueError, KeyError):
            place, cell = next(one for one in zip(numbers, cells) if not column.fits(one[1]))
            raise UserError(f"{file}:{place}: column {name}: {cell!r} is not {column.words}") from None
    return [dict(zip(header, values)) for values in zip(*columns)]


class Kind(NamedTuple):
    """What a column holds: how to read a cell, in words, and the range of its numbers."""

    convert: Callable[[str], Any]
    words: str
    least: float = -math.inf
    most: float = math.inf

    @staticmethod
    def of(name: str) -> Kind:
        """The kind of a column."""
        if name in TRUTHS:
            return Kind({"true": True, "false": False}.__getitem__, "true or false")
        if name in WHOLE:
            return Kind(int, "a whole number that is not negative", 0)
        if name in SHARES:
            return Kind(_number, "a number from 0 to 1", 0, 1)
        if name not in NUMBERS and name in NAMES:
            return Kind(str, "text")
        if name.startswith(SIGNED) or name not in NAMES:
            return Kind(_number, "a number")
        return Kind(_number, "a number that is not negative", 0)

    def read(self, cells: Sequence[str]) -> Sequence[Any]:
        """A column.

        Raises
        ------
        ValueError, KeyError
            If a cell does not fit.
        """
        convert = self.convert
        if not any(cells):
            return [None] * len(cells)
        values = [None if cell == "" else convert(cell) for cell in cells]
        if self.least > -math.inf:
            known = [value for value in values if value is not None]
            if min(known) < self.least or max(known) > self.most:
                raise ValueError(self.words)
        return values

    def fits(self, cell: str) -> bool:
        """Whether one cell fits."""
        try:
            self.read([cell])
        except (ValueError, KeyError):
            return False
        return True


def _number(cell: str) -> float:
    value = float(cell)
    if value != value:
        raise ValueError(cell)
    return value


# --- ranges, and what must fit ------------------------------------------------------------------------------------


def check_rows(file: Path, rows: Sequence[Mapping[str, Any]], numbers: Sequence[int]) -> None:
    """Refuse rows that no run can have written.

    Raises
    ------
    UserError
        At the first one, with its line, its column and both values.
    """
    seen: dict[str, tuple[int, Mapping[str, Any]]] = {}
    for row, number in zip(rows, numbers):
        complaint = _complaint(row)
        if not complaint and row["cell_id"] in seen:
            complaint = _twice(row, *seen[row["cell_id"]])
        if complaint:
            raise UserError(f"{file}:{number}: {complaint}")
        seen[row["cell_id"]] = number, row


def _twice(row: Mapping[str, Any], number: int, other: Mapping[str, Any]) -> str:
    """One cell may stand under several labels, as its suite named it, but not twice, and not with other figures."""
    if all(row[name] == other[name] for name in LABELS):
        return f"column cell_id: {row['cell_id']} is that of line {number}, too"
    for name in FIGURES:
        if row[name] != other[name]:
            values = f"{text(row[name]) or 'empty'}, but {text(other[name]) or 'empty'}"
            return f"column {name}: {values} in line {number}, which is the same cell"
    return ""


def _complaint(row: Mapping[str, Any]) -> str:
    if row["schema"] != SCHEMA:
        return f"column schema: {other_schema(text(row['schema']))}"
    for name in ("protocol", "cell_id", "dataset", "model", "defense", "perturbation", "knowledge", "seed"):
        if row[name] is None:
            return f"column {name}: empty"
    for name, known in (("kind", KINDS), ("status", STATUSES), ("knowledge", KNOWLEDGE)):
        if row[name] not in known:
            return f"column {name}: {row[name]!r} is none of {', '.join(known)}"
    for name, kind in DOCUMENTS.items():
        own = name == "perturbation_params" and row["kind"] == "worst-case"  # told by what has to be in it
        if row[name] is not None and not own and (error := _broken(row[name], kind)):
            return f"column {name}: {error}"
    if row["status"] != "ok":
        given = next((name for name in RESULTS if row[name] is not None), None)
        return f"column {given}: {row[given]} though status is {row['status']}" if given else ""
    if row["reason"] is not None:
        return f"column reason: {row['reason']!r} though status is ok"
    return _missing(row) or _counts(row) or _intervals(row) or _worst(row)


def _missing(row: Mapping[str, Any]) -> str:
    """What every row with figures has, and figures that come together."""
    for name in ("fingerprint", "perturbation_id", "perturbation_params"):
        if row[name] is None:
            return f"column {name}: empty though status is ok"
    if row["detector_auroc"] is not None and row["detector_fpr"] is None:
        return f"column detector_auroc: {row['detector_auroc']:.6g}, but detector_fpr is empty: there is no detector"
    if row["metric"] == "accuracy" and row["eta_perturbed"] is not None:
        return f"column eta_perturbed: {row['eta_perturbed']:.6g}, but the metric is accuracy"
    return ""


@functools.lru_cache(maxsize=4096)
def _broken(document: str, kind: type) -> str:
    try:
        value = json.loads(document)
    except (ValueError, RecursionError) as error:
        return f"not JSON: {error}"
    return "" if isinstance(value, kind) else f"not a JSON {'list' if kind is list else 'object'}"


def _counts(row: Mapping[str, Any]) -> str:
    order = ("n_success", "n_eligible", "n_clean_correct", "n")
    for name in order:
        if row[name] is None:
            return f"column {name}: empty though status is ok"
    for less, more in itertools.pairwise(order):
        if row[less] > row[more]:
            return f"column {less}: {row[less]} is more than {more}, {row[more]}"
    if row["metric"] not in METRICS:
        return f"column metric: {row['metric'] or 'empty'} is none of {', '.join(METRICS)}"
    if row["metric"] == "accuracy" and (row["perturbed"] or 0.0) > 1:
        return f"column perturbed: {row['perturbed']:.6g} is more than 1, but the metric is accuracy"
    expected = {"attack_success_rate": (row["n_success"], row["n_eligible"])}
    if row["metric"] == "accuracy":
        expected["clean"] = (row["n_clean_correct"], row["n"])
        expected["perturbed"] = (_robust(row), row["n"])
    return next((found for name, (k, n) in expected.items() if (found := _rate(row, name, k, n))), "")


def _robust(row: Mapping[str, Any]) -> int:
    """Correct perturbed samples: under an untargeted attack, what was correct and did not fall."""
    if row["knowledge"] != "none" and not row["targeted"] and row["n_eligible"] == row["n_clean_correct"]:
        return int(row["n_clean_correct"] - row["n_success"])
    robust: int = round((row["perturbed"] or 0.0) * row["n"])
    return robust


def _rate(row: Mapping[str, Any], name: str, count: int, n: int) -> str:
    """Whether a rate and its interval are those of a count."""
    for end, shown in zip(("", "_lo", "_hi"), _written(count, n)):
        found = row[f"{name}{end}"]
        if text(found) != shown:
            told = "empty" if found is None else f"{found:.6g}"
            return f"column {name}{end}: {told}, but it is {shown or 'empty'} of {count} of {n}"
    return ""


@functools.cache
def _written(count: int, n: int) -> tuple[str, ...]:
    return tuple(map(text, wilson(count, n)))


def _intervals(row: Mapping[str, Any]) -> str:
    for name in INTERVALS:
        value, low, high = row[name], row[f"{name}_lo"], row[f"{name}_hi"]
        # An estimate alone is fine: draws of infinite predictions have no quantiles.
        if (low is None) != (high is None) or (value is None and low is not None):
            empty = next(one for one in (name, f"{name}_lo", f"{name}_hi") if row[one] is None)
            return f"column {empty}: empty, but an estimate and its interval come together"
        if low is not None and high is not None and low > high:
            return f"column {name}_lo: {low:.6g} is more than {name}_hi, {high:.6g}"
    return ""


def _worst(row: Mapping[str, Any]) -> str:
    if row["kind"] != "worst-case":
        return ""
    try:
        members = json.loads(row["perturbation_params"] or "")
    except ValueError:
        members = None
    if not isinstance(members, list) or not all(isinstance(member, str) for member in members):
        return "column perturbation_params: not the labels of a worst-case row's members"
    return ""
