"""Differences of medians, spreads and AUROCs of the same samples, where counting is not enough."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from advbench.evidence import influence
from advbench.evidence.differences import Difference, paired_parts
from advbench.evidence.drawing import Drawn, drawn_auroc, drawn_median, drawn_spread
from advbench.evidence.exact import least_changed
from advbench.evidence.statistics import at_a_time, auroc_interval, drawn_again

FIRST_DRAWS, CLEARLY = 200, 20
DRAWS = 2000
MOST_DRAWS = 100_000
DRAWS_EACH = 100
"""Draws for each line of a family, if it needs more: twice what lets the smallest p-value survive Holm's correction."""


class Statistic(NamedTuple):
    """A figure that is no mean over samples.

    Attributes
    ----------
    drawn
        From values (n, ...) to the figure of samples drawn from them.
    parts
        From values to how much each sample moves the figure, (n,); None where that says too little of its error.
    interval
        From the values of two rows to the 95 % interval of their difference where there are no parts.
    alike
        From the values of two rows to others that differ in nothing but the figure, as far as can be known.
    """

    drawn: Callable[[NDArray[Any]], Drawn]
    parts: Callable[[NDArray[Any]], NDArray[Any] | None]
    interval: Callable[[NDArray[Any], NDArray[Any]], tuple[float, float]]
    alike: Callable[[NDArray[Any], NDArray[Any]], tuple[NDArray[Any], NDArray[Any]]]


