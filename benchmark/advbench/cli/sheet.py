"""Tables as text: for a terminal, as Markdown, CSV, LaTeX; and JSON without what JSON cannot say."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from advbench.errors import UserError
from advbench.evidence.leaderboard import visible
from advbench.store.files import write_text


class Sheet(NamedTuple):
    """A table: headings, rows of cells, and the positions of columns that are numbers."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: frozenset[int] = frozenset()


def plain(sheet: Sheet, styles: Mapping[str, Mapping[str, Any]] | None = None) -> str:
    """Aligned columns; a whole cell that is a key of ``styles`` is coloured."""
    sheet = _shown(sheet)
    widths = [max(map(len, column)) for column in zip(sheet.headings, *sheet.rows)]
    lines = [click.style(_aligned(sheet.headings, widths, sheet.numbers), dim=True)]
    for row in sheet.rows:
        padded = [
            _pad(cell, width, index in sheet.numbers) for index, (cell, width) in enumerate(zip(row, widths))
        ]
        for index, cell in enumerate(row):
            if styles and cell in styles:
                padded[index] = padded[index].replace(cell, click.style(cell, **styles[cell]))
        lines.append("  ".join(padded).rstrip())
    return "".join(f"{line}\n" for line in lines)


def _shown(sheet: Sheet) -> Sheet:
    """The same without control characters: labels may come from a file of somebody else."""
    return sheet._replace(rows=[[visible(cell) for cell in row] for row in sheet.rows])


def _aligned(cells: Sequence[str], widths: Sequence[int], numbers: frozenset[int]) -> str:
    padded = (_pad(cell, width, index in numbers) for index, (cell, width) in enumerate(zip(cells, widths)))
    return "  ".join(padded).rstrip()


def _pad(cell: str, width: int, number: bool) -> str:
    return cell.rjust(width) if number else cell.ljust(width)


def markdown(sheet: Sheet) -> str:
    """A Markdown table."""
    rule = ["---:" if index in sheet.numbers else "---" for index in range(len(sheet.headings))]
    rows = [[unmarked(cell) for cell in row] for row in (sheet.headings, *sheet.rows)]
    return "".join(f"| {' | '.join(row)} |\n" for row in (rows[0], rule, *rows[1:]))


def unmarked(cell: str) -> str:
    """Text that means nothing in Markdown."""
    escaped = visible(cell).replace("&", "&amp;").replace("<", "&lt;").replace("\\", "\\\\")
    for mark in ("|", "*", "_", "`", "~", "]("):
        escaped = escaped.replace(mark, f"\\{mark}")
    return escaped


def comma_separated(sheet: Sheet) -> str:
    """A CSV with a header."""
    buffer = io.StringIO()
    rows = [["\n".join(map(visible, cell.split("\n"))) for cell in row] for row in sheet.rows]
    csv.writer(buffer, lineterminator="\n").writerows([sheet.headings, *rows])
    return buffer.getvalue()


_LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "|": r"\textbar{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "[": "{[}",  # after a line break it would be an argument
    "*": "{*}",
}


def latex(sheet: Sheet) -> str:
    """A ``tabular`` with the rules of booktabs."""
    columns = "".join("r" if index in sheet.numbers else "l" for index in range(len(sheet.headings)))
    rows = [" & ".join(_escaped(cell) for cell in row) + r" \\" for row in (sheet.headings, *sheet.rows)]
    head = [
        "% needs \\usepackage{booktabs}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        rows[0],
        r"\midrule",
    ]
    return "\n".join([*head, *rows[1:], r"\bottomrule", r"\end{tabular}", ""])


def _escaped(cell: str) -> str:
    return "".join(_LATEX.get(character, character) for character in visible(cell))


def as_json(value: Any) -> str:
    """Readable JSON; NaN becomes null and an infinity the text ``"inf"`` or ``"-inf"``."""
    written = json.dumps(_sayable(value), indent=1, ensure_ascii=False)
    return re.sub("[\x7f-\x9f]", lambda found: f"\\u{ord(found[0]):04x}", written) + "\n"


def _sayable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _sayable(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_sayable(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "inf" if value > 0 else "-inf"
    return value


def deliver(text: str, out: Path | None) -> None:
    """Print, or write to a file and say so.

    Raises
    ------
    UserError
        If the file cannot be written.
    """
    if out is None:
        click.echo(text, nl=False)
        return
    try:
        write_text(out, click.unstyle(text))
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written: {error.strerror}") from None
    click.echo(f"wrote {out}")
