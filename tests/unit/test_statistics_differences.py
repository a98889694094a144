"""Tests and intervals of differences: against scipy, against their definition, and in simulations."""

import math
from typing import Any

import numpy as np
import pytest

from advbench.evidence.differences import (
    detectable,
    fisher,
    hybrid,
    paired_rates,
    tango,
    unpaired,
    unpaired_rates,
)
from advbench.evidence.drawing import drawn_auroc, drawn_median
from advbench.evidence.exact import holm, least_wins, mcnemar, power
from advbench.evidence.statistics import Interval, auroc, bca, clopper_pearson, over_seeds, wilson

# --- against scipy and definitions --------------------------------------------------------------------------------


@pytest.mark.parametrize(("more", "less"), [(10, 2), (0, 6), (1, 5), (100, 80), (7, 7), (0, 0), (3, 40)])
def test_mcnemar_is_the_binomial_test_of_the_pairs_that_differ(more: int, less: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    exact = stats.binomtest(more, more + less).pvalue if more + less else 1.0
    assert mcnemar(more, less) == mcnemar(less, more) == pytest.approx(exact, rel=1e-12)
    half = stats.binom.pmf(more, more + less, 0.5) if more != less else 0.0
    assert mcnemar(more, less, mid_p=True) == pytest.approx(exact - half, rel=1e-12)


@pytest.mark.parametrize(
    "table", [(8, 10, 1, 10), (300, 500, 280, 500), (0, 7, 3, 9), (5, 5, 5, 5), (2, 200, 9, 150)]
)
def test_fisher(table: tuple[int, int, int, int]) -> None:
    stats = pytest.importorskip("scipy.stats")
    k, n, other_k, other_n = table
    expected = stats.fisher_exact([[k, n - k], [other_k, other_n - other_k]])[1]
    assert fisher(*table) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize(("k", "n"), [(81, 263), (0, 20), (29, 29), (1, 29), (497, 500)])
def test_clopper_pearson(k: int, n: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(k, n).proportion_ci(method="exact")
    assert clopper_pearson(k, n) == pytest.approx((k / n, expected.low, expected.high), abs=1e-9)
    assert all(math.isnan(value) for value in clopper_pearson(0, 0))


def test_bca() -> None:
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(0).exponential(size=60)
    ours = bca(lambda draws: draws.mean(-1), values, draws=20_000)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="BCa", random_state=1
    ).confidence_interval
    # The ends are quantiles of 20,000 draws with a standard deviation of 0.14: their own error is 0.3 % of that.
    assert ours == pytest.approx((values.mean(), theirs.low, theirs.high), abs=0.012)
    assert ours == bca(lambda draws: draws.mean(-1), values, draws=20_000)
    assert bca(lambda draws: draws.mean(-1), np.full(9, 2.0)) == (2, 2, 2)
    assert all(math.isnan(value) for value in bca(lambda draws: draws.mean(-1), np.zeros(0)))


def test_holm_by_hand() -> None:
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, and never less than the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(("gained", "lost", "n"), [(12, 2, 50), (1, 7, 54), (9, 0, 30), (40, 35, 400)])
def test_tango_is_where_the_score_statistic_is_the_normal_quantile(gained: int, lost: int, n: int) -> None:
    optimize = pytest.importorskip("scipy.optimize")

    def score(delta: float) -> float:
        """By the definition: the likelihood of (p_lost + delta, p_lost, rest) is maximised numerically."""

        def minus_log_likelihood(p: float) -> float:
            rest = 1 - 2 * p - delta
            return -float(gained * np.log(p + delta) + lost * np.log(p) + (n - gained - lost) * np.log(rest))

        bounds = (max(1e-12, 1e-12 - delta), (1 - delta) / 2 - 1e-12)
        p = optimize.minimize_scalar(
            minus_log_likelihood, bounds=bounds, method="bounded", options={"xatol": 1e-12}
        ).x
        return float((gained - lost - n * delta) / math.sqrt(n * (2 * p + delta - delta**2)))

    low, high = tango(gained, lost, n)
    assert score(low) == pytest.approx(1.959964, abs=2e-3)
    assert score(high) == pytest.approx(-1.959964, abs=2e-3)


def test_tango_at_its_ends() -> None:
    # Nothing differs: n d^2 / (|d| (1 - |d|)) = z^2 where |d| = z^2 / (n + z^2).
    end = 1.959964**2 / (50 + 1.959964**2)
    assert tango(0, 0, 50) == pytest.approx((-end, end), abs=1e-6)
    assert tango(5, 2, 40) == pytest.approx(tuple(-value for value in reversed(tango(2, 5, 40))), abs=1e-9)
    assert tango(0, 9, 9)[0] == pytest.approx(-1, abs=1e-9)
    assert all(math.isnan(value) for value in tango(0, 0, 0))


def test_hybrid_gives_the_published_intervals() -> None:
    # Newcombe 1998, method 10, table II: 56/70 - 48/80 and 9/10 - 3/10; 0/10 - 0/20.
    for (k, n), (other, m), ends in (
        ((56, 70), (48, 80), (0.0524, 0.3339)),
        ((9, 10), (3, 10), (0.1705, 0.8090)),
        ((0, 10), (0, 20), (-0.1611, 0.2775)),
    ):
        assert hybrid(wilson(other, m), wilson(k, n)) == pytest.approx(ends, abs=5e-5)


def test_hybrid_of_normal_figures_is_the_usual_interval() -> None:
    found = unpaired(Interval(1.0, 0.7, 1.3), Interval(1.5, 1.1, 1.9))
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.0, 1.0))
    assert found.p == pytest.approx(0.05, abs=1e-6)  # an end of the interval is 0


