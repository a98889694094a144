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
from advbench.evidence.flags import FLAGS

LEFT_OUT = ("schema",)
"""Columns that no reader of a page needs; all others are there, unless they are empty in every row."""


@dataclass(frozen=True)
class Source:
    """A run that the page shows: what it is called there, its leaderboard, and its folder."""

    name: str
    board: Board

    @property
    def home(self) -> Path:
        """The folder in which a run keeps what is not in the table; it need not exist."""
        path = self.board.path
        return path.parent if path.name == LEADERBOARD else path.with_suffix("")


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
    families = _families(rows)
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


def _families(rows: Sequence[Row]) -> list[tuple[str | None, str | None]]:
    """For each row the name of its family and of the axis along which its strength goes; None without a strength."""
    keys = [_family_key(row) for row in rows]
    labels: dict[str, set[str]] = defaultdict(set)
    for row, key in zip(rows, keys):
        if key is not None:
            labels[key].add(str(row["perturbation"]).partition("(")[0])
    shared = Counter(next(iter(bases)) for bases in labels.values() if len(bases) == 1)
    numbered: dict[str, int] = defaultdict(int)
    names = {key: _family_name(key, bases, shared, numbered) for key, bases in labels.items()}
    return [
        (None, None) if key is None else (names[key], _axis(row, names[key])) for row, key in zip(rows, keys)
    ]


def _family_key(row: Row) -> str | None:
    strength = row.get("strength")
    if row["perturbation"] == "none" or strength is None or not math.isfinite(strength):
        return None
    if row["kind"] == "worst-case":
        return json.dumps(["worst", row["norm"], row["strength_unit"]])
    rest = _without_strength(row.get("perturbation_params") or "", strength)
    return json.dumps([row["perturbation_id"], rest, row["norm"], row["strength_unit"]])


def _without_strength(params: str, strength: float) -> str:
    """The parameters as text, but for those that are the strength."""
    try:
        values = json.loads(params)
    except ValueError:
        return params
    if isinstance(values, Mapping):
        values = {name: value for name, value in values.items() if not _is(value, strength)}
    return json.dumps(values, sort_keys=True)


def _is(value: Any, strength: float) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isclose(value, strength, rel_tol=1e-5)


def _family_name(key: str, bases: set[str], shared: Mapping[str, int], numbered: dict[str, int]) -> str:
    kind = json.loads(key)[0]
    if kind == "worst":
        return "worst case"
    name = next(iter(bases)) if len(bases) == 1 else kind
    if shared.get(name, 0) > 1:  # the same label with other parameters
        numbered[name] += 1
        return f"{name} #{numbered[name]}"
    return str(name)


def _axis(row: Row, family: str) -> str:
    unit = row.get("strength_unit") or ""
    if row.get("norm"):
        return f"{row['norm']} budget" + (f" ({unit})" if unit else "")
    return f"{family}: {unit or 'strength'}"
