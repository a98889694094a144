"""The rows of one or more runs as a page carries them: columns, with every text once."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advbench.evidence.board import LEADERBOARD, Board, Row, read_board
from advbench.evidence.columns import COLUMNS
from advbench.evidence.curves import norm_of_curve
from advbench.evidence.flags import FLAGS

UNIT = "input units"
"""Of the distances of minimum-norm attacks, as budgets name it."""

LEFT_OUT = ("schema",)
"""Columns that no reader of a page needs; all others are there, unless they are empty in every row."""


@dataclass(frozen=True)
class Source:
    """A run that the page shows: what it is called there, its leaderboard, and its folder."""

    name: str
    board: Board

    @property
    def home(self) -> Path | None:
        """The folder in which a run keeps what is not in the table; None for a CSV of any other name."""
        path = self.board.path
        return path.parent if path.name == LEADERBOARD else None


def read_sources(paths: Sequence[Path]) -> list[Source]:
    """Read runs; they are named by their folders or files, with a number where two have the same name.

    Raises
    ------
    UserError
        If one is no leaderboard, or is not as a run wrote it.
    """
    boards = [read_board(path) for path in paths]
    names = [_name(board.path.resolve()) for board in boards]
    seen: Counter[str] = Counter()
    sources = []
    for name, board in zip(names, boards):
        seen[name] += 1
        sources.append(Source(f"{name} ({seen[name]})" if names.count(name) > 1 else name, board))
    return sources


def _name(path: Path) -> str:
    return path.parent.name if path.name == LEADERBOARD else path.stem


def table(sources: Sequence[Source]) -> dict[str, Any]:
    """What the page's script gets to know of the rows.

    Returns
    -------
    dict
        ``count``; ``columns`` by name, each ``{"n": values}`` or, for text, ``{"v": distinct values, "i": index of
        each row's value}`` with -1 for none; ``help`` and ``groups`` of the columns; the ``flags`` that occur, each
        with its sentence. Infinite numbers are the text ``inf``. Columns ``run``, ``family`` and ``axis`` are added.
    """
    rows = [row for source in sources for row in source.board.rows]
    runs = [source.name for source in sources for _ in source.board.rows]
    names = list(dict.fromkeys(name for source in sources for name in source.board.rows[0]) if rows else {})
    columns = {"run": _packed(runs)}
    for name in names:
        values = [row.get(name) for row in rows]
        if name not in LEFT_OUT and any(value is not None for value in values):
            columns[name] = _packed(values)
    families = _families(rows, runs)
    columns["family"] = _packed([one[0] for one in families])
    columns["axis"] = _packed([one[1] for one in families])
    flags = {flag for row in rows for flag in (row.get("flags") or "").split(";") if flag}
    return {
        "count": len(rows),
        "columns": columns,
        "help": {column.name: column.help for column in COLUMNS if column.name in columns},
        "groups": {column.name: column.group for column in COLUMNS if column.name in columns},
        "flags": {flag: FLAGS.get(flag, "") for flag in sorted(flags)},
    }


def _packed(values: Sequence[Any]) -> dict[str, Any]:
    if all(value is None or isinstance(value, (int, float)) for value in values) and not _truths(values):
        return {"n": [_number(value) for value in values]}
    places: dict[str, int] = {}
    index = [-1 if value is None else places.setdefault(_text(value), len(places)) for value in values]
    return {"v": list(places), "i": index}


def _truths(values: Iterable[Any]) -> bool:
    return any(isinstance(value, bool) for value in values)


def _number(value: float | None) -> float | str | None:
    if value is None or math.isnan(value):
        return None
    return value if math.isfinite(value) else "inf" if value > 0 else "-inf"


def _text(value: Any) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


# --- families: a perturbation with all its parameters but the strength ---------------------------------------------


def _families(rows: Sequence[Row], runs: Sequence[str]) -> list[tuple[str | None, str | None]]:
    """For each row the name of its family and of the axis along which its strength goes; None without a strength.

    A row that holds a whole curve is of the family of its label, along the axis of budgets in its norm.
    """
    params = [_params(row) for row in rows]
    names_of = _strength_names(rows, params)
    keys = [_family_key(row, some, names_of[row["perturbation_id"]]) for row, some in zip(rows, params)]
    names = _family_names(rows, runs, keys)
    return [
        (None, None) if key is None else (names[key], _axis(row, names[key])) for row, key in zip(rows, keys)
    ]


def _family_key(row: Row, params: Any, of_strength: set[str]) -> str | None:
    norm = norm_of_curve(row)
    if norm is not None:
        return json.dumps(
            ["whole", row["perturbation"], row["perturbation_id"], params, norm], sort_keys=True
        )
    strength = row.get("strength")
    if row["perturbation"] == "none" or strength is None or not math.isfinite(strength):
        return None
    if row["kind"] == "worst-case":
        return json.dumps(["worst", row["norm"], row["strength_unit"]])
    if isinstance(params, Mapping):
        params = {name: value for name, value in params.items() if name not in of_strength}
    rest = json.dumps(params, sort_keys=True)
    return json.dumps([row["perturbation_id"], rest, row["norm"], row["strength_unit"]])


def _params(row: Row) -> Any:
    text = row.get("perturbation_params") or ""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _strength_names(rows: Sequence[Row], params: Sequence[Any]) -> dict[str, set[str]]:
    """By perturbation the parameters that are the strength in all of its rows; in one row others may be equal to it."""
    found: dict[str, set[str]] = defaultdict(set)
    seen: set[str] = set()
    for row, some in zip(rows, params):
        strength, name = row.get("strength"), str(row["perturbation_id"])
        if strength is None or not isinstance(some, Mapping):
            continue
        equal = {key for key, value in some.items() if _is(value, strength)}
        found[name] = found[name] & equal if name in seen else equal
        seen.add(name)
    return found


def _is(value: Any, strength: float) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isclose(value, strength, rel_tol=1e-5)


def _family_names(rows: Sequence[Row], runs: Sequence[str], keys: Sequence[str | None]) -> dict[str, str]:
    """A name for each key; the same label with other parameters is told apart by its run, else by a number."""
    labels: dict[str, set[str]] = defaultdict(set)
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for row, run, key in zip(rows, runs, keys):
        if key is not None:
            labels[key].add(_base(row, key))
            found[key][run] = None
    names = {key: next(iter(some)) if len(some) == 1 else json.loads(key)[0] for key, some in labels.items()}
    if len(set(runs)) > 1:
        shared = _shared(names)
        names = {
            key: f"{name} [{_some(found[key])}]" if name in shared else name for key, name in names.items()
        }
    shared, numbered = _shared(names), Counter[str]()
    for key, name in names.items():
        if name in shared:
            numbered[name] += 1
            names[key] = f"{name} #{numbered[name]}"
    return names


def _base(row: Row, key: str) -> str:
    kind = json.loads(key)[0]
    if kind == "worst":
        return "worst case"
    return str(row["perturbation"]) if kind == "whole" else str(row["perturbation"]).partition("(")[0]


def _shared(names: Mapping[str, str]) -> set[str]:
    return {name for name, count in Counter(names.values()).items() if count > 1} - {"worst case"}


def _some(runs: Iterable[str]) -> str:
    names = list(runs)
    return ", ".join(names) if len(names) < 3 else f"{names[0]} and {len(names) - 1} more"


def _axis(row: Row, family: str) -> str:
    norm = norm_of_curve(row)
    if norm is not None:
        return _budget(norm, UNIT)
    unit = row.get("strength_unit") or ""
    if row.get("norm"):
        return _budget(row["norm"], unit)
    return f"{family}: {unit or 'strength'}"


def _budget(norm: str, unit: str) -> str:
    return f"{norm} budget" + (f" ({unit})" if unit else "")
