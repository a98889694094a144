"""A comparison in sum: means over rows of equal labels, and what is a regression."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from advbench.evidence.comparing import CLEAN, Comparison, Line
from advbench.evidence.joining import kind_of, label
from advbench.evidence.leaderboard import visible
from advbench.evidence.samples import is_rate
from advbench.evidence.statistics import Seeds, over_seeds


@dataclass(frozen=True)
class Group:
    """Lines of equal labels on some axes and of one kind, see `kind_of`: means over rows, then over seeds."""

    labels: dict[str, Any]
    boards: tuple[str, str]
    kind: str
    figure: str
    metric: str
    rows: int
    first: Seeds
    second: Seeds
    difference: Seeds
    verdicts: dict[str, int]


def by_axes(comparison: Comparison, axes: Sequence[str]) -> list[Group]:
    """Means over rows of one kind with equal labels on these axes: for each seed over its rows, then over the seeds.

    Rows of one seed share their samples and seeds are no samples, so there is no interval over both: the deviation is
    that from seed to seed.
    """
    groups: dict[tuple[Any, ...], list[Line]] = defaultdict(list)
    for line in comparison.lines:
        row = line.pair.first
        metric = row["metric"] if line.figure in ("perturbed", "clean") else line.figure
        kind = kind_of(row) if line.figure != CLEAN else CLEAN
        key = (line.boards, line.figure, metric, kind, *(row[axis] for axis in axes))
        groups[key].append(line)
    return [_group(dict(zip(axes, key[4:])), key[2], key[3], lines) for key, lines in groups.items()]


def _group(labels: dict[str, Any], metric: str, kind: str, lines: Sequence[Line]) -> Group:
    seeds: dict[int, list[Line]] = defaultdict(list)
    verdicts: dict[str, int] = defaultdict(int)
    for line in lines:
        seeds[line.pair.first["seed"]].append(line)
        verdicts[line.verdict] += 1

    def mean(of: Any) -> Seeds:
        return over_seeds([math.fsum(map(of, some)) / len(some) for some in seeds.values()])

    return Group(
        labels,
        lines[0].boards,
        kind,
        lines[0].figure,
        metric,
        len(lines),
        mean(lambda line: line.values[0]),
        mean(lambda line: line.values[1]),
        mean(lambda line: line.difference.value),  # values are rounded as a CSV has them
        dict(verdicts),
    )


def regressions(comparison: Comparison, points: float = 0.0) -> list[str]:
    """Why this is a regression, one line each: significantly worse, and by more than ``points`` in the estimate;
    without figures now, or gone; or nothing to compare at all.

    ``points`` are percentage points of a rate and percent of the first value otherwise.
    """
    found = [] if comparison.lines else ["nothing was compared: no figure on both sides"]
    for line in comparison.lines:
        loss = 100 * -line.difference.value * line.gain
        if not is_rate(line.figure, line.pair.first) and math.isfinite(loss):
            loss = loss / abs(line.values[0]) if line.values[0] else math.inf
        if line.verdict == "worse" and loss > points:
            found.append(
                f"{line.label(comparison.free)}: {line.figure} {line.values[0]:.4g} ->"
                f" {line.values[1]:.4g}, p = {line.p_holm:.2g} after Holm's correction"
            )
    for pair in comparison.lost:
        why = f": {visible(pair.second['reason'])}" if pair.second["reason"] else ""
        found.append(f"{label(pair.first, comparison.free)}: {pair.second['status']} now{why}")
    for name, joined in zip(comparison.names[1:], comparison.joined):
        gone = (row for row in joined.removed if row["status"] == "ok")
        found += [f"{label(row, comparison.free)}: not in {name}" for row in gone]
    return found
