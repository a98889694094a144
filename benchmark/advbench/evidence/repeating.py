"""A run that was computed again against its rows: whether the figures are the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from advbench.evidence.board import Board
from advbench.evidence.joining import EQUAL_RESULTS, Row, changes, label
from advbench.evidence.leaderboard import text
from advbench.evidence.sound import FIGURES, INTERVALS, LABELS

MADE_BY = ("advbench_version", "plugin_versions", "torch_version", "device", "precision", "fingerprint")
"""What may explain other figures."""


IN_SUITES = (
    "dataset_id", "dataset_params", "split", "trained_on", "adapted_to", "model_id", "model_params", "defense_id",
    "defense_params", "perturbation_id", "perturbation_params", "budget_passes",
)  # fmt: skip
"""What the suite says of a row with its labels."""


@dataclass(frozen=True)
class Repeated:
    """How many rows were compared, how many of them agree, every figure that differs, and what may explain it.

    ``exact`` says that equality to the last digit was asked for.
    """

    rows: int
    agreeing: int
    differences: tuple[str, ...]
    notes: tuple[str, ...]
    exact: bool


def repeated(rows: Sequence[Row], again: Board, extra: Sequence[str] = ()) -> Repeated:
    """Compare rows with those of a new run of their suite, by their labels.

    On one device type that is the CPU all figures and the weights must be equal as they are written, with 6 digits.
    Otherwise networks are trained anew with other rounding; then figures with an interval agree if the intervals
    overlap, what does not depend on the network has to be equal, and the others are not compared.
    """
    news = {_key(row): row for row in again.rows}
    differences: list[str] = []
    notes: Counter[str] = Counter()
    other = _other_suite(rows, news)
    agreeing, exact = 0, True
    for row in rows:
        new = news.get(_key(row))
        if new is None:
            differences.append(f"{label(row)}: not in the new run")
            continue
        notes.update(_notes(row, new))
        same_device = {row["device"], new["device"]} <= {"cpu", None}
        exact &= same_device
        found = list(_differences(row, new, extra) if same_device else _apart(row, new))
        differences += [f"{label(row)}: {one}" for one in found]
        agreeing += not found
    told = tuple(f"{note} ({count} rows)" if count > 1 else note for note, count in notes.items())
    return Repeated(len(rows), agreeing, tuple(differences), (*other, *told), exact)


def _key(row: Row) -> tuple[object, ...]:
    worst = (row["norm"], row["strength"], row["targeted"]) if row["kind"] == "worst-case" else ()
    return (*(row[name] for name in LABELS), *worst)


def _other_suite(rows: Sequence[Row], news: Mapping[tuple[object, ...], Row]) -> list[str]:
    """One line if the suite is not that of the rows, with the first thing in which it is another one."""
    for row in rows:
        new = news.get(_key(row))
        if new is None:
            return [f"the suite is not that of these rows: {label(row)}: it gives no such row"]
        differing = changes(row, new, IN_SUITES)
        if differing:
            name, old, now = differing[0]
            return [f"the suite is not that of these rows: {label(row)}: {name} was {old} and is {now}"]
    return []


def _notes(row: Row, new: Row) -> Iterator[str]:
    for name in MADE_BY:
        if row[name] != new[name] and None not in (row[name], new[name]):
            yield f"{name} was {text(row[name])} and is {text(new[name])}"
    same = all(row[name] == new[name] for name in IN_SUITES)
    if same and row["cell_id"] != new["cell_id"] and row["fingerprint"] == new["fingerprint"]:
        yield "cell_id is another one: some code that decides the figures has changed"


def _differences(row: Row, new: Row, extra: Sequence[str]) -> Iterator[str]:
    for name in ("status", *FIGURES, "weights", *extra):
        if row.get(name) != new.get(name):
            yield f"{name} was {_shown(row.get(name))} and is {_shown(new.get(name))}"


def _apart(row: Row, new: Row) -> Iterator[str]:
    for name in ("status", *EQUAL_RESULTS):
        if row[name] != new[name]:
            yield f"{name} was {_shown(row[name])} and is {_shown(new[name])}"
    for name in INTERVALS:
        first, second = ([one[f"{name}{end}"] for end in ("_lo", "_hi")] for one in (row, new))
        if None in first and None in second:
            continue
        if None in (*first, *second) or first[1] < second[0] or second[1] < first[0]:
            yield f"{name} was {_with_ends(row, name)} and is {_with_ends(new, name)}"


def _with_ends(row: Row, name: str) -> str:
    if row[f"{name}_lo"] is None:
        return f"{_shown(row[name])} without interval"
    return f"{text(row[name])} [{text(row[f'{name}_lo'])}, {text(row[f'{name}_hi'])}]"


def _shown(value: object) -> str:
    return text(value) or "nothing"
