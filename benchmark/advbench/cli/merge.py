"""``advbench merge``."""

from __future__ import annotations

from pathlib import Path

import click

from advbench.cli.main import COMMANDS
from advbench.cli.reference import tell_gone, write_reference
from advbench.display.words import plural
from advbench.errors import UserError
from advbench.evidence.board import LEADERBOARD, read_board
from advbench.evidence.leaderboard import to_csv, visible
from advbench.evidence.merging import Merged, merge
from advbench.store.files import write_bytes, write_text

MOST = 20

EPILOG = """\b
OUT is a run folder, or NAME.csv with the outcomes of samples in NAME.samples.npz beside it.

\b
Examples:
  advbench merge results/shard-1 results/shard-2 --out results/all
  advbench merge one.csv other.csv --out both.csv

\b
Exit codes:
  0  merged      1  the same cell has different figures; nothing is written without --keep-first
  2  a mistake, told in one line"""


@click.command("merge", help=COMMANDS["merge"], epilog=EPILOG)
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@click.option("--out", required=True, metavar="OUT", type=click.Path(path_type=Path), help="What to write.")
@click.option(
    "--keep-first", is_flag=True, help="Write although figures differ: those of the run named first."
)
def command(runs: tuple[Path, ...], out: Path, keep_first: bool) -> int:
    """Write one row for each cell."""
    if out.exists() and (out.is_file() or any(out.iterdir())):
        raise UserError(f"--out {out}: exists already; name another one")
    boards = [read_board(path) for path in runs]
    packed = next((board.path for board in boards if board.packed is not None), None)
    if packed is not None and out.suffix != ".csv":
        raise UserError(f"--out {out}: a run folder keeps more of each sample than {packed} has; name a .csv")
    merged = merge(boards)
    for one in merged.disagreements[:MOST]:
        click.echo(click.style("disagreement: ", fg="red", bold=True) + visible(str(one)), err=True)
    more = len(merged.disagreements) - MOST
    if more > 0:
        click.echo(f"… and {plural(more, 'more figure')}", err=True)
    if merged.disagreements and not keep_first:
        click.echo("nothing is written; --keep-first writes the figures of the run named first", err=True)
        return 1
    try:
        _write(merged, out)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written: {error.strerror}") from None
    told = [
        f"{plural(len(merged.rows), 'row')} of {plural(len(runs), 'run')}",
        f"{merged.repeated} in several",
    ]
    if merged.completed:
        told.append(f"{merged.completed} that had no figures at first")
    click.echo(f"wrote {out}: {', '.join(told)}")
    tell_gone(boards)
    return 0


def _write(merged: Merged, out: Path) -> None:
    suites = {board.suite for board in merged.sources} - {None}
    suite = suites.pop() if len(suites) == 1 else None
    if out.suffix == ".csv":
        sources = {id(row): board for row, board in zip(merged.rows, merged.sources)}
        write_reference(out, merged.rows, merged.extra, lambda row: sources[id(row)].outcomes(row), suite)
        return
    for row, board in zip(merged.rows, merged.sources):
        if board.folder is None:
            continue
        record = board.folder / "cells" / f"{row['cell_id']}.json"
        if record.is_file():
            write_bytes(out / "cells" / record.name, record.read_bytes())
        outcomes = board.stored(row)
        if outcomes is not None:
            write_bytes(out / "cells" / f"{row['cell_id']}.npz", outcomes)
    if suite is not None:
        write_text(out / "suite.yaml", suite)
    write_text(out / LEADERBOARD, to_csv(merged.rows, merged.extra))
