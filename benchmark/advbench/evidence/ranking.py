"""Rows of the same data set and threat in order, with groups of those that cannot be told apart."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advbench.evidence.board import Board
from advbench.evidence.comparing import LEVEL
from advbench.evidence.differences import fisher
from advbench.evidence.exact import holm, mcnemar
from advbench.evidence.joining import AXES, EQUAL, Row
from advbench.evidence.samples import ERRORS, compare_columns, compare_samples, right, same_outcomes

CONTEST = (*(name for name in EQUAL if name not in ("goal", "mask")), "metric", "n", "kind")
"""What rows must share, beside the labels of the axes that do not compete, to be ranked against each other."""


@dataclass(frozen=True)
class Place:
    """One row of a ranking; rows that share a letter cannot be told apart."""

    row: Row
    rank: int
    letters: str


@dataclass(frozen=True)
class Ranking:
    """Rows of one data set and threat, the best first.

    ``shared`` are the labels that all of them have; ``paired`` says whether they were compared sample by sample;
    ``pairs`` are how many pairs were tested and ``apart`` how many of them can be told apart.
    """

    shared: dict[str, Any]
    places: tuple[Place, ...]
    paired: bool
    pairs: int
    apart: int


def rank(board: Board, axes: Sequence[str] = ("model", "defense"), mid_p: bool = False) -> list[Ranking]:
    """Rankings of rows that differ in nothing but these axes; rows without rival are left out.

    Every pair of a ranking is tested, McNemar's test or a paired bootstrap where outcomes are at hand, and Holm's
    correction is over its pairs. Letters are a compact letter display (Piepho 2004,
    https://doi.org/10.1198/1061860043515).
    """
    fixed = [axis for axis in AXES if axis not in axes]
    contests: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in board.rows:
        if row["status"] == "ok":
            contests[tuple(row[name] for name in (*fixed, *CONTEST))].append(row)
    rankings = []
    for rows in contests.values():
        if len(rows) > 1:
            shared = {
                name: rows[0][name]
                for name in (*fixed, "norm", "strength", "strength_unit", "metric", "n", "kind")
            }
            rankings.append(_ranked(board, sorted(rows, key=_best_first), shared, mid_p))
    return rankings


def _best_first(row: Row) -> tuple[Any, ...]:
    value = row["perturbed"]
    sign = 1 if row["metric"] in ERRORS else -1
    return (math.inf if value is None else sign * value, *(str(row[axis]) for axis in AXES), row["cell_id"])


def _ranked(board: Board, rows: Sequence[Row], shared: dict[str, Any], mid_p: bool) -> Ranking:
    p_values, paired = _p_values(board, rows, mid_p)
    adjusted = holm(list(p_values.values()))
    apart = {pair for pair, p in zip(p_values, adjusted) if p <= LEVEL}
    letters = letter_display(len(rows), apart)
    values = [row["perturbed"] for row in rows]
    places = [Place(row, 1 + values.index(row["perturbed"]), found) for row, found in zip(rows, letters)]
    return Ranking(shared, tuple(places), paired, len(p_values), len(apart))


def _p_values(board: Board, rows: Sequence[Row], mid_p: bool) -> tuple[dict[tuple[int, int], float], bool]:
    """P-values of all pairs of positions, and whether they are paired."""
    pairs = list(itertools.combinations(range(len(rows)), 2))
    outcomes = [board.outcomes(row) for row in rows]
    known = [one for one in outcomes if one is not None]
    if len(known) < len(rows) or any(same_outcomes(known[0], one) for one in known[1:]):
        return _unpaired(rows, pairs), False
    if rows[0]["metric"] == "accuracy":
        ahead = _ahead(np.stack([right(one, row) for one, row in zip(known, rows)]))
        return {(i, j): mcnemar(int(ahead[i, j]), int(ahead[j, i]), mid_p) for i, j in pairs}, True
    both = {(i, j): ((rows[i], rows[j]), (known[i], known[j])) for i, j in pairs}
    return {pair: _known(compare_samples("perturbed", *of, mid_p).p) for pair, of in both.items()}, True


def _unpaired(rows: Sequence[Row], pairs: Sequence[tuple[int, int]]) -> dict[tuple[int, int], float]:
    """P-values from the columns alone; a test of rates needs no interval of each pair."""
    if rows[0]["metric"] == "accuracy" and all(row["perturbed"] is not None for row in rows):
        counts = [(round(row["perturbed"] * row["n"]), row["n"]) for row in rows]
        return {(i, j): fisher(*counts[i], *counts[j]) for i, j in pairs}
    return {(i, j): _known(compare_columns("perturbed", (rows[i], rows[j])).p) for i, j in pairs}


def _known(p: float) -> float:
    """A p-value; what cannot be tested cannot be told apart."""
    return 1.0 if math.isnan(p) else p


def _ahead(outcomes: NDArray[np.bool_]) -> NDArray[Any]:
    """How many samples (m, m) the first row alone is right on, from (m, n)."""
    ours = outcomes.astype(np.float64)
    return np.asarray(ours @ (1 - ours).T)


def letter_display(count: int, apart: set[tuple[int, int]]) -> list[str]:
    """A letter for every largest group without a pair that can be told apart; one text for each position.

    By insertion and absorption: each such pair splits every group that holds both, and what another group holds is
    dropped. A part is no larger than those before it, so it never holds one of them.
    """
    groups = [(1 << count) - 1]  # sets of positions as the bits of a number
    for i, j in sorted(apart):
        both = 1 << i | 1 << j
        split = [group & ~(1 << k) for group in groups if group & both == both for k in (i, j)]
        groups = [group for group in groups if group & both != both]
        for part in sorted(split, key=int.bit_count, reverse=True):
            if part not in [part & group for group in groups]:
                groups.append(part)
    ordered = sorted([position for position in range(count) if group >> position & 1] for group in groups)
    return [
        "".join(_letter(k) for k, group in enumerate(ordered) if position in group)
        for position in range(count)
    ]


def _letter(index: int) -> str:
    """a ... z, then a2 ... z2 and so on."""
    turn, place = divmod(index, 26)
    return "abcdefghijklmnopqrstuvwxyz"[place] + (str(turn + 1) if turn else "")
