"""The CSV of a leaderboard as text: whole, of this schema, with the lines of its rows."""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from advbench.errors import UserError
from advbench.evidence.columns import NAMES
from advbench.evidence.protocol import SCHEMA

LEADERBOARD = "leaderboard.csv"


class Table(NamedTuple):
    """A CSV as text: the cells of each row, and the line of the file at which it ends."""

    file: Path
    header: list[str]
    rows: list[list[str]]
    numbers: list[int]


def read_table(file: Path) -> Table:
    """Read a CSV with the header of a leaderboard of this schema.

    Raises
    ------
    UserError
        If there is no such file, it is no leaderboard, it has another schema, or it is cut off.
    """
    raw = _text(file)
    if not raw.strip():
        raise UserError(f"{file}: not a leaderboard: the file is empty")
    reader = csv.reader(io.StringIO(raw, newline=""))
    rows, numbers = [], []
    try:
        header = next(reader, [])
        if raw and ",".join(NAMES).startswith(raw.rstrip("\r\n")) and len(raw.splitlines()) == 1:
            whole = header == list(NAMES) and raw.endswith("\n")
            raise UserError(f"{file}: {'has no rows' if whole else 'the file is cut off in its header'}")
        _check_header(file, header, reader)
        for cells in reader:
            rows.append(cells)
            numbers.append(reader.line_num)
    except csv.Error as error:
        raise UserError(f"{file}:{reader.line_num}: not a table: {error}") from None
    if not rows:
        raise UserError(f"{file}: has no rows")
    for cells, number in zip(rows, numbers):
        if len(cells) != len(header):
            cut = ": the file is cut off there" if cells is rows[-1] and len(cells) < len(header) else ""
            told = f"{len(cells)} values in this row, {len(header)} columns in the header"
            raise UserError(f"{file}:{number}: {told}{cut}")
    if not raw.endswith("\n"):
        raise UserError(f"{file}:{reader.line_num}: the file is cut off there: its last line has no end")
    return Table(file, header, rows, numbers)


def check_untouched(file: Path, run: Mapping[str, Any]) -> None:
    """Refuse a leaderboard that is not the one whose hash stands in ``run.json``.

    Raises
    ------
    UserError
        If it was edited: not all columns are in the records of its cells, so this may be all that there is to say.
    """
    written = run.get("leaderboard_sha256")
    if written is not None and written != text_hash(file):
        raise UserError(
            f"{file}: edited: not as its run wrote it, whose run.json has its hash: run the suite again"
        )


def text_hash(file: Path) -> str:
    """SHA-256 of a text file whose lines end as on any platform."""
    return hashlib.sha256(file.read_bytes().replace(b"\r\n", b"\n")).hexdigest()


def _text(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        where = f" (a run folder has a {LEADERBOARD})" if file.name == LEADERBOARD else ""
        raise UserError(f"{file}: there is no such file{where}") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{file}: not a leaderboard: it is not UTF-8 text") from None


def _check_header(file: Path, header: Sequence[str], reader: Iterator[list[str]]) -> None:
    """Refuse what is no leaderboard of this schema; the schema stands in the first row, so it is read, too."""
    if "schema" not in header or "cell_id" not in header:
        for separator, name in ((";", "semicolons"), ("\t", "tabs")):
            if ",".join(header).startswith(separator.join(NAMES[:4])):
                raise UserError(f"{file}: its columns are separated by {name}; a leaderboard has commas")
        raise UserError(f"{file}: not a leaderboard: its header lacks the columns schema and cell_id")
    twice = next((name for name, count in Counter(header).items() if count > 1), None)
    if twice is not None:
        raise UserError(f"{file}:1: edited: the column {twice} is there {header.count(twice)} times")
    if tuple(header[: len(NAMES)]) == NAMES:
        return
    first = dict(zip(header, next(reader, [])))
    found = str(first.get("schema") or "")
    if found != str(SCHEMA):
        raise UserError(f"{file}: {other_schema(found)}")
    missing = [name for name in NAMES if name not in header]
    wrong = f"lacks {', '.join(missing[:3])}" if missing else "has its columns in another order"
    raise UserError(f"{file}:1: edited: the header of schema {SCHEMA} {wrong}")


def other_schema(found: str) -> str:
    """What a schema is that is not the one of this advbench, and what to do."""
    newer = found.isdigit() and int(found) > SCHEMA
    remedy = (
        "use the one that wrote it, or a newer one"
        if newer
        else "run its suite again, or use the one that wrote it"
    )
    age = "newer " if newer else "older " if found.isdigit() else ""
    return f"{age}schema {found or 'none'}, this advbench reads schema {SCHEMA}: {remedy}"
