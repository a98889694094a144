"""Intervals and detector statistics. A statistic of nothing is NaN."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from advbench.evidence.exact import binomial_tail

Z95 = 1.959963984540054


class Interval(NamedTuple):
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float


NOTHING = Interval(math.nan, math.nan, math.nan)


def wilson(successes: float, n: float) -> Interval:
    """Rate with its Wilson score interval (Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953)."""
    if n == 0:
        return NOTHING
    rate, z2 = successes / n, Z95**2
    centre = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(rate * (1 - rate) / n + z2 / (4 * n * n))
    # At the ends the formula gives 0 and 1 up to rounding.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return Interval(rate, low, high)


def student_reach(freedom: int) -> float:
    """How many standard errors the 95 % interval of Student's t goes."""
    from scipy import special  # takes as long to import as a comparison takes that needs none of it

    return float(special.stdtrit(freedom, 0.975))


def student_p(freedom: int, distance: float) -> float:
    """Two-sided p-value of Student's t of what is so many standard errors away."""
    from scipy import special

    return 2 * float(special.stdtr(freedom, -abs(distance)))


def at_a_time(draws: int, n: int) -> list[int]:
    """How many draws of n samples to make at a time, so that they fit into memory."""
    size = max(1, 1_000_000 // max(1, n))
    return [min(size, draws - start) for start in range(0, draws, size)]


def drawn_again(n: int, draws: int, seed: int = 0) -> Iterator[NDArray[np.int64]]:
    """Positions of n samples drawn with replacement, some (count, n) at a time; seeded, so they are repeatable."""
    generator = np.random.Generator(np.random.Philox(seed))
    for count in at_a_time(draws, n):
        yield generator.integers(n, size=(count, n))


def bootstrap(
    statistic: Callable[[NDArray[Any]], NDArray[Any]], values: NDArray[Any], draws: int = 2000, seed: int = 0
) -> Interval:
    """Percentile bootstrap of a statistic along the last axis of ``values`` (n,); seeded, so it is repeatable."""
    if len(values) == 0:
        return NOTHING
    estimates = np.concatenate([statistic(values[rows]) for rows in drawn_again(len(values), draws, seed)])
    low, high = np.quantile(estimates, [0.025, 0.975])
    value = float(statistic(values))
    return Interval(value, min(value, float(low)), max(value, float(high)))


def sigma_mad(error: NDArray[Any]) -> NDArray[Any]:
    """``1.4826 * median|e - median(e)|`` along the last axis: the standard deviation of a normal distribution.

    NaN where half of the errors are infinite.
    """
    centre = np.median(error, axis=-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        return np.asarray(1.4826 * np.median(np.abs(error - centre), axis=-1))


def auroc(negative: NDArray[Any], positive: NDArray[Any]) -> float:
    """Probability that a positive scores higher than a negative, ties counted half."""
    if not len(negative) or not len(positive):
        return math.nan
    joined = np.concatenate([negative, positive])
    _, inverse, counts = np.unique(joined, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    rank_sum = float(ranks[len(negative) :].sum()) - len(positive) * (len(positive) + 1) / 2
    return rank_sum / (len(negative) * len(positive))


def auroc_interval(value: float, negatives: int, positives: int, errors: float = Z95) -> Interval:
    """An AUROC with its interval: all values that are less than ``errors`` of their own standard errors away.

    A standard error is that of Hanley and McNeil 1982, https://doi.org/10.1148/radiology.143.1.7063747, with the mean
    of both numbers for each (Newcombe 2006, https://doi.org/10.1002/sim.2324, method 5): good for few samples and
    near 1.
    """
    if math.isnan(value):
        return NOTHING

    def away(other: float) -> float:
        """Less than 0 within the interval."""
        of_mean = (negatives + positives) / 2 - 1
        curved = 1 + of_mean * ((1 - other) / (2 - other) + other / (1 + other))
        return (value - other) ** 2 - errors**2 * other * (1 - other) * curved / (negatives * positives)

    low = 0.0 if value == 0 else _zero(away, 0.0, value)
    high = 1.0 if value == 1 else _zero(lambda other: -away(other), value, 1.0)
    return Interval(value, low, high)


def true_positive_rate(negative: NDArray[Any], positive: NDArray[Any], false_positive_rate: float) -> float:
    """Share of positives above the threshold that at most this share of negatives exceeds."""
    if not len(negative) or not len(positive):
        return math.nan
    ordered = np.sort(negative)
    allowed = math.floor(false_positive_rate * len(ordered) + 1e-9)  # 0.29 * 100 is less than 29
    if allowed >= len(ordered):
        return 1.0
    return float((positive > ordered[len(ordered) - 1 - allowed]).mean())


def calibration_error(confidence: NDArray[Any], right: NDArray[Any], bins: int = 15) -> float:
    """Expected calibration error of confidences (n,) in [0, 1] of predictions that are ``right`` (n,) bool or not.

    Mean over equally wide bins of |accuracy - mean confidence|, weighted by their samples (Guo et al. 2017,
    https://arxiv.org/abs/1706.04599, eq. 3).
    """
    if not len(confidence):
        return math.nan
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gap = np.bincount(place, right.astype(np.float64) - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(confidence))


def clopper_pearson(successes: int, n: int) -> Interval:
    """Rate with its exact interval, which never covers less than it says (Clopper and Pearson 1934,
    https://doi.org/10.1093/biomet/26.4.404), by bisection of the binomial tails.
    """
    if n == 0:
        return NOTHING
    low = _zero(lambda rate: 0.025 - binomial_tail(successes, n, rate), 0.0, 1.0) if successes else 0.0
    high = (
        1 - _zero(lambda rate: 0.025 - binomial_tail(n - successes, n, rate), 0.0, 1.0)
        if successes < n
        else 1.0
    )
    return Interval(successes / n, low, high)


def _zero(decreasing: Callable[[float], float], low: float, high: float) -> float:
    """Where a function is 0 that is more at ``low`` and less at ``high``."""
    for _ in range(45):
        middle = (low + high) / 2
        low, high = (middle, high) if decreasing(middle) > 0 else (low, middle)
    return (low + high) / 2


def bca(
    statistic: Callable[[NDArray[Any]], NDArray[Any]], values: NDArray[Any], draws: int = 2000, seed: int = 0
) -> Interval:
    """Bias-corrected and accelerated bootstrap of a statistic along the last axis of ``values`` (n,); seeded.

    Efron 1987, https://doi.org/10.2307/2289144. Better than the percentiles for skewed statistics of few samples; the
    acceleration comes from leaving out each sample once, so smooth statistics only, not medians.
    """
    n = len(values)
    if n < 2:
        return Interval(float(statistic(values)), math.nan, math.nan) if n else NOTHING
    estimates = np.concatenate([statistic(values[rows]) for rows in drawn_again(n, draws, seed)])
    value = float(statistic(values))
    left_out = np.array([float(statistic(np.delete(values, row))) for row in range(n)])
    away = left_out.mean() - left_out
    spread = float((away**2).sum())
    if spread == 0:
        return Interval(value, value, value)
    acceleration = float((away**3).sum()) / (6 * spread**1.5)
    normal = NormalDist()
    below = ((estimates < value).mean() + (estimates <= value).mean()) / 2
    bias = normal.inv_cdf(min(max(float(below), 0.5 / draws), 1 - 0.5 / draws))
    ends = [bias + (bias + z) / (1 - acceleration * (bias + z)) for z in (-Z95, Z95)]
    low, high = np.quantile(estimates, [normal.cdf(end) for end in ends])
    return Interval(value, float(low), float(high))


class Seeds(NamedTuple):
    """Mean of a figure over seeds, its standard deviation from seed to seed, and their number."""

    mean: float
    deviation: float
    n: int


def over_seeds(values: Sequence[float]) -> Seeds:
    """Mean and standard deviation (n - 1; NaN for one seed) of one figure of several trainings.

    Neither says anything about samples: all seeds may share them.
    """
    n = len(values)
    mean = math.fsum(values) / n if n else math.nan
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1)) if n > 1 else math.nan
    return Seeds(mean, deviation, n)
