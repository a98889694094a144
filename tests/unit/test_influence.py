"""Intervals from influence functions: derivatives of the figures, closed forms, and coverage in simulations."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from advbench.evidence import influence
from advbench.evidence.differences import Difference
from advbench.evidence.resampling import MEDIAN, SPREAD, paired
from advbench.evidence.statistics import bootstrap, sigma_mad

TRIALS = 1500
"""One standard error of a coverage of 95 % is 0.6 %."""


# --- what they are ------------------------------------------------------------------------------------------------


def derivative(parts: Any, there: Any) -> float:
    """By how much a figure changes if the samples that are there are doubled, by their parts."""
    share = there.sum() / (len(parts) + there.sum())
    return float(parts[there].mean() * share / (1 - share))


@pytest.mark.parametrize(
    ("of", "statistic"), [(influence.of_spread, sigma_mad), (influence.of_median, np.median)], ids=["spread", "median"]
)  # fmt: skip
def test_parts_are_the_derivative_of_the_figure(of: Any, statistic: Any) -> None:
    values = np.random.default_rng(0).gamma(
        2.0, size=200_000
    )  # skewed: the median matters to the spread, too
    parts = of(values)
    assert abs(parts.mean()) < 0.02
    for low, high in ((0.0, 0.2), (1.2, 1.5), (6.0, 9.0)):
        there = (values > low) & (values < high)
        heavier = np.concatenate([values, values[there]])
        expected = derivative(parts, there)
        assert float(statistic(heavier) - statistic(values)) == pytest.approx(expected, rel=0.25)


def test_parts_of_a_median_count_failures_as_infinite_and_leave_others_out() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=1000)
    failed = np.where(values > 1, np.inf, values)  # some 160, far above the median
    assert influence.of_median(failed) == pytest.approx(influence.of_median(values), rel=0.05)
    without = np.where(rng.random(1000) < 0.2, np.nan, values)
    parts = influence.of_median(without)
    assert parts is not None
    assert (parts[np.isnan(without)] == 0).all()
    known = ~np.isnan(without)
    alone = influence.of_median(values[known])
    assert parts[known] == pytest.approx(alone * 1000 / known.sum())


def test_parts_of_an_auroc_are_those_of_delong() -> None:
    negative, positive = np.array([1.0, 2.0, 3.0, 4.0]), np.array([2.0, 5.0])
    scores = np.full((6, 2), np.nan)
    scores[:4, 0], scores[4:, 1] = negative, positive
    # shares of the positives above each negative are 1, 3/4, 1/2, 1/2; of the negatives below each positive 3/8, 1
    expected = [
        *((np.array([1, 0.75, 0.5, 0.5]) - 0.6875) * 6 / 4),
        *((np.array([0.375, 1]) - 0.6875) * 6 / 2),
    ]
    assert influence.of_auroc(scores) == pytest.approx(np.array(expected))
    both = np.stack([negative, positive[[0, 1, 0, 1]]], -1)
    halves = [np.stack([both[:, 0], np.full(4, np.nan)], -1), np.stack([np.full(4, np.nan), both[:, 1]], -1)]
    apart = influence.of_auroc(np.concatenate(halves))
    assert influence.of_auroc(both) == pytest.approx((apart[:4] + apart[4:]) / 2)  # of 4 samples instead of 8


def test_there_are_no_parts_where_they_would_say_nothing() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=40)
    assert influence.of_spread(values) is not None
    assert influence.of_median(values) is not None
    for nothing in (
        np.where(np.arange(40) < 30, 0.0, 1.0),
        np.round(values),
        np.minimum(values, 0.1),  # the median is at a distance where many are
        values[:19],
        np.full(40, np.inf),
        np.zeros(0),
    ):
        assert influence.of_spread(nothing) is None
        assert influence.of_median(nothing) is None
    assert influence.of_median(np.where(np.arange(40) < 16, np.inf, values)) is None  # near the failures
    assert influence.of_median(np.full(40, np.nan)) is None
    heaps = np.where(np.arange(400) % 2, -2, 2) + 0.5 * rng.normal(size=400)
    assert influence.of_spread(heaps) is None
    assert influence.of_auroc(np.array([[1.0, np.nan], [2.0, 3.0]])) is None


def test_intervals_of_spreads_that_have_no_parts() -> None:
    rounded = np.round(np.random.default_rng(0).normal(size=40))
    assert influence.spread(rounded) == bootstrap(sigma_mad, rounded)
    heaps = np.where(np.arange(20_000) % 2, 1, -1) + 1e-4 * np.random.default_rng(0).normal(size=20_000)
    value, low, high = influence.spread(heaps)
    assert value == pytest.approx(1.4826, rel=1e-3)
    assert 0 < low <= value <= high < 3
    for few in ([], [3.0], [0.0, 1.0], [1.0, np.inf] * 10):
        assert all(math.isnan(end) for end in influence.spread(np.array(few))[1:])


def test_means_have_the_interval_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    for n in (2, 5, 60):
        values = np.random.default_rng(n).normal(size=n)
        expected = stats.t.interval(0.95, n - 1, values.mean(), stats.sem(values))
        assert influence.mean(values) == pytest.approx((values.mean(), *expected))
    assert math.isnan(influence.mean(np.ones(1)).low)
    assert math.isnan(influence.mean(np.zeros(0)).value)
    assert influence.mean(np.array([1.0, np.inf]))[0] == math.inf
    for far in ([np.inf, -np.inf, 1.0], [1e300, -1e300, 3.0]):
        assert math.isnan(influence.mean(np.array(far)).high)


# --- simulations --------------------------------------------------------------------------------------------------


def contaminated(rng: Any, n: int) -> Any:
    """Errors of which a tenth are far off."""
    return np.where(rng.random(n) < 0.1, rng.uniform(-20, 20, n), rng.normal(size=n))


def spreads(rng: Any, n: int, ratio: float) -> Iterator[Any]:
    """Two regressors with correlated errors, those of the second ``ratio`` times as large."""
    shared = 0.8 * contaminated(rng, n)
    yield shared + 0.6 * contaminated(rng, n)
    yield ratio * (shared + 0.6 * contaminated(rng, n))


def distances(rng: Any, n: int, failed: float, ratio: float = 1.0) -> Iterator[Any]:
    """Distances of two attacks on samples that are easy or hard for both, and fail at much the same ones."""
    hard, out = rng.gamma(2.0, size=n), rng.random(n) < 0.1
    hopeless = rng.random(n) < 0.8 * failed
    for scale in (1.0, ratio):
        sizes = scale * hard * rng.lognormal(0, 0.2, n)
        sizes[hopeless | (rng.random(n) < 0.2 * failed)] = np.inf
        yield np.where(out | (rng.random(n) < 0.02), np.nan, sizes)


def differences(statistic: Any, pairs: Callable[[Any], Iterator[Any]]) -> list[Difference]:
    rng = np.random.default_rng(11)
    return [paired(statistic, *pairs(rng)) for _ in range(TRIALS)]


def check(found: list[Difference], truth: float) -> None:
    assert {one.test for one in found} == {"influence functions"}
    assert 0.94 <= np.mean([one.low <= truth <= one.high for one in found]) <= 0.97
    if truth == 0:
        assert np.mean([one.p <= 0.05 for one in found]) <= 0.06


@pytest.mark.parametrize(("n", "ratio"), [(100, 1.0), (400, 1.3), (1500, 1.1)])
def test_differences_of_spreads_cover_the_truth_in_95_percent(n: int, ratio: float) -> None:
    single = float(sigma_mad(next(spreads(np.random.default_rng(12), 10**6, 1))))
    found = differences(SPREAD, lambda rng: spreads(rng, n, ratio))
    check(found, (ratio - 1) * single)


@pytest.mark.parametrize(
    ("n", "failed", "ratio"), [(100, 0, 1), (200, 0.2, 1), (500, 0.1, 1.1), (500, 0.3, 1)]
)
def test_differences_of_medians_cover_the_truth_in_95_percent(n: int, failed: float, ratio: float) -> None:
    single = float(np.nanmedian(next(distances(np.random.default_rng(12), 10**6, failed))))
    found = differences(MEDIAN, lambda rng: distances(rng, n, failed, ratio))
    check(found, (ratio - 1) * single)


@pytest.mark.parametrize("n", [60, 200, 500])
def test_intervals_of_one_regressor_cover_the_truth_in_95_percent(n: int) -> None:
    rng = np.random.default_rng(13)
    truth = float(sigma_mad(contaminated(rng, 10**6)))
    drawn = [contaminated(rng, n) for _ in range(TRIALS)]
    made = [influence.spread(errors) for errors in drawn]
    assert 0.935 <= np.mean([one.low <= truth <= one.high for one in made]) <= 0.965
    made = [influence.mean(errors) for errors in drawn]
    assert 0.94 <= np.mean([one.low <= 0 <= one.high for one in made]) <= 0.965
