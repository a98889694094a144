"""What a run says at its end: the table, the counts, why rows have no result, and what was written."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

from rich.console import Console
from rich.text import Text

from advbench.cli.table import show_table
from advbench.display.live import STYLES
from advbench.display.words import duration, plural
from advbench.engines.session import Result
from advbench.evidence.flags import FLAGS
from advbench.evidence.leaderboard import Row

WRITTEN = (
    "report.html",
    "suite.yaml",
    "run.json",
    "ledger.jsonl",
    "cells",
    "inputs",
    "figures",
)
"""What a run may write beside the leaderboard, in the order in which it is named."""

DATA = "data: "
"""How the reason of a row begins whose data set cannot be read."""


def show_result(result: Result, out: Path, seconds: float, console: Console) -> None:
    """Print the end of a run."""
    if result.interrupted:
        _interrupted(result, console)
        return
    show_table(result.rows, console, str(result.leaderboard))
    console.print()
    _data_errors(result.rows, console)
    _reasons(result.rows, console)
    _flags(result.rows, console)
    for problem in result.problems:
        console.print(Text(f"warning: {problem}", "yellow"))
    _counts(result, seconds, console)
    console.print(Text.assemble("wrote ", (str(result.leaderboard), "bold")), soft_wrap=True)
    others = [f"{name}/" if (out / name).is_dir() else name for name in WRITTEN if (out / name).exists()]
    console.print(Text(f"beside it: {', '.join(others)}", "dim"), soft_wrap=True)


def kept_cells(result: Result) -> tuple[int, int]:
    """Cells of the plan that have a record, and cells that can have one."""
    possible = {one.cell_id for one in result.plan.cells if not one.cell.skip}
    kept = {row["cell_id"] for row in result.rows if row["status"] != "skipped"} & possible
    return len(kept), len(possible)


def _interrupted(result: Result, console: Console) -> None:
    kept, possible = kept_cells(result)
    words = f"interrupted: {kept} of {plural(possible, 'cell')} are kept; run the same command again to go on"
    console.print(Text(words, "bold yellow"))


def _data_errors(rows: list[Row], console: Console) -> None:
    """A data set that cannot be read fails all its rows; its message comes first, once."""
    lost: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        if str(row["reason"]).startswith(DATA):
            lost[str(row["reason"]).removeprefix(DATA)].add(str(row["dataset"]))
    for message, labels in lost.items():
        head = Text(f"data set {', '.join(sorted(labels))} cannot be used: ", "bold red")
        console.print(head.append(message, "red"), soft_wrap=True)


def _reasons(rows: list[Row], console: Console) -> None:
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in rows:
        if row["status"] != "ok" and row["kind"] != "worst-case" and not str(row["reason"]).startswith(DATA):
            label = " / ".join(str(row[name]) for name in ("dataset", "model", "defense", "perturbation"))
            groups[str(row["status"]), str(row["reason"])].append(label)
    for (status, reason), labels in sorted(groups.items()):
        line = Text(f"{len(labels)} {status}", STYLES.get(status, "")).append(f": {reason}", "default")
        more = f" and {len(labels) - 1} more" if len(labels) > 1 else ""
        console.print(line, soft_wrap=True)
        console.print(Text(f"    {labels[0]}{more}", "dim"), soft_wrap=True)
    needy = sum(row["status"] != "ok" for row in rows if row["kind"] == "worst-case")
    if needy:
        verb = "needs" if needy == 1 else "need"
        console.print(Text(f"{plural(needy, 'worst-case row')} {verb} cells that have no result", "dim"))


def _flags(rows: list[Row], console: Console) -> None:
    """Every flag that occurred, how often, and what it says."""
    count = Counter(flag for row in rows for flag in str(row.get("flags") or "").split(";") if flag)
    for flag, times in sorted(count.items()):
        style = "cyan" if flag.startswith("info-") else "bold yellow"
        line = Text(f"{flag} ({plural(times, 'row')})", style)
        console.print(line.append(f": {FLAGS[flag]}", "default"), soft_wrap=True)
    defended = any(row["defense_id"] != "none" and row["knowledge"] == "adaptive" for row in rows)
    if defended and not any(row["kind"] == "audit" for row in rows):
        console.print(Text("not audited: --audit adds the cells that most flags need", "dim"))


def _counts(result: Result, seconds: float, console: Console) -> None:
    records = [one.record for one in result.plan.cells if one.record is not None]
    reused = sum(not record.reason.startswith(DATA) for record in records)
    states = Text(", ").join(
        Text(f"{count} {status}", STYLES.get(status, "")) for status, count in sorted(result.counts.items())
    )
    line = Text(f"{plural(len(result.rows), 'row')}: ").append_text(states)
    line.append(f"; {result.computed} computed, {reused} reused, in {duration(seconds)}")
    console.print(line)
