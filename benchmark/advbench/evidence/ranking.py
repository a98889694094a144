"""Rows of the same data set and threat in order, with groups of those that cannot be told apart."""

from __future__ import annotations

import functools
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advbench.evidence.board import Board
from advbench.evidence.bounds import aims, bounds
from advbench.evidence.comparing import LEVEL
from advbench.evidence.curves import norm_made_small
from advbench.evidence.differences import fisher, unpaired_p
from advbench.evidence.exact import holm, mcnemar
from advbench.evidence.joining import AXES, EQUAL, Row
from advbench.evidence.samples import (
    COLUMN,
    DISTANCES,
    compare_samples,
    interval,
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
    i, j = np.triu_indices(len(rows), 1)
    p_values, paired = _p_values(board, rows, i, j, figure, mid_p)
    apart = np.array(holm(p_values)) <= LEVEL
    letters = letter_display(len(rows), zip(i[apart].tolist(), j[apart].tolist()))
    values = [row[COLUMN.get(figure, figure)] for row in rows]
    first: dict[Any, int] = {}
    for place, value in enumerate(values):
        first.setdefault(value, place)
    places = [Place(row, 1 + first[value], found) for row, value, found in zip(rows, values, letters)]
    return Ranking(figure, shared, tuple(places), paired, len(p_values), int(apart.sum()))


def _p_values(
    board: Board, rows: Sequence[Row], i: NDArray[Any], j: NDArray[Any], figure: str, mid_p: bool
) -> tuple[list[float], bool]:
    """P-values of pairs of positions, and whether they are paired. What cannot be tested has 1."""
    outcomes = [board.outcomes(row) for row in rows]
    known = [one for one in outcomes if one is not None]
    if len(known) < len(rows) or any(same_outcomes(known[0], one) for one in known[1:]):
        return _known(_unpaired(rows, figure, i, j)), False
    if figure == "perturbed" and rows[0]["metric"] == "accuracy":
        ahead = _ahead(np.stack([right(one, row) for one, row in zip(known, rows)]))
        return _of_counts(lambda more, less: mcnemar(more, less, mid_p), ahead[i, j], ahead[j, i]), True
    files = [board.file_of(row) for row in rows]
    found = [
        compare_samples(
            figure, (rows[a], rows[b]), (known[a], known[b]), mid_p, len(i), (files[a], files[b])
        ).p
        for a, b in zip(i.tolist(), j.tolist())
    ]
    return _known(found), True


def _unpaired(rows: Sequence[Row], figure: str, i: NDArray[Any], j: NDArray[Any]) -> Sequence[float]:
    """P-values of pairs from the columns alone, as `compare_columns` has them, for all pairs at once."""
    shown = np.array([interval(figure, row) for row in rows])
    if figure == "perturbed" and rows[0]["metric"] == "accuracy" and not np.isnan(shown[:, 0]).any():
        n = rows[0]["n"]
        counts = np.round(shown[:, 0] * n)
        return _of_counts(lambda k, other: fisher(k, n, other, n), counts[i], counts[j])
    return unpaired_p(shown[i], shown[j])


def _of_counts(test: Callable[[int, int], float], first: NDArray[Any], second: NDArray[Any]) -> list[float]:
    """P-values of a test of two counts, computed once where many pairs have the same ones."""
    pairs = list(zip(first.astype(int).tolist(), second.astype(int).tolist()))
    found = {pair: test(*pair) for pair in set(pairs)}
    return [found[pair] for pair in pairs]


def _known(p_values: Sequence[float]) -> list[float]:
    return [1.0 if math.isnan(p) else p for p in p_values]


def _ahead(outcomes: NDArray[np.bool_]) -> NDArray[Any]:
    """How many samples (m, m) the first row alone is right on, from (m, n)."""
    ours = outcomes.astype(np.float64)
    return np.asarray(ours @ (1 - ours).T)


def letter_display(count: int, apart: Iterable[tuple[int, int]]) -> list[str]:
    """A letter for every largest group without a pair that can be told apart; one text for each position.

    By insertion and absorption: a position splits every group that holds it and others that it can be told apart from,
    into one without it and one without those, and what another group holds is dropped. A part is no larger than those
    before it, so it never holds one of them.
    """
    others = [0] * count  # sets of positions as the bits of a number
    for i, j in apart:
        others[i] |= 1 << j
    groups = [(1 << count) - 1]
    for own, away in enumerate(others):
        torn = [group for group in groups if group >> own & 1 and group & away]
        groups = [group for group in groups if not (group >> own & 1 and group & away)]
        parts = [part for group in torn for part in (group & ~(1 << own), group & ~away)]
        for part in sorted(parts, key=int.bit_count, reverse=True):
            if not any(part & group == part for group in groups):
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
