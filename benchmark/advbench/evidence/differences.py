"""Differences of two figures with their 95 % intervals: of the same samples, or of figures alone."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from advbench.evidence.exact import least_changed, mcnemar, power
from advbench.evidence.statistics import Z95, Interval, student_p, student_reach

Z80 = 0.8416212335729143
"""Quantile of the normal distribution at a power of 80 %."""

EXACT_POWER = 1000
"""Samples up to which the power of the exact test is computed; its approximation is as good beyond."""


class Difference(NamedTuple):
    """Second figure minus first, its 95 % interval, its two-sided p-value and how they were found."""

    value: float
    low: float
    high: float
    p: float
    test: str


IDENTICAL = Difference(0.0, 0.0, 0.0, 1.0, "identical")
"""Of two rows with the same outcome of every sample."""


# --- rates --------------------------------------------------------------------------------------------------------


def paired_rates(first: NDArray[np.bool_], second: NDArray[np.bool_], mid_p: bool = False) -> Difference:
    """Difference of the rates of two arrays (n,) over the same samples: Tango's interval and McNemar's test."""
    gained, lost = int(np.count_nonzero(second & ~first)), int(np.count_nonzero(first & ~second))
    low, high = tango(gained, lost, len(first))
    name = "McNemar, mid-p" if mid_p else "McNemar, exact"
    return Difference((gained - lost) / len(first), low, high, mcnemar(gained, lost, mid_p), name)


@functools.lru_cache(maxsize=8192)
def tango(gained: int, lost: int, n: int) -> tuple[float, float]:
    """95 % interval of a difference of paired rates, ``(gained - lost) / n``.

    The asymptotic score interval of Tango 1998, https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8<891::AID-SIM780>3.0.CO;2-B,
    by bisection; of the intervals that need no table the one whose coverage is nearest to what it says (Fagerland,
    Lydersen and Laake 2014, https://doi.org/10.1002/sim.6148).
    """
    if n == 0:
        return math.nan, math.nan
    low = _root(lambda delta: _score(gained, lost, n, delta) - Z95)
    high = _root(lambda delta: _score(gained, lost, n, delta) + Z95)
    return low, high


def _score(gained: int, lost: int, n: int, delta: float) -> float:
    """How far the observed difference is from ``delta``, in standard errors under ``delta``."""
    b = (2 * n - gained + lost) * delta - gained - lost
    c = -lost * delta * (1 - delta)
    q = (math.sqrt(max(0.0, b * b - 8 * n * c)) - b) / (4 * n)
    variance = n * (2 * q + delta * (1 - delta))
    distance = gained - lost - n * delta
    if variance <= 0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / math.sqrt(variance)


def _root(decreasing: Callable[[float], float]) -> float:
    low, high = -1.0, 1.0
    for _ in range(30):  # to 2e-9
        middle = (low + high) / 2
        low, high = (middle, high) if decreasing(middle) > 0 else (low, middle)
    return (low + high) / 2


def hybrid(first: Interval, second: Interval) -> tuple[float, float]:
    """95 % interval of the difference of two independent figures from the interval of each.

    With Wilson intervals it is the hybrid score interval of Newcombe 1998 (method 10,
    https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8<873::AID-SIM779>3.0.CO;2-I), else that of Zou and Donner
    2008, https://doi.org/10.1002/sim.3095. Of the same samples it is too wide. Intervals may hold arrays.
    """
    value = second.value - first.value
    low = value - np.hypot(second.value - second.low, first.high - first.value)
    return low, value + np.hypot(second.high - second.value, first.value - first.low)


def unpaired_rates(
    first: Interval, second: Interval, k: int, n: int, other_k: int, other_n: int
) -> Difference:
    """Difference of two rates as if they had no sample in common: the hybrid interval and Fisher's exact test."""
    return Difference(
        second.value - first.value, *hybrid(first, second), fisher(k, n, other_k, other_n), "Fisher, unpaired"
    )


def fisher(k: int, n: int, other_k: int, other_n: int) -> float:
    """Two-sided p-value of Fisher's exact test of two rates, ``k`` of ``n`` and ``other_k`` of ``other_n``.

    Sum of the probabilities of all tables with these margins that are not more probable than the one observed.
    """
    least, p_values = _fisher(n, other_n, k + other_k)
    return p_values[k - least]


@functools.lru_cache(maxsize=4096)
def _fisher(n: int, other_n: int, total: int) -> tuple[int, list[float]]:
    """The smallest count of the first rate, and the p-values of it and all larger ones, if there are ``total``."""
    cells = np.arange(max(0, total - other_n), min(n, total) + 1)
    logs = _log_choose(n, cells) + _log_choose(other_n, total - cells)
    ordered = np.sort(logs)
    summed = np.cumsum(np.exp(ordered - ordered[-1]))
    # Equal tables differ by rounding.
    p_values = summed[np.searchsorted(ordered, logs + 1e-7, side="right") - 1] / summed[-1]
    return int(cells[0]), p_values.tolist()


def _log_choose(n: int, k: NDArray[Any]) -> NDArray[Any]:
    logs = _log_factorials(n)
    return np.asarray(logs[n] - logs[k] - logs[n - k])


@functools.lru_cache(maxsize=16)
def _log_factorials(most: int) -> NDArray[Any]:
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, most + 1)))])


