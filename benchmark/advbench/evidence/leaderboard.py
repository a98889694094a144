"""The leaderboard: one CSV row for every cell, sorted by identity, the same bytes wherever it was computed."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from advbench.evidence.columns import NAMES

SORTED_BY = ("dataset", "model", "defense", "kind", "perturbation", "knowledge")

Row = Mapping[str, Any]


def text(value: Any) -> str:
    """One cell of the CSV: floats with 6 significant digits, nothing for None and NaN."""
    value = value.item() if hasattr(value, "item") else value  # a NumPy scalar
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)


_CONTROLS = dict.fromkeys([*range(32), *range(127, 160)]) | {ord(space): " " for space in "\n\t"}


def visible(value: str) -> str:
    """A text in one line without control characters, which a terminal would obey."""
    return value if value.isprintable() else value.translate(_CONTROLS)


def in_order(rows: Iterable[Row]) -> list[Row]:
    """Rows sorted by identity."""
    return sorted(rows, key=_key)


def _key(row: Row) -> tuple[Any, ...]:
    strength = row.get("strength")
    known = isinstance(strength, (int, float)) and not math.isnan(strength)
    names = tuple(str(row.get(name) or "") for name in SORTED_BY)
    return (
        *names,
        strength if known else -math.inf,
        row.get("seed", 0),
        str(row["cell_id"]),
    )


def to_csv(rows: Iterable[Row], extra: Sequence[str] = ()) -> str:
    """The leaderboard as text. ``extra`` are the columns of metrics that the suite added."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*NAMES, *extra])
    for row in in_order(rows):
        unknown = set(row) - set(NAMES) - set(extra)
        if unknown:
            raise ValueError(f"not a column of the leaderboard: {', '.join(sorted(unknown))}")
        writer.writerow([text(row.get(name)) for name in (*NAMES, *extra)])
    return buffer.getvalue()


def from_csv(path: Path) -> list[dict[str, str]]:
    """Rows of a leaderboard file, as text."""
    with path.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))
