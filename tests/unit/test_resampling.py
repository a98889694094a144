"""Permutation tests and intervals of figures that are no means: by hand, at their edges, and in simulations."""

import itertools
import math
from typing import Any

import numpy as np
import pytest

from advbench.evidence.differences import paired_parts, unpaired
from advbench.evidence.drawing import drawn_median, drawn_spread
from advbench.evidence.resampling import AUROC, MEDIAN, SPREAD, paired, permuted, redrawn
from advbench.evidence.statistics import Interval, auroc, auroc_interval, sigma_mad

# --- by hand ------------------------------------------------------------------------------------------------------


def every_swap(statistic: Any, first: Any, second: Any) -> float:
    """The p-value from all 2^n ways of swapping two rows."""
    observed = abs(float(statistic(second) - statistic(first)))
    apart = []
    for swaps in itertools.product([False, True], repeat=len(first)):
        swapped = np.array(swaps)
        one, other = np.where(swapped, second, first), np.where(swapped, first, second)
        apart.append(abs(float(statistic(other) - statistic(one))) >= observed * (1 - 1e-9))
    return float(np.mean(apart))


def test_permutations_are_those_of_all_swaps() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for n in (3, 6, 9):
        first, second = rng.integers(0, 5, (2, n)).astype(float)
        second += 2
        ranks = np.split(stats.rankdata([*first, *second]), 2)
        assert permuted(drawn_median, *ranks) == pytest.approx(every_swap(np.median, *ranks), abs=0.04)
        first, second = np.arange(n) - (n - 1) / 2, 3 * np.arange(n)[::-1] - 3 * (n - 1) / 2
        found = permuted(drawn_spread, first, second)
        assert found == pytest.approx(every_swap(sigma_mad, first, second), abs=0.04)
        assert paired(SPREAD, first, second) == paired(SPREAD, first, second + 8)  # a bias has no part in it


def test_swapped_detectors_do_not_depend_on_the_units_of_their_scores() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.normal([0, 1.5], 1, (2, 60, 2))
    found = paired(AUROC, first, second)
    assert paired(AUROC, np.exp(first), 100 * second - 7) == found
    assert found.value == pytest.approx(auroc(*second.T) - auroc(*first.T))
    back = paired(AUROC, second, first)
    assert (back.value, back.low, back.high) == pytest.approx((-found.value, -found.high, -found.low))


def test_the_interval_of_an_auroc_solves_its_equation() -> None:
    for value, m, n in ((0.8, 50, 20), (0.97, 200, 3), (0.5, 10, 10), (1.0, 30, 4)):
        _, low, high = auroc_interval(value, m, n)
        for end in {low, high} - {1.0}:
            q1, q2 = end / (2 - end), 2 * end**2 / (1 + end)
            others = (m + n) / 2 - 1
            variance = (end * (1 - end) + others * (q1 - end**2) + others * (q2 - end**2)) / (m * n)
            assert abs(end - value) == pytest.approx(1.959964 * math.sqrt(variance), rel=1e-6)
        assert low < value <= high
    mirrored = auroc_interval(0.2, 50, 20)
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx(auroc_interval(0.8, 20, 50)[1:])
    assert auroc_interval(0.0, 5, 5).low == 0.0
    assert math.isnan(auroc_interval(math.nan, 0, 3).low)


# --- edges --------------------------------------------------------------------------------------------------------


def test_infinities_and_nothing() -> None:
    values = np.random.default_rng(0).normal(size=50)
    far = np.full(50, np.inf)
    found = paired(MEDIAN, values, far)
    assert (found.value, found.low, found.high) == (math.inf, math.inf, math.inf)
    assert found.p == pytest.approx(2 / 2001)
    assert found == paired(MEDIAN, values, far)
    assert paired(MEDIAN, far, far)[:4] == (0, 0, 0, 1)
    nothing = paired(MEDIAN, values, np.full(50, np.nan))
    assert all(math.isnan(one) for one in nothing[:4])
    detectors = np.stack([values, np.full(50, np.nan)], -1)
    assert math.isnan(paired(AUROC, detectors, detectors).p)


def test_more_is_drawn_where_a_family_needs_it() -> None:
    near, far = np.linspace(1, 2, 50), np.linspace(3, 4, 50)
    families = (1, 20, 60, 2000, 10**6)
    smallest = {m: permuted(drawn_median, near, far, m) for m in families}
    assert smallest == pytest.approx(
        {1: 1 / 2001, 20: 1 / 2001, 60: 1 / 6001, 2000: 1 / 100_001, 10**6: 1 / 100_001}
    )
    again = {m: redrawn(drawn_median, near, far, 2.0, m)[2] for m in families}
    assert again == pytest.approx({m: 2 * p for m, p in smallest.items()})
    assert all(p * m <= 0.05 for m, p in again.items() if m <= 1000)


@pytest.mark.parametrize("n", range(1, 6))
def test_a_handful_of_samples_tells_nothing(n: int) -> None:
    first, second = np.linspace(1, 2, n), np.linspace(3, 5, n)
    for found in (
        paired(MEDIAN, first, second),
        paired(SPREAD, first, 2 * second),
        paired_parts(0.5, np.full(n, 0.5), "paired means"),
    ):
        assert found.p > 0.05
        assert math.isnan(found.low)
        assert math.isnan(found.high)
    scores = np.stack([first, first + 9], -1)
    assert paired(AUROC, scores, -scores).p > 0.05


