"""Rows of the same data set and threat in order, with groups of those that cannot be told apart."""

from __future__ import annotations

import functools
import itertools
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advbench.evidence.board import Board
from advbench.evidence.bounds import aims, bounds
from advbench.evidence.comparing import LEVEL
from advbench.evidence.curves import norm_made_small
from advbench.evidence.differences import fisher
from advbench.evidence.exact import holm, mcnemar
from advbench.evidence.joining import AXES, EQUAL, Row
from advbench.evidence.samples import (
    COLUMN,
    DISTANCES,
    compare_columns,
    compare_samples,
    right,
    same_outcomes,
    smaller_is_better,
)

CONTEST = (*EQUAL, "metric", "n", "kind")
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

    ``figure`` is what they are ordered by, see `rank`; ``shared`` are the labels that all of them have; ``paired`` says
    whether they were compared sample by sample; ``pairs`` are how many pairs were tested and ``apart`` how many of them
    can be told apart.
    """

    figure: str
    shared: dict[str, Any]
    places: tuple[Place, ...]
    paired: bool
    pairs: int
    apart: int


RANKED = ("perturbed", "eta", "l2_median", "linf_median", "detector_auroc")
"""Figures that rows can be ranked by."""


def rank(
    board: Board, axes: Sequence[str] = ("model", "defense"), mid_p: bool = False, figure: str = ""
) -> list[Ranking]:
    """Rankings of rows that differ in nothing but these axes; rows without rival, or without figure, are left out.

    Every pair of a ranking is tested as by `advbench compare`, and Holm's correction is over its pairs. Letters are a
    compact letter display (Piepho 2004, https://doi.org/10.1198/1061860043515).

    ``figure`` is one of `RANKED`, for each row that of `usual_figure` if it is empty.
    """
    fixed = [axis for axis in AXES if axis not in axes]
    contests: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in board.rows:
        used = figure or usual_figure(row)
        if row["status"] == "ok" and _has(used, row):
            key = (used, *(row[name] for name in (*fixed, *CONTEST)), _threat(board, row, fixed))
            contests[key].append(row)
    rankings = []
    for key, rows in contests.items():
        if len(rows) > 1:
            shared = {
                name: rows[0][name]
                for name in (*fixed, "norm", "strength", "strength_unit", "metric", "n", "kind")
            }
            used = key[0]
            ordered = sorted(rows, key=functools.partial(_best_first, used))
            rankings.append(_ranked(board, ordered, used, shared, mid_p))
    return rankings


def _threat(board: Board, row: Row, fixed: Sequence[str]) -> str:
    """What of the threat model is no column; after a merge one label may stand for several."""
    if row["kind"] == "worst-case":
        members = board.members(row)
        return json.dumps(aims(members[0])) if members else ""
    return json.dumps(bounds(row) if "perturbation" in fixed else aims(row))


def usual_figure(row: Row) -> str:
    """What rows of its kind are best ranked by.

    An attack without a budget fools whatever it can, so its median distance tells more than what is left; and an attack
    that moves all estimates alike leaves the spread of a regressor as it was, but not its share of outliers.
    """
    median = f"{norm_made_small(row)}_median"
    if median in DISTANCES and row[median] is not None and row["knowledge"] != "none":
        return median
    attacked = row["metric"] != "accuracy" and row["knowledge"] != "none"
    return "eta" if attacked and row["eta_perturbed"] is not None else "perturbed"


def _has(figure: str, row: Row) -> bool:
    """Whether a row takes part: a metric may be empty, then it comes last; without an attack there is no distance."""
    if figure == "perturbed":
        return True
    without = figure in DISTANCES and row["knowledge"] == "none"
    return not without and row.get(COLUMN.get(figure, figure)) is not None


def _best_first(figure: str, row: Row) -> tuple[Any, ...]:
    value = row[COLUMN.get(figure, figure)]
    sign = 1 if smaller_is_better(figure, row) else -1
    return (math.inf if value is None else sign * value, *(str(row[axis]) for axis in AXES), row["cell_id"])


def _ranked(board: Board, rows: Sequence[Row], figure: str, shared: dict[str, Any], mid_p: bool) -> Ranking:
    p_values, paired = _p_values(board, rows, figure, mid_p)
    adjusted = holm(list(p_values.values()))
    apart = {pair for pair, p in zip(p_values, adjusted) if p <= LEVEL}
    letters = letter_display(len(rows), apart)
    values = [row[COLUMN.get(figure, figure)] for row in rows]
    places = [Place(row, 1 + values.index(value), found) for row, value, found in zip(rows, values, letters)]
    return Ranking(figure, shared, tuple(places), paired, len(p_values), len(apart))


def _p_values(
    board: Board, rows: Sequence[Row], figure: str, mid_p: bool
) -> tuple[dict[tuple[int, int], float], bool]:
    """P-values of all pairs of positions, and whether they are paired."""
    pairs = list(itertools.combinations(range(len(rows)), 2))
    outcomes = [board.outcomes(row) for row in rows]
    known = [one for one in outcomes if one is not None]
    if len(known) < len(rows) or any(same_outcomes(known[0], one) for one in known[1:]):
        return _unpaired(rows, figure, pairs), False
    if figure == "perturbed" and rows[0]["metric"] == "accuracy":
        ahead = _ahead(np.stack([right(one, row) for one, row in zip(known, rows)]))
        return {(i, j): mcnemar(int(ahead[i, j]), int(ahead[j, i]), mid_p) for i, j in pairs}, True
    files = [board.file_of(row) for row in rows]
    return {
        (i, j): _known(
            compare_samples(
                figure, (rows[i], rows[j]), (known[i], known[j]), mid_p, len(pairs), (files[i], files[j])
            ).p
        )
        for i, j in pairs
    }, True


def _unpaired(
    rows: Sequence[Row], figure: str, pairs: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], float]:
    """P-values from the columns alone; a test of rates needs no interval of each pair."""
    accuracies = figure == "perturbed" and rows[0]["metric"] == "accuracy"
    if accuracies and all(row["perturbed"] is not None for row in rows):
        counts = [(round(row["perturbed"] * row["n"]), row["n"]) for row in rows]
        return {(i, j): fisher(*counts[i], *counts[j]) for i, j in pairs}
    return {(i, j): _known(compare_columns(figure, (rows[i], rows[j])).p) for i, j in pairs}


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
