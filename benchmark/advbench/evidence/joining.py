"""Rows of two leaderboards side by side: which belong together, which may be compared, and what else is new."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from advbench.errors import UserError
from advbench.evidence.board import Board
from advbench.evidence.bounds import aims, attack_of, bounds, leaves, mapping
from advbench.evidence.leaderboard import text, visible
from advbench.evidence.sound import LABELS

Row = Mapping[str, Any]

AXES = ("dataset", "model", "defense", "perturbation", "knowledge", "seed")
EQUAL = (
    "protocol",
    "dataset_id",
    "fingerprint",
    "split",
    "norm",
    "strength",
    "strength_unit",
    "targeted",
    "budget_passes",
)
"""Columns that must be equal in rows that are compared, whether they have figures or not; `threats` has the rest."""

EQUAL_RESULTS = ("metric", "eta_threshold", "n", "n_unknown")
"""What else must be equal in rows with figures."""

TOLD = (
    "trained_on",
    "adapted_to",
    "model_id",
    "model_params",
    "defense_id",
    "defense_params",
    "perturbation_params",
    "adaptation",
    "dataset_params",
    "weights",
    "advbench_version",
    "plugin_versions",
    "torch_version",
    "device",
    "precision",
)
"""What may differ and is told."""


@dataclass(frozen=True)
class Pair:
    """Two rows that belong together; ``changed`` is what differs beside their figures, as (column, first, second)."""

    first: Row
    second: Row
    changed: tuple[tuple[str, str, str], ...]

    @property
    def ok(self) -> bool:
        """Whether both have figures."""
        return bool(self.first["status"] == self.second["status"] == "ok")


class Joined(NamedTuple):
    """Pairs in the order of the first leaderboard, and the rows that only one of the two has."""

    pairs: tuple[Pair, ...]
    removed: tuple[Row, ...]
    added: tuple[Row, ...]


def join(first: Board, second: Board, free: str = "") -> Joined:
    """Put rows with equal labels side by side. ``free`` is an axis whose label may differ.

    Raises
    ------
    UserError
        If rows that belong together may not be compared, or nothing belongs together.
    """
    ours, theirs = _keyed(first.rows, free), _keyed(second.rows, free)
    matches = [_matched(rows, theirs.pop(key, [])) for key, rows in ours.items()]
    pairs = [pair for match in matches for pair in match.pairs]
    if not pairs:
        hint = "" if free else "; `--between` compares rows of different labels"
        raise UserError(f"{first.name} and {second.name} have no row of the same labels{hint}")
    for pair in pairs:
        refuse(*pair, (first, second), free)
    removed = [row for match in matches for row in match.removed]
    added = [row for match in matches for row in match.added] + [
        row for rows in theirs.values() for row in rows
    ]
    return Joined(tuple(_pair(*pair) for pair in pairs), tuple(removed), tuple(added))


def _pair(first: Row, second: Row) -> Pair:
    """A row without figures has no origin either; that it has none is told, and why."""
    same = first["status"] == second["status"]
    return Pair(first, second, tuple(changes(first, second)) if same else ())


def _keyed(rows: Sequence[Row], free: str) -> dict[tuple[Any, ...], list[Row]]:
    """Rows by what they are about; several for one key only in a leaderboard that was merged."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        key = tuple(row[name] for name in LABELS if name != free)
        if row["kind"] == "worst-case":
            key += (row["norm"], row["strength"], row["targeted"])
        found.setdefault(key, []).append(row)
    return found


class _Match(NamedTuple):
    pairs: list[tuple[Row, Row]]
    removed: list[Row]
    added: list[Row]


def _matched(ours: Sequence[Row], theirs: Sequence[Row]) -> _Match:
    """Rows of the same labels: the same cells first, then in their order."""
    others = {row["cell_id"]: row for row in theirs}
    pairs = [(row, others.pop(row["cell_id"])) for row in ours if row["cell_id"] in others]
    matched = {row["cell_id"] for row, _ in pairs}
    left, right = [row for row in ours if row["cell_id"] not in matched], list(others.values())
    count = min(len(left), len(right))
    return _Match([*pairs, *zip(left, right)], left[count:], right[count:])