def test_paired_rates() -> None:
    first, second = np.array([1, 1, 1, 0, 0] * 8, bool), np.array([1, 0, 0, 1, 0] * 8, bool)
    found = paired_rates(first, second)
    assert found.value == pytest.approx(second.mean() - first.mean())
    assert (found.low, found.high) == tango(8, 16, 40)
    assert (found.p, found.test) == (mcnemar(8, 16), "McNemar, exact")
    assert paired_rates(first, second, mid_p=True).p == mcnemar(8, 16, mid_p=True) < found.p


def test_counted_medians_and_areas_are_those_of_the_samples_drawn() -> None:
    rng = np.random.default_rng(4)
    for n in (1, 2, 31, 40):
        values = np.where(rng.random(n) < 0.3, np.nan, rng.integers(0, 6, n).astype(float))
        values[rng.random(n) < 0.3] = np.inf
        scores = rng.integers(0, 9, (n, 2)).astype(float)
        scores[rng.random((n, 2)) < 0.3] = np.nan
        rows = rng.integers(n, size=(200, n))
        for found, some in zip(drawn_median(values)(rows), values[rows]):
            left = some[~np.isnan(some)]
            np.testing.assert_equal(found, np.median(left) if len(left) else np.nan)
        for found, some in zip(drawn_auroc(scores)(rows), scores[rows]):
            sides = [side[~np.isnan(side)] for side in some.T]
            np.testing.assert_allclose(found, auroc(*sides), rtol=1e-12, equal_nan=True)


def test_seeds() -> None:
    assert over_seeds([1.0, 2.0, 4.0]) == pytest.approx((7 / 3, np.std([1, 2, 4], ddof=1), 3))
    mean, deviation, n = over_seeds([0.5])
    assert (mean, n) == (0.5, 1)
    assert math.isnan(deviation)


# --- simulations --------------------------------------------------------------------------------------------------

CASES = [(200, 0.05, 0.0), (500, 0.1, 0.03), (100, 0.3, 0.1), (1000, 0.4, -0.05)]
"""Samples, share of them that differs, true difference."""


def trials(n: int, changed: float, truth: float, count: int) -> Any:
    """How many samples were gained and lost in each trial (count, 2)."""
    share = [(changed + truth) / 2, (changed - truth) / 2, 1 - changed]
    return np.random.default_rng(7).multinomial(n, share, size=count)[:, :2]


@pytest.mark.parametrize(("n", "changed", "truth"), CASES)
def test_tango_covers_the_truth_in_95_percent(n: int, changed: float, truth: float) -> None:
    drawn = trials(n, changed, truth, 4000)
    known = {(gained, lost): tango(gained, lost, n) for gained, lost in {(int(g), int(k)) for g, k in drawn}}
    hits = [known[int(g), int(k)][0] <= truth <= known[int(g), int(k)][1] for g, k in drawn]
    assert 0.94 <= np.mean(hits) <= 0.96


