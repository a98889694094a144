"""Two leaderboards against each other: every difference with its interval, its p-value and a verdict."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from advbench.errors import UserError
from advbench.evidence.board import Board, Outcomes, Row
from advbench.evidence.curves import compare_areas, norm_of_curve
from advbench.evidence.differences import IDENTICAL, Difference
from advbench.evidence.exact import holm
from advbench.evidence.joining import Joined, Pair, join, label, network_label
from advbench.evidence.samples import (
    AREA,
    COLUMN,
    compare_columns,
    compare_samples,
    interval,
    is_rate,
    same_outcomes,
    says_nothing,
    smaller_is_better,
)

LEVEL = 0.05

CLEAN = "clean"
NETWORK = (
    "dataset", "dataset_params", "trained_on", "adapted_to", "model", "model_params", "defense", "defense_params",
    "seed", "weights", "metric",
)  # fmt: skip
"""What rows of one network have in common: their figure of unperturbed inputs is the same one."""

VERDICTS = {
    "same": "the outcome of every sample is the same",
    "better": "significantly better than the first, after Holm's correction for all lines",
    "worse": "significantly worse than the first, after Holm's correction for all lines",
    "equivalent": "the interval of the difference lies within the margin on both sides",
    "no worse": "the interval of the difference excludes a loss of more than the margin",
    "open": "none of these: too few samples to tell",
}
"""What is said of a pair of rows, most telling first."""


@dataclass(frozen=True)
class Line:
    """One figure of one pair of rows.

    Of the figure ``clean`` there is one for each network, not one for each perturbation. ``difference`` is that of the
    second row from the first; ``gain`` is its sign if larger is better, else the opposite one; ``margin`` is in the
    units of the figure; ``p_holm`` is adjusted for all lines of the comparison.
    """

    pair: Pair
    boards: tuple[str, str]
    figure: str
    values: tuple[float, float]
    difference: Difference
    margin: float
    p_holm: float = math.nan

    def label(self, free: str = "") -> str:
        """What it is about; the figure of unperturbed inputs is that of a network under whatever perturbation."""
        return (network_label if self.figure == CLEAN else label)(self.pair.first, free)

    @property
    def gain(self) -> int:
        """1 where larger is better, -1 where smaller is."""
        return -1 if smaller_is_better(self.figure, self.pair.first) else 1

    @property
    def significant(self) -> bool:
        """Whether the difference is significant after the correction."""
        return self.p_holm <= LEVEL

    @property
    def verdict(self) -> str:
        """One of `VERDICTS`."""
        found = self.difference
        if found.test == "identical":
            return "same"
        if self.significant:
            return "better" if found.value * self.gain > 0 else "worse"
        if math.isnan(found.low) or math.isnan(found.high) or not math.isfinite(self.margin):
            return "open"
        loss, won = sorted((found.low * self.gain, found.high * self.gain))
        if loss <= -self.margin:
            return "open"
        return "equivalent" if won < self.margin else "no worse"


@dataclass(frozen=True)
class Comparison:
    """All of it: lines, what could not be compared, and what the leaderboards do not share.

    ``gone`` are files with outcomes that are not there although their records speak of them.
    """

    names: tuple[str, ...]
    lines: tuple[Line, ...]
    joined: tuple[Joined, ...]
    free: str = ""
    gone: tuple[str, ...] = ()

    @property
    def paired(self) -> bool:
        """Whether every line is of the same samples, one by one."""
        return not any(line.difference.test.endswith("unpaired") for line in self.lines)

    @property
    def lost(self) -> list[Pair]:
        """Pairs of which only the first has figures."""
        pairs = (pair for joined in self.joined for pair in joined.pairs)
        return [pair for pair in pairs if pair.first["status"] == "ok" and not pair.ok]


def compare_boards(
    boards: Sequence[Board],
    figures: Sequence[str] = ("perturbed",),
    margin: float = 1.0,
    mid_p: bool = False,
    free: str = "",
    up_to: float | None = None,
) -> Comparison:
    """Compare every further leaderboard with the first.

    Parameters
    ----------
    boards
        At least two.
    figures
        Names out of `samples.FIGURES`, or `samples.AREA`.
    margin
        What is not worth mentioning: in percentage points of a rate, in percent of the first value otherwise.
    mid_p
        Take McNemar's mid-p in place of the exact test.
    free
        An axis by whose labels the leaderboards differ.
    up_to
        Where areas end, as a distance; for each pair at the largest distance of either unless given.

    Raises
    ------
    UserError
        If they may not be compared.
    """
    base, lines = boards[0], []
    joined = [join(base, board, free) for board in boards[1:]]
    family = len(figures) * sum(pair.ok for found in joined for pair in found.pairs)
    for board, found in zip(boards[1:], joined):
        pairs = [pair for pair in found.pairs if pair.ok]
        networks = _networks(pairs, base, board) if CLEAN in figures else set()
        for pair in pairs:
            asked = [name for name in figures if name != CLEAN or id(pair) in networks]
            lines += _lines(pair, base, board, asked, margin, mid_p, up_to, family)
    gone = tuple(dict.fromkeys(file for board in boards for file in board.gone))
    return Comparison(
        tuple(board.name for board in boards), tuple(_adjusted(lines)), tuple(joined), free, gone
    )


def _networks(pairs: Sequence[Pair], base: Board, board: Board) -> set[int]:
    """Ids of one pair of rows for each pair of networks: with outcomes and without perturbation if there is one."""
    groups: dict[tuple[Any, ...], list[Pair]] = defaultdict(list)
    for pair in pairs:
        groups[tuple(row[name] for row in (pair.first, pair.second) for name in NETWORK)].append(pair)

    def least(pair: Pair) -> tuple[bool, bool]:
        without = None in (base.digest(pair.first), board.digest(pair.second))
        return without, pair.first["perturbation"] != "none"

    return {id(min(group, key=least)) for group in groups.values()}


def _lines(
    pair: Pair,
    base: Board,
    board: Board,
    figures: Sequence[str],
    margin: float,
    mid_p: bool,
    up_to: float | None,
    family: int,
) -> list[Line]:
    rows = (pair.first, pair.second)
    shown = [
        name for name in figures if all(_has(name, row) for row in rows) and not says_nothing(name, rows)
    ]
    if not shown:
        return []
    digests = base.digest(rows[0]), board.digest(rows[1])
    identical = digests[0] is not None and digests[0] == digests[1]
    outcomes = None
    if None not in digests and (not identical or AREA in shown):
        outcomes = _same_samples(pair, base, board)
    found = []
    files = base.file_of(rows[0]), board.file_of(rows[1])
    for name in shown:
        if name == AREA and outcomes is None:
            continue
        values, difference = _compared(name, rows, outcomes, identical, mid_p, up_to, family, files)
        room = margin / 100 if is_rate(name, rows[0]) else margin / 100 * abs(values[0])
        found.append(Line(pair, (base.name, board.name), name, values, difference, room))
    return found


def _has(name: str, row: Row) -> bool:
    return norm_of_curve(row) is not None if name == AREA else row.get(COLUMN.get(name, name)) is not None


def _same_samples(pair: Pair, base: Board, board: Board) -> tuple[Outcomes, Outcomes] | None:
    """Outcomes of both rows, None if one has none."""
    first, second = base.outcomes(pair.first), board.outcomes(pair.second)
    if first is None or second is None:
        return None
    other = same_outcomes(first, second)
    if other:
        where = f"{base.name} and {board.name}"
        raise UserError(f"not comparable: {label(pair.first)}: other samples in {where}: {other}")
    return first, second


def _compared(
    name: str,
    rows: tuple[Row, Row],
    outcomes: tuple[Outcomes, Outcomes] | None,
    identical: bool,
    mid_p: bool,
    up_to: float | None,
    family: int,
    files: tuple[str, str],
) -> tuple[tuple[float, float], Difference]:
    """A figure of both rows, and its difference."""
    if name == AREA and outcomes is not None:
        return compare_areas(rows, outcomes, up_to)  # which finds out by itself that all are equal
    values = (interval(name, rows[0]).value, interval(name, rows[1]).value)
    if identical:
        return values, IDENTICAL
    if outcomes is None:
        return values, compare_columns(name, rows)
    return values, compare_samples(name, rows, outcomes, mid_p, family, files)


def _adjusted(lines: Sequence[Line]) -> list[Line]:
    """Holm's correction over all lines that have a p-value."""
    tested = [line for line in lines if not math.isnan(line.difference.p)]
    adjusted = dict(zip(map(id, tested), holm([line.difference.p for line in tested])))
    return [replace(line, p_holm=adjusted.get(id(line), math.nan)) for line in lines]