def unpaired(first: Interval, second: Interval) -> Difference:
    """Difference of two figures of which only the intervals are known, taken as normal towards each other."""
    (p,) = unpaired_p(np.array([first]), np.array([second]))
    return Difference(second.value - first.value, *hybrid(first, second), p, "intervals, unpaired")


def unpaired_p(firsts: NDArray[Any], seconds: NDArray[Any]) -> list[float]:
    """The p-values of m such differences from values and ends, (m, 3) each; NaN where an interval has no width."""
    first, second = Interval(*firsts.T), Interval(*seconds.T)
    with np.errstate(invalid="ignore", divide="ignore"):
        value = np.asarray(second.value - first.value)
        low, high = hybrid(first, second)
        room = np.where(value > 0, value - low, high - value)
        errors = np.where(room > 0, np.abs(value) / room, np.nan) * Z95 / math.sqrt(2)
    return [1.0 if same else math.erfc(one) for same, one in zip((value == 0).tolist(), errors.tolist())]


# --- anything else ------------------------------------------------------------------------------------------------


def paired_parts(value: float, parts: NDArray[Any], test: str) -> Difference:
    """A difference to which every sample adds its part, (n,): Student's t, with the standard error of their mean.

    Swapping rows sample by sample has 2^n outcomes, so no p-value is below 2^(1 - n); a handful has no interval.
    """
    n = len(parts)
    error = float(parts.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan
    p = 1.0 if value == 0 or n < 2 else max(student_p(n - 1, value / error) if error else 0.0, 2.0 ** (1 - n))
    half = error * student_reach(n - 1) if n >= least_changed() else math.nan
    return Difference(value, value - half, value + half, p, test)


# --- what so many samples can tell --------------------------------------------------------------------------------


def detectable(n: int, changed: float = 0.1) -> float:
    """Least difference of two rates of the same ``n`` samples that McNemar's exact test finds with a power of 80 %.

    ``changed`` is the share of samples on which the two rows differ, or the difference if that is more. By the exact
    power of the test up to `EXACT_POWER` samples; beyond them after Miettinen 1968, https://doi.org/10.2307/2528282:
    ``n d^2 = (z_0.975 sqrt(c) + z_0.8 sqrt(c - d^2))^2``. NaN if no difference is enough.
    """

    def roughly(difference: float) -> bool:
        share = max(changed, difference)
        needed = Z95 * math.sqrt(share) + Z80 * math.sqrt(max(0.0, share - difference**2))
        return needed <= difference * math.sqrt(n)

    def exactly(difference: float) -> bool:
        return power(n, max(changed, difference), difference) >= 0.8

    if n > EXACT_POWER:
        return _least(roughly, 0.0, 1.0)
    if n < 1 or not exactly(1.0):
        return math.nan
    near = 2 * _least(roughly, 0.0, 1.0)  # large differences take long
    return _least(exactly, 0.0, near if near < 1 and exactly(near) else 1.0)


def _least(enough: Callable[[float], bool], low: float, high: float) -> float:
    """Where a condition begins to hold that holds at ``high``, to 6e-5 of the way."""
    for _ in range(14):
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
