"""Differences of medians, spreads and AUROCs of the same samples, where counting is not enough."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from advbench.evidence import influence
from advbench.evidence.differences import Difference, paired_parts
from advbench.evidence.drawing import Drawn, drawn_auroc, drawn_median, drawn_spread
from advbench.evidence.exact import least_changed
from advbench.evidence.statistics import Z95, at_a_time, auroc_interval, drawn_again

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
    test
        From the values of two rows, the difference of their figures and the number of tests in the family to the 95 %
        interval of that difference and its p-value.
    """

    drawn: Callable[[NDArray[Any]], Drawn]
    test: Callable[[NDArray[Any], NDArray[Any], float, int], Difference]


def _ranks(first: NDArray[Any], second: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Ranks among the values of both rows: medians of what is half infinite are not apart by infinity."""
    values = np.concatenate([first, second])
    ordered = np.sort(values[~np.isnan(values)])
    middle = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    both = np.where(np.isnan(values), np.nan, middle / (2 * max(1, len(ordered))))
    return both[: len(first)], both[len(first) :]


def _centred(first: NDArray[Any], second: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Errors without the middle of their quartiles, which moves less than a median where many are alike."""
    middles = [np.quantile(errors, [0.25, 0.75], method="nearest").mean() for errors in (first, second)]
    with np.errstate(invalid="ignore"):
        return first - middles[0], second - middles[1]


def value_of(drawn: Callable[[NDArray[Any]], Drawn], values: NDArray[Any]) -> float:
    """The figure of values (n, ...)."""
    return float(drawn(values)(np.arange(len(values))[None])[0])


def paired(statistic: Statistic, first: NDArray[Any], second: NDArray[Any], family: int = 1) -> Difference:
    """Difference of a figure of two arrays (n, ...) of the same samples, one of ``family`` tests."""
    value = _value(statistic.drawn, first, second)
    if math.isnan(value):
        return Difference(value, math.nan, math.nan, math.nan, "no figure")
    return statistic.test(first, second, value, family)


def _by_parts(
    parts: Callable[[NDArray[Any]], NDArray[Any] | None],
    drawn: Callable[[NDArray[Any]], Drawn],
    alike: Callable[[NDArray[Any], NDArray[Any]], tuple[NDArray[Any], NDArray[Any]]],
) -> Callable[[NDArray[Any], NDArray[Any], float, int], Difference]:
    """A test by how much each sample moves the figure, or where that says too little by swapping and drawing again.

    ``parts`` are how much each sample moves it; None, or the same in both rows, says too little. ``alike`` gives from
    two rows what differs in nothing but the figure, as far as can be known, so that rows can be swapped. If they do
    differ in more, the figure of swapped rows may vary less than that of rows, so the p-value is the larger of both.
    """

    def test(first: NDArray[Any], second: NDArray[Any], value: float, family: int) -> Difference:
        before, after = parts(first), parts(second)
        if before is not None and after is not None:
            moved = after - before
            if np.abs(moved).max() > 1e-9 * np.abs(after).max():  # more than rounding
                return paired_parts(value, moved, "influence functions")
        low, high, p = redrawn(drawn, first, second, value, family)
        swapped = permuted(drawn, *alike(first, second), family)
        return Difference(value, low, high, max(p, swapped), "permutation and bootstrap")

    return test


def aurocs_apart(first: NDArray[Any], second: NDArray[Any], value: float, family: int = 1) -> Difference:
    """Difference ``value`` of the AUROCs of two arrays of scores (n, 2) of the same samples.

    Few perturbations fool a robust network, and detectors may reject all of them, so no normal approximation: the
    intervals of both in one, with the correlation of their parts (Zou 2007, https://doi.org/10.1037/1082-989X.12.4.399).
    The p-value is that of the narrowest such interval that holds 0. Rows that are swapped would have another number of
    samples that fool the network, so that is no test.
    """
    both = (first, second)
    counts = [(int((~np.isnan(scores[:, 0])).sum()), int((~np.isnan(scores[:, 1])).sum())) for scores in both]
    values = [value_of(drawn_auroc, scores) for scores in both]
    found = [influence.of_auroc(scores) for scores in both]
    known = [parts for parts in found if parts is not None and parts.any()]
    together = float(np.corrcoef(known[0], known[1])[0, 1]) if len(known) == 2 else 0.0

    def within(errors: float) -> tuple[float, float]:
        """The interval of so many standard errors."""
        one, other = (auroc_interval(auc, *of, errors=errors) for auc, of in zip(values, counts))

        def reach(a: float, b: float) -> float:
            return math.sqrt(max(0.0, a * a + b * b - 2 * together * a * b))

        low = value - reach(one.high - one.value, other.value - other.low)
        return low, value + reach(one.value - one.low, other.high - other.value)

    nearest, farthest = 0.0, 40.0
    for _ in range(30):
        errors = (nearest + farthest) / 2
        low, high = within(errors)
        nearest, farthest = (nearest, errors) if low <= 0 <= high else (errors, farthest)
    p = 1.0 if value == 0 else max(math.erfc(nearest / math.sqrt(2)), 2.0 ** (1 - len(first)))
    return Difference(value, *within(Z95), p, "intervals with their correlation")


def permuted(
    drawn: Callable[[NDArray[Any]], Drawn], first: NDArray[Any], second: NDArray[Any], family: int = 1
) -> float:
    """Two-sided p-value of no difference: how often one as large comes about if rows are swapped, sample by sample.

    Exact, but for being drawn, if the rows are exchangeable; what was observed counts, so no p-value is 0 (Phipson and
    Smyth 2010, https://doi.org/10.2202/1544-6115.1585). Seeded, so it is repeatable.
    """
    n = len(first)
    observed = abs(_value(drawn, first, second)) * (1 - 1e-9)
    of = drawn(np.concatenate([first, second]))
    generator = np.random.Generator(np.random.Philox(0))

    def larger(count: int) -> int:
        found = 0
        for size in at_a_time(count, n):
            swapped = n * generator.integers(2, size=(size, n))
            apart = np.abs(_minus(of(np.arange(n) + n - swapped), of(np.arange(n) + swapped)))
            found += int((~(apart < observed)).sum())
        return found

    found, draws = _counted(larger, FIRST_DRAWS, family)
    return (found + 1) / (draws + 1)


def redrawn(
    drawn: Callable[[NDArray[Any]], Drawn],
    first: NDArray[Any],
    second: NDArray[Any],
    value: float,
    family: int = 1,
) -> tuple[float, float, float]:
    """95 % interval and two-sided p-value of a difference from samples that are drawn again, both rows together.

    Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapters 13 and 15; seeded. A handful has no interval.
    """
    n = len(first)
    if n < least_changed():
        return math.nan, math.nan, 1.0
    one, other = drawn(first), drawn(second)
    known: list[NDArray[Any]] = []

    def beyond(count: int) -> int:
        """How many draws do not show the sign that was observed."""
        some = np.concatenate(
            [_minus(other(rows), one(rows)) for rows in drawn_again(n, count, seed=len(known))]
        )
        known.append(some)
        return int((~(some * math.copysign(1, value) > 0)).sum())

    found, draws = _counted(beyond, DRAWS, family)
    apart = known[0][~np.isnan(known[0])]
    if not len(apart):
        return math.nan, math.nan, 1.0
    # The nearest draw, not a mean of two: one of them may be infinite.
    low, high = np.quantile(apart, [0.025, 0.975], method="nearest")
    p = 1.0 if value == 0 else min(1.0, 2 * (found + 1) / (draws + 1))
    return min(value, float(low)), max(value, float(high)), p


def _counted(rare: Callable[[int], int], first: int, family: int) -> tuple[int, int]:
    """How often something happened, and in how many draws: no more than ``first`` if that is often enough to know.

    Few draws are enough where many count (Besag and Clifford 1991, https://doi.org/10.1093/biomet/78.2.301). If none
    does, and that is too little to be significant among the ``family`` of all tests, more are drawn.
    """
    draws = found = 0
    for enough in (first, DRAWS, min(MOST_DRAWS, DRAWS_EACH * family)):
        if enough > draws and found < (CLEARLY if draws < DRAWS else 1):
            found += rare(enough - draws)
            draws = enough
    return found, draws


def _value(drawn: Callable[[NDArray[Any]], Drawn], first: NDArray[Any], second: NDArray[Any]) -> float:
    one, other = (np.array([value_of(drawn, values)]) for values in (first, second))
    return float(_minus(other, one)[0])


def _minus(second: NDArray[Any], first: NDArray[Any]) -> NDArray[Any]:
    """Difference in which equal infinities are equal."""
    with np.errstate(invalid="ignore"):
        return np.where(second == first, 0.0, second - first)


MEDIAN = Statistic(drawn_median, _by_parts(influence.of_median, drawn_median, _ranks))
SPREAD = Statistic(drawn_spread, _by_parts(influence.of_spread, drawn_spread, _centred))
AUROC = Statistic(drawn_auroc, aurocs_apart)
