"""The tables of results/README.md: how each reference was made, and published figures beside ours."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from advbench.display.words import duration, size
from advbench.evidence.board import Board, Row, read_board
from advbench.evidence.packed import SUFFIX

RESULTS = Path(__file__).parents[2] / "results"
README = RESULTS / "README.md"
REFERENCE = RESULTS / "reference"

LABELS = ("dataset", "model", "defense", "perturbation", "knowledge")
MADE, PUBLISHED = "how each file was made", "published figures"

How = Mapping[str, tuple[str, str]]
"""By the name of a suite: the command that runs it, and why it is left out, empty if it is not."""


def references(folder: Path = REFERENCE) -> list[Path]:
    """The leaderboards that are kept; other tables in the folder have no suite beside them."""
    return sorted(
        path.with_name(path.name.replace(".suite.yaml", ".csv")) for path in folder.glob("*.suite.yaml")
    )


# --- how each file was made ---------------------------------------------------------------------------------------


def made(how: How, folder: Path = REFERENCE) -> str:
    """One line for each suite."""
    lines = [
        "| suite | command | rows | samples | outcomes | computed with |",
        "|---|---|---:|---:|---:|---|",
    ]
    for name, (command, left_out) in how.items():
        path = folder / f"{name}.csv"
        link = f"[`{name}`]({path.parent.name}/{path.name})" if path.is_file() else f"`{name}`"
        cells = _of(read_board(path)) if path.is_file() else ["", "", "", left_out or "not made yet"]
        lines.append(f"| {' | '.join([link, f'`{command}`', *cells])} |")
    return "\n".join(lines)


def _of(board: Board) -> list[str]:
    run, file = board.run, board.path.with_suffix(SUFFIX)
    ok = [row for row in board.rows if row["status"] == "ok"]
    counts = sorted({row["n"] for row in ok})
    each = file.stat().st_size / max(1, len(ok)) if file.is_file() else 0
    facts = [
        " or ".join(sorted({f"{name} {row[f'{name}_version']}" for row in ok}))
        for name in ("advbench", "torch")
    ]
    if "python" in run:
        facts.append(f"Python {run['python']}")
    devices = sorted({str(row["device"]) for row in ok})
    facts.append(f"{run['cores']} cores" if devices == ["cpu"] and "cores" in run else " or ".join(devices))
    if "seconds" in run and not run.get("reused"):
        facts.append(duration(run["seconds"]))
    skipped = len(board.rows) - len(ok)
    rows = f"{len(board.rows)}, {skipped} skipped" if skipped else str(len(board.rows))
    return [rows, " or ".join(map(str, counts)), f"{size(each)} a row", ", ".join(facts)]


# --- published figures --------------------------------------------------------------------------------------------


class Line(NamedTuple):
    """One published figure: the row that it belongs to, its column there, and where it stands."""

    suite: str
    dataset: str
    model: str
    defense: str
    perturbation: str
    knowledge: str
    column: str
    published: str
    source: str
    tag: str
    differs: str


def published_lines(file: Path = REFERENCE / "published.csv") -> list[Line]:
    """Lines of the table of published figures."""
    with file.open(newline="", encoding="utf-8") as handle:
        reader = csv.DictReader(handle)
        assert tuple(reader.fieldnames or ()) == Line._fields
        return [Line(**row) for row in reader]


def ours(line: Line, how: How, folder: Path = REFERENCE) -> str:
    """The figure of the reference with its interval, or why there is none.

    Raises
    ------
    LookupError
        If the reference is there, but not with one row of these labels and that column.
    """
    path = folder / f"{line.suite}.csv"
    if not path.is_file():
        return f"none: {how[line.suite][1] or 'not made yet'}"
    found = [row for row in read_board(path).rows if all(row[name] == getattr(line, name) for name in LABELS)]
    if len(found) != 1 or line.column not in found[0]:
        raise LookupError(f"{path}: {len(found)} rows of {line}")
    return _figure(found[0], line.column)


def _figure(row: Row, column: str) -> str:
    if row["status"] != "ok":
        return f"none: {row['status']}, {row['reason']}"
    if row[column] is None:
        return "none: the row has no such figure"
    ends = [row.get(f"{column}{end}") for end in ("_lo", "_hi")]
    interval = "" if None in ends else f" [{ends[0]:.4g}, {ends[1]:.4g}]"
    return f"{row[column]:.4g}{interval}, n = {row['n']}"


def published(lines: Sequence[Line], how: How, folder: Path = REFERENCE) -> str:
    """One line for each published figure."""
    table = [
        "| row | column | published | ours | source | what differs with us |",
        "|---|---|---:|---|---|---|",
    ]
    for line in lines:
        labels = [
            line.dataset,
            line.model,
            *([line.defense] if line.defense != "none" else []),
            line.perturbation,
        ]
        row = f"`{line.suite}`: {' / '.join(labels)}"
        cells = (
            row,
            f"`{line.column}`",
            line.published,
            ours(line, how, folder),
            f"{line.source} [{line.tag}]",
        )
        table.append(f"| {' | '.join([*cells, line.differs])} |")
    return "\n".join(table)


# --- the page -----------------------------------------------------------------------------------------------------


def page(text: str, how: How, folder: Path = REFERENCE) -> str:
    """The text of results/README.md with its tables as they should be."""
    found = {
        MADE: made(how, folder),
        PUBLISHED: published(published_lines(folder / "published.csv"), how, folder),
    }
    for name, table in found.items():
        begin, end = f"<!-- begin: {name} -->\n", f"<!-- end: {name} -->"
        before, after = text.split(begin)
        text = f"{before}{begin}{table}\n{end}{after.split(end, 1)[1]}"
    return text


def write(how: How) -> None:
    """Write the tables into results/README.md."""
    README.write_text(page(README.read_text(encoding="utf-8"), how), encoding="utf-8")
