"""Several leaderboards as one, with one row for each cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from advbench.errors import UserError
from advbench.evidence.board import Board
from advbench.evidence.joining import Row, label
from advbench.evidence.leaderboard import text
from advbench.evidence.sound import FIGURES


class Disagreement(NamedTuple):
    """A figure of one cell that two leaderboards show differently."""

    row: Row
    column: str
    boards: tuple[str, str]
    values: tuple[str, str]

    def __str__(self) -> str:
        first, second = (value or "nothing" for value in self.values)
        where = f"{self.boards[0]} and {second} in {self.boards[1]}"
        return f"{self.row['cell_id']} ({label(self.row)}): {self.column} is {first} in {where}"


@dataclass(frozen=True)
class Merged:
    """Rows, the columns of metrics, from which leaderboard each row is, and what they do not agree on.

    ``completed`` are rows that failed or were skipped in one leaderboard and have figures in another one.
    """

    rows: list[dict[str, Any]]
    extra: tuple[str, ...]
    sources: list[Board]
    disagreements: tuple[Disagreement, ...]
    repeated: int
    completed: int


def merge(boards: Sequence[Board]) -> Merged:
    """One row for each cell id: the first that has figures. Flags are those of all of them, outcomes of who has them.

    Raises
    ------
    UserError
        If the leaderboards are of different protocols.
    """
    protocols = {row["protocol"]: board.name for board in boards for row in board.rows}
    if len(protocols) > 1:
        told = ", ".join(f"{protocol} in {name}" for protocol, name in sorted(protocols.items()))
        raise UserError(f"not comparable: protocol is {told}")
    extra = tuple(dict.fromkeys(name for board in boards for name in board.extra))
    rows: dict[str, dict[str, Any]] = {}
    sources: dict[str, Board] = {}
    disagreements: list[Disagreement] = []
    repeated = completed = 0
    for board in boards:
        for row in board.rows:
            name = str(row["cell_id"])
            if name not in rows:
                rows[name], sources[name] = dict(row), board
                continue
            repeated += 1
            known = rows[name]
            if (known["status"], row["status"]) == ("ok", "ok"):
                found = _disagreements(known, row, (sources[name], board), extra)
                disagreements += found
                _complement(known, row, extra)
                if not found and sources[name].digest(known) is None and board.digest(row) is not None:
                    sources[name] = board  # it keeps the outcomes of the same figures
            elif row["status"] == "ok":
                rows[name], sources[name] = dict(row), board
                completed += 1
    order = list(rows)
    return Merged(
        [rows[name] for name in order],
        extra,
        [sources[name] for name in order],
        tuple(disagreements),
        repeated,
        completed,
    )


def _disagreements(
    known: Row, row: Row, boards: tuple[Board, Board], extra: Sequence[str]
) -> list[Disagreement]:
    names = (boards[0].name, boards[1].name)
    found = []
    for column in (*FIGURES, *extra):
        both = column in known and column in row
        # A metric that one suite did not ask for is no contradiction.
        absent = column in extra and None in (known.get(column), row.get(column))
        if both and not absent and known[column] != row[column]:
            found.append(Disagreement(row, column, names, (text(known[column]), text(row[column]))))
    return found


def _complement(known: dict[str, Any], row: Row, extra: Sequence[str]) -> None:
    flags = {*(known["flags"] or "").split(";"), *(row["flags"] or "").split(";")} - {""}
    known["flags"] = ";".join(sorted(flags)) or None
    for column in ("clean_price", *extra):
        if known.get(column) is None:
            known[column] = row.get(column)
