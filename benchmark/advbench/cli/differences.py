"""A comparison as tables, as remarks and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from advbench.cli.sheet import Sheet, plain
from advbench.display.words import plural
from advbench.evidence.comparing import CLEAN, VERDICTS, Comparison, Line
from advbench.evidence.joining import AXES, label
from advbench.evidence.leaderboard import visible
from advbench.evidence.statistics import Seeds
from advbench.evidence.summing import Group

MOST = 60
"""Lines that a terminal gets; the other formats have all."""

FEW = 20
"""Rows of one leaderboard alone that are named."""

STYLES = {"worse": {"fg": "red", "bold": True}, "better": {"fg": "green", "bold": True}}
TELLING = ("worse", "better", "open", "no worse", "equivalent", "same")

# --- for people ---------------------------------------------------------------------------------------------------


def report(comparison: Comparison, groups: Sequence[Group], axes: Sequence[str], margin: float) -> str:
    """The table for a terminal: means of groups if there are axes, else lines; and what else there is to say."""
    parts = [plain(group_sheet(groups, axes) if axes else line_sheet(comparison, most=MOST), STYLES)]
    more = len(comparison.lines) - MOST
    if more > 0 and not axes:
        parts.append(f"… and {plural(more, 'more line')}: --format csv has all\n")
    return "".join([*parts, "\n", *(f"{line}\n" for line in remarks(comparison, margin))])


def remarks(comparison: Comparison, margin: float) -> list[str]:
    """What there is to say beside the table."""
    counts = Counter(line.verdict for line in comparison.lines)
    said = (
        ", ".join(f"{counts[name]} {name}" for name in VERDICTS if counts[name])
        or "nothing with figures on both sides"
    )
    lines = [f"{plural(len(comparison.lines), 'line')}: {said} (margin {margin:g})"]
    tests = sorted({line.difference.test for line in comparison.lines} - {"identical"})
    if tests:
        lines.append(
            f"tests: {'; '.join(tests)}; p after Holm's correction for all lines; intervals 95 %, one by one"
        )
    if not comparison.paired:
        lines.append("unpaired: outcomes of samples are missing, so intervals are wider than they need to be")
    lines += [f"gone: {visible(file)}, though its record speaks of it" for file in comparison.gone[:FEW]]
    lines += [f"gone: … and {plural(len(comparison.gone) - FEW, 'more file')}"] * (len(comparison.gone) > FEW)
    for name, joined in zip(comparison.names[1:], comparison.joined):
        for where, rows in ((comparison.names[0], joined.removed), (name, joined.added)):
            lines += [f"only in {where}: {label(row, comparison.free)}" for row in rows[:FEW]]
            lines += [f"only in {where}: … and {plural(len(rows) - FEW, 'more row')}"] * (len(rows) > FEW)
        changes = Counter(change for pair in joined.pairs for change in pair.changed)
        lines += [
            f"changed: {column}: {first} -> {second} ({plural(count, 'row')})"
            for (column, first, second), count in changes.items()
        ]
        lost = [
            pair
            for pair in joined.pairs
            if not pair.ok and "ok" in (pair.first["status"], pair.second["status"])
        ]
        lines += [
            f"status: {label(pair.first, comparison.free)}: {pair.first['status']} -> {pair.second['status']}"
            for pair in lost
        ]
    return lines


def line_sheet(comparison: Comparison, most: int | None = None, exact: bool = False) -> Sheet:
    """One row for each line; cut off, the telling ones come first. ``exact`` is for files: one value for each cell."""
    lines = list(comparison.lines)
    if most is not None and len(lines) > most:
        lines = sorted(lines, key=lambda line: TELLING.index(line.verdict))[:most]
    if exact:
        records = [_plain_record(line, comparison.free) for line in lines]
        names = list(_NAMES)
        cells = [[_value(record[name]) for name in names] for record in records]
        return Sheet(names, cells, frozenset(range(names.index("first"), names.index("test"))))
    several = len(comparison.names) > 2
    figures = len({line.figure for line in lines}) > 1
    heads = [*(["run"] if several else []), "row", *(["figure"] if figures else [])]
    rows = [
        [
            *([line.boards[1]] if several else []),
            line.label(comparison.free),
            *([line.figure] if figures else []),
            *_numbers(line),
            line.verdict,
        ]
        for line in lines
    ]
    at = len(heads)
    return Sheet(
        [*heads, "first", "second", "difference [95 %]", "p", "verdict"], rows, frozenset(range(at, at + 4))
    )


def _numbers(line: Line) -> list[str]:
    found = line.difference
    ends = f" [{found.low:+.3g}, {found.high:+.3g}]" if found.low == found.low else ""
    p = f"{line.p_holm:.2g}" if line.p_holm == line.p_holm else ""
    return [*(f"{value:.4g}" for value in line.values), f"{found.value:+.3g}{ends}", p]


_NAMES = (
    "first_run", "second_run", *AXES, "kind", "norm", "strength", "figure", "metric", "n", "first", "second",
    "difference", "difference_lo", "difference_hi", "p", "p_holm", "test", "verdict",
)  # fmt: skip


def _plain_record(line: Line, free: str) -> dict[str, Any]:
    row, found = line.pair.first, line.difference
    identity = {name: row[name] for name in (*AXES, "kind", "norm", "strength", "metric", "n")}
    if line.figure == CLEAN:  # of a network, whatever its rows are under
        identity |= dict.fromkeys(("perturbation", "knowledge", "kind", "norm", "strength"))
    if free:
        identity[free] = f"{row[free]} -> {line.pair.second[free]}"
    numbers = {
        "first": line.values[0],
        "second": line.values[1],
        "difference": found.value,
        "difference_lo": found.low,
        "difference_hi": found.high,
        "p": found.p,
        "p_holm": line.p_holm,
    }
    names = {"first_run": line.boards[0], "second_run": line.boards[1], "figure": line.figure}
    return {**names, **identity, **numbers, "test": found.test, "verdict": line.verdict}


def _value(value: Any) -> str:
    if value is None or value != value:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def group_sheet(groups: Sequence[Group], axes: Sequence[str]) -> Sheet:
    """One row for each group: its kind of rows, means over them, mean and deviation over its seeds."""
    rows = [
        [
            group.boards[1],
            *(str(group.labels[axis]) for axis in axes),
            group.kind,
            group.metric,
            str(group.rows),
            str(group.first.n),
            *(_over_seeds(value) for value in (group.first, group.second)),
            _over_seeds(group.difference, "+"),
            ", ".join(f"{count} {name}" for name, count in group.verdicts.items()),
        ]
        for group in groups
    ]
    heads = ["run", *axes, "kind", "metric", "rows", "seeds", "first", "second", "difference", "verdicts"]
    at = len(axes) + 3
    return Sheet(heads, rows, frozenset(range(at, at + 5)))


def _over_seeds(value: Seeds, sign: str = "") -> str:
    deviation = f" ± {_rounded(value.deviation):.2g}" if value.n > 1 else ""
    return f"{_rounded(value.mean):{sign}.4g}{deviation}"


def _rounded(value: float) -> float:
    """Without what is left of sums that cancel."""
    return 0.0 if abs(value) < 1e-12 else value


# --- for programs -------------------------------------------------------------------------------------------------


def document(comparison: Comparison, groups: Sequence[Group], reasons: Sequence[str]) -> dict[str, Any]:
    """The comparison as plain values."""
    runs = []
    for name, joined in zip(comparison.names[1:], comparison.joined):
        changed = Counter(change for pair in joined.pairs for change in pair.changed)
        runs.append(
            {
                "run": name,
                "removed": [label(row, comparison.free) for row in joined.removed],
                "added": [label(row, comparison.free) for row in joined.added],
                "changed": [
                    {"column": column, "first": first, "second": second, "rows": count}
                    for (column, first, second), count in changed.items()
                ],
                "status": [
                    {"row": label(pair.first), "first": pair.first["status"], "second": pair.second["status"]}
                    for pair in joined.pairs
                    if pair.first["status"] != pair.second["status"]
                ],
            }
        )
    return {
        "first": comparison.names[0],
        "paired": comparison.paired,
        "lines": [_plain_record(line, comparison.free) for line in comparison.lines],
        "groups": [
            {
                **group.labels,
                "run": group.boards[1],
                "kind": group.kind,
                "figure": group.figure,
                "metric": group.metric,
                "rows": group.rows,
                **{side: getattr(group, side)._asdict() for side in ("first", "second", "difference")},
                "verdicts": group.verdicts,
            }
            for group in groups
        ],
        "runs": runs,
        "regressions": list(reasons),
    }