def test_hybrid_covers_the_truth_in_95_percent() -> None:
    rng = np.random.default_rng(3)
    for n, p, q in ((200, 0.8, 0.7), (500, 0.5, 0.55), (100, 0.9, 0.6)):
        pairs = zip(rng.binomial(n, p, 4000).tolist(), rng.binomial(n, q, 4000).tolist())
        ends = [hybrid(wilson(k, n), wilson(other, n)) for k, other in pairs]
        assert 0.94 <= np.mean([low <= q - p <= high for low, high in ends]) <= 0.96


@pytest.mark.parametrize("mid_p", [False, True])
def test_mcnemar_errs_in_at_most_5_percent_of_cases(mid_p: bool) -> None:
    for n, changed in ((50, 0.2), (200, 0.05), (500, 0.1), (1000, 0.4)):
        drawn = trials(n, changed, 0.0, 4000)
        rejected = np.mean([mcnemar(int(gained), int(lost), mid_p) <= 0.05 for gained, lost in drawn])
        assert rejected <= 0.05 + (2 * math.sqrt(0.05 * 0.95 / 4000) if mid_p else 0)


def test_a_family_errs_in_at_most_5_percent_of_cases_and_pairs_tell_more_than_rates() -> None:
    rng = np.random.default_rng(5)
    n, pairs, runs = 200, 5, 400
    wrong = found = missed = 0
    for _ in range(runs):
        shared = rng.random((pairs, n))
        first = shared < 0.7
        same = np.where(rng.random((pairs, n)) < 0.1, rng.random((pairs, n)), shared) < 0.7
        worse = same & ~((rng.random((pairs, n)) < 0.1) & first)
        wrong += min(holm([paired_rates(a, b).p for a, b in zip(first, same)])) <= 0.05
        counts = [(int(a.sum()), int(b.sum())) for a, b in zip(first, worse)]
        found += sum(p <= 0.05 for p in holm([paired_rates(a, b).p for a, b in zip(first, worse)]))
        missed += sum(
            p <= 0.05
            for p in holm([unpaired_rates(wilson(a, n), wilson(b, n), a, n, b, n).p for a, b in counts])
        )
    assert wrong / runs <= 0.05
    assert found > 3 * missed


def test_the_detectable_difference_is_found_in_80_percent_of_cases() -> None:
    for n, rest in ((10, 0.03), (60, 0.03), (200, 0.02), (500, 0.02), (2000, 0.03)):
        truth = detectable(n)
        found = [mcnemar(int(g), int(k)) <= 0.05 for g, k in trials(n, max(0.1, truth), truth, 4000)]
        assert 0.8 - rest <= np.mean(found) <= 0.8 + rest  # of 4,000 trials one standard error is 0.6 %
    assert math.isnan(detectable(0))
    assert math.isnan(detectable(5))
    assert 0.8 < detectable(6) <= 1
    # Miettinen 1968 beyond: n d^2 = (1.96 sqrt(0.1) + 0.8416 sqrt(0.1 - d^2))^2
    d = detectable(4000)
    assert 4000 * d**2 == pytest.approx((1.959964 * 0.1**0.5 + 0.841621 * (0.1 - d**2) ** 0.5) ** 2, rel=0.02)


def test_power_and_least_wins_are_those_of_the_binomial_test() -> None:
    stats = pytest.importorskip("scipy.stats")
    for differing in (0, 3, 5, 6, 7, 24, 101):
        wins = least_wins(differing)
        assert differing / 2 < wins <= differing + 1
        assert wins > differing or mcnemar(wins, differing - wins) <= 0.05
        assert mcnemar(wins - 1, differing - wins + 1) > 0.05
    n, changed, difference = 30, 0.4, 0.3
    expected = sum(
        stats.binom.pmf(k, n, changed) * stats.binom.sf(least_wins(k) - 1, k, 0.875) for k in range(n + 1)
    )
    assert power(n, changed, difference) == pytest.approx(expected, rel=1e-9)
    assert power(6, 1.0, 1.0) == 1.0
    assert power(5, 1.0, 1.0) == 0.0
