"""``advbench export``."""

from __future__ import annotations

import importlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from advbench.cli.compare import out
from advbench.cli.main import COMMANDS
from advbench.cli.reference import tell_gone, write_reference
from advbench.cli.sheet import Sheet, as_json, deliver, latex, markdown
from advbench.errors import UserError
from advbench.evidence.board import Board, read_board
from advbench.evidence.columns import NAMES
from advbench.evidence.leaderboard import text
from advbench.evidence.sound import NUMBERS, WHOLE
from advbench.store.files import write_bytes
from advbench.suite.findings import near

USUAL = ("dataset", "model", "defense", "perturbation", "knowledge", "seed", "n", "metric", "clean", "perturbed",
         "attack_success_rate", "flags", "status")  # fmt: skip
"""Columns of a table that people read; one that is the same in all rows, or empty, is left out."""

FORMATS = ("markdown", "latex", "json", "parquet", "reference")

EPILOG = """\b
Examples:
  advbench export results/mnist --format markdown
  advbench export results/mnist --format latex --columns model,defense,perturbation,perturbed --out table.tex
  advbench export results/mnist --format parquet --out mnist.parquet
  advbench export results/mnist --format reference --out results/reference/mnist.csv"""


def _columns(ctx: click.Context, option: click.Parameter, value: str | None) -> tuple[str, ...]:
    names = tuple(part.strip() for part in (value or "").split(",") if part.strip())
    if value is not None and not names:
        raise UserError("--columns: names no column; leave it out for all of them")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"--columns: {twice!r} is there twice")
    return names


@click.command("export", help=COMMANDS["export"], epilog=EPILOG)
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--format", "form", type=click.Choice(FORMATS), required=True, help="What to write.")
@click.option(
    "--columns",
    metavar="NAME[,...]",
    callback=_columns,
    help="Columns  [default: all for json and parquet, the usual ones for markdown and latex]",
)
@out
def command(run: Path, form: str, columns: tuple[str, ...], out: Path | None) -> None:
    """Write a leaderboard in another format."""
    board = read_board(run)
    known = (*NAMES, *board.extra)
    for name in columns:
        if name not in known:
            raise UserError(f"--columns: there is no column {name!r}{near(name, known)}")
    if form == "parquet":
        if out is None:
            raise UserError("--format parquet needs --out FILE: it is no text")
        parquet(board, columns or known, out)
        click.echo(f"wrote {out}")
    elif form == "reference":
        if columns:
            raise UserError("--columns: a reference has all of them")
        if out is None:
            raise UserError("--format reference needs --out NAME.csv: it is several files")
        click.echo(write_reference(out, board.rows, board.extra, board.outcomes, board.suite, board.run))
        tell_gone([board])
    elif form == "json":
        deliver(as_json([{name: row[name] for name in columns or known} for row in board.rows]), out)
    else:
        table = sheet(board, columns)
        deliver(latex(table) if form == "latex" else markdown(table), out)


def sheet(board: Board, columns: Sequence[str] = ()) -> Sheet:
    """A table for people; rates with their intervals."""
    names = list(columns) or _telling(board)
    rows = [[_cell(row, name) for name in names] for row in board.rows]
    numbers = frozenset(
        index for index, name in enumerate(names) if name in NUMBERS | WHOLE or name in board.extra
    )
    return Sheet([name.replace("_", " ") for name in names], rows, numbers)


def _telling(board: Board) -> list[str]:
    usual = [*USUAL[:-2], *board.extra, *USUAL[-2:]]
    told = [name for name in usual if len({row[name] for row in board.rows}) > 1]
    always = {"perturbed"} | ({"model"} if len(board.rows) < 2 else set())
    return [name for name in usual if name in told or name in always]


def _cell(row: Any, name: str) -> str:
    value = row[name]
    if f"{name}_lo" not in row or value is None:
        return text(value)
    ends = (row[f"{name}_lo"], row[f"{name}_hi"])
    shown = [f"{one:.3f}" if row["metric"] == "accuracy" else f"{one:.3g}" for one in (value, *ends)]
    return f"{shown[0]} [{shown[1]}, {shown[2]}]"


def parquet(board: Board, columns: Sequence[str], out: Path) -> None:
    """Write columns with their types.

    Raises
    ------
    UserError
        If pyarrow is missing, or the file cannot be written.
    """
    try:
        pyarrow = importlib.import_module("pyarrow")
        writer = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise UserError("--format parquet needs pyarrow: pip install pyarrow") from None
    arrays = {
        name: pyarrow.array([row[name] for row in board.rows], _type(pyarrow, name)) for name in columns
    }
    buffer = io.BytesIO()
    writer.write_table(pyarrow.table(arrays), buffer)
    try:
        write_bytes(out, buffer.getvalue())
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written: {error.strerror}") from None


def _type(pyarrow: Any, name: str) -> Any:
    if name in WHOLE:
        return pyarrow.int64()
    if name in NUMBERS or name not in NAMES:
        return pyarrow.float64()
    return pyarrow.bool_() if name == "targeted" else pyarrow.string()
