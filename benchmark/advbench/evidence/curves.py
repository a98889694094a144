"""Robust accuracy at every budget, from one row of an attack that looks for the smallest perturbation."""

from __future__ import annotations

import json
import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from advbench.evidence.differences import IDENTICAL, Difference, paired_parts
from advbench.evidence.samples import Outcomes, Row, aligned, right
from advbench.evidence.statistics import NOTHING, Interval, wilson

NORMS = ("linf", "l2", "l1", "l0")
"""Norms whose distances are kept of every sample."""


class Curve(NamedTuple):
    """Robust accuracy from each budget to the next one, with the 95 % interval at each; all (m,).

    ``eps`` begins with 0 and rises, in the units of the norm; an accuracy holds from its budget to the next.
    """

    eps: NDArray[np.float64]
    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def norm_of_curve(row: Row) -> str | None:
    """The norm in which a row holds a whole curve, None if it holds none.

    The metric has to be an accuracy: of a regressor the distances say who is an outlier, not what its sigma_mad is.
    """
    return norm_made_small(row) if row["metric"] == "accuracy" else None


def norm_made_small(row: Row) -> str | None:
    """The norm that the attack of a row, without a budget, makes small from the unperturbed input on; None without."""
    if row["status"] != "ok" or row["kind"] == "worst-case" or row["strength"] is not None:
        return None
    if row["norm"] not in NORMS:
        return None
    try:
        params = json.loads(row["perturbation_params"] or "{}")
    except ValueError:
        return None
    # A budget for each channel is no one number, so it is no strength; `then` begins at inputs that were changed.
    budget = isinstance(params, dict) and not {"eps", "then"} & params.keys()
    return str(row["norm"]) if budget else None


def breaking(outcomes: Outcomes, row: Row, norm: str) -> NDArray[np.float64]:
    """The smallest budget (n,) at which each sample is known to be wrong.

    0 where it is wrong as it is, inf where no perturbation was found. At a budget of infinity what is left is the
    accuracy ``perturbed`` of the row.
    """
    found = np.where(right(outcomes, row), np.inf, outcomes[norm].astype(np.float64))
    return np.where(outcomes["clean_correct"], found, 0.0)


def robust_accuracy(budgets: NDArray[Any]) -> Curve:
    """Share of all samples that are right at every budget, from those that break them, (n,) as of `breaking`.

    An attack with a budget may use all of it, so a sample is right while the budget is less than what breaks it. The
    intervals are Wilson's, budget by budget: at one budget the samples that are right are a count like any other.
    """
    ordered = np.sort(budgets)
    eps = np.unique(np.concatenate([[0.0], ordered[np.isfinite(ordered)]]))
    left = len(ordered) - np.searchsorted(ordered, eps, side="right")
    value, low, high = np.array([wilson(int(count), len(ordered)) for count in left]).reshape(-1, 3).T
    return Curve(eps, value, low, high)


def farthest(*budgets: NDArray[Any]) -> float:
    """The largest finite budget of any of them, 1 if there is none: where a curve has nothing more to say."""
    known = np.concatenate([some[np.isfinite(some)] for some in budgets])
    return float(known.max(initial=0.0)) or 1.0


def shares(budgets: NDArray[Any], up_to: float) -> NDArray[np.float64]:
    """What each sample (n,) adds to the area: the share of the budgets up to ``up_to`` at which it is right."""
    return np.asarray(np.minimum(budgets, up_to) / up_to)


def area(budgets: NDArray[Any], up_to: float) -> Interval:
    """Area under the curve from 0 to ``up_to``, as a share of what it is if no sample is ever wrong.

    A mean over samples of numbers from 0 to 1. Its interval is Wilson's with the number of samples whose count would
    be as uncertain (Franco et al. 2019, https://doi.org/10.1093/jssam/smy019), which for a curve without slope is n.
    """
    some = shares(budgets, up_to)
    n, value = len(some), float(some.mean()) if len(some) else math.nan
    if n == 0:
        return NOTHING
    spread, most = float(some.var()), value * (1 - value)
    n_effective = n * most / spread if 0 < spread < most else n
    low, high = wilson(value * n_effective, n_effective)[1:]
    return Interval(value, low, high)


def area_difference(first: NDArray[Any], second: NDArray[Any], up_to: float) -> Difference:
    """Difference of two areas over the same samples, (n,) each: mean and standard error of the samples' differences."""
    second = aligned(first, second)
    if np.array_equal(first, second):
        return IDENTICAL
    apart = shares(second, up_to) - shares(first, up_to)
    if len(apart) < 2:
        return Difference(math.nan, math.nan, math.nan, math.nan, "paired means")
    return paired_parts(float(apart.mean()), apart, "paired means")


def compare_areas(
    rows: tuple[Row, Row], outcomes: tuple[Outcomes, Outcomes], up_to: float | None = None
) -> tuple[tuple[float, float], Difference]:
    """Areas of two rows with curves in one norm over the same samples, and their difference.

    They end at ``up_to``, at the largest distance of either row unless given.
    """
    norm = norm_of_curve(rows[0])
    assert norm is not None
    assert norm == norm_of_curve(rows[1])  # rows that may be compared have one norm
    first, second = (breaking(arrays, row, norm) for arrays, row in zip(outcomes, rows))
    end = up_to or farthest(first, second)
    return (area(first, end).value, area(second, end).value), area_difference(first, second, end)
