"""``advbench compare``."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import click

from advbench.cli.differences import document, group_sheet, line_sheet, remarks, report
from advbench.cli.main import COMMANDS
from advbench.cli.options import no_folder
from advbench.cli.sheet import as_json, comma_separated, deliver, markdown, unmarked
from advbench.errors import UserError
from advbench.evidence.board import Board, read_board
from advbench.evidence.comparing import VERDICTS, compare_boards
from advbench.evidence.joining import AXES
from advbench.evidence.samples import AREA, FIGURES
from advbench.evidence.summing import by_axes, regressions
from advbench.suite.findings import near

EPILOG = (
    """\b
Examples:
  advbench compare results/before results/after
  advbench compare before.csv after.csv --format markdown --out difference.md
  advbench compare results/before results/after --fail-on regression:2
  advbench compare results/mnist --between defense=none,squeezing
  advbench compare results/a results/b results/c --by model,defense

\b
Verdicts:
"""
    + "\n".join(f"  {name:<12}{words}" for name, words in VERDICTS.items())
    + """

\b
Exit codes:
  0  compared      1  --fail-on found a regression      2  not comparable, or a mistake; told in one line"""
)


def axes_of(ctx: click.Context, option: click.Parameter, value: str | None) -> tuple[str, ...]:
    """The axes that an option names.

    Raises
    ------
    UserError
        If there is no such axis.
    """
    axes = tuple(dict.fromkeys(part.strip() for part in (value or "").split(",") if part.strip()))
    for axis in axes:
        if axis not in AXES:
            raise UserError(f"--by {value}: there is no axis {axis!r}{near(axis, AXES)}")
    return axes


def _between(ctx: click.Context, option: click.Parameter, value: str | None) -> tuple[str, list[str]] | None:
    if value is None:
        return None
    axis, equals, names = value.partition("=")
    labels = [part.strip() for part in re.findall(r"(?:\([^()]*\)|[^,])+", names)]
    if not equals or len(labels) < 2:
        raise UserError(f"--between {value}: not of the form AXIS=FIRST,SECOND[,...]")
    if axis not in AXES or axis == "dataset":
        raise UserError(f"--between {value}: {axis!r} is none of {', '.join(AXES[1:])}")
    twice = next((name for name in labels if labels.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"--between {value}: {twice!r} is there twice; name different labels")
    return axis, labels


def _fail_on(ctx: click.Context, option: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    found = re.fullmatch(r"regression(?::(\d+(?:\.\d+)?))?", value)
    if not found:
        raise UserError(f"--fail-on {value}: not of the form regression or regression:POINTS")
    return float(found[1] or 0)


def finite(ctx: click.Context, option: click.Parameter, value: float | None) -> float | None:
    """A number that an option may have.

    Raises
    ------
    UserError
        If it is infinite or none.
    """
    if value is not None and not math.isfinite(value):
        raise UserError(f"--{str(option.name).replace('_', '-')} {value:g}: not a finite number")
    return value


by = click.option(
    "--by",
    metavar="AXIS[,...]",
    callback=axes_of,
    help="Show means over rows and seeds for each label of these axes: dataset, model, defense, perturbation, "
    "knowledge, seed; apart for clean, corruption, attack and worst-case rows.",
)
mid_p = click.option(
    "--mid-p", is_flag=True, help="McNemar's mid-p in place of the exact test: more powerful."
)
form = click.option(
    "--format",
    "form",
    type=click.Choice(["table", "markdown", "csv", "json"]),
    default="table",
    show_default=True,
    help="How to show it.",
)
out = click.option(
    "--out",
    metavar="FILE",
    type=click.Path(path_type=Path),
    callback=no_folder,
    help="Write here, not to the terminal.",
)


@click.command("compare", help=COMMANDS["compare"], epilog=EPILOG)
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@click.option(
    "--between",
    metavar="AXIS=A,B[,...]",
    callback=_between,
    help="Compare the rows of one run that have these labels on an axis, each with the first.",
)
@click.option(
    "--figure",
    "figures",
    multiple=True,
    type=click.Choice([*FIGURES, AREA]),
    default=("perturbed",),
    show_default=True,
    help="What to compare. Repeatable; every one adds lines to the family.",
)
@click.option(
    "--up-to",
    metavar="EPS",
    type=click.FloatRange(min=0, min_open=True),
    callback=finite,
    help="Where the areas of `--figure area` end  [default: the largest distance that either row found]",
)
@click.option(
    "--margin",
    metavar="POINTS",
    type=click.FloatRange(min=0),
    callback=finite,
    default=1.0,
    show_default=True,
    help="A loss that is not worth mentioning: percentage points of a rate, percent of any other figure.",
)
@mid_p
@by
@click.option(
    "--fail-on",
    metavar="regression[:POINTS]",
    callback=_fail_on,
    help="Exit with 1 if a line is significantly worse, and by more than POINTS in its estimate; if a row lost its "
    "result or is gone; if nothing was compared.",
)
@form
@out
def command(
    runs: tuple[Path, ...],
    between: tuple[str, list[str]] | None,
    figures: tuple[str, ...],
    up_to: float | None,
    margin: float,
    mid_p: bool,
    by: tuple[str, ...],
    fail_on: float | None,
    form: str,
    out: Path | None,
) -> int:
    """Compare every further run with the first."""
    if up_to is not None and AREA not in figures:
        raise UserError("--up-to is where areas end; add --figure area")
    boards = [read_board(path) for path in runs]
    free = between[0] if between else ""
    if between:
        boards = _parts(boards, *between)
    elif len(boards) < 2:
        raise UserError("compare: one run alone; name another one, or use --between AXIS=A,B")
    comparison = compare_boards(boards, tuple(dict.fromkeys(figures)), margin, mid_p, free, up_to)
    groups = by_axes(comparison, by) if by else []
    reasons = regressions(comparison, fail_on) if fail_on is not None else []
    if form == "json":
        deliver(as_json(document(comparison, groups, reasons)), out)
    elif form == "table":
        deliver(report(comparison, groups, by, margin), out)
    elif form == "csv":
        sheet = group_sheet(groups, by) if by else line_sheet(comparison, exact=True)
        deliver(comma_separated(sheet), out)
    else:
        sheet = group_sheet(groups, by) if by else line_sheet(comparison)
        told = "".join(f"- {unmarked(line)}\n" for line in remarks(comparison, margin))
        deliver(f"{markdown(sheet)}\n{told}", out)
    for reason in reasons:
        click.echo(click.style("regression: ", fg="red", bold=True) + reason, err=True)
    return 1 if reasons else 0


def _parts(boards: Sequence[Board], axis: str, labels: Sequence[str]) -> list[Board]:
    if len(boards) > 1:
        raise UserError("--between compares rows of one run; name one run alone")
    known = {str(row[axis]) for row in boards[0].rows}
    for name in labels:
        if name not in known:
            raise UserError(f"--between: {boards[0].name} has no {axis} {name!r}{near(name, known)}")
    return [boards[0].part(axis, name) for name in labels]
