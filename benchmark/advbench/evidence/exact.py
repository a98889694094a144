"""Exact one-sided tests, without an approximation that small samples would break."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np


def sign_test(more: int, less: int) -> float:
    """Probability of at least ``more`` heads among ``more + less`` tosses of a fair coin.

    Of pairs that differ, ``more`` speak for one side: the one-sided form of McNemar's exact test.
    """
    n = more + less
    term = total = math.comb(n, more)
    for k in range(more, n):
        term = term * (n - k) // (k + 1)
        total += term
    return total / (1 << n)


def least_changed() -> int:
    """How many samples two rows must differ in for McNemar's exact test to find them different at 5 %, at least.

    That is if one row is right on each of them: six, for ``2 / 2**6 < 0.05``.
    """
    return next(k for k in range(1, 64) if 2 * sign_test(k, 0) <= 0.05)


@functools.lru_cache(maxsize=8192)
def least_wins(differing: int) -> int:
    """Of so many samples on which two rows differ, how many one row must win for McNemar's exact p to be at most 5 %.

    One more than there are if none is enough.
    """
    tail = 0
    for wins in range(differing, differing // 2, -1):
        tail += math.comb(differing, wins)
        if 40 * tail > 1 << differing:
            return wins + 1
    return differing // 2 + 1


def power(n: int, changed: float, difference: float) -> float:
    """Probability that McNemar's exact test of ``n`` samples is significant at 5 %, for the row that is better.

    The rows differ on a sample with probability ``changed``, and their rates by ``difference``, which is no larger.
    """
    share = (changed + difference) / (2 * changed)
    around = 8 * math.sqrt(n * changed * (1 - changed)) + 8
    least, most = math.floor(n * changed - around), math.ceil(n * changed + around)
    found = []
    for k in range(max(0, least), min(n, most) + 1):
        if changed < 1:
            log = _log_choose(n, k) + k * math.log(changed) + (n - k) * math.log1p(-changed)
        else:
            log = 0.0 if k == n else -math.inf
        found.append(math.exp(log) * binomial_tail(least_wins(k), k, share))
    return min(1.0, math.fsum(found))


def binomial_tail(count: int, n: int, rate: float) -> float:
    """Probability of at least ``count`` of ``n`` where each happens with probability ``rate`` in [0, 1]."""
    if count <= 0:
        return 1.0
    if count > n:
        return 0.0
    if rate in (0.0, 1.0):
        return rate
    odds = (math.log(rate), math.log1p(-rate))
    logs = [_log_choose(n, k) + k * odds[0] + (n - k) * odds[1] for k in range(count, n + 1)]
    return min(1.0, math.fsum(map(math.exp, logs)))


def calibrated_tail(count: int, n: int, rate: float, calibration: int) -> float:
    """Probability that at least ``count`` of ``n`` new scores exceed a threshold that shall let ``rate`` exceed it.

    The threshold is the quantile of ``calibration`` scores of the same distribution, so the share beyond it is
    itself a draw, from a beta distribution whatever that of the scores, and ``count`` is beta-binomial.
    """
    beyond = min(
        calibration, math.ceil(rate * calibration)
    )  # a quantile between two scores exceeds the lower
    if count <= 0 or beyond >= calibration:
        return 1.0
    a, b = beyond + 1, calibration - beyond
    logs = [_log_choose(n, k) + _log_beta(k + a, n - k + b) - _log_beta(a, b) for k in range(count, n + 1)]
    return min(1.0, math.fsum(map(math.exp, logs)))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def mcnemar(more: int, less: int, mid_p: bool = False) -> float:
    """Two-sided p-value of McNemar's test: one row alone is right on ``more`` samples, the other alone on ``less``.

    The exact conditional test never errs more often than it says. The mid-p variant takes off half of the probability
    of what was observed on either side; it is more powerful and rarely errs more often (Fagerland, Lydersen and Laake
    2013, https://doi.org/10.1186/1471-2288-13-91, eq. 5 and 8).
    """
    if more == less:
        return 1.0
    n, most = more + less, max(more, less)
    observed = math.comb(n, most) / (1 << n) if mid_p else 0.0
    return min(1.0, 2 * sign_test(most, n - most) - observed)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number by Holm's step-down procedure (1979, https://www.jstor.org/stable/4615733).

    Rejecting what is at most 0.05 errs on any of them in at most 5 % of cases, whatever their dependence.
    """
    found = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(found, kind="stable")
    steps = np.minimum(1.0, np.arange(len(found), 0, -1) * found[order])
    adjusted = np.empty_like(found)
    adjusted[order] = np.maximum.accumulate(steps)
    return list(adjusted.tolist())
