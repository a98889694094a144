"""Whole robustness curves for a page: those of the rows that hold one, with their areas and median distances."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advbench.evidence.board import Outcomes, Row
from advbench.evidence.curves import area, breaking, farthest, norm_of_curve, robust_accuracy
from advbench.report.rows import Source

MOST_ROWS = 200
"""Rows whose outcomes are read for their curve, in the order of the page."""

MOST_CORNERS = 60


def curves(sources: Sequence[Source]) -> dict[str, Any]:
    """Curves of robust accuracy, and how many more rows hold one.

    Returns
    -------
    dict
        ``left``, and ``curves``, each ``{row, eps, y, lo, hi, area: [value, low, high], up_to, median}``. ``y[i]``
        holds from ``eps[i]`` to the next; of many corners some are kept, evenly along the curve, the first and the last
        among them. All areas of one data set and norm end at the largest distance that any of their rows found.
    """
    found: dict[tuple[Any, ...], list[tuple[int, float | str, NDArray[np.float64]]]] = defaultdict(list)
    number, count, left = -1, 0, 0
    for source in sources:
        for row in source.board.rows:
            number += 1
            norm = norm_of_curve(row)
            if norm is None:
                continue
            if count == MOST_ROWS:
                left += 1
                continue
            outcomes = source.board.outcomes(row)
            if outcomes is None or norm not in outcomes:
                continue
            count += 1
            budgets = breaking(outcomes, row, norm)
            scene = tuple(row[name] for name in ("dataset", "fingerprint", "protocol", "norm"))
            found[scene].append((number, _median(row, outcomes, budgets, norm), budgets))
    shown = [one for group in found.values() for one in _drawn(group)]
    return {"curves": sorted(shown, key=lambda one: int(one["row"])), "left": left}


def _median(row: Row, outcomes: Outcomes, budgets: NDArray[np.float64], norm: str) -> float | str:
    """The column of the leaderboard where there is one for the norm."""
    value = row.get(f"{norm}_median")
    if value is None:
        some = budgets[outcomes["clean_correct"]]
        value = float(np.median(some)) if len(some) else 0.0
    return _rounded(value) if np.isfinite(value) else "inf"


def _drawn(group: Sequence[tuple[int, float | str, NDArray[np.float64]]]) -> list[dict[str, Any]]:
    up_to = farthest(*(budgets for *_, budgets in group))
    shown = []
    for number, median, budgets in group:
        curve = robust_accuracy(budgets)
        corners = len(curve.eps)
        kept = np.unique(np.linspace(0, corners - 1, min(corners, MOST_CORNERS)).round().astype(int))
        lines = zip(("eps", "y", "lo", "hi"), curve)
        shown.append(
            {
                "row": number,
                **{name: [_rounded(value) for value in values[kept]] for name, values in lines},
                "area": [_rounded(value) for value in area(budgets, up_to)],
                "up_to": _rounded(up_to),
                "median": median,
            }
        )
    return shown


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
