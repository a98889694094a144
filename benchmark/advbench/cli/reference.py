"""A leaderboard as a few small files that git can keep: NAME.csv and what stands beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from advbench.display.words import plural, size
from advbench.errors import UserError
from advbench.evidence.board import LEADERBOARD, Board, Outcomes, Row
from advbench.evidence.columns import NAMES
from advbench.evidence.leaderboard import in_order, text, to_csv, visible
from advbench.evidence.packed import SUFFIX, pack
from advbench.store.files import write_bytes, write_json, write_text

TOLD = ("advbench", "computed", "cores", "device", "engine", "python", "reused", "seconds", "workers")
"""What is kept of ``run.json``: no host, no user, no path, and no command line, which may hold any of them."""


def write_reference(
    out: Path,
    rows: Sequence[Row],
    extra: Sequence[str],
    outcomes: Callable[[Row], Outcomes | None],
    suite: str | None = None,
    run: Mapping[str, Any] | None = None,
) -> str:
    """Write ``NAME.csv``, and what is known of ``NAME.samples.npz``, ``NAME.suite.yaml`` and ``NAME.run.json``.

    Returns
    -------
    str
        What was written, for people.

    Raises
    ------
    UserError
        If the name will not do, or a file cannot be written.
    """
    if out.suffix != ".csv" or out.name == LEADERBOARD:
        raise UserError(f"--out {out}: a reference is NAME.csv; {LEADERBOARD} is the table of a run folder")
    ordered = in_order(rows)
    packed = pack(ordered, [[text(row.get(name)) for name in (*NAMES, *extra)] for row in ordered], outcomes)
    told = {name: run[name] for name in TOLD if name in run} if run else {}
    if run and isinstance(run.get("platform"), str):
        told["platform"] = run["platform"].split("-")[0]  # what follows is the kernel of the host
    # The table last: whoever finds it finds what belongs to it.
    try:
        _write(out.with_suffix(SUFFIX), packed, write_bytes)
        _write(out.with_suffix(".suite.yaml"), suite, write_text)
        _write(out.with_suffix(".run.json"), told, write_json)
        write_text(out, to_csv(ordered, extra))
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written: {error.strerror}") from None
    words = f"wrote {out}: {plural(len(ordered), 'row')}"
    if packed is None:
        return f"{words}, no outcomes of samples"
    each = size(len(packed) / len(ordered))
    return f"{words}; {out.with_suffix(SUFFIX).name}: {size(len(packed))}, {each} a row"


def tell_gone(boards: Sequence[Board]) -> None:
    """Say in one line which outcomes are missing although a record speaks of them."""
    files = list(dict.fromkeys(file for board in boards for file in board.gone))
    if files:
        more = f" and {plural(len(files) - 1, 'more file')}" if len(files) > 1 else ""
        verb = "are" if more else "is"
        click.echo(
            f"without outcomes: {visible(files[0])}{more} {verb} gone, though a record speaks of it", err=True
        )


def _write(path: Path, value: Any, write: Callable[[Path, Any], object]) -> None:
    """Write a file, or remove the one of an earlier leaderboard of this name."""
    if value:
        write(path, value)
    else:
        path.unlink(missing_ok=True)