def _ranks(first: NDArray[Any], second: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Ranks among the values of both rows: medians of what is half infinite are not apart by infinity."""
    both = _ranked(np.concatenate([first, second]))
    return both[: len(first)], both[len(first) :]


def _ranked(values: NDArray[Any]) -> NDArray[Any]:
    """Ranks among all values, as shares; NaN stays NaN."""
    ordered = np.sort(values[~np.isnan(values)])
    middle = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    return np.where(np.isnan(values), np.nan, middle / (2 * max(1, len(ordered))))


def _ranks_of_each(first: NDArray[Any], second: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Detectors have scores in units of their own."""
    return _ranked(first), _ranked(second)


def _centred(first: NDArray[Any], second: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Errors without the middle of their quartiles, which moves less than a median where many are alike."""
    middles = [np.quantile(errors, [0.25, 0.75], method="nearest").mean() for errors in (first, second)]
    with np.errstate(invalid="ignore"):
        return first - middles[0], second - middles[1]


def value_of(drawn: Callable[[NDArray[Any]], Drawn], values: NDArray[Any]) -> float:
    """The figure of values (n, ...)."""
    return float(drawn(values)(np.arange(len(values))[None])[0])


def paired(statistic: Statistic, first: NDArray[Any], second: NDArray[Any], family: int = 1) -> Difference:
    """Difference of a figure of two arrays (n, ...) of the same samples.

    From how much each sample moves it. Where that says nothing, and of AUROCs always, a permutation test (of the ranks
    of scores: Venkatraman and Begg 1996, https://doi.org/10.1093/biomet/83.4.835), and an interval of its own.
    """
    value = _value(statistic.drawn, first, second)
    if math.isnan(value):
        return Difference(value, math.nan, math.nan, math.nan, "permutation")
    before, after = statistic.parts(first), statistic.parts(second)
    if before is not None and after is not None:
        moved = after - before
        if np.abs(moved).max() > 1e-9 * np.abs(after).max():  # more than rounding
            return paired_parts(value, moved, "influence functions")
    low, high = statistic.interval(first, second)
    return Difference(value, low, high, permuted(statistic, first, second, family), "permutation")


def aurocs_apart(first: NDArray[Any], second: NDArray[Any]) -> tuple[float, float]:
    """95 % interval of the difference of the AUROCs of two arrays of scores (n, 2) of the same samples.

    Few perturbations fool a robust network, and detectors may reject all of them, so no normal approximation: the
    intervals of both in one, with the correlation of their parts (Zou 2007, https://doi.org/10.1037/1082-989X.12.4.399).
    """
    intervals, parts = [], []
    for scores in (first, second):
        counts = (~np.isnan(scores)).sum(0)
        intervals.append(auroc_interval(value_of(drawn_auroc, scores), int(counts[0]), int(counts[1])))
        found = influence.of_auroc(scores)
        parts.append(np.zeros(len(scores)) if found is None else found)
    together = float(np.corrcoef(parts[0], parts[1])[0, 1]) if parts[0].any() and parts[1].any() else 0.0
    one, other = intervals

    def reach(a: float, b: float) -> float:
        return math.sqrt(max(0.0, a * a + b * b - 2 * together * a * b))

    value = other.value - one.value
    low = value - reach(one.high - one.value, other.value - other.low)
    return low, value + reach(one.value - one.low, other.high - other.value)


def permuted(statistic: Statistic, first: NDArray[Any], second: NDArray[Any], family: int = 1) -> float:
    """Two-sided p-value of no difference: how often one as large comes about if rows are swapped, sample by sample.

    Exact, but for being drawn, if the rows are exchangeable; what was observed counts, so no p-value is 0 (Phipson and
    Smyth 2010, https://doi.org/10.2202/1544-6115.1585). Seeded, so it is repeatable. Few draws are enough where many
    are as large (Besag and Clifford 1991, https://doi.org/10.1093/biomet/78.2.301). If none is, and that is too little
    to be significant among the ``family`` of all tests, more are drawn.
    """
    n = len(first)
    alike = statistic.alike(first, second)
    observed = abs(_value(statistic.drawn, *alike)) * (1 - 1e-9)
    of = statistic.drawn(np.concatenate(alike))
    generator = np.random.Generator(np.random.Philox(0))

    def larger(count: int) -> int:
        found = 0
        for size in at_a_time(count, n):
            swapped = n * generator.integers(2, size=(size, n))
            apart = np.abs(_minus(of(np.arange(n) + n - swapped), of(np.arange(n) + swapped)))
            found += int((~(apart < observed)).sum())
        return found

    draws = found = 0
    for enough in (FIRST_DRAWS, DRAWS, min(MOST_DRAWS, DRAWS_EACH * family)):
        if enough > draws and found < (CLEARLY if draws < DRAWS else 1):
            found += larger(enough - draws)
            draws = enough
    return (found + 1) / (draws + 1)


def percentiles(
    drawn: Callable[[NDArray[Any]], Drawn], first: NDArray[Any], second: NDArray[Any]
) -> tuple[float, float]:
    """95 % interval of a difference from samples that are drawn again, both rows together; NaN for a handful.

    Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13; seeded.
    """
    n = len(first)
    if n < least_changed():
        return math.nan, math.nan
    one, other = drawn(first), drawn(second)
    known = np.concatenate([_minus(other(rows), one(rows)) for rows in drawn_again(n, DRAWS)])
    known = known[~np.isnan(known)]
    if not len(known):
        return math.nan, math.nan
    value = _value(drawn, first, second)
    # The nearest draw, not a mean of two: one of them may be infinite.
    low, high = np.quantile(known, [0.025, 0.975], method="nearest")
    return min(value, float(low)), max(value, float(high))


def _value(drawn: Callable[[NDArray[Any]], Drawn], first: NDArray[Any], second: NDArray[Any]) -> float:
    one, other = (np.array([value_of(drawn, values)]) for values in (first, second))
    return float(_minus(other, one)[0])


def _minus(second: NDArray[Any], first: NDArray[Any]) -> NDArray[Any]:
    """Difference in which equal infinities are equal."""
    with np.errstate(invalid="ignore"):
        return np.where(second == first, 0.0, second - first)


def _no_parts(scores: NDArray[Any]) -> None:
    """For few samples, and near 1, the parts of an AUROC say too little."""


MEDIAN = Statistic(drawn_median, influence.of_median, partial(percentiles, drawn_median), _ranks)
SPREAD = Statistic(drawn_spread, influence.of_spread, partial(percentiles, drawn_spread), _centred)
AUROC = Statistic(drawn_auroc, _no_parts, aurocs_apart, _ranks_of_each)
