"""Intervals from influence functions: derivatives of the figures, closed forms, and coverage in simulations."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from advbench.evidence import influence
from advbench.evidence.differences import Difference, paired_figures
from advbench.evidence.drawing import drawn_auroc, drawn_median
from advbench.evidence.statistics import bootstrap, sigma_mad

TRIALS = 1500
"""One standard error of a coverage of 95 % is 0.6 %."""


def drawn_spread(errors: Any) -> Callable[[Any], Any]:
    return lambda rows: sigma_mad(errors[rows])


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


def test_without_a_density_there_is_a_bootstrap() -> None:
    flat = np.where(np.arange(40) < 30, 0.0, 1.0)
    assert influence.of_spread(flat) is None
    assert influence.of_median(flat) is None
    assert (
        influence.of_median(np.where(np.arange(40) < 16, np.inf, np.arange(40.0))) is None
    )  # its interval: inf?
    assert influence.of_median(np.full(40, np.nan)) is None
    assert influence.of_auroc(np.array([[1.0, np.nan], [2.0, 3.0]])) is None
    slope = np.linspace(0, 1, 40)
    assert paired_figures(drawn_spread, influence.of_spread, flat, slope).test == "paired bootstrap"
    apart = np.stack([slope, slope + 2], -1)  # nothing moves an AUROC of 1
    assert paired_figures(drawn_auroc, influence.of_auroc, apart, apart + 1).test == "paired bootstrap"
    assert influence.spread(flat) == bootstrap(sigma_mad, flat)
    values = np.random.default_rng(0).normal(size=40)
    moved = paired_figures(drawn_spread, influence.of_spread, values, values + 3)  # differs by rounding alone
    assert moved.value == pytest.approx(0, abs=1e-12)
    assert moved.p > 0.1


def test_means_have_the_interval_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    for n in (2, 5, 60):
        values = np.random.default_rng(n).normal(size=n)
        expected = stats.t.interval(0.95, n - 1, values.mean(), stats.sem(values))
        assert influence.mean(values) == pytest.approx((values.mean(), *expected))
    assert math.isnan(influence.mean(np.ones(1)).low)
    assert math.isnan(influence.mean(np.zeros(0)).value)
    assert influence.mean(np.array([1.0, np.inf]))[0] == math.inf


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


def scores(rng: Any, n: int, separation: float, ratio: float) -> Iterator[Any]:
    """Two detectors that see the same inputs; three in ten perturbations do not fool the network."""
    clean, perturbed = rng.normal(size=(2, n))
    for shift in (separation, ratio * separation):
        before = 0.8 * clean + 0.6 * rng.normal(size=n)
        after = 0.8 * (0.7 * clean + 0.51**0.5 * perturbed) + 0.6 * rng.normal(size=n) + shift
        yield np.stack([before, np.where(rng.random(n) < 0.3, np.nan, after)], -1)


def differences(drawn: Any, of: Any, pairs: Callable[[Any], Iterator[Any]]) -> list[Difference]:
    rng = np.random.default_rng(11)
    return [paired_figures(drawn, of, *pairs(rng)) for _ in range(TRIALS)]


def check(found: list[Difference], truth: float) -> None:
    assert {one.test for one in found} == {"influence functions"}
    assert 0.94 <= np.mean([one.low <= truth <= one.high for one in found]) <= 0.965
    if truth == 0:
        assert np.mean([one.p <= 0.05 for one in found]) <= 0.06


@pytest.mark.parametrize(("n", "ratio"), [(400, 1.0), (400, 1.3), (1500, 1.1)])
def test_differences_of_spreads_cover_the_truth_in_95_percent(n: int, ratio: float) -> None:
    single = float(sigma_mad(next(spreads(np.random.default_rng(12), 10**6, 1))))
    found = differences(drawn_spread, influence.of_spread, lambda rng: spreads(rng, n, ratio))
    check(found, (ratio - 1) * single)


@pytest.mark.parametrize(
    ("n", "failed", "ratio"), [(100, 0, 1), (200, 0.2, 1), (500, 0.1, 1.1), (500, 0.3, 1)]
)
def test_differences_of_medians_cover_the_truth_in_95_percent(n: int, failed: float, ratio: float) -> None:
    single = float(np.nanmedian(next(distances(np.random.default_rng(12), 10**6, failed))))
    found = differences(drawn_median, influence.of_median, lambda rng: distances(rng, n, failed, ratio))
    check(found, (ratio - 1) * single)


@pytest.mark.parametrize(("n", "separation", "ratio"), [(100, 1.0, 1.0), (200, 2.0, 1.1), (500, 0.5, 1.0)])
def test_differences_of_aurocs_cover_the_truth_in_95_percent(n: int, separation: float, ratio: float) -> None:
    found = differences(drawn_auroc, influence.of_auroc, lambda rng: scores(rng, n, separation, ratio))
    # normal scores of variance 1: the difference of two of them is larger than 0 with probability erf(d / 2) / 2 + 1/2
    check(found, (math.erf(ratio * separation / 2) - math.erf(separation / 2)) / 2)


@pytest.mark.parametrize("n", [60, 200, 500])
def test_intervals_of_one_regressor_cover_the_truth_in_95_percent(n: int) -> None:
    rng = np.random.default_rng(13)
    truth = float(sigma_mad(contaminated(rng, 10**6)))
    drawn = [contaminated(rng, n) for _ in range(TRIALS)]
    made = [influence.spread(errors) for errors in drawn]
    assert 0.935 <= np.mean([one.low <= truth <= one.high for one in made]) <= 0.965
    made = [influence.mean(errors) for errors in drawn]
    assert 0.94 <= np.mean([one.low <= 0 <= one.high for one in made]) <= 0.965
