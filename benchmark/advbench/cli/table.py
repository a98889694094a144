"""The leaderboard in a terminal: one block for each defended network, no line longer than the terminal is wide."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from advbench.display.live import STYLES
from advbench.evidence.leaderboard import Row, visible

MOST = 60
"""Rows that are shown; the rest is in the file."""

NARROWEST = 8
"""Characters to which a label is shortened at most."""


class Column(NamedTuple):
    """A column: its heading, its cells, and whether they are numbers or labels that may be shortened."""

    heading: str
    cells: list[str]
    number: bool = False
    elastic: bool = False


def show_table(rows: Sequence[Row], console: Console, rest: str) -> None:
    """Print the rows; ``rest`` says where those are that are not shown."""
    rows = sorted(rows, key=_clean_first)
    shown = rows[:MOST]
    columns = fitted(_columns(shown), console.width - 2)
    widths = [max(len(cell) for cell in (column.heading, *column.cells)) for column in columns]
    blocks = itertools.groupby(enumerate(shown), key=lambda one: _block(one[1]))
    for index, (heading, block) in enumerate(blocks):
        console.print(Text(visible(heading), "bold", overflow="ellipsis", no_wrap=True))
        table = Table(box=None, show_header=index == 0, padding=(0, 2, 0, 0), pad_edge=False)
        for column, width in zip(columns, widths):
            justify = "right" if column.number else "left"
            table.add_column(column.heading, width=width, no_wrap=True, justify=justify, header_style="dim")  # type: ignore[arg-type]
        for position, row in block:
            cells = [Text(visible(column.cells[position]), overflow="ellipsis") for column in columns]
            cells[-1].stylize(STYLES.get(str(row["status"]), ""))
            table.add_row(*cells, style="bold" if row["kind"] == "worst-case" else "")
        indented = Table.grid(padding=0)
        indented.add_row("  ", table)
        console.print(indented)
    console.print(Padding(Text(legend(shown), "dim"), (0, 0, 0, 2)))
    if len(rows) > len(shown):
        console.print(Text(f"  … and {len(rows) - len(shown)} more rows in {rest}", "dim"))


DEFINED = {"sigma_mad": "sigma_mad (1.4826 median|e - median e|)"}
"""Metrics whose name alone is used for more than one thing: some papers have 1.48, some no median."""


def legend(rows: Sequence[Row]) -> str:
    """What the columns are."""
    metrics = sorted({str(row["metric"]) for row in rows if row.get("metric")})
    named = [DEFINED.get(metric, metric) for metric in metrics]
    parts = [f"clean, perturbed: {' or '.join(named)}"] if metrics else []
    parts.append("success: of the attack, where clean is right")
    if any(row["kind"] == "worst-case" for row in rows):
        parts.append("*: worst case per sample")
    return "; ".join(parts)


def _clean_first(row: Row) -> tuple[Any, ...]:
    """Blocks stay as they are; within each the undisturbed row leads."""
    return (*(str(row[name]) for name in ("dataset", "model", "defense")), row["perturbation"] != "none")


def _block(row: Row) -> str:
    trained = f", trained on {row['trained_on']}" if row["trained_on"] != row["dataset"] else ""
    return f"{row['dataset']} / {row['model']} / {row['defense']}{trained}"


def _columns(rows: Sequence[Row]) -> list[Column]:
    """All columns; the seed only where there are several."""
    seeds = [str(row["seed"]) for row in rows]
    metrics = {str(row.get("metric") or "") for row in rows} - {""}
    knowledge = ["" if row["knowledge"] == "none" else str(row["knowledge"]) for row in rows]
    return [
        Column("perturbation", [_perturbation(row) for row in rows], elastic=True),
        Column("knowledge", knowledge),
        *([Column("seed", seeds, number=True)] if len(set(seeds)) > 1 else []),
        *([Column("metric", [str(row.get("metric") or "") for row in rows])] if len(metrics) > 1 else []),
        Column("clean", [number(row, "clean") for row in rows], number=True),
        Column("perturbed [95 %]", [_interval(row) for row in rows], number=True),
        Column("success", [_success(row) for row in rows], number=True),
        Column("status", [str(row["status"]) for row in rows]),
    ]


def _perturbation(row: Row) -> str:
    label = str(row["perturbation"])
    if row["kind"] != "worst-case":
        return label
    strength = row.get("strength")
    return f"* {label} {row.get('norm')}" + (f" {strength:.4g}" if isinstance(strength, float) else "")


def number(row: Row, name: str) -> str:
    """A rate with three decimals, anything else with three digits; nothing where there is nothing."""
    value: Any = row.get(name)
    if not isinstance(value, (int, float)) or math.isnan(value):
        return ""
    return (
        f"{value:.3f}" if row.get("metric") == "accuracy" or name == "attack_success_rate" else f"{value:.3g}"
    )


def _interval(row: Row) -> str:
    low, high = number(row, "perturbed_lo"), number(row, "perturbed_hi")
    return f"{number(row, 'perturbed')} [{low}, {high}]" if low else ""


def _success(row: Row) -> str:
    return "" if row["perturbation"] == "none" else number(row, "attack_success_rate")


def fitted(columns: Sequence[Column], width: int) -> list[Column]:
    """The same columns with labels shortened in the middle until a line has at most ``width`` characters."""
    sizes = [max(len(cell) for cell in (column.heading, *column.cells)) for column in columns]
    while sum(sizes) + 2 * (len(sizes) - 1) > width:
        elastic = [i for i, column in enumerate(columns) if column.elastic and sizes[i] > NARROWEST]
        if not elastic:
            break
        widest = max(elastic, key=lambda i: sizes[i])
        sizes[widest] -= 1
    return [
        column._replace(
            heading=shorten(column.heading, size), cells=[shorten(cell, size) for cell in column.cells]
        )
        for column, size in zip(columns, sizes)
    ]


def shorten(text: str, size: int) -> str:
    """``text`` with at most ``size`` characters; what is taken out of the middle is marked."""
    if len(text) <= size:
        return text
    tail = (size - 1) * 2 // 3  # sweeps tell labels apart at their end
    return f"{text[: size - 1 - tail]}…{text[len(text) - tail :]}"
