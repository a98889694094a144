"""Intervals and detector statistics, against published values, definitions and exact sums."""

import math
from functools import partial

import numpy as np
import pytest

from advbench.evidence.statistics import auroc, bootstrap, sigma_mad, true_positive_rate, wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_published_intervals(successes: int, n: int, low: float, high: float) -> None:
    # Newcombe 1998, https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8<857::AID-SIM777>3.0.CO;2-E, method 3.
    interval = wilson(successes, n)
    assert interval.value == successes / n
    assert interval.low == pytest.approx(low, abs=5e-5)
    assert interval.high == pytest.approx(high, abs=5e-5)


def test_wilson_at_the_ends_and_of_nothing() -> None:
    assert wilson(0, 10).low == 0
    assert wilson(10, 10).high == 1
    assert wilson(10, 10).low == pytest.approx(1 - wilson(0, 10).high, abs=1e-15)
    assert all(math.isnan(value) for value in wilson(0, 0))


@pytest.mark.parametrize("p", [0.1, 0.25, 0.5, 0.73, 0.9])
@pytest.mark.parametrize("n", [60, 200, 500])
def test_wilson_covers_the_truth_in_95_percent(p: float, n: int) -> None:
    intervals = [wilson(k, n) for k in range(n + 1)]
    coverage = sum(
        math.comb(n, k) * p**k * (1 - p) ** (n - k)
        for k, interval in enumerate(intervals)
        if interval.low <= p <= interval.high
    )
    assert 0.93 <= coverage <= 0.97


def test_sigma_mad_is_the_standard_deviation_of_a_normal_distribution() -> None:
    error = np.random.default_rng(0).normal(3.0, 0.7, size=(4, 100_000))
    # Its standard error at 1e5 draws is 0.37 %.
    np.testing.assert_allclose(sigma_mad(error), 0.7, rtol=0.02)
    assert sigma_mad(np.array([1.0, 2.0, 3.0, 100.0, 2.0])) == pytest.approx(1.4826)


def test_bootstrap_is_repeatable_and_contains_its_value() -> None:
    values = np.random.default_rng(1).normal(size=300)
    first, second = bootstrap(sigma_mad, values), bootstrap(sigma_mad, values)
    assert first == second
    assert first.low < first.value < first.high
    assert bootstrap(sigma_mad, values, seed=1) != first
    assert all(math.isnan(value) for value in bootstrap(sigma_mad, values[:0]))


def test_bootstrap_of_a_mean_is_its_normal_interval() -> None:
    values = np.random.default_rng(2).normal(5.0, 2.0, size=4000)
    interval = bootstrap(partial(np.mean, axis=-1), values)
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert interval.value == pytest.approx(values.mean())
    # Ends of a percentile interval from 2000 draws: 4 % of the half width.
    assert interval.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.1 * half)


@pytest.mark.parametrize("digits", [6, 1, 0], ids=["no ties", "ties", "many ties"])
def test_auroc_of_scikit_learn(digits: int) -> None:
    roc_auc_score = pytest.importorskip("sklearn.metrics").roc_auc_score
    generator = np.random.default_rng(3)
    negative = generator.normal(size=83).round(digits)
    positive = generator.normal(0.8, 1.4, size=57).round(digits)
    expected = roc_auc_score([0] * 83 + [1] * 57, np.concatenate([negative, positive]))
    assert auroc(negative, positive) == pytest.approx(expected, abs=1e-12)


def test_auroc_by_hand() -> None:
    assert auroc(np.array([0.0, 1.0]), np.array([2.0, 3.0])) == 1
    assert auroc(np.array([1.0, 1.0]), np.array([1.0])) == 0.5
    assert auroc(np.array([0.0, 2.0]), np.array([1.0, np.inf])) == 0.75
    assert math.isnan(auroc(np.array([]), np.array([1.0])))
    assert math.isnan(auroc(np.array([1.0]), np.array([])))


def best_rate(negative: np.ndarray, positive: np.ndarray, rate: float) -> float:
    """By definition: the best of all thresholds that keep the false positives."""
    thresholds = [-np.inf, *negative, *positive]
    return max(
        float((positive > threshold).mean())
        for threshold in thresholds
        if (negative > threshold).mean() <= rate
    )


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.05, 0.07, 0.29, 0.5, 0.58, 1.0])
@pytest.mark.parametrize("digits", [6, 0], ids=["no ties", "ties"])
def test_true_positive_rate_by_definition(rate: float, digits: int) -> None:
    generator = np.random.default_rng(4)
    for count in (1, 19, 100):
        negative = generator.normal(size=count).round(digits)
        positive = generator.normal(0.5, 1.5, size=400).round(digits)
        expected = best_rate(negative, positive, rate)
        assert true_positive_rate(negative, positive, rate) == expected, count


def test_true_positive_rate_of_nothing() -> None:
    assert math.isnan(true_positive_rate(np.array([]), np.array([1.0]), 0.05))
    assert math.isnan(true_positive_rate(np.array([1.0]), np.array([]), 0.05))