def test_intervals_without_width_tell_nothing() -> None:
    assert math.isnan(unpaired(Interval(0, 0, 0), Interval(0.1, 0.1, 0.1)).p)


def test_two_perfect_detectors_may_differ() -> None:
    scores = np.stack([np.linspace(0, 1, 40), np.where(np.arange(40) < 4, 2.0, np.nan)], -1)
    found = paired(AUROC, scores, scores + np.linspace(0, 0.1, 40)[:, None])
    assert (found.value, found.p) == (0, 1)
    assert found.low < -0.05
    assert found.high > 0.05


# --- simulations --------------------------------------------------------------------------------------------------

TRIALS = 200
"""One standard error of a rate of 5 % is 1.5 %."""


def test_values_that_repeat_err_in_at_most_5_percent_of_cases() -> None:
    rng = np.random.default_rng(3)
    wrong = dict.fromkeys(("rounded", "finely", "capped", "few", "steps"), 0)
    for _ in range(TRIALS):
        shared = rng.normal(size=100)
        errors = [0.7 * shared + 0.7 * rng.normal(size=100) for _ in range(2)]
        wrong["rounded"] += apart(SPREAD, *(np.round(one) for one in errors))
        wrong["finely"] += apart(SPREAD, *(np.round(one, 1) for one in errors))
        sizes = [np.minimum(np.exp(shared + 0.3 * rng.normal(size=100)), 1.3) for _ in range(2)]
        wrong["capped"] += apart(MEDIAN, *sizes)
        wrong["few"] += apart(MEDIAN, sizes[0][:12], sizes[1][:12])
        # Of the same median, but one varies more than the other: rows are not exchangeable.
        steps = [np.round(4 * np.exp(width * one)) / 4 for width, one in zip((0.1, 1.0), errors)]
        wrong["steps"] += apart(MEDIAN, *steps)
    assert max(wrong.values()) / TRIALS <= 0.05 + 2 * 0.015, wrong


def test_nor_do_medians_near_the_failures() -> None:
    """Of one attack 52 % reach their budget, of the other 95 %: both medians are the budget."""
    rng = np.random.default_rng(8)
    wrong = 0
    for _ in range(TRIALS):
        order = rng.permutation(200) / 200
        wrong += apart(
            MEDIAN, *(np.where(order + 0.1 * rng.normal(size=200) < at, 0.3, np.inf) for at in (0.53, 0.95))
        )
    assert wrong / TRIALS <= 0.05 + 2 * 0.015


def apart(statistic: Any, first: Any, second: Any) -> bool:
    """Whether a figure differs significantly; then 0 is not in its interval."""
    found = paired(statistic, first, second)
    assert not (found.p < 0.04 and found.low <= 0 <= found.high)
    return found.p <= 0.05


def detectors(rng: Any, fooled: int, *separations: float) -> list[Any]:
    """Detectors that see the same inputs, of which so many fool the network."""
    clean, perturbed = rng.normal(size=(2, 150))
    scores = []
    for separation in separations:
        after = 0.8 * (0.7 * clean + 0.51**0.5 * perturbed) + 0.6 * rng.normal(size=150) + separation
        before = 0.8 * clean + 0.6 * rng.normal(size=150)
        scores.append(np.stack([before, np.where(np.arange(150) < fooled, after, np.nan)], -1))
    return scores


@pytest.mark.parametrize("fooled", [5, 30, 100])
@pytest.mark.parametrize("separations", [(1.5, 1.5), (1.5, 2.4), (3.0, 4.0)])
def test_intervals_of_aurocs_cover_the_truth(fooled: int, separations: tuple[float, float]) -> None:
    rng = np.random.default_rng(4)
    found = [paired(AUROC, *detectors(rng, fooled, *separations)) for _ in range(600)]
    # normal scores of variance 1: the difference of two of them is above 0 with probability erf(d / 2) / 2 + 1 / 2
    truth = (math.erf(separations[1] / 2) - math.erf(separations[0] / 2)) / 2
    assert np.mean([one.low <= truth <= one.high for one in found]) >= 0.93  # one standard error is 0.9 %


def test_detectors_err_in_at_most_5_percent_of_cases() -> None:
    rng = np.random.default_rng(6)
    for fooled, share in ((5, 1), (40, 1), (100, 0.25), (100, 0.05)):
        wrong = 0
        for _ in range(TRIALS):
            first, second = detectors(rng, fooled, 1.5, 1.5)
            second[rng.random(150) > share, 1] = np.nan  # samples that fool one network and not the other
            wrong += apart(AUROC, first, second)
        assert wrong / TRIALS <= 0.05 + 2 * 0.015, (fooled, share)


def test_detectors_that_differ_are_found() -> None:
    rng = np.random.default_rng(9)
    found = [apart(AUROC, *detectors(rng, 100, 1.5, 2.4)) for _ in range(TRIALS)]
    assert np.mean(found) > 0.7


def test_percentiles_cover_the_truth() -> None:
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(TRIALS):
        shared = rng.gamma(2.0, size=100)
        pair = [
            np.where(rng.random(100) < 0.4, np.inf, shared * rng.lognormal(0, 0.2, 100)) for _ in range(2)
        ]
        low, high, _ = redrawn(drawn_median, *pair, 1.0)
        hits += low <= 0 <= high
    assert hits / TRIALS >= 0.94