def label(row: Row, free: str = "") -> str:
    """``"digits / net / squeezing / pgd, adaptive, seed 0"``."""
    strength = f" {row['norm']} {text(row['strength'])}".rstrip() if row["kind"] == "worst-case" else ""
    names = " / ".join(str(row[name]) for name in AXES[:4] if name != free)
    knowledge = f", {row['knowledge']}" if row["knowledge"] != "none" and free != "knowledge" else ""
    seed = f", seed {row['seed']}" if free != "seed" else ""
    return visible(f"{names}{strength}{knowledge}{seed}")


def network_label(row: Row, free: str = "") -> str:
    """``"digits / net / squeezing, seed 0"``."""
    names = " / ".join(str(row[name]) for name in AXES[:3] if name != free)
    return visible(f"{names}, seed {row['seed']}" if free != "seed" else names)


def kind_of(row: Row) -> str:
    """What a row is under: nothing, a corruption, an attack, or the worst of several."""
    if row["kind"] == "worst-case":
        return "worst-case"
    if row["perturbation"] == "none":
        return "clean"
    return "corruption" if row["knowledge"] == "none" else "attack"


def refuse(first: Row, second: Row, boards: tuple[Board, Board], free: str = "") -> None:
    """Refuse two rows that may not be compared.

    Raises
    ------
    UserError
        In a line that names the row, the field and both values.
    """
    fields = EQUAL + (EQUAL_RESULTS if first["status"] == second["status"] == "ok" else ())
    if free != "perturbation" and first["kind"] != "worst-case":
        fields += ("perturbation_id",)
    ours, theirs = threats((first, second), boards, free)
    values = [(name, first[name], second[name]) for name in fields]
    values += [(name, ours.get(name), theirs.get(name)) for name in dict.fromkeys((*ours, *theirs))]
    for name, one, other in values:
        # A row without figures may have none, if its data could not be read.
        if one != other and not (name == "fingerprint" and None in (one, other)):
            told = f"{name} is {_shown(one)} in {boards[0].name} and {_shown(other)} in {boards[1].name}"
            raise UserError(f"not comparable: {label(first, free)}: {told}")


def threats(
    rows: tuple[Row, Row], boards: tuple[Board, Board], free: str
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """What of the threat models of two rows is in their parameters; that of a worst-case row is in its members."""
    first, second = rows
    if first["kind"] == "worst-case":
        members = [next(iter(board.members(row)), None) for board, row in zip(boards, rows)]
        return ({}, {}) if None in members else (aims(members[0] or {}), aims(members[1] or {}))
    if free == "perturbation" and attack_of(first) != attack_of(second):
        return aims(first), aims(second)
    same = first["perturbation_params"] == second["perturbation_params"]
    return ({}, {}) if same else (bounds(first), bounds(second))


def changes(first: Row, second: Row, columns: Sequence[str] = TOLD) -> list[tuple[str, str, str]]:
    """What differs in these columns, each parameter by its name, as (column, first, second)."""
    found = []
    for name in columns:
        if first[name] == second[name]:
            continue
        ours, theirs = mapping(first[name]), mapping(second[name])
        if not ours or not theirs:
            found.append((name, _shown(first[name]), _shown(second[name])))
            continue
        paths = leaves(ours), leaves(theirs)
        for key in sorted({*paths[0], *paths[1]}):
            pair = [_written(leaf[key]) if key in leaf else "(absent)" for leaf in paths]
            if pair[0] != pair[1]:
                found.append((f"{name}.{key}", pair[0], pair[1]))
    return found


def _written(value: Any) -> str:
    return visible(value if isinstance(value, str) else json.dumps(value))


def _shown(value: Any) -> str:
    return "nothing" if value is None else visible(text(value))
