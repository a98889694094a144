"""``advbench report``."""

from __future__ import annotations

from pathlib import Path

import click

from advbench.cli.main import COMMANDS
from advbench.cli.options import no_folder
from advbench.display.words import plural, size
from advbench.errors import UserError
from advbench.report.page import PAGE, write_report


@click.command("report", help=COMMANDS["report"])
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN...")
@click.option(
    "--out",
    metavar="FILE",
    type=click.Path(path_type=Path),
    callback=no_folder,
    help="The page  [default: report.html in the run folder, NAME.html beside NAME.csv, or report.html here if there "
    "are several runs]",
)
def command(runs: tuple[Path, ...], out: Path | None) -> None:
    """Write the page and say how large it is."""
    path = out or place(runs)
    try:
        written = write_report(runs, path)
    except OSError as error:
        raise UserError(f"--out {path}: the page cannot be written: {error.strerror}") from None
    pictures = f", {plural(written.pictures, 'picture')} of {size(written.picture_bytes)}"
    click.echo(
        f"wrote {path}: {size(written.size)}, {plural(written.rows, 'row')}"
        + (pictures if written.pictures else "")
    )


def place(runs: tuple[Path, ...]) -> Path:
    """Where the page goes if nobody says: beside the only run, else here."""
    if len(runs) > 1:
        return Path(PAGE)
    run = runs[0]
    return run / PAGE if run.is_dir() else run.with_suffix(".html")
