"""``advbench rerun``."""

from __future__ import annotations

import glob
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from advbench.cli.main import COMMANDS
from advbench.cli.options import cache_folder, data_folders, plugins_dir
from advbench.cli.run import check_device, find_engine, hear, open_console
from advbench.cli.selection import writable
from advbench.components.loader import Plugins
from advbench.display.base import KINDS, open_display
from advbench.display.words import plural
from advbench.engines.planning import Options
from advbench.engines.session import Session
from advbench.errors import UserError
from advbench.evidence.board import LEADERBOARD, Board, read_board
from advbench.evidence.joining import AXES, Row
from advbench.evidence.leaderboard import visible
from advbench.evidence.repeating import Repeated, repeated
from advbench.suite.findings import near
from advbench.suite.grid import expand
from advbench.suite.reader import read_suite

MOST = 20

EPILOG = """\b
RUN is a run folder, or NAME.csv with its suite beside it in NAME.suite.yaml. Computed on the CPU as the rows
were, every figure must be equal to the last digit. Otherwise a figure agrees if its 95 % interval overlaps.

\b
Examples:
  advbench rerun results/reference/smoke.csv
  advbench rerun results/mnist --row 5810938208d78e74 --data ~/data

\b
Exit codes:
  0  all figures agree      1  some do not      2  a mistake, told in one line      3  interrupted"""


@click.command("rerun", help=COMMANDS["rerun"], epilog=EPILOG)
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--row", "cell_id", metavar="ID", help="Only the row with this cell_id.")
@click.option("--device", help="auto, cpu, cuda or cuda:N  [default: that of the rows]")
@click.option(
    "--out", metavar="DIR", type=click.Path(file_okay=False, path_type=Path), help="Keep the new run here."
)
@cache_folder
@data_folders
@click.option("--download", is_flag=True, help="Allow data sets to fetch missing files.")
@click.option("--display", type=click.Choice(KINDS), default="auto", show_default=True, help="Progress.")
@plugins_dir
def command(
    run: Path,
    cell_id: str | None,
    device: str | None,
    out: Path | None,
    cache: Path | None,
    data: tuple[Path, ...],
    download: bool,
    display: str,
    plugins_dirs: tuple[Path, ...],
) -> int:
    """Recompute in a folder that is thrown away, with an empty cache unless one is named."""
    board = read_board(run)
    rows = _rows(board, cell_id)
    device = device or _device(rows)
    check_device(device)
    if out is not None and (out / LEADERBOARD).exists():
        raise UserError(f"--out {out}: holds a run already; name another folder")
    with tempfile.TemporaryDirectory(prefix="advbench-rerun-") as folder:
        where = Path(folder)
        options = Options(
            store=writable(cache or where / "cache", "--cache"),
            out=writable(out or where / "run", "--out"),
            data_dirs=data,
            plugins_dirs=plugins_dirs,
            only=tuple(pattern for row in rows for pattern in _patterns(board, row)) if cell_id else (),
            download=download,
            device=device,
            engine=find_engine(Plugins.discover(plugins_dirs), None, 1),
            audit=any(row["kind"] == "audit" for row in rows),
        )
        if not _compute(board, options, display):
            return 3
        found = repeated(rows, read_board(options.out), board.extra)
    return _tell(found)


def _rows(board: Board, cell_id: str | None) -> list[Row]:
    if cell_id is None:
        return list(board.rows)
    ids = {row["cell_id"]: row for row in board.rows}
    if cell_id not in ids:
        raise UserError(
            f"--row {cell_id}: {board.path} has no such row{near(cell_id, ids) if len(ids) < 9 else ''}"
        )
    return [ids[cell_id]]


def _device(rows: Sequence[Row]) -> str:
    return "cpu" if {row["device"] for row in rows} <= {"cpu", None} else "auto"


def _patterns(board: Board, row: Row) -> list[Mapping[str, str]]:
    """What selects the cells of a row; labels may hold characters that mean something in a pattern."""
    rows = board.members(row) if row["kind"] == "worst-case" else [row]
    if not rows:
        raise UserError(f"--row {row['cell_id']}: the rows of its members are not in {board.path}")
    return [{axis: glob.escape(str(one[axis])) for axis in AXES} for one in rows]


def _compute(board: Board, options: Options, display: str) -> bool:
    """Run the suite that is kept with the leaderboard; False if that was interrupted."""
    if board.suite is None:
        raise UserError(f"{board.path}: its suite is missing: {board.suite_file}")
    plugins = Plugins.discover(options.plugins_dirs)
    grid = expand(read_suite(board.suite_file, plugins, (), None), plugins)
    with open_display(display, open_console()) as shown:
        session = Session(grid, options, plugins, lambda event: hear(session, shown, event))
        return not session.run(sys.argv).interrupted


def _tell(found: Repeated) -> int:
    """Say what agrees; returns the exit code."""
    for line in found.notes:
        click.echo(visible(line))
    for one in found.differences[:MOST]:
        click.echo(click.style("differs: ", fg="red", bold=True) + visible(one), err=True)
    if len(found.differences) > MOST:
        click.echo(f"… and {plural(len(found.differences) - MOST, 'more figure')}", err=True)
    how = "equal to the last digit" if found.exact else "95 % intervals overlap: other device"
    if found.differences:
        click.echo(
            f"{found.rows - found.agreeing} of {plural(found.rows, 'row')} do not agree ({how} expected)"
        )
        return 1
    verb = "agrees" if found.rows == 1 else "agree"
    click.echo(f"{plural(found.rows, 'row')} {verb}: {how}")
    return 0
